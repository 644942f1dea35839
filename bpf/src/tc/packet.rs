//! Reading packets. Offsets count from the Ethernet header.

use super::Place;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use core::mem::MaybeUninit;
use weft_bpf_abi::{Addr, FragmentKey, PROTO_SCTP, PROTO_TCP, PROTO_UDP, PacketWork};

/// Length of an Ethernet header: where IP's begins.
pub const L3: u32 = 14;
/// Length of an IPv4 header without options.
pub const IPV4_LEN: u32 = 20;
/// Length of an IPv6 header.
pub const IPV6_LEN: u32 = 40;

const PROTO_ICMP: u8 = 1;
const PROTO_ICMPV6: u8 = 58;
const PROTO_HOP_BY_HOP: u8 = 0;
const PROTO_ROUTING: u8 = 43;
const PROTO_FRAGMENT: u8 = 44;
const PROTO_OPTIONS: u8 = 60;

/// How many extension headers are walked; the specification has five in a packet.
const HEADERS_MAX: u32 = 6;
const DONT_CARE: u32 = 0;

const TCP_FIN: u8 = 1;
const TCP_SYN: u8 = 2;
const TCP_RST: u8 = 4;
const TCP_ACK: u8 = 16;
const SCTP_INIT: u8 = 1;
const SCTP_ABORT: u8 = 6;
const SCTP_SHUTDOWN_COMPLETE: u8 = 14;

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fragment {
    /// Not fragmented.
    Whole = 0,
    /// Has the ports.
    First = 1,
    /// Has no ports.
    Later = 2,
}

