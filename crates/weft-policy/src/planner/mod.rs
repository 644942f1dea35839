//! From one input to the next: what is to be done to the tables.
//!
//! Flow of a plan: what is different in the input ([`weft_model::Map::diff`]) → parties and
//! addresses, policies and the pods that they select (`observe`) → rule sets (`want`) → lists and
//! blocks → prefixes that are touched, and what they are now (`places`) → identities (`classes`) →
//! entries and bounds (`write`) → a [`Transition`] → what nobody needs any more is forgotten.
//!
//! Invariants, which the tests in `tests/history` check after every single element of a step:
//! - Every pod judges every peer as before the step or as after it, never in a third way: the
//!   sets of a pod that switches keep their opinion of peers that move (`classes`), and are
//!   written anew where other pods use them too.
//! - After a step the tables answer as the evaluator does; once [`Planner::settled`], they are
//!   as large as if they had been made at once.
//! - A number stands for one thing until nothing has referred to it for a while.

mod blocks;
mod classes;
mod lists;
mod observe;
mod parties;
mod places;
mod sets;
mod subjects;
mod transition;
mod write;

pub use transition::{Move, Retire, Step, Transition, Whole};

use crate::{
    Diagnostic, Hooks, PolicyInput, PolicyTables, Reason, Reasons, SetId, numbers::Numbers,
    reasons::Registry,
};
use blocks::{Blocks, Walked};
use classes::Identities;
use lists::{ListId, Lists};
use parties::{Changed, Parties, PartyId};
use sets::{Closed, Ports, Set, SetNo, Spec};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};
use subjects::{Policies, SetKey};
use weft_model::{NamespacedName, NodeName};

/// Bounds of the tables once they have settled; while a step is applied, what goes and what comes
/// are there at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries of one rule set.
    pub set_entries_max: usize,
    /// Entries of all sets of a node; the largest ones are closed until the others fit.
    pub entries_max: usize,
    /// Address ranges, holes in them, and addresses of names, of all lists of all rules; sets
    /// with the longest lists are closed until the others fit.
    pub prefixes_max: usize,
    /// Addresses of pods, nodes and the DNS; with more, every set is closed.
    pub peers_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            set_entries_max: 1 << 17,
            entries_max: 1 << 20,
            prefixes_max: 1 << 17,
            peers_max: 1 << 19,
        }
    }
}

/// The numbers that a planner begins with: such as nobody uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Epoch of the first tables, not 0.
    pub epoch: u32,
    /// The first number of a set, not 0.
    pub set: u32,
    /// The first number of a reason.
    pub reason: u32,
}

impl Default for Start {
    fn default() -> Self {
        Self { epoch: 1, set: 1, reason: 0 }
    }
}

/// Keeps the tables of one node, and plans how they change.
#[derive(Debug)]
pub struct Planner {
    node: NodeName,
    limits: Limits,
    epoch: u32,
    /// Counts plans.
    now: u64,
    /// The next plan is of new tables.
    whole: bool,
    set_numbers: Numbers,
    reasons: Registry,
    /// That of sets that are closed.
    too_large: u32,
    state: State,
}

/// All that a planner knows, as if the last transition had been applied.
#[derive(Debug, Default)]
struct State {
    input: PolicyInput,
    parties: Parties,
    policies: Policies,
    lists: Lists,
    blocks: Blocks,
    identities: Identities,
    sets: BTreeMap<SetNo, Set>,
    by_key: HashMap<Arc<SetKey>, SetNo>,
    set_nos: SetNos,
    /// Port names whose meaning is the peer's affair, and how many rules use them.
    names: HashMap<Arc<str>, usize>,
    /// How many sets must tell the own node.
    own_node: usize,
    /// The pods, as the tables have them.
    pods: BTreeMap<NamespacedName, [Hooks; 2]>,
    /// Sets that the tables have and that go with this plan.
    retiring: BTreeMap<SetNo, Retiring>,
    excluding: bool,
}

#[derive(Debug)]
struct SetNos(Numbers);

impl Default for SetNos {
    fn default() -> Self {
        Self(Numbers::new(0))
    }
}

/// A set that goes.
#[derive(Debug)]
struct Retiring {
    id: SetId,
    spec: Arc<Spec>,
    open: bool,
    any: HashMap<Ports, crate::Entry>,
    keys: Vec<crate::Key>,
    /// It must keep its opinion of peers that move.
    frozen: bool,
}

/// What one plan finds out on its way.
#[derive(Debug, Default)]
struct Work {
    changed: Changed,
    /// Parties whose pods may be judged by other sets.
    judged: BTreeSet<PartyId>,
    /// Lists that no set used before.
    fresh_lists: Vec<ListId>,
    fresh_names: HashSet<Arc<str>>,
    fresh_own_node: bool,
    names_differ: bool,
    walked: Walked,
}

impl Planner {
    /// A planner that has seen nothing. Its first plan is [`Whole`].
    pub fn new(node: NodeName, limits: Limits, start: Start) -> Self {
        let mut reasons = Registry::new(start.reason);
        let too_large = reasons.acquire(Reason::TooLarge, 0);
        Self {
            node,
            limits,
            epoch: start.epoch,
            now: 0,
            whole: true,
            set_numbers: Numbers::new(start.set),
            reasons,
            too_large,
            state: State::default(),
        }
    }

