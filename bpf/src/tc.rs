//! The programs at a pod's link, on the node's side: what comes from the pod and what goes to it.
//!
//! Packets to a Service address are those of clients that passed no socket hook (SCTP, raw
//! sockets, sockets connected before the Service was there, pods that opted out). They get a
//! flow entry and a backend; the answers get the Service's address back.
//!
//! Invariants:
//! - A packet that is no Service's costs one look-up from the pod (its addresses), and one to
//!   the pod as long as no flow of this pod was translated.
//! - What has no backend, and what needs the stack (IP options, extension headers), passes
//!   unchanged: the stack refuses it.
//! - A packet leaves rewritten as a whole, or is dropped; it never leaves half rewritten.
//! - From the pod come only packets with one of its addresses as their source.

mod flow;
mod icmp;
mod packet;
mod rewrite;

use crate::maps::{FRAGMENTS, PODS, TC_CONFIG, TC_WORK, tc_count};
use aya_ebpf::{
    bindings::__sk_buff, helpers::generated::bpf_redirect, macros::classifier, programs::TcContext,
};
use core::ptr::{addr_of, read_volatile};
use packet::{Fragment, Packet};
use weft_bpf_abi::{FROM_POD, FlowValue, PodValue, TO_POD, TcConfig, TcCounter, TcWork};

/// `TC_ACT_UNSPEC`: the next program decides, and without one the packet goes on.
const PASS: i32 = -1;
/// `TC_ACT_SHOT`.
const DROP: i32 = 2;

const ETH_P_IP: u16 = 0x0800_u16.to_be();
const ETH_P_IPV6: u16 = 0x86dd_u16.to_be();
const ETH_P_8021Q: u16 = 0x8100_u16.to_be();
const ETH_P_8021AD: u16 = 0x88a8_u16.to_be();

/// Where a packet passes.
#[derive(Clone, Copy)]
pub struct Place {
    pub skb: *mut __sk_buff,
    /// Index of the pod's link.
    pub link: u32,
    /// [`FROM_POD`] or [`TO_POD`].
    pub direction: u32,
}

impl Place {
    #[inline(always)]
    fn new(ctx: &TcContext, direction: u32) -> Self {
        let skb = ctx.skb.skb;
        // SAFETY: the kernel's context; the verifier checks every access.
        let link = unsafe { read_volatile(addr_of!((*skb).ifindex)) };
        Self { skb, link, direction }
    }

    /// Ethernet's type, network byte order.
    #[inline(always)]
    fn ethertype(&self) -> u16 {
        // SAFETY: the kernel's context; the verifier checks every access.
        unsafe { read_volatile(addr_of!((*self.skb).protocol)) as u16 }
    }
}

/// Packets that a pod sends.
#[classifier]
pub fn weft_from_pod(ctx: TcContext) -> i32 {
    let at = Place::new(&ctx, FROM_POD);
    let v4 = match at.ethertype() {
        ETH_P_IP => true,
        ETH_P_IPV6 => false,
        // The kernel takes priority tags off, two of them also, and would let in what is
        // within unseen.
        ETH_P_8021Q | ETH_P_8021AD => return spoofed(),
        _ => return PASS,
    };
    let Some(pod) = PODS.get_ptr_mut(&at.link) else { return PASS };
    let Some(mut packet) = Packet::read(&at, v4) else { return PASS };
    // SAFETY: the pointer comes from a look-up in this RCU section and is not null.
    if !unsafe { is_own(pod, &packet) } {
        return spoofed();
    }
    let Some(config) = TC_CONFIG.get(0) else { return PASS };
    let service = is_service(config, &packet);
    if !service && packet.dst != *router(config, v4) {
        return PASS;
    }
    if !packet.read_transport(&at) {
        return PASS;
    }
    translate(&at, &packet, |work| flow::outbound(&at, pod, config, &packet, service, work))
}

/// Packets to a pod.
#[classifier]
pub fn weft_to_pod(ctx: TcContext) -> i32 {
    let at = Place::new(&ctx, TO_POD);
    let Some(pod) = PODS.get_ptr(&at.link) else { return PASS };
    // SAFETY: the pointer comes from a look-up in this RCU section and is not null.
    if unsafe { read_volatile(addr_of!((*pod).has_flows)) } == 0 {
        return PASS;
    }
    let v4 = match at.ethertype() {
        ETH_P_IP => true,
        ETH_P_IPV6 => false,
        _ => return PASS,
    };
    let Some(mut packet) = Packet::read(&at, v4) else { return PASS };
    if !packet.read_transport(&at) {
        return PASS;
    }
    translate(&at, &packet, |work| flow::inbound(&at, &packet, work))
}

fn spoofed() -> i32 {
    tc_count(TcCounter::Spoofed);
    DROP
}

