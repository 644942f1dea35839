//! What the live tests of policies share: pods in which a long-lived process sends and answers,
//! and a sign that a change is in force.

use crate::harness::*;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};
use weft_lab::{
    nodes::Place,
    probe::{
        Probe,
        doors::Door,
        knock::{Carrier, Heard, Knock},
    },
};

/// How long a knock waits for an answer before it counts as denied: a hundred times what an
/// answer takes here. What was not expected to be silent is tried again with patience.
pub const SILENCE_MS: u64 = 250;
const PATIENCE_MS: u64 = 2_000;

/// Kind, namespace and name of nobody: a pod that nobody selects.
pub const MARKERS: &str = "markers";

/// A process somewhere in the lab, by a name of the test's own.
pub struct World {
    pub lab: Lab,
    pub probes: BTreeMap<String, Probe>,
    /// Addresses by the same names.
    pub addresses: BTreeMap<String, Vec<IpAddr>>,
    turn: u16,
}

/// A pod that does nothing but hold processes.
pub fn idle_pod(namespace: &str, name: &str, node: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "example.test/c", "command": ["sleep", "infinity"]}],
        },
    })
}

pub fn namespace(name: &str, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// One text of many objects, which YAML is, too.
pub fn texts(objects: &[Value]) -> String {
    objects.iter().map(|o| format!("{o}\n---\n")).collect()
}

/// The definition of ClusterNetworkPolicy, or a named skip.
pub fn definition_or_skip(test: &str) -> Option<PathBuf> {
    upstream_or_skip(test, "network-policy-api/clusternetworkpolicies.experimental.yaml")
}

/// The object of a pod of the lab's status: node, UID, addresses.
fn pod_of(lab: &Lab, namespace: &str, name: &str) -> Value {
    let status = lab.status();
    let mut all = status["pods"].as_array().into_iter().flatten();
    let found = all.find(|p| p["name"] == name && p["namespace"] == namespace);
    found.unwrap_or_else(|| panic!("no pod {namespace}/{name}: {status}")).clone()
}

fn netns(lab: &Lab, part: &str) -> PathBuf {
    Path::new("/run/netns").join(format!("weft.{}.{part}", lab.name))
}

fn start(netns: PathBuf, cgroup: String) -> Probe {
    let place = Place { netns, cgroup: Some(cgroup.into()) };
    Probe::start_program(Path::new(WEFT), &place).expect("start a process")
}

/// A process in a pod of a network of its own.
pub fn in_pod(lab: &Lab, namespace: &str, name: &str) -> (Probe, Vec<IpAddr>) {
    let pod = pod_of(lab, namespace, name);
    let field = |f: &str| pod[f].as_str().expect("a pod that runs").to_owned();
    let (node, uid) = (field("node"), field("uid"));
    let own = lab.dir().join(&node).join("pods").join(&uid).join("netns");
    let ips = pod["ips"].as_array().into_iter().flatten();
    let ips = ips.map(|a| a.as_str().and_then(|a| a.parse().ok()).expect("address")).collect();
    (start(own, format!("weft.{}/{node}/pods/{uid}/knock", lab.name)), ips)
}

pub fn on_node(lab: &Lab, node: &str) -> Probe {
    start(netns(lab, node), format!("weft.{}/{node}/system/knock", lab.name))
}

pub fn outside(lab: &Lab) -> Probe {
    start(netns(lab, "client"), format!("weft.{}/client", lab.name))
}

impl World {
    pub fn new(lab: Lab) -> Self {
        Self { lab, probes: BTreeMap::new(), addresses: BTreeMap::new(), turn: 0 }
    }

    /// A process in a pod, named `namespace/name`.
    pub fn enter(&mut self, namespace: &str, name: &str) {
        let (probe, ips) = in_pod(&self.lab, namespace, name);
        let key = format!("{namespace}/{name}");
        self.addresses.insert(key.clone(), ips);
        self.probes.insert(key, probe);
    }

    /// Answers at these ports everywhere.
    pub fn open(&mut self, doors: &[Door]) {
        for probe in self.probes.values_mut() {
            probe.open(doors.to_vec()).expect("open doors");
        }
    }

    /// Everybody knocks at once; results in the order of the knocks.
    pub fn knock(&mut self, knocks: &[(String, Knock)], timeout_ms: u64) -> Vec<Heard> {
        let mut heard = vec![Heard::Nothing; knocks.len()];
        let mine = |name: &str| {
            let all = knocks.iter().enumerate().filter(|(_, (from, _))| from == name);
            all.map(|(i, (_, k))| (i, *k)).collect::<Vec<_>>()
        };
        let answers: Vec<(usize, Heard)> = std::thread::scope(|scope| {
            let senders = self.probes.iter_mut().map(|(name, probe)| {
                let mine = mine(name);
                scope.spawn(move || {
                    if mine.is_empty() {
                        return Vec::new();
                    }
                    let all = mine.iter().map(|(_, k)| *k).collect();
                    let heard = probe.knock(all, timeout_ms).expect("knock");
                    mine.iter().map(|(i, _)| *i).zip(heard).collect()
                })
            });
            let senders: Vec<_> = senders.collect();
            senders.into_iter().flat_map(|s| s.join().expect("sender")).collect()
        });
        for (i, what) in answers {
            heard[i] = what;
        }
        heard
    }

    /// Whether each knock passes. An answer counts at once; silence where an answer is expected
    /// counts when it outlasts any delay of a busy machine.
    pub fn passes(&mut self, knocks: &[(String, Knock)], expected: &[bool]) -> Vec<Heard> {
        let mut heard = self.knock(knocks, SILENCE_MS);
        let again: Vec<usize> =
            (0..knocks.len()).filter(|i| expected[*i] && !heard[*i].passed()).collect();
        if !again.is_empty() {
            let slow: Vec<(String, Knock)> = again.iter().map(|i| knocks[*i].clone()).collect();
            for (i, what) in again.into_iter().zip(self.knock(&slow, PATIENCE_MS)) {
                heard[i] = what;
            }
        }
        heard
    }

    /// Pods of a namespace of their own, one a node and kind of policy, that tell when a change
    /// is in force: a watch delivers in order, and agents apply whole pictures.
    pub fn add_markers(&mut self, nodes: &[&str], cluster_too: bool) {
        let mut objects = vec![namespace(MARKERS, &json!({}))];
        for node in nodes {
            objects.push(idle_pod(MARKERS, &format!("np-{node}"), node, &json!({"marks": "np"})));
            if cluster_too {
                objects.push(idle_pod(
                    MARKERS,
                    &format!("cnp-{node}"),
                    node,
                    &json!({"marks": "cnp"}),
                ));
            }
        }
        self.lab.apply(&texts(&objects));
    }

    /// The markers' processes; nobody listens there, a refusal is enough.
    pub fn enter_markers(&mut self) {
        let status = self.lab.status();
        let all = status["pods"].as_array().cloned().unwrap_or_default();
        for pod in all.iter().filter(|p| p["namespace"] == MARKERS) {
            self.enter(MARKERS, pod["name"].as_str().expect("name"));
        }
    }

    /// Policies that open another port of the markers each time; applied after everything else.
    pub fn next_markers(&mut self) -> Vec<Value> {
        self.turn += 1;
        let port = self.marked_port();
        let mut objects = vec![json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": MARKERS, "name": "marker"},
            "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": port}]}]},
        })];
        if self.addresses.keys().any(|k| k.starts_with("markers/cnp-")) {
            let own = json!({"kubernetes.io/metadata.name": MARKERS});
            objects[0]["spec"]["podSelector"] = json!({"matchLabels": {"marks": "np"}});
            objects.push(json!({
                "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
                "metadata": {"name": "marker"},
                "spec": {
                    "tier": "Admin", "priority": 0,
                    "subject": {"pods": {
                        "namespaceSelector": {"matchLabels": own},
                        "podSelector": {"matchLabels": {"marks": "cnp"}},
                    }},
                    "ingress": [
                        {"action": "Accept", "from": [{"namespaces": {}}], "protocols":
                            [{"tcp": {"destinationPort": {"number": port}}}]},
                        {"action": "Deny", "from": [{"namespaces": {}}]},
                    ],
                },
            }));
        }
        objects
    }

    fn marked_port(&self) -> u16 {
        20_000 + self.turn % 20_000
    }

    /// Waits until every marker has the latest turn, seen from the first marker.
    pub fn in_force(&mut self) {
        let markers: Vec<String> =
            self.addresses.keys().filter(|k| k.starts_with(MARKERS)).cloned().collect();
        let port = self.marked_port();
        let mut knocks = Vec::new();
        for (i, to) in markers.iter().enumerate() {
            // To oneself is always allowed: the neighbour asks.
            let from = markers[(i + 1) % markers.len()].clone();
            for to in &self.addresses[to] {
                knocks.push((from.clone(), Knock { to: *to, carrier: Carrier::Tcp, port }));
            }
        }
        let there = poll(|| self.knock(&knocks, SILENCE_MS).iter().all(Heard::passed));
        assert!(there, "the change is not in force\n{}", self.lab.logs());
    }

    /// Applies, and waits until it is in force.
    pub fn change(&mut self, objects: &[Value]) {
        let all = [objects, &self.next_markers()].concat();
        self.lab.apply(&texts(&all));
        self.in_force();
    }
}

/// Every object of a kind in the lab, as its API gives them out.
pub fn objects(lab: &Lab, kind: &str) -> Vec<Value> {
    let said = lab.k(&["get", kind, "-A", "-o", "json"]);
    let list: Value = serde_json::from_str(&said).expect("JSON");
    list["items"].as_array().cloned().unwrap_or_default()
}

/// Text of a file of upstream's.
pub fn upstream(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
