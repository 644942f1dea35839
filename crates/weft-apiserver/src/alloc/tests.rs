//! Allocation against a plain model: random histories of clients, with restarts in between.

mod model;

use super::{LABEL_MANAGER, MANAGER, ip_addresses, ports, ranges, service, services};
use crate::{
    ApiServer, Config,
    store::{Key, Scope, Store},
    verbs::{Ctx, Part, delete::DeleteOptions, update::Patch},
};
use model::{Ask, Change, Kind as Type, Model, Op};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
};
use weft_kinds::{Kind, decode::Decoded};

const PORTS: std::ops::RangeInclusive<u16> = 30000..=30011;

fn config(dir: Option<&Path>) -> Config {
    Config {
        service_cidrs: vec!["10.96.0.0/28".parse().unwrap(), "fd00:96::/125".parse().unwrap()],
        node_ports: PORTS,
        data_dir: dir.map(Path::to_owned),
        ..Config::default()
    }
}

fn create(api: &ApiServer, kind: &Kind, object: Value) -> Result<Value, String> {
    let space = kind.namespaced.then_some("default");
    let decoded = Decoded { object, strict: Vec::new() };
    let made = api.0.create(&mut Ctx::internal(), kind, space, decoded);
    api.0.tend_ranges();
    made.map(|o| serde_json::from_slice(&o.object).unwrap()).map_err(|e| e.message().to_owned())
}

fn edit(api: &ApiServer, name: &str, patch: Value) -> Result<Value, String> {
    let key = Key::new("default", name);
    let patch = Patch::Merge(patch);
    let made = api.0.patch(&mut Ctx::internal(), services(), &key, Part::Main, &patch);
    api.0.tend_ranges();
    made.map(|o| serde_json::from_slice(&o.object).unwrap()).map_err(|e| e.message().to_owned())
}

fn delete(api: &ApiServer, kind: &Kind, name: &str) -> Result<(), String> {
    let key = Key::new(if kind.namespaced { "default" } else { "" }, name);
    let gone = api.0.delete(&Ctx::internal(), kind, &key, &DeleteOptions::default());
    api.0.tend_ranges();
    gone.map(drop).map_err(|e| e.message().to_owned())
}

fn all(api: &ApiServer, kind: &Kind) -> Vec<Value> {
    let listed = api.0.store.list(api.0.table(kind), &Scope::default(), None, None, 0);
    listed.unwrap().items.iter().map(|(_, entry)| entry.value()).collect()
}

/// What Services hold: each address once, each with the IPAddress that says so, and the pools
/// know exactly that and what people reserved.
fn consistent(services: &[Value], addresses: &[Value]) -> BTreeMap<IpAddr, String> {
    let mut held = BTreeMap::new();
    for service in services {
        let name = service["metadata"]["name"].as_str().unwrap();
        for ip in service::held_ips(service) {
            let before = held.insert(ip, name.to_owned());
            assert_eq!(before, None, "{ip} was given twice");
        }
    }
    let objects: BTreeMap<IpAddr, String> = addresses
        .iter()
        .filter(|a| a["metadata"]["labels"][LABEL_MANAGER] == MANAGER)
        .map(|a| {
            let ip: IpAddr = a["metadata"]["name"].as_str().unwrap().parse().unwrap();
            (ip, a["spec"]["parentRef"]["name"].as_str().unwrap().to_owned())
        })
        .collect();
    assert_eq!(held, objects, "Services and IPAddresses differ");
    held
}

fn check(api: &ApiServer) {
    let (services, addresses) = (all(api, services()), all(api, ip_addresses()));
    let held = consistent(&services, &addresses);
    let mut used = BTreeSet::new();
    for service in &services {
        for port in ports::held(service) {
            assert!(used.insert(port), "port {port} was given twice");
            assert!(PORTS.contains(&port));
        }
    }
    let mut known: BTreeSet<IpAddr> = held.into_keys().collect();
    known.extend(
        addresses
            .iter()
            .map(|a| a["metadata"]["name"].as_str().unwrap().parse::<IpAddr>().unwrap()),
    );
    let mut pools = api.0.pools().clone();
    assert_eq!(pools.v4.len() + pools.v6.len(), known.len(), "an address was lost");
    assert!(!pools.ports.rebuild(used.into_iter()), "a port was lost");
}

