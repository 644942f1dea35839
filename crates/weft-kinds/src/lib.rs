//! The kinds of the embedded API: what the server knows about each resource, as data.
//!
//! A request flows through this crate in the order of its modules: [`decode`] (JSON, YAML or
//! protobuf bytes to a value, with the unknown and duplicate fields that strict validation
//! reports) → [`patch`] (for PATCH) → [`default`] → [`strategy`] (what a create or an update
//! may touch) → [`validate`] → the server's storage → [`table`] (what `kubectl get` prints).
//! [`openapi`] describes the same kinds to clients, [`status`] words the refusals.
//!
//! Invariants:
//! - A kind is a row of [`kinds`], or comes from a definition ([`custom_kinds`]); nothing outside the tables of this crate switches on a
//!   kind's name except its own defaulter, validator and columns.
//! - Every function is pure: no I/O, no clock (times are arguments), no state besides
//!   documents computed once on first use.
//! - Bytes from outside never panic; depth and size are limited.
//!
//! This crate knows nothing about storage, resource versions, allocation of addresses, HTTP
//! or watches.
#![forbid(unsafe_code)]

pub mod address;
pub mod autoscaler;
mod custom;
pub mod decode;
mod defaults;
mod depth;
mod kind;
pub mod openapi;
pub mod patch;
pub mod protobuf;
mod quantity;
mod rows;
pub mod schema;
pub mod status;
pub mod strategy;
pub mod table;
pub mod validate;
mod warnings;

pub use custom::{Custom, custom_kinds};
pub use defaults::default;
pub use depth::{DEPTH_MAX, deeper_than};
pub use kind::{
    Generation, Kind, NameRule, Scale, Schema, Subresource, SubresourceOf, VERBS_ALL, VERBS_CREATE,
    VERBS_GET_UPDATE,
};
pub use rows::{kinds, lookup, lookup_kind, lookup_version};
pub use validate::{FieldError, FieldErrorKind, validate};
pub use warnings::warnings;
