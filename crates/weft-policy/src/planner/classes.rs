//! Identities: prefixes that every rule of the node treats alike have one number.
//!
//! A class is what rules can know of a peer. An identity is a number for a class, and keeps it
//! while it lives: where rules begin to tell apart what was one class, one part keeps the number
//! and the other ones move; where nothing moves, the class is renamed.
//!
//! While a step is applied, some rule sets are still asked that will be gone after it. What those
//! think of a peer that moves stays as it was: the peer moves to an identity that is of the new
//! class for all other sets, and of the old one for them. So each pod and peer go from the old
//! answer to the new one, and never through a third.

use super::lists::ListId;
use crate::{Identity, numbers::Numbers};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};
use weft_model::NamedPort;

/// What rules know of a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Class {
    /// The lists that mean it, sorted.
    pub lists: Vec<ListId>,
    /// What it calls its ports, as far as egress rules use these names.
    pub ports: Vec<NamedPort>,
    /// It is this node, and a rule is about that.
    pub own_node: bool,
}

/// What some rule sets look at.
#[derive(Debug, Default)]
pub(super) struct Scope {
    pub lists: HashSet<ListId>,
    pub names: HashSet<Arc<str>>,
    pub own_node: bool,
}

impl Scope {
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty() && self.names.is_empty() && !self.own_node
    }

    /// Adds what two classes differ in.
    pub fn add_difference(&mut self, a: &Class, b: &Class) {
        let one_sided = |a: &Class, b: &Class| -> Vec<ListId> {
            a.lists.iter().filter(|l| b.lists.binary_search(l).is_err()).copied().collect()
        };
        self.lists.extend(one_sided(a, b));
        self.lists.extend(one_sided(b, a));
        if a.ports != b.ports {
            self.names.extend(a.ports.iter().chain(&b.ports).map(|p| p.name.clone()));
        }
        self.own_node |= a.own_node != b.own_node;
    }
}

impl Class {
    /// What is left of it for somebody who looks at this alone.
    pub fn within(
        &self,
        list: impl Fn(ListId) -> bool,
        name: impl Fn(&str) -> bool,
        own_node: bool,
    ) -> Self {
        Self {
            lists: self.lists.iter().copied().filter(|l| list(*l)).collect(),
            ports: self.ports.iter().filter(|p| name(&p.name)).cloned().collect(),
            own_node: self.own_node && own_node,
        }
    }

    pub fn in_scope(&self, scope: &Scope) -> Self {
        let name = |name: &str| scope.names.contains(name);
        self.within(|l| scope.lists.contains(&l), name, scope.own_node)
    }
}

/// An identity.
#[derive(Debug)]
pub(super) struct Known {
    pub class: Arc<Class>,
    pub members: HashSet<IpNet>,
}

/// A prefix at which something may be different now.
#[derive(Debug)]
pub(super) struct Touch {
    /// What it was, by the longest prefix.
    pub old: Arc<Class>,
    /// What it is.
    pub new: Arc<Class>,
    /// Whether it is not what is around it.
    pub enter: bool,
}

/// What assigning identities brought about.
#[derive(Debug, Default)]
pub(super) struct Assigned {
    /// Identities that nobody bore before, with their class for sets that will be gone, where
    /// that is another one.
    pub fresh: Vec<(Identity, Option<Class>)>,
    /// Identities that nobody bears any more, with their class.
    pub gone: Vec<Identity>,
    /// Prefixes that move, in any order.
    pub moves: Vec<(IpNet, Option<Identity>)>,
}

/// The identities of a node.
#[derive(Debug)]
pub(super) struct Identities {
    numbers: Numbers,
    known: BTreeMap<Identity, Known>,
    by_class: HashMap<Arc<Class>, Identity>,
    of_list: HashMap<ListId, BTreeSet<Identity>>,
    prefixes: HashMap<IpNet, Identity>,
    /// Prefixes that should move once more, since another identity is of their class by now.
    pub leftover: BTreeSet<IpNet>,
}

impl Default for Identities {
    fn default() -> Self {
        Self {
            numbers: Numbers::new(Identity::ANY.0 + 1),
            known: BTreeMap::new(),
            by_class: [(Arc::default(), Identity::ANY)].into(),
            of_list: HashMap::new(),
            prefixes: HashMap::new(),
            leftover: BTreeSet::new(),
        }
    }
}

impl Identities {
    pub fn get(&self, identity: Identity) -> Option<&Known> {
        self.known.get(&identity)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Identity, &Known)> {
        self.known.iter().map(|(id, known)| (*id, known))
    }

    /// Those that a list means.
    pub fn of_list(&self, list: ListId) -> impl Iterator<Item = Identity> {
        self.of_list.get(&list).into_iter().flatten().copied()
    }

    /// The identity that a prefix is entered with.
    pub fn of_prefix(&self, net: &IpNet) -> Option<Identity> {
        self.prefixes.get(net).copied()
    }

