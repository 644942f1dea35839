//! Answers with policies, host ports, loopback addresses, and pods that opted out.

use super::*;
use ipnet::IpNet;
use weft_model::{
    Action, ClusterNetworkPolicy, ClusterRule, DomainPattern, IpBlock, LabelTest, Labels,
    NamedPort, Namespace, NamespaceSet, NetworkPolicy, NetworkRule, NodePeer, Peer, PodPhase,
    PodSet, PortMatch, Selector, Tier,
};

/// The same pods and nodes as policy sees them, without policies. `w<n>` serve a port `http`.
pub(super) fn unrestricted(
    snapshot: &Snapshot,
    pods: &BTreeMap<NamespacedName, Pod>,
) -> PolicyInput {
    let mut input = PolicyInput { generation: 1, ..PolicyInput::default() };
    for name in ["default", "shop"] {
        let labels = [("kubernetes.io/metadata.name", name), ("team", name)].into_iter().collect();
        let namespace = Namespace { name: name.into(), labels, audit: false };
        input.namespaces.insert(name.into(), Arc::new(namespace));
    }
    for node in snapshot.nodes.values() {
        let routers = node.pod_cidrs.iter().filter_map(|c| weft_fabric::router_address(*c));
        let peer = NodePeer {
            name: node.name.clone(),
            labels: [("kubernetes.io/hostname", node.name.as_str())].into_iter().collect(),
            addresses: node.internal_ips.iter().copied().chain(routers).collect(),
        };
        input.nodes.insert(node.name.clone(), Arc::new(peer));
    }
    for pod in pods.values() {
        let app = if pod.id.name.starts_with('w') { "web" } else { "client" };
        let http = NamedPort { name: "http".into(), protocol: Protocol::Tcp, port: port(8080) };
        let pod = weft_model::Pod {
            id: pod.id.clone(),
            labels: [("app", app), ("pod", &*pod.id.name)].into_iter().collect(),
            node: pod.node.clone(),
            addresses: pod.ips.clone(),
            host_network: pod.host_network,
            phase: PodPhase::Running,
            ports: if app == "web" { vec![http] } else { Vec::new() },
            incarnation: 0,
            sockets_alone: false,
        };
        input.pods.insert(pod.id.clone(), Arc::new(pod));
    }
    input
}

fn is(key: &str, value: &str) -> Selector {
    [(key, LabelTest::In([value.into()].into()))].into_iter().collect()
}

fn pods(key: &str, value: &str) -> Peer {
    let namespaces = NamespaceSet::Name("shop".into());
    Peer::Pods(PodSet { namespaces, pods: is(key, value) })
}

fn block(cidr: &str, except: &[&str]) -> Peer {
    let net = |text: &str| -> IpNet { text.parse().expect("range") };
    Peer::Block(IpBlock { cidr: net(cidr), except: except.iter().map(|e| net(e)).collect() })
}

fn tcp(n: i32) -> PortMatch {
    PortMatch::Range { protocol: Protocol::Tcp, first: port(n), last: port(n) }
}

fn rule(peers: Vec<Peer>, ports: Vec<PortMatch>) -> NetworkRule {
    let some = |ports: Vec<PortMatch>| (!ports.is_empty()).then_some(ports);
    NetworkRule { peers: (!peers.is_empty()).then_some(peers), ports: some(ports) }
}

/// Policies about the pods of the namespace `shop`:
/// `web` (ingress of `w<n>`), `c3` (egress of `c3`, without DNS), and the tiers around them.
fn policed() -> World {
    let mut world = world();
    let mut network = |name: &str, pods, ingress, egress| {
        let policy = NetworkPolicy { id: id(name), pods, ingress, egress, audit: false };
        world.policy.network_policies.insert(policy.id.clone(), Arc::new(policy));
    };
    let http = PortMatch::Named { protocol: Some(Protocol::Tcp), name: "http".into() };
    let ingress = vec![
        rule(vec![pods("role", "reader")], vec![tcp(8080)]),
        rule(vec![pods("app", "client")], vec![tcp(9090)]),
        rule(vec![block("203.0.113.0/24", &["203.0.113.64/26"])], vec![http.clone()]),
        rule(vec![pods("pod", "c3")], vec![http]),
    ];
    network("web", is("app", "web"), Some(ingress), None);
    let known = DomainPattern::parse("*.example.org").expect("valid");
    let egress = vec![
        rule(vec![pods("app", "web")], vec![tcp(8080), tcp(80)]),
        rule(vec![Peer::Domain(known)], vec![tcp(443)]),
    ];
    network("c3", is("pod", "c3"), None, Some(egress));
    network("quiet", is("pod", "c2"), Some(Vec::new()), None);
    let all = NamespaceSet::Selected(Selector::everything());
    let clustered = |name: &str, action, peers: Vec<Peer>, ports: Vec<PortMatch>| ClusterRule {
        name: name.into(),
        action,
        peers: Some(peers),
        ports: (!ports.is_empty()).then_some(ports),
    };
    let fence = ClusterNetworkPolicy {
        name: "fence".into(),
        tier: Tier::Admin,
        priority: 10,
        subject: PodSet { namespaces: all.clone(), pods: is("app", "web") },
        ingress: vec![
            clustered("scrape", Action::Accept, vec![pods("role", "scraper")], vec![tcp(8080)]),
            clustered("to the teams", Action::Pass, vec![pods("pod", "c3")], Vec::new()),
            clustered("nobody else", Action::Deny, vec![pods("pod", "c2")], Vec::new()),
        ],
        egress: Vec::new(),
        audit: false,
    };
    let nodes = vec![Peer::Nodes(is("kubernetes.io/hostname", "node2"))];
    let floor = ClusterNetworkPolicy {
        name: "floor".into(),
        tier: Tier::Baseline,
        priority: 10,
        subject: PodSet { namespaces: all, pods: Selector::everything() },
        ingress: Vec::new(),
        egress: vec![clustered("", Action::Deny, nodes, vec![tcp(22)])],
        audit: false,
    };
    for policy in [fence, floor] {
        world.policy.cluster_policies.insert(policy.name.clone(), Arc::new(policy));
    }
    world
}

