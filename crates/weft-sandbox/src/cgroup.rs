//! cgroups of pods and containers: cgroup2, and v1 for the controllers that are not there.

use crate::wire::Groups;
use crate::{Error, Limits, Result};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long killed processes may take to go, and emptied groups to become removable.
const GONE_TIMEOUT: Duration = Duration::from_secs(10);

/// Processes and threads of a container without a limit of its own: against fork bombs.
const PIDS_DEFAULT: u64 = 4096;

/// Group of a pod's shims. Not a DNS label, so no container's name.
pub(crate) const SHIM: &str = "_shim";

/// Where the hierarchies are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    /// cgroup2.
    pub v2: PathBuf,
    /// v1 memory, on machines where cgroup2 does not carry that controller.
    pub memory_v1: Option<PathBuf>,
    /// v1 pids, likewise.
    pub pids_v1: Option<PathBuf>,
}

impl Hierarchies {
    /// Of this machine.
    pub fn find() -> Result<Hierarchies> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")
            .map_err(Error::path("read", "/proc/self/mountinfo"))?;
        Hierarchies::parse(&mounts).ok_or(Error::NoCgroup2)
    }

    /// From the text of `/proc/self/mountinfo`.
    fn parse(mountinfo: &str) -> Option<Hierarchies> {
        let mut v2 = None;
        let mut memory_v1 = None;
        let mut pids_v1 = None;
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(point) = left.split(' ').nth(4) else { continue };
            let mut right = right.split(' ');
            let kind = right.next().unwrap_or_default();
            let options = right.nth(1).unwrap_or_default();
            let point = PathBuf::from(unescape(point));
            match kind {
                "cgroup2" => {
                    v2.get_or_insert(point);
                }
                "cgroup" if options.split(',').any(|option| option == "memory") => {
                    memory_v1.get_or_insert(point);
                }
                "cgroup" if options.split(',').any(|option| option == "pids") => {
                    pids_v1.get_or_insert(point);
                }
                _ => {}
            }
        }
        // A controller is on one hierarchy only: one with a v1 mount is not on cgroup2.
        Some(Hierarchies { v2: v2?, memory_v1, pids_v1 })
    }

    /// The roots of all hierarchies.
    fn roots(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.v2.as_path())
            .chain(self.memory_v1.as_deref())
            .chain(self.pids_v1.as_deref())
    }

    /// Makes the pod's groups, and delegates the controllers down to it where cgroup2 has them.
    pub fn create_pod(&self, relative: &Path) -> Result<()> {
        let pod = self.v2.join(relative);
        make(&pod.join(SHIM))?;
        // From the root down: a child may only enable what its parent has enabled. Best effort:
        // with a process in one of them the kernel refuses (EBUSY); see `set_v2`.
        let mut group = self.v2.clone();
        for part in [Path::new("")].into_iter().chain(relative.iter().map(Path::new)) {
            group.push(part);
            for controller in ["+memory", "+pids"] {
                let _ = fs::write(group.join("cgroup.subtree_control"), controller);
            }
        }
        Ok(())
    }

    /// Makes a container's groups afresh (so that OOM counters start at zero), with its limits.
    pub fn create_container(&self, pod: &Path, name: &str, limits: &Limits) -> Result<Groups> {
        let relative = pod.join(name);
        self.remove(&relative)?;
        let v2 = self.v2.join(&relative);
        make(&v2)?;
        let mut groups = Groups { v2, v1: Vec::new() };
        if let Some(bytes) = limits.memory_bytes {
            match &self.memory_v1 {
                Some(root) => {
                    let group = root.join(&relative);
                    make(&group)?;
                    set(&group, "memory.limit_in_bytes", bytes)?;
                    // Swap would only move the limit; absent where swap is not accounted.
                    let _ = set(&group, "memory.memsw.limit_in_bytes", bytes);
                    groups.v1.push(group);
                }
                None => {
                    set_v2(&groups.v2, "memory.max", bytes)?;
                    let _ = set(&groups.v2, "memory.swap.max", 0);
                    // As Kubernetes: the container dies whole.
                    let _ = set(&groups.v2, "memory.oom.group", 1);
                }
            }
        }
        let pids = limits.pids.unwrap_or(PIDS_DEFAULT);
        match &self.pids_v1 {
            Some(root) => {
                let group = root.join(&relative);
                make(&group)?;
                set(&group, "pids.max", pids)?;
                groups.v1.push(group);
            }
            None => set_v2(&groups.v2, "pids.max", pids)?,
        }
        Ok(groups)
    }

    /// Removes a group and all below it on every hierarchy; absent ones are fine.
    pub fn remove(&self, relative: &Path) -> Result<()> {
        for root in self.roots() {
            remove_tree(&root.join(relative))?;
        }
        Ok(())
    }
}

