//! One claim: protected, bound to a volume that is there or that is made for it, let go when
//! nobody has it.
//!
//! The two objects point at each other, and are written one after the other: first the volume at
//! the claim, on top of the version that was seen, so that of two claims one gets it; then the
//! claim at the volume; then its status. Each step is planned on what the one before has left.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, ObjectReference, PersistentVolume, PersistentVolumeClaim,
    PersistentVolumeClaimSpec, PersistentVolumeSpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::json;

use super::{
    CLAIM_PROTECTION, PROVISIONED_BY, PROVISIONER, STANDARD, Told, VOLUME_PROTECTION,
    default_class, held, holder, made_for, phase, set_finalizer, tell, used, volume_name,
};
use crate::action::{Action, Plan, Severity, value};
use crate::kinds::{Kind, Meta, World};
use crate::labels;
use crate::quantity::milli;
use crate::store::Object;

const STORAGE: &str = "storage";
/// Where a node keeps the data: its name for the directory, the lab has its own.
const DIR: &str = "/var/lib/weft/volumes";
const FILESYSTEM: &str = "Filesystem";

/// One step of one claim.
pub(crate) fn plan(world: &World, namespace: &str, name: &str, now: Timestamp) -> Told {
    let mut plan = Plan::default();
    let Some(claim) = world.claims.get(namespace, name) else { return (plan, None) };
    let meta = &claim.metadata;
    let kind = Kind::PersistentVolumeClaim;
    if claim.deleting() {
        if held(meta, CLAIM_PROTECTION) && !used(world, claim) {
            plan.push(set_finalizer(kind, meta, CLAIM_PROTECTION, false));
        }
        return (plan, None);
    }
    let Some(spec) = &claim.spec else { return (plan, None) };
    if !held(meta, CLAIM_PROTECTION) {
        plan.push(set_finalizer(kind, meta, CLAIM_PROTECTION, true));
        return (plan, None);
    }
    let step = Step { world, claim, spec, now };
    let told = match volume_name(claim) {
        Some(volume) => step.named(volume, &mut plan),
        None => step.search(&mut plan),
    };
    (plan, told)
}

struct Step<'a> {
    world: &'a World,
    claim: &'a PersistentVolumeClaim,
    spec: &'a PersistentVolumeClaimSpec,
    now: Timestamp,
}

/// Whose a volume is, seen from a claim.
#[derive(PartialEq)]
enum Whose {
    Mine,
    /// Somebody keeps it for the claim of this name.
    Reserved,
    Free,
    Others,
}

