//! The helper binary that containers are started through.

use crate::wire::{self, Request};
use crate::{Error, Result, sys};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// Where the re-executed helper comes from. Cheap to clone.
///
/// The binary is held open, so that replacing it on disk does not mix versions.
#[derive(Clone, Debug)]
pub struct Runtime {
    helper: Arc<OwnedFd>,
}

/// A helper that was started: its socket and its pidfd.
pub(crate) struct Helper {
    pub socket: OwnedFd,
    pub pidfd: OwnedFd,
}

/// Helpers that nobody waits for any more, to be reaped once they end.
static LEFT_OVER: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());

impl Runtime {
    /// This very binary: it must call [`crate::init_main`] for its argument `sandbox-init` and
    /// the stand-in for `stand-in`, before it starts any thread.
    pub fn current_exe() -> Result<Runtime> {
        Runtime::with_helper(Path::new("/proc/self/exe"))
    }

    /// Another binary that does so (tests).
    pub fn with_helper(path: &Path) -> Result<Runtime> {
        let file = std::fs::File::open(path).map_err(Error::path("open", path))?;
        Ok(Runtime { helper: Arc::new(file.into()) })
    }

    /// Starts the helper with a request. Without `pre_exec`, so that std uses vfork: the cost
    /// does not grow with the caller's memory.
    pub(crate) fn spawn(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Helper> {
        reap_left_over();
        let (ours, theirs) = wire::pair().map_err(Error::sys("make a socket pair"))?;
        wire::send_request(ours.as_fd(), request, fds).map_err(Error::sys("send the request"))?;
        // Close-on-exec, but still open when the kernel resolves the path in execve.
        let child = Command::new(format!("/proc/self/fd/{}", self.helper.as_raw_fd()))
            .arg0("weft")
            .arg("sandbox-init")
            .env_clear()
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(Error::sys("start the sandbox helper"))?;
        // No race: the child is ours and nobody reaps it but through this pidfd.
        let pidfd = sys::pidfd_open(child.id() as i32).map_err(Error::sys("open a pidfd"))?;
        Ok(Helper { socket: ours, pidfd })
    }
}

/// Reaps the helper when it ends, though nobody waits.
pub(crate) fn reap_later(pidfd: OwnedFd) {
    if matches!(sys::reap(pidfd.as_fd(), false), Ok(None)) {
        LEFT_OVER.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(pidfd);
    }
}

/// Reaps those that have ended.
pub(crate) fn reap_left_over() {
    LEFT_OVER
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .retain(|pidfd| matches!(sys::reap(pidfd.as_fd(), false), Ok(None)));
}
