//! Who is who: addresses, their owners, and owners that no selector can tell apart.
//!
//! A party is all pods of one namespace with the same labels and named ports, or a node, or the
//! cluster's DNS. Selectors are asked once for a party.

use super::{lists::ListId, lists::Lists, subjects::Judged};
use crate::{
    Diagnostic,
    world::{DNS_NAMESPACE, dns_labels, dns_ports, has_own_network},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};
use weft_model::{
    Direction, Labels, Map, NamedPort, Namespace, NamespaceSet, NamespacedName, NodeName, NodePeer,
    Peer, Pod, PodSet, Selector,
};

pub(super) type Namespaces = Map<Arc<str>, Arc<Namespace>>;

/// Number of a party.
pub(super) type PartyId = usize;

/// What makes a party.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Pods { namespace: Arc<str>, labels: Labels, ports: Vec<NamedPort> },
    Node(NodeName),
    Dns,
}

#[derive(Debug)]
pub(super) struct Party {
    kind: Arc<Kind>,
    /// Those of its pods, of the DNS, or of the node.
    pub labels: Labels,
    /// What it calls its ports, sorted.
    pub ports: Vec<NamedPort>,
    /// It is this node.
    pub own_node: bool,
    /// The lists whose selectors mean it, sorted.
    pub lists: Vec<ListId>,
    /// The addresses that are its.
    pub hosts: BTreeSet<IpAddr>,
    /// Pods, or 1 for a node or the DNS.
    members: usize,
    /// The pods among them that this node judges.
    pub locals: BTreeSet<NamespacedName>,
    /// What they are judged by; where there are any.
    pub judged: Option<Judged>,
}

impl Party {
    /// Its namespace, where it has one.
    pub fn namespace(&self) -> Option<&str> {
        match &*self.kind {
            Kind::Pods { namespace, .. } => Some(namespace),
            Kind::Dns => Some(DNS_NAMESPACE),
            Kind::Node(_) => None,
        }
    }

    /// Whether pods by selector, in a list of `direction`, may mean it. As a source the DNS is
    /// the node, whose own traffic is judged by its mark.
    fn may_be_meant(&self, direction: Direction) -> bool {
        match &*self.kind {
            Kind::Pods { .. } => true,
            Kind::Dns => direction == Direction::Egress,
            Kind::Node(_) => false,
        }
    }
}

/// Whose an address is said to be. The first in this order has it: the DNS may be answered at a
/// node's own address, and of two pods the first by name has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    Dns,
    Pod(NamespacedName),
    Node(NodeName),
}

#[derive(Debug, Default)]
pub(super) struct Parties {
    all: Vec<Option<Party>>,
    free: Vec<PartyId>,
    by_kind: HashMap<Arc<Kind>, PartyId>,
    by_namespace: HashMap<Arc<str>, BTreeSet<PartyId>>,
    nodes: BTreeSet<PartyId>,
    claims: BTreeMap<IpAddr, Vec<(Claim, PartyId)>>,
    /// Addresses that several pods claim.
    shared: BTreeSet<IpAddr>,
}

/// What changed since the last plan.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// Addresses that may be somebody else's.
    pub hosts: BTreeSet<IpAddr>,
    /// Parties that are new, or of which a selector may think otherwise.
    pub parties: BTreeSet<PartyId>,
    /// Parties whose pods here must be judged from the start.
    pub unjudged: BTreeSet<PartyId>,
}

impl Parties {
    pub fn get(&self, id: PartyId) -> Option<&Party> {
        self.all.get(id)?.as_ref()
    }

    pub fn get_mut(&mut self, id: PartyId) -> Option<&mut Party> {
        self.all.get_mut(id)?.as_mut()
    }

    pub fn iter(&self) -> impl Iterator<Item = (PartyId, &Party)> {
        self.all.iter().enumerate().filter_map(|(id, p)| Some((id, p.as_ref()?)))
    }

    /// The party that an address belongs to.
    pub fn owner(&self, address: IpAddr) -> Option<PartyId> {
        Some(self.claims.get(&address)?.first()?.1)
    }

    /// Addresses with an owner that are in a range.
    pub fn hosts(&self, first: IpAddr, last: IpAddr) -> impl Iterator<Item = IpAddr> {
        self.claims.range(first..=last).map(|(a, _)| *a)
    }

    /// How many addresses have an owner.
    pub fn hosts_len(&self) -> usize {
        self.claims.len()
    }

