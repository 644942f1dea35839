//! The pod network without an API: snapshots are fed by hand, packets are real.
//!
//! Two zones with a bridge each in an underlay namespace that routes between them; n1 and n2
//! in the first zone, n3 in the second; two pods a node.

use ipnet::IpNet;
use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use weft_agent::{
    FabricStage, Network, Outcome, cleanup,
    cni::{self, Attach, CniService},
    host_port::HostPorts,
    policy::Subject,
    state::State,
};
use weft_cni::{AddResult, Attachment};
use weft_model::{IpFamily, Node, Snapshot};
use weft_netlink::{Netlink, PROTOCOL, Route, VethSpec, netfilter, netns, sysctl};

const PORT: u16 = 8080;
/// More than a segment, so that a wrong MTU shows.
const PAYLOAD_LEN: usize = 200_000;

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

/// A namespace that goes away with the test.
struct Namespace {
    name: String,
    path: PathBuf,
}

impl Namespace {
    fn new(role: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("wefttest-ag-{}-{n}-{role}", std::process::id());
        let path = netns::create_named(&name).expect("namespace");
        Netlink::open_in(&path).expect("netlink").set_up("lo").expect("lo");
        Self { name, path }
    }

    fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        netns::run_in(&self.path, f).expect("entered")
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

struct Pod {
    ns: Namespace,
    node: usize,
    key: weft_fabric::ipam::Key,
    result: AddResult,
}

struct TestNode {
    ns: Namespace,
    model: Arc<Node>,
    state: Arc<State>,
    stage: FabricStage,
    cni: CniService,
    dir: tempfile::TempDir,
}

impl TestNode {
    fn new(ns: Namespace, model: Node, network: Network) -> Self {
        let dir = tempfile::tempdir().expect("folder");
        let (state, stage, cni) = Self::start(&ns, &model, network, dir.path());
        Self { ns, model: Arc::new(model), state, stage, cni, dir }
    }

    /// What an agent makes when it starts.
    fn start(
        ns: &Namespace,
        model: &Node,
        network: Network,
        dir: &Path,
    ) -> (Arc<State>, FabricStage, CniService) {
        let state = Arc::new(State::new(model.name.to_string(), "test"));
        let stage = FabricStage {
            state: state.clone(),
            node: model.name.clone(),
            network,
            service_cidrs: weft_kube::ranges::fixed(vec![
                net("10.96.0.0/16"),
                net("fd00:10:96::/112"),
            ]),
            netlink: ns.netlink(),
            table: Arc::default(),
            applied: None,
        };
        let cni = {
            let path = dir.join("host-ports.json");
            let ports = HostPorts::open(path, state.host_ports.clone()).expect("host ports");
            CniService::open(ns.netlink(), &dir.join("ipam.journal"), ports).expect("journal")
        };
        (state, stage, cni)
    }

    fn restart(&mut self, network: Network) {
        (self.state, self.stage, self.cni) =
            Self::start(&self.ns, &self.model, network, self.dir.path());
    }

    fn apply(&mut self, snapshot: &Snapshot) {
        let stage = &mut self.stage;
        let outcome = netns::run_in(&self.ns.path, || stage.step(snapshot)).expect("entered");
        let status = self.state.status(1, serde_json::Value::Null, 0);
        assert!(matches!(outcome, Outcome::Applied), "{status:#}");
    }

    fn add(&self, key: &weft_fabric::ipam::Key, netns: &Path) -> AddResult {
        let fabric = self.state.fabric.borrow().clone().expect("applied");
        let netns = netns.to_str().expect("UTF-8");
        let attach = Attach { key, netns, host_ports: &[], subject: &Subject::NOBODY };
        self.ns.enter(|| self.cni.add(&fabric, &attach)).expect("added").result
    }

