//! A pod's sandbox: made, found again, destroyed.

use crate::cgroup::{self, Hierarchies, SHIM};
use crate::wire::{Identity, Pause, Report, Request, Start};
use crate::{Container, ContainerSpec, Error, PodSpec, Result, Runtime, container, sys, wire};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::CloneFlags;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// First of the ids on the machine that containers are mapped to; above what distributions hand
/// out to users and to other container runtimes.
const ID_BASE: u32 = 1 << 30;
/// Ids of one pod.
pub(crate) const IDS: u32 = 1 << 16;
/// Number of ranges; pods whose uids collide share one, which only weakens a second line.
const ID_RANGES: u32 = 1 << 13;
/// Longest host name that the kernel takes.
const HOSTNAME_LEN_MAX: usize = 63;

/// The sandbox of one pod. Cheap to clone; dropping it changes nothing.
#[derive(Clone, Debug)]
pub struct Pod {
    runtime: Runtime,
    spec: PodSpec,
}

impl Pod {
    /// Makes directory, cgroups and namespaces, with `lo` up. Undoes everything on an error.
    /// With `host_network` the network namespace is the caller's.
    pub fn create(runtime: &Runtime, spec: &PodSpec) -> Result<Pod> {
        check_path("the pod's directory", &spec.dir, true)?;
        check_path("the pod's cgroup", &spec.cgroup, false)?;
        let pod = Pod { runtime: runtime.clone(), spec: spec.clone() };
        pod.make().inspect_err(|_| {
            let _ = pod.destroy();
        })?;
        Ok(pod)
    }

