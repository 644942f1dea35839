//! What the hooks do, for both families alike.

use crate::{
    choose::{choose, is_member, service},
    maps::{NODE, OPT_OUT, REVERSE, UDP_STICKY, count},
};
use aya_ebpf::{
    EbpfContext,
    bindings::bpf_sock,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    programs::SockAddrContext,
};
use core::ptr::{addr_of, read_volatile};
use weft_bpf_abi::{Addr, Counter, PROTO_TCP, PROTO_UDP, Record, SocketKey};

/// Cookie of the socket that makes the call.
#[inline(always)]
pub fn cookie<C: EbpfContext>(ctx: &C) -> u64 {
    // SAFETY: the context is the one that the kernel gave to this program.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// Cookie of the network namespace of the socket.
#[inline(always)]
fn netns(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is the one that the kernel gave to this program.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// The client that the call is of, for session affinity; `None` for one whose namespace opted
/// out of translation at its sockets.
#[inline(always)]
fn client(ctx: &SockAddrContext) -> Option<u64> {
    let netns = netns(ctx);
    if OPT_OUT.get_ptr(&netns).is_some() { None } else { Some(netns) }
}

/// Whether `to` is a loopback address that this socket must reach as it is: a pod's loopback is
/// the pod's own, and what is bound to a loopback address cannot send to another host (its
/// packets would be thrown away on the way, and the client would wait in vain; so it is refused).
#[inline(always)]
fn is_private(ctx: &SockAddrContext, to: &Addr) -> bool {
    let v4 = to.as_v4().is_some();
    if !is_loopback(to) {
        return false;
    }
    // SAFETY: the kernel's context and socket; the verifier checks every access. All are read
    // before any is used: otherwise the compiler makes one load from a computed address.
    let (source_v4, source_v6) = unsafe {
        let sock = read_volatile(addr_of!((*ctx.sock_addr).__bindgen_anon_1.sk));
        (
            read_volatile(addr_of!((*sock).src_ip4)),
            [
                read_volatile(addr_of!((*sock).src_ip6[0])),
                read_volatile(addr_of!((*sock).src_ip6[1])),
                read_volatile(addr_of!((*sock).src_ip6[2])),
                read_volatile(addr_of!((*sock).src_ip6[3])),
            ],
        )
    };
    // An AF_INET6 socket has both, and the one of the other family means nothing.
    let bound = if v4 { is_loopback4(source_v4) } else { source_v6 == LOOPBACK6 };
    bound || NODE.get(0).is_none_or(|node| node.netns_cookie != netns(ctx))
}

/// `::1`, in words of network byte order.
const LOOPBACK6: [u32; 4] = [0, 0, 0, 1u32.to_be()];

#[inline(always)]
fn is_loopback(addr: &Addr) -> bool {
    match addr.as_v4() {
        Some(ip) => is_loopback4(ip),
        None => addr.ip == LOOPBACK6,
    }
}

/// Whether an address in network byte order is in 127.0.0.0/8.
#[inline(always)]
fn is_loopback4(ip: u32) -> bool {
    ip.to_ne_bytes()[0] == 127
}

/// The protocol of the socket where it is one that can be translated.
#[inline(always)]
pub fn protocol(number: u32) -> Option<u8> {
    if number == PROTO_TCP as u32 || number == PROTO_UDP as u32 { Some(number as u8) } else { None }
}

/// Port that a socket is connected to, in network byte order; 0 for none.
#[inline(always)]
pub fn peer_port(sock: *const bpf_sock) -> u16 {
    // SAFETY: the kernel's socket; the verifier checks every access. Two bytes: the width at
    // which all kernels agree (5.17 changed the meaning of the wider load).
    unsafe { read_volatile(addr_of!((*sock).dst_port).cast::<u16>()) }
}

/// `connect`: the address to connect to instead of `to`.
#[inline(always)]
pub fn connect(ctx: &SockAddrContext, to: &Addr) -> Option<Addr> {
    let chosen = if is_private(ctx, to) { None } else { choose(to, || client(ctx)) };
    let Some(backend) = chosen.map(|c| c.backend) else {
        forget(cookie(ctx), to);
        return None;
    };
    record(ctx, to, &backend, 1);
    count(if to.protocol == PROTO_TCP { Counter::TcpConnects } else { Counter::UdpConnects });
    Some(backend)
}

/// `sendmsg` with an address: where to send instead of `to`. One socket keeps its backend
/// while that is in the set, so that requests of one exchange reach one server.
#[inline(always)]
pub fn sendmsg(ctx: &SockAddrContext, to: &Addr) -> Option<Addr> {
    let cookie = cookie(ctx);
    let service = if is_private(ctx, to) { None } else { service(to) };
    let Some(service) = service else {
        // A connected AF_INET6 socket that talks to a v4-mapped address passes here with
        // every `send`, with the backend that `connect` chose: its record must stay.
        // SAFETY: the kernel's context; the verifier checks every access.
        let sock = unsafe { read_volatile(addr_of!((*ctx.sock_addr).__bindgen_anon_1.sk)) };
        if peer_port(sock) == 0 {
            forget(cookie, to);
        }
        return None;
    };
    // One that opted out sends to the frontend itself: its answers show that as they are.
    let client = client(ctx)?;
    let key = SocketKey::new(cookie, *to);
    // SAFETY: if the entry is evicted meanwhile, the backend read is refused by `is_member`.
    let known = unsafe { UDP_STICKY.get(&key) }.copied();
    let backend = match known {
        Some(backend) if is_member(to, &backend, &service) => backend,
        _ => {
            let backend = choose(to, || Some(client))?.backend;
            if UDP_STICKY.insert(&key, &backend, 0).is_err() {
                count(Counter::RecordFailures);
            }
            if known.is_some() {
                count(Counter::UdpMoves);
            }
            backend
        }
    };
    record(ctx, to, &backend, 0);
    count(Counter::UdpDatagrams);
    Some(backend)
}

/// `recvmsg` and `getpeername`: the frontend by which this socket knows `peer`.
#[inline(always)]
pub fn reverse(ctx: &SockAddrContext, peer: &Addr) -> Option<Addr> {
    // SAFETY: entries of a socket are replaced only by its own calls; if this one is evicted
    // meanwhile, at worst this one datagram shows another address.
    unsafe { REVERSE.get(&SocketKey::new(cookie(ctx), *peer)) }.map(|record| record.frontend)
}

/// Keeps for the reverse direction, and for the day on which the backend goes, that this socket
/// knows `backend` as `frontend`.
#[inline(always)]
fn record(ctx: &SockAddrContext, frontend: &Addr, backend: &Addr, connected: u32) {
    let mut connected = connected;
    let key = SocketKey::new(cookie(ctx), *backend);
    // SAFETY: as in `reverse`. The look-up first, because an insertion into an LRU map
    // takes a lock, and marks the entry as used all the same.
    if let Some(known) = unsafe { REVERSE.get(&key) } {
        // One that is connected may also be told where to send, and is connected all the same.
        if known.frontend == *frontend && known.connected >= connected {
            return;
        }
        connected |= known.connected;
    }
    // Translated all the same: a reply that shows the backend is better than none.
    let record = Record { frontend: *frontend, connected, netns_cookie: netns(ctx) };
    if REVERSE.insert(&key, &record, 0).is_err() {
        count(Counter::RecordFailures);
    }
}

/// The application now talks to `to` by its own address: replies must show that one.
#[inline(always)]
pub fn forget(cookie: u64, to: &Addr) {
    let key = SocketKey::new(cookie, *to);
    // SAFETY: only the presence is looked at.
    if unsafe { REVERSE.get(&key) }.is_some() {
        let _ = REVERSE.remove(&key);
    }
}
