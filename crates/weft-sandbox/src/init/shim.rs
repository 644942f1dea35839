//! The shim: one process per container, outside it. Starts the program, copies its output to the
//! log and writes down how it ended; so that all this outlives the kubelet.

use super::idmap::IdMaps;
use super::log::Log;
use super::{At, Step, child, fail, join_group, open_group, replace, spawn};
use crate::container::{exit_path, state_path, stdin_path, write_json};
use crate::wire::{self, Ended, Failure, Identity, Report, Stage, Start, State};
use crate::{Exit, Program, cgroup, pod, sys};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What the child gets for standard streams.
pub(crate) enum Streams {
    /// A terminal, made inside.
    Terminal,
    /// stdin, stdout, stderr.
    Pipes(OwnedFd, OwnedFd, OwnedFd),
}

/// A program that was started, seen from here.
struct Running {
    pid: i32,
    pidfd: OwnedFd,
    /// Where its output is read from: stdout and stderr, or the terminal alone.
    output: Vec<File>,
    /// Standard input that is copied from the FIFO.
    input: Option<Input>,
    /// Write end of the FIFO, held so that readers see no end between two attaches.
    _held: Option<File>,
}

/// A FIFO whose content the shim hands on.
struct Input {
    fifo: File,
    /// The program's pipe, where it has no terminal.
    pipe: Option<File>,
    /// Read, and not taken by the pipe yet.
    pending: Vec<u8>,
    /// Whether the first writer's end is the program's.
    once: bool,
    path: PathBuf,
}

/// Runs as the shim; returns the exit code.
pub(crate) fn run(socket: OwnedFd, start: Start) -> i32 {
    let dir = start.dir.clone();
    let groups = start.groups.clone();
    let share_pid = start.share_pid;
    let name = start.spec.name.clone();
    let (mut running, mut log) = match launch(&start) {
        Ok(launched) => launched,
        Err(failure) => return fail(socket.as_fd(), failure),
    };
    let state = State {
        name: start.spec.name,
        pid: running.pid,
        start_ticks: sys::start_ticks(running.pid).unwrap_or(0),
        shim_pid: std::process::id() as i32,
        shim_start_ticks: sys::start_ticks(std::process::id() as i32).unwrap_or(0),
        started_at: SystemTime::now(),
        groups: start.groups,
        shim_group: start.shim_group,
        identity: start.identity,
        stdin: start.spec.stdin,
        tty: start.spec.tty,
    };
    // Without the file nobody could adopt the container: it must not run.
    if let Err(error) = write_json(&state_path(&dir, &name), &state) {
        let _ = sys::pidfd_send_signal(running.pidfd.as_fd(), libc::SIGKILL);
        let _ = sys::reap(running.pidfd.as_fd(), true);
        let errno = match error {
            crate::Error::Path { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            _ => libc::EIO,
        };
        let detail = state_path(&dir, &name).display().to_string();
        return fail(socket.as_fd(), Failure { stage: Stage::Request, detail, errno });
    }
    let started = Report::Started(Some(Box::new(state)));
    let _ = wire::send(socket.as_fd(), &started, &[running.pidfd.as_fd()]);
    drop(socket);
    // The caller's standard error may be a pipe that somebody waits for the end of.
    // SAFETY: standard input is /dev/null by now and stays open.
    let _ = replace(unsafe { BorrowedFd::borrow_raw(0) }, 2);
    copy(&mut running, &mut log);
    let (code, signal) = match sys::reap(running.pidfd.as_fd(), true) {
        Ok(Some(end)) => end,
        _ => (255, None),
    };
    if share_pid {
        // There the kernel does not take the rest of the container with its first process.
        let _ = cgroup::kill_tree(&groups.v2);
    }
    let oom_killed = code == 137 && cgroup::oom_kills(&groups) > 0;
    let exit = Exit { code, signal, oom_killed };
    match write_json(&exit_path(&dir, &name), &Ended { exit, finished_at: SystemTime::now() }) {
        Ok(()) => 0,
        Err(_) => super::FAILED,
    }
}

fn launch(start: &Start) -> Step<(Running, Log)> {
    join_group(&start.shim_group)?;
    // A session of its own: nothing that happens to the caller's terminal or group reaches it.
    let _ = nix::unistd::setsid();
    let spec = &start.spec;
    let log = Log::open(&spec.log).at(Stage::Stdio, &spec.log)?;
    let stand_in = match &spec.program {
        Program::StandIn(_) => Some(
            OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_PATH)
                .open("/proc/self/exe")
                .map(OwnedFd::from)
                .at(Stage::Exec, "/proc/self/exe")?,
        ),
        Program::Command(_) => None,
    };
    let maps = IdMaps::of(start)?;
    let mut flags = libc::CLONE_NEWNS as u64;
    if start.share_pid {
        let path = start.dir.join("pidns");
        let namespace = File::open(&path).at(Stage::Namespace, &path)?;
        nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWPID)
            .at(Stage::Namespace, &path)?;
    } else {
        flags |= libc::CLONE_NEWPID as u64;
    }
    let fifo = match spec.stdin {
        true => Some(make_fifo(&start.dir, &spec.name, spec.stdin_once)?),
        false => None,
    };
    let input = |fifo, pipe| {
        let path = stdin_path(&start.dir, &spec.name);
        Input { fifo, pipe, pending: Vec::new(), once: spec.stdin_once, path }
    };
    let (streams, mut output, input, held) = if spec.tty {
        let (read, held) = fifo.unzip();
        (Streams::Terminal, Vec::new(), read.map(|fifo| input(fifo, None)), held.flatten())
    } else {
        let (stdin, input, held): (OwnedFd, _, _) = match fifo {
            Some((read, None)) => {
                let (stdin, pipe) = pipe(&start.identity)?;
                (stdin, Some(input(read, Some(pipe.into()))), None)
            }
            Some((read, held)) => (read.into(), None, held),
            None => (File::open("/dev/null").at(Stage::Stdio, "/dev/null")?.into(), None, None),
        };
        let (out_read, out_write) = pipe(&start.identity)?;
        let (err_read, err_write) = pipe(&start.identity)?;
        let streams = Streams::Pipes(stdin, out_write, err_write);
        (streams, vec![out_read.into(), err_read.into()], input, held)
    };
    let group = open_group(&start.groups.v2)?;
    let child = spawn(flags, Some(group.as_fd()), |socket| {
        child::failure(child::container(socket, start, &streams, (stand_in.as_ref(), &maps)))
    })
    .at(Stage::Namespace, "clone")?;
    drop(streams);
    drop(group);
    let reported = supervise(&child.socket, child.pid, &start.identity);
    match reported {
        Ok(None) => {}
        Ok(Some(terminal)) => output.push(terminal.into()),
        Err(failure) => {
            let _ = sys::pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL);
            let _ = sys::reap(child.pidfd.as_fd(), true);
            return Err(failure);
        }
    }
    let copied = input.iter().flat_map(|input| std::iter::once(&input.fifo).chain(&input.pipe));
    for file in output.iter().chain(copied) {
        set_nonblocking(file).at(Stage::Stdio, "O_NONBLOCK")?;
    }
    Ok((Running { pid: child.pid, pidfd: child.pidfd, output, input, _held: held }, log))
}

