//! DaemonSet: one pod on every node that fits.
//!
//! Taints and node affinity are checked here; each pod requires its node, and the scheduler binds
//! it, as it has room and ports for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    DaemonSet, DaemonSetSpec, DaemonSetStatus, RollingUpdateDaemonSet,
};
use k8s_openapi::api::core::v1::{Pod, PodSpec, Toleration};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use crate::action::{About, Action, Plan, Severity};
use crate::claim::claim;
use crate::deployment::share;
use crate::kinds::{Kind, World};
use crate::replicaset::count;
use crate::revision::{HASH, History, hash_of};
use crate::scheduler::{daemon_may_run, daemon_may_stay};
use crate::store::Object;
use crate::{pods, revision};

/// Conditions of a node that a daemon outlives, with the effect of their taints.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// One step of one DaemonSet.
pub(crate) fn plan(world: &World, namespace: &str, name: &str, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(set) = world.daemon_sets.get(namespace, name) else { return plan };
    let Some(spec) = set.spec.as_ref().filter(|_| !set.deleting()) else { return plan };
    let (own, actions) = claim(world, Kind::DaemonSet, &set.metadata, &spec.selector, |_| true);
    if !actions.is_empty() {
        return actions.into();
    }
    let adoptions = revision::adopt(world, Kind::DaemonSet, &set.metadata, &spec.selector);
    if !adoptions.is_empty() {
        return adoptions.into();
    }
    let history = History::of(world, &set.metadata);
    let collisions = set.status.as_ref().and_then(|status| status.collision_count);
    let revision =
        match history.current(world, Kind::DaemonSet, &set.metadata, &spec.template, collisions) {
            Ok(revision) => revision,
            Err(action) => {
                plan.push(*action);
                return plan;
            }
        };
    let round = Round::new(world, set, spec, hash_of(&revision), &own, now);
    round.place(&mut plan);
    if plan.actions.is_empty() {
        round.update(&mut plan);
    }
    round.status(&mut plan);
    if plan.actions.is_empty() {
        let used: Vec<&str> = own
            .iter()
            .filter_map(|pod| pod.labels().get(HASH).map(String::as_str))
            .chain([hash_of(&revision)])
            .collect();
        plan.actions = history.surplus(spec.revision_history_limit, &used);
    }
    plan
}

struct Round<'a> {
    set: &'a DaemonSet,
    spec: &'a DaemonSetSpec,
    hash: &'a str,
    pod_spec: PodSpec,
    /// Nodes that shall have a pod, and those where one may stay.
    wanted: BTreeSet<String>,
    may_stay: BTreeSet<String>,
    by_node: BTreeMap<String, Vec<Arc<Pod>>>,
    now: Timestamp,
}

impl<'a> Round<'a> {
    fn new(
        world: &World,
        set: &'a DaemonSet,
        spec: &'a DaemonSetSpec,
        hash: &'a str,
        own: &[Arc<Pod>],
        now: Timestamp,
    ) -> Self {
        let pod_spec = with_tolerations(spec.template.spec.clone().unwrap_or_default());
        let (mut wanted, mut may_stay) = (BTreeSet::new(), BTreeSet::new());
        for node in world.nodes.iter().filter(|node| !node.deleting()) {
            if daemon_may_run(&pod_spec, node) {
                wanted.insert(node.name().to_owned());
            }
            if daemon_may_stay(&pod_spec, node) {
                may_stay.insert(node.name().to_owned());
            }
        }
        let mut by_node: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in own {
            let node = pods::target(pod).unwrap_or_default().to_owned();
            by_node.entry(node).or_default().push(pod.clone());
        }
        for pods in by_node.values_mut() {
            pods.sort_by_key(|pod| (pod.created_seconds(), pod.name().to_owned()));
        }
        Self { set, spec, hash, pod_spec, wanted, may_stay, by_node, now }
    }