    /// The parties of a namespace.
    pub fn of_namespace<'p>(&'p self, name: &str) -> impl Iterator<Item = PartyId> + use<'p> {
        self.by_namespace.get(name).into_iter().flatten().copied()
    }

    /// Takes the new state of a pod.
    pub fn replace_pod(
        &mut self,
        (before, after): (Option<&Pod>, Option<&Pod>),
        node: &NodeName,
        lists: &mut Lists,
        changed: &mut Changed,
    ) {
        let before = before.filter(|p| has_own_network(p));
        let after = after.filter(|p| has_own_network(p));
        if let (Some(a), Some(b)) = (before, after)
            && (&a.labels, &a.ports, &a.addresses, &a.node)
                == (&b.labels, &b.ports, &b.addresses, &b.node)
        {
            return;
        }
        // The new one first, so that a party of one pod stays.
        let joined = after.map(|pod| {
            let id = self.join(kind_of(pod), &pod.labels, pod.ports.clone(), changed);
            if pod.node.as_ref() == Some(node)
                && let Some(party) = self.get_mut(id)
            {
                party.locals.insert(pod.id.clone());
                if party.judged.is_none() {
                    changed.unjudged.insert(id);
                }
            }
            (id, pod)
        });
        if let Some(pod) = before {
            for address in &pod.addresses {
                self.disclaim(*address, &Claim::Pod(pod.id.clone()), changed);
            }
            if let Some(id) = self.by_kind.get(&kind_of(pod)).copied() {
                let stays = joined.is_some_and(|(j, p)| j == id && p.node.as_ref() == Some(node));
                if !stays && let Some(party) = self.get_mut(id) {
                    party.locals.remove(&pod.id);
                    if party.locals.is_empty() {
                        party.judged = None;
                    }
                }
                self.leave(id, lists);
            }
        }
        if let Some((id, pod)) = joined {
            for address in &pod.addresses {
                self.claim(*address, Claim::Pod(pod.id.clone()), id, changed);
            }
        }
    }

    /// Takes the new state of a node.
    pub fn replace_node(
        &mut self,
        (before, after): (Option<&NodePeer>, Option<&NodePeer>),
        node: &NodeName,
        lists: &mut Lists,
        changed: &mut Changed,
    ) {
        let Some(name) = before.or(after).map(|n| &n.name) else { return };
        let kind = Kind::Node(name.clone());
        let id = match after {
            Some(new) => {
                let id = self.join(kind, &new.labels, Vec::new(), changed);
                if let Some(party) = self.get_mut(id) {
                    party.own_node = new.name == *node;
                    if party.labels != new.labels {
                        party.labels = new.labels.clone();
                        changed.parties.insert(id);
                    }
                }
                id
            }
            None => match self.by_kind.get(&kind) {
                Some(id) => *id,
                None => return,
            },
        };
        let [old, new] = [before, after].map(|n| n.map_or(&[][..], |n| &n.addresses));
        for address in old.iter().filter(|a| !new.contains(a)) {
            self.disclaim(*address, &Claim::Node(name.clone()), changed);
        }
        for address in new.iter().filter(|a| !old.contains(a)) {
            self.claim(*address, Claim::Node(name.clone()), id, changed);
        }
        if before.is_some() {
            self.leave(id, lists);
        }
    }

    /// Takes the addresses at which the DNS is asked.
    pub fn replace_dns(
        &mut self,
        (before, after): (&BTreeSet<IpAddr>, &BTreeSet<IpAddr>),
        lists: &mut Lists,
        changed: &mut Changed,
    ) {
        if before == after {
            return;
        }
        let id = self.join(Kind::Dns, &dns_labels(), dns_ports(), changed);
        for address in before.difference(after) {
            self.disclaim(*address, &Claim::Dns, changed);
        }
        for address in after.difference(before) {
            self.claim(*address, Claim::Dns, id, changed);
        }
        // There while anybody answers.
        if !before.is_empty() {
            self.leave(id, lists);
        }
        if after.is_empty() {
            self.leave(id, lists);
        }
    }

    fn join(
        &mut self,
        kind: Kind,
        labels: &Labels,
        mut ports: Vec<NamedPort>,
        changed: &mut Changed,
    ) -> PartyId {
        if let Some(id) = self.by_kind.get(&kind).copied() {
            if let Some(party) = self.get_mut(id) {
                party.members += 1;
            }
            return id;
        }
        ports.sort();
        ports.dedup();
        let kind = Arc::new(kind);
        let id = self.free.pop().unwrap_or_else(|| {
            self.all.push(None);
            self.all.len() - 1
        });
        match &*kind {
            Kind::Pods { namespace, .. } => {
                self.by_namespace.entry(namespace.clone()).or_default().insert(id);
            }
            Kind::Dns => {
                self.by_namespace.entry(DNS_NAMESPACE.into()).or_default().insert(id);
            }
            Kind::Node(_) => {
                self.nodes.insert(id);
            }
        }
        self.by_kind.insert(kind.clone(), id);
        self.all[id] = Some(Party {
            kind,
            labels: labels.clone(),
            ports,
            own_node: false,
            lists: Vec::new(),
            hosts: BTreeSet::new(),
            members: 1,
            locals: BTreeSet::new(),
            judged: None,
        });
        changed.parties.insert(id);
        id
    }

    fn leave(&mut self, id: PartyId, lists: &mut Lists) {
        let Some(party) = self.get_mut(id) else { return };
        party.members -= 1;
        if party.members > 0 {
            return;
        }
        let Some(party) = self.all[id].take() else { return };
        self.free.push(id);
        self.by_kind.remove(&party.kind);
        self.nodes.remove(&id);
        if let Some(namespace) = party.namespace()
            && let Some(of) = self.by_namespace.get_mut(namespace)
        {
            of.remove(&id);
            if of.is_empty() {
                self.by_namespace.remove(namespace);
            }
        }
        for list in party.lists {
            if let Some(list) = lists.get_mut(list) {
                list.parties.remove(&id);
            }
        }
    }

    fn claim(&mut self, address: IpAddr, claim: Claim, id: PartyId, changed: &mut Changed) {
        let claims = self.claims.entry(address).or_default();
        let before = claims.first().map(|c| c.1);
        if let Err(at) = claims.binary_search_by(|c| c.0.cmp(&claim)) {
            claims.insert(at, (claim, id));
        }
        self.settle(address, before, changed);
    }

    fn disclaim(&mut self, address: IpAddr, claim: &Claim, changed: &mut Changed) {
        let Some(claims) = self.claims.get_mut(&address) else { return };
        let before = claims.first().map(|c| c.1);
        claims.retain(|c| c.0 != *claim);
        if claims.is_empty() {
            self.claims.remove(&address);
        }
        self.settle(address, before, changed);
    }

    /// Gives an address to the party whose it is now.
    fn settle(&mut self, address: IpAddr, before: Option<PartyId>, changed: &mut Changed) {
        let claims = self.claims.get(&address).map_or(&[][..], Vec::as_slice);
        let pods = claims.iter().filter(|c| matches!(c.0, Claim::Pod(_))).count();
        if pods > 1 {
            self.shared.insert(address);
        } else {
            self.shared.remove(&address);
        }
        let after = claims.first().map(|c| c.1);
        changed.hosts.insert(address);
        if before == after {
            return;
        }
        if let Some(party) = before.and_then(|id| self.get_mut(id)) {
            party.hosts.remove(&address);
        }
        if let Some(party) = after.and_then(|id| self.get_mut(id)) {
            party.hosts.insert(address);
        }
    }

    /// What is wrong with addresses.
    pub fn diagnostics(&self) -> impl Iterator<Item = Diagnostic> {
        self.shared.iter().flat_map(|address| {
            let pods = self.claims.get(address).into_iter().flatten();
            let mut pods = pods.filter_map(|(claim, _)| match claim {
                Claim::Pod(id) => Some(id.clone()),
                _ => None,
            });
            let owner = pods.next();
            pods.filter_map(move |loser| {
                Some(Diagnostic::SharedAddress { address: *address, owner: owner.clone()?, loser })
            })
        })
    }

    /// The parties among all that a list means.
    pub fn meant(&self, list: ListId, lists: &Lists, namespaces: &Namespaces) -> Vec<PartyId> {
        let Some(list) = lists.get(list) else { return Vec::new() };
        let mut meant = BTreeSet::new();
        for peer in list.peers.iter() {
            match peer {
                Peer::Pods(set) => {
                    let of = |name: &str| {
                        let parties = self.of_namespace(name);
                        parties.filter(move |id| {
                            self.get(*id).is_some_and(|p| {
                                p.may_be_meant(list.direction) && set.pods.matches(&p.labels)
                            })
                        })
                    };
                    match &set.namespaces {
                        NamespaceSet::Name(name) => meant.extend(of(name)),
                        NamespaceSet::Selected(selector) => {
                            for name in self.by_namespace.keys() {
                                if namespaces.get(name).is_some_and(|n| selector.matches(&n.labels))
                                {
                                    meant.extend(of(name));
                                }
                            }
                        }
                    }
                }
                Peer::Nodes(selector) => {
                    let nodes = self.nodes.iter().copied();
                    meant.extend(
                        nodes.filter(|id| {
                            self.get(*id).is_some_and(|p| selector.matches(&p.labels))
                        }),
                    );
                }
                Peer::Block(_) | Peer::Domain(_) => {}
            }
        }
        meant.into_iter().collect()
    }
}