/// What a packet does to its flow.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Begins it: TCP's SYN, SCTP's INIT.
    Begin = 0,
    /// Begins or continues it.
    Datagram = 1,
    /// Continues it.
    Go = 2,
    /// Ends it.
    End = 3,
    /// Is about it: an ICMP error.
    Related = 4,
    /// Nobody knows: the transport header cannot be found.
    Unreadable = 5,
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
    /// Source and destination port, as the word that they are in the packet; the identifier of
    /// ICMP, twice.
    pub ports: u32,
    /// Type of an ICMP message.
    pub kind: u8,
    /// IPv6's hop limit.
    pub hops: u8,
    pub phase: Phase,
    /// Neither IPv4 options nor extension headers but that of fragments: only these packets are
    /// translated.
    plain: bool,
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
    /// Writes down what those need who rewrite it.
    #[inline(always)]
    pub fn save(&self, work: &mut PacketWork) {
        work.src = self.src;
        work.dst = self.dst;
        work.id = self.id;
        work.at = self.at;
        work.ports = self.ports;
        work.len = self.len;
        work.protocol = self.protocol;
        work.v4 = self.v4 as u8;
        work.fragment = self.fragment as u8;
        work.kind = self.kind;
    }

    /// What was saved; not more is known of it.
    #[inline(always)]
    pub fn saved(work: &PacketWork) -> Self {
        Self {
            src: work.src,
            dst: work.dst,
            v4: work.v4 != 0,
            protocol: work.protocol,
            fragment: match work.fragment {
                0 => Fragment::Whole,
                1 => Fragment::First,
                _ => Fragment::Later,
            },
            id: work.id,
            at: work.at,
            len: work.len,
            ports: work.ports,
            kind: work.kind,
            hops: 0,
            phase: Phase::Datagram,
            plain: true,
        }
    }

    /// The IP header; `None` for what is too short.
    #[inline(always)]
    pub fn read(at: &Place, v4: bool, head: &mut [u32; 10]) -> Option<Self> {
        let len = if v4 { IPV4_LEN } else { IPV6_LEN };
        // SAFETY: the helper writes at most as many bytes as the array has, or fails.
        if unsafe { bpf_skb_load_bytes(at.skb.cast(), L3, head.as_mut_ptr().cast(), len) } < 0 {
            return None;
        }
        if v4 {
            let first = head[0].to_ne_bytes();
            let total = u16::from_be_bytes([first[2], first[3]]);
            // In words.
            let header = (first[0] as u32 & 15) * 4;
            let second = head[1].to_ne_bytes();
            let offset = u16::from_be_bytes([second[2], second[3]]);
            Some(Self {
                src: mapped(head[3]),
                dst: mapped(head[4]),
                v4,
                protocol: head[2].to_ne_bytes()[1],
                fragment: fragment(offset & 0x1fff, offset & 0x2000),
                id: head[1] & 0xffff,
                at: L3 + header,
                len: total.wrapping_sub(header as u16),
                ports: DONT_CARE,
                kind: 0,
                hops: 0,
                phase: if header < IPV4_LEN { Phase::Unreadable } else { Phase::Datagram },
                plain: header == IPV4_LEN,
            })
        } else {
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
                kind: 0,
                hops: second[3],
                phase: Phase::Datagram,
                plain: true,
            })
        }
    }

    /// Goes on to the transport header.
    #[inline(always)]
    pub fn read_transport(&mut self, at: &Place) {
        if self.phase == Phase::Unreadable {
            return;
        }
        let phase = if self.v4 || self.walk(at).is_some() { self.transport(at) } else { None };
        self.phase = match phase {
            Some(phase) => phase,
            None => Phase::Unreadable,
        };
    }

    /// Walks over IPv6's extension headers. One that ends a flow's packets from being told apart
    /// (more of them than are walked) leaves them unreadable.
    #[inline(always)]
    fn walk(&mut self, at: &Place) -> Option<()> {
        let mut n = 0;
        while n < HEADERS_MAX {
            n += 1;
            match self.protocol {
                PROTO_FRAGMENT => {
                    let head = load::<[u32; 2]>(at, self.at)?;
                    let bytes = head[0].to_ne_bytes();
                    let offset = u16::from_be_bytes([bytes[2], bytes[3]]);
                    self.protocol = bytes[0];
                    // In units of eight bytes, three bits further up than in IPv4.
                    self.fragment = fragment(offset & 0xfff8, offset & 1);
                    self.id = head[1];
                    self.at += 8;
                    self.len = self.len.wrapping_sub(8);
                    if self.fragment == Fragment::Later {
                        return Some(());
                    }
                }
                PROTO_HOP_BY_HOP | PROTO_ROUTING | PROTO_OPTIONS => {
                    let head = load::<[u8; 2]>(at, self.at)?;
                    let len = (head[1] as u32 + 1) * 8;
                    self.protocol = head[0];
                    self.at += len;
                    self.len = self.len.wrapping_sub(len as u16);
                    self.plain = false;
                }
                _ => return Some(()),
            }
        }
        match self.protocol {
            PROTO_FRAGMENT | PROTO_HOP_BY_HOP | PROTO_ROUTING | PROTO_OPTIONS => None,
            _ => Some(()),
        }
    }

    /// Ports, and what the packet does to its flow.
    #[inline(always)]
    fn transport(&mut self, at: &Place) -> Option<Phase> {
        if self.fragment == Fragment::Later {
            return Some(Phase::Go);
        }
        if self.is_icmp() {
            let head = load::<[u32; 2]>(at, self.at)?;
            self.kind = head[0].to_ne_bytes()[0];
            let query = if self.v4 { self.kind == 8 } else { self.kind == 128 };
            let answer = if self.v4 { self.kind == 0 } else { self.kind == 129 };
            if query || answer {
                let id = head[1] & 0xffff;
                self.ports = id | id << 16;
            }
            return Some(match () {
                () if answer => Phase::Go,
                () if self.is_error() => Phase::Related,
                () => Phase::Datagram,
            });
        }
        if !has_ports(self.protocol) {
            return Some(Phase::Datagram);
        }
        self.ports = load::<u32>(at, self.at)?;
        if self.protocol == PROTO_UDP {
            return Some(Phase::Datagram);
        }
        if self.protocol == PROTO_TCP {
            let flags = load::<u8>(at, self.at + 13)?;
            return Some(if flags & (TCP_RST | TCP_FIN) != 0 {
                Phase::End
            } else if flags & (TCP_SYN | TCP_ACK) == TCP_SYN {
                Phase::Begin
            } else {
                Phase::Go
            });
        }
        // The first chunk; INIT, ABORT and SHUTDOWN COMPLETE stand alone or first.
        Some(match load::<u8>(at, self.at + 12)? {
            SCTP_INIT => Phase::Begin,
            SCTP_ABORT | SCTP_SHUTDOWN_COMPLETE => Phase::End,
            _ => Phase::Go,
        })
    }

    /// Whether it can be told which flow it is of by its own headers.
    #[inline(always)]
    pub fn is_flow(&self) -> bool {
        let told = self.phase != Phase::Unreadable && self.phase != Phase::Related;
        told && self.fragment != Fragment::Later
    }

    /// Whether it can be translated: nothing in it needs the stack.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        if !self.plain || self.phase == Phase::Unreadable {
            return false;
        }
        if self.is_icmp() { self.fragment == Fragment::Whole } else { has_ports(self.protocol) }
    }

    /// An ICMP message about another packet: destination unreachable, too big, time exceeded,
    /// parameter problem (RFC 792, RFC 4443).
    #[inline(always)]
    pub fn is_error(&self) -> bool {
        let kind = self.kind;
        let known =
            if self.v4 { kind == 3 || kind == 11 || kind == 12 } else { kind.wrapping_sub(1) < 4 };
        known && self.is_icmp()
    }

    #[inline(always)]
    pub fn is_icmp(&self) -> bool {
        self.protocol == if self.v4 { PROTO_ICMP } else { PROTO_ICMPV6 }
    }

    /// Sets the key of its fragments; in place, since the stack is small.
    #[inline(always)]
    pub fn set_fragment_key(&self, at: &Place, key: &mut FragmentKey) {
        key.src = self.src;
        key.dst = self.dst;
        key.id = self.id;
        key.link = at.link;
        key.direction = at.direction;
        key.protocol = self.protocol as u32;
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
