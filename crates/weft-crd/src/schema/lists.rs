//! What lists of type set and map, and embedded resources, must fulfil.

use super::{Additional, ListType, Schema};
use crate::{Violation, ViolationKind, path::Path};
use serde_json::{Map, Value};
use std::collections::HashMap;

impl Schema {
    /// Items of sets and keys of maps are unique.
    pub(crate) fn check_lists(&self, value: &Value, path: &Path<'_>, out: &mut Vec<Violation>) {
        if !self.any_list {
            return;
        }
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    if let Some(property) = self.property(name) {
                        property.check_lists(value, &path.child(name), out);
                    } else if let Additional::Schema(schema) = &self.additional {
                        schema.check_lists(value, &path.key(name), out);
                    }
                }
            }
            Value::Array(items) => {
                match self.list {
                    ListType::Atomic => {}
                    ListType::Set => repeated(items.iter().map(Value::to_string), |i| {
                        out.push(duplicate(&path.index(i), items[i].clone()));
                    }),
                    ListType::Map => self.check_map(items, path, out),
                }
                if let Some(schema) = self.items() {
                    for (i, item) in items.iter().enumerate() {
                        schema.check_lists(item, &path.index(i), out);
                    }
                }
            }
            _ => {}
        }
    }

    fn check_map(&self, items: &[Value], path: &Path<'_>, out: &mut Vec<Violation>) {
        let stray = items.iter().position(|item| !item.is_object() && !item.is_null());
        if let Some(i) = stray {
            let why = "must be an object for an array of list-type map";
            out.push(Violation::invalid(path.index(i), items[i].clone(), why));
            return;
        }
        if items.len() < 2 {
            return;
        }
        let keys: Vec<Value> = items
            .iter()
            .map(|item| {
                let given = self.map_keys.iter();
                let given = given.filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
                Value::Object(given.collect::<Map<_, _>>())
            })
            .collect();
        repeated(keys.iter().map(Value::to_string), |i| {
            out.push(duplicate(&path.index(i), keys[i].clone()));
        });
    }

    /// Embedded resources have an apiVersion and a kind.
    pub(crate) fn check_embedded(&self, value: &Value, path: &Path<'_>, out: &mut Vec<Violation>) {
        if !self.any_list {
            return;
        }
        match value {
            Value::Object(members) => {
                if self.embedded {
                    embedded(members, path, out);
                }
                for (name, value) in members {
                    if let Some(property) = self.property(name) {
                        property.check_embedded(value, &path.child(name), out);
                    } else if let Additional::Schema(schema) = &self.additional {
                        schema.check_embedded(value, &path.key(name), out);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(schema) = self.items() {
                    for (i, item) in items.iter().enumerate() {
                        schema.check_embedded(item, &path.index(i), out);
                    }
                }
            }
            _ => {}
        }
    }
}

fn embedded(members: &Map<String, Value>, path: &Path<'_>, out: &mut Vec<Violation>) {
    for name in ["apiVersion", "kind"] {
        let at = path.child(name);
        match members.get(name) {
            None => out.push(Violation::required(at, "")),
            Some(Value::String(text)) if text.is_empty() => {
                out.push(Violation::invalid(at, "", "must not be empty"));
            }
            Some(Value::String(text)) if name == "apiVersion" && text.matches('/').count() > 1 => {
                let why = format!("unexpected GroupVersion string: {text}");
                out.push(Violation::invalid(at, text.as_str(), why));
            }
            Some(Value::String(text)) if name == "kind" => {
                let errors = crate::definition::label_1035(&text.to_lowercase());
                if !errors.is_empty() {
                    let why = format!(
                        "may have mixed case, but should otherwise match: {}",
                        errors.join(",")
                    );
                    out.push(Violation::invalid(at, text.as_str(), why));
                }
            }
            Some(Value::String(_)) => {}
            Some(other) => out.push(Violation::invalid(at, other.clone(), "must be a string")),
        }
    }
    if let Some(metadata) = members.get("metadata").filter(|m| !m.is_object()) {
        let why = "must be an object";
        out.push(Violation::invalid(path.child("metadata"), metadata.clone(), why));
    }
}

/// Calls `found` with the index of the first repetition of each text.
fn repeated(texts: impl Iterator<Item = String>, mut found: impl FnMut(usize)) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (i, text) in texts.enumerate() {
        let times = seen.entry(text).or_default();
        *times += 1;
        if *times == 2 {
            found(i);
        }
    }
}

fn duplicate(path: &Path<'_>, value: Value) -> Violation {
    Violation::new(ViolationKind::Duplicate, path, Some(value), "")
}
