//! Job: pods that run until enough of them have succeeded.
//!
//! Every pod bears a finalizer, so none goes before it is counted. It is counted in three steps,
//! so that a crash between any two counts nothing twice: its uid into the status
//! (`uncountedTerminatedPods`), its finalizer off, its uid out of the status and into the
//! number. An index that has succeeded or failed needs no uid, for it is a set.

mod indexes;
mod policy;
mod track;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use serde_json::json;

use self::indexes::Indexes;
use self::policy::Failure;
use crate::action::{Action, Delete, Plan};
use crate::kinds::{Kind, Meta, World};
use crate::pods;
use crate::store::Object;

/// Finalizer of a pod that its Job has yet to count.
pub(crate) const TRACKING: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const CONTROLLER: &str = "kubernetes.io/job-controller";
/// Pause before the pod after the first failure; doubles up to [`PAUSE_S_MAX`].
const PAUSE_S: i64 = 10;
const PAUSE_S_MAX: i64 = 600;
/// Pods made, deleted or taken into the status in one round.
const BURST: usize = 500;

/// One step of one Job.
pub(crate) fn plan(world: &World, namespace: &str, name: &str, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(job) = world.jobs.get(namespace, name) else { return plan };
    let Some(spec) = &job.spec else { return plan };
    if spec.managed_by.as_deref().is_some_and(|by| by != CONTROLLER) {
        return plan;
    }
    let own: Vec<Arc<Pod>> = world.pods.controlled_by(job.uid()).cloned().collect();
    let round = Round::new(job, spec, own, now);
    let ended = ended(job);
    if job.deleting() || ended.is_some() {
        plan.actions = round.own.iter().filter_map(|pod| release(pod)).collect();
    }
    match ended {
        _ if job.deleting() => {}
        Some(ended) => round.collect(ended, &mut plan),
        None => round.step(&mut plan),
    }
    plan
}

/// Lets go a pod that no Job will count any more.
pub(crate) fn abandoned(world: &World, pod: &Pod) -> Option<Action> {
    let job = pod.controller().filter(|owner| owner.kind == "Job");
    let held = job.and_then(|owner| world.jobs.get(pod.namespace(), &owner.name));
    let alive = held.is_some_and(|held| job.is_some_and(|owner| owner.uid == held.uid()));
    if alive { None } else { release(pod) }
}

/// Takes the finalizer off.
fn release(pod: &Pod) -> Option<Action> {
    if !tracked(pod) {
        return None;
    }
    let all = pod.metadata.finalizers.iter().flatten();
    let kept: Vec<&String> = all.filter(|one| *one != TRACKING).collect();
    let body = json!({"metadata": {
        "resourceVersion": pod.metadata.resource_version, "finalizers": kept}});
    Some(Action::merge(Kind::Pod, &pod.metadata, None, body))
}

fn tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|one| one == TRACKING)
}

/// When the Job came to its end.
fn ended(job: &Job) -> Option<Timestamp> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let end = conditions
        .iter()
        .find(|one| matches!(one.type_.as_str(), "Complete" | "Failed") && one.status == "True")?;
    Some(end.last_transition_time.as_ref().map_or(Timestamp::MIN, |time| time.0))
}

/// How a Job ends, with reason and message.
#[derive(Clone, Debug, PartialEq)]
struct Verdict {
    success: bool,
    reason: String,
    message: String,
}

impl Verdict {
    fn failure(reason: &str, message: &str) -> Self {
        Self { success: false, reason: reason.into(), message: message.into() }
    }

    fn success(reason: &str, message: &str) -> Self {
        Self { success: true, reason: reason.into(), message: message.into() }
    }

    /// The condition that says so while pods still end.
    fn interim(&self) -> &'static str {
        if self.success { "SuccessCriteriaMet" } else { "FailureTarget" }
    }

    fn last(&self) -> &'static str {
        if self.success { "Complete" } else { "Failed" }
    }
}

struct Round<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    own: Vec<Arc<Pod>>,
    held: JobStatus,
    /// The status as it shall be.
    succeeded_indexes: Indexes,
    failed_indexes: Indexes,
    now: Timestamp,
}

