//! From a fresh fork to the program: the order of the steps is the confinement.
//!
//! cgroups → namespaces → root → streams → user namespace, capabilities, seccomp → `execve`.

use super::confine::{self, UserNamespace};
use super::idmap::IdMaps;
use super::shim::Streams;
use super::target::Root;
use super::{At, Step, join_group, replace, rootfs, terminal};
use crate::wire::{Command, Failure, Identity, Stage, Start};
use crate::{Program, sys};
use nix::sched::{CloneFlags, setns, unshare};
use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// What `PATH` is where the specification does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Open files of a program, soft and hard.
const NOFILE: (u64, u64) = (65_536, 1_048_576);
/// Containers go before the machine's own processes when memory runs out.
const OOM_SCORE: &str = "900";

/// The first process of a container.
pub(crate) fn container(
    socket: BorrowedFd<'_>,
    start: &Start,
    streams: &Streams,
    (stand_in, maps): (Option<&OwnedFd>, &IdMaps),
) -> Step<Infallible> {
    let spec = &start.spec;
    join_v1(&start.groups.v1)?;
    for (file, kind) in [
        ("netns", CloneFlags::CLONE_NEWNET),
        ("ipcns", CloneFlags::CLONE_NEWIPC),
        ("utsns", CloneFlags::CLONE_NEWUTS),
    ] {
        let path = start.dir.join(file);
        let namespace = File::open(&path).at(Stage::Namespace, &path)?;
        setns(&namespace, kind).at(Stage::Namespace, &path)?;
    }
    // Now that all groups are joined: they are its root.
    unshare(CloneFlags::CLONE_NEWCGROUP).at(Stage::Namespace, "cgroup")?;
    rootfs::build(start, maps)?;
    session()?;
    match streams {
        Streams::Terminal => terminal::open(socket, &start.identity)?,
        Streams::Pipes(stdin, stdout, stderr) => pipes([stdin, stdout, stderr])?,
    }
    let mut keep = vec![socket];
    keep.extend(stand_in.map(AsFd::as_fd));
    sys::close_others(&keep);
    enter_cwd(spec.cwd.as_deref(), &start.identity, true)?;
    let program = match &spec.program {
        Program::Command(argv) => Executable::Command(argv),
        Program::StandIn(config) => Executable::StandIn(stand_in, config),
    };
    confine::enter(socket, &start.identity, UserNamespace::New)?;
    execute(&program, &spec.env, &start.identity, spec.tty)
}

/// Namespaces of a running container, opened while /proc is the machine's.
pub(crate) struct Namespaces {
    pub others: Vec<(OwnedFd, CloneFlags)>,
    pub user: OwnedFd,
}

/// A command in a running container.
pub(crate) fn command(
    socket: BorrowedFd<'_>,
    command: &Command,
    namespaces: Namespaces,
    streams: &Streams,
) -> Step<Infallible> {
    join_v1(&command.groups.v1)?;
    // Closed here, by their owner: see `close_others` below.
    for (namespace, kind) in namespaces.others {
        setns(&namespace, kind).at(Stage::Namespace, format!("{kind:?}"))?;
    }
    session()?;
    match streams {
        Streams::Terminal => terminal::open(socket, &command.identity)?,
        Streams::Pipes(stdin, stdout, stderr) => pipes([stdin, stdout, stderr])?,
    }
    let spec = &command.spec;
    sys::close_others(&[socket, namespaces.user.as_fd()]);
    enter_cwd(spec.cwd.as_deref(), &command.identity, false)?;
    confine::enter(socket, &command.identity, UserNamespace::Join(namespaces.user))?;
    execute(&Executable::Command(&spec.argv), &spec.env, &command.identity, spec.tty)
}

fn join_v1(groups: &[std::path::PathBuf]) -> Step<()> {
    groups.iter().try_for_each(|group| join_group(group))?;
    std::fs::write("/proc/self/oom_score_adj", OOM_SCORE)
        .at(Stage::Cgroup, "/proc/self/oom_score_adj")
}

/// Session, signals, limits, umask: what a program expects to start with.
fn session() -> Step<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
    let _ = nix::unistd::setsid();
    // Nobody in the container may look into this process before it is the program.
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).at(Stage::Confine, "PR_SET_DUMPABLE")?;
    // std ignores SIGPIPE, and ignored signals stay ignored over execve.
    // SAFETY: sets a default disposition; no handler of ours is involved.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.at(Stage::Confine, "SIGPIPE")?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .at(Stage::Confine, "signal mask")?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).at(Stage::Confine, "RLIMIT_CORE")?;
    // What the caller has bounds it where root may not raise limits (a container without
    // CAP_SYS_RESOURCE).
    if setrlimit(Resource::RLIMIT_NOFILE, NOFILE.0, NOFILE.1).is_err() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).at(Stage::Confine, "RLIMIT_NOFILE")?;
        setrlimit(Resource::RLIMIT_NOFILE, NOFILE.0.min(hard), hard)
            .at(Stage::Confine, "RLIMIT_NOFILE")?;
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    Ok(())
}

