//! The domain of the Kubernetes network: names, addresses, Services, endpoints and nodes,
//! and [`Snapshot`], the immutable picture of all of them that every planner reads.
//!
//! Data flows one way: `weft-kube` lowers API objects to these types and publishes a
//! `Snapshot`; planners turn a `Snapshot` into tables; kernel-facing crates apply tables.
//!
//! Invariants:
//! - Values are parsed at the edge: inside there is no `String` for an address, a port,
//!   a protocol or a name.
//! - A `Snapshot` never changes after it was published. Its parts are shared ([`Map`]), so that
//!   the next one costs only what changed, and so does finding out what did.
//!
//! This crate knows nothing about the Kubernetes API, the kernel, time or I/O.
#![forbid(unsafe_code)]

mod endpoint;
mod family;
mod label;
mod map;
mod name;
mod node;
mod pod;
mod policy;
mod port;
mod service;
mod snapshot;

pub use endpoint::{Endpoint, EndpointPort, EndpointSlice};
pub use family::{IpFamilies, IpFamily};
pub use label::{LabelTest, Labels, Selector, SelectorError};
pub use map::{Diff, Difference, Iter, Map, Set};
pub use name::{LabName, NameError, NamespacedName, NodeName};
pub use node::Node;
pub use pod::{NamedPort, Namespace, NodePeer, Pod, PodPhase};
pub use policy::{
    Action, ClusterNetworkPolicy, ClusterRule, Direction, DomainPattern, IpBlock, NamespaceSet,
    NetworkPolicy, NetworkRule, Peer, PodSet, PortMatch, Tier,
};
pub use port::{Port, PortError, Protocol};
pub use service::{Balance, External, Service, ServiceKind, ServicePort, TrafficPolicy};
pub use snapshot::{Slices, Snapshot};
