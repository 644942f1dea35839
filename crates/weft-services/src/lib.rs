//! Planner for Services: [`plan`] turns a [`weft_model::Snapshot`] into [`ServiceTables`],
//! what one node's load balancer must know: frontends (address, port, protocol) and behind
//! each the backends that new connections may go to; once for clients on this node, which are
//! translated at the socket, and once for what reaches the node's stack from outside.
//!
//! Flow: each Service of the snapshot → its ports × addresses (claims), the eligible endpoints
//! of its slices → who gets what more than one claims → tables, plus diagnostics for what cannot
//! be served.
//!
//! Invariants:
//! - Deterministic: equal snapshots give equal tables, byte for byte.
//! - One broken Service never hides another: a bad object becomes a [`Diagnostic`].
//! - A frontend for clients on this node is either in `frontends` with at least one backend,
//!   or in `without_backends`; never in both. (One that not all of them may use is in neither:
//!   it is left to the stack, and is in `outside` alone.)
//! - Every group that `outside` names is in `groups`, and has a backend.
//! - A frontend and its backends are of one IP family and one protocol.
//!
//! - [`plan`] is the definition; [`Planner`] goes from one snapshot to the next in time that
//!   depends on what changed, and its tables are the same.
//!
//! Which endpoints are eligible follows kube-proxy (`pkg/proxy/topology.go`); see
//! `eligible.rs`. [`explain`] gives the reasons, by the same rules.
//!
//! [`maglev`] lays out the backends of Services that want the same one for the same client.
//!
//! This crate knows nothing of the kernel, of the mechanism that translates, of time or I/O.
#![forbid(unsafe_code)]

mod blame;
mod census;
mod eligible;
mod explain;
pub mod maglev;
mod plan;
mod planner;
mod service;
mod shadow;
mod stale;
mod tables;
#[cfg(test)]
mod tests;

pub use blame::{Blamed, Object};
pub use census::without_local;
pub use eligible::Verdict;
pub use explain::{Client, Explanation, Judged, Outcome, Place, Reason, Why, explain, judge_all};
pub use plan::{PlanInput, plan};
pub use planner::Planner;
pub use stale::{Used, stale};
pub use tables::{
    Answer, Backend, Diagnostic, DiagnosticKind, Frontend, FrontendKind, Group, Health,
    LoadBalancer, Outside, ServiceTables,
};
