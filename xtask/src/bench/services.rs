//! ClusterIP against direct pod-to-pod: requests/s, connections/s, first packet and throughput,
//! on one node and across nodes, at several numbers of Services; and the ways in from outside
//! (`netfilter.rs`).

use anyhow::{Context, Result, bail};
use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use super::{BenchLab, cgroup2, header, stats::Spread};
use crate::sh;

const ROUNDS: usize = 15;
const ROUND_MS: u32 = 200;
const PORT: u16 = 7000;
const SERVICES: [usize; 3] = [1, 1000, 10_000];
/// Endpoints of each Service that is only there.
const ENDPOINTS: usize = 10;

/// Server on node1, clients on node1 and node2.
const PODS: &str = "\
{apiVersion: v1, kind: Pod, metadata: {name: server, labels: {app: server}}, spec: {nodeName: node1, containers: [{name: c, image: x, command: [sleep, infinity]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: near}, spec: {nodeName: node1, containers: [{name: c, image: x, command: [sleep, infinity]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: far}, spec: {nodeName: node2, containers: [{name: c, image: x, command: [sleep, infinity]}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: server}, spec: {clusterIP: 10.96.77.77, selector: {app: server}, ports: [{port: 7000}]}}
";

/// A worker process in a pod.
pub(super) struct Worker(pub Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the benchmark.
pub fn run() -> Result<()> {
    let lab = BenchLab::new()?;
    header("services");
    lab.run(&["up"], &["--nodes", "2", "--ip-family", "ipv4"])?;
    lab.apply(PODS)?;
    lab.wait_ready(3)?;
    let server_ip = pod(&lab, "server")?.ip;
    let _server = worker(&lab, "server", &["serve"], &[&PORT.to_string()])?;
    println!(
        "{ROUNDS} interleaved rounds of {ROUND_MS} ms; ratios to direct, median [95 % of rounds]"
    );
    println!("{:<44} {:<22} {:<22}", "", "A/A control", "ClusterIP");
    lab.apply(&others())?;
    lab.wait_ready(3 + ENDPOINTS)?;
    let mut there = 1;
    for services in SERVICES {
        if services > there {
            lab.apply(&more_services(there, services))?;
        }
        wait_programmed(&lab, services)?;
        there = services;
        for client in ["near", "far"] {
            measure(&lab, client, &server_ip, services)?;
        }
    }
    drop(lab);
    let me = super::me();
    sh::run("bench-netfilter", sh::as_root(&me).arg("bench-netfilter"))
}

/// The endpoints of the other Services.
fn others() -> String {
    let mut out = String::new();
    for i in 0..ENDPOINTS {
        let _ = writeln!(
            out,
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: other{i}, labels: {{app: other}}}}, spec: {{nodeName: node{}, containers: [{{name: c, image: x, command: [sleep, infinity]}}]}}}}",
            i % 2 + 1
        );
    }
    out
}

fn more_services(from: usize, to: usize) -> String {
    let mut out = String::new();
    for i in from..to {
        let _ = writeln!(
            out,
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: s{i}}}, spec: {{selector: {{app: other}}, ports: [{{port: 7000}}]}}}}"
        );
    }
    out
}

