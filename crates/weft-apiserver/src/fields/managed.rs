//! What a write makes of the ownership of fields.

use super::{
    Element, FieldSet, Managed, compare::compare, entries::Entry, merge, path_text, prune,
};
use serde_json::{Value, json};
use weft_kinds::schema::Type;

/// Owns what was there before the first apply to an object without entries.
const BEFORE: &str = "before-first-apply";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The longest annotations of an object, all together.
const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;

/// Who writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer<'a> {
    pub(crate) manager: &'a str,
    pub(crate) api_version: &'a str,
    /// Empty for the object itself.
    pub(crate) subresource: &'a str,
    pub(crate) now: &'a str,
    /// Top-level fields that this part of the resource does not write.
    pub(crate) ignored: &'a [&'a str],
}

impl Writer<'_> {
    fn ignore(&self, set: &mut FieldSet) {
        for name in self.ignored {
            set.children.remove(&Element::Field((*name).to_owned()));
        }
    }

    fn entry(&self, applied: bool, set: FieldSet) -> Entry {
        let manager = if self.manager.is_empty() { "unknown" } else { self.manager };
        Entry {
            manager: manager.to_owned(),
            applied,
            api_version: self.api_version.to_owned(),
            subresource: self.subresource.to_owned(),
            time: Some(self.now.to_owned()),
            set,
        }
    }
}

/// A field that others own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Conflict {
    /// The manager as messages name it.
    pub(crate) manager: String,
    pub(crate) path: Vec<Element>,
}

impl Conflict {
    pub(crate) fn field(&self) -> String {
        path_text(&self.path)
    }
}

/// An update: its writer owns what it changes, and nobody what it removes. `old` is null for a
/// create. The entries go into `new`.
pub(crate) fn update(of: &Type, old: &Value, new: &mut Value, managed: Managed, by: &Writer<'_>) {
    // Nobody began to track this object, or someone asked to stop.
    if managed.is_empty() && !old.is_null() {
        return managed.write(new);
    }
    owned(of, old, new, managed, by).write(new);
}

fn owned(of: &Type, old: &Value, new: &Value, mut managed: Managed, by: &Writer<'_>) -> Managed {
    let mut changes = compare(of, old, new);
    for set in [&mut changes.changed, &mut changes.removed] {
        by.ignore(set);
    }
    for entry in &mut managed.0 {
        entry.set.subtract(&changes.changed);
        entry.set.subtract(&changes.removed);
    }
    let mut mine = by.entry(false, changes.changed);
    mine.set.own = false;
    mine.set.strip();
    if !mine.set.is_empty() {
        if let Some(before) = managed.take(&mine) {
            mine.set.extend(before.set);
        }
        managed.0.push(mine);
    }
    managed.0.retain(|e| !e.set.is_empty());
    managed.cap();
    managed
}

/// What is applied.
pub(crate) struct Applied<'a> {
    pub(crate) config: &'a Value,
    pub(crate) force: bool,
}

