//! Sets of completion indexes, as a Job's status and a success policy write them: `0,2-4`.

use std::fmt;

/// Intervals in order, apart from each other. Never one entry an index: the text is anybody's to
/// write, and `0-2147483646` is short.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Reads a set below `completions`. What is malformed is left out.
    pub(super) fn parse(text: &str, completions: i32) -> Self {
        let mut set = Self::default();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) else {
                continue;
            };
            let last = last.min(completions.saturating_sub(1));
            if (0..=last).contains(&first) {
                set.add(first, last);
            }
        }
        set
    }

    pub(super) fn insert(&mut self, index: i32) {
        self.add(index, index);
    }

    fn add(&mut self, mut first: i32, mut last: i32) {
        // Neighbours become one.
        self.0.retain(|(from, to)| {
            let apart = *to < first.saturating_sub(1) || *from > last.saturating_add(1);
            if !apart {
                first = first.min(*from);
                last = last.max(*to);
            }
            apart
        });
        let at = self.0.partition_point(|(from, _)| *from < first);
        self.0.insert(at, (first, last));
    }

    pub(super) fn contains(&self, index: i32) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&index))
    }

    /// How many indexes there are.
    pub(super) fn total(&self) -> i64 {
        self.0.iter().map(|(first, last)| i64::from(*last) - i64::from(*first) + 1).sum()
    }

    /// How many indexes both have.
    pub(super) fn common(&self, other: &Self) -> i64 {
        let pairs = self.0.iter().flat_map(|one| other.0.iter().map(move |two| (one, two)));
        pairs
            .map(|(one, two)| i64::from(one.1.min(two.1)) - i64::from(one.0.max(two.0)) + 1)
            .filter(|common| *common > 0)
            .sum()
    }

    /// Indexes below `completions` that are not in the set, in order.
    pub(super) fn missing(&self, completions: i32) -> impl Iterator<Item = i32> {
        let mut gaps = Vec::new();
        let mut next = 0i64;
        for (first, last) in &self.0 {
            gaps.push(next..i64::from(*first));
            next = i64::from(*last) + 1;
        }
        gaps.push(next..i64::from(completions));
        gaps.into_iter().flatten().filter_map(|index| i32::try_from(index).ok())
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for (first, last) in &self.0 {
            // Two neighbours are written as two, three as an interval.
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals() {
        let mut set = Indexes::parse("0,2-4,9,nonsense,7-5,3000000000", 10);
        assert_eq!(set.to_string(), "0,2-4,9");
        assert_eq!(set.total(), 5);
        set.insert(1);
        assert_eq!(set.to_string(), "0-4,9");
        set.insert(8);
        assert_eq!(set.to_string(), "0-4,8,9");
        set.insert(8);
        assert_eq!(set.missing(12).collect::<Vec<_>>(), [5, 6, 7, 10, 11]);
        assert!(set.contains(3) && !set.contains(5));
        assert_eq!(set.common(&Indexes::parse("3-8", 10)), 3);
        let all = Indexes::parse("0-2147483646", i32::MAX);
        assert_eq!(all.total(), i64::from(i32::MAX));
        assert_eq!(all.missing(i32::MAX).next(), None);
        assert_eq!(Indexes::default().missing(i32::MAX).next(), Some(0));
        assert_eq!(Indexes::default().to_string(), "");
    }
}