impl Step<'_> {
    fn tell(
        &self,
        plan: &mut Plan,
        severity: Severity,
        reason: &str,
        message: String,
    ) -> Option<String> {
        let about = (Kind::PersistentVolumeClaim, &self.claim.metadata);
        tell(plan, about, self.now, (severity, reason), message)
    }

    fn whose(&self, volume: &PersistentVolume) -> Whose {
        match holder(volume) {
            None => Whose::Free,
            Some((namespace, name, uid)) => {
                let named = namespace == self.claim.namespace() && name == self.claim.name();
                match uid {
                    Some(uid) if named && uid == self.claim.uid() => Whose::Mine,
                    None if named => Whose::Reserved,
                    _ => Whose::Others,
                }
            }
        }
    }

    /// A claim that names its volume: bound, or by its author's wish.
    fn named(&self, name: &str, plan: &mut Plan) -> Option<String> {
        let Some(volume) = self.world.volumes.get("", name) else {
            match phase(self.claim) {
                "Bound" => {
                    let status = json!({"phase": "Lost", "accessModes": null, "capacity": null});
                    plan.push(self.status(status));
                    let message = "Bound claim has lost its PersistentVolume. Data on the volume \
                                   is lost!";
                    return self.tell(plan, Severity::Warning, "ClaimLost", message.into());
                }
                "Lost" => return None,
                _ => {
                    let message = format!("volume \"{name}\", which the claim names, is not there");
                    return self.tell(plan, Severity::Warning, "FailedBinding", message);
                }
            }
        };
        match self.whose(volume) {
            Whose::Mine => {
                self.bound(volume, plan);
                None
            }
            Whose::Reserved => {
                plan.push(self.take(volume));
                None
            }
            Whose::Free => match self.misfit(volume) {
                None => {
                    plan.push(self.take(volume));
                    None
                }
                Some(why) => {
                    let message = format!("Cannot bind to requested volume \"{name}\": {why}");
                    self.tell(plan, Severity::Warning, "VolumeMismatch", message)
                }
            },
            Whose::Others => {
                let message = format!("volume \"{name}\" already bound to a different claim.");
                self.tell(plan, Severity::Warning, "FailedBinding", message)
            }
        }
    }

    /// The status of a claim that has its volume.
    fn bound(&self, volume: &PersistentVolume, plan: &mut Plan) {
        let of = volume.spec.clone().unwrap_or_default();
        let known = self.claim.status.clone().unwrap_or_default();
        if phase(self.claim) != "Bound"
            || known.access_modes != of.access_modes
            || known.capacity != of.capacity
        {
            plan.push(self.status(json!({
                "phase": "Bound", "accessModes": of.access_modes, "capacity": value(&of.capacity),
            })));
        }
    }

    fn status(&self, status: serde_json::Value) -> Action {
        let body = json!({"metadata": {"uid": self.claim.uid()}, "status": status});
        let meta = &self.claim.metadata;
        Action::merge(Kind::PersistentVolumeClaim, meta, Some("status"), body)
    }

    /// Makes a volume this claim's.
    fn take(&self, volume: &PersistentVolume) -> Action {
        let body = json!({
            "metadata": {"resourceVersion": volume.metadata.resource_version},
            "spec": {"claimRef": value(&self.reference())},
        });
        Action::merge(Kind::PersistentVolume, &volume.metadata, None, body)
    }

    fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("PersistentVolumeClaim".into()),
            namespace: self.claim.metadata.namespace.clone(),
            name: self.claim.metadata.name.clone(),
            uid: self.claim.metadata.uid.clone(),
            ..ObjectReference::default()
        }
    }

    /// A claim that names no volume: one that waits for it, one that fits, one that is made.
    fn search(&self, plan: &mut Plan) -> Option<String> {
        if self.spec.storage_class_name.is_none()
            && let Some(class) = default_class(self.world)
        {
            plan.push(self.change(json!({"storageClassName": class.name()})));
            return None;
        }
        let mut volumes = self.world.volumes.iter().filter(|one| !one.deleting());
        if let Some(volume) =
            volumes.find(|one| matches!(self.whose(one), Whose::Mine | Whose::Reserved))
        {
            if self.whose(volume) == Whose::Reserved {
                plan.push(self.take(volume));
                return None;
            }
            plan.push(self.change(json!({"volumeName": volume.name()})));
            if volume.name() != made_for(self.claim.uid()) {
                return None;
            }
            let message = format!("Successfully provisioned volume {}", volume.name());
            return self.tell(plan, Severity::Normal, "ProvisioningSucceeded", message);
        }
        let fitting = self.world.volumes.iter().filter(|one| {
            !one.deleting() && self.whose(one) == Whose::Free && self.misfit(one).is_none()
        });
        if let Some(volume) = fitting.min_by_key(|one| (capacity(one), one.name().to_owned())) {
            plan.push(self.take(volume));
            return None;
        }
        match self.provision() {
            Ok(volume) => {
                plan.push(Action::create(Kind::PersistentVolume, &volume));
                None
            }
            Err((severity, reason, message)) => self.tell(plan, severity, reason, message),
        }
    }

    fn change(&self, spec: serde_json::Value) -> Action {
        let meta = &self.claim.metadata;
        let body = json!({"metadata": {"resourceVersion": meta.resource_version}, "spec": spec});
        Action::merge(Kind::PersistentVolumeClaim, meta, None, body)
    }

    fn class(&self) -> &str {
        self.spec.storage_class_name.as_deref().unwrap_or_default()
    }

    fn mode(&self) -> &str {
        self.spec.volume_mode.as_deref().unwrap_or(FILESYSTEM)
    }

    fn request(&self) -> Option<&Quantity> {
        self.spec.resources.as_ref()?.requests.as_ref()?.get(STORAGE)
    }

    /// Why a volume that is free is not for this claim.
    fn misfit(&self, volume: &PersistentVolume) -> Option<&'static str> {
        let Some(of) = &volume.spec else { return Some("it has no spec") };
        if of.storage_class_name.as_deref().unwrap_or_default() != self.class() {
            return Some("storageClassName does not match");
        }
        if of.volume_mode.as_deref().unwrap_or(FILESYSTEM) != self.mode() {
            return Some("incompatible volumeMode");
        }
        let has = of.access_modes.as_deref().unwrap_or_default();
        if !self.spec.access_modes.iter().flatten().all(|mode| has.contains(mode)) {
            return Some("incompatible accessMode");
        }
        // An amount beyond all sense is more than any volume has.
        let wanted = self.request().map_or(0, |one| milli(one).unwrap_or(i64::MAX));
        if capacity(volume) < wanted {
            return Some("requested PV is too small");
        }
        let selector = self.spec.selector.as_ref();
        if selector.is_some_and(|selector| !labels::selects(selector, volume.labels())) {
            return Some("its labels are not those that the claim selects");
        }
        None
    }

    /// The volume to make, or why none can be.
    fn provision(&self) -> Result<PersistentVolume, (Severity, &'static str, String)> {
        let class_name = self.class();
        if class_name.is_empty() {
            let message = format!(
                "no persistent volumes available for this claim and no storage class is set; \
                 create a PersistentVolume that it fits, or leave storageClassName out for one \
                 of class \"{STANDARD}\""
            );
            return Err((Severity::Normal, "FailedBinding", message));
        }
        let remedy = format!(
            "use class \"{STANDARD}\", create a StorageClass \"{class_name}\" with \"provisioner: \
             {PROVISIONER}\", or a PersistentVolume of this class"
        );
        let failed = |why: String| Err((Severity::Warning, "ProvisioningFailed", why));
        let Some(class) = self.world.storage_classes.get("", class_name) else {
            return failed(format!(
                "storageclass.storage.k8s.io \"{class_name}\" not found; {remedy}"
            ));
        };
        if class.provisioner != PROVISIONER {
            let message = format!(
                "Waiting for a volume to be created either by the external provisioner '{}' or \
                 manually by the system administrator; nothing here is that provisioner: {remedy}",
                class.provisioner
            );
            return Err((Severity::Normal, "ExternalProvisioning", message));
        }
        if self.mode() != FILESYSTEM {
            return failed("only volumes with \"volumeMode: Filesystem\" can be made".into());
        }
        if self.spec.selector.is_some() {
            let why = "claim.spec.selector is not supported for volumes that are made for a claim";
            return failed(why.into());
        }
        if self.spec.data_source.is_some() || self.spec.data_source_ref.is_some() {
            return failed("a volume cannot be filled from a dataSource; leave it out".into());
        }
        let name = made_for(self.claim.uid());
        let path = format!("{DIR}/{name}");
        let request = self.request().cloned().unwrap_or_else(|| Quantity("0".into()));
        let spec = PersistentVolumeSpec {
            access_modes: self.spec.access_modes.clone(),
            capacity: Some([(STORAGE.into(), request)].into()),
            claim_ref: Some(self.reference()),
            host_path: Some(HostPathVolumeSource { path, type_: Some("DirectoryOrCreate".into()) }),
            persistent_volume_reclaim_policy: Some(
                class.reclaim_policy.clone().unwrap_or_else(|| "Delete".into()),
            ),
            storage_class_name: Some(class_name.into()),
            volume_mode: Some(FILESYSTEM.into()),
            ..PersistentVolumeSpec::default()
        };
        let metadata = Meta {
            name: Some(name),
            annotations: Some([(PROVISIONED_BY.into(), PROVISIONER.into())].into()),
            finalizers: Some(vec![VOLUME_PROTECTION.into()]),
            ..Meta::default()
        };
        Ok(PersistentVolume { metadata, spec: Some(spec), status: None })
    }
}

/// Thousandths of a byte; none where it does not say.
fn capacity(volume: &PersistentVolume) -> i64 {
    let of = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
    of.and_then(|all| all.get(STORAGE)).and_then(milli).unwrap_or(0)
}
