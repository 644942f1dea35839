//! CronJob: a Job at each of its times.
//!
//! A Job's name follows from its time, so none is made twice: the status may be lost.

mod schedule;

use std::sync::Arc;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use self::schedule::Schedule;
use crate::action::{About, Action, Delete, Plan, Severity, value};
use crate::kinds::{Kind, Meta, World};
use crate::pods;
use crate::store::Object;

/// What its own Jobs have, and those that people make of its template have not.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Missed times that are looked at one by one.
const MISSED_MAX: usize = 100;

/// One step of one CronJob.
pub(crate) fn plan(world: &World, namespace: &str, name: &str, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(cron) = world.cron_jobs.get(namespace, name).filter(|one| !one.deleting()) else {
        return plan;
    };
    let Some(spec) = &cron.spec else { return plan };
    let mut jobs: Vec<&Arc<Job>> = world.jobs.controlled_by(cron.uid()).collect();
    jobs.sort_by_key(|job| (started(job), job.name().to_owned()));
    let about =
        About { kind: Kind::CronJob, meta: &cron.metadata, component: "cronjob-controller", now };
    let round = Round { cron, spec, jobs, about, now };
    round.clean(&mut plan);
    let mut status = cron.status.clone().unwrap_or_default();
    round.observe(&mut status, &mut plan);
    if spec.suspend != Some(true) {
        round.start(world, &mut status, &mut plan);
    }
    round.write(&status, &mut plan);
    plan
}

fn started(job: &Job) -> Option<Timestamp> {
    job.status.as_ref()?.start_time.as_ref().map(|time| time.0)
}

/// How a Job ended.
fn ended(job: &Job) -> Option<&str> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let end = conditions
        .iter()
        .find(|one| matches!(one.type_.as_str(), "Complete" | "Failed") && one.status == "True")?;
    Some(&end.type_)
}

/// Whether this controller made it.
fn is_own(job: &Job) -> bool {
    job.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(SCHEDULED))
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".into()),
        kind: Some("Job".into()),
        namespace: job.metadata.namespace.clone(),
        name: job.metadata.name.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        ..ObjectReference::default()
    }
}

struct Round<'a> {
    cron: &'a CronJob,
    spec: &'a CronJobSpec,
    /// Its Jobs, the first started first.
    jobs: Vec<&'a Arc<Job>>,
    about: About<'a>,
    now: Timestamp,
}

