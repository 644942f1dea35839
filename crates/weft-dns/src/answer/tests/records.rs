//! What each kind of record says.

use super::*;

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
