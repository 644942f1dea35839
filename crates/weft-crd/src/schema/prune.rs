//! Members that the schema does not know go.

use super::{Additional, Schema};
use crate::path::Path;
use serde_json::Value;

/// Findings of one object; the rest is not named.
const FINDINGS_MAX: usize = 64;

const META: &[&str] = &["apiVersion", "kind", "metadata"];

impl Schema {
    /// Removes what the schema does not know, and says what it was, sorted. Type and metadata of
    /// the object itself are left alone.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        prune(object, Some(self), true, &Path::ROOT, &mut unknown);
        unknown.sort();
        unknown
    }

    /// Prunes a part of an object.
    pub(crate) fn prune_part(&self, value: &mut Value) {
        prune(value, Some(self), self.embedded, &Path::ROOT, &mut Vec::new());
    }
}

fn prune(
    value: &mut Value,
    schema: Option<&Schema>,
    resource: bool,
    path: &Path<'_>,
    unknown: &mut Vec<String>,
) {
    match value {
        Value::Object(members) => {
            let keeps = schema.is_some_and(|s| s.preserve_unknown);
            members.retain(|name, value| {
                if resource && META.contains(&name.as_str()) {
                    return true;
                }
                if let Some(property) = schema.and_then(|s| s.property(name)) {
                    prune(value, Some(property), property.embedded, &path.child(name), unknown);
                    return true;
                }
                match schema.map(|s| &s.additional) {
                    Some(Additional::Schema(s)) => {
                        prune(value, Some(s), s.embedded, &path.child(name), unknown);
                        true
                    }
                    Some(Additional::Bool(_)) => {
                        prune(value, None, false, &path.child(name), unknown);
                        true
                    }
                    _ if keeps => true,
                    _ => {
                        let named = !(path.is_root() && META.contains(&name.as_str()));
                        if named && unknown.len() < FINDINGS_MAX {
                            unknown.push(path.child(name).to_string());
                        }
                        false
                    }
                }
            });
        }
        Value::Array(items) => {
            let keeps = schema.is_some_and(|s| s.preserve_unknown);
            let inner = schema.and_then(|s| s.items());
            // Without a schema of its own, what is kept is kept whole.
            if keeps && inner.is_none() {
                return;
            }
            for (index, item) in items.iter_mut().enumerate() {
                let resource = inner.is_some_and(|s| s.embedded);
                prune(item, inner, resource, &path.index(index), unknown);
            }
        }
        _ => {}
    }
}