/// Waits until the agents of both nodes have so many frontends, all with backends.
fn wait_programmed(lab: &BenchLab, services: usize) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(300);
    for node in ["node1", "node2"] {
        let path = PathBuf::from("/run/weft").join(&lab.name).join(node).join("agent.sock");
        loop {
            let counts = agent_counts(&path)?;
            let count = |what: &str| counts[what].as_u64().unwrap_or(0) as usize;
            if count("frontends") >= services && count("withoutBackends") == 0 {
                break;
            }
            if Instant::now() > deadline {
                bail!("{services} Services are not programmed on {node}: {counts}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// What the agent says of its service stage. Needs root.
fn agent_counts(path: &Path) -> Result<serde_json::Value> {
    let socket = UnixStream::connect(path).context("connect to the agent, as root")?;
    (&socket).write_all(b"{\"op\":\"status\"}\n").context("ask the agent")?;
    let mut line = String::new();
    BufReader::new(&socket).read_line(&mut line).context("read the agent's answer")?;
    let answer: serde_json::Value = serde_json::from_str(&line).context("decode the answer")?;
    Ok(answer["status"]["stages"]["services"]["counts"].clone())
}

fn measure(lab: &BenchLab, client: &str, server_ip: &str, services: usize) -> Result<()> {
    let mut load = worker(lab, client, &["load"], &[])?;
    let mut input = load.0.stdin.take().context("invariant: stdin is piped")?;
    let mut output = BufReader::new(load.0.stdout.take().context("invariant: stdout is piped")?);
    let mut ask = |kind: &str, ip: &str| -> Result<f64> {
        writeln!(input, "{kind} {ROUND_MS} {ip}:{PORT}").context("ask worker")?;
        let mut line = String::new();
        output.read_line(&mut line).context("read worker")?;
        line.trim().parse().context("the worker ended")
    };
    let place = if client == "near" { "same node" } else { "other node, VXLAN" };
    for kind in ["rr", "crr", "first", "stream"] {
        let (mut control, mut cluster_ip, mut direct_all) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let direct = ask(kind, server_ip)?;
            let again = ask(kind, server_ip)?;
            let service = ask(kind, "10.96.77.77")?;
            // The first round warms up.
            if round > 0 {
                control.push(again / direct);
                cluster_ip.push(service / direct);
                direct_all.push(direct);
            }
        }
        let (control, cluster_ip) = (Spread::of(&control), Spread::of(&cluster_ip));
        let verdict = if cluster_ip.median < control.low { "  below the control" } else { "" };
        let what = format!("{kind:<7} {place:<20} {services:>5} Services");
        let rate = Spread::of(&direct_all).median;
        let unit = if kind == "stream" {
            format!("direct {:.1} Gbit/s", rate * 8.0 / 1e9)
        } else {
            format!("direct {rate:.0}/s")
        };
        println!(
            "{what:<44} {control:<22} {cluster_ip:<22} {unit}{verdict}",
            control = control.to_string(),
            cluster_ip = cluster_ip.to_string()
        );
    }
    Ok(())
}

pub(super) struct PodAt {
    pub ip: String,
    netns: PathBuf,
    cgroup: PathBuf,
}

pub(super) fn pod(lab: &BenchLab, name: &str) -> Result<PodAt> {
    let status = lab.status()?;
    let pods = status["pods"].as_array().cloned().unwrap_or_default();
    let pod = pods.iter().find(|p| p["name"] == name).context("the pod is gone")?;
    let text = |field: &str| pod[field].as_str().unwrap_or_default().to_owned();
    let (node, uid) = (text("node"), text("uid"));
    let dir = PathBuf::from("/run/weft").join(&lab.name).join(&node).join("pods").join(&uid);
    Ok(PodAt {
        ip: pod["ips"][0].as_str().context("the pod has no address")?.to_owned(),
        netns: dir.join("netns"),
        cgroup: cgroup2()?.join(format!("weft.{}/{node}/pods/{uid}/bench", lab.name)),
    })
}

pub(super) fn worker(
    lab: &BenchLab,
    name: &str,
    before: &[&str],
    after: &[&str],
) -> Result<Worker> {
    let pod = pod(lab, name)?;
    let me = super::me();
    let mut command = sh::as_root("/usr/bin/nsenter".as_ref());
    command
        .arg(format!("--net={}", pod.netns.display()))
        .arg(me)
        .arg("bench-worker")
        .args(before)
        .arg(&pod.cgroup)
        .args(after)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("start a worker")?;
    if before == ["serve"] {
        let mut line = String::new();
        let output = child.stdout.as_mut().context("invariant: stdout is piped")?;
        BufReader::new(output).read_line(&mut line).context("wait for the server")?;
    }
    Ok(Worker(child))
}
