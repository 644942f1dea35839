//! The lab's kubelet: pods from the API to sandboxes, probes, logs and exec.
//!
//! One process per virtual node, inside the node's network namespace.
//!
//! ```text
//! API ──watch──> pods ──> one worker a pod ── plan(pod, observed, now) ──> actions
//!                            ▲                                              │
//!                            └───── messages ── tasks (sandbox, CNI, start, stop, probe)
//! worker ──> status patches, Events, state file, table of the HTTP server (kubelet.sock)
//! ```
//!
//! Invariants:
//! - a pod's state has one writer, its worker; what takes time is a task that ends in a message;
//! - [`plan`] is pure and sees everything under way, so planning again never does a thing twice;
//! - nothing of a pod that the API does not list is touched before the first list is complete;
//! - containers outlive the kubelet: a new one adopts what its state files and the sandboxes say;
//! - an API object is deleted only when its network, sandbox and last status are done.
//!
//! Deliberately not known here: how the network is made (the CNI plugin's matter), how a
//! container is confined (the sandbox's), images.

#![forbid(unsafe_code)]

mod args;
mod atomic;
mod backoff;
mod beneath;
mod check;
mod claims;
mod cni;
mod ctx;
mod env;
mod error;
mod events;
mod fields;
mod files;
mod logs;
mod node;
mod payload;
mod plan;
mod probe;
mod prober;
mod program;
mod publish;
mod quantity;
mod record;
mod server;
mod sources;
mod spdy;
mod start;
mod state;
mod status;
mod tasks;
mod volumes;
mod watches;
mod worker;

pub use args::Args;
pub use error::Error;

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// Sandboxes and containers that are made at the same time.
const SLOTS: usize = 4;

/// The kubelet before this one gets so long to end.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Runs the kubelet of one node until SIGTERM; containers go on running without it.
pub fn run(args: Args) -> anyhow::Result<()> {
    // A worker that panicked would leave its pod alone: the whole process starts again instead,
    // and adopts what runs.
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        told(info);
        std::process::exit(101);
    }));
    // Held until the process ends, however it ends.
    let _lock = lock(&args.dir, LOCK_PATIENCE)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let kubeconfig = kube::config::Kubeconfig::read_from(&args.kubeconfig)
        .with_context(|| format!("read {}", args.kubeconfig.display()))?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .context("kubeconfig")?;
    // What is before the slash becomes the manager of the fields that it writes.
    let agent = http::HeaderValue::from_static("kubelet/v1.35.0");
    config.headers.push((http::header::USER_AGENT, agent));
    let client = kube::Client::try_from(config).context("client of the API")?;
    let mut node_ips = args.node_ip.clone();
    if node_ips.is_empty() {
        node_ips = node::addresses()?;
    }
    let primary_v6 =
        args.cluster_dns.first().or(node_ips.first()).is_some_and(std::net::IpAddr::is_ipv6);
    node_ips.sort_by_key(|ip| ip.is_ipv6() != primary_v6);
    let cni = cni::Cni { conf: args.dir.join("cni/net.d"), bin: args.dir.join("cni/bin") };
    let resources = node::resources();
    let facts = node::Facts {
        name: args.node.clone(),
        ips: node_ips.clone(),
        labels: node::labels(&args.node_labels)?,
        resources: resources.clone(),
    };
    let (services_tx, services) = tokio::sync::watch::channel(None);
    let ctx = Arc::new(ctx::Ctx {
        events: events::Events::start(client.clone(), args.node.clone()),
        runtime: weft_sandbox::Runtime::current_exe().context("the sandbox's helper")?,
        cni: cni.clone(),
        node_ips,
        primary_v6,
        allocatable: resources,
        dns: files::DnsConfig {
            cluster: args.cluster_dns.clone(),
            domain: args.cluster_domain.clone(),
            node: std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
        },
        services,
        slots: tokio::sync::Semaphore::new(SLOTS),
        pods: Mutex::new(HashMap::new()),
        root_ca: Mutex::new(HashMap::new()),
        client: client.clone(),
        args,
    });
    // Environments and mounted Secrets are kept there.
    private(&ctx.args.dir.join("kubelet"))?;
    let socket = server::bind(&ctx.args.dir.join("kubelet.sock"))?;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(node::run(client.clone(), facts, cni));
    tasks.spawn(node::lease(client.clone(), ctx.args.node.clone()));
    tasks.spawn(watches::services(client, services_tx));
    tasks.spawn(watches::pods(Arc::clone(&ctx)));
    tasks.spawn(server::serve(Arc::clone(&ctx), socket));
    tokio::select! {
        _ = term.recv() => Ok(()),
        ended = tasks.join_next() => {
            // None of them ends by itself.
            anyhow::bail!("a part of the kubelet ended: {ended:?}")
        }
    }
}

/// Makes this the only kubelet of its directory: two would take each other's sandboxes for those
/// of pods that are gone.
fn lock(dir: &Path, patience: Duration) -> anyhow::Result<Flock<File>> {
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let path = dir.join("kubelet.lock");
    let mut file = File::options().create(true).truncate(false).write(true).open(&path);
    let start = Instant::now();
    loop {
        let open = file.with_context(|| format!("open {}", path.display()))?;
        file = match Flock::lock(open, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((open, Errno::EAGAIN | Errno::EINTR)) if start.elapsed() < patience => Ok(open),
            Err((_, Errno::EAGAIN)) => {
                anyhow::bail!("another kubelet runs in {}: it holds kubelet.lock", dir.display())
            }
            Err((_, e)) => return Err(e).with_context(|| format!("lock {}", path.display())),
        };
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Makes a directory that only root enters.
fn private(dir: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
        .with_context(|| format!("set the mode of {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_kubelet_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = lock(dir.path(), Duration::ZERO).unwrap();
        let e = lock(dir.path(), Duration::from_millis(30)).unwrap_err().to_string();
        assert!(e.contains("another kubelet") && e.contains(dir.path().to_str().unwrap()), "{e}");
        let path = dir.path().to_owned();
        let next = std::thread::spawn(move || lock(&path, Duration::from_secs(20)).map(drop));
        drop(first);
        next.join().unwrap().unwrap();
    }
}
