//! DNS answers of the cluster zone from a Snapshot; wire codec and query evaluation.
#![forbid(unsafe_code)]
mod zone;
pub use zone::{Zone, ZoneError};
