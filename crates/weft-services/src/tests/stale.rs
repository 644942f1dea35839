//! Which sockets must be closed when something changes.

use super::*;
use crate::{Backend, Used, stale};
use std::collections::BTreeSet;
use weft_model::Node;

const DNS: (&str, Protocol, i32) = ("dns", Protocol::Udp, 53);
const DNS_5353: (&str, Protocol, i32) = ("dns", Protocol::Udp, 5353);

/// A Service with TCP and UDP, also on a node port, with these endpoints.
fn world(endpoints: Vec<Endpoint>) -> Snapshot {
    let mut web = service("web", &["10.96.0.5"], &[HTTP, DNS]);
    web.ports[0].node_port = Some(port(30_080));
    let ports = [HTTP_8080, DNS_5353];
    let slices = vec![slice(&web, "web-1", &ports, endpoints)];
    with_node(snapshot(vec![web], slices))
}

fn with_node(mut snapshot: Snapshot) -> Snapshot {
    let own = Node {
        name: node(1),
        internal_ips: vec![ip("192.0.2.1")],
        pod_cidrs: vec!["10.244.0.0/16".parse().expect("prefix")],
        zone: None,
        eligible: true,
        ready: true,
    };
    snapshot.nodes.insert(node(1), Arc::new(own));
    snapshot
}

fn used(at: &str, (protocol, n): (Protocol, i32), backend: &str, to: i32) -> Used {
    let backend = Backend { addr: ip(backend), port: port(to) };
    Used { frontend: frontend(at, protocol, n), backend }
}

/// The sockets of one client to the pod `10.244.2.1`: over TCP to the Service, to its node port
/// and to that on loopback; over UDP.
fn all() -> [Used; 4] {
    let tcp = Protocol::Tcp;
    let pod = "10.244.2.1";
    [
        used("10.96.0.5", (tcp, 80), pod, 8080),
        used("192.0.2.1", (tcp, 30_080), pod, 8080),
        used("127.0.0.1", (tcp, 30_080), pod, 8080),
        used("10.96.0.5", (Protocol::Udp, 53), pod, 5353),
    ]
}

/// Which of them are stale, by their place: cluster IP, node port, loopback, UDP.
fn stale_of(snapshot: &Snapshot) -> Vec<usize> {
    let input = PlanInput { localhost_node_ports: true, ..PlanInput::default() };
    let tables = plan(snapshot, &node(1), &input);
    let found = stale(snapshot, &tables, &all().into());
    let place = |u: &Used| all().iter().position(|a| a == u).expect("one that was asked for");
    let mut places: Vec<usize> = found.iter().map(place).collect();
    places.sort_unstable();
    places
}

#[test]
fn a_backend_drains_over_tcp_and_not_over_udp() {
    let other = || endpoint("10.244.2.2", "rs", 2);
    let with = |conditions| stale_of(&world(vec![endpoint("10.244.2.1", conditions, 2), other()]));
    assert_eq!(with("rs"), [0usize; 0], "it serves");
    assert_eq!(with("st"), [3], "it terminates and serves");
    assert_eq!(with("t"), [3], "it terminates and serves no more");
    assert_eq!(with(""), [3], "it is not ready");
    // Where no other is ready, a terminating one is eligible.
    let alone = |conditions| stale_of(&world(vec![endpoint("10.244.2.1", conditions, 2)]));
    assert_eq!(alone("st"), [0usize; 0]);
    assert_eq!(alone("t"), [3]);
    // It is in no slice any more.
    assert_eq!(stale_of(&world(vec![other()])), [0, 1, 2, 3]);
    assert_eq!(stale_of(&world(vec![])), [0, 1, 2, 3]);
}

#[test]
fn another_slice_says_that_the_pod_is_there() {
    let mut both = world(vec![]);
    let other = service("other", &["10.96.0.6"], &[HTTP]);
    let s = slice(&other, "other-1", &[HTTP_8080], vec![endpoint("10.244.2.1", "", 2)]);
    both.insert_slice(Arc::new(s));
    both.services.insert(other.id.clone(), Arc::new(other));
    assert_eq!(stale_of(&both), [3]);
}

