//! Flows as policy sees them: who began them, and what became of them.
//!
//! A flow that is known, and was judged by the rules in force, costs one look-up. All else is
//! asked of `ask`, which stands alone for the verifier.
//!
//! Invariants:
//! - A flow is judged in the direction of its first packet, also when the rules change, whoever
//!   sends next.
//! - What is no beginning makes no entry: TCP without SYN, SCTP without INIT, answers to nothing.
//! - What the rules end stays ended until nobody sends any more, or begins anew.
//! - The generation is read before the rules: who is judged while they change is judged again.

use super::{
    Place, icmp,
    judge::{ITSELF, THROUGH_SERVICE, both, judge},
    packet::{Packet, Phase, destination_port, has_ports, source_port},
    tell::{self, count, tell},
    work,
};
use crate::maps::{CONNS, GENERATION, POD_POLICY, tc_count};
use aya_ebpf::{bindings::BPF_ANY, helpers::generated::bpf_ktime_get_coarse_ns};
use core::ptr::{addr_of_mut, read_volatile, write_volatile};
use weft_bpf_abi::{
    ConnValue, FROM_POD, FlowValue, PROTO_SCTP, PROTO_TCP, PROTO_UDP, PodPolicy, TO_POD, TcCounter,
    TcWork, reason,
};

const NS_PER_S: u64 = 1_000_000_000;
/// How fresh an entry's time is kept: written at most this often.
const REFRESH_NS: u64 = NS_PER_S;

const PROTO_ICMP: u8 = 1;
const PROTO_ICMPV6: u8 = 58;

/// What is asked, in one number: `ask` takes no more than numbers.
const SIDE: u32 = 1;
const MARKED: u32 = 2;
const LIVE: u32 = 4;
const PHASE_SHIFT: u32 = 4;
const FLAGS_SHIFT: u32 = 8;

/// What is known of a packet's flow.
#[derive(Clone, Copy)]
pub struct Known {
    /// Its packets pass.
    pub passes: bool,
    /// As in [`ConnValue::flags`], where they pass.
    pub flags: u8,
    /// There is an entry that is not too old, in `work.entry`.
    live: bool,
    generation: u32,
    now: u64,
}

/// How long a flow may be silent until it counts as ended.
#[inline(always)]
fn idle_ns(protocol: u8, state: u8) -> u64 {
    let open = state == ConnValue::OPEN;
    let seconds = match protocol {
        // As netfilter's for established connections.
        PROTO_TCP | PROTO_SCTP if open => 432_000,
        PROTO_TCP | PROTO_SCTP => 120,
        PROTO_UDP if open => 180,
        PROTO_UDP => 60,
        PROTO_ICMP | PROTO_ICMPV6 => 30,
        _ => 600,
    };
    seconds * NS_PER_S
}

/// Writes down which flow a packet is of.
#[inline(always)]
pub fn set_key(
    at: &Place,
    work: &mut TcWork,
    own: (&[u32; 4], u16),
    peer: (&[u32; 4], u16),
    protocol: u8,
) {
    work.conn.peer = *peer.0;
    work.conn.own = *own.0;
    work.conn.link = at.link;
    work.conn.own_port = own.1;
    work.conn.peer_port = peer.1;
    work.conn.protocol = protocol;
    work.conn.pad = [0; 3];
}

/// The same for a packet as it is on the wire.
#[inline(always)]
pub fn set_key_of(at: &Place, work: &mut TcWork, packet: &Packet) {
    let source = (&packet.src, source_port(packet.ports));
    let destination = (&packet.dst, destination_port(packet.ports));
    if at.direction == FROM_POD {
        set_key(at, work, source, destination, packet.protocol);
    } else {
        set_key(at, work, destination, source, packet.protocol);
    }
}

/// The same for a packet from the pod that becomes `work.value`.
#[inline(always)]
pub fn set_key_translated(at: &Place, work: &mut TcWork) {
    let (key, value) = (&work.key, &work.value);
    let bounces = value.flags & FlowValue::BOUNCE != 0;
    let (own, peer) = match (bounces, value.flags & FlowValue::REVERSE != 0) {
        (false, _) => (value.src, value.dst),
        // The pod as the server; both directions are one flow.
        (true, false) => (value.dst, value.src),
        (true, true) => (key.src, key.dst),
    };
    set_key(at, work, (&own.ip, own.port), (&peer.ip, peer.port), own.protocol);
}

