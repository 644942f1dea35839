//! The planner against a plain model: the sentences of the Service documentation and of the
//! KEPs, one question after the other, with no table and no order in it.

use super::*;
use crate::{Answer, Backend, FrontendKind};
use proptest::prelude::*;
use std::collections::BTreeSet;
use weft_model::Node;

/// Who asks.
#[derive(Clone, Copy, PartialEq)]
enum Client {
    /// A pod or process of this node.
    Here,
    /// Anybody whose packets reach this node.
    Outside,
}

/// What a client must see.
#[derive(Debug, PartialEq)]
enum Seen {
    OneOf(BTreeSet<Backend>),
    Refused,
    Nothing,
}

/// The zone of the node that the model stands on.
const ZONE: &str = "za";

fn usable_address(e: &Endpoint, family: IpFamily) -> bool {
    let text = e.address.to_string();
    IpFamily::of(e.address) == family
        && !text.starts_with("127.")
        && !text.starts_with("169.254.")
        && !text.starts_with("fe80:")
        && text != "::1"
}

/// What `client` sees of one port of a Service.
fn model(
    snapshot: &Snapshot,
    s: &Service,
    p: &ServicePort,
    kind: FrontendKind,
    family: IpFamily,
    client: Client,
) -> Seen {
    // All backends of the port, wherever they are, with every endpoint object that names them.
    let mut all: Vec<(Backend, Vec<&Endpoint>)> = Vec::new();
    for slice in snapshot.slices_of(&s.id).filter(|x| x.family == family) {
        for sp in slice.ports.iter().filter(|x| x.name == p.name && x.protocol == p.protocol) {
            let Some(port) = sp.port else { continue };
            for e in slice.endpoints.iter().filter(|e| usable_address(e, family)) {
                let backend = Backend { addr: e.address, port };
                match all.iter_mut().find(|(b, _)| *b == backend) {
                    Some((_, list)) => list.push(e),
                    None => all.push((backend, vec![e])),
                }
            }
        }
    }
    let ready = |b: &[&Endpoint]| b.iter().any(|e| e.ready);
    let leaving = |b: &[&Endpoint]| b.iter().any(|e| e.serving && e.terminating);
    let here = |b: &[&Endpoint]| b.iter().any(|e| e.node == Some(node(1)));
    let local = match kind {
        FrontendKind::ClusterIp => s.internal_policy == TrafficPolicy::Local,
        // "External" policies are about clients outside.
        _ => s.external.policy == TrafficPolicy::Local && client == Client::Outside,
    };
    let set = |those: &dyn Fn(&[&Endpoint]) -> bool| -> BTreeSet<Backend> {
        all.iter().filter(|(_, b)| those(b)).map(|(b, _)| *b).collect()
    };
    let mut chosen;
    if local {
        chosen = set(&|b| here(b) && ready(b));
        if chosen.is_empty() {
            chosen = set(&|b| here(b) && leaving(b));
        }
    } else {
        let for_node = |b: &[&Endpoint]| b.iter().any(|e| e.node_hints.contains(&"node1".into()));
        let for_zone = |b: &[&Endpoint]| b.iter().any(|e| e.zone_hints.contains(&ZONE.into()));
        let lacks = |hints: fn(&Endpoint) -> &[std::sync::Arc<str>]| {
            all.iter().any(|(_, b)| ready(b) && b.iter().all(|e| hints(e).is_empty()))
        };
        chosen = BTreeSet::new();
        if !lacks(|e| &e.node_hints) {
            chosen = set(&|b| ready(b) && for_node(b));
        }
        if chosen.is_empty() && !lacks(|e| &e.zone_hints) {
            chosen = set(&|b| ready(b) && for_zone(b));
        }
        if chosen.is_empty() {
            chosen = set(&|b| ready(b));
        }
        if chosen.is_empty() {
            chosen = set(&|b| leaving(b));
        }
    }
    if !chosen.is_empty() {
        return Seen::OneOf(chosen);
    }
    let somewhere = all.iter().any(|(_, b)| ready(b) || leaving(b));
    if local && kind != FrontendKind::ClusterIp && somewhere {
        Seen::Nothing
    } else {
        Seen::Refused
    }
}

fn protocols() -> impl Strategy<Value = Protocol> {
    prop::sample::select(vec![Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp])
}

fn names() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "a", "b"])
}

