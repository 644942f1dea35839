//! Flows: two entries each, one a direction.
//!
//! The entry of a direction is found by the packet as it arrives, and says what it becomes;
//! so the answer to that is found by its entry (`partner`), whatever was changed: addresses,
//! the client's port where two flows would look alike to one backend, or both sides' places
//! where a pod reaches itself.

use super::{
    Place,
    packet::{Packet, Phase, destination_port, source_port},
    router, work,
};
use crate::{
    choose::{choose, is_member, service},
    maps::{FLOWS, PODS, TC_CONFIG, tc_count},
};
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};
use weft_bpf_abi::{
    FROM_POD, FlowKey, FlowValue, PROTO_UDP, PodValue, TO_POD, TcConfig, TcCounter, TcWork,
};

const NS_PER_S: u64 = 1_000_000_000;
/// How fresh an entry's time is kept: written at most this often.
const REFRESH_NS: u64 = NS_PER_S;
/// How long an entry that nothing uses still keeps others from its place. (Longer than an
/// exchange of UDP takes; as netfilter's for streams.)
const IDLE_NS: u64 = 120 * NS_PER_S;
/// The same for open TCP and SCTP flows.
const IDLE_OPEN_NS: u64 = 7200 * NS_PER_S;
/// How many ports are tried for a client whose own is taken. The chance that all of them are
/// taken is that of a table far more than full.
const PORT_TRIES: u32 = 3;

/// What a packet does to its flow.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Step {
    Begin = 0,
    Go = 1,
    End = 2,
}

