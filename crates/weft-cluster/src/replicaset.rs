//! ReplicaSet, and the ReplicationController that came before it: as many pods as asked for.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus,
};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use serde_json::{Value, json};

use crate::action::{Action, Plan, Verb, value};
use crate::claim::claim;
use crate::kinds::{Kind, World};
use crate::store::Object;
use crate::{labels, pods};

/// Pods made or deleted in one round, as in Kubernetes.
const BURST: usize = 500;
/// Condition of a ReplicaSet and of its Deployment: pods could not be made.
pub(crate) const FAILURE: &str = "ReplicaFailure";

/// Brings the pods and the status of one ReplicaSet up to date. `refusal`: why its last pod could
/// not be made.
pub(crate) fn plan(
    world: &World,
    (kind, namespace, name): (Kind, &str, &str),
    refusal: Option<&str>,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let set = match kind {
        Kind::ReplicationController => {
            world.replications.get(namespace, name).map(|one| Arc::new(as_set(one)))
        }
        _ => world.replica_sets.get(namespace, name).cloned(),
    };
    let Some(set) = set.as_deref() else { return plan };
    let Some(spec) = &set.spec else { return plan };
    let (own, actions) = claim(world, kind, &set.metadata, &spec.selector, |_| true);
    if !actions.is_empty() {
        return actions.into();
    }
    let ending = own.iter().filter(|pod| pod.deleting() && !pods::finished(pod)).count();
    let mut active: Vec<Arc<Pod>> = own.into_iter().filter(|pod| pods::active(pod)).collect();
    if !set.deleting() {
        plan.actions = scale(world, (kind, set), spec, &mut active);
    }
    // Where no pod is missing any more, it does not matter that one could not be made.
    let missing = plan.actions.iter().any(|one| matches!(one.verb, Verb::Create(_)));
    let extra = Extra { ending, refusal: refusal.filter(|_| missing) };
    status((kind, set), spec, &active, &extra, now, &mut plan);
    plan
}

/// A ReplicationController as the ReplicaSet that it amounts to.
fn as_set(of: &ReplicationController) -> ReplicaSet {
    let spec = of.spec.clone().map(|spec| ReplicaSetSpec {
        replicas: spec.replicas,
        min_ready_seconds: spec.min_ready_seconds,
        selector: LabelSelector { match_labels: spec.selector, match_expressions: None },
        template: spec.template,
    });
    let status = of.status.clone().map(|status| ReplicaSetStatus {
        replicas: status.replicas,
        available_replicas: status.available_replicas,
        fully_labeled_replicas: status.fully_labeled_replicas,
        ready_replicas: status.ready_replicas,
        observed_generation: status.observed_generation,
        ..ReplicaSetStatus::default()
    });
    ReplicaSet { metadata: of.metadata.clone(), spec, status }
}

/// What the status says beside the pods at work.
struct Extra<'a> {
    ending: usize,
    refusal: Option<&'a str>,
}

/// The condition about pods that could not be made, where there is one.
fn failure(
    set: &ReplicaSet,
    refusal: Option<&str>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let held = set.status.as_ref().and_then(|status| status.conditions.clone());
    let mut all = held.unwrap_or_default();
    let known = all.iter().position(|one| one.type_ == FAILURE);
    match (refusal, known) {
        (None, Some(at)) => {
            all.remove(at);
        }
        (Some(refusal), None) => all.push(ReplicaSetCondition {
            type_: FAILURE.into(),
            status: "True".into(),
            reason: Some("FailedCreate".into()),
            message: Some(refusal.to_owned()),
            last_transition_time: Some(Time(
                Timestamp::from_second(now.as_second()).unwrap_or(now),
            )),
        }),
        _ => {}
    }
    (!all.is_empty()).then_some(all)
}

fn scale(
    world: &World,
    (kind, set): (Kind, &ReplicaSet),
    spec: &ReplicaSetSpec,
    active: &mut [Arc<Pod>],
) -> Vec<Action> {
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if active.len() <= wanted {
        let template = spec.template.clone().unwrap_or_default();
        let pod = pods::from_template(kind, &set.metadata, &template, None);
        let missing = (wanted - active.len()).min(BURST);
        return (0..missing).map(|_| Action::create(Kind::Pod, &pod)).collect();
    }
    pods::rank_beside(active, &related(world, set));
    let surplus = (active.len() - wanted).min(BURST);
    active[..surplus].iter().map(|pod| Action::delete(Kind::Pod, &pod.metadata)).collect()
}

/// The pods at work of all ReplicaSets of the same Deployment: a node that has several of them
/// gives one up first.
fn related(world: &World, set: &ReplicaSet) -> Vec<Arc<Pod>> {
    let owner = set.controller().map(|owner| owner.uid.clone());
    let sets: Vec<&str> = match &owner {
        Some(owner) => world.replica_sets.controlled_by(owner).map(|one| one.uid()).collect(),
        None => vec![set.uid()],
    };
    let pods = sets.into_iter().flat_map(|uid| world.pods.controlled_by(uid));
    pods.filter(|pod| pods::active(pod)).cloned().collect()
}

fn status(
    (kind, set): (Kind, &ReplicaSet),
    spec: &ReplicaSetSpec,
    active: &[Arc<Pod>],
    extra: &Extra<'_>,
    now: Timestamp,
    plan: &mut Plan,
) {
    let template = spec.template.as_ref().and_then(|template| template.metadata.as_ref());
    let wanted = template.and_then(|meta| meta.labels.clone()).unwrap_or_default();
    let (mut labelled, mut ready, mut available) = (0, 0, 0);
    for pod in active {
        labelled += i32::from(labels::contains(&wanted, pod.labels()));
        ready += i32::from(pods::ready(pod));
        match pods::available(pod, spec.min_ready_seconds.unwrap_or(0), now) {
            Ok(()) => available += 1,
            Err(Some(at)) => plan.ask_again(at),
            Err(None) => {}
        }
    }
    let is_set = kind == Kind::ReplicaSet;
    let next = ReplicaSetStatus {
        replicas: i32::try_from(active.len()).unwrap_or(i32::MAX),
        fully_labeled_replicas: Some(labelled),
        ready_replicas: Some(ready),
        available_replicas: Some(available),
        observed_generation: set.metadata.generation,
        terminating_replicas: is_set.then(|| i32::try_from(extra.ending).unwrap_or(i32::MAX)),
        conditions: failure(set, extra.refusal, now).filter(|_| is_set),
    };
    let held = set.status.clone().unwrap_or_default();
    let same = set.status.is_some()
        && held.replicas == next.replicas
        && held.fully_labeled_replicas.unwrap_or(0) == labelled
        && held.ready_replicas.unwrap_or(0) == ready
        && held.available_replicas.unwrap_or(0) == available
        && held.observed_generation == next.observed_generation
        && held.terminating_replicas == next.terminating_replicas
        && held.conditions == next.conditions;
    if !same {
        plan.push(Action::merge(
            kind,
            &set.metadata,
            Some("status"),
            json!({
                "metadata": {"uid": set.uid()},
                "status": {
                    "replicas": next.replicas,
                    "fullyLabeledReplicas": count(labelled),
                    "readyReplicas": count(ready),
                    "availableReplicas": count(available),
                    "observedGeneration": next.observed_generation,
                    "terminatingReplicas": next.terminating_replicas,
                    "conditions": value(&next.conditions),
                },
            }),
        ));
    }
}

/// A count in a status: absent where it is nought, as the API writes it.
pub(crate) fn count(number: i32) -> Value {
    if number == 0 { Value::Null } else { number.into() }
}
