//! Kinds with one storage: `events.k8s.io/v1` is a view of core Events, `autoscaling/v1` one of
//! `v2`, and the versions of a custom resource are views of the one that is stored.

use bytes::Bytes;
use serde_json::{Map, Value, json};
use weft_kinds::{Kind, autoscaler};

/// Names of the same fields in core and in events.k8s.io.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Turns the object into the form in which its kind is stored, and says which kind that is.
pub(crate) fn to_storage<'a>(kind: &'a Kind, object: &mut Value) -> &'a Kind {
    let stored = kind.storage();
    if std::ptr::eq(stored, kind) {
        return stored;
    }
    if kind.custom().is_some() {
        // With the defaults of the version that the client speaks.
        weft_kinds::default(kind, object);
        object["apiVersion"] = stored.api_version().into();
    } else if stored.group == AUTOSCALING {
        autoscaler::to_v2(object);
    } else {
        rename(object, &stored.api_version(), |new| {
            RENAMED.iter().find(|(_, n)| *n == new).map(|(old, _)| *old)
        });
    }
    stored
}

/// The group whose `v1` is a view of its `v2`.
const AUTOSCALING: &str = "autoscaling";

/// The stored name of a field that the view's selectors use.
pub(crate) fn stored_field(path: &str) -> String {
    let (head, rest) = path.split_at(path.find('.').unwrap_or(path.len()));
    match RENAMED.iter().find(|(_, new)| *new == head) {
        Some((old, _)) => format!("{old}{rest}"),
        None => path.to_owned(),
    }
}

/// Turns a stored object into the form of the asked kind.
pub(crate) fn value_from_storage(kind: &Kind, object: &mut Value) {
    if std::ptr::eq(kind.storage(), kind) {
        return;
    }
    if kind.custom().is_some() {
        object["apiVersion"] = kind.api_version().into();
        kind.prune(object);
        weft_kinds::default(kind, object);
        return;
    }
    if kind.storage().group == AUTOSCALING {
        autoscaler::to_v1(object);
    } else {
        rename(object, &kind.api_version(), |old| {
            RENAMED.iter().find(|(o, _)| *o == old).map(|(_, new)| *new)
        });
    }
}

/// The same for encoded objects; nothing is decoded for ordinary kinds.
pub(crate) fn from_storage(kind: &Kind, bytes: &Bytes) -> Bytes {
    if std::ptr::eq(kind.storage(), kind) {
        return bytes.clone();
    }
    let Ok(mut object) = serde_json::from_slice(bytes) else { return bytes.clone() };
    value_from_storage(kind, &mut object);
    object.to_string().into()
}

fn rename(object: &mut Value, version: &str, name: impl Fn(&str) -> Option<&'static str>) {
    let Value::Object(map) = object.take() else { return };
    let mut out = Map::with_capacity(map.len());
    for (k, v) in map {
        match name(&k) {
            Some(new) => out.insert(new.to_owned(), v),
            None => out.insert(k, v),
        };
    }
    *object = Value::Object(out);
    object["apiVersion"] = json!(version);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_views_are_one_object() {
        let new = weft_kinds::lookup("events.k8s.io", "v1", "events").unwrap();
        let given = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"name": "a"}, "regarding": {"kind": "Pod"}, "note": "n", "reason": "R"});
        let mut object = given.clone();
        assert_eq!(to_storage(new, &mut object).group, "");
        assert_eq!(object["involvedObject"]["kind"], "Pod");
        assert_eq!((&object["message"], &object["apiVersion"]), (&json!("n"), &json!("v1")));
        value_from_storage(new, &mut object);
        assert_eq!(object, given);
    }
}
