//! Errors.

use std::{io, path::PathBuf};

/// Result of this crate.
pub type Result<T, E = BpfError> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// A file operation failed.
    #[error("{operation} {}", path.display())]
    File {
        /// What was tried, e.g. `create`.
        operation: &'static str,
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}
