//! Counts over all Services of a node, for metrics.

use crate::eligible;
use std::collections::BTreeMap;
use weft_model::{IpFamily, NodeName, ServiceKind, Snapshot, TrafficPolicy};

/// Service ports with a Local policy that have endpoints, but none on `node`, by family and by
/// `internal` or `external` policy: what such clients of this node are refused.
pub fn without_local(
    snapshot: &Snapshot,
    node: &NodeName,
) -> BTreeMap<(IpFamily, &'static str), usize> {
    let mut counts: BTreeMap<_, usize> = BTreeMap::new();
    for family in [IpFamily::V4, IpFamily::V6] {
        counts.extend(["internal", "external"].map(|p| ((family, p), 0)));
    }
    let ours = snapshot.services.values();
    for service in ours.filter(|s| !s.foreign_proxy && s.kind == ServiceKind::Virtual) {
        let internal = service.internal_policy == TrafficPolicy::Local;
        let external = service.external.policy == TrafficPolicy::Local;
        if !internal && !external {
            continue;
        }
        for (port, family) in
            service.ports.iter().flat_map(|p| service.families.iter().map(move |f| (p, *f)))
        {
            let found = eligible::eligible(snapshot, node, service, port, family);
            if !found.anywhere || !found.local.is_empty() {
                continue;
            }
            for (policy, holds) in [("internal", internal), ("external", external)] {
                *counts.entry((family, policy)).or_default() += usize::from(holds);
            }
        }
    }
    counts
}
