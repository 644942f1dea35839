//! What is wrong with the input, as data.

use ipnet::IpNet;
use std::{fmt, net::IpAddr};
use weft_model::{IpFamily, NodeName};

/// One finding about one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The node that it is about.
    pub node: NodeName,
    /// What is wrong.
    pub kind: DiagnosticKind,
}

/// What is wrong with a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiagnosticKind {
    /// This agent's Node object is not there: nothing is planned, the kernel stays as it is.
    SelfMissing,
    /// This agent's node has no pod CIDR yet.
    SelfWithoutPodCidr,
    /// No `InternalIP` of a family in which both nodes have one.
    NoCommonAddress,
    /// Native routing: no `InternalIP` of the family of the pod CIDR.
    NoAddressOfFamily(IpFamily),
    /// Native routing: the node is in another subnet and there is no default router.
    NoRouter(IpAddr),
    /// A pod CIDR has no room for network, router, one pod and broadcast.
    CidrTooSmall(IpNet),
    /// More than one pod CIDR of a family: the first counts.
    CidrRepeated(IpNet),
    /// A pod CIDR overlaps with something that came first.
    CidrOverlaps {
        /// The refused CIDR.
        cidr: IpNet,
        /// What it overlaps with.
        with: IpNet,
    },
    /// Two nodes have the same tunnel hardware address.
    MacCollision,
    /// The uplink's MTU leaves less than IPv6 needs (1280 bytes) in the tunnel.
    MtuTooSmall(u32),
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = &self.node;
        match &self.kind {
            DiagnosticKind::SelfMissing => write!(f, "node {node}: the Node object does not exist"),
            DiagnosticKind::SelfWithoutPodCidr => {
                write!(f, "node {node}: spec.podCIDRs is not set yet")
            }
            DiagnosticKind::NoCommonAddress => write!(
                f,
                "node {node}: status.addresses has no InternalIP that this node can reach"
            ),
            DiagnosticKind::NoAddressOfFamily(family) => write!(
                f,
                "node {node}: status.addresses has no {family} InternalIP, which native \
                 routing of its {family} pod CIDR needs"
            ),
            DiagnosticKind::NoRouter(ip) => write!(
                f,
                "node {node}: its address {ip} is in another subnet and this node has no \
                 default router of that family"
            ),
            DiagnosticKind::CidrTooSmall(cidr) => {
                write!(f, "node {node}: pod CIDR {cidr} is too small")
            }
            DiagnosticKind::CidrRepeated(cidr) => {
                write!(f, "node {node}: pod CIDR {cidr} is a second one of its family")
            }
            DiagnosticKind::CidrOverlaps { cidr, with } => {
                write!(f, "node {node}: pod CIDR {cidr} overlaps with {with}")
            }
            DiagnosticKind::MacCollision => write!(
                f,
                "node {node}: its name gives the same tunnel hardware address as this \
                 node's; rename one of them"
            ),
            DiagnosticKind::MtuTooSmall(mtu) => {
                write!(f, "node {node}: pod MTU {mtu} is below 1280, which IPv6 needs")
            }
        }
    }
}
