//! Rows of what makes pods.

use jiff::Timestamp;
use serde_json::Value;

use super::format::{
    age, containers, human_duration, integer, labels, list, name, or, selector, since, string,
};
use super::{AGE, Column, NAME, Printer, number, text, wide};

const CONTAINERS: Column = wide("Containers");
const IMAGES: Column = wide("Images");
const SELECTOR: Column = wide("Selector");
const TEMPLATE: &str = "/spec/template/spec/containers";

fn row<const N: usize>(head: [Value; N], object: &Value, template: &str) -> Vec<Value> {
    let mut cells = Vec::from(head);
    cells.extend(containers(object, template));
    cells
}

fn count(object: &Value, pointer: &str) -> Value {
    integer(object, pointer).into()
}

pub(super) const DEPLOYMENT: Printer = Printer {
    columns: &[
        NAME,
        text("Ready"),
        number("Up-to-date"),
        number("Available"),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let ready = integer(object, "/status/readyReplicas");
        let head = [
            name(object),
            format!("{ready}/{}", integer(object, "/spec/replicas")).into(),
            count(object, "/status/updatedReplicas"),
            count(object, "/status/availableReplicas"),
            age(object, now),
        ];
        let mut cells = row(head, object, TEMPLATE);
        cells.push(selector(object.pointer("/spec/selector")).into());
        cells
    },
};

pub(super) const REPLICA_SET: Printer = Printer {
    columns: &[
        NAME,
        number("Desired"),
        number("Current"),
        number("Ready"),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let head = [
            name(object),
            count(object, "/spec/replicas"),
            count(object, "/status/replicas"),
            count(object, "/status/readyReplicas"),
            age(object, now),
        ];
        let mut cells = row(head, object, TEMPLATE);
        // A ReplicationController's selector is a plain map.
        let plain = object.get("kind").and_then(Value::as_str) == Some("ReplicationController");
        let of = object.pointer("/spec/selector");
        cells.push(if plain { labels(of) } else { selector(of) }.into());
        cells
    },
};

pub(super) const DAEMON_SET: Printer = Printer {
    columns: &[
        NAME,
        number("Desired"),
        number("Current"),
        number("Ready"),
        number("Up-to-date"),
        number("Available"),
        text("Node Selector"),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let head = [
            name(object),
            count(object, "/status/desiredNumberScheduled"),
            count(object, "/status/currentNumberScheduled"),
            count(object, "/status/numberReady"),
            count(object, "/status/updatedNumberScheduled"),
            count(object, "/status/numberAvailable"),
            labels(object.pointer("/spec/template/spec/nodeSelector")).into(),
            age(object, now),
        ];
        let mut cells = row(head, object, TEMPLATE);
        cells.push(selector(object.pointer("/spec/selector")).into());
        cells
    },
};

pub(super) const STATEFUL_SET: Printer = Printer {
    columns: &[NAME, text("Ready"), AGE, CONTAINERS, IMAGES],
    cells: |object, now| {
        let ready = integer(object, "/status/readyReplicas");
        let ready = format!("{ready}/{}", integer(object, "/spec/replicas"));
        row([name(object), ready.into(), age(object, now)], object, TEMPLATE)
    },
};

pub(super) const POD_TEMPLATE: Printer = Printer {
    columns: &[NAME, text("Containers"), text("Images"), text("Pod Labels")],
    cells: |object, _| {
        let mut cells = row([name(object)], object, "/template/spec/containers");
        cells.push(labels(object.pointer("/template/metadata/labels")).into());
        cells
    },
};

pub(super) const CONTROLLER_REVISION: Printer = Printer {
    columns: &[NAME, text("Controller"), number("Revision"), AGE],
    cells: |object, now| {
        let owner = list(object, "/metadata/ownerReferences")
            .iter()
            .find(|owner| owner.get("controller") == Some(&Value::Bool(true)));
        let owner = owner.map_or("<none>".to_owned(), |owner| {
            let group = string(owner, "/apiVersion").split_once('/').map_or("", |(g, _)| g);
            let dot = if group.is_empty() { "" } else { "." };
            let kind = string(owner, "/kind").to_lowercase();
            format!("{kind}{dot}{group}/{}", string(owner, "/name"))
        });
        vec![name(object), owner.into(), count(object, "/revision"), age(object, now)]
    },
};

pub(super) const JOB: Printer = Printer {
    columns: &[
        NAME,
        text("Status"),
        text("Completions"),
        text("Duration"),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let head = [
            name(object),
            job_status(object).into(),
            job_completions(object).into(),
            job_duration(object, now).into(),
            age(object, now),
        ];
        let mut cells = row(head, object, TEMPLATE);
        cells.push(selector(object.pointer("/spec/selector")).into());
        cells
    },
};

fn job_status(job: &Value) -> &'static str {
    let has = |kind: &str| {
        list(job, "/status/conditions")
            .iter()
            .any(|c| string(c, "/type") == kind && string(c, "/status") == "True")
    };
    let deleted = job.pointer("/metadata/deletionTimestamp").is_some();
    [
        (has("Complete"), "Complete"),
        (has("Failed"), "Failed"),
        (deleted, "Terminating"),
        (has("Suspended"), "Suspended"),
        (has("FailureTarget"), "FailureTarget"),
        (has("SuccessCriteriaMet"), "SuccessCriteriaMet"),
    ]
    .into_iter()
    .find_map(|(holds, text)| holds.then_some(text))
    .unwrap_or("Running")
}

