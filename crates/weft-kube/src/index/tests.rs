use super::*;
use proptest::prelude::*;
use serde_json::json;

fn service(name: usize, version: u8) -> core::Service {
    // Every fifth version is broken, so that good, bad and good again is among the histories.
    let ip = if version % 5 == 4 { "broken".to_owned() } else { format!("10.96.{name}.{version}") };
    serde_json::from_value(json!({
        "metadata": {"namespace": format!("ns{}", name % 2), "name": format!("s{name}")},
        "spec": {"clusterIPs": [ip], "ports": [{"port": 80}]}
    }))
    .expect("a Service")
}

fn slice(name: usize, version: u8) -> discovery::EndpointSlice {
    // The Service that a slice belongs to may change, and may be missing.
    let labels = match version % 4 {
        3 => json!({}),
        v => json!({"kubernetes.io/service-name": format!("s{v}")}),
    };
    serde_json::from_value(json!({
        "metadata": {"namespace": "ns0", "name": format!("e{name}"), "labels": labels},
        "addressType": if version == 5 { "FQDN" } else { "IPv4" },
        "endpoints": [{"addresses": [format!("10.244.{name}.{version}")]}],
        "ports": []
    }))
    .expect("a slice")
}

fn namespace(name: usize) -> core::Namespace {
    serde_json::from_value(json!({"metadata": {"name": format!("ns{name}")}})).expect("one")
}

fn node(name: usize, version: u8) -> core::Node {
    serde_json::from_value(json!({
        "metadata": {"name": format!("n{name}")},
        "spec": {"podCIDRs": [format!("10.{name}.{version}.0/24")]}
    }))
    .expect("a node")
}

fn change<K: Indexed>(event: Event<K>) -> (Kind, Change) {
    (K::KIND, Change::of(event))
}

/// The true state of a cluster, and the events that bring the index there.
#[derive(Clone, Debug, Default, PartialEq)]
struct Cluster {
    namespaces: BTreeMap<usize, ()>,
    nodes: BTreeMap<usize, u8>,
    services: BTreeMap<usize, u8>,
    slices: BTreeMap<usize, u8>,
}

impl Cluster {
    fn list(&self, kind: Kind) -> Vec<(Kind, Change)> {
        fn events<K: Indexed>(objects: impl Iterator<Item = K>) -> Vec<(Kind, Change)> {
            let all = std::iter::once(Event::Init)
                .chain(objects.map(Event::InitApply))
                .chain(std::iter::once(Event::InitDone));
            all.map(change).collect()
        }
        match kind {
            Kind::Namespace => events(self.namespaces.keys().map(|n| namespace(*n))),
            Kind::Node => events(self.nodes.iter().map(|(n, v)| node(*n, *v))),
            Kind::Service => events(self.services.iter().map(|(n, v)| service(*n, *v))),
            Kind::EndpointSlice => events(self.slices.iter().map(|(n, v)| slice(*n, *v))),
            other => unreachable!("{other} is not watched"),
        }
    }

    /// Writes (`Some` version) or deletes an object, and says which event the watch sends.
    fn write(&mut self, kind: Kind, name: usize, version: Option<u8>) -> (Kind, Change) {
        fn step<K: Indexed>(
            map: &mut BTreeMap<usize, u8>,
            make: fn(usize, u8) -> K,
            name: usize,
            version: Option<u8>,
        ) -> (Kind, Change) {
            match version {
                Some(v) => {
                    map.insert(name, v);
                    change(Event::Apply(make(name, v)))
                }
                // A deletion of what is absent can follow a relist; it must do no harm.
                None => change(Event::Delete(make(name, map.remove(&name).unwrap_or(0)))),
            }
        }
        match kind {
            Kind::Namespace => match version {
                Some(_) => {
                    self.namespaces.insert(name, ());
                    change(Event::Apply(namespace(name)))
                }
                None => {
                    self.namespaces.remove(&name);
                    change(Event::Delete(namespace(name)))
                }
            },
            Kind::Node => step(&mut self.nodes, node, name, version),
            Kind::Service => step(&mut self.services, service, name, version),
            Kind::EndpointSlice => step(&mut self.slices, slice, name, version),
            other => unreachable!("{other} is not watched"),
        }
    }

    fn full(&self) -> Index {
        let mut index = Index::default();
        for kind in Kind::ALL {
            self.list(kind).into_iter().for_each(|(k, c)| index.apply(k, c));
        }
        index
    }
}

fn content(s: Snapshot) -> Snapshot {
    Snapshot { generation: 0, ..s }
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(Kind::ALL.to_vec())
}

#[derive(Clone, Debug)]
enum Step {
    /// The watch delivers a write or a deletion.
    Write(Kind, usize, Option<u8>),
    /// The watch misses a write, and lists again (410 Gone).
    MissedThenRelist(Kind, usize, Option<u8>),
    /// A list that breaks off after so many events, then a complete one.
    BrokenRelist(Kind, usize),
    /// The publisher looks.
    Publish,
}

