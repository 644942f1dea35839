//! What shall be in the kernel of one node.

use crate::Diagnostic;
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weft_model::IpFamily;

/// A hardware address.
pub type Mac = [u8; 6];

/// The outcome of [`crate::plan`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FabricPlan {
    /// `None` where nothing may be changed: this node is unknown or has no pod CIDR.
    pub tables: Option<FabricTables>,
    /// Findings, in the order of the nodes.
    pub diagnostics: Vec<Diagnostic>,
}

/// The fabric's share of a node's kernel state. Links are named, not numbered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FabricTables {
    /// The node's own pod CIDRs, at most one a family.
    pub pod_cidrs: Vec<IpNet>,
    /// The node's router addresses (first of each pod CIDR); on `lo`. DNS listens here.
    pub routers: Vec<IpAddr>,
    /// MTU in bytes of pod links.
    pub pod_mtu: u32,
    /// Source of the node towards its own pods, at most one a family: its `InternalIP`, or
    /// the router address where it has none of the family.
    pub pod_sources: BTreeMap<IpFamily, IpAddr>,
    /// The tunnel device, in tunnel mode.
    pub tunnel: Option<Tunnel>,
    /// Addresses on `lo`.
    pub addresses: BTreeSet<IpNet>,
    /// Routes by destination and metric.
    pub routes: BTreeMap<(IpNet, u32), Route>,
    /// Permanent neighbours on the tunnel device.
    pub neighbours: BTreeSet<Neighbour>,
    /// Pod CIDRs and addresses of all nodes: towards these pods keep their own addresses.
    pub cluster: Vec<IpNet>,
    /// Sysctls (`net/ipv4/…`) and their values.
    pub sysctls: BTreeMap<String, String>,
}

/// The tunnel device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// UDP port.
    pub port: u16,
    /// MTU in bytes.
    pub mtu: u32,
    /// Hardware address.
    pub mac: Mac,
}

/// What becomes of packets to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    /// Sent on.
    Unicast,
    /// Delivered to the node itself.
    Local,
    /// Refused.
    Unreachable,
}

/// A route of the main table, protocol 77.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Kind.
    pub kind: RouteKind,
    /// Outgoing link; none for `Unreachable`.
    pub link: Option<String>,
    /// Next hop; always taken to be on the link in tunnel mode.
    pub gateway: Option<IpAddr>,
    /// Whether the next hop is on the link whatever the addresses say.
    pub onlink: bool,
    /// Preferred source.
    pub source: Option<IpAddr>,
    /// Outer destination (with VNI [`crate::VNI`]).
    pub remote: Option<IpAddr>,
    /// Path MTU in bytes, where it is below the link's.
    pub mtu: Option<u32>,
}

/// A permanent neighbour on the tunnel device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The next hop: router address of the other node.
    pub ip: IpAddr,
    /// Hardware address of the other node's tunnel device.
    pub mac: Mac,
}
