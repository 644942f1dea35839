//! The content of the maps as their owner keeps it, and how a difference between two [`Nat`]s
//! becomes a difference between elements; pure.
//!
//! The same [`Nat`] has many contents: classes have their numbers, and targets their slots,
//! from what was before, so that a change touches few elements. They mean the same.
//!
//! A rule that looks up a map costs the size of that map when it is made, because the kernel
//! checks each element against the registers (`nf_tables_bind_set`). So chains that pick a
//! target are not made and thrown away with each change: those for a few targets are there
//! before they are needed, and others stay when nothing is of their class any more.

use super::{
    Ip,
    element::{self, ClassChain, Map, Place, Value},
    nat::{Delta, Entrance, Fate, Nat, Target, Targets},
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// Up to so many targets the classes are always there.
const RESERVED: u32 = 32;
/// So many more stay although nothing is of them.
const SPARE_MAX: usize = 256;

/// How a target is chosen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Drop,
    Refuse,
    Pick {
        count: u32,
        timeout_s: u32,
        by_client: bool,
    },
    /// As the `Pick` does whose number is `pick`, for clients out of these ranges.
    From {
        sources: Vec<IpNet>,
        pick: u32,
    },
}

/// An entrance with its class.
#[derive(Clone, Debug)]
struct Led {
    /// `None` while it is being removed.
    fate: Option<Fate>,
    /// `None` while it is being added.
    class: Option<u32>,
}

/// A group with who leads to it.
#[derive(Clone, Debug, Default)]
struct Group {
    protocol: u8,
    /// By index.
    slots: Vec<Target>,
    /// Whether the order of slots is its owner's.
    by_client: bool,
    entrances: BTreeSet<Entrance>,
    /// How many of these keep clients with their target.
    sticky: usize,
}

impl Group {
    /// Whether these are its targets, in whatever order where that does not count.
    fn has(&self, targets: &Targets) -> bool {
        if self.slots.is_empty() && targets.all.is_empty() {
            return true;
        }
        if self.by_client != targets.by_client {
            return false;
        }
        if self.by_client || self.slots == targets.all {
            return self.slots == targets.all && self.protocol == targets.protocol;
        }
        let sorted = |targets: &[Target]| {
            let mut sorted = targets.to_vec();
            sorted.sort_unstable();
            sorted
        };
        self.protocol == targets.protocol
            && self.slots.len() == targets.all.len()
            && sorted(&self.slots) == sorted(&targets.all)
    }
}

#[derive(Clone, Debug)]
struct Numbered {
    class: Class,
    /// How many entrances are of it, and classes need it.
    users: usize,
}

/// Where new flows of an entrance go.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Goes {
    /// To one of these.
    To(BTreeSet<(IpAddr, u16)>),
    /// To the address where they are refused.
    Refused,
    Nowhere,
    /// It is none: packets keep their destination.
    Untouched,
}

impl Goes {
    /// Whether some flow that goes here may not go there.
    fn loses_by(&self, new: &Self) -> bool {
        match (self, new) {
            // More targets leave nobody behind.
            (Self::To(before), Self::To(after)) => !before.is_subset(after),
            (before, after) => before != after,
        }
    }
}

/// All of it.
#[derive(Clone, Debug)]
pub(super) struct Content {
    entrances: BTreeMap<Entrance, Led>,
    groups: BTreeMap<u32, Group>,
    /// By number, from 1: what is not there reads as 0.
    classes: BTreeMap<u32, Numbered>,
    numbers: BTreeMap<Class, u32>,
    class_last: u32,
    /// Targets on this node, with in how many groups they are.
    tracked: BTreeMap<Entrance, usize>,
    /// Their addresses, with how many targets each has.
    hairpin: BTreeMap<IpAddr, usize>,
    elements: usize,
}

impl Default for Content {
    fn default() -> Self {
        let class = |count| Class::Pick { count, timeout_s: 0, by_client: false };
        let all = 1..=RESERVED;
        Self {
            entrances: BTreeMap::new(),
            groups: BTreeMap::new(),
            classes: all.clone().map(|n| (n, Numbered { class: class(n), users: 0 })).collect(),
            numbers: all.clone().map(|n| (class(n), n)).collect(),
            class_last: RESERVED,
            tracked: BTreeMap::new(),
            hairpin: BTreeMap::new(),
            elements: all.count(),
        }
    }
}

