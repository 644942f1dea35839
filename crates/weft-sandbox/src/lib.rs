//! Namespaces, cgroups, mounts and confinement of the lab's pods.

mod spec;

pub use spec::{ContainerSpec, ExecSpec, Exit, Limits, Mount, PodSpec, Program};
