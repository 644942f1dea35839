//! The load of `cargo xtask bench program`: Services and their changes, from the bytes of the API
//! to the maps of the kernel, on one thread and through the agent's own stages; beside it a
//! ruleset as kube-proxy's nftables mode writes it. Prints one line of JSON a figure.
//!
//! Lives in namespaces and a cgroup of its own.

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::runtime::watcher::Event;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use serde_json::json;
use std::{
    fmt::Write as _,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use weft_bpf::{OpenOptions, SocketLb};
use weft_dns::{DnsIndex, Zone};
use weft_kube::{
    Kind,
    index::{Change, Index, Indexed},
};
use weft_model::Snapshot;
use weft_services::{PlanInput, Planner};

/// Changes that are timed, in rounds between which the peer has its turn.
const ROUNDS: usize = 20;
const CHANGES: usize = 100;
/// Rounds that begin a connection to the new backend.
const PACKETS: usize = 200;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let [what, services, endpoints] = words[..] else {
        bail!("program-load changes|memory SERVICES ENDPOINTS");
    };
    let (services, endpoints) = (services.parse()?, endpoints.parse()?);
    let place = Place::enter()?;
    match what {
        "changes" => changes(&place, services, endpoints),
        "memory" => memory(&place, services, endpoints),
        other => bail!("nobody knows {other}"),
    }
}

/// A cgroup, removed in the end, and a bpf file system that goes with the process.
struct Place {
    cgroup: PathBuf,
    dir: PathBuf,
}

impl Place {
    fn enter() -> Result<Self> {
        let mounts = std::fs::read_to_string("/proc/mounts")?;
        let line = mounts.lines().find(|l| l.split(' ').nth(2) == Some("cgroup2"));
        let root = line.and_then(|l| l.split(' ').nth(1)).context("no cgroup2")?;
        let name = format!("weft-bench-{}", std::process::id());
        let cgroup = Path::new(root).join(&name);
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&cgroup).context("make a cgroup")?;
        std::fs::create_dir(&dir).context("make a folder")?;
        let place = Self { cgroup, dir };
        std::fs::write(place.cgroup.join("cgroup.procs"), "0").context("join the cgroup")?;
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("unshare")?;
        let none: Option<&str> = None;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).context("make mounts private")?;
        mount(Some("bpf"), &place.dir, Some("bpf"), MsFlags::empty(), none).context("bpffs")?;
        weft_netlink::Netlink::open()?.set_up("lo")?;
        Ok(place)
    }

    fn open(&self) -> Result<SocketLb> {
        Ok(SocketLb::open(OpenOptions::new(self.dir.join("node"), &self.cgroup))?)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let root = self.cgroup.parent().unwrap_or(Path::new("/"));
        let _ = nix::mount::umount2(&self.dir, nix::mount::MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(&self.dir);
        let _ = std::fs::write(root.join("cgroup.procs"), "0");
        let _ = std::fs::remove_dir(&self.cgroup);
    }
}

fn vip(n: usize) -> String {
    format!("10.{}.{}.{}", 96 + (n >> 16), (n >> 8) & 255, n & 255)
}

fn service(n: usize) -> Vec<u8> {
    let object = json!({
        "metadata": {"namespace": format!("ns{}", n % 50), "name": format!("service-{n}"),
            "labels": {"app": format!("app-{n}")}},
        "spec": {"clusterIP": vip(n), "clusterIPs": [vip(n)], "ipFamilies": ["IPv4"],
            "selector": {"app": format!("app-{n}")},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]}
    });
    object.to_string().into_bytes()
}

/// The `version` says which endpoint is another one.
fn slice(n: usize, endpoints: usize, version: usize) -> Vec<u8> {
    let all: Vec<_> = (0..endpoints)
        .map(|e| {
            let id = n * endpoints + e + if e == 0 { version * 1_000_003 } else { 0 };
            let net = if e == 0 && version > 0 { 13 } else { 11 };
            let address = format!("{net}.{}.{}.{}", (id >> 16) & 127, (id >> 8) & 255, id & 255);
            json!({"addresses": [address], "nodeName": format!("node-{}", id % 500),
                "zone": format!("zone-{}", id % 3),
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": format!("ns{}", n % 50),
                    "name": format!("app-{n}-7d4b9c8f6-{id:05}")}})
        })
        .collect();
    slice_of(n, &json!(all), 8080)
}

fn slice_of(n: usize, endpoints: &serde_json::Value, port: u16) -> Vec<u8> {
    let object = json!({
        "metadata": {"namespace": format!("ns{}", n % 50), "name": format!("service-{n}-x7k2p"),
            "labels": {"kubernetes.io/service-name": format!("service-{n}")}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}]
    });
    object.to_string().into_bytes()
}

