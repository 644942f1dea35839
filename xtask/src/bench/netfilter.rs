//! Ways in from outside: Weft's table beside the rules that kube-proxy writes in its nftables
//! mode, each on a node of its own made of namespaces, with the same clients and pods; and what
//! the table costs pods that do not use it.

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{BufRead, BufReader, Write},
    net::IpAddr,
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Instant,
};
use weft_netlink::{
    Netlink, Route, VethSpec,
    netfilter::{Entrance, Fate, Nat, Rules, Table, Target, Targets},
    netns, sysctl,
};

use super::stats::Spread;

const ROUNDS: usize = 15;
const ROUND_MS: u32 = 100;
const SERVICES: [usize; 3] = [1, 1000, 10_000];
const ENDPOINTS: u8 = 10;
pub(super) const SERVER: u16 = 8080;
const NODE: &str = "192.0.2.1";
const BALANCER: &str = "198.51.100.7";
/// Node ports with policy Local, and with policy Cluster and endpoints here or elsewhere.
const LOCAL: u16 = 30_000;
const CLUSTER: u16 = 30_001;
const ELSEWHERE: u16 = 30_002;
const KINDS: [&str; 4] = ["rr", "crr", "first", "stream"];

/// A namespace that goes away, whatever happens.
pub(super) struct Namespace {
    name: String,
    pub path: PathBuf,
}

impl Namespace {
    pub fn new(world: &str, role: &str) -> Result<Self> {
        let name = format!("weftbench-{}-{world}-{role}", std::process::id());
        let path = netns::create_named(&name)?;
        Ok(Self { name, path })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = netns::delete_named(&self.name);
    }
}

/// A process in a namespace.
pub(super) struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) struct Load {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _worker: Worker,
}

/// A node with a client outside, a pod that is a client, one that serves, and one that serves
/// elsewhere.
struct World {
    client: Load,
    pod: Load,
    _servers: [Worker; 2],
    node: Namespace,
    _others: [Namespace; 4],
}

impl World {
    fn new(name: &str) -> Result<Self> {
        let node = Namespace::new(name, "node")?;
        let others = ["client", "pod", "here", "elsewhere"];
        let [client, pod, here, elsewhere] = others.map(|role| Namespace::new(name, role));
        let others = [client?, pod?, here?, elsewhere?];
        let served = |third: u8, from: u8| -> Vec<String> {
            (0..ENDPOINTS).map(|n| format!("10.7.{third}.{}/25", from + n)).collect()
        };
        let legs: [(&str, &str, Vec<String>); 4] = [
            ("up", "192.0.2.1/24", vec!["192.0.2.9/24".to_owned()]),
            ("wv0", "10.7.1.129/25", vec!["10.7.1.130/25".to_owned()]),
            ("wv1", "10.7.1.1/25", served(1, 10)),
            ("wv2", "10.7.2.1/25", served(2, 10)),
        ];
        let at_node = Netlink::open_in(&node.path)?;
        at_node.set_up("lo")?;
        for ((link, at, addresses), other) in legs.iter().zip(&others) {
            let peer_netns = Some(other.path.as_path());
            at_node.create_veth(&VethSpec {
                name: link,
                peer_name: "eth0",
                peer_netns,
                ..VethSpec::default()
            })?;
            let at: IpNet = at.parse().context("prefix")?;
            at_node.add_address(link, at)?;
            at_node.set_up(link)?;
            let there = Netlink::open_in(&other.path)?;
            for address in addresses {
                there.add_address("eth0", address.parse().context("prefix")?)?;
            }
            there.set_up("lo")?;
            there.set_up("eth0")?;
            let mut route = Route::to(Route::default_of(at.addr()));
            route.gateway = Some(at.addr());
            there.replace_route(&route)?;
        }
        sysctl::write_in(&node.path, &[("net/ipv4/ip_forward", "1")])?;
        let [client, pod, here, elsewhere] = &others;
        Ok(Self {
            client: load(client)?,
            pod: load(pod)?,
            _servers: [serve(here)?, serve(elsewhere)?],
            node,
            _others: others,
        })
    }
}

fn worker(ns: &Namespace, args: &[&str]) -> Result<Child> {
    let me = super::me();
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", ns.path.display())).arg(me).arg("bench-worker").args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start a worker")
}

