//! Delete: at once, gracefully, or when the last finalizer goes.

use super::{Ctx, Outcome, has_finalizers, later, meta, refused, remove_meta, time_text, update};
use crate::{
    definitions,
    error::ApiError,
    server::{State, attrs},
    store::{Commit, CommitError, Expect, Key, Scope, Write},
};
use serde_json::{Value, json};
use weft_kinds::{Kind, status};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// `terminationGracePeriodSeconds` of a pod that says nothing.
const GRACE_DEFAULT_SECONDS: i64 = 30;
/// Longest grace; longer periods are cut to it.
const GRACE_MAX_SECONDS: i64 = 1 << 31;
/// Namespaces that every cluster has; kube-apiserver refuses to delete them, too.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];
const RACES_MAX: usize = 50;

/// `metav1.DeleteOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_seconds: Option<i64>,
    pub(crate) propagation: Option<Propagation>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) dry_run: bool,
}

/// What becomes of dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

impl DeleteOptions {
    /// Reads a DeleteOptions body (or an empty one).
    pub(crate) fn parse(body: &Value) -> Result<Self, ApiError> {
        if body["propagationPolicy"].is_string() && body["orphanDependents"].is_boolean() {
            let error = weft_kinds::FieldError {
                field: "propagationPolicy".into(),
                kind: weft_kinds::FieldErrorKind::Invalid,
                bad_value: Some(body["propagationPolicy"].clone()),
                detail: "orphanDependents and deletionPropagation cannot be both set".into(),
            };
            return Err(status::invalid_options("DeleteOptions", &[error]).into());
        }
        let dry_run = body["dryRun"].as_array().map(Vec::as_slice).unwrap_or_default();
        if dry_run.iter().any(|v| v != "All") {
            let error = weft_kinds::FieldError {
                field: "dryRun".into(),
                kind: weft_kinds::FieldErrorKind::NotSupported,
                bad_value: Some(body["dryRun"].clone()),
                detail: "supported values: \"All\"".into(),
            };
            return Err(status::invalid_options("DeleteOptions", &[error]).into());
        }
        let propagation = match body["propagationPolicy"].as_str() {
            Some(text) => Some(Propagation::parse(text)?),
            None => body["orphanDependents"]
                .as_bool()
                .map(|orphan| if orphan { Propagation::Orphan } else { Propagation::Background }),
        };
        let text = |v: &Value| v.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
        Ok(Self {
            grace_seconds: body["gracePeriodSeconds"].as_i64(),
            propagation,
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
            dry_run: !dry_run.is_empty(),
        })
    }
}

impl Propagation {
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        match text {
            "Background" => Ok(Self::Background),
            "Foreground" => Ok(Self::Foreground),
            "Orphan" => Ok(Self::Orphan),
            other => Err(status::failure(
                422,
                "Invalid",
                format!(
                    "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
                ),
            )
            .into()),
        }
    }
}

impl State {
    pub(crate) fn delete(
        &self,
        ctx: &Ctx,
        kind: &Kind,
        key: &Key,
        options: &DeleteOptions,
    ) -> Result<Outcome, ApiError> {
        let kind = kind.storage();
        if kind.kind == "Namespace" && IMMORTAL.contains(&&*key.name) {
            let why = "this namespace may not be deleted";
            return Err(status::forbidden(kind, &key.name, why).into());
        }
        for _ in 0..RACES_MAX {
            let entry = self.existing(kind, key)?;
            let old = entry.value();
            preconditions(kind, key, options, &old)?;
            let next = plan(kind, &old, options, ctx.now);
            let (write, gone) = match next {
                Next::Unchanged => return Ok(Outcome::entry(200, &entry)),
                Next::Marked(v) => (Write::Put(v), false),
                Next::Gone => (Write::Delete(old.clone()), true),
            };
            let committed = self.store.commit(
                Commit {
                    table: self.table(kind),
                    key,
                    expect: Expect::At(entry.rv),
                    write,
                    dry_run: ctx.dry_run || options.dry_run,
                },
                |v| attrs(kind, v),
                |txn, write| {
                    self.registry().check_fresh(txn, kind, false)?;
                    Ok(Some(self.release(txn, kind, Some(&old), write)))
                },
                |effect| self.allocated(effect),
            );
            match committed {
                Ok(e) if !gone || returned(kind) => return Ok(Outcome::entry(200, &e)),
                Ok(_) => {
                    let done = status::deleted(kind, &key.name, meta(&old, "uid"));
                    return Ok(Outcome::value(200, &done));
                }
                Err(CommitError::Raced) => continue,
                Err(e) => return Err(refused(e, kind, &key.name)),
            }
        }
        Err(status::conflict(kind, &key.name).into())
    }

