//! EndpointSlices.

use crate::{IpFamily, NamespacedName, NodeName, Port, Protocol};
use std::{net::IpAddr, sync::Arc};

/// One port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// Name of the Service port that it serves.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// The number on the endpoint; `None` means all ports (API doc of EndpointPort).
    pub port: Option<Port>,
}

/// One endpoint. The slice carries one address each (the API says that consumers use the
/// first address only).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Condition `ready` (nil counts as true).
    pub ready: bool,
    /// Condition `serving` (nil counts as `ready`).
    pub serving: bool,
    /// Condition `terminating` (nil counts as false).
    pub terminating: bool,
    /// `hostname`: the pod's own DNS name under a headless Service.
    pub hostname: Option<Arc<str>>,
    /// The node it is on.
    pub node: Option<NodeName>,
    /// The zone it is in.
    pub zone: Option<Arc<str>>,
    /// `hints.forZones`: the zones whose clients shall use it.
    pub zone_hints: Vec<Arc<str>>,
    /// `hints.forNodes`: the nodes whose clients shall use it.
    pub node_hints: Vec<Arc<str>>,
    /// `targetRef` where it is a Pod.
    pub pod: Option<NamespacedName>,
}

/// An EndpointSlice (discovery.k8s.io/v1) with address type IPv4 or IPv6; slices of FQDNs
/// are not lowered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name of the slice.
    pub id: NamespacedName,
    /// The Service it belongs to (label `kubernetes.io/service-name`, same namespace).
    pub service: NamespacedName,
    /// Family of all addresses.
    pub family: IpFamily,
    /// Ports, the same for every endpoint.
    pub ports: Vec<EndpointPort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}
