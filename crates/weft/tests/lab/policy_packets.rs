//! Random policies applied to a lab: for every pair, protocol, port and family the verdict of
//! the evaluator, that of the plain reading of the specification, and what a real packet does.
//!
//! Objects come from the generator of `weft-policy`'s own tests, with its addresses replaced by
//! those that the lab's pods and nodes have, and what no API server would store left out.

use crate::{
    entrance::*,
    generate::{Cluster, Entropy},
    harness::*,
    oracle,
    policy_world::*,
};
use ipnet::IpNet;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};
use weft_lab::probe::{
    doors::Door,
    knock::{Carrier, Heard, Knock},
};
use weft_model::{Port, Protocol};
use weft_policy::{Evaluator, Flow, Transport};

/// Sets of pods, and policy sets for each.
const WORLDS: u64 = 3;
const SETS: u64 = 110;
/// Bytes of randomness of a set, as many as the generator's own tests take.
const ENTROPY: usize = 600;

/// What every pair tries. The generator's ports, and one that nothing names.
const TRIED: [(Carrier, u16); 8] = [
    (Carrier::Tcp, 80),
    (Carrier::Tcp, 8080),
    (Carrier::Tcp, 53),
    (Carrier::Tcp, 4242),
    (Carrier::Udp, 53),
    (Carrier::Udp, 80),
    (Carrier::Sctp, 80),
    (Carrier::Echo, 0),
];

fn transport(carrier: Carrier, port: u16) -> Transport {
    let protocol = match carrier {
        Carrier::Tcp => Protocol::Tcp,
        Carrier::Udp => Protocol::Udp,
        Carrier::Sctp => Protocol::Sctp,
        Carrier::Echo => return Transport::Other,
    };
    Transport::Port(protocol, Port::try_from(i32::from(port)).expect("a port"))
}

/// The same bytes for the same seed, whoever runs it.
fn entropy(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let byte = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..ENTROPY).map(byte).collect()
}

/// The generator's addresses and those of the lab.
struct Addresses {
    by_text: BTreeMap<&'static str, String>,
    nodes: BTreeMap<&'static str, Vec<IpAddr>>,
    routers: BTreeMap<&'static str, Vec<IpAddr>>,
    dns: Vec<IpAddr>,
}

const NODES: [&str; 2] = ["node1", "node2"];

impl Addresses {
    fn of(world: &World) -> Self {
        let lab = &world.lab;
        let parse = |all: Vec<String>| -> Vec<IpAddr> {
            all.iter().map(|a| a.parse().expect("address")).collect()
        };
        let nodes: BTreeMap<_, _> = NODES.map(|n| (n, parse(node_ips(lab, n)))).into();
        let routers: BTreeMap<_, _> = NODES.map(|n| (n, parse(router_of(lab, n)))).into();
        let dns = lab.k(&[
            "get",
            "service",
            "-n",
            "kube-system",
            "kube-dns",
            "-o",
            "jsonpath={.spec.clusterIPs[*]}",
        ]);
        let dns = parse(dns.split_whitespace().map(str::to_owned).collect());
        let pod = |n: usize| {
            let name = format!("/p{n}");
            let found = world.addresses.iter().find(|(k, _)| k.ends_with(&name));
            found.map(|(_, a)| a.clone()).expect("pod")
        };
        let net = |a: IpAddr, bits: u8| IpNet::new(a, bits).expect("prefix").trunc().to_string();
        let client = CLIENT.map(|a| a.parse::<IpAddr>().expect("address"));
        let by_text = BTreeMap::from([
            ("10.0.0.0/8", net(pod(0)[0], 16)),
            ("10.0.0.0/30", net(routers["node1"][0], 24)),
            ("10.0.0.2/32", net(pod(1)[0], 32)),
            ("10.0.0.3/8", format!("{}/16", net(pod(2)[0], 24).trim_end_matches("/24"))),
            ("192.0.2.0/24", net(nodes["node1"][0], 16)),
            ("198.51.100.0/24", net(client[0], 24)),
            ("fd00::4/126", net(routers["node2"][1], 64)),
            ("fd00::2/128", net(pod(1)[1], 128)),
            ("2001:db8::/32", net(nodes["node1"][1], 48)),
            ("2001:db8::1/128", net(nodes["node1"][1], 128)),
        ]);
        Self { by_text, nodes, routers, dns }
    }

