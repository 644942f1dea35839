//! The process that keeps a PID namespace which the pod's containers share.

use super::{At, Step, fail, join_group, spawn};
use crate::wire::{self, Pause, Report, Stage};
use nix::mount::{MsFlags, mount};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

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
    let child = spawn(libc::CLONE_NEWPID as u64, None, |socket| hold(socket, pause.id))
        .at(Stage::Namespace, "clone")?;
    // It says that its privileges are gone.
    wire::recv::<Report>(child.socket.as_fd()).at(Stage::Namespace, "pause process")?;
    let source = format!("/proc/{}/ns/pid", child.pid);
    mount(Some(source.as_str()), &pause.target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .at(Stage::Namespace, &pause.target)
}

/// The first process of the namespace: reaps orphans, by ignoring their end, and never returns.
fn hold(socket: BorrowedFd<'_>, id: u32) -> wire::Failure {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: sets a disposition; no handler of ours is involved.
    let _ = unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) };
    let _ = std::env::set_current_dir("/");
    let _ = nix::unistd::setgroups(&[]);
    let _ = nix::unistd::setresgid(id.into(), id.into(), id.into());
    let _ = nix::unistd::setresuid(id.into(), id.into(), id.into());
    // SAFETY: standard input is /dev/null and stays open; the caller's standard error must not
    // be held.
    let _ = super::replace(unsafe { BorrowedFd::borrow_raw(0) }, 2);
    let _ = wire::send(socket, &Report::Started(None), &[]);
    loop {
        nix::unistd::pause();
    }
}
