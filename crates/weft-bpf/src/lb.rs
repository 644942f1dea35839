//! The socket load balancer of one node.

use crate::{
    Attached, BpfError, LeftOut, LinkAttach, PodLinks, Result,
    attach::attach,
    diff::{self, Change, Mirror, Observed},
    map::Map,
    object::Loaded,
    pins::Pins,
    sys,
};
use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};
use weft_bpf_abi::{Addr, Counter, MapName, MemberKey, NodeValue, ServiceValue, SlotKey};
use weft_services::ServiceTables;

/// How long old backends stay where the kernel cannot say that all readers have ended:
/// thousands of times what a program takes.
const READERS_TIMEOUT: Duration = Duration::from_millis(100);

/// Where the load balancer lives.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Directory in a bpf file system, owned by this node alone; made if it is absent.
    pub bpf_dir: PathBuf,
    /// The node's cgroup (a directory of the cgroup2 mount): what runs in it and below it is
    /// translated.
    pub cgroup: PathBuf,
    /// Cookie of the node's own network namespace: frontends with a loopback address are there
    /// for sockets of this one alone. 0 for none.
    pub node_netns: u64,
    /// Sizes of the maps that are not there yet.
    pub sizes: MapSizes,
    /// How programs are attached to the pods' links; `None` for the best that the kernel has.
    pub link_attach: Option<LinkAttach>,
}

impl OpenOptions {
    /// With default sizes, and without frontends on loopback addresses.
    pub fn new(bpf_dir: impl Into<PathBuf>, cgroup: impl Into<PathBuf>) -> Self {
        Self {
            bpf_dir: bpf_dir.into(),
            cgroup: cgroup.into(),
            node_netns: 0,
            sizes: MapSizes::default(),
            link_attach: None,
        }
    }
}

/// How many entries the maps hold at most. A map that is adopted keeps its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// Frontends.
    pub services: u32,
    /// Backends of all frontends together, and the new ones of one step of a change (4096).
    pub slots: u32,
    /// Backends of UDP frontends and of those with session affinity.
    pub members: u32,
    /// Sockets with records: unconnected UDP, and reverse translation.
    pub sockets: u32,
    /// Clients × frontends with session affinity.
    pub clients: u32,
    /// Pods of the node.
    pub pods: u32,
    /// Directions of flows that are translated at the pods' links; two a flow.
    pub flows: u32,
}

impl Default for MapSizes {
    /// 10,000 dual-stack Services with 10 endpoints each, all node ports (2,768) at an address of
    /// each version, and as many addresses of load balancers (31,072 frontends, 310,720 slots),
    /// and room for growth and one step of a change, in about 19 MB: hash maps take 16 bytes for
    /// an entry that is not there, those that evict about 104. And 16,384 flows at the pods'
    /// links, in 5 MB.
    fn default() -> Self {
        Self {
            services: 65_536,
            slots: 524_288,
            members: 131_072,
            sockets: 32_768,
            clients: 4_096,
            pods: 4_096,
            flows: 32_768,
        }
    }
}

/// What an [`SocketLb::apply`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ApplyStats {
    /// Frontends that are new.
    pub added: usize,
    /// Frontends whose backends or affinity changed.
    pub changed: usize,
    /// Frontends removed, orphans included.
    pub removed: usize,
    /// Frontends left as they were.
    pub unchanged: usize,
}

/// Counters of the data path since the maps were made, and what the maps hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// `connect` of a TCP socket translated.
    pub tcp_connects: u64,
    /// `connect` of a UDP socket translated.
    pub udp_connects: u64,
    /// Datagrams of unconnected UDP sockets translated.
    pub udp_datagrams: u64,
    /// Unconnected UDP sockets that moved because their backend had left.
    pub udp_moves: u64,
    /// Not translated because the set changed more often than a reader retries.
    pub races: u64,
    /// Not translated because a record could not be stored.
    pub record_failures: u64,
    /// Frontends in the kernel.
    pub frontends: usize,
    /// Backend slots in the kernel.
    pub slots: usize,
}

/// The socket load balancer of one node. Dropping it leaves everything in place.
#[derive(Debug)]
pub struct SocketLb {
    pins: Pins,
    attached: Attached,
    services: Map<Addr, ServiceValue>,
    slots: Map<SlotKey, Addr>,
    members: Map<MemberKey, u32>,
    counters: OwnedFd,
    pod_links: PodLinks,
    /// What the maps hold; `None` after a failure, until they have been read again.
    mirror: Option<Mirror>,
    /// Whether an agent of another layout version may have left programs.
    others_left: bool,
}

