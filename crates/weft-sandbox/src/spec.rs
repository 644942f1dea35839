//! What the kubelet asks of the sandbox: plain data, serialisable, because the re-executed
//! single-threaded helper gets it over a pipe.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A pod's sandbox: the namespaces that its containers share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSpec {
    /// Pod UID; names the sandbox's directory and cgroup.
    pub uid: String,
    /// UTS host name (`spec.hostname`, else the pod's name; the node's for hostNetwork).
    pub hostname: String,
    /// Directory that belongs to this pod alone; `create` makes it, `destroy` removes it.
    pub dir: PathBuf,
    /// cgroup2 path of the pod relative to the cgroup2 mount, e.g. `weft.lab/node1/pods/<uid>`.
    /// No process is put into it directly: each container has a group below it.
    /// Where the memory and pids controllers are v1, the same relative path is used there.
    pub cgroup: PathBuf,
    /// `hostNetwork`: the network namespace of the caller (the node) instead of an own one.
    pub host_network: bool,
    /// `shareProcessNamespace`.
    pub share_pid: bool,
}

/// A directory or file bound into a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What to bind, in the host's view: inside the node's private directory.
    pub source: PathBuf,
    /// Where containers can write on the way to `source`: the directory above it that they
    /// cannot replace. From there on a symbolic link is an error, never followed, since it is the
    /// machine's root that looks at it.
    #[serde(default)]
    pub beneath: Option<PathBuf>,
    /// First id on the machine of the range of 65,536 that the files there belong to, where it is
    /// not the pod's own: data that outlives a pod. The container sees them as its own range's
    /// (id N of one is id N of the other), and what it makes there gets an owner of this
    /// range. Where the file system cannot be mounted so (tmpfs before Linux 6.3), files appear
    /// as nobody's.
    #[serde(default)]
    pub ids: Option<u32>,
    /// Absolute path in the container.
    pub target: PathBuf,
    /// Recursively read-only.
    pub read_only: bool,
}

/// Limits of one container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Number of processes and threads.
    pub pids: Option<u64>,
}

/// What runs in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    /// A command line; the first word is looked up in the container's `PATH`.
    Command(Vec<String>),
    /// The stand-in: this very binary, started from an open file descriptor as
    /// `weft stand-in`, with this JSON configuration in the environment variable
    /// `WEFT_STANDIN` (see `weft_standin::Config`).
    StandIn(String),
}

/// One container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Container name; unique in its pod (init containers included).
    pub name: String,
    /// What to run.
    pub program: Program,
    /// The whole environment, in order; `PATH` and `HOME` are added where absent.
    pub env: Vec<(String, String)>,
    /// `workingDir`; `/` where absent.
    pub cwd: Option<PathBuf>,
    /// Bind mounts, in order; a target that does not exist is made in the private root view.
    pub mounts: Vec<Mount>,
    /// Limits.
    pub limits: Limits,
    /// `readOnlyRootFilesystem`: otherwise `/` is a private writable layer where possible.
    pub read_only_root: bool,
    /// `runAsUser` inside the container.
    pub uid: Option<u32>,
    /// `runAsGroup` inside the container.
    pub gid: Option<u32>,
    /// Supplementary groups inside the container (`supplementalGroups` and `fsGroup`).
    pub groups: Vec<u32>,
    /// `stdin: true`: keep a pipe for attach; otherwise /dev/null.
    pub stdin: bool,
    /// `stdinOnce: true`: the pipe ends with the first one who wrote into it.
    pub stdin_once: bool,
    /// `tty: true`.
    pub tty: bool,
    /// `privileged`, allowed by `--allow-privileged` only.
    pub privileged: bool,
    /// File for stdout and stderr, in CRI log format
    /// (`<RFC 3339 nano time> stdout|stderr F|P <text>`); appended to.
    pub log: PathBuf,
}

/// A command to run in a running container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// The command line.
    pub argv: Vec<String>,
    /// Environment of the container, as it was started with.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: Option<PathBuf>,
    /// Give the command a pseudo-terminal.
    pub tty: bool,
    /// Whether standard input is connected; otherwise /dev/null.
    pub stdin: bool,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal where a signal ended it.
    pub code: i32,
    /// The signal.
    pub signal: Option<i32>,
    /// Whether the memory limit ended it.
    pub oom_killed: bool,
}
