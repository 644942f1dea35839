//! The tables of policy in the kernel.
//!
//! Programs read while tables change, and since Linux 6.1 an element of a hash map may be reused
//! in the moment that it is read. So whatever changes a verdict ends with a new generation: who
//! was judged in between is judged again with the next packet.

use super::{
    EventOptions, Place, PolicyFlow, PolicyObserved, PolicyPod, PolicyRetire, PolicySet,
    PolicyStats, PolicyStep, ReasonCounts, place,
};
use crate::{
    BpfError, MapSizes, OpenOptions, PodLinks, Result, Verdicts,
    map::{Map, Plain, dump, from_bytes},
    object::Loaded,
    pins::Pins,
    sys,
};
use ipnet::IpNet;
use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use weft_bpf_abi::{
    BlockKey, ConnKey, ConnValue, EventConfig, MapName, PeerKey, ReasonValue, RuleKey, RuleValue,
    SetValue, TcCounter,
};

/// The tables of policy; clones are the same. Calls block, and wait for each other.
#[derive(Clone, Debug)]
pub struct PolicyMaps(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pins: Pins,
    sizes: MapSizes,
    limit_entries: u32,
    links: PodLinks,
    tables: Mutex<Tables>,
    conns: Map<ConnKey, ConnValue>,
    events: Map<u32, EventConfig>,
    reasons: OwnedFd,
    verdicts: OwnedFd,
}

/// What only one caller changes at a time.
#[derive(Debug)]
struct Tables {
    peers: Map<PeerKey, u32>,
    blocks: Map<BlockKey, u32>,
    rules: Map<RuleKey, RuleValue>,
    sets: Map<u32, SetValue>,
    generation: Map<u32, u32>,
    /// Whether the programs still use maps that were replaced.
    renew: bool,
}

/// Makes room in one of the maps that grow.
type Grow = fn(&mut Tables, &Pins, u32, usize) -> Result<bool>;

fn grow<K: Plain, V: Plain>(
    map: &mut Map<K, V>,
    pins: &Pins,
    limit: u32,
    more: usize,
) -> Result<bool> {
    let size = map.size()?;
    let more = u32::try_from(more).unwrap_or(u32::MAX).max(size);
    map.grow(size.saturating_add(more).min(limit), pins)
}

