//! The lab: an embedded Kubernetes API and any number of virtual nodes on one machine, with
//! the real agent and the real kernel data path.
//!
//! ```text
//! flags, lab.yaml ─► Config ─► Topology (pure) ─► underlay (netlink)
//!                                   │
//!            weft lab up ─► supervisor ─► API, controllers, per node: agent + kubelet
//! ```
//!
//! Invariants:
//! - Links are created inside lab namespaces only; the machine's own namespace sees nothing
//!   of a lab but the API's listener on loopback.
//! - Everything a lab owns is found again by its name (namespaces, cgroups, the state
//!   directory), so `down` needs no living supervisor and may be repeated.
//!
//! It knows nothing of how packets are forwarded: that is the agent's work.

pub mod apply;
pub mod cli;
pub mod config;
pub mod down;
pub mod error;
pub mod exec;
pub mod nodes;
pub mod paths;
pub mod probe;
pub mod proc;
pub mod state;
pub mod status;
pub mod supervisor;
pub mod topology;
pub mod underlay;
pub mod up;
pub mod verify;

pub use cli::{LabArgs, run};
