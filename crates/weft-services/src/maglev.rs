//! Maglev hashing (Eisenbud and others, "Maglev: a fast and reliable software network load
//! balancer", NSDI 2016, section 3.4): backends in a table of fixed size, so that a client whose
//! hash picks a place is sent to the same backend by every node that knows the same backends,
//! and to the same one as before for nearly all clients when a backend comes or goes.
//!
//! Each backend has an order of its own in which it would like the places, and they take turns:
//! so the shares of any two differ by one place at most.
//!
//! What is hashed, and how, is the same on all nodes and must stay the same: nodes of two
//! versions would send a client to different backends.

use crate::Backend;
use std::net::IpAddr;

/// Sizes of tables: primes, so that every step goes through all places. Less than one in twelve of
/// the others' clients moves on average when a backend goes, with ten places each as with a hundred.
const SIZES: [usize; 2] = [1021, 16_381];
/// A larger table is taken for more backends than a tenth of the smaller one's places.
const PLACES_MIN: usize = 10;

/// The places of a table for these backends, which are sorted and without duplicates. More than
/// there are places in the largest table stand for themselves: then a client whose backend stays
/// may move.
pub fn places(backends: &[Backend]) -> Vec<Backend> {
    let fits = |size: &&usize| backends.len() * PLACES_MIN <= **size;
    let largest = SIZES[SIZES.len() - 1];
    let size = SIZES.iter().find(fits).copied().unwrap_or(largest);
    if backends.is_empty() || backends.len() > size {
        return backends.to_vec();
    }
    let mut wishes: Vec<Wishes> = backends.iter().map(|b| Wishes::of(b, size)).collect();
    let mut table: Vec<Option<Backend>> = vec![None; size];
    let mut left = size;
    'turns: loop {
        for (wish, backend) in wishes.iter_mut().zip(backends) {
            let free = wish.next_free(&table);
            table[free] = Some(*backend);
            left -= 1;
            if left == 0 {
                break 'turns;
            }
        }
    }
    table.into_iter().flatten().collect()
}

/// The places of a table in the order in which a backend would like them.
struct Wishes {
    next: usize,
    step: usize,
}

impl Wishes {
    fn of(backend: &Backend, size: usize) -> Self {
        let first = hash(backend);
        let size = size as u64;
        let next = (first % size) as usize;
        Self { next, step: (mix(first) % (size - 1)) as usize + 1 }
    }

    fn next_free(&mut self, table: &[Option<Backend>]) -> usize {
        while table[self.next].is_some() {
            self.next = (self.next + self.step) % table.len();
        }
        self.next
    }
}

/// FNV-1a over address (IPv4 as v4-mapped) and port, mixed.
fn hash(backend: &Backend) -> u64 {
    let address = match backend.addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let bytes = address.octets().into_iter().chain(backend.port.get().to_be_bytes());
    let of = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    mix(bytes.fold(0xcbf2_9ce4_8422_2325, of))
}

/// SplitMix64 (Steele, Lea, Flood 2014): neighbouring numbers become unlike.
fn mix(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};
    use weft_model::Port;

    fn backend((v6, a, b): (bool, u8, u16)) -> Backend {
        let addr = if v6 {
            IpAddr::from([0xfd00, 0x10, 0x244, u16::from(a), 0, 0, 0, b])
        } else {
            IpAddr::from([10, 244, a, b as u8])
        };
        Backend { addr, port: Port::try_from(8080).expect("port") }
    }

    fn backends(max: usize) -> impl Strategy<Value = Vec<Backend>> {
        let one = (any::<bool>(), any::<u8>(), any::<u16>()).prop_map(backend);
        prop::collection::btree_set(one, 1..max).prop_map(|all| all.into_iter().collect())
    }

    fn shares(table: &[Backend]) -> BTreeMap<Backend, usize> {
        let mut shares = BTreeMap::new();
        table.iter().for_each(|b| *shares.entry(*b).or_default() += 1);
        shares
    }

    proptest! {
        /// Everybody has a share, and no two of them differ by more than a place.
        #[test]
        fn shares_are_equal(all in backends(300)) {
            let table = places(&all);
            prop_assert!(SIZES.contains(&table.len()));
            let shares = shares(&table);
            prop_assert_eq!(shares.len(), all.len());
            let (least, most) = (shares.values().min(), shares.values().max());
            prop_assert!(most <= least.map(|n| n + 1).as_ref());
        }

        /// Who is gone loses its clients. Of all others some move as well, as turns change: in sets
        /// of few whose steps happen to go together up to a third of the places.
        #[test]
        fn most_stay_when_one_goes(all in backends(100), gone in any::<prop::sample::Index>()) {
            prop_assume!(all.len() > 1);
            let (moved, places) = moved(&all, gone.index(all.len()));
            prop_assert!(moved * 2 <= places, "{moved} of {places} moved");
        }
    }

    /// How many places change although their backend stays, and of how many.
    fn moved(all: &[Backend], gone: usize) -> (usize, usize) {
        let before = places(all);
        let rest = [&all[..gone], &all[gone + 1..]].concat();
        let after = places(&rest);
        assert_eq!(before.len(), after.len());
        let moved = |(a, b): &(&Backend, &Backend)| **a != all[gone] && a != b;
        (before.iter().zip(&after).filter(moved).count(), before.len())
    }

    /// On average, which is what a cluster sees.
    #[test]
    fn hardly_anybody_moves_when_one_goes() {
        for count in [3u16, 10, 30, 100] {
            let (mut sum, mut of) = (0, 0);
            for set in 0..20u16 {
                let one = |n: u16| backend((n.is_multiple_of(2), set as u8, set * 101 + n));
                let all: Vec<Backend> =
                    (0..count).map(one).collect::<BTreeSet<_>>().into_iter().collect();
                let (moved, places) = moved(&all, all.len() / 2);
                (sum, of) = (sum + moved, of + places);
            }
            let permille = sum * 1000 / of;
            println!("{count} backends, one of them goes: {permille} of 1000 others move");
            assert!(permille <= 80, "{count}: {permille}");
        }
    }

    #[test]
    fn sizes_are_primes_and_bounded() {
        for size in SIZES {
            assert!((2..size).take_while(|n| n * n <= size).all(|n| !size.is_multiple_of(n)));
        }
        let many = |n: u32| -> Vec<Backend> {
            let of = |i: u32| Backend {
                addr: IpAddr::from((0x0a00_0000 + i).to_be_bytes()),
                port: Port::try_from(80).expect("port"),
            };
            (0..n).map(of).collect()
        };
        for (count, size) in
            [(0, 0), (1, 1021), (102, 1021), (103, 16_381), (16_381, 16_381), (20_000, 20_000)]
        {
            let table = places(&many(count));
            assert_eq!(table.len(), size, "{count}");
            let all: BTreeSet<&Backend> = table.iter().collect();
            assert_eq!(all.len(), count as usize, "nobody is without clients");
        }
    }

    /// A table that was made by another version of this program.
    #[test]
    fn the_table_is_the_same_for_ever() {
        let all: Vec<Backend> = [1, 2, 3].map(|n| backend((false, 1, n))).into();
        let table = places(&all);
        let first: Vec<usize> =
            table[..24].iter().map(|b| all.binary_search(b).expect("one of them")).collect();
        // By another program, from the paper and the comments above.
        let expected = [2, 2, 2, 2, 1, 1, 0, 1, 0, 1, 0, 2, 2, 1, 2, 0, 0, 2, 2, 1, 2, 1, 2, 0];
        assert_eq!(first, expected);
    }
}
