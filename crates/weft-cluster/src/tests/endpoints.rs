//! Endpoints and their mirror.

use serde_json::json;

use super::*;
use crate::endpointslice::Memory;
use crate::{endpoints, mirror};

fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({"metadata": {"name": name}, "spec": spec});
    service["spec"]["clusterIP"] = "10.96.0.1".into();
    service["spec"]["ports"] = json!([{"port": 80}]);
    service
}

fn mirror(cluster: &Cluster, memory: &mut Memory) -> Plan {
    mirror::plan(&cluster.world, memory, ("ns", "out"), at("2026-01-01T00:00:00Z"))
}

/// Executes the writes of slices.
fn apply(cluster: &mut Cluster, plan: &Plan) {
    for (at, action) in of_kind(plan, Kind::EndpointSlice).into_iter().enumerate() {
        match &action.verb {
            Verb::Create(body) => {
                let mut body = body.clone();
                body["metadata"]["name"] = format!("out-{}{at}", cluster.version).into();
                cluster.put(Kind::EndpointSlice, body);
            }
            Verb::Replace(_, body) => cluster.put(Kind::EndpointSlice, body.clone()),
            Verb::Delete(_) => {
                let gone = cluster.world.forget(Kind::EndpointSlice, "ns", &action.name, None);
                assert!(gone.is_some());
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_mirror_per_family_and_ports() {
    let mut cluster = Cluster::default();
    let mut memory = Memory::default();
    cluster.put(Kind::Service, service("out", json!({})));
    let port = |name: &str, port: i32| json!({"name": name, "port": port, "protocol": "TCP"});
    let mut source = json!({
        "metadata": {"name": "out", "labels": {"team": "a"}, "annotations": {
            "note": "kept", "kubectl.kubernetes.io/last-applied-configuration": "{}",
            "endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"}},
        "subsets": [
            {"addresses": [{"ip": "192.0.2.1", "hostname": "one", "nodeName": "n"},
                {"ip": "2001:db8:0::1"}], "ports": [port("a", 1)]},
            {"notReadyAddresses": [{"ip": "192.0.2.2"}], "ports": [port("b", 2)]},
        ],
    });
    cluster.put(Kind::Endpoints, source.clone());
    let plan = mirror(&cluster, &mut memory);
    let made = of_kind(&plan, Kind::EndpointSlice);
    assert_eq!(made.len(), 3, "{plan:?}");
    let v4 = body(made[0]);
    assert_eq!(v4["addressType"], "IPv4");
    assert_eq!(
        v4["endpoints"],
        json!([{"addresses": ["192.0.2.1"], "conditions": {"ready": true},
            "hostname": "one", "nodeName": "n"}])
    );
    assert_eq!(v4["ports"], json!([port("a", 1)]));
    assert_eq!(v4["metadata"]["annotations"], json!({"note": "kept"}));
    let labels = &v4["metadata"]["labels"];
    assert_eq!(labels["team"], "a");
    assert_eq!(labels[SERVICE], "out");
    assert_eq!(labels[MANAGED], "endpointslicemirroring-controller.k8s.io");
    assert_eq!(v4["metadata"]["generateName"], "out-");
    assert_eq!(body(made[1])["endpoints"][0]["conditions"], json!({"ready": false}));
    assert_eq!(body(made[2])["endpoints"][0]["addresses"], json!(["2001:db8::1"]));
    apply(&mut cluster, &plan);
    assert_eq!(mirror(&cluster, &mut memory), Plan::default());

    // Other labels and annotations: every slice is written, none is made anew.
    source["metadata"]["labels"] = json!({"team": "b"});
    source["metadata"]["annotations"] = json!({});
    cluster.put(Kind::Endpoints, source.clone());
    let plan = mirror(&cluster, &mut memory);
    let written = of_kind(&plan, Kind::EndpointSlice);
    assert_eq!(written.len(), 3);
    assert!(written.iter().all(|one| matches!(one.verb, Verb::Replace(..))));
    apply(&mut cluster, &plan);
    assert_eq!(mirror(&cluster, &mut memory), Plan::default());

    // Not wanted any more.
    for (key, value) in [
        ("labels", json!({"endpointslice.kubernetes.io/skip-mirror": "true"})),
        ("annotations", json!({"control-plane.alpha.kubernetes.io/leader": "{}"})),
    ] {
        let mut skipped = source.clone();
        skipped["metadata"][key] = value;
        cluster.put(Kind::Endpoints, skipped);
        let plan = mirror(&cluster, &mut memory);
        assert_eq!(plan.actions.len(), 3);
        assert!(plan.actions.iter().all(|one| matches!(one.verb, Verb::Delete(_))));
    }
    cluster.put(Kind::Endpoints, source);
    cluster.put(Kind::Service, service("out", json!({"selector": {"app": "x"}})));
    let plan = mirror(&cluster, &mut memory);
    assert!(plan.actions.iter().all(|one| matches!(one.verb, Verb::Delete(_))));
    assert_eq!(plan.actions.len(), 3, "a Service with a selector has slices of its own");
}

const SERVICE: &str = "kubernetes.io/service-name";
const MANAGED: &str = "endpointslice.kubernetes.io/managed-by";

#[test]
fn a_mirror_says_what_it_leaves_out() {
    let mut cluster = Cluster::default();
    let mut memory = Memory::default();
    cluster.put(Kind::Service, service("out", json!({})));
    let mut addresses: Vec<Value> =
        (0..1003).map(|n| json!({"ip": format!("10.0.{}.{}", n / 250, n % 250)})).collect();
    addresses.push(json!({"ip": "0-not-an-address"}));
    cluster.put(
        Kind::Endpoints,
        json!({"metadata": {"name": "out"}, "subsets": [
            {"addresses": addresses, "ports": [{"port": 1}]}]}),
    );
    let plan = mirror(&cluster, &mut memory);
    let made = of_kind(&plan, Kind::EndpointSlice);
    assert_eq!(made.len(), 1, "all of a subset are in one slice");
    assert_eq!(body(made[0])["endpoints"].as_array().map(Vec::len), Some(1000));
    let said = |plan: &Plan| -> Vec<(String, String)> {
        of_kind(plan, Kind::Event)
            .into_iter()
            .map(|event| (body(event)["reason"].to_string(), body(event)["message"].to_string()))
            .collect()
    };
    let all = said(&plan);
    assert_eq!(all[0].0, "\"InvalidIPAddress\"");
    assert_eq!(all[0].1, "\"Skipped 1 invalid IP addresses when mirroring to EndpointSlices\"");
    assert_eq!(all[1].0, "\"TooManyAddressesToMirror\"");
    apply(&mut cluster, &plan);
    assert_eq!(mirror(&cluster, &mut memory), Plan::default(), "it is said once");
}

#[test]
fn endpoints_go_with_their_service_but_locks_stay() {
    let mut cluster = Cluster::default();
    let mut memory = Memory::default();
    cluster.put(Kind::Endpoints, json!({"metadata": {"name": "custom"}}));
    cluster.put(
        Kind::Endpoints,
        json!({"metadata": {"name": "lock",
            "annotations": {"control-plane.alpha.kubernetes.io/leader": "{}"}}}),
    );
    let mut deletions = |name| endpoints::plan(&cluster.world, &mut memory, ("ns", name)).actions;
    assert_eq!(deletions("lock"), []);
    assert!(matches!(deletions("custom").as_slice(), [Action { verb: Verb::Delete(_), .. }]));

    // Nobody asks about Endpoints that were there before their Service.
    let mut core = Core::new(Config::default());
    WATCHED.iter().for_each(|kind| core.handle_change(Change::Absent(*kind)));
    let apply = |kind, body| Change::decode(kind, kube::runtime::watcher::Event::Apply(body));
    let early = cluster.complete(json!({"metadata": {"name": "out"}}));
    core.handle_change(apply(Kind::Endpoints, early));
    let now = at("2026-01-01T00:00:00Z");
    assert!(core.poll(now).is_empty());
    let held = cluster.complete(service("out", json!({})));
    core.handle_change(apply(Kind::Service, held.clone()));
    assert!(core.poll(now).is_empty());
    core.handle_change(Change::decode(Kind::Service, kube::runtime::watcher::Event::Delete(held)));
    let works = core.poll(now);
    let gone: Vec<_> = works.iter().flat_map(|work| &work.actions).collect();
    assert!(matches!(gone.as_slice(), [Action { kind: Kind::Endpoints, .. }]), "{gone:?}");
}
