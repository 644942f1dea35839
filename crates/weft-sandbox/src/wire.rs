//! What caller and helper say to each other.

use serde::{Deserialize, Serialize};

/// What the helper was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Reading the request.
    Request,
    /// Joining cgroups.
    Cgroup,
    /// Joining or making namespaces.
    Namespace,
    /// Building the container's root.
    Root,
    /// Bind mounts of the specification.
    Mount,
    /// Entering the user namespace, dropping privileges.
    Confine,
    /// Standard streams and terminal.
    Stdio,
    /// Working directory.
    Cwd,
    /// Executing the program.
    Exec,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Stage::Request => "reading the request",
            Stage::Cgroup => "joining cgroups",
            Stage::Namespace => "joining namespaces",
            Stage::Root => "building the root",
            Stage::Mount => "mounting volumes",
            Stage::Confine => "dropping privileges",
            Stage::Stdio => "connecting standard streams",
            Stage::Cwd => "entering the working directory",
            Stage::Exec => "executing",
        })
    }
}
