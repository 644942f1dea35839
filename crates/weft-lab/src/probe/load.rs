//! Constant load of one client: flows that each ask again and again, and count how it went.
//!
//! A flow behaves as ordinary clients do: it waits for an answer, takes a new connection after
//! an error, and repeats once, without counting a failure, what it sent on a kept connection
//! that turned out to be closed (RFC 9110 section 9.2.2 lets it, and so do the usual HTTP
//! clients and resolvers). What it never forgives is silence: that is a failure of its own kind.

use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// A flow ends by itself after this, so that a client that is forgotten goes silent.
const LIFE_MAX: Duration = Duration::from_secs(300);
/// Failures that are kept word for word.
const SAMPLES_MAX: usize = 8;
/// Longest answer that is read.
const ANSWER_LEN_MAX: usize = 16 << 10;

/// How a flow asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// HTTP over a new TCP connection for each request.
    Tcp,
    /// HTTP over one TCP connection for as long as it lasts.
    KeepAlive,
    /// UDP through one connected socket.
    UdpConnected,
    /// UDP through one socket that is not connected.
    UdpUnconnected,
}

/// What to ask, and how often.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Flow {
    /// For the report.
    pub name: String,
    /// How.
    pub kind: Kind,
    /// Whom.
    pub to: SocketAddr,
    /// Pause after each request.
    pub pause_ms: u64,
    /// How long an answer may take until it counts as silence.
    pub timeout_ms: u64,
}

/// How a flow went.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The flow's name.
    pub name: String,
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that were not, by kind: `refused`, `reset`, `aborted`, `unreachable`, `silence`,
    /// `other`.
    pub failures: BTreeMap<String, u64>,
    /// Requests that were repeated on a new connection or socket because the kept one had been
    /// closed, by the server or by the node.
    pub repeated: u64,
    /// Longest time from one answer to the next.
    pub longest_gap_ms: u64,
    /// Who answered how often.
    pub servers: BTreeMap<String, u64>,
    /// The first failures, with the time since the start.
    pub samples: Vec<String>,
}

/// Flows that run.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    flows: Vec<(JoinHandle<Report>, Arc<AtomicU64>)>,
}

impl Load {
    /// Starts every flow on a thread of its own.
    pub(super) fn start(flows: Vec<Flow>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let run = |flow: Flow| {
            let (stop, answered) = (stop.clone(), Arc::new(AtomicU64::new(0)));
            let count = answered.clone();
            (thread::spawn(move || run(flow, &stop, &count)), answered)
        };
        Self { flows: flows.into_iter().map(run).collect(), stop }
    }

    /// How many requests of each flow were answered so far.
    pub(super) fn answered(&self) -> Vec<u64> {
        self.flows.iter().map(|(_, answered)| answered.load(Ordering::Relaxed)).collect()
    }

    /// Ends all flows and tells how they went.
    pub(super) fn end(self) -> Vec<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let reports = self.flows.into_iter().map(|(flow, _)| flow.join());
        reports.map(|r| r.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    }
}

fn run(flow: Flow, stop: &AtomicBool, answered: &AtomicU64) -> Report {
    let begin = Instant::now();
    let mut report = Report { name: flow.name.clone(), ..Report::default() };
    let mut asker = Asker { kind: flow.kind, to: flow.to, timeout: timeout(&flow), kept: None };
    let mut last = begin;
    while !stop.load(Ordering::Relaxed) && begin.elapsed() < LIFE_MAX {
        match asker.ask(&mut report.repeated) {
            Ok(server) => {
                report.answered += 1;
                answered.store(report.answered, Ordering::Relaxed);
                *report.servers.entry(server).or_default() += 1;
                let gap = last.elapsed().as_millis() as u64;
                report.longest_gap_ms = report.longest_gap_ms.max(gap);
                last = Instant::now();
            }
            Err(e) => {
                let kind = kind_of(&e);
                if report.samples.len() < SAMPLES_MAX {
                    report.samples.push(format!("{kind} at {:?}: {e}", begin.elapsed()));
                }
                *report.failures.entry(kind.to_owned()).or_default() += 1;
            }
        }
        thread::sleep(Duration::from_millis(flow.pause_ms));
    }
    report
}

fn timeout(flow: &Flow) -> Duration {
    Duration::from_millis(flow.timeout_ms.max(1))
}

fn kind_of(e: &io::Error) -> &'static str {
    match e.kind() {
        ErrorKind::ConnectionRefused => "refused",
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => "reset",
        ErrorKind::ConnectionAborted => "aborted",
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "unreachable",
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "silence",
        // What `send` says of a UDP socket that was disconnected.
        _ if e.raw_os_error() == Some(libc::EDESTADDRREQ) => "aborted",
        _ => "other",
    }
}

/// Whether a connection was over before its time.
fn was_closed(e: &io::Error) -> bool {
    matches!(kind_of(e), "reset" | "aborted")
}

/// A connection or socket that is used again.
enum Kept {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

struct Asker {
    kind: Kind,
    to: SocketAddr,
    timeout: Duration,
    kept: Option<Kept>,
}

impl Asker {
    /// One request; who answered.
    fn ask(&mut self, repeated: &mut u64) -> io::Result<String> {
        match self.kind {
            Kind::Tcp => self.http(&mut self.dial()?, "close"),
            Kind::KeepAlive => self.keep_alive(repeated),
            Kind::UdpUnconnected => self.udp(),
            Kind::UdpConnected => {
                let kept = self.kept.is_some();
                match self.udp() {
                    Err(e) if kept && was_closed(&e) => {
                        *repeated += 1;
                        self.udp()
                    }
                    said => said,
                }
            }
        }
    }

