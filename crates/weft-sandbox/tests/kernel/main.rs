//! The sandbox against the real kernel. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod confinement;
mod containers;
mod limits;
mod pods;
mod support;
