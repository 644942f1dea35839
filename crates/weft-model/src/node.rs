//! Nodes, as far as the network cares.

use crate::NodeName;
use ipnet::IpNet;
use std::{net::IpAddr, sync::Arc};

/// A node: where it is and which pod addresses it owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// `InternalIP` addresses on the underlay, at most one a family.
    pub internal_ips: Vec<IpAddr>,
    /// `spec.podCIDRs`: at most one a family; empty until the controller assigned them.
    pub pod_cidrs: Vec<IpNet>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// Whether condition Ready is True.
    pub ready: bool,
    /// Whether load balancers may send new connections here: the node is neither being
    /// deleted nor marked by the cluster autoscaler for that (KEP-3836).
    pub eligible: bool,
}
