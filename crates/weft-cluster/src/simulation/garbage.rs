//! Owners and dependents of kinds known and unknown to the planners, deleted in every manner,
//! with lost writes and broken watches: what stays is what a plain reading of the rules leaves.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::bench::Bench;
use crate::action::Delete;
use crate::config::Config;
use crate::kinds::{Kind, Resource};

const NS: &str = "ns";

fn kinds() -> [Kind; 3] {
    let resource = |kind: &str, plural: &str, namespaced| {
        let (api_version, kind) = ("example.com/v1".to_owned(), kind.to_owned());
        Resource { api_version, kind, plural: plural.to_owned(), namespaced }.intern()
    };
    [Kind::ConfigMap, resource("Widget", "widgets", true), resource("Gizmo", "gizmos", false)]
}

fn namespace(kind: Kind) -> &'static str {
    if kind.namespaced() { NS } else { "" }
}

/// One object of the model: its kind and its owners' names.
type Model = BTreeMap<String, (Kind, Vec<String>)>;

struct World {
    bench: Bench,
    model: Model,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut bench = Bench::new(seed, Config::default());
        bench.api.others = kinds()[1..].to_vec();
        bench.api.create(Kind::Namespace, "", json!({"metadata": {"name": NS}}));
        bench.relist_all();
        Self { bench, model: Model::new() }
    }

    /// Objects, each owned by up to two earlier ones or by nobody that is there.
    fn grow(&mut self, count: usize) {
        for number in 0..count {
            let kind = kinds()[self.bench.pick(3)];
            let name = format!("o{number}");
            let candidates: Vec<(String, Kind)> = self
                .model
                .iter()
                .filter(|(_, (of, _))| kind.namespaced() || !of.namespaced())
                .map(|(name, (kind, _))| (name.clone(), *kind))
                .collect();
            let (mut owners, mut references) = (Vec::new(), Vec::new());
            for _ in 0..self.bench.pick(3) {
                if self.bench.roll(8) == 0 {
                    owners.push("nobody".to_owned());
                    references.push(reference(kinds()[2], "nobody", "no-uid", true));
                } else if !candidates.is_empty() {
                    let (owner, of) = candidates[self.bench.pick(candidates.len())].clone();
                    let held = self.bench.api.get(of, namespace(of), &owner).expect("it");
                    let uid = held["metadata"]["uid"].as_str().expect("a uid").to_owned();
                    if !owners.contains(&owner) {
                        let blocks = self.bench.roll(2) == 0;
                        references.push(reference(of, &owner, &uid, blocks));
                        owners.push(owner);
                    }
                }
            }
            let object = json!({"metadata": {"name": name, "ownerReferences": references}});
            self.bench.api.create(kind, namespace(kind), object);
            self.model.insert(name, (kind, owners));
        }
        // Circles are legal: an early object comes to be owned by a late one of its kind.
        if self.bench.roll(2) == 0
            && let Some((first, last)) = self.circle()
        {
            let (kind, _) = self.model[&first];
            let held = self.bench.api.get(kind, namespace(kind), &last).expect("it");
            let uid = held["metadata"]["uid"].as_str().expect("a uid").to_owned();
            let owners = json!([reference(kind, &last, &uid, true)]);
            let body = json!({"metadata": {"ownerReferences": owners}});
            self.bench.api.merge(kind, namespace(kind), &first, &body);
            self.model.insert(first, (kind, vec![last]));
        }
    }

    fn circle(&mut self) -> Option<(String, String)> {
        let kind = kinds()[self.bench.pick(3)];
        let mut of = self.model.iter().filter(|(_, (held, _))| *held == kind).map(|(name, _)| name);
        let first = of.next()?.clone();
        Some((first, of.next_back()?.clone()))
    }

    /// What goes because all its owners are gone.
    fn collect(&mut self) {
        loop {
            let gone: Vec<String> = self
                .model
                .iter()
                .filter(|(_, (_, owners))| {
                    !owners.is_empty() && !owners.iter().any(|one| self.model.contains_key(one))
                })
                .map(|(name, _)| name.clone())
                .collect();
            if gone.is_empty() {
                break;
            }
            gone.iter().for_each(|name| {
                self.model.remove(name);
            });
        }
        // Who has another owner loses those that are gone.
        let names: BTreeSet<String> = self.model.keys().cloned().collect();
        self.model.values_mut().for_each(|(_, owners)| owners.retain(|one| names.contains(one)));
    }

    fn delete(&mut self, name: &str, manner: usize) {
        let (kind, _) = self.model.remove(name).expect("it");
        let propagation = ["Background", "Foreground", "Orphan"][manner];
        let how = Delete { propagation: Some(propagation), ..Delete::default() };
        self.bench.api.delete(kind, namespace(kind), name, &how);
        if propagation == "Orphan" {
            self.model.values_mut().for_each(|(_, owners)| owners.retain(|one| one != name));
        }
        self.collect();
    }

    /// Runs to rest, with faults at first.
    fn settle(&mut self) {
        for step in 0..20_000 {
            let faults = step < 60;
            self.bench.deliver();
            if self.bench.roll(3) > 0 {
                self.bench.answer(faults);
            }
            if faults && self.bench.roll(6) == 0 {
                self.bench.break_a_watch();
            }
            self.bench.poll();
            if !faults && self.bench.at_rest() {
                return;
            }
        }
        panic!("no rest; under way: {:?}", self.bench.under_way);
    }

    fn there(&self) -> BTreeMap<String, Vec<String>> {
        let mut all = BTreeMap::new();
        for kind in kinds() {
            for object in self.bench.api.list(kind) {
                let name = object["metadata"]["name"].as_str().expect("a name");
                if name == "kube-root-ca.crt" {
                    continue;
                }
                let owners = object["metadata"]["ownerReferences"].as_array();
                let owner = |one: &Value| one["name"].as_str().expect("a name").to_owned();
                let owners = owners.into_iter().flatten().map(owner).collect();
                assert!(object["metadata"]["deletionTimestamp"].is_null(), "stuck: {object}");
                all.insert(name.to_owned(), owners);
            }
        }
        all
    }

    fn expected(&self) -> BTreeMap<String, Vec<String>> {
        self.model.iter().map(|(name, (_, owners))| (name.clone(), owners.clone())).collect()
    }
}

fn reference(kind: Kind, name: &str, uid: &str, blocks: bool) -> Value {
    json!({"apiVersion": kind.api_version(), "kind": kind.name(), "name": name, "uid": uid,
        "blockOwnerDeletion": blocks})
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_stays_is_what_the_rules_leave(
        seed in any::<u64>(),
        count in 1usize..16,
        deletions in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..3), 0..8),
    ) {
        let mut world = World::new(seed);
        world.grow(count);
        world.collect();
        world.settle();
        prop_assert_eq!(world.there(), world.expected());
        for (which, manner) in deletions {
            if world.model.is_empty() {
                break;
            }
            let names: Vec<String> = world.model.keys().cloned().collect();
            let name: &String = which.get(&names);
            world.delete(name, manner);
            world.settle();
            prop_assert_eq!(world.there(), world.expected());
        }
    }
}
