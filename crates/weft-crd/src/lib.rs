//! CustomResourceDefinitions: what makes one valid, and what its schemas do with objects.
//!
//! A definition is [checked](definition::validate) once, when it is written. Each of its versions
//! then has a [`Schema`]: a structural schema in a form that is quick to walk. An object goes
//! through it in this order: [`Schema::prune`] (unknown fields go, and are named for strict
//! clients) → [`Schema::default`] → [`Schema::validate`] (types and limits, with the texts of the
//! real API), and [`columns`] prints it.
//!
//! Invariants:
//! - Pruning and defaulting are idempotent; an unchanged object is never refused on update.
//! - Everything is pure and bounded: patterns are matched in linear time, rules have a budget,
//!   and values as well as schemas are only as deep as their parser allows.
//! - Any JSON may come in; nothing panics.
//!
//! This crate knows JSON Schema and Kubernetes' extensions of it. It knows nothing about storage,
//! HTTP or the built-in kinds.
#![forbid(unsafe_code)]

pub mod columns;
pub mod definition;
mod error;
mod format;
mod path;
mod pattern;
mod rules;
pub mod schema;

pub use error::{Violation, ViolationKind};
pub use schema::{Additional, ListType, Schema};