/// What a difference does to elements and chains.
#[derive(Debug, Default)]
pub(super) struct Edits {
    /// What was there before, and what shall be.
    elements: BTreeMap<Place, (Option<Value>, Option<Value>)>,
    pub(super) new_chains: Vec<(ClassChain, Class)>,
    pub(super) old_chains: Vec<ClassChain>,
    /// UDP entrances some of whose flows may have gone astray.
    pub(super) suspects: BTreeSet<Entrance>,
}

impl Edits {
    pub(super) fn edit(&mut self, place: Place, before: Option<Value>, after: Option<Value>) {
        self.elements.entry(place).or_insert((before, None)).1 = after;
    }

    /// How many elements differ.
    pub(super) fn len(&self) -> usize {
        self.elements.values().filter(|(before, after)| before != after).count()
    }

    /// Elements to delete, ordered by map.
    pub(super) fn stale(&self) -> impl Iterator<Item = Place> {
        let differ = self.elements.iter().filter(|(_, (before, after))| before != after);
        differ.filter(|(_, (before, _))| before.is_some()).map(|(place, _)| *place)
    }

    /// Elements to store, ordered by map.
    pub(super) fn fresh(&self) -> impl Iterator<Item = (Place, Value)> {
        let differ = self.elements.iter().filter(|(_, (before, after))| before != after);
        differ.filter_map(|(place, (_, after))| Some((*place, (*after)?)))
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.new_chains.is_empty() && self.old_chains.is_empty() && self.len() == 0
    }
}

impl Content {
    /// How many elements there are in all maps.
    pub(super) fn len(&self) -> usize {
        self.elements
    }

    /// Makes the difference part of the content, and tells what it does to elements.
    pub(super) fn apply(&mut self, delta: Delta) -> Edits {
        let mut edits = Edits::default();
        let mut touched: BTreeSet<Entrance> = delta.entrances.keys().copied().collect();
        for group in delta.groups.keys().filter_map(|n| self.groups.get(n)) {
            touched.extend(&group.entrances);
        }
        let udp = touched.iter().filter(|e| e.protocol == libc::IPPROTO_UDP as u8);
        let went: Vec<(Entrance, Goes)> = udp.map(|e| (*e, self.goes(e))).collect();

        for entrance in &touched {
            let value = self.value_of(entrance);
            edits.edit(element::frontend(*entrance), value, value);
        }
        for (number, targets) in delta.groups {
            self.set_group(number, targets, &mut edits);
        }
        for (entrance, fate) in delta.entrances {
            self.lead(entrance, fate, &mut edits);
        }
        let mut changed = BTreeMap::new();
        for entrance in touched {
            self.classify(entrance, &mut changed);
            let value = self.value_of(&entrance);
            edits.edit(element::frontend(entrance), None, value);
        }
        self.settle(changed, &mut edits);

        let suspects = went.iter().filter(|(e, before)| before.loses_by(&self.goes(e)));
        edits.suspects = suspects.map(|(e, _)| *e).collect();
        for (before, after) in edits.elements.values() {
            self.elements += usize::from(after.is_some());
            self.elements -= usize::from(before.is_some());
        }
        edits
    }

    /// Sets the targets of a group.
    fn set_group(&mut self, number: u32, targets: Option<Targets>, edits: &mut Edits) {
        let Targets { protocol, all, by_client } = targets.unwrap_or_default();
        let mut group = self.groups.remove(&number).unwrap_or_default();
        let slots = match (by_client, group.by_client) {
            (true, _) => all,
            (false, true) => kept_in_place(&[], &all),
            (false, false) => kept_in_place(&group.slots, &all),
        };
        for index in 0..slots.len().max(group.slots.len()) {
            let at = |slots: &[Target]| slots.get(index).map(|t| element::slot(number, index, *t));
            let (before, after) = (at(&group.slots), at(&slots));
            if before == after {
                continue;
            }
            if let Some((place, value)) = before {
                edits.edit(place, Some(value), None);
            }
            if let Some((place, value)) = after {
                let was = before.filter(|(p, _)| *p == place).map(|(_, value)| value);
                edits.edit(place, was, Some(value));
            }
        }
        if group.sticky > 0 {
            remember(number, &group.slots, &slots, edits);
        }
        // What comes first counts first: no element goes and comes back.
        for target in slots.iter().filter(|t| t.here) {
            self.track(protocol, *target, edits);
        }
        for target in group.slots.iter().filter(|t| t.here) {
            self.untrack(group.protocol, *target, edits);
        }
        (group.slots, group.protocol, group.by_client) = (slots, protocol, by_client);
        if !group.slots.is_empty() || !group.entrances.is_empty() {
            self.groups.insert(number, group);
        }
    }

