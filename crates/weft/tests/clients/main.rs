//! Clients that nobody here wrote, against `weft apiserver` and labs: kubectl in every release
//! at hand, the Python client, client-go, kube-rs and Helm.
//!
//! Every test starts servers of its own on free ports and with directories of its own.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod command;
mod foreign;
mod harness;
mod helm;
mod kubectl;
mod kubers;
mod table;
mod why;

/// Labs, for what needs pods that run.
#[path = "../lab/harness.rs"]
#[allow(dead_code)] // it serves the tests of labs first
mod lab;