/// The request in JSON; the model judges the plain form.
fn spec(ask: &Ask) -> Value {
    let mut port = json!({"port": 80});
    if let Some(node_port) = ask.node_port {
        port["nodePort"] = node_port.into();
    }
    let mut spec = json!({"selector": {"a": "b"}, "ports": [port]});
    match ask.kind {
        Type::ClusterIp => {}
        Type::Headless => spec["clusterIP"] = "None".into(),
        Type::NodePort => spec["type"] = "NodePort".into(),
        Type::Balancer => {
            spec["type"] = "LoadBalancer".into();
            spec["externalTrafficPolicy"] = "Local".into();
        }
        Type::Name => {
            spec["type"] = "ExternalName".into();
            spec["externalName"] = "a.example".into();
        }
    }
    if let Some(policy) = ask.policy {
        spec["ipFamilyPolicy"] = policy.into();
    }
    if !ask.families.is_empty() {
        let names = ask.families.iter().map(|v4| if *v4 { "IPv4" } else { "IPv6" });
        spec["ipFamilies"] = names.collect::<Vec<_>>().into();
    }
    if let Some(ip) = ask.ip {
        spec["clusterIP"] = ip.to_string().into();
    }
    spec
}

fn patch(change: &Change) -> Value {
    json!({"spec": match change {
        Change::Policy(policy) => json!({"ipFamilyPolicy": policy}),
        Change::To(Type::Name) => json!({"type": "ExternalName", "externalName": "a.example"}),
        Change::To(Type::Balancer) => json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}),
        Change::To(Type::NodePort) => json!({"type": "NodePort"}),
        Change::To(_) => json!({"type": "ClusterIP"}),
        Change::NodePort(port) => json!({"ports": [{"port": 80, "nodePort": port}]}),
        Change::Label(text) => json!({"selector": {"a": text}}),
    }})
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

