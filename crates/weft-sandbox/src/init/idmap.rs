//! User namespaces that no process stays in: they tell the kernel how a mount shows its owners.

use super::{At, Step, spawn};
use crate::wire::{self, Failure, Report, Stage, Start};
use crate::{pod, sys};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// One for each range of ids that files in volumes belong to, by the first id.
pub(crate) struct IdMaps(BTreeMap<u32, OwnedFd>);

impl IdMaps {
    /// Those that the mounts of a container need. To be called while /proc is the machine's.
    pub(crate) fn of(start: &Start) -> Step<Self> {
        let mut maps = BTreeMap::new();
        let to = if start.identity.privileged { 0 } else { start.identity.base };
        for from in start.spec.mounts.iter().filter_map(|mount| mount.ids) {
            // Two ranges may be one by chance: then there is nothing to map.
            if from != to && !maps.contains_key(&from) {
                maps.insert(from, namespace(from, to)?);
            }
        }
        Ok(Self(maps))
    }

    pub(crate) fn get(&self, from: u32) -> Option<BorrowedFd<'_>> {
        self.0.get(&from).map(AsFd::as_fd)
    }
}

/// A user namespace whose ids `from…` are the machine's `to…`. Only a process can be in a new one
/// when its maps are written, so one is, for that long.
fn namespace(from: u32, to: u32) -> Step<OwnedFd> {
    let wait = |socket: BorrowedFd<'_>| {
        // Until it is killed, or its parent is gone.
        let _ = wire::recv::<Report>(socket);
        Failure { stage: Stage::Mount, detail: "id map".into(), errno: libc::ESRCH }
    };
    let child = spawn(libc::CLONE_NEWUSER as u64, None, wait).at(Stage::Mount, "id map")?;
    let made = open(child.pid, from, to);
    let _ = sys::pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL);
    let _ = sys::reap(child.pidfd.as_fd(), true);
    made
}

fn open(pid: i32, from: u32, to: u32) -> Step<OwnedFd> {
    for file in ["uid_map", "gid_map"] {
        let path = format!("/proc/{pid}/{file}");
        fs::write(&path, format!("{from} {to} {}\n", pod::IDS)).at(Stage::Mount, path)?;
    }
    let path = format!("/proc/{pid}/ns/user");
    File::open(&path).map(OwnedFd::from).at(Stage::Mount, path)
}
