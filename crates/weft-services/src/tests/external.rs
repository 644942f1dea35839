//! Node ports, load balancers, externalIPs, hints.

use super::{model::with_node, *};
use crate::{Answer, FrontendKind};

fn reachable(policy: TrafficPolicy) -> Service {
    let mut s = service("web", &["10.96.0.5"], &[HTTP]);
    s.ports[0].node_port = Some(port(30_080));
    s.external.policy = policy;
    s.external.balancer_addresses = vec![ip("192.0.2.1")];
    s.external.addresses = vec![ip("198.51.100.1")];
    s
}

fn tables_of(s: &Service, endpoints: Vec<Endpoint>) -> ServiceTables {
    let slices = vec![slice(s, "web-1", &[HTTP_8080], endpoints)];
    run(&with_node(snapshot(vec![s.clone()], slices)))
}

const ENTRANCES: [(&str, i32, FrontendKind); 3] = [
    ("172.30.1.1", 30_080, FrontendKind::NodePort),
    ("192.0.2.1", 80, FrontendKind::LoadBalancer),
    ("198.51.100.1", 80, FrontendKind::ExternalIp),
];

#[test]
fn local_keeps_strangers_on_the_node_and_lets_own_clients_go_anywhere() {
    let here = || endpoint("10.244.1.2", "rs", 1);
    let there = || endpoint("10.244.2.2", "rs", 2);
    let both = tables_of(&reachable(TrafficPolicy::Local), vec![here(), there()]);
    let far = tables_of(&reachable(TrafficPolicy::Local), vec![there()]);
    let none = tables_of(&reachable(TrafficPolicy::Local), vec![]);
    for (addr, n, kind) in ENTRANCES {
        let at = frontend(addr, Protocol::Tcp, n);
        assert_eq!(backends(&both, at).len(), 2, "{at} from inside");
        assert_eq!(both.outside[&at].kind, kind);
        let Answer::Forward(group) = &both.outside[&at].answer else { panic!("{at}") };
        assert_eq!(both.groups[group].len(), 1, "{at} from outside");
        assert_eq!(backends(&far, at).len(), 1, "{at} from inside");
        assert_eq!(far.outside[&at].answer, Answer::Drop, "{at}");
        assert!(none.without_backends.contains(&at));
        assert_eq!(none.outside[&at].answer, Answer::Refuse, "{at}");
    }
    // One set of backends for the three of them, and one for the cluster address.
    assert_eq!(both.groups.len(), 2);
}

#[test]
fn source_ranges_are_the_load_balancers_alone() {
    let mut s = reachable(TrafficPolicy::Cluster);
    s.external.source_ranges = vec!["203.0.113.0/24".parse().expect("range")];
    let endpoints = || vec![endpoint("10.244.1.2", "rs", 1)];
    let tables = tables_of(&s, endpoints());
    let vip = frontend("192.0.2.1", Protocol::Tcp, 80);
    assert_eq!(tables.outside[&vip].sources.as_deref(), Some(&s.external.source_ranges[..]));
    assert!(!tables.frontends.contains_key(&vip), "the stack asks who it is");
    assert!(!tables.without_backends.contains(&vip));
    for (addr, n, _) in ENTRANCES.iter().filter(|e| e.2 != FrontendKind::LoadBalancer) {
        let at = frontend(addr, Protocol::Tcp, *n);
        assert_eq!(tables.outside[&at].sources, None);
        assert!(tables.frontends.contains_key(&at));
    }
    // Where everybody on this node may, the socket decides.
    s.external
        .source_ranges
        .extend(["10.0.0.0/8", "172.30.0.0/16"].map(|r| r.parse::<ipnet::IpNet>().expect("r")));
    assert!(tables_of(&s, endpoints()).frontends.contains_key(&vip));
    // Ranges of the other family say nothing about this one.
    s.external.source_ranges = vec!["2001:db8::/32".parse().expect("range")];
    assert_eq!(tables_of(&s, endpoints()).outside[&vip].sources, None);
}

#[test]
fn nobody_takes_over_an_allocated_address() {
    let victim = service("victim", &["10.96.0.9"], &[HTTP]);
    let mut thief = service("a-thief", &["10.96.0.5"], &[HTTP]);
    thief.external.addresses = vec![ip("10.96.0.9")];
    let slices = [&victim, &thief].map(|s| {
        let last = s.id.name.len();
        slice(s, &s.id.name, &[HTTP_8080], vec![endpoint(&format!("10.244.1.{last}"), "rs", 1)])
    });
    let tables = run(&with_node(snapshot(vec![victim.clone(), thief], slices.into())));
    let at = frontend("10.96.0.9", Protocol::Tcp, 80);
    assert_eq!(tables.frontends[&at].service, victim.id);
    assert_eq!(tables.outside[&at].service, victim.id);
    assert_eq!(
        tables.diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["Service default/a-thief: 10.96.0.9:80/TCP already belongs to Service default/victim"]
    );
}