/// Looks up the flow that an ICMP error is about.
#[inline(always)]
pub fn known_error(at: &Place, packet: &Packet, marked: bool, work: &mut TcWork) -> Known {
    let Some((src, dst, ports, protocol)) = icmp::quoted(at, packet) else {
        set_key_of(at, work, packet);
        return unknown();
    };
    let (source, destination) = ((&src, source_port(ports)), (&dst, destination_port(ports)));
    if at.direction == TO_POD {
        // About what the pod sent.
        set_key(at, work, source, destination, protocol);
    } else if packet.dst == src {
        set_key(at, work, destination, source, protocol);
    } else {
        // It would carry something to somebody who has not sent what it is about.
        set_key_of(at, work, packet);
        return unknown();
    }
    known(at, Phase::Related, marked, work)
}

/// Nothing is known of a packet, and nothing is looked up.
#[inline(always)]
pub fn unknown() -> Known {
    let generation = match GENERATION.get_ptr(0) {
        // SAFETY: not null; one aligned word.
        Some(generation) => unsafe { read_volatile(generation) },
        None => 0,
    };
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    Known { passes: false, flags: 0, live: false, generation, now }
}

/// Looks up the flow of `work.conn`, and keeps its time and state if its packets pass.
#[inline(always)]
pub fn known(at: &Place, phase: Phase, marked: bool, work: &mut TcWork) -> Known {
    let mut known = unknown();
    let Some(entry) = CONNS.get_ptr_mut(&work.conn) else { return known };
    // SAFETY: not null. Evicted meanwhile, the value is at worst another flow's, and one packet
    // goes the way of that flow.
    work.entry = unsafe { *entry };
    let value = &work.entry;
    known.live = age_ns(known.now, value) <= idle_ns(work.conn.protocol, value.state);
    let same = value.initiator as u32 == at.direction;
    let begins = phase == Phase::Begin && (!same || value.state == ConnValue::CLOSING);
    let other_sender = at.direction == TO_POD && !marked && value.flags & ConnValue::FROM_NODE != 0;
    known.passes = known.live
        && value.generation == known.generation
        && value.verdict != ConnValue::DENIED
        && !begins
        && !other_sender;
    if !known.passes {
        return known;
    }
    known.flags = value.flags;
    let state = advanced(value, phase, same);
    if state != value.state {
        // SAFETY: as above; a wrong state makes an entry go sooner or later.
        unsafe { write_volatile(addr_of_mut!((*entry).state), state) };
    }
    if phase != Phase::Related && age_ns(known.now, value) > REFRESH_NS {
        // SAFETY: as above.
        unsafe { write_volatile(addr_of_mut!((*entry).last_ns), known.now) };
    }
    known
}

#[inline(always)]
fn age_ns(now: u64, value: &ConnValue) -> u64 {
    // Another CPU may be ahead.
    if now > value.last_ns { now - value.last_ns } else { 0 }
}

#[inline(always)]
fn advanced(value: &ConnValue, phase: Phase, same: bool) -> u8 {
    match phase {
        Phase::End => ConnValue::CLOSING,
        Phase::Related | Phase::Unreadable => value.state,
        _ if !same && value.state == ConnValue::NEW => ConnValue::OPEN,
        _ => value.state,
    }
}

/// Whether a packet of the flow `work.conn`, of which `known` is known, may go on.
#[inline(always)]
pub fn passes(at: &Place, phase: Phase, marked: bool, flags: u8, known: &Known) -> bool {
    let question = at.direction
        | if marked { MARKED } else { 0 }
        | if known.live { LIVE } else { 0 }
        | (phase as u32) << PHASE_SHIFT
        | (flags as u32) << FLAGS_SHIFT;
    ask(question, known.generation, known.now) != 0
}

