//! How ended pods get into a Job's numbers, and what its status says.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{JobCondition, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::policy::Failure;
use super::{BURST, Round, Verdict, release, tracked};
use crate::action::{About, Action, Plan, Severity, value};
use crate::kinds::Kind;
use crate::pods;
use crate::replicaset::count;
use crate::store::Object;

impl Round<'_> {
    /// Counts pods and writes the status.
    pub(super) fn track(&self, verdict: Option<&Verdict>, plan: &mut Plan) {
        let mut next = self.held.clone();
        let lists = next.uncounted_terminated_pods.get_or_insert_default();
        let mut failed = lists.failed.take().unwrap_or_default();
        let mut succeeded = lists.succeeded.take().unwrap_or_default();
        // Whose finalizer is off is counted.
        let marked: BTreeSet<&str> =
            self.own.iter().filter(|pod| tracked(pod)).map(|pod| pod.uid()).collect();
        let take = |list: &mut Vec<String>, number: &mut Option<i32>| {
            let before = list.len();
            list.retain(|uid| marked.contains(uid.as_str()));
            let done = i32::try_from(before - list.len()).unwrap_or(i32::MAX);
            *number = Some(number.unwrap_or(0).saturating_add(done));
        };
        take(&mut failed, &mut next.failed);
        take(&mut succeeded, &mut next.succeeded);
        self.mark(verdict, &mut succeeded, &mut failed, plan);
        if self.indexed() {
            let total = i32::try_from(self.succeeded_indexes.total()).unwrap_or(i32::MAX);
            next.succeeded = Some(total);
            let text = self.succeeded_indexes.to_string();
            next.completed_indexes = (!text.is_empty()).then_some(text);
            let per_index = self.spec.backoff_limit_per_index.is_some();
            next.failed_indexes = per_index.then(|| self.failed_indexes.to_string());
        }
        let open = failed.len() + succeeded.len();
        if let Some(lists) = &mut next.uncounted_terminated_pods {
            lists.failed = (!failed.is_empty()).then_some(failed);
            lists.succeeded = (!succeeded.is_empty()).then_some(succeeded);
        }
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        next.active = Some(number(self.active().count()));
        next.ready = Some(number(self.active().filter(|pod| pods::ready(pod)).count()));
        next.terminating = Some(number(self.terminating()));
        self.conditions(verdict, open, &mut next, plan);
        self.write(&next, plan);
    }

    /// Takes uids of ended pods into the lists, and finalizers off those whose end is stored.
    fn mark(
        &self,
        verdict: Option<&Verdict>,
        succeeded: &mut Vec<String>,
        failed: &mut Vec<String>,
        plan: &mut Plan,
    ) {
        let (known_success, known_failure) = (self.uncounted(false), self.uncounted(true));
        let stored = self.stored(self.held.completed_indexes.as_deref());
        let delayed = self.delayed();
        // A verdict is written before the pods that it follows from may go.
        let said = verdict.is_none_or(|verdict| self.condition(verdict.interim()).is_some());
        for pod in self.own.iter().filter(|pod| tracked(pod)) {
            // A list that is full takes in nobody, but who is in it is let go.
            let full = succeeded.len() + failed.len() >= BURST;
            let is_failed = self.failed(pod);
            let waits = self
                .index(pod)
                .and_then(|index| delayed.get(&index))
                .is_some_and(|one| Arc::ptr_eq(one, pod));
            let over = pods::phase(pod) == "Succeeded" || (is_failed && !waits);
            if verdict.is_none() && !over {
                continue;
            }
            let uid = pod.uid();
            let counted = if pods::phase(pod) == "Succeeded" && !known_failure.contains(uid) {
                match (self.indexed(), self.index(pod)) {
                    (true, Some(index)) => stored.contains(index),
                    (true, None) => true,
                    (false, _) => {
                        let known = known_success.contains(uid);
                        if !known && !full {
                            succeeded.push(uid.to_owned());
                        }
                        known
                    }
                }
            } else if match verdict {
                None => is_failed,
                // When a Job fails, what still runs fails with it; when it succeeds, it does not.
                Some(verdict) => !verdict.success || pods::phase(pod) == "Failed",
            } {
                let counts = (!self.indexed() || self.index(pod).is_some())
                    && self.judge(pod) != Failure::Ignore;
                let known = known_failure.contains(uid);
                if counts && !known && !full {
                    failed.push(uid.to_owned());
                }
                !counts || known
            } else {
                true
            };
            if counted && said {
                plan.actions.extend(release(pod));
            }
        }
    }

    fn conditions(
        &self,
        verdict: Option<&Verdict>,
        open: usize,
        next: &mut JobStatus,
        plan: &mut Plan,
    ) {
        let now = Time(Timestamp::from_second(self.now.as_second()).unwrap_or(self.now));
        let mut all = next.conditions.take().unwrap_or_default();
        let about = About {
            kind: Kind::Job,
            meta: &self.job.metadata,
            component: "job-controller",
            now: self.now,
        };
        let condition = |kind: &str, status: &str, reason: &str, message: &str| JobCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_probe_time: Some(now.clone()),
            last_transition_time: Some(now.clone()),
        };
        if next.start_time.is_none() && !self.suspended() {
            next.start_time = Some(now.clone());
        }
        match verdict {
            Some(verdict) => {
                let (reason, message) = (&verdict.reason, &verdict.message);
                let quiet = open == 0 && self.terminating() == 0 && self.active().next().is_none();
                if self.condition(verdict.interim()).is_none() {
                    all.push(condition(verdict.interim(), "True", reason, message));
                } else if quiet {
                    all.push(condition(verdict.last(), "True", reason, message));
                    if verdict.success {
                        next.completion_time = Some(now.clone());
                        plan.push(Action::event(
                            &about,
                            Severity::Normal,
                            "Completed",
                            "Job completed",
                        ));
                    } else {
                        plan.push(Action::event(&about, Severity::Warning, reason, message));
                    }
                }
            }
            None => {
                let held = all.iter_mut().find(|one| one.type_ == "Suspended");
                let wanted = if self.suspended() { "True" } else { "False" };
                let changes = match &held {
                    Some(held) => held.status != wanted,
                    None => self.suspended(),
                };
                if changes {
                    let (reason, event, message) = match self.suspended() {
                        true => ("JobSuspended", "Suspended", "Job suspended"),
                        false => ("JobResumed", "Resumed", "Job resumed"),
                    };
                    let new = condition("Suspended", wanted, reason, message);
                    match held {
                        Some(held) => *held = new,
                        None => all.push(new),
                    }
                    plan.push(Action::event(&about, Severity::Normal, event, message));
                    if !self.suspended() {
                        // The time it lay still does not count towards its deadline.
                        next.start_time = Some(now);
                    }
                }
            }
        }
        next.conditions = (!all.is_empty()).then_some(all);
    }

    fn write(&self, next: &JobStatus, plan: &mut Plan) {
        let held = &self.held;
        let number = |value: Option<i32>| value.unwrap_or(0);
        let same = self.job.status.is_some()
            && number(held.active) == number(next.active)
            && number(held.succeeded) == number(next.succeeded)
            && number(held.failed) == number(next.failed)
            && held.ready == next.ready
            && held.terminating == next.terminating
            && held.start_time == next.start_time
            && held.completed_indexes == next.completed_indexes
            && held.failed_indexes == next.failed_indexes
            && held.uncounted_terminated_pods == next.uncounted_terminated_pods
            && held.conditions == next.conditions;
        if same {
            return;
        }
        let lists = next.uncounted_terminated_pods.clone().unwrap_or_default();
        let or_null = |value: &Option<String>| value.clone().map_or(Value::Null, Value::from);
        let status = json!({
            "active": count(number(next.active)),
            "ready": next.ready,
            "terminating": next.terminating,
            "succeeded": count(number(next.succeeded)),
            "failed": count(number(next.failed)),
            "startTime": value(&next.start_time),
            "completionTime": value(&next.completion_time),
            "completedIndexes": or_null(&next.completed_indexes),
            "failedIndexes": or_null(&next.failed_indexes),
            "uncountedTerminatedPods": {"succeeded": lists.succeeded, "failed": lists.failed},
            "conditions": value(&next.conditions),
        });
        // On top of what was seen: what is counted must not be counted by an older plan.
        let version = &self.job.metadata.resource_version;
        let body = json!({"metadata": {"resourceVersion": version}, "status": status});
        plan.push(Action::merge(Kind::Job, &self.job.metadata, Some("status"), body));
    }
}
