//! Ports that answer whoever may knock, and remember who did.

use anyhow::{Context, Result};
use nix::sys::socket::{MsgFlags, SockaddrStorage, recvfrom, sendto};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd, AsRawFd},
    sync::{Mutex, PoisonError},
    thread,
};

use super::{
    knock::{Carrier, address_of},
    sctp,
};

/// A port of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Door {
    /// The protocol; `Echo` needs no door, the kernel answers.
    pub carrier: Carrier,
    /// The port.
    pub port: u16,
}

/// Somebody who came through, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Caller {
    /// Where.
    pub door: Door,
    /// The address that was seen.
    pub from: IpAddr,
    /// How many connections or datagrams.
    pub times: u64,
}

/// Callers that are told apart; more are counted with the last.
const CALLERS_MAX: usize = 10_000;

static CALLERS: Mutex<BTreeMap<(Door, IpAddr), u64>> = Mutex::new(BTreeMap::new());

fn remember(door: Door, from: IpAddr) {
    let mut callers = CALLERS.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (door, from.to_canonical());
    if callers.len() < CALLERS_MAX || callers.contains_key(&key) {
        *callers.entry(key).or_default() += 1;
    } else if let Some(mut last) = callers.last_entry() {
        *last.get_mut() += 1;
    }
}

/// Everybody who came through so far.
pub(super) fn callers() -> Vec<Caller> {
    let callers = CALLERS.lock().unwrap_or_else(PoisonError::into_inner);
    let caller = |((door, from), times): (&(Door, IpAddr), &u64)| Caller {
        door: *door,
        from: *from,
        times: *times,
    };
    callers.iter().map(caller).collect()
}

/// Opens doors in both families. Gives back those where somebody else answers already.
pub(super) fn open(doors: &[Door]) -> Result<Vec<Door>> {
    let mut others = Vec::new();
    let mut sctp_ports = Vec::new();
    for door in doors {
        let opened = match door.carrier {
            Carrier::Tcp => tcp(*door),
            Carrier::Udp => udp(*door),
            Carrier::Sctp => {
                sctp_ports.push(door.port);
                Ok(())
            }
            Carrier::Echo => Ok(()),
        };
        match opened {
            Err(e) if e.kind() == ErrorKind::AddrInUse => others.push(*door),
            opened => opened.with_context(|| format!("open {door:?}"))?,
        }
    }
    if !sctp_ports.is_empty() {
        for any in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            sctp(any, sctp_ports.clone()).context("open a raw socket of SCTP")?;
        }
    }
    Ok(others)
}

/// Of both families, where the namespace has both.
fn any(port: u16) -> [SocketAddr; 2] {
    [
        SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port),
        SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port),
    ]
}

fn tcp(door: Door) -> io::Result<()> {
    let listener = TcpListener::bind(&any(door.port)[..])?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if let Ok(peer) = stream.peer_addr() {
                remember(door, peer.ip());
            }
        }
    });
    Ok(())
}

fn udp(door: Door) -> io::Result<()> {
    let socket = UdpSocket::bind(&any(door.port)[..])?;
    thread::spawn(move || {
        let mut buffer = [0; 512];
        loop {
            // Errors are about answers that nobody took.
            let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
            remember(door, from.ip());
            let _ = socket.send_to(&buffer[..len], from);
        }
    });
    Ok(())
}

fn sctp(any: IpAddr, ports: Vec<u16>) -> Result<()> {
    let socket = sctp::socket(any)?;
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        loop {
            let mut wait = [nix::poll::PollFd::new(socket.as_fd(), nix::poll::PollFlags::POLLIN)];
            if nix::poll::poll(&mut wait, nix::poll::PollTimeout::NONE).is_err() {
                continue;
            }
            let Ok((len, Some(from))) =
                recvfrom::<SockaddrStorage>(socket.as_raw_fd(), &mut buffer)
            else {
                continue;
            };
            let (Some(source), Some((client, port))) =
                (address_of(&from), sctp::ports_of_init(&buffer[..len], any.is_ipv4()))
            else {
                continue;
            };
            if ports.contains(&port) {
                remember(Door { carrier: Carrier::Sctp, port }, source);
                let to = SockaddrStorage::from(SocketAddr::new(source, 0));
                let answer = sctp::init_ack((port, client));
                let _ = sendto(socket.as_raw_fd(), &answer, &to, MsgFlags::empty());
            }
        }
    });
    Ok(())
}
