//! A container, from the kubelet's side.

use crate::runtime::{Helper, reap_later};
use crate::wire::{Ended, Report, State};
use crate::{Error, Exec, ExecSpec, Exit, Result, Runtime, cgroup, sys, wire};
use serde::{Serialize, de::DeserializeOwned};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

/// Exit code where nobody has seen the end, as Kubernetes has it (`ContainerStatusUnknown`).
const CODE_UNKNOWN: i32 = 137;

/// A container that was started. Cheap to clone; dropping it changes nothing.
#[derive(Clone, Debug)]
pub struct Container {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    runtime: Runtime,
    dir: PathBuf,
    state: State,
    /// pidfd of the shim; something readable where it has ended long ago.
    shim: Option<OwnedFd>,
    /// pidfd of the container's first process.
    init: Option<OwnedFd>,
    /// How it ended, once seen: its files may be those of the next run of that name by now.
    ended: OnceLock<(Exit, SystemTime)>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(shim) = self.shim.take() {
            reap_later(shim);
        }
    }
}

impl Container {
    /// Hears the helper's report on the start.
    pub(crate) fn from_helper(
        runtime: &Runtime,
        dir: &Path,
        name: &str,
        helper: Helper,
    ) -> Result<Container> {
        let reply = wire::recv(helper.socket.as_fd());
        match reply.map_err(Error::sys("hear from the sandbox helper")) {
            Ok(Some((Report::Started(Some(state)), mut fds))) => Ok(Container {
                inner: Arc::new(Inner {
                    runtime: runtime.clone(),
                    dir: dir.into(),
                    state: *state,
                    shim: Some(helper.pidfd),
                    init: fds.pop(),
                    ended: OnceLock::new(),
                }),
            }),
            Ok(Some((Report::Failed(failure), _))) => {
                reap_later(helper.pidfd);
                Err(failure.into())
            }
            Ok(_) => {
                reap_later(helper.pidfd);
                Err(Error::HelperGone { what: format!("container {name:?}") })
            }
            Err(error) => {
                reap_later(helper.pidfd);
                Err(error)
            }
        }
    }

