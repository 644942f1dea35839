//! UDP: an identity line for each datagram, from the address that it was sent to.

use crate::identity::Peer;
use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Longest datagram that is read; the rest of longer ones is not looked at.
const DATAGRAM_LEN_MAX: usize = 2048;

/// Answers datagrams for ever. `peer` is the template: its ends are filled in.
pub(crate) async fn serve(socket: UdpSocket, peer: Peer) {
    let mut buffer = vec![0; DATAGRAM_LEN_MAX];
    loop {
        let received = socket.async_io(Interest::READABLE, || receive(&socket, &mut buffer)).await;
        let Ok(Some(datagram)) = received else { continue };
        let server = datagram.to.map_or(peer.server.ip(), IpAddr::from);
        let peer = Peer {
            client: datagram.from,
            server: SocketAddr::new(server, peer.port.port),
            ..peer.clone()
        };
        peer.log(&format!("udp {} bytes", datagram.len));
        let line = peer.line();
        // Full buffers and unreachable clients lose an answer, as the network may.
        let _ =
            socket.async_io(Interest::WRITABLE, || send(&socket, line.as_bytes(), &datagram)).await;
    }
}

struct Datagram {
    from: SocketAddr,
    /// The address that it was sent to, and the control message that answers from there.
    to: Option<IpAddr>,
    info: Option<Info>,
    len: usize,
}

enum Info {
    V4(nix::libc::in_pktinfo),
    V6(nix::libc::in6_pktinfo),
}

/// Makes the kernel say where datagrams were sent to.
pub(crate) fn want_info(socket: &std::net::UdpSocket, v6: bool) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    if v6 {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    Ok(())
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
    let mut space = cmsg_space!(nix::libc::in6_pktinfo, nix::libc::in_pktinfo);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut space),
        MsgFlags::empty(),
    )?;
    let Some(from) = message.address.as_ref().and_then(address) else { return Ok(None) };
    let mut datagram = Datagram { from, to: None, info: None, len: message.bytes };
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv4PacketInfo(mut info) => {
                datagram.to = Some(IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes()));
                info.ipi_spec_dst = info.ipi_addr;
                info.ipi_ifindex = 0;
                datagram.info = Some(Info::V4(info));
            }
            ControlMessageOwned::Ipv6PacketInfo(mut info) => {
                let to = std::net::Ipv6Addr::from(info.ipi6_addr.s6_addr);
                datagram.to = Some(to.into());
                // Link-local addresses need their interface.
                if !to.is_unicast_link_local() {
                    info.ipi6_ifindex = 0;
                }
                datagram.info = Some(Info::V6(info));
            }
            _ => {}
        }
    }
    Ok(Some(datagram))
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::V4((*v4).into()));
    }
    storage.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into()))
}

fn send(socket: &UdpSocket, bytes: &[u8], datagram: &Datagram) -> io::Result<()> {
    let slices = [IoSlice::new(bytes)];
    let to = SockaddrStorage::from(datagram.from);
    let control = match &datagram.info {
        Some(Info::V4(info)) => vec![ControlMessage::Ipv4PacketInfo(info)],
        Some(Info::V6(info)) => vec![ControlMessage::Ipv6PacketInfo(info)],
        None => Vec::new(),
    };
    sendmsg(socket.as_raw_fd(), &slices, &control, MsgFlags::empty(), Some(&to))?;
    Ok(())
}