/// Whether the source is the pod's; neighbour discovery and multicast reports also come from
/// the link-local or the unspecified address, which no router forwards.
///
/// # Safety
/// `pod` points to a value of the map.
#[inline(always)]
unsafe fn is_own(pod: *const PodValue, packet: &Packet) -> bool {
    if packet.v4 {
        // SAFETY: the caller's.
        let own = unsafe { read_volatile(addr_of!((*pod).v4)) };
        return own != 0 && packet.src[3] == own;
    }
    // SAFETY: the caller's.
    let own = unsafe { (*pod).v6 };
    if packet.src == own && own[0] != 0 {
        return true;
    }
    const LINK_LOCAL: u32 = 0xfe80_0000_u32.to_be();
    const LINK_LOCAL_MASK: u32 = 0xffc0_0000_u32.to_be();
    const MULTICAST: u32 = 0xff00_0000_u32.to_be();
    let is_near = |ip: &[u32; 4]| ip[0] & LINK_LOCAL_MASK == LINK_LOCAL;
    let unspecified = packet.src[0] | packet.src[1] | packet.src[2] | packet.src[3] == 0;
    (unspecified || is_near(&packet.src))
        && (is_near(&packet.dst) || packet.dst[0] & MULTICAST == MULTICAST)
}

/// Whether the packet goes to an address of a Service range.
#[inline(always)]
fn is_service(config: &TcConfig, packet: &Packet) -> bool {
    let dst = &packet.dst;
    // One by one: the verifier does not follow a pointer that walks over the ranges.
    if packet.v4 {
        let differs = |n: usize| (dst[3] & config.v4[n][1]) ^ config.v4[n][0];
        return differs(0) == 0 || differs(1) == 0 || differs(2) == 0 || differs(3) == 0;
    }
    let differs = |n: usize| {
        let [net, mask] = &config.v6[n];
        (dst[0] & mask[0]) ^ net[0]
            | (dst[1] & mask[1]) ^ net[1]
            | (dst[2] & mask[2]) ^ net[2]
            | (dst[3] & mask[3]) ^ net[3]
    };
    differs(0) == 0 || differs(1) == 0 || differs(2) == 0 || differs(3) == 0
}

/// The node's router address of a family.
#[inline(always)]
fn router(config: &TcConfig, v4: bool) -> &[u32; 4] {
    if v4 { &config.routers[0] } else { &config.routers[1] }
}

/// Rewrites the packet as its flow wants it; `find` is asked where it has ports.
#[inline(always)]
fn translate(at: &Place, packet: &Packet, find: impl FnOnce(&mut TcWork) -> Option<()>) -> i32 {
    let Some(work) = TC_WORK.get_ptr_mut(0) else { return PASS };
    // SAFETY: the element is this CPU's own, and neither program interrupts the other.
    let work = unsafe { &mut *work };
    let flags = if packet.fragment == Fragment::Later {
        work.fragment = packet.fragment_key(at);
        // SAFETY: evicted meanwhile, it is at worst another packet's, and so is the fragment's
        // fate: it completes no packet.
        let Some(known) = (unsafe { FRAGMENTS.get(&work.fragment) }) else { return PASS };
        work.fate = *known;
        if rewrite::addresses(at, packet, &work.fate.src, &work.fate.dst).is_err() {
            return failed();
        }
        work.fate.flags as u8
    } else if packet.is_icmp() {
        let Some(done) = icmp::error(at, packet, work) else { return PASS };
        if done.is_err() {
            return failed();
        }
        work.value.flags
    } else {
        if find(work).is_none() {
            return PASS;
        }
        if rewrite::packet(at, packet, &work.value.src, &work.value.dst).is_err() {
            return failed();
        }
        if packet.fragment == Fragment::First {
            work.fragment = packet.fragment_key(at);
            work.fate.src = work.value.src.ip;
            work.fate.dst = work.value.dst.ip;
            work.fate.flags = work.value.flags as u32;
            if FRAGMENTS.insert(&work.fragment, &work.fate, 0).is_err() {
                tc_count(TcCounter::Errors);
            }
        }
        work.value.flags
    };
    let towards_backend = at.direction == FROM_POD && flags & FlowValue::REVERSE == 0;
    tc_count(if towards_backend { TcCounter::Translated } else { TcCounter::Reversed });
    if flags & FlowValue::BOUNCE == 0 {
        return PASS;
    }
    if rewrite::turn_round(at).is_err() {
        return failed();
    }
    // SAFETY: the helper has no preconditions. It sends by the pod's own link.
    unsafe { bpf_redirect(at.link, 0) as i32 }
}

#[inline(always)]
fn failed() -> i32 {
    tc_count(TcCounter::Errors);
    DROP
}
