//! What can go wrong, with the operation and the object it was about.

use crate::wire::Stage;
use std::io;
use std::path::PathBuf;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call about a file or directory failed.
    #[error("cannot {op} {path}: {source}")]
    Path {
        /// The operation, as a verb phrase.
        op: &'static str,
        /// The object.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A system call failed.
    #[error("cannot {op}: {source}")]
    Sys {
        /// The operation, as a verb phrase.
        op: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The helper could not set a container, or a command in it, up.
    #[error("{stage}: {detail}: {source}")]
    Setup {
        /// What it was doing.
        stage: Stage,
        /// The object it was doing it to.
        detail: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The program is not in the container, or cannot be executed there.
    #[error("cannot run {program:?}: {source}")]
    Program {
        /// The first word of the command line.
        program: String,
        /// The kernel's answer: ENOENT, EACCES, ENOEXEC, …
        #[source]
        source: io::Error,
    },
    /// The helper ended without a report.
    #[error("the sandbox helper ended while setting {what} up")]
    HelperGone {
        /// The object.
        what: String,
    },
    /// A file of the sandbox's own is not readable as what it should be.
    #[error("{path}: {source}")]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A name or path that cannot be used.
    #[error("{what} {value:?} is not usable: {why}")]
    Invalid {
        /// What it names.
        what: &'static str,
        /// The name.
        value: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// A container of that name is running.
    #[error("container {0:?} is running")]
    Running(String),
    /// The container is not running (any more).
    #[error("container {0:?} is not running")]
    NotRunning(String),
    /// This machine has no cgroup2 mount.
    #[error("no cgroup2 file system is mounted on this machine")]
    NoCgroup2,
    /// Tearing a pod down met several errors; it went on after each.
    #[error("tearing the pod down: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Teardown(Vec<Error>),
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn path(
        op: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Error::Path { op, path, source }
    }

    pub(crate) fn sys(op: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Error::Sys { op, source }
    }
}
