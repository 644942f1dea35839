//! Job: pods that run until enough of them have succeeded.
//!
//! Success is counted over the pods that are there; those of a running Job are not collected.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{EnvVar, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::action::{Action, Delete, Plan, value};
use crate::kinds::{Kind, World};
use crate::pods;
use crate::replicaset::count;
use crate::store::Object;

const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Pause before the pod after the first failure; doubles up to [`PAUSE_S_MAX`].
const PAUSE_S: i64 = 10;
const PAUSE_S_MAX: i64 = 360;
/// Pods made in one round.
const BURST: usize = 500;

/// One step of one Job.
pub(crate) fn plan(world: &World, namespace: &str, name: &str, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(job) = world.jobs.get(namespace, name).filter(|job| !job.deleting()) else {
        return plan;
    };
    let Some(spec) = &job.spec else { return plan };
    let own: Vec<Arc<Pod>> = world.pods.controlled_by(job.uid()).cloned().collect();
    let round = Round { job, spec, own, now };
    if let Some(ended) = ended(job) {
        round.collect(ended, &mut plan);
        return plan;
    }
    let verdict = round.verdict(&mut plan);
    match verdict {
        Some(_) => round.stop(&mut plan),
        None => round.run(&mut plan),
    }
    round.status(verdict, &mut plan);
    plan
}

/// When the Job came to its end.
fn ended(job: &Job) -> Option<Timestamp> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let end = conditions
        .iter()
        .find(|one| matches!(one.type_.as_str(), "Complete" | "Failed") && one.status == "True")?;
    Some(end.last_transition_time.as_ref().map_or(Timestamp::MIN, |time| time.0))
}

/// Kind, reason and message of the condition that ends a Job.
type Verdict = (&'static str, &'static str, &'static str);

struct Round<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    own: Vec<Arc<Pod>>,
    now: Timestamp,
}