    fn dial(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.to, self.timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        Ok(stream)
    }

    fn keep_alive(&mut self, repeated: &mut u64) -> io::Result<String> {
        if let Some(Kept::Tcp(mut stream)) = self.kept.take() {
            match self.http(&mut stream, "keep-alive") {
                Ok(server) => {
                    self.kept = Some(Kept::Tcp(stream));
                    return Ok(server);
                }
                Err(e) if was_closed(&e) => *repeated += 1,
                Err(e) => return Err(e),
            }
        }
        let mut stream = self.dial()?;
        let server = self.http(&mut stream, "keep-alive")?;
        self.kept = Some(Kept::Tcp(stream));
        Ok(server)
    }

    /// One HTTP/1.1 request with a whole answer.
    fn http(&self, stream: &mut TcpStream, connection: &str) -> io::Result<String> {
        let request = format!("GET / HTTP/1.1\r\nHost: load\r\nConnection: {connection}\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        let mut part = [0; 4096];
        loop {
            if let Some(body) = whole(&answer) {
                return Ok(pod(&String::from_utf8_lossy(body)));
            }
            if answer.len() > ANSWER_LEN_MAX {
                return Err(io::Error::new(ErrorKind::InvalidData, "the answer is too long"));
            }
            match stream.read(&mut part)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                n => answer.extend_from_slice(&part[..n]),
            }
        }
    }

    fn udp(&mut self) -> io::Result<String> {
        let connected = self.kind == Kind::UdpConnected;
        let socket = match self.kept.take() {
            Some(Kept::Udp(socket)) => socket,
            _ => {
                let any: IpAddr =
                    if self.to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
                let socket = UdpSocket::bind((any, 0))?;
                socket.set_read_timeout(Some(self.timeout))?;
                if connected {
                    socket.connect(self.to)?;
                }
                socket
            }
        };
        // An answer that came too late must not count for this request.
        socket.set_nonblocking(true)?;
        let mut buffer = [0; 2048];
        while socket.recv(&mut buffer).is_ok() {}
        socket.set_nonblocking(false)?;
        let said = if connected {
            socket.send(b"who?").and_then(|_| socket.recv(&mut buffer))
        } else {
            socket.send_to(b"who?", self.to).and_then(|_| self.receive(&socket, &mut buffer))
        };
        // After an error a client takes a new socket; one that is not connected has no reason to.
        if said.is_ok() || !connected {
            self.kept = Some(Kept::Udp(socket));
        }
        Ok(first_word(&String::from_utf8_lossy(&buffer[..said?])))
    }

    /// An answer that comes from whom was asked; a careful client takes no other.
    fn receive(&self, socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<usize> {
        let (length, from) = socket.recv_from(buffer)?;
        if from == self.to {
            return Ok(length);
        }
        Err(io::Error::new(ErrorKind::InvalidData, format!("an answer of {from}")))
    }
}

/// The body, once head and body are there.
fn whole(answer: &[u8]) -> Option<&[u8]> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let length = head.split("content-length:").nth(1)?.lines().next()?;
    answer.get(end..end + length.trim().parse::<usize>().ok()?)
}

/// The pod that a stand-in names in its answer over HTTP.
fn pod(body: &str) -> String {
    let named = body.split("\"pod\": \"").nth(1).and_then(|rest| rest.split('"').next());
    named.unwrap_or("?").to_owned()
}

/// The pod that a stand-in names over UDP: `<namespace>/<pod> …`.
fn first_word(line: &str) -> String {
    let word = line.split(' ').next().unwrap_or_default();
    word.rsplit('/').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_to_their_end() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{\"pod\": \"one\"}";
        assert_eq!(pod(&String::from_utf8_lossy(whole(answer).expect("whole"))), "one");
        assert!((0..answer.len()).all(|n| whole(&answer[..n]).is_none()));
        assert_eq!(first_word("default/one node1 10.0.0.1 client=10.0.0.2:1\n"), "one");
    }

    #[test]
    fn a_flow_counts_what_it_sees() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let to = server.local_addr().expect("address");
        let flow = |kind, timeout_ms| Flow {
            name: format!("{kind:?}"),
            kind,
            to,
            pause_ms: 1,
            timeout_ms,
        };
        // Nobody listens with TCP; over UDP the first is left waiting, the second is answered.
        let load = Load::start(vec![flow(Kind::Tcp, 5000), flow(Kind::UdpUnconnected, 50)]);
        let mut buffer = [0; 16];
        server.recv_from(&mut buffer).expect("receive");
        let (_, client) = server.recv_from(&mut buffer).expect("receive");
        server.send_to(b"default/me x", client).expect("send");
        server.recv_from(&mut buffer).expect("the next request");
        let [tcp, udp] = &load.end()[..] else { panic!("two reports") };
        assert!(tcp.answered == 0 && tcp.failures["refused"] > 0, "{tcp:?}");
        assert!(udp.servers.contains_key("me") && udp.failures["silence"] > 0, "{udp:?}");
    }
}
