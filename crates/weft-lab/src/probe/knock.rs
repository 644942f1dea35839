//! Packets of every kind to many at once, and who answers: how policies are compared with what
//! really passes.
//!
//! Each knock is a flow of its own (a new port or identifier), so that no answer is owed to what
//! passed before. Whoever is reached answers, or refuses; policy's denials are silent, so silence
//! until the end of the time is what denial looks like from here.

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, connect,
        getsockopt, recv, send, setsockopt, socket, sockopt,
    },
};
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::sctp;

/// Knocks that wait at once: sockets are descriptors, and a process has 1,024.
const AT_ONCE: usize = 400;
/// How often a datagram is sent again: it may be lost for reasons that are no policy's.
const AGAIN: Duration = Duration::from_millis(90);
/// Of a sweep, passes that are kept word for word.
const PASSED_MAX: usize = 100;

/// What a datagram says: who echoes it need not understand it, and a DNS server does (the name
/// servers of the root).
const QUERY: [u8; 17] = [0x77, 0x66, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

/// What carries a knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Carrier {
    /// The handshake of TCP.
    Tcp,
    /// A datagram that is sent back.
    Udp,
    /// The first two packets of an association.
    Sctp,
    /// ICMP echo: no port.
    Echo,
}

/// One knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Knock {
    /// Where.
    pub to: IpAddr,
    /// By what.
    pub carrier: Carrier,
    /// At which port; 0 where there are none.
    pub port: u16,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Heard {
    /// An answer.
    Answer,
    /// Reached, but nobody listens there.
    Refused,
    /// Nothing.
    Nothing,
    /// It could not be sent, or was turned back on its way.
    Failed(String),
}

impl Heard {
    /// Whether packets came through, there and back.
    pub fn passed(&self) -> bool {
        matches!(self, Self::Answer | Self::Refused)
    }
}

/// Knocks, and listens until everybody has answered or the time is over. Results in the order of
/// the knocks.
pub(super) fn knock(knocks: &[Knock], timeout: Duration) -> Vec<Heard> {
    knocks.chunks(AT_ONCE).flat_map(|part| knock_at_once(part, timeout)).collect()
}

fn knock_at_once(knocks: &[Knock], timeout: Duration) -> Vec<Heard> {
    let mut heard = vec![Heard::Nothing; knocks.len()];
    let mut waiting: Vec<(usize, Flow)> = Vec::new();
    for (i, k) in knocks.iter().enumerate() {
        match Flow::begin(*k) {
            Ok(flow) => waiting.push((i, flow)),
            Err(e) => heard[i] = outcome(e),
        }
    }
    // From when the last one was sent: on a busy machine sending so many takes its time, too.
    let begin = Instant::now();
    let mut again = begin + AGAIN;
    while !waiting.is_empty() {
        let now = Instant::now();
        // Whoever overslept looks once more at what has come meanwhile.
        let last = now >= begin + timeout;
        let until = again.min(begin + timeout).saturating_duration_since(now);
        // Rounded up: a wait of no time at all is a busy loop.
        let until = if last { 0 } else { u16::try_from(until.as_millis() + 1).unwrap_or(u16::MAX) };
        let mut ready: Vec<PollFd<'_>> =
            waiting.iter().map(|(_, f)| PollFd::new(f.fd.as_fd(), f.interest())).collect();
        if poll(&mut ready, PollTimeout::from(until)).is_err() {
            continue;
        }
        let ready: Vec<bool> =
            ready.iter().map(|r| r.revents().is_some_and(|e| !e.is_empty())).collect();
        let mut at = 0;
        waiting.retain(|(i, flow)| {
            at += 1;
            if !ready[at - 1] {
                return true;
            }
            match flow.listen() {
                Some(what) => heard[*i] = what,
                None => return true,
            }
            false
        });
        if last {
            break;
        }
        if Instant::now() >= again {
            again += AGAIN;
            waiting.iter().for_each(|(_, f)| f.send_again());
        }
    }
    heard
}

