//! The programs at a pod's link, on the node's side: what comes from the pod and what goes to it.
//!
//! Packets to a Service address are those of clients that passed no socket hook (SCTP, raw
//! sockets, sockets connected before the Service was there, pods that opted out). They get a
//! flow entry and a backend; the answers get the Service's address back.
//!
//! Policy is asked of real addresses: behind the translation of what the pod sends, before that
//! of what it receives.
//!
//! Invariants:
//! - A packet of a flow that is known, that was judged by the rules in force and is not
//!   translated costs one look-up.
//! - What has no backend passes unchanged, and the stack refuses it. What needs the stack (IP
//!   options, extension headers) is judged, and is not translated.
//! - A packet leaves rewritten as a whole, or is dropped; it never leaves half rewritten.
//! - From the pod come only packets with one of its addresses as their source.

mod flow;
mod icmp;
mod judge;
mod packet;
mod policy;
mod rewrite;
mod tell;

use crate::maps::{FRAGMENTS, PODS, TC_CONFIG, TC_WORK, tc_count};
use aya_ebpf::{
    bindings::__sk_buff, helpers::generated::bpf_redirect, macros::classifier, programs::TcContext,
};
use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};
use packet::{Fragment, Packet, Phase};
use policy::Known;
use weft_bpf_abi::{
    ConnValue, FROM_POD, FlowValue, FragmentValue, MARK_BOUNCED, MARK_FROM_NODE, PodValue, TO_POD,
    TcConfig, TcCounter, TcWork,
};

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

    #[inline(always)]
    fn mark(&self) -> u32 {
        // SAFETY: as above.
        unsafe { read_volatile(addr_of!((*self.skb).mark)) }
    }

    #[inline(always)]
    fn set_mark(&self, mark: u32) {
        // SAFETY: as above.
        unsafe { write_volatile(addr_of_mut!((*self.skb).mark), mark) };
    }
}

/// Packets that a pod sends.
#[classifier]
pub fn weft_from_pod(ctx: TcContext) -> i32 {
    from_pod(Place::new(&ctx, FROM_POD))
}

// In line, so that it has no name of the compiler's own: see `rewrite`.
#[inline(always)]
fn from_pod(at: Place) -> i32 {
    let v4 = match at.ethertype() {
        ETH_P_IP => true,
        ETH_P_IPV6 => false,
        // The kernel takes priority tags off, two of them also, and would let in what is
        // within unseen.
        ETH_P_8021Q | ETH_P_8021AD => return spoofed(),
        _ => return PASS,
    };
    let Some(work) = work() else { return PASS };
    let Some(config) = TC_CONFIG.get(0) else { return PASS };
    let Some(mut packet) = Packet::read(&at, v4, &mut work.head) else { return PASS };
    packet.read_transport(&at);
    let service = is_service(config, &packet);
    let mut known = Known::NOTHING;
    let flow = packet.is_flow();
    if flow && !service {
        policy::set_key_of(&at, work, &packet);
        known = policy::known(&at, packet.phase, false);
        let told = known.flags() & (ConnValue::OWN | ConnValue::BOUNCE);
        if known.passes() && told == ConnValue::OWN && packet.fragment == Fragment::Whole {
            return PASS;
        }
    }
    let Some(pod) = PODS.get_ptr(&at.link) else { return PASS };
    // SAFETY: the pointer comes from a look-up in this RCU section and is not null.
    if !unsafe { is_own(pod, &packet) } {
        return spoofed();
    }
    if packet.fragment == Fragment::Later {
        return later(&at, &packet, false, work);
    }
    if is_discovery(&at, config, &packet) {
        return PASS;
    }
    let to_router = packet.dst == *router(config, v4);
    let mut translated = false;
    if packet.is_plain() && (service || to_router) {
        if packet.is_icmp() {
            match rewritten(&at, &packet, work) {
                DONE => translated = true,
                FAILED => return failed(),
                _ => {}
            }
        } else {
            translated = flow::outbound(&at, &packet, service, work).is_some();
            if service && !translated {
                // Nobody is behind it: the stack says so.
                return PASS;
            }
        }
    }
    let mut flags = ConnValue::OWN;
    let mut side = at;
    if translated {
        flags |= ConnValue::THROUGH_SERVICE;
        if work.value.flags & FlowValue::BOUNCE != 0 {
            flags |= ConnValue::BOUNCE;
            if work.value.flags & FlowValue::REVERSE != 0 {
                // What the pod answers itself.
                side.direction = TO_POD;
            }
        }
        policy::set_key_translated(&at, work);
        known = policy::known(&side, packet.phase, false);
    } else if packet.phase == Phase::Related {
        known = policy::known_error(&at, &packet, false, work);
    } else if service || !flow {
        policy::set_key_of(&at, work, &packet);
        if flow {
            known = policy::known(&at, packet.phase, false);
        }
    }
    if !known.passes() && !policy::passes(&side, packet.phase, false, flags, known) {
        return DROP;
    }
    if translated && !packet.is_icmp() {
        rewrite(&at, &packet, work)
    } else {
        go(&at, &packet, translated, work)
    }
}

