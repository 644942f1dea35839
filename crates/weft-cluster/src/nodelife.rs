//! The life of nodes: a kubelet that stops renewing its lease loses its node's readiness, the
//! node gets taints, and in the end its pods are deleted.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::action::{About, Action, Plan, Severity, value};
use crate::config::Config;
use crate::kinds::{Kind, World};
use crate::pods;
use crate::scheduler::tolerates;
use crate::store::Object;

/// Namespace of the kubelets' leases.
pub(crate) const LEASES: &str = "kube-node-lease";
pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const EFFECTS: [&str; 2] = ["NoSchedule", "NoExecute"];
/// How long a pod stays on a lost node if it does not say (admission's default toleration).
const TOLERATION_S: i64 = 300;
/// Why such a pod ends.
const EVICTED: &str = "DeletionByTaintManager";

/// One node's readiness, taints and evictions.
pub(crate) fn plan(world: &World, config: &Config, name: &str, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(node) = world.nodes.get("", name).filter(|node| !node.deleting()) else { return plan };
    let ready = condition(node);
    let grace = SignedDuration::try_from(config.node_grace).unwrap_or(SignedDuration::MAX);
    let lost_at = last_sign(world, node).saturating_add(grace).unwrap_or(Timestamp::MAX);
    let lost = lost_at <= now;
    if lost && ready.is_none_or(|ready| ready.status != "Unknown") {
        declare_lost(world, node, now, &mut plan);
        return plan;
    }
    if !lost {
        plan.ask_again(lost_at);
    } else {
        // In every round: one of these writes may have failed when the node was lost, and its
        // pod would be served to clients until the end of time.
        mark_pods(world, node, now, &mut plan);
    }
    let wanted = match ready.map(|ready| ready.status.as_str()) {
        Some("True") => None,
        Some("False") => Some(NOT_READY),
        Some(_) => Some(UNREACHABLE),
        // A node that just came is not tainted: the scheduler waits for it anyway.
        None => return plan,
    };
    if let Some(action) = taint(node, wanted, now) {
        plan.push(action);
        return plan;
    }
    evict(world, node, now, &mut plan);
    plan
}

fn condition(node: &Node) -> Option<&NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|one| one.type_ == "Ready")
}

/// When the kubelet was last heard of.
fn last_sign(world: &World, node: &Node) -> Timestamp {
    let lease = world.leases.get(LEASES, node.name());
    let renewed = lease
        .and_then(|lease| lease.spec.as_ref())
        .and_then(|spec| spec.renew_time.as_ref())
        .map(|time| time.0);
    let beat = condition(node).filter(|ready| ready.status != "Unknown");
    let beat = beat.and_then(|ready| ready.last_heartbeat_time.as_ref()).map(|time| time.0);
    let created = node.metadata.creation_timestamp.as_ref().map(|time| time.0);
    renewed.max(beat).max(created).unwrap_or(Timestamp::MIN)
}

fn declare_lost(world: &World, node: &Node, now: Timestamp, plan: &mut Plan) {
    let now_text = value(&Time(now));
    let ready = json!({
        "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
        "message": "Kubelet stopped posting node status.", "lastTransitionTime": now_text,
    });
    let body = json!({"metadata": {"uid": node.uid()}, "status": {"conditions": [ready]}});
    plan.push(Action::strategic(Kind::Node, &node.metadata, Some("status"), body));
    let about = About { kind: Kind::Node, meta: &node.metadata, component: "node-controller", now };
    let message = format!("Node {} status is now: NodeNotReady", node.name());
    plan.push(Action::event(&about, Severity::Normal, "NodeNotReady", &message));
    mark_pods(world, node, now, plan);
}

/// No pod of a lost node is ready.
fn mark_pods(world: &World, node: &Node, now: Timestamp, plan: &mut Plan) {
    let now_text = value(&Time(now));
    for pod in on_node(world, node.name()).filter(|pod| pods::ready(pod)) {
        let ready = json!({"type": "Ready", "status": "False", "reason": "NodeNotReady",
            "message": "the pod's node is lost", "lastTransitionTime": now_text});
        let body = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [ready]}});
        plan.push(Action::strategic(Kind::Pod, &pod.metadata, Some("status"), body));
    }
}

