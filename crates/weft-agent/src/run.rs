//! The composition: runtime, watches, stages, CNI service, DNS, signals.

use crate::{
    Args, ClusterDns, Network,
    api::{self, Known},
    closing::{self, SocketStage},
    cni::CniService,
    complaints, dns, flows, health, host,
    host_port::HostPorts,
    links::LinkStage,
    metrics::{self, Metrics},
    namespaces::PodNamespaces,
    policy::PolicyStage,
    reconcile::{FabricStage, ServiceStage, Snapshots, follow},
    socket::{self, Service},
    state::State,
};
use anyhow::{Context, anyhow};
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::{self, File},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use weft_kube::{Endpoints, Ranges, ServiceRanges, SnapshotSource};
use weft_netlink::Netlink;

/// Port of DNS (RFC 1035).
const DNS_PORT: u16 = 53;
/// Worker threads: everything heavy runs elsewhere, and there is one agent a node.
const WORKERS: usize = 2;

/// Runs the agent until SIGTERM or SIGINT; builds its own runtime. The data plane stays.
pub fn run(args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("cannot build the runtime")?;
    let result = runtime.block_on(serve(args));
    // Blocking requests may still run; they have their own time limits.
    runtime.shutdown_background();
    result
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let journal_dir = args.state_dir.join("state");
    for dir in [&journal_dir, &args.data_dir()] {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let _lock = lock(&args.state_dir.join("agent.lock"))?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to signals")?;

    let network = match args.network {
        Network::Vxlan => "vxlan",
        Network::Native => "native",
    };
    let state = Arc::new(State::new(args.node.to_string(), network));
    let cgroup = args.cgroup.clone().map_or_else(host::cgroup2_root, Ok)?;
    host::pins(&args.bpf_dir)?;
    let server = weft_kube::access::server_host(&args.kubeconfig)?;
    let given = (args.api_endpoints.clone(), args.service_cidr.clone());
    let places = move |known: &Known| known.places(&given.0, &server, &given.1);
    let known = args.data_dir().join("api.json");
    let endpoints = Endpoints::new(places(&Known::read(&known)));
    let client = weft_kube::access::client(&args.kubeconfig, endpoints.clone()).await?;
    let source = SnapshotSource::start(client.clone(), weft_kube::Options::default());
    let follows = args.service_cidr.is_empty().then(|| ServiceRanges::follow(client.clone()));
    let ranges = follows.as_ref().map(|f| f.ranges.clone());
    let ranges = ranges.unwrap_or_else(|| weft_kube::ranges::fixed(args.service_cidr.clone()));
    let host_ports =
        HostPorts::open(journal_dir.join("host-ports.json"), state.host_ports.clone())?;
    let cni = CniService::open(Netlink::open()?, &journal_dir.join("ipam.journal"), host_ports)?;
    let namespaces = cni.namespaces();
    let cni = Arc::new(cni);
    let socket_path = args.state_dir.join("agent.sock");
    let listener = socket::bind(&socket_path)
        .with_context(|| format!("cannot listen on {}", socket_path.display()))?;
    let snapshots = source.snapshots.clone();
    let service = Service {
        state: state.clone(),
        snapshots,
        cni: cni.clone(),
        client: client.clone(),
        slots: Default::default(),
    };
    info!(node = %args.node, network, "agent started");

    let cancel = CancellationToken::new();
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    tasks.spawn(async move {
        socket::serve(listener, Arc::new(service)).await;
        Ok(())
    });
    tasks.spawn(tell_failures(state.clone(), source.status.clone(), follows));
    tasks.spawn(api::follow(source.snapshots.clone(), endpoints, known, places));
    let place = Place { cgroup, ranges, namespaces, cni };
    spawn_stages(&mut tasks, &args, place, &state, client, &source, &cancel)?;
    let (domain, snapshots) = (args.cluster_domain.clone(), source.snapshots.clone());
    match args.cluster_dns {
        ClusterDns::Node => drop(tasks.spawn(serve_dns(domain, state.clone(), snapshots))),
        // Nothing to serve, so it is served.
        ClusterDns::Service => state.record("dns", |stage| stage.generation = 1),
    }

    let result = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(ended) = tasks.join_next() => match ended {
            Ok(Ok(())) => Err(anyhow!("a part of the agent ended")),
            Ok(Err(e)) => Err(e),
            Err(e) => match e.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(anyhow!("a part of the agent was aborted")),
            },
        },
    };
    cancel.cancel();
    // Clients see at once that nobody answers, and try again later.
    let _ = fs::remove_file(&socket_path);
    info!("agent ends; the data plane stays");
    result
}