fn object<K: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<K> {
    Ok(serde_json::from_slice(bytes)?)
}

/// What the agent does with an event, but for the threads.
struct Agent {
    index: Index,
    snapshot: Snapshot,
    planner: Planner,
    input: PlanInput,
    lb: SocketLb,
}

impl Agent {
    fn new(place: &Place) -> Result<Self> {
        let (index, snapshot) = (Index::default(), Snapshot::default());
        let planner = Planner::new("node-1".parse()?);
        Ok(Self { index, snapshot, planner, input: PlanInput::default(), lb: place.open()? })
    }

    fn list<K: Indexed + serde::de::DeserializeOwned>(
        &mut self,
        objects: impl Iterator<Item = Vec<u8>>,
    ) -> Result<()> {
        self.index.apply(K::KIND, Change::ListBegins);
        for bytes in objects {
            self.index.apply(K::KIND, Change::of(Event::InitApply(object::<K>(&bytes)?)));
        }
        self.index.apply(K::KIND, Change::ListEnds);
        Ok(())
    }

    fn lists(
        &mut self,
        services: impl Iterator<Item = Vec<u8>>,
        slices: impl Iterator<Item = Vec<u8>>,
    ) -> Result<()> {
        for kind in Kind::ALL {
            if kind != Kind::Service && kind != Kind::EndpointSlice {
                self.index.apply(kind, Change::ListBegins);
                self.index.apply(kind, Change::ListEnds);
            }
        }
        self.list::<Service>(services)?;
        self.list::<EndpointSlice>(slices)
    }

    fn publish(&mut self) {
        if let Some(next) = self.index.snapshot(Some(&self.snapshot)) {
            self.snapshot = next;
        }
    }

    fn program(&mut self) -> Result<()> {
        self.lb.switch(self.planner.plan(&self.snapshot, &self.input))?;
        Ok(())
    }

    /// One event, from its bytes to the kernel.
    fn event(&mut self, slice: &[u8]) -> Result<()> {
        let change = Change::of(Event::Apply(object::<EndpointSlice>(slice)?));
        self.index.apply(Kind::EndpointSlice, change);
        self.publish();
        self.program()
    }

    fn sweep(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.lb.sweep()? {
            ensure!(Instant::now() < deadline, "the sweep does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn say(name: &str, values: &[f64]) {
    println!("{}", json!({"name": name, "values": values}));
}

fn changes(place: &Place, services: usize, endpoints: usize) -> Result<()> {
    let service_bytes: Vec<_> = (0..services).map(service).collect();
    let slice_bytes: Vec<_> = (0..services).map(|n| slice(n, endpoints, 0)).collect();
    let mut agent = Agent::new(place)?;
    let start = Instant::now();
    agent.lists(service_bytes.into_iter(), slice_bytes.into_iter())?;
    agent.publish();
    say("cold_lists_ms", &[ms(start)]);
    let plan = Instant::now();
    agent.planner.plan(&agent.snapshot, &agent.input);
    say("cold_plan_ms", &[ms(plan)]);
    let apply = Instant::now();
    agent.program()?;
    say("cold_apply_ms", &[ms(apply)]);
    say("cold_ms", &[ms(start)]);
    let stats = agent.lb.stats()?;
    ensure!(stats.frontends == services && stats.slots == services * endpoints, "{stats:?}");

    let peer = services <= 10_000;
    if peer {
        let load = Instant::now();
        nft(&kube_proxy(0..services, endpoints, true)?)?;
        say("nft_cold_ms", &[ms(load)]);
    }
    let mut number = 1usize;
    let (mut own, mut nft_ms) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        for _ in 0..CHANGES {
            // Anywhere, and never twice the same.
            let n = number.wrapping_mul(2_654_435_761) % services;
            let bytes = slice(n, endpoints, number);
            number += 1;
            let start = Instant::now();
            agent.event(&bytes)?;
            // The first round warms up.
            if round > 0 {
                own.push(ms(start));
            }
        }
        agent.sweep()?;
        if peer {
            let one = kube_proxy(services + round..services + round + 1, endpoints, false)?;
            let start = Instant::now();
            nft(&one)?;
            if round > 0 {
                nft_ms.push(ms(start));
            }
        }
    }
    let stats = agent.lb.stats()?;
    ensure!(stats.slots == services * endpoints, "nothing is left over: {stats:?}");
    say("change_ms", &own);
    if peer {
        say("nft_change_ms", &nft_ms);
    }
    say("first_packet_ms", &packets(&mut agent)?);
    Ok(())
}

/// From the event to the answer of the backend that it names.
fn packets(agent: &mut Agent) -> Result<Vec<f64>> {
    // Loopback addresses are no endpoints; the routing table takes others for local, too.
    run("ip", &["route", "add", "local", "12.0.0.0/8", "dev", "lo"])?;
    let listeners: Vec<TcpListener> = ["12.0.0.1:8080", "12.0.0.2:8080"]
        .iter()
        .map(TcpListener::bind)
        .collect::<std::io::Result<_>>()?;
    for (name, listener) in listeners.into_iter().enumerate() {
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.write_all(&[name as u8]);
            }
        });
    }
    let to: SocketAddr = format!("{}:80", vip(0)).parse()?;
    let mut times = Vec::new();
    for round in 0..=PACKETS {
        let name = round % 2;
        let only = json!([{"addresses": [format!("12.0.0.{}", name + 1)],
            "conditions": {"ready": true}}]);
        let bytes = slice_of(0, &only, 8080);
        let start = Instant::now();
        agent.event(&bytes)?;
        let mut stream = TcpStream::connect(to).context("connect")?;
        let mut answer = [0];
        stream.read_exact(&mut answer).context("read")?;
        let time = ms(start);
        ensure!(usize::from(answer[0]) == name, "another backend answers");
        if round > 0 {
            times.push(time);
        }
        agent.sweep()?;
    }
    Ok(times)
}

