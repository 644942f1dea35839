//! Deployment: ReplicaSets old and new, and the way from one to the other.
//!
//! The planner makes one step of a roll-out and one status. Scaling up comes before scaling
//! down, and the next step is planned on its result.

mod rollout;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use crate::action::{About, Action, Plan, Severity, value};
use crate::claim::set_owners;
use crate::kinds::{Kind, Meta, World};
use crate::store::Object;
use crate::{hash, labels, pods};

pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
const HASH: &str = "pod-template-hash";
/// Annotations of a Deployment that are not its ReplicaSets' (`annotationsToSkip`).
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// A Deployment with its ReplicaSets, oldest first.
struct Rollout<'a> {
    world: &'a World,
    meta: &'a Meta,
    spec: &'a DeploymentSpec,
    deployment: &'a Deployment,
    old: Vec<Arc<ReplicaSet>>,
    new: Option<Arc<ReplicaSet>>,
    wanted: i32,
    max_surge: i32,
    max_unavailable: i32,
    now: Timestamp,
}

/// One step of one Deployment.
pub(crate) fn plan(world: &World, namespace: &str, name: &str, now: Timestamp) -> Plan {
    let Some(deployment) = world.deployments.get(namespace, name) else { return Plan::default() };
    let Some(spec) = deployment.spec.as_ref().filter(|_| !deployment.deleting()) else {
        return Plan::default();
    };
    let adoptions = adopt(world, deployment, spec);
    if !adoptions.is_empty() {
        return adoptions.into();
    }
    let rollout = Rollout::new(world, deployment, spec, now);
    let mut plan = Plan::default();
    let created = rollout.step(&mut plan);
    status::plan(&rollout, created.as_deref(), &mut plan);
    plan
}

fn adopt(world: &World, deployment: &Deployment, spec: &DeploymentSpec) -> Vec<Action> {
    let orphans = world.replica_sets.within(deployment.namespace()).filter(|set| {
        set.controller().is_none()
            && !set.deleting()
            && spec.selector != Default::default()
            && labels::selects(&spec.selector, set.labels())
    });
    orphans
        .map(|set| {
            let mut owners = set.owners().to_vec();
            owners.push(pods::owner_reference(Kind::Deployment, &deployment.metadata));
            set_owners(Kind::ReplicaSet, &set.metadata, value(&owners))
        })
        .collect()
}

impl<'a> Rollout<'a> {
    fn new(
        world: &'a World,
        deployment: &'a Deployment,
        spec: &'a DeploymentSpec,
        now: Timestamp,
    ) -> Self {
        let mut sets: Vec<Arc<ReplicaSet>> =
            world.replica_sets.controlled_by(deployment.uid()).cloned().collect();
        sets.sort_by_key(|set| (set.created_seconds(), set.name().to_owned()));
        let at = sets.iter().position(|set| {
            set.spec
                .as_ref()
                .and_then(|spec| spec.template.as_ref())
                .is_some_and(|template| without_hash(template) == without_hash(&spec.template))
                && !set.deleting()
        });
        let new = at.map(|at| sets.remove(at));
        let wanted = spec.replicas.unwrap_or(1).max(0);
        let (max_surge, max_unavailable) = limits(spec, wanted);
        Self {
            world,
            meta: &deployment.metadata,
            spec,
            deployment,
            old: sets,
            new,
            wanted,
            max_surge,
            max_unavailable,
            now,
        }
    }

    fn recreate(&self) -> bool {
        let strategy = self.spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
        strategy == Some("Recreate")
    }

    fn paused(&self) -> bool {
        self.spec.paused == Some(true)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(self.new.iter())
    }

    /// Emits one step; gives the name of a ReplicaSet that it creates.
    fn step(&self, plan: &mut Plan) -> Option<String> {
        if self.is_scaling() {
            self.rescale(plan);
            return None;
        }
        if self.paused() {
            return None;
        }
        if self.recreate() && self.old_still_there(plan) {
            return None;
        }
        let Some(new) = &self.new else { return self.create(plan) };
        self.mark_current(new, plan);
        if !plan.actions.is_empty() {
            return None;
        }
        if self.recreate() {
            self.scale(new, self.wanted, plan);
        } else {
            self.roll(new, plan);
        }
        if plan.actions.is_empty() {
            self.forget_history(plan);
        }
        None
    }

