//! Entrances: addresses of this node or led to it, whose connections go to targets elsewhere.
//! Here is what shall be, and its form as elements of maps; pure.
//!
//! Flat: whatever the number of entrances, a new connection costs the same few look-ups in
//! hash maps, and a change costs the elements that differ.
//!
//! - `frontends`: address, protocol, port → class and group;
//! - `classes`: class → the chain that says how a target is chosen. A modulus is a constant of
//!   a rule, so there is one class for each *number* of targets (and time-out) that occurs;
//! - `slots`: group and index → target. Groups are shared by entrances;
//! - `members`: target and group, where clients stay with their target: they leave one that is
//!   none any more.

use super::{IPV4, IPV6, Ip};
use crate::wire;
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
    /// It goes to a target of the group, chosen at random.
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

/// All entrances of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    /// The entrances.
    pub entrances: BTreeMap<Entrance, Fate>,
    /// Targets by group, all of the family of their entrances.
    pub groups: BTreeMap<u32, Vec<(IpAddr, u16)>>,
    /// The targets that are on this node: their replies to clients inside the cluster pass
    /// this node's stack too, and have to be tracked there.
    pub local: BTreeSet<Entrance>,
}

/// How a target is chosen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Drop,
    Refuse,
    Pick { count: u32, timeout_s: u32 },
    From { sources: Vec<IpNet>, count: u32, timeout_s: u32 },
}

/// The maps and sets whose elements follow [`Nat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Map {
    Frontends(Ip),
    Slots(Ip),
    Classes,
    Members(Ip),
    Tracked(Ip),
    Hairpin(Ip),
}

/// The value of an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Of a set: none.
    None,
    Bytes(Vec<u8>),
    Goto(String),
    Drop,
}

/// [`Nat`] as elements and chains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// Numbers of the classes; kept from change to change.
    classes: BTreeMap<Class, u32>,
    next_class: u32,
    pub(super) elements: BTreeMap<(Map, Vec<u8>), Value>,
}

impl Content {
    /// The form of `nat`; numbers of classes are those of `previous` where it has them.
    pub(super) fn of(nat: &Nat, previous: &Self) -> Self {
        let mut content = Self { next_class: previous.next_class, ..Self::default() };
        for (entrance, fate) in &nat.entrances {
            let (class, group) = content.class_of(nat, fate, previous);
            let mut value = class.to_ne_bytes().to_vec();
            value.extend(group.to_ne_bytes());
            let map = Map::Frontends(Ip::of_addr(entrance.addr));
            content.elements.insert((map, key(*entrance)), Value::Bytes(value));
        }
        for (group, targets) in &nat.groups {
            for (index, (addr, port)) in (0u32..).zip(targets) {
                let mut key = group.to_ne_bytes().to_vec();
                key.extend(index.to_ne_bytes());
                let mut target = wire::ip_bytes(*addr);
                target.extend(padded_port(*port));
                let map = Map::Slots(Ip::of_addr(*addr));
                content.elements.insert((map, key), Value::Bytes(target));
            }
        }
        let sticky = nat.entrances.values().filter_map(|fate| match fate {
            Fate::Forward { group, timeout_s: Some(_), .. } => Some(group),
            _ => None,
        });
        for group in sticky.collect::<BTreeSet<_>>() {
            for (addr, port) in nat.groups.get(group).into_iter().flatten() {
                let mut member = wire::ip_bytes(*addr);
                member.extend(padded_port(*port));
                member.extend(group.to_ne_bytes());
                let map = Map::Members(Ip::of_addr(*addr));
                content.elements.insert((map, member), Value::None);
            }
        }
        for local in &nat.local {
            let ip = Ip::of_addr(local.addr);
            content.elements.insert((Map::Tracked(ip), key(*local)), Value::None);
            let twice = [wire::ip_bytes(local.addr), wire::ip_bytes(local.addr)].concat();
            content.elements.insert((Map::Hairpin(ip), twice), Value::None);
        }
        for (class, number) in &content.classes {
            let value = match class {
                Class::Drop => Value::Drop,
                class => Value::Goto(chain_name(class, *number)),
            };
            let key = (Map::Classes, number.to_ne_bytes().to_vec());
            content.elements.insert(key, value);
        }
        content
    }

    fn class_of(&mut self, nat: &Nat, fate: &Fate, previous: &Self) -> (u32, u32) {
        let (class, group) = match fate {
            Fate::Drop => (Class::Drop, 0),
            Fate::Refuse => (Class::Refuse, 0),
            Fate::Forward { group, timeout_s, sources } => {
                let targets = nat.groups.get(group).map_or(0, Vec::len);
                let count = u32::try_from(targets).unwrap_or(u32::MAX);
                let timeout_s = timeout_s.unwrap_or(0);
                let class = match sources {
                    _ if count == 0 => Class::Refuse,
                    None => Class::Pick { count, timeout_s },
                    Some(sources) => Class::From { sources: sources.clone(), count, timeout_s },
                };
                (class, *group)
            }
        };
        let known = self.classes.get(&class).or_else(|| previous.classes.get(&class)).copied();
        let number = known.unwrap_or_else(|| {
            // From 1: what is not there reads as 0.
            self.next_class += 1;
            self.next_class
        });
        self.classes.insert(class, number);
        (number, group)
    }

