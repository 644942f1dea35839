//! Watches, indexes, and lowering of Kubernetes objects to the model.
//!
//! Flow: the client ([`access`]) → one watch per kind ([`SnapshotSource`]) → lowering of each object ([`lower`]) → one
//! index with a single writer ([`index`]) → an immutable [`weft_model::Snapshot`] on a
//! `watch` channel, where the latest value wins.
//!
//! Invariants:
//! - Nothing is published before every kind finished its first list, so that an absent object
//!   is known to be absent.
//! - A relist replaces the objects of its kind at once, when it is complete: what vanished
//!   meanwhile is dropped, and no half-listed state is ever published.
//! - What is published depends on the objects alone, not on the order or number of the
//!   events that brought them (`incremental(history) == full(final)`).
//! - An equal result wakes nobody; a burst of events becomes one snapshot.
//! - A bad object is data, not an error: it is left out, and a [`Diagnostic`] names object
//!   and field. It never holds up another object.
//! - Whatever the API answers, the number of requests in a time is bounded ([`pace`]).
//!
//! This crate knows no planner, no kernel and no node: every agent of a cluster publishes the
//! same snapshots. It watches Namespaces, Nodes, Services, EndpointSlices, Pods, NetworkPolicies,
//! ClusterNetworkPolicies (where the cluster has the kind) and ServiceCIDRs only, and keeps nothing
//! of them but what the model has room for.
#![forbid(unsafe_code)]

pub mod access;
pub mod cluster_policy;
mod diagnostic;
pub mod events;
pub mod index;
pub mod lower;
mod optional;
pub mod pace;
pub mod ranges;
pub mod slim;
mod source;
mod tally;
mod watch;

pub use access::{AccessError, Endpoints, Place};
pub use diagnostic::{Diagnostic, Kind};
pub use ranges::{Ranges, ServiceRanges};
pub use source::{KindStatus, Options, SnapshotSource, SourceError, Status};
pub use tally::{Applied, Seen, TRIGGER_ANNOTATION, Tally};
