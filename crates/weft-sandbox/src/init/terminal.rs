//! A terminal of the container's own devpts.

use super::{At, Step, own, replace};
use crate::sys;
use crate::wire::{self, Identity, Report, Stage};
use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

/// Opens a pair, sends the master to the helper and makes the slave the standard streams and
/// the controlling terminal. The caller leads a session without one.
pub(crate) fn open(socket: BorrowedFd<'_>, identity: &Identity) -> Step<()> {
    let stage = Stage::Stdio;
    let master = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open("/dev/ptmx")
        .at(stage, "/dev/ptmx")?;
    let unlocked: libc::c_int = 0;
    // SAFETY: the integer lives through the call.
    sys::check(
        unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) }.into(),
    )
    .at(stage, "TIOCSPTLCK")?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: numbers only.
    let slave =
        sys::check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }.into())
            .at(stage, "TIOCGPTPEER")?;
    let slave = own(slave as i32);
    let (uid, gid) = super::confine::host_ids(identity);
    nix::unistd::fchown(&slave, Some(uid.into()), Some(gid.into())).at(stage, "terminal")?;
    sys::set_window_size(slave.as_fd(), 80, 24).at(stage, "TIOCSWINSZ")?;
    // SAFETY: numbers only.
    sys::check(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) }.into())
        .at(stage, "TIOCSCTTY")?;
    for stream in 0..3 {
        replace(slave.as_fd(), stream).at(stage, "dup2")?;
    }
    wire::send(socket, &Report::Terminal, &[master.as_fd()]).at(stage, "terminal")
}