    fn own_routes(&self) -> usize {
        let routes = self.ns.netlink().routes().expect("routes");
        routes.iter().filter(|r| r.protocol == PROTOCOL).count()
    }
}

struct Cluster {
    underlay: Namespace,
    nodes: Vec<TestNode>,
    pods: Vec<Pod>,
    network: Network,
}

/// Families: of the pods, and of the underlay.
#[derive(Clone, Copy)]
struct Families {
    pods: &'static [IpFamily],
    underlay: &'static [IpFamily],
}

const V4: &[IpFamily] = &[IpFamily::V4];
const V6: &[IpFamily] = &[IpFamily::V6];
const DUAL: &[IpFamily] = &[IpFamily::V4, IpFamily::V6];

/// Zone and host part of the three nodes.
const PLACES: [(u8, u8); 3] = [(1, 10), (1, 11), (2, 10)];

fn underlay_net(family: IpFamily, zone: u8, host: u8) -> IpNet {
    match family {
        IpFamily::V4 => net(&format!("172.30.{zone}.{host}/24")),
        IpFamily::V6 => net(&format!("fd00:30:{zone}::{host}/64")),
    }
}

fn pod_cidr(family: IpFamily, node: usize) -> IpNet {
    match family {
        IpFamily::V4 => net(&format!("10.244.{}.0/24", node + 1)),
        IpFamily::V6 => net(&format!("fd00:10:244:{}::/64", node + 1)),
    }
}

impl Cluster {
    fn new(network: Network, families: Families) -> Self {
        let underlay = Namespace::new("underlay");
        let router = underlay.netlink();
        underlay.enter(|| {
            for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
                sysctl::write(key, "1").expect("forwarding");
            }
            for key in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
                let key = format!("net/bridge/{key}");
                if sysctl::read(&key).is_some() {
                    sysctl::write(&key, "0").expect("bridge");
                }
            }
        });
        for zone in [1, 2] {
            let bridge = format!("zone{zone}");
            router.create_bridge(&bridge).expect("bridge");
            for family in families.underlay {
                router.add_address(&bridge, underlay_net(*family, zone, 1)).expect("address");
            }
            router.set_up(&bridge).expect("up");
        }
        let mut nodes = Vec::new();
        for (i, (zone, host)) in PLACES.into_iter().enumerate() {
            let ns = Namespace::new(&format!("n{}", i + 1));
            let (nl, port) = (ns.netlink(), format!("n{}", i + 1));
            router
                .create_veth(&VethSpec {
                    name: &port,
                    peer_name: "eth0",
                    peer_netns: Some(&ns.path),
                    ..VethSpec::default()
                })
                .expect("uplink");
            router.set_controller(&port, &format!("zone{zone}")).expect("port");
            router.set_up(&port).expect("up");
            nl.set_up("eth0").expect("up");
            for family in families.underlay {
                nl.add_address("eth0", underlay_net(*family, zone, host)).expect("address");
                let gateway = underlay_net(*family, zone, 1).addr();
                let mut default = Route::to(Route::default_of(gateway));
                (default.gateway, default.protocol) = (Some(gateway), 4);
                nl.replace_route(&default).expect("default route");
            }
            let address = |f: &IpFamily| underlay_net(*f, zone, host).addr();
            let model = Node {
                name: format!("n{}", i + 1).parse().expect("name"),
                internal_ips: families.underlay.iter().map(address).collect(),
                pod_cidrs: families.pods.iter().map(|f| pod_cidr(*f, i)).collect(),
                zone: None,
                ready: true,
                eligible: true,
            };
            // Native routing between zones needs the underlay's router to know the way.
            if network == Network::Native {
                for family in families.pods {
                    let mut r = Route::to(pod_cidr(*family, i));
                    (r.gateway, r.protocol) = (Some(address(family)), 4);
                    router.replace_route(&r).expect("route");
                }
            }
            nodes.push(TestNode::new(ns, model, network));
        }
        Self { underlay, nodes, pods: Vec::new(), network }
    }

    fn snapshot(&self, without: Option<&str>) -> Snapshot {
        let nodes = self.nodes.iter().map(|n| (n.model.name.clone(), n.model.clone()));
        let nodes = nodes.filter(|(name, _)| Some(name.as_str()) != without).collect();
        Snapshot { generation: 1, nodes, ..Snapshot::default() }
    }

    fn apply(&mut self) {
        let snapshot = self.snapshot(None);
        self.nodes.iter_mut().for_each(|n| n.apply(&snapshot));
    }

    fn add_pods(&mut self, per_node: usize) {
        for node in 0..self.nodes.len() {
            for i in 0..per_node {
                let ns = Namespace::new(&format!("p{node}{i}"));
                let key = cni::key(&format!("{}-{i}", ns.name), "eth0").expect("key");
                let result = self.nodes[node].add(&key, &ns.path);
                self.pods.push(Pod { ns, node, key, result });
            }
        }
    }

    /// Every pod connects to every pod, and every node to every pod; the receiver must see
    /// the address of the sender.
    fn verify(&self) {
        let servers: Vec<Server> = self.pods.iter().map(Server::of_pod).collect();
        for to in &self.pods {
            for target in to.result.addresses() {
                let target = SocketAddr::new(target, PORT);
                for from in &self.pods {
                    let seen = exchange(&from.ns, target);
                    assert!(
                        from.result.addresses().contains(&seen),
                        "{} → {target}: seen as {seen}",
                        from.ns.name
                    );
                }
                for (i, node) in self.nodes.iter().enumerate() {
                    let family = IpFamily::of(target.ip());
                    let fabric = node.state.fabric.borrow().clone().expect("applied");
                    let router =
                        fabric.routers.iter().copied().find(|r| IpFamily::of(*r) == family);
                    let remote = i != to.node;
                    let expected = match self.network {
                        Network::Vxlan if remote => router,
                        _ => fabric.pod_sources.get(&family).copied(),
                    };
                    assert_eq!(Some(exchange(&node.ns, target)), expected, "n{} → {target}", i + 1);
                }
            }
        }
        servers.into_iter().for_each(Server::stop);
        self.verify_nodes_and_outside();
    }

    /// Pods to nodes' own addresses keep theirs; to the outside they go as their node.
    fn verify_nodes_and_outside(&self) {
        for node in &self.nodes {
            let server = Server::start(&node.ns, node.model.internal_ips[0]);
            for target in &node.model.internal_ips {
                for pod in self.pods.iter().filter(|p| p.has(IpFamily::of(*target))) {
                    let seen = exchange(&pod.ns, SocketAddr::new(*target, PORT));
                    assert!(pod.result.addresses().contains(&seen), "{} → {target}", pod.ns.name);
                }
            }
            server.stop();
        }
        for family in [IpFamily::V4, IpFamily::V6] {
            let outside = underlay_net(family, 2, 1).addr();
            let node_ip = |p: &Pod| {
                let ips = &self.nodes[p.node].model.internal_ips;
                ips.iter().copied().find(|ip| IpFamily::of(*ip) == family)
            };
            let pods: Vec<&Pod> =
                self.pods.iter().filter(|p| p.has(family) && node_ip(p).is_some()).collect();
            if pods.is_empty() {
                continue;
            }
            let server = Server::start(&self.underlay, outside);
            for pod in pods {
                let seen = exchange(&pod.ns, SocketAddr::new(outside, PORT));
                assert_eq!(Some(seen), node_ip(pod), "{} → {outside}", pod.ns.name);
            }
            server.stop();
        }
    }
}