fn step() -> impl Strategy<Value = Step> {
    let version = || prop::option::weighted(0.7, 0..6u8);
    prop_oneof![
        8 => (kind(), 0..4usize, version()).prop_map(|(k, n, v)| Step::Write(k, n, v)),
        2 => (kind(), 0..4usize, version()).prop_map(|(k, n, v)| Step::MissedThenRelist(k, n, v)),
        1 => (kind(), 0..4usize).prop_map(|(k, n)| Step::BrokenRelist(k, n)),
        4 => Just(Step::Publish),
    ]
}

proptest! {
    #[test]
    fn any_history_ends_in_what_a_full_list_gives(steps in prop::collection::vec(step(), 0..60)) {
        let mut cluster = Cluster::default();
        let mut index = cluster.full();
        let mut last = index.snapshot(None);
        for step in steps {
            match step {
                Step::Write(k, n, v) => {
                    let (k, c) = cluster.write(k, n, v);
                    index.apply(k, c);
                }
                Step::MissedThenRelist(k, n, v) => {
                    cluster.write(k, n, v);
                    cluster.list(k).into_iter().for_each(|(k, c)| index.apply(k, c));
                }
                Step::BrokenRelist(k, n) => {
                    cluster.list(k).into_iter().take(n).for_each(|(k, c)| {
                        if c != Change::ListEnds {
                            index.apply(k, c);
                        }
                    });
                    cluster.list(k).into_iter().for_each(|(k, c)| index.apply(k, c));
                }
                Step::Publish => {
                    if let Some(next) = index.snapshot(last.as_ref()) {
                        let previous = last.as_ref().map_or(0, |l| l.generation);
                        prop_assert_eq!(next.generation, previous + 1);
                        prop_assert_ne!(last.map(content), Some(content(next.clone())));
                        last = Some(next);
                    }
                }
            }
        }
        let full = cluster.full();
        let got = index.snapshot(None).map(content);
        prop_assert_eq!(got, full.snapshot(None).map(content));
        prop_assert_eq!(index.diagnostics(), full.diagnostics());
    }

    #[test]
    fn the_first_lists_may_interleave(order in prop::collection::vec(kind(), 0..40)) {
        let mut cluster = Cluster::default();
        for n in 0..3 {
            for k in Kind::ALL {
                cluster.write(k, n, Some(1));
            }
        }
        let mut queues: BTreeMap<Kind, std::collections::VecDeque<Change>> = Kind::ALL
            .iter()
            .map(|k| (*k, cluster.list(*k).into_iter().map(|(_, c)| c).collect()))
            .collect();
        let mut index = Index::default();
        for k in order.into_iter().chain(Kind::ALL.into_iter().flat_map(|k| [k; 5])) {
            let unfinished = queues.values().any(|q| !q.is_empty());
            prop_assert_eq!(index.snapshot(None).is_none(), unfinished);
            if let Some(c) = queues.get_mut(&k).and_then(|q| q.pop_front()) {
                index.apply(k, c);
            }
        }
        prop_assert_eq!(index.snapshot(None), cluster.full().snapshot(None));
    }
}

#[test]
fn an_equal_object_is_shared_and_changes_nothing() {
    let mut cluster = Cluster::default();
    cluster.write(Kind::Service, 1, Some(1));
    let mut index = cluster.full();
    let first = index.snapshot(None).expect("complete");
    let (k, c) = cluster.write(Kind::Service, 1, Some(1));
    index.apply(k, c);
    cluster.list(Kind::Service).into_iter().for_each(|(k, c)| index.apply(k, c));
    assert_eq!(index.snapshot(Some(&first)), None);
    let (k, c) = cluster.write(Kind::Service, 2, Some(1));
    index.apply(k, c);
    let second = index.snapshot(Some(&first)).expect("a change");
    let id = NamespacedName::new("ns1", "s1");
    assert!(Arc::ptr_eq(&first.services[&id], &second.services[&id]));
    assert_eq!(second.generation, first.generation + 1);
}

#[test]
fn a_relist_never_shows_a_half_listed_state() {
    let mut cluster = Cluster::default();
    for n in 0..3 {
        cluster.write(Kind::Service, n, Some(1));
    }
    let mut index = cluster.full();
    let before = index.snapshot(None).expect("complete");
    cluster.write(Kind::Service, 1, None);
    let events = cluster.list(Kind::Service);
    let last = events.len() - 1;
    for (i, (k, c)) in events.into_iter().enumerate() {
        index.apply(k, c);
        let shown = index.snapshot(Some(&before));
        assert_eq!(shown.is_some(), i == last, "after event {i}");
    }
    assert_eq!(index.snapshot(Some(&before)).expect("changed").services.len(), 2);
}
