//! Rules of what makes pods.

use serde_json::Value;

use super::{Errors, integer, list, pod, selector, string, text};

/// Kubernetes' names: DNS label of a CronJob's Jobs minus their suffix.
const CRON_JOB_NAME_MAX: usize = 52;

fn spec(object: &Value) -> &Value {
    object.get("spec").unwrap_or(&Value::Null)
}

/// Replicas, selector and template of a controller of long-running pods.
fn controller(e: &mut Errors, new: &Value, old: Option<&Value>, kind: &str) {
    let spec_value = spec(new);
    e.not_negative("spec.replicas", spec_value.get("replicas"));
    e.not_negative("spec.minReadySeconds", spec_value.get("minReadySeconds"));
    e.not_negative("spec.revisionHistoryLimit", spec_value.get("revisionHistoryLimit"));
    let empty = Value::Null;
    let template = spec_value.get("template").unwrap_or(&empty);
    match spec_value.get("selector") {
        None => e.required("spec.selector", ""),
        Some(chosen) => {
            selector::selector(e, Some(chosen), "spec.selector");
            if selector::is_empty(chosen) {
                let detail = format!("empty selector is invalid for {kind}");
                e.invalid("spec.selector", chosen.clone(), detail);
            } else if !selector::matches(chosen, template.pointer("/metadata/labels")) {
                let labels = template.pointer("/metadata/labels").cloned().unwrap_or_default();
                e.invalid(
                    "spec.template.metadata.labels",
                    labels,
                    "`selector` does not match template `labels`",
                );
            }
        }
    }
    pod::template(e, template, "spec.template");
    let policy = template.pointer("/spec/restartPolicy").and_then(Value::as_str);
    if let Some(policy) = policy.filter(|policy| *policy != "Always") {
        e.not_supported("spec.template.spec.restartPolicy", policy, &["Always"]);
    }
    if template.pointer("/spec/activeDeadlineSeconds").is_some() {
        let name = match kind {
            "deployment" => "ReplicaSet",
            "daemonset" => "DaemonSet",
            "statefulset" => "StatefulSet",
            _ => "ReplicaSet",
        };
        e.forbidden(
            "spec.template.spec.activeDeadlineSeconds",
            format!("activeDeadlineSeconds in {name} is not Supported"),
        );
    }
    if let Some(old) = old
        && kind != "statefulset"
    {
        e.immutable("spec.selector", spec_value.get("selector"), spec(old).get("selector"));
    }
}

/// A count or a percentage; the number it stands for, without the sign.
fn count_or_percent(e: &mut Errors, value: Option<&Value>, field: &str) -> i64 {
    match value {
        Some(Value::String(percent)) => {
            let messages = text::percent(percent);
            let number = percent.trim_end_matches('%').parse().unwrap_or(0);
            if messages.is_empty() && number > 100 && field.ends_with("maxUnavailable") {
                e.invalid(field, percent.as_str(), "must not be greater than 100%");
            }
            e.each(field, percent, messages);
            number
        }
        other => {
            e.not_negative(field, other);
            other.and_then(Value::as_i64).unwrap_or(0)
        }
    }
}

pub(super) fn deployment(e: &mut Errors, new: &Value, old: Option<&Value>) {
    controller(e, new, old, "deployment");
    let spec = spec(new);
    const STRATEGY: &str = "spec.strategy";
    let strategy = spec.get("strategy").unwrap_or(&Value::Null);
    let rolling = strategy.get("rollingUpdate");
    match (string(strategy, "type"), rolling) {
        ("Recreate", Some(_)) => e.forbidden(
            format!("{STRATEGY}.rollingUpdate"),
            "may not be specified when strategy `type` is 'Recreate'",
        ),
        ("Recreate", None) => {}
        ("RollingUpdate", None) => {
            e.required(
                format!("{STRATEGY}.rollingUpdate"),
                "this should be defaulted and never be nil",
            );
        }
        ("RollingUpdate", Some(rolling)) => {
            let field = format!("{STRATEGY}.rollingUpdate.maxUnavailable");
            let unavailable = count_or_percent(e, rolling.get("maxUnavailable"), &field);
            let surge = format!("{STRATEGY}.rollingUpdate.maxSurge");
            if count_or_percent(e, rolling.get("maxSurge"), &surge) == 0 && unavailable == 0 {
                let value = rolling.get("maxUnavailable").cloned().unwrap_or_default();
                e.invalid(field, value, "may not be 0 when `maxSurge` is 0");
            }
        }
        (other, _) => {
            let known = &["Recreate", "RollingUpdate"];
            e.not_supported(format!("{STRATEGY}.type"), other, known);
        }
    }
    if let Some(deadline) = spec.get("progressDeadlineSeconds").and_then(Value::as_i64) {
        e.not_negative("spec.progressDeadlineSeconds", Some(&deadline.into()));
        if deadline <= integer(spec, "minReadySeconds") {
            let detail = "must be greater than minReadySeconds";
            e.invalid("spec.progressDeadlineSeconds", deadline, detail);
        }
    }
}

