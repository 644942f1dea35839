//! Steps that the plan asks for: begun here, carried out by tasks, finished by a message.

use super::{Msg, TOKEN_AGE_MAX, Worker};
use crate::check::Target;
use crate::error::Error;
use crate::events::Severity::{Normal, Warning};
use crate::payload::Tokens;
use crate::plan::{self, Role};
use crate::start::Request;
use crate::state::{Sandbox, State};
use crate::{tasks, volumes};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Container;
use std::sync::Arc;
use tokio::sync::watch;

/// Without the service account's token a pod starts after this long, and an Event says so.
pub(super) const ACCOUNT_PATIENCE: SignedDuration = SignedDuration::from_secs(3);

impl Worker {
    pub(super) fn create_sandbox(&mut self) {
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
        // Addresses may be others in a new sandbox: /etc/hosts and its like are written anew.
        let _ = std::fs::remove_dir_all(self.ctx.pod_dir(&self.uid()).join("etc"));
        let (ctx, pod, cni) = (Arc::clone(&self.ctx), Arc::clone(&self.pod), self.cni.take());
        self.send(async move {
            if half_made {
                tasks::close(&ctx, &pod, cni, |e| tracing::warn!("clean up: {e}")).await;
            }
            Msg::Sandbox(tasks::create(&ctx, &pod).await)
        });
    }

    pub(super) fn close_sandbox(&mut self) {
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

    pub(super) fn start(&mut self, name: &str, restart: bool) {
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

    pub(super) fn stop(&mut self, name: &str, by: Timestamp, why: &str) {
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

    pub(super) fn target(&self, name: &str, c: &Container) -> Option<Target> {
        let run = self.runs.get(name)?;
        Some(Target {
            spec: c.clone(),
            ip: *self.obs.sandbox.ips().first()?,
            running: self.live.get(name)?.container.clone(),
            env: run.env.clone(),
            cwd: run.cwd.clone(),
        })
    }
}
