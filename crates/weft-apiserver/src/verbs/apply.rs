//! Server-side apply.

use super::{Ctx, Outcome, Part, Tracking, meta, to_storage, update};
use crate::{
    error::ApiError,
    fields::{self, Applied, Conflict},
    server::State,
    store::Key,
};
use serde_json::{Value, json};
use weft_kinds::{
    Kind,
    decode::{self, Decoded},
    schema, status,
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
        check_type(kind, &decoded.object)?;
        // What is said twice is a matter of strictness; what the type does not have, never.
        let twice = std::mem::take(&mut decoded.strict);
        decode::conform(kind, &mut decoded).map_err(|e| status::undecodable(kind, e))?;
        ctx.strict(kind, twice)?;
        let mut applied = decoded.object;
        check(key, &applied)?;
        super::create::settle_namespace(kind, &mut applied, Some(&key.namespace))?;
        applied["metadata"]["name"] = (*key.name).into();
        let of = schema::of(kind);
        check_fields(kind, key, &decoded.strict, fields::duplicates(of, &applied))?;
        let kind = to_storage(kind, &mut applied);
        let of = schema::of(kind);
        let make = |ctx: &Ctx, old: &Value| {
            let now = ctx.now_text();
            let api_version = kind.api_version();
            let by = ctx.writer(part, kind, &api_version, &now);
            fields::apply(of, old, &Applied { config: &applied, force }, &by)
                .map_err(|c| conflict(&c))
        };
        if part == Part::Main && self.store.get(self.table(kind), key).is_none() {
            let object = make(ctx, &Value::Null)?;
            let namespace = kind.namespaced.then_some(&*key.namespace);
            let decoded = Decoded { object, strict: Vec::new() };
            match self.create_tracked(ctx, kind, namespace, decoded, Tracking::Done) {
                Err(e) if e.reason() == "AlreadyExists" => {}
                done => return done,
            }
        }
        self.change(ctx, kind, key, part, Tracking::Done, |ctx, old| {
            let new = make(ctx, old)?;
            update::conform(ctx, kind, new)
        })
    }
}

/// A configuration says what it is.
fn check_type(kind: &Kind, config: &Value) -> Result<(), ApiError> {
    let text = |key: &str| config[key].as_str().unwrap_or_default();
    let (version, name) = (text("apiVersion"), text("kind"));
    if !config.is_object() || name.is_empty() {
        return Err(
            status::bad_request("Object 'Kind' is missing in the apply configuration").into()
        );
    }
    if version != kind.api_version() {
        return Err(status::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {}",
            kind.api_version()
        ))
        .into());
    }
    if name != kind.kind {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        return Err(status::bad_request(format!(
            "invalid object type: {group}/{version}, Kind={name}"
        ))
        .into());
    }
    Ok(())
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

/// Refuses fields that the type does not have and items that occur twice, as the real API does:
/// with a 500 that has no reason.
fn check_fields(
    kind: &Kind,
    key: &Key,
    unknown: &[String],
    mut errors: Vec<String>,
) -> Result<(), ApiError> {
    errors.extend(unknown.iter().filter_map(|finding| {
        let path = finding.strip_prefix("unknown field \"")?.strip_suffix('"')?;
        Some(format!(".{path}: field not declared in schema"))
    }));
    errors.sort();
    let text = match errors.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    let name = match &*key.namespace {
        "" => format!("/{}", key.name),
        namespace => format!("{namespace}/{}", key.name),
    };
    let (group, version) = (&kind.group, &kind.version);
    let what = if group.is_empty() { format!("/{version}") } else { format!("{group}/{version}") };
    Err(status::failure(
        500,
        "",
        format!("failed to create typed patch object ({name}; {what}, Kind={}): {text}", kind.kind),
    )
    .into())
}

/// 409 as kubectl reads it: a cause per field and manager.
fn conflict(conflicts: &[Conflict]) -> ApiError {
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|c| {
            json!({
                "reason": "FieldManagerConflict",
                "message": format!("conflict with {}", c.manager),
                "field": c.field(),
            })
        })
        .collect();
    let text = match conflicts {
        [one] => format!("1 conflict: conflict with {}: {}", one.manager, one.field()),
        many => {
            // In the order of the conflicts, which is that of the managers.
            let mut lines: Vec<String> = Vec::new();
            let mut last = None;
            for c in many {
                if last != Some(&c.manager) {
                    lines.push(format!("conflicts with {}:", c.manager));
                    last = Some(&c.manager);
                }
                lines.push(format!("- {}", c.field()));
            }
            format!("{} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    let mut s = status::failure(409, "Conflict", format!("Apply failed with {text}"));
    s["details"] = json!({"causes": causes});
    s.into()
}
