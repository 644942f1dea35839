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

fn namespace(name: usize, version: u8) -> core::Namespace {
    let labels = json!({"version": version.to_string()});
    serde_json::from_value(json!({"metadata": {"name": format!("ns{name}"), "labels": labels}}))
        .expect("a namespace")
}

fn node(name: usize, version: u8) -> core::Node {
    // The labels change more often than the rest.
    serde_json::from_value(json!({
        "metadata": {"name": format!("n{name}"), "labels": {"version": version.to_string()}},
        "spec": {"podCIDRs": [format!("10.{name}.{}.0/24", version / 2)]}
    }))
    .expect("a node")
}

fn pod(name: usize, version: u8) -> WatchedPod {
    let ip = if version == 4 { "broken".to_owned() } else { format!("10.244.{name}.{version}") };
    serde_json::from_value(json!({
        "metadata": {"namespace": "ns0", "name": format!("p{name}"), "uid": format!("u{version}"),
                     "labels": {"app": format!("a{}", version % 2)}},
        "spec": {"nodeName": "n1"},
        "status": {"phase": "Running", "podIPs": [{"ip": ip}]}
    }))
    .expect("a pod")
}

fn network_policy(name: usize, version: u8) -> networking::NetworkPolicy {
    // One whose subject cannot be read is left out.
    let operator = if version == 4 { "Like" } else { "In" };
    serde_json::from_value(json!({
        "metadata": {"namespace": "ns1", "name": format!("np{name}")},
        "spec": {"podSelector": {"matchExpressions": [
            {"key": "app", "operator": operator, "values": [format!("a{version}")]}]}}
    }))
    .expect("a policy")
}

fn cluster_policy(name: usize, version: u8) -> crate::cluster_policy::ClusterNetworkPolicy {
    let tier = if version == 4 { "Nowhere" } else { "Admin" };
    serde_json::from_value(json!({
        "metadata": {"name": format!("cnp{name}")},
        "spec": {"tier": tier, "priority": version, "subject": {"namespaces": {}}}
    }))
    .expect("a policy")
}

fn change<K: Indexed>(event: Event<K>) -> (Kind, Change) {
    (K::KIND, Change::of(event))
}

/// The true state of a cluster, and the events that bring the index there.
#[derive(Clone, Debug, Default, PartialEq)]
struct Cluster {
    objects: BTreeMap<Kind, BTreeMap<usize, u8>>,
}

impl Cluster {
    fn list(&self, kind: Kind) -> Vec<(Kind, Change)> {
        fn events<K: Indexed>(
            objects: Option<&BTreeMap<usize, u8>>,
            make: fn(usize, u8) -> K,
        ) -> Vec<(Kind, Change)> {
            let objects = objects.into_iter().flatten().map(|(n, v)| make(*n, *v));
            let all = std::iter::once(Event::Init)
                .chain(objects.map(Event::InitApply))
                .chain(std::iter::once(Event::InitDone));
            all.map(change).collect()
        }
        let objects = self.objects.get(&kind);
        match kind {
            Kind::Namespace => events(objects, namespace),
            Kind::Node => events(objects, node),
            Kind::Service => events(objects, service),
            Kind::EndpointSlice => events(objects, slice),
            Kind::Pod => events(objects, pod),
            Kind::NetworkPolicy => events(objects, network_policy),
            Kind::ClusterNetworkPolicy => events(objects, cluster_policy),
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
        let objects = self.objects.entry(kind).or_default();
        match kind {
            Kind::Namespace => step(objects, namespace, name, version),
            Kind::Node => step(objects, node, name, version),
            Kind::Service => step(objects, service, name, version),
            Kind::EndpointSlice => step(objects, slice, name, version),
            Kind::Pod => step(objects, pod, name, version),
            Kind::NetworkPolicy => step(objects, network_policy, name, version),
            Kind::ClusterNetworkPolicy => step(objects, cluster_policy, name, version),
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

/// Planners find by pointers what changed: a pod's or a label's change must leave alone what
/// Services, names and routes are planned from.
#[test]
fn what_did_not_change_is_the_same_map() {
    let mut cluster = Cluster::default();
    for kind in Kind::ALL {
        cluster.write(kind, 1, Some(0));
        cluster.write(kind, 2, Some(0));
    }
    let mut index = cluster.full();
    let first = index.snapshot(None).expect("complete");
    let same = |a: &Snapshot, b: &Snapshot| {
        [
            (Kind::Service, a.services.same(&b.services) && a.slices.same(&b.slices)),
            (Kind::Node, a.nodes.same(&b.nodes)),
            (Kind::Namespace, a.namespaces.same(&b.namespaces)),
            (Kind::Pod, a.pods.same(&b.pods)),
            (Kind::NetworkPolicy, a.network_policies.same(&b.network_policies)),
            (Kind::ClusterNetworkPolicy, a.cluster_policies.same(&b.cluster_policies)),
        ]
    };
    let mut write = |kind, version| {
        let (k, c) = cluster.write(kind, 1, Some(version));
        index.apply(k, c);
        index.snapshot(None).expect("complete")
    };
    // A node's label is its peers' business alone.
    let labelled = write(Kind::Node, 1);
    assert!(!labelled.node_peers.same(&first.node_peers));
    assert!(same(&first, &labelled).iter().all(|(_, same)| *same));
    for kind in [Kind::Pod, Kind::Namespace, Kind::NetworkPolicy, Kind::ClusterNetworkPolicy] {
        let before = write(kind, 2);
        let after = write(kind, 3);
        for (of, same) in same(&before, &after) {
            assert_eq!(same, of != kind, "{of} after a change of a {kind}");
        }
        assert!(before.node_peers.same(&after.node_peers));
    }
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
