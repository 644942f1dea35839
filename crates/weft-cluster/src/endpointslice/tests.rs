use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::action::{Action, Verb};
use crate::targets::Port;

const ENDPOINTS_MAX: usize = 100;

fn reconcile(held: &[Arc<EndpointSlice>], mut desired: Desired) -> Vec<Action> {
    place(held, &mut desired).writes(&desired)
}

fn port(number: i32) -> Vec<Port> {
    vec![Port {
        name: "http".into(),
        protocol: "TCP".into(),
        number: Some(number),
        app_protocol: None,
    }]
}

fn endpoint_of(number: u16, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![format!("10.0.{}.{}", number / 250, number % 250)],
        conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
        target_ref: Some(ObjectReference {
            uid: Some(number.to_string()),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

fn desired(groups: Groups) -> Desired {
    Desired {
        meta: Meta {
            namespace: Some("ns".into()),
            generate_name: Some("web-".into()),
            labels: Some([("l".into(), "v".into())].into()),
            ..Meta::default()
        },
        annotations: Annotations::Trigger(None),
        groups: [(Family::V4, groups)].into(),
        placeholder: true,
        per_slice: ENDPOINTS_MAX,
    }
}

/// Port and address to slice and readiness.
type Contents = BTreeMap<(Option<i32>, String), (String, bool)>;

/// Applies writes as the API would.
#[derive(Default)]
struct Slices {
    all: BTreeMap<String, Arc<EndpointSlice>>,
    made: usize,
}

impl Slices {
    fn held(&self) -> Vec<Arc<EndpointSlice>> {
        self.all.values().cloned().collect()
    }

    fn apply(&mut self, actions: &[Action]) {
        for action in actions {
            match &action.verb {
                Verb::Create(body) => {
                    self.made += 1;
                    let name = format!("web-{:04}", self.made);
                    let mut body = body.clone();
                    body["metadata"]["name"] = name.clone().into();
                    self.all.insert(name, decode(body));
                }
                Verb::Replace(None, body) => {
                    assert!(self.all.contains_key(&action.name), "only what is there is replaced");
                    self.all.insert(action.name.clone(), decode(body.clone()));
                }
                Verb::Delete(_) => assert!(self.all.remove(&action.name).is_some()),
                other => panic!("{other:?}"),
            }
        }
    }

    fn contents(&self) -> Contents {
        let mut contents = BTreeMap::new();
        for (name, slice) in &self.all {
            let port = slice.ports.iter().flatten().next().and_then(|port| port.port);
            for endpoint in &slice.endpoints {
                let ready = endpoint.conditions.as_ref().and_then(|all| all.ready) == Some(true);
                let key = (port, endpoint.addresses[0].clone());
                let before = contents.insert(key, (name.clone(), ready));
                assert!(before.is_none(), "an endpoint is in two slices");
            }
        }
        contents
    }
}

fn decode(body: Value) -> Arc<EndpointSlice> {
    Arc::new(serde_json::from_value(body).expect("a slice"))
}

fn wanted(set: &BTreeMap<u16, (bool, bool)>) -> Groups {
    let mut groups = Groups::new();
    for (number, (ready, other_port)) in set {
        let port = port(if *other_port { 9090 } else { 8080 });
        groups.entry(port).or_default().push(endpoint_of(*number, *ready));
    }
    groups
}

#[test]
fn a_placeholder_without_endpoints() {
    let mut slices = Slices::default();
    slices.apply(&reconcile(&[], desired(Groups::new())));
    let all = slices.held();
    assert_eq!((all.len(), all[0].endpoints.len()), (1, 0));
    assert_eq!(all[0].ports.as_deref().unwrap_or_default(), []);
    assert_eq!(reconcile(&all, desired(Groups::new())), []);
}

#[test]
fn a_new_endpoint_costs_one_write() {
    let mut slices = Slices::default();
    let mut set: BTreeMap<u16, (bool, bool)> =
        (0..250).map(|number| (number, (true, false))).collect();
    slices.apply(&reconcile(&[], desired(wanted(&set))));
    let sizes: Vec<usize> = slices.all.values().map(|slice| slice.endpoints.len()).collect();
    assert_eq!(sizes, [100, 100, 50]);
    set.insert(1000, (true, false));
    let actions = reconcile(&slices.held(), desired(wanted(&set)));
    assert_eq!(actions.len(), 1);
    slices.apply(&actions);
    // One leaves a full slice, one comes: the same slice takes it.
    set.remove(&0);
    set.insert(1001, (true, false));
    let actions = reconcile(&slices.held(), desired(wanted(&set)));
    assert_eq!(actions.len(), 1);
    slices.apply(&actions);
    assert_eq!(slices.contents().len(), 251);
}

/// Pods that are replaced one by one leave the slices as full as they were.
#[test]
fn replacement_does_not_fragment() {
    let mut slices = Slices::default();
    let mut set: BTreeMap<u16, (bool, bool)> = BTreeMap::new();
    for number in 0..250 {
        set.insert(number, (true, false));
        let actions = reconcile(&slices.held(), desired(wanted(&set)));
        assert_eq!(actions.len(), 1);
        slices.apply(&actions);
    }
    assert_eq!(slices.all.len(), 3, "one at a time needs no more slices than all at once");
    for number in 0..250 {
        // A surge of one, as a rolling update has it.
        set.insert(1000 + number, (true, false));
        slices.apply(&reconcile(&slices.held(), desired(wanted(&set))));
        set.remove(&(number * 7 % 250));
        let actions = reconcile(&slices.held(), desired(wanted(&set)));
        assert!(actions.len() <= 1);
        slices.apply(&actions);
        assert!(slices.all.len() <= 3 + 1, "{}", slices.all.len());
    }
}

/// What goes makes room for what comes: the name stays, and nothing is made or deleted.
#[test]
fn a_slice_is_used_again() {
    let mut slices = Slices::default();
    let old: BTreeMap<u16, (bool, bool)> = [(1, (true, false))].into();
    slices.apply(&reconcile(&[], desired(wanted(&old))));
    let new: BTreeMap<u16, (bool, bool)> = [(1, (true, true))].into();
    let actions = reconcile(&slices.held(), desired(wanted(&new)));
    assert!(matches!(actions.as_slice(), [Action { verb: Verb::Replace(..), .. }]), "{actions:?}");
    slices.apply(&actions);
    let actions = reconcile(&slices.held(), desired(Groups::new()));
    assert!(matches!(actions.as_slice(), [Action { verb: Verb::Replace(..), .. }]), "{actions:?}");
    slices.apply(&actions);
    let all = slices.held();
    assert_eq!((all.len(), all[0].endpoints.len(), all[0].ports.clone()), (1, 0, Some(Vec::new())));
}

#[test]
fn the_time_of_the_change_is_published() {
    let pod = |name: &str, time: &str| -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name}, "status": {"conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": time}]}}))
            .expect("a pod"),
        )
    };
    let service: Service =
        serde_json::from_value(json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}}))
            .expect("a Service");
    let mut memory = Memory::default();
    let one = pod("a", "2026-01-01T00:00:05Z");
    let said = memory.trigger(&service, [&one].into_iter());
    assert_eq!(said.as_deref(), Some("2026-01-01T00:00:00Z"), "at first the Service's own time");
    memory.published();
    assert_eq!(memory.trigger(&service, [&one].into_iter()), None, "nothing new");
    let later = [pod("a", "2026-01-01T00:00:09Z"), pod("b", "2026-01-01T00:00:08Z")];
    let said = memory.trigger(&service, later.iter());
    assert_eq!(said.as_deref(), Some("2026-01-01T00:00:08Z"), "the earliest of what changed");
    let said = memory.trigger(&service, later.iter());
    assert_eq!(said.as_deref(), Some("2026-01-01T00:00:08Z"), "the write has failed: still due");
}

