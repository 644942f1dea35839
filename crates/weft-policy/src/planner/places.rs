//! Which prefixes are touched, what they were and what they are.

use super::{
    Planner, State, Work,
    blocks::Counts,
    classes::{Class, Scope, Touch},
    parties::PartyId,
    sets::{SetNo, Spec},
};
use crate::{Hooks, Identity, SetId};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};
use weft_model::{Direction, NamespacedName};

/// A party, and where the counts are that are in force at an address and around it.
type Place = (Option<PartyId>, [usize; 2]);

/// Finds classes, each once.
struct Classes<'s> {
    state: &'s State,
    /// With whether the class is another one than that around it.
    known: HashMap<Place, (Arc<Class>, bool)>,
    of_counts: HashMap<usize, Arc<Class>>,
    default: Arc<Class>,
}

impl<'s> Classes<'s> {
    fn of(&self, party: Option<PartyId>, counts: Option<&Counts>) -> Class {
        let state = self.state;
        let in_force = counts.into_iter().flat_map(|c| c.iter());
        let mut lists: Vec<_> = in_force.filter(|(_, n)| *n > 0).map(|(l, _)| *l).collect();
        let mut class = Class::default();
        if let Some(party) = party.and_then(|id| state.parties.get(id)) {
            lists.extend(&party.lists);
            lists.sort_unstable();
            lists.dedup();
            if !state.names.is_empty() {
                let named = party.ports.iter().filter(|p| state.names.contains_key(&p.name));
                class.ports = named.cloned().collect();
            }
            class.own_node = party.own_node && state.own_node > 0;
        }
        class.lists = lists;
        class
    }

    fn of_counts(&mut self, counts: Option<&Counts>) -> Arc<Class> {
        let Some(counts) = counts else { return self.default.clone() };
        if let Some(known) = self.of_counts.get(&address_of(Some(counts))) {
            return known.clone();
        }
        let class = Arc::new(self.of(None, Some(counts)));
        self.of_counts.insert(address_of(Some(counts)), class.clone());
        class
    }

    /// What a prefix is now, and whether it is not what is around it.
    fn now(&mut self, net: IpNet) -> (Arc<Class>, bool) {
        let blocks = &self.state.blocks;
        let host = net.prefix_len() == net.max_prefix_len();
        let owner = if host { self.state.parties.owner(net.addr()) } else { None };
        let outer = blocks.outer(net);
        let inner = blocks.of(&net).or(outer);
        let key = (owner, [address_of(inner), address_of(outer)]);
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let class = Arc::new(self.of(owner, inner));
        let around = self.of_counts(outer);
        let enter = class != around;
        self.known.insert(key, (class.clone(), enter));
        (class, enter)
    }
}

/// Where shared counts are; what is borrowed for as long stays there.
fn address_of(counts: Option<&Counts>) -> usize {
    counts.map_or(0, |c| Arc::as_ptr(c) as usize)
}

impl Planner {
    /// Every prefix at which something may be different now.
    pub(super) fn touch(&mut self, work: &mut Work) -> BTreeMap<IpNet, Touch> {
        let state = &mut self.state;
        work.walked = state.blocks.walk();
        let (parties, hosts) = (&state.parties, &mut work.changed.hosts);
        let mut last: Option<IpNet> = None;
        for net in work.walked.before.keys() {
            if last.is_none_or(|l| !l.contains(net)) {
                last = Some(*net);
                hosts.extend(parties.hosts(net.network(), net.broadcast()));
            }
        }
        if !work.fresh_names.is_empty() || work.fresh_own_node {
            for (_, party) in parties.iter() {
                let named = party.ports.iter().any(|p| work.fresh_names.contains(&p.name));
                if named || (party.own_node && work.fresh_own_node) {
                    hosts.extend(&party.hosts);
                }
            }
        }
        let leftover = std::mem::take(&mut state.identities.leftover);
        let hosts = hosts.iter().map(|a: &IpAddr| IpNet::from(*a));
        let nets: BTreeSet<IpNet> =
            leftover.into_iter().chain(hosts).chain(work.walked.before.keys().copied()).collect();
        let state = &self.state;
        let mut classes = Classes {
            state,
            known: HashMap::new(),
            of_counts: HashMap::new(),
            default: Arc::default(),
        };
        let mut touched = BTreeMap::new();
        for net in nets {
            let (new, enter) = classes.now(net);
            let old = match state.identities.of_prefix(&net) {
                Some(Identity::ANY) => classes.default.clone(),
                Some(id) => match state.identities.get(id) {
                    Some(known) => known.class.clone(),
                    None => classes.default.clone(),
                },
                None => classes.of_counts(state.blocks.before(&work.walked, net)),
            };
            touched.insert(net, Touch { old, new, enter });
        }
        touched
    }

