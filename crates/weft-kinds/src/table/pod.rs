//! The row of a pod: the one whose STATUS people read.

use jiff::Timestamp;
use serde_json::Value;

use super::format::{age, integer, list, name, or, since, string};
use super::{AGE, NAME, Printer, text, wide};

pub(super) const POD: Printer = Printer {
    columns: &[
        NAME,
        text("Ready"),
        text("Status"),
        text("Restarts"),
        AGE,
        wide("IP"),
        wide("Node"),
        wide("Nominated Node"),
        wide("Readiness Gates"),
    ],
    cells,
};

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summarise(pod);
    let restarts = match summary.last_restart {
        Some(time) if summary.restarts != 0 => {
            format!("{} ({} ago)", summary.restarts, since(time, now))
        }
        _ => summary.restarts.to_string(),
    };
    let ip = match string(pod, "/status/podIPs/0/ip") {
        "" => string(pod, "/status/podIP"),
        ip => ip,
    };
    vec![
        name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.status.into(),
        restarts.into(),
        age(pod, now),
        or(ip, "<none>"),
        or(string(pod, "/spec/nodeName"), "<none>"),
        or(string(pod, "/status/nominatedNodeName"), "<none>"),
        readiness_gates(pod).into(),
    ]
}

struct Summary<'a> {
    ready: usize,
    total: usize,
    status: String,
    restarts: i64,
    last_restart: Option<&'a str>,
}

/// The rules of the real printer, in its order: init containers first, then containers from
/// the last to the first, then deletion.
fn summarise(pod: &Value) -> Summary<'_> {
    let mut status = match string(pod, "/status/reason") {
        "" => string(pod, "/status/phase").to_owned(),
        reason => reason.to_owned(),
    };
    if list(pod, "/status/conditions")
        .iter()
        .any(|c| string(c, "/type") == "PodScheduled" && string(c, "/reason") == "SchedulingGated")
    {
        "SchedulingGated".clone_into(&mut status);
    }
    let inits = list(pod, "/spec/initContainers");
    let sidecar = |status: &Value| {
        inits.iter().any(|c| {
            string(c, "/name") == string(status, "/name") && string(c, "/restartPolicy") == "Always"
        })
    };
    let sidecars = inits.iter().filter(|c| string(c, "/restartPolicy") == "Always").count();
    let mut summary = Summary {
        ready: 0,
        total: list(pod, "/spec/containers").len() + sidecars,
        status,
        restarts: 0,
        last_restart: None,
    };
    let (mut sidecar_restarts, mut sidecar_last) = (0, None);
    let mut initializing = false;
    for (index, container) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
        let restarts = integer(container, "/restartCount");
        summary.restarts += restarts;
        summary.last_restart = summary.last_restart.max(finished(container));
        if sidecar(container) {
            sidecar_restarts += restarts;
            sidecar_last = sidecar_last.max(finished(container));
        }
        let terminated = container.pointer("/state/terminated");
        let waiting = string(container, "/state/waiting/reason");
        if terminated.is_some_and(|t| integer(t, "/exitCode") == 0) {
            continue;
        }
        if sidecar(container) && container.get("started") == Some(&Value::Bool(true)) {
            if container.get("ready") == Some(&Value::Bool(true)) {
                summary.ready += 1;
            }
            continue;
        }
        summary.status = match terminated {
            Some(terminated) => format!("Init:{}", ended(terminated)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => {
                format!("Init:{waiting}")
            }
            None => format!("Init:{index}/{}", inits.len()),
        };
        initializing = true;
        break;
    }
    if !initializing || condition(pod, "Initialized") {
        summary.restarts = sidecar_restarts;
        summary.last_restart = sidecar_last;
        containers(pod, &mut summary);
    }
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        if string(pod, "/status/reason") == "NodeLost" {
            "Unknown".clone_into(&mut summary.status);
        } else if !matches!(string(pod, "/status/phase"), "Succeeded" | "Failed") {
            "Terminating".clone_into(&mut summary.status);
        }
    }
    summary
}

fn containers<'a>(pod: &'a Value, summary: &mut Summary<'a>) {
    let mut running = false;
    for container in list(pod, "/status/containerStatuses").iter().rev() {
        summary.restarts += integer(container, "/restartCount");
        summary.last_restart = summary.last_restart.max(finished(container));
        let waiting = string(container, "/state/waiting/reason");
        if !waiting.is_empty() {
            waiting.clone_into(&mut summary.status);
        } else if let Some(terminated) = container.pointer("/state/terminated") {
            summary.status = ended(terminated);
        } else if container.get("ready") == Some(&Value::Bool(true))
            && container.pointer("/state/running").is_some()
        {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.status == "Completed" && running {
        let status = if condition(pod, "Ready") { "Running" } else { "NotReady" };
        status.clone_into(&mut summary.status);
    }
}

/// When the container's previous run ended. RFC 3339 in UTC sorts as text.
fn finished(container: &Value) -> Option<&str> {
    container.pointer("/lastState/terminated/finishedAt")?.as_str()
}

fn ended(terminated: &Value) -> String {
    match (string(terminated, "/reason"), integer(terminated, "/signal")) {
        ("", 0) => format!("ExitCode:{}", integer(terminated, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn condition(pod: &Value, kind: &str) -> bool {
    list(pod, "/status/conditions")
        .iter()
        .any(|c| string(c, "/type") == kind && string(c, "/status") == "True")
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let met = gates.iter().filter(|gate| condition(pod, string(gate, "/conditionType"))).count();
    format!("{met}/{}", gates.len())
}