/// Not 0 where the packet may go on.
#[inline(never)]
#[unsafe(export_name = "weft_policy_ask")]
extern "C" fn ask(question: u32, generation: u32, now: u64) -> u32 {
    let Some(work) = work() else { return 0 };
    let side = question & SIDE;
    let marked = question & MARKED != 0;
    let live = question & LIVE != 0;
    let phase = question >> PHASE_SHIFT & 15;
    let flags = (question >> FLAGS_SHIFT) as u8;
    let same = work.entry.initiator as u32 == side;
    let policy = pod_policy(work);
    let begins = phase == Phase::Begin as u32;
    let datagram = phase == Phase::Datagram as u32;
    let from_node = marked && side == TO_POD;
    let was_node = work.entry.flags & ConnValue::FROM_NODE != 0;
    let was_denied = work.entry.verdict == ConnValue::DENIED;
    let was_cut = work.entry.flags & ConnValue::CUT != 0;
    let anew = !live
        || begins && (!same || work.entry.state == ConnValue::CLOSING)
        || datagram && was_denied && !was_cut && !same
        || from_node && !was_node && work.entry.initiator as u32 == TO_POD
        || side == TO_POD && !marked && was_node;
    work.event.time_ns = now;
    work.event.generation = generation;
    if anew {
        if !begins && !datagram {
            return middle(work, phase, side, from_node, policy);
        }
        let flags = if from_node { flags | ConnValue::FROM_NODE } else { flags };
        let verdict = judged(work, side, flags, policy);
        // What another one began goes on: it must not be ended by who may not begin.
        let keep = live && (verdict == ConnValue::DENIED && !was_denied || was_node && !from_node);
        let reason = work.judge.reason;
        if !keep && reason != reason::UNKNOWN {
            work.entry.last_ns = now;
            work.entry.generation = generation;
            work.entry.reason = reason;
            work.entry.initiator = side as u8;
            work.entry.verdict = verdict;
            work.entry.state = ConnValue::NEW;
            work.entry.flags = flags;
            work.entry.pad = 0;
            store(work);
            tc_count(TcCounter::Conns);
        }
        return told(work, side, verdict, flags);
    }
    if work.entry.generation == generation {
        if !was_denied {
            return 1;
        }
        tc_count(TcCounter::Tombstones);
        if age_ns(now, &work.entry) > REFRESH_NS {
            work.entry.last_ns = now;
            store(work);
        }
        return dropped(work.entry.reason);
    }
    // The rules may have changed: what do they say of how it began?
    tc_count(TcCounter::Rejudged);
    let initiator = work.entry.initiator as u32;
    let verdict = judged(work, initiator, work.entry.flags, policy);
    if work.judge.reason == reason::UNKNOWN {
        return dropped(reason::UNKNOWN);
    }
    let denied = verdict == ConnValue::DENIED;
    if !denied {
        work.entry.flags &= !ConnValue::CUT;
    } else if !was_denied {
        work.entry.flags |= ConnValue::CUT;
        tc_count(TcCounter::Cut);
    }
    let changed = work.entry.verdict != verdict;
    work.entry.last_ns = now;
    work.entry.generation = generation;
    work.entry.reason = work.judge.reason;
    work.entry.verdict = verdict;
    work.entry.state = match phase {
        p if p == Phase::End as u32 => ConnValue::CLOSING,
        p if p == Phase::Related as u32 => work.entry.state,
        _ if !same && work.entry.state == ConnValue::NEW => ConnValue::OPEN,
        _ => work.entry.state,
    };
    store(work);
    if changed {
        return told(work, initiator, verdict, work.entry.flags);
    }
    if denied { dropped(work.judge.reason) } else { 1 }
}

/// A pod's policy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    /// Nobody judges here.
    None,
    /// Nobody has judged yet.
    Unknown,
    /// No set is about the pod.
    Free,
    /// Some set is.
    Restricted,
}

/// Reads what applies to the pod into `work.judge.pod`.
#[inline(always)]
fn pod_policy(work: &mut TcWork) -> Policy {
    let link = work.conn.link;
    let Some(pod) = POD_POLICY.get_ptr(&link) else { return Policy::None };
    // SAFETY: not null.
    work.judge.pod = unsafe { *pod };
    let pod = &work.judge.pod;
    if pod.link != link {
        // The element was reused in this moment, by an update of this or another pod. What it is
        // now is known to the next packet.
        tc_count(TcCounter::Faults);
        return Policy::Unknown;
    }
    if pod.state != PodPolicy::READY {
        return Policy::Unknown;
    }
    let sets = pod.ingress[0] | pod.ingress[1] | pod.egress[0] | pod.egress[1];
    if sets == 0 { Policy::Free } else { Policy::Restricted }
}