/// The object after an apply, with its entries; or what others own of it. `live` is null for a
/// create.
pub(crate) fn apply(
    of: &Type,
    live: &Value,
    applied: &Applied<'_>,
    by: &Writer<'_>,
) -> Result<Value, Vec<Conflict>> {
    let mut managed = Managed::parse(&live["metadata"]["managedFields"]).unwrap_or_default();
    if managed.is_empty() && !live.is_null() {
        managed = owned(of, &Value::Null, live, managed, &Writer { manager: BEFORE, ..*by });
    }
    let mut set = FieldSet::of(of, applied.config);
    by.ignore(&mut set);
    let mut mine = by.entry(true, set);
    let before = managed.take(&mine);

    let mut new =
        if live.is_null() { applied.config.clone() } else { merge(of, live, applied.config) };
    if let Some(before) = &before {
        let mut keep = mine.set.clone();
        managed.0.iter().for_each(|e| keep.extend(e.set.clone()));
        keep.children.entry(Element::Field("metadata".to_owned())).or_default();
        prune(of, &mut new, &before.set, &keep);
    }
    let changes = compare(of, live, &new);
    let mut conflicts: Vec<Conflict> = Vec::new();
    for entry in &managed.0 {
        let manager = entry.shown();
        let paths = entry.set.and(&changes.changed).paths();
        conflicts.extend(paths.into_iter().map(|path| Conflict { manager: manager.clone(), path }));
    }
    if !conflicts.is_empty() && !applied.force {
        conflicts.sort_by(|a, b| (&a.manager, &a.path).cmp(&(&b.manager, &b.path)));
        let migrated = if by.manager == "kubectl" { last_applied(of, live) } else { None };
        if let Some(allowed) = migrated {
            conflicts.retain(|c| !allowed.contains(&c.path));
        }
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
    }
    for entry in &mut managed.0 {
        entry.set.subtract(&changes.changed);
        entry.set.subtract(&changes.removed);
    }
    if changes.changed.is_empty() && changes.removed.is_empty() {
        mine.time = before.and_then(|b| b.time).or(mine.time);
    }
    managed.0.push(mine);
    managed.write(&mut new);
    if by.manager == "kubectl" {
        renew_last_applied(&mut new, applied.config);
    }
    Ok(new)
}

/// The fields that client-side apply says it set and that still have that value: kubectl may
/// take them over when it goes on with server-side apply.
fn last_applied(of: &Type, live: &Value) -> Option<Vec<Vec<Element>>> {
    let text = live["metadata"]["annotations"][LAST_APPLIED].as_str()?;
    let last = weft_kinds::decode::json_value(text.as_bytes()).ok()?.object;
    if last["apiVersion"] != live["apiVersion"] {
        return None;
    }
    // In the canonical form of what is stored; what does not fit the type is nobody's.
    let mut decoded = weft_kinds::decode::Decoded { object: last, strict: Vec::new() };
    weft_kinds::decode::conform_named(of.name, &mut decoded).ok()?;
    let mut set = FieldSet::of(of, &decoded.object);
    let changes = compare(of, &decoded.object, live);
    set.subtract(&changes.changed);
    set.subtract(&changes.removed);
    Some(set.paths())
}

/// Keeps the annotation of client-side apply up to date, so that one can go back to it.
fn renew_last_applied(object: &mut Value, config: &Value) {
    let Some(annotations) =
        object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
    else {
        return;
    };
    if annotations.get(LAST_APPLIED).and_then(Value::as_str).is_none_or(str::is_empty) {
        return;
    }
    let mut config = config.clone();
    if let Some(Value::Object(a)) = config.pointer_mut("/metadata/annotations") {
        a.shift_remove(LAST_APPLIED);
    }
    config.sort_all_objects();
    let text = format!("{config}\n");
    if text.len() > ANNOTATIONS_BYTES_MAX {
        annotations.shift_remove(LAST_APPLIED);
    } else {
        annotations.insert(LAST_APPLIED.to_owned(), text.into());
    }
}

/// Whether two objects differ at most in the times of their entries: then nothing is written.
pub(crate) fn same_but_times(new: &Value, old: &Value) -> bool {
    let (Some(n), Some(o)) = (new.as_object(), old.as_object()) else { return new == old };
    if n.len() != o.len() || !n.iter().all(|(k, v)| k == "metadata" || o.get(k) == Some(v)) {
        return false;
    }
    let (Some(n), Some(o)) = (n["metadata"].as_object(), o["metadata"].as_object()) else {
        return false;
    };
    if n.len() != o.len() || !n.iter().all(|(k, v)| k == "managedFields" || o.get(k) == Some(v)) {
        return false;
    }
    let timeless = |m: Option<&Value>| {
        let mut list = m.cloned().unwrap_or(json!([]));
        for entry in list.as_array_mut().into_iter().flatten() {
            entry["time"] = Value::Null;
        }
        list
    };
    n.get("managedFields") == o.get("managedFields")
        || timeless(n.get("managedFields")) == timeless(o.get("managedFields"))
}
