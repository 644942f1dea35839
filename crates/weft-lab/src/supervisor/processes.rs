//! Keeps the agent and the kubelet of every node running, each in its node's network
//! namespace and cgroup.

use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weft_controlplane::write_atomic;

use crate::{
    config::Config,
    nodes::Place,
    paths::LabPaths,
    proc::{CgroupMounts, ProcessId},
    topology::{Host, Topology},
};

/// First pause before a process that ended is started again; doubles up to the last.
const RESTART_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(5);
/// A process that lived this long starts again at the first pause.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// One process of a node.
struct Job {
    /// `agent` or `kubelet`; names its log and its PID file.
    role: &'static str,
    node: String,
    dir: PathBuf,
    place: Place,
    args: Vec<String>,
}

/// Starts, or adopts, two processes a node and watches over them.
pub fn start_all(
    paths: &LabPaths,
    config: &Config,
    topology: &Topology,
    cancel: &CancellationToken,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let cgroup2 = CgroupMounts::find()?.unified;
    for host in &topology.nodes {
        for job in [agent(paths, &cgroup2, config, host), kubelet(paths, config, topology, host)] {
            let cancel = cancel.clone();
            tasks.spawn(async move { keep(job, cancel).await });
        }
    }
    Ok(())
}

fn job(paths: &LabPaths, host: &Host, role: &'static str, args: Vec<String>) -> Job {
    Job {
        role,
        node: host.name.clone(),
        dir: paths.node(&host.name),
        place: Place {
            netns: paths.netns(&host.name),
            cgroup: Some(paths.node_cgroup(&host.name).join("system")),
        },
        args,
    }
}

fn list(items: impl IntoIterator<Item = impl ToString>) -> String {
    items.into_iter().map(|i| i.to_string()).collect::<Vec<_>>().join(",")
}

fn agent(paths: &LabPaths, cgroup2: &Path, config: &Config, host: &Host) -> Job {
    let dir = paths.node(&host.name);
    let args = [
        "agent".to_owned(),
        format!("--node={}", host.name),
        format!("--kubeconfig={}", dir.join("kubeconfig").display()),
        format!("--state-dir={}", dir.display()),
        format!("--bpf-dir={}", paths.bpf().join(&host.name).display()),
        format!("--cgroup={}", cgroup2.join(paths.node_cgroup(&host.name)).display()),
        format!("--network={}", config.network.as_str()),
        format!("--service-cidr={}", list(&config.service_cidrs)),
    ];
    job(paths, host, "agent", args.into())
}

fn kubelet(paths: &LabPaths, config: &Config, topology: &Topology, host: &Host) -> Job {
    let dir = paths.node(&host.name);
    let zone = &topology.zones[host.zone].name;
    let mut args = vec![
        "lab-kubelet".to_owned(),
        format!("--node={}", host.name),
        format!("--kubeconfig={}", dir.join("kubeconfig").display()),
        format!("--dir={}", dir.display()),
        format!("--volumes={}", paths.volumes().display()),
        format!("--cgroup={}", paths.node_cgroup(&host.name).display()),
        format!("--cluster-dns={}", list(config.cluster_dns())),
        format!("--node-ip={}", list(host.addresses.iter().map(|a| a.addr()))),
        format!("--node-labels=topology.kubernetes.io/zone={zone}"),
    ];
    if config.allow_privileged {
        args.push("--allow-privileged".into());
    }
    job(paths, host, "kubelet", args)
}

/// Runs one process for ever.
async fn keep(job: Job, cancel: CancellationToken) -> Result<()> {
    let mut pause = RESTART_PAUSE;
    if let Some(adopted) = job.adopt() {
        tracing::info!(node = job.node, role = job.role, pid = adopted.pid, "adopted");
        while adopted.alive() {
            // Not our child: there is no exit status to wait for.
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
            }
        }
        tracing::warn!(node = job.node, role = job.role, "ended");
    }
    loop {
        let started = Instant::now();
        let ended = match job.start() {
            Ok(mut child) => tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                status = child.wait() => status.map_or_else(|e| e.to_string(), |s| s.to_string()),
            },
            // A full disk, say: the lab goes on, and so do we.
            Err(e) => format!("not started: {e:#}"),
        };
        if started.elapsed() > HEALTHY_AFTER {
            pause = RESTART_PAUSE;
        }
        tracing::warn!(node = job.node, role = job.role, ended, ?pause, "starting again");
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(RESTART_PAUSE_MAX);
    }
}

impl Job {
    fn pid_file(&self) -> PathBuf {
        self.dir.join(format!("{}.pid", self.role))
    }

    /// The process that an earlier supervisor left, if it lives.
    fn adopt(&self) -> Option<ProcessId> {
        let id: ProcessId = serde_json::from_slice(&fs::read(self.pid_file()).ok()?).ok()?;
        id.alive().then_some(id)
    }

    fn start(&self) -> Result<tokio::process::Child> {
        let path = self.dir.join(format!("{}.log", self.role));
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        let mut command = self.place.command("/proc/self/exe".as_ref())?;
        command
            .args(&self.args)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("duplicate log")?)
            .stderr(log);
        let mut command = tokio::process::Command::from(command);
        // A supervisor that ends leaves its nodes running: the next one adopts them.
        command.kill_on_drop(false);
        let child = command.spawn().context("spawn")?;
        if let Some(id) = child.id().and_then(|pid| ProcessId::of(pid as i32).ok()) {
            write_atomic(&self.pid_file(), &serde_json::to_vec(&id)?, 0o600)?;
        }
        Ok(child)
    }
}
