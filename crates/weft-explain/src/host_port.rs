//! Host ports: what a node's own addresses lead to its pods, where no Service has the port.
//! The agent's entrances say the same (`weft_agent::host_port`).

use crate::{HostPort, Pod, World};
use std::net::IpAddr;
use weft_model::{Node, Port, Protocol};

impl World {
    /// The pod of `node` that has the host port, and the pod's address of that family.
    pub(crate) fn host_port(
        &self,
        node: &Node,
        address: IpAddr,
        port: Port,
        protocol: Protocol,
    ) -> Option<(&Pod, &HostPort, IpAddr)> {
        let over = |p: &Pod| matches!(&*p.phase, "Succeeded" | "Failed");
        let here = |p: &&Pod| p.node.as_ref() == Some(&node.name) && !p.host_network && !over(p);
        self.pods.values().filter(here).find_map(|pod| {
            let ip = pod.ips.iter().copied().find(|ip| ip.is_ipv4() == address.is_ipv4())?;
            let meant = |h: &&HostPort| {
                (h.host_port, h.protocol) == (port, protocol)
                    && h.host_ip.is_none_or(|at| at == address)
            };
            Some((pod, pod.host_ports.iter().find(meant)?, ip))
        })
    }
}
