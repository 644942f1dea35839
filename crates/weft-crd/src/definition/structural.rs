//! Structural schemas: every field has its type outside of value validations, so that pruning
//! and defaulting know the shape of an object without looking at its values.

use super::{list, string};
use crate::{Violation, path::Path, pattern};
use serde_json::{Value, json};

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Checks that a schema is structural; findings are sorted, as the real API has them.
pub(super) fn check(json: &Value, path: &Path<'_>, out: &mut Vec<Violation>) {
    let mut found = Vec::new();
    node(json, Level::Root, path, &mut found);
    complete(json, path, &mut found);
    found.sort_by_key(ToString::to_string);
    out.append(&mut found);
}

fn flag(json: &Value, key: &str) -> bool {
    json.get(key) == Some(&Value::Bool(true))
}

fn node(json: &Value, level: Level, path: &Path<'_>, out: &mut Vec<Violation>) {
    let kind = string(json, "type");
    match json.get("items") {
        Some(items) if items.is_object() => node(items, Level::Item, &path.child("items"), out),
        _ if kind == "array" => {
            out.push(Violation::required(path.child("items"), "must be specified"));
        }
        _ => {}
    }
    let properties = path.child("properties");
    for (name, property) in json["properties"].as_object().into_iter().flatten() {
        node(property, Level::Field, &properties.key(name), out);
    }
    let embedded = flag(json, "x-kubernetes-embedded-resource");
    let preserves = flag(json, "x-kubernetes-preserve-unknown-fields");
    let int_or_string = flag(json, "x-kubernetes-int-or-string");
    if let Some(additional) = json.get("additionalProperties") {
        let at = path.child("additionalProperties");
        if level == Level::Root {
            out.push(Violation::forbidden(at, "must not be used at the root"));
        }
        if additional.is_object() {
            node(additional, Level::Field, &at, out);
        }
        if embedded {
            let why = "must not be used if x-kubernetes-embedded-resource is set";
            out.push(Violation::forbidden(at, why));
        }
    }
    for (set, key) in [
        (preserves, "x-kubernetes-preserve-unknown-fields"),
        (embedded, "x-kubernetes-embedded-resource"),
    ] {
        if int_or_string && set {
            let why = "must be false if x-kubernetes-int-or-string is true";
            out.push(Violation::invalid(path.child(key), true, why));
        }
    }
    let either = json!([{"type": "integer"}, {"type": "string"}]);
    let any_of = json.get("anyOf") == Some(&either);
    let first_all_of = json.pointer("/allOf/0/anyOf") == Some(&either);
    values(json, any_of, first_all_of, path, out);
    types(json, level, path, out);
    let resource = level == Level::Root || embedded;
    if resource {
        for name in ["kind", "apiVersion"] {
            if let Some(property) = json["properties"].get(name)
                && string(property, "type") != "string"
            {
                let field = properties.key(name).child("type").to_string();
                out.push(Violation::invalid(field, string(property, "type"), "must be string"));
            }
        }
    }
    if let Some(metadata) = json["properties"].get("metadata") {
        let at = properties.key("metadata");
        if resource && string(metadata, "type") != "object" {
            let found = string(metadata, "type");
            out.push(Violation::invalid(at.child("type"), found, "must be object"));
        }
        if level == Level::Root {
            root_metadata(metadata, &at, out);
        }
    }
    let named = json["properties"].as_object().is_some_and(|p| !p.is_empty());
    if embedded && !preserves && !named {
        let why = "must not be empty if x-kubernetes-embedded-resource is true without \
                   x-kubernetes-preserve-unknown-fields";
        out.push(Violation::required(properties, why));
    }
}

fn types(json: &Value, level: Level, path: &Path<'_>, out: &mut Vec<Violation>) {
    let kind = string(json, "type");
    let at = path.child("type");
    let untyped = flag(json, "x-kubernetes-int-or-string")
        || flag(json, "x-kubernetes-preserve-unknown-fields");
    if flag(json, "x-kubernetes-embedded-resource") && kind != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        out.push(match kind {
            "" => Violation::required(at, why),
            other => Violation::invalid(at, other, why),
        });
    } else if kind.is_empty() && !untyped {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        out.push(Violation::required(at, why));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        out.push(Violation::invalid(at, kind, "must be object at the root"));
    }
}

/// Only names may be restricted; the rest of metadata is given.
fn root_metadata(metadata: &Value, path: &Path<'_>, out: &mut Vec<Violation>) {
    let names = |properties: &Value| {
        properties
            .as_object()
            .is_some_and(|p| p.keys().all(|key| key == "name" || key == "generateName"))
    };
    let others =
        metadata.as_object().into_iter().flatten().any(|(key, value)| match key.as_str() {
            "type" | "default" => false,
            "properties" => !names(value),
            // Words that a structural schema does not keep.
            "externalDocs" | "example" => false,
            _ => !value.is_null(),
        });
    if others {
        let why = "must not specify anything other than name and generateName, but metadata is \
                   implicitly specified";
        out.push(Violation::forbidden(path, why));
    }
}

