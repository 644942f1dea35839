//! Policies: what they cost packets, with none to 10,000 of them selecting both ends, on one node
//! and across nodes, beside a ruleset of the same policies (`policy/rules.rs`); how long a change
//! takes to be enforced; what planning takes and keeps (`crates/weft-policy/examples/policy-load`).

pub mod rules;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Write},
    process::{ChildStdin, ChildStdout, Stdio},
    time::{Duration, Instant},
};

use super::{
    BenchLab, header,
    services::{Worker, pod, worker},
    stats::Spread,
};
use crate::{setup, sh};

const ROUNDS: usize = 7;
const ROUND_MS: u32 = 120;
const PORT: u16 = 7000;
const POLICIES: [usize; 4] = [0, 100, 1_000, 10_000];
/// Changes whose enforcement is waited for.
const TURNS: usize = 20;
/// A port that is opened when everything before it is in force.
const MARK: u16 = 7100;

/// The ends that policies select and those that nobody does; both bear flows from the first
/// packet on.
fn pods() -> String {
    let mut all = String::new();
    for (name, node) in [("server", "node1"), ("near", "node1"), ("far", "node2")] {
        for (prefix, judged) in [("free", "no"), ("judged", "yes")] {
            let _ = writeln!(
                all,
                "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {prefix}-{name}, labels: {{judged: '{judged}'}}}}, spec: {{nodeName: {node}, containers: [{{name: c, image: x, command: [sleep, infinity]}}]}}}}"
            );
        }
    }
    all
}

/// A policy that lets the pods of a group in and out, at a port of its own.
fn policy(name: &str, group: &str, port: usize) -> String {
    format!(
        "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}}}, spec: {{podSelector: {{matchLabels: {{judged: 'yes'}}}}, policyTypes: [Ingress, Egress], ingress: [{{from: [{{podSelector: {{matchLabels: {{{group}}}}}}}], ports: [{{port: {port}}}]}}], egress: [{{to: [{{podSelector: {{matchLabels: {{{group}}}}}}}], ports: [{{port: {port}}}]}}]}}}}\n"
    )
}

/// The `n`th policy: every one is about a group of pods and a port of its own, but the first,
/// which lets in what is measured.
fn nth(n: usize) -> String {
    match n {
        0 => policy("p0", "judged: 'yes'", PORT.into()),
        n => policy(&format!("p{n}"), &format!("group: g{}", n % 500), 10_000 + n),
    }
}

/// Runs the benchmark.
pub fn run() -> Result<()> {
    let load = setup::example("policy-load")?;
    let lab = BenchLab::new()?;
    header("policy");
    println!("load average {}", std::fs::read_to_string("/proc/loadavg")?.trim());
    planning(&load)?;
    lab.run(&["up"], &["--nodes", "2", "--ip-family", "ipv4"])?;
    lab.apply(&pods())?;
    lab.wait_ready(6)?;
    let ends = Ends::new(&lab)?;
    println!(
        "\n{ROUNDS} interleaved rounds of {ROUND_MS} ms; ratios to pods that no policy selects, \
         median [95 % of rounds]\n{:<44} {:<22} {:<22}",
        "", "A/A control", "selected"
    );
    let mut there = 0;
    for policies in POLICIES {
        let begin = Instant::now();
        if policies > there {
            lab.apply(&(there..policies).map(nth).collect::<String>())?;
            in_force(&lab, &ends, policies)?;
        }
        there = policies;
        let took = begin.elapsed().as_secs_f64();
        println!("{policies} policies, applied and in force after {took:.1} s");
        for place in ["near", "far"] {
            ends.measure(&lab, place)?;
        }
    }
    events(&lab, &ends)?;
    enforcement(&lab, &ends, there)?;
    drop(lab);
    sh::run("bench-policy-rules", sh::as_root(&super::me()).arg("bench-policy-rules"))
}

/// Two servers, and where they are.
struct Ends {
    free: String,
    judged: String,
    _servers: [Worker; 2],
}

/// A client's process, and what it is asked by.
struct Load {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _worker: Worker,
}

impl Load {
    fn new(lab: &BenchLab, name: &str) -> Result<Self> {
        let mut worker = worker(lab, name, &["load"], &[])?;
        let input = worker.0.stdin.take().context("invariant: stdin is piped")?;
        let output = worker.0.stdout.take().context("invariant: stdout is piped")?;
        Ok(Self { input, output: BufReader::new(output), _worker: worker })
    }

    fn ask(&mut self, kind: &str, ip: &str) -> Result<f64> {
        writeln!(self.input, "{kind} {ROUND_MS} {ip}:{PORT}").context("ask worker")?;
        let mut line = String::new();
        self.output.read_line(&mut line).context("read worker")?;
        line.trim().parse().with_context(|| format!("{kind} to {ip}: the worker ended"))
    }
}

impl Ends {
    fn new(lab: &BenchLab) -> Result<Self> {
        let port = PORT.to_string();
        let serve = |name| worker(lab, name, &["serve"], &[&port]);
        Ok(Self {
            free: pod(lab, "free-server")?.ip,
            judged: pod(lab, "judged-server")?.ip,
            _servers: [serve("free-server")?, serve("judged-server")?],
        })
    }

    /// Both ends selected against neither.
    fn measure(&self, lab: &BenchLab, place: &str) -> Result<()> {
        let mut free = Load::new(lab, &format!("free-{place}"))?;
        let mut judged = Load::new(lab, &format!("judged-{place}"))?;
        let what = if place == "near" { "same node" } else { "other node, VXLAN" };
        for kind in ["rr", "crr", "stream"] {
            let (mut control, mut ratios, mut rates) = (Vec::new(), Vec::new(), Vec::new());
            for round in 0..=ROUNDS {
                let plain = free.ask(kind, &self.free)?;
                let selected = judged.ask(kind, &self.judged)?;
                let again = free.ask(kind, &self.free)?;
                // The first round warms up.
                if round > 0 {
                    // What drifts does so between the first and the last: they are the measure.
                    let both = (plain + again) / 2.0;
                    control.push(again / plain);
                    ratios.push(selected / both);
                    rates.push(plain);
                }
            }
            row(&format!("  {kind:<7} {what}"), &control, &ratios, &unit(kind, &rates));
        }
        Ok(())
    }
}