    /// Deletes what the scope selects, one by one, and returns what was there.
    pub(crate) fn delete_collection(
        &self,
        ctx: &Ctx,
        kind: &Kind,
        scope: &Scope,
        options: &DeleteOptions,
    ) -> Result<crate::store::Listing, ApiError> {
        let listing = self.store.list(self.table(kind), scope, None, None, 0)?;
        for (key, _) in &listing.items {
            match self.delete(ctx, kind, key, options) {
                Err(e) if e.code() != 404 => return Err(e),
                _ => {}
            }
        }
        Ok(listing)
    }

    /// Removes Events last seen before `before`.
    pub(crate) fn expire_events(&self, before: jiff::Timestamp) {
        let events = weft_kinds::lookup("", "v1", "events").expect("invariant: events have a row");
        let Ok(all) = self.store.list(self.table(events), &Scope::default(), None, None, 0) else {
            return;
        };
        for (key, entry) in all.items {
            let e = entry.value();
            let seen = [&e["lastTimestamp"], &e["eventTime"], &e["metadata"]["creationTimestamp"]]
                .into_iter()
                .find_map(|t| t.as_str()?.parse::<jiff::Timestamp>().ok());
            if seen.is_some_and(|t| t < before) {
                // Gone meanwhile is as good.
                let _ = self.delete(&Ctx::internal(), events, &key, &DeleteOptions::default());
            }
        }
    }
}

/// Kinds whose deleted objects are answered; of others only that they are gone.
fn returned(kind: &Kind) -> bool {
    matches!(
        kind.type_name(),
        "core.v1.Pod"
            | "core.v1.Service"
            | "core.v1.ServiceAccount"
            | "core.v1.Namespace"
            | "core.v1.PersistentVolume"
            | "core.v1.PersistentVolumeClaim"
            | "core.v1.PodTemplate"
            | "core.v1.ResourceQuota"
            | "storage.v1.StorageClass"
    )
}

fn preconditions(
    kind: &Kind,
    key: &Key,
    options: &DeleteOptions,
    old: &Value,
) -> Result<(), ApiError> {
    let checks = [
        ("UID", &options.uid, "uid"),
        ("ResourceVersion", &options.resource_version, "resourceVersion"),
    ];
    for (what, wanted, field) in checks {
        if let Some(wanted) = wanted
            && wanted != meta(old, field)
        {
            let actual = meta(old, field);
            let why = format!(
                "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {actual}"
            );
            return Err(status::conflict_because(kind, &key.name, &why).into());
        }
    }
    Ok(())
}

/// What a delete does to an object.
#[derive(Debug, PartialEq)]
enum Next {
    Unchanged,
    Marked(Value),
    Gone,
}