#[test]
fn who_came_first_keeps_an_external_ip_whatever_its_name() {
    let with = |name: &str, created_s: i64| {
        let mut s = service(name, &[], &[HTTP]);
        s.external.addresses = vec![ip("198.51.100.1")];
        s.external.health_port = Some(port(32_000));
        s.created_s = created_s;
        s
    };
    let at = frontend("198.51.100.1", Protocol::Tcp, 80);
    let mut planner = crate::Planner::new(node(1));
    let mut owner = |all: &[Service]| {
        let mut snapshot = with_node(snapshot(all.to_vec(), vec![]));
        snapshot.generation += all.len() as u64;
        let tables = planner.plan(&snapshot, &PlanInput::default()).clone();
        assert_eq!(tables, run(&snapshot));
        let owner = tables.outside[&at].service.clone();
        assert_eq!(tables.health[&port(32_000)].service, owner, "the same for health ports");
        // Every other one hears of it, at the field that asks for it.
        for d in tables.diagnostics.iter() {
            assert_ne!(d.service, owner);
            let service = all.iter().find(|s| s.id == d.service).expect("one of these");
            let blamed = d.blame(service);
            let expected = match &d.kind {
                DiagnosticKind::Conflict { .. } => ("AddressConflict", "spec.externalIPs"),
                _ => ("PortConflict", "spec.healthCheckNodePort"),
            };
            assert_eq!((blamed.reason, &*blamed.field), expected);
            assert!(blamed.message.contains(&owner.to_string()), "{}", blamed.message);
        }
        assert_eq!(tables.diagnostics.len(), 2 * (all.len() - 1));
        owner.name.to_string()
    };
    assert_eq!(owner(&[with("web", 100)]), "web");
    assert_eq!(owner(&[with("web", 100), with("a-thief", 200)]), "web");
    assert_eq!(owner(&[with("web", 100), with("a-thief", 200), with("older", 99)]), "older");
    assert_eq!(owner(&[with("web", 100), with("twin", 100)]), "twin", "by name where equally old");
    // Deleted and made again it is the newer one, even if nobody saw it go.
    assert_eq!(owner(&[with("web", 300), with("a-thief", 200)]), "a-thief");
}

#[test]
fn node_ports_answer_on_the_chosen_addresses_of_the_services_families() {
    let mut s = reachable(TrafficPolicy::Cluster);
    let endpoints = vec![endpoint("10.244.1.2", "rs", 1)];
    let slices = vec![slice(&s, "web-1", &[HTTP_8080], endpoints)];
    let snapshot_of = |s: &Service| with_node(snapshot(vec![s.clone()], slices.clone()));
    let node_ports = |tables: ServiceTables| -> Vec<String> {
        let of_kind = tables.outside.iter().filter(|(_, o)| o.kind == FrontendKind::NodePort);
        of_kind.map(|(f, _)| f.to_string()).collect()
    };
    assert_eq!(node_ports(run(&snapshot_of(&s))), ["172.30.1.1:30080/TCP"]);
    s.families.push(IpFamily::V6);
    assert_eq!(node_ports(run(&snapshot_of(&s))).len(), 2);
    let input = PlanInput {
        node_port_ranges: vec!["fd00:30::/64".parse().expect("range")],
        ..PlanInput::default()
    };
    let chosen = node_ports(plan(&snapshot_of(&s), &node(1), &input));
    assert_eq!(chosen, ["[fd00:30::1]:30080/TCP"]);
}

#[test]
fn hints_narrow_only_where_everybody_has_one() {
    let hinted = |address: &str, zone: &str, node: &str| {
        let mut e = endpoint(address, "rs", 2);
        e.zone_hints = (!zone.is_empty()).then(|| zone.into()).into_iter().collect();
        e.node_hints = (!node.is_empty()).then(|| node.into()).into_iter().collect();
        e
    };
    let web = service("web", &["10.96.0.5"], &[HTTP]);
    let at = frontend("10.96.0.5", Protocol::Tcp, 80);
    let chosen = |endpoints| backends(&tables_of(&web, endpoints), at);
    let (a, b) = ("10.244.1.2", "10.244.2.2");
    assert_eq!(chosen(vec![hinted(a, "za", ""), hinted(b, "zb", "")]), [format!("{a}:8080")]);
    // One without a hint, or no hint for this zone: all of them.
    assert_eq!(chosen(vec![hinted(a, "za", ""), hinted(b, "", "")]).len(), 2);
    assert_eq!(chosen(vec![hinted(a, "zc", ""), hinted(b, "zb", "")]).len(), 2);
    // The node comes before the zone, and the zone is the fall-back.
    let nodes = |x, y| chosen(vec![hinted(a, "za", x), hinted(b, "za", y)]);
    assert_eq!(nodes("node1", "node2"), [format!("{a}:8080")]);
    assert_eq!(nodes("node2", "node2").len(), 2);
    // Endpoints that are not ready have no say.
    let mut leaving = hinted(b, "", "");
    leaving.ready = false;
    assert_eq!(chosen(vec![hinted(a, "za", ""), leaving]), [format!("{a}:8080")]);
}