impl<'a> Round<'a> {
    fn new(job: &'a Job, spec: &'a JobSpec, own: Vec<Arc<Pod>>, now: Timestamp) -> Self {
        let held = job.status.clone().unwrap_or_default();
        let mut round = Self {
            job,
            spec,
            own,
            held,
            succeeded_indexes: Indexes::default(),
            failed_indexes: Indexes::default(),
            now,
        };
        if round.indexed() {
            round.succeeded_indexes = round.stored(round.held.completed_indexes.as_deref());
            for pod in round.own.iter().filter(|pod| tracked(pod)) {
                if pods::phase(pod) == "Succeeded"
                    && let Some(index) = round.index(pod)
                {
                    round.succeeded_indexes.insert(index);
                }
            }
            if let Some(limit) = round.spec.backoff_limit_per_index {
                round.failed_indexes = round.stored(round.held.failed_indexes.as_deref());
                let over = |pod: &Arc<Pod>| match round.judge(pod) {
                    Failure::FailIndex => true,
                    Failure::Ignore => false,
                    _ => annotated(pod, FAILURES) >= limit,
                };
                let ended = round.own.iter().filter(|pod| tracked(pod) && round.failed(pod));
                let failed: Vec<i32> =
                    ended.filter(|pod| over(pod)).filter_map(|pod| round.index(pod)).collect();
                failed.into_iter().for_each(|index| round.failed_indexes.insert(index));
            }
        }
        round
    }

    fn stored(&self, text: Option<&str>) -> Indexes {
        Indexes::parse(text.unwrap_or_default(), self.spec.completions.unwrap_or(0))
    }

    fn indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    /// The index of a pod, if it is one of this Job's.
    fn index(&self, pod: &Pod) -> Option<i32> {
        let index: i32 = pod.annotation(INDEX)?.parse().ok()?;
        (0..self.spec.completions.unwrap_or(0)).contains(&index).then_some(index)
    }

    fn suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    /// Whether a pod is replaced only once it has ended.
    fn replaces_ended(&self) -> bool {
        self.spec.pod_replacement_policy.as_deref() == Some("Failed")
    }

    /// A pod that ends counts as failed at once, unless only ended ones are replaced.
    fn failed(&self, pod: &Pod) -> bool {
        let phase = pods::phase(pod);
        phase == "Failed" || (!self.replaces_ended() && pod.deleting() && phase != "Succeeded")
    }

    fn judge(&self, pod: &Pod) -> Failure {
        policy::failure(self.spec.pod_failure_policy.as_ref(), pod)
    }

    /// Pods at work. One without the finalizer was given up.
    fn active(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.own.iter().filter(|pod| pods::active(pod) && tracked(pod))
    }

    fn terminating(&self) -> usize {
        self.own.iter().filter(|pod| pod.deleting() && !pods::finished(pod)).count()
    }

    fn uncounted(&self, failed: bool) -> BTreeSet<&str> {
        let lists = self.held.uncounted_terminated_pods.as_ref();
        let list =
            lists.and_then(|of| if failed { of.failed.as_ref() } else { of.succeeded.as_ref() });
        list.into_iter().flatten().map(String::as_str).collect()
    }

    /// Successes so far, counted or not.
    fn succeeded(&self) -> i64 {
        if self.indexed() {
            return self.succeeded_indexes.total();
        }
        let known = self.uncounted(false);
        let new = self.own.iter().filter(|pod| {
            tracked(pod) && pods::phase(pod) == "Succeeded" && !known.contains(pod.uid())
        });
        i64::from(self.held.succeeded.unwrap_or(0)) + sum(known.len()) + sum(new.count())
    }

    /// Failures so far that count.
    fn failures(&self) -> i64 {
        let known = self.uncounted(true);
        let new = self.own.iter().filter(|pod| {
            tracked(pod)
                && self.failed(pod)
                && !known.contains(pod.uid())
                && self.judge(pod) != Failure::Ignore
        });
        i64::from(self.held.failed.unwrap_or(0)) + sum(known.len()) + sum(new.count())
    }

    fn condition(&self, kind: &str) -> Option<&JobCondition> {
        let all = self.held.conditions.iter().flatten();
        all.into_iter().find(|one| one.type_ == kind && one.status == "True")
    }

