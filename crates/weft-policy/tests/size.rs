//! How long plans take in a large cluster. Not part of the suite, since a machine that is busy
//! proves nothing: `cargo test --release -p weft-policy --test size -- --ignored --nocapture`.
//! What is timed is `Planner::plan` alone; that what it planned is not empty is checked outside.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};
use weft_model::{
    IpBlock, LabelTest, Labels, NamedPort, Namespace, NamespaceSet, NamespacedName, NetworkPolicy,
    NetworkRule, NodeName, NodePeer, Peer, Pod, PodSet, Port, PortMatch, Protocol, Selector,
};
use weft_policy::{Limits, Planner, PolicyInput, Start, Transition};

const PODS: usize = 10_000;
const POLICIES: usize = 1_000;
const LOCAL: usize = 100;
const NAMESPACES: usize = 50;
/// Pods of one workload.
const REPLICAS: usize = 10;

fn pod(n: usize, version: usize) -> Pod {
    let workload = n / REPLICAS;
    let namespace = workload % NAMESPACES;
    // One pod in a hundred is here: of a hundred different workloads.
    let node = if n.is_multiple_of(PODS / LOCAL) { 0 } else { 1 + n % 99 };
    let labels = [
        ("app", format!("app-{workload}")),
        ("tier", ["web", "db", "cache"][workload % 3].to_owned()),
        ("version", format!("v{version}")),
    ];
    placed_pod(namespace, n, node, Labels::from_iter(labels.map(|(k, v)| (k, v))))
}

fn placed_pod(namespace: usize, n: usize, node: usize, labels: Labels) -> Pod {
    let [_, a, b, c] = (n as u32 + 1).to_be_bytes();
    let value = serde_json::json!({
        "metadata": {"namespace": format!("ns-{namespace}"), "name": format!("pod-{n}")},
        "spec": {"nodeName": format!("node-{node}"), "containers": [{"name": "c", "ports": [
            {"name": "http", "containerPort": 8080},
        ]}]},
        "status": {"podIP": Ipv4Addr::new(10, a, b, c).to_string(), "phase": "Running"},
    });
    let pod = serde_json::from_value(value).expect("a pod");
    let mut pod = weft_kube::lower::pod(&pod).value.expect("a pod");
    pod.labels = labels;
    pod
}

fn selector(key: &str, value: &str) -> Selector {
    Selector::from_iter([(key, LabelTest::In(BTreeSet::from([Arc::from(value)])))])
}

/// The n-th policy: for a tier of a namespace, from a workload and a tier of all namespaces, and
/// a block.
fn policy(n: usize, port: i32) -> NetworkPolicy {
    let namespace = n % NAMESPACES;
    let tier = |n: usize| ["web", "db", "cache"][n % 3];
    let pods = |namespaces, pods| Peer::Pods(PodSet { namespaces, pods });
    let own = NamespaceSet::Name(format!("ns-{namespace}").into());
    let all = NamespaceSet::Selected(Selector::everything());
    let app = format!("app-{}", n % (PODS / REPLICAS));
    let port = Port::try_from(port).expect("a port");
    let [_, _, a, b] = (n as u32).to_be_bytes();
    let block = IpBlock {
        cidr: format!("172.{}.{b}.0/24", 16 + a).parse().expect("a range"),
        except: Vec::new(),
    };
    let range = PortMatch::Range { protocol: Protocol::Tcp, first: port, last: port };
    let peers = vec![pods(own, selector("app", &app)), pods(all, selector("tier", tier(n + 1)))];
    let rule = |peers| NetworkRule { peers: Some(peers), ports: Some(vec![range.clone()]) };
    NetworkPolicy {
        id: NamespacedName::new(&format!("ns-{namespace}"), &format!("policy-{n}")),
        pods: selector("tier", tier(n)),
        ingress: Some(vec![rule(peers.clone())]),
        egress: Some(vec![rule(peers), rule(vec![Peer::Block(block)])]),
        audit: false,
    }
}

fn input() -> PolicyInput {
    let name = |n: usize| -> NodeName { format!("node-{n}").parse().expect("a name") };
    let namespace = |n: usize| {
        let name: Arc<str> = format!("ns-{n}").into();
        let labels = Labels::from_iter([("kubernetes.io/metadata.name", name.clone())]);
        (name.clone(), Arc::new(Namespace { name, labels, audit: false }))
    };
    let node = |n: usize| {
        let addresses = vec![IpAddr::V4(Ipv4Addr::new(192, 168, 0, n as u8))];
        let peer = NodePeer { name: name(n), labels: Labels::default(), addresses };
        (name(n), Arc::new(peer))
    };
    let pods = (0..PODS).map(|n| pod(n, 1)).map(|p| (p.id.clone(), Arc::new(p)));
    let policies = (0..POLICIES).map(|n| policy(n, 8080)).map(|p| (p.id.clone(), Arc::new(p)));
    PolicyInput {
        generation: 1,
        namespaces: (0..NAMESPACES).map(namespace).collect(),
        pods: pods.collect(),
        nodes: (0..100).map(node).collect(),
        network_policies: policies.collect(),
        ..PolicyInput::default()
    }
}

