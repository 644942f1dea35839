//! Defaults fulfil the schema that they stand in.

use crate::{Schema, Violation, path::Path, rules};
use serde_json::Value;

/// Checks the defaults of a schema and of all below.
pub(super) fn check(schema: &Schema, path: &Path<'_>, out: &mut Vec<Violation>) {
    if !schema.any_default {
        return;
    }
    if let Some(default) = &schema.default {
        one(schema, default, &path.child("default"), out);
    }
    if let Some(items) = schema.items() {
        check(items, &path.child("items"), out);
    }
    let properties = path.child("properties");
    for (name, property) in &schema.properties {
        check(property, &properties.key(name), out);
    }
    // Additional members are not looked at: the real API does not either.
}

fn one(schema: &Schema, default: &Value, path: &Path<'_>, out: &mut Vec<Violation>) {
    let mut pruned = default.clone();
    schema.prune_part(&mut pruned);
    if pruned != *default {
        out.push(Violation::invalid(path, default.clone(), "must not have unknown fields"));
    }
    let start = out.len();
    schema.check_embedded(default, path, out);
    if out.len() == start {
        schema.check_values(&path.to_string(), default, None, out);
    }
    if out.len() == start {
        let field = path.to_string();
        // As an unchanged value, and as a new one: rules may ask for the old value.
        rules::evaluate(schema, default, Some(default), &field, out, &mut Vec::new());
        if out.len() == start {
            rules::evaluate(schema, default, None, &field, out, &mut Vec::new());
        }
    }
}
