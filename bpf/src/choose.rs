//! Frontend → backend.
//!
//! A set of backends is named by (frontend, generation). The writer stores all slots of a
//! new generation, then replaces the frontend's value, and deletes the old slots only after
//! an RCU grace period, so whoever read the old value finishes with the old slots.
//!
//! One thing an RCU section does not give: since Linux 6.1 a deleted element of a hash map
//! is reused at once, so the value behind a pointer from `SERVICES` may turn into another
//! frontend's while it is being read. Therefore generation and count are read by one load,
//! and the frontend is part of the slot's key: a foreign generation finds no slot, and the
//! look-up starts again.

use crate::maps::{AFFINITY, MEMBERS, SERVICES, SLOTS, count};
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use core::ptr::{addr_of, read_volatile};
use weft_bpf_abi::{Addr, AffinityValue, ClientKey, Counter, MemberKey, ServiceValue, SlotKey};

/// The second attempt is needed only if the value was reused in the very moment of the first
/// one. A third would never run, and doubles what the verifier has to walk through.
const ATTEMPTS: u32 = 2;

const NS_PER_S: u64 = 1_000_000_000;

/// The current set behind a frontend, if it has backends.
#[inline(always)]
pub fn service(frontend: &Addr) -> Option<ServiceValue> {
    let value = SERVICES.get_ptr(frontend)?;
    // SAFETY: the pointer comes from a look-up in this RCU section and is not null.
    let (head, affinity_timeout_s, flags) = unsafe {
        (
            read_volatile(addr_of!((*value).head)),
            read_volatile(addr_of!((*value).affinity_timeout_s)),
            read_volatile(addr_of!((*value).flags)),
        )
    };
    let service = ServiceValue { head, affinity_timeout_s, flags };
    if service.count() == 0 { None } else { Some(service) }
}

/// Whether `backend` belongs to the set of `frontend` that `service` names, or a newer one.
#[inline(always)]
pub fn is_member(frontend: &Addr, backend: &Addr, service: &ServiceValue) -> bool {
    let key = MemberKey { frontend: *frontend, backend: *backend };
    // SAFETY: the value is one aligned word; whichever writer it is from, it is whole.
    match unsafe { MEMBERS.get(&key) } {
        Some(&newest) => newest >= service.generation(),
        None => false,
    }
}

/// A backend, and the generation of the set that it was found in.
pub struct Chosen {
    pub backend: Addr,
    pub generation: u32,
}

/// Chooses a backend for a new connection of `frontend`. `client` is asked once there is one
/// to choose: who it is for session affinity, or `None` for somebody who shall not be
/// translated.
#[inline(always)]
pub fn choose(frontend: &Addr, client: impl Fn() -> Option<u64>) -> Option<Chosen> {
    for _ in 0..ATTEMPTS {
        let service = service(frontend)?;
        let client = client()?;
        let chosen = |backend| Some(Chosen { backend, generation: service.generation() });
        if service.affinity_timeout_s != 0 {
            if let Some(backend) = sticky_backend(client, frontend, &service) {
                return chosen(backend);
            }
        }
        let index = if service.flags & ServiceValue::BY_CLIENT != 0 {
            service.place(client)
        } else {
            // SAFETY: the helper has no preconditions.
            let any = unsafe { bpf_get_prandom_u32() };
            any % service.count()
        };
        let key = SlotKey { frontend: *frontend, generation: service.generation(), index };
        // SAFETY: a slot is deleted only a grace period after the frontend left its
        // generation, so the value stays whole while this program reads it.
        if let Some(&backend) = unsafe { SLOTS.get(&key) } {
            if service.affinity_timeout_s != 0 {
                remember(client, frontend, &backend);
            }
            return chosen(backend);
        }
    }
    count(Counter::Races);
    None
}

#[inline(always)]
fn key(netns_cookie: u64, frontend: &Addr) -> ClientKey {
    ClientKey { netns_cookie, frontend: *frontend, pad: 0 }
}

/// The backend of an earlier connection of this client, if it is still in the set and the
/// last use is not longer ago than the time-out.
#[inline(always)]
fn sticky_backend(client: u64, frontend: &Addr, service: &ServiceValue) -> Option<Addr> {
    // SAFETY: if the entry is evicted meanwhile, the backend read is refused by `is_member`.
    let last = *unsafe { AFFINITY.get(&key(client, frontend)) }?;
    // SAFETY: the helper has no preconditions.
    let age_ns = unsafe { bpf_ktime_get_ns() }.wrapping_sub(last.last_ns);
    if age_ns > service.affinity_timeout_s as u64 * NS_PER_S
        || !is_member(frontend, &last.backend, service)
    {
        return None;
    }
    remember(client, frontend, &last.backend);
    Some(last.backend)
}

#[inline(always)]
fn remember(client: u64, frontend: &Addr, backend: &Addr) {
    // SAFETY: the helper has no preconditions.
    let last_ns = unsafe { bpf_ktime_get_ns() };
    let value = AffinityValue { last_ns, backend: *backend, pad: 0 };
    if AFFINITY.insert(&key(client, frontend), &value, 0).is_err() {
        count(Counter::RecordFailures);
    }
}
