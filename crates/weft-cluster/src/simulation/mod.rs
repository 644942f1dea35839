//! The core against a simulated API, in every order of events that a seed gives: changes come
//! late, watches break, writes are lost, users and kubelets act in between. Whatever happens,
//! the end is the same.

mod api;
pub(crate) mod bench;
mod endpoints;
mod garbage;

use std::collections::{BTreeMap, BTreeSet};

use std::ops::{Deref, DerefMut};

use proptest::prelude::*;
use serde_json::{Value, json};

use self::api::time;
use self::bench::Bench;
use crate::action::Delete;
use crate::config::Config;
use crate::core::Core;
use crate::kinds::Kind;

const NS: &str = "ns";
/// Replicas of the Deployment, at most, in any moment of a test.
const REPLICAS_MAX: u64 = 4;

struct Simulation {
    bench: Bench,
    address: u32,
}

impl Deref for Simulation {
    type Target = Bench;
    fn deref(&self) -> &Bench {
        &self.bench
    }
}

impl DerefMut for Simulation {
    fn deref_mut(&mut self) -> &mut Bench {
        &mut self.bench
    }
}

fn config() -> Config {
    Config {
        pod_cidrs: vec!["10.244.0.0/20".parse().expect("a range")],
        // No lease is renewed here.
        node_grace: std::time::Duration::from_secs(1 << 30),
        ..Config::default()
    }
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut simulation = Self { bench: Bench::new(seed, config()), address: 0 };
        simulation.user_creates();
        simulation.bench.relist_all();
        simulation
    }

    fn user_creates(&mut self) {
        let namespace = json!({"metadata": {"name": NS}});
        self.api.create(Kind::Namespace, "", namespace);
        for name in ["a", "b", "c"] {
            self.node(name);
        }
        let labels = json!({"app": "web"});
        self.api.create(
            Kind::Deployment,
            NS,
            json!({"metadata": {"name": "web"}, "spec": {
            "replicas": 3, "selector": {"matchLabels": labels}, "template": template("one")}}),
        );
        self.api.create(
            Kind::StatefulSet,
            NS,
            json!({"metadata": {"name": "db"}, "spec": {
            "replicas": 2, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
            "template": {"metadata": {"labels": {"app": "db"}},
                "spec": {"containers": [{"name": "c"}]}}}}),
        );
        let class = json!({"metadata": {"name": "standard", "annotations":
            {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "weft.dev/volumes"});
        self.api.create(Kind::StorageClass, "", class);
        self.api.create(
            Kind::DaemonSet,
            NS,
            json!({"metadata": {"name": "agent"}, "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "template": {"metadata": {"labels": {"app": "agent"}},
                "spec": {"containers": [{"name": "c"}]}}}}),
        );
        for (name, app) in [("web", "web"), ("db", "db"), ("agent", "agent")] {
            self.api.create(
                Kind::Service,
                NS,
                json!({"metadata": {"name": name}, "spec": {
                "clusterIP": "None", "ipFamilies": ["IPv4", "IPv6"], "selector": {"app": app},
                "ports": [{"port": 80, "targetPort": "web", "protocol": "TCP"}]}}),
            );
        }
    }

    fn node(&mut self, name: &str) {
        self.api.create(
            Kind::Node,
            "",
            json!({
            "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": "z"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
        );
    }

    /// Something happens.
    fn step(&mut self, users: bool) {
        match self.roll(if users { 12 } else { 10 }) {
            0..4 => self.deliver(),
            4..7 => self.answer(users),
            7..9 => self.kubelet(),
            9 => self.clock_ms += i64::try_from(self.roll(50)).expect("small"),
            10 => self.user(),
            _ => self.break_a_watch(),
        }
        self.poll();
        self.check();
    }

    /// A kubelet starts, readies or ends one pod.
    fn kubelet(&mut self) {
        let pods: Vec<Value> = self
            .api
            .list(Kind::Pod)
            .filter(|pod| !pod["spec"]["nodeName"].is_null())
            .filter(|pod| {
                !pod["metadata"]["deletionTimestamp"].is_null() || pod["status"]["podIP"].is_null()
            })
            .cloned()
            .collect();
        if pods.is_empty() {
            return;
        }
        let pod = &pods[usize::try_from(self.roll(pods.len() as u64)).expect("small")];
        let name = pod["metadata"]["name"].as_str().expect("a name");
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            let now = Delete { grace_seconds: Some(0), ..Delete::default() };
            self.api.delete(Kind::Pod, NS, name, &now);
            return;
        }
        self.address += 1;
        let (v4, v6) =
            (format!("10.0.0.{}", self.address % 250), format!("fd00::{:x}", self.address));
        let status = json!({"status": {"phase": "Running", "podIP": v4,
            "podIPs": [{"ip": v4}, {"ip": v6}],
            "conditions": [{"type": "Ready", "status": "True",
                "lastTransitionTime": time(self.clock_ms / 1000)}]}});
        self.api.merge(Kind::Pod, NS, name, &status);
    }

    fn user(&mut self) {
        match self.roll(7) {
            0 => {
                let replicas = self.roll(REPLICAS_MAX + 1);
                let body = json!({"spec": {"replicas": replicas}});
                self.api.merge(Kind::Deployment, NS, "web", &body);
            }
            1 => {
                let image = ["one", "two", "three"][usize::try_from(self.roll(3)).expect("small")];
                let body = json!({"spec": {"template": template(image)}});
                self.api.merge(Kind::Deployment, NS, "web", &body);
            }
            2 => {
                let pods: Vec<String> = self
                    .api
                    .list(Kind::Pod)
                    .map(|pod| pod["metadata"]["name"].as_str().expect("a name").to_owned())
                    .collect();
                if !pods.is_empty() {
                    let at = usize::try_from(self.roll(pods.len() as u64)).expect("small");
                    self.api.delete(Kind::Pod, NS, &pods[at], &Delete::default());
                }
            }
            3 => {
                let body = json!({"spec": {"replicas": self.roll(4)}});
                self.api.merge(Kind::StatefulSet, NS, "db", &body);
            }
            4 => {
                if self.api.get(Kind::Node, "", "d").is_none() {
                    self.node("d");
                } else {
                    self.api.delete(Kind::Node, "", "d", &Delete::default());
                }
            }
            5 => {
                let name = format!("data-db-{}", self.roll(3));
                self.api.delete(Kind::PersistentVolumeClaim, NS, &name, &Delete::default());
            }
            _ => {
                let on = self.roll(2) == 0;
                let body = json!({"spec": {"publishNotReadyAddresses": on}});
                self.api.merge(Kind::Service, NS, "web", &body);
            }
        }
    }

    /// Neither deleted nor ended: those that controllers count. (A pod whose node is gone is
    /// Failed first and deleted then; its successor may come in between.)
    fn active(&self, app: &str) -> Vec<&Value> {
        self.api
            .list(Kind::Pod)
            .filter(|pod| {
                pod["metadata"]["labels"]["app"] == app
                    && pod["metadata"]["deletionTimestamp"].is_null()
                    && pod["status"]["phase"] != "Failed"
            })
            .collect()
    }

    /// What holds at every moment.
    fn check(&self) {
        // A ReplicaSet is never asked for more than that. (Their sum may pass the surge for a
        // moment, as in Kubernetes: a Deployment counts sizes, not pods.)
        let mut sets: BTreeMap<String, u64> = BTreeMap::new();
        for pod in self.active("web") {
            *sets.entry(pod["metadata"]["labels"]["pod-template-hash"].to_string()).or_default() +=
                1;
        }
        for (set, count) in sets {
            assert!(count <= REPLICAS_MAX, "{count} pods of {set}");
        }
        let mut daemons: BTreeMap<String, usize> = BTreeMap::new();
        for pod in self.active("agent") {
            let required = "/spec/affinity/nodeAffinity/\
                requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/\
                values/0";
            let node = pod.pointer(required).expect("a node of its own").to_string();
            *daemons.entry(node).or_default() += 1;
        }
        for (node, count) in daemons {
            assert!(count <= 1, "{count} daemons on {node}");
        }
    }

    /// Lets everything come to rest. A loop that never rests fails.
    fn settle(&mut self) {
        for _ in 0..20_000 {
            for _ in 0..4 {
                self.deliver();
            }
            self.answer(false);
            self.kubelet();
            self.poll();
            self.check();
            if self.at_rest() && self.resting() {
                return;
            }
        }
        panic!("no rest after {} writes; under way: {:?}", self.writes, self.under_way);
    }

    /// Whether no kubelet has anything to do.
    fn resting(&self) -> bool {
        self.api.list(Kind::Pod).all(|pod| {
            pod["metadata"]["deletionTimestamp"].is_null()
                && (pod["spec"]["nodeName"].is_null() || !pod["status"]["podIP"].is_null())
        })
    }

    /// What the slices of a Service say, however it is spread over slices.
    fn published(&self, service: &str) -> BTreeSet<(String, String, String, bool)> {
        let mut all = BTreeSet::new();
        for slice in self.api.list(Kind::EndpointSlice) {
            if slice["metadata"]["labels"]["kubernetes.io/service-name"] != service {
                continue;
            }
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                let new = all.insert((
                    slice["ports"].to_string(),
                    endpoint["addresses"][0].as_str().expect("an address").to_owned(),
                    endpoint["targetRef"]["name"].as_str().expect("a pod").to_owned(),
                    endpoint["conditions"]["ready"].as_bool().expect("ready or not"),
                ));
                assert!(new, "an endpoint is published twice: {endpoint}");
            }
        }
        all
    }

    /// The same, from the pods alone.
    fn expected(&self, app: &str) -> BTreeSet<(String, String, String, bool)> {
        let ports = json!([{"name": "", "port": 8080, "protocol": "TCP"}]).to_string();
        let nothing = json!([]).to_string();
        let mut all = BTreeSet::new();
        for pod in self.active(app) {
            let named = !pod["spec"]["containers"][0]["ports"].is_null();
            for address in pod["status"]["podIPs"].as_array().into_iter().flatten() {
                all.insert((
                    if named { ports.clone() } else { nothing.clone() },
                    address["ip"].as_str().expect("an address").to_owned(),
                    pod["metadata"]["name"].as_str().expect("a name").to_owned(),
                    true,
                ));
            }
        }
        all
    }

    /// What holds at rest.
    fn check_rest(&self) {
        let replicas = |kind, name| {
            self.api.get(kind, NS, name).expect("it")["spec"]["replicas"].as_u64().expect("a size")
        };
        let deployment = self.api.get(Kind::Deployment, NS, "web").expect("it");
        let web = self.active("web");
        assert_eq!(web.len() as u64, replicas(Kind::Deployment, "web"));
        for pod in &web {
            let image = &deployment["spec"]["template"]["spec"]["containers"][0]["image"];
            assert_eq!(pod["spec"]["containers"][0]["image"], *image);
        }
        let available = deployment["status"]["availableReplicas"].as_u64().unwrap_or(0);
        assert_eq!(available, web.len() as u64);
        let mut names: Vec<&str> = self
            .active("db")
            .into_iter()
            .map(|pod| pod["metadata"]["name"].as_str().expect("a name"))
            .collect();
        names.sort_unstable();
        let wanted = ["db-0", "db-1", "db-2"];
        let count = usize::try_from(replicas(Kind::StatefulSet, "db")).expect("small");
        assert_eq!(names, wanted[..count]);
        // Each of them has a claim, no claim is without a volume, no volume without a claim.
        for pod in names {
            let claim = format!("data-{pod}");
            assert!(self.api.get(Kind::PersistentVolumeClaim, NS, &claim).is_some(), "{claim}");
        }
        let claimed = |claim: &Value| {
            assert_eq!(claim["status"]["phase"], "Bound", "{claim}");
            claim["spec"]["volumeName"].to_string()
        };
        let claimed: BTreeSet<String> =
            self.api.list(Kind::PersistentVolumeClaim).map(claimed).collect();
        let volumes = self.api.list(Kind::PersistentVolume);
        let volumes: BTreeSet<String> =
            volumes.map(|volume| volume["metadata"]["name"].to_string()).collect();
        assert_eq!(volumes, claimed);
        assert_eq!(self.active("agent").len(), self.api.list(Kind::Node).count());
        for pod in self.api.list(Kind::Pod) {
            assert!(!pod["spec"]["nodeName"].is_null(), "unbound: {pod}");
        }
        let ranges: BTreeSet<String> =
            self.api.list(Kind::Node).map(|node| node["spec"]["podCIDRs"].to_string()).collect();
        assert_eq!(ranges.len(), self.api.list(Kind::Node).count(), "{ranges:?}");
        for app in ["web", "db", "agent"] {
            assert_eq!(self.published(app), self.expected(app), "{app}");
        }
    }
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c",
        "image": image, "ports": [{"name": "web", "containerPort": 8080, "protocol": "TCP"}]}]}})
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any order, any delay, lost writes and broken watches: the end is what was asked for, and
    /// a fresh start on that end has nothing to do (full == incremental).
    #[test]
    fn any_order_comes_to_the_same_rest(seed in any::<u64>(), steps in 50usize..600) {
        let mut simulation = Simulation::new(seed);
        for _ in 0..steps {
            simulation.step(true);
        }
        simulation.settle();
        simulation.check_rest();

        let before = simulation.writes;
        let objects = simulation.api.objects.clone();
        simulation.core = Core::new(config());
        simulation.bench.relist_all();
        simulation.settle();
        prop_assert_eq!(simulation.writes, before, "a restart writes nothing");
        prop_assert_eq!(&simulation.api.objects, &objects);
    }
}
