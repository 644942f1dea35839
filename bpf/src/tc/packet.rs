//! Reading packets. Offsets count from the Ethernet header.

use super::Place;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use core::mem::MaybeUninit;
use weft_bpf_abi::{Addr, FragmentKey, PROTO_SCTP, PROTO_TCP, PROTO_UDP};

/// Length of an Ethernet header: where IP's begins.
pub const L3: u32 = 14;
/// Length of an IPv4 header without options.
pub const IPV4_LEN: u32 = 20;
/// Length of an IPv6 header.
pub const IPV6_LEN: u32 = 40;

const PROTO_ICMP: u8 = 1;
const PROTO_ICMPV6: u8 = 58;
const PROTO_FRAGMENT: u8 = 44;

/// Version 4, five words: no options.
const PLAIN_IPV4: u8 = 0x45;
const DONT_CARE: u32 = 0;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    /// Not fragmented.
    Whole,
    /// Has the ports.
    First,
    /// Has no ports.
    Later,
}

/// What the programs look at.
pub struct Packet {
    pub src: [u32; 4],
    pub dst: [u32; 4],
    pub v4: bool,
    pub protocol: u8,
    pub fragment: Fragment,
    /// Number of a fragmented packet.
    pub id: u32,
    /// Offset of the transport header.
    pub at: u32,
    /// Bytes from there to the end of the IP packet.
    pub len: u16,
    /// Source and destination port, as the word that they are in the packet.
    pub ports: u32,
    /// Whether an IPv4 header has options; and IPv6's first extension header.
    special: u8,
}

/// Reads a value at an offset.
#[inline(always)]
pub fn load<T: Copy>(at: &Place, offset: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes as many bytes as the value has, or fails; every T here is of
    // integers, for which all bytes are valid.
    unsafe {
        let to = value.as_mut_ptr().cast();
        if bpf_skb_load_bytes(at.skb.cast(), offset, to, size_of::<T>() as u32) < 0 {
            return None;
        }
        Some(value.assume_init())
    }
}

#[inline(always)]
pub const fn mapped(ip: u32) -> [u32; 4] {
    Addr::v4(ip, 0, 0).ip
}

impl Packet {
    /// The IP header; `None` for what is too short.
    #[inline(always)]
    pub fn read(at: &Place, v4: bool) -> Option<Self> {
        if v4 {
            let head = load::<[u32; 5]>(at, L3)?;
            let first = head[0].to_ne_bytes();
            let total = u16::from_be_bytes([first[2], first[3]]);
            let second = head[1].to_ne_bytes();
            let offset = u16::from_be_bytes([second[2], second[3]]);
            Some(Self {
                src: mapped(head[3]),
                dst: mapped(head[4]),
                v4,
                protocol: head[2].to_ne_bytes()[1],
                fragment: fragment(offset & 0x1fff, offset & 0x2000),
                id: head[1] & 0xffff,
                at: L3 + IPV4_LEN,
                len: total.wrapping_sub(IPV4_LEN as u16),
                ports: DONT_CARE,
                special: (first[0] != PLAIN_IPV4) as u8,
            })
        } else {
            let head = load::<[u32; 10]>(at, L3)?;
            let second = head[1].to_ne_bytes();
            Some(Self {
                src: [head[2], head[3], head[4], head[5]],
                dst: [head[6], head[7], head[8], head[9]],
                v4,
                protocol: second[2],
                fragment: Fragment::Whole,
                id: 0,
                at: L3 + IPV6_LEN,
                len: u16::from_be_bytes([second[0], second[1]]),
                ports: DONT_CARE,
                special: 0,
            })
        }
    }

    /// Goes on to the transport header; `false` for what needs the stack.
    #[inline(always)]
    pub fn read_transport(&mut self, at: &Place) -> bool {
        if self.special != 0 {
            return false;
        }
        if !self.v4 && self.protocol == PROTO_FRAGMENT {
            let Some(head) = load::<[u32; 2]>(at, self.at) else { return false };
            let bytes = head[0].to_ne_bytes();
            let offset = u16::from_be_bytes([bytes[2], bytes[3]]);
            self.protocol = bytes[0];
            // In units of eight bytes, three bits further up than in IPv4.
            self.fragment = fragment(offset & 0xfff8, offset & 1);
            self.id = head[1];
            self.at += 8;
            self.len = self.len.wrapping_sub(8);
        }
        if self.is_icmp() {
            return self.fragment == Fragment::Whole;
        }
        if !has_ports(self.protocol) {
            return false;
        }
        if self.fragment != Fragment::Later {
            let Some(ports) = load::<u32>(at, self.at) else { return false };
            self.ports = ports;
        }
        true
    }

    #[inline(always)]
    pub fn is_icmp(&self) -> bool {
        self.protocol == if self.v4 { PROTO_ICMP } else { PROTO_ICMPV6 }
    }

    #[inline(always)]
    pub fn source(&self) -> Addr {
        Addr::new(self.src, source_port(self.ports), self.protocol)
    }

    #[inline(always)]
    pub fn destination(&self) -> Addr {
        Addr::new(self.dst, destination_port(self.ports), self.protocol)
    }

    #[inline(always)]
    pub fn fragment_key(&self, at: &Place) -> FragmentKey {
        FragmentKey {
            src: self.src,
            dst: self.dst,
            id: self.id,
            link: at.link,
            direction: at.direction,
            protocol: self.protocol as u32,
        }
    }
}

#[inline(always)]
fn fragment(offset: u16, more: u16) -> Fragment {
    if offset != 0 {
        Fragment::Later
    } else if more != 0 {
        Fragment::First
    } else {
        Fragment::Whole
    }
}

#[inline(always)]
pub fn has_ports(protocol: u8) -> bool {
    protocol == PROTO_TCP || protocol == PROTO_UDP || protocol == PROTO_SCTP
}

/// The first half of the word, in network byte order as it is (the target is little-endian).
#[inline(always)]
pub fn source_port(ports: u32) -> u16 {
    ports as u16
}

#[inline(always)]
pub fn destination_port(ports: u32) -> u16 {
    (ports >> 16) as u16
}

#[inline(always)]
pub fn ports(src: u16, dst: u16) -> u32 {
    src as u32 | (dst as u32) << 16
}
