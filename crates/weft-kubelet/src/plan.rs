//! Decides what a pod needs next: (pod, observed, time) → actions and the time to look again.
//!
//! Pure: no clock, no I/O. Called after every event; an action that is under way is visible in
//! `Observed` (`Creating`, `Starting`, `stop_by`), so planning twice asks for nothing twice.
//! The order is the kubelet's: sandbox, init containers one by one (a sidecar counts as done when
//! it has started), containers; at the end containers first, then sidecars in reverse, then the
//! sandbox, then the API object.

use crate::state::{ContainerObs, Ended, Observed, Sandbox, State};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make the namespaces and the network.
    CreateSandbox,
    /// Start a container; `true`: it is a restart and counts as one.
    Start(String, bool),
    /// SIGTERM now, SIGKILL at the time given.
    Stop {
        /// Container.
        name: String,
        /// When patience ends.
        by: Timestamp,
        /// Why, for the Event.
        why: String,
    },
    /// The container waits for its restart.
    BackOff {
        /// Container.
        name: String,
        /// Length of the wait.
        delay: SignedDuration,
    },
    /// The init containers are done.
    Initialized,
    /// The pod has failed as a whole.
    Fail(String, String),
    /// Take network and namespaces down.
    CloseSandbox,
    /// Nothing is left: delete the API object if it still exists, and forget the pod.
    Finish,
}

/// The role of a container, which its place and restart policy give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to completion before the containers start.
    Init,
    /// Init container with `restartPolicy: Always`.
    Sidecar,
    /// Ordinary container.
    App,
}

/// Every container of a pod, in starting order, with its role.
pub fn containers(spec: &PodSpec) -> impl DoubleEndedIterator<Item = (Role, &Container)> {
    let role = |c: &Container| match c.restart_policy.as_deref() {
        Some("Always") => Role::Sidecar,
        _ => Role::Init,
    };
    let init = spec.init_containers.as_deref().unwrap_or_default();
    init.iter().map(move |c| (role(c), c)).chain(spec.containers.iter().map(|c| (Role::App, c)))
}

/// Whether the API wants the pod gone.
pub fn deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether a run that ended is followed by another one.
pub fn restarts(spec: &PodSpec, role: Role, c: &Container, end: &Ended) -> bool {
    if role == Role::Sidecar {
        return true;
    }
    // KEP-5307: rules of the container come first, then its own policy, then the pod's.
    for rule in c.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.iter().flatten().any(|v| *v == end.code);
        let matches = if codes.operator == "NotIn" { !listed } else { listed };
        if matches && rule.action == "Restart" {
            return true;
        }
    }
    let policy = c.restart_policy.as_deref().or(spec.restart_policy.as_deref()).unwrap_or("Always");
    match (policy, role) {
        ("Never", _) => false,
        (_, Role::Init) | ("OnFailure", _) => end.code != 0,
        _ => true,
    }
}

/// Whether the pod has reached its end by itself: Succeeded or Failed.
pub fn terminal(spec: &PodSpec, obs: &Observed) -> bool {
    if obs.failed.is_some() {
        return true;
    }
    let ended = |c: &Container| obs.containers.get(&c.name).and_then(ContainerObs::ended);
    let init_failed = !obs.initialized
        && containers(spec).any(|(role, c)| {
            role == Role::Init
                && ended(c).is_some_and(|e| e.code != 0 && !restarts(spec, role, c, e))
        });
    init_failed
        || obs.initialized
            && spec
                .containers
                .iter()
                .all(|c| ended(c).is_some_and(|e| !restarts(spec, Role::App, c, e)))
}

/// The plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// What to do now.
    pub actions: Vec<Action>,
    /// When to plan again although nothing happened.
    pub wake: Option<Timestamp>,
}

impl Plan {
    fn at(&mut self, t: Timestamp) {
        self.wake = Some(self.wake.map_or(t, |w| w.min(t)));
    }
}

/// Plans the next steps of a pod.
pub fn plan(pod: &Pod, obs: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &pod.spec else { return plan };
    if deleted(pod) || obs.gone || terminal(spec, obs) {
        end(pod, spec, obs, now, &mut plan);
        return plan;
    }
    if let (Some(limit), Some(start)) = (spec.active_deadline_seconds, obs.start_time) {
        let deadline = add(start, limit);
        if deadline <= now {
            plan.actions.push(Action::Fail(
                "DeadlineExceeded".into(),
                "Pod was active on the node longer than the specified deadline".into(),
            ));
            return plan;
        }
        plan.at(deadline);
    }
    match &obs.sandbox {
        Sandbox::Absent { retry_at: Some(t), .. } if *t > now => plan.at(*t),
        Sandbox::Absent { .. } | Sandbox::Closed => plan.actions.push(Action::CreateSandbox),
        Sandbox::Creating { .. } | Sandbox::Closing => {}
        Sandbox::Ready { .. } => live(spec, obs, now, &mut plan),
    }
    plan
}

