//! Against a model of the kernel, which refuses what the kernel refuses.

use super::*;
use proptest::prelude::*;

/// The chain that another one goes to.
fn needs(class: &Class) -> Option<ClassChain> {
    match class {
        Class::From { pick, .. } => Some(ClassChain::Numbered(*pick)),
        _ => None,
    }
}

/// What the kernel has.
#[derive(Debug, Default)]
pub(in super::super) struct Kernel {
    pub(in super::super) elements: BTreeMap<Place, Value>,
    pub(in super::super) chains: BTreeMap<ClassChain, Class>,
}

impl Kernel {
    fn commit(&mut self, edits: &Edits) {
        for (chain, class) in &edits.new_chains {
            let before = self.chains.insert(*chain, class.clone());
            assert_eq!(before, None, "{chain} is there already");
            assert!(needs(class).is_none_or(|c| self.chains.contains_key(&c)), "{class:?}");
        }
        for place in edits.stale() {
            assert!(self.elements.remove(&place).is_some(), "{place:?} is not there");
        }
        for (place, value) in edits.fresh() {
            let before = self.elements.insert(place, value);
            assert_eq!(before, None, "{place:?} is there already");
            if let Value::Goto(chain) = value {
                assert!(self.chains.contains_key(&chain), "{chain} is not there");
            }
        }
        for chain in &edits.old_chains {
            assert!(self.chains.remove(chain).is_some(), "{chain} is not there");
            let used = self.elements.values().any(|v| *v == Value::Goto(*chain))
                || self.chains.values().any(|class| needs(class) == Some(*chain));
            assert!(!used, "{chain} is used");
        }
    }

    pub(in super::super) fn written(content: &Content) -> Self {
        let elements = Map::ALL.into_iter().flat_map(|map| content.elements_of(map));
        let chains = content.chains().map(|(chain, class)| (chain, class.clone()));
        Self { elements: elements.collect(), chains: chains.collect() }
    }

    /// The same without the numbers of classes and the order of slots, which have a history.
    pub(in super::super) fn meaning(&self) -> BTreeSet<String> {
        let class = |number: &[u8]| {
            let key = number.try_into().map(u32::from_ne_bytes).expect("a class");
            match self.elements[&element::class(key)] {
                Value::Goto(chain) => match &self.chains[&chain] {
                    Class::From { sources, pick } => {
                        format!("{sources:?} {:?}", self.chains[&ClassChain::Numbered(*pick)])
                    }
                    class => format!("{class:?}"),
                },
                other => format!("{other:?}"),
            }
        };
        let mut slots: BTreeMap<&[u8], Vec<&[u8]>> = BTreeMap::new();
        let (mut said, mut ordered) = (BTreeSet::new(), BTreeSet::new());
        for ((map, key), value) in &self.elements {
            let key = key.get();
            match (map, value) {
                (Map::Frontends(_), Value::Bytes(value)) => {
                    let (number, group) = value.get()[4..].split_at(4);
                    let class = class(number);
                    if class.contains("by_client: true") {
                        ordered.insert(group);
                    }
                    said.insert(format!("{map:?} {key:?}: {class} {group:?}"));
                }
                (Map::Slots(_), Value::Bytes(value)) => {
                    let (group, index) = key.split_at(4);
                    let slots = slots.entry(group).or_default();
                    let next = u32::try_from(slots.len()).expect("few").to_ne_bytes();
                    assert_eq!(index, next, "the slots of a group have no gap");
                    slots.push(value.get());
                }
                // Some are there that nothing is of.
                (Map::Classes, _) => {}
                _ => {
                    said.insert(format!("{map:?} {key:?}: {value:?}"));
                }
            }
        }
        for (group, slots) in &mut slots {
            if !ordered.contains(group) {
                slots.sort_unstable();
            }
            said.insert(format!("{group:?}: {slots:?}"));
        }
        said
    }
}

fn entrance(n: u8) -> Entrance {
    let addr = if n.is_multiple_of(2) {
        IpAddr::from([192, 0, 2, n / 4])
    } else {
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n / 4)])
    };
    // An even number is of IPv4, as its group is; every other pair is UDP.
    Entrance { addr, port: 80, protocol: if n % 4 < 2 { 6 } else { 17 } }
}

