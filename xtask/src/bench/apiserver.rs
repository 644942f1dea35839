//! The embedded API: start, creates, lists, fan-out of watches, memory, restart. Beside each
//! figure what the machine itself takes for it: the same hyper and TLS with nothing behind them,
//! fdatasync, or starting a process. The load comes from a process of its own
//! (`crates/weft-apiserver/examples/apiserver-load`).

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Instant,
};

use super::{header, stats::Spread};
use crate::{setup, sh};

const ROUNDS: usize = 7;
const ROUND_MS: usize = 1500;
const CONNECTIONS: usize = 64;
const STARTS: usize = 15;
const PODS: usize = 10_000;
const SERVICES: usize = 10_000;
/// Of 100 endpoints each.
const SLICES: usize = 1_000;
const WATCHERS: usize = 1_000;
const EVENTS: usize = 100;
const EVENTS_PER_S: usize = 10;
const FAN_OUT_ROUNDS: usize = 3;
/// What one group commit of 64 writes is about long.
const SYNC_BYTES: usize = 64 << 10;
const SYNCS: usize = 200;

const JSON: &str = "application/json";
const TABLE: &str = "application/json;as=Table;g=meta.k8s.io;v=v1";
const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// Runs the benchmark.
pub fn run() -> Result<()> {
    let weft = setup::build()?;
    let load = setup::example("apiserver-load")?;
    header("apiserver");
    println!("load average {}", read("/proc/loadavg").trim());
    println!("medians [95 % of the samples]; rounds interleaved; the first of each is not counted");
    let mut bench = Bench::new(weft, &load)?;
    println!("\n{:<46} {:<28} beside it", "", "Weft");
    start(&mut bench)?;
    creates(&mut bench)?;
    lists(&mut bench)?;
    fan_out(&mut bench)?;
    memory_and_restart(&mut bench)
}

/// The load generator, and where its servers keep what they write.
struct Bench {
    weft: PathBuf,
    load: PathBuf,
    dir: PathBuf,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Bench {
    fn new(weft: PathBuf, load: &Path) -> Result<Self> {
        // A disk and not a tmpfs, whose fdatasync does nothing.
        let dir = sh::root().join(format!("target/bench-apiserver-{}", std::process::id()));
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let mut command = sh::command(load);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).env("WEFT_LOG", "error");
        let mut child = command.spawn().context("start the load generator")?;
        let input = child.stdin.take().context("invariant: stdin is piped")?;
        let output = child.stdout.take().context("invariant: stdout is piped")?;
        let load = load.to_owned();
        Ok(Self { weft, load, dir, child, input, output: BufReader::new(output) })
    }

    fn ask(&mut self, command: &str) -> Result<Value> {
        writeln!(self.input, "{command}").context("ask the load generator")?;
        let mut line = String::new();
        self.output.read_line(&mut line).context("read the load generator")?;
        let v: Value = serde_json::from_str(&line).context("the load generator ended")?;
        match v["error"].as_str() {
            Some(e) => bail!("{e}"),
            None => Ok(v),
        }
    }

    fn figure(&mut self, command: &str, field: &str) -> Result<f64> {
        let v = self.ask(command)?;
        v[field].as_f64().with_context(|| format!("{command}: no {field} in {v}"))
    }

    /// Starts a server and returns the milliseconds until its first answer.
    fn start(&mut self, name: &str, more: &str) -> Result<f64> {
        let (weft, dir) = (self.weft.display(), self.dir.display());
        let file = format!("{dir}/{name}.kubeconfig");
        let command = format!(
            "start {name} {file} {weft} apiserver --no-controllers --listen 127.0.0.1:0 \
             --kubeconfig {file} {more}"
        );
        self.figure(&command, "ms")
    }

    fn start_peer(&mut self) -> Result<f64> {
        let (load, dir) = (self.load.display(), self.dir.display());
        let file = format!("{dir}/peer.kubeconfig");
        let command = format!("start peer {file} {load} peer {file}");
        self.figure(&command, "ms")
    }