    fn make(&self) -> Result<()> {
        let PodSpec { dir, .. } = &self.spec;
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o755);
        if let Some(parent) = dir.parent() {
            builder.create(parent).map_err(Error::path("make", parent))?;
        }
        // Root's alone: what containers see of it is bound into them.
        builder.recursive(false).mode(0o700).create(dir).map_err(Error::path("make", dir))?;
        // A mount of its own: what is mounted below neither reaches other mount namespaces of the
        // machine, which would keep it, nor takes more than one unmount to go.
        mount(Some(dir), dir, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .and_then(|()| {
                mount(None::<&str>, dir, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)
            })
            .map_err(|errno| Error::path("mount", dir)(errno.into()))?;
        for part in ["root", "shm"] {
            let path = dir.join(part);
            fs::create_dir(&path).map_err(Error::path("make", path))?;
        }
        let groups = Hierarchies::find()?;
        groups.create_pod(&self.spec.cgroup)?;
        mount(
            Some("shm"),
            &dir.join("shm"),
            Some("tmpfs"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            Some("mode=1777,size=64m"),
        )
        .map_err(|errno| Error::path("mount", dir.join("shm"))(errno.into()))?;
        // Namespaces belong to threads: this one ends with its task done.
        std::thread::scope(|scope| scope.spawn(|| self.make_namespaces()).join())
            .unwrap_or_else(|_| Err(Error::HelperGone { what: "namespaces".into() }))?;
        if self.spec.share_pid {
            self.make_pid_namespace(&groups)?;
        }
        container::write_json(&dir.join("pod.json"), &self.spec)
    }

    fn make_namespaces(&self) -> Result<()> {
        let PodSpec { dir, .. } = &self.spec;
        let mut flags = CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
        if !self.spec.host_network {
            flags |= CloneFlags::CLONE_NEWNET;
        }
        nix::sched::unshare(flags).map_err(|errno| Error::sys("make namespaces")(errno.into()))?;
        let mut hostname = self.spec.hostname.as_str();
        while hostname.len() > HOSTNAME_LEN_MAX {
            hostname = &hostname[..hostname.floor_char_boundary(hostname.len() - 1)];
        }
        nix::unistd::sethostname(hostname)
            .map_err(|errno| Error::sys("set the host name")(errno.into()))?;
        if !self.spec.host_network {
            sys::loopback_up().map_err(Error::sys("bring lo up"))?;
            // Containers have no capability over this namespace (see the crate's invariants), so
            // ports below 1024 and ping must not need one.
            for (name, value) in [
                ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
                ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
            ] {
                fs::write(name, value).map_err(Error::path("set", name))?;
            }
        }
        for (file, kind) in [("netns", "net"), ("ipcns", "ipc"), ("utsns", "uts")] {
            let target = dir.join(file);
            fs::File::create(&target).map_err(Error::path("make", &target))?;
            let source = format!("/proc/thread-self/ns/{kind}");
            mount(Some(source.as_str()), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .map_err(|errno| Error::path("bind the namespace to", target)(errno.into()))?;
        }
        Ok(())
    }

    /// A PID namespace lives as long as its first process: a helper that does nothing else.
    fn make_pid_namespace(&self, groups: &Hierarchies) -> Result<()> {
        let target = self.spec.dir.join("pidns");
        fs::File::create(&target).map_err(Error::path("make", &target))?;
        let request = Request::Pause(Pause {
            shim_group: groups.v2.join(&self.spec.cgroup).join(SHIM),
            dir: self.spec.dir.clone(),
            id: self.host_id(0),
        });
        let helper = self.runtime.spawn(&request, &[])?;
        let reply = wire::recv(helper.socket.as_fd());
        let _ = sys::reap(helper.pidfd.as_fd(), true);
        match reply.map_err(Error::sys("hear from the sandbox helper"))? {
            Some((Report::Started(_), _)) => Ok(()),
            Some((Report::Failed(failure), _)) => Err(failure.into()),
            _ => Err(Error::HelperGone { what: "the PID namespace".into() }),
        }
    }

    /// Finds the sandbox that [`Pod::create`] left in this directory.
    pub fn open(runtime: &Runtime, dir: &Path) -> Result<Pod> {
        let spec = container::read_json(&dir.join("pod.json"))?;
        Ok(Pod { runtime: runtime.clone(), spec })
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
        check_name(&spec.name)?;
        if let Some(container) = self.container(&spec.name)? {
            if container.try_wait()?.is_none() {
                return Err(Error::Running(spec.name.clone()));
            }
            container::forget(&self.spec.dir, &spec.name)?;
        }
        let hierarchies = Hierarchies::find()?;
        let groups = hierarchies.create_container(&self.spec.cgroup, &spec.name, &spec.limits)?;
        let request = Request::Start(Box::new(Start {
            dir: self.spec.dir.clone(),
            share_pid: self.spec.share_pid,
            shim_group: hierarchies.v2.join(&self.spec.cgroup).join(SHIM),
            groups,
            identity: Identity {
                base: range_base(&self.spec.uid),
                uid: spec.uid.unwrap_or(0),
                gid: spec.gid.unwrap_or(0),
                groups: spec.groups.clone(),
                privileged: spec.privileged,
            },
            spec: spec.clone(),
        }));
        let helper = self.runtime.spawn(&request, &[])?;
        let started = Container::from_helper(&self.runtime, &self.spec.dir, &spec.name, helper);
        if started.is_err() {
            let _ = container::forget(&self.spec.dir, &spec.name);
            let _ = hierarchies.remove(&self.spec.cgroup.join(&spec.name));
        }
        started
    }

    /// The container of that name, running or finished, also after a restart of the caller.
    pub fn container(&self, name: &str) -> Result<Option<Container>> {
        Container::adopt(&self.runtime, &self.spec.dir, name)
    }

    /// Names of all containers that were started and not replaced.
    pub fn containers(&self) -> Result<Vec<String>> {
        let dir = &self.spec.dir;
        let mut names: Vec<String> = fs::read_dir(dir)
            .map_err(Error::path("list", dir))?
            .flatten()
            .filter_map(|entry| {
                Some(entry.file_name().to_str()?.strip_suffix(".state")?.to_owned())
            })
            .collect();
        names.sort();
        Ok(names)
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
    pub fn destroy_at(dir: &Path, cgroup: &Path) -> Result<()> {
        check_path("the pod's directory", dir, true)?;
        check_path("the pod's cgroup", cgroup, false)?;
        let mut errors = Vec::new();
        match Hierarchies::find() {
            Ok(groups) => {
                let killed = cgroup::kill_tree(&groups.v2.join(cgroup));
                crate::runtime::reap_left_over();
                errors.extend(killed.err());
                errors.extend(groups.remove(cgroup).err());
            }
            Err(error) => errors.push(error),
        }
        match unmount_below(dir) {
            // Never through a mount: what is mounted there is not the pod's.
            Ok(()) => errors.extend(remove_dir(dir).err()),
            Err(error) => errors.push(error),
        }
        if errors.is_empty() { Ok(()) } else { Err(Error::Teardown(errors)) }
    }
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::path("remove", dir)(error))
        }
        _ => Ok(()),
    }
}

