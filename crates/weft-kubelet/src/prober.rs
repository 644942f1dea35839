//! The rhythm of probes: when to try, what to report.

use crate::check::{self, Outcome, Target};
use crate::probe::{Counter, Timing, Which};
use k8s_openapi::api::core::v1::Probe;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// A failure this soon after the start is not counted and the probe is tried again at once: the
/// program is still starting. (Kubernetes' kubelet learns of a start only at its next relist, up
/// to a second later, so it never probes in this time; here a pod that is up in 20 ms is ready
/// in 20 ms, and not a period later.)
const START_GRACE: Duration = Duration::from_secs(1);
/// First wait inside the grace; doubled at each try.
const FIRST_RETRY: Duration = Duration::from_millis(5);
/// Longest wait inside the grace.
const RETRY_MAX: Duration = Duration::from_millis(80);

/// What a prober tells its worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The verdict changed; with the last failure's message.
    Verdict(bool, String),
    /// A counted failure, for an Event.
    Failure(String),
    /// The command's program is absent: passed, and marked.
    Absent(String),
}

/// Probes until dropped. Liveness and readiness wait until `started` is true.
pub async fn run<T>(
    target: Target,
    which: Which,
    probe: Probe,
    since: Instant,
    mut started: watch::Receiver<bool>,
    tx: mpsc::Sender<T>,
    wrap: impl Fn(Report) -> T,
) {
    let timing = Timing::of(&probe);
    let mut counter = Counter::new(timing);
    if which != Which::Startup && started.wait_for(|s| *s).await.is_err() {
        return;
    }
    let first = (since + timing.initial_delay).max(Instant::now());
    tokio::time::sleep_until(first).await;
    let mut retry = FIRST_RETRY;
    let mut next = first;
    let mut marked = false;
    let mut last = String::new();
    loop {
        let outcome = check::probe(&target, &probe, timing.timeout).await;
        let ok = match outcome {
            Outcome::Ok => true,
            Outcome::Absent(program) => {
                if !marked {
                    marked = true;
                    let _ = tx.send(wrap(Report::Absent(program))).await;
                }
                true
            }
            Outcome::Failed(message) => {
                if counter.verdict().is_none() && since.elapsed() < START_GRACE {
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(RETRY_MAX);
                    next = Instant::now();
                    continue;
                }
                last = message.clone();
                let _ = tx.send(wrap(Report::Failure(message))).await;
                false
            }
        };
        if let Some(verdict) = counter.record(ok) {
            let _ = tx.send(wrap(Report::Verdict(verdict, last.clone()))).await;
            if which == Which::Startup {
                return;
            }
        }
        // A try that outlasts its period makes the next one late, not two at once.
        next = (next + timing.period).max(Instant::now());
        tokio::time::sleep_until(next).await;
    }
}
