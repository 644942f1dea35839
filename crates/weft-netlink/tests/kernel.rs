//! Against the real kernel, in namespaces of the tests' own.
#![allow(unsafe_code, reason = "the standard library makes no raw sockets")]

use ipnet::IpNet;
use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};
use weft_netlink::{
    Encap, FdbEntry, LinkChange, Mac, Neighbour, Netlink, PROTOCOL, Route, RouteKind, VethSpec,
    VxlanSpec, netfilter, netns, sysctl,
};

#[path = "kernel/entrances.rs"]
mod entrances;
#[path = "kernel/mark.rs"]
mod mark;
#[path = "kernel/sctp.rs"]
mod sctp;
#[path = "kernel/sock_diag.rs"]
mod sock_diag;

/// A namespace that goes away with the test, whatever happens.
struct Namespace {
    name: String,
    path: PathBuf,
}

impl Namespace {
    fn new(role: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("wefttest-nl-{}-{n}-{role}", std::process::id());
        let path = netns::create_named(&name).expect("namespace");
        Self { name, path }
    }

    fn netlink(&self) -> Netlink {
        Netlink::open_in(&self.path).expect("netlink")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        netns::delete_named(&self.name).expect("delete namespace");
    }
}

fn is_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("SKIP {test}: needs root");
    }
    root
}

fn net(s: &str) -> IpNet {
    s.parse().expect("prefix")
}

fn ip(s: &str) -> IpAddr {
    s.parse().expect("address")
}

#[test]
fn namespaces_come_and_go_and_the_caller_stays() {
    if !is_root("namespaces_come_and_go_and_the_caller_stays") {
        return;
    }
    let here = std::fs::read_link("/proc/thread-self/ns/net").expect("own namespace");
    let ns = Namespace::new("a");
    assert!(netns::is_netns(&ns.path));
    assert_eq!(netns::create_named(&ns.name).expect("adopted"), ns.path);
    let there = netns::run_in(&ns.path, || std::fs::read_link("/proc/thread-self/ns/net"))
        .expect("entered")
        .expect("link");
    assert_ne!(here, there);
    assert_eq!(here, std::fs::read_link("/proc/thread-self/ns/net").expect("own namespace"));
    assert_eq!(netns::list(&ns.name).expect("list"), vec![ns.name.clone()]);
    // The sysctl is the namespace's own.
    sysctl::write_in(&ns.path, &[("net/ipv4/ip_forward", "1")]).expect("sysctl");
    let read = || sysctl::read("net/ipv4/ip_forward");
    assert_eq!(netns::run_in(&ns.path, read).expect("entered").as_deref(), Some("1"));
    let (name, path) = (ns.name.clone(), ns.path.clone());
    drop(ns);
    assert!(!path.exists());
    netns::delete_named(&name).expect("deleting what is gone succeeds");
}

#[test]
fn veth_pairs_are_made_across_namespaces_and_adopted() {
    if !is_root("veth_pairs_are_made_across_namespaces_and_adopted") {
        return;
    }
    let (a, b) = (Namespace::new("a"), Namespace::new("b"));
    let (na, nb) = (a.netlink(), b.netlink());
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    let spec = VethSpec {
        name: "wv0",
        peer_name: "eth0",
        peer_netns: Some(&b.path),
        mtu: Some(1400),
        mac: Some(mac),
        peer_mac: Some(Mac([2, 0, 0, 0, 0, 2])),
    };
    na.create_veth(&spec).expect("created");
    na.create_veth(&spec).expect("adopted");
    let near = na.link("wv0").expect("get").expect("there");
    assert_eq!((near.mac, near.mtu, near.up), (Some(mac), 1400, false));
    assert_eq!(near.kind.as_deref(), Some("veth"));
    assert_eq!(nb.link("eth0").expect("get").expect("there").mtu, 1400);
    assert!(na.link("eth0").expect("get").is_none());
    let other = VethSpec { peer_name: "eth1", ..spec };
    assert!(na.create_veth(&other).is_err(), "a pair with another peer is not adopted");

    na.add_address("wv0", net("10.9.0.1/24")).expect("address");
    nb.add_address("eth0", net("10.9.0.2/24")).expect("address");
    na.add_address("wv0", net("fd09::1/64")).expect("address");
    na.add_address("wv0", net("fd09::1/64")).expect("again");
    na.set_up("wv0").expect("up");
    nb.set_up("eth0").expect("up");
    let listed = na.addresses().expect("list");
    assert!(listed.iter().any(|a| a.net == net("fd09::1/64") && a.permanent && !a.owned));
    netns::run_in(&b.path, || {
        let s = UdpSocket::bind("10.9.0.2:0").expect("bind");
        s.send_to(b"x", "10.9.0.1:9").expect("send");
    })
    .expect("entered");
    na.delete_address("wv0", net("10.9.0.1/24")).expect("delete");
    na.delete_address("wv0", net("10.9.0.1/24")).expect("again");
    na.delete_link("wv0").expect("delete");
    na.delete_link("wv0").expect("again");
    assert!(nb.link("eth0").expect("get").is_none(), "the peer went with it");
}