    fn track(&mut self, protocol: u8, target: Target, edits: &mut Edits) {
        let local = Entrance { addr: target.addr, port: target.port, protocol };
        let count = self.tracked.entry(local).or_default();
        *count += 1;
        if *count > 1 {
            return;
        }
        edits.edit(element::tracked(local), None, Some(Value::None));
        let count = self.hairpin.entry(local.addr).or_default();
        *count += 1;
        if *count == 1 {
            edits.edit(element::hairpin(local.addr), None, Some(Value::None));
        }
    }

    fn untrack(&mut self, protocol: u8, target: Target, edits: &mut Edits) {
        let local = Entrance { addr: target.addr, port: target.port, protocol };
        if !one_less(&mut self.tracked, &local) {
            return;
        }
        edits.edit(element::tracked(local), Some(Value::None), None);
        if one_less(&mut self.hairpin, &local.addr) {
            edits.edit(element::hairpin(local.addr), Some(Value::None), None);
        }
    }

    /// Sets what becomes of an entrance, all but its class.
    fn lead(&mut self, entrance: Entrance, fate: Option<Fate>, edits: &mut Edits) {
        let old = self.entrances.get(&entrance).and_then(|led| led.fate.clone());
        // First the new group, then the old one: where both are one, its members stay.
        if let Some(Fate::Forward { group: number, timeout_s, .. }) = &fate {
            let group = self.groups.entry(*number).or_default();
            group.entrances.insert(entrance);
            group.sticky += usize::from(timeout_s.is_some());
            if group.sticky == 1 && timeout_s.is_some() {
                remember(*number, &[], &group.slots, edits);
            }
        }
        if let Some(Fate::Forward { group: number, timeout_s, .. }) = &old {
            let group = self.groups.entry(*number).or_default();
            if fate.as_ref().and_then(group_of) != Some(*number) {
                group.entrances.remove(&entrance);
            }
            group.sticky -= usize::from(timeout_s.is_some());
            if group.sticky == 0 && timeout_s.is_some() {
                remember(*number, &group.slots, &[], edits);
            }
            if group.slots.is_empty() && group.entrances.is_empty() {
                self.groups.remove(number);
            }
        }
        if let Some(led) = self.entrances.get_mut(&entrance) {
            led.fate = fate;
        } else if fate.is_some() {
            self.entrances.insert(entrance, Led { fate, class: None });
        }
    }

    /// Puts an entrance into the class that it is of now. `changed`: classes that were made
    /// (`true`), and others that lost a user.
    fn classify(&mut self, entrance: Entrance, changed: &mut BTreeMap<u32, bool>) {
        let Some(led) = self.entrances.get(&entrance) else { return };
        let old = led.class;
        let new = led.fate.clone().map(|fate| self.class_of(&fate, changed));
        if new != old {
            if let Some(n) = new.and_then(|n| self.classes.get_mut(&n)) {
                n.users += 1;
            }
            old.into_iter().for_each(|n| self.leave(n, changed));
        }
        match (new, self.entrances.get_mut(&entrance)) {
            (Some(_), Some(led)) => led.class = new,
            _ => {
                self.entrances.remove(&entrance);
            }
        }
    }

    fn class_of(&mut self, fate: &Fate, changed: &mut BTreeMap<u32, bool>) -> u32 {
        let group = group_of(fate).and_then(|n| self.groups.get(&n));
        let (count, by_client) = group.map_or((0, false), |g| (g.slots.len(), g.by_client));
        match fate {
            Fate::Drop => self.number_of(Class::Drop, changed),
            Fate::Forward { timeout_s, sources, .. } if count > 0 => {
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                let timeout_s = timeout_s.unwrap_or(0);
                let pick = self.number_of(Class::Pick { count, timeout_s, by_client }, changed);
                let Some(sources) = sources.clone() else { return pick };
                let known = self.class_last;
                let number = self.number_of(Class::From { sources, pick }, changed);
                if number > known
                    && let Some(n) = self.classes.get_mut(&pick)
                {
                    n.users += 1;
                }
                number
            }
            Fate::Refuse | Fate::Forward { .. } => self.number_of(Class::Refuse, changed),
        }
    }