pub(super) fn replica_set(e: &mut Errors, new: &Value, old: Option<&Value>) {
    controller(e, new, old, "deployment");
}

pub(super) fn daemon_set(e: &mut Errors, new: &Value, old: Option<&Value>) {
    controller(e, new, old, "daemonset");
    const FIELD: &str = "spec.updateStrategy";
    let strategy = spec(new).get("updateStrategy").unwrap_or(&Value::Null);
    match string(strategy, "type") {
        "OnDelete" => {}
        "RollingUpdate" => match strategy.get("rollingUpdate") {
            None => e.required(format!("{FIELD}.rollingUpdate"), ""),
            Some(rolling) => {
                let field = format!("{FIELD}.rollingUpdate.maxUnavailable");
                let unavailable = count_or_percent(e, rolling.get("maxUnavailable"), &field);
                let surge = format!("{FIELD}.rollingUpdate.maxSurge");
                let surge = count_or_percent(e, rolling.get("maxSurge"), &surge);
                if unavailable == 0 && surge == 0 {
                    e.required(field, "cannot be 0 when maxSurge is 0");
                } else if unavailable != 0 && surge != 0 {
                    let value = rolling.get("maxSurge").cloned().unwrap_or_default();
                    let field = format!("{FIELD}.rollingUpdate.maxSurge");
                    e.invalid(field, value, "may not be set when maxUnavailable is non-zero");
                }
            }
        },
        _ => e.not_supported(FIELD, strategy.clone(), &["RollingUpdate", "OnDelete"]),
    }
}

pub(super) fn stateful_set(e: &mut Errors, new: &Value, old: Option<&Value>) {
    let mut whole = new.clone();
    // The controller adds a volume for each claim template, and sets hostname and subdomain.
    let claims: Vec<Value> = list(spec(new), "volumeClaimTemplates")
        .iter()
        .filter_map(|claim| claim.pointer("/metadata/name"))
        .map(|name| serde_json::json!({"name": name, "emptyDir": {}}))
        .collect();
    if !claims.is_empty()
        && let Some(pod) = whole.pointer_mut("/spec/template/spec").and_then(Value::as_object_mut)
    {
        let own = list(&Value::Object(pod.clone()), "volumes").to_vec();
        let names: Vec<&Value> = claims.iter().map(|claim| &claim["name"]).collect();
        let own = own.into_iter().filter(|volume| !names.contains(&&volume["name"]));
        let volumes: Vec<Value> = claims.iter().cloned().chain(own).collect();
        pod.insert("volumes".to_owned(), volumes.into());
    }
    controller(e, &whole, old, "statefulset");
    let spec_value = spec(new);
    let policy = string(spec_value, "podManagementPolicy");
    if !matches!(policy, "OrderedReady" | "Parallel") {
        let detail = "must be 'OrderedReady' or 'Parallel'";
        e.invalid("spec.podManagementPolicy", policy, detail);
    }
    let strategy = spec_value.get("updateStrategy").unwrap_or(&Value::Null);
    if !matches!(string(strategy, "type"), "RollingUpdate" | "OnDelete") {
        let detail = "must be 'RollingUpdate' or 'OnDelete'";
        e.invalid("spec.updateStrategy", strategy.clone(), detail);
    }
    let service = string(spec_value, "serviceName");
    if !service.is_empty() && old.is_none() {
        e.each("spec.serviceName", service, text::label(service));
    }
    if let Some(old) = old {
        const FREE: &[&str] = &[
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
        ];
        let fixed = |object: &Value| {
            let mut spec = spec(object).clone();
            if let Some(map) = spec.as_object_mut() {
                map.retain(|key, _| !FREE.contains(&key.as_str()));
            }
            spec
        };
        if fixed(new) != fixed(old) {
            e.forbidden(
                "spec",
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', \
                 'template', 'updateStrategy', 'revisionHistoryLimit', \
                 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
            );
        }
    }
}

