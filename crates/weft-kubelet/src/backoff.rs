//! Restart delays, by the kubelet's own numbers: the first restart at once, then 10 s doubling
//! to 300 s, forgotten after a run of twice the maximum.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

const FIRST: SignedDuration = SignedDuration::from_secs(10);
const MAX: SignedDuration = SignedDuration::from_secs(300);
/// A container that ran this long starts again with the first delay.
const FORGET: SignedDuration = SignedDuration::from_secs(600);

/// Back-off of one container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    delay: Option<SignedDuration>,
    updated: Option<Timestamp>,
}

impl Backoff {
    /// Until when a container that ended at `finished` has to wait; `None`: start now.
    pub fn wait_until(&self, finished: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let delay = self.delay?;
        if self.updated.is_some_and(|u| finished.duration_since(u) > FORGET) {
            return None;
        }
        let until = finished.saturating_add(delay).unwrap_or(Timestamp::MAX);
        (until > now).then_some(until)
    }

    /// The delay that the next failure meets.
    pub fn delay(&self) -> Option<SignedDuration> {
        self.delay
    }

    /// A restart happens now, after a run that ended at `finished`.
    pub fn restarted(&mut self, finished: Timestamp, now: Timestamp) {
        let forget = self.updated.is_some_and(|u| finished.duration_since(u) > FORGET);
        self.delay = Some(match self.delay {
            Some(d) if !forget => (d * 2).min(MAX),
            _ => FIRST,
        });
        self.updated = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(s).unwrap()
    }

    #[test]
    fn doubles_from_ten_seconds_to_five_minutes() {
        let mut b = Backoff::default();
        let mut now = at(1000);
        let mut seen = Vec::new();
        for _ in 0..8 {
            let until = b.wait_until(now, now).unwrap_or(now);
            seen.push(until.duration_since(now).as_secs());
            b.restarted(now, until);
            now = until + SignedDuration::from_secs(1);
        }
        assert_eq!(seen, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn a_long_run_is_forgiven() {
        let mut b = Backoff::default();
        b.restarted(at(0), at(0));
        b.restarted(at(10), at(10));
        assert_eq!(b.wait_until(at(700), at(700)), None);
        b.restarted(at(700), at(700));
        assert_eq!(b.delay(), Some(FIRST));
    }
}
