//! Numbers for what comes and goes.

use std::collections::VecDeque;

/// How many free numbers wait before the oldest of them is given out again.
const WAITING: usize = 1024;

/// Gives out numbers. One that was given back rests: at least until the next plan but one, so
/// that whoever met it in the tables before has forgotten it, and until many others wait too.
#[derive(Debug)]
pub(crate) struct Numbers {
    next: u32,
    /// The oldest first, with the plan that gave it back.
    free: VecDeque<(u64, u32)>,
}

impl Numbers {
    /// Begins with `first`.
    pub fn new(first: u32) -> Self {
        Self { next: first, free: VecDeque::new() }
    }

    /// A number that nothing has.
    pub fn take(&mut self, now: u64) -> u32 {
        if let Some((since, number)) = self.free.front().copied()
            && self.free.len() > WAITING
            && since + 2 <= now
        {
            self.free.pop_front();
            return number;
        }
        let number = self.next;
        self.next = number.checked_add(1).expect("invariant: tables hold fewer than 2^32 of each");
        number
    }

    /// Takes a number back that `take` gave.
    pub fn give_back(&mut self, number: u32, now: u64) {
        self.free.push_back((now, number));
    }

    /// The number after which `later` others were given back, if it was not given out again.
    pub fn given_back(&self, later: usize) -> Option<u32> {
        let at = self.free.len().checked_sub(later + 1)?;
        self.free.get(at).map(|(_, number)| *number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_rests_before_it_is_used_again() {
        let mut numbers = Numbers::new(1);
        let all: Vec<u32> = (0..=WAITING).map(|_| numbers.take(1)).collect();
        assert_eq!((all.first(), all.last()), (Some(&1), Some(&(WAITING as u32 + 1))));
        all.iter().for_each(|n| numbers.give_back(*n, 1));
        assert_eq!(numbers.take(2), WAITING as u32 + 2, "given back by the last plan");
        assert_eq!(numbers.take(3), 1);
        assert_eq!(numbers.take(3), WAITING as u32 + 3, "too few others wait");
    }
}
