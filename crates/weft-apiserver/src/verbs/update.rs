//! Update and patch: one loop that reads, changes, checks and commits.

use super::{Ctx, Outcome, Part, Tracking, has_finalizers, meta, refused, remove_meta, to_storage};
use crate::{
    alloc,
    error::ApiError,
    fields::{self, Managed},
    server::{State, attrs},
    store::{Commit, CommitError, Expect, Key, Write},
};
use serde_json::{Value, json};
use weft_kinds::{
    Kind,
    decode::{self, Decoded},
    default,
    patch::{self, PatchError},
    schema, status, strategy, validate, warnings,
};

/// A change without a resourceVersion that loses this many races is given up.
const RACES_MAX: usize = 50;

/// The body of a PATCH, by content type.
#[derive(Clone, Debug)]
pub(crate) enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
}

/// What the server alone decides, or what never changes.
const KEPT: &[&str] = &[
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "generateName",
];

impl State {
    /// PUT.
    pub(crate) fn update(
        &self,
        ctx: &mut Ctx,
        kind: &Kind,
        key: &Key,
        part: Part,
        mut object: Value,
    ) -> Result<Outcome, ApiError> {
        let asked = kind;
        super::create::settle_namespace(kind, &mut object, Some(&key.namespace))?;
        let kind = to_storage(kind, &mut object);
        match meta(&object, "name") {
            "" => {
                return Err(status::bad_request(format!(
                    "the name of the object (based on URL) was undeterminable: name must be provided for {}",
                    key.name
                ))
                .into());
            }
            name if name != &*key.name => {
                return Err(status::bad_request(format!(
                    "the name of the object ({name}) does not match the name on the URL ({})",
                    key.name
                ))
                .into());
            }
            _ => {}
        }
        if part == Part::Main
            && created_by_update(kind)
            && self.store.get(self.table(kind), key).is_none()
        {
            remove_meta(&mut object, "resourceVersion");
            super::events::value_from_storage(asked, &mut object);
            let namespace = kind.namespaced.then_some(&*key.namespace);
            let decoded = Decoded { object: object.clone(), strict: Vec::new() };
            match self.create(ctx, asked, namespace, decoded) {
                Err(e) if e.reason() == "AlreadyExists" => {}
                done => return done,
            }
            to_storage(asked, &mut object);
        }
        let versioned =
            matches!(meta(&object, "resourceVersion"), "" | "0") && updated_by_version(kind);
        self.change(ctx, kind, key, part, Tracking::Update, |_, _| match versioned {
            true => Err(unversioned(kind, &key.name)),
            false => Ok(object.clone()),
        })
    }

    /// PATCH, except server-side apply.
    pub(crate) fn patch(
        &self,
        ctx: &mut Ctx,
        kind: &Kind,
        key: &Key,
        part: Part,
        patch: &Patch,
    ) -> Result<Outcome, ApiError> {
        let stored = kind.storage();
        self.change(ctx, stored, key, part, Tracking::Update, |ctx, old| {
            let mut view = old.clone();
            super::events::value_from_storage(kind, &mut view);
            let patched = match patch {
                Patch::Json(p) => patch::json(&view, p),
                Patch::Merge(p) => patch::merge(&view, p),
                Patch::Strategic(p) => patch::strategic(kind, &view, p),
            };
            let object = patched.map_err(|e| match e {
                PatchError::Malformed(m) => status::bad_request(m),
                PatchError::Unprocessable(m) => status::failure(422, "Invalid", m),
                PatchError::TooLarge(m) => status::failure(413, "RequestEntityTooLarge", m),
            })?;
            let mut object = conform(ctx, kind, object)?;
            for field in ["name", "namespace"] {
                if meta(&object, field) != meta(&view, field) {
                    return Err(status::bad_request(format!(
                        "the {field} of the object ({}) does not match the {field} on the URL ({})",
                        meta(&object, field),
                        meta(&view, field)
                    ))
                    .into());
                }
            }
            to_storage(kind, &mut object);
            Ok(object)
        })
    }

