//! From one set of tables to the next, in stages that harm nobody.

use crate::{Entry, Hooks, Identity, Key, RuleSet, SetId};
use ipnet::IpNet;
use weft_model::NamespacedName;

/// What to do to the tables that were applied last. Transitions are applied in the order in which
/// they were planned, each to its end before the next one begins; where that fails, the planner
/// is restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transition {
    /// New tables in place of whatever there is.
    Whole(Whole),
    /// A change of them.
    Step(Step),
}

/// Tables that share nothing with those before: written beside them, under an epoch and numbers of
/// sets that were not in use. Then each pod switches, then what was before goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// What the prefixes are found under.
    pub epoch: u32,
    /// Every prefix and its identity, by length and address.
    pub prefixes: Vec<(IpNet, Identity)>,
    /// Every rule set.
    pub sets: Vec<(SetId, RuleSet)>,
    /// Every pod of the node: ingress, egress.
    pub pods: Vec<(NamespacedName, [Hooks; 2])>,
}

/// A change inside an epoch. Its stages are applied in the order of the fields, one element after
/// the other in their own order. After each, every pod that stays judges every peer as before the step or as
/// after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// The epoch.
    pub epoch: u32,
    /// Entries added to sets that exist, for identities that nobody bears yet.
    pub extend: Vec<(SetId, Key, Entry)>,
    /// Prefixes that get another identity or go: first what is put, the longest first, then what
    /// goes, the shortest first, so that no address ever falls to a prefix that was not and will
    /// not be its own.
    pub moves: Vec<Move>,
    /// New sets.
    pub sets: Vec<(SetId, RuleSet)>,
    /// Pods that switch, each in one piece: ingress and egress; `None` for one that is gone.
    pub pods: Vec<(NamespacedName, Option<[Hooks; 2]>)>,
    /// What nobody refers to any more once all packets are through that may have begun before.
    pub retire: Retire,
}

impl Step {
    /// Whether there is nothing to do: no verdict is another one.
    pub fn is_empty(&self) -> bool {
        *self == Self { epoch: self.epoch, ..Self::default() }
    }
}

/// A prefix that gets an identity, or with `None` goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The prefix.
    pub net: IpNet,
    /// Its identity. [`Identity::ANY`] is one too: that of a hole in a block.
    pub identity: Option<Identity>,
}

/// What is to be removed at last, in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retire {
    /// Entries of sets that stay, for identities that nobody bears any more.
    pub entries: Vec<(SetId, Key)>,
    /// Sets, with the keys of all their entries.
    pub sets: Vec<(SetId, Vec<Key>)>,
}

/// The stages of a move: what is put before what goes, and both so that no address meets a prefix
/// that is neither the old nor the new one that holds it.
pub(super) fn in_order(moves: Vec<(IpNet, Option<Identity>)>) -> Vec<Move> {
    let moves = moves.into_iter().map(|(net, identity)| Move { net, identity });
    let (mut put, mut gone): (Vec<Move>, Vec<Move>) = moves.partition(|m| m.identity.is_some());
    // Stable: by address within a length.
    put.sort_by_key(|m| std::cmp::Reverse(m.net.prefix_len()));
    gone.sort_by_key(|m| m.net.prefix_len());
    put.append(&mut gone);
    put
}
