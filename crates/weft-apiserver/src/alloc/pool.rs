//! Sets of addresses and ports, and the choice of a free one. Pure: chance is an argument.

use ipnet::IpNet;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::{Bound, RangeInclusive},
};

/// Why an address or port cannot be given; the words of kube-apiserver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PoolError {
    #[error("range is full")]
    Full,
    #[error("provided IP is already allocated")]
    IpTaken,
    #[error("the provided network does not match the current range")]
    NoRange,
    #[error("the provided IP ({0}) is not in the valid range. The range of valid IPs is {1}")]
    IpOutside(IpAddr, IpNet),
    #[error("allocator not ready")]
    NotReady,
    #[error("provided port is already allocated")]
    PortTaken,
    #[error("provided port is not in the valid range. The range of valid ports is {0}-{1}")]
    PortOutside(u16, u16),
}

/// The first number outside `used` at or after a random one of `band`, wrapping round.
fn free_in(band: RangeInclusive<u128>, random: u128, used: &BTreeSet<u128>) -> Option<u128> {
    let (first, last) = (*band.start(), *band.end());
    if first > last {
        return None;
    }
    let start = match (last - first).checked_add(1) {
        Some(size) => first + random % size,
        None => random,
    };
    // One walk over the used numbers: only an unbroken run of them stands in the way.
    let free_from = |from: u128, to: u128| {
        let mut next = from;
        for used in used.range((Bound::Included(from), Bound::Included(to))) {
            if *used != next {
                break;
            }
            if next == to {
                return None;
            }
            next += 1;
        }
        (next <= to).then_some(next)
    };
    free_from(start, last).or_else(
        || {
            if start == first { None } else { free_from(first, start - 1) }
        },
    )
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// The addresses of one family that IPAddress objects reserve.
#[derive(Debug, Clone, Default)]
pub(crate) struct Addresses {
    used: BTreeSet<u128>,
}

impl Addresses {
    pub(crate) fn take(&mut self, ip: IpAddr) {
        self.used.insert(number(ip));
    }

    pub(crate) fn release(&mut self, ip: IpAddr) {
        self.used.remove(&number(ip));
    }

    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        self.used.contains(&number(ip))
    }

    /// Replaces what is taken; whether that changed anything.
    pub(crate) fn rebuild(&mut self, ips: impl Iterator<Item = IpAddr>) -> bool {
        let used = ips.map(number).collect();
        std::mem::replace(&mut self.used, used) != self.used
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.used.len()
    }
}

/// A range of ClusterIPs: one CIDR of a ServiceCIDR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    /// Name of the ServiceCIDR.
    pub(crate) owner: String,
    pub(crate) net: IpNet,
    /// Whether addresses are given from it: Ready and not being deleted.
    pub(crate) ready: bool,
}

impl Range {
    pub(crate) fn is_ipv4(&self) -> bool {
        self.net.addr().is_ipv4()
    }

    /// The real allocator makes none of a shorter IPv6 prefix.
    pub(crate) fn is_usable(&self) -> bool {
        self.is_ipv4() || self.net.prefix_len() >= 64
    }

