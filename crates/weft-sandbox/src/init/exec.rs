//! The helper of a command in a running container: joins, waits, reports the end.

use super::child::{self, Namespaces};
use super::shim::{Streams, supervise};
use super::{At, Child, Step, fail, join_group, open_group, spawn};
use crate::wire::{self, Command, Report, Stage};
use crate::{Exit, cgroup, sys};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

/// Runs as the helper; returns the exit code. Descriptors: stdout, stderr and perhaps stdin,
/// or none with a terminal.
pub(crate) fn run(socket: OwnedFd, command: Command, fds: Vec<OwnedFd>) -> i32 {
    let kills_before = cgroup::oom_kills(&command.groups);
    let child = match launch(&socket, &command, fds) {
        Ok(child) => child,
        Err(failure) => return fail(socket.as_fd(), failure),
    };
    let _ = wire::send(socket.as_fd(), &Report::Started(None), &[child.pidfd.as_fd()]);
    let (code, signal) = match sys::reap(child.pidfd.as_fd(), true) {
        Ok(Some(end)) => end,
        _ => (255, None),
    };
    let oom_killed = code == 137 && cgroup::oom_kills(&command.groups) > kills_before;
    let _ = wire::send(socket.as_fd(), &Report::Exited(Exit { code, signal, oom_killed }), &[]);
    0
}

fn launch(socket: &OwnedFd, command: &Command, mut fds: Vec<OwnedFd>) -> Step<Child> {
    let (namespaces, pid_namespace) = open_namespaces(command)?;
    join_group(&command.shim_group)?;
    let _ = nix::unistd::setsid();
    setns(&pid_namespace, CloneFlags::CLONE_NEWPID).at(Stage::Namespace, "pid")?;
    let streams = if command.spec.tty {
        Streams::Terminal
    } else {
        let stdin = if fds.len() > 2 {
            fds.remove(2)
        } else {
            File::open("/dev/null").at(Stage::Stdio, "/dev/null")?.into()
        };
        if fds.len() != 2 {
            return Err(std::io::Error::from_raw_os_error(libc::EBADF)).at(Stage::Stdio, "pipes");
        }
        let (uid, gid) = super::confine::host_ids(&command.identity);
        for fd in &fds {
            nix::unistd::fchown(fd, Some(uid.into()), Some(gid.into())).at(Stage::Stdio, "pipe")?;
        }
        let stderr = fds.remove(1);
        Streams::Pipes(stdin, fds.remove(0), stderr)
    };
    let group = open_group(&command.groups.v2)?;
    let child = spawn(0, Some(group.as_fd()), |socket| {
        child::failure(child::command(socket, command, namespaces, &streams))
    })
    .at(Stage::Namespace, "clone")?;
    drop(streams);
    match supervise(&child.socket, child.pid, &command.identity) {
        Ok(None) => {}
        Ok(Some(terminal)) => {
            wire::send(socket.as_fd(), &Report::Terminal, &[terminal.as_fd()])
                .at(Stage::Stdio, "terminal")?;
        }
        Err(failure) => {
            let _ = sys::reap(child.pidfd.as_fd(), true);
            return Err(failure);
        }
    }
    Ok(child)
}

/// Opens them all, then looks whether it was the right process: the files stay with it.
fn open_namespaces(command: &Command) -> Step<(Namespaces, OwnedFd)> {
    let pid = command.pid;
    let open = |kind: &str| {
        let path = format!("/proc/{pid}/ns/{kind}");
        match File::open(&path) {
            Ok(file) => Ok(OwnedFd::from(file)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(std::io::Error::from_raw_os_error(libc::ESRCH)).at(Stage::Namespace, path)
            }
            Err(error) => Err(error).at(Stage::Namespace, path),
        }
    };
    let others = vec![
        (open("cgroup")?, CloneFlags::CLONE_NEWCGROUP),
        (open("net")?, CloneFlags::CLONE_NEWNET),
        (open("ipc")?, CloneFlags::CLONE_NEWIPC),
        (open("uts")?, CloneFlags::CLONE_NEWUTS),
        (open("mnt")?, CloneFlags::CLONE_NEWNS),
    ];
    let (user, pid_namespace) = (open("user")?, open("pid")?);
    if sys::start_ticks(pid) != Some(command.start_ticks) {
        let gone = std::io::Error::from_raw_os_error(libc::ESRCH);
        return Err(gone).at(Stage::Namespace, format!("/proc/{pid}"));
    }
    Ok((Namespaces { others, user }, pid_namespace))
}
