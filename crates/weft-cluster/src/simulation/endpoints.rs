//! Services, pods and nodes in any order, with writes that are lost or lose a race: in the end
//! the slices say what a plain reading of the objects says, and no more slices are written than
//! that takes.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::api::time;
use super::bench::Bench;
use crate::action::Delete;
use crate::config::Config;
use crate::core::Core;
use crate::kinds::Kind;

const NS: &str = "ns";
const PER_SLICE: usize = 3;
const PODS_MAX: usize = 14;

fn config() -> Config {
    let long = std::time::Duration::from_secs(1 << 30);
    Config {
        node_grace: long,
        orphan_pod_grace: long,
        endpoints_per_slice: PER_SLICE,
        ..Config::default()
    }
}

/// Service, family, ports, address, and all that is said of the endpoint.
type Row = (String, String, BTreeSet<String>, String, String);

struct World {
    bench: Bench,
    made: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self { bench: Bench::new(seed, config()), made: 0 };
        world.bench.api.create(Kind::Namespace, "", json!({"metadata": {"name": NS}}));
        for node in ["n0", "n1", "n2"] {
            world.node(node);
        }
        world.bench.relist_all();
        world
    }

    fn node(&mut self, name: &str) {
        let zone = ["a", "b", "c"][self.bench.pick(3)];
        let cpu = ["1", "2", "500m"][self.bench.pick(3)];
        self.bench.api.create(
            Kind::Node,
            "",
            json!({"metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
                "status": {"allocatable": {"cpu": cpu},
                    "conditions": [{"type": "Ready", "status": "True"}]}}),
        );
    }

    fn names(&self, kind: Kind) -> Vec<String> {
        let name = |object: &Value| object["metadata"]["name"].as_str().expect("a name").to_owned();
        self.bench.api.list(kind).map(name).collect()
    }

    fn some(&mut self, kind: Kind) -> Option<String> {
        let names = self.names(kind);
        if names.is_empty() { None } else { Some(names[self.bench.pick(names.len())].clone()) }
    }

    fn user(&mut self) {
        match self.bench.roll(16) {
            0..5 => self.new_pod(),
            5..9 => self.change_pod(),
            9 => {
                let Some(pod) = self.some(Kind::Pod) else { return };
                self.bench.api.delete(Kind::Pod, NS, &pod, &Delete::default());
            }
            10..12 => self.new_service(),
            12..14 => self.change_service(),
            14 => {
                let Some(service) = self.some(Kind::Service) else { return };
                if self.bench.roll(3) == 0 {
                    self.bench.api.delete(Kind::Service, NS, &service, &Delete::default());
                }
            }
            _ => {
                let name = ["n0", "n1", "n2"][self.bench.pick(3)];
                if self.bench.api.get(Kind::Node, "", name).is_none() {
                    self.node(name);
                } else if self.bench.roll(3) == 0 {
                    self.bench.api.delete(Kind::Node, "", name, &Delete::default());
                } else {
                    let zone = ["a", "b", "c"][self.bench.pick(3)];
                    let body =
                        json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}});
                    self.bench.api.merge(Kind::Node, "", name, &body);
                }
            }
        }
    }

    fn new_pod(&mut self) {
        if self.names(Kind::Pod).len() >= PODS_MAX {
            return;
        }
        self.made += 1;
        let app = ["x", "y"][self.bench.pick(2)];
        let port = [8080, 8081][self.bench.pick(2)];
        let node = ["n0", "n1", "n2"][self.bench.pick(3)];
        let name = format!("p{}", self.bench.roll(20));
        self.bench.api.create(
            Kind::Pod,
            NS,
            json!({"metadata": {"name": name, "labels": {"app": app}},
                "spec": {"nodeName": node, "hostname": name, "subdomain": "s0",
                    "containers": [{"name": "c", "ports": [
                        {"name": "web", "containerPort": port, "protocol": "TCP"}]}]}}),
        );
    }

    /// A pod gets addresses, becomes ready or unready, ends, or goes for good.
    fn change_pod(&mut self) {
        let Some(name) = self.some(Kind::Pod) else { return };
        let pod = self.bench.api.get(Kind::Pod, NS, &name).expect("it").clone();
        if !pod["metadata"]["deletionTimestamp"].is_null() && self.bench.roll(2) == 0 {
            let now = Delete { grace_seconds: Some(0), ..Delete::default() };
            self.bench.api.delete(Kind::Pod, NS, &name, &now);
            return;
        }
        let body = match self.bench.roll(8) {
            0 => json!({"status": {"phase": "Succeeded"}}),
            1 => {
                let app = ["x", "y"][self.bench.pick(2)];
                json!({"metadata": {"labels": {"app": app}}})
            }
            2 | 3 if !pod["status"]["podIPs"].is_null() => self.readiness("False"),
            _ => {
                let mut body = self.readiness("True");
                if pod["status"]["podIPs"].is_null() {
                    // Addresses come back: pods of one name and address are one endpoint.
                    let number = self.made % 30 + 1;
                    let v4 = format!("10.0.0.{number}");
                    body["status"]["podIP"] = v4.clone().into();
                    body["status"]["podIPs"] = match self.bench.roll(4) {
                        0 => json!([{"ip": v4}]),
                        _ => json!([{"ip": v4}, {"ip": format!("fd00::{number:x}")}]),
                    };
                }
                body
            }
        };
        self.bench.api.merge(Kind::Pod, NS, &name, &body);
    }

    fn readiness(&self, status: &str) -> Value {
        json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status,
            "lastTransitionTime": time(self.bench.clock_ms / 1000)}]}})
    }

    fn new_service(&mut self) {
        let name = ["s0", "s1", "s2"][self.bench.pick(3)];
        let app = ["x", "y"][self.bench.pick(2)];
        let families = [json!(["IPv4"]), json!(["IPv4", "IPv6"]), json!(["IPv6"])];
        let target = [json!("web"), json!(9000)][self.bench.pick(2)].clone();
        let families = families[self.bench.pick(3)].clone();
        let address = ["None", "10.96.0.1"][self.bench.pick(2)];
        self.bench.api.create(
            Kind::Service,
            NS,
            json!({"metadata": {"name": name, "labels": {"team": "one"}}, "spec": {
                "clusterIP": address, "ipFamilies": families, "selector": {"app": app},
                "ports": [{"name": "http", "port": 80, "targetPort": target, "protocol": "TCP"},
                    {"name": "raw", "port": 81, "targetPort": 81, "protocol": "UDP"}]}}),
        );
    }

    fn change_service(&mut self) {
        let Some(name) = self.some(Kind::Service) else { return };
        let roll = self.bench.pick(3);
        let of = |all: [Value; 3]| all[roll].clone();
        let body = match self.bench.roll(8) {
            0 => json!({"spec": {"publishNotReadyAddresses": roll == 0}}),
            1 => {
                let app = of([json!("x"), json!("y"), json!("z")]);
                json!({"spec": {"selector": {"app": app}}})
            }
            2 => {
                let families = of([json!(["IPv4"]), json!(["IPv4", "IPv6"]), json!(["IPv6"])]);
                json!({"spec": {"ipFamilies": families}})
            }
            3 => {
                let team = of([json!("one"), json!("two"), json!("three")]);
                json!({"metadata": {"labels": {"team": team}}})
            }
            4 => {
                let near = of([json!(null), json!("PreferClose"), json!("PreferSameNode")]);
                json!({"spec": {"trafficDistribution": near}})
            }
            5 => {
                let mode = of([json!("Auto"), json!(null), json!("Disabled")]);
                let key = "service.kubernetes.io/topology-mode";
                json!({"metadata": {"annotations": {key: mode}}})
            }
            6 => {
                let target = of([json!("web"), json!(9000), json!("absent")]);
                json!({"spec": {"ports": [{"name": "http", "port": 80, "protocol": "TCP",
                    "targetPort": target}]}})
            }
            _ => return self.meddle(),
        };
        self.bench.api.merge(Kind::Service, NS, &name, &body);
    }

    /// Somebody edits or deletes a slice.
    fn meddle(&mut self) {
        let Some(name) = self.some(Kind::EndpointSlice) else { return };
        if self.bench.roll(2) == 0 {
            self.bench.api.delete(Kind::EndpointSlice, NS, &name, &Delete::default());
        } else {
            let body = json!({"endpoints": [{"addresses": ["192.0.2.1"], "conditions": {}}]});
            self.bench.api.merge(Kind::EndpointSlice, NS, &name, &body);
        }
    }

    fn step(&mut self) {
        match self.bench.roll(12) {
            0..4 => self.bench.deliver(),
            4..7 => self.bench.answer(true),
            7..10 => self.user(),
            10 => self.bench.clock_ms += i64::try_from(self.bench.roll(50)).expect("small"),
            _ => self.bench.break_a_watch(),
        }
        self.bench.poll();
    }

    fn settle(&mut self) {
        for _ in 0..20_000 {
            for _ in 0..4 {
                self.bench.deliver();
            }
            self.bench.answer(false);
            self.bench.poll();
            if self.bench.at_rest() {
                return;
            }
        }
        panic!("no rest; under way: {:?}", self.bench.under_way);
    }

    fn services(&self) -> impl Iterator<Item = &Value> {
        self.bench.api.list(Kind::Service)
    }

    /// What the slices say.
    fn published(&self) -> BTreeSet<Row> {
        let mut rows = BTreeSet::new();
        for slice in self.bench.api.list(Kind::EndpointSlice) {
            let service = slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str();
            let service = service.expect("a label").to_owned();
            let held = self.bench.api.get(Kind::Service, NS, &service);
            let held = held.expect("no slice outlives its Service");
            assert_eq!(slice["metadata"]["ownerReferences"][0]["uid"], held["metadata"]["uid"]);
            assert_eq!(slice["metadata"]["labels"]["team"], held["metadata"]["labels"]["team"]);
            let headless = held["spec"]["clusterIP"] == "None";
            let label = &slice["metadata"]["labels"]["service.kubernetes.io/headless"];
            assert_eq!(!label.is_null(), headless);
            let endpoints = slice["endpoints"].as_array().cloned().unwrap_or_default();
            assert!(endpoints.len() <= PER_SLICE);
            let ports: BTreeSet<String> =
                slice["ports"].as_array().into_iter().flatten().map(text).collect();
            for endpoint in endpoints {
                let hints = &endpoint["hints"];
                if endpoint["conditions"]["ready"] == false {
                    assert!(hints.is_null(), "{endpoint}");
                }
                let mut said = endpoint.clone();
                said.as_object_mut().expect("an object").remove("hints");
                let new = rows.insert((
                    service.clone(),
                    slice["addressType"].as_str().expect("a family").to_owned(),
                    ports.clone(),
                    endpoint["addresses"][0].as_str().expect("an address").to_owned(),
                    text(&said),
                ));
                assert!(new, "an endpoint is published twice: {endpoint}");
            }
        }
        rows
    }

    /// The same from Services, pods and nodes, as the documentation reads.
    fn expected(&self) -> BTreeSet<Row> {
        let mut rows = BTreeSet::new();
        for service in self.services() {
            for pod in self.bench.api.list(Kind::Pod) {
                if pod["metadata"]["labels"]["app"] != service["spec"]["selector"]["app"]
                    || pod["status"]["phase"] == "Succeeded"
                {
                    continue;
                }
                for family in service["spec"]["ipFamilies"].as_array().into_iter().flatten() {
                    rows.extend(self.row(service, pod, family.as_str().expect("a family")));
                }
            }
        }
        rows
    }

    fn row(&self, service: &Value, pod: &Value, family: &str) -> Option<Row> {
        let publish = service["spec"]["publishNotReadyAddresses"] == true;
        let all = pod["status"]["podIPs"].as_array()?;
        let address = all
            .iter()
            .filter_map(|one| one["ip"].as_str())
            .find(|text| text.contains(':') == (family == "IPv6"))?;
        let node = self.bench.api.get(Kind::Node, "", pod["spec"]["nodeName"].as_str()?);
        if node.is_none() && !publish {
            return None;
        }
        let serving = pod["status"]["conditions"][0]["status"] == "True";
        let terminating = !pod["metadata"]["deletionTimestamp"].is_null();
        let mut endpoint = json!({
            "addresses": [address],
            "conditions": {"ready": publish || (serving && !terminating), "serving": serving,
                "terminating": terminating},
            "nodeName": pod["spec"]["nodeName"],
            "targetRef": {"kind": "Pod", "name": pod["metadata"]["name"], "namespace": NS,
                "uid": pod["metadata"]["uid"]},
        });
        let zone = node.map(|node| &node["metadata"]["labels"]["topology.kubernetes.io/zone"]);
        if let Some(zone) = zone {
            endpoint["zone"] = zone.clone();
        }
        if pod["spec"]["subdomain"] == service["metadata"]["name"] {
            endpoint["hostname"] = pod["spec"]["hostname"].clone();
        }
        let mut ports = BTreeSet::new();
        for port in service["spec"]["ports"].as_array().into_iter().flatten() {
            let number = match port["targetPort"].as_str() {
                Some("web") => pod["spec"]["containers"][0]["ports"][0]["containerPort"].clone(),
                Some(_) => continue,
                None => port["targetPort"].clone(),
            };
            let port = json!({"name": port["name"], "port": number, "protocol": port["protocol"]});
            ports.insert(text(&port));
        }
        Some((
            service["metadata"]["name"].as_str()?.to_owned(),
            family.to_owned(),
            ports,
            address.to_owned(),
            text(&endpoint),
        ))
    }

    /// How many slices there are: one per family without endpoints, none that is empty beside
    /// others, and never more than the most there ever were to hold, half full.
    fn check_slices(&self) {
        let mut families: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
        for slice in self.bench.api.list(Kind::EndpointSlice) {
            let service = &slice["metadata"]["labels"]["kubernetes.io/service-name"];
            let key = (service.to_string(), slice["addressType"].to_string());
            let size = slice["endpoints"].as_array().map_or(0, Vec::len);
            families.entry(key).or_default().push(size);
        }
        for (key, sizes) in &families {
            assert!(sizes.len() == 1 || !sizes.contains(&0), "{key:?}: {sizes:?}");
            assert!(sizes.len() <= PODS_MAX.div_ceil(PER_SLICE) + 4, "{key:?}: {sizes:?}");
        }
        let wanted: usize = self
            .services()
            .map(|service| service["spec"]["ipFamilies"].as_array().map_or(0, Vec::len))
            .sum();
        assert_eq!(families.len(), wanted, "a slice for every family of every Service");
    }

    /// The legacy object says the same of the primary family.
    fn check_legacy(&self) {
        for service in self.services() {
            let name = service["metadata"]["name"].as_str().expect("a name");
            let held = self.bench.api.get(Kind::Endpoints, NS, name).expect("Endpoints");
            let mut said = BTreeSet::new();
            for subset in held["subsets"].as_array().into_iter().flatten() {
                for (list, ready) in [("addresses", true), ("notReadyAddresses", false)] {
                    for address in subset[list].as_array().into_iter().flatten() {
                        let pod = address["targetRef"]["name"].as_str().expect("a pod").to_owned();
                        for port in subset["ports"].as_array().into_iter().flatten() {
                            let new = (pod.clone(), text(port), ready);
                            assert!(said.insert(new), "twice: {held}");
                        }
                    }
                }
            }
            let family = service["spec"]["ipFamilies"][0].as_str().expect("a family");
            let publish = service["spec"]["publishNotReadyAddresses"] == true;
            let mut wanted = BTreeSet::new();
            for pod in self.bench.api.list(Kind::Pod) {
                let deleting = !pod["metadata"]["deletionTimestamp"].is_null();
                let selected =
                    pod["metadata"]["labels"]["app"] == service["spec"]["selector"]["app"];
                let over = pod["status"]["phase"] == "Succeeded" || (deleting && !publish);
                let mut any = service.clone();
                // A missing node makes no difference here.
                any["spec"]["publishNotReadyAddresses"] = true.into();
                let Some(row) = self.row(&any, pod, family).filter(|_| selected && !over) else {
                    continue;
                };
                let ready = publish || pod["status"]["conditions"][0]["status"] == "True";
                let pod = pod["metadata"]["name"].as_str().expect("a name");
                wanted.extend(row.2.into_iter().map(|port| (pod.to_owned(), port, ready)));
            }
            assert_eq!(said, wanted, "{name}");
        }
    }
}

/// JSON with its keys in order.
fn text(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, String> =
                map.iter().map(|(key, value)| (key, text(value))).collect();
            format!("{sorted:?}").replace('\\', "")
        }
        Value::Array(all) => all.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn slices_say_what_the_objects_say(seed in any::<u64>(), steps in 50usize..900) {
        let mut world = World::new(seed);
        for _ in 0..steps {
            world.step();
        }
        world.settle();
        prop_assert_eq!(world.published(), world.expected());
        world.check_slices();
        world.check_legacy();

        // A fresh start finds nothing to do.
        let before = (world.bench.writes, world.bench.api.objects.clone());
        world.bench.core = Core::new(config());
        world.bench.relist_all();
        world.settle();
        prop_assert_eq!((world.bench.writes, world.bench.api.objects.clone()), before);
    }
}
