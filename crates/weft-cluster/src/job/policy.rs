//! What a failed pod means to its Job (`podFailurePolicy`), and when some successes are enough
//! (`successPolicy`).

use k8s_openapi::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, SuccessPolicy,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::indexes::Indexes;
use crate::store::Object;

/// What becomes of the failure of a pod.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Failure {
    Count,
    Ignore,
    FailIndex,
    /// The Job fails, with this message.
    FailJob(String),
}

/// The first rule that matches decides; without one the failure counts.
pub(super) fn failure(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Failure {
    for (at, rule) in policy.into_iter().flat_map(|policy| policy.rules.iter().enumerate()) {
        let action = rule.action.as_str();
        let matched = match (&rule.on_exit_codes, &rule.on_pod_conditions) {
            (Some(wanted), _) => exit_code(pod, wanted).map(|(container, code)| {
                format!(
                    "Container {container} for pod {}/{} failed with exit code {code} matching \
                     {action} rule at index {at}",
                    pod.namespace(),
                    pod.name()
                )
            }),
            (None, Some(patterns)) => {
                let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
                let found = conditions.into_iter().flatten().find(|one| {
                    patterns.iter().any(|pattern| {
                        let status = pattern.status.as_deref().unwrap_or("True");
                        pattern.type_ == one.type_ && status == one.status
                    })
                });
                found.map(|one| {
                    format!(
                        "Pod {}/{} has condition {} matching {action} rule at index {at}",
                        pod.namespace(),
                        pod.name(),
                        one.type_
                    )
                })
            }
            (None, None) => None,
        };
        match (matched, action) {
            (Some(_), "Ignore") => return Failure::Ignore,
            (Some(_), "FailIndex") => return Failure::FailIndex,
            (Some(_), "Count") => return Failure::Count,
            (Some(message), "FailJob") => return Failure::FailJob(message),
            _ => {}
        }
    }
    Failure::Count
}

/// A container that ended with a code that the rule means.
fn exit_code(pod: &Pod, wanted: &PodFailurePolicyOnExitCodesRequirement) -> Option<(String, i32)> {
    let status = pod.status.as_ref()?;
    let of = |list: &Option<Vec<ContainerStatus>>| {
        list.iter().flatten().find_map(|container| {
            let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
            let named = wanted.container_name.as_ref().is_none_or(|name| *name == container.name);
            let listed = wanted.values.contains(&code);
            let matches = match wanted.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            };
            (named && code != 0 && matches).then(|| (container.name.clone(), code))
        })
    };
    of(&status.container_statuses).or_else(|| of(&status.init_container_statuses))
}

/// The message of the rule by which these successes are enough.
pub(super) fn success(
    policy: Option<&SuccessPolicy>,
    completions: i32,
    succeeded: &Indexes,
) -> Option<String> {
    if succeeded.total() == 0 {
        return None;
    }
    let rules = &policy?.rules;
    let met = rules.iter().position(|rule| {
        let count = rule.succeeded_count.map(i64::from);
        match &rule.succeeded_indexes {
            Some(text) => {
                let required = Indexes::parse(text, completions);
                let common = required.common(succeeded);
                required.total() > 0
                    && (common == required.total() || count.is_some_and(|count| common >= count))
            }
            None => count.is_some_and(|count| succeeded.total() >= count),
        }
    })?;
    Some(format!("Matched rules at index {met}"))
}
