//! Pools of addresses and of ports. Pure: the random choice is an argument.

use ipnet::IpNet;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

/// Why an address or port cannot be given; the words of kube-apiserver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PoolError {
    #[error("range is full")]
    Full,
    #[error("provided IP is already allocated")]
    IpTaken,
    #[error("the provided IP ({0}) is not in the valid range. The range of valid IPs is {1}")]
    IpOutside(IpAddr, IpNet),
    #[error("provided port is already allocated")]
    PortTaken,
    #[error("provided port is not in the valid range. The range of valid ports is {0}-{1}")]
    PortOutside(u16, u16),
}

/// The lowest free number at or after a random one, wrapping round within `band`.
fn free_in(
    band: RangeInclusive<u128>,
    random: u128,
    used: &BTreeSet<u128>,
    taken: &[u128],
) -> Option<u128> {
    let (first, last) = (*band.start(), *band.end());
    if first > last {
        return None;
    }
    let size = last - first + 1;
    // Every used number could be in the way, but no more.
    let tries = size.min((used.len() + taken.len()) as u128 + 1);
    let start = random % size;
    (0..tries).map(|i| first + (start + i) % size).find(|n| !used.contains(n) && !taken.contains(n))
}

/// ClusterIPs of one family.
#[derive(Debug, Clone)]
pub(crate) struct IpPool {
    cidr: IpNet,
    /// Offsets from the network address.
    used: BTreeSet<u128>,
    /// Highest offset that may be given.
    last: u128,
    /// First offset of the upper band, which dynamic allocation prefers (KEP-3070).
    upper: u128,
}

impl IpPool {
    pub(crate) fn new(cidr: IpNet) -> Self {
        let cidr = cidr.trunc();
        let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
        let all = if bits >= 128 { u128::MAX } else { (1u128 << bits) - 1 };
        // Neither the network address nor, in IPv4, the broadcast address.
        let last = if cidr.addr().is_ipv4() { all.saturating_sub(1) } else { all };
        let upper = if last < 16 { 1 } else { (last / 16).clamp(16, 256) + 1 };
        Self { cidr, used: BTreeSet::new(), last, upper }
    }

    pub(crate) fn is_ipv4(&self) -> bool {
        self.cidr.addr().is_ipv4()
    }

    fn offset(&self, ip: IpAddr) -> Option<u128> {
        let offset = match (ip, self.cidr.addr()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(u32::from(a).checked_sub(u32::from(b))?),
            (IpAddr::V6(a), IpAddr::V6(b)) => u128::from(a).checked_sub(u128::from(b))?,
            _ => return None,
        };
        (1..=self.last).contains(&offset).then_some(offset)
    }

    fn address(&self, offset: u128) -> IpAddr {
        match self.cidr.addr() {
            IpAddr::V4(b) => IpAddr::V4(Ipv4Addr::from(u32::from(b) + offset as u32)),
            IpAddr::V6(b) => IpAddr::V6(Ipv6Addr::from(u128::from(b) + offset)),
        }
    }

    /// Whether this address may be taken.
    pub(crate) fn check(&self, ip: IpAddr) -> Result<(), PoolError> {
        let offset = self.offset(ip).ok_or(PoolError::IpOutside(ip, self.cidr))?;
        if self.used.contains(&offset) { Err(PoolError::IpTaken) } else { Ok(()) }
    }

    /// A free address: from the upper band while there is one, so that the lower stays for
    /// addresses that people choose.
    pub(crate) fn next(&self, random: u128) -> Result<IpAddr, PoolError> {
        free_in(self.upper..=self.last, random, &self.used, &[])
            .or_else(|| free_in(1..=self.upper - 1, random, &self.used, &[]))
            .map(|o| self.address(o))
            .ok_or(PoolError::Full)
    }

    pub(crate) fn take(&mut self, ip: IpAddr) {
        if let Some(o) = self.offset(ip) {
            self.used.insert(o);
        }
    }

    pub(crate) fn release(&mut self, ip: IpAddr) {
        if let Some(o) = self.offset(ip) {
            self.used.remove(&o);
        }
    }

    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.used.len()
    }
}

