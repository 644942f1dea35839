//! Planner for Services: [`plan`] turns a [`weft_model::Snapshot`] into [`ServiceTables`],
//! what one node's load balancer must know: frontends (cluster address, port, protocol) and
//! behind each the backends that new connections may go to.
//!
//! Flow: Services of the snapshot → their ports × addresses → eligible endpoints of their
//! slices → tables, plus diagnostics for what cannot be served.
//!
//! Invariants:
//! - Deterministic: equal snapshots give equal tables, byte for byte.
//! - One broken Service never hides another: a bad object becomes a [`Diagnostic`].
//! - A frontend is either in `frontends` with at least one backend, or in
//!   `without_backends`; never in both.
//! - A frontend and its backends are of one IP family and one protocol.
//!
//! Which endpoints are eligible follows kube-proxy (`pkg/proxy/topology.go`); see
//! `eligible.rs`.
//!
//! This crate knows nothing of the kernel, of the mechanism that translates, of time or I/O.
#![forbid(unsafe_code)]

mod eligible;
mod plan;
mod tables;
#[cfg(test)]
mod tests;

pub use plan::{PlanInput, plan};
pub use tables::{Backend, Diagnostic, DiagnosticKind, Frontend, LoadBalancer, ServiceTables};