pub(super) fn serve(ns: &Namespace) -> Result<Worker> {
    let mut child = worker(ns, &["serve", "-", &SERVER.to_string()])?;
    let output = child.stdout.as_mut().context("invariant: stdout is piped")?;
    BufReader::new(output).read_line(&mut String::new()).context("wait for the server")?;
    Ok(Worker(child))
}

pub(super) fn load(ns: &Namespace) -> Result<Load> {
    let mut child = worker(ns, &["load", "-"])?;
    let input = child.stdin.take().context("invariant: stdin is piped")?;
    let output = BufReader::new(child.stdout.take().context("invariant: stdout is piped")?);
    Ok(Load { input, output, _worker: Worker(child) })
}

impl Load {
    pub fn ask(&mut self, kind: &str, to: (&str, u16)) -> Result<f64> {
        writeln!(self.input, "{kind} {ROUND_MS} {}:{}", to.0, to.1).context("ask worker")?;
        let mut line = String::new();
        self.output.read_line(&mut line).context("read worker")?;
        line.trim().parse().with_context(|| format!("{kind} to {to:?}: the worker ended"))
    }
}

/// Runs as root, for `cargo xtask bench services`.
pub fn main() -> Result<()> {
    println!("\nFrom outside, {ENDPOINTS} endpoints a Service, {ROUNDS} rounds of {ROUND_MS} ms:");
    println!("ratios to pod-to-pod on the node with Weft's table, median [95 % of rounds].");
    for services in SERVICES {
        measure(services)?;
    }
    Ok(())
}

/// The clients of the three nodes.
struct Worlds {
    weft: World,
    rules: World,
    plain: World,
}

fn measure(services: usize) -> Result<()> {
    let mut worlds = Worlds {
        weft: World::new("weft")?,
        rules: World::new("rules")?,
        plain: World::new("plain")?,
    };
    let begin = Instant::now();
    let mut table = Table::new();
    let elements = netns::run_in(&worlds.weft.node.path, || -> Result<usize> {
        table.set_nat(nat(services))?;
        Ok(table.set_rules(&rules())?.elements)
    })??;
    let ours = begin.elapsed();
    let begin = Instant::now();
    let text = kube_proxy(services);
    let mut nft = Command::new("nsenter");
    nft.arg(format!("--net={}", worlds.rules.node.path.display())).args(["nft", "-f", "-"]);
    let mut nft = nft.stdin(Stdio::piped()).spawn().context("start nft")?;
    let mut input = nft.stdin.take().context("invariant: stdin is piped")?;
    input.write_all(text.as_bytes()).context("write rules")?;
    drop(input);
    if !nft.wait().context("wait for nft")?.success() {
        bail!("nft refuses the rules of kube-proxy");
    }
    println!(
        "\n{services} Services: Weft's table ({elements} elements) written in {ours:.1?}, \
         the rules by nft in {:.1?}",
        begin.elapsed()
    );
    println!("{:<38} {}", "", KINDS.map(|k| format!("{k:<22}")).concat());
    let mut all: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    for kind in KINDS {
        for round in 0..=ROUNDS {
            for (name, ask) in PATHS {
                let rate = ask(&mut worlds, kind)?;
                // The first round warms up.
                if round > 0 {
                    all.entry((name, kind)).or_default().push(rate);
                }
            }
        }
    }
    let row = |what: &str, of: &str, to: &str| {
        let ratios = KINDS.map(|kind| {
            let (of, to) = (&all[&(of, kind)], &all[&(to, kind)]);
            let ratios: Vec<f64> = of.iter().zip(to).map(|(a, b)| a / b).collect();
            format!("{:<22}", Spread::of(&ratios).to_string())
        });
        println!("{what:<38} {}", ratios.concat());
    };
    for (name, _) in &PATHS[1..] {
        row(name, name, PATHS[0].0);
    }
    for path in ["NodePort Local", "NodePort Cluster", "NodePort elsewhere", "LoadBalancer"] {
        let of = |whose: &str| {
            let name = format!("{whose}, {path}");
            PATHS.iter().map(|(n, _)| *n).find(|n| *n == name).unwrap_or_default()
        };
        row(&format!("Weft / rules, {path}"), of("Weft"), of("rules"));
    }
    Ok(())
}

type Ask = fn(&mut Worlds, &str) -> Result<f64>;

