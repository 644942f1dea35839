//! Questions and answers in words, then arbitrary bytes. Every reply is read by hickory-proto.
//! Here: the cluster that is asked about, and the ways to ask.

mod arbitrary;
mod records;
mod replies;

use super::*;
use crate::Zone;
use hickory_proto::{
    op::{Edns, Message as Hickory, OpCode, Query as HickoryQuery, ResponseCode},
    rr::{Name as HickoryName, Record, RecordType},
};
use proptest::prelude::*;
use std::sync::Arc;
use weft_model::{
    Endpoint, EndpointPort, EndpointSlice, IpFamily, Labels, Namespace, NamespacedName,
    Node as ModelNode, Port, Service, ServiceKind, ServicePort, Snapshot, TrafficPolicy,
};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn port(n: i32) -> Port {
    Port::try_from(n).expect("a port")
}

fn service(id: &str, kind: ServiceKind, ips: &[&str], ports: &[(&str, Protocol, i32)]) -> Service {
    let (namespace, name) = id.split_once('/').expect("namespace/name");
    let cluster_ips: Vec<IpAddr> = ips.iter().map(|i| ip(i)).collect();
    Service {
        id: NamespacedName::new(namespace, name),
        kind,
        families: cluster_ips.iter().map(|i| IpFamily::of(*i)).collect(),
        cluster_ips,
        ports: ports
            .iter()
            .map(|(name, protocol, n)| ServicePort {
                name: (*name).into(),
                protocol: *protocol,
                port: port(*n),
                node_port: None,
            })
            .collect(),
        internal_policy: TrafficPolicy::Cluster,
        external: weft_model::External::default(),
        affinity_timeout_s: None,
        publish_not_ready: false,
        foreign_proxy: false,
        created_s: 0,
        balance: weft_model::Balance::default(),
    }
}

fn alias(id: &str, target: &str) -> Service {
    service(id, ServiceKind::ExternalName(target.into()), &[], &[])
}

fn endpoint(address: &str, hostname: &str, ready: bool) -> Endpoint {
    Endpoint {
        address: ip(address),
        ready,
        serving: ready,
        terminating: false,
        hostname: (!hostname.is_empty()).then(|| hostname.into()),
        node: None,
        zone: None,
        zone_hints: Vec::new(),
        node_hints: Vec::new(),
        pod: None,
    }
}

fn slice(
    id: &str,
    service: &str,
    ports: &[(&str, Protocol, i32)],
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let (namespace, name) = id.split_once('/').expect("namespace/name");
    EndpointSlice {
        id: NamespacedName::new(namespace, name),
        service: NamespacedName::new(namespace, service),
        family: endpoints.first().map_or(IpFamily::V4, |e| IpFamily::of(e.address)),
        ports: ports
            .iter()
            .map(|(name, protocol, n)| EndpointPort {
                name: (*name).into(),
                protocol: *protocol,
                port: (*n > 0).then(|| port(*n)),
            })
            .collect(),
        endpoints,
    }
}

fn snapshot(services: Vec<Service>, slices: Vec<EndpointSlice>) -> Snapshot {
    let mut s = Snapshot { generation: 7, ..Snapshot::default() };
    s.namespaces.extend(["default", "kube-system", "shop", "empty"].map(|name| {
        let namespace = Namespace { name: name.into(), labels: Labels::default(), audit: false };
        (namespace.name.clone(), Arc::new(namespace))
    }));
    let node = ModelNode {
        name: "node1".parse().expect("a name"),
        internal_ips: vec![ip("172.30.1.11")],
        pod_cidrs: vec![
            "10.244.0.0/16".parse().expect("a range"),
            "fd00:10:244::/56".parse().expect("a range"),
        ],
        zone: None,
        ready: true,
        eligible: true,
    };
    s.nodes.insert(node.name.clone(), Arc::new(node));
    for x in services {
        s.services.insert(x.id.clone(), Arc::new(x));
    }
    for x in slices {
        s.insert_slice(Arc::new(x));
    }
    s
}

const TCP: Protocol = Protocol::Tcp;
const UDP: Protocol = Protocol::Udp;

