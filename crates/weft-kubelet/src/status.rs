//! The status that the API shows, from what was observed. Pure, after
//! `pkg/kubelet/status/generate.go` and `getPhase` in `pkg/kubelet/kubelet_pods.go`.

use crate::plan::{self, Role};
use crate::state::{ContainerObs, Ended, Observed, Sandbox, State};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::net::IpAddr;

/// Conditions that this kubelet writes; all others are left as they are.
const OWNED: [&str; 6] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "DisruptionTarget",
];

/// Marks a container whose program is a stand-in, in its `imageID`.
pub const STAND_IN_IMAGE: &str = "weft://stand-in";
/// `imageID` of a container that runs a program of this machine.
const HOST_IMAGE: &str = "weft://host";

/// The phase.
pub fn phase(spec: &PodSpec, obs: &Observed, ending: bool) -> &'static str {
    if obs.failed.is_some() {
        return "Failed";
    }
    let get = |c: &Container| obs.containers.get(&c.name);
    if !obs.initialized {
        let failed = plan::containers(spec).any(|(role, c)| {
            role == Role::Init
                && get(c)
                    .and_then(ContainerObs::ended)
                    .is_some_and(|e| e.code != 0 && (ending || !plan::restarts(spec, role, c, e)))
        });
        return match (failed, ending) {
            (true, _) => "Failed",
            // Ended before it ran: as the kubelet reports a pod that is killed while pending.
            (false, true) => "Failed",
            (false, false) => "Pending",
        };
    }
    let (mut waiting, mut running, mut stopped, mut ok, mut again) = (0, 0, 0, 0, false);
    for c in &spec.containers {
        match get(c).map(|o| (&o.state, o)) {
            Some((State::Running { .. }, _)) => running += 1,
            Some((State::Ended(e), _)) => {
                stopped += 1;
                ok += i32::from(e.code == 0);
                again |= plan::restarts(spec, Role::App, c, e);
            }
            Some((State::Waiting { .. } | State::Starting, o)) if o.last.is_some() => {
                stopped += 1;
                again = true;
            }
            _ => waiting += 1,
        }
    }
    if ending {
        return if running > 0 {
            "Running"
        } else if waiting == 0 && ok == stopped {
            "Succeeded"
        } else {
            "Failed"
        };
    }
    match (waiting, running) {
        (1.., _) => "Pending",
        (_, 1..) => "Running",
        _ if again => "Running",
        _ if stopped > 0 && ok == stopped => "Succeeded",
        _ => "Failed",
    }
}

/// Whether nothing of the pod runs any more and nothing will.
fn ending(pod: &Pod, spec: &PodSpec, obs: &Observed) -> bool {
    let over = plan::deleted(pod) || obs.gone || plan::terminal(spec, obs);
    over && !obs.containers.values().any(ContainerObs::active)
}

