//! SCTP's packets, made by hand: the kernel that tests run on may have no sockets of it. Also
//! included by the lab's tests.
#![allow(unsafe_code)]

use nix::libc;
use nix::sys::socket::{MsgFlags, SockaddrStorage, recvfrom, sendto, setsockopt, sockopt};
use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

const PROTO_SCTP: i32 = 132;
pub const INIT: u8 = 1;
pub const INIT_ACK: u8 = 2;
pub const COOKIE_ECHO: u8 = 10;
pub const ABORT: u8 = 6;

/// RFC 9260, appendix A, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |c, _| {
                if c & 1 != 0 { c >> 1 ^ 0x82f6_3b78 } else { c >> 1 }
            },
        )
    })
}

/// A packet with one chunk.
pub fn packet(ports: (u16, u16), chunk: u8, len: usize) -> Vec<u8> {
    let mut p = Vec::new();
    p.extend_from_slice(&ports.0.to_be_bytes());
    p.extend_from_slice(&ports.1.to_be_bytes());
    p.extend_from_slice(&[9, 9, 9, 9, 0, 0, 0, 0, chunk, 0]);
    p.extend_from_slice(&((len + 4) as u16).to_be_bytes());
    p.extend((0..len).map(|n| n as u8));
    let sum = crc32c(&p);
    p[8..12].copy_from_slice(&sum.to_le_bytes());
    p
}

/// A raw socket of SCTP.
pub struct Raw {
    fd: OwnedFd,
    v4: bool,
}

impl Raw {
    /// In the calling thread's namespace.
    pub fn new(v4: bool) -> Self {
        let fd = {
            let family = if v4 { libc::AF_INET } else { libc::AF_INET6 };
            // SAFETY: takes no pointers; the descriptor belongs to nobody else. (nix knows no
            // number of this protocol.)
            unsafe {
                let fd = libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, PROTO_SCTP);
                assert!(fd >= 0, "{}", std::io::Error::last_os_error());
                OwnedFd::from_raw_fd(fd)
            }
        };
        setsockopt(&fd, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(5, 0)).unwrap();
        Self { fd, v4 }
    }

    pub fn send(&self, to: IpAddr, packet: &[u8]) {
        let to = SockaddrStorage::from(SocketAddr::new(to, 0));
        sendto(self.fd.as_raw_fd(), packet, &to, MsgFlags::empty()).expect("send");
    }

    /// Source, ports, chunk and length of the chunk's data; checks the sum.
    pub fn receive(&self) -> (IpAddr, (u16, u16), u8, usize) {
        let mut buffer = vec![0; 65_536];
        let (len, from) =
            recvfrom::<SockaddrStorage>(self.fd.as_raw_fd(), &mut buffer).expect("a packet");
        let from = from.expect("address");
        let from = match (from.as_sockaddr_in(), from.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::V4(v4.ip()),
            (_, Some(v6)) => IpAddr::V6(v6.ip()),
            _ => panic!("no address"),
        };
        // Raw sockets of IPv4 get the header, those of IPv6 do not.
        let packet = &mut buffer[if self.v4 { 20 } else { 0 }..len];
        let sum = u32::from_le_bytes(packet[8..12].try_into().unwrap());
        packet[8..12].fill(0);
        assert_eq!(sum, crc32c(packet), "the checksum is wrong");
        let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        (from, (port(0), port(2)), packet[12], packet.len() - 16)
    }
}
