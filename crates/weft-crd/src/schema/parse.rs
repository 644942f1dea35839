//! From the JSON of `openAPIV3Schema` to a [`Schema`].

use super::{Additional, ListType, Schema, Types, Values};
use crate::{format::Format, pattern::Pattern, rules::Rule};
use serde_json::{Map, Value};
use std::sync::OnceLock;

impl Schema {
    /// Takes over what is understood. What a definition may not say is refused by its
    /// [validation](crate::definition::validate) and left out here.
    pub fn parse(json: &Value) -> Self {
        let empty = Map::new();
        node(json.as_object().unwrap_or(&empty))
    }
}

fn node(json: &Map<String, Value>) -> Schema {
    let text = |key: &str| json.get(key).and_then(Value::as_str).unwrap_or_default();
    let flag = |key: &str| json.get(key) == Some(&Value::Bool(true));
    let type_name = text("type").to_owned();
    let int_or_string = flag("x-kubernetes-int-or-string");
    let types = if int_or_string {
        Types(Types::INTEGER.0 | Types::STRING.0)
    } else {
        Types::find(&type_name)
    };
    let mut properties: Vec<(String, Schema)> = members(json, "properties")
        .map(|(name, schema)| (name.clone(), Schema::parse(schema)))
        .collect();
    properties.sort_by(|(a, _), (b, _)| a.cmp(b));
    let additional = match json.get("additionalProperties") {
        Some(Value::Bool(allowed)) => Additional::Bool(*allowed),
        Some(schema @ Value::Object(_)) => Additional::Schema(Box::new(Schema::parse(schema))),
        _ => Additional::None,
    };
    let items = json.get("items").filter(|v| v.is_object()).map(|v| Box::new(Schema::parse(v)));
    let list_type = match text("x-kubernetes-list-type") {
        "set" => ListType::Set,
        "map" => ListType::Map,
        _ => ListType::Atomic,
    };
    let map_keys = strings(json, "x-kubernetes-list-map-keys");
    let default = json.get("default").filter(|v| !v.is_null()).cloned();
    let embedded = flag("x-kubernetes-embedded-resource");
    let below = || {
        let additional = match &additional {
            Additional::Schema(schema) => Some(&**schema),
            _ => None,
        };
        properties.iter().map(|(_, s)| s).chain(items.as_deref()).chain(additional)
    };
    let any_default = default.is_some() || below().any(|s| s.any_default);
    let rules: Vec<_> = list(json, "x-kubernetes-validations").map(Rule::parse).collect();
    let any_rule = !rules.is_empty() || below().any(|s| s.any_rule);
    let any_list = list_type != ListType::Atomic || embedded || below().any(|s| s.any_list);
    Schema {
        types,
        type_name,
        nullable: flag("nullable"),
        default,
        int_or_string,
        preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
        embedded,
        list: list_type,
        map_keys,
        atomic: text("x-kubernetes-map-type") == "atomic",
        values: values(json),
        any_default,
        any_list,
        rules,
        programs: OnceLock::new(),
        any_rule,
        items,
        properties,
        additional,
    }
}

fn values(json: &Map<String, Value>) -> Option<Box<Values>> {
    const KEYWORDS: &[&str] = &[
        "format",
        "maximum",
        "minimum",
        "multipleOf",
        "maxLength",
        "minLength",
        "pattern",
        "maxItems",
        "minItems",
        "uniqueItems",
        "maxProperties",
        "minProperties",
        "required",
        "enum",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
    ];
    if !KEYWORDS.iter().any(|keyword| json.contains_key(*keyword)) {
        return None;
    }
    let integer = |key: &str| json.get(key).and_then(Value::as_i64);
    let number = |key: &str| json.get(key).and_then(Value::as_f64);
    let flag = |key: &str| json.get(key) == Some(&Value::Bool(true));
    let text = |key: &str| json.get(key).and_then(Value::as_str).filter(|t| !t.is_empty());
    let schemas = |key: &str| list(json, key).map(Schema::parse).collect();
    Some(Box::new(Values {
        format: text("format").and_then(|name| Some((name.to_owned(), Format::find(name)?))),
        maximum: number("maximum"),
        exclusive_maximum: flag("exclusiveMaximum"),
        minimum: number("minimum"),
        exclusive_minimum: flag("exclusiveMinimum"),
        multiple_of: number("multipleOf"),
        max_length: integer("maxLength"),
        min_length: integer("minLength"),
        pattern: text("pattern").map(|source| Pattern::new(source.to_owned())),
        max_items: integer("maxItems"),
        min_items: integer("minItems"),
        unique_items: flag("uniqueItems"),
        max_properties: integer("maxProperties"),
        min_properties: integer("minProperties"),
        required: strings(json, "required"),
        enumeration: list(json, "enum").cloned().collect(),
        all_of: schemas("allOf"),
        any_of: schemas("anyOf"),
        one_of: schemas("oneOf"),
        not: json.get("not").filter(|v| v.is_object()).map(Schema::parse),
    }))
}

fn members<'a>(
    json: &'a Map<String, Value>,
    key: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    json.get(key).and_then(Value::as_object).into_iter().flatten()
}

fn list<'a>(json: &'a Map<String, Value>, key: &str) -> impl Iterator<Item = &'a Value> {
    json.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn strings(json: &Map<String, Value>, key: &str) -> Vec<String> {
    list(json, key).filter_map(|v| v.as_str().map(str::to_owned)).collect()
}