fn pipes(streams: [&OwnedFd; 3]) -> Step<()> {
    for (stream, fd) in streams.into_iter().enumerate() {
        replace(fd.as_fd(), stream as i32).at(Stage::Stdio, "dup2")?;
    }
    Ok(())
}

/// Runtimes make a working directory that is not there.
///
/// Resolved without magic links (`/proc/self/fd/7`, `/proc/1/root`): with the rights that this
/// process still has they could lead out of the container (CVE-2024-21626 in runc).
fn enter_cwd(cwd: Option<&Path>, identity: &Identity, make: bool) -> Step<()> {
    let cwd = cwd.unwrap_or(Path::new("/"));
    let top = File::open("/").at(Stage::Cwd, "/")?;
    let owner = if identity.privileged { 0 } else { identity.base };
    let found = if make {
        Root { fd: top.as_fd(), owner }.ensure(cwd, true)
    } else {
        sys::open_in_root(top.as_fd(), cwd)
    };
    nix::unistd::fchdir(found.at(Stage::Cwd, cwd)?).at(Stage::Cwd, cwd)
}

enum Executable<'a> {
    Command(&'a [String]),
    StandIn(Option<&'a OwnedFd>, &'a str),
}

fn execute(
    program: &Executable<'_>,
    env: &[(String, String)],
    identity: &Identity,
    tty: bool,
) -> Step<Infallible> {
    let mut env = env.to_vec();
    let mut default = |name: &str, value: &str| {
        if !env.iter().any(|(known, _)| known == name) {
            env.push((name.to_owned(), value.to_owned()));
        }
    };
    default("PATH", PATH);
    default("HOME", if identity.uid == 0 { "/root" } else { "/" });
    if tty {
        default("TERM", "xterm");
    }
    let path = env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
    if let Executable::StandIn(_, config) = program {
        env.push(("WEFT_STANDIN".to_owned(), (*config).to_owned()));
    }
    // A value with a NUL byte cannot be passed on; Kubernetes does not let one in.
    let env: Vec<CString> = env
        .iter()
        .filter_map(|(name, value)| CString::new(format!("{name}={value}")).ok())
        .collect();
    let env: Vec<&CStr> = env.iter().map(CString::as_c_str).collect();
    // Whatever a step above has opened without the flag.
    sys::close_from(3, true);
    match program {
        Executable::StandIn(Some(binary), _) => {
            let error = sys::exec_fd(binary.as_fd(), &[c"weft", c"stand-in"], &env);
            Err(error).at(Stage::Exec, "stand-in")
        }
        Executable::StandIn(None, _) => Err(errno(libc::ENOENT)).at(Stage::Exec, "stand-in"),
        Executable::Command(argv) => {
            let name = argv.first().cloned().unwrap_or_default();
            Err(search(argv, path.as_deref().unwrap_or(PATH), &env)).at(Stage::Exec, name)
        }
    }
}

/// `execvpe`: with a slash as it is, else along `PATH`. Returns only on an error.
fn search(argv: &[String], path: &str, env: &[&CStr]) -> std::io::Error {
    let Ok(words) =
        argv.iter().map(|word| CString::new(word.as_str())).collect::<Result<Vec<_>, _>>()
    else {
        return errno(libc::EINVAL);
    };
    let words: Vec<&CStr> = words.iter().map(CString::as_c_str).collect();
    let Some(first) = argv.first().filter(|first| !first.is_empty()) else {
        return errno(libc::ENOENT);
    };
    if first.contains('/') {
        return sys::exec_path(words[0], &words, env);
    }
    let mut answer = errno(libc::ENOENT);
    for dir in path.split(':') {
        let dir = if dir.is_empty() { "." } else { dir };
        let Ok(candidate) = CString::new(format!("{dir}/{first}")) else { continue };
        let error = sys::exec_path(&candidate, &words, env);
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            // As the shell: something of that name that cannot be run is remembered, and the
            // search goes on.
            Some(libc::EACCES) => answer = error,
            _ => return error,
        }
    }
    answer
}

fn errno(number: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(number)
}

/// Lets `spawn` take what these functions return.
pub(crate) fn failure(result: Step<Infallible>) -> Failure {
    match result {
        Ok(never) => match never {},
        Err(failure) => failure,
    }
}
