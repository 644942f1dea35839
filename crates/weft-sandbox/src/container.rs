//! A container, from the kubelet's side.

use crate::{Exec, ExecSpec, Exit, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A container that was started. Cheap to clone; dropping it changes nothing.
#[derive(Clone, Debug)]
pub struct Container {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    pid: i32,
    started_at: SystemTime,
    shim: OwnedFd,
}

impl Container {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its first process, in the caller's PID namespace.
    pub fn pid(&self) -> i32 {
        self.inner.pid
    }

    /// When its program was executed.
    pub fn started_at(&self) -> SystemTime {
        self.inner.started_at
    }

    /// How it ended, and when; `None` while it runs. Does not block.
    pub fn try_wait(&self) -> Result<Option<(Exit, SystemTime)>> {
        Ok(None)
    }

    /// Blocks until it has ended.
    pub fn wait(&self) -> Result<Exit> {
        Err(crate::Error::NotRunning(self.inner.name.clone()))
    }

    /// Blocks until it has ended or the time is over.
    pub fn wait_timeout(&self, _timeout: Duration) -> Result<Option<Exit>> {
        Ok(None)
    }

    /// Sends a signal to its first process; succeeds where it has ended.
    pub fn kill(&self, _signal: i32) -> Result<()> {
        Ok(())
    }

    /// Runs a command in it, confined as it is.
    pub fn exec(&self, _spec: &ExecSpec) -> Result<Exec> {
        Err(crate::Error::NotRunning(self.inner.name.clone()))
    }

    /// With `stdin: true`: the FIFO that its standard input comes from.
    pub fn stdin_path(&self) -> Option<PathBuf> {
        None
    }
}

/// Becomes readable when the container has ended: a pidfd, for poll or `AsyncFd`.
impl AsFd for Container {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.shim.as_fd()
    }
}
