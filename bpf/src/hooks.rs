//! The hooks: they read the address out of the context, and write the new one back.
//!
//! Context fields are read and written one by one and `volatile`: the verifier rewrites each
//! access, and knows only some widths.

use crate::socket;
use aya_ebpf::{
    macros::{cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};
use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};
use weft_bpf_abi::Addr;

/// The call goes on. (0 would end it with EPERM; `recvmsg` and `getpeername` must return 1.)
const ALLOW: i32 = 1;

const AF_INET: u32 = 2;

#[cgroup_sock_addr(connect4)]
pub fn weft_connect4(ctx: SockAddrContext) -> i32 {
    if let Some(to) = read4(&ctx).and_then(|to| socket::connect(&ctx, &to)) {
        write4(&ctx, &to);
    }
    ALLOW
}

#[cgroup_sock_addr(connect6)]
pub fn weft_connect6(ctx: SockAddrContext) -> i32 {
    if let Some(to) = read6(&ctx).and_then(|to| socket::connect(&ctx, &to)) {
        write6(&ctx, &to);
    }
    ALLOW
}

#[cgroup_sock_addr(sendmsg4)]
pub fn weft_sendmsg4(ctx: SockAddrContext) -> i32 {
    if let Some(to) = read4(&ctx).and_then(|to| socket::sendmsg(&ctx, &to)) {
        write4(&ctx, &to);
    }
    ALLOW
}

#[cgroup_sock_addr(sendmsg6)]
pub fn weft_sendmsg6(ctx: SockAddrContext) -> i32 {
    if let Some(to) = read6(&ctx).and_then(|to| socket::sendmsg(&ctx, &to)) {
        write6(&ctx, &to);
    }
    ALLOW
}

#[cgroup_sock_addr(recvmsg4)]
pub fn weft_recvmsg4(ctx: SockAddrContext) -> i32 {
    show4(&ctx);
    ALLOW
}

#[cgroup_sock_addr(recvmsg6)]
pub fn weft_recvmsg6(ctx: SockAddrContext) -> i32 {
    show6(&ctx);
    ALLOW
}

#[cgroup_sock_addr(getpeername4)]
pub fn weft_getpeername4(ctx: SockAddrContext) -> i32 {
    show4(&ctx);
    ALLOW
}

#[cgroup_sock_addr(getpeername6)]
pub fn weft_getpeername6(ctx: SockAddrContext) -> i32 {
    show6(&ctx);
    ALLOW
}

/// A connected socket goes: so does its record, which otherwise would push out those of
/// living sockets where many short connections are made.
#[cgroup_sock(sock_release)]
pub fn weft_release(ctx: SockContext) -> i32 {
    let sock = ctx.sock;
    // SAFETY: the kernel's context; the verifier checks every access.
    let peer = unsafe {
        let Some(protocol) = socket::protocol(read_volatile(addr_of!((*sock).protocol))) else {
            return ALLOW;
        };
        let port = socket::peer_port(sock);
        if port == 0 {
            return ALLOW;
        }
        // Both are read before either is used: otherwise the compiler joins the two branches
        // into one load from a computed address, which the verifier does not allow.
        let family = read_volatile(addr_of!((*sock).family));
        let v4 = read_volatile(addr_of!((*sock).dst_ip4));
        let v6 = [
            read_volatile(addr_of!((*sock).dst_ip6[0])),
            read_volatile(addr_of!((*sock).dst_ip6[1])),
            read_volatile(addr_of!((*sock).dst_ip6[2])),
            read_volatile(addr_of!((*sock).dst_ip6[3])),
        ];
        if family == AF_INET { Addr::v4(v4, port, protocol) } else { Addr::new(v6, port, protocol) }
    };
    socket::forget(socket::cookie(&ctx), &peer);
    ALLOW
}

#[inline(always)]
fn show4(ctx: &SockAddrContext) {
    if let Some(frontend) = read4(ctx).and_then(|peer| socket::reverse(ctx, &peer)) {
        write4(ctx, &frontend);
    }
}

#[inline(always)]
fn show6(ctx: &SockAddrContext) {
    if let Some(frontend) = read6(ctx).and_then(|peer| socket::reverse(ctx, &peer)) {
        write6(ctx, &frontend);
    }
}

#[inline(always)]
fn read4(ctx: &SockAddrContext) -> Option<Addr> {
    let sa = ctx.sock_addr;
    // SAFETY: the kernel's context; the verifier checks every access.
    unsafe {
        let protocol = socket::protocol(read_volatile(addr_of!((*sa).protocol)))?;
        let ip = read_volatile(addr_of!((*sa).user_ip4));
        let port = read_volatile(addr_of!((*sa).user_port)) as u16;
        Some(Addr::v4(ip, port, protocol))
    }
}

#[inline(always)]
fn read6(ctx: &SockAddrContext) -> Option<Addr> {
    let sa = ctx.sock_addr;
    // SAFETY: the kernel's context; the verifier checks every access.
    unsafe {
        let protocol = socket::protocol(read_volatile(addr_of!((*sa).protocol)))?;
        let ip = [
            read_volatile(addr_of!((*sa).user_ip6[0])),
            read_volatile(addr_of!((*sa).user_ip6[1])),
            read_volatile(addr_of!((*sa).user_ip6[2])),
            read_volatile(addr_of!((*sa).user_ip6[3])),
        ];
        let port = read_volatile(addr_of!((*sa).user_port)) as u16;
        Some(Addr::new(ip, port, protocol))
    }
}

#[inline(always)]
fn write4(ctx: &SockAddrContext, addr: &Addr) {
    let sa = ctx.sock_addr;
    // SAFETY: the kernel's context; the verifier checks every access.
    unsafe {
        write_volatile(addr_of_mut!((*sa).user_ip4), addr.ip[3]);
        write_volatile(addr_of_mut!((*sa).user_port), addr.port as u32);
    }
}

#[inline(always)]
fn write6(ctx: &SockAddrContext, addr: &Addr) {
    let sa = ctx.sock_addr;
    // SAFETY: the kernel's context; the verifier checks every access.
    unsafe {
        write_volatile(addr_of_mut!((*sa).user_ip6[0]), addr.ip[0]);
        write_volatile(addr_of_mut!((*sa).user_ip6[1]), addr.ip[1]);
        write_volatile(addr_of_mut!((*sa).user_ip6[2]), addr.ip[2]);
        write_volatile(addr_of_mut!((*sa).user_ip6[3]), addr.ip[3]);
        write_volatile(addr_of_mut!((*sa).user_port), addr.port as u32);
    }
}
