//! Policy as code: what `weft policy test`, `diff`, `matrix` and `lint` do, on texts.
//!
//! Flow: manifests ([`Source`]s) → [`Documents`] → [`Cluster`], which holds the pods that the
//! manifests make, with addresses of its own invention → `weft-policy` answers → reports as text,
//! JSON or JUnit. A verdict leads back to the line of the rule ([`line_of`]).
//!
//! Invariants:
//! - No cluster, no network, no files: the caller reads and prints.
//! - What is judged went through the same lowering as a live cluster's objects.
//! - Sizes are bounded (see `limits`): texts come from outside.
//!
//! This crate knows nothing of the kernel, of nodes' tables or of a running API.
#![forbid(unsafe_code)]

mod addresses;
mod cluster;
mod compare;
mod ends;
mod expect;
mod fields;
mod line;
mod lints;
mod live;
mod manifest;
mod matrix;
pub mod observed;
mod origin;
mod report;
mod run;

pub use cluster::{Cluster, Group};
pub use compare::{Comparison, compare};
pub use ends::Party;
pub use expect::{Expectation, Suite, parse_suite};
pub use line::{Step, line_of};
pub use lints::{Note, lint};
pub use manifest::{Documents, Object, Problem, Source};
pub use matrix::{Matrix, matrix};
pub use origin::Origin;
pub use report::{Decider, Outcome, Report};
pub use run::run;

/// Bounds on what comes from outside.
pub mod limits {
    /// Bytes of one file.
    pub const FILE_BYTES_MAX: usize = 16 << 20;
    /// Files of one command.
    pub const FILES_MAX: usize = 10_000;
    /// Pods that manifests make.
    pub const PODS_MAX: usize = 20_000;
    /// Expectations of one command.
    pub const EXPECTATIONS_MAX: usize = 10_000;
    /// Items of `from` or `to` in one expectation.
    pub const ENDS_MAX: usize = 1_000;
    /// Flows that one expectation may stand for.
    pub const FLOWS_MAX: usize = 1_000_000;
    /// Groups of pods in a matrix or comparison.
    pub const GROUPS_MAX: usize = 2_000;
}