/// Packets to a pod.
#[classifier]
pub fn weft_to_pod(ctx: TcContext) -> i32 {
    to_pod(Place::new(&ctx, TO_POD))
}

#[inline(always)]
fn to_pod(at: Place) -> i32 {
    let v4 = match at.ethertype() {
        ETH_P_IP => true,
        ETH_P_IPV6 => false,
        _ => return PASS,
    };
    let mark = at.mark();
    if mark == MARK_BOUNCED {
        // Judged where it came from.
        return PASS;
    }
    let marked = mark & MARK_FROM_NODE != 0;
    let Some(work) = work() else { return PASS };
    let Some(config) = TC_CONFIG.get(0) else { return PASS };
    let Some(mut packet) = Packet::read(&at, v4, &mut work.head) else { return PASS };
    packet.read_transport(&at);
    let mut known = Known::NOTHING;
    let flow = packet.is_flow();
    if flow {
        policy::set_key_of(&at, work, &packet);
        known = policy::known(&at, packet.phase, marked);
        let told = known.flags() & ConnValue::THROUGH_SERVICE;
        if known.passes() && told == 0 && packet.fragment == Fragment::Whole {
            return PASS;
        }
    }
    let Some(pod) = PODS.get_ptr(&at.link) else { return PASS };
    if packet.fragment == Fragment::Later {
        return later(&at, &packet, marked, work);
    }
    if is_discovery(&at, config, &packet) {
        return PASS;
    }
    if packet.phase == Phase::Related {
        known = policy::known_error(&at, &packet, marked, work);
    } else if !flow {
        policy::set_key_of(&at, work, &packet);
    }
    // SAFETY: the pointer comes from a look-up in this RCU section and is not null.
    let flags = if unsafe { is_at(pod, &packet.dst, v4) } { ConnValue::OWN } else { 0 };
    if !known.passes() && !policy::passes(&at, packet.phase, marked, flags, known) {
        return DROP;
    }
    // SAFETY: as above.
    if unsafe { read_volatile(addr_of!((*pod).has_flows)) } == 0 || !packet.is_plain() {
        return go(&at, &packet, false, work);
    }
    if packet.is_icmp() {
        return match rewritten(&at, &packet, work) {
            DONE => go(&at, &packet, true, work),
            FAILED => failed(),
            _ => PASS,
        };
    }
    match flow::inbound(&at, &packet, work) {
        Some(()) => rewrite(&at, &packet, work),
        None => go(&at, &packet, false, work),
    }
}

/// What this CPU writes down about the packet.
#[inline(always)]
fn work() -> Option<&'static mut TcWork> {
    // SAFETY: the element is this CPU's own, and neither program interrupts the other.
    TC_WORK.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}

fn spoofed() -> i32 {
    tc_count(TcCounter::Spoofed);
    DROP
}

/// Whether `ip` is the pod's.
///
/// # Safety
/// `pod` points to a value of the map.
#[inline(always)]
unsafe fn is_at(pod: *const PodValue, ip: &[u32; 4], v4: bool) -> bool {
    if v4 {
        // SAFETY: the caller's.
        let own = unsafe { read_volatile(addr_of!((*pod).v4)) };
        return own != 0 && ip[3] == own;
    }
    // SAFETY: the caller's.
    let own = unsafe { (*pod).v6 };
    *ip == own && own[0] != 0
}

/// Whether the source is the pod's; neighbour discovery and multicast reports also come from
/// the link-local or the unspecified address, which no router forwards.
///
/// # Safety
/// `pod` points to a value of the map.
#[inline(always)]
unsafe fn is_own(pod: *const PodValue, packet: &Packet) -> bool {
    // SAFETY: the caller's.
    if unsafe { is_at(pod, &packet.src, packet.v4) } {
        return true;
    }
    if packet.v4 {
        return false;
    }
    let unspecified = packet.src[0] | packet.src[1] | packet.src[2] | packet.src[3] == 0;
    (unspecified || is_near(&packet.src)) && (is_near(&packet.dst) || is_multicast(&packet.dst))
}

/// Whether an IPv6 address is link-local.
#[inline(always)]
fn is_near(ip: &[u32; 4]) -> bool {
    const LINK_LOCAL: u32 = 0xfe80_0000_u32.to_be();
    const MASK: u32 = 0xffc0_0000_u32.to_be();
    ip[0] & MASK == LINK_LOCAL
}

#[inline(always)]
fn is_multicast(ip: &[u32; 4]) -> bool {
    const MULTICAST: u32 = 0xff00_0000_u32.to_be();
    ip[0] & MULTICAST == MULTICAST
}