/// What an error of a socket says about the way.
fn outcome(e: Errno) -> Heard {
    match e {
        // Of SCTP where nobody speaks it: the message comes from the far end.
        Errno::ECONNREFUSED | Errno::ENOPROTOOPT => Heard::Refused,
        other => Heard::Failed(other.desc().to_owned()),
    }
}

/// A knock on its way.
struct Flow {
    fd: OwnedFd,
    knock: Knock,
    /// What tells answers to this one from those to others: port or identifier.
    own: u16,
}

static OWN: AtomicU16 = AtomicU16::new(0);

impl Flow {
    fn begin(knock: Knock) -> Result<Self, Errno> {
        let v4 = knock.to.is_ipv4();
        let family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let of = |kind, protocol: Option<SockProtocol>| socket(family, kind, flags, protocol);
        let fd = match knock.carrier {
            Carrier::Tcp => {
                let fd = of(SockType::Stream, None)?;
                // Closing resets: no TIME_WAIT, so that ports do not run out.
                setsockopt(&fd, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
                fd
            }
            Carrier::Udp => of(SockType::Datagram, None)?,
            Carrier::Echo if v4 => of(SockType::Raw, Some(SockProtocol::Icmp))?,
            Carrier::Echo => of(SockType::Raw, Some(SockProtocol::IcmpV6))?,
            Carrier::Sctp => sctp::socket(knock.to)
                .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or_default()))?,
        };
        let port = match knock.carrier {
            Carrier::Tcp | Carrier::Udp => knock.port,
            Carrier::Sctp | Carrier::Echo => 0,
        };
        let to = SockaddrStorage::from(SocketAddr::new(knock.to, port));
        match connect(fd.as_raw_fd(), &to) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(e) => return Err(e),
        }
        // Of its own range, beside those that the kernel chooses for others.
        let own = 1024 + OWN.fetch_add(1, Ordering::Relaxed) % 30_000;
        let flow = Self { fd, knock, own };
        flow.send()?;
        Ok(flow)
    }

    fn packet(&self) -> Option<Vec<u8>> {
        let echo = |kind: u8| {
            let mut packet = vec![kind, 0, 0, 0];
            packet.extend(self.own.to_be_bytes());
            packet.extend([0, 1]);
            packet
        };
        match self.knock.carrier {
            Carrier::Tcp => None,
            Carrier::Udp => Some(QUERY.to_vec()),
            Carrier::Sctp => Some(sctp::init((self.own, self.knock.port))),
            Carrier::Echo if self.knock.to.is_ipv4() => {
                let mut packet = echo(8);
                let sum = checksum(&packet);
                packet[2..4].copy_from_slice(&sum.to_be_bytes());
                Some(packet)
            }
            // The kernel puts in the sum, which is over addresses too.
            Carrier::Echo => Some(echo(128)),
        }
    }

    fn send(&self) -> Result<(), Errno> {
        match self.packet() {
            Some(packet) => send(self.fd.as_raw_fd(), &packet, MsgFlags::MSG_NOSIGNAL).map(drop),
            None => Ok(()),
        }
    }

    fn send_again(&self) {
        // An error of an earlier one is heard when listening.
        let _ = self.send();
    }

    fn interest(&self) -> PollFlags {
        match self.knock.carrier {
            Carrier::Tcp => PollFlags::POLLOUT,
            _ => PollFlags::POLLIN,
        }
    }

    /// What is there now; `None` where it is not meant for this knock.
    fn listen(&self) -> Option<Heard> {
        if self.knock.carrier == Carrier::Tcp {
            return Some(match getsockopt(&self.fd, sockopt::SocketError) {
                Ok(0) => Heard::Answer,
                Ok(e) => outcome(Errno::from_raw(e)),
                Err(e) => outcome(e),
            });
        }
        let mut buffer = [0; 2048];
        loop {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(len) if self.is_answer(&buffer[..len]) => return Some(Heard::Answer),
                Ok(_) => {}
                Err(Errno::EAGAIN) => return None,
                Err(e) => return Some(outcome(e)),
            }
        }
    }

    fn is_answer(&self, raw: &[u8]) -> bool {
        let v4 = self.knock.to.is_ipv4();
        match self.knock.carrier {
            Carrier::Tcp | Carrier::Udp => true,
            Carrier::Sctp => sctp::ports_of_init_ack(raw, v4) == Some((self.knock.port, self.own)),
            Carrier::Echo => {
                let header = match raw.first() {
                    Some(first) if v4 => usize::from(first & 0xf) * 4,
                    _ => 0,
                };
                let reply = if v4 { 0 } else { 129 };
                let [high, low] = self.own.to_be_bytes();
                raw.get(header..header + 6).is_some_and(|p| p[0] == reply && p[4..6] == [high, low])
            }
        }
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let pairs = bytes.chunks(2).map(|p| u32::from(p[0]) << 8 | u32::from(*p.get(1).unwrap_or(&0)));
    let sum: u32 = pairs.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// The address of a socket's name.
pub(super) fn address_of(name: &SockaddrStorage) -> Option<IpAddr> {
    match (name.as_sockaddr_in(), name.as_sockaddr_in6()) {
        (Some(v4), _) => Some(v4.ip().into()),
        (_, Some(v6)) => Some(v6.ip().into()),
        _ => None,
    }
}

/// The same knocks again and again.
pub(super) struct Sweep {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<Swept>,
}

/// How a sweep went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swept {
    /// Rounds that were done.
    pub rounds: u64,
    /// Knocks that got through.
    pub passed: u64,
    /// The first of them, with the round and the time since the begin in milliseconds.
    pub samples: Vec<(Knock, u64, u64)>,
}

