//! What becomes of traffic, and which object decides it: the answers of `weft why` and
//! `weft get services`.
//!
//! Flow: [`World`] (a Snapshot, the pods, the policies, what is known of the agents' settings) and
//! a [`Question`] → parsed ends (`parse`, `ends`) → the planners' own tables and reasons
//! (`weft_services`, `weft_dns`) → what policy says about each way (`judge`, by the evaluator of
//! `weft_policy`), and what would have to change (`remedy`) → an [`Answer`], which is the JSON, and
//! its text (`render`).
//!
//! Invariants:
//! - Nothing is decided here: which frontend, which backends, which names and which verdicts come
//!   from the planners that program the nodes. This crate adds where things are (routes, the source
//!   address that a backend sees) and the words.
//! - A remedy was tried: the same evaluator allows the flow once it is made.
//! - Pure: equal worlds and questions give equal answers.
//! - A question about something that does not exist is an error that names it and what is near.
//!
//! It knows no API, no kernel and no lab.
#![forbid(unsafe_code)]

mod answer;
mod dns;
mod ends;
mod error;
mod fabric;
mod host_port;
mod judge;
mod parse;
mod remedy;
mod render;
mod services;
#[cfg(test)]
mod tests;
mod trace;

pub use answer::{
    Answer, Backend, Destination, Dns, End, Excluded, Frontend, Judgement, Outcome, Path, Place,
    Remedy, Route, Rule, Side, Tried, Verdict,
};
pub use error::AskError;
pub use render::table;
pub use services::{Count, ServiceRow, services};
pub use trace::why;

use ipnet::IpNet;
use std::{collections::BTreeMap, net::IpAddr};
use weft_dns::Zone;
use weft_fabric::Mode;
use weft_model::{IpFamily, NamespacedName, NodeName, Port, Protocol, Snapshot};
use weft_policy::PolicyInput;

/// A pod, as far as questions go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub id: NamespacedName,
    /// Its node, once it has one.
    pub node: Option<NodeName>,
    /// `status.podIPs`.
    pub ips: Vec<IpAddr>,
    /// Whether it uses its node's network.
    pub host_network: bool,
    /// `status.phase`.
    pub phase: String,
    /// Whether its sockets are left alone (annotation `weft.dev/socket-lb: disabled`).
    pub opted_out: bool,
    /// Ports of its node that lead to it; none for a pod of the host network.
    pub host_ports: Vec<HostPort>,
}

/// A `hostPort` of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// `hostIP`: one of the node's addresses; all of them where absent.
    pub host_ip: Option<IpAddr>,
    /// `hostPort`.
    pub host_port: Port,
    /// `containerPort`.
    pub container_port: Port,
    /// `protocol`.
    pub protocol: Protocol,
    /// `name`; may be empty.
    pub name: String,
}

/// What is known of the agents' settings; they are not in the API.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How packets of pods travel between nodes.
    pub mode: Mode,
    /// Service ranges: what has such an address and belongs to no Service is refused.
    pub service_cidrs: Vec<IpNet>,
    /// Which of the nodes' addresses answer on node ports; all where empty.
    pub node_port_ranges: Vec<IpNet>,
    /// Whether processes of a node reach node ports at 127.0.0.1 and ::1.
    pub localhost_node_ports: bool,
    /// The cluster's DNS domain.
    pub zone: Zone,
    /// MTU in bytes of the nodes' uplinks, where it is known.
    pub uplink_mtu: Option<u32>,
    /// Addresses of the client outside, where there is one (in a lab).
    pub outside: Vec<IpAddr>,
}

/// Everything that answers are made of.
#[derive(Clone, Debug)]
pub struct World {
    /// What the planners read.
    pub snapshot: Snapshot,
    /// The pods.
    pub pods: BTreeMap<NamespacedName, Pod>,
    /// What policy depends on: nodes with their router addresses, and of the cluster's DNS its
    /// cluster addresses (where a node answers itself, it does so for its own pods).
    pub policy: PolicyInput,
    /// `spec.type` of the Services.
    pub service_types: BTreeMap<NamespacedName, String>,
    /// What is wrong with Services and their slices, by Service.
    pub complaints: BTreeMap<NamespacedName, Vec<String>>,
    /// Settings.
    pub setup: Setup,
}

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// `[ns/]pod`, `node/NAME`, `client`, `outside` or an address.
    pub from: String,
    /// `DST[:PORT][/PROTO]`: `[ns/]pod`, `svc/[ns/]NAME`, `node/NAME`, an address or a name.
    pub to: String,
    /// Namespace of names without one.
    pub namespace: String,
    /// The node that a client outside comes in through; all where it is not given.
    pub through: Option<String>,
    /// One family only.
    pub family: Option<IpFamily>,
    /// What a resolver outside says about the name that is asked for, where it is none of the
    /// cluster's.
    pub resolved: Vec<IpAddr>,
}

impl World {
    /// The Service tables of a node, as its agent plans them.
    fn tables(&self, node: &NodeName) -> weft_services::ServiceTables {
        let own = self.snapshot.nodes.get(node);
        let routers = own.into_iter().flat_map(|n| &n.pod_cidrs);
        let input = weft_services::PlanInput {
            node_dns: routers.filter_map(|c| weft_fabric::router_address(*c)).collect(),
            node_port_ranges: self.setup.node_port_ranges.clone(),
            localhost_node_ports: self.setup.localhost_node_ports,
        };
        weft_services::plan(&self.snapshot, node, &input)
    }

    /// The fabric's tables of a node, as far as they do not depend on its links. The MTU means
    /// nothing where that of the uplink is not known.
    fn fabric(&self, node: &NodeName) -> Option<weft_fabric::FabricTables> {
        let underlay = weft_fabric::Underlay {
            mtu: self.setup.uplink_mtu.unwrap_or_default(),
            ..weft_fabric::Underlay::default()
        };
        let service_cidrs = self.setup.service_cidrs.clone();
        let config = weft_fabric::FabricConfig { mode: self.setup.mode, underlay, service_cidrs };
        weft_fabric::plan(&self.snapshot, node, &config).tables
    }
}
