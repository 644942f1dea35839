//! Claims and their volumes: what Kubernetes' PersistentVolume controller, a provisioner beside
//! it and the two controllers that protect what is in use do together.
//!
//! A claim of a StorageClass whose provisioner is [`PROVISIONER`] gets a PersistentVolume of its
//! own; others get one that somebody made for their class. The data is a directory wherever the
//! pods run: who runs them makes it, and removes it with the volume.

mod binder;
mod volume;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::json;

use crate::action::{About, Action, Plan, Severity};
use crate::kinds::{Kind, Meta, World};
use crate::pods;
use crate::store::Object;

pub(crate) use self::binder::plan as bind;
pub(crate) use self::volume::plan as keep;

/// As the kubelet of the lab knows it (`weft_kubelet`, `claims.rs`).
const PROVISIONER: &str = "weft.dev/volumes";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const IS_DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
/// The class that every cluster starts with.
const STANDARD: &str = "standard";
const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";
const COMPONENT: &str = "persistentvolume-controller";

/// A plan, and the sentence of its Event, which is told once: see the core's `tell_once`.
pub(crate) type Told = (Plan, Option<String>);

/// What is done at the start: where there is no class at all, there is one.
pub(crate) fn standard(world: &World) -> Plan {
    let mut plan = Plan::default();
    if world.storage_classes.iter().next().is_none() {
        let class = StorageClass {
            metadata: Meta {
                name: Some(STANDARD.into()),
                annotations: Some([(IS_DEFAULT.into(), "true".into())].into()),
                ..Meta::default()
            },
            provisioner: PROVISIONER.into(),
            reclaim_policy: Some("Delete".into()),
            volume_binding_mode: Some("Immediate".into()),
            ..StorageClass::default()
        };
        plan.push(Action::create(Kind::StorageClass, &class));
    }
    plan
}

/// The class of claims that name none: of several the newest.
fn default_class(world: &World) -> Option<&StorageClass> {
    let marked =
        world.storage_classes.iter().filter(|one| one.annotation(IS_DEFAULT) == Some("true"));
    let rank = |one: &&std::sync::Arc<StorageClass>| {
        (one.created_seconds(), std::cmp::Reverse(one.name().to_owned()))
    };
    marked.max_by_key(rank).map(AsRef::as_ref)
}

/// The claims that a pod names.
pub(crate) fn claims(pod: &Pod) -> impl Iterator<Item = &str> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|one| Some(one.persistent_volume_claim.as_ref()?.claim_name.as_str()))
}

/// Why a pod cannot be placed for its claims' sake, in the scheduler's words.
pub(crate) fn obstacle(world: &World, pod: &Pod) -> Option<String> {
    claims(pod).find_map(|name| {
        let Some(claim) = world.claims.get(pod.namespace(), name) else {
            return Some(format!("persistentvolumeclaim \"{name}\" not found"));
        };
        if claim.deleting() {
            return Some(format!("persistentvolumeclaim \"{name}\" is being deleted"));
        }
        match phase(claim) {
            "Bound" => None,
            "Lost" => Some(format!(
                "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{}\"",
                volume_name(claim).unwrap_or_default()
            )),
            _ => Some("pod has unbound immediate PersistentVolumeClaims".into()),
        }
    })
}

/// Whether a pod that is on a node has the claim. One that is on none is not placed while the
/// claim is being deleted.
fn used(world: &World, claim: &PersistentVolumeClaim) -> bool {
    world
        .pods
        .within(claim.namespace())
        .any(|pod| pods::node(pod).is_some() && claims(pod).any(|name| name == claim.name()))
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    phase.unwrap_or("Pending")
}

/// The volume that a claim names.
pub(crate) fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

/// The name of the volume that is made for a claim.
pub(crate) fn made_for(uid: &str) -> String {
    format!("pvc-{uid}")
}

/// Namespace and name of the claim that a volume is for, and its uid once it is bound to it.
pub(crate) fn holder(volume: &PersistentVolume) -> Option<(&str, &str, Option<&str>)> {
    let of = volume.spec.as_ref()?.claim_ref.as_ref()?;
    let (namespace, name) = (of.namespace.as_deref(), of.name.as_deref());
    let uid = of.uid.as_deref().filter(|uid| !uid.is_empty());
    Some((namespace.unwrap_or_default(), name.unwrap_or_default(), uid))
}

fn held(meta: &Meta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|held| held == finalizer)
}

/// Adds or takes a finalizer, on top of what was seen.
fn set_finalizer(kind: Kind, meta: &Meta, finalizer: &str, wanted: bool) -> Action {
    let others = meta.finalizers.iter().flatten().map(String::as_str);
    let mut all: Vec<&str> = others.filter(|held| *held != finalizer).collect();
    all.extend(wanted.then_some(finalizer));
    let body = json!({"metadata": {
        "resourceVersion": meta.resource_version, "finalizers": all,
    }});
    Action::merge(kind, meta, None, body)
}

/// Adds an Event to a plan; returns it as what was told.
fn tell(
    plan: &mut Plan,
    (kind, meta): (Kind, &Meta),
    now: Timestamp,
    (severity, reason): (Severity, &str),
    message: String,
) -> Option<String> {
    let about = About { kind, meta, component: COMPONENT, now };
    plan.push(Action::event(&about, severity, reason, &message));
    Some(message)
}

#[cfg(test)]
mod tests;