/// NodePorts; one number for all protocols, as in Kubernetes.
#[derive(Debug, Clone)]
pub(crate) struct PortPool {
    range: RangeInclusive<u16>,
    used: BTreeSet<u128>,
}

impl PortPool {
    pub(crate) fn new(range: RangeInclusive<u16>) -> Self {
        Self { range, used: BTreeSet::new() }
    }

    pub(crate) fn check(&self, port: u16) -> Result<(), PoolError> {
        if !self.range.contains(&port) {
            return Err(PoolError::PortOutside(*self.range.start(), *self.range.end()));
        }
        if self.used.contains(&u128::from(port)) { Err(PoolError::PortTaken) } else { Ok(()) }
    }

    /// A free port that is none of `taken`.
    pub(crate) fn next(&self, random: u128, taken: &[u16]) -> Result<u16, PoolError> {
        let (first, last) = (u128::from(*self.range.start()), u128::from(*self.range.end()));
        // The lower band stays for ports that people choose (KEP-3668).
        let size = (last + 1).saturating_sub(first);
        let lower = if size < 32 { 0 } else { (size / 32).clamp(16, 128) };
        let taken: Vec<u128> = taken.iter().map(|p| u128::from(*p)).collect();
        free_in(first + lower..=last, random, &self.used, &taken)
            .or_else(|| {
                free_in(first..=(first + lower).saturating_sub(1), random, &self.used, &taken)
            })
            .map(|p| p as u16)
            .ok_or(PoolError::Full)
    }

    pub(crate) fn take(&mut self, port: u16) {
        self.used.insert(u128::from(port));
    }

    pub(crate) fn release(&mut self, port: u16) {
        self.used.remove(&u128::from(port));
    }

    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.used.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn neither_network_nor_broadcast_address_is_given() {
        let mut p = IpPool::new("10.0.0.0/29".parse().unwrap());
        let mut seen = BTreeSet::new();
        for random in 0.. {
            match p.next(random * 7919) {
                Ok(ip) => {
                    p.take(ip);
                    assert!(seen.insert(ip));
                }
                Err(e) => {
                    assert_eq!(e, PoolError::Full);
                    break;
                }
            }
        }
        let expected: BTreeSet<IpAddr> = (1..=6).map(|i| IpAddr::from([10, 0, 0, i])).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn dynamic_addresses_leave_the_lower_band_alone() {
        let p = IpPool::new("10.96.0.0/16".parse().unwrap());
        for random in [0, 1, 65535, u128::MAX] {
            let IpAddr::V4(ip) = p.next(random).unwrap() else { panic!() };
            assert!(u32::from(ip) - u32::from(Ipv4Addr::new(10, 96, 0, 0)) > 256);
        }
    }

    #[test]
    fn huge_ranges_work() {
        let mut p = IpPool::new("fd00::/8".parse().unwrap());
        let ip = p.next(u128::MAX).unwrap();
        p.take(ip);
        assert_eq!(p.check(ip), Err(PoolError::IpTaken));
        assert!(p.check("fe00::1".parse().unwrap()).is_err());
    }

    proptest! {
        #[test]
        fn what_is_given_is_free_until_the_range_is_full(
            prefix in 24u8..=30, ops in proptest::collection::vec((any::<bool>(), any::<u64>()), 1..300)
        ) {
            let mut p = IpPool::new(IpNet::new("10.0.0.0".parse().unwrap(), prefix).unwrap());
            let size = (1usize << (32 - prefix)) - 2;
            let mut held: Vec<IpAddr> = Vec::new();
            for (take, random) in ops {
                if take {
                    match p.next(random.into()) {
                        Ok(ip) => {
                            prop_assert!(!held.contains(&ip));
                            prop_assert!(p.check(ip).is_ok());
                            p.take(ip);
                            held.push(ip);
                        }
                        Err(_) => prop_assert_eq!(held.len(), size),
                    }
                } else if !held.is_empty() {
                    let ip = held.swap_remove(random as usize % held.len());
                    p.release(ip);
                }
                prop_assert_eq!(p.used(), held.len());
            }
        }
    }
}