fn job_completions(job: &Value) -> String {
    let done = integer(job, "/status/succeeded");
    match job.pointer("/spec/completions").and_then(Value::as_i64) {
        Some(wanted) => format!("{done}/{wanted}"),
        None => match integer(job, "/spec/parallelism") {
            parallel if parallel > 1 => format!("{done}/1 of {parallel}"),
            _ => format!("{done}/1"),
        },
    }
}

fn job_duration(job: &Value, now: Timestamp) -> String {
    let time = |pointer: &str| string(job, pointer).parse::<Timestamp>().ok();
    match (time("/status/startTime"), time("/status/completionTime")) {
        (None, _) => String::new(),
        (Some(start), end) => human_duration(end.unwrap_or(now).as_second() - start.as_second()),
    }
}

pub(super) const CRON_JOB: Printer = Printer {
    columns: &[
        NAME,
        text("Schedule"),
        text("Timezone"),
        text("Suspend"),
        number("Active"),
        text("Last Schedule"),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let suspended = object.pointer("/spec/suspend") == Some(&Value::Bool(true));
        let last = match string(object, "/status/lastScheduleTime") {
            "" => "<none>".to_owned(),
            time => since(time, now),
        };
        let head = [
            name(object),
            string(object, "/spec/schedule").into(),
            or(string(object, "/spec/timeZone"), "<none>"),
            if suspended { "True" } else { "False" }.into(),
            list(object, "/status/active").len().into(),
            last.into(),
            age(object, now),
        ];
        let mut cells = row(head, object, "/spec/jobTemplate/spec/template/spec/containers");
        cells.push(selector(object.pointer("/spec/jobTemplate/spec/selector")).into());
        cells
    },
};

pub(super) const AUTOSCALER: Printer = Printer {
    columns: &[
        NAME,
        text("Reference"),
        text("Targets"),
        text("MinPods"),
        number("MaxPods"),
        number("Replicas"),
        AGE,
    ],
    cells: |object, now| {
        let target = |field: &str| string(object, &format!("/spec/scaleTargetRef/{field}"));
        let least = object.pointer("/spec/minReplicas").and_then(Value::as_i64);
        vec![
            name(object),
            format!("{}/{}", target("kind"), target("name")).into(),
            targets(object).into(),
            least.map_or("<unset>".to_owned(), |n| n.to_string()).into(),
            count(object, "/spec/maxReplicas"),
            count(object, "/status/currentReplicas"),
            age(object, now),
        ]
    },
};

/// As of `v2`: kube-apiserver prints the one form that it has inside.
pub(super) const AUTOSCALER_V1: Printer = Printer {
    columns: AUTOSCALER.columns,
    cells: |object, now| {
        let mut object = object.clone();
        crate::autoscaler::to_v2(&mut object);
        (AUTOSCALER.cells)(&object, now)
    },
};

/// How many metrics of an autoscaler are shown.
const METRICS_SHOWN: usize = 2;

/// What an autoscaler has measured and what it wants, the first metrics only.
fn targets(object: &Value) -> String {
    let metrics = list(object, "/spec/metrics");
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let current = list(object, "/status/currentMetrics");
    let shown: Vec<String> = metrics
        .iter()
        .take(METRICS_SHOWN)
        .enumerate()
        .map(|(i, metric)| target(metric, current.get(i)))
        .collect();
    match metrics.len().saturating_sub(METRICS_SHOWN) {
        0 => shown.join(", "),
        more => format!("{} + {more} more...", shown.join(", ")),
    }
}

fn target(metric: &Value, current: Option<&Value>) -> String {
    let (field, named) = match string(metric, "/type") {
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "External" => ("external", false),
        _ => return "<unknown type>".to_owned(),
    };
    let label = match named {
        true => format!("{}: ", string(metric, &format!("/{field}/name"))),
        false => String::new(),
    };
    let wanted = |key: &str| metric.pointer(&format!("/{field}/target/{key}"));
    let measured = |key: &str| current.and_then(|c| c.pointer(&format!("/{field}/current/{key}")));
    let text = |value: Option<&Value>, unit: &str| match value {
        Some(Value::String(quantity)) => quantity.clone(),
        Some(number @ Value::Number(_)) => format!("{number}{unit}"),
        _ => "<unknown>".to_owned(),
    };
    for (key, unit) in [("averageValue", ""), ("averageUtilization", "%"), ("value", "")] {
        if wanted(key).is_some() {
            // Said where the target is an average although the metric is one value.
            let average = key == "averageValue" && matches!(field, "object" | "external");
            let after = if average { " (avg)" } else { "" };
            let (now, goal) = (text(measured(key), unit), text(wanted(key), unit));
            return format!("{label}{now}/{goal}{after}");
        }
    }
    format!("{label}<unknown>/<auto>")
}

pub(super) const DISRUPTION_BUDGET: Printer = Printer {
    columns: &[
        NAME,
        text("Min Available"),
        text("Max Unavailable"),
        number("Allowed Disruptions"),
        AGE,
    ],
    cells: |object, now| {
        let amount = |pointer: &str| match object.pointer(pointer) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => "N/A".to_owned(),
        };
        vec![
            name(object),
            amount("/spec/minAvailable").into(),
            amount("/spec/maxUnavailable").into(),
            count(object, "/status/disruptionsAllowed"),
            age(object, now),
        ]
    },
};