    /// The chains, with what they do.
    pub(super) fn chains(&self) -> impl Iterator<Item = (String, &Class)> {
        let all = self.classes.iter().filter(|(class, _)| **class != Class::Drop);
        all.map(|(class, number)| (chain_name(class, *number), class))
    }
}

/// `class-<number>`: a class never changes what it means, so neither does its chain.
fn chain_name(class: &Class, number: u32) -> String {
    match class {
        Class::Refuse => "refuse".to_owned(),
        _ => format!("class-{number}"),
    }
}

/// Address, protocol and port, each in whole registers of four bytes.
fn key(entrance: Entrance) -> Vec<u8> {
    let mut key = wire::ip_bytes(entrance.addr);
    key.extend([entrance.protocol, 0, 0, 0]);
    key.extend(padded_port(entrance.port));
    key
}

fn padded_port(port: u16) -> [u8; 4] {
    let [hi, lo] = port.to_be_bytes();
    [hi, lo, 0, 0]
}

impl Ip {
    pub(super) fn of_addr(addr: IpAddr) -> Self {
        if addr.is_ipv4() { IPV4 } else { IPV6 }
    }

    fn digit(self) -> char {
        if self == IPV4 { '4' } else { '6' }
    }
}

impl Map {
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let of = |ip| {
            let (members, tracked) = (Self::Members(ip), Self::Tracked(ip));
            [Self::Frontends(ip), Self::Slots(ip), members, tracked, Self::Hairpin(ip)]
        };
        of(IPV4).into_iter().chain(of(IPV6)).chain([Self::Classes])
    }

    pub(super) fn name(self) -> String {
        match self {
            Self::Frontends(ip) => format!("frontends{}", ip.digit()),
            Self::Slots(ip) => format!("slots{}", ip.digit()),
            Self::Members(ip) => format!("members{}", ip.digit()),
            Self::Tracked(ip) => format!("tracked{}", ip.digit()),
            Self::Hairpin(ip) => format!("hairpin{}", ip.digit()),
            Self::Classes => "classes".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(addr: &str, port: u16) -> Entrance {
        Entrance { addr: addr.parse().expect("address"), port, protocol: 6 }
    }

    fn forward(group: u32) -> Fate {
        Fate::Forward { group, timeout_s: None, sources: None }
    }

    fn targets(n: u8) -> Vec<(IpAddr, u16)> {
        (1..=n).map(|i| (IpAddr::from([10, 0, 0, i]), 80)).collect()
    }

    #[test]
    fn a_change_of_one_group_touches_its_own_elements_only() {
        let mut nat = Nat::default();
        for n in 0..50u32 {
            nat.entrances.insert(at("192.0.2.1", 1000 + n as u16), forward(n));
            nat.groups.insert(n, targets(3));
        }
        let before = Content::of(&nat, &Content::default());
        assert_eq!(before.chains().count(), 1, "one chain for all that have three targets");
        assert_eq!(before.elements.len(), 50 + 150 + 1);
        nat.groups.insert(7, targets(4));
        let after = Content::of(&nat, &before);
        let changed = after.elements.iter().filter(|(k, v)| before.elements.get(k) != Some(v));
        // Its entrance, its new slot, the class of four.
        assert_eq!(changed.count(), 3);
        assert!(before.elements.keys().all(|k| after.elements.contains_key(k)));
    }

    #[test]
    fn classes_keep_their_numbers_and_a_number_never_means_two_things() {
        let with = |n: u8, previous: &Content| {
            let mut nat = Nat::default();
            nat.entrances.insert(at("192.0.2.1", 80), forward(1));
            nat.groups.insert(1, targets(n));
            Content::of(&nat, previous)
        };
        let one = with(1, &Content::default());
        let two = with(2, &one);
        let again = with(1, &two);
        let names = |c: &Content| c.chains().map(|(n, _)| n).collect::<Vec<_>>();
        assert_eq!(names(&one), ["class-1"]);
        assert_eq!(names(&two), ["class-2"]);
        assert_eq!(names(&again), ["class-3"]);
        assert_eq!(names(&with(1, &again)), ["class-3"]);
    }

    #[test]
    fn a_group_without_targets_refuses() {
        let mut nat = Nat::default();
        nat.entrances.insert(at("2001:db8::1", 80), forward(9));
        let content = Content::of(&nat, &Content::default());
        assert_eq!(content.chains().map(|(n, _)| n).collect::<Vec<_>>(), ["refuse"]);
    }
}