fn target(group: u32, n: u8, here: bool) -> Target {
    let addr = if group.is_multiple_of(2) {
        IpAddr::from([10, 0, 0, n])
    } else {
        IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)])
    };
    Target { addr, port: 8080, here }
}

/// The groups of a version are the even or the odd ones; only the first six ever exist.
fn fate(version: u8) -> impl Strategy<Value = Fate> {
    let sources = prop_oneof![
        3 => Just(None),
        1 => Just(Some(vec!["198.51.100.0/24".parse::<IpNet>().expect("prefix")])),
    ];
    let timeout_s = prop_oneof![2 => Just(None), 1 => Just(Some(60u32))];
    let group = (0..4u32).prop_map(move |n| 2 * n + u32::from(version));
    prop_oneof![
        1 => Just(Fate::Refuse),
        1 => Just(Fate::Drop),
        6 => (group, timeout_s, sources)
            .prop_map(|(group, timeout_s, sources)| Fate::Forward { group, timeout_s, sources }),
    ]
}

pub(in super::super) fn delta() -> impl Strategy<Value = Delta> {
    let entrance_of = (0..16u8)
        .prop_flat_map(|n| (Just(entrance(n)), proptest::option::weighted(0.8, fate(n % 2))));
    let group_of = (0..6u32).prop_flat_map(|number| {
        // Targets are on this node or not, whichever group they are in.
        let all = proptest::collection::btree_set(0..6u8, 0..5);
        let all = all.prop_map(|all| all.into_iter().collect::<Vec<u8>>()).prop_shuffle();
        let all = (all, proptest::bool::weighted(0.3)).prop_map(move |(all, by_client)| {
            let mut all: Vec<Target> =
                all.into_iter().map(|n| target(number, n, n % 3 == 0)).collect();
            if by_client {
                // A table, in which each is more than once.
                all.extend(all.clone().into_iter().rev());
            }
            Targets { protocol: if number < 4 { 6 } else { 17 }, all, by_client }
        });
        (Just(number), proptest::option::weighted(0.8, all))
    });
    (
        proptest::collection::btree_map((0..16u8).prop_map(entrance), Just(None), 0..2),
        proptest::collection::vec(entrance_of, 0..5),
        proptest::collection::vec(group_of, 0..3),
    )
        .prop_map(|(gone, entrances, groups)| Delta {
            entrances: gone.into_iter().chain(entrances).collect(),
            groups: groups.into_iter().collect(),
        })
}

proptest! {
    /// Any history of differences is what the full write of the final state is, element by
    /// element; and what the kernel is sent is what it takes.
    #[test]
    fn differences_add_up_to_the_whole(history in proptest::collection::vec(delta(), 1..12)) {
        let (mut content, mut nat) = <(Content, Nat)>::default();
        let mut kernel = Kernel::written(&content);
        for delta in history {
            nat.apply(&delta);
            kernel.commit(&content.apply(delta));
            prop_assert_eq!(kernel.elements.len(), content.len());
            // What its owner believes is what the kernel has,
            let written = Kernel::written(&content);
            prop_assert_eq!(&kernel.elements, &written.elements);
            prop_assert_eq!(&kernel.chains, &written.chains);
            // and means what it would mean without a history.
            let mut anew = Content::default();
            anew.apply(Delta::all(nat.clone()));
            prop_assert_eq!(kernel.meaning(), Kernel::written(&anew).meaning());
            // Nothing is left to do.
            let left = content.until(nat.clone());
            prop_assert!(left.entrances.is_empty(), "{:?}", left);
            prop_assert!(content.clone().apply(left).is_empty());
        }
    }

    /// All at once is the same as a difference.
    #[test]
    fn the_whole_can_be_set_by_its_difference(before in delta(), after in delta()) {
        let (mut nat, mut content) = <(Nat, Content)>::default();
        let mut kernel = Kernel::written(&content);
        kernel.commit(&content.apply(before));
        nat.apply(&after);
        let delta = content.until(nat.clone());
        kernel.commit(&content.apply(delta));
        let mut anew = Content::default();
        anew.apply(Delta::all(nat));
        prop_assert_eq!(kernel.meaning(), Kernel::written(&anew).meaning());
    }
}

fn forward(group: u32) -> Fate {
    Fate::Forward { group, timeout_s: None, sources: None }
}

fn targets(n: u8) -> Targets {
    let all = (1..=n).map(|i| target(0, i, false)).collect();
    Targets { protocol: 17, all, by_client: false }
}

