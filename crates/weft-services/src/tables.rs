//! The tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};
use weft_model::{NamespacedName, Port, Protocol};

/// Where a client connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// A cluster address of the Service.
    pub addr: IpAddr,
    /// `spec.ports[].port`.
    pub port: Port,
    /// TCP or UDP.
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
    pub backends: Vec<Backend>,
    /// `sessionAffinity: ClientIP`: its time-out in seconds.
    pub affinity_timeout_s: Option<u32>,
}

/// All that one node's Service data path must know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTables {
    /// Generation of the snapshot that this was planned from.
    pub generation: u64,
    /// Frontends with backends.
    pub frontends: BTreeMap<Frontend, LoadBalancer>,
    /// Frontends without backends: they stay untranslated, and the stack rejects them.
    pub without_backends: BTreeSet<Frontend>,
    /// What could not be served, and why.
    pub diagnostics: Vec<Diagnostic>,
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
    /// The socket hooks see TCP and UDP only.
    #[error("{0} is not translated: SCTP passes no socket hook")]
    NotTranslatable(Frontend),
    /// Two Services claim one frontend; the first in the order of namespace and name has it.
    #[error("{frontend} already belongs to Service {owner}")]
    Conflict {
        /// The frontend.
        frontend: Frontend,
        /// The Service that keeps it.
        owner: NamespacedName,
    },
}
