//! The sockets stage: closes the sockets of backends that left, so that no client waits for
//! somebody who will never answer (`docs/adr/0018`).
//!
//! Flow: tables are in the kernel → the hooks' records of connected sockets → those that the
//! tables call stale (`weft_services::stale`) → closed in their network namespaces → records
//! removed. Nothing is remembered between two rounds but how often a socket was looked for in
//! vain: what is to be closed follows from the records and the tables, so a restarted agent
//! closes what its predecessor did not.
//!
//! It runs after the service stage and beside it: a change of the tables never waits for it.

use crate::{namespaces::PodNamespaces, reconcile::chain, state::State};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;
use weft_bpf::{Records, SocketRecord};
use weft_model::{NodeName, Port, Protocol, Snapshot};
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

/// The sockets stage.
pub struct SocketStage {
    state: Arc<State>,
    node: NodeName,
    bpf_dir: PathBuf,
    namespaces: Arc<PodNamespaces>,
    /// Cookie and sockets of the node's own namespace.
    own: weft_netlink::Result<(u64, SockDiag)>,
    /// Why the kernel does not close sockets, where it does not.
    refusals: BTreeMap<Transport, String>,
    records: Option<Records>,
    /// Sockets that were not found yet, and how often they were looked for.
    sought: BTreeMap<SocketRecord, u32>,
    /// Sockets closed since the agent started.
    closed: BTreeMap<Transport, u64>,
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
    /// A stage for the namespace of the calling thread, which is the node's. Asks the kernel
    /// what it can do.
    pub fn new(
        state: Arc<State>,
        node: NodeName,
        bpf_dir: PathBuf,
        namespaces: Arc<PodNamespaces>,
    ) -> Self {
        let own = SockDiag::open().and_then(|sockets| Ok((netns_cookie()?, sockets)));
        let mut refusals = BTreeMap::new();
        for transport in [Transport::Tcp, Transport::Udp] {
            if let Ok(Err(e)) = own.as_ref().map(|(_, sockets)| sockets.probe(transport)) {
                refusals.insert(transport, chain(&e));
            }
        }
        let (sought, closed) = Default::default();
        Self { state, node, bpf_dir, namespaces, own, refusals, records: None, sought, closed }
    }

    /// Closes what is stale by the tables; says when to look again. `current`: whether these are
    /// still the tables in the kernel; those of records that are newer than them say nothing.
    /// Blocks.
    pub fn step(&mut self, applied: &Applied, current: impl Fn() -> bool) -> Duration {
        let mut round = Round::default();
        match self.stale(applied) {
            // Asked after the records were listed.
            Ok(_) if !current() => return AGAIN,
            Ok(stale) => self.close_all(stale, &mut round),
            Err(e) => round.errors.push(chain(&e)),
        }
        if let Err(e) = &self.own {
            round.errors.push(chain(e));
        }
        for (transport, why) in &self.refusals {
            round.diagnostics.insert(format!(
                "this kernel does not close {transport:?} sockets, so clients of a backend that \
                 went wait until they give up: {why}"
            ));
        }
        let wait = if round.again || !round.errors.is_empty() { AGAIN } else { DRIFT_INTERVAL };
        self.tell(applied.snapshot.generation, round);
        wait
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
        let stale = weft_services::stale(snapshot, &self.node, tables, &used);
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
            Ok((own, sockets)) if *own == netns => Some(sockets.close(transport, &wanted)),
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
        let wait = latest.map_or(DRIFT_INTERVAL, |latest| stage.step(&latest, current));
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
