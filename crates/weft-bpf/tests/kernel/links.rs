//! A node with pods, each in a network namespace of its own, and the programs at their links.

use crate::world::{World, chain};
use ipnet::IpNet;
use std::{
    cell::Cell,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};
use weft_bpf::{LinkAttach, OpenOptions, PodLinkSpec, PodLinks, PolicyMaps, SocketLb};
use weft_bpf_abi::LAYOUT_VERSION;
use weft_netlink::{LinkChange, Mac, Neighbour, Netlink, Route, VethSpec, netns, sysctl};
use weft_services::ServiceTables;

pub const ROUTERS: [&str; 2] = ["10.244.1.1", "fd00:1::1"];
const GATEWAYS: [&str; 2] = ["169.254.1.1", "fe80::1"];
const NODE_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const POD_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// A pod: a namespace that lives as long as a thread in it.
pub struct Pod {
    pub link: String,
    pub index: u32,
    pub ips: [IpAddr; 2],
    netns: PathBuf,
    _alive: mpsc::Sender<()>,
}

impl Pod {
    /// Runs `f` inside; sockets that it opens stay inside.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        netns::run_in(&self.netns, f).expect("enter the pod")
    }

    pub fn cookie(&self) -> u64 {
        self.run(|| weft_netlink::sock_diag::netns_cookie().expect("cookie"))
    }
}

/// The node of one run: the load balancer, and the programs attached in one way.
pub struct Node {
    lb: Option<SocketLb>,
    pub netlink: Netlink,
    pub options: OpenOptions,
    made: Cell<u32>,
}

/// Plays `scenario` with each way to attach that this kernel has.
pub fn each_way(world: &World, scenario: impl Fn(&mut Node)) {
    sysctl::write("net/ipv4/conf/all/forwarding", "1").expect("forwarding");
    sysctl::write("net/ipv6/conf/all/forwarding", "1").expect("forwarding");
    // So that refusals are not limited, which is about a node's own protection.
    sysctl::write("net/ipv4/icmp_ratelimit", "0").expect("rate");
    sysctl::write("net/ipv6/icmp/ratelimit", "0").expect("rate");
    let netlink = Netlink::open().expect("netlink");
    for router in ROUTERS {
        netlink.add_address("lo", IpNet::from(ip(router))).expect("router address");
    }
    for way in [LinkAttach::Tcx, LinkAttach::Clsact] {
        let mut options = world.options();
        options.bpf_dir = world.bpf_dir.with_file_name(format!("node-{way:?}"));
        options.link_attach = Some(way);
        if way == LinkAttach::Tcx && !has_tcx() {
            println!("SKIP tcx: this kernel has none");
            continue;
        }
        println!("{way:?}");
        let lb = SocketLb::open(options.clone()).unwrap_or_else(|e| panic!("{}", chain(&e)));
        lb.pod_links().unwrap().configure(&services(), &ROUTERS.map(ip)).unwrap();
        let netlink = Netlink::open().expect("netlink");
        let mut node = Node { lb: Some(lb), netlink, options, made: Cell::new(0) };
        scenario(&mut node);
        node.clean_up();
    }
}

fn services() -> [IpNet; 2] {
    ["10.96.0.0/16", "fd00:10:96::/112"].map(|s| s.parse().expect("range"))
}

fn has_tcx() -> bool {
    let is_tcx = |f: &weft_bpf::Feature| f.name == "tcx";
    weft_bpf::probe().iter().find(|f| is_tcx(f)).expect("probed").ok
}

impl Node {
    pub fn links(&self) -> &PodLinks {
        self.lb.as_ref().expect("open").pod_links().expect("programs")
    }

    pub fn policy(&self) -> &PolicyMaps {
        self.lb.as_ref().expect("open").policy().expect("programs")
    }

    /// The number of the next link.
    pub fn number(&self) -> u32 {
        let n = self.made.get();
        self.made.set(n + 1);
        n
    }

    pub fn apply(&mut self, tables: &ServiceTables) {
        self.lb.as_mut().expect("open").apply(tables).expect("apply");
    }

    /// A pod whose sockets the hooks translate.
    pub fn pod(&self) -> Pod {
        self.pod_with(false, 1500)
    }

    /// A pod whose sockets the hooks leave alone.
    pub fn opted_out(&self) -> Pod {
        self.pod_with(true, 1500)
    }

