//! How deeply a value is nested, found without recursion.

use serde_json::Value;

/// Objects nested deeper than this are neither made by a patch nor stored: what walks a value
/// recurses.
pub const DEPTH_MAX: usize = 100;

/// Whether `value` has more than `max` arrays and objects inside one another.
pub fn deeper_than(value: &Value, max: usize) -> bool {
    measure(value, max, &mut { usize::MAX }) != Measured::Within
}

/// What [`measure`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Measured {
    /// Not deeper than allowed.
    Within,
    /// Deeper.
    Deeper,
    /// More values than the caller wants to look at.
    Costly,
}

/// Measures `value` against `max` and takes the values looked at out of `budget`.
pub(crate) fn measure(value: &Value, max: usize, budget: &mut usize) -> Measured {
    let mut open = vec![(value, 0)];
    while let Some((value, above)) = open.pop() {
        let Some(left) = budget.checked_sub(1) else { return Measured::Costly };
        *budget = left;
        if !(value.is_array() || value.is_object()) {
            continue;
        }
        if above == max {
            return Measured::Deeper;
        }
        match value {
            Value::Array(items) => open.extend(items.iter().map(|v| (v, above + 1))),
            Value::Object(members) => open.extend(members.values().map(|v| (v, above + 1))),
            _ => {}
        }
    }
    Measured::Within
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn depth_counts_arrays_and_objects() {
        assert!(!deeper_than(&json!(1), 0));
        assert!(deeper_than(&json!([]), 0));
        let v = json!({"a": [{"b": 1}], "c": 2});
        assert!(!deeper_than(&v, 3) && deeper_than(&v, 2));
        assert_eq!(measure(&v, 3, &mut 2), Measured::Costly);
    }
}
