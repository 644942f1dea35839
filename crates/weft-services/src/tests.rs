//! The cases that have a name; the plain model is in `model`.

mod explain;
mod external;
mod history;
mod model;
mod stale;

use crate::{DiagnosticKind, Frontend, PlanInput, ServiceTables, plan};
use std::{net::IpAddr, sync::Arc};
use weft_model::{
    Endpoint, EndpointPort, EndpointSlice, External, IpFamily, NamespacedName, NodeName, Port,
    Protocol, Service, ServiceKind, ServicePort, Set, Snapshot, TrafficPolicy,
};

fn port(n: i32) -> Port {
    Port::try_from(n).expect("port")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn node(n: u8) -> NodeName {
    format!("node{n}").parse().expect("node name")
}

fn service(name: &str, cluster_ips: &[&str], ports: &[(&str, Protocol, i32)]) -> Service {
    Service {
        id: NamespacedName::new("default", name),
        kind: ServiceKind::Virtual,
        cluster_ips: cluster_ips.iter().map(|a| ip(a)).collect(),
        families: cluster_ips.iter().map(|a| IpFamily::of(ip(a))).collect(),
        ports: ports
            .iter()
            .map(|&(name, protocol, n)| ServicePort {
                name: name.into(),
                protocol,
                port: port(n),
                node_port: None,
            })
            .collect(),
        internal_policy: TrafficPolicy::Cluster,
        external: External::default(),
        affinity_timeout_s: None,
        publish_not_ready: false,
        foreign_proxy: false,
        created_s: 0,
        balance: weft_model::Balance::default(),
    }
}

/// Conditions as letters: `r`eady, `s`erving, `t`erminating.
fn endpoint(address: &str, conditions: &str, on: u8) -> Endpoint {
    Endpoint {
        address: ip(address),
        ready: conditions.contains('r'),
        serving: conditions.contains('s'),
        terminating: conditions.contains('t'),
        hostname: None,
        node: Some(node(on)),
        zone: None,
        zone_hints: Vec::new(),
        node_hints: Vec::new(),
        pod: None,
    }
}

fn slice(
    of: &Service,
    name: &str,
    ports: &[(&str, Protocol, i32)],
    e: Vec<Endpoint>,
) -> EndpointSlice {
    EndpointSlice {
        id: NamespacedName::new(&of.id.namespace, name),
        service: of.id.clone(),
        family: e.first().map_or(IpFamily::V4, |e| IpFamily::of(e.address)),
        ports: ports
            .iter()
            .map(|&(name, protocol, n)| EndpointPort {
                name: name.into(),
                protocol,
                port: (n != 0).then(|| port(n)),
            })
            .collect(),
        endpoints: e,
    }
}

fn snapshot(services: Vec<Service>, slices: Vec<EndpointSlice>) -> Snapshot {
    let mut snapshot = Snapshot { generation: 7, ..Default::default() };
    for s in services {
        snapshot.services.insert(s.id.clone(), Arc::new(s));
    }
    for s in slices {
        snapshot.insert_slice(Arc::new(s));
    }
    snapshot
}

fn run(snapshot: &Snapshot) -> ServiceTables {
    plan(snapshot, &node(1), &PlanInput::default())
}

fn frontend(at: &str, protocol: Protocol, n: i32) -> Frontend {
    Frontend { addr: ip(at), port: port(n), protocol }
}

fn backends(tables: &ServiceTables, frontend: Frontend) -> Vec<String> {
    let lb = tables.frontends.get(&frontend);
    lb.map_or(Vec::new(), |lb| lb.backends.iter().map(ToString::to_string).collect())
}

const HTTP: (&str, Protocol, i32) = ("http", Protocol::Tcp, 80);
const HTTP_8080: (&str, Protocol, i32) = ("http", Protocol::Tcp, 8080);

fn with_endpoints(endpoints: Vec<Endpoint>) -> Vec<String> {
    let web = service("web", &["10.96.0.5"], &[HTTP]);
    let slices = vec![slice(&web, "web-1", &[HTTP_8080], endpoints)];
    backends(&run(&snapshot(vec![web], slices)), frontend("10.96.0.5", Protocol::Tcp, 80))
}

#[test]
fn terminating_endpoints_serve_only_when_none_is_ready() {
    let ready = || endpoint("10.244.1.2", "rs", 1);
    let leaving = || endpoint("10.244.1.3", "st", 1);
    let starting = || endpoint("10.244.1.4", "", 1);
    let gone = || endpoint("10.244.1.5", "t", 1);
    assert_eq!(with_endpoints(vec![ready(), leaving(), starting(), gone()]), ["10.244.1.2:8080"]);
    assert_eq!(with_endpoints(vec![leaving(), starting(), gone()]), ["10.244.1.3:8080"]);
    assert!(with_endpoints(vec![starting(), gone()]).is_empty());
}

#[test]
fn local_looks_at_this_node_first_and_last() {
    let mut web = service("web", &["10.96.0.5"], &[HTTP]);
    web.internal_policy = TrafficPolicy::Local;
    let plan_with = |endpoints| {
        let slices = vec![slice(&web, "web-1", &[HTTP_8080], endpoints)];
        run(&snapshot(vec![web.clone()], slices))
    };
    let at = frontend("10.96.0.5", Protocol::Tcp, 80);
    let both = vec![endpoint("10.244.1.2", "st", 1), endpoint("10.244.2.2", "rs", 2)];
    // A ready endpoint elsewhere does not count: the local one that is leaving serves.
    assert_eq!(backends(&plan_with(both), at), ["10.244.1.2:8080"]);
    let tables = plan_with(vec![endpoint("10.244.2.2", "rs", 2)]);
    assert!(tables.frontends.is_empty());
    assert_eq!(tables.without_backends, Set::from_iter([at]), "refused, not sent elsewhere");
}

#[test]
fn an_endpoint_in_two_slices_is_one_backend() {
    let web = service("web", &["10.96.0.5"], &[HTTP]);
    let slices = vec![
        slice(&web, "web-1", &[HTTP_8080], vec![endpoint("10.244.1.2", "", 1)]),
        slice(&web, "web-2", &[HTTP_8080], vec![endpoint("10.244.1.2", "rs", 1)]),
    ];
    let tables = run(&snapshot(vec![web], slices));
    assert_eq!(backends(&tables, frontend("10.96.0.5", Protocol::Tcp, 80)), ["10.244.1.2:8080"]);
}

#[test]
fn ports_match_by_name_and_protocol() {
    let dns = [("dns", Protocol::Udp, 53), ("dns-tcp", Protocol::Tcp, 53)];
    let names = service("names", &["10.96.0.6"], &dns);
    let ports = [("dns", Protocol::Udp, 5353), ("dns-tcp", Protocol::Tcp, 5354)];
    let odd = [("dns", Protocol::Tcp, 1), ("other", Protocol::Udp, 2), ("dns", Protocol::Udp, 0)];
    let slices = vec![
        slice(&names, "names-1", &ports, vec![endpoint("10.244.1.2", "rs", 1)]),
        slice(&names, "names-2", &odd, vec![endpoint("10.244.1.3", "rs", 1)]),
    ];
    let tables = run(&snapshot(vec![names], slices));
    let at = |protocol| backends(&tables, frontend("10.96.0.6", protocol, 53));
    assert_eq!(at(Protocol::Udp), ["10.244.1.2:5353"]);
    assert_eq!(at(Protocol::Tcp), ["10.244.1.2:5354"]);
}

#[test]
fn families_do_not_mix() {
    let web = service("web", &["10.96.0.5", "fd00:10:96::5"], &[HTTP]);
    let slices = vec![
        slice(&web, "web-4", &[HTTP_8080], vec![endpoint("10.244.1.2", "rs", 1)]),
        slice(&web, "web-6", &[HTTP_8080], vec![endpoint("fd00:10:244:1::2", "rs", 1)]),
    ];
    let tables = run(&snapshot(vec![web], slices));
    assert_eq!(backends(&tables, frontend("10.96.0.5", Protocol::Tcp, 80)), ["10.244.1.2:8080"]);
    let v6 = backends(&tables, frontend("fd00:10:96::5", Protocol::Tcp, 80));
    assert_eq!(v6, ["[fd00:10:244:1::2]:8080"]);
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let mut foreign = service("foreign", &["10.96.0.1"], &[HTTP]);
    foreign.foreign_proxy = true;
    let mut headless = service("headless", &[], &[HTTP]);
    headless.kind = ServiceKind::Headless;
    let mut alias = service("alias", &[], &[HTTP]);
    alias.kind = ServiceKind::ExternalName("example.org".into());
    let slices = [&foreign, &headless]
        .map(|s| slice(s, &s.id.name, &[HTTP_8080], vec![endpoint("10.244.1.2", "rs", 1)]));
    let tables = run(&snapshot(vec![foreign, headless, alias], slices.into()));
    assert_eq!(tables, ServiceTables { generation: 7, ..Default::default() });
}

#[test]
fn what_cannot_be_served_hides_nothing() {
    let tunnel = ("tunnel", Protocol::Sctp, 9);
    let first = service("a", &["10.96.0.5"], &[tunnel, HTTP]);
    let second = service("b", &["10.96.0.5"], &[HTTP, ("other", Protocol::Tcp, 81)]);
    let slices = vec![slice(&first, "a-1", &[HTTP_8080], vec![endpoint("10.244.1.2", "rs", 1)])];
    let tables = run(&snapshot(vec![first, second], slices));
    let at = |protocol, n| frontend("10.96.0.5", protocol, n);
    assert_eq!(backends(&tables, at(Protocol::Tcp, 80)), ["10.244.1.2:8080"]);
    let lonely = [at(Protocol::Tcp, 81), at(Protocol::Sctp, 9)];
    assert_eq!(tables.without_backends, Set::from_iter(lonely));
    let kinds: Vec<_> = tables.diagnostics.iter().map(|d| &d.kind).collect();
    let owner = NamespacedName::new("default", "a");
    assert_eq!(kinds, [&DiagnosticKind::Conflict { frontend: at(Protocol::Tcp, 80), owner }]);
    assert_eq!(
        tables.diagnostics[0].to_string(),
        "Service default/b: 10.96.0.5:80/TCP already belongs to Service default/a"
    );
}

#[test]
fn cluster_dns_is_this_nodes() {
    let ports = [
        ("dns", Protocol::Udp, 53),
        ("dns-tcp", Protocol::Tcp, 53),
        ("metrics", Protocol::Tcp, 9153),
    ];
    let mut dns = service("kube-dns", &["10.96.0.10", "fd00:10:96::a"], &ports);
    dns.id = NamespacedName::new("kube-system", "kube-dns");
    let mut impostor = dns.clone();
    impostor.id = NamespacedName::new("default", "kube-dns");
    impostor.cluster_ips = vec![ip("10.96.0.11")];
    let slices =
        [&dns, &impostor].map(|s| slice(s, "dns-1", &ports, vec![endpoint("10.244.2.2", "rs", 2)]));
    let snapshot = snapshot(vec![dns, impostor], slices.into());
    let input = PlanInput { node_dns: vec![ip("10.244.1.1")], ..PlanInput::default() };
    let tables = plan(&snapshot, &node(1), &input);
    let at = |addr, protocol, n| backends(&tables, frontend(addr, protocol, n));
    assert_eq!(at("10.96.0.10", Protocol::Udp, 53), ["10.244.1.1:53"]);
    assert_eq!(at("10.96.0.10", Protocol::Tcp, 53), ["10.244.1.1:53"]);
    // Not a name service: the endpoints. No local address of the family: the endpoints.
    assert_eq!(at("10.96.0.10", Protocol::Tcp, 9153), ["10.244.2.2:9153"]);
    let v6 = frontend("fd00:10:96::a", Protocol::Udp, 53);
    assert!(tables.without_backends.contains(&v6), "no IPv6 endpoint either");
    assert_eq!(at("10.96.0.11", Protocol::Udp, 53), ["10.244.2.2:53"]);
}

#[test]
fn affinity_is_carried() {
    let mut web = service("web", &["10.96.0.5"], &[HTTP]);
    web.affinity_timeout_s = Some(10_800);
    let slices = vec![slice(&web, "web-1", &[HTTP_8080], vec![endpoint("10.244.1.2", "rs", 1)])];
    let tables = run(&snapshot(vec![web], slices));
    let lb = &tables.frontends[&frontend("10.96.0.5", Protocol::Tcp, 80)];
    assert_eq!(lb.affinity_timeout_s, Some(10_800));
}
