//! A command in a running container, from the kubelet's side.

use crate::container::send_signal;
use crate::runtime::reap_later;
use crate::wire::{Command, Report, Request, State};
use crate::{Error, ExecSpec, Exit, Result, Runtime, sys, wire};
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
    /// Socket to the helper that waits for the command.
    control: OwnedFd,
    /// pidfd of the command.
    process: OwnedFd,
    /// pidfd of that helper.
    helper: Option<OwnedFd>,
    /// Kept for [`Exec::resize`] after `pty` was taken.
    terminal: Option<OwnedFd>,
    exit: Option<Exit>,
}

impl Exec {
    pub(crate) fn start(runtime: &Runtime, state: &State, spec: &ExecSpec) -> Result<Exec> {
        let pipe = || {
            nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
                .map_err(|errno| Error::sys("make a pipe")(errno.into()))
        };
        let request = Request::Exec(Box::new(Command {
            pid: state.pid,
            start_ticks: state.start_ticks,
            groups: state.groups.clone(),
            shim_group: state.shim_group.clone(),
            identity: state.identity.clone(),
            spec: spec.clone(),
        }));
        let (mut stdin, mut stdout, mut stderr) = (None, None, None);
        // Theirs: stdout, stderr, and stdin where it is connected.
        let mut theirs = Vec::new();
        if !spec.tty {
            for ours in [&mut stdout, &mut stderr] {
                let (read, write) = pipe()?;
                *ours = Some(read);
                theirs.push(write);
            }
            if spec.stdin {
                let (read, write) = pipe()?;
                stdin = Some(write);
                theirs.push(read);
            }
        }
        let fds: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
        let helper = runtime.spawn(&request, &fds)?;
        drop(theirs);
        let mut pty = None;
        let process = loop {
            let report = wire::recv(helper.socket.as_fd());
            match report.map_err(Error::sys("hear from the sandbox helper")) {
                Ok(Some((Report::Terminal, mut fds))) => pty = fds.pop(),
                Ok(Some((Report::Started(_), mut fds))) if !fds.is_empty() => break fds.remove(0),
                Ok(Some((Report::Failed(failure), _))) => {
                    reap_later(helper.pidfd);
                    let gone =
                        failure.stage == wire::Stage::Namespace && failure.errno == libc::ESRCH;
                    return Err(if gone {
                        Error::NotRunning(state.name.clone())
                    } else {
                        failure.into()
                    });
                }
                Ok(_) => {
                    reap_later(helper.pidfd);
                    return Err(Error::HelperGone { what: format!("{:?}", spec.argv) });
                }
                Err(error) => {
                    reap_later(helper.pidfd);
                    return Err(error);
                }
            }
        };
        let terminal = match &pty {
            Some(pty) => Some(pty.try_clone().map_err(Error::sys("duplicate a terminal"))?),
            None => None,
        };
        Ok(Exec {
            stdin,
            stdout,
            stderr,
            pty,
            control: helper.socket,
            process,
            helper: Some(helper.pidfd),
            terminal,
            exit: None,
        })
    }

    /// How it ended; `None` while it runs. Does not block.
    pub fn try_wait(&mut self) -> Result<Option<Exit>> {
        self.wait_timeout(Duration::ZERO)
    }

    /// Blocks until it has ended. Output may still be in the pipes.
    pub fn wait(&mut self) -> Result<Exit> {
        match self.ended(None)? {
            Some(exit) => Ok(exit),
            None => Err(Error::HelperGone { what: "a command".into() }),
        }
    }

    /// Blocks until it has ended or the time is over.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<Exit>> {
        self.ended(Some(timeout))
    }

    fn ended(&mut self, timeout: Option<Duration>) -> Result<Option<Exit>> {
        if self.exit.is_some() {
            return Ok(self.exit);
        }
        let control = self.control.as_fd();
        if !sys::poll_readable(control, timeout).map_err(Error::sys("poll a command"))? {
            return Ok(None);
        }
        // The end of the connection: the helper was killed, with its pod.
        let killed = Exit { code: 137, signal: Some(libc::SIGKILL), oom_killed: false };
        let exit = match wire::recv(control) {
            Ok(Some((Report::Exited(exit), _))) => exit,
            _ => killed,
        };
        self.exit = Some(exit);
        if let Some(helper) = self.helper.take() {
            reap_later(helper);
        }
        Ok(self.exit)
    }

    /// Sends it a signal; succeeds where it has ended.
    pub fn kill(&self, signal: i32) -> Result<()> {
        send_signal(self.process.as_fd(), signal)
    }

    /// Size of the terminal, in characters. Without `tty` nothing happens.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        match &self.terminal {
            Some(terminal) => sys::set_window_size(terminal.as_fd(), columns, rows)
                .map_err(Error::sys("resize the terminal")),
            None => Ok(()),
        }
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        if let Some(helper) = self.helper.take() {
            reap_later(helper);
        }
    }
}

/// Becomes readable when the command has ended, for poll or `AsyncFd`.
impl AsFd for Exec {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}
