//! What the parts of the agent tell one another, and the status that people read.

use crate::{flows::Flows, host_port::Wanted, policy::AppliedPolicy};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};
use tokio::sync::watch;
use weft_model::IpFamily;

/// The fabric as it is in the kernel: what CNI, DNS and the service planner need of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedFabric {
    /// Generation of the snapshot that it was planned from.
    pub generation: u64,
    /// The node's pod CIDRs.
    pub pod_cidrs: Vec<ipnet::IpNet>,
    /// Router addresses; DNS listens here.
    pub routers: Vec<IpAddr>,
    /// MTU in bytes of pod links.
    pub pod_mtu: u32,
    /// Source of the node towards its pods.
    pub pod_sources: BTreeMap<IpFamily, IpAddr>,
}

/// One stage of the reconciler, for the status.
#[derive(Clone, Debug, Default)]
pub struct Stage {
    /// Generation that was applied, as far as the kernel has room for it; 0 for none.
    pub generation: u64,
    /// Errors of the last try.
    pub errors: Vec<String>,
    /// What is wrong with the input.
    pub diagnostics: Vec<String>,
    /// Counts.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Stage {
    /// Logs what the last try did not say. What is wrong with the input is often passing (a
    /// node that has just joined), so it is no warning.
    pub fn log_news(&self, name: &str, errors: &[String], diagnostics: &[String]) {
        for text in errors.iter().filter(|t| !self.errors.contains(t)) {
            tracing::warn!("{name}: {text}");
        }
        for text in diagnostics.iter().filter(|t| !self.diagnostics.contains(t)) {
            tracing::info!("{name}: {text}");
        }
    }
}

/// The agent's state, shared by its parts.
pub struct State {
    /// Name of the node.
    pub node: String,
    /// `vxlan` or `native`.
    pub network: &'static str,
    /// The applied fabric; none before the first time.
    pub fabric: watch::Sender<Option<AppliedFabric>>,
    /// The pods' host ports, as the service stage shall have them.
    pub host_ports: watch::Sender<Wanted>,
    /// The version of `host_ports` that is in the kernel.
    pub host_ports_applied: watch::Sender<u64>,
    /// Whether the programs at the pods' links are loaded and know the node.
    pub pod_links: watch::Sender<bool>,
    /// What the programs at the pods' links judge by; none before the first time.
    pub policy: watch::Sender<Option<Arc<AppliedPolicy>>>,
    /// Verdicts of policy.
    pub flows: Flows,
    stages: Mutex<BTreeMap<&'static str, Stage>>,
    features: OnceLock<Vec<Value>>,
}

/// The stages that must have applied something once before the node is ready.
const STAGES: [&str; 4] = ["fabric", "services", "dns", "policy"];

impl State {
    /// Nothing applied yet.
    pub fn new(node: String, network: &'static str) -> Self {
        Self {
            node,
            network,
            fabric: watch::Sender::new(None),
            host_ports: watch::Sender::default(),
            host_ports_applied: watch::Sender::default(),
            pod_links: watch::Sender::default(),
            policy: watch::Sender::default(),
            flows: Flows::default(),
            stages: Mutex::default(),
            features: OnceLock::new(),
        }
    }

    fn stages(&self) -> MutexGuard<'_, BTreeMap<&'static str, Stage>> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the outcome of a stage.
    pub fn record(&self, name: &'static str, change: impl FnOnce(&mut Stage)) {
        change(self.stages().entry(name).or_default());
    }

    /// All stages as they are now.
    pub fn all_stages(&self) -> BTreeMap<&'static str, Stage> {
        self.stages().clone()
    }

    /// The kernel's features, tried when somebody asks for the first time: trying them takes
    /// hundreds of milliseconds, which the start of a node has no use for. Blocks.
    pub fn features(&self) -> &[Value] {
        let value = |f: &weft_bpf::Feature| json!({"name": f.name, "ok": f.ok, "optional": f.optional, "detail": f.detail});
        self.features.get_or_init(|| {
            let all = weft_bpf::probe().into_iter().chain(crate::closing::features());
            let all = all.chain([crate::closing::hash_feature()]);
            all.map(|f| value(&f)).collect()
        })
    }

    /// Why the agent is not ready; `None` when it is: every stage was applied once.
    pub fn unready(&self, snapshot_seen: bool) -> Option<String> {
        let stages = self.stages();
        let api = stages.get("api").and_then(|s| s.errors.first());
        if !snapshot_seen {
            let why = api.map(|e| format!(": {e}")).unwrap_or_default();
            return Some(format!("the Kubernetes API has not been read yet{why}"));
        }
        STAGES.into_iter().find_map(|name| match stages.get(name) {
            Some(stage) if stage.generation > 0 => None,
            // The first tables wait for the ranges of Services, which come from the API.
            None if api.is_some() => Some(format!("{name}: {}", api.map_or("", |a| a))),
            Some(stage) => {
                let why = stage.errors.iter().chain(&stage.diagnostics).next();
                let why = why.map_or_else(|| "not applied yet".to_owned(), Clone::clone);
                Some(format!("{name}: {why}"))
            }
            None => Some(format!("{name}: not applied yet")),
        })
    }

    /// The status as JSON; `ipam` and `pods` come from the CNI service. The features are in it
    /// once [`Self::features`] was called.
    pub fn status(&self, snapshot_generation: u64, ipam: Value, pods: usize) -> Value {
        let reason = self.unready(snapshot_generation > 0);
        let stages: BTreeMap<&str, Value> = self
            .stages()
            .iter()
            .map(|(name, s)| {
                let value = json!({
                    "generation": s.generation,
                    "errors": s.errors,
                    "diagnostics": s.diagnostics,
                    "counts": s.counts,
                });
                (*name, value)
            })
            .collect();
        let fabric = self.fabric.borrow().as_ref().map(|f| {
            json!({
                "podCIDRs": f.pod_cidrs,
                "routers": f.routers,
                "podMTU": f.pod_mtu,
            })
        });
        json!({
            "node": self.node,
            "network": self.network,
            "ready": reason.is_none(),
            "reason": reason,
            "generation": snapshot_generation,
            "fabric": fabric,
            "stages": stages,
            "ipam": ipam,
            "pods": pods,
            "features": self.features.get(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_every_stage_was_applied_once() {
        let state = State::new("n1".to_owned(), "vxlan");
        assert!(state.unready(false).expect("not ready").contains("API"));
        state.record("api", |s| s.errors = vec!["Node: forbidden".to_owned()]);
        assert!(state.unready(false).expect("not ready").ends_with("yet: Node: forbidden"));
        assert_eq!(state.unready(true).expect("not ready"), "fabric: Node: forbidden");
        state.record("api", |s| s.errors.clear());
        state.record("fabric", |s| s.errors = vec!["no uplink".to_owned()]);
        assert_eq!(state.unready(true).expect("not ready"), "fabric: no uplink");
        for stage in STAGES {
            assert!(state.unready(true).is_some());
            state.record(stage, |s| s.generation = 1);
        }
        // A later error does not make the node unready: what was applied still works.
        state.record("fabric", |s| s.errors = vec!["busy".to_owned()]);
        assert_eq!(state.unready(true), None);
        assert_eq!(state.status(3, Value::Null, 0)["ready"], true);
    }
}
