//! Kinds of custom resources, made from their definition.

use std::cmp::Reverse;
use std::sync::{Arc, OnceLock};

use serde_json::Value;
use weft_crd::Violation;
use weft_crd::columns::{Cell, Column};
use weft_crd::definition::{ScalePaths, Version};

use crate::schema::{self, Type};
use crate::{FieldError, FieldErrorKind, Generation, Kind, NameRule, Scale, Schema, VERBS_ALL};

/// What the objects of one version of a definition are made of.
#[derive(Debug)]
pub struct Custom {
    version: Version,
    /// Whether clients may ask for this version; others are there for what is stored in them.
    served: bool,
    members: OnceLock<Type>,
}

impl Custom {
    /// What clients are told when they use a deprecated version.
    pub fn warning(&self) -> Option<&str> {
        self.version.warning.as_deref()
    }

    /// Whether clients may ask for this version.
    pub fn served(&self) -> bool {
        self.served
    }

    /// `openAPIV3Schema` as the definition has it.
    pub fn source(&self) -> &Value {
        &self.version.source
    }

    pub(crate) fn schema(&self) -> &weft_crd::Schema {
        self.version.schema()
    }

    pub(crate) fn members(&self) -> &Type {
        self.members.get_or_init(|| schema::members(self.version.schema()))
    }

    pub(crate) fn columns(&self) -> &[Column] {
        &self.version.columns
    }

    pub(crate) fn cell(&self, column: &Column, object: &Value) -> Cell {
        column.cell(object)
    }

    pub(crate) fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let found = self.version.validate(new, old, &mut Vec::new());
        found.into_iter().map(FieldError::from).collect()
    }
}

impl From<Violation> for FieldError {
    fn from(found: Violation) -> Self {
        use weft_crd::ViolationKind as V;
        let kind = match found.kind {
            V::Required => FieldErrorKind::Required,
            V::Invalid => FieldErrorKind::Invalid,
            V::TypeInvalid => FieldErrorKind::TypeInvalid,
            V::NotSupported => FieldErrorKind::NotSupported,
            V::Forbidden => FieldErrorKind::Forbidden,
            V::Duplicate => FieldErrorKind::Duplicate,
            V::TooLong => FieldErrorKind::TooLong,
            V::TooMany => FieldErrorKind::TooMany,
            V::Internal => FieldErrorKind::Internal,
        };
        Self { field: found.field, kind, bad_value: found.value, detail: found.detail }
    }
}

/// The kinds of a valid definition, one a version, under the names that it was given; the
/// version that Kubernetes prefers comes first. Every kind knows the one that holds its objects.
pub fn custom_kinds(definition: &Value) -> Vec<Arc<Kind>> {
    let spec = &definition["spec"];
    let versions = spec["versions"].as_array().map_or(&[][..], Vec::as_slice);
    let of = |version: &Value, stored_as: Option<Arc<Kind>>| {
        let name = version["name"].as_str()?;
        let served = version["served"] == true;
        let version = Version::of(definition, name)?;
        Some(Arc::new(kind(definition, version, served, stored_as)))
    };
    let storage = versions.iter().find(|v| v["storage"] == true);
    let Some(stored) = storage.and_then(|version| of(version, None)) else { return Vec::new() };
    let others = versions.iter().filter(|v| v["storage"] != true);
    let mut kinds: Vec<Arc<Kind>> =
        others.filter_map(|version| of(version, Some(stored.clone()))).collect();
    kinds.push(stored);
    kinds.sort_by_key(|kind| Reverse(precedence(&kind.version)));
    kinds
}

fn kind(definition: &Value, version: Version, served: bool, stored_as: Option<Arc<Kind>>) -> Kind {
    let (spec, names) = (&definition["spec"], &definition["status"]["acceptedNames"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(text).collect()
    };
    Kind {
        group: text(&spec["group"]),
        version: version.name.clone(),
        kind: text(&names["kind"]),
        list_kind: text(&names["listKind"]),
        plural: text(&names["plural"]),
        singular: text(&names["singular"]),
        short_names: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        namespaced: spec["scope"] == "Namespaced",
        verbs: VERBS_ALL,
        stored: true,
        status: version.status,
        scale: version.scale.as_ref().map(scale),
        subresources: &[],
        selectable: version.selectable.clone(),
        generation: Generation::Spec,
        graceful: false,
        name_rule: NameRule::Subdomain,
        schema: Schema::Custom(Arc::new(Custom { version, served, members: OnceLock::new() })),
        stored_as,
    }
}

/// Paths as JSON pointers.
fn scale(paths: &ScalePaths) -> Scale {
    let pointer = |path: &str| path.replace('.', "/");
    Scale {
        spec_replicas: pointer(&paths.spec_replicas),
        status_replicas: pointer(&paths.status_replicas),
        selector: pointer(&paths.selector),
    }
}

/// `v10` before `v2` before `v1beta1` before `v1alpha1` before what is no such version.
fn precedence(version: &str) -> (u8, u64, u64, Reverse<String>) {
    let parsed = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major: u64 = rest[..digits].parse().ok()?;
        let stage = &rest[digits..];
        Some(match (stage.strip_prefix("beta"), stage.strip_prefix("alpha")) {
            _ if stage.is_empty() => (3, major, 0),
            (Some(minor), _) => (2, major, minor.parse().ok()?),
            (_, Some(minor)) => (1, major, minor.parse().ok()?),
            _ => return None,
        })
    };
    let name = Reverse(version.to_owned());
    match parsed() {
        Some((stage, major, minor)) => (stage, major, minor, name),
        None => (0, 0, 0, name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_kubernetes_prefers_them() {
        let mut all =
            ["foo10", "v1alpha1", "v2", "v1beta2", "v10", "foo1", "v11beta2", "v1", "v11alpha2"];
        all.sort_by_key(|version| Reverse(precedence(version)));
        let expected =
            ["v10", "v2", "v1", "v11beta2", "v1beta2", "v11alpha2", "v1alpha1", "foo1", "foo10"];
        assert_eq!(all, expected);
    }
}
