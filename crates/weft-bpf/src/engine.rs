//! Makes the maps hold the tables: what changed since the last ones, or everything where that
//! is not known. Knows the maps by [`Kernel`] alone, so that it runs on a model of them, too.

use crate::{
    ApplyStats, BpfError, LeftOut, Result,
    diff::{self, Change, Mirror, Observed, Orphans, STEP_SLOTS, Wanted},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    thread::JoinHandle,
};
use weft_bpf_abi::{Addr, MapName, MemberKey, ServiceValue, SlotKey};
use weft_model::Map;
use weft_services::{Frontend, LoadBalancer, ServiceTables};

/// Slots that wait for their readers to end, at most: more of them would need more room in the
/// map than a step of a change has.
const LEAVINGS_MAX: usize = STEP_SLOTS;

/// A hash map of the kernel.
pub(crate) trait Table<K, V> {
    /// Stores all elements, replacing those that are there. Some are stored where it fails.
    fn put(&self, entries: &[(K, V)]) -> Result<()>;
    /// Deletes all elements; those that are not there count as deleted.
    fn delete(&self, keys: &[K]) -> Result<()>;
    /// The value of a key.
    fn get(&self, key: &K) -> Result<Option<V>>;
    /// All elements.
    fn dump(&self) -> Result<Vec<(K, V)>>;
}

/// What the engine needs of the kernel.
pub(crate) trait Kernel {
    fn services(&self) -> &dyn Table<Addr, ServiceValue>;
    fn slots(&self) -> &dyn Table<SlotKey, Addr>;
    fn members(&self) -> &dyn Table<MemberKey, u32>;
    /// Begins to wait until all programs that run now have ended.
    fn grace(&self) -> Grace;
    /// Makes room for so many frontends, slots and members, as far as it may.
    fn make_room(&mut self, entries: [usize; 3]) -> Result<()>;
}

/// Waits for the readers of what was replaced; `None` where there is nothing to wait for.
#[derive(Debug)]
pub(crate) struct Grace(pub(crate) Option<JoinHandle<()>>);

impl Grace {
    fn is_over(&self) -> bool {
        self.0.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn wait(self) {
        if let Some(thread) = self.0 {
            // One that panicked waits no more.
            let _ = thread.join();
        }
    }
}

/// What no frontend points at any more.
#[derive(Debug, Default)]
struct Leavings {
    slots: Vec<SlotKey>,
    members: BTreeSet<MemberKey>,
}

impl Leavings {
    fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.members.is_empty()
    }
}

/// The frontends of the tables that the kernel holds.
type Applied = Map<Frontend, Arc<LoadBalancer>>;

/// Programs the maps of a [`Kernel`].
#[derive(Debug)]
pub(crate) struct Engine<K> {
    pub(crate) kernel: K,
    /// What the maps hold; `None` after a failure, until they have been read again.
    mirror: Option<Mirror>,
    /// What they were made to hold; `None` where it is not certain that they hold all of it.
    applied: Option<Applied>,
    /// Replaced since the last grace period began.
    fresh: Leavings,
    /// Replaced before, and the grace period.
    waiting: Option<(Grace, Leavings)>,
    /// Where [`Self::verify`] goes on.
    verified: Option<Addr>,
}

/// What tables ask for.
struct Asked {
    /// Frontends that are new or changed (or may be), as wanted.
    desired: BTreeMap<Addr, Wanted>,
    gone: Vec<Addr>,
}

impl<K: Kernel> Engine<K> {
    /// Reads what the maps hold and removes orphans.
    pub(crate) fn new(kernel: K) -> Result<Self> {
        let mut engine = Self {
            kernel,
            mirror: None,
            applied: None,
            fresh: Leavings::default(),
            waiting: None,
            verified: None,
        };
        engine.observe()?;
        Ok(engine)
    }

    /// Makes all new connections follow `tables`. What nobody uses any more may stay: see
    /// [`Self::sweep`].
    pub(crate) fn switch(&mut self, tables: &ServiceTables) -> Result<ApplyStats> {
        let result = self.try_switch(tables);
        match &result {
            Ok(_) => self.applied = Some(tables.frontends.clone()),
            // What was left out is looked for by comparing everything.
            Err(BpfError::MapFull { left_out, .. }) if !left_out.0.is_empty() => {
                self.applied = None;
            }
            Err(_) => self.forget(),
        }
        result
    }

    /// Deletes what nobody uses any more, once all readers have ended; says whether something
    /// is left to do. With `wait` nothing is, else it does not wait for readers.
    pub(crate) fn sweep(&mut self, wait: bool) -> Result<bool> {
        let result = self.try_sweep(wait);
        if result.is_err() {
            self.forget();
        }
        result
    }