fn replace_pod(input: &mut PolicyInput, pod: Pod) {
    input.pods.insert(pod.id.clone(), Arc::new(pod));
}

#[test]
#[ignore = "a measurement"]
fn plans_of_a_large_cluster() {
    let mut input = input();
    let node: NodeName = "node-0".parse().expect("a name");
    let mut cold: Vec<Duration> = Vec::new();
    let mut planner = Planner::new(node.clone(), Limits::default(), Start::default());
    for _ in 0..5 {
        planner = Planner::new(node.clone(), Limits::default(), Start::default());
        let start = Instant::now();
        planner.plan(&input);
        cold.push(start.elapsed());
    }
    let census = planner.census();
    assert_eq!(census.pods, LOCAL);
    println!("{PODS} pods, {POLICIES} policies, {LOCAL} pods here; {census:?}");
    report("cold", &mut cold);
    type Change<'c> = (&'c str, Box<dyn Fn(&mut PolicyInput, usize)>);
    let relabel = |p: &mut Pod, i: usize| {
        let labels = [("app", format!("app-{i}")), ("tier", "db".to_owned())];
        p.labels = Labels::from_iter(labels);
        p.ports = vec![NamedPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: Port::try_from(8080).expect("a port"),
        }];
    };
    let at = |step: usize| move |i: usize| (i * step) % PODS;
    let changes: Vec<Change<'_>> = vec![
        (
            "a pod elsewhere rolls",
            Box::new(move |input, i| {
                replace_pod(input, pod(at(37)(i) / 100 * 100 + 1, i));
            }),
        ),
        (
            "a pod elsewhere is relabelled",
            Box::new(move |input, i| {
                let mut pod = pod(at(37)(i) / 100 * 100 + 2, 1);
                relabel(&mut pod, i);
                replace_pod(input, pod);
            }),
        ),
        (
            "a pod here is relabelled",
            Box::new(move |input, i| {
                let mut pod = pod(i % LOCAL * (PODS / LOCAL), 1);
                relabel(&mut pod, i);
                replace_pod(input, pod);
            }),
        ),
        (
            "a policy changes its port",
            Box::new(|input, i| {
                let policy = policy(i * 7 % POLICIES, 9000 + i as i32);
                input.network_policies.insert(policy.id.clone(), Arc::new(policy));
            }),
        ),
        (
            "a policy comes",
            Box::new(|input, i| {
                let policy = policy(POLICIES + i, 8080);
                input.network_policies.insert(policy.id.clone(), Arc::new(policy));
            }),
        ),
        (
            "a policy goes",
            Box::new(|input, i| {
                let id = policy(POLICIES + i, 8080).id;
                input.network_policies.remove(&id);
            }),
        ),
        (
            "a namespace is relabelled",
            Box::new(|input, i| {
                let name: Arc<str> = format!("ns-{}", i % NAMESPACES).into();
                let labels = Labels::from_iter([("team", format!("team-{i}"))]);
                let namespace = Namespace { name: name.clone(), labels, audit: false };
                input.namespaces.insert(name, Arc::new(namespace));
            }),
        ),
    ];
    for (what, change) in changes {
        let (mut took, mut tidying, mut elements) = (Vec::new(), Vec::new(), 0);
        for i in 0..100 {
            change(&mut input, i);
            let start = Instant::now();
            let transition = planner.plan(&input);
            took.push(start.elapsed());
            let Transition::Step(step) = transition else { panic!("{what}: all anew") };
            let sets: usize = step.sets.iter().map(|(_, s)| s.entries.len()).sum();
            elements += step.extend.len() + step.moves.len() + sets + step.pods.len();
            let start = Instant::now();
            while !planner.settled() {
                planner.plan(&input);
            }
            tidying.push(start.elapsed());
        }
        report(what, &mut took);
        report("   tidying up after it", &mut tidying);
        println!("   elements to write: {} each", elements / 100);
    }
}

fn report(what: &str, took: &mut [Duration]) {
    took.sort();
    let at = |share: usize| took[(took.len() - 1) * share / 100].as_secs_f64() * 1e3;
    println!(
        "{what}: p50 {:.3} ms, p99 {:.3} ms, max {:.3} ms (N={})",
        at(50),
        at(99),
        at(100),
        took.len()
    );
}