    pub fn pod_with(&self, opted_out: bool, mtu: u32) -> Pod {
        let n = self.number();
        let (alive, end) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("namespace");
            tell.send(nix::unistd::gettid()).expect("tell");
            let _ = end.recv();
        });
        let thread = told.recv().expect("namespace");
        let netns = PathBuf::from(format!("/proc/{}/task/{thread}/ns/net", std::process::id()));
        let link = format!("wv{n}");
        let ips = [ip(&format!("10.244.1.{}", 10 + n)), ip(&format!("fd00:1::{}", 10 + n))];
        let spec = VethSpec {
            name: &link,
            peer_name: "eth0",
            peer_netns: Some(&netns),
            mtu: Some(mtu),
            mac: Some(NODE_MAC),
            peer_mac: Some(POD_MAC),
        };
        self.netlink.create_veth(&spec).expect("link");
        for key in ["accept_dad", "disable_ipv6"] {
            sysctl::write(&format!("net/ipv6/conf/{link}/{key}"), "0").expect("sysctl");
        }
        let up = LinkChange { up: Some(true), no_link_local: true, ..LinkChange::default() };
        self.netlink.set_link(&link, &up).expect("up");
        let index = self.netlink.index_of(&link).expect("index");
        for ip in ips {
            let neighbour = Neighbour { index, ip, mac: POD_MAC };
            self.netlink.replace_neighbour(&neighbour).expect("neighbour");
            let route = Route { oif: Some(index), ..Route::to(IpNet::from(ip)) };
            self.netlink.replace_route(&route).expect("route");
        }
        let pod = Pod { link, index, ips, netns, _alive: alive };
        pod.run(|| inside(&ips));
        let spec = PodLinkSpec {
            name: &pod.link,
            index,
            ips: &ips,
            netns_cookie: Some(pod.cookie()),
            opted_out,
        };
        let attached = self.links().attach(&self.netlink, &spec);
        assert!(attached.unwrap_or_else(|e| panic!("attach: {}", chain(&e))));
        pod
    }

    /// What a new agent of this node finds.
    pub fn restart(&mut self) {
        // It holds the lock.
        drop(self.lb.take());
        self.lb = Some(SocketLb::open(self.options.clone()).expect("open again"));
    }

    /// What a new agent finds that is of another version.
    pub fn upgrade(&mut self) {
        drop(self.lb.take());
        let layout = self.options.bpf_dir.join(format!("v{LAYOUT_VERSION}"));
        fs::rename(layout, self.options.bpf_dir.join("v2")).expect("rename");
        let lb = SocketLb::open(self.options.clone()).expect("open");
        lb.pod_links().expect("programs").configure(&services(), &ROUTERS.map(ip)).unwrap();
        self.lb = Some(lb);
    }

    /// Goes on with other options, under other pins.
    pub fn replace(&mut self, options: OpenOptions) {
        self.lb.take().expect("open").close_and_unpin().expect("close");
        self.lb = Some(SocketLb::open(options.clone()).expect("open"));
        self.options = options;
    }

    /// As the check for drift does.
    pub fn repair(&self, pod: &Pod) -> bool {
        let spec = PodLinkSpec {
            name: &pod.link,
            index: pod.index,
            ips: &pod.ips,
            netns_cookie: None,
            opted_out: false,
        };
        self.links().attach(&self.netlink, &spec).expect("attach")
    }

    fn clean_up(self) {
        for n in 0..self.made.get() {
            self.netlink.delete_link(&format!("wv{n}")).expect("delete");
        }
        self.links().sweep(&self.netlink).expect("sweep");
        assert_eq!(self.links().count().expect("count"), (0, 0), "links are known for ever");
        assert_eq!(pins(&self.options.bpf_dir), 0, "pins of links stay");
        let dir = self.options.bpf_dir.clone();
        self.lb.expect("open").close_and_unpin().expect("close");
        assert!(!dir.exists());
    }
}

/// Pins of programs at links.
pub fn pins(bpf_dir: &Path) -> usize {
    fs::read_dir(bpf_dir.join(format!("v{LAYOUT_VERSION}/pods"))).map_or(0, Iterator::count)
}

fn inside(ips: &[IpAddr; 2]) {
    for key in ["all/accept_dad", "eth0/accept_dad"] {
        sysctl::write(&format!("net/ipv6/conf/{key}"), "0").expect("sysctl");
    }
    sysctl::write("net/ipv4/icmp_ratelimit", "0").expect("rate");
    sysctl::write("net/ipv6/icmp/ratelimit", "0").expect("rate");
    let netlink = Netlink::open().expect("netlink");
    netlink.set_up("lo").expect("lo up");
    netlink.set_up("eth0").expect("up");
    let index = netlink.index_of("eth0").expect("index");
    for (own, gateway) in ips.iter().zip(GATEWAYS) {
        netlink.add_address("eth0", IpNet::from(*own)).expect("address");
        let neighbour = Neighbour { index, ip: ip(gateway), mac: NODE_MAC };
        netlink.replace_neighbour(&neighbour).expect("neighbour");
        let route = Route {
            gateway: Some(ip(gateway)),
            oif: Some(index),
            onlink: true,
            ..Route::to(Route::default_of(ip(gateway)))
        };
        netlink.replace_route(&route).expect("route");
    }
}
