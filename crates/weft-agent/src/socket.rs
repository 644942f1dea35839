//! `agent.sock`: newline JSON, one request per connection.
//!
//! Requests wait: an ADD for the API, for the fabric and for the kernel, and a node that starts
//! has a hundred of them. So ADD and all others have slots of their own: what takes pods away, and
//! what asks how the node is, never waits behind those that come. Who reads too slowly has a slot
//! of neither.

use crate::{
    cni::{self, Added, Attach, CniService},
    flows, host_port,
    policy::{Subject, admit},
    policy_report,
    reconcile::Snapshots,
    state::State,
};
use serde_json::Value;
use std::{io, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, SemaphorePermit},
};
use tracing::{debug, warn};
use weft_cni::{Answer, Attachment, CniError, INPUT_LEN_MAX, Request, code};

/// Requests of each sort that are served at a time; more wait.
const REQUESTS_MAX: usize = 64;
/// ADDs that wait for such a slot; more are told to try again. A kubelet runs 110 pods by default.
const ADDS_WAITING_MAX: usize = 256;
/// Connections at a time: those that wait, are served, or have not said yet what they want.
const CONNECTIONS_MAX: usize = ADDS_WAITING_MAX + 4 * REQUESTS_MAX;
/// How long a client may take to send its line.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an ADD waits for the fabric's first time before it says "try again later".
const FABRIC_TIMEOUT: Duration = Duration::from_secs(15);

/// How long an ADD waits until the pod's host ports are in the kernel.
const HOST_PORT_TIMEOUT: Duration = Duration::from_secs(10);

/// What answers the requests.
pub struct Service {
    /// Shared state.
    pub state: Arc<State>,
    /// The latest snapshot, for its generation.
    pub snapshots: Snapshots,
    /// Addresses and links.
    pub cni: Arc<CniService>,
    /// For pods that the watch has not brought.
    pub client: kube::Client,
    /// Who may be served.
    pub slots: Slots,
}

/// Who may be served.
#[derive(Debug)]
pub struct Slots {
    adds: Semaphore,
    adds_waiting: Semaphore,
    others: Semaphore,
}

impl Default for Slots {
    fn default() -> Self {
        Self {
            adds: Semaphore::new(REQUESTS_MAX),
            adds_waiting: Semaphore::new(ADDS_WAITING_MAX),
            others: Semaphore::new(REQUESTS_MAX),
        }
    }
}

impl Slots {
    /// Waits until a request of its sort may be served.
    async fn take(&self, add: bool) -> Result<SemaphorePermit<'_>, CniError> {
        let ending = |_| CniError::new(code::TRY_AGAIN, "the weft agent is ending", "");
        if !add {
            return self.others.acquire().await.map_err(ending);
        }
        if let Ok(slot) = self.adds.try_acquire() {
            return Ok(slot);
        }
        let Ok(_waiting) = self.adds_waiting.try_acquire() else {
            let msg = "too many pods are being attached";
            return Err(CniError::new(code::TRY_AGAIN, msg, ""));
        };
        self.adds.acquire().await.map_err(ending)
    }
}

/// Binds the socket with mode 0600. An older socket file is replaced in one step, so that
/// clients find either the old or the new one; call it while holding the agent's lock.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let temporary = path.with_extension("sock.new");
    match std::fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&temporary)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&temporary, path)?;
    Ok(listener)
}

