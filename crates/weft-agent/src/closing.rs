//! The sockets stage: closes the sockets of backends that left, so that no client waits for
//! somebody who will never answer (`docs/adr/0018`).
//!
//! Flow: tables are in the kernel → the hooks' records of connected sockets → those that the
//! tables call stale (`weft_services::stale`), TCP after it was so for a while → closed in
//! their network namespaces → records removed. Nothing is remembered between two rounds but
//! since when a socket is stale and how often it was looked for in vain: what is to be closed
//! follows from the records and the tables, so a restarted agent closes what its predecessor
//! did not.
//!
//! It runs after the service stage and beside it: a change of the tables never waits for it.

use crate::{namespaces::PodNamespaces, reconcile::chain, state::State};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;
use weft_bpf::{Records, SocketRecord};
use weft_model::{Port, Protocol, Snapshot};
use weft_netlink::sock_diag::{Closed, Connected, SockDiag, Transport, netns_cookie};
use weft_services::{Backend, Frontend, ServiceTables, Used};

/// How often the records are looked at although nothing changed.
const DRIFT_INTERVAL: Duration = Duration::from_secs(10);
/// When to look again for a socket that was not found: one that connects has a record a moment
/// before the kernel lists it.
const AGAIN: Duration = Duration::from_secs(1);
/// How often a socket is looked for. After that it is gone, and so is its record.
const TRIES_MAX: u32 = 3;
/// Changes that come faster are looked at together.
const PAUSE: Duration = Duration::from_millis(20);

/// So long a TCP connection's pod must be in no slice before it counts as gone. A Service that
/// is deleted and made again has no slices for a moment: those of before go with it, and the
/// controller gathers for up to a second before it writes new ones. Far less than a client waits
/// whose backend does not answer (TCP gives up after a quarter of an hour), and less than a node
/// takes to be called lost (40 s).
const SETTLE: Duration = Duration::from_secs(5);

const UNKNOWN_PLACE: &str = "sockets of backends that went are in a network namespace that is \
    neither the node's nor a pod's, and are left alone";

/// What the service stage put into the kernel last.
#[derive(Debug)]
pub struct Applied {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// The tables that were planned from it.
    pub tables: ServiceTables,
}

/// Publishes what was applied; none before the first time, and while the kernel's tables are
/// being changed.
pub type AppliedSender = watch::Sender<Option<Arc<Applied>>>;

type Probe = fn(&SockDiag, Transport) -> weft_netlink::Result<()>;

/// The sockets stage.
pub struct SocketStage {
    state: Arc<State>,
    bpf_dir: PathBuf,
    namespaces: Arc<PodNamespaces>,
    /// Cookie and sockets of the node's own namespace; `None` until it could be opened.
    own: Option<(u64, SockDiag)>,
    /// Why the kernel does not close sockets, where it does not.
    refusals: BTreeMap<Transport, String>,
    /// When it was asked whether it does.
    asked: Option<Instant>,
    /// [`SockDiag::probe`].
    probe: Probe,
    records: Option<Records>,
    settling: Settling,
    /// Sockets that were not found yet, and how often they were looked for.
    sought: BTreeMap<SocketRecord, u32>,
    /// Sockets closed since the agent started.
    closed: BTreeMap<Transport, u64>,
}

/// Since when TCP sockets are stale: one is closed once it was so for [`SETTLE`], in every look
/// at it.
#[derive(Debug, Default)]
struct Settling(BTreeMap<SocketRecord, Instant>);

impl Settling {
    /// Those of `stale` to be closed now, and how long until the next one is. What is not stale
    /// any more is forgotten.
    fn due(
        &mut self,
        stale: Vec<SocketRecord>,
        now: Instant,
    ) -> (Vec<SocketRecord>, Option<Duration>) {
        let before = std::mem::take(&mut self.0);
        let (mut due, mut wait) = (Vec::new(), None::<Duration>);
        for record in stale {
            if record.protocol != Protocol::Tcp {
                due.push(record);
                continue;
            }
            let since = before.get(&record).copied().unwrap_or(now);
            self.0.insert(record, since);
            match SETTLE.saturating_sub(now.saturating_duration_since(since)) {
                Duration::ZERO => due.push(record),
                left => wait = Some(wait.map_or(left, |w| w.min(left))),
            }
        }
        (due, wait)
    }
}

/// One round, for the status.
#[derive(Default)]
struct Round {
    errors: Vec<String>,
    diagnostics: BTreeSet<String>,
    /// Sockets that are stale and still there, as far as is known.
    left: u64,
    /// Whether to look again soon.
    again: bool,
}

