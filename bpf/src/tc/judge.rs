//! What the rules say about a first packet: the look-up of `weft_policy::PolicyTables`.
//!
//! Each function stands alone for the verifier (and takes numbers only, for the sake of Linux
//! 5.15): in line, their paths would multiply. Names are plain, as in `rewrite`.

use super::work;
use crate::maps::{BLOCKS, PEERS, RULES, SETS, tc_count};
use aya_ebpf::maps::lpm_trie;
use core::ptr::addr_of;
use weft_bpf_abi::{
    Addr, BlockKey, ConnValue, FROM_POD, RuleValue, SetValue, TO_POD, TcCounter, reason,
};

/// The pod talks to itself.
pub const ITSELF: u32 = 1;
/// It asked for a Service.
pub const THROUGH_SERVICE: u32 = 2;

const NOTHING: u32 = 0;
const FOUND: u32 = 1;
const FAULT: u32 = 2;

/// Port prefixes have 0 to 16 bits.
const BITS_MAX: u32 = 16;

/// The longest port prefix of one identity that there is a rule for, into `found`.
#[inline(always)]
fn look(set: u32, identity: u32, lengths: u32) -> u32 {
    let Some(work) = work() else { return FAULT };
    let judge = &mut work.judge;
    judge.rule.set = set;
    judge.rule.identity = identity;
    let (protocol, port) = ((judge.transport >> 16) as u8, judge.transport as u16);
    if protocol != 0 {
        judge.rule.protocol = protocol;
        let mut more = BITS_MAX + 1;
        while more > 0 {
            more -= 1;
            if lengths >> more & 1 == 0 {
                continue;
            }
            judge.rule.port = port & (0xffff_0000_u32 >> more) as u16;
            judge.rule.bits = more as u8;
            // SAFETY: an element that is reused meanwhile belongs to a change, behind which this
            // flow is judged again.
            if let Some(found) = unsafe { RULES.get(&judge.rule) } {
                judge.found = *found;
                return FOUND;
            }
        }
    }
    judge.rule.protocol = 0;
    judge.rule.port = 0;
    judge.rule.bits = 0;
    // SAFETY: as above.
    match unsafe { RULES.get(&judge.rule) } {
        Some(found) => {
            judge.found = *found;
            FOUND
        }
        None => NOTHING,
    }
}

/// The strongest rule of a set: that of the peer's identity, or that of everybody.
#[inline(never)]
#[unsafe(export_name = "weft_policy_find")]
extern "C" fn find(set: u32, identity: u32) -> u32 {
    let Some(work) = work() else { return FAULT };
    // SAFETY: as in `look`.
    let Some(value) = (unsafe { SETS.get(&set) }) else { return FAULT };
    let lengths = value.lengths;
    work.judge.kind = value.kind;
    let own = look(set, identity, lengths);
    if identity == 0 || own == FAULT {
        return own;
    }
    let strongest = work.judge.found;
    let any = look(set, 0, lengths);
    if own == FOUND && (any != FOUND || strongest.precedence <= work.judge.found.precedence) {
        work.judge.found = strongest;
        return FOUND;
    }
    any
}

/// The peer's class.
#[inline(always)]
fn identity() -> u32 {
    let Some(work) = work() else { return 0 };
    // SAFETY: as in `look`.
    if let Some(&identity) = unsafe { PEERS.get(&work.judge.peer) } {
        return identity;
    }
    let judge = &mut work.judge;
    let v4 = Addr::new(judge.peer.ip, 0, 0).as_v4().is_some();
    judge.block = BlockKey {
        bits: BlockKey::ALL_BITS,
        epoch: judge.peer.epoch,
        family: if v4 { 4 } else { 6 },
        ip: judge.peer.ip,
    };
    // SAFETY: the key is the number of bits and what they are of, like the type of the crate.
    let key = unsafe { &*addr_of!(judge.block).cast::<lpm_trie::Key<[u32; 6]>>() };
    BLOCKS.get(key).copied().unwrap_or(0)
}

