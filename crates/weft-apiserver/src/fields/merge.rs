//! Merging an applied configuration into a live object, and taking fields out of it.

use super::{Element, set::item_key};
use serde_json::{Map, Value};
use weft_kinds::schema::{Field, ListType, Shape, Type};

/// The live object with what is applied.
pub(crate) fn merge(kind: &'static Type, live: &Value, applied: &Value) -> Value {
    let (Some(live), Some(applied)) = (live.as_object(), applied.as_object()) else {
        return applied.clone();
    };
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

fn merge_field(field: &'static Field, live: &Value, applied: &Value) -> Value {
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
fn merge_list(field: &Field, kind: Option<&'static Type>, old: &[Value], new: &[Value]) -> Value {
    let mut out = old.to_vec();
    match (&field.list, kind) {
        (ListType::Set, _) => {
            out.extend(new.iter().filter(|v| !old.contains(v)).cloned());
        }
        (ListType::Map(keys), Some(kind)) => {
            for item in new {
                let key = item_key(keys, item);
                match out.iter_mut().find(|o| item_key(keys, o) == key) {
                    Some(o) => *o = merge(kind, o, item),
                    None => out.push(item.clone()),
                }
            }
        }
        _ => return Value::Array(new.to_vec()),
    }
    Value::Array(out)
}

/// Takes one path out of the object. Maps and lists that are empty then go as well, as Go leaves
/// them out; structs stay.
pub(crate) fn remove(kind: &'static Type, object: &mut Value, path: &[Element]) {
    let Some((Element::Field(name), rest)) = path.split_first() else { return };
    let Some(map) = object.as_object_mut() else { return };
    if rest.is_empty() {
        map.shift_remove(name);
        return;
    }
    let (Some(field), Some(value)) = (kind.member(name), map.get_mut(name)) else { return };
    match field.shape {
        Shape::One => {
            if let Some(t) = field.type_of() {
                remove(t, value, rest);
            }
        }
        Shape::Map => {
            if let (Some(inner), Element::Field(key)) = (value.as_object_mut(), &rest[0]) {
                remove_entry(field.type_of(), inner, key, &rest[1..]);
                if inner.is_empty() {
                    map.shift_remove(name);
                }
            }
        }
        Shape::List => {
            if let Some(items) = value.as_array_mut() {
                remove_item(field, items, &rest[0], &rest[1..]);
                if items.is_empty() {
                    map.shift_remove(name);
                }
            }
        }
    }
}

fn remove_entry(
    kind: Option<&'static Type>,
    map: &mut Map<String, Value>,
    key: &str,
    rest: &[Element],
) {
    match (kind, map.get_mut(key)) {
        (Some(t), Some(v)) if !rest.is_empty() => remove(t, v, rest),
        _ => drop(map.shift_remove(key)),
    }
}

fn remove_item(field: &Field, items: &mut Vec<Value>, which: &Element, rest: &[Element]) {
    let position = match (which, &field.list) {
        (Element::Value(v), _) => {
            let wanted: Option<Value> = serde_json::from_str(v).ok();
            items.iter().position(|i| Some(i) == wanted.as_ref())
        }
        (Element::Key(k), ListType::Map(keys)) => {
            items.iter().position(|i| item_key(keys, i) == *k)
        }
        _ => None,
    };
    let Some(i) = position else { return };
    match field.type_of() {
        Some(t) if !rest.is_empty() => remove(t, &mut items[i], rest),
        _ => drop(items.remove(i)),
    }
}

/// The value at a path, if it is there.
pub(crate) fn value_at<'a>(
    kind: &'static Type,
    object: &'a Value,
    path: &[Element],
) -> Option<&'a Value> {
    let Some((first, rest)) = path.split_first() else { return Some(object) };
    let Element::Field(name) = first else { return None };
    let (field, value) = (kind.member(name), object.get(name)?);
    let Some(field) = field else { return rest.is_empty().then_some(value) };
    let Some((next, after)) = rest.split_first() else { return Some(value) };
    let inner = match (field.shape, next) {
        (Shape::One, _) => return value_at(field.type_of()?, value, rest),
        (Shape::Map, Element::Field(k)) => value.get(k)?,
        (Shape::List, Element::Value(v)) => {
            let wanted: Value = serde_json::from_str(v).ok()?;
            value.as_array()?.iter().find(|i| **i == wanted)?
        }

        (Shape::List, Element::Key(k)) => {
            let ListType::Map(keys) = &field.list else { return None };
            value.as_array()?.iter().find(|i| item_key(keys, i) == *k)?
        }
        _ => return None,
    };
    if after.is_empty() { Some(inner) } else { value_at(field.type_of()?, inner, after) }
}
