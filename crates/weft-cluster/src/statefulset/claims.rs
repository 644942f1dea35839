//! The claims of a StatefulSet's pods: made before the pod, kept when it goes, and gone with the
//! pod or the set only where `persistentVolumeClaimRetentionPolicy` says so (KEP-1847). Then the
//! claim is owned by the one that it goes with, and garbage collection does the rest.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::Round;
use crate::action::{Action, value};
use crate::claim::set_owners;
use crate::kinds::{Kind, Meta};
use crate::pods;
use crate::store::Object;

impl Round<'_> {
    fn templates(&self) -> impl Iterator<Item = &PersistentVolumeClaim> {
        self.spec.volume_claim_templates.iter().flatten()
    }

    fn claim_name(&self, template: &PersistentVolumeClaim, number: i32) -> String {
        format!("{}-{}-{number}", template.name(), self.set.name())
    }

    /// The claims of one place: those that are there, by their template's number.
    fn claims(&self, number: i32) -> BTreeMap<usize, &PersistentVolumeClaim> {
        let namespace = self.set.namespace();
        let all = self.templates().enumerate();
        all.filter_map(|(at, template)| {
            let name = self.claim_name(template, number);
            Some((at, self.world.claims.get(namespace, &name)?.as_ref()))
        })
        .collect()
    }

    /// Makes the claims of a place that are not there.
    pub(super) fn missing_claims(&self, number: i32) -> Vec<Action> {
        let there = self.claims(number);
        let missing = self.templates().enumerate().filter(|(at, _)| !there.contains_key(at));
        missing.map(|(_, template)| self.make_claim(template, number)).collect()
    }

    fn make_claim(&self, template: &PersistentVolumeClaim, number: i32) -> Action {
        let mut labels = template.labels().clone();
        labels.extend(self.spec.selector.match_labels.clone().unwrap_or_default());
        let claim = PersistentVolumeClaim {
            metadata: Meta {
                name: Some(self.claim_name(template, number)),
                namespace: self.set.metadata.namespace.clone(),
                labels: (!labels.is_empty()).then_some(labels),
                annotations: template.metadata.annotations.clone(),
                finalizers: template.metadata.finalizers.clone(),
                owner_references: self.goes_with_set().then(|| vec![self.owner_set()]),
                ..Meta::default()
            },
            spec: template.spec.clone(),
            status: None,
        };
        Action::create(Kind::PersistentVolumeClaim, &claim)
    }

    /// Whether a pod may be made on the claims of its place: none of them is on its way out, for
    /// its own sake or for that of an earlier pod or set of the same name.
    pub(super) fn claims_stay(&self, number: i32) -> bool {
        let pod = self.pod_name(number);
        self.claims(number).values().all(|claim| {
            let doomed = |owner: &OwnerReference| match owner.kind.as_str() {
                "Pod" => owner.name == pod,
                "StatefulSet" => owner.name == self.set.name() && owner.uid != self.set.uid(),
                _ => false,
            };
            !claim.deleting() && !claim.owners().iter().any(doomed)
        })
    }

    /// Has the volumes of the templates' names refer to the claims.
    pub(super) fn mount_claims(&self, spec: &mut PodSpec, number: i32) {
        for template in self.templates() {
            let volumes = spec.volumes.get_or_insert_default();
            volumes.retain(|volume| volume.name != template.name());
            volumes.push(Volume {
                name: template.name().into(),
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: self.claim_name(template, number),
                    read_only: None,
                }),
                ..Volume::default()
            });
        }
    }

    /// Gives claims the owners that the policy asks for, before the pods that they may go with
    /// are deleted.
    pub(super) fn claim_owners(&self) -> Vec<Action> {
        let kept = self.wanted.iter().map(|(number, pod)| (*number, pod, false));
        let condemned = self.condemned.iter().map(|(number, pod)| (*number, pod, true));
        let mut actions = Vec::new();
        for (number, pod, condemned) in kept.chain(condemned) {
            let wanted = match condemned && self.goes_with_pod() {
                true => Some(owner(Kind::Pod, &pod.metadata)),
                false => self.goes_with_set().then(|| self.owner_set()),
            };
            for claim in self.claims(number).into_values().filter(|claim| !claim.deleting()) {
                let foreign = |one: &&OwnerReference| !self.ours(one, pod);
                let mut owners: Vec<_> = claim.owners().iter().filter(foreign).cloned().collect();
                owners.extend(wanted.clone());
                if !same(&owners, claim.owners()) {
                    let kind = Kind::PersistentVolumeClaim;
                    actions.push(set_owners(kind, &claim.metadata, value(&owners)));
                }
            }
        }
        if !self.goes_with_set() {
            // Also those whose pods are gone, which nobody else would let go.
            let owned =
                self.world.claims.owned_by(self.set.uid()).filter(|claim| !claim.deleting());
            for claim in owned {
                let known = |action: &Action| action.name == claim.name();
                if !actions.iter().any(known) {
                    let owners = claim.owners().iter().filter(|one| one.uid != self.set.uid());
                    let owners: Vec<_> = owners.collect();
                    let kind = Kind::PersistentVolumeClaim;
                    actions.push(set_owners(kind, &claim.metadata, value(&owners)));
                }
            }
        }
        actions
    }

    /// Whether an owner of a claim is one that the policy brings about.
    fn ours(&self, owner: &OwnerReference, pod: &Pod) -> bool {
        owner.uid == self.set.uid() || (owner.kind == "Pod" && owner.uid == pod.uid())
    }

    fn owner_set(&self) -> OwnerReference {
        owner(Kind::StatefulSet, &self.set.metadata)
    }

    fn goes_with_set(&self) -> bool {
        let policy = self.spec.persistent_volume_claim_retention_policy.as_ref();
        policy.and_then(|policy| policy.when_deleted.as_deref()) == Some("Delete")
    }

    fn goes_with_pod(&self) -> bool {
        let policy = self.spec.persistent_volume_claim_retention_policy.as_ref();
        policy.and_then(|policy| policy.when_scaled.as_deref()) == Some("Delete")
    }
}

/// An owner that manages nothing and waits for nothing: a claim may have a manager of its own,
/// and stays until its pod is gone.
fn owner(kind: Kind, meta: &Meta) -> OwnerReference {
    let reference = pods::owner_reference(kind, meta);
    OwnerReference { controller: None, block_owner_deletion: None, ..reference }
}

fn same(one: &[OwnerReference], other: &[OwnerReference]) -> bool {
    let uids = |all: &[OwnerReference]| {
        let mut uids: Vec<_> = all.iter().map(|owner| owner.uid.clone()).collect();
        uids.sort();
        uids
    };
    uids(one) == uids(other)
}
