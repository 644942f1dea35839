//! Who has which address: pure.

use super::{IpamError, Key, POOL_LEN_MAX, REST_S, Usage, journal::Record};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::IpAddr,
};
pub use weft_model::IpFamily as Family;

/// All addresses that are given out, or were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pools {
    cidrs: Vec<IpNet>,
    given: BTreeMap<Key, Vec<IpAddr>>,
    holder: HashMap<IpAddr, Key>,
    /// Freed addresses with the time of it, oldest first.
    freed: BTreeMap<Family, VecDeque<(IpAddr, u64)>>,
    /// Highest address ever given of each family, below which nothing is "never used".
    highest: BTreeMap<Family, IpAddr>,
}

/// First and last address that may be given: not the network, the router, the broadcast.
fn bounds(cidr: IpNet) -> Option<(u128, u128)> {
    let (first, last) = (number(cidr.network()), number(cidr.broadcast()));
    let (low, high) = (first.checked_add(2)?, last.checked_sub(1)?);
    (low <= high).then(|| (low, high.min(low + (POOL_LEN_MAX - 1))))
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(a) => u32::from(a).into(),
        IpAddr::V6(a) => a.into(),
    }
}

fn address(family: Family, number: u128) -> Option<IpAddr> {
    match family {
        Family::V4 => u32::try_from(number).ok().map(|n| IpAddr::V4(n.into())),
        Family::V6 => Some(IpAddr::V6(number.into())),
    }
}

impl Pools {
    /// Sets the pod CIDRs; of several of one family the first counts.
    pub fn set_cidrs(&mut self, cidrs: &[IpNet]) {
        self.cidrs.clear();
        for cidr in cidrs.iter().map(IpNet::trunc) {
            if !self.cidrs.iter().any(|c| c.addr().is_ipv4() == cidr.addr().is_ipv4()) {
                self.cidrs.push(cidr);
            }
        }
    }

    /// The addresses of `key`.
    pub fn get(&self, key: &Key) -> Option<&[IpAddr]> {
        self.given.get(key).map(Vec::as_slice)
    }

    /// Everybody who has addresses.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.given.keys()
    }

    /// One address of each CIDR, or an error; nothing is changed.
    pub fn pick(&self, now_s: u64) -> Result<Vec<IpAddr>, IpamError> {
        if self.cidrs.is_empty() {
            return Err(IpamError::NoPools);
        }
        self.cidrs
            .iter()
            .map(|cidr| {
                self.pick_from(*cidr, now_s).ok_or_else(|| IpamError::Exhausted {
                    cidr: *cidr,
                    used: self.used(cidr),
                    resting: self.freed_in(cidr).filter(|(_, at)| !rested(*at, now_s)).count(),
                })
            })
            .collect()
    }

    fn pick_from(&self, cidr: IpNet, now_s: u64) -> Option<IpAddr> {
        let family = Family::of(cidr.addr());
        let (low, high) = bounds(cidr)?;
        let next = match self.highest.get(&family).map(|ip| number(*ip)) {
            Some(n) if (low..=high).contains(&n) => n + 1,
            _ => low,
        };
        // Above the highest there is normally nobody; with a CIDR that was changed to and
        // fro there can be.
        let freed: Vec<IpAddr> = if next > high {
            Vec::new()
        } else {
            self.freed_in(&cidr).map(|(ip, _)| ip).filter(|ip| number(*ip) >= next).collect()
        };
        let fresh = (next..=high)
            .filter_map(|n| address(family, n))
            .find(|ip| !self.holder.contains_key(ip) && !freed.contains(ip));
        fresh.or_else(|| {
            self.freed_in(&cidr)
                .find(|(ip, at)| {
                    (low..=high).contains(&number(*ip))
                        && rested(*at, now_s)
                        && !self.holder.contains_key(ip)
                })
                .map(|(ip, _)| ip)
        })
    }

    fn freed_in(&self, cidr: &IpNet) -> impl Iterator<Item = (IpAddr, u64)> {
        let cidr = *cidr;
        let queue = self.freed.get(&Family::of(cidr.addr()));
        queue.into_iter().flatten().copied().filter(move |(ip, _)| cidr.contains(ip))
    }

    fn used(&self, cidr: &IpNet) -> usize {
        self.holder.keys().filter(|ip| cidr.contains(*ip)).count()
    }

    /// How full the pools are.
    pub fn usage(&self) -> Vec<Usage> {
        let usage = |cidr: &IpNet| Usage {
            cidr: *cidr,
            used: self.used(cidr),
            freed: self.freed_in(cidr).count(),
            capacity: bounds(*cidr)
                .map_or(0, |(low, high)| u64::try_from(high - low + 1).unwrap_or(u64::MAX)),
        };
        self.cidrs.iter().map(usage).collect()
    }

    /// Takes one record into account.
    pub(super) fn restore(&mut self, record: Record) {
        match record {
            Record::Give { key, ips } => {
                // A record may repeat (compaction in the middle of an append).
                self.forget(&key);
                for ip in &ips {
                    self.raise(*ip);
                    self.holder.insert(*ip, key.clone());
                    if let Some(queue) = self.freed.get_mut(&Family::of(*ip)) {
                        queue.retain(|(freed, _)| freed != ip);
                    }
                }
                self.given.insert(key, ips);
            }
            Record::Free { key, at_s } => {
                for ip in self.forget(&key) {
                    self.freed.entry(Family::of(ip)).or_default().push_back((ip, at_s));
                }
            }
            Record::Rest { ip, at_s } => {
                self.raise(ip);
                self.freed.entry(Family::of(ip)).or_default().push_back((ip, at_s));
            }
        }
    }

    fn raise(&mut self, ip: IpAddr) {
        // Only within the CIDR of the day: an address of another says nothing about it.
        let top = self.highest.entry(Family::of(ip)).or_insert(ip);
        if number(ip) > number(*top) {
            *top = ip;
        }
    }

    fn forget(&mut self, key: &Key) -> Vec<IpAddr> {
        let ips = self.given.remove(key).unwrap_or_default();
        ips.iter().for_each(|ip| drop(self.holder.remove(ip)));
        ips
    }

    /// The records that restore this state.
    pub(super) fn records(&self) -> Vec<Record> {
        let rest = |(ip, at_s): &(IpAddr, u64)| Record::Rest { ip: *ip, at_s: *at_s };
        let give =
            |(key, ips): (&Key, &Vec<IpAddr>)| Record::Give { key: key.clone(), ips: ips.clone() };
        self.freed.values().flatten().map(rest).chain(self.given.iter().map(give)).collect()
    }

    /// Their number.
    pub(super) fn record_count(&self) -> usize {
        self.given.len() + self.freed.values().map(VecDeque::len).sum::<usize>()
    }
}

fn rested(at_s: u64, now_s: u64) -> bool {
    // A clock that was set back must not make addresses rest for ever.
    now_s < at_s || now_s - at_s >= REST_S
}