/// The whole status. `previous` is the last one known; it keeps transition times and what others
/// have written.
pub fn status(
    pod: &Pod,
    obs: &Observed,
    host_ips: &[IpAddr],
    previous: &PodStatus,
    now: Timestamp,
) -> PodStatus {
    let Some(spec) = &pod.spec else { return previous.clone() };
    let over = ending(pod, spec, obs);
    let phase = phase(spec, obs, over);
    let waits = spec.init_containers.as_ref().is_some_and(|i| !i.is_empty());
    let of = |init: bool| -> Vec<ContainerStatus> {
        plan::containers(spec)
            .filter(|(role, _)| (*role == Role::App) != init)
            .map(|(role, c)| container(role, c, obs, waits, phase))
            .collect()
    };
    let (init, app) = (of(true), of(false));
    // Addresses stay in the status of a pod whose sandbox is gone.
    let mut ips: Vec<String> = obs.sandbox.ips().iter().map(IpAddr::to_string).collect();
    if ips.is_empty() {
        ips = previous.pod_ips.iter().flatten().map(|p| p.ip.clone()).collect();
    }
    let mut out = PodStatus {
        phase: Some(phase.into()),
        host_ip: host_ips.first().map(IpAddr::to_string),
        host_ips: Some(host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: obs.start_time.map(seconds),
        qos_class: previous.qos_class.clone().or_else(|| Some(qos(spec).into())),
        observed_generation: pod.metadata.generation,
        container_statuses: Some(app),
        init_container_statuses: (!init.is_empty()).then_some(init),
        ..previous.clone()
    };
    if let Some((reason, message)) = &obs.failed {
        (out.reason, out.message) = (Some(reason.clone()), Some(message.clone()));
    }
    out.conditions = Some(conditions(pod, spec, obs, &out, previous, now));
    out
}

/// Kubernetes' times have whole seconds; anything finer would make equal statuses differ.
fn seconds(t: Timestamp) -> Time {
    Time(Timestamp::from_second(t.as_second()).unwrap_or(t))
}

fn container(
    role: Role,
    c: &Container,
    obs: &Observed,
    init: bool,
    phase: &str,
) -> ContainerStatus {
    let none = ContainerObs::default();
    let o = obs.containers.get(&c.name).unwrap_or(&none);
    let waiting = |reason: &str, message: Option<String>| ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.into()), message }),
        ..Default::default()
    };
    let mut last = o.last.as_ref();
    let state = match &o.state {
        State::Running { since } => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(seconds(*since)) }),
            ..Default::default()
        },
        State::Starting => waiting("ContainerCreating", None),
        State::Waiting { reason, message } => {
            let new = o.last.is_none() && reason == "ContainerCreating";
            if new && init && !obs.initialized {
                waiting("PodInitializing", None)
            } else {
                waiting(reason, message.clone())
            }
        }
        State::Ended(e) => {
            let delay = o.backoff.delay();
            match delay {
                // Waiting for its restart: the end of the run moves to lastState.
                Some(d) if o.retry_at.is_some() && !matches!(phase, "Failed" | "Succeeded") => {
                    last = Some(e);
                    let s = d.as_secs();
                    let for_ = if s >= 60 && s % 60 == 0 {
                        format!("{}m0s", s / 60)
                    } else if s > 60 {
                        format!("{}m{}s", s / 60, s % 60)
                    } else {
                        format!("{s}s")
                    };
                    let m = format!("back-off {for_} restarting failed container={}", c.name);
                    waiting("CrashLoopBackOff", Some(m))
                }
                _ => terminated(e),
            }
        }
    };
    let running = state.running.is_some();
    let complete = role == Role::Init && o.ended().is_some_and(|e| e.code == 0);
    ContainerStatus {
        name: c.name.clone(),
        image: c.image.clone().unwrap_or_default(),
        image_id: match (o.id.is_empty(), o.stand_in) {
            (true, _) => String::new(),
            (false, true) => STAND_IN_IMAGE.into(),
            (false, false) => HOST_IMAGE.into(),
        },
        container_id: (!o.id.is_empty()).then(|| format!("weft://{}", o.id)),
        ready: if role == Role::Init { complete } else { running && o.started && o.ready },
        started: Some(running && o.started),
        restart_count: i32::try_from(o.restarts).unwrap_or(i32::MAX),
        last_state: Some(last.map(terminated).unwrap_or_default()),
        state: Some(state),
        ..Default::default()
    }
}

fn terminated(e: &Ended) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: (!e.id.is_empty()).then(|| format!("weft://{}", e.id)),
            exit_code: e.code,
            signal: None,
            reason: Some(e.reason.clone()),
            message: e.message.clone(),
            started_at: Some(seconds(e.started_at)),
            finished_at: Some(seconds(e.finished_at)),
        }),
        ..Default::default()
    }
}

/// Why the containers of a list are not ready, for condition messages.
fn unready(kind: &str, statuses: impl Iterator<Item = (String, bool)>) -> Option<String> {
    let names: Vec<String> = statuses.filter(|(_, ok)| !ok).map(|(n, _)| n).collect();
    (!names.is_empty()).then(|| format!("containers with {kind} status: [{}]", names.join(" ")))
}