/// Only one agent may serve a node's folder.
pub(crate) fn lock(path: &Path) -> anyhow::Result<Flock<File>> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, e)| anyhow!("another agent holds {}: {e}", path.display()))
}

/// Where the stages work.
struct Place {
    /// Where the socket hooks are attached.
    cgroup: PathBuf,
    /// Service ranges.
    ranges: Ranges,
    /// The namespaces of this node's pods.
    namespaces: Arc<PodNamespaces>,
    /// Gets the programs for the pods' links.
    cni: Arc<CniService>,
}

/// What goes wrong with the API becomes part of the status.
async fn tell_failures(
    state: Arc<State>,
    mut status: watch::Receiver<weft_kube::Status>,
    ranges: Option<ServiceRanges>,
) -> anyhow::Result<()> {
    let (_held, none) = watch::channel(None);
    let mut other = ranges.as_ref().map_or(none, |r| r.error.clone());
    loop {
        let kinds = status.borrow_and_update().clone();
        let failed =
            |(kind, s): (_, &weft_kube::KindStatus)| Some(format!("{kind}: {}", s.error.clone()?));
        let mut errors: Vec<String> = kinds.iter().filter_map(failed).collect();
        errors.extend(other.borrow_and_update().clone());
        state.record("api", |stage| {
            stage.errors = errors;
            stage.generation = u64::from(kinds.values().all(|k| k.listed));
        });
        tokio::select! {
            changed = status.changed() => changed.context("the watches ended")?,
            Ok(()) = other.changed() => {}
        }
    }
}

/// Starts the fabric, service, policy and sockets stages, each on a thread of its own; the task of a
/// thread ends when it does, with its panic.
fn spawn_stages(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    args: &Args,
    place: Place,
    state: &Arc<State>,
    client: kube::Client,
    source: &SnapshotSource,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let table: Arc<std::sync::Mutex<weft_netlink::netfilter::Table>> = Arc::default();
    let mut fabric = FabricStage {
        state: state.clone(),
        node: args.node.clone(),
        network: args.network,
        service_cidrs: place.ranges.clone(),
        netlink: Netlink::open()?,
        table: table.clone(),
        applied: None,
    };
    let mut services = ServiceStage {
        state: state.clone(),
        node: args.node.clone(),
        node_dns: args.cluster_dns == ClusterDns::Node,
        node_port_ranges: args.nodeport_addresses.clone(),
        planner: weft_services::Planner::new(args.node.clone()),
        options: weft_bpf::OpenOptions {
            node_netns: weft_netlink::sock_diag::netns_cookie()?,
            ..weft_bpf::OpenOptions::new(&args.bpf_dir, &place.cgroup)
        },
        lb: None,
        programs: watch::Sender::new(None),
        table,
        localhost_node_ports: args.localhost_node_ports,
        applied: watch::Sender::default(),
        health: watch::Sender::default(),
        entrances: Default::default(),
        verified: None,
        told: Default::default(),
        repairs: Default::default(),
        settled: None,
        tally: source.tally.clone(),
        metrics: Arc::new(Metrics::default()),
        complaints: watch::Sender::new(Arc::from([])),
    };
    let dns = args.cluster_dns == ClusterDns::Node;
    let locals = place.cni.locals();
    let mut policy = PolicyStage::new(state.clone(), args.node.clone(), dns, locals);
    spawn_tellers(tasks, args, &services, policy.complaints(), client, source);
    let (programs, token) = (services.programs.subscribe(), cancel.clone());
    let snapshots = source.snapshots.clone();
    spawn_thread(tasks, "policy", move |runtime| {
        policy.run(&runtime, &token, snapshots, programs);
    })?;
    let (of, programs, token) = (state.clone(), services.programs.subscribe(), cancel.clone());
    let snapshots = source.snapshots.clone();
    spawn_thread(tasks, "flows", move |runtime| {
        flows::run(&runtime, &token, &of, &snapshots, programs);
    })?;
    let mut links = LinkStage {
        state: state.clone(),
        cni: place.cni,
        ranges: place.ranges.clone(),
        netlink: Netlink::open()?,
        programs: services.programs.subscribe(),
    };
    let token = cancel.clone();
    spawn_thread(tasks, "pod-links", move |runtime| links.run(&runtime, &token))?;
    let (snapshots, token) = (source.snapshots.clone(), cancel.clone());
    let mut ranges = place.ranges;
    spawn_thread(tasks, "fabric", move |runtime| {
        // The rules name the ranges.
        runtime.block_on(async {
            tokio::select! {
                () = token.cancelled() => {}
                _ = ranges.wait_for(Option::is_some) => {}
            }
        });
        follow(&runtime, &token, snapshots, None, |s| fabric.step(s));
    })?;
    let (applied, token) = (services.applied.subscribe(), cancel.clone());
    let (of, bpf_dir) = (state.clone(), args.bpf_dir.clone());
    spawn_thread(tasks, "sockets", move |runtime| {
        let mut stage = SocketStage::new(of, bpf_dir, place.namespaces);
        closing::follow(&runtime, &token, applied, &mut stage);
    })?;
    let (snapshots, token, state) = (source.snapshots.clone(), cancel.clone(), state.clone());
    spawn_thread(tasks, "services", move |runtime| {
        // Loading programs takes longer than all else: it begins at once, although the first
        // tables need the router addresses. An error is met again, and reported, by the step.
        services.open_early();
        let mut applied = state.fabric.subscribe();
        runtime.block_on(async {
            tokio::select! {
                () = token.cancelled() => {}
                _ = applied.wait_for(Option::is_some) => {}
            }
        });
        let also = Some(state.host_ports.subscribe());
        follow(&runtime, &token, snapshots, also, |s| services.step(s));
    })
}

