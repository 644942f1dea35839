//! Rules of `metadata`, the same for every kind.

use serde_json::{Map, Value};

use super::{Errors, list, string, strings, text};
use crate::Kind;
use crate::kind::NameRule;

/// Keys and values of all annotations together.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

pub(super) fn metadata(e: &mut Errors, kind: &Kind, new: &Value, old: Option<&Value>) {
    let empty = Value::Null;
    let meta = new.get("metadata").unwrap_or(&empty);
    match old.map(|old| old.get("metadata").unwrap_or(&empty)) {
        None => create(e, kind, meta),
        Some(old) => {
            for key in ["name", "namespace", "uid"] {
                e.immutable(&format!("metadata.{key}"), meta.get(key), old.get(key));
            }
        }
    }
    labels(e, meta.get("labels"), "metadata.labels");
    annotations(e, meta.get("annotations"));
    owners(e, meta);
    for finalizer in strings(meta, "finalizers") {
        e.each("metadata.finalizers", finalizer, text::qualified_name(finalizer));
    }
}

fn create(e: &mut Errors, kind: &Kind, meta: &Value) {
    let generate = string(meta, "generateName");
    if !generate.is_empty() {
        // The random suffix will follow a trailing dash.
        let trial = match generate.strip_suffix('-') {
            Some(rest) if !rest.is_empty() => format!("{rest}a"),
            _ => generate.to_owned(),
        };
        e.each("metadata.generateName", generate, name(kind, &trial));
    }
    match string(meta, "name") {
        "" => e.required("metadata.name", "name or generateName is required"),
        given => e.each("metadata.name", given, name(kind, given)),
    }
    match (kind.namespaced, string(meta, "namespace")) {
        (true, "") => e.required("metadata.namespace", ""),
        (true, namespace) => e.each("metadata.namespace", namespace, text::label(namespace)),
        (false, "") => {}
        (false, _) => e.forbidden("metadata.namespace", "not allowed on this type"),
    }
}

fn name(kind: &Kind, name: &str) -> Vec<String> {
    match kind.name_rule {
        NameRule::Subdomain => text::subdomain(name),
        NameRule::Label => text::label(name),
        NameRule::Label1035 => text::label_1035(name),
        NameRule::PathSegment => text::path_segment(name),
        NameRule::IpAddress => crate::address::strict_ip(name),
    }
}

/// A map of labels, also of a selector.
pub(super) fn labels(e: &mut Errors, labels: Option<&Value>, field: &str) {
    for (key, value) in members(labels) {
        e.each(field, key, text::qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        e.each(field, value, text::label_value(value));
    }
}

fn annotations(e: &mut Errors, annotations: Option<&Value>) {
    let mut bytes = 0;
    for (key, value) in members(annotations) {
        // The rule is case-insensitive.
        e.each("metadata.annotations", key, text::qualified_name(&key.to_ascii_lowercase()));
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        e.too_long("metadata.annotations", ANNOTATIONS_BYTES_MAX);
    }
}

pub(super) fn members(object: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    object.and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

fn owners(e: &mut Errors, meta: &Value) {
    const FIELD: &str = "metadata.ownerReferences";
    let mut controller: Option<String> = None;
    for owner in list(meta, "ownerReferences") {
        let version = string(owner, "apiVersion");
        if version.is_empty() || version.ends_with('/') {
            e.invalid(format!("{FIELD}.apiVersion"), version, "version must not be empty");
        }
        for key in ["kind", "name", "uid"] {
            if string(owner, key).is_empty() {
                e.invalid(format!("{FIELD}.{key}"), "", "must not be empty");
            }
        }
        if owner.get("controller") == Some(&Value::Bool(true)) {
            let this = format!("{}/{}", string(owner, "kind"), string(owner, "name"));
            match &controller {
                None => controller = Some(this),
                Some(first) => e.invalid(
                    FIELD,
                    meta["ownerReferences"].clone(),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in \
                         references for {first} and {this}"
                    ),
                ),
            }
        }
    }
}
