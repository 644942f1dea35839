//! A Deployment's status: what `kubectl rollout status` and `kubectl wait` go by.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::{Rollout, available, size, total_of};
use crate::action::{Action, Plan, value};
use crate::kinds::Kind;
use crate::replicaset::{FAILURE, count};
use crate::store::Object;

/// Every pod is of the new template and available, and none is left of an old one.
pub(super) fn complete(rollout: &Rollout<'_>, status: &DeploymentStatus) -> bool {
    status.updated_replicas.unwrap_or(0) == rollout.wanted
        && status.replicas.unwrap_or(0) == rollout.wanted
        && status.available_replicas.unwrap_or(0) == rollout.wanted
        && status.observed_generation >= rollout.meta.generation
}

/// Writes the status where it differs. `created` is a ReplicaSet made in this very step.
pub(super) fn plan(rollout: &Rollout<'_>, created: Option<&str>, plan: &mut Plan) {
    let held = rollout.deployment.status.clone().unwrap_or_default();
    let mut next = counts(rollout);
    next.conditions = Some(conditions(rollout, &held, &next, created, plan));
    let list = |status: &DeploymentStatus| status.conditions.clone().unwrap_or_default();
    let number = |value: Option<i32>| value.unwrap_or(0);
    let same = rollout.deployment.status.is_some()
        && number(held.replicas) == number(next.replicas)
        && number(held.updated_replicas) == number(next.updated_replicas)
        && number(held.ready_replicas) == number(next.ready_replicas)
        && number(held.available_replicas) == number(next.available_replicas)
        && number(held.unavailable_replicas) == number(next.unavailable_replicas)
        && held.observed_generation == next.observed_generation
        && held.terminating_replicas == next.terminating_replicas
        && list(&held) == list(&next);
    if same {
        return;
    }
    let body = json!({
        "metadata": {"uid": rollout.deployment.uid()},
        "status": {
            "observedGeneration": next.observed_generation,
            "replicas": count(number(next.replicas)),
            "updatedReplicas": count(number(next.updated_replicas)),
            "readyReplicas": count(number(next.ready_replicas)),
            "availableReplicas": count(number(next.available_replicas)),
            "unavailableReplicas": count(number(next.unavailable_replicas)),
            "terminatingReplicas": next.terminating_replicas,
            "conditions": value(&next.conditions),
        },
    });
    plan.push(Action::merge(Kind::Deployment, rollout.meta, Some("status"), body));
}

fn counts(rollout: &Rollout<'_>) -> DeploymentStatus {
    let status = |set: &k8s_openapi::api::apps::v1::ReplicaSet| set.status.clone();
    let replicas = total_of(rollout.all().filter_map(|set| status(set)).map(|one| one.replicas));
    let ready = total_of(rollout.all().filter_map(|set| status(set)?.ready_replicas));
    let serving = total_of(rollout.all().map(|set| available(set)));
    let total = total_of(rollout.all().map(|set| size(set)));
    let updated = rollout.new.as_ref().and_then(|new| status(new)).map_or(0, |one| one.replicas);
    DeploymentStatus {
        observed_generation: rollout.meta.generation,
        replicas: Some(replicas),
        updated_replicas: Some(updated),
        ready_replicas: Some(ready),
        available_replicas: Some(serving),
        unavailable_replicas: Some(total.saturating_sub(serving).max(0)),
        // Known once every ReplicaSet says it.
        terminating_replicas: rollout
            .all()
            .map(|set| status(set)?.terminating_replicas)
            .try_fold(0i32, |sum, one| Some(sum.saturating_add(one?))),
        ..DeploymentStatus::default()
    }
}

fn conditions(
    rollout: &Rollout<'_>,
    held: &DeploymentStatus,
    next: &DeploymentStatus,
    created: Option<&str>,
    plan: &mut Plan,
) -> Vec<DeploymentCondition> {
    let mut all = held.conditions.clone().unwrap_or_default();
    let serving = next.available_replicas.unwrap_or(0);
    let (status, reason, message) =
        match serving >= rollout.wanted.saturating_sub(rollout.max_unavailable) {
            true => ("True", "MinimumReplicasAvailable", "Deployment has minimum availability."),
            false => (
                "False",
                "MinimumReplicasUnavailable",
                "Deployment does not have minimum availability.",
            ),
        };
    set(&mut all, "Available", (status, reason, message), rollout.now, false);
    progressing(rollout, held, next, created, &mut all, plan);
    failure(rollout, &mut all);
    all
}