/// Judges a packet from the pod ([`FROM_POD`], egress rules) or to it by the sets of
/// `work.judge.pod`, and where it turns round by both; the answer is a verdict as in
/// [`ConnValue`], its reason is in `work.judge`.
#[inline(never)]
#[unsafe(export_name = "weft_policy_judge")]
pub extern "C" fn judge(direction: u32, flags: u32) -> u32 {
    if flags & THROUGH_SERVICE == 0 {
        return one(direction, flags);
    }
    let out = one(FROM_POD, flags);
    let Some(work) = work() else { return ConnValue::DENIED as u32 };
    if out == ConnValue::DENIED as u32 {
        return out;
    }
    let (reason, passed) = (work.judge.reason, work.judge.passed);
    let verdict = one(TO_POD, flags);
    if out == ConnValue::AUDITED as u32 && verdict == ConnValue::ALLOWED as u32 {
        work.judge.reason = reason;
        work.judge.passed = passed;
        return out;
    }
    verdict
}

/// Judges by the rules of one direction.
#[inline(always)]
fn one(direction: u32, flags: u32) -> u32 {
    let Some(work) = work() else { return ConnValue::DENIED as u32 };
    work.judge.passed = reason::NONE;
    if flags & ITSELF != 0 && flags & THROUGH_SERVICE == 0 {
        work.judge.reason = reason::ITSELF;
        return ConnValue::ALLOWED as u32;
    }
    let egress = direction == FROM_POD;
    let admin = if egress { work.judge.pod.egress[0] } else { work.judge.pod.ingress[0] };
    let rest = if egress { work.judge.pod.egress[1] } else { work.judge.pod.ingress[1] };
    work.judge.reason = reason::UNSELECTED;
    if admin | rest == 0 {
        return ConnValue::ALLOWED as u32;
    }
    let identity = identity();
    // A policy on trial would have denied it before the rest was asked.
    let mut marked = reason::NONE;
    if admin != 0 {
        match find(admin, identity) {
            FOUND if work.judge.found.action == RuleValue::PASS => {
                if work.judge.found.flags & RuleValue::AUDIT != 0 {
                    marked = work.judge.found.reason;
                } else {
                    work.judge.passed = work.judge.found.reason;
                }
            }
            FOUND => return decided(),
            NOTHING => {}
            _ => return fault(),
        }
    }
    let verdict = match if rest == 0 { NOTHING } else { find(rest, identity) } {
        NOTHING => ConnValue::ALLOWED as u32,
        FOUND if work.judge.found.action == RuleValue::PASS => {
            work.judge.passed = work.judge.found.reason;
            ConnValue::ALLOWED as u32
        }
        FOUND => {
            let denies = work.judge.found.action == RuleValue::DENY;
            if denies && work.judge.kind == SetValue::NETWORK && flags & ITSELF != 0 {
                work.judge.reason = reason::ITSELF;
                ConnValue::ALLOWED as u32
            } else {
                decided()
            }
        }
        _ => fault(),
    };
    if marked == reason::NONE || verdict == ConnValue::DENIED as u32 {
        return verdict;
    }
    work.judge.reason = marked;
    work.judge.passed = reason::NONE;
    ConnValue::AUDITED as u32
}

/// What the rule that was found says.
#[inline(always)]
fn decided() -> u32 {
    let Some(work) = work() else { return ConnValue::DENIED as u32 };
    work.judge.reason = work.judge.found.reason;
    if work.judge.found.action == RuleValue::ACCEPT {
        return ConnValue::ALLOWED as u32;
    }
    if work.judge.found.flags & RuleValue::AUDIT == 0 {
        return ConnValue::DENIED as u32;
    }
    work.judge.passed = reason::NONE;
    ConnValue::AUDITED as u32
}

/// A set that a pod names is not there.
#[inline(always)]
fn fault() -> u32 {
    tc_count(TcCounter::Faults);
    if let Some(work) = work() {
        work.judge.reason = reason::FAULT;
    }
    ConnValue::DENIED as u32
}
