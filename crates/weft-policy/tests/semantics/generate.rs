//! Clusters of API objects, made from bytes: fewer and smaller bytes make simpler clusters.

use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};
use weft_kube::lower;
use weft_model::{Port, Protocol};
use weft_policy::{Flow, PolicyInput, Transport};

pub struct Entropy<'a> {
    bytes: std::slice::Iter<'a, u8>,
}

impl<'a> Entropy<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes: bytes.iter() }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.as_slice().is_empty()
    }

    pub fn below(&mut self, n: usize) -> usize {
        usize::from(self.bytes.next().copied().unwrap_or(0)) * n / 256
    }

    fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.below(from.len())]
    }

    /// True in `n` of 16 cases.
    pub fn rarely(&mut self, n: usize) -> bool {
        self.below(16) >= 16 - n
    }

    fn list<T>(&mut self, max: usize, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(max + 1)).map(|_| item(self)).collect()
    }
}

/// API objects, as a server would hand them out.
#[derive(Clone, Default)]
pub struct Cluster {
    pub namespaces: Vec<Value>,
    pub nodes: Vec<Value>,
    pub pods: Vec<Value>,
    pub network_policies: Vec<Value>,
    pub cluster_policies: Vec<Value>,
    pub dns: Vec<IpAddr>,
    pub names: Vec<(&'static str, IpAddr)>,
    pub ipv6: bool,
}

const NAMESPACES: [&str; 3] = ["a", "b", "kube-system"];
pub const NODES: [(&str, [&str; 2]); 2] =
    [("n1", ["192.0.2.1", "2001:db8::1"]), ("n2", ["192.0.2.2", "2001:db8::2"])];
const KEYS: [&str; 5] = ["app", "tier", "team", "k8s-app", "kubernetes.io/metadata.name"];
const VALUES: [&str; 7] = ["web", "db", "x", "y", "a", "kube-dns", "kube-system"];
const CIDRS: [&str; 14] = [
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/8",
    "10.0.0.0/30",
    "10.0.0.2/32",
    "10.0.0.3/8",
    "192.0.2.0/24",
    "198.51.100.0/24",
    "10.96.0.0/16",
    "fd00::/16",
    "fd00::4/126",
    "fd00::2/128",
    "2001:db8::/32",
    "2001:db8::1/128",
];
const OUTSIDE: [[&str; 2]; 2] = [["198.51.100.7", "2001:db8:f::7"], ["203.0.113.9", "2001:db9::9"]];
const NUMBERS: [u16; 7] = [53, 80, 81, 443, 8080, 1, 65535];
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const PORT_NAMES: [&str; 4] = ["http", "dns", "dns-tcp", "other"];
const DOMAINS: [&str; 3] = ["www.example.com", "*.example.com", "example.org"];

impl Cluster {
    pub fn generate(e: &mut Entropy<'_>) -> Self {
        let mut cluster = Self { ipv6: e.rarely(5), ..Self::default() };
        cluster.dns =
            ["10.96.0.10", "10.0.9.1", "fd00:96::a"].map(|a| a.parse().expect("IP")).into();
        cluster.names = vec![
            ("www.example.com", "203.0.113.9".parse().expect("IP")),
            ("www.example.com", "2001:db9::9".parse().expect("IP")),
            ("example.org", "10.0.0.2".parse().expect("IP")),
        ];
        for i in 0..NODES.len() {
            let node = node(e, i);
            cluster.nodes.push(node);
        }
        for name in NAMESPACES {
            // One that is not known yet.
            if e.rarely(1) {
                continue;
            }
            let namespace = namespace(e, name);
            cluster.namespaces.push(namespace);
        }
        for i in 0..5 {
            let pod = pod(e, i);
            cluster.pods.push(pod);
        }
        for i in 0..e.below(4) {
            let mut policy = network_policy(e, i);
            annotate(e, &mut policy, 3);
            cluster.network_policies.push(policy);
        }
        for i in 0..e.below(4) {
            let mut policy = cluster_policy(e, i);
            annotate(e, &mut policy, 3);
            cluster.cluster_policies.push(policy);
        }
        cluster
    }

