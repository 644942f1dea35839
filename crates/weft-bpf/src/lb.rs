//! The socket load balancer of one node.

use crate::{
    Attached, BpfError, LinkAttach, PodLinks, PolicyMaps, Result,
    attach::attach,
    engine::{Engine, Grace, Kernel, Table},
    map::Map,
    object::Loaded,
    pins::Pins,
    sys, upgrade,
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
    /// Sizes of the maps at first; those of frontends, slots and members grow with need, and
    /// where an earlier agent made them smaller.
    pub sizes: MapSizes,
    /// How programs are attached to the pods' links; `None` for the best that the kernel has.
    pub link_attach: Option<LinkAttach>,
    /// Entries of one of these, at most.
    pub limit_entries: u32,
    /// Asked before each call that changes a map; `true` makes it fail. For tests of failures.
    #[doc(hidden)]
    pub faults: Option<fn() -> bool>,
}

impl OpenOptions {
    /// With default sizes, and without frontends on loopback addresses.
    pub fn new(bpf_dir: impl Into<PathBuf>, cgroup: impl Into<PathBuf>) -> Self {
        let sizes = MapSizes::default();
        Self {
            bpf_dir: bpf_dir.into(),
            cgroup: cgroup.into(),
            node_netns: 0,
            sizes,
            link_attach: None,
            limit_entries: limit_entries(),
            faults: None,
        }
    }
}

/// How many entries the maps hold at most. Those of sockets and clients keep the size that
/// they were made with.
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
    /// Addresses of single hosts that policy knows; grows with need.
    pub peers: u32,
    /// Wider prefixes that policy knows. They take memory only where they are.
    pub blocks: u32,
    /// Rules of all rule sets together; grows with need.
    pub rules: u32,
    /// Rule sets; grows with need.
    pub sets: u32,
    /// Flows at the pods' links; the ones not used for longest are pushed out.
    pub conns: u32,
    /// Bytes for events that nobody has read yet; a power of two of at least a page.
    pub event_bytes: u32,
}