/// A ReplicaSet's trouble with making pods is its Deployment's: the new one's before the others'.
fn failure(rollout: &Rollout<'_>, all: &mut Vec<DeploymentCondition>) {
    let of = |set: &Arc<ReplicaSet>| {
        let found = set.status.as_ref()?.conditions.iter().flatten();
        found.into_iter().find(|one| one.type_ == FAILURE && one.status == "True").cloned()
    };
    let found = rollout.new.iter().chain(&rollout.old).find_map(of);
    let held = all.iter().any(|one| one.type_ == FAILURE);
    match found {
        Some(one) if !held => all.push(DeploymentCondition {
            type_: one.type_,
            status: one.status,
            reason: one.reason,
            message: one.message,
            last_update_time: one.last_transition_time.clone(),
            last_transition_time: one.last_transition_time,
        }),
        Some(_) => {}
        None => all.retain(|one| one.type_ != FAILURE),
    }
}

fn progressing(
    rollout: &Rollout<'_>,
    held: &DeploymentStatus,
    next: &DeploymentStatus,
    created: Option<&str>,
    all: &mut Vec<DeploymentCondition>,
    plan: &mut Plan,
) {
    const KIND: &str = "Progressing";
    let now = rollout.now;
    let deadline = rollout.spec.progress_deadline_seconds.unwrap_or(600);
    if deadline == i32::MAX {
        all.retain(|condition| condition.type_ != KIND);
        return;
    }
    let current = all.iter().find(|condition| condition.type_ == KIND).cloned();
    let reason = current.as_ref().and_then(|one| one.reason.clone()).unwrap_or_default();
    if rollout.paused() {
        if reason != "ProgressDeadlineExceeded" {
            set(all, KIND, ("Unknown", "DeploymentPaused", "Deployment is paused"), now, false);
        }
        return;
    }
    if let Some(name) = created {
        let message = format!("Created new replica set \"{name}\"");
        set(all, KIND, ("True", "NewReplicaSetCreated", &message), now, true);
        return;
    }
    let Some(new) = &rollout.new else { return };
    let name = new.name();
    if current.is_none() {
        let message = format!("Found new replica set \"{name}\"");
        set(all, KIND, ("True", "FoundNewReplicaSet", &message), now, true);
        return;
    }
    if reason == "DeploymentPaused" {
        set(all, KIND, ("Unknown", "DeploymentResumed", "Deployment is resumed"), now, true);
        return;
    }
    if complete(rollout, next) {
        let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
        set(all, KIND, ("True", "NewReplicaSetAvailable", &message), now, false);
        return;
    }
    // A finished roll-out that loses a pod is not a new one.
    let settled = reason == "NewReplicaSetAvailable" && next.replicas == next.updated_replicas;
    if settled {
        return;
    }
    if progressed(held, next) {
        let message = format!("ReplicaSet \"{name}\" is progressing.");
        set(all, KIND, ("True", "ReplicaSetUpdated", &message), now, true);
        return;
    }
    let since = current.and_then(|one| one.last_update_time).map_or(now, |time| time.0);
    let end =
        since.saturating_add(SignedDuration::from_secs(deadline.into())).unwrap_or(Timestamp::MAX);
    if end > now {
        plan.ask_again(end);
    } else {
        let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
        set(all, KIND, ("False", "ProgressDeadlineExceeded", &message), now, false);
    }
}

fn progressed(held: &DeploymentStatus, next: &DeploymentStatus) -> bool {
    let number = |value: Option<i32>| value.unwrap_or(0);
    let old = |status: &DeploymentStatus| {
        number(status.replicas).saturating_sub(number(status.updated_replicas))
    };
    number(next.updated_replicas) > number(held.updated_replicas)
        || old(next) < old(held)
        || number(next.ready_replicas) > number(held.ready_replicas)
        || number(next.available_replicas) > number(held.available_replicas)
}

/// Sets a condition. The transition time follows the status, the update time every change
/// (or each call where `touch`).
fn set(
    all: &mut Vec<DeploymentCondition>,
    kind: &str,
    (status, reason, message): (&str, &str, &str),
    now: Timestamp,
    touch: bool,
) {
    // The API keeps whole seconds.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let held = all.iter_mut().find(|condition| condition.type_ == kind);
    let transition = match &held {
        Some(held) if held.status == status => held.last_transition_time.clone(),
        _ => Some(Time(now)),
    };
    let update = match &held {
        Some(held) if !touch && held.status == status && held.reason.as_deref() == Some(reason) => {
            held.last_update_time.clone()
        }
        _ => Some(Time(now)),
    };
    let next = DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: transition,
        last_update_time: update,
    };
    match held {
        Some(held) => *held = next,
        None => all.push(next),
    }
}
