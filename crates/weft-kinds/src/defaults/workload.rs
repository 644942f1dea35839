//! Defaults of what makes pods.

use serde_json::{Value, json};

use super::{Object, ensure, items, member, persistent_volume_claim, pod, put, put_in, text};

fn spec_and_template(object: &mut Object) -> Option<&mut Object> {
    let spec = ensure(object, "spec")?;
    if let Some(template) = ensure(spec, "template") {
        pod::template(template);
    }
    Some(spec)
}

pub(super) fn deployment(object: &mut Object) {
    let Some(spec) = spec_and_template(object) else { return };
    put(spec, "replicas", 1);
    put(spec, "revisionHistoryLimit", 10);
    put(spec, "progressDeadlineSeconds", 600);
    put_in(spec, "strategy", "type", "RollingUpdate");
    if let Some(strategy) = member(spec, "strategy")
        && text(strategy, "type") == "RollingUpdate"
    {
        put_in(strategy, "rollingUpdate", "maxUnavailable", "25%");
        put_in(strategy, "rollingUpdate", "maxSurge", "25%");
    }
}

pub(super) fn replica_set(object: &mut Object) {
    if let Some(spec) = spec_and_template(object) {
        put(spec, "replicas", 1);
    }
}

pub(super) fn replication_controller(object: &mut Object) {
    let Some(spec) = spec_and_template(object) else { return };
    put(spec, "replicas", 1);
    let labels = spec.get("template").and_then(|t| t.pointer("/metadata/labels")).cloned();
    if let Some(labels) = labels {
        put(spec, "selector", labels);
    }
}

pub(super) fn daemon_set(object: &mut Object) {
    let Some(spec) = spec_and_template(object) else { return };
    put(spec, "revisionHistoryLimit", 10);
    put_in(spec, "updateStrategy", "type", "RollingUpdate");
    if let Some(strategy) = member(spec, "updateStrategy")
        && text(strategy, "type") == "RollingUpdate"
    {
        put_in(strategy, "rollingUpdate", "maxUnavailable", 1);
        put_in(strategy, "rollingUpdate", "maxSurge", 0);
    }
}

pub(super) fn stateful_set(object: &mut Object) {
    let Some(spec) = spec_and_template(object) else { return };
    put(spec, "replicas", 1);
    put(spec, "revisionHistoryLimit", 10);
    put(spec, "podManagementPolicy", "OrderedReady");
    put_in(spec, "updateStrategy", "type", "RollingUpdate");
    if let Some(strategy) = member(spec, "updateStrategy")
        && text(strategy, "type") == "RollingUpdate"
    {
        put_in(strategy, "rollingUpdate", "partition", 0);
    }
    put_in(spec, "persistentVolumeClaimRetentionPolicy", "whenDeleted", "Retain");
    put_in(spec, "persistentVolumeClaimRetentionPolicy", "whenScaled", "Retain");
    for claim in items(spec, "volumeClaimTemplates") {
        put(claim, "apiVersion", "v1");
        put(claim, "kind", "PersistentVolumeClaim");
        persistent_volume_claim(claim);
    }
}

pub(super) fn job(object: &mut Object) {
    if let Some(spec) = ensure(object, "spec") {
        job_spec(spec);
    }
    job_selector(object);
}

fn job_spec(spec: &mut Object) {
    if let Some(template) = ensure(spec, "template") {
        pod::template(template);
    }
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        put(spec, "completions", 1);
    }
    put(spec, "parallelism", 1);
    let retries = if spec.contains_key("backoffLimitPerIndex") { i32::MAX } else { 6 };
    put(spec, "backoffLimit", retries);
    put(spec, "completionMode", "NonIndexed");
    put(spec, "suspend", false);
    put(spec, "manualSelector", false);
    let replacement =
        if spec.contains_key("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    put(spec, "podReplacementPolicy", replacement);
}

pub(super) fn cron_job(object: &mut Object) {
    let Some(spec) = ensure(object, "spec") else { return };
    put(spec, "concurrencyPolicy", "Allow");
    put(spec, "suspend", false);
    put(spec, "successfulJobsHistoryLimit", 3);
    put(spec, "failedJobsHistoryLimit", 1);
    if let Some(template) = ensure(spec, "jobTemplate")
        && let Some(inner) = ensure(template, "spec")
        && let Some(pod_template) = ensure(inner, "template")
    {
        // The Job's own defaults are filled in when the Job is made.
        pod::template(pod_template);
    }
}

/// The labels and the selector that tie a Job's pods to it, once it has a uid and a name.
fn job_selector(object: &mut Object) {
    let field = |key: &str| {
        let value = object.get("metadata").and_then(|m| m.get(key)).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    let (name, uid) = (field("name"), field("uid"));
    let Some(spec) = ensure(object, "spec") else { return };
    if spec.get("manualSelector") == Some(&Value::Bool(true))
        || spec.contains_key("selector")
        || uid.is_empty()
        || name.is_empty()
    {
        return;
    }
    let template = ensure(spec, "template").and_then(|t| ensure(t, "metadata"));
    if let Some(labels) = template.and_then(|m| ensure(m, "labels")) {
        for (key, value) in [
            ("batch.kubernetes.io/controller-uid", &uid),
            ("batch.kubernetes.io/job-name", &name),
            ("controller-uid", &uid),
            ("job-name", &name),
        ] {
            put(labels, key, value.as_str());
        }
    }
    put(spec, "selector", json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}));
}