fn kind_of(pod: &Pod) -> Kind {
    let mut ports = pod.ports.clone();
    ports.sort();
    ports.dedup();
    Kind::Pods { namespace: pod.id.namespace.clone(), labels: pod.labels.clone(), ports }
}

/// Whether a pod of this namespace and labels is one of `set`.
pub(super) fn in_set(
    set: &PodSet,
    namespace: &str,
    labels: &Labels,
    namespaces: &Namespaces,
) -> bool {
    let by_namespace = match &set.namespaces {
        NamespaceSet::Name(name) => **name == *namespace,
        NamespaceSet::Selected(selector) => {
            namespaces.get(namespace).is_some_and(|n| selector.matches(&n.labels))
        }
    };
    by_namespace && set.pods.matches(labels)
}

/// Asks the selectors of all lists about parties, many at a time: those that selectors cannot
/// tell apart once, and of each namespace only the lists that may mean its pods.
pub(super) struct Matcher<'a> {
    lists: &'a Lists,
    namespaces: &'a Namespaces,
    of_namespace: HashMap<Option<&'a str>, Candidates<'a>>,
}

#[derive(Default)]
struct Candidates<'a> {
    tests: Vec<(ListId, Direction, &'a Selector)>,
    /// Label keys that a test looks at.
    keys: HashSet<&'a str>,
    known: HashMap<Shape<'a>, Vec<ListId>>,
}