    /// Something happens to one of its objects: it comes, goes or changes.
    pub fn change(&mut self, e: &mut Entropy<'_>) {
        fn replace(list: &mut Vec<Value>, old: impl Fn(&Value) -> bool, new: Option<Value>) {
            let at = list.iter().position(old);
            match (at, new) {
                (Some(at), Some(new)) => list[at] = new,
                (Some(at), None) => drop(list.remove(at)),
                (None, Some(new)) => list.push(new),
                (None, None) => {}
            }
        }
        let stays = !e.rarely(4);
        match e.below(16) {
            0..6 => {
                let i = e.below(5);
                let mut pod = pod(e, i);
                // Addresses are used again.
                if e.rarely(3) {
                    let other = e.below(6) + 1;
                    pod["status"]["podIPs"] = json!([{"ip": format!("10.0.0.{other}")}]);
                }
                let name = pod["metadata"]["name"].clone();
                let same = |v: &Value| v["metadata"]["name"] == name;
                replace(&mut self.pods, same, stays.then_some(pod));
            }
            6..10 => {
                let i = e.below(5);
                let mut policy = network_policy(e, i);
                annotate(e, &mut policy, 3);
                let name = policy["metadata"]["name"].clone();
                let same = |v: &Value| v["metadata"]["name"] == name;
                replace(&mut self.network_policies, same, stays.then_some(policy));
            }
            10..13 => {
                let i = e.below(4);
                let mut policy = cluster_policy(e, i);
                annotate(e, &mut policy, 3);
                let name = policy["metadata"]["name"].clone();
                let same = |v: &Value| v["metadata"]["name"] == name;
                replace(&mut self.cluster_policies, same, stays.then_some(policy));
            }
            13 => {
                let name = *e.pick(&NAMESPACES);
                let namespace = namespace(e, name);
                let same = |v: &Value| v["metadata"]["name"] == name;
                replace(&mut self.namespaces, same, stays.then_some(namespace));
            }
            14 => {
                let i = e.below(NODES.len());
                let node = node(e, i);
                let same = |v: &Value| v["metadata"]["name"] == NODES[i].0;
                replace(&mut self.nodes, same, stays.then_some(node));
            }
            _ if stays => {
                let names = [
                    ("www.example.com", "203.0.113.9"),
                    ("example.org", "10.0.0.2"),
                    ("example.org", "198.51.100.7"),
                    ("a.example.com", "10.0.0.1"),
                ];
                self.names = e.list(3, |e| *e.pick(&names)).into_iter().map(parsed).collect();
            }
            _ => {
                let addresses = ["10.96.0.10", "10.0.9.1", "192.0.2.1", "10.0.0.3"];
                self.dns = e.list(2, |e| e.pick(&addresses).parse().expect("IP"));
            }
        }
    }

    /// Addresses of everybody, inside and outside.
    pub fn ends(&self) -> BTreeSet<IpAddr> {
        let pods = self.pods.iter().flat_map(|p| p["status"]["podIPs"].as_array());
        let pods = pods.flatten().filter_map(|ip| ip["ip"].as_str());
        let others = OUTSIDE.iter().flatten().chain(NODES.iter().flat_map(|(_, a)| a));
        let ends = pods.chain(others.copied()).chain(["10.96.0.10", "10.0.9.1"]);
        ends.map(|a| a.parse().expect("IP")).collect()
    }

    /// What the watches make of it.
    pub fn input(&self) -> PolicyInput {
        fn of<T: serde::de::DeserializeOwned, U>(
            list: &[Value],
            lower: impl Fn(&T) -> weft_kube::lower::Lowered<U>,
        ) -> impl Iterator<Item = Arc<U>> {
            list.iter().map(move |v| {
                let object: T =
                    serde_json::from_value(v.clone()).unwrap_or_else(|e| panic!("{e}: {v}"));
                Arc::new(lower(&object).value.expect("lowered"))
            })
        }
        let mut names: BTreeMap<Arc<str>, BTreeSet<IpAddr>> = BTreeMap::new();
        for (name, address) in &self.names {
            names.entry((*name).into()).or_default().insert(*address);
        }
        PolicyInput {
            generation: 1,
            namespaces: of(&self.namespaces, lower::labelled_namespace)
                .map(|n| (n.name.clone(), n))
                .collect(),
            pods: of(&self.pods, lower::pod).map(|p| (p.id.clone(), p)).collect(),
            nodes: of(&self.nodes, lower::node_peer).map(|n| (n.name.clone(), n)).collect(),
            network_policies: of(&self.network_policies, lower::network_policy)
                .map(|p| (p.id.clone(), p))
                .collect(),
            cluster_policies: of(&self.cluster_policies, lower::cluster_network_policy)
                .map(|p| (p.name.clone(), p))
                .collect(),
            dns: self.dns.iter().copied().collect(),
            names,
        }
    }

