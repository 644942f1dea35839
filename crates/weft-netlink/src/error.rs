//! The error of this crate.

use std::io;

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What failed, on which object, and why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a netlink request.
    #[error("{operation} {object}: {source}{}", if detail.is_empty() { String::new() } else { format!(" ({detail})") })]
    Kernel {
        /// The verb, e.g. `create link`.
        operation: &'static str,
        /// What it was done to.
        object: String,
        /// The kernel's extended error text; may be empty.
        detail: String,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// A system call failed.
    #[error("{operation} {object}: {source}")]
    Io {
        /// The verb, e.g. `open namespace`.
        operation: &'static str,
        /// What it was done to.
        object: String,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// The kernel's answer could not be understood.
    #[error("{operation}: malformed answer from the kernel: {what}")]
    Malformed {
        /// The verb.
        operation: &'static str,
        /// What was wrong.
        what: &'static str,
    },
    /// Something of that name exists and is not what was asked for.
    #[error("{object} exists but {what}")]
    Mismatch {
        /// The object.
        object: String,
        /// How it differs.
        what: String,
    },
    /// A name that the kernel or this crate does not take.
    #[error("invalid name '{name}': {rule}")]
    Name {
        /// The refused name.
        name: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
}

impl Error {
    /// The errno behind the error, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { source, .. } | Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    pub(crate) fn io(operation: &'static str, object: impl ToString, source: io::Error) -> Self {
        Self::Io { operation, object: object.to_string(), source }
    }

    pub(crate) fn nix(
        operation: &'static str,
        object: impl ToString,
        source: nix::errno::Errno,
    ) -> Self {
        Self::io(operation, object, source.into())
    }
}

/// `Ok(())` where the error is one of `errnos`: makes a request idempotent.
pub(crate) fn tolerate(result: Result<()>, errnos: &[i32]) -> Result<()> {
    match result {
        Err(e) if e.errno().is_some_and(|n| errnos.contains(&n)) => Ok(()),
        other => other,
    }
}