#[test]
fn endpoints_that_lead_nowhere_are_ignored_and_named() {
    let web = service("web", &["10.96.0.5"], &[HTTP]);
    let bad = ["127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "fd00::1"];
    let mut endpoints: Vec<Endpoint> = vec![endpoint("10.244.1.2", "rs", 1)];
    endpoints.extend(bad.map(|a| endpoint(a, "rs", 1)));
    let tables = tables_of(&web, endpoints);
    assert_eq!(backends(&tables, frontend("10.96.0.5", Protocol::Tcp, 80)), ["10.244.1.2:8080"]);
    let said: Vec<String> = tables.diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), bad.len(), "{said:?}");
    for (address, line) in bad.iter().zip(&said) {
        assert!(line.starts_with("Service default/web: its endpoint ") && line.contains(address));
    }
}

#[test]
fn load_balancers_learn_how_many_endpoints_are_ready_here() {
    let mut s = reachable(TrafficPolicy::Local);
    s.external.health_port = Some(port(32_000));
    let mut other = reachable(TrafficPolicy::Local);
    other.id = NamespacedName::new("default", "x-other");
    other.external.health_port = Some(port(32_000));
    let endpoints = vec![
        endpoint("10.244.1.2", "rs", 1),
        endpoint("10.244.1.3", "st", 1),
        endpoint("10.244.2.2", "rs", 2),
    ];
    let slices = vec![slice(&s, "web-1", &[HTTP_8080], endpoints)];
    let tables = run(&with_node(snapshot(vec![s, other], slices)));
    assert_eq!(tables.health[&port(32_000)].ready_here, 1);
    let conflict = tables.diagnostics.iter().any(|d| {
        d.to_string()
            == "Service default/x-other: healthCheckNodePort 32000 already belongs to Service default/web"
    });
    assert!(conflict, "{:?}", tables.diagnostics);
}

#[test]
fn what_the_cluster_needs_for_itself_is_not_served() {
    let mut s = service("web", &["10.96.0.5"], &[HTTP, ("kubelet", Protocol::Tcp, 10_250)]);
    let mut api = service("kubernetes", &["10.96.0.1"], &[("https", Protocol::Tcp, 443)]);
    api.ports[0].name = "https".into();
    let others = ["127.0.0.1", "169.254.169.254", "10.244.1.9", "203.0.113.6", "198.51.100.1"];
    s.external.addresses = others.iter().map(|a| ip(a)).chain([ip("172.30.1.1")]).collect();
    s.ports.push(s.ports[0].clone());
    s.ports[2].port = port(6443);
    let of_web = slice(&s, "web-1", &[HTTP_8080], vec![endpoint("10.244.1.2", "rs", 1)]);
    let of_api = slice(
        &api,
        "kubernetes",
        &[("https", Protocol::Tcp, 6443)],
        vec![endpoint("203.0.113.6", "rs", 2)],
    );
    let tables = run(&with_node(snapshot(vec![s.clone(), api], vec![of_web, of_api])));
    let served = |addr: &str, n| tables.outside.contains_key(&frontend(addr, Protocol::Tcp, n));
    for n in [80, 6443] {
        for addr in ["127.0.0.1", "169.254.169.254", "10.244.1.9"] {
            assert!(!served(addr, n), "{addr}:{n}");
        }
        assert!(served("198.51.100.1", n) && served("172.30.1.1", n), "others are unharmed");
    }
    assert!(!served("203.0.113.6", 6443), "the API server");
    assert!(served("203.0.113.6", 80), "another port of its address");
    assert!(!served("172.30.1.1", 10_250), "the kubelet");
    let said: Vec<_> = tables.diagnostics.iter().map(|d| d.blame(&s)).collect();
    let of = |reason: &str| said.iter().filter(|b| b.reason == reason).count();
    assert!(said.iter().all(|b| b.field == "spec.externalIPs"), "{said:?}");
    // Three addresses with three ports each, the API server's and the kubelet's port.
    assert_eq!((of("AddressRefused"), of("NodeAddressHidden")), (11, 2), "{said:?}");
}

#[test]
fn a_node_that_comes_takes_its_address_back() {
    let mut s = service("web", &["10.96.0.5"], &[("kubelet", Protocol::Tcp, 10_250)]);
    s.external.addresses = vec![ip("172.30.1.7")];
    let mut snapshot = with_node(snapshot(vec![s], vec![]));
    let mut planner = crate::Planner::new(node(1));
    let at = frontend("172.30.1.7", Protocol::Tcp, 10_250);
    assert!(planner.plan(&snapshot, &PlanInput::default()).outside.contains_key(&at));
    let mut other = (*snapshot.nodes[&node(1)]).clone();
    (other.name, other.internal_ips) = (node(7), vec![ip("172.30.1.7")]);
    other.pod_cidrs = Vec::new();
    snapshot.nodes.insert(node(7), Arc::new(other));
    snapshot.generation += 1;
    let tables = planner.plan(&snapshot, &PlanInput::default()).clone();
    assert!(!tables.outside.contains_key(&at));
    assert_eq!(tables, run(&snapshot));
}
