//! What a schema may say: `openAPIV3Schema` of a version.

use super::{defaults, list, string, structural};
use crate::{
    Schema, Violation,
    format::Format,
    path::Path,
    rules::{self, field_path},
};
use serde_json::{Map, Value};

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
/// What may stand at the root while status is a subresource: the status is checked alone.
const AT_ROOT: &[&str] = &[
    "description",
    "type",
    "format",
    "title",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "multipleOf",
    "required",
    "items",
    "properties",
    "externalDocs",
    "example",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];
const AT_ROOT_NAMES: &str = "[Description Type Format Title Maximum ExclusiveMaximum Minimum \
    ExclusiveMinimum MaxLength MinLength Pattern MaxItems MinItems UniqueItems MultipleOf \
    Required Items Properties ExternalDocs Example XPreserveUnknownFields XValidations]";
const REASONS: &[&str] =
    &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
/// Members of every resource.
pub(super) const META: &[&str] = &["apiVersion", "kind", "metadata"];

/// Checks a schema; `status` says that `/status` exists.
pub(super) fn check(json: &Value, status: bool, path: &Path<'_>, out: &mut Vec<Violation>) {
    let start = out.len();
    if status {
        for key in json.as_object().into_iter().flatten().map(|(key, _)| key.as_str()) {
            if key == "type" && json["type"] != "object" {
                let why = "only \"object\" is allowed as the type at the root of the schema if \
                           the status subresource is enabled";
                out.push(Violation::invalid(path.child("type"), json["type"].clone(), why));
                break;
            }
            if !AT_ROOT.contains(&key) && !is_zero(&json[key]) {
                let why = format!(
                    "only {AT_ROOT_NAMES} fields are allowed at the root of the schema if the \
                     status subresource is enabled"
                );
                out.push(Violation::invalid(path, json.clone(), why));
                break;
            }
        }
    }
    if json["nullable"] == true {
        let why = "nullable cannot be true at the root";
        out.push(Violation::forbidden(path.child("nullable"), why));
    }
    structural::check(json, path, out);
    let schema = Schema::parse(json);
    if out.len() == start {
        defaults::check(&schema, path, out);
    }
    // Rules are looked at only where the schema is sound: their errors would mislead.
    let sound = out.len() == start;
    node(json, sound.then_some(&schema), path, Place { root: true, ..Place::default() }, out);
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Where in the schema a node is.
#[derive(Clone, Copy, Default)]
struct Place<'a> {
    root: bool,
    inside_meta: bool,
    /// Why there may be no default.
    no_default: Option<&'a str>,
    /// The path from which on old and new cannot be correlated.
    uncorrelated: Option<&'a str>,
}

fn node(
    json: &Value,
    schema: Option<&Schema>,
    path: &Path<'_>,
    place: Place<'_>,
    out: &mut Vec<Violation>,
) {
    let Some(members) = json.as_object() else { return };
    let start = out.len();
    forbidden(members, path, place, out);
    extensions(json, path, out);
    list_map(json, path, out);
    let below = Place { root: false, ..place };
    if let Some(given) = members.get("additionalProperties") {
        let has_properties = json["properties"].as_object().is_some_and(|p| !p.is_empty());
        if has_properties && *given != true {
            let why = "additionalProperties and properties are mutual exclusive";
            out.push(Violation::forbidden(path.child("additionalProperties"), why));
        }
        let why = "inside additionalProperties applying to object metadata";
        let place =
            if place.inside_meta { Place { no_default: Some(why), ..below } } else { below };
        let inner = schema.and_then(|s| match &s.additional {
            crate::Additional::Schema(schema) => Some(&**schema),
            _ => None,
        });
        node(given, inner, &path.child("additionalProperties"), place, out);
    }
    let embedded = members.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true));
    let properties = path.child("properties");
    for (name, property) in json["properties"].as_object().into_iter().flatten() {
        let reason = format!("in top-level {name}");
        let mut inside = below;
        if (place.root || embedded) && META.contains(&name.as_str()) {
            inside.inside_meta = true;
            if place.root {
                inside.no_default = Some(&reason);
            }
        }
        let inner = schema.and_then(|s| s.property(name));
        node(property, inner, &properties.key(name), inside, out);
    }
    for keyword in ["allOf", "anyOf", "oneOf"] {
        let all = path.child(keyword);
        for (i, inner) in list(json, keyword).iter().enumerate() {
            node(inner, None, &all.index(i), below, out);
        }
    }
    if let Some(inner) = members.get("not") {
        node(inner, None, &path.child("not"), below, out);
    }
    if let Some(inner) = members.get("items") {
        let text = path.to_string();
        let keyed = string(json, "x-kubernetes-list-type") == "map";
        let uncorrelated = place.uncorrelated.or((!keyed).then_some(text.as_str()));
        let place = Place { uncorrelated, ..below };
        let items = schema.and_then(|s| s.items());
        node(inner, items, &path.child("items"), place, out);
    }
    rules_of(json, schema.filter(|_| out.len() == start), path, place, out);
}

