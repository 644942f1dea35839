//! What the workload planners need to know of pods: readiness, making one, which goes first.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, PodTemplateSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use serde_json::{Value, json};

use crate::kinds::{Kind, Meta};
use crate::store::Object;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The node a pod is bound to.
pub(crate) fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// The node that a DaemonSet's pod is for: the one it is bound to, or the one its affinity names.
pub(crate) fn target(pod: &Pod) -> Option<&str> {
    let named = || {
        let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
        let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
        let fields =
            required.node_selector_terms.iter().filter_map(|term| term.match_fields.as_ref());
        let mut names = fields.flatten().filter(|one| one.key == "metadata.name");
        names.next()?.values.as_ref()?.first().map(String::as_str)
    };
    node(pod).or_else(named)
}

/// Makes a pod one for this node only, whatever nodes its template requires: that was judged
/// before. The scheduler binds it, as room and the order of priorities allow.
pub(crate) fn pin(spec: &mut PodSpec, node: &str) {
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    let name = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.into()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![name]), match_expressions: None };
    affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
}

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Ran to its end: it will not come back.
pub(crate) fn finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Counts towards the replicas of its owner.
pub(crate) fn active(pod: &Pod) -> bool {
    !finished(pod) && !pod.deleting()
}

/// Status and time of a condition of the pod.
fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<(&'a str, Option<Timestamp>)> {
    let all = pod.status.as_ref()?.conditions.as_ref()?;
    let found = all.iter().find(|condition| condition.type_ == kind)?;
    Some((&found.status, found.last_transition_time.as_ref().map(|time| time.0)))
}

/// The condition that says that the pod is ended from outside.
const DISRUPTION: &str = "DisruptionTarget";

pub(crate) fn disruption(reason: &str, message: &str, now: Timestamp) -> Value {
    json!({"type": DISRUPTION, "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": crate::action::value(&Time(now))})
}

/// Whether a pod says that it is ended from outside, and for this reason.
pub(crate) fn disrupted(pod: &Pod, reason: &str) -> bool {
    let mut all = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    all.any(|one| {
        one.type_ == DISRUPTION && one.status == "True" && one.reason.as_deref() == Some(reason)
    })
}

pub(crate) fn ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|(status, _)| status == "True")
}

/// When the pod became ready or ceased to be.
pub(crate) fn ready_changed(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready").and_then(|(_, since)| since)
}

fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready").filter(|(status, _)| *status == "True").and_then(|(_, since)| since)
}

/// When a ready pod counts as available: at once without `minReadySeconds`.
/// `Err` with the time at which it will, if it stays ready; `Err(None)` if it is not ready.
pub(crate) fn available(
    pod: &Pod,
    min_ready_seconds: i32,
    now: Timestamp,
) -> Result<(), Option<Timestamp>> {
    if !ready(pod) {
        return Err(None);
    }
    if min_ready_seconds <= 0 {
        return Ok(());
    }
    let since = ready_since(pod).unwrap_or(now);
    let wait = SignedDuration::from_secs(min_ready_seconds.into());
    let at = since.saturating_add(wait).unwrap_or(Timestamp::MAX);
    if at <= now { Ok(()) } else { Err(Some(at)) }
}

/// The managing owner's entry in what it makes.
pub(crate) fn owner_reference(kind: Kind, meta: &Meta) -> OwnerReference {
    OwnerReference {
        api_version: kind.api_version().into(),
        kind: kind.name().into(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A pod after a workload's template. With an empty `name` the server makes one after
/// `<owner>-`.
pub(crate) fn from_template(
    kind: Kind,
    owner: &Meta,
    template: &PodTemplateSpec,
    name: Option<String>,
) -> Pod {
    let of = template.metadata.clone().unwrap_or_default();
    let generate =
        name.is_none().then(|| format!("{}-", owner.name.as_deref().unwrap_or_default()));
    Pod {
        metadata: Meta {
            name,
            generate_name: generate,
            namespace: owner.namespace.clone(),
            labels: of.labels,
            annotations: of.annotations,
            finalizers: of.finalizers,
            owner_references: Some(vec![owner_reference(kind, owner)]),
            ..Meta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The order in which Kubernetes deletes surplus pods, first to go first
/// (`ActivePodsWithRanks`): unbound, pending, not ready, cheaper, doubled up on a node, ready for
/// a shorter time, more restarts, younger.
pub(crate) fn rank_for_deletion(pods: &mut [Arc<Pod>]) {
    let all = pods.to_vec();
    rank_beside(pods, &all);
}

/// The same where other pods count for how many there are on a node.
pub(crate) fn rank_beside(pods: &mut [Arc<Pod>], all: &[Arc<Pod>]) {
    let mut on_node: HashMap<String, usize> = HashMap::new();
    for pod in all {
        *on_node.entry(node(pod).unwrap_or_default().to_owned()).or_default() += 1;
    }
    pods.sort_by_cached_key(|pod| {
        let bound = node(pod);
        let phase = match phase(pod) {
            "Pending" => 0,
            "Unknown" => 1,
            _ => 2,
        };
        let cost: i32 =
            pod.annotation(DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or(0);
        let doubled = on_node.get(bound.unwrap_or_default()).copied().unwrap_or(0);
        let restarts = pod
            .status
            .as_ref()
            .and_then(|status| status.container_statuses.as_ref())
            .map_or(0, |all| all.iter().map(|one| one.restart_count).max().unwrap_or(0));
        (
            (bound.is_some(), phase, ready(pod), cost),
            Reverse(doubled),
            Reverse(ready_since(pod)),
            Reverse(restarts),
            Reverse(pod.created_seconds()),
            pod.name().to_owned(),
        )
    });
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn pod(name: &str, node: Option<&str>, phase: &str, is_ready: bool) -> Arc<Pod> {
        let status = if is_ready { "True" } else { "False" };
        let body = json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name, "resourceVersion": "1"},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": phase, "conditions": [{
                "type": "Ready", "status": status,
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        });
        Arc::new(serde_json::from_value(body).expect("a pod"))
    }

    #[test]
    fn surplus_order() {
        let mut pods = vec![
            pod("ready-alone", Some("b"), "Running", true),
            pod("ready-doubled-1", Some("a"), "Running", true),
            pod("ready-doubled-2", Some("a"), "Running", true),
            pod("unready", Some("c"), "Running", false),
            pod("pending", Some("c"), "Pending", false),
            pod("unbound", None, "Pending", false),
        ];
        rank_for_deletion(&mut pods);
        let order: Vec<&str> = pods.iter().map(|pod| pod.name()).collect();
        let wanted =
            ["unbound", "pending", "unready", "ready-doubled-1", "ready-doubled-2", "ready-alone"];
        assert_eq!(order, wanted);
    }

    #[test]
    fn availability_waits_for_min_ready_seconds() {
        let pod = pod("a", Some("n"), "Running", true);
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        assert_eq!(available(&pod, 0, at("2026-01-01T00:00:00Z")), Ok(()));
        let until = at("2026-01-01T00:00:10Z");
        assert_eq!(available(&pod, 10, at("2026-01-01T00:00:09Z")), Err(Some(until)));
        assert_eq!(available(&pod, 10, until), Ok(()));
    }
}