    /// Reads the object, lets `make` say what it becomes, checks that and commits it; starts
    /// again when someone else was faster and the request named no version.
    pub(crate) fn change(
        &self,
        ctx: &mut Ctx,
        kind: &Kind,
        key: &Key,
        part: Part,
        tracking: Tracking,
        make: impl Fn(&mut Ctx, &Value) -> Result<Value, ApiError>,
    ) -> Result<Outcome, ApiError> {
        for _ in 0..RACES_MAX {
            let entry = self.existing(kind, key)?;
            let old = entry.value();
            let warned = ctx.warnings.len();
            let mut new = make(ctx, &old)?;
            check_preconditions(kind, key, &new, &old)?;
            let managed = match tracking {
                Tracking::Update => Some(Managed::of_write(&old, &new, part.name())),
                Tracking::Done => None,
            };
            settle(kind, part, &mut new, &old)?;
            if let Some(managed) = managed {
                let (now, api_version) = (ctx.now_text(), kind.api_version());
                let by = ctx.writer(part, kind, &api_version, &now);
                fields::update(schema::of(kind), &old, &mut new, managed, &by);
            }
            if fields::same_but_times(&new, &old) {
                return Ok(Outcome::entry(200, &entry));
            }
            if !alloc::validates(kind, part) {
                let errors = match part {
                    Part::Resize => {
                        // Resources are what this may change.
                        let mut before = old.clone();
                        resources(&mut before, &new);
                        validate(kind, &new, Some(&before))
                    }
                    _ => validate(kind, &new, Some(&old)),
                };
                if !errors.is_empty() {
                    return Err(status::invalid(kind, &key.name, &errors).into());
                }
            }
            let doubts = warnings(kind, &new, Some(&old), part == Part::Status);
            let mut unchanged = false;
            let write = if finished_deletion(&new) { Write::Delete(new) } else { Write::Put(new) };
            let committed = self.store.commit(
                Commit {
                    table: self.table(kind),
                    key,
                    expect: Expect::At(entry.rv),
                    write,
                    dry_run: ctx.dry_run,
                },
                |v| attrs(kind, v),
                |txn, write| {
                    self.registry().check_fresh(txn, kind, false)?;
                    let effect = self.allocate(ctx, txn, kind, part, Some(&old), write)?;
                    unchanged = effect.is_none();
                    if unchanged {
                        Err(status::conflict(kind, &key.name).into())
                    } else {
                        Ok(effect)
                    }
                },
                |effect| self.allocated(effect),
            );
            match committed {
                Ok(entry) => {
                    ctx.warnings.extend(doubts);
                    return Ok(Outcome::entry(200, &entry));
                }
                // Completed, it is what it was.
                Err(CommitError::Refused(_)) if unchanged => {
                    return Ok(Outcome::entry(200, &entry));
                }
                Err(CommitError::Raced) => ctx.warnings.truncate(warned),
                Err(e) => return Err(refused(e, kind, &key.name)),
            }
        }
        Err(status::conflict(kind, &key.name).into())
    }
}

/// Checks types and unknown fields of an object that a patch made.
pub(super) fn conform(ctx: &mut Ctx, kind: &Kind, object: Value) -> Result<Value, ApiError> {
    let mut decoded = Decoded { object, strict: Vec::new() };
    decode::conform(kind, &mut decoded).map_err(|e| status::undecodable(kind, e))?;
    ctx.strict(kind, decoded.strict)?;
    Ok(decoded.object)
}

fn check_preconditions(kind: &Kind, key: &Key, new: &Value, old: &Value) -> Result<(), ApiError> {
    let (given, actual) = (meta(new, "resourceVersion"), meta(old, "resourceVersion"));
    if !matches!(given, "" | "0") && given != actual {
        return Err(status::conflict(kind, &key.name).into());
    }
    let (given, actual) = (meta(new, "uid"), meta(old, "uid"));
    if !given.is_empty() && given != actual {
        let why = format!(
            "Precondition failed: UID in precondition: {given}, UID in object meta: {actual}"
        );
        return Err(status::conflict_because(kind, &key.name, &why).into());
    }
    Ok(())
}

