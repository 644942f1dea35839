//! What is judged.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};
use weft_model::{
    ClusterNetworkPolicy, Namespace, NamespacedName, NetworkPolicy, NodeName, NodePeer, Pod,
};

/// Everything that policy depends on, at one generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyInput {
    /// The generation of the snapshot that this was taken from.
    pub generation: u64,
    /// Namespaces by name. A pod whose namespace is not known (yet) matches no namespace
    /// selector.
    pub namespaces: BTreeMap<Arc<str>, Arc<Namespace>>,
    /// Pods by namespace and name.
    pub pods: BTreeMap<NamespacedName, Arc<Pod>>,
    /// Nodes by name.
    pub nodes: BTreeMap<NodeName, Arc<NodePeer>>,
    /// NetworkPolicies by namespace and name.
    pub network_policies: BTreeMap<NamespacedName, Arc<NetworkPolicy>>,
    /// ClusterNetworkPolicies by name.
    pub cluster_policies: BTreeMap<Arc<str>, Arc<ClusterNetworkPolicy>>,
    /// Addresses at which the cluster's DNS is asked: its ClusterIPs, and where nodes answer
    /// themselves. As destinations they are judged as the pods `k8s-app=kube-dns` of
    /// `kube-system`, since people's egress rules name those.
    pub dns: BTreeSet<IpAddr>,
    /// What names outside the cluster were seen to resolve to, by name.
    pub names: BTreeMap<Arc<str>, BTreeSet<IpAddr>>,
}