    /// The highest revision among these sets.
    fn revision_max<'s>(sets: impl Iterator<Item = &'s Arc<ReplicaSet>>) -> i64 {
        sets.map(|set| revision(set)).max().unwrap_or(0)
    }

    fn create(&self, plan: &mut Plan) -> Option<String> {
        let collisions = self.deployment.status.as_ref().and_then(|status| status.collision_count);
        let hash = hash::of(&without_hash(&self.spec.template), collisions);
        let name = format!("{}-{hash}", self.meta.name.as_deref().unwrap_or_default());
        let mut template = self.spec.template.clone();
        template
            .metadata
            .get_or_insert_default()
            .labels
            .get_or_insert_default()
            .insert(HASH.into(), hash.clone());
        let mut selector = self.spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(HASH.into(), hash);
        let number = Self::revision_max(self.old.iter()).saturating_add(1);
        let replicas = match self.recreate() {
            true => self.wanted,
            false => self.new_replicas(0),
        };
        let mut annotations = self.passed_on();
        annotations.insert(REVISION.into(), number.to_string());
        annotations.extend(self.sizes());
        let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone());
        let set = ReplicaSet {
            metadata: Meta {
                name: Some(name.clone()),
                namespace: self.meta.namespace.clone(),
                labels,
                annotations: Some(annotations),
                owner_references: Some(vec![pods::owner_reference(Kind::Deployment, self.meta)]),
                ..Meta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(replicas),
                min_ready_seconds: self.spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        };
        if self.world.replica_sets.get(self.deployment.namespace(), &name).is_some() {
            // The name belongs to another template: the next hash counts the collision.
            let body =
                json!({"status": {"collisionCount": collisions.unwrap_or(0).saturating_add(1)}});
            plan.push(Action::merge(Kind::Deployment, self.meta, Some("status"), body));
            return None;
        }
        plan.push(Action::create(Kind::ReplicaSet, &set));
        self.set_revision(number, plan);
        if replicas > 0 {
            let message = format!("Scaled up replica set {name} from 0 to {replicas}");
            self.event("ScalingReplicaSet", &message, plan);
        }
        Some(name)
    }

    /// Revision and annotations of the ReplicaSet that is current, which may be one of the past
    /// (`kubectl rollout undo`).
    fn mark_current(&self, new: &ReplicaSet, plan: &mut Plan) {
        let wanted = Self::revision_max(self.old.iter()).saturating_add(1).max(revision(new));
        let mut change: BTreeMap<String, String> = self.passed_on();
        if revision(new) < wanted {
            change.insert(REVISION.into(), wanted.to_string());
            if let Some(before) = new.annotation(REVISION) {
                let history = new.annotation(REVISION_HISTORY).filter(|text| !text.is_empty());
                let history = history.map_or(before.to_owned(), |text| format!("{text},{before}"));
                change.insert(REVISION_HISTORY.into(), history);
            }
        }
        change.retain(|key, value| new.annotation(key) != Some(value.as_str()));
        let min_ready = new.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        let wanted_ready = self.spec.min_ready_seconds.unwrap_or(0);
        if !change.is_empty() || min_ready != wanted_ready {
            let body = json!({
                "metadata": {"resourceVersion": new.metadata.resource_version,
                    "annotations": change},
                "spec": {"minReadySeconds": wanted_ready},
            });
            plan.push(Action::merge(Kind::ReplicaSet, &new.metadata, None, body));
        }
        self.set_revision(wanted, plan);
    }

    fn set_revision(&self, number: i64, plan: &mut Plan) {
        let text = number.to_string();
        if self.deployment.annotation(REVISION) != Some(&text) {
            let body = json!({"metadata": {"uid": self.deployment.uid(),
                "annotations": {REVISION: text}}});
            plan.push(Action::merge(Kind::Deployment, self.meta, None, body));
        }
    }

    fn passed_on(&self) -> BTreeMap<String, String> {
        let mut all = self.meta.annotations.clone().unwrap_or_default();
        all.retain(|key, _| !OWN.contains(&key.as_str()));
        all
    }

    /// What a ReplicaSet remembers of its Deployment's size, for proportional scaling.
    fn sizes(&self) -> [(String, String); 2] {
        let max = self.wanted.saturating_add(if self.recreate() { 0 } else { self.max_surge });
        [(DESIRED.into(), self.wanted.to_string()), (MAX.into(), max.to_string())]
    }

    /// Sets the size of a ReplicaSet, with what it shall remember.
    fn scale(&self, set: &ReplicaSet, replicas: i32, plan: &mut Plan) {
        let before = size(set);
        let annotations: BTreeMap<String, String> = self.sizes().into();
        let remembers =
            annotations.iter().all(|(key, value)| set.annotation(key) == Some(value.as_str()));
        if before == replicas && remembers {
            return;
        }
        let body = json!({
            "metadata": {"resourceVersion": set.metadata.resource_version,
                "annotations": annotations},
            "spec": {"replicas": replicas},
        });
        plan.push(Action::merge(Kind::ReplicaSet, &set.metadata, None, body));
        if before != replicas {
            let way = if before < replicas { "up" } else { "down" };
            let name = set.name();
            let message = format!("Scaled {way} replica set {name} from {before} to {replicas}");
            self.event("ScalingReplicaSet", &message, plan);
        }
    }

    fn event(&self, reason: &str, message: &str, plan: &mut Plan) {
        let about = About {
            kind: Kind::Deployment,
            meta: self.meta,
            component: "deployment-controller",
            now: self.now,
        };
        plan.push(Action::event(&about, Severity::Normal, reason, message));
    }

    /// Deletes ReplicaSets beyond the history limit once the roll-out is complete.
    fn forget_history(&self, plan: &mut Plan) {
        let Some(status) = &self.deployment.status else { return };
        if !status::complete(self, status) {
            return;
        }
        let limit = usize::try_from(self.spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
        let mut past: Vec<&Arc<ReplicaSet>> = self
            .old
            .iter()
            .filter(|set| {
                let status = set.status.clone().unwrap_or_default();
                size(set) == 0
                    && status.replicas == 0
                    && !set.deleting()
                    && status.observed_generation >= set.metadata.generation
            })
            .collect();
        past.sort_by_key(|set| revision(set));
        let surplus = past.len().saturating_sub(limit);
        for set in &past[..surplus] {
            plan.push(Action::delete(Kind::ReplicaSet, &set.metadata));
        }
    }
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(meta) = &mut template.metadata {
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH);
        }
        meta.creation_timestamp = None;
        // A template without metadata and one with empty metadata are the same.
        meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
    }
    template.metadata = template.metadata.filter(|meta| *meta != Meta::default());
    template
}

fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// A sum of numbers that others write: it ends at the largest instead of overflowing.
fn total_of(numbers: impl Iterator<Item = i32>) -> i32 {
    numbers.fold(0, i32::saturating_add)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

fn revision(set: &ReplicaSet) -> i64 {
    set.annotation(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// maxSurge and maxUnavailable in pods. Both nought would allow no step: then one may be
/// unavailable, as in Kubernetes.
fn limits(spec: &DeploymentSpec, wanted: i32) -> (i32, i32) {
    let strategy = spec.strategy.as_ref();
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
        return (0, 0);
    }
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let part = |value: Option<&IntOrString>, up| share(value, wanted, up, "25%");
    let surge = part(rolling.and_then(|rolling| rolling.max_surge.as_ref()), true);
    let unavailable = part(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), false);
    match (surge, unavailable) {
        (0, 0) => (0, 1),
        (surge, unavailable) => (surge, unavailable.min(wanted)),
    }
}

/// A number or a percentage of `whole`.
pub(crate) fn share(value: Option<&IntOrString>, whole: i32, up: bool, default: &str) -> i32 {
    let text = match value {
        Some(IntOrString::Int(number)) => return (*number).max(0),
        Some(IntOrString::String(text)) => text.as_str(),
        None => default,
    };
    let Some(percent) = text.strip_suffix('%').and_then(|text| text.parse::<i64>().ok()) else {
        return text.parse().unwrap_or(0).max(0);
    };
    // Wide enough for every percentage that parses.
    let product = i128::from(whole) * i128::from(percent);
    let part = if up { (product + 99) / 100 } else { product / 100 };
    i32::try_from(part.max(0)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        let text = |text: &str| Some(IntOrString::String(text.into()));
        assert_eq!(share(text("25%").as_ref(), 3, true, ""), 1);
        assert_eq!(share(text("25%").as_ref(), 3, false, ""), 0);
        assert_eq!(share(text("100%").as_ref(), 3, false, ""), 3);
        assert_eq!(share(Some(&IntOrString::Int(2)), 3, false, ""), 2);
        assert_eq!(share(None, 8, false, "25%"), 2);
        assert_eq!(share(text("many").as_ref(), 8, false, ""), 0);
        assert_eq!(share(text("9223372036854775807%").as_ref(), 8, true, ""), i32::MAX);
    }
}
