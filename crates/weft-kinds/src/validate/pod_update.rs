//! What of a pod's spec an update may change.

use serde_json::Value;

use super::{Errors, list, string};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,\
    `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn update(e: &mut Errors, new: &Value, old: &Value) {
    for key in ["containers", "initContainers"] {
        if list(new, key).len() != list(old, key).len() {
            let detail = "pod updates may not add or remove containers";
            e.forbidden(format!("spec.{key}"), detail);
            return;
        }
    }
    let (deadline, before) = (new.get("activeDeadlineSeconds"), old.get("activeDeadlineSeconds"));
    match (deadline.and_then(Value::as_i64), before.and_then(Value::as_i64)) {
        (None, Some(_)) => e.invalid(
            "spec.activeDeadlineSeconds",
            Value::Null,
            "must not update from a positive integer to nil value",
        ),
        (Some(now), Some(was)) if now > was => e.invalid(
            "spec.activeDeadlineSeconds",
            now,
            "must be less than or equal to previous value",
        ),
        _ => {}
    }
    let kept = |old: &Value| {
        list(new, "tolerations").iter().any(|new| {
            ["key", "operator", "value", "effect"].iter().all(|k| string(new, k) == string(old, k))
        })
    };
    if !list(old, "tolerations").iter().all(kept) {
        e.forbidden(
            "spec.tolerations",
            "existing toleration can not be modified except its tolerationSeconds",
        );
        return;
    }
    let gates = list(old, "schedulingGates");
    if let Some(added) = list(new, "schedulingGates").iter().find(|gate| !gates.contains(gate)) {
        e.forbidden(
            "spec.schedulingGates",
            format!(
                "only deletion is allowed, but found new scheduling gate '{}'",
                string(added, "name")
            ),
        );
        return;
    }
    let changed = changed_fields(new, old);
    if !changed.is_empty() {
        // The real API shows a Go diff here; the names of the fields say the same.
        e.forbidden(
            "spec",
            format!(
                "pod updates may not change fields other than {UPDATABLE}\n changed: {}",
                changed.join(", ")
            ),
        );
    }
}

fn changed_fields(new: &Value, old: &Value) -> Vec<String> {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return Vec::new() };
    let gated = old.get("schedulingGates").is_some();
    let mut keys: Vec<&String> = new.keys().chain(old.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut changed = Vec::new();
    for key in keys {
        let (is, was) = (new.get(key), old.get(key));
        let free = match key.as_str() {
            "activeDeadlineSeconds" | "tolerations" | "schedulingGates" => true,
            // Through their subresources: `binding` gives a node, `ephemeralcontainers` adds.
            "nodeName" => was.is_none(),
            "ephemeralContainers" => true,
            "nodeSelector" | "affinity" => gated,
            "terminationGracePeriodSeconds" => {
                was.and_then(Value::as_i64).is_some_and(|was| was < 0)
                    && is.and_then(Value::as_i64) == Some(1)
            }
            _ => false,
        };
        if free || is == was {
            continue;
        }
        if !matches!(key.as_str(), "containers" | "initContainers") {
            changed.push(format!("spec.{key}"));
            continue;
        }
        let pairs = is.and_then(Value::as_array).into_iter().flatten();
        let pairs = pairs.zip(was.and_then(Value::as_array).into_iter().flatten());
        for (index, (is, was)) in pairs.enumerate() {
            if !same_but_image(is, was) {
                changed.push(format!("spec.{key}[{index}]"));
            }
        }
    }
    changed
}

fn same_but_image(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
    a.len() == b.len()
        && a.iter().all(|(key, value)| {
            if key == "image" { b.contains_key(key) } else { b.get(key) == Some(value) }
        })
}