/// Answers the child until it has executed the program; returns the terminal that it sent.
pub(crate) fn supervise(socket: &OwnedFd, pid: i32, identity: &Identity) -> Step<Option<OwnedFd>> {
    let mut terminal = None;
    loop {
        let Some((report, mut fds)) =
            wire::recv(socket.as_fd()).at(Stage::Request, "report of the child")?
        else {
            return Ok(terminal);
        };
        match report {
            Report::WantMaps => {
                write_maps(pid, identity)?;
                wire::send(socket.as_fd(), &Report::Mapped, &[])
                    .at(Stage::Confine, "answer to the child")?;
            }
            Report::Terminal => terminal = fds.pop(),
            Report::Failed(failure) => return Err(failure),
            Report::Mapped | Report::Started(_) | Report::Exited(_) => {}
        }
    }
}

/// Maps the container's ids to the pod's range. The last id of the range stands for the one id
/// beyond 65535 that `runAsUser` or `runAsGroup` may ask for, else for 65535.
fn write_maps(pid: i32, identity: &Identity) -> Step<()> {
    let last = pod::IDS - 1;
    for (file, id) in [("uid_map", identity.uid), ("gid_map", identity.gid)] {
        let base = identity.base;
        let map = format!("0 {base} {last}\n{} {} 1\n", id.max(last), base + last);
        let path = format!("/proc/{pid}/{file}");
        fs::write(&path, map).at(Stage::Confine, path)?;
    }
    Ok(())
}

/// A pipe that the container may reopen through /dev/stdout, so it must belong to its user.
fn pipe(identity: &Identity) -> Step<(OwnedFd, OwnedFd)> {
    let (read, write) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).at(Stage::Stdio, "pipe")?;
    let (uid, gid) = super::confine::host_ids(identity);
    nix::unistd::fchown(&write, Some(uid.into()), Some(gid.into())).at(Stage::Stdio, "pipe")?;
    Ok((read, write))
}

