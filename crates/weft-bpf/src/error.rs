//! Errors.

use std::{fmt, io, net::SocketAddr, path::PathBuf};

/// Result of this crate.
pub type Result<T, E = BpfError> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// A file operation failed.
    #[error("cannot {operation} {}", path.display())]
    File {
        /// What was tried, e.g. `create`.
        operation: &'static str,
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A `bpf(2)` call failed.
    #[error("bpf {operation} of {object} failed")]
    Call {
        /// Command of `bpf(2)`, e.g. `LINK_CREATE`.
        operation: &'static str,
        /// Map, hook or path.
        object: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a program.
    #[error("the kernel refused the eBPF program {program}{}{log}", if log.is_empty() { "" } else { ": " })]
    Program {
        /// Name in the object.
        program: &'static str,
        /// What the verifier said last.
        log: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The committed object and the loader disagree; cannot happen in a release.
    #[error("the eBPF object is broken: {0}")]
    Object(String),
    /// A pinned map is not what this layout version says.
    #[error("pinned map {} has {found}, expected {expected}: remove the pin to start anew", path.display())]
    Layout {
        /// The pin.
        path: PathBuf,
        /// What the kernel reports.
        found: String,
        /// What the layout says.
        expected: String,
    },
    /// No room for another entry.
    #[error("map {map} is full: {max_entries} entries; without their new backends: {left_out}")]
    MapFull {
        /// The map.
        map: &'static str,
        /// Its size.
        max_entries: u32,
        /// The frontends that did not fit. All others are as they shall be.
        left_out: LeftOut,
    },
    /// Another process has the load balancer open.
    #[error("{} is in use by another agent", path.display())]
    Busy {
        /// The directory of pins.
        path: PathBuf,
    },
    /// A program could not be attached to a link by netlink.
    #[error("cannot attach to the link {link}")]
    Link {
        /// Its name.
        link: String,
        /// Why.
        #[source]
        source: weft_netlink::Error,
    },
    /// Clean-up went on to its end, but some of it failed.
    #[error("clean-up left something behind: {0}")]
    Teardown(Failures),
}

/// Frontends that did not fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut(pub Vec<SocketAddr>);

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMED: usize = 8;
        for (i, frontend) in self.0.iter().take(NAMED).enumerate() {
            write!(f, "{}{frontend}", if i == 0 { "" } else { ", " })?;
        }
        match self.0.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// The failures of a clean-up that went on.
#[derive(Debug)]
pub struct Failures(pub Vec<BpfError>);

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, e) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(f, "{separator}{e}")?;
            if let Some(cause) = std::error::Error::source(e) {
                write!(f, ": {cause}")?;
            }
        }
        Ok(())
    }
}

impl BpfError {
    pub(crate) fn file(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { operation, path, source }
    }

    pub(crate) fn call(
        operation: &'static str,
        object: impl Into<String>,
    ) -> impl FnOnce(io::Error) -> Self {
        let object = object.into();
        move |source| Self::Call { operation, object, source }
    }
}