/// Neighbour discovery and multicast reports, as far as they stay on the link: no policy is about
/// them. Discovery never passes a router (hop limit 255); what the pod sends must not be forwarded
/// either.
#[inline(always)]
fn is_discovery(at: &Place, config: &TcConfig, packet: &Packet) -> bool {
    const LINK_SCOPE: u32 = 0xff02_0000_u32.to_be();
    const SCOPE_MASK: u32 = 0xffff_0000_u32.to_be();
    if packet.v4 || !packet.is_icmp() || packet.phase != Phase::Datagram {
        return false;
    }
    let to_link = packet.dst[0] & SCOPE_MASK == LINK_SCOPE;
    match packet.kind {
        133..=137 => {
            packet.hops == 255
                && (at.direction == TO_POD
                    || to_link
                    || is_near(&packet.dst)
                    || packet.dst == config.routers[1])
        }
        130..=132 | 143 => to_link,
        _ => false,
    }
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

/// A fragment without ports: it goes the way of the first one.
#[inline(always)]
fn later(at: &Place, packet: &Packet, marked: bool, work: &mut TcWork) -> i32 {
    packet.set_fragment_key(at, &mut work.fragment);
    // SAFETY: evicted meanwhile, it is at worst another packet's, and so is the fragment's fate:
    // it completes no packet.
    let Some(known) = (unsafe { FRAGMENTS.get(&work.fragment) }) else {
        policy::set_key_of(at, work, packet);
        let passes = policy::passes(at, packet.phase, marked, 0, Known::NOTHING);
        return if passes { PASS } else { DROP };
    };
    work.fate = *known;
    if work.fate.flags & FragmentValue::PLAIN != 0 {
        return PASS;
    }
    if rewritten(at, packet, work) == FAILED {
        return failed();
    }
    done(at, work.fate.flags as u8)
}

/// Rewrites the packet as its flow `work.value` wants it.
#[inline(always)]
fn rewrite(at: &Place, packet: &Packet, work: &mut TcWork) -> i32 {
    if rewritten(at, packet, work) == FAILED {
        return failed();
    }
    go(at, packet, true, work)
}

/// It is no packet of a flow.
const NOT: u32 = 0;
const DONE: u32 = 1;
const FAILED: u32 = 2;

/// Rewrites a packet as its flow `work.value` wants it, an ICMP error as the flow that it is
/// about, or a fragment as `work.fate` says.
#[inline(always)]
fn rewritten(at: &Place, packet: &Packet, work: &mut TcWork) -> u32 {
    packet.save(&mut work.packet);
    rewrite_saved(at.skb, at.direction)
}

/// A function of its own for the verifier, and on the stack: see `judge`.
#[inline(never)]
#[unsafe(export_name = "weft_rewrite")]
extern "C" fn rewrite_saved(skb: *mut __sk_buff, direction: u32) -> u32 {
    let Some(work) = work() else { return FAILED };
    // SAFETY: the kernel's context; the verifier checks every access.
    let link = unsafe { read_volatile(addr_of!((*skb).ifindex)) };
    let at = Place { skb, link, direction };
    let packet = Packet::saved(&work.packet);
    let done = if packet.fragment == Fragment::Later {
        rewrite::addresses(&at, &packet, &work.fate.src, &work.fate.dst).map(|_| ())
    } else if packet.is_icmp() {
        let Some(done) = icmp::error(&at, &packet, work) else { return NOT };
        done
    } else {
        rewrite::packet(&at, &packet, &work.value.src, &work.value.dst)
    };
    if done.is_ok() { DONE } else { FAILED }
}

/// On its own because of the stack.
#[inline(never)]
#[unsafe(export_name = "weft_turn_round")]
extern "C" fn turn_round(skb: *mut __sk_buff) -> u32 {
    let at = Place { skb, link: 0, direction: FROM_POD };
    if rewrite::turn_round(&at).is_ok() { DONE } else { FAILED }
}

/// A packet leaves; those that it is the first fragment of will follow.
#[inline(always)]
fn go(at: &Place, packet: &Packet, translated: bool, work: &mut TcWork) -> i32 {
    if packet.fragment == Fragment::First {
        packet.set_fragment_key(at, &mut work.fragment);
        work.fate.src = if translated { work.value.src.ip } else { packet.src };
        work.fate.dst = if translated { work.value.dst.ip } else { packet.dst };
        let plain = FragmentValue::PLAIN;
        work.fate.flags = if translated { work.value.flags as u32 } else { plain };
        if FRAGMENTS.insert(&work.fragment, &work.fate, 0).is_err() {
            tc_count(TcCounter::Errors);
        }
    }
    if translated { done(at, work.value.flags) } else { PASS }
}

/// A packet that was translated leaves.
#[inline(always)]
fn done(at: &Place, flags: u8) -> i32 {
    let towards_backend = at.direction == FROM_POD && flags & FlowValue::REVERSE == 0;
    tc_count(if towards_backend { TcCounter::Translated } else { TcCounter::Reversed });
    if flags & FlowValue::BOUNCE == 0 {
        return PASS;
    }
    if turn_round(at.skb) == FAILED {
        return failed();
    }
    at.set_mark(MARK_BOUNCED);
    // SAFETY: the helper has no preconditions. It sends by the pod's own link.
    unsafe { bpf_redirect(at.link, 0) as i32 }
}

#[inline(always)]
fn failed() -> i32 {
    tc_count(TcCounter::Errors);
    DROP
}