#[test]
fn what_is_set_is_what_is_dumped() {
    if !is_root("what_is_set_is_what_is_dumped") {
        return;
    }
    let a = Namespace::new("a");
    let nl = a.netlink();
    nl.set_up("lo").expect("lo");
    nl.create_bridge("br0").expect("bridge");
    nl.create_bridge("br0").expect("adopted");
    nl.create_veth(&VethSpec { name: "p0", peer_name: "p1", ..VethSpec::default() }).expect("veth");
    nl.set_controller("p0", "br0").expect("port");
    let bridge = nl.index_of("br0").expect("index");
    assert_eq!(nl.link("p0").expect("get").expect("there").controller_index, Some(bridge));

    let mac = Mac([2, 1, 1, 1, 1, 1]);
    let vxlan = VxlanSpec { name: "weft0", port: 4789, mtu: 1450, mac };
    nl.create_vxlan(&vxlan).expect("vxlan");
    nl.create_vxlan(&VxlanSpec { mtu: 1430, ..vxlan }).expect("adopted");
    assert!(nl.create_vxlan(&VxlanSpec { port: 1, mtu: 1430, ..vxlan }).is_err());
    let link = nl.link("weft0").expect("get").expect("there");
    let info = link.vxlan.clone().expect("vxlan");
    assert_eq!((link.mtu, info.external, info.learning, info.port), (1430, true, false, 4789));
    let up = LinkChange { up: Some(true), no_link_local: true, ..LinkChange::default() };
    nl.set_link("weft0", &up).expect("up");
    nl.add_owned_address("lo", net("10.8.0.1/32")).expect("address");
    nl.add_owned_address("lo", net("fd08::1/128")).expect("address");
    assert_eq!(nl.addresses().expect("list").iter().filter(|a| a.owned).count(), 2);

    let mut wanted = Vec::new();
    for (dst, gateway, src, remote) in [
        ("10.8.1.0/24", "10.8.1.1", "10.8.0.1", "172.30.1.9"),
        ("10.8.2.0/24", "10.8.2.1", "10.8.0.1", "fd00:30:1::9"),
        ("fd08:1::/64", "fd08:1::1", "fd08::1", "172.30.1.9"),
        ("fd08:2::/64", "fd08:2::1", "fd08::1", "fd00:30:1::9"),
    ] {
        let mut r = Route::to(net(dst));
        r.gateway = Some(ip(gateway));
        r.oif = Some(link.index);
        r.onlink = true;
        r.prefsrc = Some(ip(src));
        r.mtu = Some(1400);
        r.metric = Some(50);
        r.encap = Some(Encap { id: 1, remote: ip(remote) });
        wanted.push(r);
    }
    for dst in ["10.8.0.0/24", "fd08::/64"] {
        let mut r = Route::to(net(dst));
        r.kind = RouteKind::Unreachable;
        r.metric = Some(4000);
        wanted.push(r);
    }
    for _ in 0..2 {
        wanted.iter().for_each(|r| nl.replace_route(r).expect("route"));
    }
    let mut got = nl.routes().expect("list");
    got.retain(|r| r.protocol == PROTOCOL);
    assert_eq!(got.len(), wanted.len(), "{got:#?}");
    for r in &wanted {
        assert!(got.contains(r), "{r:#?} is not in {got:#?}");
    }
    // Destination, kind and metric are enough to find a route, whatever its next hop.
    for r in wanted.iter().chain(&wanted) {
        let bare = Route { kind: r.kind, metric: r.metric, ..Route::to(r.dst) };
        nl.delete_route(&bare).expect("delete");
    }
    assert!(!nl.routes().expect("list").iter().any(|r| r.protocol == PROTOCOL));

    let index = link.index;
    for address in ["10.8.1.1", "fd08:1::1"] {
        let n = Neighbour { index, ip: ip(address), mac };
        nl.replace_neighbour(&n).expect("neighbour");
        nl.replace_neighbour(&n).expect("again");
        assert!(nl.neighbours().expect("list").contains(&n));
        nl.delete_neighbour(index, n.ip).expect("delete");
        nl.delete_neighbour(index, n.ip).expect("again");
    }
    let e = FdbEntry { index, mac, remote: ip("172.30.1.9") };
    nl.add_fdb(&e).expect("entry");
    nl.add_fdb(&e).expect("again");
    assert_eq!(nl.fdb(index).expect("list"), vec![e.clone()]);
    nl.delete_fdb(&e).expect("delete");
    nl.delete_fdb(&e).expect("again");
}