/// What is asked in turn; the first is what all are compared with.
const PATHS: [(&str, Ask); 12] = [
    ("pod to pod", |w, k| w.weft.pod.ask(k, HERE)),
    ("pod to pod again (A/A)", |w, k| w.weft.pod.ask(k, HERE)),
    ("pod to pod, node without netfilter", |w, k| w.plain.pod.ask(k, HERE)),
    ("pod to pod, node with the rules", |w, k| w.rules.pod.ask(k, HERE)),
    ("Weft, NodePort Local", |w, k| w.weft.client.ask(k, (NODE, LOCAL))),
    ("rules, NodePort Local", |w, k| w.rules.client.ask(k, (NODE, LOCAL))),
    ("Weft, NodePort Cluster", |w, k| w.weft.client.ask(k, (NODE, CLUSTER))),
    ("rules, NodePort Cluster", |w, k| w.rules.client.ask(k, (NODE, CLUSTER))),
    ("Weft, NodePort elsewhere", |w, k| w.weft.client.ask(k, (NODE, ELSEWHERE))),
    ("rules, NodePort elsewhere", |w, k| w.rules.client.ask(k, (NODE, ELSEWHERE))),
    ("Weft, LoadBalancer", |w, k| w.weft.client.ask(k, (BALANCER, 80))),
    ("rules, LoadBalancer", |w, k| w.rules.client.ask(k, (BALANCER, 80))),
];
const HERE: (&str, u16) = ("10.7.1.10", SERVER);

fn rules() -> Rules {
    let net = |s: &str| s.parse().expect("invariant: a prefix");
    Rules {
        services: vec![net("10.96.0.0/16")],
        masquerade: vec![net("10.7.1.0/24")],
        cluster: vec![net("10.7.0.0/16"), net("192.0.2.1/32")],
        tunnel_port: None,
        routers: vec![IpAddr::from([10, 7, 1, 1])],
        client_ports: Some(61_000..=65_000),
    }
}

/// The endpoints of Service `n`, of which the first is the one that is asked.
fn endpoints(n: usize, elsewhere: bool) -> impl Iterator<Item = [u8; 4]> {
    let [.., hi, lo] = n.to_be_bytes();
    (0..ENDPOINTS).map(move |e| match (n, elsewhere) {
        (0, false) => [10, 7, 1, 10 + e],
        (0, true) => [10, 7, 2, 10 + e],
        _ => [10, 100 + e, hi, lo],
    })
}

/// The node port of a Service that nobody asks.
fn port(n: usize) -> u16 {
    (19_000 + n) as u16
}

fn nat(services: usize) -> Nat {
    let mut nat = Nat::default();
    let mut set = |at: &str, port: u16, group: usize| {
        let addr = at.parse().expect("invariant: an address");
        let forward = Fate::Forward { group: group as u32, timeout_s: None, sources: None };
        nat.entrances.insert(Entrance { addr, port, protocol: 6 }, forward);
    };
    (1..services).for_each(|n| set(NODE, port(n), n));
    [LOCAL, CLUSTER].iter().for_each(|port| set(NODE, *port, 0));
    set(BALANCER, 80, 0);
    set(NODE, ELSEWHERE, services);
    let targets = |n: usize, elsewhere: bool| Targets {
        protocol: 6,
        all: endpoints(n, elsewhere)
            .map(|a| Target { addr: a.into(), port: SERVER, here: a[..3] == [10, 7, 1] })
            .collect(),
        by_client: false,
    };
    nat.groups = (0..services).map(|n| (n as u32, targets(n, false))).collect();
    nat.groups.insert(services as u32, targets(0, true));
    nat
}

