//! What can go wrong on the way from a pod to its processes.

use std::path::PathBuf;

/// Errors of the kubelet.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{op} {path}: {source}")]
    File {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The CNI configuration or the plugin's answer is unusable, or the plugin refused.
    #[error("network plugin: {0}")]
    Cni(String),
    /// The sandbox refused.
    #[error("{op}: {source}")]
    Sandbox {
        /// What was tried.
        op: &'static str,
        /// Why not.
        #[source]
        source: weft_sandbox::Error,
    },
    /// The pod names something that is not there or is not valid; shown to the user as it is.
    #[error("{0}")]
    Config(String),
    /// The container's program is not on this machine.
    #[error("exec: \"{0}\": executable file not found in $PATH")]
    NoProgram(String),
    /// The API refused.
    #[error("{op}: {source}")]
    Api {
        /// What was asked.
        op: String,
        /// The answer.
        #[source]
        source: Box<kube::Error>,
    },
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Names the file in an I/O error.
pub fn file(op: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.into();
    move |source| Error::File { op, path, source }
}
