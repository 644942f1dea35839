//! What workers have done for them: sandboxes and containers started, stopped, waited for. Each
//! function is one long-running step; it ends in a message to the worker that asked.

use crate::check::{self, Outcome, Target};
use crate::cni;
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::files;
use crate::start::{self, Prepared, Request};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LifecycleHandler, Pod};
use serde_json::Value;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use weft_sandbox::{Container, Exit};

/// After preStop has used the grace period up, SIGTERM still gets this long
/// (`minimumGracePeriodInSeconds`).
const TERM_SECONDS_MIN: Duration = Duration::from_secs(2);
/// A step that fails is tried again after this, doubled up to `RETRY_MAX`.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Containers are looked at this often although no wake-up came.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Longest wait between attempts.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A sandbox with its network.
#[derive(Debug)]
pub struct Made {
    /// The sandbox.
    pub sandbox: weft_sandbox::Pod,
    /// Addresses, primary family first.
    pub ips: Vec<IpAddr>,
    /// The network plugins' result; `None` for hostNetwork.
    pub cni: Option<Value>,
}

async fn blocking<T: Send + 'static>(
    op: &'static str,
    f: impl FnOnce() -> weft_sandbox::Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(f).await {
        Ok(r) => r.map_err(|source| Error::Sandbox { op, source }),
        Err(e) => Err(Error::Config(format!("{op}: {e}"))),
    }
}

fn target(ctx: &Ctx, pod: &Pod) -> cni::Target {
    let m = &pod.metadata;
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    let uid = text(&m.uid);
    cni::Target {
        container_id: uid.replace('-', ""),
        netns: ctx.sandbox_dir(&uid).join("netns"),
        pod: [text(&m.namespace), text(&m.name), uid],
        port_mappings: port_mappings(pod),
    }
}

/// The host ports of all containers, as runtimes hand them to plugins.
fn port_mappings(pod: &Pod) -> Vec<serde_json::Value> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    // A sidecar is an init container that goes on; the ports of others end with them, and
    // runtimes map them all the same.
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    let mapped = ports.filter_map(|p| Some((p, p.host_port.filter(|h| *h > 0)?)));
    mapped
        .map(|(p, host_port)| {
            serde_json::json!({
                "hostPort": host_port,
                "containerPort": p.container_port,
                "protocol": p.protocol.as_deref().unwrap_or("TCP").to_lowercase(),
                "hostIP": p.host_ip.as_deref().unwrap_or_default(),
            })
        })
        .collect()
}

fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false)
}

/// Makes a pod's sandbox and network; undoes what it made where it fails.
pub async fn create(ctx: &Ctx, pod: &Pod) -> Result<Made> {
    let _slot = ctx.slots.acquire().await;
    let host = host_network(pod);
    // Asked before anything is made: a node without network is no reason to make namespaces.
    let list = if host { None } else { Some(cni::load(&ctx.cni.conf).await?) };
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let spec = weft_sandbox::PodSpec {
        hostname: match (
            pod.spec.as_ref().and_then(|s| s.set_hostname_as_fqdn),
            files::fqdn(pod, &ctx.args.node, &ctx.args.cluster_domain),
        ) {
            (Some(true), Some(f)) if f.len() <= 64 => f,
            _ => files::hostname(pod, &ctx.args.node),
        },
        dir: ctx.sandbox_dir(&uid),
        cgroup: ctx.sandbox_cgroup(&uid),
        host_network: host,
        share_pid: pod.spec.as_ref().and_then(|s| s.share_process_namespace).unwrap_or(false),
        uid,
    };
    let runtime = ctx.runtime.clone();
    let sandbox =
        blocking("create the sandbox", move || weft_sandbox::Pod::create(&runtime, &spec)).await?;
    let Some(list) = list else {
        return Ok(Made { sandbox, ips: ctx.node_ips.clone(), cni: None });
    };
    let mut target = target(ctx, pod);
    target.netns = sandbox.netns_path();
    let added = async {
        let result = ctx.cni.add(&list, &target).await?;
        Ok((cni::addresses(&result, ctx.primary_v6)?, result))
    };
    match added.await {
        Ok((ips, result)) => Ok(Made { sandbox, ips, cni: Some(result) }),
        Err(e) => {
            // The specification asks for a DEL after a failed ADD.
            if let Err(e) = ctx.cni.del(&list, &target, None).await {
                tracing::debug!("after a failed ADD: {e}");
            }
            blocking("destroy the sandbox", move || sandbox.destroy()).await?;
            Err(e)
        }
    }
}

/// Takes a pod's network and sandbox down, and tries until it is done.
pub async fn close(ctx: &Ctx, pod: &Pod, cni_result: Option<Value>, failed: impl Fn(&Error)) {
    let mut retry = RETRY_MIN;
    loop {
        match close_once(ctx, pod, cni_result.as_ref()).await {
            Ok(()) => return,
            Err(e) => failed(&e),
        }
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(RETRY_MAX);
    }
}

