//! Strategic merge: maps merge, lists of maps merge by the key the type table names, lists of
//! scalars marked `merge` unite, all else is replaced. The directives are `$patch`
//! (`replace`, `delete`, `merge`), `$setElementOrder/list`, `$deleteFromPrimitiveList/list`
//! and `$retainKeys`.
//!
//! Reference: the strategic-merge-patch document of the Kubernetes community, and what
//! `k8s.io/apimachinery/pkg/util/strategicpatch` answers.

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::{Content, Field, Merge, Shape, Type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

type Object = Map<String, Value>;
type Result<T> = std::result::Result<T, PatchError>;

pub(super) fn apply(of: &'static Type, object: &Value, patch: &Value) -> Result<Value> {
    let (Some(object), Some(patch)) = (object.as_object(), patch.as_object()) else {
        return Err(malformed("a strategic merge patch must be an object"));
    };
    merge_map(object.clone(), patch, Schema::Members(of)).map(Value::Object)
}

/// What is known of a map's members.
#[derive(Clone, Copy)]
enum Schema {
    /// The members of a type.
    Members(&'static Type),
    /// A map whose values are of one type, or free-form JSON.
    Values(Option<&'static Type>),
}

impl Schema {
    fn field(self, key: &str) -> Option<&'static Field> {
        match self {
            Self::Members(of) => of.member(key),
            Self::Values(_) => None,
        }
    }

    /// The schema of the map (or of the list's items) at `key`.
    fn below(self, key: &str) -> Self {
        match (self, self.field(key)) {
            (Self::Values(Some(of)), _) => Self::Members(of),
            (_, Some(Field { shape: Shape::Map, content: Content::Type(id), .. })) => {
                Self::Values(Some(id.get()))
            }
            (_, Some(Field { content: Content::Type(id), .. })) => Self::Members(id.get()),
            _ => Self::Values(None),
        }
    }

    fn merge_of(self, key: &str) -> Merge {
        self.field(key).map_or(Merge::Replace, |field| field.merge)
    }
}

fn malformed(text: impl Into<String>) -> PatchError {
    PatchError::Malformed(text.into())
}

fn merge_map(mut object: Object, patch: &Object, schema: Schema) -> Result<Object> {
    match patch.get(DIRECTIVE) {
        None => {}
        Some(Value::String(word)) if word == "replace" => return Ok(without_directives(patch)),
        Some(Value::String(word)) if word == "delete" => return Ok(Object::new()),
        Some(Value::String(word)) if word == "merge" => {}
        Some(other) => return Err(malformed(format!("unknown patch type: {other}"))),
    }
    if let Some(keys) = patch.get(RETAIN_KEYS) {
        retain_keys(&mut object, patch, keys)?;
    }
    for (key, value) in patch {
        if key == DIRECTIVE || key == RETAIN_KEYS || key.starts_with(SET_ORDER) {
            continue;
        }
        if let Some(name) = key.strip_prefix(DELETE_FROM) {
            delete_from(&mut object, name, value)?;
        } else if value.is_null() {
            object.shift_remove(key);
        } else {
            let order = patch.get(&format!("{SET_ORDER}{key}"));
            merge_member(&mut object, key, value, order, schema)?;
        }
    }
    // An order alone sorts a list that the patch does not change otherwise.
    for (key, order) in patch {
        let Some(name) = key.strip_prefix(SET_ORDER) else { continue };
        let order = as_list(order, key)?;
        if !patch.contains_key(name)
            && let Some(Value::Array(items)) = object.get_mut(name)
        {
            let server_order = items.clone();
            let merged = std::mem::take(items);
            *items = sort(merged, order, &server_order, schema.merge_of(name));
        }
    }
    Ok(object)
}

fn merge_member(
    object: &mut Object,
    key: &str,
    patch: &Value,
    order: Option<&Value>,
    schema: Schema,
) -> Result<()> {
    let merge = schema.merge_of(key);
    let merged = match (object.get_mut(key), patch) {
        (Some(Value::Object(old)), Value::Object(patch)) => {
            Value::Object(merge_map(std::mem::take(old), patch, schema.below(key))?)
        }
        (Some(Value::Array(old)), Value::Array(patch)) if merge != Merge::Replace => {
            let old = std::mem::take(old);
            Value::Array(merge_list(old, patch, order, merge, schema.below(key))?)
        }
        (_, Value::Array(patch)) if merge != Merge::Replace => {
            Value::Array(merge_list(Vec::new(), patch, order, merge, schema.below(key))?)
        }
        (_, other) => match clean(other) {
            Some(value) => value,
            None => {
                object.shift_remove(key);
                return Ok(());
            }
        },
    };
    object.insert(key.to_owned(), merged);
    Ok(())
}

fn merge_list(
    old: Vec<Value>,
    patch: &[Value],
    order: Option<&Value>,
    merge: Merge,
    schema: Schema,
) -> Result<Vec<Value>> {
    let server_order = old.clone();
    let (merged, mut wanted) = match merge {
        Merge::ByKey(key) => {
            let (merged, present) = merge_list_of_maps(old, patch, key, schema)?;
            match present {
                Some(present) => (merged, present),
                // `$patch: replace` in the list: its own order stands.
                None => return Ok(merged),
            }
        }
        Merge::Union | Merge::Replace => {
            let mut merged = old;
            for item in patch {
                if item.is_object() || item.is_array() {
                    return Err(malformed("a list of scalars was expected"));
                }
                if !merged.contains(item) {
                    merged.push(item.clone());
                }
            }
            (merged, patch.to_vec())
        }
    };
    if let Some(order) = order {
        let order = as_list(order, SET_ORDER)?;
        if !is_subsequence(&wanted, order, merge) {
            return Err(malformed(format!(
                "The order in patch list:\n{}\n doesn't match {SET_ORDER} list:\n{}\n",
                Value::from(wanted),
                Value::from(order.to_vec())
            )));
        }
        wanted = order.to_vec();
    }
    Ok(sort(merged, &wanted, &server_order, merge))
}

/// Merges by key; the second result is the patch's items without directives, in their order,
/// or `None` when the patch replaced the list.
#[allow(clippy::type_complexity)] // one caller
fn merge_list_of_maps(
    mut old: Vec<Value>,
    patch: &[Value],
    key: &'static str,
    schema: Schema,
) -> Result<(Vec<Value>, Option<Vec<Value>>)> {
    let mut rest = Vec::new();
    let mut replace = false;
    for item in patch {
        let Value::Object(members) = item else {
            return Err(malformed(format!("a list of maps with the key {key:?} was expected")));
        };
        match members.get(DIRECTIVE).map(Value::as_str) {
            None => rest.push(members),
            Some(Some("delete")) => {
                let value = members.get(key).ok_or_else(|| no_key(item, key))?;
                old.retain(|candidate| candidate.get(key) != Some(value));
            }
            Some(Some("replace")) => replace = true,
            Some(Some("merge")) => {
                return Err(malformed("merging lists cannot yet be specified in the patch"));
            }
            Some(_) => return Err(malformed(format!("unknown patch type in {item}"))),
        }
    }
    if replace {
        let items = rest.into_iter().map(|members| Value::Object(without_directives(members)));
        return Ok((items.collect(), None));
    }
    let mut present = Vec::with_capacity(rest.len());
    for members in rest {
        let value = members.get(key).ok_or_else(|| no_key(&Value::from(members.clone()), key))?;
        present.push(Value::Object(Map::from_iter([(key.to_owned(), value.clone())])));
        let found = old.iter_mut().find(|candidate| candidate.get(key) == Some(value));
        match found {
            Some(Value::Object(existing)) => {
                *existing = merge_map(std::mem::take(existing), members, schema)?;
            }
            _ => old.push(Value::Object(merge_map(Object::new(), members, schema)?)),
        }
    }
    Ok((old, Some(present)))
}

fn no_key(item: &Value, key: &str) -> PatchError {
    malformed(format!("map: {item} does not contain declared merge key: {key}"))
}

/// Items named by `wanted` in that order, the others in the server's; an other stands before
/// a wanted one only where the server had both in that order.
fn sort(merged: Vec<Value>, wanted: &[Value], server: &[Value], merge: Merge) -> Vec<Value> {
    let at = |list: &[Value], item: &Value| list.iter().position(|x| same(x, item, merge));
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for item in merged {
        match at(wanted, &item) {
            Some(index) => right.push((index, item)),
            None => left.push(item),
        }
    }
    right.sort_by_key(|(index, _)| *index);
    let mut result = Vec::with_capacity(left.len() + right.len());
    let mut left = left.into_iter().peekable();
    for (_, item) in right {
        let place = at(server, &item);
        while let (Some(other), Some(place)) = (left.peek(), place) {
            match at(server, other) {
                Some(index) if index < place => result.extend(left.next()),
                _ => break,
            }
        }
        result.push(item);
    }
    result.extend(left);
    result
}

fn same(a: &Value, b: &Value, merge: Merge) -> bool {
    match merge {
        Merge::ByKey(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        _ => a == b,
    }
}

fn is_subsequence(items: &[Value], order: &[Value], merge: Merge) -> bool {
    let mut rest = order.iter();
    order.is_empty() || items.iter().all(|item| rest.any(|other| same(item, other, merge)))
}

fn delete_from(object: &mut Object, name: &str, values: &Value) -> Result<()> {
    let values = as_list(values, DELETE_FROM)?;
    if let Some(Value::Array(items)) = object.get_mut(name) {
        items.retain(|item| !values.contains(item));
    }
    Ok(())
}

fn retain_keys(object: &mut Object, patch: &Object, keys: &Value) -> Result<()> {
    let keys = as_list(keys, RETAIN_KEYS)?;
    let kept = |key: &str| keys.iter().any(|k| k.as_str() == Some(key));
    let stray =
        patch.iter().any(|(key, value)| !value.is_null() && !key.starts_with('$') && !kept(key));
    if stray {
        return Err(malformed("invalid patch format of retainKeys"));
    }
    object.retain(|key, _| kept(key));
    Ok(())
}

fn as_list<'a>(value: &'a Value, what: &str) -> Result<&'a [Value]> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| malformed(format!("{what} must be a list")))
}

/// A value that is taken as it is, without nulls and directives; `None` if it is a directive
/// itself.
fn clean(value: &Value) -> Option<Value> {
    match value {
        Value::Object(members) => match members.get(DIRECTIVE).map(Value::as_str) {
            Some(Some("delete")) => None,
            _ => Some(Value::Object(without_directives(members))),
        },
        Value::Array(items) => Some(items.iter().filter_map(clean).collect()),
        other => Some(other.clone()),
    }
}

fn without_directives(members: &Object) -> Object {
    let is_directive = |key: &str| {
        key == DIRECTIVE
            || key == RETAIN_KEYS
            || key.starts_with(SET_ORDER)
            || key.starts_with(DELETE_FROM)
    };
    members
        .iter()
        .filter(|(key, value)| !is_directive(key) && !value.is_null())
        .filter_map(|(key, value)| clean(value).map(|value| (key.clone(), value)))
        .collect()
}
