//! What is different in the input: who is who, and which rule sets are wanted.

use super::{
    Planner, Retiring, State, Work,
    lists::ListId,
    parties::{Matcher, PartyId},
    sets::{Closed, Pen, Set, SetNo, Spec},
    subjects::{Replaced, Wanted},
};
use crate::{PolicyInput, SetId};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};
use weft_model::{Direction, Namespace};

impl Planner {
    /// Takes the input; finds what may be different.
    pub(super) fn observe(&mut self, input: &PolicyInput) -> Work {
        let Self { node, state, .. } = self;
        let State { parties, lists, policies, .. } = state;
        let seen = std::mem::replace(&mut state.input, input.clone());
        let mut work = Work { names_differ: seen.names != input.names, ..Work::default() };
        let changed = &mut work.changed;
        for d in seen.pods.diff(&input.pods) {
            let pods = (d.before.map(AsRef::as_ref), d.after.map(AsRef::as_ref));
            parties.replace_pod(pods, node, lists, changed);
        }
        for d in seen.nodes.diff(&input.nodes) {
            let nodes = (d.before.map(AsRef::as_ref), d.after.map(AsRef::as_ref));
            parties.replace_node(nodes, node, lists, changed);
        }
        parties.replace_dns((&seen.dns, &input.dns), lists, changed);
        let mut replaced: Vec<(Option<Arc<str>>, Replaced)> = Vec::new();
        for d in seen.namespaces.diff(&input.namespaces) {
            let labels = |n: Option<&'_ Arc<Namespace>>| n.map(|n| n.labels.clone());
            if labels(d.before) != labels(d.after) {
                for id in parties.of_namespace(d.key) {
                    changed.parties.insert(id);
                    changed.unjudged.insert(id);
                }
            }
            let audit = |n: Option<&Arc<Namespace>>| n.is_some_and(|n| n.audit);
            if audit(d.before) != audit(d.after) {
                for policy in policies.of_namespace(d.key) {
                    let (namespaces, name) = (&input.namespaces, &policy.id.name);
                    let by = policies.replace_network(d.key, name, Some(&policy), namespaces);
                    replaced.push((Some(d.key.clone()), by));
                }
            }
        }
        for d in seen.network_policies.diff(&input.network_policies) {
            let (namespace, name) = (&d.key.namespace, &d.key.name);
            let by = policies.replace_network(namespace, name, d.after, &input.namespaces);
            replaced.push((Some(namespace.clone()), by));
        }
        for d in seen.cluster_policies.diff(&input.cluster_policies) {
            replaced.push((None, policies.replace_cluster(d.key, d.after)));
        }
        if !replaced.is_empty() {
            let judged: Vec<PartyId> =
                parties.iter().filter(|(_, p)| p.judged.is_some()).map(|(id, _)| id).collect();
            for (namespace, by) in replaced {
                for id in &judged {
                    let Some(party) = parties.get_mut(*id) else { continue };
                    let here = namespace.is_none() || party.namespace() == namespace.as_deref();
                    if here && by.judge(party, &input.namespaces) {
                        work.judged.insert(*id);
                    }
                }
            }
        }
        for id in &work.changed.unjudged {
            let Some(party) = parties.get_mut(*id).filter(|p| !p.locals.is_empty()) else {
                continue;
            };
            policies.judge(party, &input.namespaces);
            work.judged.insert(*id);
        }
        work
    }

    /// Finds the rule sets of the pods that may be judged by others now, and those that nobody
    /// uses any more.
    pub(super) fn want(&mut self, work: &mut Work) {
        let mut asked: Vec<(PartyId, [[Option<Wanted>; 2]; 2])> = Vec::new();
        for id in &work.judged {
            let Some(party) = self.state.parties.get(*id) else { continue };
            let Some(judged) = &party.judged else { continue };
            asked.push((*id, Direction::ALL.map(|d| judged.wanted(d, &party.ports))));
        }
        for (id, wanted) in asked {
            let sets = wanted.map(|both| both.map(|w| w.map(|w| self.set_of(w, work))));
            let party = self.state.parties.get_mut(id);
            if let Some(judged) = party.and_then(|p| p.judged.as_mut()) {
                judged.sets = sets;
            }
        }
        let State { parties, sets, retiring, by_key, .. } = &mut self.state;
        sets.values_mut().for_each(|s| s.users = 0);
        for (_, party) in parties.iter() {
            for no in party.judged.iter().flat_map(|j| j.sets.iter().flatten().flatten()) {
                if let Some(set) = sets.get_mut(no) {
                    set.users += party.locals.len();
                }
            }
        }
        let unused: Vec<SetNo> =
            sets.iter().filter(|(_, s)| s.users == 0).map(|(no, _)| *no).collect();
        for no in unused {
            let Some(mut set) = sets.remove(&no) else { continue };
            by_key.remove(&set.key);
            retiring.insert(no, Retiring::of(&mut set));
        }
    }