/// A cluster with a Service of every kind.
fn cluster() -> Snapshot {
    let headless = |id| service(id, ServiceKind::Headless, &[], &[("peer", TCP, 7000)]);
    let mut eager = headless("shop/eager");
    eager.publish_not_ready = true;
    snapshot(
        vec![
            service(
                "default/kubernetes",
                ServiceKind::Virtual,
                &["10.96.0.1"],
                &[("https", TCP, 443)],
            ),
            service(
                "kube-system/kube-dns",
                ServiceKind::Virtual,
                &["10.96.0.10", "fd00:10:96::a"],
                &[("dns", UDP, 53), ("dns-tcp", TCP, 53)],
            ),
            service(
                "shop/web",
                ServiceKind::Virtual,
                &["10.96.0.7", "fd00:10:96::7"],
                &[("http", TCP, 80)],
            ),
            service("shop/api", ServiceKind::Virtual, &["10.96.0.8"], &[("", TCP, 80)]),
            headless("shop/store"),
            headless("shop/anon"),
            headless("shop/down"),
            headless("shop/none"),
            eager,
            alias("shop/ext", "db.example.com"),
            alias("shop/local", "WEB.shop.svc.cluster.local."),
            alias("shop/dangling", "nowhere.shop.svc.cluster.local"),
            alias("shop/loop-a", "loop-b.shop.svc.cluster.local"),
            alias("shop/loop-b", "loop-a.shop.svc.cluster.local"),
            alias("shop/broken", "two..dots"),
        ],
        vec![
            slice(
                "shop/web-1",
                "web",
                &[("http", TCP, 8080)],
                vec![endpoint("10.244.9.9", "x", true)],
            ),
            slice(
                "shop/store-4",
                "store",
                &[("peer", TCP, 7000), ("all", UDP, 0)],
                vec![
                    endpoint("10.244.1.5", "store-0", true),
                    endpoint("10.244.2.5", "store-1", true),
                    endpoint("10.244.3.5", "store-2", false),
                ],
            ),
            slice(
                "shop/store-6",
                "store",
                &[("peer", TCP, 7000)],
                vec![endpoint("fd00:10:244:1::5", "store-0", true)],
            ),
            // The same endpoint again, as while slices are rewritten.
            slice(
                "shop/store-7",
                "store",
                &[("peer", TCP, 7000)],
                vec![endpoint("10.244.1.5", "store-0", true)],
            ),
            slice(
                "shop/anon-1",
                "anon",
                &[("peer", TCP, 7000)],
                vec![endpoint("10.244.1.6", "", true)],
            ),
            slice(
                "shop/down-1",
                "down",
                &[("peer", TCP, 7000)],
                vec![endpoint("10.244.1.7", "down-0", false)],
            ),
            slice(
                "shop/eager-1",
                "eager",
                &[("peer", TCP, 7000)],
                vec![endpoint("10.244.1.8", "eager-0", false)],
            ),
        ],
    )
}

fn zone() -> Zone {
    Zone::new("cluster.local").expect("a zone")
}

fn index() -> DnsIndex {
    DnsIndex::build(&cluster(), &zone(), None)
}

fn query(name: &str, rtype: RecordType) -> Hickory {
    let mut m = Hickory::query();
    m.metadata.id = 0;
    m.metadata.recursion_desired = true;
    let name = HickoryName::from_ascii(name).expect("a name");
    m.add_query(HickoryQuery::query(name, rtype));
    m
}

fn reply_to(index: &DnsIndex, q: &Hickory, transport: Transport) -> (Verdict, Hickory, usize) {
    let mut out = Vec::new();
    let verdict = answer(Some(index), &q.to_vec().expect("encodes"), transport, &mut out);
    (verdict, Hickory::from_vec(&out).expect("hickory reads the reply"), out.len())
}

fn show(r: &Record) -> String {
    format!("{} {} {} {}", r.name, r.ttl, r.record_type(), r.data)
}

/// What is asked as `name TYPE`; the reply as lines: code, `flags` other than qr and rd, then
/// records, with the section's first letter where it is not the answer.
fn ask(question: &str) -> String {
    let (name, rtype) = question.split_once(' ').expect("name TYPE");
    let q = query(name, rtype.parse().expect("a type"));
    let (_, r, _) = reply_to(&index(), &q, Transport::Tcp);
    assert_eq!(r.metadata.id, 0);
    assert_eq!(r.queries.len(), 1, "{question}");
    assert_eq!(r.queries[0].name().to_ascii(), name.trim_end_matches('.').to_owned() + ".");
    let mut lines = vec![match r.metadata.response_code {
        ResponseCode::NoError => "ok".to_owned(),
        ResponseCode::NXDomain => "nxdomain".to_owned(),
        other => format!("{other}"),
    }];
    if !r.metadata.authoritative {
        lines[0] += " not authoritative";
    }
    lines.extend(r.answers.iter().map(show));
    lines.extend(r.authorities.iter().map(|x| format!("n {}", show(x))));
    lines.extend(r.additionals.iter().map(|x| format!("x {}", show(x))));
    lines.join("\n")
}

fn soa() -> &'static str {
    "n cluster.local. 1 SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 1"
}

fn check(question: &str, lines: &[&str]) {
    assert_eq!(ask(question), lines.join("\n"), "{question}");
}

fn check_nodata(question: &str) {
    check(question, &["ok", soa()]);
}

fn check_missing(question: &str) {
    check(question, &["nxdomain", soa()]);
}