/// The stages, filled as the agent's are; the objects are not kept.
fn memory(place: &Place, services: usize, endpoints: usize) -> Result<()> {
    let mut agent = Agent::new(place)?;
    say("empty_kib", &[resident_kib()?]);
    agent.lists((0..services).map(service), (0..services).map(|n| slice(n, endpoints, 0)))?;
    agent.publish();
    say("snapshot_kib", &[resident_kib()?]);
    let start = Instant::now();
    agent.program()?;
    say("program_ms", &[ms(start)]);
    let zone = Zone::new("cluster.local").ok().context("zone")?;
    let index = DnsIndex::build(&agent.snapshot, &zone, None);
    say("all_kib", &[resident_kib()?]);
    let mut times = Vec::new();
    for number in 1..=1000usize {
        let bytes = slice(number.wrapping_mul(2_654_435_761) % services, endpoints, number);
        let start = Instant::now();
        agent.event(&bytes)?;
        times.push(ms(start));
    }
    agent.sweep()?;
    say("change_ms", &times);
    say("after_kib", &[resident_kib()?]);
    drop(index);
    Ok(())
}

fn resident_kib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// A chain for each Service and endpoint and an element of a verdict map for each Service.
fn kube_proxy(services: std::ops::Range<usize>, endpoints: usize, first: bool) -> Result<String> {
    let mut text = String::new();
    if first {
        text += "add table ip kube-proxy\n\
            add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }\n\
            add chain ip kube-proxy services\n\
            add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips\n\
            add chain ip kube-proxy nat-output { type nat hook output priority -100 ; }\n\
            add rule ip kube-proxy nat-output jump services\n";
    }
    for n in services {
        let name = format!("service-{n:08}");
        writeln!(text, "add chain ip kube-proxy {name}")?;
        for e in 0..endpoints {
            writeln!(text, "add chain ip kube-proxy endpoint-{n:08}-{e}")?;
            let (a, b, c) = (n >> 12 & 127, n >> 4 & 255, (n & 15) * 16 + e % 16);
            writeln!(
                text,
                "add rule ip kube-proxy endpoint-{n:08}-{e} meta l4proto tcp dnat to 11.{a}.{b}.{c}:8080"
            )?;
        }
        let targets: Vec<_> =
            (0..endpoints).map(|e| format!("{e} : goto endpoint-{n:08}-{e}")).collect();
        writeln!(
            text,
            "add rule ip kube-proxy {name} numgen random mod {endpoints} vmap {{ {} }}",
            targets.join(", ")
        )?;
        let at = vip(n);
        writeln!(
            text,
            "add element ip kube-proxy service-ips {{ {at} . tcp . 80 : goto {name} }}"
        )?;
    }
    Ok(text)
}

fn nft(text: &str) -> Result<()> {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
    child.stdin.take().context("stdin")?.write_all(text.as_bytes())?;
    ensure!(child.wait()?.success(), "nft failed");
    Ok(())
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    ensure!(Command::new(program).args(args).status()?.success(), "{program} {args:?} failed");
    Ok(())
}
