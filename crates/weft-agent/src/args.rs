//! Command line of `weft agent`.

use ipnet::IpNet;
use std::{
    net::{AddrParseError, SocketAddr},
    path::PathBuf,
    str::FromStr,
};
use weft_model::NodeName;

/// How pods of different nodes reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Network {
    /// VXLAN tunnel between the nodes.
    Vxlan,
    /// Plain routes; nodes of other subnets through the default router.
    Native,
}

/// Who answers at the address of the cluster's DNS Service (`kube-system/kube-dns`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ClusterDns {
    /// Each node itself, without leaving it; names outside the cluster are refused.
    Node,
    /// The Service's own pods (CoreDNS), as with any Service.
    Service,
}

/// Where the state of a node is that has no other.
pub(crate) const STATE_DIR: &str = "/run/weft/agent";
/// What outlives a restart of such a machine.
pub(crate) const DATA_DIR: &str = "/var/lib/weft";

/// An address to listen on, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsAddress(pub Option<SocketAddr>);

impl FromStr for MetricsAddress {
    type Err = AddrParseError;
    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        let address = (!text.is_empty()).then(|| text.parse()).transpose()?;
        Ok(Self(address))
    }
}

/// Arguments of `weft agent`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Name of the Node object that this agent serves.
    #[arg(long, env = "WEFT_NODE")]
    pub node: NodeName,
    /// Kubeconfig of the API server. Files that it names (certificates, a token) are read again
    /// when they change.
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Where to connect to the API instead of the kubeconfig's server, whose name its
    /// certificate must bear all the same. Not given, the endpoints of the `kubernetes` Service
    /// are learnt, kept, and tried where the server is away or is that very Service.
    #[arg(long, value_name = "ADDRESS:PORT", value_delimiter = ',')]
    pub api_endpoints: Vec<SocketAddr>,
    /// The node's folder: agent.sock and state/ are made in it. Its contents need not outlive
    /// a restart of the machine.
    #[arg(long, default_value = STATE_DIR)]
    pub state_dir: PathBuf,
    /// Folder for what should: the endpoints of the API
    /// [default: /var/lib/weft, or STATE_DIR/state where --state-dir is another one]
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Folder in a bpffs mount for pins. Where no bpffs is, one is mounted.
    #[arg(long, default_value = "/sys/fs/bpf/weft")]
    pub bpf_dir: PathBuf,
    /// Path of the node's cgroup2 folder, where the socket hooks are attached
    /// [default: the machine's whole cgroup2 hierarchy, wherever it is mounted]
    #[arg(long)]
    pub cgroup: Option<PathBuf>,
    /// How pods of different nodes reach each other.
    #[arg(long, value_enum, default_value = "vxlan")]
    pub network: Network,
    /// DNS domain of the cluster.
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Who answers at the address of the cluster's DNS Service.
    #[arg(long, value_enum, default_value = "node")]
    pub cluster_dns: ClusterDns,
    /// Service address ranges: what reaches the stack with such an address is refused
    /// [default: those of the cluster's ServiceCIDR objects, followed]
    #[arg(long, value_delimiter = ',')]
    pub service_cidr: Vec<IpNet>,
    /// Where to answer load balancers that ask whether the node takes connections.
    #[arg(long, default_value = "[::]:10256")]
    pub healthz_bind_address: SocketAddr,
    /// Where to tell Prometheus how it goes; empty for nowhere.
    #[arg(long, default_value = "127.0.0.1:10249")]
    pub metrics_bind_address: MetricsAddress,
    /// Which of the node's addresses answer on node ports; all where not given.
    #[arg(long, value_delimiter = ',')]
    pub nodeport_addresses: Vec<IpNet>,
    /// Whether processes of the node reach node ports at 127.0.0.1 and ::1, too.
    #[arg(long, action = clap::ArgAction::Set, default_value_t = true)]
    pub localhost_node_ports: bool,
}

impl Args {
    /// Where what outlives a restart of the machine is kept.
    pub fn data_dir(&self) -> PathBuf {
        let default = || match self.state_dir.as_os_str() == STATE_DIR {
            true => PathBuf::from(DATA_DIR),
            false => self.state_dir.join("state"),
        };
        self.data_dir.clone().unwrap_or_else(default)
    }
}