pub(super) fn services() -> impl Strategy<Value = Vec<Service>> {
    let node_port = prop::option::of(30_000..30_003i32);
    let ports = prop::collection::vec((names(), protocols(), 1..4i32, node_port), 1..4);
    let some = |all: Vec<&'static str>| prop::sample::subsequence(all, 0..3);
    let ips = some(vec!["10.96.0.1", "10.96.0.2", "fd00:10:96::1"]);
    let vips = some(vec!["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
    let extra = some(vec!["192.0.2.1", "198.51.100.1", "10.96.0.2"]);
    let flags = (any::<bool>(), any::<bool>(), 0..8u8, 0..8u8, any::<bool>(), 0..3i64, 0..3u8);
    let one = (ports, ips, vips, extra, flags).prop_map(
        |(
            ports,
            ips,
            vips,
            extra,
            (local, external_local, foreign, headless, both, created_s, maglev),
        )| {
            let plain: Vec<_> = ports.iter().map(|(n, p, port, _)| (*n, *p, *port)).collect();
            let mut s = service("", &ips, &plain);
            for (to, (.., node_port)) in s.ports.iter_mut().zip(&ports) {
                to.node_port = node_port.map(port);
            }
            if local {
                s.internal_policy = TrafficPolicy::Local;
            }
            if external_local {
                s.external.policy = TrafficPolicy::Local;
            }
            if both {
                s.families = vec![IpFamily::V4, IpFamily::V6];
            }
            s.external.balancer_addresses = vips.iter().map(|a| ip(a)).collect();
            s.external.addresses = extra.iter().map(|a| ip(a)).collect();
            s.foreign_proxy = foreign == 0;
            s.created_s = created_s;
            if maglev == 0 {
                s.balance = weft_model::Balance::Maglev;
            }
            if headless == 0 {
                s.kind = ServiceKind::Headless;
            }
            s
        },
    );
    prop::collection::vec(one, 0..4).prop_map(|mut all| {
        for (n, s) in all.iter_mut().enumerate() {
            s.id = NamespacedName::new("default", &format!("s{n}"));
        }
        all
    })
}

pub(super) fn slices() -> impl Strategy<Value = Vec<EndpointSlice>> {
    let ports = prop::collection::vec((names(), protocols(), 0..3i32), 0..3);
    let conditions = prop::sample::subsequence(vec!['r', 's', 't'], 0..=3);
    let hints = |all: Vec<&'static str>| prop::sample::subsequence(all, 0..=2);
    let hints = (hints(vec!["za", "zb"]), hints(vec!["node1", "node2"]));
    let endpoints = prop::collection::vec((0..6u8, conditions, 1..3u8, hints), 0..5);
    let one = (0..4u8, ports, any::<bool>(), endpoints);
    prop::collection::vec(one, 0..6).prop_map(|all| {
        let mut slices = Vec::new();
        for (n, (of, ports, v6, endpoints)) in all.into_iter().enumerate() {
            let of = service(&format!("s{of}"), &[], &[]);
            let mut list = Vec::new();
            for (e, conditions, on, (zones, nodes)) in endpoints {
                let conditions: String = conditions.into_iter().collect();
                let bad = if v6 { ["fe80::1", "::1"] } else { ["127.0.0.1", "169.254.1.1"] };
                let base = if v6 { "fd00:10:244::" } else { "10.244.0." };
                let address = match e {
                    4 | 5 => bad[usize::from(e - 4)].to_owned(),
                    e => format!("{base}{}", e + 1),
                };
                let mut e = endpoint(&address, &conditions, on);
                e.zone_hints = zones.into_iter().map(Into::into).collect();
                e.node_hints = nodes.into_iter().map(Into::into).collect();
                list.push(e);
            }
            let mut s = slice(&of, &format!("slice{n}"), &ports, list);
            s.family = if v6 { IpFamily::V6 } else { IpFamily::V4 };
            slices.push(s);
        }
        slices
    })
}

/// A node with addresses of both families.
pub(super) fn with_node(mut snapshot: Snapshot) -> Snapshot {
    let own = Node {
        name: node(1),
        internal_ips: vec![ip("172.30.1.1"), ip("fd00:30::1")],
        pod_cidrs: ["10.244.1.0/24", "fd00:10:244:1::/64"].map(|n| n.parse().expect("n")).into(),
        zone: Some(ZONE.into()),
        ready: true,
        eligible: true,
    };
    snapshot.nodes.insert(node(1), Arc::new(own));
    snapshot
}

/// Every frontend that the Services ask for, with its rightful owner, in order of claims.
fn claims(services: &[Service]) -> Vec<(Frontend, FrontendKind, &Service, &ServicePort)> {
    let mut all: Vec<(Frontend, FrontendKind, &Service, &ServicePort)> = Vec::new();
    // Of two that ask for the same by fields of one kind, the older one has it.
    let ours = services.iter().filter(|s| s.kind == ServiceKind::Virtual && !s.foreign_proxy);
    let mut ours: Vec<&Service> = ours.collect();
    ours.sort_by_key(|s| (s.created_s, &s.id));
    for kind in FrontendKind::ALL {
        for s in ours.iter().copied() {
            for p in &s.ports {
                let own = || [ip("172.30.1.1"), ip("fd00:30::1")].into_iter();
                let at: Vec<(IpAddr, Port)> = match kind {
                    FrontendKind::ClusterIp => s.cluster_ips.iter().map(|a| (*a, p.port)).collect(),
                    FrontendKind::NodePort => own()
                        .filter(|a| s.families.contains(&IpFamily::of(*a)))
                        .filter_map(|a| Some((a, p.node_port?)))
                        .collect(),
                    FrontendKind::LoadBalancer => {
                        s.external.balancer_addresses.iter().map(|a| (*a, p.port)).collect()
                    }
                    FrontendKind::ExternalIp => {
                        s.external.addresses.iter().map(|a| (*a, p.port)).collect()
                    }
                };
                for (addr, port) in at {
                    let frontend = Frontend { addr, port, protocol: p.protocol };
                    if all.iter().all(|(f, ..)| *f != frontend) {
                        all.push((frontend, kind, s, p));
                    }
                }
            }
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn planner_equals_model(services in services(), slices in slices()) {
        let snapshot = with_node(snapshot(services.clone(), slices));
        let tables = run(&snapshot);
        let (mut inside, mut outside) = (0, 0);
        for (at, kind, s, p) in claims(&services) {
            let family = IpFamily::of(at.addr);
            let ask = |client| model(&snapshot, s, p, kind, family, client);
            if at.protocol != Protocol::Sctp || kind == FrontendKind::ClusterIp {
                inside += 1;
                let seen = match tables.frontends.get(&at) {
                    Some(lb) => {
                        prop_assert_eq!((&lb.service, lb.balance), (&s.id, s.balance));
                        prop_assert!(lb.backends.is_sorted(), "equal sets give equal tables");
                        Seen::OneOf(lb.backends.iter().copied().collect())
                    }
                    None => {
                        prop_assert!(tables.without_backends.contains(&at), "{at} is missing");
                        Seen::Refused
                    }
                };
                prop_assert_eq!(seen, ask(Client::Here), "{} of {}, inside", at, s.id);
            }
            outside += 1;
            let found = tables.outside.get(&at).expect("every frontend has an answer");
            prop_assert_eq!((&found.service, found.kind), (&s.id, kind));
            let seen = match &found.answer {
                Answer::Forward(group) => {
                    prop_assert_eq!(group.balance, s.balance);
                    Seen::OneOf(tables.groups[group].iter().copied().collect())
                }
                Answer::Refuse => Seen::Refused,
                Answer::Drop => Seen::Nothing,
            };
            prop_assert_eq!(seen, ask(Client::Outside), "{} of {}, outside", at, s.id);
        }
        let planned = tables.frontends.len() + tables.without_backends.len();
        prop_assert_eq!(planned, inside, "nothing that nobody asked for");
        prop_assert_eq!(tables.outside.len(), outside);
    }

    /// The order of endpoints and the names of slices do not matter.
    #[test]
    fn order_does_not_matter(services in services(), slices in slices()) {
        let mut shuffled = slices.clone();
        for (n, s) in shuffled.iter_mut().enumerate() {
            s.endpoints.reverse();
            s.ports.reverse();
            s.id.name = format!("other{}", 99 - n).into();
        }
        let sorted = |mut tables: ServiceTables| {
            let mut sorted = tables.diagnostics.to_vec();
            for diagnostic in &mut sorted {
                // It names the slice that it found the endpoint in.
                if let DiagnosticKind::BadEndpoint { slice, .. } = &mut diagnostic.kind {
                    *slice = "".into();
                }
            }
            sorted.sort_by_key(ToString::to_string);
            tables.diagnostics = sorted.into();
            tables
        };
        let one = run(&with_node(snapshot(services.clone(), slices)));
        let other = run(&with_node(snapshot(services, shuffled)));
        prop_assert_eq!(sorted(one), sorted(other));
    }
}