impl PolicyMaps {
    pub(crate) fn open(
        loaded: &mut Loaded,
        pins: &Pins,
        options: &OpenOptions,
        links: &PodLinks,
    ) -> Result<Self> {
        let mut map = |name| loaded.map(name);
        let tables = Tables {
            peers: Map::new(MapName::Peers, map(MapName::Peers)?),
            blocks: Map::new(MapName::Blocks, map(MapName::Blocks)?),
            rules: Map::new(MapName::Rules, map(MapName::Rules)?),
            sets: Map::new(MapName::Sets, map(MapName::Sets)?),
            generation: Map::new(MapName::Generation, map(MapName::Generation)?),
            renew: false,
        };
        Ok(Self(Arc::new(Inner {
            pins: pins.beside(),
            sizes: options.sizes,
            limit_entries: options.limit_entries,
            links: links.clone(),
            tables: Mutex::new(tables),
            conns: Map::new(MapName::Conns, map(MapName::Conns)?),
            events: Map::new(MapName::Events, map(MapName::Events)?),
            reasons: map(MapName::Reasons)?,
            verdicts: map(MapName::Verdicts)?,
        })))
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change in the order of its fields, then begins a generation, whose number is
    /// the result. After a failure some of it is done; the same step may be tried again.
    pub fn apply(&self, step: &PolicyStep) -> Result<u32> {
        self.extend(&step.extend)?;
        self.move_peers(step.epoch, &step.moves)?;
        self.put_sets(&step.sets)?;
        self.put_pods(&step.pods)?;
        self.bump()
    }

    /// Adds entries to sets that exist. Harmless while nobody bears their identities.
    pub fn extend(&self, sets: &[PolicySet]) -> Result<()> {
        self.put_sets(sets)
    }

    /// Stores sets: first the entries, then what a miss means. Harmless while no pod has them.
    pub fn put_sets(&self, sets: &[PolicySet]) -> Result<()> {
        let rules: Vec<_> = sets
            .iter()
            .flat_map(|s| s.entries.iter().map(|e| (e.key(s.number), e.value())))
            .collect();
        let values: Vec<_> = sets.iter().map(|s| (s.number, s.value())).collect();
        let mut tables = self.tables();
        let grow_rules: Grow = |t, pins, limit, more| grow(&mut t.rules, pins, limit, more);
        self.with_room(&mut tables, rules.len(), grow_rules, |t| t.rules.put(&rules))?;
        let grow_sets: Grow = |t, pins, limit, more| grow(&mut t.sets, pins, limit, more);
        self.with_room(&mut tables, values.len(), grow_sets, |t| t.sets.put(&values))
    }

    /// Gives prefixes an identity in an epoch, or takes it from them.
    pub fn move_peers(&self, epoch: u32, moves: &[(IpNet, Option<u32>)]) -> Result<()> {
        let (mut hosts, mut blocks) = (Vec::new(), Vec::new());
        let (mut no_hosts, mut no_blocks) = (Vec::new(), Vec::new());
        for (prefix, identity) in moves {
            match (place(epoch, prefix), identity) {
                (Place::Host(key), Some(identity)) => hosts.push((key, *identity)),
                (Place::Host(key), None) => no_hosts.push(key),
                (Place::Block(key), Some(identity)) => blocks.push((key, *identity)),
                (Place::Block(key), None) => no_blocks.push(key),
            }
        }
        let mut tables = self.tables();
        let delete = |t: &Tables| t.blocks.delete(&no_blocks).and(t.peers.delete(&no_hosts));
        // The narrow before the wide, and what comes before what goes: an address in between must
        // not fall to a prefix that was never meant for it.
        match self.put_peers(&mut tables, &hosts, &blocks) {
            // There is no more room than what goes makes.
            Err(BpfError::MapFull { .. }) => {
                delete(&tables)?;
                self.put_peers(&mut tables, &hosts, &blocks)
            }
            result => result.and_then(|()| delete(&tables)),
        }
    }

    fn put_peers(
        &self,
        tables: &mut Tables,
        hosts: &[(PeerKey, u32)],
        blocks: &[(BlockKey, u32)],
    ) -> Result<()> {
        let grow_peers: Grow = |t, pins, limit, more| grow(&mut t.peers, pins, limit, more);
        self.with_room(tables, hosts.len(), grow_peers, |t| t.peers.put(hosts))?;
        let grow_blocks: Grow = |t, pins, limit, more| grow(&mut t.blocks, pins, limit, more);
        self.with_room(tables, blocks.len(), grow_blocks, |t| t.blocks.put(blocks))
    }

    /// Runs `put`; where its map is full, makes it larger, gives the programs the larger one, and
    /// runs it again.
    fn with_room(
        &self,
        tables: &mut Tables,
        more: usize,
        grow: Grow,
        put: impl Fn(&Tables) -> Result<()>,
    ) -> Result<()> {
        if tables.renew {
            let _guard = self.0.pins.growing();
            self.renew(tables)?;
        }
        match put(tables) {
            Err(full @ BpfError::MapFull { .. }) => {
                let _guard = self.0.pins.growing();
                if !grow(tables, &self.0.pins, self.0.limit_entries, more)? {
                    return Err(full);
                }
                tables.renew = true;
                self.renew(tables)?;
                put(tables)
            }
            result => result,
        }
    }

    /// Gives the programs at the pods' links the maps that are pinned now.
    fn renew(&self, tables: &mut Tables) -> Result<()> {
        let loaded = Loaded::new(Some(&self.0.pins), &self.0.sizes)?;
        self.0.links.renew(&loaded, &self.0.pins)?;
        tables.renew = false;
        Ok(())
    }

    /// Says what applies to pods; each of them switches at once. Flows that were judged before
    /// go on until [`Self::bump`].
    pub fn put_pods(&self, pods: &[PolicyPod]) -> Result<()> {
        let values: Vec<_> = pods.iter().map(|p| (p.link, p.lower())).collect();
        self.0.links.policy().put(&values)
    }

    /// Begins a generation: every flow is judged again with its next packet.
    pub fn bump(&self) -> Result<u32> {
        let tables = self.tables();
        let next = tables.generation.get(0)?.unwrap_or(0).wrapping_add(1);
        tables.generation.put(&[(0, next)])?;
        Ok(next)
    }

    /// Returns when no program can be looking at what was replaced before the call.
    pub fn wait_for_readers(&self) {
        crate::lb::wait_for_readers();
    }

    /// Removes what nobody refers to any more; what is gone counts as removed.
    pub fn retire(&self, gone: &PolicyRetire) -> Result<()> {
        self.0.links.policy().delete(&gone.pods)?;
        let tables = self.tables();
        if !gone.epochs.is_empty() {
            let is_gone = |epoch: u32| gone.epochs.contains(&epoch);
            let hosts = tables.peers.dump()?.into_iter().map(|(k, _)| k);
            tables.peers.delete(&hosts.filter(|k| is_gone(k.epoch)).collect::<Vec<_>>())?;
            let blocks = tables.blocks.dump()?.into_iter().map(|(k, _)| k);
            tables.blocks.delete(&blocks.filter(|k| is_gone(k.epoch)).collect::<Vec<_>>())?;
        }
        let mut rules: Vec<RuleKey> = gone.entries.iter().map(|(s, e)| e.key(*s)).collect();
        if !gone.sets.is_empty() {
            let sets: BTreeSet<u32> = gone.sets.iter().copied().collect();
            let all = tables.rules.dump()?.into_iter().map(|(k, _)| k);
            rules.extend(all.filter(|k| sets.contains(&k.set)));
            tables.sets.delete(&gone.sets)?;
        }
        tables.rules.delete(&rules)?;
        drop(tables);
        let reasons = self.0.reasons.try_clone().map_err(BpfError::call("dup", "WEFT_REASONS"))?;
        Map::<u32, ReasonValue>::new(MapName::Reasons, reasons).delete(&gone.reasons)
    }

    /// Reads back what is in force.
    pub fn observe(&self) -> Result<PolicyObserved> {
        let tables = self.tables();
        let mut epochs: BTreeSet<u32> =
            tables.peers.dump()?.into_iter().map(|(k, _)| k.epoch).collect();
        epochs.extend(tables.blocks.dump()?.into_iter().map(|(k, _)| k.epoch));
        let mut sets: BTreeSet<u32> = tables.sets.dump()?.into_iter().map(|(n, _)| n).collect();
        // An agent may have ended between the entries and their set.
        sets.extend(tables.rules.dump()?.into_iter().map(|(k, _)| k.set));
        let pods = self.0.links.policy().dump()?;
        let mut pods: Vec<_> = pods.iter().map(|(link, p)| PolicyPod::raise(*link, p)).collect();
        pods.sort_by_key(|p| p.link);
        // A pod may refer to what is gone.
        let named = pods.iter().flat_map(|p| {
            [p.ingress.admin, p.ingress.rest, p.egress.admin, p.egress.rest].into_iter().flatten()
        });
        let set_max = sets.iter().copied().chain(named).max().unwrap_or(0);
        let epoch_max = epochs.iter().copied().chain(pods.iter().map(|p| p.epoch)).max();
        Ok(PolicyObserved {
            generation: tables.generation.get(0)?.unwrap_or(0),
            epoch_max: epoch_max.unwrap_or(0),
            set_max,
            epochs: epochs.into_iter().collect(),
            sets: sets.into_iter().collect(),
            pods,
        })
    }

    /// Counters of the data path.
    pub fn stats(&self) -> Result<PolicyStats> {
        let of = |c: TcCounter| self.0.links.counter(c);
        Ok(PolicyStats {
            flows: of(TcCounter::Conns)?,
            denied: of(TcCounter::Denied)?,
            tombstones: of(TcCounter::Tombstones)?,
            no_flow: of(TcCounter::NoFlow)?,
            unknown: of(TcCounter::Unknown)?,
            unreadable: of(TcCounter::Unreadable)?,
            rejudged: of(TcCounter::Rejudged)?,
            cut: of(TcCounter::Cut)?,
            audited: of(TcCounter::Audited)?,
            events: of(TcCounter::Events)?,
            events_limited: of(TcCounter::EventsLimited)?,
            events_lost: of(TcCounter::EventsLost)?,
            reasons_full: of(TcCounter::ReasonsFull)?,
            faults: of(TcCounter::Faults)?,
        })
    }

    /// Counters of the reasons, by their numbers.
    pub fn reasons(&self) -> Result<Vec<(u32, ReasonCounts)>> {
        let size = size_of::<ReasonValue>();
        let row = crate::lb::possible_cpus()? * size;
        let (keys, values) = dump(self.0.reasons.as_fd(), MapName::Reasons, size_of::<u32>(), row)?;
        let sum = |cpus: &[u8]| {
            from_bytes::<ReasonValue>(cpus).fold(ReasonCounts::default(), |a, v| ReasonCounts {
                allowed: a.allowed.wrapping_add(v.allowed),
                denied: a.denied.wrapping_add(v.denied),
                audited: a.audited.wrapping_add(v.audited),
                dropped: a.dropped.wrapping_add(v.dropped),
            })
        };
        let mut all: Vec<_> = from_bytes(&keys).zip(values.chunks_exact(row).map(sum)).collect();
        all.sort_by_key(|(number, _): &(u32, _)| *number);
        Ok(all)
    }

    /// Says which events are told. At first none is.
    pub fn configure_events(&self, options: &EventOptions) -> Result<()> {
        self.0.events.put(&[(0, options.lower())])
    }

    /// The flows that are remembered, from begin to end of the call.
    pub fn flows(&self) -> Result<Vec<PolicyFlow>> {
        Ok(self.0.conns.dump()?.iter().map(|(key, value)| PolicyFlow::new(key, value)).collect())
    }

    /// The reader of the events. There must be one at a time.
    pub fn verdicts(&self) -> Result<Verdicts> {
        let call = |operation, e: io::Error| BpfError::call(operation, "WEFT_VERDICTS")(e);
        let map = self.0.verdicts.try_clone().map_err(|e| call("dup", e))?;
        let info = sys::map_info(map.as_fd()).map_err(|e| call("INFO", e))?;
        Verdicts::new(map, info.max_entries)
    }
}
