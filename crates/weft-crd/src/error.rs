//! What is wrong with an object or a definition.

use serde_json::Value;
use std::fmt;

/// One refused field, as `k8s.io/apimachinery` classifies and words it.
#[derive(Debug, Clone, PartialEq)]
pub struct Violation {
    /// Path such as `spec.ports[0].port`; `<nil>` for the object as a whole.
    pub field: String,
    /// What is wrong.
    pub kind: ViolationKind,
    /// The refused value; `None` where it is not shown.
    pub value: Option<Value>,
    /// Explanation; may be empty.
    pub detail: String,
}

/// The classes of field errors that come up here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViolationKind {
    /// A value is missing.
    Required,
    /// A value is malformed or contradicts another.
    Invalid,
    /// A value has the wrong type.
    TypeInvalid,
    /// A value is not one of the enumerated ones.
    NotSupported,
    /// The field may not be set.
    Forbidden,
    /// The value must be unique.
    Duplicate,
    /// The text is too long.
    TooLong,
    /// There are too many items or members.
    TooMany,
    /// The server failed.
    Internal,
}

impl ViolationKind {
    /// Whether rules are not evaluated where this was found: what they rely on does not hold.
    pub(crate) fn blocks_rules(self) -> bool {
        use ViolationKind as K;
        matches!(self, K::NotSupported | K::Required | K::TooLong | K::TooMany | K::TypeInvalid)
    }

    fn text(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::Duplicate => "Duplicate value",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }
}

impl Violation {
    pub(crate) fn new(
        kind: ViolationKind,
        field: impl Into<String>,
        value: Option<Value>,
        detail: impl Into<String>,
    ) -> Self {
        let field = field.into();
        let field = if field.is_empty() { "<nil>".to_owned() } else { field };
        Self { field, kind, value, detail: detail.into() }
    }

    pub(crate) fn invalid(
        field: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self::new(ViolationKind::Invalid, field, Some(value.into()), detail)
    }

    pub(crate) fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(ViolationKind::Required, field, None, detail)
    }

    pub(crate) fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(ViolationKind::Forbidden, field, None, detail)
    }

    pub(crate) fn not_supported(
        field: impl Into<String>,
        value: impl Into<Value>,
        known: &[&str],
    ) -> Self {
        let known: Vec<String> = known.iter().map(|text| format!("{text:?}")).collect();
        let detail = format!("supported values: {}", known.join(", "));
        Self::new(ViolationKind::NotSupported, field, Some(value.into()), detail)
    }

    pub(crate) fn too_many(field: impl Into<String>, count: usize, most: i64) -> Self {
        let noun = if most == 1 { "item" } else { "items" };
        let detail = format!("must have at most {most} {noun}");
        Self::new(ViolationKind::TooMany, field, Some(count.into()), detail)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ViolationKind as K;
        write!(f, "{}: {}", self.field, self.kind.text())?;
        let silent = matches!(self.kind, K::Required | K::Forbidden | K::TooLong | K::Internal);
        if let (false, Some(value)) = (silent, &self.value) {
            write!(f, ": {value}")?;
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}