/// The cluster's DNS, pods with host ports and an opted-out one, and a Service for SCTP.
fn with_ways(mut world: World) -> World {
    let mut dns = service("kube-dns", 10, ServiceKind::Virtual);
    dns.id = NamespacedName::new("kube-system", "kube-dns");
    let of = |name: &str, n, protocol| ServicePort {
        name: name.into(),
        protocol,
        port: port(n),
        node_port: None,
    };
    dns.ports = vec![of("dns", 53, Protocol::Udp), of("dns-tcp", 53, Protocol::Tcp)];
    world.policy.dns.extend(&dns.cluster_ips);
    world.snapshot.services.insert(dns.id.clone(), Arc::new(dns));
    let mut sctp = service("sctp", 11, ServiceKind::Virtual);
    sctp.ports = vec![of("http", 80, Protocol::Sctp)];
    let mut slice = slice("sctp", false);
    let ports: Vec<EndpointPort> = slice
        .ports
        .iter()
        .map(|p| EndpointPort { protocol: Protocol::Sctp, ..p.clone() })
        .collect();
    slice.ports = ports;
    world.snapshot.insert_slice(Arc::new(slice));
    world.snapshot.services.insert(sctp.id.clone(), Arc::new(sctp));
    let host = HostPort {
        host_ip: None,
        host_port: port(9000),
        container_port: port(8080),
        protocol: Protocol::Tcp,
        name: "http".to_owned(),
    };
    let at = HostPort { host_ip: Some(ip("172.30.1.12")), host_port: port(9001), ..host.clone() };
    let w2 = world.pods.get_mut(&id("w2")).expect("pod");
    w2.host_ports = vec![host, at];
    world.pods.get_mut(&id("c2")).expect("pod").opted_out = true;
    world
}

#[test]
fn answers_with_policies() {
    let world = with_ways(policed());
    golden("policies.txt", |command| {
        let mut question = question(command);
        if question.to.starts_with("db.example.org") {
            question.resolved = vec![ip("192.0.2.80")];
        }
        let mut world = world.clone();
        world.policy.names.insert("db.example.org".into(), [ip("192.0.2.80")].into());
        match why(&world, &question) {
            Ok(answer) => format!("{}\nexit status {}", answer.render(), i32::from(!answer.ok)),
            Err(e) => format!("error: {e}"),
        }
    });
}

#[test]
fn ways_that_are_no_plain_sockets() {
    let world = with_ways(world());
    golden("ways.txt", |command| match why(&world, &question(command)) {
        Ok(answer) => answer.render(),
        Err(e) => format!("error: {e}"),
    });
}

fn policy_of(answer: &Answer, backend: usize) -> &Judgement {
    answer.paths[0].backends[backend].policy.as_ref().expect("judged")
}