/// A packet in the middle of a flow that nobody knows. It makes no entry.
#[inline(always)]
fn middle(work: &mut TcWork, phase: u32, side: u32, from_node: bool, policy: Policy) -> u32 {
    if from_node || policy == Policy::None || policy == Policy::Free {
        return 1;
    }
    work.judge.passed = reason::NONE;
    work.judge.reason = if policy == Policy::Unknown {
        reason::UNKNOWN
    } else if phase == Phase::Unreadable as u32 {
        reason::UNREADABLE
    } else {
        reason::NO_FLOW
    };
    told(work, side, ConnValue::DENIED, 0)
}

/// The verdict on the flow `work.conn` that `initiator` began; its reason is in `work.judge`.
#[inline(always)]
fn judged(work: &mut TcWork, initiator: u32, flags: u8, policy: Policy) -> u8 {
    work.judge.passed = reason::NONE;
    if flags & ConnValue::FROM_NODE != 0 {
        work.judge.reason = reason::OWN_NODE;
        return ConnValue::ALLOWED;
    }
    if policy == Policy::None {
        work.judge.reason = reason::NO_POLICY;
        return ConnValue::ALLOWED;
    }
    if policy == Policy::Unknown {
        work.judge.reason = reason::UNKNOWN;
        return ConnValue::DENIED;
    }
    let bounces = flags & ConnValue::BOUNCE != 0;
    // Where it turns round, the other end is the pod's own, and the address of the node stands
    // for it on the wire.
    let own_port = bounces || initiator == TO_POD;
    let port = u16::from_be(if own_port { work.conn.own_port } else { work.conn.peer_port });
    let protocol = work.conn.protocol;
    work.judge.transport = if has_ports(protocol) { port as u32 | (protocol as u32) << 16 } else { 0 };
    work.judge.peer.epoch = work.judge.pod.epoch;
    work.judge.peer.ip = if bounces { work.conn.own } else { work.conn.peer };
    if bounces {
        return both(ITSELF | THROUGH_SERVICE) as u8;
    }
    let itself = if work.conn.own == work.conn.peer { ITSELF } else { 0 };
    judge(initiator, itself) as u8
}

#[inline(always)]
fn store(work: &mut TcWork) {
    if CONNS.insert(&work.conn, &work.entry, BPF_ANY as u64).is_err() {
        tc_count(TcCounter::Errors);
    }
}

/// Counts a verdict, tells of it, and says whether the packet may go on.
#[inline(always)]
fn told(work: &mut TcWork, direction: u32, verdict: u8, flags: u8) -> u32 {
    let reason = work.judge.reason;
    work.event.key = work.conn;
    work.event.reason = reason;
    work.event.passed = work.judge.passed;
    work.event.direction = direction as u8;
    work.event.verdict = verdict;
    work.event.flags = flags;
    work.event.pad = [0; 5];
    let (bucket, field) = match verdict {
        ConnValue::ALLOWED => (tell::ALLOWED, tell::COUNT_ALLOWED),
        ConnValue::DENIED => (tell::DENIED, tell::COUNT_DENIED),
        _ => {
            tc_count(TcCounter::Audited);
            (tell::DENIED, tell::COUNT_AUDITED)
        }
    };
    count(reason, field);
    tell(bucket);
    if verdict == ConnValue::DENIED { dropped(reason) } else { 1 }
}

/// Counts a packet that may not go on.
#[inline(always)]
fn dropped(reason: u32) -> u32 {
    tc_count(TcCounter::Denied);
    match reason {
        reason::UNKNOWN => tc_count(TcCounter::Unknown),
        reason::NO_FLOW => tc_count(TcCounter::NoFlow),
        reason::UNREADABLE => tc_count(TcCounter::Unreadable),
        _ => {}
    }
    count(reason, tell::COUNT_DROPPED);
    0
}