/// Starts what tells others how the services stage fares: load balancers, Prometheus, and
/// people, by Events.
fn spawn_tellers(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    args: &Args,
    services: &ServiceStage,
    judging: complaints::Judging,
    client: kube::Client,
    source: &SnapshotSource,
) {
    let (view, metrics) = (services.health.subscribe(), services.metrics.clone());
    tasks.spawn(health::serve(args.healthz_bind_address, view, metrics));
    tasks.spawn(complaints::report(
        client,
        args.node.to_string(),
        source.snapshots.clone(),
        source.diagnostics.clone(),
        services.complaints.subscribe(),
        judging,
    ));
    let Some(at) = args.metrics_bind_address.0 else { return };
    let sources = metrics::Sources {
        node: args.node.clone(),
        metrics: services.metrics.clone(),
        tally: source.tally.clone(),
        state: services.state.clone(),
        snapshots: source.snapshots.clone(),
    };
    tasks.spawn(async move {
        metrics::serve(at, sources).await;
        Ok(())
    });
}

fn spawn_thread(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    name: &'static str,
    body: impl FnOnce(Handle) + Send + 'static,
) -> anyhow::Result<()> {
    let runtime = Handle::current();
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let body = std::panic::AssertUnwindSafe(|| body(runtime));
            let _ = ended.send(std::panic::catch_unwind(body));
        })
        .with_context(|| format!("cannot start the thread {name}"))?;
    tasks.spawn(async move {
        match end.await {
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Ok(Ok(())) | Err(_) => Err(anyhow!("the thread {name} ended")),
        }
    });
    Ok(())
}

/// Serves DNS on the router addresses, anew when these change.
async fn serve_dns(domain: String, state: Arc<State>, snapshots: Snapshots) -> anyhow::Result<()> {
    let zone = weft_dns::Zone::new(&domain)?;
    let mut applied = state.fabric.subscribe();
    let routers = |f: &Option<crate::state::AppliedFabric>| -> Vec<IpAddr> {
        f.as_ref().map(|f| f.routers.clone()).unwrap_or_default()
    };
    loop {
        let now = routers(&*applied.wait_for(Option::is_some).await?);
        let listen: Vec<SocketAddr> = now.iter().map(|ip| SocketAddr::new(*ip, DNS_PORT)).collect();
        let server = match dns::Server::bind(zone.clone(), &listen) {
            Ok(server) => server,
            Err(e) => {
                let text = crate::reconcile::chain(&e);
                warn!("dns: {text}");
                state.record("dns", |stage| stage.errors = vec![text]);
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                continue;
            }
        };
        let mut served = server.served();
        let cancel = CancellationToken::new();
        let running = server.run(snapshots.clone(), cancel.clone());
        let watch = async {
            loop {
                let generation = *served.borrow_and_update();
                state.record("dns", |stage| {
                    stage.errors.clear();
                    stage.generation = generation;
                });
                if served.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            result = running => return result.map_err(Into::into),
            () = watch => {}
            changed = applied.wait_for(|f| routers(f) != now) => drop(changed?),
        }
        cancel.cancel();
    }
}
