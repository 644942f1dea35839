//! From the planner's transitions to the kernel's terms: numbers, and links by their index.

use std::collections::BTreeMap;
use weft_bpf::{
    PodSets, PodState, PolicyEntry, PolicyPod, PolicyRetire, PolicySet, PolicySetKind, PolicyStep,
};
use weft_model::NamespacedName;
use weft_policy::{
    Entry, Hooks, Key, Retire, RuleSet, SetId, SetKind, TableStep, Transition, Whole,
};

/// The planner's tables, as far as the next step needs them.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    /// The epoch.
    pub epoch: u32,
    /// The rule sets without their entries.
    pub sets: BTreeMap<u32, (PolicySetKind, u32)>,
    /// The node's pods.
    pub pods: BTreeMap<NamespacedName, [Hooks; 2]>,
}

impl Mirror {
    /// After a transition. The sets that go are in it until they are gone.
    pub(super) fn follow(&mut self, transition: &Transition) {
        let of = |(id, set): &(SetId, RuleSet)| (id.0, (kind(set.kind), set.lengths));
        match transition {
            Transition::Whole(Whole { epoch, sets, pods, .. }) => {
                *self = Self {
                    epoch: *epoch,
                    sets: sets.iter().map(of).collect(),
                    pods: pods.iter().cloned().collect(),
                };
            }
            Transition::Step(TableStep { epoch, sets, pods, retire, .. }) => {
                self.epoch = *epoch;
                self.sets.extend(sets.iter().map(of));
                for (set, _) in &retire.sets {
                    self.sets.remove(&set.0);
                }
                for (pod, hooks) in pods {
                    match hooks {
                        Some(hooks) => drop(self.pods.insert(pod.clone(), *hooks)),
                        None => drop(self.pods.remove(pod)),
                    }
                }
            }
        }
    }
}

/// A transition without its pods, which are compared with what the kernel has. `before`: what
/// it leads on from.
pub(super) fn step(transition: &Transition, before: &Mirror) -> PolicyStep {
    match transition {
        Transition::Whole(Whole { epoch, prefixes, sets, .. }) => PolicyStep {
            epoch: *epoch,
            moves: prefixes.iter().map(|(net, identity)| (*net, Some(identity.0))).collect(),
            sets: sets.iter().map(|(id, set)| whole_set(*id, set)).collect(),
            ..PolicyStep::default()
        },
        Transition::Step(TableStep { epoch, extend, moves, sets, .. }) => PolicyStep {
            epoch: *epoch,
            extend: extended(extend, before),
            moves: moves.iter().map(|m| (m.net, m.identity.map(|i| i.0))).collect(),
            sets: sets.iter().map(|(id, set)| whole_set(*id, set)).collect(),
            pods: Vec::new(),
        },
    }
}

/// Whether flows that were judged before might be judged otherwise by it.
pub(super) fn matters(step: &PolicyStep) -> bool {
    let PolicyStep { epoch: _, extend, moves, sets, pods: _ } = step;
    !(extend.is_empty() && moves.is_empty() && sets.is_empty())
}

/// What is left over after a transition.
pub(super) fn leavings(transition: &Transition) -> PolicyRetire {
    let Transition::Step(TableStep { retire: Retire { entries, sets }, .. }) = transition else {
        // A whole is beside everything that was: the caller knows what that is.
        return PolicyRetire::default();
    };
    PolicyRetire {
        sets: sets.iter().map(|(id, _)| id.0).collect(),
        entries: entries.iter().map(|(set, key)| (set.0, dead(key))).collect(),
        ..PolicyRetire::default()
    }
}

pub(super) fn is_empty(gone: &PolicyRetire) -> bool {
    *gone == PolicyRetire::default()
}

/// What holds at the link of a pod that was judged.
pub(super) fn ready(link: u32, epoch: u32, [ingress, egress]: [Hooks; 2]) -> PolicyPod {
    let sets =
        |hooks: Hooks| PodSets { admin: hooks.admin.map(|s| s.0), rest: hooks.rest.map(|s| s.0) };
    let (ingress, egress) = (sets(ingress), sets(egress));
    let none = PodSets::default();
    let epoch = if (ingress, egress) == (none, none) { 0 } else { epoch };
    PolicyPod { link, epoch, state: PodState::Ready, ingress, egress }
}

fn extended(added: &[(SetId, Key, Entry)], before: &Mirror) -> Vec<PolicySet> {
    let mut by_set: BTreeMap<SetId, Vec<PolicyEntry>> = BTreeMap::new();
    for (set, key, of) in added {
        by_set.entry(*set).or_default().push(entry(key, of));
    }
    let known = |(id, entries): (SetId, Vec<PolicyEntry>)| {
        let (kind, lengths) = *before.sets.get(&id.0)?;
        Some(PolicySet { number: id.0, kind, lengths, entries })
    };
    by_set.into_iter().filter_map(known).collect()
}

fn whole_set(id: SetId, set: &RuleSet) -> PolicySet {
    let entries = set.entries.iter().map(|(key, of)| entry(key, of)).collect();
    PolicySet { number: id.0, kind: kind(set.kind), lengths: set.lengths, entries }
}

fn kind(of: SetKind) -> PolicySetKind {
    match of {
        SetKind::Admin => PolicySetKind::Admin,
        SetKind::Network => PolicySetKind::Network,
        SetKind::Baseline => PolicySetKind::Baseline,
    }
}

fn entry(key: &Key, entry: &Entry) -> PolicyEntry {
    PolicyEntry {
        precedence: entry.precedence,
        action: entry.action,
        audit: entry.audit,
        reason: entry.reason,
        ..dead(key)
    }
}

/// An entry of which only the key counts.
fn dead(key: &Key) -> PolicyEntry {
    PolicyEntry {
        identity: key.identity.0,
        protocol: key.protocol,
        port: key.ports.port,
        bits: key.ports.bits,
        precedence: 0,
        action: weft_model::Action::Deny,
        audit: false,
        reason: 0,
    }
}