/// `rest.BeforeDelete` and `markAsDeleting` of kube-apiserver.
fn plan(kind: &Kind, old: &Value, options: &DeleteOptions, now: jiff::Timestamp) -> Next {
    let mut new = old.clone();
    set_gc_finalizers(kind, &mut new, options.propagation);
    let deleting = old["metadata"]["deletionTimestamp"].as_str();
    let grace = if kind.graceful { grace_seconds(old, options) } else { 0 };
    if deleting.is_none() && kind.type_name() == definitions::definitions().type_name() {
        definitions::begin_deletion(&mut new, &time_text(now));
    }
    let keeps = has_finalizers(&new)
        || (kind.kind == "Namespace"
            && new
                .pointer("/spec/finalizers")
                .and_then(Value::as_array)
                .is_some_and(|f| !f.is_empty()));
    match deleting {
        Some(since) => {
            let was = old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
            // Only shorter: what was promised first ends at the latest then.
            if options.grace_seconds.is_none() && kind.graceful && was > 0
                || grace >= was && was > 0
            {
                return if new == *old { Next::Unchanged } else { Next::Marked(new) };
            }
            if grace == 0 && !keeps {
                return Next::Gone;
            }
            if was > grace {
                let end = later(since.parse().unwrap_or(now), grace.saturating_sub(was));
                new["metadata"]["deletionTimestamp"] = time_text(end).into();
                new["metadata"]["deletionGracePeriodSeconds"] = grace.into();
            }
        }
        None if grace == 0 && !keeps => return Next::Gone,
        None => {
            let end = later(now, grace);
            new["metadata"]["deletionTimestamp"] = time_text(end).into();
            new["metadata"]["deletionGracePeriodSeconds"] = grace.into();
            if let Some(g) = old["metadata"]["generation"].as_i64() {
                new["metadata"]["generation"] = g.saturating_add(1).into();
            }
            if kind.kind == "Namespace" {
                new["status"]["phase"] = "Terminating".into();
            }
        }
    }
    if update::finished_deletion(&new) {
        Next::Gone
    } else if new == *old {
        Next::Unchanged
    } else {
        Next::Marked(new)
    }
}

/// The grace of a pod: none where nothing runs.
fn grace_seconds(pod: &Value, options: &DeleteOptions) -> i64 {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    let unscheduled = pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    if unscheduled || matches!(phase, "Failed" | "Succeeded") {
        return 0;
    }
    let grace = options
        .grace_seconds
        .or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64())
        .unwrap_or(GRACE_DEFAULT_SECONDS);
    // A negative period means at once, by way of the kubelet.
    if grace < 0 { 1 } else { grace.min(GRACE_MAX_SECONDS) }
}

