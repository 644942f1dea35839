//! The node agent: reconciler, CNI service and DNS server.
//!
//! Flow: `weft-kube` publishes Snapshots → the planners (`weft-fabric`, `weft-services`) make
//! tables → the tables are compared with what the kernel has and the difference is applied
//! (`weft-netlink`, `weft-bpf`). Beside it the CNI service on `agent.sock` gives pods their
//! links and addresses.
//!
//! Invariants:
//! - The agent runs inside its node's network namespace and never changes it.
//! - Ending the agent leaves the data plane in place; a restarted one adopts it.
//!
//! It does not know whether the node is a real one or one of the lab's.
#![forbid(unsafe_code)]

mod api;
mod args;
mod cleanup;
mod closing;
pub mod cni;
mod complaints;
pub mod dns;
mod entrance;
pub mod fabric;
pub mod flows;
mod health;
mod host;
pub mod host_port;
mod http;
mod links;
mod metrics;
mod namespaces;
pub mod pod;
pub mod policy;
pub mod policy_report;
mod reconcile;
mod run;
mod socket;
pub mod state;

pub use args::{Args, ClusterDns, Network};
pub use cleanup::{CleanupArgs, cleanup, run as run_cleanup};
pub use reconcile::{FabricStage, Outcome};
pub use run::run;