fn forbidden(
    members: &Map<String, Value>,
    path: &Path<'_>,
    place: Place<'_>,
    out: &mut Vec<Violation>,
) {
    let mut forbid = |key: &str, why: &str| out.push(Violation::forbidden(path.child(key), why));
    if let (Some(reason), Some(_)) = (place.no_default, members.get("default")) {
        forbid("default", &format!("must not be set {reason}"));
    }
    for key in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"]
    {
        if members.get(key).is_some_and(|value| !is_zero(value)) {
            forbid(key, &format!("{key} is not supported"));
        }
    }
    if members.get("items").is_some_and(Value::is_array) {
        forbid("items", "items must be a schema object and not an array");
    }
    if place.inside_meta && members.get("x-kubernetes-embedded-resource") == Some(&true.into()) {
        forbid("x-kubernetes-embedded-resource", "must not be used inside of resource meta");
    }
    if members.get("uniqueItems") == Some(&Value::Bool(true)) {
        forbid(
            "uniqueItems",
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        );
    }
    match members.get("type").and_then(Value::as_str) {
        Some("null") => {
            forbid("type", "type cannot be set to null, use nullable as an alternative");
            out.push(Violation::not_supported(path.child("type"), "null", TYPES));
        }
        Some(name) if !name.is_empty() && !TYPES.contains(&name) => {
            out.push(Violation::not_supported(path.child("type"), name, TYPES));
        }
        _ => {}
    }
}

fn extensions(json: &Value, path: &Path<'_>, out: &mut Vec<Violation>) {
    const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
    if json.get(PRESERVE) == Some(&Value::Bool(false)) {
        out.push(Violation::invalid(path.child(PRESERVE), false, "must be true or undefined"));
    }
    let kind = string(json, "type");
    let mut typed = |key: &str, wanted: &str, known: &[&str]| {
        let Some(given) = json.get(key).and_then(Value::as_str) else { return };
        let why = format!("must be {wanted} if {key} is specified");
        if kind.is_empty() {
            out.push(Violation::required(path.child("type"), why));
        } else if kind != wanted {
            out.push(Violation::invalid(path.child("type"), kind, why));
        }
        if !known.contains(&given) {
            out.push(Violation::not_supported(path.child(key), given, known));
        }
    };
    typed("x-kubernetes-map-type", "object", &["atomic", "granular"]);
    typed("x-kubernetes-list-type", "array", &["atomic", "set", "map"]);
    let items = &json["items"];
    if string(json, "x-kubernetes-list-type") == "set" && kind == "array" {
        let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let at = path.child("items");
        let list_type = items.get("x-kubernetes-list-type");
        match string(items, "type") {
            "array" if list_type.is_some_and(|t| *t != "atomic") => {
                let value = list_type.cloned().unwrap_or_default();
                out.push(Violation::invalid(at.child("x-kubernetes-list-type"), value, why));
            }
            "object" if string(items, "x-kubernetes-map-type") != "atomic" => {
                let value = list_type.cloned().unwrap_or_default();
                out.push(Violation::invalid(at.child("x-kubernetes-map-type"), value, why));
            }
            _ => {}
        }
    }
}

fn list_map(json: &Value, path: &Path<'_>, out: &mut Vec<Violation>) {
    const KEYS: &str = "x-kubernetes-list-map-keys";
    const TYPE: &str = "x-kubernetes-list-type";
    let keys = list(json, KEYS);
    let list_type = json.get(TYPE).and_then(Value::as_str);
    let why = "must be map if x-kubernetes-list-map-keys is non-empty";
    match list_type {
        None if !keys.is_empty() => out.push(Violation::required(path.child(TYPE), why)),
        Some(given) if !keys.is_empty() && given != "map" => {
            out.push(Violation::invalid(path.child(TYPE), given, why));
        }
        _ => {}
    }
    let Some(list_type @ ("map" | "set")) = list_type else { return };
    let (items, at) = (&json["items"], path.child("items"));
    if items["nullable"] == true {
        let why = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        out.push(Violation::forbidden(at.child("nullable"), why));
    }
    if list_type != "map" {
        return;
    }
    if keys.is_empty() {
        let why = "must not be empty if x-kubernetes-list-type is map";
        out.push(Violation::required(path.child(KEYS), why));
    }
    if items.is_null() {
        let why = "must have a schema if x-kubernetes-list-type is map";
        out.push(Violation::required(at, why));
        return;
    }
    if string(items, "type") != "object" {
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        out.push(Violation::invalid(at.child("type"), string(items, "type"), why));
        return;
    }
    let required: Vec<&str> = list(items, "required").iter().filter_map(Value::as_str).collect();
    for (i, key) in keys.iter().enumerate() {
        let name = key.as_str().unwrap_or_default();
        let properties = at.child("properties");
        let field = properties.key(name);
        match items["properties"].get(name) {
            None => {
                let why = "entries must all be names of item properties";
                out.push(Violation::invalid(path.child(KEYS), json[KEYS].clone(), why));
            }
            Some(property) => {
                if matches!(string(property, "type"), "array" | "object") {
                    let why =
                        "must be a scalar type if parent array's x-kubernetes-list-type is map";
                    out.push(Violation::invalid(field.child("type"), string(items, "type"), why));
                }
                if !required.contains(&name) && property.get("default").is_none() {
                    let why = "this property is in x-kubernetes-list-map-keys, so it must have a \
                               default or be a required property";
                    out.push(Violation::required(field.child("default"), why));
                }
                if property["nullable"] == true {
                    let why =
                        "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
                    out.push(Violation::forbidden(field.child("nullable"), why));
                }
            }
        }
        if keys[..i].contains(key) {
            let why = "must not contain duplicate entries";
            out.push(Violation::invalid(path.child(KEYS), json[KEYS].clone(), why));
        }
    }
}

