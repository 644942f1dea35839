//! What is written: the entries of sets, within their bounds, and the step as a whole.

use super::{
    Planner, Retire, Step,
    classes::{Assigned, Class},
    sets::{Closed, Ports, Set, SetNo},
    transition::in_order,
};
use crate::{Entry, Identity, Key, PolicyInput, RuleSet};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

impl Planner {
    /// Plans a step; `None` where a set that stays would have to close or open because of its
    /// size, which is known too late: then everything is to be written anew.
    pub(super) fn step(&mut self, input: &PolicyInput) -> Option<Step> {
        let names_before: HashSet<Arc<str>> = self.state.names.keys().cloned().collect();
        let own_node_before = self.state.own_node > 0;
        let mut work = self.observe(input);
        self.want(&mut work);
        self.ask_selectors(&mut work);
        self.lay_blocks(&mut work);
        let touched = self.touch(&mut work);
        let frozen = self.freeze(&touched);
        let fresh: HashSet<_> = work.fresh_lists.iter().copied().collect();
        let existing = |class: &Class| {
            class.within(|l| !fresh.contains(&l), |n| names_before.contains(n), own_node_before)
        };
        let mut assigned = self.state.identities.assign(&touched, existing, &frozen, self.now);
        let mut step = Step { epoch: self.epoch, ..Step::default() };
        step.moves = in_order(std::mem::take(&mut assigned.moves));
        self.extend(&assigned, &mut step);
        if !self.fill() {
            return None;
        }
        let fresh = self.state.sets.values().filter(|s| s.fresh);
        step.sets = fresh.map(|s| (s.id, rule_set(s))).collect();
        let pods = self.hooks();
        let gone = self.state.pods.keys().filter(|p| !pods.contains_key(*p));
        step.pods = gone.map(|p| (p.clone(), None)).collect();
        let switching = pods.iter().filter(|(p, hooks)| self.state.pods.get(*p) != Some(*hooks));
        step.pods.extend(switching.map(|(p, hooks)| (p.clone(), Some(*hooks))));
        step.retire = self.retire(&assigned);
        self.state.pods = pods;
        self.state.identities.forget(&assigned.gone, self.now);
        let torn = assigned.fresh.iter().filter(|(_, old)| old.is_some()).map(|(id, _)| *id);
        self.forget(torn.collect());
        Some(step)
    }

    /// The sets that are there already and may have entries for an identity of this class.
    fn concerned(&self, classes: &[&Class]) -> BTreeSet<SetNo> {
        let state = &self.state;
        let lists = classes.iter().flat_map(|c| &c.lists).filter_map(|l| state.lists.get(*l));
        let mut sets: BTreeSet<SetNo> = lists.flat_map(|l| &l.sets).copied().collect();
        let (named, own_node) =
            (classes.iter().any(|c| !c.ports.is_empty()), classes.iter().any(|c| c.own_node));
        if named || own_node {
            let all = state.sets.iter().map(|(no, s)| (no, &s.spec));
            let all = all.chain(state.retiring.iter().map(|(no, r)| (no, &r.spec)));
            let by_class = all.filter(|(_, spec)| {
                (named && !spec.any_named.is_empty()) || (own_node && spec.own_node.is_some())
            });
            sets.extend(by_class.map(|(no, _)| *no));
        }
        sets
    }

    /// Entries of sets that are there for identities that nobody bears yet.
    fn extend(&mut self, assigned: &Assigned, step: &mut Step) {
        for (id, old) in &assigned.fresh {
            let Some(class) = self.state.identities.get(*id).map(|k| k.class.clone()) else {
                continue;
            };
            let both: Vec<&Class> = [&*class].into_iter().chain(old).collect();
            for no in self.concerned(&both) {
                if let Some(going) = self.state.retiring.get_mut(&no).filter(|r| r.open) {
                    let class = old.as_ref().filter(|_| going.frozen).unwrap_or(&class);
                    let entries = going.spec.entries_of(*id, class, &going.any);
                    going.keys.extend(entries.iter().map(|(key, _)| *key));
                    step.extend.extend(entries.into_iter().map(|(k, e)| (going.id, k, e)));
                }
                let set = self.state.sets.get_mut(&no);
                if let Some(set) = set.filter(|s| !s.fresh && s.closed.is_none()) {
                    let entries = set.spec.entries_of(*id, &class, &set.any);
                    step.extend.extend(entries.iter().map(|(k, e)| (set.id, *k, *e)));
                    set.size += entries.len();
                    if !entries.is_empty() {
                        set.of.insert(*id, entries);
                    }
                }
            }
        }
    }