/// Does the operation on the server and in the model; both must agree.
fn step(api: &ApiServer, model: &mut Model, op: &Op) {
    let (said, allowed) = match op {
        Op::Create(name, ask) => {
            let allowed = model.may_create(name, ask);
            let said = create(api, services(), service(name, spec(ask)));
            (said.map(Some), allowed)
        }
        Op::Edit(name, change) => {
            let allowed = model.may_edit(name, change);
            (edit(api, name, patch(change)).map(Some), allowed)
        }
        Op::Delete(name) => (delete(api, services(), name).map(|()| None), model.has(name)),
        Op::Reserve(ip) => {
            let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
                "metadata": {"name": ip.to_string()},
                "spec": {"parentRef": {"resource": "gateways", "name": "g"}}});
            let allowed = model.may_reserve(*ip);
            (create(api, ip_addresses(), object).map(|_| None), allowed)
        }
        Op::Free(ip) => {
            if !model.is_reserved(*ip) {
                return;
            }
            (delete(api, ip_addresses(), &ip.to_string()).map(|()| None), true)
        }
        Op::AddRange(name, cidrs) => {
            let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
                "metadata": {"name": name}, "spec": {"cidrs": cidrs}});
            let allowed = model.may_add_range(name);
            (create(api, ranges::service_cidrs(), object).map(|_| None), allowed)
        }
        Op::DeleteRange(name) => {
            let allowed = model.has_range(name);
            (delete(api, ranges::service_cidrs(), name).map(|()| None), allowed)
        }
        Op::Restart => return,
    };
    assert_eq!(said.is_ok(), allowed, "{op:?}: {said:?}\n{model:#?}");
    if let Ok(object) = said {
        model.follow(op, object.as_ref());
    }
    // The ranges that the model still has are those of the server.
    let names: BTreeSet<String> = all(api, ranges::service_cidrs())
        .iter()
        .map(|range| range["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, model.range_names(), "{op:?}");
}

/// Every state that a death of the process can leave is one between two transactions.
fn check_every_cut(dir: &Path, cuts: &[u16]) {
    let segments = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let segments: Vec<_> =
        segments.filter(|name| name.to_str().unwrap().starts_with("journal-")).collect();
    // Too short a history for a second one.
    let [segment] = &segments[..] else { panic!("{segments:?}") };
    let bytes = std::fs::read(dir.join(segment)).unwrap();
    for cut in cuts {
        let len = bytes.len() * usize::from(*cut) / usize::from(u16::MAX);
        let copy = tempfile::tempdir().unwrap();
        std::fs::write(copy.path().join(segment), &bytes[..len]).unwrap();
        let store = Store::open(copy.path(), false, 16, |_, _| Default::default()).unwrap();
        let list = |kind: &Kind| -> Vec<Value> {
            let table = store.table(&crate::server::table_name(kind));
            let all = store.list(table, &Scope::default(), None, None, 0).unwrap();
            all.items.iter().map(|(_, entry)| entry.value()).collect()
        };
        consistent(&list(services()), &list(ip_addresses()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn no_address_is_given_twice_and_none_is_lost(
        ops in proptest::collection::vec(model::op(), 1..60),
        cuts in proptest::collection::vec(any::<u16>(), 12),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut api = ApiServer::new(config(Some(dir.path()))).unwrap();
        let mut model = Model::new();
        for op in &ops {
            if matches!(op, Op::Restart) {
                drop(api);
                api = ApiServer::new(config(Some(dir.path()))).unwrap();
            }
            step(&api, &mut model, op);
            check(&api);
        }
        drop(api);
        check_every_cut(dir.path(), &cuts);
        // Nothing had to be repaired.
        let api = ApiServer::new(config(Some(dir.path()))).unwrap();
        check(&api);
        let events = weft_kinds::lookup("", "v1", "events").unwrap();
        prop_assert_eq!(all(&api, events), Vec::<Value>::new());
    }
}

#[test]
fn clients_at_the_same_time_get_different_addresses() {
    let api = ApiServer::new(config(None)).unwrap();
    std::thread::scope(|scope| {
        for client in 0..8 {
            let api = &api;
            scope.spawn(move || {
                for round in 0..60 {
                    let name = format!("s{client}-{}", round % 3);
                    let kind = [Type::NodePort, Type::ClusterIp, Type::Balancer][round % 3];
                    let ask = Ask { kind, policy: Some("PreferDualStack"), ..Ask::default() };
                    if create(api, services(), service(&name, spec(&ask))).is_err() {
                        let _ = delete(api, services(), &name);
                    }
                    let _ = edit(api, &name, json!({"spec": {"ipFamilyPolicy": "SingleStack"}}));
                }
            });
        }
    });
    check(&api);
}

#[test]
fn repairs_bring_services_and_addresses_together_again() {
    let api = ApiServer::new(config(None)).unwrap();
    let ask = |ip: &str| Ask { ip: Some(ip.parse().unwrap()), ..Ask::default() };
    for (name, ip) in [("a", "10.96.0.5"), ("b", "10.96.0.6"), ("c", "10.96.0.7")] {
        create(&api, services(), service(name, spec(&ask(ip)))).unwrap();
    }
    // Deleted by hand: the address is not given to another all the same, and comes back.
    delete(&api, ip_addresses(), "10.96.0.5").unwrap();
    let e = create(&api, services(), service("thief", spec(&ask("10.96.0.5")))).unwrap_err();
    assert!(e.contains("provided IP is already allocated"), "{e}");
    // One that nobody has, old and new, and one of another's.
    let address = |ip: &str, service: &str| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
            "metadata": {"name": ip, "labels": {LABEL_MANAGER: MANAGER}},
            "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": service}}})
    };
    create(&api, ip_addresses(), address("10.96.0.10", "gone")).unwrap();
    create(&api, ip_addresses(), address("10.96.0.11", "a")).unwrap();
    delete(&api, ip_addresses(), "10.96.0.6").unwrap();
    create(&api, ip_addresses(), address("10.96.0.6", "nobody")).unwrap();
    let now = jiff::Timestamp::now();
    api.0.repair_allocations(now);
    let names = |api: &ApiServer| -> BTreeMap<String, String> {
        all(api, ip_addresses())
            .iter()
            .map(|a| {
                let text = |v: &Value| v.as_str().unwrap().to_owned();
                (text(&a["metadata"]["name"]), text(&a["spec"]["parentRef"]["name"]))
            })
            .collect()
    };
    let found = names(&api);
    assert_eq!(found.get("10.96.0.5").map(String::as_str), Some("a"));
    assert_eq!(found.get("10.96.0.6").map(String::as_str), Some("b"));
    assert!(found.contains_key("10.96.0.10"), "it may be of a Service that is being made");
    assert!(!found.contains_key("10.96.0.11"));
    api.0.repair_allocations(now + jiff::SignedDuration::from_secs(61));
    assert!(!names(&api).contains_key("10.96.0.10"));
    check(&api);
    let events = all(&api, weft_kinds::lookup("", "v1", "events").unwrap());
    let reasons: BTreeSet<&str> = events.iter().map(|e| e["reason"].as_str().unwrap()).collect();
    let expected = ["ClusterIPNotAllocated", "IPAddressNotAllocated", "IPAddressWrongReference"];
    assert_eq!(reasons, BTreeSet::from(expected));
}

