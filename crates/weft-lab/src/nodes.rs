//! Places of a lab where a process can run: a network namespace and a cgroup.

#![allow(unsafe_code)] // JUSTIFICATION: `pre_exec` is the only way to enter a namespace
// between fork and exec; the alternative, setns in this multi-threaded process, would move
// one of its threads.

use anyhow::{Context, Result};
use std::{
    fmt, fs,
    os::fd::{AsFd, OwnedFd},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::proc::CgroupMounts;

/// A network namespace and a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Path of the network namespace.
    pub netns: PathBuf,
    /// cgroup relative to each hierarchy; made where it is absent.
    pub cgroup: Option<PathBuf>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.netns.display())
    }
}

impl Place {
    /// A command that will run here.
    pub fn command(&self, program: &Path) -> Result<Command> {
        let netns = fs::File::open(&self.netns)
            .with_context(|| format!("open namespace {}", self.netns.display()))?;
        let netns: OwnedFd = netns.into();
        let mut joins = Vec::new();
        if let Some(cgroup) = &self.cgroup {
            let mounts = CgroupMounts::find()?;
            for dir in mounts.all(cgroup) {
                fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
                let procs = dir.join("cgroup.procs");
                let file = fs::OpenOptions::new()
                    .write(true)
                    .open(&procs)
                    .with_context(|| format!("open {}", procs.display()))?;
                joins.push(OwnedFd::from(file));
            }
        }
        let mut command = Command::new(program);
        let enter = move || {
            for procs in &joins {
                nix::unistd::write(procs.as_fd(), b"0")?;
            }
            nix::sched::setns(netns.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET)?;
            Ok(())
        };
        // SAFETY: the closure runs between fork and exec and makes only write(2) and setns(2)
        // calls on descriptors that it owns: no allocation, no lock.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }
}

/// Makes a command a daemon: a session of its own, joined to cgroups, and holding `keep`
/// open under the same number.
pub fn detach(command: &mut Command, cgroup_procs: Vec<OwnedFd>, keep: OwnedFd) {
    let enter = move || {
        for procs in &cgroup_procs {
            nix::unistd::write(procs.as_fd(), b"0")?;
        }
        nix::unistd::setsid()?;
        // Descriptors that the caller happened to hold (a lock, a pipe of its shell) are none
        // of a daemon's. SAFETY: a plain system call on no memory.
        if unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) } < 0
        {
            return Err(std::io::Error::last_os_error());
        }
        nix::fcntl::fcntl(
            keep.as_fd(),
            nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
        )?;
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec and makes only write(2), setsid(2) and
    // fcntl(2) calls on descriptors that it owns: no allocation, no lock.
    unsafe { command.pre_exec(enter) };
}