impl Default for MapSizes {
    /// 10,000 dual-stack Services with 10 endpoints each, all node ports (2,768) at an address of
    /// each version, and as many addresses of load balancers (31,072 frontends, 310,720 slots),
    /// and room for growth and one step of a change, in about 19 MB: hash maps take 16 bytes for
    /// an entry that is not there, those that evict about 104. And 16,384 flows that are translated
    /// at the pods' links, in 5 MB. For policy 65,536 flows in 10 MB, and 3 MB for the rest.
    fn default() -> Self {
        Self {
            services: 65_536,
            slots: 524_288,
            members: 131_072,
            sockets: 32_768,
            clients: 4_096,
            pods: 4_096,
            flows: 32_768,
            peers: 65_536,
            blocks: 1_048_576,
            rules: 65_536,
            sets: 4_096,
            conns: 65_536,
            event_bytes: 262_144,
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
    engine: Engine<Maps>,
    counters: OwnedFd,
    /// Whether an agent of another layout version may have left programs.
    others_left: bool,
}

impl SocketLb {
    /// Loads the load balancer, or adopts what an earlier agent left under the same paths.
    /// Waits at most two seconds for that agent to end.
    pub fn open(options: OpenOptions) -> Result<Self> {
        let pins = Pins::open(&options.bpf_dir)?;
        pins.remove_unfinished()?;
        let mut loaded = Loaded::new(Some(&pins), &options.sizes)?;
        let node: Map<u32, NodeValue> = Map::new(MapName::Node, loaded.map(MapName::Node)?);
        node.put(&[(0, NodeValue { netns_cookie: options.node_netns })])?;
        let attached = attach(&loaded, &pins, &options.cgroup)?;
        let links = Links::open(&mut loaded, &pins, &options);
        if let Err(error) = &links {
            let reason = crate::probe::reasons(error);
            tracing::error!(reason, "no programs at the pods' links; sockets are translated");
        }
        let counters = loaded.map(MapName::Counters)?;
        let mut maps = Maps {
            services: Map::new(MapName::Services, loaded.map(MapName::Services)?)
                .failing(options.faults),
            slots: Map::new(MapName::Slots, loaded.map(MapName::Slots)?).failing(options.faults),
            members: Map::new(MapName::Members, loaded.map(MapName::Members)?)
                .failing(options.faults),
            pins,
            attached,
            links,
            reattach: false,
            options,
        };
        // What an earlier agent made may be smaller.
        let MapSizes { services, slots, members, .. } = maps.options.sizes;
        maps.grow([services, slots, members])?;
        Ok(Self { engine: Engine::new(maps)?, counters, others_left: true })
    }

    /// What [`SocketLb::open`] found and did at the hooks.
    pub fn attached(&self) -> Attached {
        self.engine.kernel.attached
    }

    /// The programs at the pods' links, which use the same maps. They may be used by other
    /// threads, and as long as this process lives. The error is why there are none: sockets are
    /// translated all the same.
    pub fn pod_links(&self) -> Result<&PodLinks, &BpfError> {
        self.engine.kernel.links.as_ref().map(|l| &l.pods)
    }

    /// The tables of policy at the pods' links; as [`Self::pod_links`].
    pub fn policy(&self) -> Result<&PolicyMaps, &BpfError> {
        self.engine.kernel.links.as_ref().map(|l| &l.policy)
    }

    /// Makes the kernel hold `tables`, changing only what differs; calling it again with the
    /// same tables changes nothing. Frontends of SCTP are for the pods' links.
    ///
    /// What is gone goes first; then sets change in small steps, each of which frees its old
    /// slots before the next one takes new ones. Where a map is full and cannot grow, the
    /// frontends that do not fit stay as they were, all others are applied, and the error names
    /// those left out; after any other failure the next call reads the maps again and goes on
    /// from there.
    pub fn apply(&mut self, tables: &ServiceTables) -> Result<ApplyStats> {
        let result = self.switch(tables);
        match (result, self.engine.sweep(true)) {
            (Ok(_), Err(error)) => Err(error),
            (result, _) => result,
        }
    }

    /// As [`Self::apply`], in time that depends on what differs from the tables before, and
    /// without waiting for anybody: new connections follow the tables when it returns, and
    /// what nobody uses any more stays until [`Self::sweep`].
    pub fn switch(&mut self, tables: &ServiceTables) -> Result<ApplyStats> {
        let result = self.engine.switch(tables);
        // Where maps grew and the programs could not be replaced, these tables reach nobody yet.
        self.engine.kernel.reattach()?;
        if result.is_ok() {
            self.end_other_layouts();
        }
        result
    }

    /// Deletes what nobody uses any more, as far as its readers have ended; says whether
    /// something is left, to be asked for again some milliseconds later. Does not wait.
    pub fn sweep(&mut self) -> Result<bool> {
        self.engine.sweep(false)
    }

    /// Whether [`Self::sweep`] has something to do.
    pub fn has_leavings(&self) -> bool {
        self.engine.has_leavings()
    }

    /// Compares the next `count` frontends with the kernel's maps, going round; says whether all
    /// was as it should be. What was not is written by the next [`Self::apply`] or
    /// [`Self::switch`].
    pub fn verify(&mut self, count: usize) -> Result<bool> {
        self.engine.verify(count)
    }

    /// Until the first tables are in, programs of another version translate; then these do. A
    /// failure is met again with the next tables.
    fn end_other_layouts(&mut self) {
        if !self.others_left {
            return;
        }
        upgrade::carry_rest(&self.engine.kernel.pins);
        match self.engine.kernel.pins.remove_other_layouts() {
            Ok(()) => self.others_left = false,
            Err(error) => tracing::warn!(%error, "another version's programs are still there"),
        }
    }

    /// Counters of the data path, and how much the maps hold.
    pub fn stats(&mut self) -> Result<Stats> {
        let [frontends, slots, _] = self.engine.sizes()?;
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
        self.engine.kernel.pins.remove()
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

/// What stands at the pods' links.
#[derive(Debug)]
struct Links {
    pods: PodLinks,
    policy: PolicyMaps,
}

impl Links {
    fn open(loaded: &mut Loaded, pins: &Pins, options: &OpenOptions) -> Result<Self> {
        let pods = PodLinks::open(loaded, pins, options.link_attach)?;
        let policy = PolicyMaps::open(loaded, pins, options, &pods)?;
        Ok(Self { pods, policy })
    }
}

/// The maps that the engine programs.
#[derive(Debug)]
struct Maps {
    services: Map<Addr, ServiceValue>,
    slots: Map<SlotKey, Addr>,
    members: Map<MemberKey, u32>,
    pins: Pins,
    attached: Attached,
    links: Result<Links>,
    /// Whether the maps are others than those that the programs use.
    reattach: bool,
    options: OpenOptions,
}

/// Returns when no program can be looking at what was replaced before the call.
pub(crate) fn wait_for_readers() {
    if let Err(error) = sys::wait_for_readers() {
        // Kernels with nohz_full refuse it. A program runs for microseconds.
        tracing::debug!(%error, "membarrier is refused; waiting instead");
        std::thread::sleep(READERS_TIMEOUT);
    }
}

impl Kernel for Maps {
    fn services(&self) -> &dyn Table<Addr, ServiceValue> {
        &self.services
    }

    fn slots(&self) -> &dyn Table<SlotKey, Addr> {
        &self.slots
    }

    fn members(&self) -> &dyn Table<MemberKey, u32> {
        &self.members
    }

    fn grace(&self) -> Grace {
        match std::thread::Builder::new().name("bpf-grace".to_owned()).spawn(wait_for_readers) {
            Ok(thread) => Grace(Some(thread)),
            Err(_) => {
                wait_for_readers();
                Grace(None)
            }
        }
    }

    fn make_room(&mut self, entries: [usize; 3]) -> Result<()> {
        let sizes = [self.services.size()?, self.slots.size()?, self.members.size()?];
        let limit = self.options.limit_entries;
        let wanted = |(need, size): (usize, u32)| {
            let need = u32::try_from(need).unwrap_or(u32::MAX);
            if need <= size {
                return size;
            }
            // Half as much again, so that growing stays rare.
            need.saturating_add(need / 2).min(limit).max(size)
        };
        let pairs = entries.into_iter().zip(sizes);
        let wanted: Vec<u32> = pairs.map(wanted).collect();
        self.grow([wanted[0], wanted[1], wanted[2]])
    }
}

impl Maps {
    /// Makes the maps of frontends, slots and members as large as that, if they are smaller.
    ///
    /// A hash map has the size that it was made with. So a larger one is made and filled, takes
    /// over the pin, and all programs are replaced by such that use it, one hook after the
    /// other: connections are translated all the while, by the one map or by the other, which
    /// hold the same until it is done. An agent that ends in between leaves pins and programs
    /// that do not agree; the next one sees that by the numbers of the maps.
    fn grow(&mut self, sizes: [u32; 3]) -> Result<()> {
        let [services, slots, members] = sizes;
        let growing = self.pins.beside();
        let _guard = growing.growing();
        let grown = [
            self.services.grow(services, &self.pins),
            self.slots.grow(slots, &self.pins),
            self.members.grow(members, &self.pins),
        ];
        if grown.iter().any(|g| matches!(g, Ok(true))) {
            tracing::info!(services, slots, members, "maps grew");
            self.reattach = true;
        }
        // Also where one of them could not grow: the others have changed already.
        let reattached = self.reattach_alone();
        grown.into_iter().try_for_each(|g| g.map(|_| ()))?;
        reattached
    }

    /// Makes the programs use the maps that are there now, if they do not. Until that succeeds
    /// they go on with the old ones, and nothing that is written reaches them.
    fn reattach(&mut self) -> Result<()> {
        let growing = self.pins.beside();
        let _guard = growing.growing();
        self.reattach_alone()
    }

    /// The same for who holds [`Pins::growing`].
    fn reattach_alone(&mut self) -> Result<()> {
        if !self.reattach {
            return Ok(());
        }
        let loaded = Loaded::new(Some(&self.pins), &self.options.sizes)?;
        attach(&loaded, &self.pins, &self.options.cgroup)?;
        if let Ok(links) = &self.links {
            links.pods.renew(&loaded, &self.pins)?;
        }
        self.reattach = false;
        Ok(())
    }
}

/// Entries of one map, at most: an eighth of the machine's memory for the slots, of which each
/// takes about this many bytes in the kernel.
fn limit_entries() -> u32 {
    const SLOT_BYTES: u64 = 128;
    // SAFETY: takes a number and gives one.
    let pages = |name| u64::try_from(unsafe { libc::sysconf(name) }).unwrap_or(0);
    let memory_bytes = pages(libc::_SC_PHYS_PAGES) * pages(libc::_SC_PAGESIZE);
    u32::try_from(memory_bytes / 8 / SLOT_BYTES).unwrap_or(u32::MAX)
}

/// How many values a per-CPU map has: one for each CPU that could ever be plugged in.
pub(crate) fn possible_cpus() -> Result<usize> {
    const PATH: &str = "/sys/devices/system/cpu/possible";
    let text = fs::read_to_string(PATH).map_err(BpfError::file("read", PATH))?;
    // `0-3,8-11`: the highest number counts, whatever the gaps.
    let last = text.trim().rsplit([',', '-']).next().and_then(|n| n.parse::<usize>().ok());
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("'{}'", text.trim()));
    last.map(|n| n + 1).ok_or_else(wrong).map_err(BpfError::file("understand", PATH))
}
