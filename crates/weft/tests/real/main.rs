//! Weft on a node of a real cluster: containerd and runc from the system's packages drive the
//! plugin, `weft agent` runs as an ordinary process with hardly a flag, and the API is reached
//! as on such a node. Nothing of the lab takes part.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod containerd;
mod machine;

/// Waiting on conditions, and what is looked for afterwards.
#[path = "../lab/harness.rs"]
#[allow(dead_code)] // it serves the tests of labs first
mod lab;
