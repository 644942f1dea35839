//! A value along its type: wrong types are errors, unknown fields findings.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{DecodeError, FINDINGS_MAX};
use crate::quantity;
use crate::schema::{Content, Field, Shape, Type};

/// Conforms an object of type `of` in place.
pub(super) fn object(
    of: &Type,
    value: &mut Value,
    strict: &mut Vec<String>,
) -> Result<(), DecodeError> {
    let Value::Object(members) = value else {
        return Err(DecodeError::NotAnObject {
            found: json_type(value),
            expected: of.go_name().to_owned(),
        });
    };
    Walk { path: Vec::new(), strict }.members(of, members)
}

/// Conforms a custom resource: its metadata as every object's, the rest by its schema.
pub(super) fn custom(
    schema: &weft_crd::Schema,
    value: &mut Value,
    strict: &mut Vec<String>,
) -> Result<(), DecodeError> {
    let Value::Object(members) = value else {
        let expected = "map[string]interface {}".to_owned();
        return Err(DecodeError::NotAnObject { found: json_type(value), expected });
    };
    match members.get_mut("metadata") {
        Some(Value::Null) => drop(members.shift_remove("metadata")),
        Some(metadata) => {
            let of = crate::schema::find("meta.v1.ObjectMeta").expect("invariant: of the table");
            let mut walk = Walk { path: vec!["metadata".to_owned()], strict };
            match metadata {
                Value::Object(members) => walk.members(of, members)?,
                other => return Err(walk.mismatch(of, other, of.go_name().to_owned())),
            }
        }
        None => {}
    }
    let unknown = schema.prune(value);
    strict.extend(unknown.iter().map(|field| format!("unknown field {field:?}")));
    strict.truncate(FINDINGS_MAX);
    Ok(())
}

struct Walk<'a> {
    path: Vec<String>,
    strict: &'a mut Vec<String>,
}

impl Walk<'_> {
    fn members(&mut self, of: &Type, members: &mut Map<String, Value>) -> Result<(), DecodeError> {
        let mut dropped = Vec::new();
        for (key, value) in members.iter_mut() {
            let Some(field) = of.member(key) else {
                if self.strict.len() < FINDINGS_MAX {
                    let field = self.joined(key);
                    self.strict.push(format!("unknown field {field:?}"));
                }
                dropped.push(key.clone());
                continue;
            };
            if value.is_null() {
                dropped.push(key.clone());
                continue;
            }
            self.path.push(key.clone());
            self.field(of, field, value)?;
            self.path.pop();
            if field.omit_zero && is_zero(value) {
                dropped.push(key.clone());
            }
        }
        for key in dropped {
            members.shift_remove(&key);
        }
        Ok(())
    }

    fn field(&mut self, of: &Type, field: &Field, value: &mut Value) -> Result<(), DecodeError> {
        match field.shape {
            Shape::One => self.one(of, field, value),
            Shape::List => {
                let Value::Array(items) = value else {
                    let expected = format!("[]{}", go_type(field.content));
                    return Err(self.mismatch(of, value, expected));
                };
                for (index, item) in items.iter_mut().enumerate() {
                    self.path.push(format!("[{index}]"));
                    if item.is_null() {
                        *item = zero(field.content);
                    }
                    self.one(of, field, item)?;
                    self.path.pop();
                }
                Ok(())
            }
            Shape::Map => {
                let Value::Object(entries) = value else {
                    let expected = format!("map[string]{}", go_type(field.content));
                    return Err(self.mismatch(of, value, expected));
                };
                for (key, entry) in entries.iter_mut() {
                    self.path.push(key.clone());
                    if entry.is_null() {
                        *entry = zero(field.content);
                    }
                    self.one(of, field, entry)?;
                    self.path.pop();
                }
                Ok(())
            }
        }
    }

    fn one(&mut self, of: &Type, field: &Field, value: &mut Value) -> Result<(), DecodeError> {
        if field.loose && !value.is_object() {
            return Ok(());
        }
        let fits = match field.content {
            Content::String => value.is_string(),
            Content::Bool => value.is_boolean(),
            Content::Int32 => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            Content::Int64 => value.is_i64(),
            Content::Double => value.is_number(),
            Content::Raw => true,
            Content::Strings => {
                value.as_array().is_some_and(|items| items.iter().all(Value::is_string))
            }
            Content::IntOrString => {
                value.is_string() || value.as_i64().is_some_and(|n| i32::try_from(n).is_ok())
            }
            Content::Type(id) => {
                let inner = id.get();
                return match value {
                    Value::Object(members) => self.members(inner, members),
                    _ => Err(self.mismatch(of, value, inner.go_name().to_owned())),
                };
            }
            Content::Bytes | Content::Time | Content::MicroTime | Content::Duration => {
                value.is_string()
            }
            Content::Quantity => value.is_string() || value.is_number(),
        };
        if !fits {
            return Err(self.mismatch(of, value, go_type(field.content)));
        }
        canonicalise(field.content, value)
    }

    fn joined(&self, last: &str) -> String {
        let mut text = String::new();
        for step in self.path.iter().map(String::as_str).chain([last]) {
            if !text.is_empty() && !step.starts_with('[') {
                text.push('.');
            }
            text.push_str(step);
        }
        text
    }

    /// Go names the innermost struct, then the path without indexes and map keys.
    fn mismatch(&self, of: &Type, value: &Value, expected: String) -> DecodeError {
        let steps: Vec<&str> =
            self.path.iter().map(String::as_str).filter(|step| !step.starts_with('[')).collect();
        let found = match value {
            Value::Number(number) if expected.starts_with("int") => format!("number {number}"),
            other => json_type(other),
        };
        DecodeError::Type {
            found,
            field: format!("{}.{}", of.short_name(), steps.join(".")),
            expected,
        }
    }
}

