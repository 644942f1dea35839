//! The CNI plugin, and the CNI types.
//!
//! Flow of the plugin ([`main`]): CNI_* environment and configuration on stdin → checked
//! call → one line of JSON to the agent's socket (configuration key
//! `agentSocket`) → its answer, in the result format of the configuration's `cniVersion`,
//! on stdout.
//!
//! [`install`] puts the plugin and its configuration where a node's runtime looks.
//!
//! Invariants:
//! - The plugin keeps no state and touches no network: the agent does.
//! - A DEL whose agent is away fails with code 11 (try again later), so that the runtime
//!   repeats it and no address is lost; a DEL of what is gone succeeds.
//! - Everything read from outside has a limit ([`INPUT_LEN_MAX`]).
//!
//! This crate does not know Kubernetes (beyond passing `CNI_ARGS` through), nor netlink.
#![forbid(unsafe_code)]

mod client;
mod error;
pub mod flow;
pub mod install;
pub mod loopback;
mod plugin;
mod types;
mod version;

pub use client::{Answer, Request, call};
pub use error::{CniError, code};
pub use plugin::{check_container_id, check_ifname, main};
pub use types::{
    AddResult, Attachment, Conflist, ConflistError, Dns, Interface, IpConfig, PluginConfig, Route,
};
pub use version::{CURRENT, SUPPORTED, Version};

/// Longest configuration, result or answer that is read, in bytes.
pub const INPUT_LEN_MAX: usize = 1 << 20;
