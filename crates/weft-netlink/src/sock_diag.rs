//! Sockets of a network namespace: found by what they are connected to, and closed from
//! outside (`NETLINK_SOCK_DIAG`; `linux/inet_diag.h`, `linux/sock_diag.h`).
//!
//! A socket is closed only where cookie *and* destination are those that were asked for: the
//! cookie is the kernel's own number of the socket, unique since boot, and the destination
//! says that it is still connected to what it was seen connected to. Unconnected sockets are
//! never found: their kernel state is not among the states that are asked for.
//!
//! What the application sees: `ECONNABORTED` from the call that it waits in, or from the next
//! one; a TCP peer gets a reset, a UDP socket is disconnected and can be connected again.

use crate::{
    error::{Error, Result},
    netns,
    socket::{Connection, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, Refusal},
    wire::{self, Message},
};
use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    path::Path,
    sync::{Mutex, PoisonError},
};

const NETLINK_SOCK_DIAG: isize = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// Attribute with the filter that the kernel runs over each socket.
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_BC_JMP: u8 = 1;
const INET_DIAG_BC_D_COND: u8 = 8;
/// Length of an instruction without operands (`struct inet_diag_bc_op`).
const OP_LEN: usize = 4;
/// Length of `struct inet_diag_hostcond` without its address.
const HOST_LEN: usize = 8;
/// `struct inet_diag_sockid`: ports, addresses, link and cookie.
const ID_LEN: usize = 48;
/// Where it begins in `struct inet_diag_msg`.
const ID_AT: usize = 4;
/// Destinations in one filter: 8 KiB of instructions at most, far below the 64 KiB of an
/// attribute, and few enough that running them over every socket stays cheap.
const REMOTES_MAX: usize = 256;
/// A port that nothing can listen on; see [`SockDiag::probe`].
const NO_PORT: u16 = 0;

/// A transport protocol whose sockets can be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    const fn number(self) -> u8 {
        match self {
            Self::Tcp => libc::IPPROTO_TCP as u8,
            Self::Udp => libc::IPPROTO_UDP as u8,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }

    /// Bits of the states in which a socket has a peer that it may wait for (`net/tcp_states.h`,
    /// which UDP uses too). Not: `TIME_WAIT`, `CLOSE`, `LISTEN`, `NEW_SYN_RECV`.
    const fn states(self) -> u32 {
        const ESTABLISHED: u32 = 1 << 1;
        const SYN_SENT: u32 = 1 << 2;
        const FIN_WAIT1: u32 = 1 << 4;
        const FIN_WAIT2: u32 = 1 << 5;
        const CLOSE_WAIT: u32 = 1 << 8;
        const LAST_ACK: u32 = 1 << 9;
        const CLOSING: u32 = 1 << 11;
        match self {
            Self::Tcp => {
                ESTABLISHED | SYN_SENT | FIN_WAIT1 | FIN_WAIT2 | CLOSE_WAIT | LAST_ACK | CLOSING
            }
            Self::Udp => ESTABLISHED,
        }
    }
}

/// A connected socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connected {
    /// The kernel's number of the socket (`SO_COOKIE`), never reused since boot.
    pub cookie: u64,
    /// What it is connected to; IPv4 as IPv4, also where the socket is of family `AF_INET6`.
    pub remote: SocketAddr,
}

/// What became of the sockets that were to be closed; those that are in neither list were gone.
#[derive(Debug, Default)]
pub struct Closed {
    /// Closed.
    pub closed: Vec<Connected>,
    /// Still there, and why.
    pub left: Vec<(Connected, Error)>,
}

/// A socket as the kernel tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    family: u8,
    /// `struct inet_diag_sockid`, given back to the kernel as it came.
    id: [u8; ID_LEN],
    socket: Connected,
}

/// A handle to the sockets of one network namespace: the one in which it was opened.
pub struct SockDiag {
    connection: Mutex<Connection>,
}

impl SockDiag {
    /// Opens a handle in the calling thread's namespace.
    pub fn open() -> Result<Self> {
        let connection = Connection::open(NETLINK_SOCK_DIAG)
            .map_err(|e| Error::io("open netlink socket", "sock_diag", e))?;
        Ok(Self { connection: Mutex::new(connection) })
    }

