//! What the controllers must be told, because no object says it.

use std::time::Duration;

use ipnet::IpNet;

/// Settings of the cluster controllers.
#[derive(Clone, Debug)]
pub struct Config {
    /// Cluster pod ranges, at most one per family, the primary family first.
    pub pod_cidrs: Vec<IpNet>,
    /// Prefix length of a node's IPv4 pod range.
    pub node_mask_v4: u8,
    /// Prefix length of a node's IPv6 pod range.
    pub node_mask_v6: u8,
    /// Certificate authority of the API in PEM, published in every namespace as `kube-root-ca.crt`.
    pub ca_pem: String,
    /// How long a node may go without renewing its lease before it counts as lost.
    pub node_grace: Duration,
    /// How long a pod bound to a node that does not exist is kept.
    pub orphan_pod_grace: Duration,
    /// Endpoints in one EndpointSlice, at most.
    pub endpoints_per_slice: usize,
    /// Requests of the controllers under way at once.
    pub requests_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pod_cidrs: Vec::new(),
            node_mask_v4: 24,
            node_mask_v6: 64,
            ca_pem: String::new(),
            // Kubernetes: --node-monitor-grace-period, 40 s until 1.31, and the plan of the lab.
            node_grace: Duration::from_secs(40),
            // Kubernetes: the pod garbage collector's quarantine of missing nodes.
            orphan_pod_grace: Duration::from_secs(40),
            // Kubernetes: --max-endpoints-per-slice.
            endpoints_per_slice: 100,
            requests_max: 64,
        }
    }
}
