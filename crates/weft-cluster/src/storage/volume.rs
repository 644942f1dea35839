//! One PersistentVolume: its phase, and its end with its claim.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolume;
use serde_json::json;

use super::{
    PROVISIONED_BY, PROVISIONER, Told, VOLUME_PROTECTION, held, holder, set_finalizer, tell,
    volume_name,
};
use crate::action::{Action, Delete, Gone, Plan, Severity, Verb};
use crate::kinds::{Kind, World};
use crate::store::Object;

/// What has become of the claim that a volume is for.
enum Claim<'a> {
    None,
    There,
    Gone { namespace: &'a str, name: &'a str, uid: &'a str },
}

/// One step of one volume.
pub(crate) fn plan(world: &World, name: &str, now: Timestamp) -> Told {
    let mut plan = Plan::default();
    let Some(volume) = world.volumes.get("", name) else { return (plan, None) };
    let (kind, meta) = (Kind::PersistentVolume, &volume.metadata);
    let claim = claim(world, volume);
    if volume.deleting() {
        if held(meta, VOLUME_PROTECTION) && !matches!(claim, Claim::There) {
            plan.push(set_finalizer(kind, meta, VOLUME_PROTECTION, false));
        }
        return (plan, None);
    }
    if !held(meta, VOLUME_PROTECTION) {
        plan.push(set_finalizer(kind, meta, VOLUME_PROTECTION, true));
        return (plan, None);
    }
    let (phase, gone) = match claim {
        Claim::None => ("Available", None),
        Claim::There => ("Bound", None),
        Claim::Gone { namespace, name, uid } => ("Released", Some((namespace, name, uid))),
    };
    let policy = volume.spec.as_ref().and_then(|of| of.persistent_volume_reclaim_policy.as_deref());
    let ours = volume.annotation(PROVISIONED_BY) == Some(PROVISIONER);
    if let Some(gone) = gone
        && policy == Some("Delete")
        && ours
    {
        plan.push(delete(world, volume, gone));
        return (plan, None);
    }
    if volume.status.as_ref().and_then(|status| status.phase.as_deref()) != Some(phase) {
        let body = json!({"metadata": {"uid": volume.uid()}, "status": {"phase": phase}});
        plan.push(Action::merge(kind, meta, Some("status"), body));
    }
    let told = match policy {
        // What somebody else has put there is not ours to delete.
        Some("Delete" | "Recycle") if phase == "Released" => {
            let message = format!(
                "the volume was not made by {PROVISIONER}: remove its data, then the volume, or \
                 its claimRef for another claim"
            );
            tell(&mut plan, (kind, meta), now, (Severity::Warning, "VolumeFailedDelete"), message)
        }
        _ => None,
    };
    (plan, told)
}

fn claim<'a>(world: &World, volume: &'a PersistentVolume) -> Claim<'a> {
    let Some((namespace, name, uid)) = holder(volume) else { return Claim::None };
    // Kept for a claim that has not come, or has not taken it yet.
    let Some(uid) = uid else { return Claim::None };
    let claim = world.claims.get(namespace, name).filter(|claim| claim.uid() == uid);
    match claim.map(|claim| volume_name(claim)) {
        // It is about to name it.
        Some(None) => Claim::There,
        Some(Some(named)) if named == volume.name() => Claim::There,
        _ => Claim::Gone { namespace, name, uid },
    }
}

/// Deletes a volume, and with it the data, if the API confirms that its claim is gone.
fn delete(world: &World, volume: &PersistentVolume, gone: (&str, &str, &str)) -> Action {
    let (namespace, name, uid) = gone;
    let delete = Delete { uid: volume.metadata.uid.clone(), ..Delete::default() };
    let verb = match world.is_gone(Kind::PersistentVolumeClaim, uid) {
        true => Verb::Delete(delete),
        false => Verb::IfGone {
            missing: vec![Gone {
                kind: Kind::PersistentVolumeClaim,
                namespace: namespace.into(),
                name: name.into(),
                uid: uid.into(),
            }],
            then: Box::new(Verb::Delete(delete)),
        },
    };
    Action::on(Kind::PersistentVolume, &volume.metadata, verb)
}
