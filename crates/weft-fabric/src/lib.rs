//! The pod network of one node, as a plan; and the node's address management.
//!
//! Flow: [`plan`] (Snapshot, node name, [`FabricConfig`]) → [`FabricTables`] → [`diff`]
//! against what the kernel has ([`Observed`]) → [`Op`]s, which the agent applies.
//! [`ipam`] gives out the addresses of the node's pod CIDRs and keeps a journal.
//!
//! Invariants:
//! - Planner and diff are pure and total: bad input becomes a [`Diagnostic`], one broken
//!   node never blocks the others, and nothing panics.
//! - `diff` touches only what Weft owns (routes of protocol 77 that do not lead to pod
//!   links, the link `weft0` and its neighbours, marked addresses on `lo`) and removes
//!   orphans among them.
//! - An address is never given to two containers, whatever byte a crash cuts the journal at.
//!
//! This crate does not know netlink, link indexes, the Kubernetes API or the clock.
#![forbid(unsafe_code)]

mod diagnostic;
mod diff;
pub mod ipam;
mod plan;
mod prefix;
mod tables;

pub use diagnostic::{Diagnostic, DiagnosticKind};
pub use diff::{Observed, Op, diff};
pub use plan::{FabricConfig, Mode, Underlay, plan, router_address, tunnel_mac};
pub use tables::{FabricPlan, FabricTables, Mac, Neighbour, Route, RouteKind, Tunnel};

/// Name of the tunnel device.
pub const TUNNEL_LINK: &str = "weft0";
/// Prefix of the names of pod links on the node's side.
pub const POD_LINK_PREFIX: &str = "wv";
/// UDP port of VXLAN (IANA).
pub const VXLAN_PORT: u16 = 4789;
/// VNI of the tunnel.
pub const VNI: u32 = 1;
/// Metric of the fabric's routes.
pub const METRIC: u32 = 77;
/// Metric of the route that refuses addresses of the node's own pod CIDR that no pod has.
pub const METRIC_UNREACHABLE: u32 = 4077;
