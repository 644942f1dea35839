//! Errors: of the server itself, and of a request.

use crate::store::Expired;
use serde_json::Value;
use std::path::{Path, PathBuf};
use weft_kinds::status;

/// Why the server could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A listening socket.
    #[error("cannot listen: {0}")]
    Listen(#[source] std::io::Error),
    /// A certificate or key cannot be made or read.
    #[error("certificate: {0}")]
    Certificate(String),
    /// TLS refuses the settings.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The settings contradict each other.
    #[error("invalid configuration: {0}")]
    Config(String),
}

impl Error {
    pub(crate) fn io(operation: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { operation, path: path.to_owned(), source }
    }
}

impl From<rcgen::Error> for Error {
    fn from(e: rcgen::Error) -> Self {
        Self::Certificate(e.to_string())
    }
}

/// A refused request: the `metav1.Status` that says why. Its message never holds a secret.
#[derive(Debug, Clone)]
pub(crate) struct ApiError(pub(crate) Box<Value>);

impl From<Value> for ApiError {
    fn from(status: Value) -> Self {
        Self(Box::new(status))
    }
}

impl From<Expired> for ApiError {
    fn from(e: Expired) -> Self {
        status::too_old(e.requested, e.oldest).into()
    }
}

/// Reason of a write that is tried again with its kind as it is now; no client sees it.
const STALE_KIND: &str = "StaleKind";

impl ApiError {
    /// The definition of the kind changed while the request was on its way.
    pub(crate) fn stale_kind() -> Self {
        let why = "the definition of this resource changed meanwhile";
        status::failure(409, STALE_KIND, why).into()
    }

    pub(crate) fn is_stale_kind(&self) -> bool {
        self.reason() == STALE_KIND
    }

    pub(crate) fn code(&self) -> u16 {
        status::code(&self.0)
    }

    pub(crate) fn reason(&self) -> &str {
        self.0["reason"].as_str().unwrap_or_default()
    }

    pub(crate) fn message(&self) -> &str {
        self.0["message"].as_str().unwrap_or_default()
    }
}
