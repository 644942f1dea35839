use super::*;
use crate::{
    diff::{Observed, Op, diff},
    tables::FabricTables,
};
use proptest::prelude::*;
use std::{collections::BTreeMap, sync::Arc};

fn ip(s: &str) -> IpAddr {
    s.parse().expect("address")
}

fn net(s: &str) -> IpNet {
    s.parse().expect("prefix")
}

fn name(s: &str) -> NodeName {
    s.parse().expect("name")
}

fn node(id: &str, ips: &[&str], cidrs: &[&str]) -> Arc<Node> {
    Arc::new(Node {
        name: name(id),
        internal_ips: ips.iter().map(|s| ip(s)).collect(),
        pod_cidrs: cidrs.iter().map(|s| net(s)).collect(),
        zone: None,
        ready: true,
        eligible: true,
    })
}

fn snapshot(nodes: Vec<Arc<Node>>) -> Snapshot {
    let nodes = nodes.into_iter().map(|n| (n.name.clone(), n)).collect();
    Snapshot { nodes, ..Snapshot::default() }
}

fn config(mode: Mode) -> FabricConfig {
    FabricConfig {
        mode,
        underlay: Underlay {
            link: "eth0".to_owned(),
            mtu: 1500,
            addresses: vec![net("172.30.1.10/24"), net("fd00:30:1::10/64")],
            routers: vec![ip("172.30.1.1"), ip("fd00:30:1::1")],
        },
        service_cidrs: vec![net("10.96.0.0/16"), net("fd00:10:96::/112")],
    }
}

fn three() -> Snapshot {
    snapshot(vec![
        node("n1", &["172.30.1.10", "fd00:30:1::10"], &["10.244.1.0/24", "fd00:10:244:1::/64"]),
        node("n2", &["172.30.1.11", "fd00:30:1::11"], &["10.244.2.0/24", "fd00:10:244:2::/64"]),
        node("n3", &["172.30.2.10", "fd00:30:2::10"], &["10.244.3.0/24", "fd00:10:244:3::/64"]),
    ])
}

fn tables(s: &Snapshot, c: &FabricConfig) -> FabricTables {
    let plan = plan(s, &name("n1"), c);
    assert_eq!(plan.diagnostics, vec![]);
    plan.tables.expect("tables")
}

#[test]
fn vxlan_leads_each_pod_cidr_to_its_node() {
    let t = tables(&three(), &config(Mode::Vxlan));
    let r = &t.routes[&(net("10.244.3.0/24"), METRIC)];
    assert_eq!(r.link.as_deref(), Some("weft0"));
    assert_eq!((r.gateway, r.onlink), (Some(ip("10.244.3.1")), true));
    assert_eq!((r.remote, r.source), (Some(ip("172.30.2.10")), Some(ip("10.244.1.1"))));
    // Pods of both families travel over one underlay family.
    let r = &t.routes[&(net("fd00:10:244:2::/64"), METRIC)];
    assert_eq!((r.remote, r.source), (Some(ip("172.30.1.11")), Some(ip("fd00:10:244:1::1"))));
    assert_eq!(t.pod_mtu, 1450);
    assert_eq!(t.tunnel.as_ref().expect("tunnel").mtu, 1450);
    assert_eq!(t.neighbours.len(), 4);
    let mac = tunnel_mac(&name("n2"));
    assert!(t.neighbours.contains(&Neighbour { ip: ip("10.244.2.1"), mac }));
    assert_eq!(t.routers, vec![ip("10.244.1.1"), ip("fd00:10:244:1::1")]);
    assert_eq!(t.pod_sources[&IpFamily::V4], ip("172.30.1.10"));
}

#[test]
fn native_goes_straight_within_the_subnet_and_by_the_router_beyond() {
    let t = tables(&three(), &config(Mode::Native));
    for (dst, gateway) in [
        ("10.244.2.0/24", "172.30.1.11"),
        ("10.244.3.0/24", "172.30.1.1"),
        ("fd00:10:244:2::/64", "fd00:30:1::11"),
        ("fd00:10:244:3::/64", "fd00:30:1::1"),
    ] {
        let r = &t.routes[&(net(dst), METRIC)];
        assert_eq!(r.link.as_deref(), Some("eth0"));
        assert_eq!((r.gateway, r.remote, r.source), (Some(ip(gateway)), None, None), "{dst}");
    }
    assert_eq!((t.pod_mtu, &t.tunnel), (1500, &None));
    assert!(t.neighbours.is_empty());
}