    fn step(&self, plan: &mut Plan) {
        let verdict = self.verdict(plan);
        // Given up: nobody counts it.
        for pod in self.own.iter().filter(|pod| pods::active(pod) && !tracked(pod)) {
            plan.push(Action::delete(Kind::Pod, &pod.metadata));
        }
        match &verdict {
            Some(_) => {
                let active = self.active().take(BURST);
                plan.actions.extend(active.map(|pod| Action::delete(Kind::Pod, &pod.metadata)));
            }
            None => self.manage(plan),
        }
        self.track(verdict.as_ref(), plan);
    }

    /// Whether and how the Job ends. What was said once stays.
    fn verdict(&self, plan: &mut Plan) -> Option<Verdict> {
        let said = |condition: &JobCondition, success| Verdict {
            success,
            reason: condition.reason.clone().unwrap_or_default(),
            message: condition.message.clone().unwrap_or_default(),
        };
        if let Some(met) = self.condition("SuccessCriteriaMet") {
            return Some(said(met, true));
        }
        if let Some(target) = self.condition("FailureTarget") {
            return Some(said(target, false));
        }
        for pod in self.own.iter().filter(|pod| self.failed(pod)) {
            if let Failure::FailJob(message) = self.judge(pod) {
                return Some(Verdict::failure("PodFailurePolicy", &message));
            }
        }
        self.limits(plan).or_else(|| self.indexes()).or_else(|| {
            let done = match self.spec.completions {
                Some(wanted) => self.succeeded() >= i64::from(wanted),
                // A work queue: one success and nobody working any more.
                None => self.succeeded() > 0,
            };
            (done && self.active().next().is_none()).then(|| {
                Verdict::success("CompletionsReached", "Reached expected number of succeeded pods")
            })
        })
    }

    fn limits(&self, plan: &mut Plan) -> Option<Verdict> {
        // With a limit for each index there is none for all, unless it is stated.
        let default = if self.spec.backoff_limit_per_index.is_some() { i32::MAX } else { 6 };
        let limit = self.spec.backoff_limit.unwrap_or(default);
        if self.failures() > i64::from(limit) || self.restarts_exceed(limit) {
            let message = "Job has reached the specified backoff limit";
            return Some(Verdict::failure("BackoffLimitExceeded", message));
        }
        let start = self.held.start_time.as_ref().map(|time| time.0);
        if let (Some(seconds), Some(start), false) =
            (self.spec.active_deadline_seconds, start, self.suspended())
        {
            let end =
                start.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
            if end <= self.now {
                let message = "Job was active longer than specified deadline";
                return Some(Verdict::failure("DeadlineExceeded", message));
            }
            plan.ask_again(end);
        }
        None
    }

    /// Containers that are started again in their pod count, too.
    fn restarts_exceed(&self, limit: i32) -> bool {
        let template = self.spec.template.spec.as_ref();
        if template.and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let running = self.own.iter().filter(|pod| !pods::finished(pod));
        let restarts = running.map(|pod| restarts(pod)).fold(0, i32::saturating_add);
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    fn indexes(&self) -> Option<Verdict> {
        if !self.indexed() {
            return None;
        }
        let completions = self.spec.completions.unwrap_or(0);
        let failed = self.failed_indexes.total();
        if self.spec.max_failed_indexes.is_some_and(|most| failed > i64::from(most)) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(Verdict::failure("MaxFailedIndexesExceeded", message));
        }
        if failed > 0 && failed + self.succeeded_indexes.total() >= i64::from(completions) {
            return Some(Verdict::failure("FailedIndexes", "Job has failed indexes"));
        }
        let rules = self.spec.success_policy.as_ref();
        let message = policy::success(rules, completions, &self.succeeded_indexes)?;
        Some(Verdict::success("SuccessPolicy", &message))
    }