    /// Whether a sweep has something to do.
    pub(crate) fn has_leavings(&self) -> bool {
        self.waiting.is_some() || !self.fresh.is_empty()
    }

    /// Compares the next frontends with the kernel; says whether all is as it should be. What is
    /// not is written with the next tables.
    pub(crate) fn verify(&mut self, count: usize) -> Result<bool> {
        let Some(mirror) = &mut self.mirror else { return Ok(false) };
        let some = mirror.expected(self.verified, count);
        self.verified = some.last().map(|e| e.frontend).filter(|_| some.len() == count);
        let mut fine = true;
        for expected in some {
            let found = self.kernel.services().get(&expected.frontend)?;
            let mut intact = found == Some(expected.value);
            for (key, backend) in &expected.slots {
                intact = intact && self.kernel.slots().get(key)? == Some(*backend);
            }
            for key in &expected.members {
                let newest = self.kernel.members().get(key)?;
                intact = intact && newest.is_some_and(|g| g >= expected.value.generation());
            }
            if !intact {
                mirror.damaged(&expected.frontend);
                fine = false;
            }
        }
        if !fine {
            self.applied = None;
        }
        Ok(fine)
    }

    /// How many frontends and slots the kernel holds.
    pub(crate) fn sizes(&mut self) -> Result<[usize; 3]> {
        Ok(self.observed()?.sizes())
    }

    /// The kernel holds something, nobody knows what.
    fn forget(&mut self) {
        self.mirror = None;
        self.applied = None;
        // They will be found as orphans.
        self.fresh = Leavings::default();
        self.waiting = None;
    }

    fn observed(&mut self) -> Result<&mut Mirror> {
        if self.mirror.is_none() {
            self.observe()?;
        }
        Ok(self.mirror.as_mut().expect("invariant: it was observed"))
    }

    /// Reads the maps and removes orphans.
    fn observe(&mut self) -> Result<()> {
        let kernel = &self.kernel;
        let (mirror, orphans) = Mirror::new(Observed {
            services: kernel.services().dump()?.into_iter().collect(),
            slots: kernel.slots().dump()?.into_iter().collect(),
            members: kernel.members().dump()?.into_iter().collect(),
        });
        if !orphans.is_empty() {
            let Orphans { slots, members } = orphans;
            let counts = (slots.len(), members.len());
            tracing::info!(slots = counts.0, members = counts.1, "removing unfinished changes");
            kernel.grace().wait();
            kernel.slots().delete(&slots)?;
            kernel.members().delete(&members)?;
        }
        self.mirror = Some(mirror);
        Ok(())
    }

    /// Compares the tables with those that were applied, by what they do not share; or with all
    /// that the kernel holds.
    fn asked(&mut self, tables: &ServiceTables) -> Result<Asked> {
        self.observed()?;
        let mirror = self.mirror.as_ref().expect("invariant: it was observed");
        let lowered = |frontend: &Frontend, lb: Option<&Arc<LoadBalancer>>| {
            let key = diff::lower_key(frontend)?;
            Some((key, lb.and_then(|lb| diff::lower(key, lb))))
        };
        if let Some(applied) = &self.applied {
            let (mut desired, mut gone) = (BTreeMap::new(), Vec::new());
            for change in applied.diff(&tables.frontends) {
                match lowered(change.key, change.after) {
                    Some((key, Some(wanted))) => drop(desired.insert(key, wanted)),
                    Some((key, None)) => gone.push(key),
                    None => {}
                }
            }
            gone.retain(|key| mirror.holds(key));
            return Ok(Asked { desired, gone });
        }
        let all = tables.frontends.iter();
        let desired =
            all.filter_map(|(f, lb)| lowered(f, Some(lb))).filter_map(|(k, w)| Some((k, w?)));
        let desired = desired.collect();
        let gone = mirror.others(&desired).collect();
        Ok(Asked { desired, gone })
    }

