//! Clients that nobody here wrote, against `weft apiserver` and labs: kubectl in every release
//! at hand, the Python client, client-go, kube-rs and Helm.
//!
//! Every test starts servers of its own on free ports and with directories of its own.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod command;
mod harness;
