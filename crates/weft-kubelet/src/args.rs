//! What the supervisor tells the kubelet of one node.

use std::net::IpAddr;
use std::path::PathBuf;

/// Arguments of `weft lab-kubelet`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Name of the node.
    #[arg(long)]
    pub node: String,
    /// How to reach the API.
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Directory of the node: sockets, CNI files, pods.
    #[arg(long)]
    pub dir: PathBuf,
    /// Directory of the volumes that claims get, shared by the nodes of a lab; `volumes` in the
    /// node's directory where absent.
    #[arg(long)]
    pub volumes: Option<PathBuf>,
    /// cgroup of the node relative to the cgroup2 mount, e.g. `weft.lab/node1`.
    #[arg(long)]
    pub cgroup: PathBuf,
    /// Addresses of the cluster's DNS, primary family first.
    #[arg(long, value_delimiter = ',')]
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster.
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// InternalIP addresses of the node, primary family first; found on `eth0` where absent.
    #[arg(long, value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,
    /// Labels of the Node object, `key=value`.
    #[arg(long, value_delimiter = ',')]
    pub node_labels: Vec<String>,
    /// Whether privileged containers may run.
    #[arg(long)]
    pub allow_privileged: bool,
}