/// Both namespaces have default routes; nobody answers on the node's uplink.
#[test]
fn services_without_translation_are_refused_at_once() {
    if !is_root("services_without_translation_are_refused_at_once") {
        return;
    }
    let (node, pod) = (Namespace::new("node"), Namespace::new("pod"));
    let (nn, np) = (node.netlink(), pod.netlink());
    nn.create_veth(&VethSpec {
        name: "wv0",
        peer_name: "eth0",
        peer_netns: Some(&pod.path),
        ..VethSpec::default()
    })
    .expect("veth");
    nn.create_veth(&VethSpec { name: "up0", peer_name: "up1", ..VethSpec::default() })
        .expect("uplink");
    for (link, address) in [
        ("wv0", "10.7.0.1/24"),
        ("wv0", "fd07::1/64"),
        ("up0", "10.6.0.1/24"),
        ("up0", "fd06::1/64"),
    ] {
        nn.add_address(link, net(address)).expect("address");
    }
    for link in ["lo", "wv0", "up0", "up1"] {
        nn.set_up(link).expect("up");
    }
    np.add_address("eth0", net("10.7.0.2/24")).expect("address");
    np.add_address("eth0", net("fd07::2/64")).expect("address");
    np.set_up("eth0").expect("up");
    for (nl, gateways) in [(&np, ["10.7.0.1", "fd07::1"]), (&nn, ["10.6.0.9", "fd06::9"])] {
        for gateway in gateways.map(ip) {
            let mut r = Route::to(Route::default_of(gateway));
            r.gateway = Some(gateway);
            nl.replace_route(&r).expect("default route");
        }
    }
    let lo = nn.index_of("lo").expect("lo");
    for (range, src) in [("10.96.0.0/16", "10.6.0.1"), ("fd00:10:96::/112", "fd06::1")] {
        let mut r = Route::to(net(range));
        r.kind = RouteKind::Local;
        r.oif = Some(lo);
        r.prefsrc = Some(ip(src));
        r.metric = Some(50);
        nn.replace_route(&r).expect("local route");
        assert!(nn.routes().expect("list").contains(&r));
    }
    let forward = [("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")];
    sysctl::write_in(&node.path, &forward).expect("forwarding");
    let services = vec![net("10.96.0.0/16"), net("fd00:10:96::/112")];
    let rules = netfilter::Rules { services, ..netfilter::Rules::default() };
    netfilter::replace_in(&node.path, &rules).expect("table");
    netfilter::replace_in(&node.path, &rules).expect("again");
    // What listens on all of the node's addresses must not answer for a Service.
    let listen = || [TcpListener::bind("0.0.0.0:80"), TcpListener::bind("[::]:81")];
    let _listeners = netns::run_in(&node.path, listen).expect("entered").map(|l| l.expect("bind"));

    for ns in [&pod, &node] {
        for target in ["10.96.3.4:80", "[fd00:10:96::77]:81"] {
            let target: SocketAddr = target.parse().expect("address");
            let begin = Instant::now();
            let e = netns::run_in(&ns.path, || {
                TcpStream::connect_timeout(&target, Duration::from_secs(5))
            })
            .expect("entered")
            .expect_err("no such service");
            assert_eq!(e.kind(), ErrorKind::ConnectionRefused, "{} {target}", ns.name);
            assert!(begin.elapsed() < Duration::from_secs(1));
            let e = netns::run_in(&ns.path, || {
                let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let s = UdpSocket::bind(any).expect("bind");
                s.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
                s.connect(target).expect("connect");
                s.send(b"x").and_then(|_| s.recv(&mut [0; 8]))
            })
            .expect("entered")
            .expect_err("no such service");
            assert_eq!(e.kind(), ErrorKind::ConnectionRefused, "UDP {} {target}", ns.name);
        }
    }
    netns::run_in(&node.path, || {
        assert!(netfilter::exists().expect("asked"));
        netfilter::delete().expect("deleted");
        netfilter::delete().expect("again");
        assert!(!netfilter::exists().expect("asked"));
    })
    .expect("entered");
}
