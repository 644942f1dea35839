//! The supervisor: one process per lab in the machine's own namespace. It holds the embedded
//! API and the cluster controllers, builds the underlay, and keeps every node's agent and
//! kubelet running.
//!
//! It may be killed at any time: the next `weft lab up` starts another one, which reloads the
//! API's journal, adopts the nodes' processes and goes on.

mod cluster;
mod files;
mod processes;
mod report;
mod volumes;

use anyhow::{Context, Result};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use weft_controlplane::ControlPlane;
use weft_model::LabName;

use crate::{
    config::{self, Network},
    paths::LabPaths,
    proc::ProcessId,
    state::LabState,
    topology::{self, API_PORT, Topology},
    underlay,
};

/// How long the nodes may take to become Ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Arguments of `weft lab-supervisor`, which `weft lab up` starts.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of all labs' state
    #[arg(long)]
    state_dir: PathBuf,
    /// Name of the lab
    #[arg(long)]
    name: LabName,
}

/// Runs until it is told to end.
pub fn run(args: &Args) -> Result<()> {
    let report = report::Report::from_environment();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start runtime")?;
    let paths = LabPaths::new(&args.state_dir, &args.name);
    let outcome = runtime.block_on(supervise(&paths, report.clone()));
    if let Err(e) = &outcome {
        tracing::error!("{e:#}");
        report.failed(e);
    }
    outcome
}

async fn supervise(paths: &LabPaths, report: report::Report) -> Result<()> {
    let started = Instant::now();
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut state = LabState::read(paths)?.context("lab.json is missing")?;
    state.supervisor = Some(ProcessId::of(std::process::id() as i32)?);
    state.write(paths)?;
    let topology = Arc::new(topology::plan(&state.config));

    let (built, pki) = {
        let (p, t) = (paths.clone(), topology.clone());
        let build = tokio::task::spawn_blocking(move || {
            files::mount_bpf(&p.bpf())?;
            underlay::build(&p, &t)?;
            underlay::bind_api(&p, &t)
        });
        let pki = files::pki(paths, &topology, &state.config)?;
        (build.await.context("build the underlay")?, pki)
    };
    let mut listeners = built.context("build the underlay")?;
    let (loopback, port) = bind_loopback(state.api_port)?;
    listeners.push(loopback);
    state.api_port = Some(port);
    tracing::info!(elapsed_ms = started.elapsed().as_millis() as u64, "underlay stands");

    let tokens = files::tokens(paths)?;
    let controllers = weft_cluster::Config {
        pod_cidrs: state.config.pod_cidrs.clone(),
        node_mask_v4: config::node_mask(weft_model::IpFamily::V4),
        node_mask_v6: config::node_mask(weft_model::IpFamily::V6),
        ca_pem: pki.ca_pem.clone(),
        ..weft_cluster::Config::default()
    };
    let api = api_config(paths, &state, &topology, &tokens)?;
    let plane = ControlPlane::new(api, Some(controllers)).context("start the API")?;
    files::write_kubeconfigs(paths, &topology, &pki, &tokens, port)?;
    let cancel = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    let tls = pki.tls().context("set up TLS")?;
    let client = plane.client();
    let serving = plane.run(Some((listeners, tls)), cancel.clone());
    tasks.spawn(async move { serving.await.context("run the control plane") });
    processes::start_all(paths, &state.config, &topology, &cancel, &mut tasks)?;
    cluster::bootstrap(&client, &state.config).await?;
    let (c, dir) = (client.clone(), paths.volumes());
    tasks.spawn(async move { volumes::keep(c, dir).await });
    let routes = (state.config.network == Network::Native).then(|| paths.clone());
    let (nodes_ready, ready) = tokio::sync::oneshot::channel();
    let wanted = usize::from(state.config.nodes);
    let families = state.config.ip_family;
    let c = client.clone();
    tasks.spawn(
        async move { cluster::follow_nodes(c, families, wanted, routes, nodes_ready).await },
    );

    tokio::select! {
        // A task that ended dropped the sender of `ready`: its error says why.
        biased;
        ended = tasks.join_next() => return first_end(ended),
        nodes = tokio::time::timeout(READY_TIMEOUT, ready) => match nodes {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return first_end(tasks.join_next().await),
            Err(_) => anyhow::bail!(
                "the nodes are not Ready after {READY_TIMEOUT:?}; {}",
                last_words(paths, &topology)
            ),
        },
        _ = terminate.recv() => anyhow::bail!("told to end before the lab was ready"),
    }
    state.ready = true;
    state.ready_after_ms = Some(started.elapsed().as_millis() as u64);
    state.write(paths)?;
    tracing::info!(elapsed_ms = state.ready_after_ms, "ready");
    report.ready();

    tokio::select! {
        ended = tasks.join_next() => first_end(ended),
        _ = terminate.recv() => {
            cancel.cancel();
            Ok(())
        }
    }
}

/// The last line of each node's logs, which `down` is about to remove.
fn last_words(paths: &LabPaths, topology: &Topology) -> String {
    let logs = topology.nodes.iter().flat_map(|n| {
        ["agent", "kubelet"].map(|role| {
            (format!("{role} of {}", n.name), paths.node(&n.name).join(format!("{role}.log")))
        })
    });
    let last = logs.filter_map(|(who, path)| {
        let text = std::fs::read_to_string(path).ok()?;
        Some(format!("{who}: {}", text.lines().last()?))
    });
    last.collect::<Vec<_>>().join("; ")
}

/// A task of the supervisor never ends by itself: its end is the supervisor's.
fn first_end(ended: Option<Result<Result<()>, tokio::task::JoinError>>) -> Result<()> {
    match ended {
        Some(Ok(Ok(()))) | None => anyhow::bail!("a task of the supervisor ended"),
        Some(Ok(Err(e))) => Err(e),
        Some(Err(e)) => Err(e).context("a task of the supervisor panicked"),
    }
}

/// The loopback listener for kubectl, on the port it had before where that is still free.
fn bind_loopback(before: Option<u16>) -> Result<(std::net::TcpListener, u16)> {
    let bind = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port));
    let listener = match before {
        Some(port) => bind(port).or_else(|_| bind(0)),
        None => bind(0),
    }
    .context("listen on loopback")?;
    let port = listener.local_addr().context("read the API's port")?.port();
    Ok((listener, port))
}

fn api_config(
    paths: &LabPaths,
    state: &LabState,
    topology: &Topology,
    tokens: &files::Tokens,
) -> Result<weft_apiserver::Config> {
    let dir = paths.dir();
    Ok(weft_apiserver::Config {
        service_cidrs: state.config.service_cidrs.clone(),
        advertise: topology.api.clone(),
        advertise_port: API_PORT,
        tokens: tokens.for_api(topology),
        token_key: Some(tokens.key()?),
        data_dir: Some(paths.api_data()),
        kubelet_socket: Arc::new(move |node| kubelet_socket(&dir, node)),
        ..weft_apiserver::Config::default()
    })
}

/// Node names come from Node objects, which users may write: only a plain name is a path.
fn kubelet_socket(dir: &Path, node: &str) -> PathBuf {
    let plain = node.parse::<weft_model::NodeName>().is_ok();
    dir.join(if plain { node } else { "no-such-node" }).join("kubelet.sock")
}