    /// Makes missing pods, deletes surplus and finished ones.
    fn place(&self, plan: &mut Plan) {
        for node in &self.wanted {
            let held = self.by_node.get(node).map(Vec::as_slice).unwrap_or_default();
            if held.is_empty() {
                plan.push(self.create(node));
            }
            for pod in held.iter().filter(|pod| pods::finished(pod) && !pod.deleting()) {
                self.replace_finished(pod, plan);
            }
            // Of several the oldest stays; with a surge the oldest of the new ones, too.
            let mut kept = BTreeSet::new();
            for pod in held.iter().filter(|pod| pods::active(pod)) {
                let place = self.max_surge() > 0 && self.is_new(pod);
                if !kept.insert(place) {
                    plan.push(Action::delete(Kind::Pod, &pod.metadata));
                }
            }
        }
        for (node, held) in &self.by_node {
            if !self.wanted.contains(node) && !self.may_stay.contains(node) {
                for pod in held.iter().filter(|pod| !pod.deleting()) {
                    plan.push(Action::delete(Kind::Pod, &pod.metadata));
                }
            }
        }
    }

    fn replace_finished(&self, pod: &Pod, plan: &mut Plan) {
        let about = About {
            kind: Kind::DaemonSet,
            meta: &self.set.metadata,
            component: "daemonset-controller",
            now: self.now,
        };
        let node = pods::target(pod).unwrap_or_default();
        let phase = pods::phase(pod);
        let message = format!("Found {phase} daemon pod {} on node {node}", pod.name());
        let reason = if phase == "Failed" { "FailedDaemonPod" } else { "SucceededDaemonPod" };
        plan.push(Action::event(&about, Severity::Warning, reason, &message));
        plan.push(Action::delete(Kind::Pod, &pod.metadata));
    }

    fn create(&self, node: &str) -> Action {
        let mut pod =
            pods::from_template(Kind::DaemonSet, &self.set.metadata, &self.spec.template, None);
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(HASH.into(), self.hash.into());
        let mut spec = self.pod_spec.clone();
        pods::pin(&mut spec, node);
        pod.spec = Some(spec);
        Action::create(Kind::Pod, &pod)
    }

    fn is_new(&self, pod: &Pod) -> bool {
        pod.labels().get(HASH).is_some_and(|held| held == self.hash)
    }

    fn limit(&self, of: impl Fn(&RollingUpdateDaemonSet) -> Option<IntOrString>) -> i32 {
        let strategy = self.spec.update_strategy.as_ref();
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let total = i32::try_from(self.wanted.len()).unwrap_or(i32::MAX);
        share(rolling.and_then(of).as_ref(), total, true, "0")
    }

    fn max_surge(&self) -> i32 {
        self.limit(|rolling| rolling.max_surge.clone())
    }