/// The FIFO's read end, and a write end to hold unless the first writer's end is to be seen.
fn make_fifo(dir: &Path, name: &str, once: bool) -> Step<(File, Option<File>)> {
    let path = stdin_path(dir, name);
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600))
        .at(Stage::Stdio, &path)?;
    if once {
        // Opened so, and before any writer: poll then says nothing until one has come and gone
        // (fifo_open and pipe_poll of Linux).
        let mut options = OpenOptions::new();
        let read = options.read(true).custom_flags(libc::O_NONBLOCK).open(&path);
        return Ok((read.at(Stage::Stdio, &path)?, None));
    }
    // Read and write: does not wait for somebody at the other end, and holds it open.
    let held = OpenOptions::new().read(true).write(true).open(&path).at(Stage::Stdio, &path)?;
    let read = File::open(&path).at(Stage::Stdio, &path)?;
    Ok((read, Some(held)))
}

fn set_nonblocking(file: &File) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Copies output to the log until the program has ended and what it wrote is read.
fn copy(running: &mut Running, log: &mut Log) {
    let count = running.output.len();
    let mut open = vec![true; count];
    let mut buffer = vec![0u8; 16 * 1024];
    let mut ended = false;
    while !ended {
        let mut polls: Vec<libc::pollfd> = Vec::with_capacity(count + 3);
        let mut add = |fd: i32| polls.push(libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
        add(running.pidfd.as_raw_fd());
        for (file, open) in running.output.iter().zip(&open) {
            // poll skips negative descriptors.
            add(if *open { file.as_raw_fd() } else { -1 });
        }
        let (from, to) = running.input.as_ref().map_or((-1, -1), Input::waits_for);
        add(from);
        polls.push(libc::pollfd { fd: to, events: libc::POLLOUT, revents: 0 });
        // SAFETY: the vector lives through the call, its length is given.
        let ready = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, -1) };
        if ready < 0 {
            continue;
        }
        ended = polls[0].revents != 0;
        for stream in 0..count {
            // After the end: whatever is left, since nothing more will come.
            if open[stream] && (ended || polls[stream + 1].revents != 0) {
                open[stream] = drain(&running.output[stream], stream, log, &mut buffer, ended);
            }
        }
        if let Some(input) = &mut running.input
            && (polls[count + 1].revents != 0 || polls[count + 2].revents != 0)
            && !input.feed(running.output.first(), &mut buffer)
        {
            input.end();
            running.input = None;
        }
    }
    log.finish();
}

/// One read, or all there is; `false` at the end of the stream.
fn drain(mut file: &File, stream: usize, log: &mut Log, buffer: &mut [u8], all: bool) -> bool {
    loop {
        match file.read(buffer) {
            Ok(0) => return false,
            Ok(len) => log.write(stream, &buffer[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            // EIO: the other side of a terminal is closed.
            Err(_) => return false,
        }
        if !all {
            return true;
        }
    }
}

impl Input {
    /// The descriptors that are waited for: to read from, and to write to.
    fn waits_for(&self) -> (i32, i32) {
        match &self.pipe {
            Some(pipe) if !self.pending.is_empty() => (-1, pipe.as_raw_fd()),
            _ => (self.fifo.as_raw_fd(), -1),
        }
    }

    /// One step of copying; `false` when nothing more will come or be taken.
    fn feed(&mut self, terminal: Option<&File>, buffer: &mut [u8]) -> bool {
        if self.pending.is_empty() {
            match (&self.fifo).read(buffer) {
                // Only now and not before the first writer: until then poll says nothing.
                Ok(0) => return !self.once,
                Ok(len) => match (&self.pipe, terminal) {
                    (Some(_), _) => self.pending.extend_from_slice(&buffer[..len]),
                    (None, Some(mut terminal)) => {
                        // What a terminal does not take at once is lost, as on a line.
                        let _ = terminal.write(&buffer[..len]);
                    }
                    (None, None) => {}
                },
                Err(_) => return true,
            }
        }
        let Some(mut pipe) = self.pipe.as_ref() else { return true };
        match pipe.write(&self.pending) {
            Ok(len) => drop(self.pending.drain(..len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The program reads no more.
            Err(_) => return false,
        }
        true
    }

    /// Who attaches from now on finds no standard input.
    fn end(&self) {
        let _ = fs::remove_file(&self.path);
    }
}