/// Brings the texts that have several spellings to the one the real API stores.
fn canonicalise(content: Content, value: &mut Value) -> Result<(), DecodeError> {
    match content {
        Content::Quantity => {
            let text = match value {
                Value::String(text) => std::mem::take(text),
                ref other => other.to_string(),
            };
            // Go reads JSON numbers such as 1e3 as text, too.
            let canonical = quantity::canonical(text.trim()).ok_or_else(|| {
                DecodeError::Value(
                    "quantities must match the regular expression \
                     '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                        .to_owned(),
                )
            })?;
            *value = canonical.into();
        }
        Content::Time | Content::MicroTime => {
            let Value::String(text) = value else { return Ok(()) };
            let layout = if content == Content::Time {
                "2006-01-02T15:04:05Z07:00"
            } else {
                "2006-01-02T15:04:05.000000Z07:00"
            };
            let time: Timestamp = text.parse().map_err(|_| {
                DecodeError::Value(format!(
                    "parsing time {text:?} as {layout:?}: cannot parse {text:?}"
                ))
            })?;
            *text = if content == Content::Time { seconds(time) } else { micros(time) };
        }
        Content::Bytes => {
            let Value::String(text) = value else { return Ok(()) };
            if let Err(error) = STANDARD.decode(text.as_bytes()) {
                let at = match error {
                    base64::DecodeError::InvalidByte(at, _)
                    | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                    _ => text.len(),
                };
                return Err(DecodeError::Value(format!("illegal base64 data at input byte {at}")));
            }
        }
        _ => {}
    }
    Ok(())
}

/// `metav1.Time` as Go writes it: whole seconds, UTC.
pub(crate) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `metav1.MicroTime` as Go writes it.
pub(crate) fn micros(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

fn zero(content: Content) -> Value {
    match content {
        Content::Type(_) => Value::Object(Map::new()),
        Content::Bool => false.into(),
        Content::Int32 | Content::Int64 | Content::Double => 0.into(),
        Content::Quantity => "0".into(),
        Content::Strings => Value::Array(Vec::new()),
        Content::Raw | Content::Time | Content::MicroTime => Value::Null,
        _ => "".into(),
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}

fn go_type(content: Content) -> String {
    match content {
        Content::String | Content::Bytes => "string",
        Content::Bool => "bool",
        Content::Int32 => "int32",
        Content::Int64 => "int64",
        Content::Double => "float64",
        Content::Time => "v1.Time",
        Content::MicroTime => "v1.MicroTime",
        Content::Duration => "v1.Duration",
        Content::Quantity => "resource.Quantity",
        Content::IntOrString => "intstr.IntOrString",
        Content::Raw => "runtime.RawExtension",
        Content::Strings => "v1.ExtraValue",
        Content::Type(id) => id.get().go_name(),
    }
    .to_owned()
}

fn json_type(value: &Value) -> String {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
    .to_owned()
}
