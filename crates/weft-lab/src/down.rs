//! `weft lab down`: everything that bears the lab's name goes, whatever state it is in.
//!
//! It needs no living supervisor: processes are found by cgroup, mounts by path, namespaces
//! by name. Every step goes on after an error; what is already gone counts as done.

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::{
    paths::LabPaths,
    proc::{CgroupMounts, cgroup_pids},
};

/// How long killed processes may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Removes a lab. Returns all errors, joined.
pub fn down(paths: &LabPaths) -> Result<()> {
    let mut errors: Vec<String> = Vec::new();
    let mut step = |what: &str, outcome: Result<()>| {
        if let Err(e) = outcome {
            errors.push(format!("{what}: {e:#}"));
        }
    };
    match CgroupMounts::find() {
        Ok(mounts) => {
            step("stop processes", kill_cgroups(&mounts, &paths.cgroup()));
            for dir in mounts.all(&paths.cgroup()) {
                step("remove cgroups", remove_cgroup(&dir));
            }
        }
        Err(e) => step("find cgroups", Err(e)),
    }
    step("unmount", unmount_below(&paths.dir()));
    step("remove namespaces", remove_namespaces(&paths.netns_name("")));
    step("remove files", remove_dir(&paths.dir()));
    if errors.is_empty() { Ok(()) } else { bail!("{}", errors.join("; ")) }
}

/// Kills every process of a cgroup and waits until none is left.
fn kill_cgroups(mounts: &CgroupMounts, relative: &Path) -> Result<()> {
    let unified = mounts.unified.join(relative);
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        // cgroup.kill (5.14) ends a whole subtree at once, forks included.
        let whole = fs::write(unified.join("cgroup.kill"), "1").is_ok();
        let pids: Vec<i32> = mounts.all(relative).iter().flat_map(|d| cgroup_pids(d)).collect();
        if pids.is_empty() {
            return Ok(());
        }
        if !whole {
            for pid in &pids {
                let pid = nix::unistd::Pid::from_raw(*pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
        if Instant::now() > deadline {
            bail!("processes {pids:?} do not end");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Removes a cgroup bottom-up. The kernel may report EBUSY for a moment after the last
/// process has gone.
fn remove_cgroup(dir: &Path) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).with_context(|| format!("read {}", dir.display())),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_cgroup(&entry.path())?;
        }
    }
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if Instant::now() > deadline => {
                return Err(e).with_context(|| format!("remove {}", dir.display()));
            }
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// Mount points at or below a directory, the last mounted first.
fn mounts_below(mountinfo: &str, dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = mountinfo
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(|at| PathBuf::from(unescape(at)))
        .filter(|at| at.starts_with(dir))
        .collect();
    found.reverse();
    found
}

/// mountinfo writes blanks and backslashes as three octal digits.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

fn unmount_below(dir: &Path) -> Result<()> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
    let mut failed = Vec::new();
    for at in mounts_below(&mountinfo, dir) {
        match umount2(&at, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(e) => failed.push(format!("{}: {e}", at.display())),
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join(", ")) }
}

fn remove_namespaces(prefix: &str) -> Result<()> {
    let mut failed = Vec::new();
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix)
            && let Err(e) = weft_netlink::netns::delete_named(&name)
        {
            failed.push(format!("{name}: {e}"));
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join(", ")) }
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).with_context(|| format!("remove {}", dir.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_path_component_and_in_reverse_order() {
        let info = "1 0 0:1 / /run/weft/lab/bpf rw - bpf none rw\n\
                    2 0 0:1 / /run/weft/lab/node1/pods/a\\040b/netns rw - nsfs none rw\n\
                    3 0 0:1 / /run/weft/lab2/bpf rw - bpf none rw\n";
        assert_eq!(
            mounts_below(info, Path::new("/run/weft/lab")),
            [Path::new("/run/weft/lab/node1/pods/a b/netns"), Path::new("/run/weft/lab/bpf")]
        );
    }
}