fn job_spec(e: &mut Errors, spec: &Value, path: &str) {
    for key in ["parallelism", "completions", "activeDeadlineSeconds", "backoffLimit"] {
        e.not_negative(format!("{path}.{key}"), spec.get(key));
    }
    let deadline = spec.get("activeDeadlineSeconds").and_then(Value::as_i64);
    if let Some(seconds) = deadline.filter(|s| *s > i64::from(i32::MAX)) {
        let detail = format!("must be less than or equal to {}", i32::MAX);
        e.invalid(format!("{path}.activeDeadlineSeconds"), seconds, detail);
    }
    e.not_negative(format!("{path}.ttlSecondsAfterFinished"), spec.get("ttlSecondsAfterFinished"));
    let empty = Value::Null;
    let template = spec.get("template").unwrap_or(&empty);
    pod::template(e, template, &format!("{path}.template"));
    let field = format!("{path}.template.spec.restartPolicy");
    match template.pointer("/spec/restartPolicy").and_then(Value::as_str).unwrap_or_default() {
        "Always" => e.required(field, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" | "Never" => {}
        other => e.not_supported(field, other, &["OnFailure", "Never"]),
    }
    if string(spec, "completionMode") == "Indexed" && spec.get("completions").is_none() {
        let detail = "when completion mode is Indexed";
        e.required(format!("{path}.completions"), detail);
    }
}

pub(super) fn job(e: &mut Errors, new: &Value, old: Option<&Value>) {
    let is = spec(new);
    job_spec(e, is, "spec");
    selector::selector(e, is.get("selector"), "spec.selector");
    if let Some(old) = old {
        let was = spec(old);
        for key in ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex"] {
            e.immutable(&format!("spec.{key}"), is.get(key), was.get(key));
        }
        let suspended = was.get("suspend") == Some(&Value::Bool(true));
        if !suspended {
            e.immutable("spec.template", is.get("template"), was.get("template"));
        }
        if string(is, "completionMode") != "Indexed" {
            e.immutable("spec.completions", is.get("completions"), was.get("completions"));
        }
    }
}

pub(super) fn cron_job(e: &mut Errors, new: &Value, old: Option<&Value>) {
    let spec = spec(new);
    let name = new.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    if old.is_none() && name.len() > CRON_JOB_NAME_MAX {
        let detail = format!("must be no more than {CRON_JOB_NAME_MAX} characters");
        e.invalid("metadata.name", name, detail);
    }
    let schedule = string(spec, "schedule");
    if schedule.is_empty() {
        e.required("spec.schedule", "");
    } else if !schedule.starts_with('@') && schedule.split_whitespace().count() != 5 {
        let count = schedule.split_whitespace().count();
        let detail = format!("expected exactly 5 fields, found {count}: [{schedule}]");
        e.invalid("spec.schedule", schedule, detail);
    }
    let policy = string(spec, "concurrencyPolicy");
    e.one_of("spec.concurrencyPolicy", policy, &["Allow", "Forbid", "Replace"]);
    for key in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        e.not_negative(format!("spec.{key}"), spec.get(key));
    }
    let empty = Value::Null;
    job_spec(e, spec.pointer("/jobTemplate/spec").unwrap_or(&empty), "spec.jobTemplate.spec");
}

pub(super) fn autoscaler(e: &mut Errors, new: &Value, _: Option<&Value>) {
    let spec = spec(new);
    let most = integer(spec, "maxReplicas");
    if most < 1 {
        e.invalid("spec.maxReplicas", most, "must be greater than 0");
    } else if let Some(least) = spec.get("minReplicas").and_then(Value::as_i64)
        && most < least
    {
        let detail = "must be greater than or equal to `minReplicas`";
        e.invalid("spec.maxReplicas", most, detail);
    }
    let target = spec.get("scaleTargetRef").unwrap_or(&Value::Null);
    for key in ["kind", "name"] {
        if string(target, key).is_empty() {
            e.required(format!("spec.scaleTargetRef.{key}"), "");
        }
    }
}

pub(super) fn disruption_budget(e: &mut Errors, new: &Value, _: Option<&Value>) {
    let spec = spec(new);
    if spec.get("minAvailable").is_some() && spec.get("maxUnavailable").is_some() {
        e.invalid("spec", spec.clone(), "minAvailable and maxUnavailable cannot be both set");
    }
    count_or_percent(e, spec.get("minAvailable"), "spec.minAvailable");
    count_or_percent(e, spec.get("maxUnavailable"), "spec.maxUnavailable");
    selector::selector(e, spec.get("selector"), "spec.selector");
}