async fn close_once(ctx: &Ctx, pod: &Pod, cni_result: Option<&Value>) -> Result<()> {
    if !host_network(pod) {
        let list = cni::load(&ctx.cni.conf).await?;
        ctx.cni.del(&list, &target(ctx, pod), cni_result).await?;
    }
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let (dir, cgroup) = (ctx.sandbox_dir(&uid), ctx.sandbox_cgroup(&uid));
    blocking("destroy the sandbox", move || weft_sandbox::Pod::destroy_at(&dir, &cgroup)).await
}

/// Prepares and starts a container.
pub async fn start(
    ctx: &Arc<Ctx>,
    sandbox: weft_sandbox::Pod,
    request: Request,
) -> Result<(Prepared, Option<Container>)> {
    let prepared = start::prepare(ctx, request).await?;
    let _slot = ctx.slots.acquire().await;
    let container = match prepared.spec.clone() {
        Some(spec) => Some(blocking("start", move || sandbox.start(&spec)).await?),
        None => None,
    };
    Ok((prepared, container))
}

/// Waits until a container has ended.
pub async fn wait(container: Container) -> (Option<Exit>, Timestamp) {
    let ended = |c: &Container| match c.try_wait() {
        Ok(Some((exit, at))) => Some((Some(exit), timestamp(at))),
        Ok(None) => None,
        Err(e) => {
            tracing::warn!(container = c.name(), "wait: {e}");
            Some((None, Timestamp::now()))
        }
    };
    // Deprecated for file descriptors that are not owned; this one is, and cannot be closed
    // while it is registered.
    #[allow(deprecated)]
    let fd = container.as_fd().try_clone_to_owned().and_then(AsyncFd::new);
    match fd {
        Ok(fd) => loop {
            if let Some(end) = ended(&container) {
                return end;
            }
            // Looked at now and then as well: a lost wake-up must not lose the container's end.
            match tokio::time::timeout(LOOK_AGAIN, fd.readable()).await {
                Ok(Ok(mut guard)) => match ended(&container) {
                    Some(end) => return end,
                    None => guard.clear_ready(),
                },
                Ok(Err(_)) => return (None, Timestamp::now()),
                Err(_) => {}
            }
        },
        // A kernel that does not poll this descriptor: ask now and then.
        Err(_) => loop {
            if let Some(end) = ended(&container) {
                return end;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        },
    }
}

fn timestamp(t: SystemTime) -> Timestamp {
    Timestamp::try_from(t).unwrap_or_else(|_| Timestamp::now())
}

/// Stops a container: preStop, SIGTERM, SIGKILL at the time in `by`, which may move closer. A
/// preStop that fails is told to `failed`. Returns when SIGKILL is sent or the container is gone.
pub async fn stop(
    container: Container,
    pre_stop: Option<(Target, LifecycleHandler)>,
    mut by: watch::Receiver<Timestamp>,
    failed: impl Fn(String),
) {
    let left = |by: &watch::Receiver<Timestamp>| -> Duration {
        let left = by.borrow().duration_since(Timestamp::now());
        left.try_into().unwrap_or(Duration::ZERO)
    };
    let gone = |c: &Container| !matches!(c.try_wait(), Ok(None));
    let mut least = Duration::ZERO;
    if let Some((target, handler)) = pre_stop
        && !left(&by).is_zero()
    {
        let all = left(&by);
        let hook = check::handler(&target, &handler, all);
        tokio::pin!(hook);
        let outcome = loop {
            tokio::select! {
                o = &mut hook => break Some(o),
                changed = by.changed() => {
                    if changed.is_err() || left(&by).is_zero() {
                        break None;
                    }
                }
            }
        };
        match outcome {
            Some(Outcome::Failed(m)) => failed(m),
            Some(Outcome::Absent(p)) => failed(format!("exec: {p:?}: not found")),
            _ => {}
        }
        least = TERM_SECONDS_MIN;
    }
    if left(&by).is_zero() && least.is_zero() {
        let _ = container.kill(libc::SIGKILL);
        return;
    }
    let _ = container.kill(libc::SIGTERM);
    let floor = tokio::time::Instant::now() + least;
    let exited = wait(container.clone());
    tokio::pin!(exited);
    loop {
        let end = (tokio::time::Instant::now() + left(&by)).max(floor);
        tokio::select! {
            _ = &mut exited => return,
            () = tokio::time::sleep_until(end) => break,
            changed = by.changed() => {
                if changed.is_err() {
                    break;
                }
            }
        }
    }
    if !gone(&container) {
        let _ = container.kill(libc::SIGKILL);
    }
}
