//! One pod's worker: takes events one after the other, keeps what is observed, asks the plan what
//! to do, and has it done by tasks that report back. It alone changes the pod's state.

mod news;
mod report;
mod steps;

use crate::ctx::Ctx;
use crate::error::Error;
use crate::events::Severity::{Normal, Warning};
use crate::payload::Tokens;
use crate::plan::{self, Action, Role};
use crate::probe::Which;
use crate::prober::Report;
use crate::program::{self, Port};
use crate::publish::{self, Job};
use crate::record::{Record, Run};
use crate::start::Prepared;
use crate::state::{Observed, Sandbox, State};
use crate::tasks::Made;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use weft_sandbox::Exit;

/// Messages waiting for a worker; senders wait when it is full.
const MAILBOX: usize = 64;
/// Volumes filled from the API are brought up to date this often.
const REFRESH: Duration = Duration::from_secs(30);
/// Tokens are fetched anew after this part of their life.
const TOKEN_AGE_MAX: Duration = Duration::from_secs(48 * 60);

/// What the watch says of a pod.
#[derive(Clone)]
pub struct Input {
    /// The newest object.
    pub pod: Arc<Pod>,
    /// It is gone from the API.
    pub gone: bool,
}

/// A sandbox of which only remains may be there.
const LOST: Sandbox = Sandbox::Absent { attempts: 0, retry_at: None, dirty: true };

enum Msg {
    Sandbox(Result<Made, Error>),
    Closed,
    Started(String, Result<(Prepared, Option<weft_sandbox::Container>), Error>),
    Exited(String, String, Option<Exit>, Timestamp),
    Probe(String, String, Which, Report),
    /// Container, run, reason, message: the run is to end.
    Condemn(String, String, String),
}

struct Live {
    container: weft_sandbox::Container,
    started: watch::Sender<bool>,
    stop_by: Option<watch::Sender<Timestamp>>,
    /// Probers, waiter and hooks of this run; they end with it.
    tasks: JoinSet<()>,
    /// Liveness and startup probers end when the pod is to end; readiness goes on.
    watchers: JoinSet<()>,
}

/// Starts a worker. It ends when nothing of the pod is left.
pub fn spawn(ctx: Arc<Ctx>, pod: Arc<Pod>, record: Option<Record>, gone: bool) -> Handle {
    let (tx, rx) = watch::channel(Input { pod, gone });
    let task = tokio::spawn(async move {
        let mut worker = Worker::new(ctx, rx, record);
        worker.adopt();
        worker.run().await;
    });
    Handle { tx, task }
}

/// A worker from outside.
pub struct Handle {
    /// The newest input.
    pub tx: watch::Sender<Input>,
    /// Ends with the pod.
    pub task: tokio::task::JoinHandle<()>,
}

struct Worker {
    ctx: Arc<Ctx>,
    pod: Arc<Pod>,
    input: watch::Receiver<Input>,
    mailbox: mpsc::Receiver<Msg>,
    to_self: mpsc::Sender<Msg>,
    obs: Observed,
    runs: HashMap<String, Run>,
    live: HashMap<String, Live>,
    sandbox: Option<weft_sandbox::Pod>,
    cni: Option<serde_json::Value>,
    tokens: (tokio::time::Instant, Tokens),
    /// Whether the pod gets the service account's volume; asked once.
    account: Option<bool>,
    jobs: watch::Sender<Job>,
    publisher: tokio::task::JoinHandle<()>,
    last: PodStatus,
    saved: Vec<u8>,
}

impl Worker {
    fn new(ctx: Arc<Ctx>, input: watch::Receiver<Input>, record: Option<Record>) -> Self {
        let (pod, gone) = {
            let i = input.borrow();
            (Arc::clone(&i.pod), i.gone)
        };
        let (to_self, mailbox) = mpsc::channel(MAILBOX);
        let (jobs, jobs_rx) = watch::channel(Job::default());
        let publisher = tokio::spawn(publish::run(Arc::clone(&ctx), Arc::clone(&pod), jobs_rx));
        let record = record.unwrap_or_default();
        let mut obs = record.obs;
        obs.gone = gone;
        let before = pod.status.as_ref();
        obs.start_time = obs
            .start_time
            .or(before.and_then(|s| s.start_time.as_ref()).map(|t| t.0))
            .or_else(|| Some(publish::now_seconds()));
        let last = before.cloned().unwrap_or_default();
        Self {
            ctx,
            pod,
            input,
            mailbox,
            to_self,
            obs,
            runs: record.runs,
            live: HashMap::new(),
            sandbox: None,
            cni: record.cni,
            tokens: (tokio::time::Instant::now(), Tokens::new()),
            account: None,
            jobs,
            publisher,
            last,
            saved: Vec::new(),
        }
    }

    fn uid(&self) -> String {
        self.pod.metadata.uid.clone().unwrap_or_default()
    }

    fn spec(&self) -> PodSpec {
        self.pod.spec.clone().unwrap_or_default()
    }

    fn find(&self, name: &str) -> Option<(Role, Container)> {
        let spec = self.pod.spec.as_ref()?;
        plan::containers(spec).find(|(_, c)| c.name == name).map(|(r, c)| (r, c.clone()))
    }

    fn event(&self, c: Option<&str>, s: crate::events::Severity, reason: &str, m: String) {
        self.ctx.events.emit(&self.pod, c, s, reason, m);
    }

