//! What the planners of endpoints remember of one Service between rounds: times and notices.
//! Nothing of it decides which endpoints there are, so it may be lost with a restart.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};

use crate::pods;
use crate::store::Object;
use crate::targets::Family;

/// See the module's header.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// The pods' times at the last round; `None` before the first.
    pods: Option<BTreeMap<String, Timestamp>>,
    service: Option<Timestamp>,
    /// The time of the change that is not written yet.
    pending: Option<Timestamp>,
    /// What was last said about the hints of each family: `Ok` where they are on.
    pub(super) hints: BTreeMap<Family, Result<(), String>>,
    /// The last notice about the object as a whole.
    said: Option<String>,
}

impl Memory {
    /// Takes in the present state; gives the time of the change that the next write publishes
    /// (KEP-1001's network programming latency is measured from it).
    pub(crate) fn trigger<'a>(
        &mut self,
        service: &Service,
        selected: impl Iterator<Item = &'a Arc<Pod>>,
    ) -> Option<String> {
        let mut earliest: Option<Timestamp> = None;
        let mut consider = |at: Timestamp| earliest = Some(earliest.map_or(at, |e| e.min(at)));
        let before = self.pods.take();
        let mut times = BTreeMap::new();
        for pod in selected {
            let Some(at) = pods::ready_changed(pod) else { continue };
            let known = before.as_ref().and_then(|all| all.get(pod.name()));
            if known.is_none_or(|known| at > *known) {
                consider(at);
            }
            times.insert(pod.name().to_owned(), at);
        }
        let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
        if created > self.service {
            created.into_iter().for_each(&mut consider);
        }
        self.pods = Some(times);
        self.service = created;
        let now = if before.is_none() { created } else { earliest };
        self.pending = match (self.pending, now) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        self.pending.map(|at| at.to_string())
    }

    /// What is there is published: the next change is another one.
    pub(crate) fn published(&mut self) {
        self.pending = None;
    }

    /// Whether there is nothing to remember.
    pub(crate) fn is_empty(&self) -> bool {
        self.pods.is_none() && self.hints.is_empty() && self.said.is_none()
    }

    /// Whether a notice is worth an Event: it differs from the last one.
    pub(crate) fn is_news(&mut self, notice: Option<&str>) -> bool {
        let news = notice.is_some() && self.said.as_deref() != notice;
        self.said = notice.map(str::to_owned);
        news
    }
}
