//! The tables.

use ipnet::IpNet;
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use weft_model::{
    Balance, IpFamily, Map, NamespacedName, NodeName, Port, Protocol, Set, TrafficPolicy,
};

/// Where a client connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// An address of the Service, or of this node (for node ports).
    pub addr: IpAddr,
    /// `spec.ports[].port`, or `nodePort`.
    pub port: Port,
    /// The protocol.
    pub protocol: Protocol,
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.addr, self.port.get()), self.protocol)
    }
}

/// Where a connection goes instead; the protocol is that of the frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Address of the endpoint.
    pub addr: IpAddr,
    /// Port of the endpoint.
    pub port: Port,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.addr, self.port.get()).fmt(f)
    }
}

/// What stands behind a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadBalancer {
    /// The Service that owns the frontend, for people who ask why.
    pub service: NamespacedName,
    /// At least one, sorted, without duplicates.
    pub backends: Arc<[Backend]>,
    /// `sessionAffinity: ClientIP`: its time-out in seconds.
    pub affinity_timeout_s: Option<u32>,
    /// How one of them is chosen.
    pub balance: Balance,
}

/// Where a frontend's address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// An address of the node, with `spec.ports[].nodePort`.
    NodePort,
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancer,
    /// `spec.externalIPs`.
    ExternalIp,
}

impl FrontendKind {
    /// All of them; where two Services claim one address and port, the earlier kind has it.
    pub const ALL: [Self; 4] =
        [Self::ClusterIp, Self::NodePort, Self::LoadBalancer, Self::ExternalIp];
}

/// Names a set of backends that several frontends share: a Service's node port, its load
/// balancer's addresses and its externalIPs all lead to the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group {
    /// The Service.
    pub service: NamespacedName,
    /// Name of its port.
    pub port: Arc<str>,
    /// Protocol of the port.
    pub protocol: Protocol,
    /// Family of the backends.
    pub family: IpFamily,
    /// Which endpoints are in it.
    pub policy: TrafficPolicy,
    /// How one of them is chosen.
    pub balance: Balance,
}

/// What becomes of a new connection from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It goes to a backend of this group, which is in [`ServiceTables::groups`].
    Forward(Group),
    /// The client sees a refusal: no node has an endpoint.
    Refuse,
    /// It is dropped: the policy is `Local`, and only other nodes have endpoints.
    Drop,
}

/// A frontend as it is served to what reaches the node's stack: clients outside, other nodes,
/// and clients on this node that no socket hook translated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// The Service that owns the frontend.
    pub service: NamespacedName,
    /// Where the address comes from.
    pub kind: FrontendKind,
    /// What becomes of a connection.
    pub answer: Answer,
    /// `sessionAffinity: ClientIP`: its time-out in seconds.
    pub affinity_timeout_s: Option<u32>,
    /// Who may use it; `None` for everybody. Packets of all others are dropped.
    pub sources: Option<Vec<IpNet>>,
}

/// What a load balancer that probes `healthCheckNodePort` is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The Service.
    pub service: NamespacedName,
    /// Its ready endpoints on this node.
    pub ready_here: usize,
}

/// All that one node's Service data path must know. Tables share what is the same in them: a
/// copy costs nothing, and comparing a table with the one before costs what changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTables {
    /// Generation of the snapshot that this was planned from.
    pub generation: u64,
    /// Frontends with backends, for clients on this node, by socket.
    pub frontends: Map<Frontend, Arc<LoadBalancer>>,
    /// Frontends without backends: they stay untranslated, and the stack rejects them.
    pub without_backends: Set<Frontend>,
    /// Frontends for what reaches the node's stack.
    pub outside: Map<Frontend, Arc<Outside>>,
    /// The backends of `outside`: at least one each, sorted, without duplicates.
    pub groups: Map<Group, Arc<[Backend]>>,
    /// Ports to answer probes of load balancers on.
    pub health: Map<Port, Health>,
    /// What could not be served, and why, in the order of the Services.
    pub diagnostics: Arc<[Diagnostic]>,
}

/// Why a part of a Service is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The Service.
    pub service: NamespacedName,
    /// What is wrong.
    pub kind: DiagnosticKind,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service {}: {}", self.service, self.kind)
    }
}

/// What is wrong with a part of a Service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiagnosticKind {
    /// Two Services claim one frontend; the older one has it, or the first by namespace and name
    /// of those that were created in the same second.
    #[error("{frontend} already belongs to Service {owner}")]
    Conflict {
        /// The frontend.
        frontend: Frontend,
        /// The Service that keeps it.
        owner: NamespacedName,
    },
    /// Two Services claim one `healthCheckNodePort`.
    #[error("healthCheckNodePort {port} already belongs to Service {owner}")]
    HealthPortConflict {
        /// The port.
        port: Port,
        /// The Service that keeps it.
        owner: NamespacedName,
    },
    /// An address that the cluster needs for itself.
    #[error("{frontend} is not served: {why}")]
    Refused {
        /// The frontend.
        frontend: Frontend,
        /// Whose address it is.
        why: String,
    },
    /// A node's own address: it is served, and the node's own port is not reached any more.
    #[error("{frontend} is served, and hides this port of node {node}")]
    Hides {
        /// The frontend.
        frontend: Frontend,
        /// The node.
        node: NodeName,
    },
    /// An endpoint that cannot be sent to; the others serve.
    #[error("its endpoint {address} is ignored: {reason}")]
    BadEndpoint {
        /// The slice that names it.
        slice: Arc<str>,
        /// Its address.
        address: IpAddr,
        /// What is wrong with it.
        reason: &'static str,
    },
}
