//! Keys and values.

use core::mem::{align_of, offset_of, size_of};
use core::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Address, port and protocol of a frontend or of a backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr {
    /// Four words of the 16-byte address, each as the kernel stores it (network byte
    /// order); IPv4 is v4-mapped.
    pub ip: [u32; 4],
    /// Port, network byte order.
    pub port: u16,
    /// [`crate::PROTO_TCP`], [`crate::PROTO_UDP`] or [`crate::PROTO_SCTP`].
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

/// The third word of a v4-mapped address, `0000:ffff`, in network byte order.
const MAPPED_WORD: u32 = 0x0000_ffff_u32.to_be();

impl Addr {
    /// From an address in words as the kernel keeps them and a port in network byte order.
    #[inline(always)]
    pub const fn new(ip: [u32; 4], port_be: u16, protocol: u8) -> Self {
        Self { ip, port: port_be, protocol, pad: 0 }
    }

    /// From an IPv4 address in network byte order and a port in network byte order.
    #[inline(always)]
    pub const fn v4(ip_be: u32, port_be: u16, protocol: u8) -> Self {
        Self::new([0, 0, MAPPED_WORD, ip_be], port_be, protocol)
    }

    /// The IPv4 address in network byte order, if this is a v4-mapped address.
    #[inline(always)]
    pub const fn as_v4(&self) -> Option<u32> {
        if self.ip[0] == 0 && self.ip[1] == 0 && self.ip[2] == MAPPED_WORD {
            Some(self.ip[3])
        } else {
            None
        }
    }

    /// From the types of the standard library.
    pub const fn from_socket(addr: SocketAddr, protocol: u8) -> Self {
        let octets = match addr.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let o = &octets;
        Self::new(
            [
                u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
                u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
                u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
                u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
            ],
            addr.port().to_be(),
            protocol,
        )
    }

    /// To the types of the standard library; v4-mapped becomes IPv4.
    pub fn to_socket(&self) -> SocketAddr {
        let mut octets = [0u8; 16];
        for (i, word) in self.ip.iter().enumerate() {
            octets[i * 4..i * 4 + 4].copy_from_slice(&word.to_ne_bytes());
        }
        let v6 = Ipv6Addr::from(octets);
        let ip = v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4);
        SocketAddr::new(ip, u16::from_be(self.port))
    }
}

/// What stands behind a frontend ([`crate::MapName::Services`]).
///
/// Generation and count are one word, so that one load reads both: a reader sees the old
/// pair or the new one, never half of each, even where the kernel reuses the element.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceValue {
    /// Generation in the low 32 bits, count of backends in the high 32 bits.
    pub head: u64,
    /// Session affinity by client, in seconds; 0 for none.
    pub affinity_timeout_s: u32,
    /// [`Self::BY_CLIENT`], or 0.
    pub flags: u32,
}

impl ServiceValue {
    /// The slots are a table in which a hash of the client finds its place ([`Self::place`]);
    /// otherwise any slot is as good as any other, and chance chooses.
    pub const BY_CLIENT: u32 = 1;

    /// The slot of a client in a set with slots. Cookies of namespaces are numbers in a row:
    /// multiplied by 2⁶⁴ / φ they are spread evenly (Knuth, The Art of Computer Programming 3, 6.4).
    #[inline(always)]
    pub const fn place(&self, client: u64) -> u32 {
        (client.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32 % self.count()
    }

    /// Joins generation and count.
    pub const fn new(generation: u32, count: u32, affinity_timeout_s: u32) -> Self {
        Self { head: generation as u64 | (count as u64) << 32, affinity_timeout_s, flags: 0 }
    }

    /// Generation of the frontend's set of backends; part of [`SlotKey`].
    pub const fn generation(&self) -> u32 {
        self.head as u32
    }

    /// How many slots that generation has.
    pub const fn count(&self) -> u32 {
        (self.head >> 32) as u32
    }
}

/// Place of one backend in one generation of a frontend's set ([`crate::MapName::Slots`]);
/// the value is the backend's [`Addr`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotKey {
    /// The frontend.
    pub frontend: Addr,
    /// Generation of the set.
    pub generation: u32,
    /// 0 to count - 1.
    pub index: u32,
}

/// Membership of a backend in a frontend's set ([`crate::MapName::Members`]); the value is
/// the newest generation (`u32`) that contains it, so a value below the frontend's current
/// generation means that it left. Kept for UDP and for session affinity only.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberKey {
    /// The frontend.
    pub frontend: Addr,
    /// The backend.
    pub backend: Addr,
}

/// A socket and an address that it talks to. In [`crate::MapName::UdpSticky`] the address is
/// a frontend and the value its backend; in [`crate::MapName::Reverse`] the address is a
/// backend and the value a [`Record`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketKey {
    /// The kernel's socket cookie: unique since boot, never reused, so that a stale entry
    /// can never be mistaken for that of a newer socket.
    pub cookie: u64,
    /// Frontend or backend.
    pub addr: Addr,
    /// Zero.
    pub pad: u32,
}

impl SocketKey {
    /// With the padding zeroed.
    #[inline(always)]
    pub const fn new(cookie: u64, addr: Addr) -> Self {
        Self { cookie, addr, pad: 0 }
    }
}