    /// Every pair of everybody, with every port and protocol that matters.
    pub fn flows(&self) -> Vec<Flow> {
        let family = usize::from(self.ipv6);
        let of_family = |a: &IpAddr| a.is_ipv6() == self.ipv6;
        let mut ends: Vec<IpAddr> = Vec::new();
        for pod in &self.pods {
            for ip in pod["status"]["podIPs"].as_array().into_iter().flatten() {
                ends.push(ip["ip"].as_str().expect("text").parse().expect("IP"));
            }
        }
        ends.extend(OUTSIDE.iter().map(|o| o[family].parse::<IpAddr>().expect("IP")));
        ends.extend(NODES.iter().map(|(_, a)| a[family].parse::<IpAddr>().expect("IP")));
        ends.retain(of_family);
        ends.sort();
        ends.dedup();
        let mut sources: Vec<(IpAddr, Option<&str>)> = ends.iter().map(|a| (*a, None)).collect();
        sources.extend(NODES.map(|(n, a)| (a[family].parse().expect("IP"), Some(n))));
        // Nobody but a node ever sends from there, and not everything from there bears its mark.
        sources.extend(self.dns.iter().filter(|a| of_family(a)).map(|a| (*a, None)));
        let destinations: Vec<IpAddr> =
            ends.iter().chain(self.dns.iter().filter(|a| of_family(a))).copied().collect();
        let transports: Vec<Transport> = [
            ("TCP", 80),
            ("TCP", 8080),
            ("TCP", 81),
            ("TCP", 65535),
            ("TCP", 53),
            ("UDP", 53),
            ("SCTP", 80),
        ]
        .iter()
        .map(|(p, n)| {
            let port = Port::try_from(*n).expect("a port");
            Transport::Port(p.parse::<Protocol>().expect("a protocol"), port)
        })
        .chain([Transport::Other])
        .collect();
        let mut flows = Vec::new();
        for (source, from_node) in &sources {
            for destination in &destinations {
                for transport in &transports {
                    for through_service in [false, true] {
                        // It makes a difference to oneself alone.
                        if through_service && source != destination {
                            continue;
                        }
                        flows.push(Flow {
                            source: *source,
                            destination: *destination,
                            transport: *transport,
                            from_node: from_node.map(|n| n.parse().expect("a name")),
                            through_service,
                        });
                    }
                }
            }
        }
        flows
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = [
            &self.namespaces,
            &self.nodes,
            &self.pods,
            &self.network_policies,
            &self.cluster_policies,
        ];
        for object in lists.into_iter().flatten() {
            writeln!(f, "{object}")?;
        }
        Ok(())
    }
}

fn parsed((name, address): (&'static str, &str)) -> (&'static str, IpAddr) {
    (name, address.parse().expect("IP"))
}

fn node(e: &mut Entropy<'_>, i: usize) -> Value {
    let (name, addresses) = NODES[i];
    let zone = *e.pick(&["x", "y"]);
    let addresses: Vec<Value> = addresses
        .iter()
        .map(|a| json!({"type": "InternalIP", "address": a}))
        .chain([json!({"type": "Hostname", "address": name})])
        .collect();
    json!({
        "metadata": {"name": name, "labels": {"team": zone}},
        "status": {"addresses": addresses},
    })
}

fn namespace(e: &mut Entropy<'_>, name: &str) -> Value {
    let mut labels = labels(e, &["team"]);
    labels.insert("kubernetes.io/metadata.name".to_owned(), json!(name));
    let mut namespace = json!({"metadata": {"name": name, "labels": labels}});
    annotate(e, &mut namespace, 1);
    namespace
}

pub fn annotated(object: &Value) -> bool {
    object["metadata"]["annotations"]["weft.dev/policy-audit"] == "enabled"
}

/// Puts something into audit mode, in `n` of 16 cases.
fn annotate(e: &mut Entropy<'_>, object: &mut Value, n: usize) {
    if e.rarely(n) {
        object["metadata"]["annotations"] = json!({"weft.dev/policy-audit": "enabled"});
    }
}

fn labels(e: &mut Entropy<'_>, keys: &[&str]) -> Map<String, Value> {
    let mut labels = Map::new();
    for key in keys {
        if e.below(4) > 0 {
            labels.insert((*key).to_owned(), json!(e.pick(&VALUES[..4])));
        }
    }
    labels
}

fn pod(e: &mut Entropy<'_>, i: usize) -> Value {
    let namespace = *e.pick(&NAMESPACES);
    let mut labels = labels(e, &["app", "tier"]);
    if e.rarely(1) {
        labels.insert("k8s-app".to_owned(), json!("kube-dns"));
    }
    let node = e.below(NODES.len());
    let host = e.rarely(1);
    let bound = host || !e.rarely(1);
    let mut spec = json!({"containers": [
        {"name": "c", "ports": e.list(2, container_port)},
        {"name": "d", "ports": e.list(1, container_port)},
    ]});
    if bound {
        spec["nodeName"] = json!(NODES[node].0);
    }
    if host {
        spec["hostNetwork"] = json!(true);
    }
    let ips: Vec<Value> = match (host, e.rarely(1)) {
        (true, _) => NODES[node].1.iter().map(|a| json!({"ip": a})).collect(),
        (false, true) => Vec::new(),
        (false, false) => {
            vec![
                json!({"ip": format!("10.0.0.{}", i + 1)}),
                json!({"ip": format!("fd00::{}", i + 1)}),
            ]
        }
    };
    let phase = if e.rarely(1) { "Succeeded" } else { "Running" };
    json!({
        "metadata": {"namespace": namespace, "name": format!("p{i}"), "labels": labels},
        "spec": spec,
        "status": {"podIPs": ips, "phase": phase},
    })
}

fn container_port(e: &mut Entropy<'_>) -> Value {
    let mut port = json!({"containerPort": e.pick(&NUMBERS)});
    if e.below(4) > 0 {
        port["name"] = json!(e.pick(&PORT_NAMES));
    }
    if e.rarely(6) {
        port["protocol"] = json!(e.pick(&PROTOCOLS));
    }
    port
}

fn selector(e: &mut Entropy<'_>) -> Value {
    let mut selector = Map::new();
    if e.rarely(7) {
        let one = |e: &mut Entropy<'_>| ((*e.pick(&KEYS)).to_owned(), json!(e.pick(&VALUES)));
        let labels: Map<String, Value> = e.list(2, one).into_iter().collect();
        selector.insert("matchLabels".to_owned(), Value::Object(labels));
    }
    if e.rarely(6) {
        let expressions = e.list(2, |e| {
            let key = *e.pick(&KEYS);
            let operator = *e.pick(&["In", "NotIn", "Exists", "DoesNotExist"]);
            let mut expression = json!({"key": key, "operator": operator});
            if operator.ends_with("In") {
                expression["values"] = json!([e.pick(&VALUES), e.pick(&VALUES)]);
            }
            expression
        });
        selector.insert("matchExpressions".to_owned(), Value::Array(expressions));
    }
    Value::Object(selector)
}

fn network_policy(e: &mut Entropy<'_>, i: usize) -> Value {
    let mut spec = json!({});
    if !e.rarely(1) {
        spec["podSelector"] = selector(e);
    }
    match e.below(5) {
        0 => spec["policyTypes"] = json!(["Ingress", "Egress"]),
        1 => spec["policyTypes"] = json!(["Egress"]),
        2 => spec["policyTypes"] = json!(["Ingress"]),
        3 => spec["policyTypes"] = json!([]),
        _ => {}
    }
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        if e.below(4) > 0 {
            let rules = e.list(2, |e| {
                let mut rule = json!({});
                if !e.rarely(3) {
                    rule[peers] = Value::Array(e.list(3, network_peer));
                }
                if !e.rarely(5) {
                    rule["ports"] = Value::Array(e.list(3, network_port));
                }
                rule
            });
            spec[list] = Value::Array(rules);
        }
    }
    json!({"metadata": {"namespace": e.pick(&NAMESPACES), "name": format!("np{i}")}, "spec": spec})
}

fn network_peer(e: &mut Entropy<'_>) -> Value {
    match e.below(5) {
        0 => json!({"podSelector": selector(e)}),
        1 => json!({"namespaceSelector": selector(e)}),
        2 => json!({"namespaceSelector": selector(e), "podSelector": selector(e)}),
        _ => {
            let mut block = json!({"cidr": e.pick(&CIDRS)});
            if e.below(2) > 0 {
                block["except"] = Value::Array(e.list(3, |e| json!(e.pick(&CIDRS))));
            }
            json!({"ipBlock": block})
        }
    }
}

fn network_port(e: &mut Entropy<'_>) -> Value {
    let mut port = json!({});
    if e.below(2) > 0 {
        port["protocol"] = json!(e.pick(&PROTOCOLS));
    }
    match e.below(4) {
        0 => {}
        1 => port["port"] = json!(e.pick(&PORT_NAMES)),
        2 => port["port"] = json!(e.pick(&NUMBERS)),
        _ => {
            let (a, b) = (*e.pick(&NUMBERS), *e.pick(&NUMBERS));
            port["port"] = json!(a.min(b));
            port["endPort"] = json!(a.max(b));
        }
    }
    port
}

fn namespaced_pods(e: &mut Entropy<'_>) -> Value {
    let mut pods = json!({"podSelector": selector(e)});
    if !e.rarely(2) {
        pods["namespaceSelector"] = selector(e);
    }
    pods
}

fn cluster_policy(e: &mut Entropy<'_>, i: usize) -> Value {
    let subject = match e.below(2) {
        0 => json!({"namespaces": selector(e)}),
        _ => json!({"pods": namespaced_pods(e)}),
    };
    let mut spec = json!({
        "tier": e.pick(&["Admin", "Baseline"]),
        "priority": e.pick(&[0, 1, 1000]),
        "subject": subject,
    });
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        let rules = e.list(3, |e| {
            let action = *e.pick(&["Accept", "Deny", "Pass"]);
            let mut items = e.list(2, |e| cluster_peer(e, peers, action));
            items.push(cluster_peer(e, peers, action));
            if e.rarely(1) {
                items.clear();
            }
            // What the other list would be called.
            let peers = if e.rarely(1) { if peers == "to" { "from" } else { "to" } } else { peers };
            let mut rule = json!({"action": action, peers: items});
            if e.below(2) > 0 {
                let mut protocols = e.list(1, cluster_protocol);
                if !e.rarely(1) {
                    protocols.push(cluster_protocol(e));
                }
                rule["protocols"] = Value::Array(protocols);
            }
            rule
        });
        if !rules.is_empty() {
            spec[list] = Value::Array(rules);
        }
    }
    json!({"metadata": {"name": format!("cnp{i}")}, "spec": spec})
}

