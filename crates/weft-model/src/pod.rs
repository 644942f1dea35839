//! Pods and namespaces, as far as policy cares.

use crate::{Labels, NamespacedName, NodeName, Port, Protocol};
use std::{net::IpAddr, sync::Arc};

/// `status.phase`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PodPhase {
    /// Accepted, not every container started.
    #[default]
    Pending,
    /// Bound to a node, at least one container runs.
    Running,
    /// Every container ended well.
    Succeeded,
    /// Every container ended, one of them badly.
    Failed,
    /// The node does not answer.
    Unknown,
}

impl PodPhase {
    /// Whether its containers ended for good: its addresses may belong to another pod by now.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// A container port that has a name; policies may name it instead of its number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// Its name.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// `containerPort`.
    pub port: Port,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub id: NamespacedName,
    /// Its labels.
    pub labels: Labels,
    /// The node that it is bound to.
    pub node: Option<NodeName>,
    /// `status.podIPs`: at most one a family; for a pod of the host network those of its node.
    pub addresses: Vec<IpAddr>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// `status.phase`.
    pub phase: PodPhase,
    /// The named ports of its containers (init containers that go on running included).
    pub ports: Vec<NamedPort>,
    /// A digest of `metadata.uid`: tells a pod from an earlier one of its name. 0 where it has
    /// none.
    pub incarnation: u64,
    /// The socket hooks leave its processes alone (annotation `weft.dev/socket-lb: disabled`).
    pub sockets_alone: bool,
}

impl Pod {
    /// [`Self::incarnation`] of a pod with this UID (FNV-1a).
    pub fn incarnation_of(uid: &str) -> u64 {
        if uid.is_empty() {
            return 0;
        }
        uid.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: Arc<str>,
    /// Its labels; the API sets `kubernetes.io/metadata.name` on every one.
    pub labels: Labels,
    /// Annotation `weft.dev/policy-audit: enabled`: its NetworkPolicies are in audit mode, as if
    /// each were annotated. Policies of the cluster are not.
    pub audit: bool,
}

/// A node as a peer of policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePeer {
    /// Its name.
    pub name: NodeName,
    /// Its labels.
    pub labels: Labels,
    /// Every address of `status.addresses`, of whatever type.
    pub addresses: Vec<IpAddr>,
}
