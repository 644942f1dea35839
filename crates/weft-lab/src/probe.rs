//! `weft lab-probe`: a small process inside a pod's or a node's network namespace and
//! cgroup that listens, dials and resolves on behalf of `weft lab verify`, and puts constant
//! load on Services for whoever wants to know what a change does to clients.
//!
//! One JSON request a line on standard input, one JSON reply a line on standard output; it
//! ends when its input ends. A process, not a thread: connect hooks follow the cgroup, and a
//! cgroup belongs to a process.

use anyhow::{Context, Result, bail};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RData, RecordType},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    sync::{Mutex, atomic::AtomicUsize, atomic::Ordering},
    thread,
    time::Duration,
};
use weft_model::IpFamily;

use crate::nodes::Place;
use doors::{Caller, Door};
use knock::{Heard, Knock, Sweep, Swept};
use load::Load;

pub mod doors;
pub mod knock;
pub mod load;
mod sctp;

/// Dials in flight at once in one probe.
const DIALS_AT_ONCE: usize = 32;
/// How long one connection attempt may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// Tries of one DNS query.
const DNS_TRIES: u32 = 3;

/// What a probe is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Request {
    /// Listen on a free TCP port of each address; every connection is told its peer.
    Listen { addresses: Vec<IpAddr> },
    /// Connect to each target.
    Dial { targets: Vec<Target> },
    /// Ask the servers for a name's addresses of one family.
    Resolve { servers: Vec<IpAddr>, name: String, family: IpFamily },
    /// Answer at these ports.
    Open { doors: Vec<Door> },
    /// Who came through them?
    Callers,
    /// Knock at each, and listen so long.
    Knock { knocks: Vec<Knock>, timeout_ms: u64 },
    /// The same again and again; a sweep that runs goes on, too.
    SweepStart { knocks: Vec<Knock>, timeout_ms: u64 },
    /// How many rounds did each sweep do so far?
    SweepSeen,
    /// End all sweeps and tell how they went.
    SweepEnd,
    /// Begin to ask, and go on; flows that run already go on, too.
    LoadStart { flows: Vec<load::Flow> },
    /// How many requests of each flow were answered so far?
    LoadSeen,
    /// End all flows and tell how they went.
    LoadEnd,
}

/// One connection to try.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Target {
    /// Where to.
    pub to: SocketAddr,
    /// Whether a probe listens there, which tells what address it sees.
    pub told: bool,
}

/// How a dial went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dialled {
    /// The address that the receiver saw, where the target tells.
    pub seen_as: Option<IpAddr>,
    /// Why it failed.
    pub error: Option<String>,
}

/// Entry point of the child process.
pub fn main() -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut loads = Vec::new();
    let mut sweeps = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line.context("read request")?;
        let reply = match serde_json::from_str(&line).context("decode request")? {
            Request::Listen { addresses } => serde_json::to_string(&listen(&addresses)?),
            Request::Dial { targets } => serde_json::to_string(&dial_all(&targets)),
            Request::Resolve { servers, name, family } => {
                serde_json::to_string(&resolve(&servers, &name, family).map_err(|e| e.to_string()))
            }
            Request::Open { doors } => serde_json::to_string(&doors::open(&doors)?),
            Request::Callers => serde_json::to_string(&doors::callers()),
            Request::Knock { knocks, timeout_ms } => {
                let timeout = Duration::from_millis(timeout_ms);
                serde_json::to_string(&knock::knock(&knocks, timeout))
            }
            Request::SweepStart { knocks, timeout_ms } => {
                sweeps.push(Sweep::start(knocks, Duration::from_millis(timeout_ms)));
                serde_json::to_string(&())
            }
            Request::SweepSeen => {
                let rounds: Vec<u64> = sweeps.iter().map(Sweep::rounds).collect();
                serde_json::to_string(&rounds)
            }
            Request::SweepEnd => {
                let ended: Vec<Swept> = sweeps.drain(..).map(Sweep::end).collect();
                serde_json::to_string(&ended)
            }
            Request::LoadStart { flows } => {
                loads.push(Load::start(flows));
                serde_json::to_string(&())
            }
            Request::LoadSeen => {
                let answered: Vec<u64> = loads.iter().flat_map(Load::answered).collect();
                serde_json::to_string(&answered)
            }
            Request::LoadEnd => {
                let ended: Vec<load::Report> = loads.drain(..).flat_map(Load::end).collect();
                serde_json::to_string(&ended)
            }
        };
        writeln!(out, "{}", reply.context("encode reply")?)?;
        out.flush()?;
    }
    Ok(())
}