    /// Makes pods that are missing, gives up those that are too many.
    fn manage(&self, plan: &mut Plan) {
        let active = self.active().count();
        let wanted = match self.spec.completions {
            _ if self.suspended() => 0,
            None if self.succeeded() > 0 => active,
            None => self.parallelism(),
            Some(completions) => {
                let left = (i64::from(completions) - self.succeeded()).max(0);
                usize::try_from(left).unwrap_or(usize::MAX).min(self.parallelism())
            }
        };
        let surplus = self.surplus(active.saturating_sub(wanted));
        if !surplus.is_empty() {
            plan.actions.extend(surplus.iter().take(BURST).filter_map(|pod| release(pod)));
            return;
        }
        let ending = if self.replaces_ended() { self.terminating() } else { 0 };
        let missing = wanted.saturating_sub(active + ending).min(BURST);
        if missing == 0 {
            return;
        }
        let per_index = self.spec.backoff_limit_per_index.is_some();
        if !per_index && let Some(at) = self.pause_until() {
            return plan.ask_again(at);
        }
        if !self.indexed() {
            plan.actions.extend((0..missing).map(|_| self.create(None, None)));
            return;
        }
        let waiting = self.delayed();
        let mut taken = self.succeeded_indexes.clone();
        let busy = self.own.iter().filter(|pod| {
            pods::active(pod) || (self.replaces_ended() && pod.deleting() && !pods::finished(pod))
        });
        busy.filter_map(|pod| self.index(pod)).for_each(|index| taken.insert(index));
        let completions = self.spec.completions.unwrap_or(0);
        let failed = &self.failed_indexes;
        let free = taken.missing(completions).filter(|index| !failed.contains(*index));
        for index in free.take(missing) {
            let before = waiting.get(&index).copied();
            match before.filter(|_| per_index).and_then(|pod| self.pause_of(pod)) {
                Some(at) => plan.ask_again(at),
                None => plan.push(self.create(Some(index), before)),
            }
        }
    }

    fn parallelism(&self) -> usize {
        usize::try_from(self.spec.parallelism.unwrap_or(1)).unwrap_or(0)
    }

    /// Pods to give up: of one index all but one, of no index all, and as many as are too many.
    fn surplus(&self, least: usize) -> Vec<Arc<Pod>> {
        let mut left: Vec<Arc<Pod>> = self.active().cloned().collect();
        pods::rank_for_deletion(&mut left);
        let mut surplus = Vec::new();
        if self.indexed() {
            let mut seen = BTreeSet::new();
            // The last to go stays.
            let mut kept = Vec::new();
            for pod in left.into_iter().rev() {
                match self.index(&pod).filter(|index| seen.insert(*index)) {
                    Some(_) => kept.push(pod),
                    None => surplus.push(pod),
                }
            }
            left = kept.into_iter().rev().collect();
        }
        let more = least.saturating_sub(surplus.len());
        surplus.extend(left.into_iter().take(more));
        surplus
    }

    /// The last failed pod of each index that waits for another: it keeps its finalizer until
    /// the next one bears the number of failures.
    fn delayed(&self) -> BTreeMap<i32, &Arc<Pod>> {
        let mut all: BTreeMap<i32, &Arc<Pod>> = BTreeMap::new();
        if self.spec.backoff_limit_per_index.is_none() {
            return all;
        }
        let busy: BTreeSet<i32> = self.active().filter_map(|pod| self.index(pod)).collect();
        for pod in self.own.iter().filter(|pod| tracked(pod) && self.failed(pod)) {
            let Some(index) = self.index(pod) else { continue };
            if busy.contains(&index)
                || self.succeeded_indexes.contains(index)
                || self.failed_indexes.contains(index)
            {
                continue;
            }
            let order =
                |pod: &Pod| (annotated(pod, FAILURES) + annotated(pod, IGNORED), finished_at(pod));
            let last = all.entry(index).or_insert(pod);
            if order(last) <= order(pod) {
                *last = pod;
            }
        }
        all
    }

    /// After a failure the next pod waits, longer each time, until one succeeds.
    fn pause_until(&self) -> Option<Timestamp> {
        let success = self.own.iter().filter(|pod| pods::phase(pod) == "Succeeded");
        let success = success.filter_map(|pod| finished_at(pod)).max();
        let failed = self.own.iter().filter(|pod| self.failed(pod));
        let times: Vec<Timestamp> =
            failed.filter_map(|pod| finished_at(pod)).filter(|at| Some(*at) > success).collect();
        let last = *times.iter().max()?;
        self.pause(last, times.len())
    }

    /// The same for one index of its own.
    fn pause_of(&self, pod: &Pod) -> Option<Timestamp> {
        let failures = annotated(pod, FAILURES).saturating_add(annotated(pod, IGNORED));
        self.pause(finished_at(pod)?, usize::try_from(failures).unwrap_or(0) + 1)
    }

