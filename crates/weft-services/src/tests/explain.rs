//! Explanations against the tables that they explain.

use super::{
    model::{services, slices, with_node},
    *,
};
use crate::{Answer, Backend, Client, Explanation, Outcome, Place, Reason, Verdict, Why, explain};
use proptest::prelude::*;
use std::collections::BTreeSet;
use weft_model::Node;

/// The node of [`with_node`], one in its zone and one in another.
fn world(services: Vec<Service>, slices: Vec<EndpointSlice>) -> Snapshot {
    let mut snapshot = with_node(snapshot(services, slices));
    for (n, zone) in [(2, "za"), (3, "zb")] {
        let other = Node {
            name: node(n),
            internal_ips: vec![ip(&format!("172.30.1.{n}")), ip(&format!("fd00:30::{n}"))],
            pod_cidrs: vec![format!("10.244.{n}.0/24").parse().expect("range")],
            zone: Some(zone.into()),
            ready: true,
            eligible: true,
        };
        snapshot.nodes.insert(node(n), Arc::new(other));
    }
    snapshot
}

fn eligible(e: &Explanation) -> BTreeSet<Backend> {
    let of = |j: &crate::Judged| Some(Backend { addr: j.address, port: j.port? });
    e.endpoints.iter().filter(|j| j.eligible()).filter_map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn explanations_equal_the_tables(services in services(), slices in slices()) {
        let snapshot = world(services, slices);
        for on in snapshot.nodes.keys() {
            let tables = plan(&snapshot, on, &PlanInput::default());
            for (at, outside) in &tables.outside {
                let clients = [
                    Client::OnNode { source: None },
                    Client::Process { source: None },
                    Client::Arriving { source: None },
                ];
                for client in clients {
                    let said = explain(&snapshot, on, &tables, *at, client);
                    let said = said.expect("every frontend is explained");
                    prop_assert_eq!((&said.service, said.kind), (&outside.service, outside.kind));
                    let cluster = said.kind == crate::FrontendKind::ClusterIp;
                    let sctp = at.protocol == Protocol::Sctp;
                    let socket = match client {
                        Client::OnNode { .. } => !sctp || cluster,
                        Client::Process { .. } => !sctp,
                        Client::Arriving { .. } => false,
                    };
                    match &said.outcome {
                        Outcome::Forwarded { at: to @ (Place::SocketHook | Place::PodLink), backends } => {
                            prop_assert!(socket && (*to == Place::PodLink) == sctp);
                            prop_assert_eq!(backends, &tables.frontends[at].backends.to_vec());
                            prop_assert_eq!(eligible(&said), backends.iter().copied().collect());
                        }
                        Outcome::Forwarded { at: Place::Netfilter, backends } => {
                            prop_assert!(!socket && (!cluster || sctp));
                            let Answer::Forward(group) = &outside.answer else { panic!("{at}") };
                            prop_assert_eq!(backends, &tables.groups[group].to_vec());
                            prop_assert_eq!(eligible(&said), backends.iter().copied().collect());
                        }
                        Outcome::Refused(Reason::ClusterIpFromOutside) => {
                            prop_assert!(!socket && cluster && !sctp);
                        }
                        Outcome::Refused(_) if socket => {
                            prop_assert!(tables.without_backends.contains(at));
                            prop_assert!(eligible(&said).is_empty(), "{said:?}");
                        }
                        Outcome::Refused(_) => {
                            prop_assert_eq!(&outside.answer, &Answer::Refuse);
                            prop_assert!(eligible(&said).is_empty(), "{said:?}");
                        }
                        Outcome::Dropped(_) => {
                            prop_assert_eq!(&outside.answer, &Answer::Drop);
                            prop_assert!(eligible(&said).is_empty(), "{said:?}");
                        }
                    }
                }
            }
            // Nobody is forwarded whom no explanation is about.
            for at in tables.frontends.keys().chain(tables.without_backends.iter()) {
                prop_assert!(tables.outside.contains_key(at));
            }
        }
    }
}

/// The verdicts on the endpoints of `web`, in the order of their addresses, for a client on
/// node 1.
fn verdicts(change: impl FnOnce(&mut Service), slices: Vec<EndpointSlice>) -> Vec<Why> {
    let mut web = service("web", &["10.96.0.5"], &[HTTP]);
    change(&mut web);
    let snapshot = world(vec![web], slices);
    let tables = run(&snapshot);
    let at = frontend("10.96.0.5", Protocol::Tcp, 80);
    let said = explain(&snapshot, &node(1), &tables, at, Client::OnNode { source: None });
    said.expect("explained").endpoints.iter().map(|e| e.why).collect()
}