impl Pod {
    fn has(&self, family: IpFamily) -> bool {
        self.result.addresses().iter().any(|ip| IpFamily::of(*ip) == family)
    }
}

/// A server: tells each client who it is, then counts what it sends.
struct Server {
    thread: std::thread::JoinHandle<()>,
    stop: SocketAddr,
    netns: PathBuf,
}

impl Server {
    fn of_pod(pod: &Pod) -> Self {
        Self::start(&pod.ns, pod.result.addresses()[0])
    }

    /// Listens on all addresses; `own` is one of them.
    fn start(ns: &Namespace, own: IpAddr) -> Self {
        let listener = ns.enter(|| TcpListener::bind(("::", PORT))).expect("bind");
        let (stop, netns) = (SocketAddr::new(own, PORT), ns.path.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let peer = stream.peer_addr().expect("peer").ip().to_canonical();
                let mut text = peer.to_string();
                text.push('\n');
                stream.write_all(text.as_bytes()).expect("greeting");
                let mut received = 0;
                let mut buffer = [0; 16_384];
                while let Ok(n) = stream.read(&mut buffer)
                    && n > 0
                {
                    received += n;
                }
                if received == 0 {
                    return; // asked to stop
                }
                let _ = stream.write_all(format!("{received}\n").as_bytes());
            }
        });
        Self { thread, stop, netns }
    }

    fn stop(self) {
        netns::run_in(&self.netns, || drop(TcpStream::connect(self.stop))).expect("entered");
        self.thread.join().expect("server");
    }
}