#[test]
fn an_ipv6_underlay_carries_both_families_and_costs_seventy_bytes() {
    let s = snapshot(vec![
        node("n1", &["fd00:30:1::10"], &["10.244.1.0/24", "fd00:10:244:1::/64"]),
        node("n2", &["fd00:30:1::11"], &["10.244.2.0/24", "fd00:10:244:2::/64"]),
    ]);
    let t = tables(&s, &config(Mode::Vxlan));
    assert_eq!(t.pod_mtu, 1430);
    assert_eq!(t.routes[&(net("10.244.2.0/24"), METRIC)].remote, Some(ip("fd00:30:1::11")));
    assert_eq!(t.pod_sources[&IpFamily::V4], ip("10.244.1.1"));
    // Without IPv4 addresses native routing of IPv4 is impossible, and said.
    let p = plan(&s, &name("n1"), &config(Mode::Native));
    let kinds: Vec<_> = p.diagnostics.iter().map(|d| d.kind.clone()).collect();
    assert_eq!(kinds, vec![DiagnosticKind::NoAddressOfFamily(IpFamily::V4)]);
    assert!(p.tables.expect("tables").routes.contains_key(&(net("fd00:10:244:2::/64"), METRIC)));
}

#[test]
fn a_pair_without_ipv4_in_common_uses_ipv6_with_a_smaller_path_mtu() {
    let mut s = three();
    let n2 = node("n2", &["fd00:30:1::11"], &["10.244.2.0/24"]);
    s.nodes.insert(n2.name.clone(), n2);
    let t = tables(&s, &config(Mode::Vxlan));
    let r = &t.routes[&(net("10.244.2.0/24"), METRIC)];
    assert_eq!((r.remote, r.mtu), (Some(ip("fd00:30:1::11")), Some(1430)));
}

#[test]
fn bad_nodes_are_named_and_block_nobody() {
    let s = snapshot(vec![
        node("n1", &["172.30.1.10"], &["10.244.1.0/24"]),
        node("no-address", &[], &["10.244.9.0/24"]),
        node("no-cidr", &["172.30.1.20"], &[]),
        node("on-mine", &["172.30.1.21"], &["10.244.1.128/25"]),
        node("on-nodes", &["172.30.1.22"], &["172.30.0.0/16"]),
        node("on-services", &["172.30.1.23"], &["10.96.4.0/24"]),
        node("small", &["172.30.1.24"], &["10.244.8.1/32"]),
        node("twice", &["172.30.1.25"], &["10.244.5.0/24", "10.244.6.0/24"]),
        node("z-good", &["172.30.1.26"], &["10.244.7.0/24"]),
    ]);
    let p = plan(&s, &name("n1"), &config(Mode::Vxlan));
    let said: Vec<String> = p.diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 6, "{said:#?}");
    for (node, expected) in [
        ("no-address", "no InternalIP"),
        ("on-mine", "overlaps with 10.244.1.0/24"),
        ("on-nodes", "overlaps with 172.30."),
        ("on-services", "overlaps with 10.96.0.0/16"),
        ("small", "too small"),
        ("twice", "second one"),
    ] {
        assert!(said.iter().any(|s| s.contains(node) && s.contains(expected)), "{node}: {said:?}");
    }
    let t = p.tables.expect("tables");
    assert!(t.routes.contains_key(&(net("10.244.5.0/24"), METRIC)));
    assert!(t.routes.contains_key(&(net("10.244.7.0/24"), METRIC)));
    assert!(!t.routes.contains_key(&(net("10.244.1.128/25"), METRIC)));
}

#[test]
fn an_unknown_node_plans_nothing() {
    let p = plan(&three(), &name("other"), &config(Mode::Vxlan));
    assert_eq!((p.tables, p.diagnostics.len()), (None, 1));
    let s = snapshot(vec![node("n1", &["172.30.1.10"], &[])]);
    assert_eq!(plan(&s, &name("n1"), &config(Mode::Vxlan)).tables, None);
}

