//! What planning takes and keeps, for `cargo xtask bench policy`: one JSON line a figure.
//!
//! 10,000 pods in 100 namespaces on 100 nodes, 1,000 policies, the tables of one node; then changes
//! of one object. Memory is the growth of what the process holds, before and after planning.

use std::{fs, sync::Arc, time::Instant};
use weft_model::{
    LabelTest, Labels, NamedPort, Namespace, NamespaceSet, NamespacedName, NetworkPolicy,
    NetworkRule, NodeName, NodePeer, Peer, Pod, PodPhase, PodSet, Port, PortMatch, Protocol,
    Selector,
};
use weft_policy::{Limits, Planner, PolicyInput, Start};

const PODS: u32 = 10_000;
const NAMESPACES: u32 = 100;
const NODES: u32 = 100;
const POLICIES: u32 = 1_000;
const COLD: usize = 5;
const CHANGES: u32 = 200;

fn figure(name: &str, values: &[f64]) {
    let texts: Vec<String> = values.iter().map(|v| format!("{v:.4}")).collect();
    println!("{{\"name\": \"{name}\", \"values\": [{}]}}", texts.join(", "));
}

/// Bytes that the process holds in memory.
fn resident() -> f64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|n| n.parse::<f64>().ok());
    pages.unwrap_or_default() * 4096.0
}

fn selector(pairs: &[(&str, String)]) -> Selector {
    let test = |v: &String| LabelTest::In([Arc::from(v.as_str())].into());
    pairs.iter().map(|(k, v)| (*k, test(v))).collect()
}

fn pod(n: u32, app: u32) -> Pod {
    let namespace = format!("ns{}", n % NAMESPACES);
    let node: NodeName = format!("node{}", n % NODES).parse().expect("a name");
    let [_, _, high, low] = n.to_be_bytes();
    let port = Port::try_from(8080).expect("a port");
    Pod {
        id: NamespacedName::new(&namespace, &format!("pod{n}")),
        labels: Labels::from_iter([
            ("app", format!("app{app}").as_str()),
            ("tier", ["web", "db"][(n % 2) as usize]),
        ]),
        node: Some(node),
        addresses: vec![
            std::net::Ipv4Addr::new(10, 244, high, low).into(),
            std::net::Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, n as u16).into(),
        ],
        host_network: false,
        phase: PodPhase::Running,
        incarnation: 0,
        sockets_alone: false,
        ports: vec![NamedPort { name: "http".into(), protocol: Protocol::Tcp, port }],
    }
}

/// Each selects the pods of an application in a namespace, and lets in another application of it
/// and whole namespaces of a team.
fn policy(n: u32) -> NetworkPolicy {
    let namespace = format!("ns{}", n % NAMESPACES);
    let app = n / NAMESPACES;
    let port = |number: u32| PortMatch::Range {
        protocol: Protocol::Tcp,
        first: Port::try_from(number as i32).expect("a port"),
        last: Port::try_from(number as i32).expect("a port"),
    };
    let own = PodSet {
        namespaces: NamespaceSet::Name(namespace.as_str().into()),
        pods: selector(&[("app", format!("app{}", (app + 1) % 10))]),
    };
    let team = PodSet {
        namespaces: NamespaceSet::Selected(selector(&[("team", format!("team{}", n % 10))])),
        pods: selector(&[("tier", "web".to_owned())]),
    };
    NetworkPolicy {
        id: NamespacedName::new(&namespace, &format!("policy{n}")),
        pods: selector(&[("app", format!("app{app}"))]),
        ingress: Some(vec![
            NetworkRule { peers: Some(vec![Peer::Pods(own)]), ports: Some(vec![port(8080)]) },
            NetworkRule {
                peers: Some(vec![Peer::Pods(team)]),
                ports: Some(vec![port(9000 + n % 1000)]),
            },
        ]),
        egress: None,
        audit: false,
    }
}

fn input(policies: u32) -> PolicyInput {
    let mut input = PolicyInput { generation: 1, ..PolicyInput::default() };
    for n in 0..NAMESPACES {
        let name: Arc<str> = format!("ns{n}").into();
        let labels = Labels::from_iter([("team", format!("team{}", n % 10).as_str())]);
        input.namespaces.insert(name.clone(), Arc::new(Namespace { name, labels, audit: false }));
    }
    for n in 0..NODES {
        let name: NodeName = format!("node{n}").parse().expect("a name");
        let addresses = vec![std::net::Ipv4Addr::new(192, 0, 2, n as u8).into()];
        let peer = NodePeer { name: name.clone(), labels: Labels::default(), addresses };
        input.nodes.insert(name, Arc::new(peer));
    }
    for n in 0..PODS {
        let pod = pod(n, (n / NAMESPACES) % 10);
        input.pods.insert(pod.id.clone(), Arc::new(pod));
    }
    for n in 0..policies {
        let policy = policy(n);
        input.network_policies.insert(policy.id.clone(), Arc::new(policy));
    }
    input
}

fn planner() -> Planner {
    Planner::new("node0".parse().expect("a name"), Limits::default(), Start::default())
}

fn milliseconds(work: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    work();
    begin.elapsed().as_secs_f64() * 1e3
}

fn main() {
    let mut all = input(POLICIES);
    let bare = input(0);
    let before = resident();
    let mut without = planner();
    without.plan(&bare);
    let with_pods = resident();
    let mut kept = planner();
    kept.plan(&all);
    let with_policies = resident();
    let census = kept.census();
    figure(
        "peers: bytes of the planner for each pod, no policies",
        &[(with_pods - before) / f64::from(PODS)],
    );
    figure(
        "policies: bytes of the planner for each, with their pods",
        &[(with_policies - with_pods) / f64::from(POLICIES)],
    );
    figure("entries of one node's tables", &[census.entries as f64]);
    figure("identities of one node's tables", &[census.identities as f64]);
    let cold: Vec<f64> = (0..COLD)
        .map(|_| {
            let mut fresh = planner();
            milliseconds(|| drop(fresh.plan(&all)))
        })
        .collect();
    figure("cold plan, 10,000 pods x 1,000 policies, ms", &cold);
    let (mut policies, mut labels) = (Vec::new(), Vec::new());
    for turn in 0..CHANGES {
        // Of a policy that this node's pods are selected by, and of a pod elsewhere.
        let mut changed = policy(0);
        if let Some(rule) = changed.ingress.iter_mut().flatten().next() {
            let port = Port::try_from(10_000 + turn as i32).expect("a port");
            rule.ports =
                Some(vec![PortMatch::Range { protocol: Protocol::Tcp, first: port, last: port }]);
        }
        all.generation += 1;
        all.network_policies.insert(changed.id.clone(), Arc::new(changed));
        policies.push(milliseconds(|| drop(kept.plan(&all))));
        let moved = pod(100 + turn, turn % 10);
        all.generation += 1;
        all.pods.insert(moved.id.clone(), Arc::new(moved));
        labels.push(milliseconds(|| drop(kept.plan(&all))));
    }
    figure("one policy changed, planned, ms", &policies);
    figure("one pod relabelled, planned, ms", &labels);
}