    /// Opens a handle in the namespace that is mounted at `path`, and returns it with the
    /// namespace's cookie.
    pub fn open_in(path: &Path) -> Result<(Self, u64)> {
        netns::run_in(path, || Ok((Self::open()?, netns_cookie()?)))?
    }

    /// Whether the kernel can close sockets of `transport`: it says so when asked to close one
    /// that cannot exist. `EOPNOTSUPP` where it is built without `CONFIG_INET_DIAG_DESTROY`,
    /// `EPERM` without `CAP_NET_ADMIN`.
    pub fn probe(&self, transport: Transport) -> Result<()> {
        // A kernel without `tcp_diag` or `udp_diag` answers the second question like one that
        // has not found the socket, so it must be able to list sockets, too.
        let nowhere = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), NO_PORT);
        let family = libc::AF_INET as u8;
        self.list(transport, family, &[nowhere])?;
        let mut id = [0; ID_LEN];
        id[4..8].copy_from_slice(&Ipv4Addr::LOCALHOST.octets());
        id[20..24].copy_from_slice(&Ipv4Addr::LOCALHOST.octets());
        let socket = Connected { cookie: 0, remote: nowhere };
        self.destroy(transport, &Found { family, id, socket }).map(drop)
    }

    /// Closes those of `wanted` that exist and are connected to what is said. Closing what is
    /// gone succeeds, so it can be repeated; goes on after a refusal.
    pub fn close(&self, transport: Transport, wanted: &BTreeSet<Connected>) -> Result<Closed> {
        let mut done = Closed::default();
        let mut doubtful = BTreeSet::new();
        for found in self.find(transport, wanted)? {
            match self.destroy(transport, &found) {
                Ok(true) => done.closed.push(found.socket),
                // Gone in the meantime; or hidden behind another UDP socket of the same
                // addresses and ports, which is what the kernel then finds.
                Ok(false) => drop(doubtful.insert(found.socket)),
                Err(e) => done.left.push((found.socket, e)),
            }
        }
        if !doubtful.is_empty() {
            let still = self.find(transport, &doubtful)?.into_iter();
            done.left.extend(still.map(|found| {
                let source = io::Error::from_raw_os_error(libc::ENOENT);
                (found.socket, Error::io("close", found.socket.remote, source))
            }));
        }
        Ok(done)
    }

    /// Those of `wanted` that exist.
    fn find(&self, transport: Transport, wanted: &BTreeSet<Connected>) -> Result<Vec<Found>> {
        let remotes: BTreeSet<SocketAddr> = wanted.iter().map(|s| s.remote).collect();
        let remotes: Vec<SocketAddr> = remotes.into_iter().collect();
        let mut found = Vec::new();
        for part in remotes.chunks(REMOTES_MAX) {
            let v4: Vec<SocketAddr> = part.iter().filter(|r| r.is_ipv4()).copied().collect();
            if !v4.is_empty() {
                found.extend(self.list(transport, libc::AF_INET as u8, &v4)?);
            }
            // Sockets of this family talk to both.
            found.extend(self.list(transport, libc::AF_INET6 as u8, part)?);
        }
        found.retain(|f| wanted.contains(&f.socket));
        Ok(found)
    }

    /// Sockets of a family that are connected to one of `remotes`: chosen by the kernel, so
    /// that what is copied is what is asked for, however many sockets there are.
    fn list(&self, transport: Transport, family: u8, remotes: &[SocketAddr]) -> Result<Vec<Found>> {
        let header = request(transport, family, &[0; ID_LEN]);
        let mut message =
            Message::new(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP).header(&header);
        message.attr(INET_DIAG_REQ_BYTECODE, &filter(remotes));
        let answers = self.lock().dump(&message).map_err(|r| refused("list", transport, r))?;
        Ok(answers.iter().filter_map(|a| parse(&a.payload)).collect())
    }

    /// Closes one socket; false where it is not there.
    fn destroy(&self, transport: Transport, found: &Found) -> Result<bool> {
        let header = request(transport, found.family, &found.id);
        let message = Message::new(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK).header(&header);
        match self.lock().request(message) {
            Ok(_) => Ok(true),
            Err(r) if r.source.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(r) => Err(refused("close", transport, r)),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Connection> {
        // As in `Netlink`: stale answers are told apart by their sequence numbers.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(operation: &'static str, transport: Transport, r: Refusal) -> Error {
    let object = format!("{} sockets", transport.name());
    Error::Kernel { operation, object, detail: r.detail, source: r.source }
}

/// `struct inet_diag_req_v2`.
fn request(transport: Transport, family: u8, id: &[u8; ID_LEN]) -> Vec<u8> {
    let mut bytes = vec![family, transport.number(), 0, 0];
    bytes.extend_from_slice(&transport.states().to_ne_bytes());
    bytes.extend_from_slice(id);
    bytes
}

/// The filter "connected to one of these".
///
/// Each instruction says how far to go on yes and on no; to arrive exactly at the end means
/// that the socket is chosen, to go beyond it that it is not. The kernel checks a filter along
/// its yes-ways alone and wants every other way to end on one of these, so a yes leads to a
/// jump to the end (its *no*: a jump never says yes), and a no over that jump to the next.
fn filter(remotes: &[SocketAddr]) -> Vec<u8> {
    let cond_len = |r: &SocketAddr| OP_LEN + HOST_LEN + wire::ip_bytes(r.ip()).len();
    let total: usize = remotes.iter().map(|r| cond_len(r) + OP_LEN).sum();
    // The last one needs no jump.
    let total = total.saturating_sub(OP_LEN);
    let mut code = Vec::with_capacity(total);
    for (i, remote) in remotes.iter().enumerate() {
        let len = cond_len(remote);
        // Over the jump; or, for the last, by as much beyond the end, which is the same.
        op(&mut code, INET_DIAG_BC_D_COND, len, len + OP_LEN);
        let address = wire::ip_bytes(remote.ip());
        code.extend_from_slice(&[wire::family(remote.ip()), address.len() as u8 * 8, 0, 0]);
        code.extend_from_slice(&i32::from(remote.port()).to_ne_bytes());
        code.extend_from_slice(&address);
        if i + 1 < remotes.len() {
            let rest = total - code.len();
            op(&mut code, INET_DIAG_BC_JMP, OP_LEN, rest);
        }
    }
    code
}

/// `struct inet_diag_bc_op`.
fn op(code: &mut Vec<u8>, kind: u8, yes: usize, no: usize) {
    let no = u16::try_from(no).expect("invariant: REMOTES_MAX keeps filters short");
    code.extend_from_slice(&[kind, yes as u8]);
    code.extend_from_slice(&no.to_ne_bytes());
}

/// Reads `struct inet_diag_msg`.
fn parse(payload: &[u8]) -> Option<Found> {
    let family = *payload.first()?;
    let id: [u8; ID_LEN] = payload.get(ID_AT..ID_AT + ID_LEN)?.try_into().ok()?;
    let port = u16::from_be_bytes([id[2], id[3]]);
    let ip = match i32::from(family) {
        libc::AF_INET => wire::ip(&id[20..24])?,
        libc::AF_INET6 => match wire::ip(&id[20..36])? {
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
            v4 @ IpAddr::V4(_) => v4,
        },
        _ => return None,
    };
    let (low, high) = (wire::u32_at(&id, 40)?, wire::u32_at(&id, 44)?);
    let cookie = u64::from(low) | u64::from(high) << 32;
    Some(Found { family, id, socket: Connected { cookie, remote: SocketAddr::new(ip, port) } })
}

/// `SO_COOKIE`: the kernel's number of a socket.
pub fn cookie_of(socket: &impl AsFd) -> Result<u64> {
    get_u64(socket, libc::SO_COOKIE).map_err(|e| Error::io("ask for", "a socket's cookie", e))
}

/// Cookie of the calling thread's network namespace, as `bpf_get_netns_cookie` gives it to
/// programs; unique since boot.
pub fn netns_cookie() -> Result<u64> {
    /// `asm-generic/socket.h`; Linux 5.14.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let cookie = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .or_else(|_| std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)))
        .and_then(|socket| get_u64(&socket, SO_NETNS_COOKIE));
    cookie.map_err(|e| Error::io("ask for", "the namespace's cookie", e))
}

fn get_u64(socket: &impl AsFd, option: libc::c_int) -> io::Result<u64> {
    let mut value = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the value lives over the call and has the length that is given. Needed because
    // the standard library has no way to ask.
    let result = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, option, (&raw mut value).cast(), &raw mut len)
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
#[path = "sock_diag_tests.rs"]
mod tests;
