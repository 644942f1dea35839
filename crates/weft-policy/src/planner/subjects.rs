//! Who is judged by what: the versions of policies, and those that select the pods of a party.

use super::{
    parties::{Namespaces, Party, in_set},
    sets::SetNo,
};
use crate::{
    PolicyId, SetKind, Step,
    program::{cluster_steps, network_steps},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use weft_model::{
    ClusterNetworkPolicy, Direction, NamedPort, NamespaceSet, NetworkPolicy, PodSet, PortMatch,
    Tier,
};

/// Where a policy stands in the order in which those of one pod are asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    stage: Stage,
    priority: u16,
    /// Without its namespace, which is the pod's.
    name: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Admin,
    Network,
    Baseline,
}

#[derive(Debug)]
enum Source {
    Network(Arc<NetworkPolicy>),
    Cluster(Arc<ClusterNetworkPolicy>),
}

/// The rules of a policy for one direction. What says the same has the same number, so that sets
/// of rules can be compared by numbers.
#[derive(Debug)]
pub(super) struct Rules {
    rev: u64,
    direction: Direction,
    source: Source,
    pub id: PolicyId,
    pub audit: bool,
    /// Port names in them.
    names: Vec<Arc<str>>,
}

impl Rules {
    /// The rules in order.
    pub fn steps(&self) -> Vec<Step<'_>> {
        match &self.source {
            Source::Network(policy) => network_steps(policy, self.direction).collect(),
            Source::Cluster(policy) => cluster_steps(policy, self.direction).collect(),
        }
    }

    fn says_the_same(&self, other: &Self) -> bool {
        let d = self.direction;
        let rules = match (&self.source, &other.source) {
            (Source::Network(a), Source::Network(b)) => a.rules(d) == b.rules(d),
            (Source::Cluster(a), Source::Cluster(b)) => a.rules(d) == b.rules(d),
            _ => false,
        };
        rules && (&self.id, self.audit, d) == (&other.id, other.audit, other.direction)
    }
}

/// A policy as it is now.
#[derive(Debug)]
pub(super) struct Version {
    place: Place,
    subject: PodSet,
    /// Ingress, egress; where it says something about them.
    rules: [Option<Arc<Rules>>; 2],
}

impl Version {
    fn selects(&self, party: &Party, namespaces: &Namespaces) -> bool {
        let namespace = party.namespace();
        namespace.is_some_and(|n| in_set(&self.subject, n, &party.labels, namespaces))
    }
}

/// What the pods of a party are judged by.
#[derive(Debug, Default)]
pub(super) struct Judged {
    selecting: BTreeMap<Place, Arc<Version>>,
    /// Ingress, egress: the Admin tier and the rest.
    pub sets: [[Option<SetNo>; 2]; 2],
}

/// What makes a set of rules. Pods with equal ones share the set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SetKey {
    direction: Direction,
    pub kind: SetKind,
    revs: Vec<u64>,
    /// What the pod calls its ports, where it is the destination and rules use these names.
    pub ports: Vec<NamedPort>,
}

/// A set of rules that is asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub key: SetKey,
    pub direction: Direction,
    pub rules: Vec<Arc<Rules>>,
    /// What is asked after NetworkPolicies that are all in audit mode.
    pub below: Vec<Arc<Rules>>,
}

/// Every policy, by what it may select.
#[derive(Debug, Default)]
pub(super) struct Policies {
    network: HashMap<Arc<str>, BTreeMap<Arc<str>, Arc<Version>>>,
    cluster: BTreeMap<Arc<str>, Arc<Version>>,
    revs: u64,
}

/// A policy before and after a change.
pub(super) struct Replaced {
    before: Option<Arc<Version>>,
    after: Option<Arc<Version>>,
}

impl Policies {
    /// Takes the new state of a NetworkPolicy, `None` where it is gone.
    pub fn replace_network(
        &mut self,
        namespace: &Arc<str>,
        name: &Arc<str>,
        policy: Option<&Arc<NetworkPolicy>>,
        namespaces: &Namespaces,
    ) -> Replaced {
        let of_namespace = self.network.get(namespace);
        let before = of_namespace.and_then(|all| all.get(name)).cloned();
        let after = policy.map(|policy| {
            let audit = policy.audit || namespaces.get(namespace).is_some_and(|n| n.audit);
            let id = PolicyId::Network(policy.id.clone());
            let namespaces = NamespaceSet::Name(namespace.clone());
            let subject = PodSet { namespaces, pods: policy.pods.clone() };
            let place = Place { stage: Stage::Network, priority: 0, name: name.clone() };
            let rules = Direction::ALL.map(|direction| {
                policy.rules(direction)?;
                let source = Source::Network(policy.clone());
                Some(self.rules(before.as_deref(), source, id.clone(), audit, direction))
            });
            Arc::new(Version { place, subject, rules })
        });
        match &after {
            Some(version) => {
                let all = self.network.entry(namespace.clone()).or_default();
                all.insert(name.clone(), version.clone());
            }
            None => {
                if let Some(all) = self.network.get_mut(namespace) {
                    all.remove(name);
                    if all.is_empty() {
                        self.network.remove(namespace);
                    }
                }
            }
        }
        Replaced { before, after }
    }