impl SocketStage {
    /// A stage for the namespace of the thread that will call [`Self::step`], which is the
    /// node's.
    pub fn new(state: Arc<State>, bpf_dir: PathBuf, namespaces: Arc<PodNamespaces>) -> Self {
        Self {
            state,
            bpf_dir,
            namespaces,
            own: None,
            refusals: BTreeMap::new(),
            asked: None,
            probe: SockDiag::probe,
            records: None,
            settling: Settling::default(),
            sought: BTreeMap::new(),
            closed: BTreeMap::new(),
        }
    }

    /// Asks the kernel what it can do, again and again where it cannot do all: what it lacked
    /// may be a module that somebody loads later, or memory.
    fn ask(&mut self, now: Instant) -> weft_netlink::Result<()> {
        let (_, sockets) = match self.own.take() {
            Some(own) => self.own.insert(own),
            None => {
                let sockets = SockDiag::open()?;
                self.own.insert((netns_cookie()?, sockets))
            }
        };
        let due = |at: Instant| now.saturating_duration_since(at) >= DRIFT_INTERVAL;
        let first = self.asked.is_none();
        if first || !self.refusals.is_empty() && self.asked.is_some_and(due) {
            self.asked = Some(now);
            let why = |t| (self.probe)(sockets, t).err().map(|e| (t, chain(&e)));
            self.refusals = [Transport::Tcp, Transport::Udp].into_iter().filter_map(why).collect();
            if !first && self.refusals.is_empty() {
                tracing::info!("this kernel closes sockets now");
            }
        }
        Ok(())
    }

    /// Closes what is stale by the tables; says when to look again. `current`: whether these are
    /// still the tables in the kernel; those of records that are newer than them say nothing.
    /// Blocks.
    pub fn step(
        &mut self,
        applied: &Applied,
        now: Instant,
        current: impl Fn() -> bool,
    ) -> Duration {
        let mut round = Round::default();
        if let Err(e) = self.ask(now) {
            round.errors.push(chain(&e));
        }
        let mut settled = None;
        match self.stale(applied) {
            // Asked after the records were listed.
            Ok(_) if !current() => return AGAIN,
            Ok(stale) => {
                let (due, wait) = self.settling.due(stale, now);
                settled = wait;
                self.close_all(due, &mut round);
            }
            Err(e) => round.errors.push(chain(&e)),
        }
        for (transport, why) in &self.refusals {
            round.diagnostics.insert(format!(
                "this kernel does not close {transport:?} sockets, so clients of a backend that \
                 went wait until they give up: {why}"
            ));
        }
        let wait = if round.again || !round.errors.is_empty() { AGAIN } else { DRIFT_INTERVAL };
        self.tell(applied.snapshot.generation, round);
        settled.map_or(wait, |settled| settled.min(wait))
    }

    /// Records of connected sockets that must not stay with their backend.
    fn stale(&mut self, applied: &Applied) -> weft_bpf::Result<Vec<SocketRecord>> {
        let records = match self.records.take() {
            Some(records) => records,
            None => Records::open(&self.bpf_dir)?,
        };
        let mut all = self.records.insert(records).list()?;
        all.retain(|r| r.connected);
        let used: BTreeSet<Used> = all.iter().filter_map(used).collect();
        if used.is_empty() {
            return Ok(Vec::new());
        }
        let Applied { snapshot, tables } = applied;
        let stale = weft_services::stale(snapshot, tables, &used);
        all.retain(|r| used_of(r, &stale));
        Ok(all)
    }

    fn close_all(&mut self, stale: Vec<SocketRecord>, round: &mut Round) {
        let mut places: BTreeMap<(u64, Transport), Vec<SocketRecord>> = BTreeMap::new();
        for record in stale {
            let tcp = record.protocol == Protocol::Tcp;
            let transport = if tcp { Transport::Tcp } else { Transport::Udp };
            places.entry((record.netns_cookie, transport)).or_default().push(record);
        }
        let before = std::mem::take(&mut self.sought);
        let mut ended = Vec::new();
        for ((netns, transport), records) in places {
            let done = match self.close_in(netns, transport, &records) {
                Some(Ok(done)) => done,
                why => {
                    round.left += records.len() as u64;
                    match why {
                        Some(Err(e)) => round.errors.push(chain(&e)),
                        // Told already, where the kernel refuses.
                        _ if self.refusals.contains_key(&transport) => {}
                        _ => drop(round.diagnostics.insert(UNKNOWN_PLACE.to_owned())),
                    }
                    continue;
                }
            };
            *self.closed.entry(transport).or_default() += done.closed.len() as u64;
            round.left += done.left.len() as u64;
            round.errors.extend(done.left.first().map(|(_, e)| chain(e)));
            let closed: BTreeSet<Connected> = done.closed.into_iter().collect();
            let left: BTreeSet<Connected> = done.left.into_iter().map(|(s, _)| s).collect();
            for record in records {
                let socket = connected(&record);
                let tries = before.get(&record).copied().unwrap_or_default() + 1;
                if left.contains(&socket) {
                    round.again = true;
                } else if closed.contains(&socket) || tries >= TRIES_MAX {
                    ended.push(record);
                } else {
                    self.sought.insert(record, tries);
                    round.again = true;
                }
            }
        }
        if let Some(Err(e)) = self.records.as_ref().map(|r| r.remove(&ended)) {
            round.errors.push(chain(&e));
        }
    }