/// Unmounts whatever is mounted below the directory; ends only when nothing is, or with an error.
fn unmount_below(dir: &Path) -> Result<()> {
    // Mount points are real paths; the directory may be reached through a link.
    let real = match fs::canonicalize(dir) {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::path("resolve", dir)(error)),
    };
    // Several may lie on top of each other at one place; each round takes one layer.
    loop {
        let mounts = fs::read_to_string("/proc/self/mountinfo")
            .map_err(Error::path("read", "/proc/self/mountinfo"))?;
        let mut points: Vec<PathBuf> = mounts
            .lines()
            .filter_map(|line| Some(PathBuf::from(cgroup::unescape(line.split(' ').nth(4)?))))
            .filter(|point| point.starts_with(&real))
            .collect();
        // Detaching takes what is below along: mostly, this is the directory itself.
        points.sort();
        points.dedup_by(|next, kept| next.starts_with(&*kept));
        if points.is_empty() {
            return Ok(());
        }
        for point in points {
            match umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                // Gone in between: two destroy at the same time.
                Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
                Err(errno) => return Err(Error::path("unmount", point)(errno.into())),
            }
        }
    }
}

/// The id on the machine of `id` in a container of the pod `uid`; see [`Pod::host_id`].
pub fn host_id(uid: &str, id: u32) -> u32 {
    // The last id of the range stands for the one id outside 0..65535 that a container may have.
    range_base(uid) + id.min(IDS - 1)
}

/// FNV-1a of the pod's uid chooses the range: the same after a restart, without a register.
fn range_base(uid: &str) -> u32 {
    let hash = uid
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    ID_BASE + (hash % ID_RANGES) * IDS
}

fn check_name(name: &str) -> Result<()> {
    let label = !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
        && !name.starts_with('.');
    if label {
        return Ok(());
    }
    let why = "must be letters, digits, '-' and '.', at most 63";
    Err(Error::Invalid { what: "container name", value: name.into(), why })
}

/// Destroying is recursive: a path that climbs or is too short must not get there.
fn check_path(what: &'static str, path: &Path, absolute: bool) -> Result<()> {
    use std::path::Component;
    let normal = path.components().filter(|part| matches!(part, Component::Normal(_))).count();
    let plain = path.components().all(|part| {
        matches!(part, Component::Normal(_)) || (absolute && part == Component::RootDir)
    });
    if plain && path.is_absolute() == absolute && normal >= 2 {
        return Ok(());
    }
    let why = "must be two names deep at least, without '.' and '..'";
    Err(Error::Invalid { what, value: path.display().to_string(), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stay_in_the_range_of_their_pod() {
        for uid in ["", "a", "2b0b2f0c-5a3f-4a1c-9c7e-000000000000"] {
            let base = host_id(uid, 0);
            assert!((ID_BASE..ID_BASE + ID_RANGES * IDS).contains(&base), "{base}");
            assert_eq!(base % IDS, 0);
            assert_eq!(host_id(uid, 1000), base + 1000);
            assert_eq!(host_id(uid, 1_000_660_000), base + IDS - 1);
        }
        assert_ne!(host_id("a", 0), host_id("b", 0));
    }

    #[test]
    fn climbing_paths_are_refused() {
        for bad in ["/", "/run", "", "..", "/run/../etc/x", "run/weft/x"] {
            assert!(check_path("dir", Path::new(bad), true).is_err(), "{bad}");
        }
        for bad in ["", "/", "weft", "../x/y", "/a/b"] {
            assert!(check_path("cgroup", Path::new(bad), false).is_err(), "{bad}");
        }
        assert!(check_path("dir", Path::new("/run/weft/x"), true).is_ok());
        assert!(check_path("cgroup", Path::new("weft.lab/n/pods/u"), false).is_ok());
    }

    #[test]
    fn names_cannot_leave_the_directory() {
        for bad in ["", ".", "..", "a/b", "_shim", "a b", &"x".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        for good in ["web", "init-1", "web.3"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
    }
}