/// As `pkg/proxy/nftables` of Kubernetes documents its rules: verdict maps by address, protocol
/// and port, a chain for each Service, way in and endpoint; source addresses are hidden with
/// policy Cluster; the checks before and after are there, too.
fn kube_proxy(services: usize) -> String {
    let mut chains = String::new();
    let (mut ips, mut ports) = (Vec::new(), Vec::new());
    let mut service = |id: &str, cluster_ip: [u8; 4], endpoints: Vec<[u8; 4]>| {
        let ip = IpAddr::from(cluster_ip);
        let mut choice = Vec::new();
        for (n, endpoint) in endpoints.iter().enumerate() {
            let to = IpAddr::from(*endpoint);
            let _ = writeln!(
                chains,
                "add chain ip kube-proxy endpoint-{id}-{n}\n\
                 add rule ip kube-proxy endpoint-{id}-{n} ip saddr {to} jump mark-for-masquerade\n\
                 add rule ip kube-proxy endpoint-{id}-{n} meta l4proto tcp dnat to {to}:{SERVER}"
            );
            choice.push(format!("{n} : goto endpoint-{id}-{n}"));
        }
        let choice = choice.join(", ");
        let _ = writeln!(
            chains,
            "add chain ip kube-proxy service-{id}\n\
             add rule ip kube-proxy service-{id} ip daddr {ip} tcp dport 80 ip saddr != 10.7.0.0/16 jump mark-for-masquerade\n\
             add rule ip kube-proxy service-{id} numgen random mod {} vmap {{ {choice} }}\n\
             add chain ip kube-proxy external-{id}\n\
             add rule ip kube-proxy external-{id} jump mark-for-masquerade\n\
             add rule ip kube-proxy external-{id} goto service-{id}\n\
             add chain ip kube-proxy local-{id}\n\
             add rule ip kube-proxy local-{id} ip saddr 10.7.1.0/24 goto service-{id}\n\
             add rule ip kube-proxy local-{id} fib saddr type local jump mark-for-masquerade\n\
             add rule ip kube-proxy local-{id} fib saddr type local goto service-{id}\n\
             add rule ip kube-proxy local-{id} numgen random mod {} vmap {{ {choice} }}",
            endpoints.len(),
            endpoints.len()
        );
        ips.push(format!("{ip} . tcp . 80 : goto service-{id}"));
    };
    service("here", [10, 96, 0, 1], endpoints(0, false).collect());
    service("elsewhere", [10, 96, 0, 2], endpoints(0, true).collect());
    for n in 1..services {
        let [.., hi, lo] = n.to_be_bytes();
        service(&n.to_string(), [10, 97, hi, lo], endpoints(n, false).collect());
    }
    ips.push(format!("{BALANCER} . tcp . 80 : goto local-here"));
    ports.extend((1..services).map(|n| format!("tcp . {} : goto external-{n}", port(n))));
    ports.push(format!("tcp . {LOCAL} : goto local-here"));
    ports.push(format!("tcp . {CLUSTER} : goto external-here"));
    ports.push(format!("tcp . {ELSEWHERE} : goto external-elsewhere"));
    let mut text = String::from(KUBE_PROXY);
    text.push_str(&chains);
    for (map, all) in [("service-ips", ips), ("service-nodeports", ports)] {
        for some in all.chunks(500) {
            let some = some.join(", ");
            let _ = writeln!(text, "add element ip kube-proxy {map} {{ {some} }}");
        }
    }
    text
}

const KUBE_PROXY: &str = "\
table ip kube-proxy {
    set cluster-ips { type ipv4_addr; }
    set nodeport-ips { type ipv4_addr; elements = { 192.0.2.1 } }
    map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
    map no-endpoint-nodeports { type inet_proto . inet_service : verdict; }
    map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
    map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
    map service-nodeports { type inet_proto . inet_service : verdict; }
    chain mark-for-masquerade { meta mark set meta mark | 0x4000; }
    chain masquerading {
        meta mark & 0x4000 == 0 return
        meta mark set meta mark ^ 0x4000
        masquerade fully-random
    }
    chain reject-chain { reject; }
    chain services {
        ip daddr . meta l4proto . th dport vmap @service-ips
        ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
    }
    chain cluster-ips-check { ip daddr @cluster-ips reject; }
    chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
    chain nodeport-endpoints-check {
        ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
    }
    chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }
    chain filter-prerouting-pre-dnat {
        type filter hook prerouting priority dstnat - 10; policy accept;
        ct state new jump firewall-check
    }
    chain filter-output-pre-dnat {
        type filter hook output priority -110; policy accept;
        ct state new jump firewall-check
    }
    chain filter-input {
        type filter hook input priority filter; policy accept;
        ct state new jump nodeport-endpoints-check
        ct state new jump service-endpoints-check
    }
    chain filter-forward {
        type filter hook forward priority filter; policy accept;
        ct state new jump service-endpoints-check
        ct state new jump cluster-ips-check
    }
    chain filter-output {
        type filter hook output priority filter; policy accept;
        ct state new jump service-endpoints-check
        ct state new jump firewall-check
    }
    chain filter-output-post-dnat {
        type filter hook output priority -90; policy accept;
        ct state new jump cluster-ips-check
    }
    chain nat-prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        jump services
    }
    chain nat-output {
        type nat hook output priority -100; policy accept;
        jump services
    }
    chain nat-postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        jump masquerading
    }
}
";