    /// Closes sockets of one namespace; `None` where they cannot be closed.
    fn close_in(
        &self,
        netns: u64,
        transport: Transport,
        records: &[SocketRecord],
    ) -> Option<weft_netlink::Result<Closed>> {
        if self.refusals.contains_key(&transport) {
            return None;
        }
        let wanted: BTreeSet<Connected> = records.iter().map(connected).collect();
        match &self.own {
            Some((own, sockets)) if *own == netns => Some(sockets.close(transport, &wanted)),
            _ => {
                let sockets = self.namespaces.sockets(netns)?;
                Some(sockets.and_then(|s| s.close(transport, &wanted)))
            }
        }
    }

    fn tell(&self, generation: u64, round: Round) {
        let Round { errors, diagnostics, left, .. } = round;
        let diagnostics: Vec<String> = diagnostics.into_iter().collect();
        let closed = |t| self.closed.get(&t).copied().unwrap_or_default();
        let counts = [
            ("closedTcp", closed(Transport::Tcp)),
            ("closedUdp", closed(Transport::Udp)),
            ("notClosed", left),
            ("settling", self.settling.0.len() as u64),
        ];
        self.state.record("sockets", |stage| {
            stage.log_news("sockets", &errors, &diagnostics);
            if errors.is_empty() {
                stage.generation = generation.max(1);
            }
            (stage.errors, stage.diagnostics, stage.counts) = (errors, diagnostics, counts.into());
        });
    }
}

/// Runs the stage whenever other tables were applied, until `cancel` or the end of the service
/// stage. Blocks its thread.
pub fn follow(
    runtime: &Handle,
    cancel: &CancellationToken,
    mut applied: watch::Receiver<Option<Arc<Applied>>>,
    stage: &mut SocketStage,
) {
    loop {
        let latest = applied.borrow_and_update().clone();
        let current = || !applied.has_changed().unwrap_or(true);
        let wait =
            latest.map_or(DRIFT_INTERVAL, |latest| stage.step(&latest, Instant::now(), current));
        let go_on = runtime.block_on(async {
            let changed = async {
                tokio::time::sleep(PAUSE).await;
                applied.changed().await
            };
            tokio::select! {
                () = cancel.cancelled() => false,
                changed = changed => changed.is_ok(),
                () = tokio::time::sleep(wait) => true,
            }
        });
        if !go_on {
            return;
        }
    }
}

/// Whether the kernel leads clients from outside by their address.
pub fn hash_feature() -> weft_bpf::Feature {
    let purpose = "leads clients from outside by their address (weft.dev/lb: maglev)".to_owned();
    let (ok, detail) = match weft_netlink::netfilter::probe_hash() {
        Ok(()) => (true, purpose),
        Err(e) => (false, format!("{purpose}: {}", chain(&e))),
    };
    weft_bpf::Feature { name: "nft-hash".to_owned(), ok, optional: true, detail }
}

/// Whether the kernel closes sockets.
pub fn features() -> Vec<weft_bpf::Feature> {
    let probe = |(transport, name): (Transport, &str)| {
        let result = SockDiag::open().and_then(|sockets| sockets.probe(transport));
        let purpose = "closes sockets whose backend went".to_owned();
        let (ok, detail) = match &result {
            Ok(()) => (true, purpose),
            Err(e) => (false, format!("{purpose}: {}", chain(e))),
        };
        weft_bpf::Feature { name: name.to_owned(), ok, optional: true, detail }
    };
    [(Transport::Tcp, "close-tcp-sockets"), (Transport::Udp, "close-udp-sockets")].map(probe).into()
}

fn connected(record: &SocketRecord) -> Connected {
    Connected { cookie: record.cookie, remote: record.backend }
}

/// The record in the planner's terms; `None` for a port that none can be.
fn used(record: &SocketRecord) -> Option<Used> {
    let port = |n: u16| Port::try_from(i32::from(n)).ok();
    let frontend = Frontend {
        addr: record.frontend.ip(),
        port: port(record.frontend.port())?,
        protocol: record.protocol,
    };
    let backend = Backend { addr: record.backend.ip(), port: port(record.backend.port())? };
    Some(Used { frontend, backend })
}

fn used_of(record: &SocketRecord, set: &BTreeSet<Used>) -> bool {
    used(record).is_some_and(|u| set.contains(&u))
}

#[cfg(test)]
#[path = "closing_tests.rs"]
mod tests;