impl SocketLb {
    /// Loads the load balancer, or adopts what an earlier agent left under the same paths.
    /// Waits at most two seconds for that agent to end.
    pub fn open(options: OpenOptions) -> Result<Self> {
        let pins = Pins::open(&options.bpf_dir)?;
        let mut loaded = Loaded::new(Some(&pins), &options.sizes)?;
        let node: Map<u32, NodeValue> = Map::new(MapName::Node, loaded.map(MapName::Node)?);
        node.put(&[(0, NodeValue { netns_cookie: options.node_netns })])?;
        let attached = attach(&loaded, &pins, &options.cgroup)?;
        let pod_links = PodLinks::open(&mut loaded, &pins, options.link_attach)?;
        let mut map = |name| loaded.map(name);
        let mut lb = Self {
            services: Map::new(MapName::Services, map(MapName::Services)?),
            slots: Map::new(MapName::Slots, map(MapName::Slots)?),
            members: Map::new(MapName::Members, map(MapName::Members)?),
            counters: map(MapName::Counters)?,
            pins,
            attached,
            pod_links,
            mirror: None,
            others_left: true,
        };
        lb.mirror = Some(lb.observe()?);
        Ok(lb)
    }

    /// What [`SocketLb::open`] found and did at the hooks.
    pub fn attached(&self) -> Attached {
        self.attached
    }

    /// The programs at the pods' links, which use the same maps. They may be used by other
    /// threads, and as long as this process lives.
    pub fn pod_links(&self) -> &PodLinks {
        &self.pod_links
    }

