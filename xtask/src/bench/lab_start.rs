//! From `weft lab up --nodes 3` to its return, to the first pod Ready, and to the first HTTP
//! answer by Service name; and the memory of the whole lab.

use anyhow::{Context, Result};
use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::{BenchLab, cgroup2, header, stats::Spread};
use crate::sh;

const ROUNDS: usize = 10;

const APP: &str = "\
{apiVersion: v1, kind: Pod, metadata: {name: web, labels: {app: web}}, spec: {containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: asker}, spec: {containers: [{name: c, image: x, command: [sleep, infinity]}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80}]}}
";

/// Runs the benchmark.
pub fn run() -> Result<()> {
    let lab = BenchLab::new()?;
    header("lab-start");
    let (mut up, mut ready, mut answer, mut memory) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        let started = Instant::now();
        lab.run(&["up"], &["--nodes", "3"])?;
        up.push(started.elapsed().as_secs_f64());
        lab.apply(APP)?;
        lab.wait_ready(1)?;
        ready.push(started.elapsed().as_secs_f64());
        first_answer(&lab)?;
        answer.push(started.elapsed().as_secs_f64());
        memory.push(memory_mib(&lab.name)?);
        lab.run(&["down"], &[])?;
    }
    println!("seconds from `weft lab up --nodes 3`, {ROUNDS} rounds, median [95 % of rounds]");
    println!("  its return                           {}", Spread::of(&up));
    println!("  first pod Ready                      {}", Spread::of(&ready));
    println!("  first HTTP answer by Service name    {}", Spread::of(&answer));
    println!("  memory of the whole lab (PSS), MiB   {}", Spread::of(&memory));
    println!("published anchors for an application's first answer: k3d 19.9 s, kind 33.0 s");
    Ok(())
}

fn first_answer(lab: &BenchLab) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let rest = ["asker", "--", "curl", "-sf", "-m", "1", "-o", "/dev/null", "http://web/"];
        let out = sh::output("weft lab exec", &mut lab.command(&["exec"], &rest))?;
        if out.status.success() {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "no answer by Service name");
    }
}

/// Proportional set size of every process in the lab's cgroups.
fn memory_mib(name: &str) -> Result<f64> {
    let mut kib = 0;
    for pid in pids(&cgroup2()?.join(format!("weft.{name}"))) {
        let rollup =
            std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let pss = rollup.lines().find_map(|l| l.strip_prefix("Pss:"));
        kib += pss
            .and_then(|p| p.trim().trim_end_matches(" kB").trim().parse::<u64>().ok())
            .unwrap_or(0);
    }
    anyhow::ensure!(kib > 0, "no process of the lab was found (run as root)");
    Ok(kib as f64 / 1024.0)
}

fn pids(dir: &Path) -> Vec<String> {
    let procs = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let mut all: Vec<String> = procs.lines().map(str::to_owned).collect();
    for entry in std::fs::read_dir(dir).context("read cgroup").into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            all.extend(pids(&entry.path()));
        }
    }
    all
}
