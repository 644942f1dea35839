//! Merging an applied configuration into a live object, and taking out what is applied no more.

use super::{Element, FieldSet, set::item_key};
use serde_json::Value;
use std::collections::{HashMap, HashSet, hash_map::Entry};
use weft_kinds::schema::{Field, ListType, Shape, Type};

/// The live object with what is applied.
pub(crate) fn merge(kind: &Type, live: &Value, applied: &Value) -> Value {
    let (Some(live), Some(applied)) = (live.as_object(), applied.as_object()) else {
        return applied.clone();
    };
    if kind.atomic {
        return Value::Object(applied.clone());
    }
    let mut out = live.clone();
    for (k, v) in applied {
        let merged = match (out.get(k), kind.member(k)) {
            (Some(old), Some(field)) => merge_field(field, old, v),
            _ => v.clone(),
        };
        out.insert(k.clone(), merged);
    }
    Value::Object(out)
}

fn merge_field(field: &Field, live: &Value, applied: &Value) -> Value {
    if field.atomic {
        return applied.clone();
    }
    match (field.shape, field.type_of(), live, applied) {
        (Shape::One, Some(kind), Value::Object(_), Value::Object(_)) => merge(kind, live, applied),
        (Shape::Map, kind, Value::Object(old), Value::Object(new)) => {
            let mut out = old.clone();
            for (k, v) in new {
                let merged = match (kind, out.get(k)) {
                    (Some(t), Some(o)) => merge(t, o, v),
                    _ => v.clone(),
                };
                out.insert(k.clone(), merged);
            }
            Value::Object(out)
        }
        (Shape::List, kind, Value::Array(old), Value::Array(new)) => {
            merge_list(field, kind, old, new)
        }
        _ => applied.clone(),
    }
}

/// Keyed items are merged in place, new ones come last; sets are united; other lists replaced.
fn merge_list(field: &Field, kind: Option<&Type>, old: &[Value], new: &[Value]) -> Value {
    let mut out = old.to_vec();
    match (&field.list, kind) {
        (ListType::Set, _) => {
            let known: HashSet<&Value> = old.iter().collect();
            out.extend(new.iter().filter(|v| !known.contains(v)).cloned());
        }
        (ListType::Map(keys), Some(kind)) => {
            let mut places = HashMap::with_capacity(old.len());
            for (i, item) in old.iter().enumerate() {
                // Of several with one key, the first is merged.
                places.entry(item_key(keys, item)).or_insert(i);
            }
            for item in new {
                match places.entry(item_key(keys, item)) {
                    Entry::Occupied(at) => {
                        let at = *at.get();
                        out[at] = merge(kind, &out[at], item);
                    }
                    Entry::Vacant(at) => {
                        at.insert(out.len());
                        out.push(item.clone());
                    }
                }
            }
        }
        _ => return Value::Array(new.to_vec()),
    }
    Value::Array(out)
}

/// Takes out what the applier owned before (`last`) and what nobody owns any more (`keep`). A
/// struct, list or map that held only that goes as a whole.
pub(crate) fn prune(kind: &Type, object: &mut Value, last: &FieldSet, keep: &FieldSet) {
    let Some(map) = object.as_object_mut() else { return };
    for (element, last) in &last.children {
        let Element::Field(name) = element else { continue };
        match (keep.children.get(element), kind.member(name)) {
            (None, _) => drop(map.shift_remove(name)),
            (Some(keep), Some(field)) => {
                if let Some(value) = map.get_mut(name) {
                    prune_field(field, value, last, keep);
                }
            }
            (Some(_), None) => {}
        }
    }
}

fn prune_field(field: &Field, value: &mut Value, last: &FieldSet, keep: &FieldSet) {
    let below = |value: &mut Value, last: &FieldSet, keep: &FieldSet| {
        if let Some(kind) = field.type_of() {
            prune(kind, value, last, keep);
        }
    };
    match (field.shape, value) {
        (Shape::One, value) => below(value, last, keep),
        (Shape::Map, Value::Object(entries)) => {
            for (element, last) in &last.children {
                let Element::Field(key) = element else { continue };
                match (keep.children.get(element), entries.get_mut(key)) {
                    (None, Some(_)) => drop(entries.shift_remove(key)),
                    (Some(keep), Some(entry)) => below(entry, last, keep),
                    (_, None) => {}
                }
            }
        }
        (Shape::List, Value::Array(items)) => items.retain_mut(|item| {
            let element = match &field.list {
                ListType::Map(keys) => Element::Key(item_key(keys, item)),
                _ => Element::Value(item.to_string()),
            };
            match (last.children.get(&element), keep.children.get(&element)) {
                (Some(last), Some(keep)) => {
                    below(item, last, keep);
                    true
                }
                (Some(last), None) => !last.own,
                (None, _) => true,
            }
        }),
        _ => {}
    }
}
