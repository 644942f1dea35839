//! The map against the standard library's.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Checks what the functions rely on, and counts the nodes.
fn nodes(map: &Map<u16, u32>) -> usize {
    fn walk(node: &Node<u16, u32>, low: Option<u16>, high: Option<u16>) -> usize {
        assert!((1..=WIDTH_MAX).contains(&node.width()));
        match node {
            Node::Leaf(entries) => {
                assert!(entries.is_sorted_by(|a, b| a.0 < b.0));
                assert!(low.is_none_or(|l| entries[0].0 >= l));
                assert!(high.is_none_or(|h| entries[entries.len() - 1].0 < h));
                1
            }
            Node::Inner { height, children } => {
                let mut count = 1;
                for (i, (bound, child)) in children.iter().enumerate() {
                    assert_eq!(child.height() + 1, *height);
                    let low = if i == 0 { low } else { Some(*bound) };
                    let high = children.get(i + 1).map_or(high, |c| Some(c.0));
                    count += walk(child, low, high);
                }
                count
            }
        }
    }
    map.root.as_ref().map_or(0, |root| walk(root, None, None))
}

fn differences(a: &Map<u16, u32>, b: &Map<u16, u32>) -> Vec<(u16, Option<u32>, Option<u32>)> {
    a.diff(b).map(|d| (*d.key, d.before.copied(), d.after.copied())).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u16, u32),
    Remove(u16),
    /// Inserts or removes a whole range, so that nodes come and go.
    Many(u16, u16, bool),
    Keep,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3000u16, 0..4u32).prop_map(|(k, v)| Step::Insert(k, v)),
        4 => (0..3000u16).prop_map(Step::Remove),
        1 => (0..3000u16, 1..1500u16, any::<bool>()).prop_map(|(k, n, i)| Step::Many(k, n, i)),
        2 => Just(Step::Keep),
    ]
}

proptest! {
    #[test]
    fn is_a_map_and_its_copies_never_change(steps in prop::collection::vec(step(), 0..40)) {
        let (mut map, mut model) = (Map::new(), BTreeMap::new());
        let mut kept = Vec::new();
        for step in steps {
            match step {
                Step::Insert(k, v) => prop_assert_eq!(map.insert(k, v), model.insert(k, v)),
                Step::Remove(k) => prop_assert_eq!(map.remove(&k), model.remove(&k)),
                Step::Many(from, n, insert) => for k in from..from + n {
                    if insert {
                        prop_assert_eq!(map.insert(k, 9), model.insert(k, 9));
                    } else {
                        prop_assert_eq!(map.remove(&k), model.remove(&k));
                    }
                },
                Step::Keep => kept.push((map.clone(), model.clone())),
            }
            nodes(&map);
            prop_assert_eq!(map.len(), model.len());
        }
        kept.push((map, model));
        for (map, model) in &kept {
            prop_assert!(map.iter().eq(model.iter()));
            for (k, v) in model {
                prop_assert_eq!(map.get(k), Some(v));
            }
            for (other, other_model) in &kept {
                let keys: std::collections::BTreeSet<u16> =
                    model.keys().chain(other_model.keys()).copied().collect();
                let expected: Vec<_> = keys
                    .into_iter()
                    .map(|k| (k, model.get(&k).copied(), other_model.get(&k).copied()))
                    .filter(|(_, a, b)| a != b)
                    .collect();
                prop_assert_eq!(map == other, expected.is_empty());
                prop_assert_eq!(differences(map, other), expected);
            }
        }
    }
}

/// A value that counts how often it is compared.
#[derive(Clone)]
struct Counted(u32, std::rc::Rc<std::cell::Cell<usize>>);

impl PartialEq for Counted {
    fn eq(&self, other: &Self) -> bool {
        self.1.set(self.1.get() + 1);
        self.0 == other.0
    }
}

#[test]
fn a_comparison_looks_at_what_is_not_shared_only() {
    let count = std::rc::Rc::new(std::cell::Cell::new(0));
    let value = |v| Counted(v, count.clone());
    let mut before: Map<u32, Counted> = (0..50_000).map(|k| (2 * k, value(0))).collect();
    for key in [0, 1, 40_000, 40_001, 99_998, 99_999, 200_000] {
        let mut after = before.clone();
        after.insert(key, value(1));
        count.set(0);
        assert_eq!(before.diff(&after).count(), 1);
        assert!(count.get() <= 4 * WIDTH_MAX, "{} comparisons for {key}", count.get());
        before = after;
    }
    for key in [0, 1, 40_000, 99_999] {
        let mut after = before.clone();
        assert!(after.remove(&key).is_some());
        count.set(0);
        assert_eq!(before.diff(&after).count(), 1);
        assert!(count.get() <= 4 * WIDTH_MAX, "{} comparisons for {key}", count.get());
        before = after;
    }
}

#[test]
fn what_comes_in_order_fills_its_nodes() {
    let map: Map<u16, u32> = (0..32_000).map(|k| (k, 0)).collect();
    assert!(nodes(&map) < 32_000 / WIDTH_MAX + 50, "{}", nodes(&map));
}

#[test]
fn what_shrinks_gives_its_nodes_back() {
    let mut map: Map<u16, u32> = (0..32_000).map(|k| (k, 0)).collect();
    for k in (0..32_000).filter(|k| k % 100 != 0) {
        map.remove(&k);
    }
    assert_eq!(map.len(), 320);
    assert!(nodes(&map) < 320 / 4, "{}", nodes(&map));
}

#[test]
fn an_absent_key_copies_nothing() {
    let mut map: Map<u16, u32> = (0..100).map(|k| (k, 0)).collect();
    let copy = map.clone();
    assert_eq!((map.remove(&500), map.get_mut(&500)), (None, None));
    assert!(map.same(&copy));
    *map.get_mut_or_default(500) += 1;
    assert_eq!((map[&500], copy.get(&500)), (1, None));
}
