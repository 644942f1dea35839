//! What the worker tells others: volumes, API, disk, HTTP server.

use super::{TOKEN_AGE_MAX, Worker};
use crate::ctx::{ContainerEntry, PodEntry};
use crate::payload::Tokens;
use crate::publish::Job;
use crate::record::Record;
use crate::{status, volumes};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use std::sync::Arc;

impl Worker {
    /// Brings the files of volumes up to date.
    pub(super) fn refresh(&mut self) {
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
    pub(super) fn publish(&mut self) {
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
        if self.obs.gone {
            return;
        }
        if status != self.last || self.jobs.borrow().status.is_none() {
            self.last = status.clone();
            self.jobs.send_replace(Job { status: Some(status), delete: false });
        }
    }

    pub(super) fn show(&self, status: &PodStatus) {
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
        let key = (ns, name);
        // The object is gone and a namesake may have taken its place.
        let other = |e: &PodEntry| e.pod.metadata.uid.as_deref() != Some(&uid);
        if self.obs.gone && pods.get(&key).is_some_and(other) {
            return;
        }
        pods.insert(key, entry);
    }

    pub(super) fn save(&mut self) {
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
    pub(super) async fn finish(&mut self) {
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
        crate::volumes::remove(&self.ctx.pod_dir(&uid));
        let _ = std::fs::remove_file(self.ctx.state_file(&uid));
    }
}
