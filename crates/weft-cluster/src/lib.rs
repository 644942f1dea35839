//! What a real cluster brings itself: scheduler, workloads, EndpointSlices, pod CIDRs, node
//! life cycle, volumes for claims, namespaces and garbage. It runs only beside the embedded API; where a real
//! control plane is, nothing of this is needed.
//!
//! Flow: one watch per kind (of its metadata, where no planner knows it) → [`core`](crate::core) (one thread, one consistent world) →
//! planner per key → writes, in parallel → their answers flow back like changes.
//!
//! Invariants:
//! - Nothing is planned before every first list is complete.
//! - Planners are pure: the world and the time in, writes out. They read no clock and send
//!   nothing.
//! - A key has one round of writes under way, and the next one is planned on a world that holds
//!   the answers. So nothing is created twice, without counting expectations.
//! - Deletions name the uid they mean; changes of lists name the version they saw.
//!
//! It deliberately does not know where the API runs, how nodes carry packets, or what a
//! container is.
#![forbid(unsafe_code)]

mod action;
mod budget;
mod cidr;
mod claim;
mod config;
mod core;
mod cronjob;
mod daemonset;
mod deployment;
mod endpoints;
mod endpointslice;
mod error;
mod gc;
mod hash;
mod job;
mod key;
mod kinds;
mod labels;
mod mirror;
mod namespace;
mod nodelife;
mod podgc;
mod pods;
mod quantity;
mod replicaset;
mod revision;
mod run;
mod scheduler;
#[cfg(test)]
mod simulation;
mod statefulset;
mod storage;
mod store;
mod subsets;
mod targets;
#[cfg(test)]
mod tests;
mod watch;

pub use config::Config;
pub use error::Error;
pub use run::run;
