//! SCTP's packets, made by hand: the kernel that a lab runs on may have no sockets of it, and to
//! policy it is a protocol as any other.

#![allow(unsafe_code)] // JUSTIFICATION: nix knows no number of this protocol, and raw sockets of
// a number are made by socket(2) alone.

use std::{
    io,
    net::IpAddr,
    os::fd::{FromRawFd, OwnedFd},
};

const PROTO_SCTP: libc::c_int = 132;
/// Chunk types (RFC 9260, section 3.2).
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
/// Common header, chunk header and the fixed part of INIT.
const LEN: usize = 12 + 4 + 16;

/// A raw socket that does not block, of the family of `like`.
pub(super) fn socket(like: IpAddr) -> io::Result<OwnedFd> {
    let family = if like.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes no pointers, and the descriptor belongs to nobody else.
    unsafe {
        match libc::socket(family, kind, PROTO_SCTP) {
            fd if fd < 0 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// What one side says to open an association, from the first port to the second.
pub(super) fn init(ports: (u16, u16)) -> Vec<u8> {
    packet(ports, INIT)
}

/// What the other side answers.
pub(super) fn init_ack(ports: (u16, u16)) -> Vec<u8> {
    packet(ports, INIT_ACK)
}

/// The ports of an INIT; `None` of anything else. `raw` is what a raw socket gave, of IPv4 with
/// the header of the network.
pub(super) fn ports_of_init(raw: &[u8], v4: bool) -> Option<(u16, u16)> {
    ports_of(raw, v4, INIT)
}

/// The ports of an INIT ACK.
pub(super) fn ports_of_init_ack(raw: &[u8], v4: bool) -> Option<(u16, u16)> {
    ports_of(raw, v4, INIT_ACK)
}

fn ports_of(raw: &[u8], v4: bool, chunk: u8) -> Option<(u16, u16)> {
    let header = if v4 { usize::from(raw.first()? & 0xf) * 4 } else { 0 };
    let packet = raw.get(header..)?;
    let port = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    (*packet.get(12)? == chunk).then_some((port(0)?, port(2)?))
}

fn packet(ports: (u16, u16), chunk: u8) -> Vec<u8> {
    let mut p = Vec::with_capacity(LEN);
    p.extend_from_slice(&ports.0.to_be_bytes());
    p.extend_from_slice(&ports.1.to_be_bytes());
    // The tag of an INIT is 0; nobody here looks at that of the answer.
    p.extend_from_slice(&[0; 8]);
    p.extend_from_slice(&[chunk, 0, 0, (LEN - 12) as u8]);
    // Tag, window, streams out and in, first sequence number.
    p.extend_from_slice(&[0, 0, 0, 1, 0, 0, 16, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = crc32c(&p);
    p[8..12].copy_from_slice(&sum.to_le_bytes());
    p
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_read_as_they_are_made() {
        // The check value of the polynomial.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let made = init((7, 80));
        assert_eq!(made.len(), LEN);
        assert_eq!(ports_of_init(&made, false), Some((7, 80)));
        assert_eq!(ports_of_init_ack(&made, false), None);
        let mut with_header = vec![0x45; 20];
        with_header.extend(init_ack((80, 7)));
        assert_eq!(ports_of_init_ack(&with_header, true), Some((80, 7)));
        assert_eq!(ports_of_init(&made[..9], false), None);
    }
}
