//! `cargo xtask bench …`: ratios against a peer or a physical limit, measured side by side in
//! one run, interleaved, as medians with their spread and an A/A control beside them.

mod apiserver;
mod lab_start;
pub mod netfilter;
pub mod policy;
mod program;
mod services;
mod stats;
pub mod worker;

use anyhow::{Context, Result, bail};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::{setup, sh};

/// Runs a benchmark by name.
pub fn run(what: &str) -> Result<()> {
    match what {
        "apiserver" => apiserver::run(),
        "lab-start" => lab_start::run(),
        "policy" => policy::run(),
        "program" => program::run(),
        "services" => services::run(),
        other => {
            bail!(
                "unknown benchmark '{other}': use apiserver, lab-start, policy, program or services"
            )
        }
    }
}

/// This program, for workers inside namespaces. Not by its path: building the workspace may have
/// put another file there.
fn me() -> PathBuf {
    format!("/proc/{}/exe", std::process::id()).into()
}

/// A lab of the benchmark's own; taken down when dropped.
struct BenchLab {
    weft: PathBuf,
    name: String,
}

impl BenchLab {
    fn new() -> Result<Self> {
        setup::packages()?;
        let name = format!("bench{}", std::process::id() % 1_000_000);
        Ok(Self { weft: setup::build()?, name })
    }

    fn command(&self, words: &[&str], rest: &[&str]) -> Command {
        let mut c = sh::as_root(&self.weft);
        c.arg("lab").args(words).args(["--name", &self.name]).args(rest);
        c
    }

    fn run(&self, words: &[&str], rest: &[&str]) -> Result<String> {
        let out = sh::output("weft lab", &mut self.command(words, rest))?;
        if !out.status.success() {
            bail!("weft lab {words:?}: {}", String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    fn apply(&self, manifest: &str) -> Result<()> {
        let path = std::env::temp_dir().join(format!("{}.yaml", self.name));
        std::fs::write(&path, manifest).context("write manifest")?;
        let outcome = self.run(&["apply"], &["-f", &path.display().to_string()]);
        let _ = std::fs::remove_file(&path);
        outcome.map(drop)
    }

    fn status(&self) -> Result<serde_json::Value> {
        let out = sh::output("weft lab status", &mut self.command(&["status"], &["-o", "json"]))?;
        serde_json::from_slice(&out.stdout).context("decode the lab's status")
    }

    /// Polls until `count` pods are Ready.
    fn wait_ready(&self, count: usize) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let status = self.status()?;
            let pods = status["pods"].as_array().cloned().unwrap_or_default();
            if pods.iter().filter(|p| p["ready"] == true).count() >= count {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{count} pods are not Ready: {pods:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for BenchLab {
    fn drop(&mut self) {
        let _ = self.command(&["down"], &[]).status();
    }
}

/// Machine and versions, at the head of every report.
fn header(what: &str) {
    let read = |p: &str| std::fs::read_to_string(p).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model =
        cpu.lines().find_map(|l| l.strip_prefix("model name\t: ")).unwrap_or("?").to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let commit = sh::output("git", sh::command("git").args(["rev-parse", "--short", "HEAD"]))
        .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
        .unwrap_or_default();
    println!("cargo xtask bench {what}");
    println!("kernel {}, {model}, {cores} cores, weft {commit}, dev profile\n", kernel.trim());
}

/// The cgroup2 mount point.
fn cgroup2() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
    let line = mounts.lines().find(|l| l.split(' ').nth(2) == Some("cgroup2"));
    let at = line.and_then(|l| l.split(' ').nth(1)).context("no cgroup2 is mounted")?;
    Ok(Path::new(at).to_owned())
}
