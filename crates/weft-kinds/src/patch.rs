//! JSON patch, merge patch and strategic merge patch.
//!
//! All three take the object as it is stored and a parsed patch and return the new object;
//! the caller conforms, defaults and validates the result like any other.

mod strategic;

use serde_json::Value;

use crate::depth::{DEPTH_MAX, Measured, measure};
use crate::{Kind, Schema};

/// Operations in one JSON patch, as the real API limits them.
const OPERATIONS_MAX: usize = 10_000;
/// What the `copy` operations of one JSON patch may copy together; without a limit, each
/// could double the object.
const COPIED_BYTES_MAX: usize = 3 << 20;
/// Values that the depth check of one JSON patch looks at; many moves of much would take long.
const MEASURED_MAX: usize = 20_000_000;

/// All that the real API says of a JSON patch that does not fit the object.
const UNPROCESSABLE: &str = "the server rejected our request due to an error in our request";

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
    let mut budget = MEASURED_MAX;
    for operation in operations {
        // Before it is done: each `copy` below itself would double the depth, and what walks or
        // drops a value recurses.
        shallow(&result, &operation, &mut budget)?;
        if let PatchOperation::Copy(copy) = &operation {
            let source = result.pointer(copy.from.as_str());
            copied += source.map_or(0, |value| value.to_string().len());
            if copied > COPIED_BYTES_MAX {
                return Err(PatchError::TooLarge("the patch copies too much".to_owned()));
            }
        }
        if absent_as_wanted(&result, &operation) {
            continue;
        }
        json_patch::patch(&mut result, std::slice::from_ref(&operation))
            .map_err(|_| PatchError::Unprocessable(UNPROCESSABLE.to_owned()))?;
    }
    Ok(result)
}

/// Whether this is a test for null of a field that is not there: RFC 6902 fails it, the real API
/// passes it, and finalizers of kube-rs rely on that.
fn absent_as_wanted(object: &Value, operation: &json_patch::PatchOperation) -> bool {
    let json_patch::PatchOperation::Test(test) = operation else { return false };
    let path = test.path.as_str();
    test.value.is_null()
        && object.pointer(path).is_none()
        && path.rsplit_once('/').is_some_and(|(above, _)| object.pointer(above).is_some())
}

/// Refuses an operation whose result would be nested too deeply.
fn shallow(
    object: &Value,
    operation: &json_patch::PatchOperation,
    budget: &mut usize,
) -> Result<(), PatchError> {
    use json_patch::PatchOperation as Op;
    let (value, to) = match operation {
        Op::Add(add) => (Some(&add.value), &add.path),
        Op::Replace(replace) => (Some(&replace.value), &replace.path),
        Op::Copy(copy) => (object.pointer(copy.from.as_str()), &copy.path),
        Op::Move(from) => (object.pointer(from.from.as_str()), &from.path),
        Op::Remove(_) | Op::Test(_) => return Ok(()),
    };
    let above = to.as_str().matches('/').count();
    let Some(value) = value else { return Ok(()) };
    let measured = match DEPTH_MAX.checked_sub(above) {
        Some(left) => measure(value, left, budget),
        None => Measured::Deeper,
    };
    match measured {
        Measured::Within => Ok(()),
        Measured::Deeper => Err(PatchError::Unprocessable(format!(
            "the patch nests values deeper than {DEPTH_MAX}"
        ))),
        Measured::Costly => Err(PatchError::TooLarge("the patch moves too much".to_owned())),
    }
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
    match &kind.schema {
        Schema::Builtin(of) => strategic::apply(of, object, patch),
        Schema::Custom(_) => Err(PatchError::Malformed(
            "strategic merge patch is not supported for custom resources".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests;
