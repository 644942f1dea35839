//! Services.

use crate::{IpFamily, NamespacedName, Port, Protocol};
use std::{net::IpAddr, sync::Arc};

/// What kind of Service this is for name resolution and load balancing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// Has virtual addresses (types ClusterIP, NodePort and LoadBalancer).
    Virtual,
    /// `clusterIP: None`: names resolve to endpoints.
    Headless,
    /// `type: ExternalName`: an alias for a DNS name.
    ExternalName(Arc<str>),
}

/// Which endpoints traffic may use (`internalTrafficPolicy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// All endpoints.
    Cluster,
    /// Only those on the client's node.
    Local,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty where the Service has one unnamed port.
    pub name: Arc<str>,
    /// Protocol of frontend and backends.
    pub protocol: Protocol,
    /// The port on the cluster IPs.
    pub port: Port,
}

/// A Service. Endpoints are found through [`crate::EndpointSlice::service`], ports are
/// matched by name (never by `targetPort`: that is the EndpointSlice controller's work).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub id: NamespacedName,
    /// Virtual, headless or alias.
    pub kind: ServiceKind,
    /// `spec.clusterIPs` parsed; empty for headless and ExternalName.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.ipFamilies`.
    pub families: Vec<IpFamily>,
    /// Ports in the order of the spec.
    pub ports: Vec<ServicePort>,
    /// `internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `sessionAffinity: ClientIP` with its time-out in seconds; `None` for no affinity.
    pub affinity_timeout_s: Option<u32>,
    /// `publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// Label `service.kubernetes.io/service-proxy-name` is set: another proxy serves it.
    pub foreign_proxy: bool,
}