/// A sweep ends by itself after this, so that a client that is forgotten goes silent.
const LIFE_MAX: Duration = Duration::from_secs(300);

impl Sweep {
    /// Begins; every round takes as long as `timeout`, where somebody does not answer.
    pub(super) fn start(knocks: Vec<Knock>, timeout: Duration) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ends, counts) = (stop.clone(), rounds.clone());
        let thread = thread::spawn(move || {
            let begin = Instant::now();
            let mut swept = Swept::default();
            while !ends.load(Ordering::Relaxed) && begin.elapsed() < LIFE_MAX {
                let at_ms = begin.elapsed().as_millis() as u64;
                for (k, heard) in knocks.iter().zip(knock(&knocks, timeout)) {
                    if !heard.passed() {
                        continue;
                    }
                    swept.passed += 1;
                    if swept.samples.len() < PASSED_MAX {
                        swept.samples.push((*k, swept.rounds, at_ms));
                    }
                }
                swept.rounds += 1;
                counts.store(swept.rounds, Ordering::Relaxed);
            }
            swept
        });
        Self { stop, rounds, thread }
    }

    /// Rounds so far.
    pub(super) fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Ends and tells.
    pub(super) fn end(self) -> Swept {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::doors::{self, Door};

    #[test]
    fn sums_are_those_of_the_standard() {
        // RFC 1071, section 3: the sum of these is ddf2.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn whoever_listens_answers_and_whoever_does_not_refuses() {
        let port = std::net::UdpSocket::bind("127.0.0.1:0")
            .and_then(|s| s.local_addr())
            .expect("a free port")
            .port();
        let to: IpAddr = [127, 0, 0, 1].into();
        let at = |carrier, port| Knock { to, carrier, port };
        let closed = knock(&[at(Carrier::Tcp, port), at(Carrier::Udp, port)], AGAIN * 20);
        assert_eq!(closed, [Heard::Refused, Heard::Refused]);
        let open = [Carrier::Tcp, Carrier::Udp].map(|carrier| Door { carrier, port });
        assert_eq!(doors::open(&open).expect("open"), []);
        assert_eq!(doors::open(&open).expect("again"), open, "somebody is there");
        let heard = knock(&[at(Carrier::Tcp, port), at(Carrier::Udp, port)], AGAIN * 20);
        assert_eq!(heard, [Heard::Answer, Heard::Answer]);
        // A connection may be accepted after its client has the answer; a datagram is remembered
        // before it is sent back.
        let udp = doors::callers().into_iter().find(|c| c.door == open[1]);
        assert!(udp.is_some_and(|c| c.from == to && c.times >= 1), "{udp:?}");
    }
}
