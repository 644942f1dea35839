//! ControllerRevisions: the templates that a DaemonSet or StatefulSet had.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use crate::action::{Action, value};
use crate::claim::set_owners;
use crate::kinds::{Kind, Meta, World};
use crate::store::Object;
use crate::{hash, labels, pods};

/// Label of pods and revisions: which template they have.
pub(crate) const HASH: &str = "controller-revision-hash";

/// The revisions of one workload, oldest first.
pub(crate) struct History {
    pub(crate) all: Vec<Arc<ControllerRevision>>,
}

/// Takes on revisions that nobody manages and that the selector matches: those that a deleted
/// workload of this name left (`kubectl delete --cascade=orphan`).
pub(crate) fn adopt(
    world: &World,
    kind: Kind,
    owner: &Meta,
    selector: &LabelSelector,
) -> Vec<Action> {
    if *selector == LabelSelector::default() {
        return Vec::new();
    }
    let orphans = world.revisions.within(owner.namespace.as_deref().unwrap_or_default());
    orphans
        .filter(|one| {
            one.controller().is_none() && !one.deleting() && labels::selects(selector, one.labels())
        })
        .map(|one| {
            let mut owners = one.owners().to_vec();
            owners.push(pods::owner_reference(kind, owner));
            set_owners(Kind::ControllerRevision, &one.metadata, value(&owners))
        })
        .collect()
}

impl History {
    pub(crate) fn of(world: &World, owner: &Meta) -> Self {
        let uid = owner.uid.as_deref().unwrap_or_default();
        let mut all: Vec<_> = world.revisions.controlled_by(uid).cloned().collect();
        all.sort_by_key(|one| (one.revision, one.name().to_owned()));
        Self { all }
    }

    /// The revision that has this template and is the newest, or the write that makes it so.
    pub(crate) fn current(
        &self,
        world: &World,
        kind: Kind,
        owner: &Meta,
        template: &PodTemplateSpec,
        collisions: Option<i32>,
    ) -> Result<Arc<ControllerRevision>, Box<Action>> {
        let data = data(template);
        let newest = self.all.last().map_or(0, |one| one.revision);
        let next = newest.saturating_add(1);
        let same =
            |one: &&Arc<ControllerRevision>| one.data.as_ref().is_some_and(|held| held.0 == data);
        match self.all.iter().rev().find(same) {
            Some(held) if held.revision == newest => Ok(held.clone()),
            Some(held) => {
                let body = json!({
                    "metadata": {"resourceVersion": held.metadata.resource_version},
                    "revision": next,
                });
                let kind = Kind::ControllerRevision;
                Err(Action::merge(kind, &held.metadata, None, body).into())
            }
            None => {
                let create = create(kind, owner, template, data, next, collisions);
                if world.revisions.get(&create.namespace, &create.name).is_none() {
                    return Err(create.into());
                }
                // The name is another's: the next hash counts the collision.
                let body = json!({"status": {"collisionCount": collisions.unwrap_or(0).saturating_add(1)}});
                Err(Action::merge(kind, owner, Some("status"), body).into())
            }
        }
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Arc<ControllerRevision>> {
        self.all.iter().find(|one| one.name() == name)
    }

    /// Deletions of the oldest revisions beyond the limit that nothing uses.
    pub(crate) fn surplus(&self, limit: Option<i32>, used: &[&str]) -> Vec<Action> {
        let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(0);
        let idle: Vec<_> = self
            .all
            .iter()
            .filter(|one| !used.contains(&one.name()) && !used.contains(&hash_of(one)))
            .filter(|one| !one.deleting())
            .collect();
        let count = idle.len().saturating_sub(limit);
        idle[..count]
            .iter()
            .map(|one| Action::delete(Kind::ControllerRevision, &one.metadata))
            .collect()
    }
}

/// The hash in a revision's label.
pub(crate) fn hash_of(revision: &ControllerRevision) -> &str {
    revision.labels().get(HASH).map(String::as_str).unwrap_or_default()
}

/// The template that a revision keeps.
pub(crate) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let data = &revision.data.as_ref()?.0;
    serde_json::from_value(data.get("spec")?.get("template")?.clone()).ok()
}

/// As Kubernetes writes it: a strategic merge patch that `kubectl rollout undo` applies.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = value(template);
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

fn create(
    kind: Kind,
    owner: &Meta,
    template: &PodTemplateSpec,
    data: Value,
    revision: i64,
    collisions: Option<i32>,
) -> Action {
    let hash = hash::of(template, collisions);
    let mut labels: BTreeMap<String, String> =
        template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(HASH.into(), hash.clone());
    let name = format!("{}-{hash}", owner.name.as_deref().unwrap_or_default());
    let object = ControllerRevision {
        metadata: Meta {
            name: Some(name),
            namespace: owner.namespace.clone(),
            labels: Some(labels),
            annotations: owner.annotations.clone(),
            owner_references: Some(vec![pods::owner_reference(kind, owner)]),
            ..Meta::default()
        },
        data: Some(RawExtension(data)),
        revision,
    };
    Action::create(Kind::ControllerRevision, &object)
}