#[test]
fn a_journal_without_addresses_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    {
        // As an older version left it: Services alone, two of them with one address.
        let store = Store::open(dir.path(), false, 16, |_, _| Default::default()).unwrap();
        let table = store.table("/services");
        for (name, ip, port) in [("a", "10.96.0.3", 30003), ("b", "10.96.0.3", 30003)] {
            let object = json!({"apiVersion": "v1", "kind": "Service",
                "metadata": {"name": name, "namespace": "default", "uid": name},
                "spec": {"type": "NodePort", "clusterIP": ip, "clusterIPs": [ip],
                    "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
                    "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80, "nodePort": port}]}});
            let key = Key::new("default", name);
            let commit = crate::store::Commit {
                table,
                key: &key,
                expect: crate::store::Expect::Absent,
                write: crate::store::Write::Put(object),
                dry_run: false,
            };
            store.commit(commit, |_| Default::default(), |_, _| Ok::<_, ()>(()), |()| ()).unwrap();
        }
    }
    let api = ApiServer::new(config(Some(dir.path()))).unwrap();
    let addresses = all(&api, ip_addresses());
    let owner = |ip: &str| {
        let found = addresses.iter().find(|a| a["metadata"]["name"] == ip);
        found.map(|a| a["spec"]["parentRef"]["name"].as_str().unwrap().to_owned())
    };
    assert_eq!(owner("10.96.0.3").as_deref(), Some("a"));
    assert_eq!(owner("10.96.0.1").as_deref(), Some("kubernetes"));
    let events = all(&api, weft_kinds::lookup("", "v1", "events").unwrap());
    let said = |reason: &str, name: &str| {
        events.iter().any(|e| e["reason"] == reason && e["involvedObject"]["name"] == name)
    };
    assert!(said("ClusterIPAlreadyAllocated", "b") && said("PortAlreadyAllocated", "b"));
    // The rival's end does not give away what the other has.
    delete(&api, services(), "b").unwrap();
    api.0.repair_allocations(jiff::Timestamp::now());
    let ask = Ask { ip: Some("10.96.0.3".parse().unwrap()), ..Ask::default() };
    assert!(create(&api, services(), service("c", spec(&ask))).is_err());
    let ask = Ask { kind: Type::NodePort, node_port: Some(30003), ..Ask::default() };
    assert!(create(&api, services(), service("c", spec(&ask))).is_err());
    check(&api);
}

#[test]
fn ranges_come_and_go() {
    let api = ApiServer::new(config(None)).unwrap();
    let cidr = |name: &str| {
        let found = all(&api, ranges::service_cidrs());
        found.into_iter().find(|c| c["metadata"]["name"] == name)
    };
    let ready = |c: &Value| c["status"]["conditions"][0]["status"].as_str().unwrap().to_owned();
    let default = cidr("kubernetes").unwrap();
    assert_eq!(default["spec"]["cidrs"], json!(["10.96.0.0/28", "fd00:96::/125"]));
    assert_eq!(
        default["metadata"]["finalizers"],
        json!(["networking.k8s.io/service-cidr-finalizer"])
    );
    assert_eq!(ready(&default), "True");
    let outside = Ask { ip: Some("10.97.0.9".parse().unwrap()), ..Ask::default() };
    assert!(create(&api, services(), service("s", spec(&outside))).is_err());
    let range = |name: &str, net: &str| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": {"name": name}, "spec": {"cidrs": [net]}})
    };
    create(&api, ranges::service_cidrs(), range("more", "10.97.0.0/24")).unwrap();
    assert_eq!(ready(&cidr("more").unwrap()), "True");
    create(&api, services(), service("s", spec(&outside))).unwrap();
    // In use: it waits, and gives nothing more.
    delete(&api, ranges::service_cidrs(), "more").unwrap();
    let waiting = cidr("more").unwrap();
    assert_eq!(ready(&waiting), "False");
    assert_eq!(waiting["status"]["conditions"][0]["reason"], "Terminating");
    let other = Ask { ip: Some("10.97.0.10".parse().unwrap()), ..Ask::default() };
    assert!(create(&api, services(), service("t", spec(&other))).is_err());
    // Another range that covers it takes its place.
    create(&api, ranges::service_cidrs(), range("wide", "10.97.0.0/16")).unwrap();
    assert!(cidr("more").is_none());
    create(&api, services(), service("t", spec(&other))).unwrap();
    // The last address gone, so is the range.
    delete(&api, ranges::service_cidrs(), "wide").unwrap();
    delete(&api, services(), "s").unwrap();
    assert!(cidr("wide").is_some());
    delete(&api, services(), "t").unwrap();
    assert!(cidr("wide").is_none());
    check(&api);
}

#[test]
fn the_kubernetes_service_comes_back() {
    for (cidrs, ip, family) in [
        (["10.96.0.0/16", "fd00:96::/112"], "10.96.0.1", "IPv4"),
        (["fd00:96::/112", "10.96.0.0/16"], "fd00:96::1", "IPv6"),
    ] {
        let cidrs = cidrs.iter().map(|c| c.parse().unwrap()).collect();
        let advertise = vec!["172.30.254.1".parse().unwrap(), "fd00:30::1".parse().unwrap()];
        let config = Config { service_cidrs: cidrs, advertise, ..Config::default() };
        let api = ApiServer::new(config).unwrap();
        let endpoints = weft_kinds::lookup("", "v1", "endpoints").unwrap();
        assert_eq!(all(&api, endpoints).len(), 1);
        delete(&api, services(), "kubernetes").unwrap();
        assert!(all(&api, endpoints).is_empty(), "they go with their Service");
        api.0.ensure_kubernetes_service().unwrap();
        assert_eq!(all(&api, endpoints).len(), 1);
        // What is as it should be is not written again.
        let version = api.0.store.rv();
        api.0.ensure_kubernetes_service().unwrap();
        api.0.ensure_default_range(false).unwrap();
        api.0.repair_allocations(jiff::Timestamp::now());
        api.0.tend_ranges();
        assert_eq!(api.0.store.rv(), version);
        let service = &all(&api, services())[0];
        assert_eq!(service["spec"]["clusterIPs"], json!([ip]));
        assert_eq!(service["spec"]["ipFamilies"], json!([family]));
        assert_eq!(service["spec"]["ipFamilyPolicy"], "SingleStack");
        consistent(&all(&api, services()), &all(&api, ip_addresses()));
    }
}

#[test]
fn what_clients_do_to_the_first_service_does_not_keep_the_server_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let start = |cidrs: [&str; 2]| {
        ApiServer::new(Config {
            service_cidrs: cidrs.iter().map(|c| c.parse().unwrap()).collect(),
            advertise: vec!["172.30.254.1".parse().unwrap(), "fd00:30::1".parse().unwrap()],
            data_dir: Some(dir.path().to_owned()),
            ..Config::default()
        })
        .unwrap()
    };
    let api = start(["10.96.0.0/16", "fd00:96::/112"]);
    delete(&api, services(), "kubernetes").unwrap();
    let ask = Ask { ip: Some("10.96.0.1".parse().unwrap()), ..Ask::default() };
    create(&api, services(), service("thief", spec(&ask))).unwrap();
    drop(api);
    let api = start(["10.96.0.0/16", "fd00:96::/112"]);
    assert_eq!(all(&api, services()).len(), 1, "the address is taken");
    delete(&api, services(), "thief").unwrap();
    api.0.ensure_kubernetes_service().unwrap();
    drop(api);
    // The families the other way round: the slice is another one.
    let api = start(["fd00:96::/112", "10.96.0.0/16"]);
    let slices = weft_kinds::lookup("discovery.k8s.io", "v1", "endpointslices").unwrap();
    assert_eq!(all(&api, slices)[0]["addressType"], "IPv6");
}

#[test]
fn a_service_of_very_many_ports_is_judged_in_one_pass() {
    // Pairs of them would be ten thousand million.
    let ports: Vec<Value> = (0..100_000)
        .map(|n| json!({"name": format!("p{n}"), "port": n + 1, "nodePort": n}))
        .collect();
    let api = ApiServer::new(config(None)).unwrap();
    for kind in ["ClusterIP", "NodePort"] {
        let e = create(&api, services(), service("wide", json!({"type": kind, "ports": ports})));
        e.unwrap_err();
    }
}
