//! Missing members get their defaults; nulls that may not be go.

use super::{Additional, Schema};
use serde_json::Value;

impl Schema {
    /// Fills in defaults, also for nulls that may not be null, and removes such nulls where there
    /// is no default. Idempotent.
    pub fn default(&self, value: &mut Value) {
        match value {
            Value::Object(members) => {
                if self.any_default {
                    for (name, property) in &self.properties {
                        let Some(default) = &property.default else { continue };
                        match members.get_mut(name) {
                            None => drop(members.insert(name.clone(), default.clone())),
                            Some(null @ Value::Null) if !property.nullable => {
                                *null = default.clone();
                            }
                            Some(_) => {}
                        }
                    }
                }
                members.retain(|name, value| {
                    let Some(schema) = self.member(name) else { return true };
                    if value.is_null() && !schema.nullable {
                        match (&schema.default, &self.additional) {
                            (Some(default), Additional::Schema(_)) => *value = default.clone(),
                            _ => return false,
                        }
                    }
                    schema.default(value);
                    true
                });
            }
            Value::Array(items) => {
                let Some(schema) = self.items() else { return };
                for item in items {
                    if item.is_null()
                        && !schema.nullable
                        && let Some(default) = &schema.default
                    {
                        *item = default.clone();
                    }
                    schema.default(item);
                }
            }
            _ => {}
        }
    }
}
