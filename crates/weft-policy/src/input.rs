//! What is judged.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};
use weft_model::{
    ClusterNetworkPolicy, Map, Namespace, NamespacedName, NetworkPolicy, NodeName, NodePeer, Pod,
};

/// Everything that policy depends on, at one generation. Made from a snapshot by copying its maps,
/// which share what is in them: a copy costs nothing, and comparing two costs what is different.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyInput {
    /// The generation of the snapshot that this was taken from.
    pub generation: u64,
    /// Namespaces by name. A pod whose namespace is not known (yet) matches no namespace
    /// selector.
    pub namespaces: Map<Arc<str>, Arc<Namespace>>,
    /// Pods by namespace and name.
    pub pods: Map<NamespacedName, Arc<Pod>>,
    /// Nodes by name.
    pub nodes: Map<NodeName, Arc<NodePeer>>,
    /// NetworkPolicies by namespace and name.
    pub network_policies: Map<NamespacedName, Arc<NetworkPolicy>>,
    /// ClusterNetworkPolicies by name.
    pub cluster_policies: Map<Arc<str>, Arc<ClusterNetworkPolicy>>,
    /// Addresses at which the cluster's DNS is asked: its ClusterIPs, and where nodes answer
    /// themselves. As destinations they are judged as the pods `k8s-app=kube-dns` of
    /// `kube-system`, since people's egress rules name those.
    pub dns: BTreeSet<IpAddr>,
    /// What names outside the cluster were seen to resolve to, by name.
    pub names: BTreeMap<Arc<str>, BTreeSet<IpAddr>>,
}
