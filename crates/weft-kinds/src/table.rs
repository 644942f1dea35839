//! The columns of `kubectl get`.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Kind;

/// A column definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Heading; kubectl prints it in capitals.
    pub name: &'static str,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: &'static str,
    /// Format, such as `name`.
    pub format: &'static str,
    /// Shown always (0) or with `-o wide` (1).
    pub priority: u8,
}

const DEFAULT: &[Column] = &[
    Column { name: "Name", kind: "string", format: "name", priority: 0 },
    Column { name: "Age", kind: "string", format: "", priority: 0 },
];

/// The columns of a kind.
pub fn columns(_kind: &Kind) -> &'static [Column] {
    DEFAULT
}

/// `columnDefinitions` of a `meta.k8s.io/v1` Table.
pub fn column_definitions(kind: &Kind) -> Value {
    columns(kind)
        .iter()
        .map(|c| {
            json!({"name": c.name, "type": c.kind, "format": c.format,
                   "description": "", "priority": c.priority})
        })
        .collect()
}

/// The cells of one object, as many as [`columns`].
pub fn cells(_kind: &Kind, object: &Value, _now: Timestamp) -> Vec<Value> {
    let name = object.pointer("/metadata/name").cloned().unwrap_or(Value::Null);
    vec![name, "<unknown>".into()]
}