/// What is known of a socket and a backend that it talks to ([`crate::MapName::Reverse`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The frontend that the application knows the backend by.
    pub frontend: Addr,
    /// Not 0 where the socket was connected to the backend, so that it cannot move by itself.
    pub connected: u32,
    /// Cookie of the socket's network namespace: where it is found when it must be closed.
    pub netns_cookie: u64,
}

/// What the programs are told about the node ([`crate::MapName::Node`], one element).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeValue {
    /// Cookie of the node's own network namespace: only there a loopback address is the
    /// node's. 0, which no namespace has, where no loopback address is to be translated.
    pub netns_cookie: u64,
}

/// A client for session affinity and the frontend that it uses ([`crate::MapName::Affinity`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientKey {
    /// Cookie of the client's network namespace: a pod, or the node itself. At connect time
    /// the source address is not chosen yet, and one namespace is one client IP a family.
    pub netns_cookie: u64,
    /// The frontend.
    pub frontend: Addr,
    /// Zero.
    pub pad: u32,
}

/// The backend that a client sticks to ([`crate::MapName::Affinity`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffinityValue {
    /// Last use, in nanoseconds of the monotonic clock (`bpf_ktime_get_ns`).
    pub last_ns: u64,
    /// The backend.
    pub backend: Addr,
    /// Zero.
    pub pad: u32,
}

/// Index in [`crate::MapName::Counters`], an array of one `u64` per CPU.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// `connect` of a TCP socket translated.
    TcpConnects = 0,
    /// `connect` of a UDP socket translated.
    UdpConnects = 1,
    /// Datagrams of unconnected UDP sockets translated.
    UdpDatagrams = 2,
    /// Unconnected UDP sockets that moved because their backend had left.
    UdpMoves = 3,
    /// The set changed under the reader more often than it retries; left untranslated.
    Races = 4,
    /// A record for the reverse direction could not be stored; left untranslated.
    RecordFailures = 5,
}

impl Counter {
    /// All of them, in the order of their indexes.
    pub const ALL: [Self; 6] = [
        Self::TcpConnects,
        Self::UdpConnects,
        Self::UdpDatagrams,
        Self::UdpMoves,
        Self::Races,
        Self::RecordFailures,
    ];
}

macro_rules! layout {
    ($type:ty, size $size:literal, align $align:literal, $($field:ident at $offset:literal),+) => {
        const _: () = {
            assert!(size_of::<$type>() == $size);
            assert!(align_of::<$type>() == $align);
            $(assert!(offset_of!($type, $field) == $offset);)+
        };
    };
}

layout!(Addr, size 20, align 4, ip at 0, port at 16, protocol at 18, pad at 19);
layout!(ServiceValue, size 16, align 8, head at 0, affinity_timeout_s at 8, flags at 12);
layout!(SlotKey, size 28, align 4, frontend at 0, generation at 20, index at 24);
layout!(MemberKey, size 40, align 4, frontend at 0, backend at 20);
layout!(SocketKey, size 32, align 8, cookie at 0, addr at 8, pad at 28);
layout!(Record, size 32, align 8, frontend at 0, connected at 20, netns_cookie at 24);
layout!(NodeValue, size 8, align 8, netns_cookie at 0);
layout!(ClientKey, size 32, align 8, netns_cookie at 0, frontend at 8, pad at 28);
layout!(AffinityValue, size 32, align 8, last_ns at 0, backend at 8, pad at 28);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v4_is_mapped_in_network_byte_order() {
        let addr = Addr::from_socket("10.96.0.1:443".parse().expect("address"), 6);
        let mut bytes = [0u8; 16];
        for (i, w) in addr.ip.iter().enumerate() {
            bytes[i * 4..i * 4 + 4].copy_from_slice(&w.to_ne_bytes());
        }
        assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 96, 0, 1]);
        assert_eq!(addr.port.to_ne_bytes(), [0x01, 0xbb]);
        assert_eq!(addr.as_v4(), Some(u32::from_ne_bytes([10, 96, 0, 1])));
        assert_eq!(addr, Addr::v4(u32::from_ne_bytes([10, 96, 0, 1]), 443u16.to_be(), 6));
    }

    #[test]
    fn addresses_round_trip() {
        for text in ["10.96.0.10:53", "[fd00:10:96::a]:53", "0.0.0.0:1", "[::]:65535"] {
            let socket: SocketAddr = text.parse().expect("address");
            let addr = Addr::from_socket(socket, 17);
            assert_eq!(addr.to_socket(), socket);
            assert_eq!(addr.as_v4().is_some(), socket.is_ipv4());
        }
    }

    #[test]
    fn service_value_keeps_both_halves() {
        let v = ServiceValue::new(u32::MAX, 7, 10_800);
        assert_eq!((v.generation(), v.count(), v.affinity_timeout_s), (u32::MAX, 7, 10_800));
    }

    #[test]
    fn namespaces_in_a_row_find_places_of_their_own() {
        let v = ServiceValue::new(1, 1021, 0);
        for first in [1u64, 4096, 1 << 40] {
            let mut shares = [0u32; 1021];
            (first..first + 10_210).for_each(|c| shares[v.place(c) as usize] += 1);
            // Ten each, were it even.
            assert!(shares.iter().all(|n| (1..=20).contains(n)), "{first}: {shares:?}");
        }
    }
}
