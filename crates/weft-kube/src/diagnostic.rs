//! What was wrong with an object.

use std::fmt;
use weft_model::NamespacedName;

/// The kinds that are lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1` Namespace.
    Namespace,
    /// `v1` Node.
    Node,
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `v1` Pod.
    Pod,
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
    ClusterNetworkPolicy,
}

impl Kind {
    /// All of them; each is watched.
    pub const ALL: [Self; 7] = [
        Self::Namespace,
        Self::Node,
        Self::Service,
        Self::EndpointSlice,
        Self::Pod,
        Self::NetworkPolicy,
        Self::ClusterNetworkPolicy,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
        })
    }
}

/// One thing that is wrong with one object. Becomes a Condition or an Event; `Display` is the
/// sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// Kind of the object.
    pub kind: Kind,
    /// Its namespace (empty where the kind has none) and name.
    pub object: NamespacedName,
    /// Path of the field, e.g. `spec.ports[1].port`.
    pub field: String,
    /// What is wrong with it, and what was left out because of it.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.object.namespace.is_empty() {
            write!(f, "{} {}: {}: {}", self.kind, self.object.name, self.field, self.message)
        } else {
            write!(f, "{} {}: {}: {}", self.kind, self.object, self.field, self.message)
        }
    }
}
