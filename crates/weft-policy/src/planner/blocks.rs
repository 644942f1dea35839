//! Address ranges: which lists are in force inside which prefix.

use super::lists::{Edge, ListId};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

/// Lists by number, with how many of their blocks less their holes an address is in: it is a
/// member above 0.
pub(super) type Counts = Arc<Vec<(ListId, i32)>>;

/// Which prefix lengths occur, of each family.
type Lengths = [u128; 2];

/// All edges of all lists, and what they make.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// By address and then length: every prefix comes after those that hold it.
    edges: BTreeMap<IpNet, Vec<(ListId, i32)>>,
    /// Of every prefix in `edges`: what is in force there.
    inside: HashMap<IpNet, Counts>,
    used: BTreeMap<(bool, u8), usize>,
    /// Where edges changed since the last walk.
    dirty: BTreeSet<IpNet>,
}

/// What a walk changed.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// Every prefix at which something may be different now, with what was in force there;
    /// `None` where there was no edge.
    pub before: BTreeMap<IpNet, Option<Counts>>,
    lengths: Lengths,
}

impl Blocks {
    /// Adds (1) or takes away (-1) edges of a list.
    pub fn change(&mut self, list: ListId, edges: &[Edge], sign: i32) {
        for (net, change) in edges {
            let at = self.edges.entry(*net).or_default();
            match at.binary_search_by_key(&list, |(l, _)| *l) {
                Ok(i) => {
                    at[i].1 += change * sign;
                    if at[i].1 == 0 {
                        at.remove(i);
                    }
                }
                Err(i) => at.insert(i, (list, change * sign)),
            }
            if at.is_empty() {
                self.edges.remove(net);
            }
            self.dirty.insert(*net);
        }
    }

    /// Whether edges changed since the last walk.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Brings everything up to date, from the widest prefixes with changes inwards.
    pub fn walk(&mut self) -> Walked {
        let mut walked = Walked { lengths: self.lengths(), ..Walked::default() };
        let dirty = std::mem::take(&mut self.dirty);
        for net in &dirty {
            if self.edges.contains_key(net) {
                continue;
            }
            let old = self.inside.remove(net);
            if old.is_some() {
                self.count(net, false);
            }
            walked.before.insert(*net, old);
        }
        let mut last: Option<IpNet> = None;
        for root in dirty {
            if last.is_some_and(|l| l.contains(&root)) {
                continue;
            }
            last = Some(root);
            let mut around: Vec<(IpNet, Counts)> = Vec::new();
            let outer = self.outer(root).cloned().unwrap_or_default();
            let of_root = self.edges.range(root..).take_while(|(n, _)| root.contains(*n));
            let mut found = Vec::new();
            for (net, edges) in of_root {
                while around.last().is_some_and(|(o, _)| !o.contains(net)) {
                    around.pop();
                }
                let counts = Arc::new(sum(around.last().map_or(&outer, |(_, c)| c), edges));
                around.push((*net, counts.clone()));
                found.push((*net, counts));
            }
            for (net, counts) in found {
                let old = self.inside.insert(net, counts);
                if old.is_none() {
                    self.count(&net, true);
                }
                walked.before.insert(net, old);
            }
        }
        walked
    }

    fn count(&mut self, net: &IpNet, there: bool) {
        let key = (net.addr().is_ipv6(), net.prefix_len());
        let used = self.used.entry(key).or_default();
        *used = if there { *used + 1 } else { *used - 1 };
        if *used == 0 {
            self.used.remove(&key);
        }
    }

    /// A bit for each length of which there are prefixes; that of 128 bits shares one with 127,
    /// as whether one is there is asked again.
    fn lengths(&self) -> Lengths {
        let mut lengths = [0; 2];
        for (v6, length) in self.used.keys() {
            lengths[usize::from(*v6)] |= bit(*length);
        }
        lengths
    }

    /// What is in force at a prefix with edges of its own.
    pub fn of(&self, net: &IpNet) -> Option<&Counts> {
        self.inside.get(net)
    }

    /// What is in force around a prefix.
    pub fn outer(&self, net: IpNet) -> Option<&Counts> {
        let length = net.prefix_len().checked_sub(1)?;
        longest(net.addr(), length, self.lengths(), |net| self.inside.get(net))
    }

    /// What was in force at a prefix before a walk.
    pub fn before<'b>(&'b self, walked: &'b Walked, net: IpNet) -> Option<&'b Counts> {
        let lengths = [0, 1].map(|f| walked.lengths[f]);
        longest(net.addr(), net.prefix_len(), lengths, |net| match walked.before.get(net) {
            Some(old) => old.as_ref(),
            None => self.inside.get(net),
        })
    }

    /// How many prefixes have edges.
    pub fn len(&self) -> usize {
        self.inside.len()
    }
}

fn bit(length: u8) -> u128 {
    1 << length.min(127)
}

/// The value of the longest prefix that holds `address` and is no longer than `length`.
fn longest<'c>(
    address: IpAddr,
    length: u8,
    lengths: Lengths,
    get: impl Fn(&IpNet) -> Option<&'c Counts>,
) -> Option<&'c Counts> {
    let lengths = lengths[usize::from(address.is_ipv6())];
    let used = (0..=length).rev().filter(|l| lengths & bit(*l) != 0);
    used.filter_map(|l| IpNet::new(address, l).ok()).find_map(|net| get(&net.trunc()))
}

/// Both together, without zeros.
fn sum(a: &[(ListId, i32)], b: &[(ListId, i32)]) -> Vec<(ListId, i32)> {
    let mut all = Vec::with_capacity(a.len() + b.len());
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
        let (list, count) = match x.0.cmp(&y.0) {
            std::cmp::Ordering::Less => **x,
            std::cmp::Ordering::Greater => **y,
            std::cmp::Ordering::Equal => (x.0, x.1 + y.1),
        };
        if x.0 <= list {
            a.next();
        }
        if b.peek().is_some_and(|y| y.0 <= list) {
            b.next();
        }
        if count != 0 {
            all.push((list, count));
        }
    }
    all.extend(a.chain(b));
    all
}
