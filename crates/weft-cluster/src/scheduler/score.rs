//! Where a pod should run: the smallest score wins.

use k8s_openapi::api::core::v1::Pod;

use super::filter::{term, untolerated};
use super::node::OnNode;
use crate::store::Object;

/// Compared from the left: avoided taints, preferred affinity, pods of the same owner, pods at
/// all, then the name, so that the same world always gives the same choice.
pub(super) type Score = (bool, i64, usize, usize, String);

pub(super) fn score(pod: &Pod, node: &OnNode) -> Score {
    let spec = pod.spec.as_ref();
    let tolerations = spec.and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let avoided = untolerated(&node.taints, tolerations, &["PreferNoSchedule"]).is_some();
    let preferred = spec
        .and_then(|spec| spec.affinity.as_ref())
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity.preferred_during_scheduling_ignored_during_execution.as_ref()
        });
    let liking: i64 = preferred
        .into_iter()
        .flatten()
        .filter(|one| term(&one.preference, &node.name, &node.labels))
        .map(|one| i64::from(one.weight))
        .sum();
    let siblings =
        pod.controller().and_then(|owner| node.owners.get(&owner.uid)).copied().unwrap_or(0);
    (avoided, -liking, siblings, node.pods.len(), node.name.clone())
}