fn on_node<'a>(world: &'a World, name: &'a str) -> impl Iterator<Item = &'a Pod> {
    world.pods.iter().map(AsRef::as_ref).filter(move |pod| pods::node(pod) == Some(name))
}

/// Leaves exactly the wanted one of our two taints, with both effects.
fn taint(node: &Node, wanted: Option<&str>, now: Timestamp) -> Option<Action> {
    let held = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let (ours, mut next): (Vec<Taint>, Vec<Taint>) =
        held.iter().cloned().partition(|taint| [NOT_READY, UNREACHABLE].contains(&&*taint.key));
    let right = |taint: &&Taint| Some(taint.key.as_str()) == wanted;
    let complete = match wanted {
        None => ours.is_empty(),
        Some(_) => {
            let effects: BTreeMap<&str, ()> =
                ours.iter().filter(right).map(|taint| (taint.effect.as_str(), ())).collect();
            ours.iter().all(|taint| right(&taint)) && effects.len() == EFFECTS.len()
        }
    };
    if complete {
        return None;
    }
    next.extend(wanted.into_iter().flat_map(|key| {
        EFFECTS.map(|effect| Taint {
            key: key.into(),
            effect: effect.into(),
            time_added: Some(Time(now)),
            ..Taint::default()
        })
    }));
    let taints = if next.is_empty() { Value::Null } else { value(&next) };
    // The list is replaced as a whole, so only on top of what was seen.
    let body = json!({
        "metadata": {"resourceVersion": node.metadata.resource_version},
        "spec": {"taints": taints},
    });
    Some(Action::merge(Kind::Node, &node.metadata, None, body))
}

/// Deletes the pods that do not tolerate the node's NoExecute taints (any longer).
fn evict(world: &World, node: &Node, now: Timestamp, plan: &mut Plan) {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let taints: Vec<&Taint> = taints.iter().filter(|taint| taint.effect == "NoExecute").collect();
    if taints.is_empty() {
        return;
    }
    for pod in on_node(world, node.name()).filter(|pod| pods::active(pod)) {
        let until = taints.iter().filter_map(|taint| tolerated_until(pod, taint)).min();
        match until {
            Some(at) if at <= now && !pods::disrupted(pod, EVICTED) => {
                // Before it goes: whoever counts its end reads there whose doing that was.
                let message = "Taint manager: deleting due to NoExecute taint";
                let condition = pods::disruption(EVICTED, message, now);
                let body =
                    json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
                plan.push(Action::strategic(Kind::Pod, &pod.metadata, Some("status"), body));
            }
            Some(at) if at <= now => {
                plan.push(Action::delete(Kind::Pod, &pod.metadata));
                let about = About {
                    kind: Kind::Pod,
                    meta: &pod.metadata,
                    component: "taint-eviction-controller",
                    now,
                };
                let message =
                    format!("Marking for deletion Pod {}/{}", pod.namespace(), pod.name());
                plan.push(Action::event(
                    &about,
                    Severity::Normal,
                    "TaintManagerEviction",
                    &message,
                ));
            }
            Some(at) => plan.ask_again(at),
            None => {}
        }
    }
}

/// Until when the pod bears the taint; `None` for ever.
fn tolerated_until(pod: &Pod, taint: &Taint) -> Option<Timestamp> {
    let all = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let covering: Vec<_> = all.iter().filter(|one| tolerates(one, taint)).collect();
    let since = taint.time_added.as_ref().map_or(Timestamp::MIN, |time| time.0);
    let seconds = if covering.is_empty() {
        if [NOT_READY, UNREACHABLE].contains(&&*taint.key) { TOLERATION_S } else { 0 }
    } else {
        // The shortest of those that have an end.
        covering.iter().filter_map(|one| one.toleration_seconds).min()?
    };
    Some(since.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX))
}
