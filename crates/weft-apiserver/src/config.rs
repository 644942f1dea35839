//! What the server is started with.

use ipnet::IpNet;
use std::{
    fmt,
    net::IpAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Finds the Unix socket of a node's kubelet by the node's name.
pub type KubeletSocket = Arc<dyn Fn(&str) -> PathBuf + Send + Sync>;

/// A bearer token and who it stands for.
#[derive(Clone)]
pub struct Token {
    /// The secret itself.
    pub token: String,
    /// User name.
    pub user: String,
    /// Groups, such as `system:masters`.
    pub groups: Vec<String>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("user", &self.user)
            .field("groups", &self.groups)
            .finish_non_exhaustive()
    }
}

/// Settings of an [`ApiServer`](crate::ApiServer).
#[derive(Clone)]
pub struct Config {
    /// Ranges of ClusterIPs, the primary family's first; at most one for each family.
    pub service_cidrs: Vec<IpNet>,
    /// Ports for NodePort and LoadBalancer Services.
    pub node_ports: RangeInclusive<u16>,
    /// Where pods and nodes reach this server: the endpoints of the `kubernetes` Service.
    pub advertise: Vec<IpAddr>,
    /// Port of the `advertise` addresses.
    pub advertise_port: u16,
    /// Who may speak to the server over TLS. In-process requests need no token.
    pub tokens: Vec<Token>,
    /// Signs the tokens of service accounts; a random one (tokens end with the process) if none.
    pub token_key: Option<[u8; 32]>,
    /// Where to keep objects across restarts; in memory only if none.
    pub data_dir: Option<PathBuf>,
    /// Whether a write is on disk (fdatasync) before it is acknowledged. Without, it survives
    /// the death of the process, but not that of the machine.
    pub sync: bool,
    /// Events kept for each kind, for watches that begin at an older version.
    pub watch_history: usize,
    /// The kubelet's Unix socket of a node.
    pub kubelet_socket: KubeletSocket,
    /// What connections may take.
    pub limits: Limits,
}

/// Bounds on what clients may take of the server's time and memory.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once; the next one is told 429 and closed.
    pub connections: usize,
    /// A client that says nothing after the TLS handshake is cut off.
    pub first_timeout: Duration,
    /// A client that has not finished its handshake or the headers of a request by then is cut
    /// off.
    pub header_timeout: Duration,
    /// A request body that trickles in slower than this is refused.
    pub body_timeout: Duration,
    /// Bytes of request bodies at once; who finds no room within `body_timeout` is told 429.
    pub body_bytes: usize,
    /// How long connections may take to end when the server does.
    pub grace: Duration,
    /// How often a watcher that allows bookmarks learns how far it has come.
    pub bookmark_every: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            first_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(20),
            body_timeout: Duration::from_secs(30),
            body_bytes: 256 << 20,
            grace: Duration::from_secs(5),
            bookmark_every: Duration::from_secs(60),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            service_cidrs: vec![
                "10.96.0.0/16".parse().expect("invariant: a constant prefix"),
                "fd00:10:96::/112".parse().expect("invariant: a constant prefix"),
            ],
            node_ports: 30000..=32767,
            advertise: Vec::new(),
            advertise_port: 6443,
            tokens: Vec::new(),
            token_key: None,
            data_dir: None,
            sync: false,
            watch_history: 4096,
            kubelet_socket: Arc::new(|node| Path::new("/run/weft").join(node).join("kubelet.sock")),
            limits: Limits::default(),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("service_cidrs", &self.service_cidrs)
            .field("advertise", &self.advertise)
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}
