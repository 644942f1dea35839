//! A set of prefixes that do not overlap.

use ipnet::IpNet;
use std::{collections::BTreeMap, net::IpAddr};

/// Non-overlapping prefixes of both families.
#[derive(Default)]
pub(crate) struct PrefixSet {
    /// First address (as a number, with its family) → prefix.
    by_start: BTreeMap<(bool, u128), IpNet>,
}

fn number(ip: IpAddr) -> (bool, u128) {
    match ip {
        IpAddr::V4(a) => (false, u32::from(a).into()),
        IpAddr::V6(a) => (true, a.into()),
    }
}

impl PrefixSet {
    /// A member that overlaps with `net`.
    pub(crate) fn overlapping(&self, net: &IpNet) -> Option<IpNet> {
        // Prefixes are nested or apart: one that overlaps begins at or before the end of
        // `net`, and members do not overlap, so only the last such one can.
        let (_, candidate) = self.by_start.range(..=number(net.broadcast())).next_back()?;
        (candidate.contains(net) || net.contains(candidate)).then_some(*candidate)
    }

    /// Adds a prefix, or gives back the member that it overlaps with.
    pub(crate) fn insert(&mut self, net: IpNet) -> Result<(), IpNet> {
        match self.overlapping(&net) {
            Some(with) => Err(with),
            None => {
                self.by_start.insert(number(net.network()), net.trunc());
                Ok(())
            }
        }
    }

    /// Adds a prefix of the surroundings, which may overlap with others of them.
    pub(crate) fn cover(&mut self, net: IpNet) {
        if let Err(with) = self.insert(net)
            && net.contains(&with)
            && net != with
        {
            self.by_start.remove(&number(with.network()));
            self.cover(net);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets() -> impl Strategy<Value = Vec<IpNet>> {
        let v4 = (0u32..64, 26u8..=32).prop_map(|(a, len)| {
            IpNet::new(IpAddr::from((0x0a00_0000 + a).to_be_bytes()), len).expect("valid").trunc()
        });
        let v6 = (0u128..64, 122u8..=128)
            .prop_map(|(a, len)| IpNet::new(IpAddr::V6(a.into()), len).expect("valid").trunc());
        proptest::collection::vec(prop_oneof![v4, v6], 0..24)
    }

    fn overlap(a: &IpNet, b: &IpNet) -> bool {
        a.contains(b) || b.contains(a)
    }

    proptest! {
        #[test]
        fn insert_agrees_with_comparing_all_pairs(nets in nets()) {
            let (mut set, mut kept) = (PrefixSet::default(), Vec::<IpNet>::new());
            for net in nets {
                let expected = kept.iter().any(|k| overlap(k, &net));
                prop_assert_eq!(set.insert(net).is_err(), expected);
                if !expected {
                    kept.push(net);
                }
            }
        }

        #[test]
        fn covered_ranges_are_found(nets in nets(), probe in nets()) {
            let mut set = PrefixSet::default();
            nets.iter().for_each(|n| set.cover(*n));
            for p in probe {
                prop_assert_eq!(
                    set.overlapping(&p).is_some(),
                    nets.iter().any(|n| overlap(n, &p))
                );
            }
        }
    }
}
