//! What must change in the maps so that they hold the desired tables. Pure.
//!
//! [`Mirror`] is what the kernel holds: read once when the load balancer is opened, then
//! kept in step with every change that succeeded. [`Mirror::parts`] and its kin compare it with desired
//! tables; the result is carried out in the order of [`Change`]'s fields.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weft_bpf_abi::{Addr, MemberKey, PROTO_UDP, ServiceValue, SlotKey};
use weft_model::Balance;
use weft_services::{Backend, Frontend, LoadBalancer};

/// What the maps hold, element by element.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    pub(crate) services: BTreeMap<Addr, ServiceValue>,
    pub(crate) slots: BTreeMap<SlotKey, Addr>,
    pub(crate) members: BTreeMap<MemberKey, u32>,
}

/// New slots in one step: while it is carried out, old and new slots are there together.
pub(crate) const STEP_SLOTS: usize = 4096;

/// One frontend in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    generation: u32,
    affinity_timeout_s: u32,
    flags: u32,
    /// In the order of their slots; some more than once where [`ServiceValue::BY_CLIENT`] is set.
    backends: Vec<Addr>,
    /// Whether all slots and members are there; if not, it is written anew.
    intact: bool,
}

/// What the kernel holds, by frontend.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mirror {
    frontends: BTreeMap<Addr, Entry>,
    /// The last generations of frontends that are gone while their slots may still be there: one
    /// that comes back must not take numbers that are about to be deleted.
    retired: BTreeMap<Addr, u32>,
    slots: usize,
    members: usize,
}

/// What no frontend points at: left behind by a change that failed, or by an agent that
/// ended in the middle of one. To be deleted before anything is planned, so that it takes no
/// room, once all readers have ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Orphans {
    pub(crate) slots: Vec<SlotKey>,
    pub(crate) members: Vec<MemberKey>,
}

impl Orphans {
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.members.is_empty()
    }
}

/// What the kernel must hold of one frontend.
pub(crate) struct Expected {
    pub(crate) frontend: Addr,
    pub(crate) value: ServiceValue,
    pub(crate) slots: Vec<(SlotKey, Addr)>,
    pub(crate) members: Vec<MemberKey>,
}

/// The wanted set of one frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// In the order of their slots.
    pub(crate) backends: Vec<Addr>,
    pub(crate) affinity_timeout_s: u32,
    /// Of [`ServiceValue`].
    pub(crate) flags: u32,
}

/// A step from what is to what shall be. The fields are in the order of execution: new sets
/// first, then the frontends that point at them, then what nobody points at any more, and
/// the last two only after all readers of the old frontends have ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) slots: Vec<(SlotKey, Addr)>,
    pub(crate) members: Vec<(MemberKey, u32)>,
    pub(crate) services: Vec<(Addr, ServiceValue)>,
    pub(crate) gone_services: Vec<Addr>,
    pub(crate) gone_slots: Vec<SlotKey>,
    pub(crate) gone_members: Vec<MemberKey>,
    /// Frontends that are new, changed, and as they were.
    pub(crate) added: usize,
    pub(crate) changed: usize,
    pub(crate) unchanged: usize,
}

/// The kernel's form of a frontend; `None` for one that nobody can ask for.
pub(crate) fn lower_key(frontend: &Frontend) -> Option<Addr> {
    // IPv4 in IPv6 form would be the key of the IPv4 address, too.
    if let IpAddr::V6(v6) = frontend.addr
        && v6.to_ipv4_mapped().is_some()
    {
        return None;
    }
    Some(addr(frontend.addr, frontend.port.get(), frontend.protocol.number()))
}

