use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::reconcile::ENDPOINTS_MAX;
use super::*;
use crate::action::{Action, Verb};
use crate::targets::Port;

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
        groups: [(Family::V4, groups)].into(),
        placeholder: true,
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
            prop_assert_eq!(says, shall);
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
            prop_assert_eq!(reconcile(&slices.held(), desired(wanted(&set))), vec![]);
        }
    }
}
