//! Namespaces, cgroups, mounts and confinement of the lab's pods.
//!
//! ```text
//! kubelet ── Pod::create ──> directory, cgroups, namespaces (bind mounts keep them)
//!    │
//!    └── Pod::start ──> helper (this binary again, `sandbox-init`, one thread)
//!                         = shim: stays outside, copies output to the log, writes <name>.exit
//!                            └─ container: cgroup → namespaces → root → user namespace → exec
//! ```
//!
//! A container's program is process 1 of its PID namespace, as under any Kubernetes runtime (so
//! the kernel ignores SIGTERM for programs that do not handle it). The shim is a process of its
//! own so that containers, logs and exit codes outlive the kubelet.
//!
//! Invariants:
//! - whatever a pod owns is under its directory, its cgroup and nothing else: [`Pod::destroy`]
//!   needs only those two and succeeds on what is half made or already gone;
//! - the user namespace is entered last, after everything that needs the machine's root: the
//!   container owns none of the namespaces it lives in;
//! - no namespace is ever joined on a thread that goes on living in the caller's process.
//!
//! This crate knows nothing about Kubernetes, links, addresses or images. Its calls block for
//! milliseconds: async callers use a blocking thread.
#![allow(unsafe_code)]

mod cgroup;
mod container;
mod error;
mod exec;
mod init;
mod pod;
mod runtime;
mod spec;
mod sys;
mod wire;

pub use container::Container;
pub use error::{Error, Result};
pub use exec::Exec;
pub use init::init_main;
pub use pod::{Pod, host_id};
pub use runtime::Runtime;
pub use spec::{ContainerSpec, ExecSpec, Exit, Limits, Mount, PodSpec, Program};
pub use wire::Stage;
