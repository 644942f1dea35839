//! What the agent tells Prometheus, on kube-proxy's port, under kube-proxy's names where there
//! are any (Kubernetes Metrics Reference, 1.34): dashboards and load suites read on. All else is
//! `weft_…`.
//!
//! kube-proxy is two proxies, one for each IP family, and labels everything `ip_family`. Here
//! one change applies both families at once: what is about an EndpointSlice has the label, what
//! is about a change of the kernel has none.

mod page;
mod process;
#[cfg(test)]
mod tests;
pub mod text;

pub use page::Sources;

use crate::http::{self, Reply};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};
use text::{Histogram, exponential, linear};
use tokio::sync::Semaphore;
use weft_bpf::Stats;
use weft_kube::Applied;
use weft_model::IpFamily;

/// The counters of the kernel are read at most so often: nothing waits for them.
const STATS_INTERVAL: Duration = Duration::from_secs(2);

/// Scrapers at once.
const SCRAPERS_MAX: usize = 8;
/// `Content-Type` of the page.
const PAGE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves the page for ever, and beside it what kube-proxy has on this port: `/healthz`, and
/// the mode, which test suites ask for.
pub async fn serve(at: SocketAddr, sources: Sources) {
    let reply = move |path: &str| match path {
        "/metrics" => Reply { status: 200, kind: PAGE, header: None, body: sources.page() },
        "/proxyMode" => Reply::text(200, "weft"),
        "/healthz" => Reply::text(200, "ok"),
        _ => Reply::not_found(),
    };
    http::serve(at, "metrics", Arc::new(Semaphore::new(SCRAPERS_MAX)), reply).await;
}

/// What happened since the agent started.
#[derive(Debug)]
pub struct Metrics(Mutex<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    programming: BTreeMap<IpFamily, Histogram>,
    sync: Histogram,
    synced_at: Option<SystemTime>,
    failures: u64,
    /// Answers to probes by path and status.
    probes: BTreeMap<(&'static str, u16), u64>,
    stats: Option<Stats>,
    stats_at: Option<Instant>,
}

impl Default for Metrics {
    fn default() -> Self {
        // 0.25 and 0.5 s, then every second, 5 s from a minute on, half minutes from two on.
        let bounds = || {
            let parts = linear(0.25, 0.25, 2).chain(linear(1.0, 1.0, 59));
            parts.chain(linear(60.0, 5.0, 12)).chain(linear(120.0, 30.0, 7)).collect()
        };
        let programming = [IpFamily::V4, IpFamily::V6].map(|f| (f, Histogram::new(bounds())));
        Self(Mutex::new(Inner {
            programming: programming.into(),
            sync: Histogram::new(exponential(0.001, 2.0, 15)),
            synced_at: None,
            failures: 0,
            probes: BTreeMap::new(),
            stats: None,
            stats_at: None,
        }))
    }
}

impl Metrics {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happened so far: a copy, so that nobody waits for whoever writes a page of it.
    fn copy(&self) -> Inner {
        self.inner().clone()
    }

    /// The service stage tried to apply tables. `applied`: what the kernel has now and had not
    /// before; `None` where it failed.
    pub fn synced(&self, took: Duration, applied: Option<Applied>) {
        let now = SystemTime::now();
        let mut inner = self.inner();
        inner.sync.observe(took.as_secs_f64());
        let Some(applied) = applied else {
            inner.failures += 1;
            return;
        };
        inner.synced_at = Some(now);
        for (family, triggered_at) in applied.triggers {
            // The clock of the controller may be ahead of ours.
            let since = now.duration_since(triggered_at).unwrap_or_default();
            if let Some(histogram) = inner.programming.get_mut(&family) {
                histogram.observe(since.as_secs_f64());
            }
        }
    }

    /// Keeps the kernel's counters, where the last ones are old.
    pub fn refresh(&self, read: impl FnOnce() -> Option<Stats>) {
        let fresh = |at: Instant| at.elapsed() < STATS_INTERVAL;
        if self.inner().stats_at.is_some_and(fresh) {
            return;
        }
        let stats = read();
        let mut inner = self.inner();
        inner.stats_at = Some(Instant::now());
        inner.stats = stats.or(inner.stats);
    }

    /// A probe was answered.
    pub fn probed(&self, path: &str, status: u16) {
        let path = match path {
            "/healthz" => "healthz",
            "/livez" => "livez",
            _ => return,
        };
        *self.inner().probes.entry((path, status)).or_default() += 1;
    }
}
