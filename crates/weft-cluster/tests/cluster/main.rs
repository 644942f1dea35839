//! The controllers against the embedded API, with nodes whose kubelet is a loop of this test.

mod garbage;
mod harness;
mod lifecycle;
mod network;
mod workloads;