/// Steps of a pod that is to run.
fn live(spec: &PodSpec, obs: &Observed, now: Timestamp, plan: &mut Plan) {
    let fallback = ContainerObs::default();
    for (role, c) in containers(spec) {
        if role == Role::App && !obs.initialized {
            // The containers start in the next round, after the status says Initialized.
            plan.actions.push(Action::Initialized);
            break;
        }
        let o = obs.containers.get(&c.name).unwrap_or(&fallback);
        if role == Role::Init && obs.initialized {
            continue;
        }
        step(spec, role, c, o, now, plan);
        let done = match role {
            Role::Init => o.ended().is_some_and(|e| e.code == 0),
            Role::Sidecar => obs.initialized || o.started,
            Role::App => true,
        };
        if !done {
            break;
        }
    }
}

/// The step of one container that is to run (or to have run).
fn step(
    spec: &PodSpec,
    role: Role,
    c: &Container,
    o: &ContainerObs,
    now: Timestamp,
    plan: &mut Plan,
) {
    match &o.state {
        State::Starting => {}
        State::Running { .. } => {
            if o.stop_by.is_none()
                && let Some((why, grace)) = &o.condemned
            {
                let grace = grace.or(spec.termination_grace_period_seconds).unwrap_or(30);
                plan.actions.push(Action::Stop {
                    name: c.name.clone(),
                    by: add(now, if o.replace { 0 } else { grace }),
                    why: why.clone(),
                });
            }
        }
        State::Waiting { .. } => match o.retry_at {
            Some(t) if t > now => plan.at(t),
            // A container that was running before and failed to start again is being restarted.
            _ => plan.actions.push(Action::Start(c.name.clone(), false)),
        },
        State::Ended(_) if o.replace => {
            plan.actions.push(Action::Start(c.name.clone(), false));
        }
        State::Ended(e) if restarts(spec, role, c, e) => {
            match o.backoff.wait_until(e.finished_at, now) {
                Some(t) => {
                    plan.at(t);
                    let delay = o.backoff.delay().unwrap_or_default();
                    plan.actions.push(Action::BackOff { name: c.name.clone(), delay });
                }
                None => plan.actions.push(Action::Start(c.name.clone(), true)),
            }
        }
        State::Ended(_) => {}
    }
}

/// Steps of a pod that is to end.
fn end(pod: &Pod, spec: &PodSpec, obs: &Observed, now: Timestamp, plan: &mut Plan) {
    let grace = if obs.gone {
        1
    } else {
        let by_api = pod.metadata.deletion_grace_period_seconds;
        by_api.or(spec.termination_grace_period_seconds).unwrap_or(30)
    };
    // Counted from the deletion, so that a second look never gives more time.
    let from = match &pod.metadata.deletion_timestamp {
        // deletionTimestamp is already "request + grace" (metav1.ObjectMeta).
        Some(t) if !obs.gone => add(t.0, -grace),
        _ => now,
    };
    let by = add(from, grace).max(now);
    let stop = |name: &str, o: &ContainerObs, plan: &mut Plan| {
        let sooner = o.stop_by.is_none_or(|b| by.duration_since(b) < SignedDuration::from_secs(-1));
        if matches!(o.state, State::Running { .. }) && sooner {
            plan.actions.push(Action::Stop {
                name: name.to_owned(),
                by,
                why: format!("Stopping container {name}"),
            });
        }
    };
    let active = |c: &Container| obs.containers.get(&c.name).filter(|o| o.active());
    let mut waiting = false;
    for (role, c) in containers(spec) {
        if role != Role::Sidecar
            && let Some(o) = active(c)
        {
            stop(&c.name, o, plan);
            waiting = true;
        }
    }
    if waiting {
        return;
    }
    for (role, c) in containers(spec).rev() {
        if role == Role::Sidecar
            && let Some(o) = active(c)
        {
            stop(&c.name, o, plan);
            return;
        }
    }
    match obs.sandbox {
        Sandbox::Ready { .. } => plan.actions.push(Action::CloseSandbox),
        Sandbox::Creating { .. } | Sandbox::Closing => {}
        Sandbox::Absent { dirty: true, .. } => plan.actions.push(Action::CloseSandbox),
        Sandbox::Absent { .. } | Sandbox::Closed => {
            if deleted(pod) || obs.gone {
                plan.actions.push(Action::Finish);
            }
        }
    }
}

fn add(t: Timestamp, seconds: i64) -> Timestamp {
    t.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(t)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
