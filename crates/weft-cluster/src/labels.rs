//! Label selectors. An absent selector of a workload selects nothing, an empty one everything.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

type Labels = BTreeMap<String, String>;

/// Whether `selector` selects `labels`. An unknown operator selects nothing.
pub(crate) fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let exact = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key).is_some_and(|held| held == value));
    exact
        && selector.match_expressions.iter().flatten().all(|want| {
            let values = want.values.as_deref().unwrap_or_default();
            requirement(&want.operator, labels.get(&want.key), values)
        })
}

/// Whether every pair of `wanted` is among `labels` (the selector of a Service).
pub(crate) fn contains(wanted: &Labels, labels: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key).is_some_and(|held| held == value))
}

/// One requirement of a label selector or of a node selector.
pub(crate) fn requirement(operator: &str, held: Option<&String>, values: &[String]) -> bool {
    let number = |text: &String| text.parse::<i64>().ok();
    match operator {
        "In" => held.is_some_and(|held| values.contains(held)),
        "NotIn" => held.is_none_or(|held| !values.contains(held)),
        "Exists" => held.is_some(),
        "DoesNotExist" => held.is_none(),
        "Gt" | "Lt" => {
            let (Some(held), [limit]) = (held.and_then(number), values) else { return false };
            number(limit).is_some_and(
                |limit| {
                    if operator == "Gt" { held > limit } else { held < limit }
                },
            )
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    use super::*;

    #[test]
    fn selector_semantics() {
        let labels: Labels = [("app".into(), "web".into()), ("n".into(), "5".into())].into();
        let one = |operator: &str, key: &str, values: &[&str]| LabelSelector {
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: key.into(),
                operator: operator.into(),
                values: Some(values.iter().map(|value| (*value).to_owned()).collect()),
            }]),
            match_labels: None,
        };
        assert!(selects(&LabelSelector::default(), &labels));
        assert!(selects(&one("In", "app", &["web", "db"]), &labels));
        assert!(!selects(&one("NotIn", "app", &["web"]), &labels));
        assert!(selects(&one("NotIn", "absent", &["web"]), &labels));
        assert!(selects(&one("DoesNotExist", "absent", &[]), &labels));
        assert!(!selects(&one("Maybe", "app", &["web"]), &labels));
        assert!(requirement("Gt", labels.get("n"), &["4".into()]));
        assert!(!requirement("Lt", labels.get("n"), &["5".into()]));
        assert!(!requirement("Gt", labels.get("app"), &["4".into()]));
        assert!(contains(&[("app".into(), "web".into())].into(), &labels));
        assert!(!contains(&[("app".into(), "db".into())].into(), &labels));
    }
}