fn listen(addresses: &[IpAddr]) -> Result<BTreeMap<IpAddr, u16>> {
    let mut ports = BTreeMap::new();
    for addr in addresses {
        let listener =
            TcpListener::bind((*addr, 0)).with_context(|| format!("listen on {addr}"))?;
        ports.insert(*addr, listener.local_addr()?.port());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                tell_peer(stream);
            }
        });
    }
    Ok(ports)
}

/// Tells a client the address that this end's socket has for it.
fn tell_peer(mut stream: TcpStream) {
    if let Ok(peer) = stream.peer_addr() {
        let _ = stream.set_write_timeout(Some(DIAL_TIMEOUT));
        let _ = stream.write_all(peer.ip().to_string().as_bytes());
    }
}

fn dial_all(targets: &[Target]) -> Vec<Dialled> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(vec![None; targets.len()]);
    thread::scope(|s| {
        for _ in 0..targets.len().min(DIALS_AT_ONCE) {
            s.spawn(|| {
                while let Some((i, t)) = Some(next.fetch_add(1, Ordering::Relaxed))
                    .and_then(|i| Some((i, targets.get(i)?)))
                {
                    let outcome = match dial(*t) {
                        Ok(seen_as) => Dialled { seen_as, error: None },
                        Err(e) => Dialled { seen_as: None, error: Some(format!("{e:#}")) },
                    };
                    results.lock().expect("invariant: no thread panics")[i] = Some(outcome);
                }
            });
        }
    });
    let results = results.into_inner().expect("invariant: no thread panics");
    results.into_iter().map(|r| r.expect("invariant: every target was dialled")).collect()
}

fn dial(target: Target) -> Result<Option<IpAddr>> {
    let stream = TcpStream::connect_timeout(&target.to, DIAL_TIMEOUT)?;
    if !target.told {
        return Ok(None);
    }
    stream.set_read_timeout(Some(DIAL_TIMEOUT))?;
    let mut said = String::new();
    stream.take(64).read_to_string(&mut said).context("connected, but no answer")?;
    let seen: IpAddr = said.parse().with_context(|| format!("unexpected answer {said:?}"))?;
    Ok(Some(seen.to_canonical()))
}

fn resolve(servers: &[IpAddr], name: &str, family: IpFamily) -> Result<Vec<IpAddr>> {
    let kind = match family {
        IpFamily::V4 => RecordType::A,
        IpFamily::V6 => RecordType::AAAA,
    };
    let mut last = None;
    for server in servers {
        for id in 1..=DNS_TRIES {
            match query(*server, name, kind, id as u16) {
                Ok(found) => return Ok(found),
                Err(e) => last = Some(e.context(format!("ask {server} for {name} {kind}"))),
            }
        }
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("no DNS server")))
}

fn query(server: IpAddr, name: &str, kind: RecordType, id: u16) -> Result<Vec<IpAddr>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name)?, kind));
    let any: IpAddr = if server.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.connect((server, 53))?;
    socket.send(&message.to_vec()?)?;
    let mut buffer = [0u8; 4096];
    let n = socket.recv(&mut buffer)?;
    let reply = Message::from_vec(&buffer[..n])?;
    if reply.metadata.id != id {
        bail!("reply to another query");
    }
    Ok(reply
        .answers
        .iter()
        .filter_map(|r| match &r.data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(a) => Some(IpAddr::V6(a.0)),
            _ => None,
        })
        .collect())
}