/// Applies operations to a model of the kernel.
fn apply(state: &mut Observed, ops: Vec<Op>) {
    for op in ops {
        match op {
            Op::DeleteTunnel => {
                state.tunnel = None;
                state.tunnel_up = false;
                state.routes.retain(|_, r| r.link.as_deref() != Some(TUNNEL_LINK));
                state.neighbours.clear();
            }
            Op::PutTunnel(t) => {
                assert!(!matches!(state.tunnel, Some(Err(()))), "not deleted before");
                state.tunnel = Some(Ok(t));
                state.tunnel_up = true;
            }
            Op::WriteSysctl(k, v) => drop(state.sysctls.insert(k, v)),
            Op::AddAddress(a) => assert!(state.addresses.insert(a)),
            Op::DeleteAddress(a) => assert!(state.addresses.remove(&a)),
            Op::PutNeighbour(n) => {
                assert!(state.tunnel.is_some());
                state.neighbours.retain(|o| o.ip != n.ip);
                state.neighbours.insert(n);
            }
            Op::DeleteNeighbour(n) => assert!(state.neighbours.remove(&n)),
            Op::PutRoute(dst, metric, r) => {
                // The kernel refuses a route with a source that is not its own, or over a
                // link that is not there.
                if r.kind == RouteKind::Unicast && r.link.as_deref() == Some(TUNNEL_LINK) {
                    assert!(state.tunnel_up);
                    let source = IpNet::from(r.source.expect("source"));
                    assert!(state.addresses.contains(&source));
                }
                state.routes.insert((dst, metric), r);
            }
            Op::DeleteRoute(dst, metric, _) => {
                assert!(state.routes.remove(&(dst, metric)).is_some());
            }
        }
    }
}

fn arbitrary_tables() -> impl Strategy<Value = FabricTables> {
    let n = (0u8..6, 0u8..6, any::<bool>(), any::<bool>());
    (proptest::collection::vec(n, 0..6), any::<bool>()).prop_map(|(others, native)| {
        let mut nodes = vec![node("n1", &["172.30.1.10", "fd00:30:1::10"], &["10.244.1.0/24"])];
        for (i, (cidr, address, v4, v6)) in others.into_iter().enumerate() {
            let mut cidrs = Vec::new();
            if v4 {
                cidrs.push(format!("10.244.{cidr}.0/24"));
            }
            if v6 {
                cidrs.push(format!("fd00:10:244:{cidr}::/64"));
            }
            let cidrs: Vec<&str> = cidrs.iter().map(String::as_str).collect();
            let address = format!("172.30.{}.{}", 1 + address % 2, 20 + address);
            nodes.push(node(&format!("x{i}"), &[&address], &cidrs));
        }
        let mode = if native { Mode::Native } else { Mode::Vxlan };
        plan(&snapshot(nodes), &name("n1"), &config(mode)).tables.expect("own node is fine")
    })
}

proptest! {
    #[test]
    fn diff_leads_from_any_plan_to_any_other_and_then_is_empty(
        plans in proptest::collection::vec(arbitrary_tables(), 1..4),
        foreign_tunnel: bool,
    ) {
        let pod = Route { link: Some("wv0123456789abc".to_owned()), ..BLANK };
        let pod_key = (net("10.244.1.7/32"), 0);
        let mut state = Observed {
            tunnel: foreign_tunnel.then_some(Err(())),
            routes: BTreeMap::from([(pod_key, pod.clone())]),
            ..Observed::default()
        };
        for tables in &plans {
            let ops = diff(tables, &state);
            apply(&mut state, ops);
            prop_assert_eq!(diff(tables, &state), vec![]);
            prop_assert_eq!(&state.addresses, &tables.addresses);
            prop_assert_eq!(&state.neighbours, &tables.neighbours);
            let mut routes = state.routes.clone();
            prop_assert_eq!(routes.remove(&pod_key), Some(pod.clone()));
            prop_assert_eq!(&routes, &tables.routes);
        }
    }

    #[test]
    fn no_route_ever_covers_a_node_or_a_service(t in arbitrary_tables()) {
        for ((dst, _), route) in &t.routes {
            if route.kind == RouteKind::Unicast {
                prop_assert!(!dst.contains(&ip("172.30.1.20")) && !dst.contains(&ip("10.96.0.1")));
            }
        }
    }
}