    /// Replaces the generator's addresses.
    fn translate(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Some(ours) = self.by_text.get(text.as_str()) {
                    ours.clone_into(text);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|v| self.translate(v)),
            Value::Object(fields) => fields.values_mut().for_each(|v| self.translate(v)),
            _ => {}
        }
    }
}

/// What the generator makes and no API server stores: exceptions outside of their block, fields
/// of the future or of the other list, lists without an item, ranges of one port, names of ports beside peers that have none.
fn storable(policy: &mut Value) {
    let of_cluster = policy["spec"].get("subject").is_some();
    for (direction, list, other) in [("ingress", "from", "to"), ("egress", "to", "from")] {
        let rules = policy["spec"].get_mut(direction).and_then(Value::as_array_mut);
        for rule in rules.into_iter().flatten() {
            if of_cluster {
                if let Some(peers) = rule.as_object_mut().expect("a rule").remove(other) {
                    rule[list] = peers;
                }
                if rule[list].as_array().is_none_or(Vec::is_empty) {
                    rule[list] = json!([{"namespaces": {}}]);
                }
            }
            for peer in rule[list].as_array_mut().into_iter().flatten() {
                storable_peer(peer);
            }
            if rule[list].is_null() {
                rule.as_object_mut().expect("a rule").remove(list);
            }
            let nameless = |p: &Value| {
                ["networks", "nodes", "domainNames"].iter().any(|f| p.get(*f).is_some())
            };
            let nameless =
                rule.get(list).and_then(Value::as_array).is_some_and(|l| l.iter().any(nameless));
            let Some(protocols) = rule.get_mut("protocols").and_then(Value::as_array_mut) else {
                continue;
            };
            protocols.retain_mut(|item| storable_protocol(item, nameless));
            if protocols.is_empty() {
                rule.as_object_mut().expect("a rule").remove("protocols");
            }
        }
    }
    if let Some(subject) = policy.pointer_mut("/spec/subject").and_then(Value::as_object_mut)
        && subject.len() != 1
    {
        subject.retain(|field, _| field == "namespaces");
        subject.entry("namespaces").or_insert_with(|| json!({}));
    }
    // A policy for everybody would be one for those who tell that it is in force.
    let not_markers =
        json!({"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [MARKERS]});
    for path in ["/spec/subject/namespaces", "/spec/subject/pods"] {
        let Some(subject) = policy.pointer_mut(path) else { continue };
        let selector = match path.ends_with("pods") {
            true => &mut subject["namespaceSelector"],
            false => subject,
        };
        if selector.is_null() {
            *selector = json!({});
        }
        match &mut selector["matchExpressions"] {
            Value::Array(all) => all.push(not_markers.clone()),
            none => *none = json!([not_markers]),
        }
    }
}

fn storable_peer(peer: &mut Value) {
    let mut seen = BTreeSet::new();
    let networks = peer.get_mut("networks").and_then(Value::as_array_mut);
    let none = networks.is_some_and(|all| {
        all.retain(|n| seen.insert(n.to_string()));
        all.is_empty()
    });
    if none || peer.get("future").is_some() || peer.get("domainNames").is_some() {
        *peer = json!({"namespaces": {}});
    }
    let Some(block) = peer.get_mut("ipBlock") else { return };
    let net = |v: &Value| v.as_str().and_then(|t| t.parse::<IpNet>().ok()).map(|n| n.trunc());
    let whole = net(&block["cidr"]).expect("a range");
    if let Some(except) = block.get_mut("except").and_then(Value::as_array_mut) {
        except.retain(|e| net(e).is_some_and(|e| e != whole && whole.contains(&e)));
    }
}

fn storable_protocol(item: &mut Value, nameless: bool) -> bool {
    if item.get("icmp").is_some() || (nameless && item.get("destinationNamedPort").is_some()) {
        return false;
    }
    for protocol in ["tcp", "udp", "sctp"] {
        let Some(ports) = item.get_mut(protocol) else { continue };
        let Some(port) = ports.get_mut("destinationPort") else {
            // The definition has no way to say "every port" but a range.
            *ports = json!({"destinationPort": {"range": {"start": 1, "end": 65535}}});
            continue;
        };
        if port["range"]["start"] == port["range"]["end"] && port.get("range").is_some() {
            *port = json!({"number": port["range"]["start"]});
        }
    }
    true
}

/// The generator's pods as they can run here: on a node, with a network of their own.
fn pods(cluster: &Cluster) -> Vec<Value> {
    let pod = |p: &Value| {
        let node = match p["spec"]["nodeName"].as_str() {
            Some("n2") => "node2",
            _ => "node1",
        };
        let meta = &p["metadata"];
        let text = |f: &str| meta[f].as_str().expect("text").to_owned();
        let mut pod = idle_pod(&text("namespace"), &text("name"), node, &meta["labels"]);
        let all = p["spec"]["containers"].as_array().into_iter().flatten();
        let all = all.flat_map(|c| c["ports"].as_array().cloned().unwrap_or_default());
        let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
        let ports: Vec<Value> = all
            .filter(|p| numbers.insert((p["containerPort"].to_string(), p["protocol"].to_string())))
            .filter(|p| p.get("name").is_none() || names.insert(p["name"].to_string()))
            .collect();
        pod["spec"]["containers"][0]["ports"] = Value::Array(ports);
        pod
    };
    cluster.pods.iter().map(pod).collect()
}

/// What is compared: who knocks where, and the flow that policy sees.
fn trials(world: &World, at: &Addresses) -> Vec<(String, Knock, Flow)> {
    let pods: Vec<&String> =
        world.addresses.keys().filter(|k| !k.starts_with(MARKERS) && k.contains('/')).collect();
    let on: BTreeMap<&str, &str> = world.nodes_of_pods();
    let mut all = Vec::new();
    for (v, from) in [0, 1].into_iter().flat_map(|v| pods.iter().map(move |from| (v, from))) {
        // Judged behind its translation: the node itself answers.
        let router = at.routers[on[from.as_str()]][v];
        for dns in at.dns.iter().filter(|a| a.is_ipv6() == (v == 1)) {
            for (carrier, port) in [(Carrier::Udp, 53), (Carrier::Tcp, 53)] {
                let flow = Flow {
                    source: world.addresses[*from][v],
                    destination: router,
                    transport: transport(carrier, port),
                    from_node: None,
                    through_service: true,
                };
                all.push(((*from).clone(), Knock { to: *dns, carrier, port }, flow));
            }
        }
    }
    let mut add = |from: &str,
                   source: IpAddr,
                   from_node: Option<&str>,
                   to: IpAddr,
                   tried: &[(Carrier, u16)]| {
        for (carrier, port) in tried {
            let knock = Knock { to, carrier: *carrier, port: *port };
            let flow = Flow {
                source,
                destination: to,
                transport: transport(*carrier, *port),
                from_node: from_node.map(|n| n.parse().expect("a name")),
                through_service: false,
            };
            all.push((from.to_owned(), knock, flow));
        }
    };
    for v in [0, 1] {
        let client: IpAddr = CLIENT[v].parse().expect("address");
        for from in &pods {
            let source = world.addresses[*from][v];
            for to in &pods {
                add(from, source, None, world.addresses[*to][v], &TRIED);
            }
            for node in NODES {
                // TCP alone: a node's datagram to its own pod bears its router's address.
                add(from, source, None, at.nodes[node][v], &TRIED[..4]);
            }
            // Whether SCTP is masqueraded is the kernel's affair.
            add(from, source, None, client, &TRIED[..6]);
        }
        for node in NODES {
            for to in &pods {
                // What a node sends through the tunnel bears its router's address, which is no
                // node's and no pod's.
                let source = match on[to.as_str()] == node {
                    true => at.nodes[node][v],
                    false => at.routers[node][v],
                };
                add(node, source, Some(node), world.addresses[*to][v], &TRIED);
            }
        }
    }
    all
}

impl World {
    /// The node of each pod.
    fn nodes_of_pods(&self) -> BTreeMap<&str, &str> {
        let status = self.lab.status();
        let all = status["pods"].as_array().cloned().unwrap_or_default();
        let of = |name: &str| {
            let found = all.iter().find(|p| {
                name == format!(
                    "{}/{}",
                    p["namespace"].as_str().unwrap_or_default(),
                    p["name"].as_str().unwrap_or_default()
                )
            });
            let node = found.and_then(|p| p["node"].as_str()).unwrap_or_default();
            NODES.iter().copied().find(|n| *n == node)
        };
        self.addresses.keys().filter_map(|k| Some((k.as_str(), of(k)?))).collect()
    }
}

/// The lab's own objects, for the evaluator and for the plain reading; policies come later.
fn as_it_is(lab: &Lab, at: &Addresses) -> Cluster {
    Cluster {
        namespaces: objects(lab, "namespaces"),
        nodes: objects(lab, "nodes"),
        pods: objects(lab, "pods"),
        dns: at.dns.iter().chain(at.routers.values().flatten()).copied().collect(),
        ..Cluster::default()
    }
}

/// Which policies there are, as far as this test made them: what a set does not have is left
/// without effect instead of being deleted.
#[derive(Default)]
struct Applied(BTreeMap<(String, String), Value>);

impl Applied {
    fn set(&mut self, cluster: &Cluster, at: &Addresses) -> Vec<Value> {
        let mut objects = Vec::new();
        let mut there = BTreeSet::new();
        for (kind, version, list) in [
            ("NetworkPolicy", "networking.k8s.io/v1", &cluster.network_policies),
            (
                "ClusterNetworkPolicy",
                "policy.networking.k8s.io/v1alpha2",
                &cluster.cluster_policies,
            ),
        ] {
            for policy in list {
                let mut policy = policy.clone();
                at.translate(&mut policy);
                storable(&mut policy);
                policy["apiVersion"] = json!(version);
                policy["kind"] = json!(kind);
                let meta = &policy["metadata"];
                let namespace = meta["namespace"].as_str().unwrap_or_default().to_owned();
                there.insert((namespace, meta["name"].as_str().expect("name").to_owned()));
                objects.push(policy);
            }
        }
        for (namespace, name) in self.0.keys().filter(|k| !there.contains(k)) {
            let nobody = json!({"matchLabels": {"nobody": "has-this"}});
            objects.push(match namespace.as_str() {
                "" => json!({
                    "apiVersion": "policy.networking.k8s.io/v1alpha2",
                    "kind": "ClusterNetworkPolicy", "metadata": {"name": name},
                    "spec": {"tier": "Baseline", "priority": 1000, "subject": {"namespaces": nobody}},
                }),
                namespace => json!({
                    "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                    "metadata": {"namespace": namespace, "name": name},
                    "spec": {"podSelector": nobody},
                }),
            });
        }
        for object in &objects {
            let meta = &object["metadata"];
            let namespace = meta["namespace"].as_str().unwrap_or_default().to_owned();
            let name = meta["name"].as_str().expect("name").to_owned();
            self.0.insert((namespace, name), object.clone());
        }
        objects
    }
}

/// Brings a lab to a world of pods, and compares a number of policy sets in it.
fn compare_world(world: &mut World, applied: &mut Applied, seed: u64) -> (u64, u64) {
    let first = entropy(seed);
    let cluster = Cluster::generate(&mut Entropy::new(&first));
    let mut all: Vec<Value> = ["a", "b", "kube-system"]
        .map(|name| {
            let found = cluster.namespaces.iter().find(|n| n["metadata"]["name"] == name);
            let mut labels = found.map_or(json!({}), |n| n["metadata"]["labels"].clone());
            labels["kubernetes.io/metadata.name"] = json!(name);
            namespace(name, &labels)
        })
        .into();
    all.extend(pods(&cluster));
    world.lab.apply(&texts(&all));
    for (node, generated) in NODES.iter().zip(&cluster.nodes) {
        let team = generated["metadata"]["labels"]["team"].as_str().expect("text");
        world.lab.k(&["label", "node", node, &format!("team={team}"), "--overwrite"]);
    }
    world.lab.wait_ready(cluster.pods.len());
    for pod in pods(&cluster) {
        let meta = &pod["metadata"];
        world
            .enter(meta["namespace"].as_str().expect("text"), meta["name"].as_str().expect("text"));
    }
    let tcp = [80, 8080, 53].map(|port| Door { carrier: Carrier::Tcp, port });
    let udp = [53, 80].map(|port| Door { carrier: Carrier::Udp, port });
    let sctp = [Door { carrier: Carrier::Sctp, port: 80 }];
    world.open(&[&tcp[..], &udp, &sctp].concat());
    let at = Addresses::of(world);
    let trials = trials(world, &at);
    let knocks: Vec<(String, Knock)> = trials.iter().map(|(f, k, _)| (f.clone(), *k)).collect();
    let mut is = as_it_is(&world.lab, &at);
    let (mut compared, mut denied) = (0, 0);
    for set in 0..SETS {
        let bytes = entropy(seed << 20 | (set + 1));
        let generated = Cluster::generate(&mut Entropy::new(&bytes));
        world.change(&applied.set(&generated, &at));
        // As the API has them: what one set leaves out may stay from the one before (a default
        // that nobody owns).
        is.network_policies = objects(&world.lab, "networkpolicies");
        is.cluster_policies = objects(&world.lab, "clusternetworkpolicies");
        let input = is.input();
        let evaluator = Evaluator::new(&input);
        let mut expected = Vec::with_capacity(trials.len());
        for (_, _, flow) in &trials {
            let verdict = evaluator.evaluate(flow);
            let told = oracle::allowed(&is, flow);
            let sides = (verdict.egress.allowed, verdict.ingress.allowed);
            assert_eq!(sides, told, "seed {seed}, set {set}: {flow:?}\n{is}");
            expected.push(verdict.allowed());
        }
        let heard = world.passes(&knocks, &expected);
        for ((flow, expected), heard) in trials.iter().zip(&expected).zip(&heard) {
            let (from, knock, flow) = flow;
            compared += 1;
            denied += u64::from(!expected);
            if heard.passed() == *expected && !matches!(heard, Heard::Failed(_)) {
                continue;
            }
            let verdict = evaluator.evaluate(flow);
            panic!(
                "seed {seed}, set {set}: {from} → {knock:?}: heard {heard:?}, evaluated\negress \
                 {}\ningress {}\n{flow:?}\n{is}\n{}",
                verdict.egress,
                verdict.ingress,
                world.lab.logs()
            );
        }
    }
    // The next world's pods bear the same names.
    let names: Vec<String> = world.addresses.keys().filter(|k| k.contains("/p")).cloned().collect();
    for name in names {
        world.probes.remove(&name);
        world.addresses.remove(&name);
        let (namespace, name) = name.split_once('/').expect("namespace/name");
        world.lab.k(&["delete", "pod", "-n", namespace, name, "--wait=true"]);
    }
    (compared, denied)
}

#[test]
fn real_packets_fare_as_the_evaluator_says() {
    let name = "real_packets_fare_as_the_evaluator_says";
    if !root_or_skip(name) || !kubectl_or_skip(name) {
        return;
    }
    let Some(definition) = definition_or_skip(name) else { return };
    let begin = Instant::now();
    let lab = Lab::up("packets", &["--nodes", "2"]);
    lab.apply_file(&definition);
    let mut world = World::new(lab);
    world.add_markers(&NODES, true);
    world.lab.wait_ready(4);
    world.enter_markers();
    for node in NODES {
        let probe = on_node(&world.lab, node);
        world.probes.insert(node.to_owned(), probe);
    }
    let client = outside(&world.lab);
    world.probes.insert("client".to_owned(), client);
    let mut applied = Applied::default();
    let (mut compared, mut denied) = (0, 0);
    for seed in 1..=WORLDS {
        let (c, d) = compare_world(&mut world, &mut applied, seed);
        compared += c;
        denied += d;
    }
    println!(
        "{} policy sets, {compared} packets compared, {denied} of them denied, {:.0} s",
        WORLDS * SETS,
        begin.elapsed().as_secs_f64()
    );
    // A generator that closes nothing, or everything, would prove nothing.
    assert!(denied * 10 > compared && denied * 10 < compared * 9, "{denied} of {compared}");
    world.lab.down();
}
