//! Peer lists: the whole `to` or `from` of a rule, each once and with a number while a rule set
//! uses it. The unit is not the single selector: a list of 5,000 blocks is one identity with 5,000
//! prefixes, not 5,000 identities.

use super::{parties::PartyId, sets::SetNo};
use crate::numbers::Numbers;
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};
use weft_model::{Direction, DomainPattern, IpBlock, Peer};

/// What names outside the cluster were seen to resolve to.
pub(super) type Names = BTreeMap<Arc<str>, BTreeSet<IpAddr>>;

/// Number of a peer list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ListId(u32);

/// Where the membership of a list begins (1) and where it ends again (-1).
pub(super) type Edge = (IpNet, i32);

/// A peer list.
#[derive(Debug)]
pub(super) struct List {
    pub direction: Direction,
    pub peers: Arc<[Peer]>,
    /// The rule sets that use it.
    pub sets: BTreeSet<SetNo>,
    /// The parties that its selectors mean.
    pub parties: BTreeSet<PartyId>,
    /// What its blocks and names are made of.
    pub edges: Vec<Edge>,
    /// Its blocks are left out, and its sets closed: there are too many.
    pub excluded: bool,
}

/// The peer lists that rule sets use.
#[derive(Debug)]
pub(super) struct Lists {
    numbers: Numbers,
    by_content: [HashMap<Arc<[Peer]>, ListId>; 2],
    all: BTreeMap<ListId, List>,
    /// All edges of all lists.
    edges: usize,
}

impl Default for Lists {
    fn default() -> Self {
        let numbers = Numbers::new(1);
        Self { numbers, by_content: <_>::default(), all: BTreeMap::new(), edges: 0 }
    }
}

impl Lists {
    /// The number of a list, and whether it is a new one.
    pub fn acquire(
        &mut self,
        direction: Direction,
        peers: &[Peer],
        names: &Names,
        now: u64,
    ) -> (ListId, bool) {
        if let Some(id) = self.by_content[direction as usize].get(peers) {
            return (*id, false);
        }
        let id = ListId(self.numbers.take(now));
        let peers: Arc<[Peer]> = peers.into();
        let edges = edges(&peers, names);
        self.edges += edges.len();
        self.by_content[direction as usize].insert(peers.clone(), id);
        let (sets, parties) = Default::default();
        self.all.insert(id, List { direction, peers, sets, parties, edges, excluded: false });
        (id, true)
    }

    /// Forgets a list.
    pub fn forget(&mut self, id: ListId, now: u64) -> Option<List> {
        let list = self.all.remove(&id)?;
        self.edges -= list.edges.len();
        self.by_content[list.direction as usize].remove(&list.peers);
        self.numbers.give_back(id.0, now);
        Some(list)
    }

    pub fn get(&self, id: ListId) -> Option<&List> {
        self.all.get(&id)
    }

    pub fn get_mut(&mut self, id: ListId) -> Option<&mut List> {
        self.all.get_mut(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (ListId, &List)> {
        self.all.iter().map(|(id, list)| (*id, list))
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Where names resolve to something else now: the lists concerned, with their edges before.
    pub fn resolve(&mut self, names: &Names) -> Vec<(ListId, Vec<Edge>)> {
        let mut changed = Vec::new();
        for (id, list) in &mut self.all {
            if !list.peers.iter().any(|p| matches!(p, Peer::Domain(_))) {
                continue;
            }
            let new = edges(&list.peers, names);
            if new != list.edges {
                self.edges = self.edges + new.len() - list.edges.len();
                changed.push((*id, std::mem::replace(&mut list.edges, new)));
            }
        }
        changed
    }

    /// The lists whose edges must be left out, so that all others together are `max` at most: the
    /// longest. Only those that sets use which stay.
    pub fn beyond(&self, max: usize, stays: impl Fn(SetNo) -> bool) -> BTreeSet<ListId> {
        let mut left_out = BTreeSet::new();
        if self.edges <= max {
            return left_out;
        }
        let used = self.all.iter().filter(|(_, l)| l.sets.iter().any(|no| stays(*no)));
        let mut by_length: Vec<_> =
            used.map(|(id, l)| (l.edges.len(), &l.peers, l.direction, *id)).collect();
        // The content decides among equals, so that the history does not.
        by_length.sort_by(|a, b| (b.0, a.1, a.2).cmp(&(a.0, b.1, b.2)));
        let mut all = by_length.iter().map(|(length, ..)| length).sum::<usize>();
        for (length, .., id) in by_length {
            if all <= max {
                break;
            }
            all -= length;
            left_out.insert(id);
        }
        left_out
    }
}

/// Where the blocks and names of a list begin and where their holes do.
fn edges(peers: &[Peer], names: &Names) -> Vec<Edge> {
    let mut edges = Vec::new();
    for peer in peers {
        match peer {
            Peer::Block(block) => {
                let Some(holes) = holes(block) else { continue };
                edges.push((block.cidr.trunc(), 1));
                edges.extend(holes.into_iter().map(|hole| (hole, -1)));
            }
            Peer::Domain(pattern) => {
                edges.extend(resolved(pattern, names).map(|a| (IpNet::from(a), 1)));
            }
            Peer::Pods(_) | Peer::Nodes(_) => {}
        }
    }
    edges
}

fn resolved<'n>(pattern: &'n DomainPattern, names: &'n Names) -> impl Iterator<Item = IpAddr> + 'n {
    let meant = names.iter().filter(|(name, _)| pattern.matches(name));
    meant.flat_map(|(_, addresses)| addresses.iter().copied())
}

/// The holes of a block that are inside it and inside no other one; `None` where nothing is
/// left of it.
fn holes(block: &IpBlock) -> Option<Vec<IpNet>> {
    let cidr = block.cidr.trunc();
    // Sorted, so that wider ones come before those that they hold.
    let sorted: BTreeSet<IpNet> = block.except.iter().map(IpNet::trunc).collect();
    let mut holes: Vec<IpNet> = Vec::new();
    for hole in sorted {
        if hole.contains(&cidr) {
            return None;
        }
        let covered = holes.last().is_some_and(|h| h.contains(&hole));
        if cidr.contains(&hole) && !covered {
            holes.push(hole);
        }
    }
    Some(holes)
}
