//! Which pods are a workload's own: those it controls and still selects, and those it adopts.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

use crate::action::{Action, value};
use crate::kinds::{Kind, Meta, World};
use crate::store::Object;
use crate::{labels, pods};

/// The pods of a workload, and the writes that adopt and release others.
pub(crate) fn claim(
    world: &World,
    kind: Kind,
    owner: &Meta,
    selector: &LabelSelector,
    adoptable: impl Fn(&Pod) -> bool,
) -> (Vec<Arc<Pod>>, Vec<Action>) {
    let uid = owner.uid.as_deref().unwrap_or_default();
    let (mut own, mut actions) = (Vec::new(), Vec::new());
    for pod in world.pods.controlled_by(uid) {
        if labels::selects(selector, pod.labels()) {
            own.push(pod.clone());
        } else if !pod.deleting() && owner.deletion_timestamp.is_none() {
            let kept: Vec<_> = pod.owners().iter().filter(|held| held.uid != uid).collect();
            actions.push(set_owners(Kind::Pod, &pod.metadata, value(&kept)));
        }
    }
    let everything = *selector == LabelSelector::default();
    if owner.deletion_timestamp.is_none() && !everything {
        for pod in world.pods.within(owner.namespace.as_deref().unwrap_or_default()) {
            if pod.controller().is_none()
                && pods::active(pod)
                && labels::selects(selector, pod.labels())
                && adoptable(pod)
            {
                let mut owners = pod.owners().to_vec();
                owners.push(pods::owner_reference(kind, owner));
                actions.push(set_owners(Kind::Pod, &pod.metadata, value(&owners)));
            }
        }
    }
    (own, actions)
}

/// Replaces the owners of an object on top of what was seen.
pub(crate) fn set_owners(kind: Kind, meta: &Meta, owners: Value) -> Action {
    let body = json!({"metadata": {
        "resourceVersion": meta.resource_version, "ownerReferences": owners,
    }});
    Action::merge(kind, meta, None, body)
}