/// Orphan and Foreground are finalizers that the garbage collector works off, of every kind but
/// Events, which it does not watch.
fn set_gc_finalizers(kind: &Kind, object: &mut Value, propagation: Option<Propagation>) {
    let Some(mut policy) = propagation else { return };
    if kind.kind == "Event" {
        policy = Propagation::Background;
    }
    let mut list: Vec<Value> = object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|f| *f != ORPHAN && *f != FOREGROUND)
        .cloned()
        .collect();
    match policy {
        Propagation::Background => {}
        Propagation::Foreground => list.push(json!(FOREGROUND)),
        Propagation::Orphan => list.push(json!(ORPHAN)),
    }
    if list.is_empty() {
        remove_meta(object, "finalizers");
    } else {
        object["metadata"]["finalizers"] = list.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(extra: Value) -> Value {
        let mut p = json!({"kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "n"}, "status": {}});
        json_patch::merge(&mut p, &extra);
        p
    }

    fn kind(plural: &str) -> &'static Kind {
        weft_kinds::lookup("", "v1", plural).unwrap()
    }

    fn with(grace: Option<i64>) -> DeleteOptions {
        DeleteOptions { grace_seconds: grace, ..Default::default() }
    }

    fn at() -> jiff::Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_running_pod_gets_its_grace_and_an_unscheduled_one_none() {
        let pods = kind("pods");
        let Next::Marked(m) = plan(pods, &pod(json!({})), &with(None), at()) else { panic!() };
        assert_eq!(m["metadata"]["deletionGracePeriodSeconds"], 30);
        assert_eq!(m["metadata"]["deletionTimestamp"], "2026-01-01T00:00:30Z");
        assert_eq!(plan(pods, &pod(json!({})), &with(Some(0)), at()), Next::Gone);
        assert_eq!(
            plan(pods, &pod(json!({"spec": {"nodeName": null}})), &with(None), at()),
            Next::Gone
        );
        assert_eq!(
            plan(pods, &pod(json!({"status": {"phase": "Failed"}})), &with(None), at()),
            Next::Gone
        );
    }

    #[test]
    fn no_grace_overflows() {
        let pods = kind("pods");
        for grace in [i64::MAX, i64::MIN, 1 << 40] {
            let Next::Marked(m) = plan(pods, &pod(json!({})), &with(Some(grace)), at()) else {
                panic!()
            };
            let given = m["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap();
            assert!((1..=GRACE_MAX_SECONDS).contains(&given));
            let own = pod(json!({"spec": {"terminationGracePeriodSeconds": grace}}));
            assert!(matches!(plan(pods, &own, &with(None), at()), Next::Marked(_)));
            assert!(matches!(plan(pods, &m, &with(Some(0)), at()), Next::Gone));
        }
        assert_eq!(later(at(), i64::MAX), jiff::Timestamp::MAX);
    }

    #[test]
    fn only_what_is_collected_waits_for_the_collector() {
        let foreground =
            DeleteOptions { propagation: Some(Propagation::Foreground), ..Default::default() };
        let v = json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "c"}});
        let claims = kind("persistentvolumeclaims");
        let Next::Marked(marked) = plan(claims, &v, &foreground, at()) else { panic!() };
        assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]));
        let v = json!({"kind": "Event", "metadata": {"name": "e"}});
        assert_eq!(plan(kind("events"), &v, &foreground, at()), Next::Gone);
    }

    #[test]
    fn a_second_delete_only_shortens() {
        let pods = kind("pods");
        let Next::Marked(m) = plan(pods, &pod(json!({})), &with(None), at()) else { panic!() };
        assert_eq!(plan(pods, &m, &with(None), at()), Next::Unchanged);
        assert_eq!(plan(pods, &m, &with(Some(60)), at()), Next::Unchanged);
        let Next::Marked(s) = plan(pods, &m, &with(Some(5)), at()) else { panic!() };
        assert_eq!(s["metadata"]["deletionTimestamp"], "2026-01-01T00:00:05Z");
        assert_eq!(plan(pods, &s, &with(Some(0)), at()), Next::Gone);
    }

    #[test]
    fn finalizers_keep_the_object() {
        let o = json!({"kind": "ConfigMap", "metadata": {"name": "c", "finalizers": ["a/b"]}});
        let Next::Marked(m) = plan(kind("configmaps"), &o, &with(None), at()) else { panic!() };
        assert!(m["metadata"]["deletionTimestamp"].is_string());
        assert_eq!(plan(kind("configmaps"), &m, &with(None), at()), Next::Unchanged);
        let foreground =
            DeleteOptions { propagation: Some(Propagation::Foreground), ..Default::default() };
        let plain = json!({"kind": "ConfigMap", "metadata": {"name": "c"}});
        let Next::Marked(m) = plan(kind("configmaps"), &plain, &foreground, at()) else { panic!() };
        assert_eq!(m["metadata"]["finalizers"], json!(["foregroundDeletion"]));
        let background =
            DeleteOptions { propagation: Some(Propagation::Background), ..Default::default() };
        assert_eq!(plan(kind("configmaps"), &m, &background, at()), Next::Gone);
    }

    #[test]
    fn a_namespace_waits_for_its_controller() {
        let ns = json!({"kind": "Namespace", "metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}});
        let Next::Marked(m) = plan(kind("namespaces"), &ns, &with(None), at()) else { panic!() };
        assert_eq!(m["status"]["phase"], "Terminating");
    }
}
