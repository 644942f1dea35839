//! Services.

use crate::{IpFamily, NamespacedName, Port, Protocol};
use ipnet::IpNet;
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

/// Which endpoints traffic may use (`internalTrafficPolicy`, `externalTrafficPolicy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficPolicy {
    /// All endpoints.
    Cluster,
    /// Only those on the client's node (internal), or on the node that traffic from outside
    /// the cluster reached first (external).
    Local,
}

/// How a backend is chosen for a client: annotation `weft.dev/lb` of the Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Balance {
    /// Any, for each connection anew.
    #[default]
    Random,
    /// The same for one client, on every node that knows the same backends; and still the same
    /// for nearly all when a backend comes or goes (Maglev hashing).
    Maglev,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty where the Service has one unnamed port.
    pub name: Arc<str>,
    /// Protocol of frontend and backends.
    pub protocol: Protocol,
    /// The port on the cluster IPs, and on addresses from outside.
    pub port: Port,
    /// `nodePort`: the port on the nodes' addresses.
    pub node_port: Option<Port>,
}

/// How a Service is reached from outside the cluster; empty for those that are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// `externalTrafficPolicy`.
    pub policy: TrafficPolicy,
    /// `externalIPs`, whichever type the Service is of.
    pub addresses: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` with `ipMode: VIP` (the default): packets reach a
    /// node with this address. With `Proxy` the load balancer opens a connection of its own
    /// to a node, and its address means nothing here.
    pub balancer_addresses: Vec<IpAddr>,
    /// `loadBalancerSourceRanges`: who may use `balancer_addresses`; everybody where empty.
    pub source_ranges: Vec<IpNet>,
    /// `healthCheckNodePort`: set for type LoadBalancer with policy `Local`.
    pub health_port: Option<Port>,
}

impl Default for External {
    fn default() -> Self {
        Self {
            policy: TrafficPolicy::Cluster,
            addresses: Vec::new(),
            balancer_addresses: Vec::new(),
            source_ranges: Vec::new(),
            health_port: None,
        }
    }
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
    /// The way in from outside.
    pub external: External,
    /// `sessionAffinity: ClientIP` with its time-out in seconds; `None` for no affinity.
    pub affinity_timeout_s: Option<u32>,
    /// `publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// Label `service.kubernetes.io/service-proxy-name` is set: another proxy serves it.
    pub foreign_proxy: bool,
    /// `metadata.creationTimestamp` in seconds since 1970: of two Services that claim one
    /// address, the older one has it. 0 where the API gives none, which is older than all.
    pub created_s: i64,
    /// How backends are chosen.
    pub balance: Balance,
}
