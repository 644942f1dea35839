//! Lists: sets and maps by key, and what Kubernetes and cel-go add to lists.

use crate::{
    error::EvalError,
    value::{List, ListRepr, Map, MapKey, MapRepr, Value, equals},
};
use serde_json::Value as Json;
use std::collections::{BTreeSet, HashMap};

/// A set of values that finds scalars fast.
pub(crate) struct ScalarSet<'a> {
    keys: BTreeSet<MapKey<'a>>,
    /// What is no key, such as 0.5.
    others: Vec<Value<'a>>,
}

impl<'a> ScalarSet<'a> {
    pub fn of(list: &List<'a>) -> Result<ScalarSet<'a>, EvalError> {
        let mut set = ScalarSet { keys: BTreeSet::new(), others: Vec::new() };
        for item in list.iter() {
            set.insert(item?)?;
        }
        Ok(set)
    }

    /// Adds a value; false if it was there.
    pub fn insert(&mut self, value: Value<'a>) -> Result<bool, EvalError> {
        if let Some(key) = MapKey::of(&value) {
            return Ok(self.keys.insert(key));
        }
        if self.contains(&value)? {
            return Ok(false);
        }
        self.others.push(value);
        Ok(true)
    }

    pub fn contains(&self, value: &Value<'a>) -> Result<bool, EvalError> {
        if let Some(key) = MapKey::of(value) {
            return Ok(self.keys.contains(&key));
        }
        for other in &self.others {
            if equals(other, value)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The key of an element of a list with `x-kubernetes-list-type: map`.
pub(crate) fn key_of(value: &Value<'_>, keys: &[String]) -> Result<String, EvalError> {
    let mut out = String::new();
    for key in keys {
        let part = match value {
            Value::Map(Map(MapRepr::Json(map, _) | MapRepr::Object(map, _))) => {
                map.get(key).map(Json::to_string)
            }
            Value::Map(map) => match map.get_str(key).transpose()? {
                Some(Value::String(s)) => Some(Json::from(&*s).to_string()),
                Some(Value::Int(n)) => Some(n.to_string()),
                Some(Value::Uint(n)) => Some(n.to_string()),
                Some(Value::Bool(b)) => Some(b.to_string()),
                _ => None,
            },
            _ => {
                return Err(EvalError::text(
                    "unexpected data format for element of array with x-kubernetes-list-type=map",
                ));
            }
        };
        // JSON text has no NUL: parts cannot run into each other.
        out.push_str(part.as_deref().unwrap_or("null"));
        out.push('\0');
    }
    Ok(out)
}

/// Where in a list each key is.
pub(crate) fn index_by_key(
    list: &List<'_>,
    keys: &[String],
) -> Result<HashMap<String, usize>, EvalError> {
    let mut index = HashMap::with_capacity(list.len());
    for (i, item) in list.iter().enumerate() {
        index.insert(key_of(&item?, keys)?, i);
    }
    Ok(index)
}

/// `a + b`: appended, united or merged, as the left list's kind says.
pub(crate) fn concat<'a>(a: &List<'a>, b: &List<'a>) -> Result<Value<'a>, EvalError> {
    use crate::types::ListKind;
    let mut items = Vec::with_capacity(a.len() + b.len());
    for item in a.iter() {
        items.push(item?);
    }
    match a.kind() {
        ListKind::Atomic => {
            for item in b.iter() {
                items.push(item?);
            }
        }
        ListKind::Set => {
            let mut set = ScalarSet::of(a)?;
            for item in b.iter() {
                let item = item?;
                if set.insert(item.clone())? {
                    items.push(item);
                }
            }
        }
        ListKind::Map(keys) => {
            let mut index = index_by_key(a, keys)?;
            for item in b.iter() {
                let item = item?;
                match index.entry(key_of(&item, keys)?) {
                    std::collections::hash_map::Entry::Occupied(at) => items[*at.get()] = item,
                    std::collections::hash_map::Entry::Vacant(free) => {
                        free.insert(items.len());
                        items.push(item);
                    }
                }
            }
        }
    }
    Ok(Value::List(List(ListRepr::Owned(std::sync::Arc::new(items), a.kind()))))
}