    /// A rolling update's step.
    fn update(&self, plan: &mut Plan) {
        let strategy = self.spec.update_strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return;
        }
        match self.max_surge() {
            0 => self.replace(plan),
            surge => self.surge(surge, plan),
        }
    }

    /// Deletes old pods that serve nobody, and as many others as may be away.
    fn replace(&self, plan: &mut Plan) {
        let limit = self.limit(|rolling| rolling.max_unavailable.clone()).max(1);
        let mut away = 0;
        let mut candidates = Vec::new();
        for node in &self.wanted {
            let held = self.by_node.get(node).map(Vec::as_slice).unwrap_or_default();
            let Some(pod) = held.iter().find(|pod| pods::active(pod)) else {
                away += 1;
                continue;
            };
            let serves = self.available(pod, plan);
            away += i32::from(!serves);
            match (self.is_new(pod), serves) {
                (false, false) => plan.push(Action::delete(Kind::Pod, &pod.metadata)),
                (false, true) => candidates.push(pod),
                _ => {}
            }
        }
        let more = usize::try_from(limit - away).unwrap_or(0);
        for pod in candidates.into_iter().take(more) {
            plan.push(Action::delete(Kind::Pod, &pod.metadata));
        }
    }

    /// Makes new pods beside old ones, as many as may be; an old one goes when the new one serves.
    fn surge(&self, limit: i32, plan: &mut Plan) {
        let mut coming = 0;
        let (mut broken, mut candidates) = (Vec::new(), Vec::new());
        for node in &self.wanted {
            let held = self.by_node.get(node).map(Vec::as_slice).unwrap_or_default();
            let find = |new| held.iter().find(|pod| pods::active(pod) && self.is_new(pod) == new);
            match (find(false), find(true)) {
                (Some(old), Some(new)) => match self.available(new, plan) {
                    true => plan.push(Action::delete(Kind::Pod, &old.metadata)),
                    false => coming += 1,
                },
                // It serves nobody: nothing is lost.
                (Some(old), None) if !self.available(old, plan) => broken.push(node),
                (Some(_), None) => candidates.push(node),
                _ => {}
            }
        }
        let more = usize::try_from(limit - coming).unwrap_or(0);
        for node in broken.into_iter().chain(candidates.into_iter().take(more)) {
            plan.push(self.create(node));
        }
    }

    fn available(&self, pod: &Pod, plan: &mut Plan) -> bool {
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

    fn status(&self, plan: &mut Plan) {
        let (mut current, mut ready, mut serving, mut updated) = (0, 0, 0, 0);
        for node in &self.wanted {
            let held = self.by_node.get(node).map(Vec::as_slice).unwrap_or_default();
            let Some(pod) = held.iter().find(|pod| pods::active(pod)) else { continue };
            current += 1;
            ready += i32::from(pods::ready(pod));
            serving += i32::from(self.available(pod, plan));
            updated += i32::from(self.is_new(pod));
        }
        let astray = self.by_node.iter().filter(|(node, held)| {
            !self.wanted.contains(*node) && held.iter().any(|pod| pods::active(pod))
        });
        let desired = i32::try_from(self.wanted.len()).unwrap_or(i32::MAX);
        let astray = i32::try_from(astray.count()).unwrap_or(i32::MAX);
        let status = DaemonSetStatus {
            current_number_scheduled: current,
            desired_number_scheduled: desired,
            number_misscheduled: astray,
            number_ready: ready,
            number_available: Some(serving),
            number_unavailable: Some(desired - serving),
            updated_number_scheduled: Some(updated),
            observed_generation: self.set.metadata.generation,
            ..DaemonSetStatus::default()
        };
        let part = |status: &DaemonSetStatus| {
            (
                [
                    status.current_number_scheduled,
                    status.desired_number_scheduled,
                    status.number_misscheduled,
                    status.number_ready,
                    status.number_available.unwrap_or(0),
                    status.number_unavailable.unwrap_or(0),
                    status.updated_number_scheduled.unwrap_or(0),
                ],
                status.observed_generation,
            )
        };
        if self.set.status.as_ref().map(part) == Some(part(&status)) {
            return;
        }
        plan.push(Action::merge(
            Kind::DaemonSet,
            &self.set.metadata,
            Some("status"),
            json!({
                "metadata": {"uid": self.set.uid()},
                "status": {
                    "currentNumberScheduled": current,
                    "desiredNumberScheduled": desired,
                    "numberMisscheduled": astray,
                    "numberReady": ready,
                    "numberAvailable": count(serving),
                    "numberUnavailable": count(desired - serving),
                    "updatedNumberScheduled": count(updated),
                    "observedGeneration": self.set.metadata.generation,
                },
            }),
        ));
    }
}

fn with_tolerations(mut spec: PodSpec) -> PodSpec {
    let mut add: Vec<(&str, &str)> = TOLERATED.to_vec();
    if spec.host_network == Some(true) {
        add.push(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    }
    let held = spec.tolerations.get_or_insert_default();
    for (key, effect) in add {
        let known = held.iter().any(|one| {
            one.key.as_deref() == Some(key)
                && one.effect.as_deref() == Some(effect)
                && one.toleration_seconds.is_none()
        });
        if !known {
            held.push(Toleration {
                key: Some(key.into()),
                operator: Some("Exists".into()),
                effect: Some(effect.into()),
                ..Toleration::default()
            });
        }
    }
    spec
}