    fn set_of(&mut self, wanted: Wanted, work: &mut Work) -> SetNo {
        let Self { state, reasons, now, set_numbers, .. } = self;
        if let Some(no) = state.by_key.get(&wanted.key) {
            return *no;
        }
        let no = state.set_nos.0.take(*now);
        let fresh = &mut work.fresh_lists;
        let (lists, names) = (&mut state.lists, &state.input.names);
        let spec = Spec::of(&wanted, no, &mut Pen { lists, reasons, names, now: *now, fresh });
        for name in &spec.names {
            let users = state.names.entry(name.clone()).or_default();
            *users += 1;
            if *users == 1 {
                work.fresh_names.insert(name.clone());
            }
        }
        if spec.own_node.is_some() {
            state.own_node += 1;
            work.fresh_own_node |= state.own_node == 1;
        }
        let key = Arc::new(wanted.key);
        state.by_key.insert(key.clone(), no);
        let set = Set {
            key,
            id: SetId(set_numbers.take(*now)),
            spec: Arc::new(spec),
            users: 0,
            closed: None,
            fresh: true,
            any: HashMap::new(),
            of: BTreeMap::new(),
            size: 0,
        };
        state.sets.insert(no, set);
        no
    }

    /// Asks the selectors of lists about parties that are new or different, and those of new
    /// lists about all others.
    pub(super) fn ask_selectors(&mut self, work: &mut Work) {
        let State { parties, lists, input, .. } = &mut self.state;
        let mut found: Vec<(PartyId, Vec<ListId>)> = Vec::new();
        {
            let mut matcher = Matcher::new(lists, &input.namespaces);
            for id in &work.changed.parties {
                if let Some(party) = parties.get(*id) {
                    found.push((*id, matcher.lists_of(party)));
                }
            }
        }
        for (id, new) in found {
            let Some(party) = parties.get_mut(id).filter(|p| p.lists != new) else { continue };
            work.changed.hosts.extend(&party.hosts);
            for list in std::mem::replace(&mut party.lists, new.clone()) {
                if let Some(list) = lists.get_mut(list) {
                    list.parties.remove(&id);
                }
            }
            for list in new {
                if let Some(list) = lists.get_mut(list) {
                    list.parties.insert(id);
                }
            }
        }
        for list in &work.fresh_lists {
            for id in parties.meant(*list, lists, &input.namespaces) {
                if work.changed.parties.contains(&id) {
                    continue;
                }
                let Some(party) = parties.get_mut(id) else { continue };
                if let Err(at) = party.lists.binary_search(list) {
                    party.lists.insert(at, *list);
                    work.changed.hosts.extend(&party.hosts);
                }
                if let Some(list) = lists.get_mut(*list) {
                    list.parties.insert(id);
                }
            }
        }
    }