    fn data_dir(&self, name: &str) -> String {
        format!("--data-dir {}/{name}", self.dir.display())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Its servers end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn row(what: &str, ours: &str, beside: &str) {
    println!("{what:<46} {ours:<28} {beside}");
}

/// Process start to the first answer over TLS, in memory and on an empty directory.
fn start(bench: &mut Bench) -> Result<()> {
    let (mut memory, mut durable, mut peer, mut process) = (vec![], vec![], vec![], vec![]);
    for round in 0..=STARTS {
        let in_memory = bench.start("s", "")?;
        bench.ask("stop s")?;
        let more = format!("{} --durable", bench.data_dir(&format!("start{round}")));
        let on_disk = bench.start("s", &more)?;
        bench.ask("stop s")?;
        let bare = bench.start_peer()?;
        bench.ask("stop peer")?;
        let started = Instant::now();
        let mut version = Command::new(&bench.weft);
        version.arg("--version").stdout(Stdio::null());
        sh::run("weft --version", &mut version)?;
        if round > 0 {
            memory.push(in_memory);
            durable.push(on_disk);
            peer.push(bare);
            process.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    let (peer, process) = (Spread::of(&peer), Spread::of(&process));
    let beside = format!("bare hyper TLS server {peer}; `weft --version` {process}");
    row("start to first answer, in memory, ms", &Spread::of(&memory).to_string(), &beside);
    row("start to first answer, durable, ms", &Spread::of(&durable).to_string(), "");
    Ok(())
}

fn creates(bench: &mut Bench) -> Result<()> {
    bench.start("memory", "")?;
    let dir = bench.data_dir("journal");
    bench.start("journal", &dir)?;
    let dir = bench.data_dir("durable");
    bench.start("durable", &format!("{dir} --durable"))?;
    bench.start_peer()?;
    let names = ["memory", "journal", "durable", "peer"];
    let mut rates: [Vec<f64>; 4] = Default::default();
    let (mut p99, mut syncs) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let alone = fdatasync(&bench.dir)?;
        for (name, rates) in names.iter().zip(&mut rates) {
            let v = bench.ask(&format!("creates {name} {CONNECTIONS} {ROUND_MS}"))?;
            if round == 0 {
                continue;
            }
            rates.push(v["per_s"].as_f64().context("per_s")?);
            if *name == "durable" {
                p99.push(v["p99_ms"].as_f64().context("p99_ms")?);
                syncs.extend(&alone);
            }
        }
    }
    let [memory, journal, durable, peer] = rates.map(|r| Spread::of(&r));
    let rate = |s: Spread| format!("{:.0} [{:.0}, {:.0}]", s.median, s.low, s.high);
    let what = format!("creates/s, 1 KiB, {CONNECTIONS} connections");
    let beside = format!("bare hyper TLS echo {}", rate(peer));
    row(&format!("{what}, in memory"), &rate(memory), &beside);
    row(&format!("{what}, journal"), &rate(journal), "");
    let beside = format!("fdatasync of {} KiB {} ms", SYNC_BYTES >> 10, Spread::of(&syncs));
    row(&format!("{what}, durable"), &rate(durable), &beside);
    row("  p99 of a durable create, ms", &Spread::of(&p99).to_string(), "");
    names.iter().try_for_each(|n| bench.ask(&format!("stop {n}")).map(drop))
}

/// Milliseconds of each append with fdatasync, on the same file system.
fn fdatasync(dir: &Path) -> Result<Vec<f64>> {
    let path = dir.join("fdatasync");
    let mut file = File::create(&path).context("create a file to sync")?;
    let bytes = vec![b'x'; SYNC_BYTES];
    let mut all = Vec::new();
    for _ in 0..SYNCS / ROUNDS {
        let started = Instant::now();
        file.write_all(&bytes).and_then(|()| file.sync_data()).context("fdatasync")?;
        all.push(started.elapsed().as_secs_f64() * 1e3);
    }
    std::fs::remove_file(&path).context("remove the file to sync")?;
    Ok(all)
}

/// Whole lists of 10,000 pods, without compression, until the last byte.
fn lists(bench: &mut Bench) -> Result<()> {
    bench.start("s", "")?;
    bench.start_peer()?;
    bench.ask(&format!("pods s {PODS}"))?;
    for (what, accept) in [("JSON", JSON), ("PartialObjectMetadata", METADATA), ("Table", TABLE)] {
        let (mut ours, mut bare, mut bytes) = (Vec::new(), Vec::new(), 0);
        for round in 0..=ROUNDS {
            let v = bench.ask(&format!("list s /api/v1/pods {accept}"))?;
            if v["items"].as_u64() != Some(PODS as u64) {
                bail!("{what}: {} of {PODS} pods", v["items"]);
            }
            bytes = v["bytes"].as_u64().context("bytes")?;
            let peer = bench.figure(&format!("list peer /bytes/{bytes} {JSON}"), "ms")?;
            if round > 0 {
                ours.push(v["ms"].as_f64().context("ms")?);
                bare.push(peer);
            }
        }
        let beside = format!(
            "{:.1} MB from memory over hyper and TLS {}",
            bytes as f64 / 1e6,
            Spread::of(&bare)
        );
        let what = format!("list of {PODS} pods, {what}, ms");
        row(&what, &Spread::of(&ours).to_string(), &beside);
    }
    bench.ask("stop s")?;
    bench.ask("stop peer").map(drop)
}

fn fan_out(bench: &mut Bench) -> Result<()> {
    let dir = bench.data_dir("watch");
    bench.start("s", &dir)?;
    bench.start_peer()?;
    let mut all: [[Vec<f64>; 2]; 2] = Default::default();
    for _ in 0..FAN_OUT_ROUNDS {
        for (name, delays) in ["s", "peer"].iter().zip(&mut all) {
            let v = bench.ask(&format!("watch {name} {WATCHERS} {EVENTS} {EVENTS_PER_S}"))?;
            delays[0].push(v["p50_ms"].as_f64().context("p50_ms")?);
            delays[1].push(v["p99_ms"].as_f64().context("p99_ms")?);
        }
    }
    let [ours, bare] = all;
    for (what, (ours, bare)) in ["p50", "p99"].iter().zip(ours.iter().zip(&bare)) {
        let what = format!("{EVENTS_PER_S} events/s to {WATCHERS} TLS watchers, {what}, ms");
        let beside = format!("broadcast by bare hyper over TLS {}", Spread::of(bare));
        row(&what, &Spread::of(ours).to_string(), &beside);
    }
    bench.ask("stop s")?;
    bench.ask("stop peer").map(drop)
}

/// The state of a large cluster: what it takes in memory, and how soon it is back.
fn memory_and_restart(bench: &mut Bench) -> Result<()> {
    let more = bench.data_dir("large");
    bench.start("s", &more)?;
    let empty = bench.figure("rss s", "now")?;
    let mut bytes = bench.figure(&format!("services s {SERVICES}"), "bytes")?;
    bytes += bench.figure(&format!("slices s {SLICES}"), "bytes")?;
    let mib = |b: f64| format!("{:.0} MiB", b / f64::from(1 << 20));
    let filled = bench.figure("rss s", "now")?;
    let objects = (SERVICES + SLICES) as f64;
    row(
        &format!("{SERVICES} Services, {} endpoints, RSS", SLICES * 100),
        &format!("{}, {} peak", mib(filled), mib(bench.figure("rss s", "peak")?)),
        &format!("{} empty; {} as sent", mib(empty), mib(bytes)),
    );
    row("  for each object", &format!("{:.0} bytes", (filled - empty) / objects), "");
    let (mut restarts, mut after, mut reads) = (Vec::new(), 0.0, Vec::new());
    let journal = bench.dir.join("large/objects/journal-0000000001");
    for _ in 0..ROUNDS {
        bench.ask("kill s")?;
        restarts.push(bench.start("s", &more)?);
        after = bench.figure("rss s", "now")?;
        let started = Instant::now();
        let len = std::fs::read(&journal).map_or(0, |data| data.len());
        if len > 0 {
            reads.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    let beside = match reads.is_empty() {
        true => String::new(),
        false => format!("reading the file {} ms", Spread::of(&reads)),
    };
    row("  back after kill -9, ms", &Spread::of(&restarts).to_string(), &beside);
    row("  RSS then", &mib(after), "");
    bench.ask("stop s").map(drop)
}
