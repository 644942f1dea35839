//! Label selectors: their rules, and whether they match.

use serde_json::Value;

use super::meta::{labels, members};
use super::{Errors, list, string, strings, text};

/// Rules of a `metav1.LabelSelector`.
pub(super) fn selector(e: &mut Errors, selector: Option<&Value>, field: &str) {
    let Some(selector) = selector else { return };
    labels(e, selector.get("matchLabels"), &format!("{field}.matchLabels"));
    for (index, term) in list(selector, "matchExpressions").iter().enumerate() {
        let at = format!("{field}.matchExpressions[{index}]");
        let values = strings(term, "values");
        match string(term, "operator") {
            "In" | "NotIn" if values.is_empty() => e.required(
                format!("{at}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            ),
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" if !values.is_empty() => e.forbidden(
                format!("{at}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ),
            "Exists" | "DoesNotExist" => {}
            other => e.invalid(format!("{at}.operator"), other, "not a valid selector operator"),
        }
        let key = string(term, "key");
        e.each(&format!("{at}.key"), key, text::qualified_name(key));
        for (index, value) in values.into_iter().enumerate() {
            e.each(&format!("{at}.values[{index}]"), value, text::label_value(value));
        }
    }
}

/// Whether a selector has no terms.
pub(super) fn is_empty(selector: &Value) -> bool {
    members(selector.get("matchLabels")).next().is_none()
        && list(selector, "matchExpressions").is_empty()
}

/// Whether a selector matches these labels.
pub(super) fn matches(selector: &Value, labels: Option<&Value>) -> bool {
    let value = |key: &str| labels.and_then(|map| map.get(key)).and_then(Value::as_str);
    members(selector.get("matchLabels")).all(|(key, wanted)| value(key) == wanted.as_str())
        && list(selector, "matchExpressions").iter().all(|term| {
            let found = value(string(term, "key"));
            let listed = found.is_some_and(|found| strings(term, "values").contains(&found));
            match string(term, "operator") {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}