#[test]
fn every_endpoint_has_its_reason() {
    let of = service("web", &[], &[]);
    let main = vec![
        endpoint("10.244.1.1", "rs", 1),
        endpoint("10.244.1.2", "", 1),
        endpoint("10.244.1.3", "st", 1),
        endpoint("10.244.1.4", "t", 1),
        endpoint("127.0.0.1", "rs", 1),
    ];
    let slices = vec![
        slice(&of, "web-1", &[HTTP_8080], main),
        slice(&of, "web-2", &[("other", Protocol::Tcp, 1)], vec![endpoint("10.244.2.1", "rs", 2)]),
        slice(&of, "web-3", &[HTTP_8080], vec![endpoint("fd00:10:244:1::1", "rs", 1)]),
    ];
    use Verdict::*;
    assert_eq!(
        verdicts(|_| {}, slices),
        [
            Why::Rule(Eligible),
            Why::Rule(NotReady),
            Why::Rule(Terminating),
            Why::Rule(Terminated),
            Why::NoSuchPort,
            Why::BadAddress("it is a loopback address"),
            Why::OtherFamily(IpFamily::V6),
        ]
    );
}

#[test]
fn hints_and_policies_are_named() {
    let of = service("web", &[], &[]);
    let with = |hint: &dyn Fn(&mut Endpoint, u8)| {
        let mut all = vec![endpoint("10.244.1.1", "rs", 1), endpoint("10.244.3.1", "rs", 3)];
        hint(&mut all[0], 1);
        hint(&mut all[1], 3);
        vec![slice(&of, "web-1", &[HTTP_8080], all)]
    };
    let zones = with(&|e, n| e.zone_hints = vec![if n == 1 { "za" } else { "zb" }.into()]);
    let nodes = with(&|e, n| e.node_hints = vec![format!("node{n}").into()]);
    let plain = with(&|_, _| {});
    let rest = |change: fn(&mut Service), slices| verdicts(change, slices)[1];
    assert_eq!(rest(|_| {}, zones), Why::Rule(Verdict::HintsOtherZone));
    assert_eq!(rest(|_| {}, nodes), Why::Rule(Verdict::HintsOtherNode));
    let local = |s: &mut Service| s.internal_policy = TrafficPolicy::Local;
    assert_eq!(rest(local, plain), Why::Rule(Verdict::OnAnotherNode));
}

#[test]
fn an_endpoint_that_moves_between_slices_is_judged_once() {
    let of = service("web", &[], &[]);
    let slices = vec![
        slice(&of, "web-1", &[HTTP_8080], vec![endpoint("10.244.1.2", "", 1)]),
        slice(&of, "web-2", &[HTTP_8080], vec![endpoint("10.244.1.2", "rs", 1)]),
        slice(&of, "web-3", &[], vec![endpoint("10.244.1.2", "rs", 1)]),
    ];
    assert_eq!(verdicts(|_| {}, slices), [Why::Rule(Verdict::Eligible)]);
}

#[test]
fn source_ranges_and_the_nodes_dns_are_named() {
    let mut web = service("web", &["10.96.0.5"], &[HTTP]);
    web.external.balancer_addresses = vec![ip("192.0.2.1")];
    web.external.source_ranges = vec!["203.0.113.0/24".parse().expect("range")];
    let mut dns = service("kube-dns", &["10.96.0.10"], &[("dns", Protocol::Udp, 53)]);
    dns.id = NamespacedName::new("kube-system", "kube-dns");
    let slices = vec![
        slice(&web, "web-1", &[HTTP_8080], vec![endpoint("10.244.1.2", "rs", 1)]),
        slice(&dns, "dns-1", &[("dns", Protocol::Udp, 53)], vec![endpoint("10.244.2.2", "rs", 2)]),
    ];
    let snapshot = world(vec![web, dns], slices);
    let input = PlanInput { node_dns: vec![ip("10.244.1.1")], ..PlanInput::default() };
    let tables = plan(&snapshot, &node(1), &input);
    let ask = |at, client| explain(&snapshot, &node(1), &tables, at, client).expect("explained");
    let vip = frontend("192.0.2.1", Protocol::Tcp, 80);
    let from = |source: &str| Client::Arriving { source: Some(ip(source)) };
    assert!(matches!(ask(vip, from("203.0.113.9")).outcome, Outcome::Forwarded { .. }));
    assert_eq!(ask(vip, from("198.51.100.9")).outcome, Outcome::Dropped(Reason::SourceRanges));
    // A pod is asked, too, although its socket knows no ranges.
    let pod = Client::OnNode { source: Some(ip("10.244.1.9")) };
    assert_eq!(ask(vip, pod).outcome, Outcome::Dropped(Reason::SourceRanges));
    let said = ask(frontend("10.96.0.10", Protocol::Udp, 53), pod);
    assert!(matches!(&said.outcome, Outcome::Forwarded { backends, .. }
        if backends[0].to_string() == "10.244.1.1:53"));
    assert_eq!(said.endpoints[0].why, Why::NodeDns);
}
