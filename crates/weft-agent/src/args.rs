//! Command line of `weft agent`.

use ipnet::IpNet;
use std::{net::SocketAddr, path::PathBuf};
use weft_model::NodeName;

/// How pods of different nodes reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Network {
    /// VXLAN tunnel between the nodes.
    Vxlan,
    /// Plain routes; nodes of other subnets through the default router.
    Native,
}

/// Arguments of `weft agent`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Name of the Node object that this agent serves.
    #[arg(long, env = "WEFT_NODE")]
    pub node: NodeName,
    /// Kubeconfig of the API server.
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// The node's folder: agent.sock and state/ are made in it.
    #[arg(long, default_value = "/run/weft/agent")]
    pub state_dir: PathBuf,
    /// Folder in a bpffs mount for pins.
    #[arg(long, default_value = "/sys/fs/bpf/weft")]
    pub bpf_dir: PathBuf,
    /// Path of the node's cgroup2 folder, where the socket hooks are attached.
    #[arg(long, default_value = "/sys/fs/cgroup")]
    pub cgroup: PathBuf,
    /// How pods of different nodes reach each other.
    #[arg(long, value_enum, default_value = "vxlan")]
    pub network: Network,
    /// DNS domain of the cluster.
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Service address ranges: what reaches the stack with such an address is refused.
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.0/16,fd00:10:96::/112")]
    pub service_cidr: Vec<IpNet>,
    /// Where to answer load balancers that ask whether the node takes connections.
    #[arg(long, default_value = "[::]:10256")]
    pub healthz_bind_address: SocketAddr,
    /// Which of the node's addresses answer on node ports; all where not given.
    #[arg(long, value_delimiter = ',')]
    pub nodeport_addresses: Vec<IpNet>,
}