/// The kernel's form of what stands behind `frontend`; `None` where there is nobody.
pub(crate) fn lower(frontend: Addr, lb: &LoadBalancer) -> Option<Wanted> {
    let lowered = |b: &Backend| addr(b.addr, b.port.get(), frontend.protocol);
    let (backends, flags) = match lb.balance {
        Balance::Random => (lb.backends.iter().map(lowered).collect(), 0),
        Balance::Maglev => {
            let places = weft_services::maglev::places(&lb.backends);
            (places.iter().map(lowered).collect(), ServiceValue::BY_CLIENT)
        }
    };
    let affinity_timeout_s = lb.affinity_timeout_s.unwrap_or(0);
    let wanted = Wanted { backends, affinity_timeout_s, flags };
    (!wanted.backends.is_empty()).then_some(wanted)
}

fn addr(ip: IpAddr, port: u16, protocol: u8) -> Addr {
    Addr::from_socket((ip, port).into(), protocol)
}

/// Members are asked for by unconnected UDP sockets and by session affinity only.
fn needs_members(frontend: &Addr, affinity_timeout_s: u32) -> bool {
    frontend.protocol == PROTO_UDP || affinity_timeout_s != 0
}

impl Entry {
    fn slot_keys(&self, frontend: Addr) -> impl Iterator<Item = SlotKey> + use<> {
        let generation = self.generation;
        let count = u32::try_from(self.backends.len()).expect("invariant: a map index is u32");
        (0..count).map(move |index| SlotKey { frontend, generation, index })
    }

    /// Each once, in their own order.
    fn member_keys(&self, frontend: Addr) -> impl Iterator<Item = MemberKey> + use<> {
        let needed = needs_members(&frontend, self.affinity_timeout_s);
        let mut members = if needed { self.backends.clone() } else { Vec::new() };
        members.sort_unstable();
        members.dedup();
        members.into_iter().map(move |backend| MemberKey { frontend, backend })
    }

    fn member_count(&self, frontend: Addr) -> usize {
        // Only a table has one twice, and that is long.
        let plain = needs_members(&frontend, self.affinity_timeout_s).then_some(&self.backends);
        match plain {
            Some(_) if self.flags & ServiceValue::BY_CLIENT != 0 => {
                self.member_keys(frontend).count()
            }
            backends => backends.map_or(0, Vec::len),
        }
    }

    fn value(&self) -> ServiceValue {
        let count = self.backends.len() as u32;
        let flags = self.flags;
        ServiceValue { flags, ..ServiceValue::new(self.generation, count, self.affinity_timeout_s) }
    }

    fn is(&self, wanted: &Wanted) -> bool {
        self.intact
            && (self.affinity_timeout_s, self.flags) == (wanted.affinity_timeout_s, wanted.flags)
            && self.backends == wanted.backends
    }
}

impl Mirror {
    /// From the maps' elements. The orphans are no part of the mirror.
    pub(crate) fn new(mut observed: Observed) -> (Self, Orphans) {
        let mut mirror = Self::default();
        for (&frontend, value) in &observed.services {
            let mut entry = Entry {
                generation: value.generation(),
                affinity_timeout_s: value.affinity_timeout_s,
                flags: value.flags,
                backends: Vec::new(),
                intact: true,
            };
            for index in 0..value.count() {
                let key = SlotKey { frontend, generation: entry.generation, index };
                match observed.slots.remove(&key) {
                    Some(backend) => entry.backends.push(backend),
                    // What comes after a hole stays in `observed.slots` and goes as orphan.
                    None => {
                        entry.intact = false;
                        break;
                    }
                }
            }
            for key in entry.member_keys(frontend).collect::<Vec<_>>() {
                if observed.members.remove(&key).is_none_or(|g| g < entry.generation) {
                    entry.intact = false;
                }
            }
            mirror.insert(frontend, entry);
        }
        let orphans = Orphans {
            slots: observed.slots.into_keys().collect(),
            members: observed.members.into_keys().collect(),
        };
        (mirror, orphans)
    }

    /// How many frontends, slots and members the kernel holds, without what is to be deleted.
    pub(crate) fn sizes(&self) -> [usize; 3] {
        [self.frontends.len(), self.slots, self.members]
    }

