//! Port ranges as prefixes, as a lookup by prefix length needs them.

use std::ops::RangeInclusive;

/// All ports whose first `bits` bits are those of `port`; the other bits of `port` are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortPrefix {
    /// The first port.
    pub port: u16,
    /// How many leading bits count, 0 to 16.
    pub bits: u8,
}

impl PortPrefix {
    /// Every port.
    pub const ALL: Self = Self { port: 0, bits: 0 };

    /// The prefix of this length that holds `port`.
    pub fn around(port: u16, bits: u8) -> Self {
        Self { port: port & mask(bits), bits }
    }
}

fn mask(bits: u8) -> u16 {
    // A shift by 16 is what 0 bits need: as a wider number it is defined.
    (0xffff_0000u32 >> bits) as u16
}

/// The fewest prefixes that make up `range`: at most 30 (two for each bit but the first).
pub fn prefixes(range: RangeInclusive<u16>) -> Vec<PortPrefix> {
    let (mut at, last) = (u32::from(*range.start()), u32::from(*range.end()));
    let mut found = Vec::new();
    while at <= last {
        // The largest block that begins here and does not reach beyond the end.
        let aligned = if at == 0 { 16 } else { at.trailing_zeros().min(16) };
        let size = (0..=aligned).rev().find(|s| at + (1 << s) - 1 <= last).unwrap_or(0);
        found.push(PortPrefix { port: at as u16, bits: 16 - size as u8 });
        at += 1 << size;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(p: &PortPrefix) -> u32 {
        1 << (16 - p.bits)
    }

    proptest! {
        #[test]
        fn prefixes_are_the_range_and_few(a in any::<u16>(), b in any::<u16>()) {
            let (first, last) = (a.min(b), a.max(b));
            let found = prefixes(first..=last);
            prop_assert!(found.len() <= 30);
            let mut at = u32::from(first);
            for p in &found {
                prop_assert_eq!(u32::from(p.port), at, "without gaps");
                prop_assert_eq!(PortPrefix::around(p.port, p.bits), *p, "no stray bits");
                at += size(p);
            }
            prop_assert_eq!(at, u32::from(last) + 1);
        }
    }

    #[test]
    fn the_ends_are_right() {
        assert_eq!(prefixes(0..=65535), [PortPrefix::ALL]);
        assert_eq!(prefixes(80..=80), [PortPrefix { port: 80, bits: 16 }]);
        assert_eq!(prefixes(1..=65534).len(), 30);
        assert_eq!(prefixes(65535..=65535), [PortPrefix { port: 65535, bits: 16 }]);
        assert_eq!(prefixes(1..=65535).len(), 16);
    }
}