impl Round<'_> {
    fn indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn in_phase(&self, phase: &str) -> impl Iterator<Item = &Arc<Pod>> {
        self.own.iter().filter(move |pod| pods::phase(pod) == phase)
    }

    fn active(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.own.iter().filter(|pod| pods::active(pod))
    }

    /// Completions so far: pods, or with an index the distinct indices.
    fn succeeded(&self) -> usize {
        if self.indexed() {
            let indices: BTreeSet<&str> =
                self.in_phase("Succeeded").filter_map(|pod| pod.annotation(INDEX)).collect();
            return indices.len();
        }
        self.in_phase("Succeeded").count()
    }

    fn parallelism(&self) -> usize {
        usize::try_from(self.spec.parallelism.unwrap_or(1)).unwrap_or(0)
    }

    fn verdict(&self, plan: &mut Plan) -> Option<Verdict> {
        let failed = i32::try_from(self.in_phase("Failed").count()).unwrap_or(i32::MAX);
        let restarts = self.own.iter().filter(|pod| pods::active(pod)).map(|pod| restarts(pod));
        let failed = restarts.fold(failed, i32::saturating_add);
        if failed > self.spec.backoff_limit.unwrap_or(6) {
            let message = "Job has reached the specified backoff limit";
            return Some(("Failed", "BackoffLimitExceeded", message));
        }
        if let (Some(seconds), Some(start)) = (self.spec.active_deadline_seconds, self.start()) {
            let end =
                start.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
            if end <= self.now {
                let message = "Job was active longer than specified deadline";
                return Some(("Failed", "DeadlineExceeded", message));
            }
            plan.ask_again(end);
        }
        let done = match self.spec.completions {
            Some(wanted) => self.succeeded() >= usize::try_from(wanted).unwrap_or(0),
            // A work queue: one success and nobody working any more.
            None => self.succeeded() > 0 && self.active().next().is_none(),
        };
        done.then_some((
            "Complete",
            "CompletionsReached",
            "Reached expected number of succeeded pods",
        ))
    }

    fn start(&self) -> Option<Timestamp> {
        Some(self.job.status.as_ref()?.start_time.as_ref()?.0)
    }

    fn stop(&self, plan: &mut Plan) {
        for pod in self.active() {
            plan.push(Action::delete(Kind::Pod, &pod.metadata));
        }
    }

    fn run(&self, plan: &mut Plan) {
        if self.spec.suspend == Some(true) {
            return self.stop(plan);
        }
        let active = self.active().count();
        let going = self.own.iter().filter(|pod| pod.deleting() && !pods::finished(pod)).count();
        let succeeded = self.succeeded();
        let wanted = match self.spec.completions {
            Some(completions) => {
                let left = usize::try_from(completions).unwrap_or(0).saturating_sub(succeeded);
                left.min(self.parallelism())
            }
            None if succeeded > 0 => active,
            None => self.parallelism(),
        };
        if active > wanted {
            let mut surplus: Vec<Arc<Pod>> = self.active().cloned().collect();
            pods::rank_for_deletion(&mut surplus);
            for pod in &surplus[..active - wanted] {
                plan.push(Action::delete(Kind::Pod, &pod.metadata));
            }
            return;
        }
        let missing = wanted.saturating_sub(active + going).min(BURST);
        if missing == 0 {
            return;
        }
        if let Some(at) = self.pause_until() {
            return plan.ask_again(at);
        }
        if self.indexed() {
            let taken: BTreeSet<String> = self
                .own
                .iter()
                .filter(|pod| pods::phase(pod) != "Failed")
                .filter_map(|pod| pod.annotation(INDEX).map(str::to_owned))
                .collect();
            let all = 0..self.spec.completions.unwrap_or(0);
            let free = all.filter(|index| !taken.contains(&index.to_string()));
            for index in free.take(missing) {
                plan.push(self.create(Some(index)));
            }
        } else {
            plan.actions.extend((0..missing).map(|_| self.create(None)));
        }
    }

    /// After a failure the next pod waits, longer each time.
    fn pause_until(&self) -> Option<Timestamp> {
        let failures = self.in_phase("Failed").count();
        let last = self.in_phase("Failed").filter_map(|pod| finished_at(pod)).max()?;
        let shift = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
        let pause = SignedDuration::from_secs((PAUSE_S << shift).min(PAUSE_S_MAX));
        let at = last.saturating_add(pause).unwrap_or(Timestamp::MAX);
        (at > self.now).then_some(at)
    }

    fn create(&self, index: Option<i32>) -> Action {
        let meta = &self.job.metadata;
        let mut pod = pods::from_template(Kind::Job, meta, &self.spec.template, None);
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
            labels.insert(INDEX.into(), index.to_string());
            let annotations = pod.metadata.annotations.get_or_insert_default();
            annotations.insert(INDEX.into(), index.to_string());
            pod.metadata.generate_name = Some(format!("{}-{index}-", self.job.name()));
            let spec = pod.spec.get_or_insert_default();
            spec.hostname = Some(format!("{}-{index}", self.job.name()));
            let variable = EnvVar {
                name: "JOB_COMPLETION_INDEX".into(),
                value: Some(index.to_string()),
                value_from: None,
            };
            for container in
                spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten())
            {
                container.env.get_or_insert_default().push(variable.clone());
            }
        }
        Action::create(Kind::Pod, &pod)
    }

    fn status(&self, verdict: Option<Verdict>, plan: &mut Plan) {
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let held = self.job.status.clone().unwrap_or_default();
        let (active, ready) = match verdict {
            Some(_) => (0, 0),
            None => {
                let ready = self.active().filter(|pod| pods::ready(pod)).count();
                (number(self.active().count()), number(ready))
            }
        };
        let (succeeded, failed) =
            (number(self.succeeded()), number(self.in_phase("Failed").count()));
        let now = Timestamp::from_second(self.now.as_second()).unwrap_or(self.now);
        let suspended = self.spec.suspend == Some(true);
        let same = held.active.unwrap_or(0) == active
            && held.ready.unwrap_or(0) == ready
            && held.succeeded.unwrap_or(0) == succeeded
            && held.failed.unwrap_or(0) == failed
            && (held.start_time.is_some() || suspended)
            && verdict.is_none();
        if same {
            return;
        }
        let start = match (&held.start_time, suspended) {
            (Some(start), _) => value(start),
            (None, true) => Value::Null,
            (None, false) => value(&Time(now)),
        };
        let mut status = json!({
            "active": count(active), "ready": ready, "succeeded": count(succeeded),
            "failed": count(failed), "startTime": start,
        });
        if let Some((kind, reason, message)) = verdict {
            let one = |kind: &str| {
                json!({"type": kind, "status": "True", "reason": reason, "message": message,
                    "lastProbeTime": value(&Time(now)), "lastTransitionTime": value(&Time(now))})
            };
            let first = if kind == "Complete" { "SuccessCriteriaMet" } else { "FailureTarget" };
            status["conditions"] = json!([one(first), one(kind)]);
            if kind == "Complete" {
                status["completionTime"] = value(&Time(now));
            }
        }
        let body = json!({"metadata": {"uid": self.job.uid()}, "status": status});
        plan.push(Action::merge(Kind::Job, &self.job.metadata, Some("status"), body));
    }

    /// A finished Job goes when its time is over.
    fn collect(&self, ended: Timestamp, plan: &mut Plan) {
        let Some(seconds) = self.spec.ttl_seconds_after_finished else { return };
        let at = ended.saturating_add(SignedDuration::from_secs(seconds.into()));
        match at.unwrap_or(Timestamp::MAX) {
            at if at <= self.now => {
                let delete = Delete { propagation: Some("Background"), ..Delete::default() };
                plan.push(Action::delete_with(Kind::Job, &self.job.metadata, delete));
            }
            at => plan.ask_again(at),
        }
    }
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|one| one.restart_count).fold(0, i32::saturating_add)
}

fn finished_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses
        .into_iter()
        .flatten()
        .filter_map(|one| one.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref())
        .map(|time| time.0)
        .max()
        .or_else(|| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
}