    /// How much more (or less) of each it will hold with these frontends as wanted.
    pub(crate) fn growth(&self, desired: &BTreeMap<Addr, Wanted>) -> [isize; 3] {
        let mut growth = [0; 3];
        for (frontend, wanted) in desired {
            let new = self.entry(*frontend, wanted);
            let more = [1, new.backends.len(), new.member_count(*frontend)];
            let less = self
                .frontends
                .get(frontend)
                .map_or([0; 3], |old| [1, old.backends.len(), old.member_count(*frontend)]);
            for ((sum, more), less) in growth.iter_mut().zip(more).zip(less) {
                *sum += more as isize - less as isize;
            }
        }
        growth
    }

    /// Whether the kernel has this frontend.
    pub(crate) fn holds(&self, frontend: &Addr) -> bool {
        self.frontends.contains_key(frontend)
    }

    /// The frontends that `desired` does not name.
    pub(crate) fn others<'a>(
        &'a self,
        desired: &'a BTreeMap<Addr, Wanted>,
    ) -> impl Iterator<Item = Addr> + 'a {
        self.frontends.keys().filter(|f| !desired.contains_key(f)).copied()
    }

    /// All slots and members that no frontend points at are deleted.
    pub(crate) fn forget_retired(&mut self) {
        self.retired.clear();
    }

    /// What the kernel must hold for the frontends after this one, as many as are asked for.
    pub(crate) fn expected(&self, after: Option<Addr>, count: usize) -> Vec<Expected> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        let some = self.frontends.range((from, Unbounded)).take(count);
        some.map(|(&frontend, entry)| Expected {
            frontend,
            value: entry.value(),
            slots: entry.slot_keys(frontend).zip(entry.backends.iter().copied()).collect(),
            members: entry.member_keys(frontend).collect(),
        })
        .collect()
    }

    /// Takes note that the kernel does not hold what it should of a frontend.
    pub(crate) fn damaged(&mut self, frontend: &Addr) {
        if let Some(entry) = self.frontends.get_mut(frontend) {
            entry.intact = false;
        }
    }

    fn remove(&mut self, frontend: &Addr) -> Option<Entry> {
        let old = self.frontends.remove(frontend)?;
        self.slots -= old.backends.len();
        self.members -= old.member_count(*frontend);
        Some(old)
    }

    fn insert(&mut self, frontend: Addr, entry: Entry) {
        self.remove(&frontend);
        self.slots += entry.backends.len();
        self.members += entry.member_count(frontend);
        self.frontends.insert(frontend, entry);
    }

    /// What must change so that the kernel holds `desired`.
    #[cfg(test)]
    pub(crate) fn plan(&self, desired: &BTreeMap<Addr, Wanted>) -> Change {
        let mut change = self.plan_part(desired.iter().map(|(frontend, w)| (*frontend, w)));
        let gone = self.plan_gone(self.others(desired));
        change.gone_services = gone.gone_services;
        change.gone_slots.extend(gone.gone_slots);
        change.gone_members.extend(gone.gone_members);
        change.gone_members.sort_unstable();
        change
    }

    /// The frontends to write, in parts of whole frontends with at most [`STEP_SLOTS`] slots
    /// (or one frontend that has more), and how many are as they shall be. A part is of
    /// frontends that are there, or of new ones: only the latter need room in the map of
    /// frontends. Those that are there come first.
    pub(crate) fn parts(&self, desired: &BTreeMap<Addr, Wanted>) -> (Vec<Vec<Addr>>, usize) {
        let stale: Vec<(&Addr, &Wanted)> = desired
            .iter()
            .filter(|(frontend, w)| !self.frontends.get(frontend).is_some_and(|e| e.is(w)))
            .collect();
        let mut parts = Vec::new();
        for there in [true, false] {
            let (mut part, mut slots) = (Vec::new(), 0);
            for (frontend, wanted) in &stale {
                if self.frontends.contains_key(frontend) != there {
                    continue;
                }
                let more = wanted.backends.len();
                if slots + more > STEP_SLOTS && !part.is_empty() {
                    parts.push(std::mem::take(&mut part));
                    slots = 0;
                }
                slots += more;
                part.push(**frontend);
            }
            if !part.is_empty() {
                parts.push(part);
            }
        }
        (parts, desired.len() - stale.len())
    }

    /// What must go with these frontends.
    pub(crate) fn plan_gone(&self, frontends: impl Iterator<Item = Addr>) -> Change {
        let mut change = Change::default();
        for frontend in frontends {
            let Some(entry) = self.frontends.get(&frontend) else { continue };
            change.gone_services.push(frontend);
            change.gone_slots.extend(entry.slot_keys(frontend));
            change.gone_members.extend(entry.member_keys(frontend));
        }
        change
    }

    /// What undoes a part of new sets that did not fit: the frontends to delete, which are
    /// those that were not there, then what nothing points at. Nothing of the old sets.
    pub(crate) fn undo(&self, change: &Change) -> Change {
        let held = |frontend: &Addr| self.frontends.get(frontend);
        Change {
            gone_services: change
                .services
                .iter()
                .map(|(frontend, _)| *frontend)
                .filter(|frontend| held(frontend).is_none())
                .collect(),
            gone_slots: change.slots.iter().map(|(key, _)| *key).collect(),
            gone_members: change
                .members
                .iter()
                .map(|(key, _)| *key)
                .filter(|key| {
                    !held(&key.frontend)
                        .is_some_and(|e| e.member_keys(key.frontend).any(|k| k == *key))
                })
                .collect(),
            ..Change::default()
        }
    }

    /// What must change so that these frontends are as wanted.
    pub(crate) fn plan_part<'a>(&self, wanted: impl Iterator<Item = (Addr, &'a Wanted)>) -> Change {
        let mut change = Change::default();
        let mut gone_slots = Vec::new();
        let mut gone_members = BTreeSet::new();
        for (frontend, wanted) in wanted {
            let old = self.frontends.get(&frontend);
            if old.is_some_and(|e| e.is(wanted)) {
                change.unchanged += 1;
                continue;
            }
            match old {
                Some(entry) => {
                    change.changed += 1;
                    gone_slots.extend(entry.slot_keys(frontend));
                    gone_members.extend(entry.member_keys(frontend));
                }
                None => change.added += 1,
            }
            let new = self.entry(frontend, wanted);
            change.slots.extend(new.slot_keys(frontend).zip(new.backends.iter().copied()));
            for key in new.member_keys(frontend) {
                gone_members.remove(&key);
                change.members.push((key, new.generation));
            }
            change.services.push((frontend, new.value()));
        }
        change.gone_slots = gone_slots;
        change.gone_members = gone_members.into_iter().collect();
        change
    }

    /// The entry that replaces that of `frontend`: of the next generation, so that the two
    /// sets never mix.
    fn entry(&self, frontend: Addr, wanted: &Wanted) -> Entry {
        let retired = self.retired.get(&frontend).copied();
        let current = self.frontends.get(&frontend).map(|e| e.generation).or(retired).unwrap_or(0);
        Entry {
            generation: current.wrapping_add(1),
            affinity_timeout_s: wanted.affinity_timeout_s,
            flags: wanted.flags,
            backends: wanted.backends.clone(),
            intact: true,
        }
    }

    /// Takes note that `change`, planned from this mirror for `desired`, was carried out.
    pub(crate) fn commit(&mut self, change: &Change, desired: &BTreeMap<Addr, Wanted>) {
        for frontend in &change.gone_services {
            if let Some(old) = self.remove(frontend) {
                self.retired.insert(*frontend, old.generation);
            }
        }
        for (frontend, value) in &change.services {
            let entry = Entry {
                generation: value.generation(),
                affinity_timeout_s: value.affinity_timeout_s,
                flags: value.flags,
                backends: desired[frontend].backends.clone(),
                intact: true,
            };
            self.insert(*frontend, entry);
        }
    }
}

#[cfg(test)]
#[path = "diff_tests.rs"]
pub(crate) mod tests;
