//! Services translated at socket level: the programs of one node's cgroup; and, for what passes
//! no socket hook, at the pods' links (`tc`).
//!
//! `connect` and `sendmsg` replace a frontend by one of its backends; `recvmsg` and
//! `getpeername` show the frontend again. Nothing runs per packet.
//!
//! Invariants:
//! - What is no frontend, and what has no backend, passes unchanged: every hook allows the
//!   call (returns 1), and the network stack says what it says. Returning 0 from `connect`
//!   would give the application EPERM instead of a refusal.
//! - Key and address of IPv4 are v4-mapped, so the v6 hooks serve AF_INET6 sockets that talk
//!   to `::ffff:a.b.c.d` with the very same maps. (The kernel runs the v6 hooks for their
//!   `connect`, `recvmsg` and `getpeername`, and `sendmsg4` for their datagrams.)
//! - A reader sees a whole set of backends or another whole set: see `choose`.
//!
//! The maps' layouts are in `weft-bpf-abi`; who writes what, and in which order, is in
//! `weft-bpf`.
#![no_std]
#![no_main]

mod choose;
mod hooks;
mod maps;
mod socket;
mod tc;

/// The kernel grants GPL-only helpers by this string; the sources are MIT OR GPL-2.0.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Unreachable: the verifier accepts no program that could come here.
    loop {}
}
