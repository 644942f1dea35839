//! Addresses from outside that a Service may not take, because the cluster itself needs them.
//!
//! `externalIPs` are written by whoever may write a Service, and the API takes nearly anything
//! (CVE-2020-8554). A node's own address there is common: clusters without load balancers lead
//! their ingress so, and kube-proxy serves it; it is served here as well, and said aloud. What
//! would cut the cluster off from itself is not served: pods and routers, the kubelets, the
//! API server, addresses that mean another thing on every machine.

use crate::eligible;
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weft_model::{NamespacedName, NodeName, Port, Protocol, Snapshot};

/// What every node answers on itself: the kubelet, load balancers' probes, metrics, tunnel.
const NODE_PORTS: [(u16, Protocol, &str); 4] = [
    (10_250, Protocol::Tcp, "the kubelet's"),
    (10_256, Protocol::Tcp, "for probes of load balancers"),
    (10_249, Protocol::Tcp, "for metrics"),
    (4789, Protocol::Udp, "the tunnel's"),
];

/// Addresses that have an owner in the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    nodes: BTreeMap<IpAddr, NodeName>,
    /// Pod ranges by their first address; they do not overlap.
    pods: BTreeMap<IpAddr, (IpNet, NodeName)>,
    /// Where the API server is.
    api: BTreeSet<(IpAddr, Port)>,
}

/// What a Service would take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shadow {
    /// It is not served.
    Refused(String),
    /// It is served, and hides a port of this node.
    Hides(NodeName),
}

/// The Service whose endpoints are the API servers.
pub(crate) fn api_service() -> NamespacedName {
    NamespacedName::new("default", "kubernetes")
}

impl Surroundings {
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let mut around = Self::default();
        for node in snapshot.nodes.values() {
            around.nodes.extend(node.internal_ips.iter().map(|a| (*a, node.name.clone())));
            let ranges = node.pod_cidrs.iter().map(|c| (c.network(), (*c, node.name.clone())));
            around.pods.extend(ranges);
        }
        for slice in snapshot.slices_of(&api_service()) {
            let ports = slice.ports.iter().filter(|p| p.protocol == Protocol::Tcp);
            for port in ports.filter_map(|p| p.port) {
                around.api.extend(slice.endpoints.iter().map(|e| (e.address, port)));
            }
        }
        around
    }

    /// Whether a snapshot may have other surroundings than the one before; cheap.
    pub(crate) fn may_differ(before: &Snapshot, after: &Snapshot) -> bool {
        let api = api_service();
        before.nodes.diff(&after.nodes).next().is_some()
            || before.slices.get(&api) != after.slices.get(&api)
    }

    /// Judges an address that a Service lists or was given from outside, with one of its ports.
    pub(crate) fn judge(&self, addr: IpAddr, port: Port, protocol: Protocol) -> Option<Shadow> {
        if let Some(why) = eligible::special(addr) {
            return Some(Shadow::Refused(why.to_owned()));
        }
        let below = self.pods.range(..=addr).next_back();
        if let Some((_, (range, node))) = below.filter(|(_, (range, _))| range.contains(&addr)) {
            return Some(Shadow::Refused(format!("it is in {range}, the pods of node {node}")));
        }
        if protocol == Protocol::Tcp && self.api.contains(&(addr, port)) {
            return Some(Shadow::Refused("the API server is there".to_owned()));
        }
        let node = self.nodes.get(&addr)?;
        let own = NODE_PORTS.iter().find(|(n, p, _)| (*n, *p) == (port.get(), protocol));
        Some(match own {
            Some((n, _, what)) => {
                Shadow::Refused(format!("it is node {node}'s, where port {n} is {what}"))
            }
            None => Shadow::Hides(node.clone()),
        })
    }
}
