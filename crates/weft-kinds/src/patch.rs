//! JSON patch, merge patch and strategic merge patch.
//!
//! All three take the object as it is stored and a parsed patch and return the new object;
//! the caller conforms, defaults and validates the result like any other.

mod strategic;

use serde_json::Value;

use crate::Kind;
use crate::schema;

/// Operations in one JSON patch, as the real API limits them.
const OPERATIONS_MAX: usize = 10_000;
/// What the `copy` operations of one JSON patch may copy together; without a limit, each
/// could double the object.
const COPIED_BYTES_MAX: usize = 3 << 20;

/// Why a patch cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch is well formed but does not fit the object: 422.
    #[error("{0}")]
    Unprocessable(String),
    /// The patch would make the object too large: 413.
    #[error("{0}")]
    TooLarge(String),
}

/// RFC 6902.
pub fn json(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    use json_patch::{Patch, PatchOperation};
    let Patch(operations) = serde_json::from_value(patch.clone())
        .map_err(|error| PatchError::Malformed(format!("error decoding patch: {error}")))?;
    if operations.len() > OPERATIONS_MAX {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}",
            operations.len()
        )));
    }
    let mut result = object.clone();
    let mut copied = 0;
    for operation in operations {
        if let PatchOperation::Copy(copy) = &operation {
            let source = result.pointer(copy.from.as_str());
            copied += source.map_or(0, |value| value.to_string().len());
            if copied > COPIED_BYTES_MAX {
                return Err(PatchError::TooLarge("the patch copies too much".to_owned()));
            }
        }
        json_patch::patch(&mut result, std::slice::from_ref(&operation))
            .map_err(|error| PatchError::Unprocessable(error.to_string()))?;
    }
    Ok(result)
}

/// RFC 7396.
pub fn merge(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    if !patch.is_object() {
        return Err(PatchError::Malformed("a merge patch must be an object".to_owned()));
    }
    let mut result = object.clone();
    json_patch::merge(&mut result, patch);
    Ok(result)
}

/// Kubernetes' strategic merge with the merge keys of the kind.
pub fn strategic(kind: &Kind, object: &Value, patch: &Value) -> Result<Value, PatchError> {
    strategic::apply(schema::of(kind), object, patch)
}

#[cfg(test)]
mod tests;
