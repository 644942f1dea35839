//! Policy: who may talk to whom, and which rule says so.
//!
//! One reading of NetworkPolicy (networking.k8s.io/v1) and ClusterNetworkPolicy
//! (policy.networking.k8s.io/v1alpha2), used twice: [`Evaluator`] answers for one flow and names
//! the rule; [`compile`] makes the tables by which a node's data path gives the same answers, and
//! [`PolicyTables::interpret`] looks them up as the kernel does.
//!
//! Flow: [`PolicyInput`] → [`World`] (who owns an address) → [`Program`] (the rules for one pod and
//! direction, in the order in which they are asked) → a [`Decision`], or [`PolicyTables`].
//!
//! Invariants:
//! - `interpret(compile(input)) == evaluate(input)`: verdict, rule and passed rules, for every flow.
//! - Deterministic: equal inputs give equal tables.
//! - A rule that cannot be expressed never opens anything: it is left out where it accepts,
//!   closes where it denies, and is a [`Diagnostic`] either way.
//! - Tables are bounded; what exceeds a bound is closed and reported, others are unharmed.
//!
//! What the specifications leave open is decided in `program.rs` and `docs/adr/0021-policy.md`.
//!
//! This crate knows nothing of Kubernetes objects, the kernel, Services, time or I/O. What it
//! judges was translated before: addresses are those of backends.
#![forbid(unsafe_code)]

mod compile;
mod evaluate;
mod input;
mod lint;
mod numbers;
mod planner;
mod ports;
mod program;
mod reach;
mod reasons;
mod rule;
mod tables;
mod world;

pub use compile::{compile, compile_within};
pub use evaluate::{Evaluator, Flow, Matched, Transport, Verdict};
pub use input::PolicyInput;
pub use lint::{Finding, Problem, Severity, lint};
pub use planner::{
    Census, Limits, Move, Planner, Retire, Start, Step as TableStep, Transition, Whole,
};
pub use ports::{PortPrefix, prefixes};
pub use program::{Program, Step};
pub use reach::{PROTOCOLS, Reach, Stretches};
pub use reasons::Reasons;
pub use rule::{Decision, Diagnostic, PolicyId, Reason, RuleId};
pub use tables::{
    Entry, Hooks, Identity, Key, Lookup, Packet, PolicyTables, RuleSet, SetId, SetKind, interpret,
};
pub use world::{Owner, World};
