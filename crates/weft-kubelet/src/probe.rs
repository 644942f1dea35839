//! Counting of probe results: thresholds turn single outcomes into a verdict. Pure.

use k8s_openapi::api::core::v1::Probe;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Which of a container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Which {
    /// Until it succeeds the other two wait.
    Startup,
    /// Failure restarts the container.
    Liveness,
    /// Decides whether Services send traffic.
    Readiness,
}

impl Which {
    /// As Events name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// A probe's numbers, with Kubernetes' defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Before the first try.
    pub initial_delay: Duration,
    /// Between tries.
    pub period: Duration,
    /// For one try.
    pub timeout: Duration,
    /// Successes in a row that count as one.
    pub success: u32,
    /// Failures in a row that count as one.
    pub failure: u32,
}

impl Timing {
    /// Numbers of a probe.
    pub fn of(p: &Probe) -> Self {
        let secs = |v: Option<i32>, default: u64, min: u64| {
            Duration::from_secs(v.and_then(|v| u64::try_from(v).ok()).unwrap_or(default).max(min))
        };
        // 0 stands for "not given" in these fields (`omitempty`), hence the minimum.
        let count = |v: Option<i32>, default: u32| match v.and_then(|v| u32::try_from(v).ok()) {
            None | Some(0) => default,
            Some(n) => n,
        };
        let nonzero = |v: Option<i32>| v.filter(|n| *n != 0);
        Self {
            initial_delay: secs(p.initial_delay_seconds, 0, 0),
            period: secs(nonzero(p.period_seconds), 10, 1),
            timeout: secs(nonzero(p.timeout_seconds), 1, 1),
            success: count(p.success_threshold, 1),
            failure: count(p.failure_threshold, 3),
        }
    }
}

/// Results in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    timing: Timing,
    last: Option<bool>,
    run: u32,
    verdict: Option<bool>,
}

impl Counter {
    /// Nothing tried yet.
    pub fn new(timing: Timing) -> Self {
        Self { timing, last: None, run: 0, verdict: None }
    }

    /// Counts one outcome; the verdict where it is new.
    pub fn record(&mut self, ok: bool) -> Option<bool> {
        self.run = if self.last == Some(ok) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(ok);
        let needed = if ok { self.timing.success } else { self.timing.failure };
        if self.run < needed || self.verdict == Some(ok) {
            return None;
        }
        self.verdict = Some(ok);
        self.verdict
    }

    /// The verdict so far.
    pub fn verdict(&self) -> Option<bool> {
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn counter(success: u32, failure: u32) -> Counter {
        let p: Probe = serde_json::from_value(
            json!({"successThreshold": success, "failureThreshold": failure}),
        )
        .unwrap();
        Counter::new(Timing::of(&p))
    }

    #[test]
    fn defaults_are_those_of_kubernetes() {
        let t = Timing::of(&Probe::default());
        let s = Duration::from_secs;
        assert_eq!(
            t,
            Timing { initial_delay: s(0), period: s(10), timeout: s(1), success: 1, failure: 3 }
        );
    }

    #[test]
    fn thresholds_count_in_a_row() {
        let mut c = counter(2, 3);
        let seen: Vec<_> = [false, true, false, true, true, true, false, false, true, false]
            .map(|ok| c.record(ok))
            .to_vec();
        assert_eq!(seen[..6], [None, None, None, None, Some(true), None]);
        assert_eq!(seen[6..], [None, None, None, None]);
        assert_eq!(c.record(false), None);
        assert_eq!(c.record(false), Some(false));
        assert_eq!(c.record(false), None);
    }

    proptest! {
        /// A verdict is announced exactly when the last `threshold` outcomes agree and it differs
        /// from the verdict before.
        #[test]
        fn verdicts_follow_the_definition(
            outcomes in prop::collection::vec(any::<bool>(), 0..40), s in 1u32..4, f in 1u32..4
        ) {
            let mut c = counter(s, f);
            let mut verdict = None;
            for i in 0..outcomes.len() {
                let ok = outcomes[i];
                let n = if ok { s } else { f } as usize;
                let run = i + 1 >= n && outcomes[i + 1 - n..=i].iter().all(|o| *o == ok);
                let want = (run && verdict != Some(ok)).then_some(ok);
                verdict = want.or(verdict);
                prop_assert_eq!(c.record(outcomes[i]), want);
                prop_assert_eq!(c.verdict(), verdict);
            }
        }
    }
}