    fn number_of(&mut self, class: Class, changed: &mut BTreeMap<u32, bool>) -> u32 {
        if let Some(known) = self.numbers.get(&class) {
            return *known;
        }
        self.class_last += 1;
        let number = self.class_last;
        self.numbers.insert(class.clone(), number);
        self.classes.insert(number, Numbered { class, users: 0 });
        changed.insert(number, true);
        number
    }

    fn leave(&mut self, number: u32, changed: &mut BTreeMap<u32, bool>) {
        if let Some(n) = self.classes.get_mut(&number) {
            n.users -= 1;
            changed.entry(number).or_insert(false);
        }
    }

    /// Chains for the classes that are new, none for those that nothing is of any more and
    /// that are not kept.
    fn settle(&mut self, mut changed: BTreeMap<u32, bool>, edits: &mut Edits) {
        // From the last: a class has a higher number than the one that it needs.
        while let Some((number, is_new)) = changed.pop_last() {
            let Some(Numbered { class, users }) = self.classes.get(&number) else { continue };
            let (class, used) = (class.clone(), *users > 0);
            let (value, chain) = led_to(number, &class);
            if is_new && used {
                edits.edit(element::class(number), None, Some(value));
                edits.new_chains.extend(chain.map(|chain| (chain, class)));
            } else if !used && (is_new || !self.keeps(number, &class)) {
                self.classes.remove(&number);
                self.numbers.remove(&class);
                if let Class::From { pick, .. } = class {
                    self.leave(pick, &mut changed);
                }
                if !is_new {
                    edits.edit(element::class(number), Some(value), None);
                    edits.old_chains.extend(chain);
                }
            }
        }
        // And made the other way round.
        edits.new_chains.reverse();
    }

    /// Whether a class stays although nothing is of it.
    fn keeps(&self, number: u32, class: &Class) -> bool {
        let is_spare = |(n, numbered): &(&u32, &Numbered)| **n > RESERVED && numbered.users == 0;
        number <= RESERVED
            || !matches!(class, Class::From { .. })
                && self.classes.iter().filter(is_spare).count() <= SPARE_MAX
    }

    /// The element of an entrance.
    fn value_of(&self, entrance: &Entrance) -> Option<Value> {
        let Led { fate, class } = self.entrances.get(entrance)?;
        Some(element::class_and_group((*class)?, group_of(fate.as_ref()?).unwrap_or(0)))
    }

    /// Where new flows of an entrance go.
    pub(super) fn goes(&self, entrance: &Entrance) -> Goes {
        match self.entrances.get(entrance).and_then(|led| led.fate.as_ref()) {
            None => Goes::Untouched,
            Some(Fate::Drop) => Goes::Nowhere,
            Some(Fate::Refuse) => Goes::Refused,
            Some(Fate::Forward { group, .. }) => {
                let slots = self.groups.get(group).into_iter().flat_map(|g| &g.slots);
                match slots.map(|t| (t.addr, t.port)).collect::<BTreeSet<_>>() {
                    none if none.is_empty() => Goes::Refused,
                    targets => Goes::To(targets),
                }
            }
        }
    }

    /// The difference from what is there to `nat`.
    pub(super) fn until(&self, nat: Nat) -> Delta {
        let mut delta = Delta::default();
        let gone = self.entrances.keys().filter(|e| !nat.entrances.contains_key(e));
        delta.entrances.extend(gone.map(|e| (*e, None)));
        let other = |(e, fate): &(Entrance, Fate)| {
            self.entrances.get(e).is_none_or(|led| led.fate.as_ref() != Some(fate))
        };
        let differ = nat.entrances.into_iter().filter(other);
        delta.entrances.extend(differ.map(|(e, fate)| (e, Some(fate))));
        let gone =
            self.groups.iter().filter(|(n, g)| !g.slots.is_empty() && !nat.groups.contains_key(n));
        delta.groups.extend(gone.map(|(n, _)| (*n, None)));
        let none = Group::default();
        let differ = nat.groups.into_iter();
        let differ = differ.filter(|(n, t)| !self.groups.get(n).unwrap_or(&none).has(t));
        delta.groups.extend(differ.map(|(n, targets)| (n, Some(targets))));
        delta
    }

