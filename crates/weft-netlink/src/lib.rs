//! Links, addresses, routes, neighbours, network namespaces, the `weft` netfilter table, and
//! sockets to be closed, over raw netlink.
//!
//! Everything here is **blocking**: a [`Netlink`] is a socket that belongs to the namespace
//! in which it was opened (a socket keeps its namespace, whatever its thread does later), so
//! it can be used from any thread. Async callers put it on a thread of their own.
//!
//! Flow: callers say what shall exist ([`VethSpec`], [`Route`], …) → one netlink request
//! each → the kernel's answer, with its extended error text. Dumps ([`Netlink::links`], …)
//! give back the same types, so that desired and observed state can be compared.
//!
//! Invariants:
//! - Adding what is there (and equal) succeeds; deleting what is absent succeeds.
//! - No link is ever created in a namespace other than the one the handle was opened in
//!   or the peer namespace named in the spec.
//! - Nothing changes the namespace of the calling thread: whatever must be inside another
//!   namespace happens on a thread that ends ([`netns::run_in`]).
//! - Parsers of kernel messages never panic and tolerate unknown attributes.
//!
//! This crate does not know Kubernetes, pods, nodes or labs, and decides nothing.
#![allow(unsafe_code)]

mod address;
mod error;
mod link;
mod neighbour;
pub mod netfilter;
pub mod netns;
mod route;
pub mod sock_diag;
mod socket;
pub mod sysctl;
mod tc;
mod wire;

pub use address::Address;
pub use error::{Error, Result};
pub use link::{Link, LinkChange, Mac, VethSpec, VxlanInfo, VxlanSpec};
pub use neighbour::{FdbEntry, Neighbour};
pub use route::{Encap, Route, RouteKind};
pub use socket::Netlink;
pub use tc::TcHook;

/// Protocol number of every route and address that Weft owns (`ip route show proto 77`).
pub const PROTOCOL: u8 = 77;
