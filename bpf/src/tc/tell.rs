//! What is told of flows: events, and counters of reasons.

use super::work;
use crate::maps::{BUCKETS, EVENTS, REASONS, VERDICTS, tc_count};
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use weft_bpf_abi::{ReasonValue, TcCounter, VerdictEvent};

const NS_PER_S: u64 = 1_000_000_000;

/// The bucket of flows that pass, and that of denials and of what would be denied.
pub const ALLOWED: u32 = 0;
pub const DENIED: u32 = 1;

/// Fields of [`ReasonValue`].
pub const COUNT_ALLOWED: u32 = 0;
pub const COUNT_DENIED: u32 = 1;
pub const COUNT_AUDITED: u32 = 2;
pub const COUNT_DROPPED: u32 = 3;

/// Sends `work.event`, if such events are wanted and not too many.
#[inline(never)]
#[unsafe(export_name = "weft_policy_tell")]
pub extern "C" fn tell(bucket: u32) -> u32 {
    let Some(config) = EVENTS.get(0) else { return 0 };
    if bucket == ALLOWED {
        let every = config.allowed_every;
        // SAFETY: the helper has no preconditions.
        if every == 0 || (every > 1 && unsafe { bpf_get_prandom_u32() } % every != 0) {
            return 0;
        }
    } else if config.denied == 0 {
        return 0;
    }
    let Some(work) = work() else { return 0 };
    let Some(tokens) = BUCKETS.get_ptr_mut(bucket) else { return 0 };
    // SAFETY: the element is this CPU's own, and the program does not migrate.
    let tokens = unsafe { &mut *tokens };
    let now = work.event.time_ns;
    let most = config.burst as u64 * NS_PER_S;
    let mut elapsed = now.wrapping_sub(tokens.last_ns);
    if elapsed > NS_PER_S {
        elapsed = NS_PER_S;
    }
    let filled = tokens.tokens + elapsed * config.rate_per_s as u64;
    // It begins full.
    let mut left = if tokens.last_ns == 0 || filled > most { most } else { filled };
    tokens.last_ns = now;
    let enough = left >= NS_PER_S;
    if enough {
        left -= NS_PER_S;
    }
    tokens.tokens = left;
    if !enough {
        tc_count(TcCounter::EventsLimited);
    } else if VERDICTS.output::<VerdictEvent>(&work.event, 0).is_err() {
        tc_count(TcCounter::EventsLost);
    } else {
        tc_count(TcCounter::Events);
    }
    0
}

/// Adds one to a counter of a reason.
#[inline(never)]
#[unsafe(export_name = "weft_policy_count")]
pub extern "C" fn count(reason: u32, field: u32) -> u32 {
    if REASONS.get_ptr(&reason).is_none() {
        let zero = ReasonValue { allowed: 0, denied: 0, audited: 0, dropped: 0 };
        // Another CPU may have been quicker, which is as well.
        let _ = REASONS.insert(&reason, &zero, BPF_NOEXIST);
    }
    let Some(value) = REASONS.get_ptr_mut(&reason) else {
        tc_count(TcCounter::ReasonsFull);
        return 0;
    };
    // SAFETY: the element is this CPU's own; deleted meanwhile, it counts for another reason.
    let value = unsafe { &mut *value };
    match field {
        COUNT_ALLOWED => value.allowed += 1,
        COUNT_DENIED => value.denied += 1,
        COUNT_AUDITED => value.audited += 1,
        _ => value.dropped += 1,
    }
    0
}

const BPF_NOEXIST: u64 = 1;