    /// Brings the blocks of lists up to date, and closes sets where there are too many of them
    /// or of peers.
    pub(super) fn lay_blocks(&mut self, work: &mut Work) {
        let State { lists, blocks, input, sets, excluding, .. } = &mut self.state;
        if work.names_differ {
            for (id, old) in lists.resolve(&input.names) {
                let Some(list) = lists.get(id) else { continue };
                if !list.excluded && !work.fresh_lists.contains(&id) {
                    blocks.change(id, &old, -1);
                    blocks.change(id, &list.edges, 1);
                }
            }
        }
        let beyond = lists.beyond(self.limits.prefixes_max, |no| sets.contains_key(&no));
        let mut other: Vec<ListId> = Vec::new();
        if !beyond.is_empty() || *excluding {
            let wrong = lists.iter().filter(|(id, l)| l.excluded != beyond.contains(id));
            other.extend(wrong.map(|(id, _)| id));
        }
        for id in other {
            let Some(list) = lists.get_mut(id) else { continue };
            list.excluded = !list.excluded;
            if !work.fresh_lists.contains(&id) {
                blocks.change(id, &list.edges, if list.excluded { -1 } else { 1 });
            }
        }
        for id in &work.fresh_lists {
            if let Some(list) = lists.get(*id).filter(|l| !l.excluded) {
                blocks.change(*id, &list.edges, 1);
            }
        }
        *excluding = !beyond.is_empty();
        let crowd = self.state.parties.hosts_len() > self.limits.peers_max;
        let closed = |set: &Set| {
            let lists = &mut set.spec.by_list.keys();
            match set.closed {
                _ if crowd => Some(Closed::Peers),
                _ if lists.any(|l| beyond.contains(l)) => Some(Closed::Prefixes),
                Some(Closed::Entries) => Some(Closed::Entries),
                _ => None,
            }
        };
        let other = self.state.sets.iter().map(|(no, s)| (*no, s.closed, closed(s)));
        let other: Vec<_> = other.filter(|(_, before, after)| before != after).collect();
        for (no, before, after) in other {
            if before.is_some() != after.is_some() {
                self.renew(no);
            }
            if let Some(set) = self.state.sets.get_mut(&no) {
                set.closed = after;
            }
        }
    }

    /// Has a set written anew, under another number.
    pub(super) fn renew(&mut self, no: SetNo) {
        let Some(set) = self.state.sets.get_mut(&no).filter(|s| !s.fresh) else { return };
        self.state.retiring.insert(no, Retiring::of(set));
        set.id = SetId(self.set_numbers.take(self.now));
        set.fresh = true;
    }

    /// Forgets what nobody needs any more.
    pub(super) fn forget(&mut self, torn: BTreeSet<crate::Identity>) {
        let Self { state, reasons, now, set_numbers, .. } = self;
        let State { lists, identities, names, parties, blocks, set_nos, .. } = state;
        let mut concerned = torn;
        let mut unused: BTreeSet<ListId> = BTreeSet::new();
        for (no, gone) in std::mem::take(&mut state.retiring) {
            set_numbers.give_back(gone.id.0, *now);
            if state.sets.contains_key(&no) {
                continue;
            }
            set_nos.0.give_back(no, *now);
            gone.spec.reasons.iter().for_each(|r| reasons.release(*r, *now));
            for id in gone.spec.by_list.keys() {
                let Some(list) = lists.get_mut(*id) else { continue };
                list.sets.remove(&no);
                if list.sets.is_empty() {
                    unused.insert(*id);
                }
            }
            for name in &gone.spec.names {
                let Some(users) = names.get_mut(name) else { continue };
                *users -= 1;
                if *users == 0 {
                    names.remove(name);
                    let called = |p: &weft_model::NamedPort| p.name == *name;
                    let with = identities.iter().filter(|(_, k)| k.class.ports.iter().any(called));
                    concerned.extend(with.map(|(id, _)| id));
                }
            }
            if gone.spec.own_node.is_some() {
                state.own_node -= 1;
                if state.own_node == 0 {
                    let with = identities.iter().filter(|(_, k)| k.class.own_node);
                    concerned.extend(with.map(|(id, _)| id));
                }
            }
        }
        for id in unused {
            concerned.extend(identities.of_list(id));
            let Some(list) = lists.forget(id, *now) else { continue };
            if !list.excluded {
                blocks.change(id, &list.edges, -1);
            }
            for party in list.parties {
                if let Some(party) = parties.get_mut(party) {
                    party.lists.retain(|l| *l != id);
                }
            }
        }
        let own_node = state.own_node > 0;
        let in_use = |class: &super::classes::Class| {
            class.within(|l| lists.get(l).is_some(), |n| names.contains_key(n), own_node)
        };
        identities.simplify(concerned, in_use);
        state.sets.values_mut().for_each(|s| s.fresh = false);
    }
}

impl Retiring {
    /// What is to be removed of a set.
    fn of(set: &mut Set) -> Self {
        let of = std::mem::take(&mut set.of);
        let mut keys: Vec<crate::Key> = of.values().flatten().map(|(key, _)| *key).collect();
        keys.extend(set.any.keys().map(|(protocol, ports)| crate::Key {
            identity: crate::Identity::ANY,
            protocol: *protocol,
            ports: *ports,
        }));
        Self {
            id: set.id,
            spec: set.spec.clone(),
            open: set.closed.is_none(),
            any: std::mem::take(&mut set.any),
            keys,
            frozen: false,
        }
    }
}