/// Connects, sends a payload, and returns the address that the server saw.
fn exchange(from: &Namespace, target: SocketAddr) -> IpAddr {
    let result = from.enter(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(3))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(&vec![7; PAYLOAD_LEN])?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    });
    let text = result.unwrap_or_else(|e| panic!("{} → {target}: {e}", from.name));
    let mut lines = text.lines();
    let seen = ip(lines.next().expect("address"));
    assert_eq!(lines.next(), Some(PAYLOAD_LEN.to_string().as_str()), "{} → {target}", from.name);
    seen
}

fn everything_reaches_everything(test: &str, network: Network, families: Families) {
    if !is_root(test) {
        return;
    }
    let mut cluster = Cluster::new(network, families);
    cluster.apply();
    cluster.add_pods(2);
    cluster.verify();
    // The same after a restart of everything.
    cluster.nodes.iter_mut().for_each(|n| n.restart(network));
    cluster.apply();
    cluster.verify();
}

#[test]
fn vxlan_ipv4() {
    let families = Families { pods: V4, underlay: V4 };
    everything_reaches_everything("vxlan_ipv4", Network::Vxlan, families);
}

#[test]
fn vxlan_ipv6() {
    let families = Families { pods: V6, underlay: V6 };
    everything_reaches_everything("vxlan_ipv6", Network::Vxlan, families);
}

#[test]
fn vxlan_dual() {
    let families = Families { pods: DUAL, underlay: DUAL };
    everything_reaches_everything("vxlan_dual", Network::Vxlan, families);
}

#[test]
fn vxlan_dual_over_ipv6() {
    let families = Families { pods: DUAL, underlay: V6 };
    everything_reaches_everything("vxlan_dual_over_ipv6", Network::Vxlan, families);
}

#[test]
fn native_ipv4() {
    let families = Families { pods: V4, underlay: V4 };
    everything_reaches_everything("native_ipv4", Network::Native, families);
}

#[test]
fn native_ipv6() {
    let families = Families { pods: V6, underlay: V6 };
    everything_reaches_everything("native_ipv6", Network::Native, families);
}

#[test]
fn native_dual() {
    let families = Families { pods: DUAL, underlay: DUAL };
    everything_reaches_everything("native_dual", Network::Native, families);
}

#[test]
fn services_without_backends_are_refused_at_once() {
    if !is_root("services_without_backends_are_refused_at_once") {
        return;
    }
    let mut cluster = Cluster::new(Network::Vxlan, Families { pods: DUAL, underlay: DUAL });
    cluster.apply();
    cluster.add_pods(1);
    for ns in [&cluster.pods[0].ns, &cluster.nodes[0].ns] {
        for target in ["10.96.7.7:80", "[fd00:10:96::7]:80"] {
            let target: SocketAddr = target.parse().expect("address");
            let begin = Instant::now();
            let e = ns
                .enter(|| TcpStream::connect_timeout(&target, Duration::from_secs(5)))
                .expect_err("no such Service");
            assert_eq!(e.kind(), ErrorKind::ConnectionRefused, "{} → {target}", ns.name);
            assert!(begin.elapsed() < Duration::from_secs(1));
        }
    }
    // An address that no pod has is refused too, and not sent around.
    let e = cluster.nodes[0]
        .ns
        .enter(|| {
            let nobody: SocketAddr = "10.244.1.200:80".parse().expect("address");
            TcpStream::connect_timeout(&nobody, Duration::from_secs(5))
        })
        .expect_err("nobody there");
    assert_eq!(e.kind(), ErrorKind::HostUnreachable);
}