impl Round<'_> {
    fn say(&self, severity: Severity, reason: &str, message: &str, plan: &mut Plan) {
        plan.push(Action::event(&self.about, severity, reason, message));
    }

    fn delete(&self, job: &Job, plan: &mut Plan) {
        let background = Delete { propagation: Some("Background"), ..Delete::default() };
        plan.push(Action::delete_with(Kind::Job, &job.metadata, background));
    }

    /// Deletes finished Jobs beyond the limits.
    fn clean(&self, plan: &mut Plan) {
        for (kind, limit) in [
            ("Complete", self.spec.successful_jobs_history_limit.unwrap_or(3)),
            ("Failed", self.spec.failed_jobs_history_limit.unwrap_or(1)),
        ] {
            let of = |job: &&&Arc<Job>| ended(job) == Some(kind) && !job.deleting();
            let all: Vec<_> = self.jobs.iter().filter(of).collect();
            let surplus = all.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
            all[..surplus].iter().for_each(|job| self.delete(job, plan));
        }
    }

    /// Which of its Jobs run, and when the last one succeeded.
    fn observe(&self, status: &mut CronJobStatus, plan: &mut Plan) {
        let before = status.active.take().unwrap_or_default();
        let was = |job: &Job| before.iter().any(|one| one.uid.as_deref() == Some(job.uid()));
        let mut active = Vec::new();
        for job in &self.jobs {
            match ended(job) {
                None => {
                    let held = before.iter().find(|one| one.uid.as_deref() == Some(job.uid()));
                    // One that somebody else made of the template (`kubectl create job --from`)
                    // counts as history when it has ended, but not as running.
                    if held.is_some() || is_own(job) {
                        active.push(held.cloned().unwrap_or_else(|| reference(job)));
                    } else if started(job).is_none() {
                        let message = format!(
                            "Saw a job that the controller did not create or forgot: {}",
                            job.name()
                        );
                        self.say(Severity::Warning, "UnexpectedJob", &message, plan);
                    }
                }
                Some(how) => {
                    if was(job) {
                        let message =
                            format!("Saw completed job: {}, condition: {how}", job.name());
                        self.say(Severity::Normal, "SawCompletedJob", &message, plan);
                    }
                    let done = job.status.as_ref().and_then(|one| one.completion_time.clone());
                    let last = status.last_successful_time.as_ref().map(|time| time.0);
                    if how == "Complete" && done.as_ref().map(|time| time.0) > last {
                        status.last_successful_time = done;
                    }
                }
            }
        }
        for gone in &before {
            let there = |job: &&Arc<Job>| gone.uid.as_deref() == Some(job.uid());
            if !self.jobs.iter().any(there) {
                let name = gone.name.as_deref().unwrap_or_default();
                let message = format!("Active job went missing: {name}");
                self.say(Severity::Normal, "MissingJob", &message, plan);
            }
        }
        status.active = (!active.is_empty()).then_some(active);
    }

    /// Makes the Job whose time has come.
    fn start(&self, world: &World, status: &mut CronJobStatus, plan: &mut Plan) {
        let zone = match &self.spec.time_zone {
            None => TimeZone::UTC,
            Some(name) => match TimeZone::get(name) {
                Ok(zone) => zone,
                Err(_) => return,
            },
        };
        let Some(schedule) = Schedule::parse(&self.spec.schedule) else { return };
        if let Some(next) = schedule.next(self.now, &zone) {
            plan.ask_again(next);
        }
        let deadline = self.spec.starting_deadline_seconds.map(SignedDuration::from_secs);
        let mut earliest = status
            .last_schedule_time
            .as_ref()
            .or(self.cron.metadata.creation_timestamp.as_ref())
            .map_or(self.now, |time| time.0);
        if let Some(deadline) = deadline {
            earliest = earliest.max(self.now.saturating_sub(deadline).unwrap_or(Timestamp::MIN));
        }
        let Some(time) = self.due(&schedule, &zone, earliest) else { return };
        let name = format!("{}-{}", self.cron.name(), time.as_second().div_euclid(60));
        if let Some(made) = self.jobs.iter().find(|job| job.name() == name) {
            status.last_schedule_time = Some(Time(time));
            if ended(made).is_none() {
                let active = status.active.get_or_insert_default();
                if !active.iter().any(|one| one.uid.as_deref() == Some(made.uid())) {
                    active.push(reference(made));
                }
            }
            return;
        }
        let active = status.active.as_deref().unwrap_or_default();
        let runs = |job: &&&Arc<Job>| active.iter().any(|a| a.uid.as_deref() == Some(job.uid()));
        let running: Vec<_> = self.jobs.iter().filter(runs).collect();
        match self.spec.concurrency_policy.as_deref() {
            // The last of its runs ends it, and then this one starts, if it is not too late.
            Some("Forbid") if !running.is_empty() => return,
            Some("Replace") if !running.is_empty() => {
                for job in running.into_iter().filter(|job| !job.deleting()) {
                    self.delete(job, plan);
                }
                return;
            }
            _ => {}
        }
        if world.jobs.get(self.cron.namespace(), &name).is_some() {
            // Somebody else's: this time is passed over.
            status.last_schedule_time = Some(Time(time));
            return;
        }
        plan.push(self.create(&name, time, &zone));
    }

    /// The last time of the schedule that has come since.
    fn due(&self, schedule: &Schedule, zone: &TimeZone, earliest: Timestamp) -> Option<Timestamp> {
        let mut from = earliest;
        let mut last = None;
        loop {
            for _ in 0..MISSED_MAX {
                match schedule.next(from, zone).filter(|next| *next <= self.now) {
                    None => return last,
                    Some(next) => {
                        last = Some(next);
                        from = next;
                    }
                }
            }
            // Many were missed: go half the way at once.
            let half = self.now.duration_since(from) / 2;
            from = from.saturating_add(half).unwrap_or(Timestamp::MAX);
        }
    }

    fn create(&self, name: &str, time: Timestamp, zone: &TimeZone) -> Action {
        let template = &self.spec.job_template;
        let of = template.metadata.clone().unwrap_or_default();
        let mut annotations = of.annotations.unwrap_or_default();
        let local = time.to_zoned(zone.clone());
        let text = match &self.spec.time_zone {
            None => time.to_string(),
            Some(_) => local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        };
        annotations.insert(SCHEDULED.into(), text);
        let job = Job {
            metadata: Meta {
                name: Some(name.into()),
                namespace: self.cron.metadata.namespace.clone(),
                labels: of.labels,
                annotations: Some(annotations),
                owner_references: Some(vec![pods::owner_reference(
                    Kind::CronJob,
                    &self.cron.metadata,
                )]),
                ..Meta::default()
            },
            spec: template.spec.clone(),
            status: None,
        };
        Action::create(Kind::Job, &job)
    }

    fn write(&self, next: &CronJobStatus, plan: &mut Plan) {
        let held = self.cron.status.clone().unwrap_or_default();
        let same = held.active.as_deref().unwrap_or_default()
            == next.active.as_deref().unwrap_or_default()
            && held.last_schedule_time == next.last_schedule_time
            && held.last_successful_time == next.last_successful_time;
        if same {
            return;
        }
        let body = json!({
            "metadata": {"uid": self.cron.uid()},
            "status": {
                "active": next.active,
                "lastScheduleTime": value(&next.last_schedule_time),
                "lastSuccessfulTime": value(&next.last_successful_time),
            },
        });
        plan.push(Action::merge(Kind::CronJob, &self.cron.metadata, Some("status"), body));
    }
}

#[cfg(test)]
mod tests;