fn values(
    json: &Value,
    skip_any_of: bool,
    skip_first_all_of: bool,
    path: &Path<'_>,
    out: &mut Vec<Violation>,
) {
    for keyword in ["anyOf", "allOf", "oneOf"] {
        if keyword == "anyOf" && skip_any_of {
            continue;
        }
        let all = path.child(keyword);
        for (i, inner) in list(json, keyword).iter().enumerate() {
            let skip = keyword == "allOf" && skip_first_all_of && i == 0;
            nested(inner, skip, &all.index(i), out);
        }
    }
    if let Some(not) = json.get("not").filter(|v| v.is_object()) {
        nested(not, false, &path.child("not"), out);
    }
    let source = string(json, "pattern");
    if !source.is_empty()
        && let Err(why) = pattern::compile(source)
    {
        let why = format!("must be a valid regular expression, but isn't: {why}");
        out.push(Violation::invalid(path.child("pattern"), source, why));
    }
}

/// A value validation: it says nothing about the shape.
fn nested(json: &Value, skip_any_of: bool, path: &Path<'_>, out: &mut Vec<Violation>) {
    values(json, skip_any_of, false, path, out);
    if let Some(items) = json.get("items").filter(|v| v.is_object()) {
        nested(items, false, &path.child("items"), out);
    }
    let properties = path.child("properties");
    for (name, property) in json["properties"].as_object().into_iter().flatten() {
        nested(property, false, &properties.key(name), out);
    }
    const EMPTY: &str = "must be empty to be structural";
    const UNDEFINED: &str = "must be undefined to be structural";
    const FALSE: &str = "must be false to be structural";
    for (key, why) in [
        ("type", EMPTY),
        ("additionalProperties", UNDEFINED),
        ("default", UNDEFINED),
        ("title", EMPTY),
        ("description", EMPTY),
        ("nullable", FALSE),
        ("x-kubernetes-preserve-unknown-fields", FALSE),
        ("x-kubernetes-embedded-resource", FALSE),
        ("x-kubernetes-int-or-string", FALSE),
        ("x-kubernetes-list-map-keys", EMPTY),
        ("x-kubernetes-list-type", UNDEFINED),
        ("x-kubernetes-map-type", UNDEFINED),
        ("x-kubernetes-validations", EMPTY),
    ] {
        let set = match json.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(items)) => !items.is_empty(),
            Some(_) => true,
        };
        if set {
            out.push(Violation::forbidden(path.child(key), why));
        }
    }
    if json["properties"].get("metadata").is_some() {
        let why = "must not be specified in a nested context";
        out.push(Violation::forbidden(properties.key("metadata"), why));
    }
}

/// Every field of the root's value validations is a field of the structure. The real API does
/// not look at those further down.
fn complete(json: &Value, path: &Path<'_>, out: &mut Vec<Violation>) {
    junctors(json, json, path, path, out);
}

fn junctors(
    json: &Value,
    outer: &Value,
    outer_path: &Path<'_>,
    path: &Path<'_>,
    out: &mut Vec<Violation>,
) {
    for keyword in ["allOf", "anyOf", "oneOf"] {
        let all = path.child(keyword);
        for (i, inner) in list(json, keyword).iter().enumerate() {
            member(inner, Some(outer), outer_path, &all.index(i), out);
        }
    }
    if let Some(not) = json.get("not").filter(|v| v.is_object()) {
        member(not, Some(outer), outer_path, &path.child("not"), out);
    }
}

/// A value validation of `outer`, which is the structure's node.
fn member(
    json: &Value,
    outer: Option<&Value>,
    outer_path: &Path<'_>,
    path: &Path<'_>,
    out: &mut Vec<Violation>,
) {
    let Some(outer) = outer else {
        let why = format!("because it is defined in {path}");
        out.push(Violation::required(outer_path, why));
        return;
    };
    junctors(json, outer, outer_path, path, out);
    if let Some(items) = json.get("items").filter(|v| v.is_object()) {
        let structure = outer.get("items").filter(|v| v.is_object());
        member(items, structure, &outer_path.child("items"), &path.child("items"), out);
    }
    let (outer_properties, properties) = (outer_path.child("properties"), path.child("properties"));
    for (name, property) in json["properties"].as_object().into_iter().flatten() {
        let structure = outer["properties"].get(name);
        let at = properties.key(name);
        member(property, structure, &outer_properties.key(name), &at, out);
    }
}