    fn pause(&self, last: Timestamp, failures: usize) -> Option<Timestamp> {
        let shift = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
        let pause = SignedDuration::from_secs((PAUSE_S << shift).min(PAUSE_S_MAX));
        let at = last.saturating_add(pause).unwrap_or(Timestamp::MAX);
        (at > self.now).then_some(at)
    }

    fn create(&self, index: Option<i32>, before: Option<&Arc<Pod>>) -> Action {
        let meta = &self.job.metadata;
        let mut pod = pods::from_template(Kind::Job, meta, &self.spec.template, None);
        let finalizers = pod.metadata.finalizers.get_or_insert_default();
        if !finalizers.iter().any(|one| one == TRACKING) {
            finalizers.push(TRACKING.into());
        }
        let labels = pod.metadata.labels.get_or_insert_default();
        for (key, value) in [
            ("batch.kubernetes.io/job-name", self.job.name()),
            ("job-name", self.job.name()),
            ("batch.kubernetes.io/controller-uid", self.job.uid()),
            ("controller-uid", self.job.uid()),
        ] {
            labels.entry(key.into()).or_insert_with(|| value.into());
        }
        if let Some(index) = index {
            self.give_index(&mut pod, index, before);
        }
        Action::create(Kind::Pod, &pod)
    }

    fn give_index(&self, pod: &mut Pod, index: i32, before: Option<&Arc<Pod>>) {
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(INDEX.into(), index.to_string());
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(INDEX.into(), index.to_string());
        if self.spec.backoff_limit_per_index.is_some() {
            let (mut failures, mut ignored) =
                before.map_or((0, 0), |pod| (annotated(pod, FAILURES), annotated(pod, IGNORED)));
            match before.map(|pod| self.judge(pod)) {
                Some(Failure::Ignore) => ignored = ignored.saturating_add(1),
                Some(_) => failures = failures.saturating_add(1),
                None => {}
            }
            annotations.insert(FAILURES.into(), failures.to_string());
            if ignored > 0 {
                annotations.insert(IGNORED.into(), ignored.to_string());
            }
        }
        pod.metadata.generate_name = Some(format!("{}-{index}-", self.job.name()));
        let spec = pod.spec.get_or_insert_default();
        spec.hostname = Some(format!("{}-{index}", self.job.name()));
        let field = ObjectFieldSelector {
            field_path: format!("metadata.labels['{INDEX}']"),
            ..ObjectFieldSelector::default()
        };
        let variable = EnvVar {
            name: "JOB_COMPLETION_INDEX".into(),
            value: None,
            value_from: Some(EnvVarSource { field_ref: Some(field), ..Default::default() }),
        };
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten())
        {
            let variables = container.env.get_or_insert_default();
            if !variables.iter().any(|one| one.name == variable.name) {
                variables.push(variable.clone());
            }
        }
    }

    /// A finished Job goes when its time is over.
    fn collect(&self, ended: Timestamp, plan: &mut Plan) {
        let Some(seconds) = self.spec.ttl_seconds_after_finished else { return };
        let at = ended.saturating_add(SignedDuration::from_secs(seconds.into()));
        match at.unwrap_or(Timestamp::MAX) {
            at if at <= self.now => {
                let delete = Delete { propagation: Some("Foreground"), ..Delete::default() };
                plan.push(Action::delete_with(Kind::Job, &self.job.metadata, delete));
            }
            at => plan.ask_again(at),
        }
    }
}

fn sum(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A number that a pod of an index bears.
fn annotated(pod: &Pod, key: &str) -> i32 {
    pod.annotation(key).and_then(|text| text.parse().ok()).unwrap_or(0).max(0)
}

fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let main = status.and_then(|status| status.container_statuses.as_ref());
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    let all = main.into_iter().chain(init).flatten();
    all.map(|one| one.restart_count).fold(0, i32::saturating_add)
}

fn finished_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let time = |meta: &Meta| {
        let time = meta.deletion_timestamp.as_ref().or(meta.creation_timestamp.as_ref());
        time.map(|time| time.0)
    };
    statuses
        .into_iter()
        .flatten()
        .filter_map(|one| one.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref())
        .map(|time| time.0)
        .max()
        .or_else(|| time(&pod.metadata))
}

#[cfg(test)]
mod tests;
