//! Places pods on nodes: filters say where a pod may run, a score says where it should.
//!
//! A binding is under way for a moment in which the store still shows the pod unbound; [`Assumed`]
//! remembers the choice, so that neither the pod nor its room is given away twice.

mod filter;
mod node;
mod score;

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;

use self::filter::{Reason, misfit};
pub(crate) use self::filter::{daemon_may_run, daemon_may_stay, tolerates};
use self::node::Nodes;
use crate::action::{About, Action, Plan, Severity, Verb};
use crate::kinds::{Kind, World};
use crate::store::{Id, Object};
use crate::{pods, storage};

const COMPONENT: &str = "default-scheduler";

/// Choices whose bindings are under way.
#[derive(Default)]
pub(crate) struct Assumed(HashMap<Id, String>);

impl Assumed {
    pub(crate) fn node(&self, namespace: &str, name: &str) -> Option<&str> {
        self.0.get(&(namespace.to_owned(), name.to_owned())).map(String::as_str)
    }

    pub(crate) fn release(&mut self, namespace: &str, name: &str) {
        if !self.0.is_empty() {
            self.0.remove(&(namespace.to_owned(), name.to_owned()));
        }
    }
}

/// What pods of one batch share: the nodes with their load, built once.
#[derive(Default)]
pub(crate) struct Round(Option<Nodes>);

/// Whether two states of a node are the same to the scheduler.
pub(crate) fn same_to_us(old: Option<&Arc<Node>>, new: Option<&Arc<Node>>) -> bool {
    let (Some(old), Some(new)) = (old, new) else { return false };
    fn parts(node: &Node) -> impl PartialEq {
        let spec = node.spec.clone().unwrap_or_default();
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.clone());
        (
            node.metadata.labels.clone(),
            spec.taints,
            spec.unschedulable,
            allocatable,
            node::is_ready(node),
        )
    }
    parts(old) == parts(new)
}

/// Whether the pod waits for this scheduler.
pub(crate) fn is_ours(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    pods::node(pod).is_none()
        && pods::active(pod)
        && spec.scheduler_name.as_deref().unwrap_or("default-scheduler") == "default-scheduler"
        && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
}

/// Binds one pod, or says why that cannot be.
pub(crate) fn plan(
    world: &World,
    assumed: &mut Assumed,
    round: &mut Round,
    namespace: &str,
    name: &str,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let Some(pod) = world.pods.get(namespace, name) else { return plan };
    if !is_ours(pod) || assumed.node(namespace, name).is_some() {
        return plan;
    }
    let nodes = round.0.get_or_insert_with(|| Nodes::new(world, &assumed.0));
    let about = About { kind: Kind::Pod, meta: &pod.metadata, component: COMPONENT, now };
    match choose(world, nodes, pod) {
        Ok(node) => {
            assumed.0.insert(pod.id(), node.clone());
            nodes.place(pod, &node);
            plan.push(bind(pod, &node));
            let message = format!("Successfully assigned {namespace}/{name} to {node}");
            plan.push(Action::event(&about, Severity::Normal, "Scheduled", &message));
        }
        Err(message) => {
            if known_message(pod) == Some(message.as_str()) {
                return plan;
            }
            let condition = json!({
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                "message": message, "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            });
            let body = json!({
                "metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]},
            });
            plan.push(Action::strategic(Kind::Pod, &pod.metadata, Some("status"), body));
            plan.push(Action::event(&about, Severity::Warning, "FailedScheduling", &message));
        }
    }
    plan
}

fn bind(pod: &Pod, node: &str) -> Action {
    let body = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid()},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    Action::on(Kind::Pod, &pod.metadata, Verb::CreateSub("binding", body))
}

fn known_message(pod: &Pod) -> Option<&str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    found.message.as_deref()
}

/// The best node, or the sentence Kubernetes would say.
fn choose(world: &World, nodes: &Nodes, pod: &Pod) -> Result<String, String> {
    if nodes.all.is_empty() {
        return Err("no nodes available to schedule pods".into());
    }
    if let Some(obstacle) = storage::obstacle(world, pod) {
        return Err(format!("0/{} nodes are available: {obstacle}.", nodes.all.len()));
    }
    let wants = filter::Wants::new(world, nodes, pod);
    let mut reasons: HashMap<String, usize> = HashMap::new();
    let mut best: Option<(score::Score, &str)> = None;
    for node in &nodes.all {
        match misfit(&wants, nodes, node) {
            None => {
                let score = score::score(pod, node);
                if best.as_ref().is_none_or(|(held, _)| score < *held) {
                    best = Some((score, &node.name));
                }
            }
            Some(found) => {
                for Reason(text) in found {
                    *reasons.entry(text).or_default() += 1;
                }
            }
        }
    }
    if let Some((_, name)) = best {
        return Ok(name.to_owned());
    }
    let mut parts: Vec<String> =
        reasons.into_iter().map(|(text, count)| format!("{count} {text}")).collect();
    parts.sort();
    Err(format!("0/{} nodes are available: {}.", nodes.all.len(), parts.join(", ")))
}

#[cfg(test)]
mod tests;
