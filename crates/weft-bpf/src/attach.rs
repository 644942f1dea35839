//! Programs at their hooks: attached once, then adopted by each later agent.

use crate::{
    BpfError, Result,
    object::{HOOKS, Hook, Loaded},
    pins::Pins,
    probe::reasons,
    sys,
};
use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, BorrowedFd},
    os::unix::fs::MetadataExt,
    path::Path,
};

/// What became of the hooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// Newly attached.
    pub attached: usize,
    /// Taken over with the same program.
    pub adopted: usize,
    /// Taken over, the program replaced by this version's.
    pub replaced: usize,
    /// Optional hooks that this kernel does not have.
    pub absent: usize,
}

/// Attaches all programs to the cgroup and pins the links, so that they outlive this process.
pub(crate) fn attach(loaded: &Loaded, pins: &Pins, cgroup: &Path) -> Result<Attached> {
    let dir = File::open(cgroup).map_err(BpfError::file("open", cgroup))?;
    // The inode number of a cgroup directory is the cgroup's number (64-bit kernfs).
    let cgroup_id = dir.metadata().map_err(BpfError::file("stat", cgroup))?.ino();
    let mut done = Attached::default();
    for hook in &HOOKS {
        let counter = match attach_one(loaded, pins, dir.as_fd(), cgroup_id, hook) {
            Ok(Outcome::Attached) => &mut done.attached,
            Ok(Outcome::Adopted) => &mut done.adopted,
            Ok(Outcome::Replaced) => &mut done.replaced,
            Err(error) if !hook.required => {
                let reason = reasons(&error);
                tracing::warn!(hook = hook.pin, reason, "optional socket hook is not attached");
                &mut done.absent
            }
            Err(error) => return Err(error),
        };
        *counter += 1;
    }
    Ok(done)
}

enum Outcome {
    Attached,
    Adopted,
    Replaced,
}

fn attach_one(
    loaded: &Loaded,
    pins: &Pins,
    cgroup: BorrowedFd<'_>,
    cgroup_id: u64,
    hook: &Hook,
) -> Result<Outcome> {
    let program = loaded.program(hook)?;
    let pin = pins.link(hook.pin);
    match sys::obj_get(&pin) {
        Ok(link) => {
            let info = sys::link_info(link.as_fd()).map_err(BpfError::call("INFO", hook.pin))?;
            if info.cgroup_id == cgroup_id {
                return adopt(link.as_fd(), info.prog_id, program.as_fd(), hook);
            }
            // The cgroup was removed (and perhaps made again): the link is dead.
            fs::remove_file(&pin).map_err(BpfError::file("remove", &pin))?;
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(BpfError::file("open", pin)(e)),
    }
    let link = sys::link_create(program.as_fd(), cgroup, hook.attach_type)
        .map_err(BpfError::call("LINK_CREATE", hook.pin))?;
    sys::obj_pin(link.as_fd(), &pin).map_err(BpfError::file("pin", pin))?;
    Ok(Outcome::Attached)
}

/// Keeps the program of a link if it is instruction for instruction the same and uses the same
/// maps, else replaces it in one step.
fn adopt(
    link: BorrowedFd<'_>,
    prog_id: u32,
    program: BorrowedFd<'_>,
    hook: &Hook,
) -> Result<Outcome> {
    let new = sys::prog_identity(program).map_err(BpfError::call("INFO", hook.program))?;
    let old = sys::prog_by_id(prog_id).and_then(|p| sys::prog_identity(p.as_fd())).ok();
    if old == Some(new) {
        return Ok(Outcome::Adopted);
    }
    sys::link_update(link, program).map_err(BpfError::call("LINK_UPDATE", hook.pin))?;
    Ok(Outcome::Replaced)
}
