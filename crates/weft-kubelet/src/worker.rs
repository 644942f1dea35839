//! One pod's worker: takes events one after the other, keeps what is observed, asks the plan what
//! to do, and has it done by tasks that report back. It alone changes the pod's state.

use crate::check::Target;
use crate::ctx::{ContainerEntry, Ctx, PodEntry};
use crate::error::Error;
use crate::events::Severity::{Normal, Warning};
use crate::payload::Tokens;
use crate::plan::{self, Action, Role};
use crate::probe::Which;
use crate::prober::{self, Report};
use crate::program::{self, Port};
use crate::publish::{self, Job};
use crate::record::{Record, Run};
use crate::start::{self, Prepared, Request};
use crate::state::{Ended, Observed, Sandbox, State};
use crate::tasks::{self, Made};
use crate::{status, volumes};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, PodSpec, PodStatus};
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
/// A sandbox that could not be made is tried again after this, doubled up to the maximum.
const SANDBOX_RETRY_MS: i64 = 50;
/// Longest wait between attempts at a sandbox.
const SANDBOX_RETRY_MS_MAX: i64 = 5000;
/// What a container waits after an error in its configuration, in seconds.
const START_RETRY_SECONDS: i64 = 2;
/// While its objects may just be on their way (right after the pod), it waits less.
const START_RETRY_MS_EARLY: i64 = 100;
/// Tokens are fetched anew after this part of their life.
const TOKEN_AGE_MAX: Duration = Duration::from_secs(48 * 60);
/// Without the service account's token a pod starts after this long, and an Event says so.
const ACCOUNT_PATIENCE: SignedDuration = SignedDuration::from_secs(3);

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

    fn create_sandbox(&mut self) {
        let half_made = matches!(self.obs.sandbox, Sandbox::Absent { dirty: true, .. });
        let attempts = match self.obs.sandbox {
            Sandbox::Absent { attempts, .. } => attempts,
            _ => 0,
        };
        self.obs.sandbox = Sandbox::Creating { attempts };
        // In a new sandbox the init containers run again.
        if std::mem::take(&mut self.obs.initialized) {
            for (role, c) in plan::containers(&self.spec()) {
                if role != Role::App
                    && let Some(o) = self.obs.containers.get_mut(&c.name)
                {
                    o.state = State::default();
                }
            }
        }
        self.save();
        let (ctx, pod, cni) = (Arc::clone(&self.ctx), Arc::clone(&self.pod), self.cni.take());
        self.send(async move {
            if half_made {
                tasks::close(&ctx, &pod, cni, |e| tracing::warn!("clean up: {e}")).await;
            }
            Msg::Sandbox(tasks::create(&ctx, &pod).await)
        });
    }

    fn close_sandbox(&mut self) {
        self.obs.sandbox = Sandbox::Closing;
        self.sandbox = None;
        let (ctx, pod, cni) = (Arc::clone(&self.ctx), Arc::clone(&self.pod), self.cni.take());
        self.send(async move {
            let tell = |e: &Error| {
                let m = format!("error killing pod: {e}");
                ctx.events.emit(&pod, None, Warning, "FailedKillPod", m);
            };
            tasks::close(&ctx, &pod, cni, tell).await;
            Msg::Closed
        });
    }

    fn start(&mut self, name: &str, restart: bool) {
        let Some((role, container)) = self.find(name) else { return };
        let Some(sandbox) = self.sandbox.clone() else { return };
        let now = Timestamp::now();
        let o = self.obs.containers.entry(name.to_owned()).or_default();
        if let State::Ended(e) = &o.state {
            if restart {
                o.backoff.restarted(e.finished_at, now);
                o.restarts += 1;
            }
            if !o.replace {
                o.last = Some(e.clone());
            }
        }
        o.state = State::Starting;
        (o.started, o.ready, o.replace) = (false, false, false);
        (o.condemned, o.stop_by, o.retry_at) = (None, None, None);
        if self.tokens.0.elapsed() > TOKEN_AGE_MAX {
            self.tokens = (tokio::time::Instant::now(), Tokens::new());
        }
        let run = o.restarts;
        let (ctx, pod) = (Arc::clone(&self.ctx), Arc::clone(&self.pod));
        let ips = self.obs.sandbox.ips().to_vec();
        let tokens = self.tokens.1.clone();
        let account = self.account;
        let late = self.obs.start_time.is_some_and(|t| now.duration_since(t) > ACCOUNT_PATIENCE);
        let name = name.to_owned();
        self.send(async move {
            let spec = pod.spec.clone().unwrap_or_default();
            let ns = pod.metadata.namespace.clone().unwrap_or_default();
            let account = match account {
                Some(a) => a,
                None => {
                    let user = spec.service_account_name.as_deref().filter(|n| !n.is_empty());
                    volumes::wants_account(&spec)
                        && (spec.automount_service_account_token == Some(true)
                            || !ctx.account_forbids_mount(&ns, user.unwrap_or("default")).await)
                }
            };
            let request = |account: bool| Request {
                pod: Arc::clone(&pod),
                container: container.clone(),
                role,
                run,
                ips: ips.clone(),
                volumes: volumes::all(&spec, account),
                tokens: tokens.clone(),
            };
            let mut result = tasks::start(&ctx, sandbox.clone(), request(account)).await;
            if account && late && result.is_err() {
                // Better a pod without a token than no pod: few programs need one.
                let again = tasks::start(&ctx, sandbox, request(false)).await;
                if let (Err(e), Ok(_)) = (&result, &again) {
                    let m = format!("started without the service account's token: {e}");
                    ctx.events.emit(&pod, Some(&name), Warning, "FailedMount", m);
                    result = again;
                }
            }
            Msg::Started(name, result)
        });
    }

    fn stop(&mut self, name: &str, by: Timestamp, why: &str) {
        let hook = self.find(name).and_then(|(_, c)| {
            let h = c.lifecycle.as_ref()?.pre_stop.clone()?;
            Some((self.target(name, &c)?, h))
        });
        let Some(o) = self.obs.containers.get_mut(name) else { return };
        let replacing = o.replace;
        o.stop_by = Some(by);
        let Some(live) = self.live.get_mut(name) else { return };
        live.watchers.abort_all();
        if let Some(tx) = &live.stop_by {
            tx.send_replace(by);
            return;
        }
        let (tx, rx) = watch::channel(by);
        live.stop_by = Some(tx);
        let (ctx, pod, c) = (Arc::clone(&self.ctx), Arc::clone(&self.pod), live.container.clone());
        let id = name.to_owned();
        tokio::spawn(async move {
            tasks::stop(c, hook, rx, |m| {
                let m = format!("PreStopHook failed: {m}");
                ctx.events.emit(&pod, Some(&id), Warning, "FailedPreStopHook", m);
            })
            .await;
        });
        if !replacing {
            self.event(Some(name), Normal, "Killing", why.to_owned());
        }
    }

    fn target(&self, name: &str, c: &Container) -> Option<Target> {
        let run = self.runs.get(name)?;
        Some(Target {
            spec: c.clone(),
            ip: *self.obs.sandbox.ips().first()?,
            running: self.live.get(name)?.container.clone(),
            env: run.env.clone(),
            cwd: run.cwd.clone(),
        })
    }

    fn handle(&mut self, m: Msg) {
        match m {
            Msg::Sandbox(Ok(made)) => {
                self.sandbox = Some(made.sandbox);
                self.cni = made.cni;
                self.obs.sandbox = Sandbox::Ready { ips: made.ips };
                // Nothing of an earlier sandbox runs in this one.
                if !self.obs.initialized {
                    for o in self.obs.containers.values_mut().filter(|o| o.active()) {
                        o.state = State::default();
                    }
                }
            }
            Msg::Sandbox(Err(e)) => self.sandbox_failed(&e),
            Msg::Closed => self.obs.sandbox = Sandbox::Closed,
            Msg::Started(name, Ok((prepared, container))) => {
                self.started(&name, prepared, container)
            }
            Msg::Started(name, Err(e)) => self.start_failed(&name, &e),
            Msg::Exited(name, id, exit, at) => {
                let Some(o) = self.obs.containers.get(&name) else { return };
                let State::Running { since } = o.state else { return };
                if o.id == id {
                    self.ended(&name, exit, at, since);
                }
            }
            Msg::Probe(name, id, which, report) => self.probed(&name, &id, which, report),
            Msg::Condemn(name, id, why) => {
                if let Some(o) = self.obs.containers.get_mut(&name)
                    && o.id == id
                {
                    o.condemned.get_or_insert((why, None));
                }
            }
        }
    }

    fn sandbox_failed(&mut self, e: &Error) {
        let attempts = match self.obs.sandbox {
            Sandbox::Creating { attempts } => attempts,
            _ => 0,
        };
        let ms = (SANDBOX_RETRY_MS << attempts.min(10)).min(SANDBOX_RETRY_MS_MAX);
        let retry_at = Some(Timestamp::now() + SignedDuration::from_millis(ms));
        let dirty = self.ctx.sandbox_dir(&self.uid()).exists();
        self.obs.sandbox = Sandbox::Absent { attempts: attempts + 1, retry_at, dirty };
        // The first attempts may only be early: the agent writes its configuration when ready.
        if attempts >= 3 {
            let m = format!("Failed to create pod sandbox: {e}");
            self.event(None, Warning, "FailedCreatePodSandBox", m);
        } else {
            tracing::info!(pod = ?self.pod.metadata.name, "sandbox: {e}");
        }
    }

    fn started(
        &mut self,
        name: &str,
        prepared: Prepared,
        container: Option<weft_sandbox::Container>,
    ) {
        if !prepared.tokens.is_empty() {
            self.tokens.1.extend(prepared.tokens);
        }
        let now = Timestamp::now();
        let uid = self.uid();
        let Some(o) = self.obs.containers.get_mut(name) else { return };
        o.id = uuid::Uuid::new_v4().simple().to_string();
        o.stand_in = prepared.spec.is_none() || prepared.stand_in.is_some();
        let Some(container) = container else {
            o.state = State::Ended(Ended {
                code: 0,
                signal: None,
                reason: "Completed".into(),
                message: Some("The image is not here: a stand-in has completed".into()),
                started_at: now,
                finished_at: now,
                id: o.id.clone(),
            });
            return;
        };
        let since = Timestamp::try_from(container.started_at()).unwrap_or(now);
        o.state = State::Running { since };
        let run = o.restarts;
        if let Some(spec) = prepared.spec {
            self.runs.insert(
                name.to_owned(),
                Run { env: spec.env, cwd: spec.cwd, stand_in: prepared.stand_in },
            );
        }
        // Two runs are kept: the current one and `--previous`.
        if run >= 2 {
            let _ = std::fs::remove_file(self.ctx.log(&uid, name, run - 2));
        }
        self.event(Some(name), Normal, "Created", format!("Created container: {name}"));
        self.event(Some(name), Normal, "Started", format!("Started container {name}"));
        self.attach(name, container, true);
    }

    /// Watches over a container that runs.
    fn attach(&mut self, name: &str, container: weft_sandbox::Container, fresh: bool) {
        let Some((_, c)) = self.find(name) else { return };
        let Some(o) = self.obs.containers.get_mut(name) else { return };
        if c.startup_probe.is_none() {
            o.started = true;
        }
        if c.readiness_probe.is_none() {
            o.ready = true;
        }
        let id = o.id.clone();
        let age = match o.state {
            State::Running { since } => Timestamp::now().duration_since(since),
            _ => SignedDuration::ZERO,
        };
        let since = tokio::time::Instant::now()
            .checked_sub(Duration::try_from(age).unwrap_or_default())
            .unwrap_or_else(tokio::time::Instant::now);
        let (started, _) = watch::channel(o.started);
        let mut live = Live {
            container: container.clone(),
            started,
            stop_by: None,
            tasks: JoinSet::new(),
            watchers: JoinSet::new(),
        };
        let (tx, n, i) = (self.to_self.clone(), name.to_owned(), id.clone());
        live.tasks.spawn(async move {
            let (exit, at) = tasks::wait(container).await;
            let _ = tx.send(Msg::Exited(n, i, exit, at)).await;
        });
        self.live.insert(name.to_owned(), live);
        let Some(target) = self.target(name, &c) else { return };
        for (which, probe) in [
            (Which::Startup, &c.startup_probe),
            (Which::Liveness, &c.liveness_probe),
            (Which::Readiness, &c.readiness_probe),
        ] {
            let Some(probe) = probe.clone() else { continue };
            let Some(live) = self.live.get_mut(name) else { return };
            let rx = live.started.subscribe();
            let (tx, n, i) = (self.to_self.clone(), name.to_owned(), id.clone());
            let target = target.clone();
            let wrap = move |r| Msg::Probe(n.clone(), i.clone(), which, r);
            let work = prober::run(target, which, probe, since, rx, tx, wrap);
            let set = if which == Which::Readiness { &mut live.tasks } else { &mut live.watchers };
            set.spawn(work);
        }
        let hook = c.lifecycle.as_ref().and_then(|l| l.post_start.clone());
        if fresh && let Some(h) = hook {
            self.post_start(name, id, target, h);
        }
    }

    fn post_start(&mut self, name: &str, id: String, target: Target, h: LifecycleHandler) {
        let (tx, n) = (self.to_self.clone(), name.to_owned());
        let (ctx, pod) = (Arc::clone(&self.ctx), Arc::clone(&self.pod));
        let Some(live) = self.live.get_mut(name) else { return };
        live.tasks.spawn(async move {
            use crate::check::Outcome;
            let limit = Duration::from_secs(3600);
            match crate::check::handler(&target, &h, limit).await {
                Outcome::Ok => {}
                Outcome::Absent(p) => {
                    let m = format!("postStart: {p}: not on this machine; taken as done");
                    ctx.events.emit(&pod, Some(&n), Normal, "StandIn", m);
                }
                Outcome::Failed(m) => {
                    let m = format!("PostStartHook failed: {m}");
                    ctx.events.emit(&pod, Some(&n), Warning, "FailedPostStartHook", m);
                    let why = "FailedPostStartHook".to_owned();
                    let _ = tx.send(Msg::Condemn(n, id, why)).await;
                }
            }
        });
    }

    fn start_failed(&mut self, name: &str, e: &Error) {
        let now = Timestamp::now();
        let early = self.obs.start_time.is_some_and(|t| {
            now.duration_since(t) < ACCOUNT_PATIENCE + SignedDuration::from_secs(1)
        });
        let (reason, event) = match e {
            Error::Config(_) | Error::Api { .. } | Error::File { .. } => {
                ("CreateContainerConfigError", "Failed")
            }
            Error::NoProgram(_) => ("CreateContainerError", "Failed"),
            Error::Sandbox { source: weft_sandbox::Error::Program { .. }, .. } => {
                ("RunContainerError", "Failed")
            }
            _ => ("CreateContainerError", "Failed"),
        };
        let wait = if early && !matches!(e, Error::NoProgram(_)) {
            SignedDuration::from_millis(START_RETRY_MS_EARLY)
        } else if matches!(e, Error::NoProgram(_)) {
            SignedDuration::from_secs(10)
        } else {
            SignedDuration::from_secs(START_RETRY_SECONDS)
        };
        let message = e.to_string();
        let Some(o) = self.obs.containers.get_mut(name) else { return };
        let said = matches!(&o.state, State::Waiting { message: Some(m), .. } if *m == message);
        o.state = State::Waiting { reason: reason.into(), message: Some(message.clone()) };
        o.retry_at = Some(now + wait);
        if !said {
            self.event(Some(name), Warning, event, format!("Error: {message}"));
        }
    }

    fn ended(&mut self, name: &str, exit: Option<Exit>, at: Timestamp, since: Timestamp) {
        self.live.remove(name);
        let path = start::termination_file(&self.ctx, &self.uid(), name);
        let container = self.find(name).map(|(_, c)| c);
        let log = self
            .obs
            .containers
            .get(name)
            .map(|o| self.ctx.log(&self.uid(), name, o.restarts))
            .unwrap_or_default();
        let Some(o) = self.obs.containers.get_mut(name) else { return };
        let (code, signal, reason) = match exit {
            Some(e) if e.oom_killed => (e.code, e.signal, "OOMKilled"),
            Some(e) if e.code == 0 => (0, None, "Completed"),
            Some(e) => (e.code, e.signal, "Error"),
            // As the kubelet says of a container whose end nobody saw.
            None => (137, None, "ContainerStatusUnknown"),
        };
        let policy = container.as_ref().and_then(|c| c.termination_message_policy.as_deref());
        let fallback = policy == Some("FallbackToLogsOnError") && code != 0;
        let message = crate::logs::termination_message(&path, fallback.then_some(&log));
        o.state = State::Ended(Ended {
            code,
            signal,
            reason: reason.into(),
            message,
            started_at: since,
            finished_at: at,
            id: o.id.clone(),
        });
        (o.started, o.ready, o.stop_by, o.retry_at) = (false, false, None, None);
        o.condemned = None;
    }

    fn probed(&mut self, name: &str, id: &str, which: Which, report: Report) {
        let probe = self.find(name).and_then(|(_, c)| match which {
            Which::Startup => c.startup_probe,
            Which::Liveness => c.liveness_probe,
            Which::Readiness => c.readiness_probe,
        });
        let Some(o) = self.obs.containers.get_mut(name) else { return };
        if o.id != id || !matches!(o.state, State::Running { .. }) {
            return;
        }
        match report {
            Report::Failure(m) => {
                let m = format!("{} probe failed: {m}", which.name());
                self.event(Some(name), Warning, "Unhealthy", m);
            }
            Report::Absent(program) => {
                let m = format!("{} probe passes: {program}: not on this machine", which.name());
                self.event(Some(name), Normal, "StandIn", m);
            }
            Report::Verdict(ok, _) => match which {
                Which::Readiness => o.ready = ok,
                Which::Startup if ok => {
                    o.started = true;
                    if let Some(l) = self.live.get(name) {
                        l.started.send_replace(true);
                    }
                }
                Which::Startup | Which::Liveness if !ok => {
                    let grace = probe.and_then(|p| p.termination_grace_period_seconds);
                    let lower = which.name().to_lowercase();
                    let why = format!("Container {name} failed {lower} probe, will be restarted");
                    o.condemned.get_or_insert((why, grace));
                }
                _ => {}
            },
        }
    }

    /// Brings the files of volumes up to date.
    fn refresh(&mut self) {
        let spec = self.spec();
        let filled = spec.volumes.iter().flatten().any(|v| {
            v.config_map.is_some()
                || v.secret.is_some()
                || v.projected.is_some()
                || v.downward_api.is_some()
        });
        if !filled || self.live.is_empty() {
            return;
        }
        if self.tokens.0.elapsed() > TOKEN_AGE_MAX {
            self.tokens = (tokio::time::Instant::now(), Tokens::new());
        }
        let (ctx, pod) = (Arc::clone(&self.ctx), Arc::clone(&self.pod));
        let (tokens, ips) = (self.tokens.1.clone(), self.obs.sandbox.ips().to_vec());
        tokio::spawn(async move {
            let list = volumes::all(&spec, false);
            let (contents, tokens) = match volumes::fetch(&ctx, &pod, &list, &tokens).await {
                Ok(r) => r,
                Err(e) => return tracing::debug!("volumes: {e}"),
            };
            let _ = tokio::task::spawn_blocking(move || {
                let view = crate::fields::View {
                    pod: &pod,
                    pod_ips: &ips,
                    host_ips: &ctx.node_ips,
                    allocatable: &ctx.allocatable,
                };
                for v in &list {
                    if let Err(e) = volumes::prepare(&ctx, &view, v, &contents, &tokens) {
                        tracing::debug!("volume {}: {e}", v.name);
                    }
                }
            })
            .await;
        });
    }

    /// Tells API, disk and HTTP server what is known now.
    fn publish(&mut self) {
        self.save();
        // Conditions of others come from the newest object, own ones from the last status.
        let mut previous = self.last.clone();
        let seen = self.pod.status.as_ref().and_then(|s| s.conditions.as_ref());
        if let Some(seen) = seen {
            let own = previous.conditions.take().unwrap_or_default();
            let foreign = seen.iter().filter(|c| !own.iter().any(|o| o.type_ == c.type_));
            let mut all: Vec<_> = own
                .iter()
                .map(|c| {
                    let gate = |t: &str| {
                        self.pod
                            .spec
                            .iter()
                            .flat_map(|s| s.readiness_gates.iter().flatten())
                            .any(|g| g.condition_type == t)
                    };
                    let newer = seen.iter().find(|s| s.type_ == c.type_ && gate(&s.type_));
                    newer.unwrap_or(c).clone()
                })
                .collect();
            all.extend(foreign.cloned());
            previous.conditions = Some(all);
        }
        let status =
            status::status(&self.pod, &self.obs, &self.ctx.node_ips, &previous, Timestamp::now());
        self.show(&status);
        if status != self.last || self.jobs.borrow().status.is_none() {
            self.last = status.clone();
            self.jobs.send_replace(Job { status: Some(status), delete: false });
        }
    }

    fn show(&self, status: &PodStatus) {
        let meta = &self.pod.metadata;
        let (Some(ns), Some(name)) = (meta.namespace.clone(), meta.name.clone()) else { return };
        let uid = self.uid();
        let mut pod = Pod::clone(&self.pod);
        pod.status = Some(status.clone());
        let containers = self.obs.containers.iter().map(|(name, o)| {
            let run = self.runs.get(name);
            let entry = ContainerEntry {
                container: self.live.get(name).map(|l| l.container.clone()),
                env: run.map(|r| r.env.clone()).unwrap_or_default(),
                cwd: run.and_then(|r| r.cwd.clone()),
                log: self.ctx.log(&uid, name, o.restarts),
                run: o.restarts,
            };
            (name.clone(), entry)
        });
        let entry = PodEntry { pod: Arc::new(pod), containers: containers.collect() };
        let mut pods = self.ctx.pods.lock().expect("invariant: no panic under this lock");
        pods.insert((ns, name), entry);
    }

    fn save(&mut self) {
        let record = Record {
            pod: Pod::clone(&self.pod),
            obs: self.obs.clone(),
            cni: self.cni.clone(),
            runs: self.runs.clone(),
        };
        if let Err(e) = record.save(&self.ctx.state_file(&self.uid()), &mut self.saved) {
            tracing::warn!("state: {e}");
        }
    }

    /// Nothing is left: the last status, then the object, then what is on disk.
    async fn finish(&mut self) {
        if !self.obs.gone {
            self.publish();
            let status = self.jobs.borrow().status.clone();
            self.jobs.send_replace(Job { status, delete: true });
            // The object may also go by itself (forced deletion) while the API is waited for.
            loop {
                tokio::select! {
                    _ = &mut self.publisher => break,
                    c = self.input.changed() => {
                        if c.is_err() || self.input.borrow_and_update().gone { break; }
                    }
                }
            }
        }
        self.publisher.abort();
        let meta = &self.pod.metadata;
        let uid = self.uid();
        if let (Some(ns), Some(name)) = (meta.namespace.clone(), meta.name.clone()) {
            let mut pods = self.ctx.pods.lock().expect("invariant: no panic under this lock");
            let key = (ns, name);
            // A namesake may have taken the place.
            if pods.get(&key).is_some_and(|e| e.pod.metadata.uid.as_deref() == Some(&uid)) {
                pods.remove(&key);
            }
        }
        let _ = std::fs::remove_dir_all(self.ctx.pod_dir(&uid));
        let _ = std::fs::remove_file(self.ctx.state_file(&uid));
    }
}

fn listens(have: &[Port], want: &Port) -> bool {
    have.iter().any(|p| p.port == want.port && p.protocol == want.protocol)
}