    pub fn prefixes(&self) -> &HashMap<IpNet, Identity> {
        &self.prefixes
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Gives prefixes their identities. `existing` says what is left of a class for the sets
    /// that there are already, and `frozen` is what those of them look at that will be gone.
    pub fn assign(
        &mut self,
        touched: &BTreeMap<IpNet, Touch>,
        existing: impl Fn(&Class) -> Class,
        frozen: &Scope,
        now: u64,
    ) -> Assigned {
        self.rename(touched, &existing, frozen);
        let mut assigned = Assigned::default();
        let mut torn: HashMap<(Arc<Class>, Class), Identity> = HashMap::new();
        let mut left: BTreeSet<Identity> = BTreeSet::new();
        for (net, touch) in touched {
            let current = self.prefixes.get(net).copied();
            let old = (!frozen.is_empty()).then(|| touch.old.in_scope(frozen));
            let old = old.filter(|old| *old != touch.new.in_scope(frozen));
            let target = match old {
                None if !touch.enter => None,
                None => Some(match self.by_class.get(&touch.new) {
                    Some(known) => *known,
                    None => {
                        let id = self.create(touch.new.clone(), now);
                        self.by_class.insert(touch.new.clone(), id);
                        assigned.fresh.push((id, None));
                        id
                    }
                }),
                Some(old) => {
                    self.leftover.insert(*net);
                    Some(match torn.get(&(touch.new.clone(), old.clone())) {
                        Some(known) => *known,
                        None => {
                            let id = self.create(touch.new.clone(), now);
                            torn.insert((touch.new.clone(), old.clone()), id);
                            assigned.fresh.push((id, Some(old)));
                            id
                        }
                    })
                }
            };
            if target == current {
                continue;
            }
            if let Some(known) = current.and_then(|id| self.known.get_mut(&id)) {
                known.members.remove(net);
                left.extend(current);
            }
            match target {
                Some(id) => self.prefixes.insert(*net, id),
                None => self.prefixes.remove(net),
            };
            if let Some(known) = target.and_then(|id| self.known.get_mut(&id)) {
                known.members.insert(*net);
            }
            assigned.moves.push((*net, target));
        }
        for id in left {
            if self.known.get(&id).is_some_and(|k| k.members.is_empty()) {
                assigned.gone.push(id);
            }
        }
        assigned
    }

    /// Where everybody of an identity is of another class now, or of several, and the sets that
    /// there are cannot tell, the largest part keeps the number.
    fn rename(
        &mut self,
        touched: &BTreeMap<IpNet, Touch>,
        existing: &impl Fn(&Class) -> Class,
        frozen: &Scope,
    ) {
        let mut parts: BTreeMap<Identity, (usize, BTreeMap<&Arc<Class>, usize>)> = BTreeMap::new();
        for (net, touch) in touched {
            let Some(id) = self.prefixes.get(net) else { continue };
            let Some(known) = self.known.get(id) else { continue };
            let (all, of) = parts.entry(*id).or_default();
            *all += 1;
            let frozen_alike =
                frozen.is_empty() || touch.old.in_scope(frozen) == touch.new.in_scope(frozen);
            let free = known.class == touch.new || !self.by_class.contains_key(&touch.new);
            if touch.enter && frozen_alike && free {
                *of.entry(&touch.new).or_default() += 1;
            }
        }
        for (id, (all, of)) in parts {
            let Some(known) = self.known.get(&id) else { continue };
            if known.members.len() > all || of.contains_key(&known.class) {
                continue;
            }
            let before = existing(&known.class);
            let best = of.into_iter().filter(|(class, _)| existing(class) == before);
            let best = best.max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(a.0)));
            let Some((class, _)) = best else { continue };
            // Another one may have taken it just now.
            if !self.by_class.contains_key(class) {
                self.set_class(id, class.clone());
                self.by_class.insert(class.clone(), id);
            }
        }
    }

    fn create(&mut self, class: Arc<Class>, now: u64) -> Identity {
        let id = Identity(self.numbers.take(now));
        for list in &class.lists {
            self.of_list.entry(*list).or_default().insert(id);
        }
        self.known.insert(id, Known { class, members: HashSet::new() });
        id
    }

    /// Makes an identity one of another class; the caller says whose the class is.
    fn set_class(&mut self, id: Identity, class: Arc<Class>) {
        let Some(known) = self.known.get_mut(&id) else { return };
        let old = std::mem::replace(&mut known.class, class.clone());
        if self.by_class.get(&old) == Some(&id) {
            self.by_class.remove(&old);
        }
        for list in &old.lists {
            if class.lists.binary_search(list).is_err()
                && let Some(of) = self.of_list.get_mut(list)
            {
                of.remove(&id);
                if of.is_empty() {
                    self.of_list.remove(list);
                }
            }
        }
        for list in &class.lists {
            self.of_list.entry(*list).or_default().insert(id);
        }
    }

    /// Forgets identities that nobody bears.
    pub fn forget(&mut self, gone: &[Identity], now: u64) {
        for id in gone {
            self.set_class(*id, Arc::default());
            self.known.remove(id);
            self.numbers.give_back(id.0, now);
        }
    }

    /// Takes what no rule looks at any more out of all classes. Where two are alike then, one of
    /// them, with fewer prefixes, is left over; so are identities that a step had to tear apart.
    pub fn simplify(&mut self, concerned: BTreeSet<Identity>, simple: impl Fn(&Class) -> Class) {
        for id in concerned {
            let Some(known) = self.known.get(&id) else { continue };
            let class = Arc::new(simple(&known.class));
            let size = known.members.len();
            self.set_class(id, class.clone());
            let other = self.by_class.get(&class).copied().filter(|o| *o != id);
            let left_over = match other {
                None => {
                    self.by_class.insert(class, id);
                    continue;
                }
                Some(other) => match self.known.get(&other) {
                    Some(known) if known.members.len() < size => {
                        self.by_class.insert(class, id);
                        other
                    }
                    _ => id,
                },
            };
            let members = |id| self.known.get(&id).into_iter().flat_map(|k| &k.members);
            let wide = |net: &&IpNet| net.prefix_len() < net.max_prefix_len();
            // Where one of them is what is around the other, both may be superfluous.
            let both = members(id).chain(other.into_iter().flat_map(members));
            if both.clone().any(|net| wide(&net)) {
                self.leftover.extend(both);
            } else {
                self.leftover.extend(members(left_over));
            }
        }
    }
}
