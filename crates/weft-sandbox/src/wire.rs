//! What caller and helper say to each other.
//!
//! The helper's standard input is one end of a SEQPACKET socket pair: descriptors travel with
//! messages, and message boundaries are the kernel's. The request itself lies in a memfd, since
//! an environment may be larger than a packet.

use crate::{ContainerSpec, ExecSpec, Exit};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::SystemTime;

/// Longest report; they hold a path or two.
const REPORT_LEN_MAX: usize = 16 * 1024;
/// Most descriptors with a message.
const FDS_MAX: usize = 4;

/// What the helper was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Reading the request.
    Request,
    /// Joining cgroups.
    Cgroup,
    /// Joining or making namespaces.
    Namespace,
    /// Building the container's root.
    Root,
    /// Bind mounts of the specification.
    Mount,
    /// Entering the user namespace, dropping privileges.
    Confine,
    /// Standard streams and terminal.
    Stdio,
    /// Working directory.
    Cwd,
    /// Executing the program.
    Exec,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Stage::Request => "reading the request",
            Stage::Cgroup => "joining cgroups",
            Stage::Namespace => "joining namespaces",
            Stage::Root => "building the root",
            Stage::Mount => "mounting volumes",
            Stage::Confine => "dropping privileges",
            Stage::Stdio => "connecting standard streams",
            Stage::Cwd => "entering the working directory",
            Stage::Exec => "executing",
        })
    }
}

/// What the helper is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Become the shim of a container.
    Start(Box<Start>),
    /// Run a command in a container.
    Exec(Box<Command>),
    /// Make the process that keeps a shared PID namespace.
    Pause(Pause),
}

/// The cgroup directories of a container, absolute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Groups {
    /// On cgroup2.
    pub v2: PathBuf,
    /// On v1 hierarchies; to be joined as well.
    pub v1: Vec<PathBuf>,
}

/// Who the program is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// First id of the range on the machine.
    pub base: u32,
    /// User in the container.
    pub uid: u32,
    /// Group in the container.
    pub gid: u32,
    /// Supplementary groups in the container.
    pub groups: Vec<u32>,
    /// No user namespace, no masks, all capabilities.
    pub privileged: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    /// The pod's directory.
    pub dir: PathBuf,
    pub share_pid: bool,
    /// cgroup2 directory of the pod's shims.
    pub shim_group: PathBuf,
    pub groups: Groups,
    pub identity: Identity,
    pub spec: ContainerSpec,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Command {
    /// First process of the container, and its start time.
    pub pid: i32,
    pub start_ticks: u64,
    pub groups: Groups,
    /// cgroup2 directory of the pod's shims.
    pub shim_group: PathBuf,
    pub identity: Identity,
    pub spec: ExecSpec,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Pause {
    /// cgroup2 directory of the pod's shims.
    pub shim_group: PathBuf,
    /// The pod's directory: the namespace is bound to `pidns` there.
    pub dir: PathBuf,
    /// Id on the machine that the process takes.
    pub id: u32,
}

/// What the helper, or the child that it makes, reports.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// Child to helper: it has unshared the user namespace and waits for the id maps.
    WantMaps,
    /// Helper to child: they are written.
    Mapped,
    /// The message carries the master of the terminal.
    Terminal,
    /// The program has been executed. The message carries its pidfd.
    Started(Option<Box<State>>),
    /// The set-up failed.
    Failed(Failure),
    /// The command has ended.
    Exited(Exit),
}

/// A failure on the far side.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub stage: Stage,
    pub detail: String,
    pub errno: i32,
}

impl From<Failure> for crate::Error {
    fn from(failure: Failure) -> Self {
        let source = io::Error::from_raw_os_error(failure.errno);
        match failure.stage {
            Stage::Exec => crate::Error::Program { program: failure.detail, source },
            stage => crate::Error::Setup { stage, detail: failure.detail, source },
        }
    }
}

/// What is remembered about a container, in `<dir>/<name>.state`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub name: String,
    pub pid: i32,
    pub start_ticks: u64,
    pub shim_pid: i32,
    pub shim_start_ticks: u64,
    pub started_at: SystemTime,
    pub groups: Groups,
    pub shim_group: PathBuf,
    pub identity: Identity,
    pub stdin: bool,
    pub tty: bool,
}

/// What is remembered about its end, in `<dir>/<name>.exit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub exit: Exit,
    pub finished_at: SystemTime,
}

/// A close-on-exec SEQPACKET pair.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends a message with descriptors.
pub(crate) fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    send_bytes(socket, &bytes, fds)
}

fn send_bytes(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    loop {
        // MSG_NOSIGNAL: the caller may be gone; that must not end a shim.
        match sendmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Receives a message; `None` at the end (the other side has closed).
pub(crate) fn recv<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    match recv_bytes(socket)? {
        None => Ok(None),
        Some((bytes, fds)) => Ok(Some((serde_json::from_slice(&bytes)?, fds))),
    }
}

fn recv_bytes(socket: BorrowedFd<'_>) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut buffer = vec![0u8; REPORT_LEN_MAX];
    let mut space = nix::cmsg_space!([i32; FDS_MAX]);
    let (len, fds) = loop {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        match recvmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        ) {
            Ok(message) => {
                let mut fds = Vec::new();
                for control in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(raw) = control {
                        // SAFETY: the kernel has just installed these descriptors for us.
                        fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                    }
                }
                break (message.bytes, fds);
            }
            Err(nix::errno::Errno::EINTR) => continue,
            // The other side was killed with a message of ours unread.
            Err(nix::errno::Errno::ECONNRESET) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    };
    if len == 0 {
        return Ok(None);
    }
    buffer.truncate(len);
    Ok(Some((buffer, fds)))
}

/// Sends the request and the descriptors that go with it.
pub(crate) fn send_request(
    socket: BorrowedFd<'_>,
    request: &Request,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let memfd =
        nix::sys::memfd::memfd_create("weft-request", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
    let mut file = std::fs::File::from(memfd);
    file.write_all(&serde_json::to_vec(request)?)?;
    file.rewind()?;
    let mut all = vec![file.as_fd()];
    all.extend(fds);
    send_bytes(socket, b"request", &all)
}

/// Receives the request; the descriptors without the memfd.
pub(crate) fn recv_request(socket: BorrowedFd<'_>) -> io::Result<(Request, Vec<OwnedFd>)> {
    let Some((_, mut fds)) = recv_bytes(socket)? else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    if fds.is_empty() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    std::fs::File::from(fds.remove(0)).read_to_end(&mut bytes)?;
    Ok((serde_json::from_slice(&bytes)?, fds))
}