    /// The elements of one map.
    pub(super) fn elements_of(&self, map: Map) -> Box<dyn Iterator<Item = (Place, Value)> + '_> {
        match map {
            Map::Frontends(ip) => {
                let all = self.entrances.keys().filter(move |e| Ip::of_addr(e.addr) == ip);
                Box::new(all.filter_map(|e| Some((element::frontend(*e), self.value_of(e)?))))
            }
            Map::Slots(ip) => Box::new(self.groups.iter().flat_map(move |(number, group)| {
                let all = group.slots.iter().enumerate();
                let of_version = all.filter(move |(_, t)| Ip::of_addr(t.addr) == ip);
                of_version.map(|(index, t)| element::slot(*number, index, *t))
            })),
            Map::Members(ip) => {
                let sticky = self.groups.iter().filter(|(_, g)| g.sticky > 0);
                Box::new(sticky.flat_map(move |(number, group)| {
                    let of_version = group.slots.iter().filter(move |t| Ip::of_addr(t.addr) == ip);
                    // One may be in many slots.
                    let places = of_version.map(|t| element::member(*number, *t));
                    places.collect::<BTreeSet<_>>().into_iter().map(|place| (place, Value::None))
                }))
            }
            Map::Tracked(ip) => {
                let all = self.tracked.keys().filter(move |e| Ip::of_addr(e.addr) == ip);
                Box::new(all.map(|e| (element::tracked(*e), Value::None)))
            }
            Map::Hairpin(ip) => {
                let all = self.hairpin.keys().filter(move |a| Ip::of_addr(**a) == ip);
                Box::new(all.map(|a| (element::hairpin(*a), Value::None)))
            }
            Map::Classes => Box::new(self.classes.iter().map(|(number, numbered)| {
                (element::class(*number), led_to(*number, &numbered.class).0)
            })),
        }
    }

    /// The chains, with what they do.
    pub(super) fn chains(&self) -> impl Iterator<Item = (ClassChain, &Class)> {
        self.classes.iter().filter_map(|(number, n)| Some((led_to(*number, &n.class).1?, &n.class)))
    }
}

/// What the map of classes says of one, and its chain.
fn led_to(number: u32, class: &Class) -> (Value, Option<ClassChain>) {
    let chain = match class {
        Class::Drop => return (Value::Drop, None),
        Class::Refuse => ClassChain::Refuse,
        Class::Pick { .. } | Class::From { .. } => ClassChain::Numbered(number),
    };
    (Value::Goto(chain), Some(chain))
}

/// The slots of `wanted`: those that stay keep theirs, except that the last fills the gap that
/// another leaves.
fn kept_in_place(before: &[Target], wanted: &[Target]) -> Vec<Target> {
    let wanted: BTreeMap<(IpAddr, u16), Target> =
        wanted.iter().map(|t| ((t.addr, t.port), *t)).collect();
    let mut slots = before.to_vec();
    let mut index = 0;
    while let Some(slot) = slots.get_mut(index) {
        match wanted.get(&(slot.addr, slot.port)) {
            Some(target) => {
                *slot = *target;
                index += 1;
            }
            None => {
                slots.swap_remove(index);
            }
        }
    }
    let kept: BTreeSet<(IpAddr, u16)> = slots.iter().map(|t| (t.addr, t.port)).collect();
    slots.extend(wanted.iter().filter(|(k, _)| !kept.contains(*k)).map(|(_, t)| *t));
    slots
}

fn group_of(fate: &Fate) -> Option<u32> {
    match fate {
        Fate::Forward { group, .. } => Some(*group),
        Fate::Refuse | Fate::Drop => None,
    }
}

/// From one list of members to another.
fn remember(group: u32, old: &[Target], new: &[Target], edits: &mut Edits) {
    for target in old {
        edits.edit(element::member(group, *target), Some(Value::None), None);
    }
    for target in new {
        edits.edit(element::member(group, *target), None, Some(Value::None));
    }
}

/// Whether that was the last.
fn one_less<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) -> bool {
    match counts.get_mut(key) {
        Some(1) => counts.remove(key).is_some(),
        Some(count) => {
            *count -= 1;
            false
        }
        None => false,
    }
}

#[cfg(test)]
#[path = "content_tests.rs"]
pub(super) mod tests;