fn cluster_peer(e: &mut Entropy<'_>, list: &str, action: &str) -> Value {
    match e.below(9) {
        0 | 1 => json!({"namespaces": selector(e)}),
        2 | 3 => json!({"pods": namespaced_pods(e)}),
        4 if e.rarely(4) => json!({"future": {}}),
        5 if list == "to" => json!({"nodes": selector(e)}),
        6 | 7 if list == "to" => {
            let mut networks = e.list(2, |e| json!(e.pick(&CIDRS)));
            if !e.rarely(1) {
                networks.push(json!(e.pick(&CIDRS)));
            }
            json!({"networks": networks})
        }
        8 if list == "to" && (action == "Accept" || e.rarely(3)) => {
            json!({"domainNames": [e.pick(&DOMAINS), e.pick(&DOMAINS)]})
        }
        _ => json!({"namespaces": {}}),
    }
}

fn cluster_protocol(e: &mut Entropy<'_>) -> Value {
    let protocol = *e.pick(&["tcp", "udp", "sctp"]);
    match e.below(5) {
        0 => json!({"destinationNamedPort": e.pick(&PORT_NAMES)}),
        1 => json!({protocol: {}}),
        2 | 3 => json!({protocol: {"destinationPort": {"number": e.pick(&NUMBERS)}}}),
        _ if e.rarely(1) => json!({"icmp": {}}),
        _ => {
            let (a, b) = (*e.pick(&NUMBERS), *e.pick(&NUMBERS));
            let range = json!({"start": a.min(b), "end": a.max(b)});
            json!({protocol: {"destinationPort": {"range": range}}})
        }
    }
}
