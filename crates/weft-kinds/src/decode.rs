//! Request bodies to values: syntax first, then the kind's types.
//!
//! [`json_value`] and [`yaml_value`] parse and note duplicate fields; [`conform`] walks the
//! value along the type table, refuses wrong types, drops unknown fields, nulls and zero
//! values that Go would not write, and brings quantities and times to their canonical form.
//! What is stored is therefore what the real API would store.

mod conform;
mod syntax;

use serde_json::Value;

use crate::Kind;
use crate::schema::{self, Type};

pub(crate) use conform::{micros, seconds};
pub use syntax::{json_value, yaml_value};

/// Strict findings reported for one object; the rest is dropped, as the real API does.
pub const FINDINGS_MAX: usize = 64;

/// A decoded body.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The object; after [`conform`] without unknown fields and without nulls.
    pub object: Value,
    /// What strict validation refuses and the Warn mode reports, as kubectl shows it:
    /// `unknown field "spec.foo"`, `duplicate field "spec.type"`.
    pub strict: Vec<String>,
}

/// Why a body is no object of its kind. The text is that of the real API's BadRequest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON.
    #[error("json parse error: {0}")]
    Json(String),
    /// Not YAML.
    #[error("yaml: {0}")]
    Yaml(String),
    /// Right syntax, wrong type.
    #[error("json: cannot unmarshal {found} into Go struct field {field} of type {expected}")]
    Type {
        /// JSON type found.
        found: String,
        /// `Struct.path` as Go writes it.
        field: String,
        /// Expected type as Go writes it.
        expected: String,
    },
    /// The body itself is not an object.
    #[error("json: cannot unmarshal {found} into Go value of type {expected}")]
    NotAnObject {
        /// JSON type found.
        found: String,
        /// Expected type as Go writes it.
        expected: String,
    },
    /// A string that its type cannot parse: a quantity, a time, base64.
    #[error("{0}")]
    Value(String),
}

/// Checks the types of `decoded` against the kind and makes it canonical; unknown fields are
/// dropped and added to the strict findings.
pub fn conform(kind: &Kind, decoded: &mut Decoded) -> Result<(), DecodeError> {
    match kind.custom() {
        Some(custom) => conform::custom(custom.schema(), &mut decoded.object, &mut decoded.strict),
        None => conform_type(schema::of(kind), decoded),
    }
}

/// Like [`conform`] for a body that is no row's object (`DeleteOptions`, `Scale`, `Eviction`,
/// `Binding`): `type_name` is a name of the type table.
pub fn conform_named(type_name: &str, decoded: &mut Decoded) -> Result<(), DecodeError> {
    match schema::find(type_name) {
        Some(found) => conform_type(found, decoded),
        None => Ok(()),
    }
}

fn conform_type(of: &Type, decoded: &mut Decoded) -> Result<(), DecodeError> {
    conform::object(of, &mut decoded.object, &mut decoded.strict)
}

#[cfg(test)]
pub(crate) mod tests;