#[test]
fn verdicts_for_programs() {
    let world = policed();
    let answer = why(&world, &question("weft why c1 svc/web:http -4")).expect("an answer");
    let json = serde_json::to_value(&answer).expect("JSON");
    assert_eq!((&json["ok"], &json["paths"][0]["outcome"]), (&false.into(), &"denied".into()));
    let policy = &json["paths"][0]["backends"][0]["policy"];
    assert_eq!(policy["verdict"], "denied");
    assert_eq!(policy["egress"]["reason"], "unselected");
    let ingress = &policy["ingress"];
    assert_eq!((&ingress["allowed"], &ingress["reason"]), (&false.into(), &"isolated".into()));
    assert_eq!((&ingress["pod"], &ingress["peerName"]), (&"shop/w1".into(), &"pod shop/c1".into()));
    assert_eq!(ingress["isolatedBy"][0], "NetworkPolicy shop/web");
    assert_eq!(ingress["remedies"][0]["kind"], "port");
    assert_eq!(ingress["remedies"][0]["field"], "spec.ingress[1].ports");
    let answer = why(&world, &question("weft why c3 svc/web:http -4")).expect("an answer");
    let json = serde_json::to_value(&answer).expect("JSON");
    assert_eq!(json["ok"], true);
    let policy = &json["paths"][0]["backends"][0]["policy"];
    let (egress, ingress) = (&policy["egress"]["rule"], &policy["ingress"]["rule"]);
    assert_eq!((&egress["policy"], &egress["index"]), (&"NetworkPolicy shop/c3".into(), &0.into()));
    assert_eq!((&egress["peerField"], &egress["portField"]), (&"to[0]".into(), &"ports[0]".into()));
    assert_eq!((&ingress["index"], &ingress["action"]), (&3.into(), &"Accept".into()));
    assert_eq!(policy["ingress"]["passed"][0]["name"], "to the teams");
    // Without a port: the ports that pass.
    let answer = why(&world, &question("weft why c1 w1 -4")).expect("an answer");
    let judged = policy_of(&answer, 0);
    assert_eq!((judged.verdict, judged.ports.as_deref()), (Verdict::Partly, Some("TCP/9090")));
    assert!(!answer.ok && judged.egress.is_none());
    let answer = why(&world, &question("weft why c1 c3 -4")).expect("an answer");
    assert!(answer.ok && policy_of(&answer, 0).ports.as_deref() == Some("everything"));
}

/// What is proposed is done, one by one, and asked about again.
#[test]
fn every_remedy_works_alone() {
    let mut proposed = std::collections::BTreeSet::new();
    for words in [
        "weft why c1 svc/web:http -4",
        "weft why c2 svc/web:http -4",
        "weft why c3 w1:9090 -4",
        "weft why 203.0.113.70 svc/near -4 --through node1",
        "weft why c3 c2:80 -4",
        "weft why c3 10.244.3.1:53/udp",
        "weft why c2 node/node2:22 -4",
    ] {
        let answer = why(&policed(), &question(words)).expect("an answer");
        assert!(!answer.ok, "{words}");
        let sides = answer.paths.iter().flat_map(|p| &p.backends).flat_map(|b| {
            let judged = b.policy.as_ref().expect("judged");
            [judged.egress.clone().expect("a side"), judged.ingress.clone().expect("a side")]
        });
        let denied: Vec<Side> = sides.filter(|s| !s.allowed).collect();
        assert!(!denied.is_empty(), "{words}");
        for side in denied {
            assert!(!side.remedies.is_empty(), "{words}: {side:?}");
            proposed.extend(side.remedies.iter().map(|r| r.kind));
        }
    }
    assert_eq!(
        proposed.into_iter().collect::<Vec<_>>(),
        ["except", "label", "peer", "port", "rule"],
        "every kind of remedy occurs"
    );
    // By hand what the first one says.
    let mut world = policed();
    let labels: Labels =
        [("app", "client"), ("pod", "c1"), ("role", "reader")].into_iter().collect();
    let c1 = world.policy.pods.get(&id("c1")).expect("pod");
    let changed = weft_model::Pod { labels, ..(**c1).clone() };
    world.policy.pods.insert(id("c1"), Arc::new(changed));
    let answer = why(&world, &question("weft why c1 svc/web:http -4")).expect("an answer");
    assert!(answer.ok, "{}", answer.render());
}

#[test]
fn the_node_that_stands_for_a_client_is_no_node_of_its_own() {
    let mut world = policed();
    // Only what comes from the pod's own node is beyond policy.
    let asks = |world: &World, words: &str| {
        let answer = why(world, &question(words)).expect("an answer");
        let path = &answer.paths[0];
        let backend = path.backends.iter().find(|b| b.pod.as_deref() == Some("shop/w1"));
        let judged = backend.expect("w1").policy.as_ref().expect("judged").clone();
        judged.ingress.expect("a side")
    };
    assert_eq!(asks(&world, "weft why node/node1 w1:8080 -4").reason, "ownNode");
    assert_eq!(asks(&world, "weft why host w1:8080 -4").reason, "ownNode");
    assert_eq!(asks(&world, "weft why node/node2 w1:8080 -4").reason, "isolated");
    // Through another node's port and back again: that node's address stands for it.
    let mut near = (*world.snapshot.services[&id("near")]).clone();
    near.external.policy = TrafficPolicy::Cluster;
    world.snapshot.services.insert(near.id.clone(), Arc::new(near));
    let side = asks(&world, "weft why node/node1 node/node2:30080 -4");
    assert_eq!((side.reason, &*side.peer.to_string()), ("isolated", "10.244.2.1"));
    assert_eq!(side.peer_name, "node node2 (10.244.2.1)");
}