/// Serves for ever.
pub async fn serve(listener: UnixListener, service: Arc<Service>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let service = service.clone();
                tokio::spawn(async move {
                    if let Err(e) = handle(stream, &service).await {
                        debug!("client of agent.sock: {e}");
                    }
                    drop(slot);
                });
            }
            Err(e) => {
                // Out of descriptors: better later than in a tight loop.
                warn!("agent.sock: accept: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn handle(mut stream: UnixStream, service: &Arc<Service>) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = Vec::new();
    let mut read = BufReader::new(read.take(INPUT_LEN_MAX as u64 + 1));
    tokio::time::timeout(READ_TIMEOUT, read.read_until(b'\n', &mut line)).await??;
    if let Ok(Request::Flows(request)) = serde_json::from_slice(&line) {
        // It has places of its own, and may stay for long.
        let state = &service.state;
        return flows::serve(stream, &state.flows, &state.node, &request).await;
    }
    let answer = match serde_json::from_slice::<Request>(&line) {
        _ if line.len() > INPUT_LEN_MAX => refused(CniError::new(
            code::DECODE,
            format!("the request is longer than {INPUT_LEN_MAX} bytes"),
            "",
        )),
        Ok(request) => {
            let add = matches!(&request, Request::Cni { command, .. } if command == "ADD");
            match service.slots.take(add).await {
                Ok(_slot) => respond(service, request).await,
                Err(e) => refused(e),
            }
        }
        Err(e) => refused(CniError::new(code::DECODE, "the request cannot be read", e)),
    };
    let mut out = serde_json::to_vec(&answer)?;
    out.push(b'\n');
    write.write_all(&out).await?;
    write.shutdown().await
}

fn refused(error: CniError) -> Answer {
    Answer { ok: false, reason: Some(error.to_string()), error: Some(error), ..Answer::default() }
}

async fn respond(service: &Arc<Service>, request: Request) -> Answer {
    let generation = service.snapshots.borrow().as_ref().map_or(0, |s| s.generation.max(1));
    match request {
        Request::Ready => {
            let reason = service.state.unready(generation > 0);
            Answer { ok: reason.is_none(), reason, ..Answer::default() }
        }
        Request::Status => {
            let service = service.clone();
            let status = tokio::task::spawn_blocking(move || {
                service.state.features();
                let (ipam, pods) = service.cni.usage();
                service.state.status(generation, ipam, pods)
            });
            match status.await {
                Ok(status) => Answer { ok: true, status: Some(status), ..Answer::default() },
                Err(e) => match e.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => Answer { reason: Some("ending".to_owned()), ..Answer::default() },
                },
            }
        }
        Request::Policy { name } => {
            let Some(snapshot) = service.snapshots.borrow().clone() else {
                let reason = Some("the Kubernetes API has not been read yet".to_owned());
                return Answer { reason, ..Answer::default() };
            };
            let service = service.clone();
            // A walk over all pods and policies.
            let report = tokio::task::spawn_blocking(move || {
                policy_report::of_agent(&service.state, &snapshot, name.as_deref())
            });
            match report.await {
                Ok(report) => Answer { ok: true, status: Some(report), ..Answer::default() },
                Err(e) => match e.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => Answer { reason: Some("ending".to_owned()), ..Answer::default() },
                },
            }
        }
        // Answered where there is a stream.
        Request::Flows(_) => Answer::default(),
        Request::Cni { command, container_id, netns, ifname, args, config } => {
            let call = Call { command, container_id, netns, ifname, args, config };
            run(service, call).await.unwrap_or_else(refused)
        }
    }
}

struct Call {
    command: String,
    container_id: String,
    netns: String,
    ifname: String,
    args: String,
    config: Value,
}

