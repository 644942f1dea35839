//! When a watch may ask the API again. Pure: the time is an argument.
//!
//! Every request of a watch passes here, also after an answer that was none (a watch that ends
//! at once, a list that is outdated when it arrives): whatever the API does, the number of
//! requests in a time is bounded.

use std::time::{Duration, Instant};

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delays {
    /// After the first failure. Doubles with each that follows.
    pub min: Duration,
    /// The longest. An agent that sees no changes misroutes traffic, and a handful of watches
    /// a node are a small load, so it is seconds, not client-go's half minute.
    pub max: Duration,
    /// A watch that lived this long was a success: the next failure is a first one again.
    pub healthy_after: Duration,
    /// A watch that ended sooner is a failure, whatever it said.
    pub short: Duration,
}

impl Default for Delays {
    fn default() -> Self {
        Self {
            min: Duration::from_millis(100),
            max: Duration::from_secs(4),
            healthy_after: Duration::from_secs(5),
            short: Duration::from_millis(900),
        }
    }
}

/// The pace of one watch.
#[derive(Debug)]
pub struct Pace {
    delays: Delays,
    failures: u32,
    not_before: Option<Instant>,
    opened: Option<Instant>,
}

impl Pace {
    /// The first request may be made at once.
    pub fn new(delays: Delays) -> Self {
        Self { delays, failures: 0, not_before: None, opened: None }
    }

    /// How long to wait before the next request. `random` is in [0, 1): the nodes of a cluster
    /// shall not come back all at once.
    pub fn wait(&self, now: Instant) -> Duration {
        self.not_before.map_or(Duration::ZERO, |t| t.saturating_duration_since(now))
    }

    /// The API could not be asked, or refused. `random` in [0, 1).
    pub fn failed(&mut self, now: Instant, random: f64) {
        self.opened = None;
        let doubled = self.delays.min.saturating_mul(1 << self.failures.min(16));
        let delay = doubled.min(self.delays.max).mul_f64(0.5 + random / 2.0);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + delay);
    }

    /// A watch begins.
    pub fn opened(&mut self, now: Instant) {
        self.opened = Some(now);
    }

    /// The watch that began last ended; `fine` where it ended as watches do. Whether it may
    /// be followed by another one at once.
    pub fn ended(&mut self, now: Instant, fine: bool, random: f64) -> bool {
        let lived = self.opened.take().map_or(Duration::ZERO, |o| now.saturating_duration_since(o));
        if lived >= self.delays.healthy_after {
            self.failures = 0;
        }
        let good = fine && lived >= self.delays.short;
        if good {
            self.not_before = None;
        } else {
            self.failed(now, random);
        }
        good
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn failures_wait_longer_up_to_the_limit_and_a_healthy_watch_forgives() {
        let (mut pace, mut now) = (Pace::new(Delays::default()), Instant::now());
        assert_eq!(pace.wait(now), Duration::ZERO);
        let mut waits = Vec::new();
        for _ in 0..8 {
            pace.failed(now, 1.0);
            waits.push(pace.wait(now).as_millis());
            now += pace.wait(now);
        }
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 4000, 4000]);
        pace.opened(now);
        now += Duration::from_secs(5);
        pace.ended(now, false, 0.0);
        assert_eq!(pace.wait(now), ms(50));
    }

    #[test]
    fn a_watch_that_ends_every_second_is_followed_at_once_and_one_that_ends_at_once_is_not() {
        let (mut pace, mut now) = (Pace::new(Delays::default()), Instant::now());
        for _ in 0..10 {
            pace.opened(now);
            now += ms(1000);
            pace.ended(now, true, 0.5);
            assert_eq!(pace.wait(now), Duration::ZERO);
        }
        pace.opened(now);
        pace.ended(now, true, 0.0);
        assert_eq!(pace.wait(now), ms(50));
    }

    proptest! {
        /// Whatever happens, and however soon: from the tenth request on no more than one in
        /// `short` or half the longest delay.
        #[test]
        fn the_rate_is_bounded(steps in proptest::collection::vec((0u8..3, 0u64..3000, 0.0..1.0f64), 20..60)) {
            let delays = Delays::default();
            let (mut pace, start) = (Pace::new(delays), Instant::now());
            let mut now = start;
            let requests = steps.len() as u32;
            for (kind, lived, random) in steps {
                now += pace.wait(now);
                match kind {
                    0 => pace.failed(now, random),
                    n => {
                        pace.opened(now);
                        now += ms(lived);
                        pace.ended(now, n == 1, random);
                    }
                }
            }
            let least = delays.short.min(delays.max / 2);
            // Six doublings reach the limit; a watch of five seconds pays for its reset.
            prop_assert!(now - start >= least * requests.saturating_sub(8) / 2, "{requests} in {:?}", now - start);
        }
    }
}