    /// Makes the kernel hold `tables`, changing only what differs; calling it again with the
    /// same tables changes nothing. Frontends of SCTP are for the pods' links.
    ///
    /// What is gone goes first; then sets change in small steps, each of which frees its old
    /// slots before the next one takes new ones. Where a map is full, the frontends that do
    /// not fit stay as they were, all others are applied, and the error names those left out;
    /// after any other failure the next call reads the maps again and goes on from there.
    pub fn apply(&mut self, tables: &ServiceTables) -> Result<ApplyStats> {
        let mut mirror = match self.mirror.take() {
            Some(mirror) => mirror,
            None => self.observe()?,
        };
        let desired = diff::lower(tables);
        let gone = mirror.plan_gone(&desired);
        self.carry_out(&gone)?;
        mirror.commit(&gone, &desired);
        let (mut parts, unchanged) = mirror.parts(&desired);
        let removed = gone.gone_services.len();
        let mut stats = ApplyStats { removed, unchanged, ..ApplyStats::default() };
        let mut full: Option<(&str, u32, LeftOut)> = None;
        // From the end: halves of a part that did not fit come next.
        parts.reverse();
        let mut room = true;
        while let Some(mut part) = parts.pop() {
            if let (false, Some((.., left_out))) = (room, &mut full) {
                // Only new frontends are left by now, and nothing makes room for them.
                let LeftOut(all) = left_out;
                all.extend(part.iter().map(Addr::to_socket));
                continue;
            }
            let change = mirror.plan_part(part.iter().map(|f| (*f, &desired[f])));
            match self.carry_out(&change) {
                Ok(()) => {
                    mirror.commit(&change, &desired);
                    stats.added += change.added;
                    stats.changed += change.changed;
                }
                // A frontend that is there needs no room in the map of frontends.
                Err(BpfError::MapFull { map, max_entries, .. })
                    if change.changed == 0 || map != MapName::Services.as_str() =>
                {
                    let no_services = map == MapName::Services.as_str();
                    self.undo(&mirror.undo(&change), no_services)?;
                    if part.len() > 1 {
                        let rest = part.split_off(part.len() / 2);
                        parts.extend([rest, part]);
                    } else {
                        room &= !no_services;
                        let (.., left_out) =
                            full.get_or_insert((map, max_entries, LeftOut::default()));
                        left_out.0.extend(part.iter().map(Addr::to_socket));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        self.mirror = Some(mirror);
        self.end_other_layouts();
        match full {
            Some((map, max_entries, left_out)) => {
                Err(BpfError::MapFull { map, max_entries, left_out })
            }
            None => Ok(stats),
        }
    }

    /// Until the first tables are in, programs of another version translate; then these do. A
    /// failure is met again with the next tables.
    fn end_other_layouts(&mut self) {
        if !self.others_left {
            return;
        }
        match self.pins.remove_other_layouts() {
            Ok(()) => self.others_left = false,
            Err(error) => tracing::warn!(%error, "another version's programs are still there"),
        }
    }

    fn carry_out(&self, change: &Change) -> Result<()> {
        self.slots.put(&change.slots)?;
        self.members.put(&change.members)?;
        self.services.put(&change.services)?;
        self.services.delete(&change.gone_services)?;
        self.delete_unread(&change.gone_slots, &change.gone_members)
    }

    /// Takes back a part that did not fit. `published`: some of its frontends may have been
    /// there for a moment, and so may have readers.
    fn undo(&self, change: &Change, published: bool) -> Result<()> {
        if published {
            return self.carry_out(change);
        }
        self.slots.delete(&change.gone_slots)?;
        self.members.delete(&change.gone_members)
    }

    /// Deletes what no frontend points at any more, once nobody can still be reading it.
    fn delete_unread(&self, slots: &[SlotKey], members: &[MemberKey]) -> Result<()> {
        if slots.is_empty() && members.is_empty() {
            return Ok(());
        }
        if let Err(error) = sys::wait_for_readers() {
            // Kernels with nohz_full refuse it. A program runs for microseconds.
            tracing::debug!(%error, "membarrier is refused; waiting instead");
            std::thread::sleep(READERS_TIMEOUT);
        }
        self.slots.delete(slots)?;
        self.members.delete(members)
    }

    /// Reads the maps and removes orphans.
    fn observe(&self) -> Result<Mirror> {
        let (mirror, orphans) = Mirror::new(Observed {
            services: self.services.dump()?.into_iter().collect(),
            slots: self.slots.dump()?.into_iter().collect(),
            members: self.members.dump()?.into_iter().collect(),
        });
        if !orphans.is_empty() {
            let (slots, members) = (orphans.slots.len(), orphans.members.len());
            tracing::info!(slots, members, "removing what an unfinished change left");
            self.delete_unread(&orphans.slots, &orphans.members)?;
        }
        Ok(mirror)
    }

    /// Counters of the data path, and how much the maps hold.
    pub fn stats(&self) -> Result<Stats> {
        let (frontends, slots) = match &self.mirror {
            Some(mirror) => mirror.sizes(),
            None => self.observe()?.sizes(),
        };
        Ok(Stats {
            tcp_connects: self.counter(Counter::TcpConnects)?,
            udp_connects: self.counter(Counter::UdpConnects)?,
            udp_datagrams: self.counter(Counter::UdpDatagrams)?,
            udp_moves: self.counter(Counter::UdpMoves)?,
            races: self.counter(Counter::Races)?,
            record_failures: self.counter(Counter::RecordFailures)?,
            frontends,
            slots,
        })
    }

    /// Sum over all CPUs.
    fn counter(&self, counter: Counter) -> Result<u64> {
        sum(self.counters.as_fd(), MapName::Counters, counter as u32)
    }

    /// Detaches the programs and removes all pins: translation ends. Goes on over failures
    /// and returns all of them.
    pub fn close_and_unpin(self) -> Result<()> {
        self.pins.remove()
    }
}

/// Sum over all CPUs of one element of a map of counters.
pub(crate) fn sum(counters: BorrowedFd<'_>, map: MapName, index: u32) -> Result<u64> {
    let mut values = vec![0u8; possible_cpus()? * size_of::<u64>()];
    sys::lookup(counters, &index.to_ne_bytes(), &mut values)
        .map_err(BpfError::call("MAP_LOOKUP_ELEM", map.as_str()))?;
    let words = values.as_chunks::<8>().0.iter();
    Ok(words.map(|w| u64::from_ne_bytes(*w)).fold(0, u64::wrapping_add))
}

/// How many values a per-CPU map has: one for each CPU that could ever be plugged in.
fn possible_cpus() -> Result<usize> {
    const PATH: &str = "/sys/devices/system/cpu/possible";
    let text = fs::read_to_string(PATH).map_err(BpfError::file("read", PATH))?;
    // `0-3,8-11`: the highest number counts, whatever the gaps.
    let last = text.trim().rsplit([',', '-']).next().and_then(|n| n.parse::<usize>().ok());
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("'{}'", text.trim()));
    last.map(|n| n + 1).ok_or_else(wrong).map_err(BpfError::file("understand", PATH))
}
