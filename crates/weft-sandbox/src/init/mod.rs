//! The re-executed helper: everything that happens on the far side of `execve`.
//!
//! One thread, no runtime. The helper itself stays in the machine's namespaces; a child that it
//! forks joins the container's, and becomes the program.

mod child;
mod confine;
mod exec;
mod idmap;
mod log;
mod pause;
mod rootfs;
mod seccomp;
mod shim;
mod target;
mod terminal;

use crate::sys::{self, Fork};
use crate::wire::{self, Failure, Report, Request, Stage};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

/// A step on the far side.
pub(crate) type Step<T> = std::result::Result<T, Failure>;

/// Says what a system call was for.
pub(crate) trait At<T> {
    fn at(self, stage: Stage, detail: impl AsRef<Path>) -> Step<T>;
}

impl<T, E: Into<io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, stage: Stage, detail: impl AsRef<Path>) -> Step<T> {
        self.map_err(|error| Failure {
            stage,
            detail: detail.as_ref().display().to_string(),
            errno: error.into().raw_os_error().unwrap_or(libc::EIO),
        })
    }
}

/// Exit code of a helper, or its child, whose set-up failed.
const FAILED: i32 = 127;

/// Entry of `weft sandbox-init`; returns the exit code. To be called before any thread exists.
pub fn init_main() -> i32 {
    // std opens nothing; what is open beyond the standard streams was inherited by mistake.
    sys::close_from(3, false);
    let socket = match take_socket() {
        Ok(socket) => socket,
        Err(error) => {
            eprintln!("weft sandbox-init: not for use by hand: {error}");
            return FAILED;
        }
    };
    match wire::recv_request(socket.as_fd()) {
        Ok((Request::Start(start), _)) => shim::run(socket, *start),
        Ok((Request::Exec(command), fds)) => exec::run(socket, *command, fds),
        Ok((Request::Pause(pause), _)) => pause::run(socket, pause),
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
            fail(socket.as_fd(), Failure { stage: Stage::Request, detail: String::new(), errno })
        }
    }
}

/// Reports a failure; the helper's exit code.
fn fail(socket: BorrowedFd<'_>, failure: Failure) -> i32 {
    let _ = wire::send(socket, &Report::Failed(failure), &[]);
    FAILED
}

/// Moves the socket away from descriptor 0, which becomes /dev/null.
fn take_socket() -> io::Result<OwnedFd> {
    // SAFETY: descriptor 0 is open (the caller gave it, or std opened /dev/null in its place).
    let socket = unsafe { BorrowedFd::borrow_raw(0) }.try_clone_to_owned()?;
    // Fails on anything else that may be there.
    nix::sys::socket::getsockname::<nix::sys::socket::UnixAddr>(socket.as_raw_fd())?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    replace(null.as_fd(), 0)?;
    Ok(socket)
}

/// `dup2` onto a standard stream.
fn replace(fd: BorrowedFd<'_>, stream: i32) -> io::Result<()> {
    // SAFETY: numbers; the standard streams are owned by no value of this program.
    sys::check(unsafe { libc::dup2(fd.as_raw_fd(), stream) }.into()).map(drop)
}

/// A child that is setting itself up, and the socket to it.
pub(crate) struct Child {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub socket: OwnedFd,
}

/// Forks a child that runs `setup`, which ends in `execve`: the socket is close-on-exec, so its
/// end without a `Failed` says that the program runs.
pub(crate) fn spawn(
    flags: u64,
    group: Option<BorrowedFd<'_>>,
    setup: impl FnOnce(BorrowedFd<'_>) -> Failure,
) -> io::Result<Child> {
    let (ours, theirs) = wire::pair()?;
    match sys::fork_into(flags, group)? {
        Fork::Parent { pid, pidfd } => Ok(Child { pid, pidfd, socket: ours }),
        Fork::Child => {
            drop(ours);
            // A panic must not unwind into the parent's code.
            let setup = std::panic::AssertUnwindSafe(|| setup(theirs.as_fd()));
            if let Ok(failure) = std::panic::catch_unwind(setup) {
                fail(theirs.as_fd(), failure);
            }
            // SAFETY: ends this process without running the parent's exit handlers.
            unsafe { libc::_exit(FAILED) }
        }
    }
}

/// Puts the calling process into a cgroup.
fn join_group(group: &Path) -> Step<()> {
    let procs = group.join("cgroup.procs");
    std::fs::write(&procs, "0").at(Stage::Cgroup, procs)
}

/// Opens a directory for `CLONE_INTO_CGROUP`.
fn open_group(group: &Path) -> Step<OwnedFd> {
    std::fs::File::open(group).map(OwnedFd::from).at(Stage::Cgroup, group)
}

/// A descriptor that the kernel has handed out by number.
fn own(fd: i32) -> OwnedFd {
    // SAFETY: callers pass what a system call has just returned.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