    /// Takes over what a predecessor left running.
    fn adopt(&mut self) {
        // A status written by a predecessor whose state is lost says that the pod is over.
        if let (Some(status), Some(spec)) = (&self.pod.status, &self.pod.spec)
            && self.obs.containers.is_empty()
            && matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
        {
            crate::record::restore(&mut self.obs, spec, status);
        }
        match self.obs.sandbox {
            Sandbox::Ready { .. } => {
                let dir = self.ctx.sandbox_dir(&self.uid());
                match weft_sandbox::Pod::open(&self.ctx.runtime, &dir) {
                    Ok(p) => self.sandbox = Some(p),
                    Err(e) => {
                        tracing::warn!("sandbox of {:?} is lost: {e}", self.pod.metadata.name);
                        self.obs.sandbox = LOST;
                    }
                }
            }
            // The predecessor died in the middle: what is half made is taken down first.
            Sandbox::Creating { .. } | Sandbox::Closing => self.obs.sandbox = LOST,
            _ => {}
        }
        let names: Vec<String> = self.obs.containers.keys().cloned().collect();
        for name in names {
            let found = self.sandbox.as_ref().and_then(|s| s.container(&name).ok().flatten());
            let Some(o) = self.obs.containers.get_mut(&name) else { continue };
            match (&o.state, found) {
                (State::Running { .. } | State::Starting, Some(c)) => {
                    if o.state == State::Starting {
                        o.id = uuid::Uuid::new_v4().simple().to_string();
                    }
                    let since = Timestamp::try_from(c.started_at());
                    o.state = State::Running { since: since.unwrap_or_else(|_| Timestamp::now()) };
                    o.stop_by = None;
                    self.attach(&name, c, false);
                }
                (State::Running { since }, None) => {
                    let since = *since;
                    self.ended(&name, None, Timestamp::now(), since);
                }
                (State::Starting, None) => o.state = State::default(),
                _ => {}
            }
        }
    }

    async fn run(&mut self) {
        let mut services = self.ctx.services.clone();
        let mut refresh = tokio::time::interval(REFRESH);
        refresh.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        refresh.tick().await;
        loop {
            // Several rounds: an action may make the next one possible at once.
            let mut wake = None;
            for _ in 0..64 {
                let plan = plan::plan(&self.pod, &self.obs, Timestamp::now());
                wake = plan.wake;
                let mut changed = false;
                for action in plan.actions {
                    if action == Action::Finish {
                        self.finish().await;
                        return;
                    }
                    changed |= self.act(action);
                }
                if !changed {
                    break;
                }
            }
            self.publish();
            let sleep = match wake {
                Some(t) => Duration::try_from(t.duration_since(Timestamp::now()))
                    .unwrap_or(Duration::ZERO)
                    .max(Duration::from_millis(1)),
                None => Duration::from_secs(3600),
            };
            tokio::select! {
                m = self.mailbox.recv() => {
                    if let Some(m) = m { self.handle(m); }
                    // What came together is handled together.
                    while let Ok(m) = self.mailbox.try_recv() { self.handle(m); }
                }
                c = self.input.changed() => {
                    if c.is_err() { return; }
                    self.updated();
                }
                Ok(()) = services.changed() => self.services_changed(),
                _ = refresh.tick() => self.refresh(),
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    fn updated(&mut self) {
        let i = self.input.borrow_and_update().clone();
        let relabelled = i.pod.metadata.labels != self.pod.metadata.labels
            || i.pod.metadata.annotations != self.pod.metadata.annotations;
        self.pod = i.pod;
        self.obs.gone |= i.gone;
        if relabelled {
            self.refresh();
            self.services_changed();
        }
    }

    /// A stand-in whose ports are no longer those that Services name starts again with the new
    /// ones: it has no state to lose, and its manifest never said what it listens on.
    fn services_changed(&mut self) {
        let services = self.ctx.services();
        let names: Vec<String> = self.live.keys().cloned().collect();
        for name in names {
            let Some(run) = self.runs.get(&name) else { continue };
            let Some(old) = &run.stand_in else { continue };
            let new = program::stand_in_ports(&self.pod, &name, services.iter());
            let missing = new.iter().any(|p| !listens(old, p));
            let Some(o) = self.obs.containers.get_mut(&name) else { continue };
            if missing && o.condemned.is_none() && matches!(o.state, State::Running { .. }) {
                o.replace = true;
                o.condemned = Some(("A Service names further ports".into(), Some(0)));
            }
        }
    }

    /// Carries an action out or has it carried out. Returns whether planning again may bring more.
    fn act(&mut self, action: Action) -> bool {
        match action {
            Action::CreateSandbox => self.create_sandbox(),
            Action::Start(name, restart) => self.start(&name, restart),
            Action::Stop { name, by, why } => self.stop(&name, by, &why),
            Action::BackOff { name, delay } => {
                let Some(o) = self.obs.containers.get_mut(&name) else { return false };
                if o.retry_at.is_none() {
                    o.retry_at = Some(Timestamp::now() + delay);
                    let pod = self.pod.metadata.name.clone().unwrap_or_default();
                    let m = format!("Back-off restarting failed container {name} in pod {pod}");
                    self.event(Some(&name), Warning, "BackOff", m);
                }
                return false;
            }
            Action::Initialized => self.obs.initialized = true,
            Action::Fail(reason, message) => {
                self.event(None, Normal, &reason, message.clone());
                self.obs.failed = Some((reason, message));
            }
            Action::CloseSandbox => self.close_sandbox(),
            Action::Finish => return false,
        }
        true
    }

    fn send(&self, f: impl Future<Output = Msg> + Send + 'static) {
        let tx = self.to_self.clone();
        tokio::spawn(async move {
            let m = f.await;
            let _ = tx.send(m).await;
        });
    }
}

fn listens(have: &[Port], want: &Port) -> bool {
    have.iter().any(|p| p.port == want.port && p.protocol == want.protocol)
}
