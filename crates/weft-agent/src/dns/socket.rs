//! Sockets that may be bound before their address exists.

use super::DnsError;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};
use std::{io, net::SocketAddr, os::fd::OwnedFd};
use tokio::net::{TcpListener, UdpSocket};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// Attempts to find a port that is free for both protocols, where the kernel may choose.
const PORT_ATTEMPTS: u32 = 16;

/// A UDP and a TCP socket on the same address and port.
pub(super) fn pair(address: SocketAddr) -> Result<(UdpSocket, TcpListener), DnsError> {
    if address.ip().is_unspecified() {
        return Err(DnsError::Wildcard(address));
    }
    let mut attempt = 1;
    loop {
        let udp = udp(address).map_err(|e| failed(address, "UDP", e))?;
        let bound = udp.local_addr().map_err(|e| failed(address, "UDP", e))?;
        match tcp(SocketAddr::new(address.ip(), bound.port())) {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(e)
                if address.port() == 0
                    && e.kind() == io::ErrorKind::AddrInUse
                    && attempt < PORT_ATTEMPTS =>
            {
                attempt += 1;
            }
            Err(e) => return Err(failed(address, "TCP", e)),
        }
    }
}

fn failed(address: SocketAddr, protocol: &'static str, source: io::Error) -> DnsError {
    DnsError::Listen { address, protocol, source }
}

fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    UdpSocket::from_std(bound(address, SockType::Datagram)?.into())
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let fd = bound(address, SockType::Stream)?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    TcpListener::from_std(fd.into())
}

fn bound(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, kind, flags, None)?;
    // The router address of the node comes with its pod CIDR, and may go and come again. The
    // option of the IP level serves IPv6 sockets as well (the kernel keeps one flag for both).
    setsockopt(&fd, sockopt::IpFreebind, &true)?;
    if kind == SockType::Stream {
        // Connections of a server that just ended must not hold up the next one. Not for UDP:
        // there it would let two servers bind.
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    if family == AddressFamily::Inet6 {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrStorage::from(address))?;
    Ok(fd)
}