#[inline(always)]
fn step(packet: &Packet) -> Step {
    match packet.phase {
        Phase::Begin | Phase::Datagram => Step::Begin,
        Phase::End => Step::End,
        _ => Step::Go,
    }
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// Sets the key of a packet; in place, since the stack is small.
#[inline(always)]
fn set_key(at: &Place, packet: &Packet, key: &mut FlowKey) {
    key.src.ip = packet.src;
    key.src.port = source_port(packet.ports);
    key.src.protocol = packet.protocol;
    key.src.pad = 0;
    key.dst.ip = packet.dst;
    key.dst.port = destination_port(packet.ports);
    key.dst.protocol = packet.protocol;
    key.dst.pad = 0;
    key.link = at.link;
    key.direction = at.direction;
}

/// Sets the key of the answers to what `work.value` makes of `work.key`.
#[inline(always)]
fn set_partner(work: &mut TcWork) {
    let back = if work.key.direction == FROM_POD { TO_POD } else { FROM_POD };
    let bounces = work.value.flags & FlowValue::BOUNCE != 0;
    work.partner.direction = if bounces { work.key.direction } else { back };
    work.partner.link = work.key.link;
    work.partner.src = work.value.dst;
    work.partner.dst = work.value.src;
}

/// Sets the entry of the answers.
#[inline(always)]
fn set_answer(work: &mut TcWork) {
    work.back.src = work.key.dst;
    work.back.dst = work.key.src;
    work.back.generation = 0;
    work.back.state = FlowValue::NEW;
    work.back.flags = work.value.flags | FlowValue::REVERSE;
    work.back.pad = 0;
}

/// Reads the entry of `work.key` into `work.value`: what becomes of packets that look so.
#[inline(always)]
pub fn find(work: &mut TcWork) -> Option<*mut FlowValue> {
    let entry = FLOWS.get_ptr_mut(&work.key)?;
    // SAFETY: not null. Evicted meanwhile, the value is at worst another flow's, whole or in
    // part: one packet goes astray, and what it carries is repeated by its sender.
    work.value = unsafe { *entry };
    Some(entry)
}

/// Sets `work.value` to what becomes of an answer to the pod.
#[inline(always)]
pub fn inbound(at: &Place, packet: &Packet, work: &mut TcWork) -> Option<()> {
    set_key(at, packet, &mut work.key);
    let entry = find(work)?;
    touch(entry, work, step(packet));
    Some(())
}

/// Sets `work.value` to what becomes of a packet from the pod to a Service address, or (not
/// `service`) to the address that stands for the pod where it reaches itself.
#[inline(always)]
pub fn outbound(at: &Place, packet: &Packet, service: bool, work: &mut TcWork) -> Option<()> {
    set_key(at, packet, &mut work.key);
    let service = if service { SERVICE } else { 0 };
    let v4 = if packet.v4 { V4 } else { 0 };
    if translate(step(packet) as u32 | service | v4) == 0 { None } else { Some(()) }
}

const STEP: u32 = 3;
const SERVICE: u32 = 4;
const V4: u32 = 8;

/// A program of its own for the verifier, and on the stack: see `judge`.
#[inline(never)]
#[unsafe(export_name = "weft_flow_translate")]
extern "C" fn translate(question: u32) -> u32 {
    let Some(work) = work() else { return 0 };
    let step = match question & STEP {
        0 => Step::Begin,
        1 => Step::Go,
        _ => Step::End,
    };
    if let Some(entry) = find(work) {
        if stays(work, step) {
            touch(entry, work, step);
            return 1;
        }
        // The answers of the old backend are nobody's any more.
        set_partner(work);
        let _ = FLOWS.remove(&work.partner);
        let _ = FLOWS.remove(&work.key);
    }
    if question & SERVICE == 0 || step != Step::Begin {
        return 0;
    }
    let Some(pod) = PODS.get_ptr_mut(&work.key.link) else { return 0 };
    let Some(config) = TC_CONFIG.get(0) else { return 0 };
    begin(pod, config, question & V4 != 0, work).is_some() as u32
}

/// Whether a packet goes on to the backend of its flow. TCP and SCTP keep theirs, also when it
/// left the set, until they begin anew; a repeated first packet is no new beginning.
#[inline(always)]
fn stays(work: &TcWork, step: Step) -> bool {
    let (key, value) = (&work.key, &work.value);
    if value.flags & FlowValue::REVERSE != 0 || step != Step::Begin {
        return true;
    }
    let Some(service) = service(&key.dst) else { return false };
    if key.src.protocol != PROTO_UDP {
        return value.state == FlowValue::NEW && value.generation == service.generation();
    }
    // Not by the generation, as above: a frontend that went and came back begins anew with it.
    is_member(&key.dst, &value.dst, &service)
}

/// Keeps state and time of an entry.
#[inline(always)]
fn touch(entry: *mut FlowValue, work: &mut TcWork, step: Step) {
    let old = work.value.state;
    let state = match step {
        Step::Begin => old,
        Step::Go if old == FlowValue::NEW => FlowValue::OPEN,
        Step::Go => old,
        Step::End => FlowValue::CLOSING,
    };
    if state != old {
        // SAFETY: as in `find`; a wrong state makes an entry go sooner or later.
        unsafe { write_volatile(addr_of_mut!((*entry).state), state) };
    }
    let now = now_ns();
    if now.wrapping_sub(work.value.last_ns) < REFRESH_NS {
        return;
    }
    // SAFETY: as before.
    unsafe { write_volatile(addr_of_mut!((*entry).last_ns), now) };
    // A look-up also keeps the partner from being the first to be evicted. If it was, it comes
    // back: that of the answers holds nothing that is not known here.
    set_partner(work);
    if FLOWS.get_ptr(&work.partner).is_none() && work.value.flags & FlowValue::REVERSE == 0 {
        set_answer(work);
        work.back.last_ns = now;
        if FLOWS.insert(&work.partner, &work.back, 0).is_err() {
            tc_count(TcCounter::Errors);
        }
    }
}

/// Chooses a backend for a new flow.
#[inline(always)]
fn begin(pod: *mut PodValue, config: &TcConfig, v4: bool, work: &mut TcWork) -> Option<()> {
    // SAFETY: the pointer comes from a look-up in this RCU section and is not null.
    let client = unsafe { read_volatile(addr_of!((*pod).client)) };
    let Some(chosen) = choose(&work.key.dst, || Some(client)) else {
        tc_count(TcCounter::NoBackend);
        return None;
    };
    let now = now_ns();
    work.value.last_ns = now;
    work.value.src = work.key.src;
    work.value.dst = chosen.backend;
    work.value.generation = chosen.generation;
    work.value.state = FlowValue::NEW;
    work.value.flags = 0;
    work.value.pad = 0;
    if work.value.dst.ip == work.key.src.ip {
        // Nobody takes a packet from the wire that bears his own address as its source.
        work.value.flags = FlowValue::BOUNCE;
        work.value.src.ip = *router(config, v4);
    }
    set_answer(work);
    work.back.last_ns = now;
    for _ in 0..PORT_TRIES {
        set_partner(work);
        if is_free(work) {
            let stored = FLOWS.insert(&work.partner, &work.back, 0).is_ok()
                && FLOWS.insert(&work.key, &work.value, 0).is_ok();
            if !stored {
                break;
            }
            // SAFETY: as above; packets to the pod are looked up from now on.
            unsafe { write_volatile(addr_of_mut!((*pod).has_flows), 1) };
            tc_count(TcCounter::Flows);
            return Some(());
        }
        // SAFETY: the helper has no preconditions.
        let random = unsafe { bpf_get_prandom_u32() };
        // As the kernel's own range for clients.
        work.value.src.port = ((32_768 + random % 28_232) as u16).to_be();
    }
    tc_count(TcCounter::Errors);
    None
}

/// Whether answers that look like `work.partner` are nobody's, or this very flow's.
#[inline(always)]
fn is_free(work: &TcWork) -> bool {
    let Some(entry) = FLOWS.get_ptr(&work.partner) else { return true };
    // SAFETY: as in `find`; at worst one port more is tried.
    let entry = unsafe { &*entry };
    let idle = if entry.state == FlowValue::OPEN { IDLE_OPEN_NS } else { IDLE_NS };
    (entry.src == work.back.src && entry.dst == work.back.dst)
        || work.back.last_ns.wrapping_sub(entry.last_ns) > idle
}