#[test]
fn restarts_keep_pods_and_connections() {
    if !is_root("restarts_keep_pods_and_connections") {
        return;
    }
    let mut cluster = Cluster::new(Network::Vxlan, Families { pods: DUAL, underlay: DUAL });
    cluster.apply();
    cluster.add_pods(1);
    let target = SocketAddr::new(cluster.pods[2].result.addresses()[0], PORT);
    let listener = cluster.pods[2].ns.enter(|| TcpListener::bind(target)).expect("bind");
    let mut near = cluster.pods[0].ns.enter(|| TcpStream::connect(target)).expect("connect");
    let (mut far, _) = listener.accept().expect("accept");
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
    }
    let before: Vec<_> =
        cluster.nodes.iter().map(|n| n.ns.netlink().routes().expect("routes")).collect();
    cluster.nodes.iter_mut().for_each(|n| n.restart(Network::Vxlan));
    cluster.apply();
    for node in &cluster.nodes {
        let status = node.state.status(1, serde_json::Value::Null, 0);
        assert_eq!(status["stages"]["fabric"]["counts"]["changes"], 0, "{status:#}");
    }
    let after: Vec<_> =
        cluster.nodes.iter().map(|n| n.ns.netlink().routes().expect("routes")).collect();
    assert_eq!(before, after);
    near.write_all(b"x").expect("send");
    far.read_exact(&mut [0]).expect("the connection goes on");

    // ADD again gives the same, CHECK agrees, and a new pod gets another address.
    let pod = &cluster.pods[0];
    let node = &cluster.nodes[0];
    assert_eq!(node.add(&pod.key, &pod.ns.path), pod.result);
    let fabric = node.state.fabric.borrow().clone().expect("applied");
    let check = || {
        let netns = pod.ns.path.to_str().expect("UTF-8");
        let attach = Attach { key: &pod.key, netns, host_ports: &[], subject: &Subject::NOBODY };
        let previous = serde_json::to_value(&pod.result).expect("JSON");
        node.ns.enter(|| node.cni.check(&fabric, &attach, Some(&previous)))
    };
    check().expect("as it was made");
    let nl = pod.ns.netlink();
    nl.delete_address("eth0", IpNet::from(pod.result.addresses()[0])).expect("delete");
    assert!(check().expect_err("address gone").msg.contains("is gone"));
    assert_eq!(node.add(&pod.key, &pod.ns.path), pod.result);
    check().expect("repaired by the repeated ADD");
    let other = Namespace::new("other");
    let key = cni::key("other", "eth0").expect("key");
    let result = node.add(&key, &other.path);
    assert!(result.addresses().iter().all(|ip| !pod.result.addresses().contains(ip)));

    // A lost route and a lost neighbour come back, an orphan goes.
    let nl = node.ns.netlink();
    let lost = nl.routes().expect("routes").into_iter().find(|r| r.dst == net("10.244.3.0/24"));
    nl.delete_route(&lost.expect("route to n3")).expect("delete");
    let mut orphan = Route::to(net("10.250.0.0/24"));
    orphan.oif = Some(nl.index_of("eth0").expect("eth0"));
    nl.replace_route(&orphan).expect("orphan");
    cluster.apply();
    let routes = cluster.nodes[0].ns.netlink().routes().expect("routes");
    assert!(routes.iter().any(|r| r.dst == net("10.244.3.0/24")));
    assert!(!routes.iter().any(|r| r.dst == orphan.dst));
    near.write_all(b"x").expect("send");
    far.read_exact(&mut [0]).expect("the connection goes on");
}