/// A running probe, seen from `verify`.
pub struct Probe {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Probe {
    /// Starts one in a namespace and cgroup.
    pub fn start(place: &Place) -> Result<Self> {
        Self::start_program(&PathBuf::from("/proc/self/exe"), place)
    }

    /// The same with the `weft` at a path, for callers that are another program.
    pub fn start_program(weft: &Path, place: &Place) -> Result<Self> {
        let mut command = place.command(weft)?;
        command.arg("lab-probe").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start a probe in {place}"))?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("invariant: stdout is piped")?);
        Ok(Self { child, input, output })
    }

    fn ask<T: for<'a> Deserialize<'a>>(&mut self, request: &Request) -> Result<T> {
        let input = self.input.as_mut().context("probe has ended")?;
        writeln!(input, "{}", serde_json::to_string(request)?).context("ask probe")?;
        input.flush()?;
        let mut line = String::new();
        self.output.read_line(&mut line).context("read probe's answer")?;
        if line.is_empty() {
            bail!("the probe ended without an answer");
        }
        serde_json::from_str(&line).context("decode probe's answer")
    }

    /// Listens on a free port of each address.
    pub fn listen(&mut self, addresses: Vec<IpAddr>) -> Result<BTreeMap<IpAddr, u16>> {
        self.ask(&Request::Listen { addresses })
    }

    /// Tries each target; results in the same order.
    pub fn dial(&mut self, targets: Vec<Target>) -> Result<Vec<Dialled>> {
        self.ask(&Request::Dial { targets })
    }

    /// Addresses of a name, of one family; the error is the resolver's own.
    pub fn resolve(
        &mut self,
        servers: Vec<IpAddr>,
        name: String,
        family: IpFamily,
    ) -> Result<Vec<IpAddr>> {
        let found: Result<Vec<IpAddr>, String> =
            self.ask(&Request::Resolve { servers, name, family })?;
        found.map_err(anyhow::Error::msg)
    }

    /// Answers at these ports, in both families. Gives back those where somebody else does.
    pub fn open(&mut self, doors: Vec<Door>) -> Result<Vec<Door>> {
        self.ask(&Request::Open { doors })
    }

    /// Who came through the doors so far.
    pub fn callers(&mut self) -> Result<Vec<Caller>> {
        self.ask(&Request::Callers)
    }

    /// Knocks everywhere at once; results in the same order, after `timeout_ms` at the latest
    /// for each 400.
    pub fn knock(&mut self, knocks: Vec<Knock>, timeout_ms: u64) -> Result<Vec<Heard>> {
        self.ask(&Request::Knock { knocks, timeout_ms })
    }

    /// Begins to knock again and again, beside what runs already.
    pub fn sweep(&mut self, knocks: Vec<Knock>, timeout_ms: u64) -> Result<()> {
        self.ask(&Request::SweepStart { knocks, timeout_ms })
    }

    /// How many rounds each sweep did so far, in the order of their begin.
    pub fn swept(&mut self) -> Result<Vec<u64>> {
        self.ask(&Request::SweepSeen)
    }

    /// Ends all sweeps and tells how they went, in the order in which they were begun.
    pub fn end_sweeps(&mut self) -> Result<Vec<Swept>> {
        self.ask(&Request::SweepEnd)
    }

    /// Begins to ask, beside what is asked already.
    pub fn load(&mut self, flows: Vec<load::Flow>) -> Result<()> {
        self.ask(&Request::LoadStart { flows })
    }

    /// How many requests of each flow were answered so far, in the order of their begin.
    pub fn answered(&mut self) -> Result<Vec<u64>> {
        self.ask(&Request::LoadSeen)
    }

    /// Ends all flows and tells how they went, in the order in which they were begun.
    pub fn end_load(&mut self) -> Result<Vec<load::Report>> {
        self.ask(&Request::LoadEnd)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