    /// The sets of every pod of this node, as they are wanted now.
    pub(super) fn hooks(&self) -> BTreeMap<NamespacedName, [Hooks; 2]> {
        let mut pods = BTreeMap::new();
        for (_, party) in self.state.parties.iter() {
            let Some(judged) = &party.judged else { continue };
            let id = |no: Option<SetNo>| Some(self.state.sets.get(&no?)?.id);
            let hooks = judged.sets.map(|[admin, rest]| Hooks { admin: id(admin), rest: id(rest) });
            pods.extend(party.locals.iter().map(|pod| (pod.clone(), hooks)));
        }
        pods
    }

    /// Of the pods that switch, the sets that would change their mind about peers that move:
    /// these keep their opinion until they are gone, and where others use them too, those switch
    /// to new ones. Returns what the sets look at.
    pub(super) fn freeze(&mut self, touched: &BTreeMap<IpNet, Touch>) -> Scope {
        let mut frozen = Scope::default();
        let mut moving = Scope::default();
        for touch in touched.values().filter(|t| t.old != t.new) {
            moving.add_difference(&touch.old, &touch.new);
        }
        if moving.is_empty() {
            return frozen;
        }
        let state = &self.state;
        let staying = state.sets.iter().filter(|(_, s)| !s.fresh).map(|(no, s)| (s.id, *no));
        let going = state.retiring.iter().map(|(no, r)| (r.id, *no));
        let number_of: HashMap<SetId, SetNo> = staying.chain(going).collect();
        let before = self.state.pods.clone();
        loop {
            let now = self.hooks();
            let mut again = false;
            for (pod, old) in &before {
                let Some(new) = now.get(pod) else { continue };
                for direction in Direction::ALL {
                    let (old, new) = (old[direction as usize], new[direction as usize]);
                    if old == new {
                        continue;
                    }
                    for no in old.admin.iter().chain(&old.rest).filter_map(|id| number_of.get(id)) {
                        again |= self.freeze_set(*no, &moving);
                    }
                }
            }
            if !again {
                break;
            }
        }
        for going in self.state.retiring.values().filter(|r| r.frozen) {
            frozen.lists.extend(going.spec.by_list.keys());
            frozen.names.extend(going.spec.names.iter().cloned());
            frozen.own_node |= going.spec.own_node.is_some();
        }
        frozen
    }

    /// Freezes a set if it would change its mind; says whether it was not frozen before.
    fn freeze_set(&mut self, no: SetNo, moving: &Scope) -> bool {
        let stays = self.state.sets.get(&no).filter(|s| !s.fresh);
        let going = self.state.retiring.get(&no);
        let spec = match (stays, going) {
            (Some(set), _) if set.closed.is_none() => &set.spec,
            (_, Some(going)) if going.open && !going.frozen => &going.spec,
            _ => return false,
        };
        if !looks_at(spec, moving) {
            return false;
        }
        self.renew(no);
        if let Some(going) = self.state.retiring.get_mut(&no) {
            going.frozen = true;
        }
        true
    }
}

/// Whether a set would notice if something in this changed.
fn looks_at(spec: &Spec, scope: &Scope) -> bool {
    spec.by_list.keys().any(|l| scope.lists.contains(l))
        || spec.names.iter().any(|n| scope.names.contains(n))
        || (spec.own_node.is_some() && scope.own_node)
}