/// Gives the new object what a request cannot decide, and takes from it what this part of the
/// resource cannot change.
fn settle(kind: &Kind, part: Part, new: &mut Value, old: &Value) -> Result<(), ApiError> {
    for key in KEPT {
        match old["metadata"].get(key) {
            Some(v) => new["metadata"][key] = v.clone(),
            None => remove_meta(new, key),
        }
    }
    new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
    match part {
        Part::EphemeralContainers | Part::Resize | Part::Main | Part::Scale => {
            match part {
                Part::EphemeralContainers => only(new, old, ephemeral_containers),
                Part::Resize => only(new, old, resources),
                _ => {}
            }
            if kind.kind == "Namespace" {
                keep(new, old, "spec");
            }
            // What is kept depends on the type, and that may be a default.
            default(kind, new);
            alloc::prepare(kind, new, Some(old));
            strategy::prepare_update(kind, new, old);
        }
        Part::Status => {
            // Some defaults of the status depend on what the request says of the spec.
            default(kind, new);
            strategy::prepare_status_update(new, old);
        }
        Part::Binding => {}
        Part::Finalize => {
            let finalizers = new["spec"]["finalizers"].take();
            *new = old.clone();
            new["spec"]["finalizers"] = finalizers;
        }
    }
    if old["metadata"]["deletionTimestamp"].is_string() {
        let list = |v: &Value| {
            v.pointer("/metadata/finalizers").and_then(Value::as_array).cloned().unwrap_or_default()
        };
        let before = list(old);
        let added: Vec<Value> = list(new).into_iter().filter(|f| !before.contains(f)).collect();
        if !added.is_empty() {
            let error = weft_kinds::FieldError {
                field: "metadata.finalizers".into(),
                kind: weft_kinds::FieldErrorKind::Forbidden,
                bad_value: None,
                detail: format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers {}",
                    Value::Array(added)
                ),
            };
            return Err(status::invalid(kind, meta(old, "name"), &[error]).into());
        }
    }
    // An empty list and none are the same.
    if !has_finalizers(new) {
        remove_meta(new, "finalizers");
    }
    Ok(())
}

/// Kinds of which a PUT makes what is not there.
fn created_by_update(kind: &Kind) -> bool {
    matches!(
        kind.type_name(),
        "core.v1.Service"
            | "core.v1.Endpoints"
            | "core.v1.Event"
            | "core.v1.LimitRange"
            | "coordination.v1.Lease"
            | "rbac.v1.Role"
            | "rbac.v1.RoleBinding"
            | "rbac.v1.ClusterRole"
            | "rbac.v1.ClusterRoleBinding"
    )
}

/// Kinds of which a PUT has to say which version it replaces.
fn updated_by_version(kind: &Kind) -> bool {
    kind.custom().is_some()
        || matches!(
            kind.type_name(),
            "coordination.v1.Lease" | "apiextensions.v1.CustomResourceDefinition"
        )
}

/// 422 for a PUT without a version. It names the resource, where other refusals name the kind.
fn unversioned(kind: &Kind, name: &str) -> ApiError {
    let (field, what) =
        ("metadata.resourceVersion", "Invalid value: 0x0: must be specified for an update");
    let why = format!("{} {name:?} is invalid: {field}: {what}", kind.qualified_plural());
    let mut refused = status::failure(422, "Invalid", why);
    refused["details"] = json!({
        "name": name, "group": kind.group, "kind": kind.plural,
        "causes": [{"reason": "FieldValueInvalid", "message": what, "field": field}],
    });
    refused.into()
}

/// The stored object with one thing out of the new one.
fn only(new: &mut Value, old: &Value, take: impl Fn(&mut Value, &Value)) {
    let wanted = std::mem::replace(new, old.clone());
    take(new, &wanted);
}

fn ephemeral_containers(pod: &mut Value, wanted: &Value) {
    match wanted["spec"].get("ephemeralContainers") {
        Some(list) => pod["spec"]["ephemeralContainers"] = list.clone(),
        None => {
            drop(pod["spec"].as_object_mut().and_then(|s| s.shift_remove("ephemeralContainers")))
        }
    }
}

/// Resources and resize policies of the containers that are there.
fn resources(pod: &mut Value, wanted: &Value) {
    for list in ["containers", "initContainers"] {
        let Some(containers) = pod["spec"][list].as_array_mut() else { continue };
        for container in containers {
            let named = |c: &&Value| c["name"] == container["name"];
            let Some(new) = wanted["spec"][list].as_array().and_then(|l| l.iter().find(named))
            else {
                continue;
            };
            for key in ["resources", "resizePolicy"] {
                keep(container, new, key);
            }
        }
    }
}

fn keep(new: &mut Value, old: &Value, key: &str) {
    match (old.get(key), new.as_object_mut()) {
        (Some(v), Some(map)) => drop(map.insert(key.to_owned(), v.clone())),
        (None, Some(map)) => drop(map.shift_remove(key)),
        _ => {}
    }
}

/// Whether nothing keeps an object that is being deleted any more.
pub(super) fn finished_deletion(object: &Value) -> bool {
    let metadata = &object["metadata"];
    metadata["deletionTimestamp"].is_string()
        && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && !has_finalizers(object)
        && !(object["kind"] == "Namespace"
            && object
                .pointer("/spec/finalizers")
                .and_then(Value::as_array)
                .is_some_and(|f| !f.is_empty()))
}