#[test]
fn labels_are_brought_up_to_date() {
    let set: BTreeMap<u16, (bool, bool)> = [(1, (true, false))].into();
    let mut slices = Slices::default();
    slices.apply(&reconcile(&[], desired(wanted(&set))));
    let mut next = desired(wanted(&set));
    next.meta.labels = Some([("l".into(), "other".into())].into());
    slices.apply(&reconcile(&slices.held(), next));
    assert_eq!(slices.held()[0].labels()["l"], "other");
}

#[test]
fn named_ports_split_slices_per_number() {
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "ns"},
        "spec": {"selector": {"app": "web"}, "ports": [
            {"name": "http", "port": 80, "targetPort": "web"},
            {"name": "raw", "port": 81}, {"name": "fixed", "port": 82, "targetPort": 8443}]},
    }))
    .expect("a Service");
    let pod = |number: i32| -> Pod {
        serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "ports": [
            {"name": "web", "containerPort": number}, {"name": "other", "containerPort": 1}]}]}}))
        .expect("a pod")
    };
    let numbers = |pod: &Pod| {
        let all = targets::ports(&service, pod);
        all.into_iter().map(|port| (port.name, port.number)).collect::<Vec<_>>()
    };
    let with = |number| {
        vec![
            ("fixed".to_owned(), Some(8443)),
            ("http".to_owned(), Some(number)),
            ("raw".to_owned(), Some(81)),
        ]
    };
    assert_eq!(numbers(&pod(8080)), with(8080));
    assert_eq!(numbers(&pod(8081)), with(8081));
    let without =
        numbers(&serde_json::from_value(json!({"spec": {"containers": []}})).expect("a pod"));
    assert_eq!(without.len(), 2, "a name that the pod lacks is left out");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever changes: the slices say exactly what is wanted, none is too full, an endpoint
    /// stays where it is, and no slice is written without need.
    #[test]
    fn slices_follow(rounds in proptest::collection::vec(
        proptest::collection::btree_map(0u16..400, (any::<bool>(), any::<bool>()), 0..350), 1..6))
    {
        let mut slices = Slices::default();
        for set in rounds {
            let before = slices.contents();
            let names_before: BTreeSet<String> = slices.all.keys().cloned().collect();
            let actions = reconcile(&slices.held(), desired(wanted(&set)));
            slices.apply(&actions);
            let after = slices.contents();
            let says: BTreeMap<_, _> =
                after.iter().map(|(key, (_, ready))| (key.clone(), *ready)).collect();
            let shall: BTreeMap<_, _> = set
                .iter()
                .map(|(number, (ready, other))| {
                    let port = Some(if *other { 9090 } else { 8080 });
                    ((port, endpoint_of(*number, true).addresses[0].clone()), *ready)
                })
                .collect();
            prop_assert_eq!(&says, &shall);
            for slice in slices.all.values() {
                prop_assert!(slice.endpoints.len() <= ENDPOINTS_MAX);
                prop_assert!(!slice.endpoints.is_empty() || slices.all.len() == 1);
            }
            for (key, (name, _)) in &after {
                if let Some((held, _)) = before.get(key) {
                    prop_assert_eq!(held, name, "an endpoint moved");
                }
            }
            // Only slices that lose, change or gain something are written.
            for action in &actions {
                if matches!(action.verb, Verb::Replace(..)) {
                    let of = |all: &Contents| {
                        all.iter()
                            .filter(|(_, (name, _))| *name == action.name)
                            .map(|(key, (_, ready))| (key.clone(), *ready))
                            .collect::<BTreeMap<(Option<i32>, String), bool>>()
                    };
                    prop_assert_ne!(of(&before), of(&after), "written without need");
                    prop_assert!(names_before.contains(&action.name));
                }
            }
            // A change costs what it touches: slices that lose or change something, and the
            // fewest that take what is new.
            let says_before: BTreeMap<_, _> =
                before.iter().map(|(key, (_, ready))| (key.clone(), *ready)).collect();
            let touched: BTreeSet<&String> = before
                .iter()
                .filter(|(key, (_, ready))| shall.get(*key) != Some(ready))
                .map(|(_, (name, _))| name)
                .collect();
            let added = shall.keys().filter(|key| !says_before.contains_key(*key)).count();
            // Two sets of ports: each may leave one slice partly full; and the placeholder.
            prop_assert!(actions.len() <= touched.len() + added / ENDPOINTS_MAX + 3);
            prop_assert_eq!(reconcile(&slices.held(), desired(wanted(&set))), vec![]);
        }
    }
}
