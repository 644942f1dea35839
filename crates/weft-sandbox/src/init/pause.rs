//! The process that keeps a PID namespace which the pod's containers share.

use super::{At, Step, fail, join_group, rootfs, spawn};
use crate::sys;
use crate::wire::{self, Pause, Report, Stage};
use nix::mount::{MsFlags, mount};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Makes it and binds its namespace; returns the exit code.
pub(crate) fn run(socket: OwnedFd, pause: Pause) -> i32 {
    match make(&pause) {
        Ok(()) => {
            let _ = wire::send(socket.as_fd(), &Report::Started(None), &[]);
            0
        }
        Err(failure) => fail(socket.as_fd(), failure),
    }
}

fn make(pause: &Pause) -> Step<()> {
    join_group(&pause.shim_group)?;
    let _ = nix::unistd::setsid();
    let flags = (libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64;
    let child = spawn(flags, None, |socket| match settle(&pause.dir, pause.id) {
        Ok(()) => hold(socket),
        Err(failure) => failure,
    })
    .at(Stage::Namespace, "clone")?;
    match wire::recv::<Report>(child.socket.as_fd()).at(Stage::Namespace, "pause process")? {
        Some((Report::Started(_), _)) => {}
        Some((Report::Failed(failure), _)) => return Err(failure),
        _ => {
            let gone = std::io::Error::from_raw_os_error(libc::ESRCH);
            return Err(gone).at(Stage::Namespace, "pause process");
        }
    }
    let target = pause.dir.join("pidns");
    let source = format!("/proc/{}/ns/pid", child.pid);
    mount(Some(source.as_str()), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .at(Stage::Namespace, target)
}

/// Gives up all that containers could reach through a process that they see: its root, its
/// user.
fn settle(dir: &Path, id: u32) -> Step<()> {
    rootfs::empty(dir)?;
    let stage = Stage::Confine;
    nix::unistd::setgroups(&[]).at(stage, "pause process")?;
    nix::unistd::setresgid(id.into(), id.into(), id.into()).at(stage, "pause process")?;
    nix::unistd::setresuid(id.into(), id.into(), id.into()).at(stage, "pause process")?;
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).at(stage, "pause process")
}

/// The first process of the namespace: reaps orphans, by ignoring their end, and never returns.
fn hold(socket: BorrowedFd<'_>) -> wire::Failure {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: sets a disposition; no handler of ours is involved.
    let _ = unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) };
    // SAFETY: standard input is /dev/null and stays open; the caller's standard error must not
    // be held.
    let _ = super::replace(unsafe { BorrowedFd::borrow_raw(0) }, 2);
    let _ = wire::send(socket, &Report::Started(None), &[]);
    sys::close_others(&[]);
    loop {
        nix::unistd::pause();
    }
}
