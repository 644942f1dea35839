//! Which part of the old object a part of the new one was.

use super::{ListType, Schema};
use serde_json::Value;
use std::collections::HashMap;

/// The items of an old list of type map, by their keys.
pub(crate) enum OldItems<'a> {
    None,
    Few(&'a Schema, &'a [Value]),
    Many(&'a Schema, HashMap<String, &'a Value>),
}

/// Up to this many old items are looked through; more are put into a map.
const FEW: usize = 8;

impl<'a> OldItems<'a> {
    pub(crate) fn of(schema: &'a Schema, old: Option<&'a Value>) -> Self {
        match old.and_then(Value::as_array) {
            Some(items) if schema.list == ListType::Map && items.len() <= FEW => {
                Self::Few(schema, items)
            }
            Some(items) if schema.list == ListType::Map => {
                let keyed = items.iter().map(|item| (key(schema, item), item));
                Self::Many(schema, keyed.collect())
            }
            _ => Self::None,
        }
    }

    pub(crate) fn find(&self, item: &Value) -> Option<&'a Value> {
        match self {
            Self::None => None,
            Self::Few(schema, items) => items.iter().find(|old| same_key(schema, old, item)),
            Self::Many(schema, items) => items.get(&key(schema, item)).copied(),
        }
    }
}

/// The keys of an item with their defaults.
fn field<'a>(schema: &'a Schema, item: &'a Value, key: &str) -> Option<&'a Value> {
    let default = || schema.items()?.property(key)?.default.as_ref();
    item.get(key).or_else(default)
}

fn same_key(schema: &Schema, a: &Value, b: &Value) -> bool {
    schema.map_keys.iter().all(|key| field(schema, a, key) == field(schema, b, key))
}

fn key(schema: &Schema, item: &Value) -> String {
    let mut text = String::new();
    for key in &schema.map_keys {
        match field(schema, item, key) {
            Some(value) => text.push_str(&value.to_string()),
            None => text.push('-'),
        }
        text.push('\n');
    }
    text
}