async fn run(service: &Arc<Service>, call: Call) -> Result<Answer, CniError> {
    if call.command == "STATUS" {
        let generation = service.snapshots.borrow().is_some();
        return match service.state.unready(generation) {
            None => Ok(Answer { ok: true, ..Answer::default() }),
            Some(why) => {
                Err(CniError::new(code::NOT_AVAILABLE, "the weft agent is not ready", why))
            }
        };
    }
    let needs_fabric = matches!(call.command.as_str(), "ADD" | "CHECK");
    let fabric = if needs_fabric {
        let mut applied = service.state.fabric.subscribe();
        let first = tokio::time::timeout(FABRIC_TIMEOUT, applied.wait_for(Option::is_some)).await;
        let fabric = first.ok().and_then(|f| f.ok()?.clone());
        Some(fabric.ok_or_else(|| {
            let why = service.state.unready(service.snapshots.borrow().is_some());
            let msg = "the node's pod network is not up yet";
            CniError::new(code::TRY_AGAIN, msg, why.unwrap_or_default())
        })?)
    } else {
        None
    };
    let add = call.command == "ADD";
    if add {
        // They are loaded while the fabric is built, and a pod never runs without them.
        let mut loaded = service.state.pod_links.subscribe();
        let first = tokio::time::timeout(FABRIC_TIMEOUT, loaded.wait_for(|l| *l)).await;
        if first.is_err() {
            let msg = "the programs of pod links are not loaded yet";
            return Err(CniError::new(code::TRY_AGAIN, msg, ""));
        }
    }
    let subject = if add {
        let snapshot = service.snapshots.borrow().clone();
        admit::subject(&service.client, snapshot.as_deref(), &call.args).await?
    } else {
        Subject::NOBODY
    };
    let (mut applied, policy) =
        (service.state.host_ports_applied.subscribe(), service.state.policy.subscribe());
    let service = service.clone();
    // Netlink and fsync block.
    let done = tokio::task::spawn_blocking(move || {
        let cni = &service.cni;
        let done = |()| (Answer { ok: true, ..Answer::default() }, 0, None);
        match (call.command.as_str(), &fabric) {
            ("ADD", Some(fabric)) => {
                let key = cni::key(&call.container_id, &call.ifname)?;
                let host_ports = host_port::parse(&call.config)?;
                let (netns, host_ports) = (call.netns.as_str(), host_ports.as_slice());
                let attach = Attach { key: &key, netns, host_ports, subject: &subject };
                let Added { result, host_ports, link } = cni.add(fabric, &attach)?;
                let answer = Answer { ok: true, result: Some(result), ..Answer::default() };
                Ok((answer, host_ports, link))
            }
            ("CHECK", Some(fabric)) => {
                let key = cni::key(&call.container_id, &call.ifname)?;
                let (netns, subject) = (call.netns.as_str(), &subject);
                let attach = Attach { key: &key, netns, host_ports: &[], subject };
                cni.check(fabric, &attach, call.config.get("prevResult")).map(done)
            }
            ("DEL", _) => cni.del(&cni::key(&call.container_id, &call.ifname)?).map(done),
            ("GC", _) => cni.gc(&valid_attachments(&call.config)?).map(done),
            (other, _) => {
                let msg = format!("unknown CNI command '{other}'");
                Err(CniError::new(code::INVALID_ENVIRONMENT, msg, ""))
            }
        }
    });
    match done.await {
        Ok(Ok((answer, version, link))) => {
            if let Some(link) = link {
                admit::judged(policy, link).await?;
            }
            let there = applied.wait_for(|applied| *applied >= version);
            match tokio::time::timeout(HOST_PORT_TIMEOUT, there).await {
                Ok(Ok(_)) => Ok(answer),
                // The runtime answers an error with DEL, which takes back what was made.
                _ => Err(CniError::new(
                    code::TRY_AGAIN,
                    "the pod's host ports are not in place yet",
                    "see the stage 'services' in the agent's status",
                )),
            }
        }
        Ok(Err(e)) => Err(e),
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(CniError::new(code::TRY_AGAIN, "the weft agent is ending", "")),
        },
    }
}

/// What the runtime still has. Without a list nothing is collected: a missing key must not
/// take the network from every pod.
fn valid_attachments(config: &Value) -> Result<Vec<Attachment>, CniError> {
    let list = config.get("cni.dev/valid-attachments").ok_or_else(|| {
        CniError::new(code::INVALID_CONFIG, "GC needs 'cni.dev/valid-attachments'", "")
    })?;
    serde_json::from_value(list.clone())
        .map_err(|e| CniError::new(code::DECODE, "'cni.dev/valid-attachments' cannot be read", e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Pods that come may wait as long as they like: those that go, and whoever asks how the node
    /// is, are served.
    #[tokio::test]
    async fn additions_keep_nobody_else_waiting() {
        use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
        let slots = Slots::default();
        let mut adds: FuturesUnordered<_> =
            (0..REQUESTS_MAX + ADDS_WAITING_MAX + 1).map(|_| slots.take(true)).collect();
        let (mut served, mut refused) = (Vec::new(), 0);
        while let Some(Some(taken)) = adds.next().now_or_never() {
            match taken {
                Ok(slot) => served.push(slot),
                Err(e) => refused += usize::from(e.code == code::TRY_AGAIN),
            }
        }
        assert_eq!((served.len(), refused, adds.len()), (REQUESTS_MAX, 1, ADDS_WAITING_MAX));
        let other = slots.take(false).now_or_never().expect("at once").expect("free");
        drop(other);
        // Who waits is next.
        served.pop();
        assert!(adds.next().now_or_never().flatten().is_some_and(|slot| slot.is_ok()));
    }

    #[test]
    fn collecting_without_a_list_is_refused() {
        assert!(valid_attachments(&json!({})).is_err());
        assert!(valid_attachments(&json!({"cni.dev/valid-attachments": null})).is_err());
        let empty = json!({"cni.dev/valid-attachments": []});
        assert_eq!(valid_attachments(&empty).expect("a list"), vec![]);
    }
}
