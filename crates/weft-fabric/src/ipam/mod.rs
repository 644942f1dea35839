//! Addresses of one node's pods.
//!
//! [`Ipam`] = [`Pools`] (who has what; pure) + a journal (append, fsync, then answer). An
//! address is on disk before the caller learns it, and freed on disk before it can be given
//! to anybody else. Time is an argument: seconds since the Unix epoch.
//!
//! Rules: network, router (first address) and broadcast are reserved; a container gets one
//! address of each family or none; asking again gives the same; freed addresses rest for
//! [`REST_S`] and are reused oldest first, after addresses that were never used.

mod journal;
mod pool;

pub use journal::JournalError;
pub use pool::{Family, Pools};

use ipnet::IpNet;
use journal::{Journal, Record};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, net::IpAddr, path::Path};

/// How long a freed address rests, in seconds: longer than its removal takes to reach every
/// node.
pub const REST_S: u64 = 30;
/// Addresses of a pool that are used at most; a /64 has more than anybody needs, and this
/// bounds the memory of freed ones.
pub const POOL_LEN_MAX: u128 = 65_534;

/// One attachment: container id and interface name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// CNI container id.
    pub container_id: String,
    /// Interface name.
    pub ifname: String,
}

/// Why no address could be given.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// The node has no pod CIDR yet.
    #[error("the node has no pod CIDR yet")]
    NoPools,
    /// A pool has no free address.
    #[error(
        "no free address in {cidr}: {used} in use, {resting} freed less than {REST_S} s ago; \
         delete pods, or give the node a larger pod CIDR"
    )]
    Exhausted {
        /// The pool.
        cidr: IpNet,
        /// Addresses in use.
        used: usize,
        /// Addresses that rest.
        resting: usize,
    },
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// How full one pool is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// The pod CIDR.
    pub cidr: IpNet,
    /// Addresses in use.
    pub used: usize,
    /// Freed addresses that are not reusable yet or again.
    pub freed: usize,
    /// Addresses in all.
    pub capacity: u64,
}

/// The address management of a node, with its journal.
#[derive(Debug)]
pub struct Ipam {
    pools: Pools,
    journal: Journal,
}

impl Ipam {
    /// Opens the journal at `path` (made where it is absent) and restores what it says. A
    /// torn tail, as a crash leaves it, is cut off; damage before it is an error.
    pub fn open(path: &Path) -> Result<Self, IpamError> {
        let (journal, records) = Journal::open(path)?;
        let mut pools = Pools::default();
        records.into_iter().for_each(|r| pools.restore(r));
        Ok(Self { pools, journal })
    }

    /// Sets the pod CIDRs, at most one a family. Addresses given out of other CIDRs stay
    /// with their containers.
    pub fn set_cidrs(&mut self, cidrs: &[IpNet]) {
        self.pools.set_cidrs(cidrs);
    }

    /// The addresses of `key`, in the order of the CIDRs; new ones where it has none.
    pub fn allocate(&mut self, key: &Key, now_s: u64) -> Result<Vec<IpAddr>, IpamError> {
        if let Some(ips) = self.pools.get(key) {
            return Ok(ips.to_vec());
        }
        let ips = self.pools.pick(now_s)?;
        let record = Record::Give { key: key.clone(), ips: ips.clone() };
        self.write(&record)?;
        self.pools.restore(record);
        Ok(ips)
    }

    /// Frees the addresses of `key` and returns them; none is fine.
    pub fn release(&mut self, key: &Key, now_s: u64) -> Result<Vec<IpAddr>, IpamError> {
        let Some(ips) = self.pools.get(key).map(<[IpAddr]>::to_vec) else {
            return Ok(Vec::new());
        };
        let record = Record::Free { key: key.clone(), at_s: now_s };
        self.write(&record)?;
        self.pools.restore(record);
        Ok(ips)
    }

    /// The addresses of `key`.
    pub fn get(&self, key: &Key) -> Option<&[IpAddr]> {
        self.pools.get(key)
    }

    /// All attachments that have addresses.
    pub fn keys(&self) -> BTreeSet<Key> {
        self.pools.keys().cloned().collect()
    }

    /// How full the pools are.
    pub fn usage(&self) -> Vec<Usage> {
        self.pools.usage()
    }

    fn write(&mut self, record: &Record) -> Result<(), IpamError> {
        self.journal.append(record)?;
        if self.journal.wants_compaction(self.pools.record_count()) {
            // What was appended just now is not in the pools yet.
            let mut records = self.pools.records();
            records.push(record.clone());
            // The record is on disk: a failed compaction must not look like a failed write,
            // or memory and journal would differ. It is tried again with the next record.
            let _ = self.journal.compact(&records);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
