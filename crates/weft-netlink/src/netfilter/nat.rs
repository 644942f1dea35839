//! Entrances: addresses of this node or led to it, whose connections go to targets elsewhere.
//! Here is what shall be, whole or as the difference to what was; pure.
//!
//! Flat: whatever the number of entrances, a new connection costs the same few look-ups in
//! hash maps (`element.rs`), and a change costs the elements that differ (`content.rs`).

use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// An address, port and protocol: where clients connect to, or a target on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entrance {
    /// The address.
    pub addr: IpAddr,
    /// The port.
    pub port: u16,
    /// Number of the protocol: TCP, UDP or SCTP.
    pub protocol: u8,
}

/// What becomes of a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes to a target of the group.
    Forward {
        /// Key of [`Nat::groups`].
        group: u32,
        /// A client address stays with its target until it was silent for so many seconds.
        timeout_s: Option<u32>,
        /// Who may use it; others are dropped. `None` for everybody.
        sources: Option<Vec<IpNet>>,
    },
    /// The client sees a refusal.
    Refuse,
    /// Dropped.
    Drop,
}

/// Where connections may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The address.
    pub addr: IpAddr,
    /// The port.
    pub port: u16,
    /// Whether it is on this node: its replies to clients inside the cluster pass this node's
    /// stack too, and have to be tracked there.
    pub here: bool,
}

/// Targets that several entrances may share, all of the family of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// Number of the protocol.
    pub protocol: u8,
    /// The targets, in any order, none twice; or a table where `by_client` is set.
    pub all: Vec<Target>,
    /// Whether a hash of the client's address says which place of `all` it is led to, instead of
    /// chance: the order counts then, and a target may be at many places.
    pub by_client: bool,
}

impl Targets {
    /// Gives up the order: any of the targets will do.
    pub(super) fn by_chance(&mut self) {
        if std::mem::take(&mut self.by_client) {
            let each: BTreeSet<Target> = self.all.iter().copied().collect();
            self.all = each.into_iter().collect();
        }
    }
}

/// All entrances of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    /// The entrances.
    pub entrances: BTreeMap<Entrance, Fate>,
    /// Targets by group; a group that is not here, or has no target, refuses.
    pub groups: BTreeMap<u32, Targets>,
}

/// A difference between two [`Nat`]s: what is set and, with `None`, what is removed. Setting
/// what is so already and removing what is not there change nothing.
///
/// A difference may mention a group before or after the entrances that lead to it: until it
/// is there, these refuse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Entrances.
    pub entrances: BTreeMap<Entrance, Option<Fate>>,
    /// Groups, each with all its targets.
    pub groups: BTreeMap<u32, Option<Targets>>,
}

impl Delta {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.entrances.is_empty() && self.groups.is_empty()
    }

    /// What makes `nat` out of nothing.
    pub fn all(nat: Nat) -> Self {
        Self {
            entrances: nat.entrances.into_iter().map(|(k, v)| (k, Some(v))).collect(),
            groups: nat.groups.into_iter().map(|(k, v)| (k, Some(v))).collect(),
        }
    }
}

impl Nat {
    /// Makes the difference part of it.
    pub fn apply(&mut self, delta: &Delta) {
        for (entrance, fate) in &delta.entrances {
            match fate {
                Some(fate) => self.entrances.insert(*entrance, fate.clone()),
                None => self.entrances.remove(entrance),
            };
        }
        for (group, targets) in &delta.groups {
            match targets {
                Some(targets) => self.groups.insert(*group, targets.clone()),
                None => self.groups.remove(group),
            };
        }
    }
}