#[test]
fn what_goes_away_leaves_nothing() {
    if !is_root("what_goes_away_leaves_nothing") {
        return;
    }
    let mut cluster = Cluster::new(Network::Vxlan, Families { pods: DUAL, underlay: DUAL });
    let links = |ns: &Namespace| {
        let links = ns.netlink().links().expect("links");
        links.into_iter().map(|l| l.name).collect::<Vec<_>>()
    };
    let clean = links(&cluster.nodes[0].ns);
    cluster.apply();
    cluster.add_pods(2);
    let all = cluster.nodes[0].own_routes();

    // A node that leaves takes its routes and neighbours with it.
    let snapshot = cluster.snapshot(Some("n3"));
    cluster.nodes[0].apply(&snapshot);
    assert_eq!(cluster.nodes[0].own_routes(), all - 2);
    let neighbours = cluster.nodes[0].ns.netlink().neighbours().expect("neighbours");
    assert!(!neighbours.iter().any(|n| n.ip == ip("10.244.3.1")));

    // DEL twice, and DEL after the namespace is gone.
    let first = cluster.pods.remove(0);
    let node = &cluster.nodes[0];
    let del = |key| node.ns.enter(|| node.cni.del(key)).expect("deleted");
    drop(first.ns);
    del(&first.key);
    del(&first.key);
    // GC keeps what is listed, and only that.
    let kept = cluster.pods.remove(0);
    assert_eq!(kept.node, 0);
    let stray = Namespace::new("stray");
    let stray_key = cni::key("stray", "eth0").expect("key");
    node.add(&stray_key, &stray.path);
    let attachment =
        Attachment { container_id: kept.key.container_id.clone(), ifname: kept.key.ifname.clone() };
    node.ns.enter(|| node.cni.gc(&[attachment])).expect("collected");
    assert_eq!(node.cni.usage().1, 1);
    assert!(stray.netlink().link("eth0").expect("get").is_none());
    assert!(kept.ns.netlink().link("eth0").expect("get").is_some());
    // The rest goes with the node's clean-up.
    let pins = cluster.nodes[0].dir.path().join("pins");
    for _ in 0..2 {
        cluster.nodes[0].ns.enter(|| cleanup(&pins)).expect("cleaned");
    }
    let node = &cluster.nodes[0];
    assert_eq!(links(&node.ns), clean);
    assert_eq!(node.own_routes(), 0);
    let addresses = node.ns.netlink().addresses().expect("addresses");
    assert!(!addresses.iter().any(|a| a.owned || a.net == net("10.244.1.1/32")));
    assert!(!node.ns.enter(netfilter::exists).expect("asked"));
    assert!(cluster.underlay.netlink().link("zone1").expect("get").is_some());
}

/// An ADD that fails in the middle gives back what it took.
#[test]
fn a_failed_add_is_undone() {
    if !is_root("a_failed_add_is_undone") {
        return;
    }
    let mut cluster = Cluster::new(Network::Vxlan, Families { pods: DUAL, underlay: DUAL });
    cluster.apply();
    let node = &cluster.nodes[0];
    let pod = Namespace::new("pod");
    // Somebody else's eth0 is in the way.
    let nl = pod.netlink();
    nl.create_veth(&VethSpec { name: "eth0", peer_name: "x", ..VethSpec::default() })
        .expect("veth");
    let key = cni::key("c1", "eth0").expect("key");
    let fabric = node.state.fabric.borrow().clone().expect("applied");
    let add = |netns: &str| {
        node.ns.enter(|| {
            node.cni.add(
                &fabric,
                &Attach { key: &key, netns, host_ports: &[], subject: &Subject::NOBODY },
            )
        })
    };
    let before = node.ns.netlink().links().expect("links").len();
    let e = add(pod.path.to_str().expect("UTF-8")).expect_err("in the way");
    assert_eq!(e.code, weft_cni::code::SETUP_FAILED);
    assert_eq!(node.cni.usage().1, 0);
    assert_eq!(node.ns.netlink().links().expect("links").len(), before);
    assert!(nl.link("eth0").expect("get").is_some(), "the other's link is left alone");
    assert_eq!(add("/etc/passwd").expect_err("no namespace").code, 4);
    // With the way free the same container gets its network.
    nl.delete_link("eth0").expect("delete");
    add(pod.path.to_str().expect("UTF-8")).expect("added");
}
