//! ICMP errors about packets of a translated flow: they tell of a packet as the other side saw
//! it, and must tell of it as this side did. Path MTU discovery lives by them.
//!
//! What they quote is answered by packets with the quoted addresses swapped; the entry of
//! those says how the packet looked before it was translated. The quoted transport checksum
//! stays as it was: nobody can check it without the rest of the packet.

use super::{
    Place, flow,
    packet::{
        IPV4_LEN, IPV6_LEN, Packet, destination_port, has_ports, load, mapped, ports, source_port,
    },
    rewrite::{add_difference, addresses, difference, store},
};
use weft_bpf_abi::{Addr, FlowKey, TcWork};

/// Length of an ICMP header, where the quoted packet begins.
const ICMP_LEN: u32 = 8;

/// Rewrites an error about a known flow, whose entry is `work.value` then; `None` for other
/// messages.
#[inline(always)]
pub fn error(at: &Place, packet: &Packet, work: &mut TcWork) -> Option<Result<(), ()>> {
    if !packet.is_error() {
        return None;
    }
    if packet.v4 { error4(at, packet, work) } else { error6(at, packet, work) }
}

/// What an error quotes: source and destination, ports and protocol. `None` where it has no ports
/// to tell, or none that can be found.
#[inline(always)]
pub fn quoted(at: &Place, packet: &Packet) -> Option<([u32; 4], [u32; 4], u32, u8)> {
    let quoted = packet.at + ICMP_LEN;
    let (src, dst, protocol, transport) = if packet.v4 {
        let head = load::<[u32; 5]>(at, quoted)?;
        let len = (head[0].to_ne_bytes()[0] as u32 & 15) * 4;
        if head[1] & FRAGMENT != 0 {
            return None;
        }
        (mapped(head[3]), mapped(head[4]), head[2].to_ne_bytes()[1], quoted + len)
    } else {
        let head = load::<[u32; 10]>(at, quoted)?;
        let (src, dst) =
            ([head[2], head[3], head[4], head[5]], [head[6], head[7], head[8], head[9]]);
        (src, dst, head[1].to_ne_bytes()[2], quoted + IPV6_LEN)
    };
    if has_ports(protocol) {
        return Some((src, dst, load::<u32>(at, transport)?, protocol));
    }
    if protocol == packet.protocol {
        // A ping; its identifier stands for both ports.
        let id = load::<u32>(at, transport + 4)? & 0xffff;
        return Some((src, dst, id | id << 16, protocol));
    }
    Some((src, dst, 0, protocol))
}

/// The key of the answers to the quoted packet.
#[inline(always)]
fn key(at: &Place, src: [u32; 4], dst: [u32; 4], quoted_ports: u32, protocol: u8) -> FlowKey {
    FlowKey {
        src: Addr::new(dst, destination_port(quoted_ports), protocol),
        dst: Addr::new(src, source_port(quoted_ports), protocol),
        link: at.link,
        direction: at.direction,
    }
}

/// Whom the error comes from and goes to. A router on the way keeps its address.
#[inline(always)]
fn outer(packet: &Packet, work: &TcWork) -> ([u32; 4], [u32; 4]) {
    (
        if packet.src == work.key.src.ip { work.value.src.ip } else { packet.src },
        if packet.dst == work.key.dst.ip { work.value.dst.ip } else { packet.dst },
    )
}

#[inline(always)]
fn error4(at: &Place, packet: &Packet, work: &mut TcWork) -> Option<Result<(), ()>> {
    let quoted = packet.at + ICMP_LEN;
    let head = load::<[u32; 5]>(at, quoted)?;
    let protocol = head[2].to_ne_bytes()[1];
    if head[0].to_ne_bytes()[0] != 0x45 || !has_ports(protocol) || head[1] & FRAGMENT != 0 {
        return None;
    }
    let old_ports = load::<u32>(at, quoted + IPV4_LEN)?;
    work.key = key(at, mapped(head[3]), mapped(head[4]), old_ports, protocol);
    flow::find(work)?;
    let value = &work.value;
    let new_ports = ports(value.dst.port, value.src.port);
    let (src, dst) = (value.dst.ip[3], value.src.ip[3]);
    // The header's checksum takes up the change of the addresses, so that both together
    // change nothing for ICMP's.
    let sum = replace(head[2] >> 16, difference(&[head[3], head[4]], &[src, dst], 0));
    let tail = [head[2] & 0xffff | sum << 16, src, dst];
    let icmp =
        difference(&[head[2], head[3], head[4], old_ports], &[tail[0], src, dst, new_ports], 0);
    let (src, dst) = outer(packet, work);
    let done = store(at, quoted + 8, &tail)
        .and_then(|()| store(at, quoted + IPV4_LEN, &new_ports))
        .and_then(|()| add_difference(at, packet.at + 2, icmp, 0))
        .and_then(|()| addresses(at, packet, &src, &dst));
    Some(done.map(|_| ()))
}

/// A fragment's offset, in the word as it is in the packet: those have no ports.
const FRAGMENT: u32 = 0x1fff_u32.to_be();

/// A checksum after a difference (RFC 1624); both in the packet's byte order.
#[inline(always)]
fn replace(sum: u32, difference: u32) -> u32 {
    let total = (!sum & 0xffff) + (difference & 0xffff) + (difference >> 16);
    let folded = (total & 0xffff) + (total >> 16);
    !((folded & 0xffff) + (folded >> 16)) & 0xffff
}

#[inline(always)]
fn error6(at: &Place, packet: &Packet, work: &mut TcWork) -> Option<Result<(), ()>> {
    let quoted = packet.at + ICMP_LEN;
    let protocol = load::<u8>(at, quoted + 6)?;
    if !has_ports(protocol) {
        return None;
    }
    let (src, dst) = (load::<[u32; 4]>(at, quoted + 8)?, load::<[u32; 4]>(at, quoted + 24)?);
    let old_ports = load::<u32>(at, quoted + IPV6_LEN)?;
    work.key = key(at, src, dst, old_ports, protocol);
    flow::find(work)?;
    let value = &work.value;
    let new_ports = ports(value.dst.port, value.src.port);
    let mut sum = difference(&src, &value.dst.ip, 0);
    sum = difference(&dst, &value.src.ip, sum);
    sum = difference(&[old_ports], &[new_ports], sum);
    let (src, dst) = outer(packet, work);
    let done = store(at, quoted + 8, &value.dst.ip)
        .and_then(|()| store(at, quoted + 24, &value.src.ip))
        .and_then(|()| store(at, quoted + IPV6_LEN, &new_ports))
        .and_then(|()| addresses(at, packet, &src, &dst))
        // ICMPv6 has a pseudo header.
        .and_then(|outer| add_difference(at, packet.at + 2, outer, 0))
        .and_then(|()| add_difference(at, packet.at + 2, sum, 0));
    Some(done)
}
