//! StatefulSet: pods with names and claims that stay, one after the other or all at once.

mod claims;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus,
};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::action::{Action, Plan};
use crate::claim::claim;
use crate::deployment::share;
use crate::kinds::{Kind, World};
use crate::replicaset::count;
use crate::revision::{HASH, History, template};
use crate::store::Object;
use crate::{pods, revision};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
/// Pods made or deleted in one round with `podManagementPolicy: Parallel`.
const BURST: usize = 500;

/// One step of one StatefulSet.
pub(crate) fn plan(world: &World, namespace: &str, name: &str, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(set) = world.stateful_sets.get(namespace, name) else { return plan };
    let Some(spec) = set.spec.as_ref().filter(|_| !set.deleting()) else { return plan };
    let named = |pod: &Pod| ordinal(set.name(), pod.name()).is_some();
    let (own, actions) = claim(world, Kind::StatefulSet, &set.metadata, &spec.selector, named);
    if !actions.is_empty() {
        return actions.into();
    }
    let adoptions = revision::adopt(world, Kind::StatefulSet, &set.metadata, &spec.selector);
    if !adoptions.is_empty() {
        return adoptions.into();
    }
    let history = History::of(world, &set.metadata);
    let held = set.status.clone().unwrap_or_default();
    let update = match history.current(
        world,
        Kind::StatefulSet,
        &set.metadata,
        &spec.template,
        held.collision_count,
    ) {
        Ok(update) => update,
        Err(action) => {
            plan.push(*action);
            return plan;
        }
    };
    let current = held
        .current_revision
        .as_deref()
        .and_then(|name| history.named(name))
        .unwrap_or(&update)
        .clone();
    let round = Round::new(world, set, spec, (update, current), own, now);
    plan.actions = round.claim_owners();
    if !plan.actions.is_empty() {
        return plan;
    }
    round.step(&mut plan);
    round.status(&mut plan);
    if plan.actions.is_empty() {
        let used: Vec<&str> = round
            .pods()
            .filter_map(|pod| pod.labels().get(HASH).map(String::as_str))
            .chain([round.update.name(), round.current.name()])
            .collect();
        plan.actions = history.surplus(spec.revision_history_limit, &used);
    }
    plan
}

/// The number in a pod's name, where it is one of this set's.
fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    let canonical = digits == "0" || !digits.starts_with('0');
    (canonical && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(())?;
    digits.parse().ok()
}

struct Round<'a> {
    world: &'a World,
    set: &'a StatefulSet,
    spec: &'a StatefulSetSpec,
    update: Arc<ControllerRevision>,
    current: Arc<ControllerRevision>,
    first: i32,
    /// The number after the last that shall be.
    end: i32,
    /// Pods that are there and shall be, by their number. Not an entry for each that shall be:
    /// their number is anybody's to choose.
    wanted: BTreeMap<i32, Arc<Pod>>,
    /// Pods beyond them, by their number.
    condemned: BTreeMap<i32, Arc<Pod>>,
    now: Timestamp,
}

impl<'a> Round<'a> {
    fn new(
        world: &'a World,
        set: &'a StatefulSet,
        spec: &'a StatefulSetSpec,
        (update, current): (Arc<ControllerRevision>, Arc<ControllerRevision>),
        own: Vec<Arc<Pod>>,
        now: Timestamp,
    ) -> Self {
        let first = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
        let end = first.saturating_add(spec.replicas.unwrap_or(1).max(0));
        let (mut wanted, mut condemned) = (BTreeMap::new(), BTreeMap::new());
        for pod in own {
            let Some(number) = ordinal(set.name(), pod.name()) else { continue };
            let place = if (first..end).contains(&number) { &mut wanted } else { &mut condemned };
            place.insert(number, pod);
        }
        Self { world, set, spec, update, current, first, end, wanted, condemned, now }
    }

    fn pod_name(&self, number: i32) -> String {
        format!("{}-{number}", self.set.name())
    }

    fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.wanted.values().chain(self.condemned.values())
    }

    fn ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn step(&self, plan: &mut Plan) {
        for number in self.first..self.end {
            let pod = self.wanted.get(&number).map(AsRef::as_ref);
            if plan.actions.len() >= BURST || !self.settle(number, pod, plan) {
                return;
            }
        }
        if !self.remove(plan) {
            return;
        }
        self.roll(plan);
    }

    /// Brings one place in order. Says whether the next one's turn has come.
    fn settle(&self, number: i32, pod: Option<&Pod>, plan: &mut Plan) -> bool {
        let next = !self.ordered();
        // A claim is there before its pod, and again where somebody deleted it in the moment in
        // which the pod got its node: who protects claims did not see that yet.
        if pod.is_none_or(|pod| !pod.deleting()) {
            let missing = self.missing_claims(number);
            if !missing.is_empty() {
                plan.actions.extend(missing);
                return next;
            }
        }
        let Some(pod) = pod else {
            if self.claims_stay(number) {
                plan.push(self.create(number));
            }
            return next;
        };
        if pods::finished(pod) && !pod.deleting() {
            plan.push(Action::delete(Kind::Pod, &pod.metadata));
            return next;
        }
        next || self.healthy(pod, plan)
    }

    /// Deletes what is beyond the wanted number, the highest first. Says whether nothing is left
    /// to wait for.
    fn remove(&self, plan: &mut Plan) -> bool {
        for pod in self.condemned.values().rev() {
            if pod.deleting() {
                if self.ordered() {
                    return false;
                }
                continue;
            }
            plan.push(Action::delete(Kind::Pod, &pod.metadata));
            if self.ordered() {
                return false;
            }
        }
        true
    }

    /// A rolling update's step: from the highest number down to the partition, as many at a time
    /// as may be unavailable.
    fn roll(&self, plan: &mut Plan) {
        if self.on_delete() || self.update.name() == self.current.name() && self.all_updated() {
            return;
        }
        let missing = i64::from(self.end) - i64::from(self.first);
        let mut away = missing - i64::try_from(self.wanted.len()).unwrap_or(i64::MAX);
        away += self.wanted.values().map(|pod| i64::from(!self.healthy(pod, plan))).sum::<i64>();
        let room = usize::try_from(i64::from(self.max_unavailable()) - away).unwrap_or(0);
        let from = self.first.saturating_add(self.partition());
        let old = self.wanted.range(from..).rev().map(|(_, pod)| pod);
        let old = old.filter(|pod| !is_of(pod, &self.update) && !pod.deleting());
        // Those that are away already cost nothing, and the new template may be their repair.
        let (serving, broken): (Vec<_>, Vec<_>) = old.partition(|pod| self.healthy(pod, plan));
        let next = broken.into_iter().chain(serving.into_iter().take(room));
        for pod in next.take(BURST) {
            plan.push(Action::delete(Kind::Pod, &pod.metadata));
        }
    }

    /// How many pods an update may take away at once: one, unless stated.
    fn max_unavailable(&self) -> i32 {
        let strategy = self.spec.update_strategy.as_ref();
        let rolling = strategy.and_then(|one| one.rolling_update.as_ref());
        let limit = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        share(limit, self.spec.replicas.unwrap_or(1), false, "1").max(1)
    }

    fn all_updated(&self) -> bool {
        self.wanted.values().all(|pod| is_of(pod, &self.update))
    }

    fn on_delete(&self) -> bool {
        let strategy = self.spec.update_strategy.as_ref();
        strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete")
    }

    fn partition(&self) -> i32 {
        let rolling =
            self.spec.update_strategy.as_ref().and_then(|one| one.rolling_update.as_ref());
        rolling.and_then(|rolling| rolling.partition).unwrap_or(0).max(0)
    }

    fn healthy(&self, pod: &Pod, plan: &mut Plan) -> bool {
        if pod.deleting() {
            return false;
        }
        match pods::available(pod, self.spec.min_ready_seconds.unwrap_or(0), self.now) {
            Ok(()) => true,
            Err(at) => {
                if let Some(at) = at {
                    plan.ask_again(at);
                }
                false
            }
        }
    }

    /// A pod below the partition, or one the roll-out has not reached, comes back as it was.
    fn create(&self, number: i32) -> Action {
        let reached = self.on_delete() || number >= self.first.saturating_add(self.threshold());
        let revision = if reached { &self.update } else { &self.current };
        let of = template(revision).unwrap_or_else(|| self.spec.template.clone());
        let name = self.pod_name(number);
        let mut pod =
            pods::from_template(Kind::StatefulSet, &self.set.metadata, &of, Some(name.clone()));
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(HASH.into(), revision.name().into());
        labels.insert(POD_NAME.into(), name.clone());
        labels.insert(POD_INDEX.into(), number.to_string());
        let spec = pod.spec.get_or_insert_default();
        spec.hostname = Some(name);
        if spec.subdomain.is_none() {
            spec.subdomain.clone_from(&self.spec.service_name);
        }
        self.mount_claims(spec, number);
        Action::create(Kind::Pod, &pod)
    }

    /// Places below this one keep the current revision.
    fn threshold(&self) -> i32 {
        let rolling =
            self.spec.update_strategy.as_ref().and_then(|one| one.rolling_update.as_ref());
        match rolling.and_then(|rolling| rolling.partition) {
            Some(partition) if partition > 0 => partition,
            _ if self.update.name() == self.current.name() => 0,
            _ => self.set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0),
        }
    }

    fn status(&self, plan: &mut Plan) {
        let (mut ready, mut serving, mut current, mut updated, mut there) = (0, 0, 0, 0, 0);
        for pod in self.pods() {
            there += 1;
            ready += i32::from(pods::ready(pod) && !pods::finished(pod));
            let min = self.spec.min_ready_seconds.unwrap_or(0);
            serving += i32::from(pods::available(pod, min, self.now).is_ok());
            if pods::active(pod) {
                current += i32::from(is_of(pod, &self.current));
                updated += i32::from(is_of(pod, &self.update));
            }
        }
        let mut current_name = self.current.name();
        let complete = !self.on_delete()
            && self.partition() == 0
            && updated == there
            && ready == there
            && there == self.spec.replicas.unwrap_or(1);
        if complete {
            current_name = self.update.name();
            current = updated;
        }
        let held = self.set.status.clone().unwrap_or_default();
        let next = StatefulSetStatus {
            observed_generation: self.set.metadata.generation,
            replicas: there,
            ready_replicas: Some(ready),
            available_replicas: Some(serving),
            current_replicas: Some(current),
            updated_replicas: Some(updated),
            current_revision: Some(current_name.into()),
            update_revision: Some(self.update.name().into()),
            ..StatefulSetStatus::default()
        };
        let part = |status: &StatefulSetStatus| {
            (
                status.observed_generation,
                [
                    status.replicas,
                    status.ready_replicas.unwrap_or(0),
                    status.available_replicas.unwrap_or(0),
                    status.current_replicas.unwrap_or(0),
                    status.updated_replicas.unwrap_or(0),
                ],
                status.current_revision.clone(),
                status.update_revision.clone(),
            )
        };
        if self.set.status.is_some() && part(&held) == part(&next) {
            return;
        }
        plan.push(Action::merge(
            Kind::StatefulSet,
            &self.set.metadata,
            Some("status"),
            json!({
                "metadata": {"uid": self.set.uid()},
                "status": {
                    "observedGeneration": next.observed_generation,
                    "replicas": there,
                    "readyReplicas": count(ready),
                    "availableReplicas": serving,
                    "currentReplicas": count(current),
                    "updatedReplicas": count(updated),
                    "currentRevision": next.current_revision,
                    "updateRevision": next.update_revision,
                    "collisionCount": held.collision_count.unwrap_or(0),
                },
            }),
        ));
    }
}

fn is_of(pod: &Pod, revision: &ControllerRevision) -> bool {
    pod.labels().get(HASH).is_some_and(|held| held == revision.name())
}

#[cfg(test)]
mod tests;