#[test]
fn a_change_of_one_group_touches_its_own_elements_only() {
    let (mut content, mut all) = <(Content, Delta)>::default();
    for n in 0..50u16 {
        let at = Entrance { port: n, ..entrance(2) };
        all.entrances.insert(at, Some(forward(n.into())));
        all.groups.insert(n.into(), Some(targets(3)));
    }
    assert_eq!(content.apply(all).new_chains.len(), 0, "the class of three is there");
    assert_eq!(content.len(), 50 + 150 + RESERVED as usize);
    let one = |targets| Delta { groups: [(7, Some(targets))].into(), ..Delta::default() };
    // Its entrance, and its new slot.
    let more = content.apply(one(targets(4)));
    assert_eq!((more.stale().count(), more.fresh().count()), (1, 2));
    assert_eq!(more.suspects.len(), 0, "more targets leave nobody behind");
    // The last takes the place of the second.
    let mut less = targets(4);
    less.all.remove(1);
    let less = content.apply(one(less));
    assert_eq!((less.stale().count(), less.fresh().count()), (3, 2));
    assert_eq!(less.suspects.len(), 1);
    assert!(content.apply(one(content_of(&content, 7))).is_empty(), "set again");
}

fn content_of(content: &Content, group: u32) -> Targets {
    let mut all = content.groups[&group].slots.clone();
    all.reverse();
    Targets { protocol: 17, all, by_client: false }
}

/// Chains are made once, and go when there are too many; numbers are not used again.
#[test]
fn classes_stay_for_the_next_who_is_of_them() {
    let mut content = Content::default();
    let mut with = |n: u16, sources: Option<Vec<IpNet>>| {
        let all = (0..n).map(|i| Target { port: i, ..target(0, 1, false) }).collect();
        let groups = [(0, Some(Targets { protocol: 6, all, by_client: false }))].into();
        let fate = Fate::Forward { group: 0, timeout_s: None, sources };
        let edits = content.apply(Delta { entrances: [(entrance(0), Some(fate))].into(), groups });
        let made = edits.new_chains.iter().map(|(name, _)| name.to_string());
        (made.collect::<Vec<_>>(), edits.old_chains.len(), content.chains().count())
    };
    let reserved = RESERVED as usize;
    assert_eq!(with(3, None), (vec![], 0, reserved));
    assert_eq!(with(99, None), (vec!["class-33".to_owned()], 0, reserved + 1));
    assert_eq!(with(0, None), (vec!["refuse".to_owned()], 0, reserved + 2));
    assert_eq!(with(99, None), (vec![], 0, reserved + 2));
    let sources = || Some(vec!["198.51.100.0/24".parse::<IpNet>().expect("prefix")]);
    let both = vec!["class-35".to_owned(), "class-36".to_owned()];
    assert_eq!(with(98, sources()), (both, 0, reserved + 4));
    // Those for some sources are of nobody else, and cost little.
    assert_eq!(with(98, None), (vec![], 1, reserved + 3));
    assert_eq!(with(98, sources()), (vec!["class-37".to_owned()], 0, reserved + 4));
    for n in 100..1000 {
        let (_, _, chains) = with(n, if n % 2 == 0 { None } else { sources() });
        assert!(chains <= reserved + SPARE_MAX + 3, "{chains}");
    }
}

#[test]
fn only_udp_that_loses_a_target_is_looked_at() {
    let at = |protocol| Entrance { protocol, ..entrance(2) };
    let states = [
        (None, 0),
        (Some(forward(0)), 1),
        (Some(forward(0)), 2),
        (Some(Fate::Refuse), 0),
        (Some(Fate::Drop), 0),
    ];
    for (from, (before, n)) in states.iter().enumerate() {
        for (to, (after, m)) in states.iter().enumerate() {
            let delta = |fate: &Option<Fate>, n: u8| Delta {
                entrances: [6, 17].map(|p| (at(p), fate.clone())).into(),
                groups: [(0, Some(targets(n)))].into(),
            };
            let mut content = Content::default();
            content.apply(delta(before, *n));
            let suspects = content.apply(delta(after, *m)).suspects;
            let lost = from != to && (from, to) != (1, 2);
            let expected = if lost { BTreeSet::from([at(17)]) } else { BTreeSet::new() };
            assert_eq!(suspects, expected, "{before:?} {n} {after:?} {m}");
        }
    }
}