    /// Fills new sets, and closes those that are too large; false where that concerns one that
    /// stays.
    fn fill(&mut self) -> bool {
        let max = self.limits.set_entries_max;
        let mut sizes: BTreeMap<SetNo, usize> = BTreeMap::new();
        let mut filled: Vec<(SetNo, Filled)> = Vec::new();
        for (no, set) in &self.state.sets {
            match set.closed {
                Some(Closed::Prefixes | Closed::Peers) => continue,
                None if !set.fresh => {
                    sizes.insert(*no, set.size);
                }
                // Of one that is closed: whether it would fit now.
                None | Some(Closed::Entries) => {
                    let entries = self.entries(set, max);
                    sizes.insert(*no, entries.size);
                    filled.push((*no, entries));
                }
            }
        }
        let closing = self.closing(&sizes);
        for (no, filled) in filled {
            let Some(set) = self.state.sets.get_mut(&no) else { continue };
            if set.fresh && !closing.contains(&no) {
                set.closed = None;
                (set.any, set.of, set.size) = (filled.any, filled.of, filled.size);
            }
        }
        for (no, set) in &mut self.state.sets {
            let why = match set.closed {
                Some(why @ (Closed::Prefixes | Closed::Peers)) => why,
                closed => {
                    let close = closing.contains(no);
                    if !set.fresh && close != closed.is_some() {
                        return false;
                    }
                    if !close {
                        continue;
                    }
                    Closed::Entries
                }
            };
            if set.fresh {
                set.close(why, self.too_large);
            }
        }
        true
    }

    /// Which sets are too large, alone or all together.
    fn closing(&self, sizes: &BTreeMap<SetNo, usize>) -> BTreeSet<SetNo> {
        let max = self.limits.set_entries_max;
        let mut closing: BTreeSet<SetNo> =
            sizes.iter().filter(|(_, size)| **size > max).map(|(no, _)| *no).collect();
        let open = sizes.iter().filter(|(no, _)| !closing.contains(no));
        let mut all: usize = open.clone().map(|(_, size)| size).sum();
        if all <= self.limits.entries_max {
            return closing;
        }
        let mut by_size: Vec<(SetNo, usize)> = open.map(|(no, size)| (*no, *size)).collect();
        // Among equals the policies decide, so that the history does not.
        let spec = |no: SetNo| self.state.sets.get(&no).map(|s| &s.spec);
        let names = |no| spec(no).map(|s| (s.direction, s.kind, &s.policies));
        by_size.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| names(a.0).cmp(&names(b.0))));
        for (no, size) in by_size {
            if all <= self.limits.entries_max {
                break;
            }
            all -= size;
            closing.insert(no);
        }
        closing
    }

    /// All entries of a set; not many more than `max`.
    fn entries(&self, set: &Set, max: usize) -> Filled {
        let identities = &self.state.identities;
        let any = set.spec.entries_of_any();
        let any: HashMap<Ports, Entry> =
            any.into_iter().map(|(key, entry)| ((key.protocol, key.ports), entry)).collect();
        let mut filled = Filled { size: any.len(), any, of: BTreeMap::new() };
        let mut meant: BTreeSet<Identity> =
            set.spec.by_list.keys().flat_map(|l| identities.of_list(*l)).collect();
        let (named, own_node) = (!set.spec.any_named.is_empty(), set.spec.own_node.is_some());
        if named || own_node {
            let all = identities.iter().filter(|(_, known)| {
                (named && !known.class.ports.is_empty()) || (own_node && known.class.own_node)
            });
            meant.extend(all.map(|(id, _)| id));
        }
        for id in meant {
            if filled.size > max {
                break;
            }
            let Some(known) = identities.get(id).filter(|k| !k.members.is_empty()) else {
                continue;
            };
            let entries = set.spec.entries_of(id, &known.class, &filled.any);
            filled.size += entries.len();
            if !entries.is_empty() {
                filled.of.insert(id, entries);
            }
        }
        filled
    }

    /// What goes at last.
    fn retire(&mut self, assigned: &Assigned) -> Retire {
        let mut retire = Retire::default();
        for id in &assigned.gone {
            let Some(class) = self.state.identities.get(*id).map(|k| k.class.clone()) else {
                continue;
            };
            for no in self.concerned(&[&class]) {
                let Some(set) = self.state.sets.get_mut(&no) else { continue };
                let Some(entries) = set.of.remove(id) else { continue };
                set.size -= entries.len();
                retire.entries.extend(entries.iter().map(|(key, _)| (set.id, *key)));
            }
        }
        let sets = self.state.retiring.values_mut();
        retire.sets = sets.map(|r| (r.id, std::mem::take(&mut r.keys))).collect();
        retire
    }
}

/// The entries of a set.
struct Filled {
    size: usize,
    any: HashMap<Ports, Entry>,
    of: BTreeMap<Identity, Vec<(Key, Entry)>>,
}

/// A set as it is written.
pub(super) fn rule_set(set: &Set) -> RuleSet {
    RuleSet { kind: set.spec.kind, entries: set.entries(), lengths: set.lengths() }
}
