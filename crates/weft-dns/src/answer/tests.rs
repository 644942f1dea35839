//! Questions and answers in words, then arbitrary bytes. Every reply is read by hickory-proto.

use super::*;
use crate::Zone;
use hickory_proto::{
    op::{Edns, Message as Hickory, OpCode, Query as HickoryQuery, ResponseCode},
    rr::{Name as HickoryName, Record, RecordType},
};
use proptest::prelude::*;
use std::{collections::BTreeMap, sync::Arc};
use weft_model::{
    Endpoint, EndpointPort, EndpointSlice, IpFamily, NamespacedName, Node as ModelNode, Port,
    Service, ServiceKind, ServicePort, Snapshot, TrafficPolicy,
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
            })
            .collect(),
        internal_policy: TrafficPolicy::Cluster,
        affinity_timeout_s: None,
        publish_not_ready: false,
        foreign_proxy: false,
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
    s.namespaces.extend(["default", "kube-system", "shop", "empty"].map(Arc::from));
    let node = ModelNode {
        name: "node1".parse().expect("a name"),
        internal_ips: vec![ip("172.30.1.11")],
        pod_cidrs: vec![
            "10.244.0.0/16".parse().expect("a range"),
            "fd00:10:244::/56".parse().expect("a range"),
        ],
        zone: None,
        ready: true,
    };
    s.nodes.insert(node.name.clone(), Arc::new(node));
    for x in services {
        s.services.insert(x.id.clone(), Arc::new(x));
    }
    for x in slices {
        let of: &mut BTreeMap<_, _> = s.slices.entry(x.service.clone()).or_default();
        of.insert(x.id.name.clone(), Arc::new(x));
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

#[test]
fn services_with_cluster_ips() {
    check("web.shop.svc.cluster.local. A", &["ok", "web.shop.svc.cluster.local. 5 A 10.96.0.7"]);
    check(
        "web.shop.svc.cluster.local. AAAA",
        &["ok", "web.shop.svc.cluster.local. 5 AAAA fd00:10:96::7"],
    );
    check_nodata("api.shop.svc.cluster.local. AAAA");
    check_nodata("web.shop.svc.cluster.local. MX");
    check_nodata("web.shop.svc.cluster.local. SRV");
    check_nodata("web.shop.svc.cluster.local. CNAME");
    check_missing("x.web.shop.svc.cluster.local. A");
    check_missing("10-244-9-9.web.shop.svc.cluster.local. A");
}

#[test]
fn srv_of_named_ports() {
    check(
        "_http._tcp.web.shop.svc.cluster.local. SRV",
        &[
            "ok",
            "_http._tcp.web.shop.svc.cluster.local. 5 SRV 0 100 80 web.shop.svc.cluster.local.",
            "x web.shop.svc.cluster.local. 5 A 10.96.0.7",
            "x web.shop.svc.cluster.local. 5 AAAA fd00:10:96::7",
        ],
    );
    check_nodata("_http._tcp.web.shop.svc.cluster.local. A");
    check_nodata("_tcp.web.shop.svc.cluster.local. SRV");
    for missing in [
        "_http._udp.web.shop.svc.cluster.local. SRV",
        "_udp.web.shop.svc.cluster.local. SRV",
        "_grpc._tcp.web.shop.svc.cluster.local. SRV",
        "http.tcp.web.shop.svc.cluster.local. SRV",
        "_http.web.shop.svc.cluster.local. SRV",
        "x._http._tcp.web.shop.svc.cluster.local. SRV",
        // Its one port has no name.
        "_tcp.api.shop.svc.cluster.local. SRV",
        "_._tcp.api.shop.svc.cluster.local. SRV",
    ] {
        check_missing(missing);
    }
}

#[test]
fn headless_services() {
    check(
        "store.shop.svc.cluster.local. A",
        &[
            "ok",
            "store.shop.svc.cluster.local. 5 A 10.244.1.5",
            "store.shop.svc.cluster.local. 5 A 10.244.2.5",
        ],
    );
    check(
        "store.shop.svc.cluster.local. AAAA",
        &["ok", "store.shop.svc.cluster.local. 5 AAAA fd00:10:244:1::5"],
    );
    check(
        "store-0.store.shop.svc.cluster.local. A",
        &["ok", "store-0.store.shop.svc.cluster.local. 5 A 10.244.1.5"],
    );
    check_nodata("store-1.store.shop.svc.cluster.local. AAAA");
    // Not ready.
    check_missing("store-2.store.shop.svc.cluster.local. A");
    // Has a hostname, so has no name made of its address.
    check_missing("10-244-1-5.store.shop.svc.cluster.local. A");
    check(
        "_peer._tcp.store.shop.svc.cluster.local. SRV",
        &[
            "ok",
            "_peer._tcp.store.shop.svc.cluster.local. 5 SRV 0 50 7000 store-0.store.shop.svc.cluster.local.",
            "_peer._tcp.store.shop.svc.cluster.local. 5 SRV 0 50 7000 store-1.store.shop.svc.cluster.local.",
            "x store-0.store.shop.svc.cluster.local. 5 A 10.244.1.5",
            "x store-0.store.shop.svc.cluster.local. 5 AAAA fd00:10:244:1::5",
            "x store-1.store.shop.svc.cluster.local. 5 A 10.244.2.5",
        ],
    );
    // "All ports" has no number to tell.
    check_missing("_all._udp.store.shop.svc.cluster.local. SRV");
    check("anon.shop.svc.cluster.local. A", &["ok", "anon.shop.svc.cluster.local. 5 A 10.244.1.6"]);
    check(
        "10-244-1-6.anon.shop.svc.cluster.local. A",
        &["ok", "10-244-1-6.anon.shop.svc.cluster.local. 5 A 10.244.1.6"],
    );
}

#[test]
fn headless_services_without_ready_endpoints_do_not_exist() {
    for name in ["down", "none", "down-0.down", "_peer._tcp.down", "_tcp.down"] {
        check_missing(&format!("{name}.shop.svc.cluster.local. A"));
        check_missing(&format!("{name}.shop.svc.cluster.local. SRV"));
    }
    check(
        "eager-0.eager.shop.svc.cluster.local. A",
        &["ok", "eager-0.eager.shop.svc.cluster.local. 5 A 10.244.1.8"],
    );
}

#[test]
fn external_names() {
    let cname = "ext.shop.svc.cluster.local. 5 CNAME db.example.com.";
    check("ext.shop.svc.cluster.local. A", &["ok", cname]);
    check("ext.shop.svc.cluster.local. CNAME", &["ok", cname]);
    let q = query("ext.shop.svc.cluster.local.", RecordType::A);
    assert_eq!(reply_to(&index(), &q, Transport::Udp).0, Verdict::OutsideAlias);
    check(
        "local.shop.svc.cluster.local. A",
        &[
            "ok",
            "local.shop.svc.cluster.local. 5 CNAME web.shop.svc.cluster.local.",
            "web.shop.svc.cluster.local. 5 A 10.96.0.7",
        ],
    );
    check(
        "local.shop.svc.cluster.local. TXT",
        &["ok", "local.shop.svc.cluster.local. 5 CNAME web.shop.svc.cluster.local.", soa()],
    );
    check(
        "dangling.shop.svc.cluster.local. A",
        &[
            "nxdomain",
            "dangling.shop.svc.cluster.local. 5 CNAME nowhere.shop.svc.cluster.local.",
            soa(),
        ],
    );
    check_missing("x.ext.shop.svc.cluster.local. A");
    for name in ["loop-a", "broken"] {
        assert!(ask(&format!("{name}.shop.svc.cluster.local. A")).starts_with("Server Failure"));
    }
}

#[test]
fn what_exists_is_not_denied() {
    for exists in ["", "svc.", "pod.", "dns.", "shop.svc.", "shop.pod.", "empty.svc.", "empty.pod."]
    {
        check_nodata(&format!("{exists}cluster.local. A"));
        check_nodata(&format!("{exists}cluster.local. AAAA"));
    }
    for missing in [
        "x",
        "nowhere.svc",
        "nowhere.pod",
        "web.nowhere.svc",
        "x.shop.svc",
        "x.dns",
        "x.ns.dns",
        "web.shop",
        "a.b.c.d.e.f.svc",
        "x.dns-version",
        "*.shop.svc",
        "shop.SVC.svc",
        "web.shop.svc.svc",
    ] {
        check_missing(&format!("{missing}.cluster.local. A"));
    }
}

#[test]
fn the_zone_itself() {
    check("dns-version.cluster.local. TXT", &["ok", "dns-version.cluster.local. 5 TXT 1.1.0"]);
    check_nodata("dns-version.cluster.local. A");
    check(
        "cluster.local. SOA",
        &[
            "ok",
            "cluster.local. 5 SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 1",
        ],
    );
    check(
        "cluster.local. NS",
        &[
            "ok",
            "cluster.local. 5 NS ns.dns.cluster.local.",
            "x ns.dns.cluster.local. 5 A 10.96.0.10",
            "x ns.dns.cluster.local. 5 AAAA fd00:10:96::a",
        ],
    );
    check("ns.dns.cluster.local. A", &["ok", "ns.dns.cluster.local. 5 A 10.96.0.10"]);
}

#[test]
fn reverse_names() {
    check(
        "7.0.96.10.in-addr.arpa. PTR",
        &["ok", "7.0.96.10.in-addr.arpa. 5 PTR web.shop.svc.cluster.local."],
    );
    let v6 = "a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa.";
    check(
        &format!("{v6} PTR"),
        &["ok", &format!("{v6} 5 PTR kube-dns.kube-system.svc.cluster.local.")],
    );
    check(
        "5.1.244.10.in-addr.arpa. PTR",
        &["ok", "5.1.244.10.in-addr.arpa. 5 PTR store-0.store.shop.svc.cluster.local."],
    );
    let soa =
        "n in-addr.arpa. 1 SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 1";
    check("7.0.96.10.in-addr.arpa. A", &["ok", soa]);
    // A pod's address that has no name, and one that is not ready.
    check("99.1.244.10.in-addr.arpa. PTR", &["nxdomain", soa]);
    check("5.3.244.10.in-addr.arpa. PTR", &["nxdomain", soa]);
    // Not ours.
    let outside = ask("1.2.0.192.in-addr.arpa. PTR");
    assert_eq!(outside, "Query Refused not authoritative");
}

#[test]
fn pods_by_address() {
    check(
        "10-244-1-5.shop.pod.cluster.local. A",
        &["ok", "10-244-1-5.shop.pod.cluster.local. 5 A 10.244.1.5"],
    );
    check_nodata("10-244-1-5.shop.pod.cluster.local. AAAA");
    check(
        "fd00-10-244-1--5.shop.pod.cluster.local. AAAA",
        &["ok", "fd00-10-244-1--5.shop.pod.cluster.local. 5 AAAA fd00:10:244:1::5"],
    );
    check(
        "172-30-1-11.shop.pod.cluster.local. A",
        &["ok", "172-30-1-11.shop.pod.cluster.local. 5 A 172.30.1.11"],
    );
    for missing in ["192-0-2-1.shop", "10-244-1-5.nowhere", "web.shop", "x.10-244-1-5.shop"] {
        check_missing(&format!("{missing}.pod.cluster.local. A"));
    }
}

#[test]
fn names_outside_the_zone_are_refused_and_marked() {
    for name in ["example.com.", ".", "local.", "cluster.local.example.", "xcluster.local."] {
        let q = query(name, RecordType::A);
        let (verdict, r, _) = reply_to(&index(), &q, Transport::Udp);
        assert_eq!(verdict, Verdict::Outside, "{name}");
        assert_eq!(r.metadata.response_code, ResponseCode::Refused);
        assert!(!r.metadata.authoritative && !r.metadata.recursion_available);
    }
}

#[test]
fn case_is_ignored_and_preserved() {
    let q = query("wEb.ShOp.SVC.cLuster.LOCAL.", RecordType::A);
    let (_, r, _) = reply_to(&index(), &q, Transport::Udp);
    assert_eq!(r.queries[0].name().to_ascii(), "wEb.ShOp.SVC.cLuster.LOCAL.");
    assert_eq!(r.answers.len(), 1);
    assert_eq!(r.answers[0].name.to_ascii(), "wEb.ShOp.SVC.cLuster.LOCAL.");
}

#[test]
fn the_flags_of_a_reply() {
    let q = query("web.shop.svc.cluster.local.", RecordType::A);
    let (verdict, r, _) = reply_to(&index(), &q, Transport::Udp);
    assert_eq!(verdict, Verdict::Reply(Rcode::NoError));
    let m = r.metadata;
    assert!(m.authoritative && m.recursion_desired && m.recursion_available && !m.truncation);
    assert!(r.edns.is_none());
}

#[test]
fn edns() {
    let mut q = query("web.shop.svc.cluster.local.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(4096).set_dnssec_ok(true);
    q.set_edns(edns.clone());
    let (_, r, _) = reply_to(&index(), &q, Transport::Udp);
    let got = r.edns.expect("EDNS is answered with EDNS");
    assert_eq!((got.max_payload(), got.version(), got.flags().dnssec_ok), (1232, 0, true));
    edns.set_version(1);
    q.set_edns(edns);
    let (_, r, _) = reply_to(&index(), &q, Transport::Udp);
    // 16 is BADVERS and BADSIG.
    assert_eq!(u16::from(r.metadata.response_code), 16);
    assert_eq!(r.edns.expect("EDNS").version(), 0);
}

/// A headless Service of `n` endpoints.
fn large(n: u8) -> DnsIndex {
    large_named(n, "s")
}

fn large_named(n: u8, host: &str) -> DnsIndex {
    let name = |i| format!("{host}-{i}");
    let endpoints = (0..n).map(|i| endpoint(&format!("10.244.1.{i}"), &name(i), true));
    let s = snapshot(
        vec![service("shop/large", ServiceKind::Headless, &[], &[])],
        vec![slice("shop/large-1", "large", &[("peer", TCP, 7000)], endpoints.collect())],
    );
    DnsIndex::build(&s, &zone(), None)
}

#[test]
fn replies_fit_what_the_client_takes() {
    let index = large(200);
    let mut q = query("large.shop.svc.cluster.local.", RecordType::A);
    for (payload, limit) in [(None, 512), (Some(100), 512), (Some(700), 700), (Some(9000), 1232)] {
        if let Some(p) = payload {
            // hickory refuses to send less than 512 itself.
            let mut edns = Edns::new();
            edns.set_max_payload(p);
            q.set_edns(edns);
        }
        let (_, r, len) = reply_to(&index, &q, Transport::Udp);
        assert!(len <= limit && len + 16 > limit, "{payload:?}: {len} of {limit}");
        assert!(r.metadata.truncation);
        assert_eq!(r.edns.is_some(), payload.is_some());
    }
    let (_, r, _) = reply_to(&index, &q, Transport::Tcp);
    assert!(!r.metadata.truncation);
    assert_eq!(r.answers.len(), 200);
    // Additional records that do not fit are left out without a word.
    let mut q = query("_peer._tcp.large.shop.svc.cluster.local.", RecordType::SRV);
    let (_, r, _) = reply_to(&large(8), &q, Transport::Udp);
    assert!(!r.metadata.truncation && r.answers.len() == 8 && r.additionals.len() < 8);
    // Over TCP a reply grows past what a compression pointer reaches: additional records that
    // belong to names beyond are left out, the answer is whole.
    q.metadata.id = 3;
    let (_, r, len) = reply_to(&large_named(250, &"s".repeat(59)), &q, Transport::Tcp);
    assert!(!r.metadata.truncation && len > 0x4000, "{len}");
    assert_eq!(r.answers.len(), 250);
    assert!((100..250).contains(&r.additionals.len()), "{}", r.additionals.len());
}

#[test]
fn clients_that_take_the_first_address_spread() {
    let index = large(10);
    let mut q = query("large.shop.svc.cluster.local.", RecordType::A);
    let mut first = std::collections::BTreeSet::new();
    for id in 0..10 {
        q.metadata.id = id;
        let (_, r, _) = reply_to(&index, &q, Transport::Udp);
        assert_eq!(r.answers.len(), 10);
        first.insert(show(&r.answers[0]));
    }
    assert_eq!(first.len(), 10);
}

#[test]
fn before_the_first_snapshot() {
    for name in ["web.shop.svc.cluster.local.", "example.com."] {
        let q = query(name, RecordType::A).to_vec().expect("encodes");
        let mut out = Vec::new();
        let verdict = answer(None, &q, Transport::Udp, &mut out);
        assert_eq!(verdict, Verdict::Reply(Rcode::ServFail));
        let r = Hickory::from_vec(&out).expect("a reply");
        assert_eq!(r.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(r.queries.len(), 1);
    }
}

fn raw(query: &[u8]) -> (Verdict, Vec<u8>) {
    let mut out = Vec::new();
    (answer(Some(&index()), query, Transport::Udp, &mut out), out)
}

#[test]
fn queries_that_are_none() {
    let good = query("web.shop.svc.cluster.local.", RecordType::A);
    let bytes = good.to_vec().expect("encodes");
    assert_eq!(raw(&[]).0, Verdict::Ignore);
    assert_eq!(raw(&bytes[..11]).0, Verdict::Ignore);
    // A reply, and a reply to it would be replied to …
    let mut reply = bytes.clone();
    reply[2] |= 0x80;
    assert_eq!(raw(&reply), (Verdict::Ignore, vec![]));
    for len in 12..bytes.len() {
        assert_eq!(raw(&bytes[..len]).0, Verdict::Reply(Rcode::FormErr), "{len}");
    }
    // Two questions; none; a name with a pointer to itself; a label type that is not defined.
    for (at, value) in [(5, 2), (5, 0), (12, 0xC0), (12, 0x40)] {
        let mut bad = bytes.clone();
        bad[at] = value;
        let (verdict, out) = raw(&bad);
        assert_eq!(verdict, Verdict::Reply(Rcode::FormErr));
        assert_eq!(out.len(), 12);
    }
    // A promised record that is not there.
    let mut bad = bytes.clone();
    bad[11] = 1;
    assert_eq!(raw(&bad).0, Verdict::Reply(Rcode::FormErr));
    // Bytes after the message are not ours to judge.
    let mut tail = bytes.clone();
    tail.extend_from_slice(b"tail");
    assert_eq!(raw(&tail).0, Verdict::Reply(Rcode::NoError));
    for op in [OpCode::Notify, OpCode::Update, OpCode::Status] {
        let mut q = good.clone();
        q.metadata.op_code = op;
        let (verdict, out) = raw(&q.to_vec().expect("encodes"));
        assert_eq!(verdict, Verdict::Reply(Rcode::NotImp));
        assert_eq!(Hickory::from_vec(&out).expect("a reply").metadata.op_code, op);
    }
    for rtype in [RecordType::AXFR, RecordType::IXFR] {
        let q = query("cluster.local.", rtype).to_vec().expect("encodes");
        assert_eq!(raw(&q).0, Verdict::Reply(Rcode::Refused));
    }
    // Class CHAOS.
    let mut chaos = bytes.clone();
    let last = chaos.len() - 1;
    chaos[last] = 3;
    assert_eq!(raw(&chaos).0, Verdict::Reply(Rcode::Refused));
    // Two OPT records.
    let mut edns = good.clone();
    edns.set_edns(Edns::new());
    let mut edns = edns.to_vec().expect("encodes");
    let opt = edns[bytes.len()..].to_vec();
    edns.extend_from_slice(&opt);
    edns[11] = 2;
    assert_eq!(raw(&edns).0, Verdict::Reply(Rcode::FormErr));
}

#[test]
fn any_is_answered_with_little() {
    for name in ["web.shop.svc.cluster.local.", "cluster.local.", "shop.svc.cluster.local."] {
        let (_, r, len) = reply_to(&index(), &query(name, RecordType::ANY), Transport::Udp);
        assert_eq!(r.answers.len(), 1, "{name}");
        assert_eq!(r.answers[0].record_type(), RecordType::HINFO);
        assert!(len < 100);
    }
    check_missing("nowhere.cluster.local. ANY");
}

/// Names that come close to those of the cluster.
fn near_name() -> impl Strategy<Value = String> {
    let label = prop::sample::select(vec![
        "web",
        "store",
        "store-0",
        "anon",
        "10-244-1-6",
        "ext",
        "local",
        "down",
        "shop",
        "svc",
        "pod",
        "_tcp",
        "_peer",
        "_http",
        "cluster",
        "dns",
        "dns-version",
        "5",
        "1",
        "244",
        "10",
        "in-addr",
        "arpa",
        "x",
    ]);
    let tail = prop::sample::select(vec![
        "cluster.local.",
        "svc.cluster.local.",
        "shop.svc.cluster.local.",
        "in-addr.arpa.",
        "244.10.in-addr.arpa.",
        "",
    ]);
    (prop::collection::vec(label, 0..5), tail).prop_map(|(labels, tail)| {
        let name: String = labels.iter().map(|l| format!("{l}.")).collect();
        if name.is_empty() && tail.is_empty() { ".".to_owned() } else { name + tail }
    })
}

fn near_query() -> impl Strategy<Value = Hickory> {
    let rtype = prop::sample::select(vec![
        RecordType::A,
        RecordType::AAAA,
        RecordType::SRV,
        RecordType::PTR,
        RecordType::CNAME,
        RecordType::TXT,
        RecordType::SOA,
        RecordType::NS,
        RecordType::ANY,
        RecordType::MX,
    ]);
    (near_name(), rtype, any::<u16>(), prop::option::of(any::<u16>())).prop_map(
        |(name, rtype, id, payload)| {
            let mut q = query(&name, rtype);
            q.metadata.id = id;
            if let Some(p) = payload {
                let mut edns = Edns::new();
                edns.set_max_payload(p);
                q.set_edns(edns);
            }
            q
        },
    )
}

/// What holds for every reply to any bytes.
fn well_formed(bytes: &[u8], transport: Transport) -> Result<(), TestCaseError> {
    thread_local!(static INDEX: DnsIndex = index());
    let mut out = Vec::new();
    let verdict = INDEX.with(|i| answer(Some(i), bytes, transport, &mut out));
    if verdict == Verdict::Ignore {
        prop_assert!(out.is_empty());
        return Ok(());
    }
    prop_assert_eq!(&out[..2], &bytes[..2]);
    prop_assert!(out[2] & 0x80 != 0, "not marked as a reply");
    let limit = if transport == Transport::Udp { 1232 } else { 65_535 };
    prop_assert!(out.len() <= limit);
    let read = Hickory::from_vec(&out);
    prop_assert!(read.is_ok(), "{:?}: {:?}", read, out);
    let read = read.expect("checked");
    // NXDOMAIN and empty answers carry the SOA, so that resolvers know how long to remember.
    let negative = read.metadata.response_code == ResponseCode::NXDomain
        || (read.metadata.response_code == ResponseCode::NoError && read.answers.is_empty());
    let soas = read.authorities.iter().filter(|r| r.record_type() == RecordType::SOA).count();
    prop_assert!(!negative || soas == 1, "{:?}", read);
    Ok(())
}

proptest! {
    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        well_formed(&bytes, Transport::Udp)?;
    }

    #[test]
    fn damaged_queries(
        q in near_query(),
        cut in prop::option::of(0..80usize),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = q.to_vec().expect("encodes");
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut);
        }
        well_formed(&bytes, Transport::Udp)?;
        well_formed(&bytes, Transport::Tcp)?;
    }

    /// NXDOMAIN means that nothing is below either (RFC 8020).
    #[test]
    fn nothing_is_below_a_name_that_does_not_exist(name in near_name(), q in near_query()) {
        let index = index();
        let child = q.queries[0].name().clone();
        let Ok(parent) = HickoryName::from_ascii(&name) else { return Ok(()) };
        if !parent.zone_of(&child) {
            return Ok(());
        }
        let (_, above, _) = reply_to(&index, &query(&name, RecordType::A), Transport::Tcp);
        let (_, below, _) = reply_to(&index, &q, Transport::Tcp);
        if above.metadata.response_code == ResponseCode::NXDomain && above.answers.is_empty() {
            prop_assert_ne!(below.metadata.response_code, ResponseCode::NoError);
        }
    }

    /// Taking over from an earlier index changes nothing.
    #[test]
    fn an_index_does_not_depend_on_the_one_before(
        first in prop::collection::vec(any::<bool>(), 15),
        second in prop::collection::vec(any::<bool>(), 15),
        ready in any::<bool>(),
    ) {
        let part = |keep: &[bool]| {
            let mut s = cluster();
            let names: Vec<NamespacedName> = s.services.keys().cloned().collect();
            for (id, keep) in names.iter().zip(keep) {
                if !keep {
                    s.services.remove(id);
                }
            }
            s
        };
        let before = part(&first);
        let mut after = before.clone();
        after.services.retain(|id, _| part(&second).services.contains_key(id));
        for of in after.slices.values_mut() {
            for slice in of.values_mut() {
                if ready {
                    let mut changed = EndpointSlice::clone(slice);
                    changed.endpoints.iter_mut().for_each(|e| e.ready = !e.ready);
                    *slice = Arc::new(changed);
                }
            }
        }
        let zone = zone();
        let previous = DnsIndex::build(&before, &zone, None);
        let taken_over = DnsIndex::build(&after, &zone, Some(&previous));
        prop_assert!(taken_over == DnsIndex::build(&after, &zone, None));
    }
}