fn unit(kind: &str, rates: &[f64]) -> String {
    let rate = Spread::of(rates).median;
    match kind {
        "stream" => format!("{:.1} Gbit/s", rate * 8.0 / 1e9),
        _ => format!("{rate:.0}/s"),
    }
}

fn row(what: &str, control: &[f64], ratios: &[f64], unit: &str) {
    let (control, ratios) = (Spread::of(control), Spread::of(ratios));
    let verdict = if ratios.median < control.low { "  below the control" } else { "" };
    println!("{what:<44} {:<22} {:<22} {unit}{verdict}", control.to_string(), ratios.to_string());
}

/// What a pod hears when it knocks: a refusal is a packet that came through.
fn passes(lab: &BenchLab, from: &str, to: &str, port: u16) -> Result<bool> {
    let script = format!("timeout 1 bash -c 'echo > /dev/tcp/{to}/{port}' 2>&1");
    let mut command = lab.command(&["exec"], &[from, "--", "bash", "-c", &script]);
    let out = sh::output("weft lab exec", &mut command)?;
    Ok(out.status.success() || String::from_utf8_lossy(&out.stdout).contains("refused"))
}

/// Opens another port with a policy that is applied last, and waits until it is open on both
/// nodes: watches deliver in order, and agents apply whole pictures.
fn in_force(lab: &BenchLab, ends: &Ends, policies: usize) -> Result<()> {
    let port = MARK + (policies % 97) as u16;
    lab.apply(&policy("mark", "judged: 'yes'", port.into()))?;
    let deadline = Instant::now() + Duration::from_secs(60);
    for from in ["judged-near", "judged-far"] {
        while !passes(lab, from, &ends.judged, port)? {
            if Instant::now() > deadline {
                bail!("{policies} policies are not in force after a minute");
            }
        }
    }
    // Without a verdict there is nothing to measure.
    if passes(lab, "free-near", &ends.judged, PORT)? {
        bail!("a pod that no policy lets in came in");
    }
    Ok(())
}

/// What it costs that somebody reads the verdicts.
fn events(lab: &BenchLab, ends: &Ends) -> Result<()> {
    println!("events read, ratio to not read");
    for kind in ["rr", "crr"] {
        let mut client = Load::new(lab, "judged-near")?;
        let (mut control, mut ratios, mut rates) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let before = client.ask(kind, &ends.judged)?;
            let again = client.ask(kind, &ends.judged)?;
            let mut reader = sh::as_root(&lab.weft);
            reader.args(["flows", "-f", "-o", "json", "--name", &lab.name]);
            let reader = reader.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut reader = Worker(reader.spawn().context("read flows")?);
            // It reads once it was asked to; the first measure is not counted.
            client.ask(kind, &ends.judged)?;
            let read = client.ask(kind, &ends.judged)?;
            if reader.0.try_wait().context("look at the reader")?.is_some() {
                println!("  not measured: weft flows ended");
                return Ok(());
            }
            control.push(again / before);
            ratios.push(read / ((before + again) / 2.0));
            rates.push(before);
        }
        row(&format!("  {kind:<7} same node"), &control, &ratios, &unit(kind, &rates));
    }
    Ok(())
}

/// From the answer of the API to a packet that fares as it now should.
fn enforcement(lab: &BenchLab, ends: &Ends, policies: usize) -> Result<()> {
    let mut delays = Vec::with_capacity(TURNS);
    let mut prober = Prober::new(lab, "judged-near")?;
    for turn in 0..TURNS {
        let port = MARK + 100 + turn as u16;
        lab.apply(&policy("turned", "judged: 'yes'", port.into()))?;
        let begin = Instant::now();
        while !prober.passes(&ends.judged, port)? {
            if begin.elapsed() > Duration::from_secs(20) {
                bail!("turn {turn} is not enforced");
            }
        }
        delays.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    println!(
        "one policy of {policies} changed, API's answer to first packet, N={TURNS}: {} ms",
        Spread::of(&delays)
    );
    Ok(())
}

/// A process in a pod that knocks, so that no start of one is measured.
struct Prober(Load);

impl Prober {
    fn new(lab: &BenchLab, name: &str) -> Result<Self> {
        Ok(Self(Load::new(lab, name)?))
    }

    fn passes(&mut self, ip: &str, port: u16) -> Result<bool> {
        writeln!(self.0.input, "knock 2 {ip}:{port}").context("ask worker")?;
        let mut line = String::new();
        self.0.output.read_line(&mut line).context("read worker")?;
        Ok(line.trim() == "1")
    }
}

/// What the planner takes and keeps.
fn planning(load: &std::path::Path) -> Result<()> {
    let out = sh::output("policy-load", &mut sh::command(load))?;
    if !out.status.success() {
        bail!("policy-load: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    for line in String::from_utf8_lossy(&out.stdout).lines() {
        let value: Value = serde_json::from_str(line).context("decode a figure")?;
        let name = value["name"].as_str().context("a figure without a name")?;
        let values = value["values"].as_array().context("a figure without values")?;
        let values: Vec<f64> = values.iter().filter_map(Value::as_f64).collect();
        println!("{name:<60} N={:<4} {}", values.len(), Spread::of(&values));
    }
    Ok(())
}
