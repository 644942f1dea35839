//! Conditions and stored versions in a definition's status.

use super::{list, string};
use serde_json::{Value, json};

/// The condition of that type.
pub fn condition<'a>(definition: &'a Value, kind: &str) -> Option<&'a Value> {
    list(&definition["status"], "conditions").iter().find(|c| c["type"] == kind)
}

/// Whether the condition of that type has that status.
pub fn condition_is(definition: &Value, kind: &str, status: &str) -> bool {
    condition(definition, kind).is_some_and(|c| c["status"] == status)
}

/// Sets a condition: type, status, reason, message. The time stays unless the status changes.
pub fn set_condition(
    definition: &mut Value,
    [kind, status, reason, message]: [&str; 4],
    now: &str,
) {
    let mut next = json!({"type": kind, "status": status, "lastTransitionTime": now,
        "reason": reason, "message": message});
    if !definition["status"].is_object() {
        definition["status"] = json!({});
    }
    let conditions = &mut definition["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(conditions) = conditions.as_array_mut() else { return };
    match conditions.iter_mut().find(|c| c["type"] == kind) {
        Some(old) => {
            if string(old, "status") == status {
                next["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = next;
        }
        None => conditions.push(next),
    }
}

/// Notes that objects are from now on stored in the storage version.
pub fn add_stored_version(definition: &mut Value) {
    let storage = list(&definition["spec"], "versions").iter().find(|v| v["storage"] == true);
    let Some(name) = storage.map(|v| v["name"].clone()) else { return };
    if !definition["status"].is_object() {
        definition["status"] = json!({});
    }
    let stored = &mut definition["status"]["storedVersions"];
    match stored.as_array_mut() {
        Some(list) if list.contains(&name) => {}
        Some(list) => list.push(name),
        None => *stored = json!([name]),
    }
}
