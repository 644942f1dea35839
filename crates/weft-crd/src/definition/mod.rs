//! What makes a CustomResourceDefinition valid, and what its versions are to the server.
//!
//! Definitions are JSON, as `apiextensions.k8s.io/v1` writes them. Schemas, subresources and
//! columns that all versions share are named at the top of the spec by the real API, which keeps
//! definitions in an older form; field paths of findings follow it in that.

mod defaults;
mod names;
mod openapi;
mod status;
mod structural;
#[cfg(test)]
mod tests;
mod text;
mod versions;

use crate::{Violation, path::Path};
use serde_json::Value;

pub use names::{Naming, TakenNames, accept_names};
pub use status::{add_stored_version, condition, condition_is, set_condition};
pub(crate) use text::label_1035;
pub use versions::{ScalePaths, Version};

/// Selectable fields of one version.
pub(crate) const SELECTABLE_MAX: usize = 8;

/// Groups that belong to the community need the approval that this annotation names.
const APPROVED: &str = "api-approved.kubernetes.io";

/// All that is wrong with a definition, as a create or as an update of `old`. Its metadata is
/// checked elsewhere, except for the name.
pub fn validate(new: &Value, old: Option<&Value>) -> Vec<Violation> {
    let mut out = Vec::new();
    let (spec, status) = (&new["spec"], &new["status"]);
    if old.is_none() {
        let name = string(&new["metadata"], "name");
        let wanted = format!("{}.{}", string(&spec["names"], "plural"), string(spec, "group"));
        if name != wanted {
            let why = "must be spec.names.plural+\".\"+spec.group";
            out.push(Violation::invalid("metadata.name", name, why));
        }
    }
    versions::spec(spec, old.map(|old| &old["spec"]), &mut out);
    if let Some(old) = old {
        immutable(new, old, &mut out);
    }
    names::check(&status["acceptedNames"], &Path::root("status.acceptedNames"), &mut out);
    stored_versions(spec, status, &mut out);
    approval(new, old, &mut out);
    let preserves = |crd: &Value| crd["spec"]["preserveUnknownFields"] == true;
    if preserves(new) && !old.is_some_and(preserves) {
        out.push(Violation::invalid(
            "spec.preserveUnknownFields",
            true,
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in \
             spec.versions[*].schema instead",
        ));
    }
    out
}

/// What is wrong with a new status of a definition.
pub fn validate_status(new: &Value) -> Vec<Violation> {
    let mut out = Vec::new();
    let path = Path::root("status.acceptedNames");
    names::check(&new["status"]["acceptedNames"], &path, &mut out);
    out
}

/// Warnings about a definition: formats that are not checked.
pub fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let formats = |crd: &Value| {
        let mut found = Vec::new();
        for version in list(&crd["spec"], "versions") {
            openapi::unknown_formats(&version["schema"]["openAPIV3Schema"], &mut found);
        }
        found
    };
    let before = old.map(formats).unwrap_or_default();
    let mut warnings: Vec<String> = Vec::new();
    for format in formats(new) {
        let text = format!("unrecognized format {format:?}");
        if !before.contains(&format) && !warnings.contains(&text) {
            warnings.push(text);
        }
    }
    warnings
}

/// What never changes: the group and plural, and once it is established scope and kind.
fn immutable(new: &Value, old: &Value, out: &mut Vec<Violation>) {
    let mut same = |path: &str, new: &Value, old: &Value| {
        if new != old {
            out.push(Violation::invalid(path, new.clone(), "field is immutable"));
        }
    };
    let (spec, before) = (&new["spec"], &old["spec"]);
    if condition_is(old, "Established", "True") {
        same("spec.scope", &spec["scope"], &before["scope"]);
        same("spec.names.kind", &spec["names"]["kind"], &before["names"]["kind"]);
    }
    same("spec.group", &spec["group"], &before["group"]);
    same("spec.names.plural", &spec["names"]["plural"], &before["names"]["plural"]);
}

/// A version that objects were stored in stays in the definition.
fn stored_versions(spec: &Value, status: &Value, out: &mut Vec<Violation>) {
    const FIELD: &str = "status.storedVersions";
    let stored: Vec<&str> =
        list(status, "storedVersions").iter().filter_map(Value::as_str).collect();
    if stored.is_empty() {
        let why = "must have at least one stored version";
        out.push(Violation::invalid(FIELD, status["storedVersions"].clone(), why));
        return;
    }
    let versions = list(spec, "versions");
    for version in versions.iter().filter(|v| v["storage"] == true) {
        let name = string(version, "name");
        if !stored.contains(&name) {
            let why = format!("must have the storage version {name}");
            out.push(Violation::invalid(FIELD, status["storedVersions"].clone(), why));
        }
    }
    for (i, name) in stored.iter().enumerate() {
        if !versions.iter().any(|v| v["name"] == *name) {
            let why = format!(
                "missing from spec.versions; {name} was previously a storage version, and must \
                 remain in spec.versions until a storage migration ensures no data remains \
                 persisted in {name} and removes {name} from status.storedVersions"
            );
            out.push(Violation::invalid(format!("{FIELD}[{i}]"), *name, why));
        }
    }
}

#[derive(PartialEq)]
enum Approval {
    Missing,
    Invalid,
    Given,
    Bypassed,
}

fn approval(new: &Value, old: Option<&Value>, out: &mut Vec<Violation>) {
    let group = string(&new["spec"], "group");
    let protected = |suffix: &str| {
        group == suffix || group.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'))
    };
    if !protected("k8s.io") && !protected("kubernetes.io") {
        return;
    }
    let annotation = |crd: &Value| -> String {
        let found = crd.pointer("/metadata/annotations/api-approved.kubernetes.io");
        found.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let state = |crd: &Value| match annotation(crd).as_str() {
        "" => Approval::Missing,
        text if text.starts_with("unapproved") => Approval::Bypassed,
        text => match text.split_once("://") {
            Some((scheme, host)) if !scheme.is_empty() && !host.is_empty() => Approval::Given,
            _ => Approval::Invalid,
        },
    };
    let now = state(new);
    if old.is_some_and(|old| state(old) == now) {
        return;
    }
    let field = format!("metadata.annotations[{APPROVED}]");
    const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    match now {
        Approval::Given | Approval::Bypassed => {}
        Approval::Missing => {
            let why = format!("protected groups must have approval annotation {APPROVED:?}, {SEE}");
            out.push(Violation::required(field, why));
        }
        Approval::Invalid => {
            let why = format!(
                "protected groups must have approval annotation {APPROVED:?} with either a URL \
                 or a reason starting with \"unapproved\", {SEE}"
            );
            out.push(Violation::invalid(field, annotation(new), why));
        }
    }
}

/// The text at `key`, empty if there is none.
fn string<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The list at `key`, empty if there is none.
fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
