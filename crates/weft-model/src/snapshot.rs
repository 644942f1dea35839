//! The immutable picture that planners read.

use crate::{
    ClusterNetworkPolicy, EndpointSlice, Map, Namespace, NamespacedName, NetworkPolicy, Node,
    NodeName, NodePeer, Pod, Service,
};
use std::sync::Arc;

/// The slices of one Service by their own name.
pub type Slices = Map<Arc<str>, Arc<EndpointSlice>>;

/// Everything the planners know, at one generation. Published only after every source has
/// finished its first list, so that an absent object is known to be absent.
///
/// Two snapshots share what is the same in both: copying one costs nothing, and
/// [`Map::diff`] of a kind costs what changed. Comparing is by content, sharing only makes it
/// quick.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Grows by one with every published change.
    pub generation: u64,
    /// Namespaces by name (DNS tells an empty answer from a missing name by them, policies
    /// select by their labels).
    pub namespaces: Map<Arc<str>, Arc<Namespace>>,
    /// Nodes by name.
    pub nodes: Map<NodeName, Arc<Node>>,
    /// The same nodes as policies see them. Apart from `nodes`, so that a label does not make
    /// routes be planned again.
    pub node_peers: Map<NodeName, Arc<NodePeer>>,
    /// Services by namespace and name.
    pub services: Map<NamespacedName, Arc<Service>>,
    /// Slices, keyed by their Service and then by their own name: all slices of one
    /// Service are one lookup. A Service without slices has no entry.
    pub slices: Map<NamespacedName, Slices>,
    /// Pods that are not over, by namespace and name.
    pub pods: Map<NamespacedName, Arc<Pod>>,
    /// NetworkPolicies by namespace and name.
    pub network_policies: Map<NamespacedName, Arc<NetworkPolicy>>,
    /// ClusterNetworkPolicies by name; none where the cluster does not have the kind.
    pub cluster_policies: Map<Arc<str>, Arc<ClusterNetworkPolicy>>,
}

impl Snapshot {
    /// The slices of a Service, in the order of their names.
    pub fn slices_of(&self, service: &NamespacedName) -> impl Iterator<Item = &EndpointSlice> {
        self.slices.get(service).into_iter().flat_map(|s| s.values().map(Arc::as_ref))
    }

    /// Stores a slice with its Service, in place of one of the same name.
    pub fn insert_slice(&mut self, slice: Arc<EndpointSlice>) {
        let of_service = self.slices.get_mut_or_default(slice.service.clone());
        of_service.insert(slice.id.name.clone(), slice);
    }

    /// Removes a slice of a Service.
    pub fn remove_slice(&mut self, service: &NamespacedName, name: &str) {
        let Some(of_service) = self.slices.get_mut(service) else { return };
        of_service.remove(name);
        if of_service.is_empty() {
            self.slices.remove(service);
        }
    }
}