/// The labels that tests look at, and whether it is the DNS.
type Shape<'a> = (Vec<(&'a str, &'a str)>, bool);

impl<'a> Matcher<'a> {
    pub fn new(lists: &'a Lists, namespaces: &'a Namespaces) -> Self {
        Self { lists, namespaces, of_namespace: HashMap::new() }
    }

    /// The lists that mean a party, sorted.
    pub fn lists_of(&mut self, party: &'a Party) -> Vec<ListId> {
        let (lists, namespaces) = (self.lists, self.namespaces);
        let namespace = party.namespace();
        let candidates = self
            .of_namespace
            .entry(namespace)
            .or_insert_with(|| Candidates::of(namespace, lists, namespaces));
        let relevant = party.labels.iter().filter(|(k, _)| candidates.keys.contains(k)).collect();
        let shape = (relevant, matches!(*party.kind, Kind::Dns));
        if let Some(known) = candidates.known.get(&shape) {
            return known.clone();
        }
        let tests = candidates.tests.iter().filter(|(_, direction, selector)| {
            (namespace.is_none() || party.may_be_meant(*direction))
                && selector.matches(&party.labels)
        });
        let mut found: Vec<ListId> = tests.map(|(list, ..)| *list).collect();
        found.sort_unstable();
        found.dedup();
        candidates.known.insert(shape, found.clone());
        found
    }
}

impl<'a> Candidates<'a> {
    /// The selectors that may mean pods of a namespace; without one: nodes.
    fn of(namespace: Option<&str>, lists: &'a Lists, namespaces: &Namespaces) -> Self {
        let labels = namespace.and_then(|n| namespaces.get(n)).map(|n| &n.labels);
        let mut all = Self::default();
        for (id, list) in lists.iter() {
            for peer in list.peers.iter() {
                let selector = match (peer, namespace) {
                    (Peer::Nodes(selector), None) => selector,
                    (Peer::Pods(set), Some(namespace)) => {
                        let there = match &set.namespaces {
                            NamespaceSet::Name(name) => **name == *namespace,
                            NamespaceSet::Selected(s) => labels.is_some_and(|l| s.matches(l)),
                        };
                        if !there {
                            continue;
                        }
                        &set.pods
                    }
                    _ => continue,
                };
                all.keys.extend(selector.keys().map(|k| &**k));
                all.tests.push((id, list.direction, selector));
            }
        }
        all
    }
}