    /// What is gone goes first; then sets change in small steps. Where a map is full, the
    /// frontends that do not fit stay as they were, and all others are applied.
    fn try_switch(&mut self, tables: &ServiceTables) -> Result<ApplyStats> {
        let Asked { desired, gone } = self.asked(tables)?;
        let gone = self.observed()?.plan_gone(gone.into_iter());
        self.carry_out(&gone)?;
        let mirror = self.observed()?;
        mirror.commit(&gone, &desired);
        let (mut parts, _) = mirror.parts(&desired);
        self.make_room(&desired);
        let removed = gone.gone_services.len();
        let mut stats = ApplyStats { removed, ..ApplyStats::default() };
        let mut full: Option<(&str, u32, LeftOut)> = None;
        // From the end: halves of a part that did not fit come next.
        parts.reverse();
        let mut room = true;
        while let Some(mut part) = parts.pop() {
            if let (false, Some((.., left_out))) = (room, &mut full) {
                // Only new frontends are left by now, and nothing makes room for them.
                left_out.0.extend(part.iter().map(Addr::to_socket));
                continue;
            }
            let change = self.observed()?.plan_part(part.iter().map(|f| (*f, &desired[f])));
            let leavings = self.has_leavings();
            match self.carry_out(&change) {
                Ok(()) => {
                    self.observed()?.commit(&change, &desired);
                    stats.added += change.added;
                    stats.changed += change.changed;
                }
                // A frontend that is there needs no room in the map of frontends.
                Err(BpfError::MapFull { map, max_entries, .. })
                    if change.changed == 0 || map != MapName::Services.as_str() =>
                {
                    let no_services = map == MapName::Services.as_str();
                    self.undo(&change, no_services)?;
                    self.try_sweep(true)?;
                    if leavings {
                        // Now there is more room than there was.
                        parts.push(part);
                    } else if part.len() > 1 {
                        let rest = part.split_off(part.len() / 2);
                        parts.extend([rest, part]);
                    } else {
                        room &= !no_services;
                        let (.., left_out) =
                            full.get_or_insert((map, max_entries, LeftOut::default()));
                        left_out.0.extend(part.iter().map(Addr::to_socket));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        match full {
            Some((map, max_entries, left_out)) => {
                Err(BpfError::MapFull { map, max_entries, left_out })
            }
            None => {
                let [frontends, ..] = self.observed()?.sizes();
                stats.unchanged = frontends - stats.added - stats.changed;
                Ok(stats)
            }
        }
    }

    /// Grows the maps where what comes does not fit. If they cannot grow, what fits is applied.
    fn make_room(&mut self, desired: &BTreeMap<Addr, Wanted>) {
        let Some(mirror) = &self.mirror else { return };
        let (now, more) = (mirror.sizes(), mirror.growth(desired));
        // Old and new slots are there together during a step, and old ones until a sweep.
        let new: usize = desired.values().map(|w| w.backends.len()).sum();
        let step = new.min(STEP_SLOTS) + self.fresh.slots.len();
        let mut entries = [0; 3];
        for (i, room) in entries.iter_mut().enumerate() {
            let step = if i == 0 { 0 } else { step };
            *room = now[i].max(now[i].saturating_add_signed(more[i])) + step;
        }
        if let Err(error) = self.kernel.make_room(entries) {
            tracing::warn!(error = crate::probe::reasons(&error), "maps cannot grow");
        }
    }

    fn carry_out(&mut self, change: &Change) -> Result<()> {
        self.kernel.slots().put(&change.slots)?;
        for (key, _) in &change.members {
            // A backend that comes back before it was swept out.
            self.fresh.members.remove(key);
            if let Some((_, waiting)) = &mut self.waiting {
                waiting.members.remove(key);
            }
        }
        self.kernel.members().put(&change.members)?;
        self.kernel.services().put(&change.services)?;
        self.kernel.services().delete(&change.gone_services)?;
        self.fresh.slots.extend(&change.gone_slots);
        self.fresh.members.extend(&change.gone_members);
        if self.fresh.slots.len() > LEAVINGS_MAX {
            self.try_sweep(true)?;
        }
        Ok(())
    }

    /// Takes back a part that did not fit. `published`: some of its frontends may have been
    /// there for a moment, and so may have readers.
    fn undo(&mut self, change: &Change, published: bool) -> Result<()> {
        let change = self.observed()?.undo(change);
        if published {
            return self.carry_out(&change);
        }
        self.kernel.slots().delete(&change.gone_slots)?;
        self.kernel.members().delete(&change.gone_members)
    }

    fn try_sweep(&mut self, wait: bool) -> Result<bool> {
        loop {
            if let Some((grace, leavings)) = self.waiting.take() {
                if !wait && !grace.is_over() {
                    self.waiting = Some((grace, leavings));
                    return Ok(true);
                }
                grace.wait();
                self.kernel.slots().delete(&leavings.slots)?;
                let members: Vec<_> = leavings.members.into_iter().collect();
                self.kernel.members().delete(&members)?;
            }
            if self.fresh.is_empty() {
                if let Some(mirror) = &mut self.mirror {
                    mirror.forget_retired();
                }
                return Ok(false);
            }
            self.waiting = Some((self.kernel.grace(), std::mem::take(&mut self.fresh)));
        }
    }
}

#[cfg(test)]
mod tests;
