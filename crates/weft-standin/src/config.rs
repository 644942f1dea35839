//! What the kubelet tells a stand-in, in the environment variable `WEFT_STANDIN`.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Name of the environment variable that carries the [`Config`] as JSON.
pub const ENV: &str = "WEFT_STANDIN";

/// Who the stand-in is, and where it listens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Name of the node.
    pub node: String,
    /// Addresses of the pod, primary first.
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<IpAddr>,
    /// Name of the container.
    pub container: String,
    /// Image that is not there.
    pub image: String,
    /// Ports to listen on: declared, probed and targeted ones.
    pub ports: Vec<Port>,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Port number.
    pub port: u16,
    /// Transport; SCTP is accepted and not served.
    #[serde(default)]
    pub protocol: Protocol,
    /// `name` of the container port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Transport protocol of a port, as Kubernetes writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP: not served.
    Sctp,
}