#[test]
fn connections_outlive_their_service_as_long_as_the_pod_is_known() {
    let pod = || vec![endpoint("10.244.2.1", "rs", 2)];
    let whole = world(pod());
    let change = |change: &dyn Fn(&mut Service)| {
        let mut snapshot = whole.clone();
        let id = NamespacedName::new("default", "web");
        let mut web = Service::clone(&snapshot.services[&id]);
        change(&mut web);
        snapshot.services.insert(id, Arc::new(web));
        stale_of(&snapshot)
    };
    assert_eq!(change(&|_| {}), [0usize; 0]);
    // TCP: the pod is there and the address is still the Service's.
    assert_eq!(change(&|s| s.ports[0].node_port = None), [0usize; 0]);
    assert_eq!(change(&|s| s.ports[0].port = port(81)), [0usize; 0]);
    assert_eq!(change(&|s| s.foreign_proxy = true), [3]);
    assert_eq!(change(&|s| s.ports[1].port = port(54)), [3]);
    assert_eq!(change(&|s| s.internal_policy = TrafficPolicy::Local), [3]);
    assert_eq!(change(&|s| s.affinity_timeout_s = Some(10)), [0usize; 0]);
    // Another target port: the old one may still be served.
    let mut moved = whole.clone();
    let id = NamespacedName::new("default", "web");
    let s = slice(&moved.services[&id].clone(), "web-1", &[("http", Protocol::Tcp, 9090)], pod());
    moved.insert_slice(Arc::new(s));
    assert_eq!(stale_of(&moved), [3]);
    // Deleted before its slices, or where another Service has the pod: the pod answers on.
    let mut deleted = whole.clone();
    deleted.services.remove(&id);
    assert_eq!(stale_of(&deleted), [3], "its address is gone, its pod is not");
    // Without slices nobody can tell it from a pod that is gone.
    deleted.slices.remove(&id);
    assert_eq!(stale_of(&deleted), [0, 1, 2, 3]);
    // Made again, and its slices not yet; then they are.
    deleted.services.insert(id.clone(), whole.services[&id].clone());
    assert_eq!(stale_of(&deleted), [0, 1, 2, 3]);
    assert_eq!(stale_of(&whole), [0usize; 0]);
    assert!(stale(&deleted, &run(&deleted), &BTreeSet::new()).is_empty());
}

#[test]
fn a_nodes_own_dns_is_in_no_slice_and_serves() {
    let mut dns = service("kube-dns", &["10.96.0.10"], &[("dns-tcp", Protocol::Tcp, 53)]);
    dns.id = NamespacedName::new("kube-system", "kube-dns");
    let snapshot = with_node(snapshot(vec![dns], vec![]));
    let input = PlanInput { node_dns: vec![ip("10.244.1.1")], ..PlanInput::default() };
    let tables = plan(&snapshot, &node(1), &input);
    let uses = |backend| BTreeSet::from([used("10.96.0.10", (Protocol::Tcp, 53), backend, 53)]);
    assert!(stale(&snapshot, &tables, &uses("10.244.1.1")).is_empty());
    assert_eq!(stale(&snapshot, &tables, &uses("10.244.9.1")).len(), 1);
}

#[test]
fn node_ports_are_on_loopback_where_they_shall_be() {
    let mut all = world(vec![endpoint("10.244.2.1", "rs", 2)]);
    let id = NamespacedName::new("default", "web");
    let mut web = Service::clone(&all.services[&id]);
    web.external.addresses = vec![ip("127.0.0.1")];
    web.ports.push(ServicePort {
        name: "sctp".into(),
        protocol: Protocol::Sctp,
        port: port(90),
        node_port: Some(port(30_090)),
    });
    all.services.insert(id, Arc::new(web));
    let loopback = |input: &PlanInput| -> Vec<Frontend> {
        let tables = plan(&all, &node(1), input);
        assert!(tables.outside.keys().all(|f| !f.addr.is_loopback()), "the stack serves none");
        let both = tables.frontends.keys().chain(tables.without_backends.iter());
        both.filter(|f| f.addr.is_loopback()).copied().collect()
    };
    let on = PlanInput { localhost_node_ports: true, ..PlanInput::default() };
    // Not the externalIP, and nothing of a family or protocol that the Service does not have.
    assert_eq!(loopback(&on), [frontend("127.0.0.1", Protocol::Tcp, 30_080)]);
    assert!(loopback(&PlanInput::default()).is_empty());
    let ranges =
        |r: &str| PlanInput { node_port_ranges: vec![r.parse().expect("range")], ..on.clone() };
    assert!(loopback(&ranges("192.0.2.0/24")).is_empty(), "as kube-proxy's nodePortAddresses");
    assert_eq!(loopback(&ranges("127.0.0.0/8")).len(), 1);
}
