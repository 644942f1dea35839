//! Server-side apply.
//!
//! Only appliers own fields here: an Update takes nothing over. So two appliers conflict as they
//! do in Kubernetes, and an applier and a plain writer do not.

use super::{Ctx, Outcome, Part, meta, remove_meta, to_storage, update};
use crate::{
    error::ApiError,
    fields::{Element, FieldSet, merge, path_text, remove, value_at},
    server::State,
    store::Key,
};
use serde_json::{Value, json};
use weft_kinds::{
    Kind,
    decode::{self, Decoded},
    schema::{self, Type},
    status,
};

impl State {
    /// PATCH with `application/apply-patch+yaml`.
    pub(crate) fn apply(
        &self,
        ctx: &mut Ctx,
        kind: &Kind,
        key: &Key,
        part: Part,
        mut decoded: Decoded,
        force: bool,
    ) -> Result<Outcome, ApiError> {
        crate::http::body::type_meta(&mut decoded.object, &kind.api_version(), &kind.kind)?;
        decode::conform(kind, &mut decoded).map_err(|e| status::undecodable(kind, e))?;
        ctx.strict(kind, decoded.strict)?;
        let mut applied = decoded.object;
        check(key, &applied)?;
        super::create::settle_namespace(kind, &mut applied, Some(&key.namespace))?;
        applied["metadata"]["name"] = (*key.name).into();
        let kind = to_storage(kind, &mut applied);
        let of = schema::of(kind);
        if self.store.get(self.table(kind), key).is_none() && part == Part::Main {
            let mut object = applied.clone();
            let set = FieldSet::of(of, &applied);
            object["metadata"]["managedFields"] = json!([entry(ctx, kind, part, &set)]);
            let namespace = kind.namespaced.then_some(&*key.namespace);
            match self.create(ctx, kind, namespace, Decoded { object, strict: Vec::new() }) {
                Err(e) if e.code() == 409 => {}
                done => return done,
            }
        }
        self.change(ctx, kind, key, part, |ctx, old| {
            let new = applied_to(ctx, kind, of, part, old, &applied, force)?;
            update::conform(ctx, kind, new)
        })
    }
}

fn check(key: &Key, applied: &Value) -> Result<(), ApiError> {
    if applied["metadata"]["managedFields"].as_array().is_some_and(|m| !m.is_empty()) {
        return Err(status::bad_request("metadata.managedFields must be nil").into());
    }
    let name = meta(applied, "name");
    if !name.is_empty() && name != &*key.name {
        return Err(status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            key.name
        ))
        .into());
    }
    Ok(())
}

/// The object after this manager's configuration.
fn applied_to(
    ctx: &Ctx,
    kind: &Kind,
    of: &'static Type,
    part: Part,
    old: &Value,
    applied: &Value,
    force: bool,
) -> Result<Value, ApiError> {
    let set = FieldSet::of(of, applied);
    let entries = old["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let sub = subresource(part);
    let mine = |e: &Value| {
        e["manager"] == ctx.manager.as_str()
            && e["operation"] == "Apply"
            && e["subresource"].as_str().unwrap_or("") == sub
    };
    let before = entries.iter().find(|e| mine(e)).map(|e| FieldSet::parse(&e["fieldsV1"]));
    let mut others: Vec<(Value, FieldSet)> = entries
        .iter()
        .filter(|e| !mine(e))
        .map(|e| (e.clone(), FieldSet::parse(&e["fieldsV1"])))
        .collect();

    let mut conflicts: Vec<(String, Vec<Element>)> = Vec::new();
    for path in set.paths() {
        // Items of lists are owned together; what differs are their fields.
        if matches!(path.last(), Some(Element::Key(_))) {
            continue;
        }
        if value_at(of, old, &path) == value_at(of, applied, &path) {
            continue;
        }
        for (e, theirs) in &others {
            if theirs.at(&path).is_some_and(|s| s.own) {
                let who = e["manager"].as_str().unwrap_or_default().to_owned();
                conflicts.push((who, path.clone()));
            }
        }
    }
    if !conflicts.is_empty() && !force {
        return Err(conflict(&conflicts));
    }
    for (_, path) in &conflicts {
        others.iter_mut().for_each(|(_, s)| s.remove(path));
    }

    let mut new = merge(of, old, applied);
    if let Some(before) = before {
        // From the top: without its keys an item could not be found any more.
        for path in &before.minus(&set).paths() {
            let owned = |s: &FieldSet| s.at(path).is_some_and(|s| !s.is_empty());
            if !others.iter().any(|(_, s)| owned(s)) && set.at(path).is_none() {
                remove(of, &mut new, path);
            }
        }
    }
    let mut managed: Vec<Value> = Vec::new();
    for (mut e, s) in others {
        if !s.is_empty() {
            e["fieldsV1"] = s.to_value();
            managed.push(e);
        }
    }
    // An unchanged set keeps its entry and time, so that applying twice changes nothing.
    let kept = entries.iter().find(|e| mine(e) && e["fieldsV1"] == set.to_value()).cloned();
    managed.push(kept.unwrap_or_else(|| entry(ctx, kind, part, &set)));
    let in_order = |e: &Value| {
        entries
            .iter()
            .position(|o| ["manager", "operation", "subresource"].iter().all(|k| o[*k] == e[*k]))
    };
    managed.sort_by_key(|e| in_order(e).unwrap_or(usize::MAX));
    remove_meta(&mut new, "managedFields");
    new["metadata"]["managedFields"] = managed.into();
    Ok(new)
}

fn subresource(part: Part) -> &'static str {
    if part == Part::Status { "status" } else { "" }
}

fn entry(ctx: &Ctx, kind: &Kind, part: Part, set: &FieldSet) -> Value {
    let mut e = json!({
        "manager": ctx.manager,
        "operation": "Apply",
        "apiVersion": kind.api_version(),
        "time": ctx.now_text(),
        "fieldsType": "FieldsV1",
        "fieldsV1": set.to_value(),
    });
    if !subresource(part).is_empty() {
        e["subresource"] = subresource(part).into();
    }
    e
}

/// 409 as kubectl reads it: a cause per field and manager.
fn conflict(conflicts: &[(String, Vec<Element>)]) -> ApiError {
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|(who, path)| {
            json!({
                "reason": "FieldManagerConflict",
                "message": format!("conflict with {who:?}"),
                "field": path_text(path),
            })
        })
        .collect();
    let mut managers: Vec<&str> = conflicts.iter().map(|(w, _)| w.as_str()).collect();
    managers.sort();
    managers.dedup();
    let lines: Vec<String> = managers
        .iter()
        .map(|m| {
            let fields: Vec<String> = conflicts
                .iter()
                .filter(|(w, _)| w == m)
                .map(|(_, p)| format!("- {}", path_text(p)))
                .collect();
            format!("conflicts with {m:?}:\n{}", fields.join("\n"))
        })
        .collect();
    let (count, noun) =
        (conflicts.len(), if conflicts.len() == 1 { "conflict" } else { "conflicts" });
    let text = if conflicts.len() == 1 {
        format!("conflict with {:?}: {}", conflicts[0].0, path_text(&conflicts[0].1))
    } else {
        lines.join("\n")
    };
    let mut s =
        status::failure(409, "Conflict", format!("Apply failed with {count} {noun}: {text}"));
    s["details"] = json!({"causes": causes});
    s.into()
}