/// Checks rules: first their form, then whether they compile against the types of the schema.
fn rules_of(
    json: &Value,
    schema: Option<&Schema>,
    path: &Path<'_>,
    place: Place<'_>,
    out: &mut Vec<Violation>,
) {
    let all = path.child("x-kubernetes-validations");
    let given = list(json, "x-kubernetes-validations");
    if given.is_empty() {
        return;
    }
    let start = out.len();
    let plain;
    let own = match schema {
        Some(schema) => schema,
        None => {
            plain = Schema::parse(json);
            &plain
        }
    };
    for (i, rule) in given.iter().enumerate() {
        form(rule, own, &all.index(i), out);
    }
    if out.len() > start {
        return;
    }
    let Some(schema) = schema else { return };
    let resource = place.root || schema.embedded;
    for (i, result) in rules::compile(schema, resource).iter().enumerate() {
        let path = all.index(i);
        let shown = given[i].clone();
        match result {
            Err(why) => out.push(Violation::invalid(path.child("rule"), shown.clone(), why.rule())),
            Ok(compiled) => {
                if let Some(why) = compiled.message_error() {
                    out.push(Violation::invalid(path.child("messageExpression"), shown, why));
                }
                if compiled.transition() {
                    if let Some(from) = place.uncorrelated {
                        let why = format!(
                            "oldSelf cannot be used on the uncorrelatable portion of the schema \
                             within {from}"
                        );
                        let rule = string(&given[i], "rule");
                        out.push(Violation::invalid(path.child("rule"), rule, why));
                    }
                } else if let Some(optional) = given[i].get("optionalOldSelf") {
                    let why = "may not be set if oldSelf is not used in rule";
                    let field = path.child("optionalOldSelf");
                    out.push(Violation::invalid(field, optional.clone(), why));
                }
            }
        }
    }
}

fn form(rule: &Value, schema: &Schema, path: &Path<'_>, out: &mut Vec<Violation>) {
    let lines = |text: &str| text.contains(['\n', '\r']);
    let (source, message) = (string(rule, "rule"), string(rule, "message"));
    if source.trim().is_empty() {
        out.push(Violation::required(path.child("rule"), "rule is not specified"));
    } else if !message.is_empty() && message.trim().is_empty() {
        let why = "must be non-empty if specified";
        out.push(Violation::invalid(path.child("message"), message, why));
    } else if lines(message.trim()) {
        let why = "must not contain line breaks";
        out.push(Violation::invalid(path.child("message"), message, why));
    } else if lines(source.trim()) && message.trim().is_empty() {
        let why = "message must be specified if rule contains line breaks";
        out.push(Violation::required(path.child("message"), why));
    }
    let expression = string(rule, "messageExpression");
    if !expression.is_empty() && expression.trim().is_empty() {
        let why = "messageExpression must be non-empty if specified";
        out.push(Violation::required(path.child("messageExpression"), why));
    }
    if let Some(reason) = rule.get("reason").and_then(Value::as_str)
        && !REASONS.contains(&reason)
    {
        out.push(Violation::not_supported(path.child("reason"), reason, REASONS));
    }
    let place = string(rule, "fieldPath");
    if place.is_empty() {
        return;
    }
    let mut refuse = |why: &str| out.push(Violation::invalid(path.child("fieldPath"), place, why));
    if place.trim().is_empty() {
        refuse("must be non-empty if specified");
    }
    if lines(place) {
        refuse("must not contain line breaks");
    }
    if field_path(place, schema, true).is_err() {
        refuse("must be a valid path");
    }
}

/// Formats of strings that are not checked.
pub(super) fn unknown_formats(json: &Value, out: &mut Vec<String>) {
    match json {
        Value::Object(members) => {
            let format = string(json, "format");
            let text = string(json, "type") == "string";
            if text && !format.is_empty() && Format::find(format).is_none() {
                out.push(format.to_owned());
            }
            for (key, value) in members {
                match key.as_str() {
                    "properties" => {
                        value.as_object().into_iter().flatten().for_each(|(_, property)| {
                            unknown_formats(property, out);
                        });
                    }
                    "items" | "additionalProperties" | "not" | "allOf" | "anyOf" | "oneOf" => {
                        unknown_formats(value, out);
                    }
                    _ => {}
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| unknown_formats(item, out)),
        _ => {}
    }
}
