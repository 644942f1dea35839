//! PodDisruptionBudget: how many of its pods may be evicted now. The eviction itself is the API's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use crate::action::{Action, Plan, value};
use crate::deployment::share;
use crate::kinds::{Kind, World};
use crate::store::Object;
use crate::{labels, pods};

/// How long an evicted pod counts as gone before it is.
const EVICTION: SignedDuration = SignedDuration::from_secs(120);

/// Brings the status of one budget up to date.
pub(crate) fn plan(world: &World, namespace: &str, name: &str, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(budget) = world.budgets.get(namespace, name) else { return plan };
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selected: Vec<&Arc<Pod>> = world
        .pods
        .within(namespace)
        .filter(|pod| selector.is_some_and(|wanted| labels::selects(wanted, pod.labels())))
        .collect();
    let held = budget.status.clone().unwrap_or_default();
    let disrupted = disrupted(&held, &selected, now, &mut plan);
    let mut next = match expected(world, budget, &selected) {
        Ok((expected, desired)) => {
            let healthy = selected.iter().filter(|pod| {
                !pod.deleting() && pods::ready(pod) && !disrupted.contains_key(pod.name())
            });
            let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
            let allowed = if expected > 0 { healthy.saturating_sub(desired).max(0) } else { 0 };
            let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
            PodDisruptionBudgetStatus {
                current_healthy: healthy,
                desired_healthy: desired,
                expected_pods: expected,
                disruptions_allowed: allowed,
                conditions: Some(conditions(budget, allowed > 0, reason, "", now)),
                ..Default::default()
            }
        }
        // What is not known is not allowed.
        Err(message) => PodDisruptionBudgetStatus {
            disruptions_allowed: 0,
            conditions: Some(conditions(budget, false, "SyncFailed", &message, now)),
            ..held.clone()
        },
    };
    next.observed_generation = budget.metadata.generation;
    next.disrupted_pods = (!disrupted.is_empty()).then_some(disrupted);
    let empty = |map: &Option<BTreeMap<String, Time>>| map.clone().unwrap_or_default();
    let before = empty(&held.disrupted_pods);
    let same = budget.status.is_some()
        && empty(&next.disrupted_pods) == before
        && PodDisruptionBudgetStatus { disrupted_pods: None, ..held }
            == PodDisruptionBudgetStatus { disrupted_pods: None, ..next.clone() };
    if !same {
        // An eviction may be writing the same status: only on top of what was seen.
        let mut body = json!({"metadata": {"resourceVersion": budget.metadata.resource_version},
            "status": value(&next)});
        for gone in before.keys().filter(|name| !empty(&next.disrupted_pods).contains_key(*name)) {
            body["status"]["disruptedPods"][gone.as_str()] = Value::Null;
        }
        plan.push(Action::merge(Kind::PodDisruptionBudget, &budget.metadata, Some("status"), body));
    }
    plan
}

/// Evicted pods that are still there, and may still go.
fn disrupted(
    held: &PodDisruptionBudgetStatus,
    selected: &[&Arc<Pod>],
    now: Timestamp,
    plan: &mut Plan,
) -> BTreeMap<String, Time> {
    let mut kept = BTreeMap::new();
    for pod in selected.iter().filter(|pod| !pod.deleting()) {
        let time = held.disrupted_pods.as_ref().and_then(|all| all.get(pod.name()));
        let Some(time) = time else { continue };
        let end = time.0.saturating_add(EVICTION).unwrap_or(Timestamp::MAX);
        if end > now {
            plan.ask_again(end);
            kept.insert(pod.name().to_owned(), time.clone());
        }
    }
    kept
}

/// How many pods there shall be, and how many of them healthy.
fn expected(
    world: &World,
    budget: &PodDisruptionBudget,
    selected: &[&Arc<Pod>],
) -> Result<(i32, i32), String> {
    let Some(spec) = &budget.spec else { return Ok((0, 0)) };
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let expected = scale(world, selected)?;
            Ok((expected, expected.saturating_sub(share(Some(most), expected, true, "")).max(0)))
        }
        (None, Some(IntOrString::Int(least))) => {
            Ok((i32::try_from(selected.len()).unwrap_or(i32::MAX), *least))
        }
        (None, Some(least)) => {
            let expected = scale(world, selected)?;
            Ok((expected, share(Some(least), expected, true, "")))
        }
        (None, None) => Ok((0, 0)),
    }
}

/// The sizes of the workloads that the pods belong to. A pod of nobody does not count.
fn scale(world: &World, selected: &[&Arc<Pod>]) -> Result<i32, String> {
    let mut seen = BTreeSet::new();
    let mut total = 0i32;
    for pod in selected {
        let Some(owner) = pod.controller() else { continue };
        let namespace = pod.namespace();
        let known = match owner.kind.as_str() {
            "ReplicaSet" => world.replica_sets.get(namespace, &owner.name).map(|set| {
                let above = set.controller().filter(|above| above.kind == "Deployment");
                let above = above.and_then(|above| world.deployments.get(namespace, &above.name));
                match above.and_then(|one| Some((one.uid(), one.spec.as_ref()?.replicas))) {
                    Some((uid, replicas)) => (uid.to_owned(), replicas),
                    None => {
                        let replicas = set.spec.as_ref().and_then(|spec| spec.replicas);
                        (set.uid().to_owned(), replicas)
                    }
                }
            }),
            "StatefulSet" => world.stateful_sets.get(namespace, &owner.name).map(|set| {
                (set.uid().to_owned(), set.spec.as_ref().and_then(|spec| spec.replicas))
            }),
            "ReplicationController" => world.replications.get(namespace, &owner.name).map(|set| {
                (set.uid().to_owned(), set.spec.as_ref().and_then(|spec| spec.replicas))
            }),
            _ => None,
        };
        let Some((uid, replicas)) = known else {
            return Err(format!("found no controllers for pod {:?}", pod.name()));
        };
        if seen.insert(uid) {
            total = total.saturating_add(replicas.unwrap_or(1));
        }
    }
    Ok(total)
}

fn conditions(
    budget: &PodDisruptionBudget,
    allowed: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Vec<Condition> {
    const KIND: &str = "DisruptionAllowed";
    let mut all = budget.status.clone().and_then(|status| status.conditions).unwrap_or_default();
    let status = if allowed { "True" } else { "False" };
    let held = all.iter().find(|one| one.type_ == KIND && one.status == status);
    let since = held.map(|held| held.last_transition_time.clone());
    all.retain(|one| one.type_ != KIND);
    all.push(Condition {
        type_: KIND.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: budget.metadata.generation,
        last_transition_time: since
            .unwrap_or_else(|| Time(Timestamp::from_second(now.as_second()).unwrap_or(now))),
    });
    all
}
