//! The cells of the table of Services, and what the documentation promises of each: an
//! independent, plain reading of the pages "Service", "Virtual IPs and Service Proxies",
//! "Service Internal Traffic Policy" and of KEPs 2086, 4444 and 3015. It shares nothing with
//! the planner.

use std::collections::BTreeSet;

/// Nodes with an endpoint. Odd nodes are in zone 1, even ones in zone 2.
pub const PLACEMENTS: [&[u8]; 4] = [&[], &[1], &[2, 3], &[1, 2, 3]];

/// `internalTrafficPolicy: Local`, `externalTrafficPolicy: Local`, `trafficDistribution`.
pub type Policy = (bool, bool, &'static str);

/// The policies, each with every placement.
pub const POLICIES: [Policy; 5] = [
    (false, false, ""),
    (true, true, ""),
    (false, false, "PreferSameZone"),
    (false, true, "PreferSameNode"),
    (true, false, "PreferClose"),
];

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// A pod on this node.
    Pod(u8),
    /// A pod of this node's own network.
    HostPod(u8),
    /// A process of the node itself.
    Process(u8),
    /// Outside; comes in through this node.
    Through(u8),
}

impl Client {
    /// The node that translates for it.
    pub fn node(self) -> u8 {
        match self {
            Self::Pod(n) | Self::HostPod(n) | Self::Process(n) | Self::Through(n) => n,
        }
    }
}

/// What it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    ClusterIp,
    /// Its own node's address; from outside, that of the node it comes through.
    NodePort,
    LoadBalancer,
    ExternalIp,
}

/// One question.
#[derive(Clone, Debug)]
pub struct Cell {
    pub service: usize,
    pub nodes: &'static [u8],
    pub policy: Policy,
    pub client: Client,
    pub kind: Kind,
    pub udp: bool,
    pub v6: bool,
}

/// What the documentation promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Endpoints on these nodes, and no other.
    Nodes(BTreeSet<u8>),
    Refused,
    Nothing,
}

/// Reads the documentation for one cell.
pub fn promise(cell: &Cell) -> Promise {
    let (internal_local, external_local, distribution) = cell.policy;
    let at = cell.client.node();
    // "If there are no endpoints, the connection is refused."
    if cell.nodes.is_empty() {
        return Promise::Refused;
    }
    let those = |keep: &dyn Fn(u8) -> bool| -> BTreeSet<u8> {
        cell.nodes.iter().copied().filter(|n| keep(*n)).collect()
    };
    let (here, near) = (those(&|n| n == at), those(&|n| n % 2 == at % 2));
    // `internalTrafficPolicy` is about cluster addresses, `externalTrafficPolicy` about what
    // comes from outside; clients in the cluster reach external addresses from inside.
    match (cell.kind, cell.client) {
        // "Local: as if there were no endpoints elsewhere."
        (Kind::ClusterIp, _) if internal_local && here.is_empty() => return Promise::Refused,
        (Kind::ClusterIp, _) if internal_local => return Promise::Nodes(here),
        // "Traffic from outside that reaches a node without a local endpoint is dropped."
        (_, Client::Through(_)) if external_local && here.is_empty() => return Promise::Nothing,
        (_, Client::Through(_)) if external_local => return Promise::Nodes(here),
        _ => {}
    }
    // "Prefer": the nearest that there is. PreferClose is PreferSameZone by its old name.
    let prefers_node = distribution == "PreferSameNode";
    let prefers_zone = !distribution.is_empty();
    if prefers_node && !here.is_empty() {
        Promise::Nodes(here)
    } else if prefers_zone && !near.is_empty() {
        Promise::Nodes(near)
    } else {
        Promise::Nodes(those(&|_| true))
    }
}

/// Every placement × policy × client × kind × protocol × family that there can be.
pub fn cells() -> Vec<Cell> {
    let inside = [Client::Pod(1), Client::Pod(4), Client::HostPod(1), Client::Process(4)];
    let outside = [Client::Through(1), Client::Through(4)];
    let external = [Kind::NodePort, Kind::LoadBalancer, Kind::ExternalIp];
    let asked = inside
        .iter()
        .map(|c| (*c, Kind::ClusterIp))
        .chain(inside.iter().chain(&outside).flat_map(|c| external.map(|k| (*c, k))));
    let asked: Vec<_> = asked.collect();
    let mut cells = Vec::new();
    let pairs = PLACEMENTS.iter().flat_map(|n| POLICIES.iter().map(move |p| (*n, *p)));
    for (service, (nodes, policy)) in pairs.enumerate() {
        for &(client, kind) in &asked {
            for (udp, v6) in [(false, false), (false, true), (true, false), (true, true)] {
                cells.push(Cell { service, nodes, policy, client, kind, udp, v6 });
            }
        }
    }
    cells
}