/// Octal escapes of /proc/*/mountinfo: space, tab, newline and backslash.
pub(crate) fn unescape(field: &str) -> String {
    let mut out = Vec::with_capacity(field.len());
    let bytes = field.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes
            .get(at + 1..at + 4)
            .filter(|_| bytes[at] == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn make(group: &Path) -> Result<()> {
    fs::create_dir_all(group).map_err(Error::path("make cgroup", group))
}

fn set(group: &Path, file: &str, value: u64) -> Result<()> {
    let path = group.join(file);
    fs::write(&path, value.to_string()).map_err(Error::path("set the limit", path))
}

/// A machine may keep a controller from us (it is itself a container whose root group has
/// processes, so that the kernel does not let it delegate): better without the limit than no pod.
fn set_v2(group: &Path, file: &str, value: u64) -> Result<()> {
    if group.join(file).exists() {
        return set(group, file, value);
    }
    tracing::warn!(group = %group.display(), file, "no such cgroup controller here: not limited");
    Ok(())
}

/// Number of processes that the OOM killer has killed in the container.
pub(crate) fn oom_kills(groups: &Groups) -> u64 {
    let files = groups
        .v1
        .iter()
        .map(|group| group.join("memory.oom_control"))
        .chain([groups.v2.join("memory.events")]);
    files
        .filter_map(|file| fs::read_to_string(file).ok())
        .flat_map(|text| {
            text.lines()
                .filter_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
                .collect::<Vec<u64>>()
        })
        .sum()
}

/// Kills every process below a cgroup2 directory and waits until all are gone. An absent group
/// is empty.
pub(crate) fn kill_tree(group: &Path) -> Result<()> {
    let events = match fs::File::open(group.join("cgroup.events")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::path("read", group.join("cgroup.events"))(error)),
    };
    let deadline = Instant::now() + GONE_TIMEOUT;
    loop {
        // Before reading, so that a change after it wakes the poll below.
        if !populated(group) {
            return Ok(());
        }
        // cgroup.kill is since 5.14; before, one by one until none is left (they may fork).
        if fs::write(group.join("cgroup.kill"), "1").is_err() {
            kill_each(group)?;
        }
        if Instant::now() >= deadline {
            let source = io::ErrorKind::TimedOut.into();
            return Err(Error::Path { op: "kill all processes of", path: group.into(), source });
        }
        let mut poll =
            libc::pollfd { fd: events.as_fd().as_raw_fd(), events: libc::POLLPRI, revents: 0 };
        // Short: the notification is edge-triggered and may have come before the poll.
        // SAFETY: one live pollfd.
        unsafe { libc::poll(&raw mut poll, 1, 5) };
    }
}

fn populated(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.events"))
        .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
}

fn kill_each(group: &Path) -> Result<()> {
    for entry in fs::read_dir(group).map_err(Error::path("list", group))?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            kill_each(&entry.path())?;
        }
    }
    let procs = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in procs.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
    }
    Ok(())
}

/// Removes a cgroup directory and those below it.
fn remove_tree(group: &Path) -> Result<()> {
    let entries = match fs::read_dir(group) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::path("list", group)(error)),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    let deadline = Instant::now() + GONE_TIMEOUT;
    loop {
        match fs::remove_dir(group) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A process that was killed a moment ago is still being taken down.
            Err(error)
                if error.raw_os_error() == Some(libc::EBUSY)
                    && Instant::now() < deadline
                    && !has_processes(group) =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(Error::path("remove cgroup", group)(error)),
        }
    }
}

fn has_processes(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|procs| !procs.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_machine_has_both() {
        let found = Hierarchies::parse(
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
             35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
             39 31 0:36 / /sys/fs/cgroup/pids rw,relatime shared:3 - cgroup cgroup rw,pids\n\
             41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime - cgroup2 cgroup2 rw\n",
        );
        assert_eq!(
            found,
            Some(Hierarchies {
                v2: "/sys/fs/cgroup/uni fied".into(),
                memory_v1: Some("/sys/fs/cgroup/memory".into()),
                pids_v1: Some("/sys/fs/cgroup/pids".into()),
            })
        );
    }

    #[test]
    fn unified_machine_has_one() {
        let found =
            Hierarchies::parse("30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup rw\n");
        assert_eq!(
            found,
            Some(Hierarchies { v2: "/sys/fs/cgroup".into(), memory_v1: None, pids_v1: None })
        );
        assert_eq!(Hierarchies::parse("30 23 0:26 / /sys rw - sysfs sysfs rw\nnonsense\n"), None);
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape("/a\\040b\\134c\\x"), "/a b\\c\\x");
        assert_eq!(unescape("\\04"), "\\04");
    }
}