    /// Forgets what was applied: the next plan is [`Whole`], under the next epoch.
    pub fn restart(&mut self) {
        self.whole = true;
        self.epoch = next_epoch(self.epoch);
    }

    /// What leads from the tables of the last plan to those of `input`. The time that it takes
    /// depends on what is different in the input; for [`Whole`] on all of it.
    pub fn plan(&mut self, input: &PolicyInput) -> Transition {
        self.now += 1;
        if !self.whole {
            if let Some(step) = self.step(input) {
                return Transition::Step(step);
            }
            self.epoch = next_epoch(self.epoch);
        }
        self.whole = false;
        let before = std::mem::take(&mut self.state);
        let step = self.step(input).unwrap_or_default();
        // Released after the new ones were taken, so that reasons that stay keep their numbers.
        let sets = before.sets.values().map(|s| (s.id, Some(&s.spec)));
        // Those of which a set with this number is left refer to nothing of their own.
        let retiring = before.retiring.iter();
        let retiring =
            retiring.map(|(no, r)| (r.id, (!before.sets.contains_key(no)).then_some(&r.spec)));
        for (id, spec) in sets.chain(retiring) {
            self.set_numbers.give_back(id.0, self.now);
            for reason in spec.into_iter().flat_map(|s| &s.reasons) {
                self.reasons.release(*reason, self.now);
            }
        }
        let prefixes = step.moves.iter().filter_map(|m| Some((m.net, m.identity?))).collect();
        let pods = step.pods.into_iter().filter_map(|(pod, hooks)| Some((pod, hooks?))).collect();
        Transition::Whole(Whole { epoch: self.epoch, prefixes, sets: step.sets, pods })
    }

    /// Whether another plan of the same input would find nothing to do. Otherwise it tidies up:
    /// identities that became alike are made one. Until then tables are larger, not wrong.
    pub fn settled(&self) -> bool {
        self.state.identities.leftover.is_empty() && !self.state.blocks.is_dirty()
    }

    /// The tables as they are after the last transition.
    pub fn tables(&self) -> PolicyTables {
        let state = &self.state;
        PolicyTables {
            generation: state.input.generation,
            node: self.node.clone(),
            prefixes: state.identities.prefixes().iter().map(|(n, i)| (*n, *i)).collect(),
            pods: state.pods.clone(),
            sets: state.sets.values().map(|s| (s.id, write::rule_set(s))).collect(),
            reasons: self.reasons(),
            diagnostics: self.diagnostics(),
        }
    }

    /// What the numbers in entries stand for; it stays as it is while planning goes on.
    pub fn reasons(&self) -> Reasons {
        self.reasons.table().clone()
    }

    /// What could not be done.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let state = &self.state;
        let mut all: Vec<Diagnostic> = state.parties.diagnostics().collect();
        let peers = state.parties.hosts_len();
        if peers > self.limits.peers_max {
            all.push(Diagnostic::TooManyPeers { peers, limit: self.limits.peers_max });
        }
        for set in state.sets.values() {
            let (direction, pods, policies) =
                (set.spec.direction, set.users, set.spec.policies.clone());
            match set.closed {
                Some(Closed::Entries) => {
                    let limit = self.limits.set_entries_max.min(self.limits.entries_max);
                    all.push(Diagnostic::TooLarge { direction, pods, limit, policies });
                }
                Some(Closed::Prefixes) => {
                    let limit = self.limits.prefixes_max;
                    all.push(Diagnostic::TooManyPrefixes { direction, pods, limit, policies });
                }
                Some(Closed::Peers) | None => {}
            }
        }
        all.sort();
        all
    }

    /// How much there is of everything.
    pub fn census(&self) -> Census {
        let state = &self.state;
        Census {
            peers: state.parties.hosts_len(),
            parties: state.parties.iter().count(),
            lists: state.lists.len(),
            prefixes: state.identities.prefixes().len(),
            blocks: state.blocks.len(),
            identities: state.identities.len(),
            sets: state.sets.len(),
            entries: state.sets.values().map(|s| s.size).sum(),
            reasons: self.reasons.len(),
            pods: state.pods.len(),
        }
    }
}

/// How much there is of everything that a planner keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Addresses with an owner.
    pub peers: usize,
    /// Owners that some selector may tell apart.
    pub parties: usize,
    /// Peer lists of rules.
    pub lists: usize,
    /// Prefixes with an identity.
    pub prefixes: usize,
    /// Prefixes at which the blocks of a rule begin or end.
    pub blocks: usize,
    /// Identities.
    pub identities: usize,
    /// Rule sets.
    pub sets: usize,
    /// Entries of all sets.
    pub entries: usize,
    /// Reasons that entries refer to.
    pub reasons: usize,
    /// Pods of this node.
    pub pods: usize,
}

fn next_epoch(epoch: u32) -> u32 {
    epoch.checked_add(1).unwrap_or(1)
}