fn conditions(
    pod: &Pod,
    spec: &PodSpec,
    obs: &Observed,
    status: &PodStatus,
    previous: &PodStatus,
    now: Timestamp,
) -> Vec<PodCondition> {
    let phase = status.phase.as_deref().unwrap_or_default();
    let none = Vec::new();
    let old = previous.conditions.as_ref().unwrap_or(&none);
    let ok = |reason: Option<&str>, message: Option<String>, yes: bool| {
        (yes, reason.map(str::to_owned), message)
    };
    let sandbox = matches!(obs.sandbox, Sandbox::Ready { .. });
    let sidecar =
        |name: &str| plan::containers(spec).any(|(r, c)| r == Role::Sidecar && c.name == name);
    let init = status.init_container_statuses.iter().flatten();
    let unfinished = unready(
        "incomplete",
        init.map(|s| {
            let up = if sidecar(&s.name) { s.started == Some(true) } else { s.ready };
            (s.name.clone(), obs.initialized || up)
        }),
    );
    let initialized = if phase == "Succeeded" {
        ok(Some("PodCompleted"), None, true)
    } else if obs.initialized || unfinished.is_none() {
        ok(None, None, true)
    } else {
        ok(Some("ContainersNotInitialized"), unfinished, false)
    };
    let sidecars = status.init_container_statuses.iter().flatten();
    let sidecars = sidecars.filter(|s| sidecar(&s.name));
    let apps = status.container_statuses.iter().flatten();
    let not_ready = unready("unready", sidecars.chain(apps).map(|s| (s.name.clone(), s.ready)));
    let containers = match phase {
        "Succeeded" => ok(Some("PodCompleted"), None, false),
        "Failed" => ok(Some("PodFailed"), None, false),
        _ => match not_ready {
            None => ok(None, None, true),
            m => ok(Some("ContainersNotReady"), m, false),
        },
    };
    let gates = spec.readiness_gates.as_deref().unwrap_or_default();
    let closed: Vec<&str> = gates
        .iter()
        .map(|g| g.condition_type.as_str())
        .filter(|t| !old.iter().any(|c| c.type_ == *t && c.status == "True"))
        .collect();
    let ready = if !containers.0 {
        containers.clone()
    } else if closed.is_empty() {
        ok(None, None, true)
    } else {
        let m = format!(
            "corresponding condition of pod readiness gate \"{}\" does not exist or is not \"True\".",
            closed.join(", ")
        );
        ok(Some("ReadinessGatesNotReady"), Some(m), false)
    };
    let own = [
        ("PodReadyToStartContainers", ok(None, None, sandbox)),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", ok(None, None, true)),
    ];
    let mut out: Vec<PodCondition> = own
        .into_iter()
        .map(|(type_, (yes, reason, message))| {
            let status = if yes { "True" } else { "False" }.to_owned();
            let before = old.iter().find(|c| c.type_ == type_ && c.status == status);
            PodCondition {
                type_: type_.into(),
                last_transition_time: before
                    .and_then(|c| c.last_transition_time.clone())
                    .or_else(|| Some(seconds(now))),
                status,
                reason,
                message,
                last_probe_time: None,
                observed_generation: pod.metadata.generation,
            }
        })
        .collect();
    out.extend(old.iter().filter(|c| !OWNED.contains(&c.type_.as_str())).cloned());
    out.extend(old.iter().filter(|c| c.type_ == "DisruptionTarget").cloned());
    out
}

/// Quality-of-service class, where the API has not written one.
fn qos(spec: &PodSpec) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    for (_, c) in plan::containers(spec) {
        let r = c.resources.as_ref();
        let limits = r.and_then(|r| r.limits.as_ref());
        let requests = r.and_then(|r| r.requests.as_ref());
        for key in ["cpu", "memory"] {
            let l = limits.and_then(|m| m.get(key));
            let q = requests.and_then(|m| m.get(key));
            any |= l.is_some() || q.is_some();
            guaranteed &= l.is_some() && q.is_none_or(|q| Some(q) == l);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