    /// Takes the new state of a ClusterNetworkPolicy, `None` where it is gone.
    pub fn replace_cluster(
        &mut self,
        name: &Arc<str>,
        policy: Option<&Arc<ClusterNetworkPolicy>>,
    ) -> Replaced {
        let before = self.cluster.get(name).cloned();
        let after = policy.map(|policy| {
            let id = PolicyId::Cluster { tier: policy.tier, name: name.clone() };
            let stage = match policy.tier {
                Tier::Admin => Stage::Admin,
                Tier::Baseline => Stage::Baseline,
            };
            let place = Place { stage, priority: policy.priority, name: name.clone() };
            let rules = Direction::ALL.map(|direction| {
                let some = !policy.rules(direction).is_empty();
                let source = Source::Cluster(policy.clone());
                let id = id.clone();
                some.then(|| self.rules(before.as_deref(), source, id, policy.audit, direction))
            });
            Arc::new(Version { place, subject: policy.subject.clone(), rules })
        });
        match &after {
            Some(version) => self.cluster.insert(name.clone(), version.clone()),
            None => self.cluster.remove(name),
        };
        Replaced { before, after }
    }

    fn rules(
        &mut self,
        before: Option<&Version>,
        source: Source,
        id: PolicyId,
        audit: bool,
        direction: Direction,
    ) -> Arc<Rules> {
        let mut new = Rules { rev: 0, direction, source, id, audit, names: Vec::new() };
        let old = before.and_then(|b| b.rules[direction as usize].as_ref());
        if let Some(old) = old.filter(|old| old.says_the_same(&new)) {
            return old.clone();
        }
        self.revs += 1;
        let mut names: Vec<Arc<str>> = Vec::new();
        for step in new.steps() {
            names.extend(step.ports.into_iter().flatten().filter_map(|p| match p {
                PortMatch::Named { name, .. } => Some(name.clone()),
                _ => None,
            }));
        }
        (new.rev, new.names) = (self.revs, names);
        Arc::new(new)
    }

    /// The NetworkPolicies of a namespace.
    pub fn of_namespace(&self, namespace: &str) -> Vec<Arc<NetworkPolicy>> {
        let versions = self.network.get(namespace).into_iter().flatten();
        let sources = versions.filter_map(|(_, v)| v.rules.iter().flatten().next());
        let policies = sources.filter_map(|r| match &r.source {
            Source::Network(policy) => Some(policy.clone()),
            Source::Cluster(_) => None,
        });
        policies.collect()
    }

    /// Judges the pods of a party from the start.
    pub fn judge(&self, party: &mut Party, namespaces: &Namespaces) {
        let network = party.namespace().and_then(|n| self.network.get(n)).into_iter().flatten();
        let all = network.map(|(_, v)| v).chain(self.cluster.values());
        let selecting = all.filter(|v| v.selects(party, namespaces));
        let selecting = selecting.map(|v| (v.place.clone(), v.clone())).collect();
        party.judged.get_or_insert_default().selecting = selecting;
    }
}

impl Replaced {
    /// Judges the pods of a party again that was judged before the change; says whether anything
    /// about them is different.
    pub fn judge(&self, party: &mut Party, namespaces: &Namespaces) -> bool {
        let selected = self.after.as_ref().filter(|v| v.selects(party, namespaces)).cloned();
        let Some(judged) = &mut party.judged else { return false };
        let before = self.before.as_ref().and_then(|v| judged.selecting.remove(&v.place));
        let different = match (&before, &selected) {
            (Some(a), Some(b)) => a.place != b.place || revs(a) != revs(b),
            (a, b) => a.is_some() != b.is_some(),
        };
        if let Some(version) = selected {
            judged.selecting.insert(version.place.clone(), version);
        }
        different
    }
}

fn revs(version: &Version) -> [Option<u64>; 2] {
    version.rules.each_ref().map(|r| r.as_ref().map(|r| r.rev))
}

impl Judged {
    /// The sets of rules for pods that call their ports so: the Admin tier and the rest.
    pub fn wanted(&self, direction: Direction, ports: &[NamedPort]) -> [Option<Wanted>; 2] {
        let of = |stage: Stage| -> Vec<Arc<Rules>> {
            let all = self.selecting.iter().filter(|(place, _)| place.stage == stage);
            all.filter_map(|(_, v)| v.rules[direction as usize].clone()).collect()
        };
        let network = of(Stage::Network);
        let audit = network.iter().all(|r| r.audit);
        let rest = match network.is_empty() {
            true => (SetKind::Baseline, of(Stage::Baseline), Vec::new()),
            false if audit => (SetKind::Network, network, of(Stage::Baseline)),
            false => (SetKind::Network, network, Vec::new()),
        };
        [(SetKind::Admin, of(Stage::Admin), Vec::new()), rest].map(|(kind, rules, below)| {
            if rules.is_empty() {
                return None;
            }
            let mut own = Vec::new();
            if direction == Direction::Ingress && !ports.is_empty() {
                let names = || rules.iter().chain(&below).flat_map(|r| &r.names);
                own.extend(ports.iter().filter(|p| names().any(|n| *n == p.name)).cloned());
            }
            let revs = rules.iter().chain(&below).map(|r| r.rev).collect();
            let key = SetKey { direction, kind, revs, ports: own };
            Some(Wanted { key, direction, rules, below })
        })
    }
}
