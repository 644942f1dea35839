//! Names of a definition: what they may look like, and who has them.

use super::{list, string, text::label_1035};
use crate::{Violation, path::Path};
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// What names may look like.
pub(super) fn check(names: &Value, path: &Path<'_>, out: &mut Vec<Violation>) {
    for key in ["plural", "singular"] {
        let name = string(names, key);
        let errors = label_1035(name);
        if !name.is_empty() && !errors.is_empty() {
            out.push(Violation::invalid(path.child(key), name, errors.join(",")));
        }
    }
    let (kind, list_kind) = (string(names, "kind"), string(names, "listKind"));
    for (key, name) in [("kind", kind), ("listKind", list_kind)] {
        let errors = label_1035(&name.to_lowercase());
        if !name.is_empty() && !errors.is_empty() {
            let why =
                format!("may have mixed case, but should otherwise match: {}", errors.join(","));
            out.push(Violation::invalid(path.child(key), name, why));
        }
    }
    let labels = |key: &str, out: &mut Vec<Violation>| {
        for (i, name) in list(names, key).iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            let errors = label_1035(name);
            if !errors.is_empty() {
                out.push(Violation::invalid(path.child(key).index(i), name, errors.join(",")));
            }
        }
    };
    labels("shortNames", out);
    if !kind.is_empty() && kind == list_kind {
        let why = "kind and listKind may not be the same";
        out.push(Violation::invalid(path.child("listKind"), list_kind, why));
    }
    labels("categories", out);
}

/// Names that other definitions of the group were given.
#[derive(Debug, Default)]
pub struct TakenNames {
    resources: HashSet<String>,
    kinds: HashSet<String>,
}

impl TakenNames {
    /// Adds the accepted names of another definition.
    pub fn add(&mut self, other: &Value) {
        let names = &other["status"]["acceptedNames"];
        let texts = |keys: &[&str]| -> Vec<String> {
            let given = keys.iter().map(|key| string(names, key));
            given.filter(|name| !name.is_empty()).map(str::to_owned).collect()
        };
        self.resources.extend(texts(&["plural", "singular"]));
        let short = list(names, "shortNames").iter().filter_map(Value::as_str);
        self.resources.extend(short.map(str::to_owned));
        self.kinds.extend(texts(&["kind", "listKind"]));
    }
}

/// What became of the names that a definition asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Naming {
    /// `status.acceptedNames`.
    pub accepted: Value,
    /// Reason and message of the conflict, if there is one.
    pub conflict: Option<(&'static str, String)>,
}

/// Gives a definition the names that it asks for, as far as nobody else has them; it keeps what
/// it has.
pub fn accept_names(definition: &Value, taken: &TakenNames) -> Naming {
    let wanted = &definition["spec"]["names"];
    let has = &definition["status"]["acceptedNames"];
    let mut accepted = has.as_object().cloned().unwrap_or_default();
    // Of several conflicts the last one is told.
    let mut conflict = None;
    let in_use = |name: &str| format!("{name:?} is already in use");
    let give = |key: &str, used: &HashSet<String>, accepted: &mut Map<String, Value>| {
        let name = string(wanted, key);
        if name != string(has, key) && used.contains(name) {
            return Some(in_use(name));
        }
        accepted.insert(key.to_owned(), name.into());
        None
    };
    for (key, reason) in [("plural", "PluralConflict"), ("singular", "SingularConflict")] {
        let refused = give(key, &taken.resources, &mut accepted);
        conflict = refused.map(|message| (reason, message)).or(conflict);
    }
    let short = list(wanted, "shortNames");
    let used: Vec<String> = short
        .iter()
        .filter(|name| !list(has, "shortNames").contains(name))
        .filter_map(Value::as_str)
        .filter(|name| taken.resources.contains(*name))
        .map(in_use)
        .collect();
    match used.as_slice() {
        [] if short.is_empty() => drop(accepted.shift_remove("shortNames")),
        [] => drop(accepted.insert("shortNames".into(), json!(short))),
        [only] => conflict = Some(("ShortNamesConflict", only.clone())),
        many => conflict = Some(("ShortNamesConflict", format!("[{}]", many.join(", ")))),
    }
    for (key, reason) in [("kind", "KindConflict"), ("listKind", "ListKindConflict")] {
        let refused = give(key, &taken.kinds, &mut accepted);
        conflict = refused.map(|message| (reason, message)).or(conflict);
    }
    match wanted.get("categories") {
        Some(categories) => drop(accepted.insert("categories".into(), categories.clone())),
        None => drop(accepted.shift_remove("categories")),
    }
    Naming { accepted: Value::Object(accepted), conflict }
}
