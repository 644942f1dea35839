//! Verdicts on flows, told to whoever asks on `agent.sock`.
//!
//! Flow: the kernel's ring buffer (`reader.rs`) → [`VerdictEvent`]s → names (`names.rs`: pods,
//! nodes, the reason) while they are known → [`Flows`], which keeps the last ones and hands new
//! ones to followers → lines of JSON (`tell.rs`).
//!
//! Everything is bounded: what is kept, how many follow, how far a follower may lag behind. Who is
//! too slow loses events and is told how many.

mod names;
mod reader;
mod tell;
#[cfg(test)]
mod tests;

pub use names::{Addresses, Who, Why};
pub(crate) use reader::by_reason;
pub use reader::run;
pub(crate) use tell::reason_name;
pub use tell::serve;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use weft_bpf::{PolicyStats, ReasonCounts};
use weft_cni::flow::FlowVerdict;
use weft_model::Direction;

/// Flows that are kept.
const RECENT_MAX: usize = 4096;
/// Flows that a follower may lag behind before it loses some.
const LAG_MAX: usize = 1024;
/// Followers at once.
const FOLLOWERS_MAX: usize = 8;

/// What a program at a pod's link judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerdictEvent {
    /// When.
    pub at: SystemTime,
    /// Index of the pod's link.
    pub link: u32,
    /// Whose rules were asked: egress of the pod that began it, or ingress of the one that was
    /// asked.
    pub direction: Direction,
    /// The pod's end.
    pub own: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
    /// Protocol number (IANA).
    pub protocol: u8,
    /// What became of it.
    pub verdict: FlowVerdict,
    /// Number of the reason.
    pub reason: u32,
    /// The node's generation of rules.
    pub generation: u32,
    /// It was sent to a Service and translated at this link.
    pub through_service: bool,
    /// The pod's own node sent it.
    pub from_node: bool,
    /// It had been allowed, and a change of the rules ended it.
    pub cut: bool,
}

/// An event with the names that its numbers and addresses had when it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The event.
    pub event: VerdictEvent,
    /// The pod at whose link it was judged.
    pub own: Who,
    /// The other end.
    pub peer: Who,
    /// Why.
    pub why: Why,
}

/// What followers get.
#[derive(Clone, Debug)]
enum News {
    Flow(Arc<Flow>),
    /// So many were lost before they came here.
    Lost(u64),
}

/// The last flows, and those who follow.
#[derive(Debug)]
pub struct Flows {
    recent: Mutex<VecDeque<Arc<Flow>>>,
    news: broadcast::Sender<News>,
    places: Arc<Semaphore>,
    seen: AtomicU64,
    lost: AtomicU64,
    counters: Mutex<Arc<Counters>>,
}

/// The kernel's counters of policy, as they were read last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Of the programs.
    pub stats: PolicyStats,
    /// By number of the reason.
    pub reasons: Vec<(u32, ReasonCounts)>,
}

impl Default for Flows {
    fn default() -> Self {
        Self {
            recent: Mutex::default(),
            news: broadcast::Sender::new(LAG_MAX),
            places: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
            seen: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            counters: Mutex::default(),
        }
    }
}

/// Counts, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// Events that came.
    pub seen: u64,
    /// Events that were lost before they came.
    pub lost: u64,
    /// Followers now.
    pub followers: usize,
}

impl Flows {
    fn recent(&self) -> MutexGuard<'_, VecDeque<Arc<Flow>>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a flow. Never waits for a follower.
    pub fn publish(&self, flow: Flow) {
        self.seen.fetch_add(1, Ordering::Relaxed);
        let flow = Arc::new(flow);
        let mut recent = self.recent();
        if recent.len() >= RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(flow.clone());
        // Under the lock, so that who begins to follow finds each flow once. Without followers
        // nobody gets it.
        let _ = self.news.send(News::Flow(flow));
    }

    /// Notes flows that were lost on the way here.
    pub fn lose(&self, count: u64) {
        if count > 0 {
            self.lost.fetch_add(count, Ordering::Relaxed);
            let _ = self.news.send(News::Lost(count));
        }
    }

    /// The flows that are kept, the oldest first, and what comes after them.
    fn follow(&self) -> (Vec<Arc<Flow>>, broadcast::Receiver<News>) {
        let recent = self.recent();
        (recent.iter().cloned().collect(), self.news.subscribe())
    }

    /// The kernel's counters, as they were read last.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps the kernel's counters. Events that did not come since the last time were lost.
    pub fn count(&self, counters: Counters) {
        let lost = |c: &Counters| c.stats.events_lost + c.stats.events_limited;
        let mut now = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        // Those from before this agent are nobody's loss here.
        let before =
            if **now == Counters::default() { lost(&counters) } else { lost(now.as_ref()) };
        let more = lost(&counters).saturating_sub(before);
        *now = Arc::new(counters);
        drop(now);
        self.lose(more);
    }

    /// A place for a follower; `None` where there is none left.
    fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }

    /// Counts so far.
    pub fn counts(&self) -> FlowCounts {
        FlowCounts {
            seen: self.seen.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            followers: FOLLOWERS_MAX.saturating_sub(self.places.available_permits()),
        }
    }
}
