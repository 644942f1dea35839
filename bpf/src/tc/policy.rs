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
    judge::{ITSELF, THROUGH_SERVICE, judge},
    packet::{Packet, Phase, destination_port, has_ports, source_port},
    tell::{self, count, tell},
    work,
};
use crate::maps::{CONNS, GENERATION, POD_POLICY, tc_count};
use aya_ebpf::{
    bindings::{__sk_buff, BPF_ANY},
    helpers::generated::bpf_ktime_get_coarse_ns,
};
use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};
use weft_bpf_abi::{
    Addr, ConnKey, ConnValue, FROM_POD, FlowValue, PROTO_SCTP, PROTO_TCP, PROTO_UDP, PodPolicy,
    TO_POD, TcCounter, TcWork, reason,
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
pub struct Known(u32);

impl Known {
    const PASSES: u32 = 1 << 8;
    const LIVE: u32 = 1 << 9;

    /// Nothing is known, and nothing was looked up.
    pub const NOTHING: Self = Self(0);

    /// Its packets pass.
    #[inline(always)]
    pub fn passes(self) -> bool {
        self.0 & Self::PASSES != 0
    }

    /// As in [`ConnValue::flags`], where they pass.
    #[inline(always)]
    pub fn flags(self) -> u8 {
        self.0 as u8
    }

    /// There is an entry that is not too old, in `work.entry`.
    #[inline(always)]
    fn is_live(self) -> bool {
        self.0 & Self::LIVE != 0
    }
}

/// How long a flow may be silent until it counts as ended.
#[inline(always)]
fn idle_ns(protocol: u8, state: u8) -> u64 {
    let open = state == ConnValue::OPEN;
    let closing = state == ConnValue::CLOSING;
    let seconds = match protocol {
        // As netfilter's for established connections.
        PROTO_TCP | PROTO_SCTP if open => 432_000,
        // One side may go on for long, and a forged RST ends nothing: nobody checks its number.
        PROTO_TCP | PROTO_SCTP if closing => 7_200,
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
    let flags = work.value.flags;
    let conn = &mut work.conn;
    if flags & FlowValue::BOUNCE == 0 {
        set_ends(conn, &work.value.src, &work.value.dst);
    } else if flags & FlowValue::REVERSE == 0 {
        // The pod's end is the server; both directions are one flow.
        set_ends(conn, &work.value.dst, &work.value.src);
    } else {
        set_ends(conn, &work.key.src, &work.key.dst);
    }
    conn.link = at.link;
    conn.protocol = work.key.src.protocol;
    conn.pad = [0; 3];
}

#[inline(always)]
fn set_ends(conn: &mut ConnKey, own: &Addr, peer: &Addr) {
    conn.own = own.ip;
    conn.own_port = own.port;
    conn.peer = peer.ip;
    conn.peer_port = peer.port;
}

/// Looks up the flow that an ICMP error is about.
#[inline(always)]
pub fn known_error(at: &Place, packet: &Packet, marked: bool, work: &mut TcWork) -> Known {
    packet.save(&mut work.packet);
    if set_key_quoted(at.skb, at.direction) == 0 {
        set_key_of(at, work, packet);
        return Known::NOTHING;
    }
    known(at, Phase::Related, marked)
}

/// Writes down which flow an ICMP error is about; 0 where that cannot be told. On its own because
/// of the stack.
#[inline(never)]
#[unsafe(export_name = "weft_policy_quoted")]
extern "C" fn set_key_quoted(skb: *mut __sk_buff, direction: u32) -> u32 {
    let Some(work) = work() else { return 0 };
    // SAFETY: the kernel's context; the verifier checks every access.
    let link = unsafe { read_volatile(addr_of!((*skb).ifindex)) };
    let at = &Place { skb, link, direction };
    let packet = Packet::saved(&work.packet);
    let Some((src, dst, ports, protocol)) = icmp::quoted(at, &packet) else { return 0 };
    let (source, destination) = ((&src, source_port(ports)), (&dst, destination_port(ports)));
    if direction == TO_POD {
        // About what the pod sent.
        set_key(at, work, source, destination, protocol);
    } else if packet.dst == src {
        set_key(at, work, destination, source, protocol);
    } else {
        // It would carry something to somebody who has not sent what it is about.
        return 0;
    }
    1
}

/// The generation in force.
#[inline(always)]
fn generation() -> u32 {
    match GENERATION.get_ptr(0) {
        // SAFETY: not null; one aligned word.
        Some(generation) => unsafe { read_volatile(generation) },
        None => 0,
    }
}

/// The time, as precise as a tick of the kernel.
#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Looks up the flow of `work.conn`, and keeps its time and state if its packets pass.
#[inline(always)]
pub fn known(at: &Place, phase: Phase, marked: bool) -> Known {
    Known(look_up(question(at, phase, marked)))
}

#[inline(always)]
fn question(at: &Place, phase: Phase, marked: bool) -> u32 {
    at.direction | if marked { MARKED } else { 0 } | (phase as u32) << PHASE_SHIFT
}

/// Answers with the number in [`Known`].
#[inline(never)]
#[unsafe(export_name = "weft_policy_known")]
extern "C" fn look_up(question: u32) -> u32 {
    let Some(work) = work() else { return 0 };
    let side = question & SIDE;
    let marked = question & MARKED != 0;
    let phase = question >> PHASE_SHIFT & 15;
    let Some(entry) = CONNS.get_ptr_mut(&work.conn) else { return 0 };
    // SAFETY: not null. Evicted meanwhile, the value is at worst another flow's, and one packet
    // goes the way of that flow.
    work.entry = unsafe { *entry };
    let value = &work.entry;
    let now = now_ns();
    let age_ns = age_ns(now, value);
    if age_ns > idle_ns(work.conn.protocol, value.state) {
        return 0;
    }
    let same = value.initiator as u32 == side;
    let begins = phase == Phase::Begin as u32 && (!same || value.state == ConnValue::CLOSING);
    let other_sender = side == TO_POD && !marked && value.flags & ConnValue::FROM_NODE != 0;
    let denied = value.verdict == ConnValue::DENIED;
    if value.generation != generation() || denied || begins || other_sender {
        return Known::LIVE;
    }
    let state = advanced(value, phase, same);
    if state != value.state {
        // SAFETY: as above; a wrong state makes an entry go sooner or later.
        unsafe { write_volatile(addr_of_mut!((*entry).state), state) };
    }
    if phase != Phase::Related as u32 && age_ns > REFRESH_NS {
        // SAFETY: as above.
        unsafe { write_volatile(addr_of_mut!((*entry).last_ns), now) };
    }
    Known::PASSES | Known::LIVE | value.flags as u32
}

#[inline(always)]
fn age_ns(now: u64, value: &ConnValue) -> u64 {
    // Another CPU may be ahead.
    if now > value.last_ns { now - value.last_ns } else { 0 }
}

#[inline(always)]
fn advanced(value: &ConnValue, phase: u32, same: bool) -> u8 {
    if phase == Phase::End as u32 {
        return ConnValue::CLOSING;
    }
    let answers = !same && phase != Phase::Related as u32 && phase != Phase::Unreadable as u32;
    if answers && value.state == ConnValue::NEW { ConnValue::OPEN } else { value.state }
}

/// Whether a packet of the flow `work.conn`, of which `known` is known, may go on.
///
/// Three functions one after the other: inside each other, their stacks would add up.
#[inline(always)]
pub fn passes(at: &Place, phase: Phase, marked: bool, flags: u8, known: Known) -> bool {
    let live = if known.is_live() { LIVE } else { 0 };
    let question = question(at, phase, marked) | live | (flags as u32) << FLAGS_SHIFT;
    let answer = ask(question);
    let verdict = match answer {
        GOES => return true,
        DROPPED => return false,
        _ if answer & JUDGED != 0 => answer & 3,
        _ => judge(answer & SIDE, answer >> JUDGE_FLAGS_SHIFT & 3),
    };
    settle(question | (answer & ANEW) << ANEW_SHIFT | verdict << VERDICT_SHIFT) != 0
}

/// Answers of `ask`: the packet's fate;
const DROPPED: u32 = 0;
const GOES: u32 = 1;
/// or whom to ask: by which rules ([`SIDE`]), what the judge is told,
const JUDGE_FLAGS_SHIFT: u32 = 1;
/// that this is no flow that was known,
const ANEW: u32 = 1 << 4;
/// that the flow is to be judged,
const JUDGE: u32 = 1 << 5;
/// or was (the verdict is where the side would be).
const JUDGED: u32 = 1 << 6;

/// What `settle` is told beside the question.
const ANEW_SHIFT: u32 = 12;
const VERDICT_SHIFT: u32 = 20;

/// What becomes of a packet whose flow is not simply known.
#[inline(never)]
#[unsafe(export_name = "weft_policy_ask")]
extern "C" fn ask(question: u32) -> u32 {
    let Some(work) = work() else { return DROPPED };
    let (generation, now) = (generation(), now_ns());
    work.event.time_ns = now;
    work.event.generation = generation;
    let side = question & SIDE;
    let marked = question & MARKED != 0;
    let phase = question >> PHASE_SHIFT & 15;
    let policy = pod_policy(work);
    let begins = phase == Phase::Begin as u32;
    let datagram = phase == Phase::Datagram as u32;
    let from_node = marked && side == TO_POD;
    let initiator = work.entry.initiator as u32;
    let old_flags = work.entry.flags;
    let was_denied = work.entry.verdict == ConnValue::DENIED;
    let anew = question & LIVE == 0
        || begins && (initiator != side || work.entry.state == ConnValue::CLOSING)
        || datagram && was_denied && old_flags & ConnValue::CUT == 0 && initiator != side
        || from_node && old_flags & ConnValue::FROM_NODE == 0 && initiator == TO_POD
        || side == TO_POD && !marked && old_flags & ConnValue::FROM_NODE != 0;
    if anew {
        if !begins && !datagram {
            return middle(work, phase, side, from_node, policy);
        }
        let flags = (question >> FLAGS_SHIFT) as u8;
        let flags = if from_node { flags | ConnValue::FROM_NODE } else { flags };
        return ANEW | prepared(work, side, flags, policy);
    }
    if work.entry.generation == generation {
        if !was_denied {
            return GOES;
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
    prepared(work, initiator, old_flags, policy)
}

/// Keeps the verdict on a flow. Not 0 where the packet may go on.
#[inline(never)]
#[unsafe(export_name = "weft_policy_settle")]
extern "C" fn settle(question: u32) -> u32 {
    let Some(work) = work() else { return 0 };
    let side = question & SIDE;
    let phase = question >> PHASE_SHIFT & 15;
    let verdict = (question >> VERDICT_SHIFT & 3) as u8;
    let from_node = question & MARKED != 0 && side == TO_POD;
    let live = question & LIVE != 0;
    let denied = verdict == ConnValue::DENIED;
    let was_denied = work.entry.verdict == ConnValue::DENIED;
    let reason = work.judge.reason;
    if question & ANEW << ANEW_SHIFT != 0 {
        let flags = (question >> FLAGS_SHIFT) as u8;
        let flags = if from_node { flags | ConnValue::FROM_NODE } else { flags };
        let was_node = work.entry.flags & ConnValue::FROM_NODE != 0;
        // What another one began goes on: it must not be ended by who may not begin.
        let keep = live && (denied && !was_denied || was_node && !from_node);
        // Who is denied leaves no trace where there was none: he must not push others out.
        let trace = verdict != ConnValue::DENIED || live;
        if !keep && trace && reason != reason::UNKNOWN {
            work.entry.last_ns = work.event.time_ns;
            work.entry.generation = work.event.generation;
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
    if reason == reason::UNKNOWN {
        return dropped(reason::UNKNOWN);
    }
    if !denied {
        work.entry.flags &= !ConnValue::CUT;
    } else if !was_denied {
        work.entry.flags |= ConnValue::CUT;
        tc_count(TcCounter::Cut);
    }
    let changed = work.entry.verdict != verdict;
    let initiator = work.entry.initiator as u32;
    work.entry.last_ns = work.event.time_ns;
    work.entry.generation = work.event.generation;
    work.entry.reason = reason;
    work.entry.verdict = verdict;
    work.entry.state = advanced(&work.entry, phase, initiator == side);
    store(work);
    if changed {
        return told(work, initiator, verdict, work.entry.flags);
    }
    if denied { dropped(reason) } else { 1 }
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
    if from_node {
        // The pod's answers come without a mark: they need an entry.
        if phase == Phase::Go as u32 {
            work.entry.last_ns = work.event.time_ns;
            work.entry.generation = work.event.generation;
            work.entry.reason = reason::OWN_NODE;
            work.entry.initiator = side as u8;
            work.entry.verdict = ConnValue::ALLOWED;
            work.entry.state = ConnValue::OPEN;
            work.entry.flags = ConnValue::FROM_NODE;
            work.entry.pad = 0;
            store(work);
        }
        return 1;
    }
    if policy == Policy::None || policy == Policy::Free {
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

/// Says how the flow `work.conn` that `initiator` began is to be judged, or that it needs no
/// judge.
#[inline(always)]
fn prepared(work: &mut TcWork, initiator: u32, flags: u8, policy: Policy) -> u32 {
    work.judge.passed = reason::NONE;
    if flags & ConnValue::FROM_NODE != 0 {
        work.judge.reason = reason::OWN_NODE;
        return JUDGED | ConnValue::ALLOWED as u32;
    }
    if policy == Policy::None {
        work.judge.reason = reason::NO_POLICY;
        return JUDGED | ConnValue::ALLOWED as u32;
    }
    if policy == Policy::Unknown {
        work.judge.reason = reason::UNKNOWN;
        return JUDGED | ConnValue::DENIED as u32;
    }
    let bounces = flags & ConnValue::BOUNCE != 0;
    // Where it turns round, the other end is the pod's own, and the address of the node stands
    // for it on the wire.
    let own_port = bounces || initiator == TO_POD;
    let port = u16::from_be(if own_port { work.conn.own_port } else { work.conn.peer_port });
    let protocol = work.conn.protocol as u32;
    let with_ports = has_ports(work.conn.protocol);
    work.judge.transport = if with_ports { port as u32 | protocol << 16 } else { 0 };
    work.judge.peer.epoch = work.judge.pod.epoch;
    work.judge.peer.ip = if bounces { work.conn.own } else { work.conn.peer };
    let told = if bounces {
        ITSELF | THROUGH_SERVICE
    } else if work.conn.own == work.conn.peer {
        ITSELF
    } else {
        0
    };
    JUDGE | initiator | told << JUDGE_FLAGS_SHIFT
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
