//! Validation with the messages of the real API.

use std::fmt;

use serde_json::Value;

use crate::Kind;

/// One refused field.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// Path such as `spec.ports[0].port`.
    pub field: String,
    /// What is wrong.
    pub kind: FieldErrorKind,
    /// The refused value; shown for Invalid, NotSupported, NotFound and Duplicate.
    pub bad_value: Option<Value>,
    /// Explanation; may be empty.
    pub detail: String,
}

/// The classes of `k8s.io/apimachinery` field errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// A value is missing.
    Required,
    /// A value is malformed or contradicts another.
    Invalid,
    /// A value is not one of the enumerated ones.
    NotSupported,
    /// The field may not be set here or not be changed.
    Forbidden,
    /// The value must be unique.
    Duplicate,
    /// The text is too long.
    TooLong,
    /// The list has too many items.
    TooMany,
    /// The object that the field names does not exist.
    NotFound,
    /// The value has the wrong type.
    TypeInvalid,
    /// The server failed.
    Internal,
}

impl FieldErrorKind {
    /// `reason` of a `metav1.StatusCause`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::Duplicate => "FieldValueDuplicate",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::Duplicate => "Duplicate value",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::NotFound => "Not found",
            Self::TypeInvalid => "Invalid value",
            Self::Internal => "Internal error",
        }
    }
}

impl FieldError {
    /// The message without the field's path, as a `StatusCause` carries it.
    pub fn body(&self) -> String {
        use FieldErrorKind as K;
        let mut text = self.kind.text().to_owned();
        let shows_value = !matches!(
            self.kind,
            K::Required | K::Forbidden | K::TooLong | K::TooMany | K::Internal
        );
        if let (true, Some(value)) = (shows_value, &self.bad_value) {
            text.push_str(": ");
            text.push_str(&value.to_string());
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// All that is wrong with `new`, as a create (`old` is `None`) or as an update of `old`.
pub fn validate(_kind: &Kind, _new: &Value, _old: Option<&Value>) -> Vec<FieldError> {
    Vec::new()
}
