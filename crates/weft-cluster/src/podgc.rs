//! Pods nobody will ever finish: those of nodes that are gone, deleted ones without a node, and
//! those that wait to be counted by a Job that is gone.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::action::{Action, Delete, Plan};
use crate::config::Config;
use crate::kinds::{Kind, World};
use crate::pods;
use crate::store::Object;

/// The node that a pod names and that is not there.
pub(crate) fn missing_node<'a>(world: &'a World, namespace: &str, name: &str) -> Option<&'a str> {
    let node = pods::node(world.pods.get(namespace, name)?)?;
    world.nodes.get("", node).is_none().then_some(node)
}

/// Whether one pod is garbage. `missing_since`: when its node was first seen missing.
pub(crate) fn plan(
    world: &World,
    config: &Config,
    missing_since: Timestamp,
    namespace: &str,
    name: &str,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let Some(pod) = world.pods.get(namespace, name) else { return plan };
    if let Some(release) = crate::job::abandoned(world, pod) {
        plan.push(release);
        return plan;
    }
    match pods::node(pod) {
        None if pod.deleting() => {
            plan.actions.extend(end(pod, None));
        }
        Some(node) if world.nodes.get("", node).is_none() => {
            // A pod may name its node before the node has registered, and a node may come back.
            let grace = SignedDuration::try_from(config.orphan_pod_grace);
            let at = missing_since.saturating_add(grace.unwrap_or(SignedDuration::MAX));
            match at.unwrap_or(Timestamp::MAX) {
                at if at <= now => {
                    let message = "PodGC: node no longer exists";
                    let condition = pods::disruption("DeletionByPodGC", message, now);
                    plan.actions.extend(end(pod, Some(condition)));
                }
                at => plan.ask_again(at),
            }
        }
        _ => {}
    }
    plan
}

/// The next step to a pod's end: no kubelet will say that it failed, so that is said here, and
/// then it is deleted. One that only its finalizers hold was deleted before.
fn end(pod: &Pod, condition: Option<Value>) -> Option<Action> {
    if !pods::finished(pod) {
        let mut body = json!({"metadata": {"uid": pod.uid()}, "status": {"phase": "Failed"}});
        if let Some(condition) = condition {
            body["status"]["conditions"] = json!([condition]);
        }
        return Some(Action::strategic(Kind::Pod, &pod.metadata, Some("status"), body));
    }
    if pod.deleting() && pod.metadata.deletion_grace_period_seconds == Some(0) {
        return None;
    }
    let at_once = Delete { grace_seconds: Some(0), ..Delete::default() };
    Some(Action::delete_with(Kind::Pod, &pod.metadata, at_once))
}