    /// First and last address that may be given: neither the network address nor, in IPv4, the
    /// broadcast address.
    fn ends(&self) -> (u128, u128) {
        let (first, last) = (number(self.net.network()), number(self.net.broadcast()));
        (first.saturating_add(1), if self.is_ipv4() { last.saturating_sub(1) } else { last })
    }

    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        let (first, last) = self.ends();
        ip.is_ipv4() == self.is_ipv4() && (first..=last).contains(&number(ip))
    }

    /// Whether every address of the other range is one of this.
    pub(crate) fn covers(&self, other: &IpNet) -> bool {
        self.net.contains(other)
    }

    /// Addresses at the lower end that dynamic allocation takes last, so that people may choose
    /// them (KEP-3070).
    fn lower_band(&self) -> u128 {
        let bits = u32::from(self.net.max_prefix_len() - self.net.prefix_len());
        let size = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
        if size <= 16 { 0 } else { (size / 16).clamp(16, 256) }
    }

    /// A free address: from the upper band while there is one.
    pub(crate) fn next(&self, used: &Addresses, random: u128) -> Option<IpAddr> {
        let (first, last) = self.ends();
        let upper = first.saturating_add(self.lower_band());
        let found = free_in(upper..=last, random, &used.used)
            .or_else(|| free_in(first..=upper.checked_sub(1)?, random, &used.used))?;
        Some(if self.is_ipv4() {
            IpAddr::V4(Ipv4Addr::from(found as u32))
        } else {
            IpAddr::V6(Ipv6Addr::from(found))
        })
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

    pub(crate) fn contains(&self, port: u16) -> bool {
        self.used.contains(&port.into())
    }

    pub(crate) fn outside(&self) -> PoolError {
        PoolError::PortOutside(*self.range.start(), *self.range.end())
    }

    /// Whether the number is one of the range.
    pub(crate) fn covers(&self, port: i64) -> Option<u16> {
        u16::try_from(port).ok().filter(|port| self.range.contains(port))
    }

    /// A free port that is none of `taken`.
    pub(crate) fn next(&self, random: u128, taken: &[u16]) -> Option<u16> {
        let (first, last) = (u128::from(*self.range.start()), u128::from(*self.range.end()));
        // The lower band stays for ports that people choose (KEP-3668).
        let size = (last + 1).saturating_sub(first);
        let lower = if size <= 16 { 0 } else { (size / 32).clamp(16, 128) };
        let mut used = std::borrow::Cow::Borrowed(&self.used);
        if taken.iter().any(|port| !self.contains(*port)) {
            used.to_mut().extend(taken.iter().map(|port| u128::from(*port)));
        }
        free_in(first + lower..=last, random, &used)
            .or_else(|| free_in(first..=(first + lower).checked_sub(1)?, random, &used))
            .map(|port| port as u16)
    }

    pub(crate) fn take(&mut self, port: u16) {
        self.used.insert(port.into());
    }

    pub(crate) fn release(&mut self, port: u16) {
        self.used.remove(&port.into());
    }

    /// Replaces what is taken; whether that changed anything.
    pub(crate) fn rebuild(&mut self, ports: impl Iterator<Item = u16>) -> bool {
        let used = ports.map(u128::from).collect();
        std::mem::replace(&mut self.used, used) != self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(net: &str) -> Range {
        Range { owner: "kubernetes".into(), net: net.parse().unwrap(), ready: true }
    }

    fn drain(range: &Range) -> BTreeSet<IpAddr> {
        let (mut used, mut seen) = (Addresses::default(), BTreeSet::new());
        for random in 0u128.. {
            let Some(ip) = range.next(&used, random * 7919) else { break };
            used.take(ip);
            assert!(seen.insert(ip) && range.contains(ip));
        }
        seen
    }

    #[test]
    fn neither_network_nor_broadcast_address_is_given() {
        let expected: BTreeSet<IpAddr> = (1..=6).map(|i| IpAddr::from([10, 0, 0, i])).collect();
        assert_eq!(drain(&range("10.0.0.0/29")), expected);
        assert_eq!(drain(&range("fd00::/120")).len(), 255);
        assert!(drain(&range("10.0.0.0/31")).is_empty());
        assert!(drain(&range("10.0.0.1/32")).is_empty());
    }

    #[test]
    fn the_lower_band_is_that_of_the_real_allocator() {
        for (net, size) in [
            ("10.0.0.0/28", 0),
            ("10.0.0.0/27", 16),
            ("10.0.0.0/24", 16),
            ("10.0.0.0/20", 256),
            ("10.0.0.0/23", 32),
            ("10.96.0.0/16", 256),
            ("fd00::/112", 256),
            ("fd00::/64", 256),
            ("fd00::/124", 0),
        ] {
            assert_eq!(range(net).lower_band(), size, "{net}");
        }
        let r = range("10.96.0.0/16");
        for random in [0, 1, 65535, u128::MAX] {
            let Some(IpAddr::V4(ip)) = r.next(&Addresses::default(), random) else { panic!() };
            assert!(u32::from(ip) > u32::from(Ipv4Addr::new(10, 96, 1, 0)));
        }
        // Once the upper band is full, the lower one is given.
        let r = range("10.0.0.0/27");
        let mut used = Addresses::default();
        (17..=30).for_each(|i| used.take([10, 0, 0, i].into()));
        assert!(r.next(&used, 5).is_some_and(|ip| r.contains(ip)));
    }

    #[test]
    fn huge_ranges_work() {
        let r = range("fd00::/64");
        let mut used = Addresses::default();
        for random in [u128::MAX, u128::MAX, 0] {
            let ip = r.next(&used, random).unwrap();
            assert!(!used.contains(ip) && r.contains(ip));
            used.take(ip);
        }
        assert!(!r.contains("fe00::1".parse().unwrap()) && !r.contains("1.2.3.4".parse().unwrap()));
        assert!(range("::/0").next(&used, u128::MAX).is_some());
        assert!(range("0.0.0.0/0").next(&Addresses::default(), u128::MAX).is_some());
    }

    proptest! {
        #[test]
        fn what_is_given_is_free_until_the_range_is_full(
            prefix in 24u8..=30, ops in proptest::collection::vec((any::<bool>(), any::<u64>()), 1..300)
        ) {
            let r = range(&format!("10.0.0.0/{prefix}"));
            let mut used = Addresses::default();
            let size = (1usize << (32 - prefix)) - 2;
            let mut held: Vec<IpAddr> = Vec::new();
            for (take, random) in ops {
                if take {
                    match r.next(&used, random.into()) {
                        Some(ip) => {
                            prop_assert!(!held.contains(&ip) && r.contains(ip));
                            used.take(ip);
                            held.push(ip);
                        }
                        None => prop_assert_eq!(held.len(), size),
                    }
                } else if !held.is_empty() {
                    used.release(held.swap_remove(random as usize % held.len()));
                }
                prop_assert_eq!(used.used.len(), held.len());
            }
        }

        #[test]
        fn every_port_is_given_once(first in 1u16..60000, size in 1u16..300, seed: u64) {
            let mut pool = PortPool::new(first..=first + size - 1);
            let mut random = u128::from(seed);
            for given in 0..size {
                let taken: Vec<u16> = (first..first + given.min(3)).collect();
                let _ = pool.next(random, &taken);
                let port = pool.next(random, &[]).unwrap();
                prop_assert!(!pool.contains(port) && pool.covers(port.into()).is_some());
                pool.take(port);
                random = random.wrapping_mul(6364136223846793005) + 1;
            }
            prop_assert_eq!(pool.next(random, &[]), None);
        }
    }
}
