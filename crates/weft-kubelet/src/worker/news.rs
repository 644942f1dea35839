//! What tasks, probes and containers report.

use super::steps::ACCOUNT_PATIENCE;
use super::{Live, Msg, Worker};
use crate::check::Target;
use crate::error::Error;
use crate::events::Severity::{Normal, Warning};
use crate::probe::Which;
use crate::prober::{self, Report};
use crate::record::Run;
use crate::start::{self, Prepared};
use crate::state::{Ended, Sandbox, State};
use crate::tasks;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::LifecycleHandler;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use weft_sandbox::Exit;

/// A sandbox that could not be made is tried again after this, doubled up to the maximum.
const SANDBOX_RETRY_MS: i64 = 50;
/// Longest wait between attempts at a sandbox.
const SANDBOX_RETRY_MS_MAX: i64 = 5000;
/// What a container waits after an error in its configuration, in seconds.
const START_RETRY_SECONDS: i64 = 2;
/// While its objects may just be on their way (right after the pod), it waits less.
const START_RETRY_MS_EARLY: i64 = 100;

impl Worker {
    pub(super) fn handle(&mut self, m: Msg) {
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

    pub(super) fn sandbox_failed(&mut self, e: &Error) {
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

    pub(super) fn started(
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
    pub(super) fn attach(&mut self, name: &str, container: weft_sandbox::Container, fresh: bool) {
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
        let passed = o.started;
        let (started, _) = watch::channel(passed);
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
            // An adopted run has its startup behind it.
            if which == Which::Startup && passed {
                continue;
            }
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

    pub(super) fn post_start(
        &mut self,
        name: &str,
        id: String,
        target: Target,
        h: LifecycleHandler,
    ) {
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

    pub(super) fn start_failed(&mut self, name: &str, e: &Error) {
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

    pub(super) fn ended(
        &mut self,
        name: &str,
        exit: Option<Exit>,
        at: Timestamp,
        since: Timestamp,
    ) {
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

    pub(super) fn probed(&mut self, name: &str, id: &str, which: Which, report: Report) {
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
}