    /// Finds a container by what its shim wrote.
    pub(crate) fn adopt(runtime: &Runtime, dir: &Path, name: &str) -> Result<Option<Container>> {
        let state: State = match read_json(&state_path(dir, name)) {
            Ok(state) => state,
            Err(Error::Path { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let shim = match same_process(state.shim_pid, state.shim_start_ticks) {
            Some(shim) => shim,
            None => readable().map_err(Error::sys("make an eventfd"))?,
        };
        let init = same_process(state.pid, state.start_ticks);
        Ok(Some(Container {
            inner: Arc::new(Inner {
                runtime: runtime.clone(),
                dir: dir.into(),
                state,
                shim: Some(shim),
                init,
                ended: OnceLock::new(),
            }),
        }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.state.name
    }

    /// Its first process, in the caller's PID namespace.
    pub fn pid(&self) -> i32 {
        self.inner.state.pid
    }

    /// When its program was executed.
    pub fn started_at(&self) -> SystemTime {
        self.inner.state.started_at
    }

    /// How it ended, and when; `None` while it runs. Does not block.
    pub fn try_wait(&self) -> Result<Option<(Exit, SystemTime)>> {
        self.ended(Some(Duration::ZERO))
    }

    /// Blocks until it has ended.
    pub fn wait(&self) -> Result<Exit> {
        match self.ended(None)? {
            Some((exit, _)) => Ok(exit),
            None => Err(Error::HelperGone { what: format!("container {:?}", self.name()) }),
        }
    }

    /// Blocks until it has ended or the time is over.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<Exit>> {
        Ok(self.ended(Some(timeout))?.map(|(exit, _)| exit))
    }

    fn ended(&self, timeout: Option<Duration>) -> Result<Option<(Exit, SystemTime)>> {
        if let Some(ended) = self.inner.ended.get() {
            return Ok(Some(*ended));
        }
        let ended = self.look(timeout)?;
        Ok(ended.map(|e| *self.inner.ended.get_or_init(|| e)))
    }

    fn look(&self, timeout: Option<Duration>) -> Result<Option<(Exit, SystemTime)>> {
        let shim = self.as_fd();
        if !sys::poll_readable(shim, timeout).map_err(Error::sys("poll a pidfd"))? {
            return Ok(None);
        }
        // An error means that it is not our child (any more): adopted, or reaped before.
        let _ = sys::reap(shim, false);
        let path = exit_path(&self.inner.dir, self.name());
        match read_json::<Ended>(&path) {
            Ok(ended) => Ok(Some((ended.exit, ended.finished_at))),
            Err(Error::Path { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                // The shim was killed: a container without one has no log and no end to be seen.
                cgroup::kill_tree(&self.inner.state.groups.v2)?;
                let exit = Exit { code: CODE_UNKNOWN, signal: None, oom_killed: false };
                let finished_at = SystemTime::now();
                // The directory is gone after a destroy; the answer is the same.
                let _ = write_json(&path, &Ended { exit, finished_at });
                Ok(Some((exit, finished_at)))
            }
            Err(error) => Err(error),
        }
    }

    /// Sends a signal to its first process; succeeds where it has ended.
    pub fn kill(&self, signal: i32) -> Result<()> {
        let Some(init) = &self.inner.init else { return Ok(()) };
        send_signal(init.as_fd(), signal)
    }

    /// Runs a command in it, confined as it is.
    pub fn exec(&self, spec: &ExecSpec) -> Result<Exec> {
        Exec::start(&self.inner.runtime, &self.inner.state, spec)
    }

    /// With `stdin: true`: the FIFO that its standard input comes from.
    pub fn stdin_path(&self) -> Option<PathBuf> {
        self.inner.state.stdin.then(|| stdin_path(&self.inner.dir, self.name()))
    }
}

/// Becomes readable when the container has ended: a pidfd, for poll or `AsyncFd`.
impl AsFd for Container {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.shim.as_ref().expect("invariant: taken by drop only").as_fd()
    }
}

pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    match sys::pidfd_send_signal(pidfd, signal) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other.map_err(Error::sys("send a signal")),
    }
}

/// The process of that number, if it is still the one that started then.
fn same_process(pid: i32, start_ticks: u64) -> Option<OwnedFd> {
    let pidfd = sys::pidfd_open(pid).ok()?;
    // After opening: the descriptor stays with the process that it was opened for.
    (sys::start_ticks(pid) == Some(start_ticks)).then_some(pidfd)
}

/// A descriptor that poll always reports.
fn readable() -> io::Result<OwnedFd> {
    // SAFETY: numbers only.
    let fd = sys::check(unsafe { libc::eventfd(1, libc::EFD_CLOEXEC) }.into())?;
    // SAFETY: just opened, nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    debug_assert!(fd.as_raw_fd() >= 0);
    Ok(fd)
}

pub(crate) fn state_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.state"))
}

pub(crate) fn exit_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.exit"))
}

pub(crate) fn stdin_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.stdin"))
}

/// Removes the files of a container.
pub(crate) fn forget(dir: &Path, name: &str) -> Result<()> {
    for path in [exit_path(dir, name), state_path(dir, name), stdin_path(dir, name)] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::path("remove", path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).map_err(Error::path("read", path))?;
    serde_json::from_slice(&bytes).map_err(|source| Error::State { path: path.into(), source })
}

/// Atomically: readers see the old file or the whole new one.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let bytes =
        serde_json::to_vec(value).map_err(|source| Error::State { path: path.into(), source })?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let scratch = path.with_file_name(name);
    fs::write(&scratch, bytes).map_err(Error::path("write", &scratch))?;
    fs::rename(&scratch, path).map_err(Error::path("rename", path))
}
