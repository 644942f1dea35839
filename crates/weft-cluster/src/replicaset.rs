//! ReplicaSet: as many pods as asked for.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::action::{Action, Plan};
use crate::claim::claim;
use crate::kinds::{Kind, World};
use crate::store::Object;
use crate::{labels, pods};

/// Pods made or deleted in one round, as in Kubernetes.
const BURST: usize = 500;

/// Brings the pods and the status of one ReplicaSet up to date.
pub(crate) fn plan(world: &World, namespace: &str, name: &str, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(set) = world.replica_sets.get(namespace, name) else { return plan };
    let Some(spec) = &set.spec else { return plan };
    let (own, actions) = claim(world, Kind::ReplicaSet, &set.metadata, &spec.selector, |_| true);
    if !actions.is_empty() {
        return actions.into();
    }
    let mut active: Vec<Arc<Pod>> = own.into_iter().filter(|pod| pods::active(pod)).collect();
    if !set.deleting() {
        plan.actions = scale(set, spec, &mut active);
    }
    status(set, spec, &active, now, &mut plan);
    plan
}

fn scale(set: &ReplicaSet, spec: &ReplicaSetSpec, active: &mut [Arc<Pod>]) -> Vec<Action> {
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if active.len() <= wanted {
        let template = spec.template.clone().unwrap_or_default();
        let pod = pods::from_template(Kind::ReplicaSet, &set.metadata, &template, None);
        let missing = (wanted - active.len()).min(BURST);
        return (0..missing).map(|_| Action::create(Kind::Pod, &pod)).collect();
    }
    pods::rank_for_deletion(active);
    let surplus = (active.len() - wanted).min(BURST);
    active[..surplus].iter().map(|pod| Action::delete(Kind::Pod, &pod.metadata)).collect()
}

fn status(
    set: &ReplicaSet,
    spec: &ReplicaSetSpec,
    active: &[Arc<Pod>],
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
    let next = ReplicaSetStatus {
        replicas: i32::try_from(active.len()).unwrap_or(i32::MAX),
        fully_labeled_replicas: Some(labelled),
        ready_replicas: Some(ready),
        available_replicas: Some(available),
        observed_generation: set.metadata.generation,
        ..ReplicaSetStatus::default()
    };
    let held = set.status.clone().unwrap_or_default();
    let same = set.status.is_some()
        && held.replicas == next.replicas
        && held.fully_labeled_replicas.unwrap_or(0) == labelled
        && held.ready_replicas.unwrap_or(0) == ready
        && held.available_replicas.unwrap_or(0) == available
        && held.observed_generation == next.observed_generation;
    if !same {
        plan.push(Action::merge(
            Kind::ReplicaSet,
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
                },
            }),
        ));
    }
}

/// A count in a status: absent where it is nought, as the API writes it.
pub(crate) fn count(number: i32) -> Value {
    if number == 0 { Value::Null } else { number.into() }
}
