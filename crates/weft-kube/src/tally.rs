//! What the watches brought, counted: the part of the metrics that only the source knows.
//!
//! The EndpointSlice controller writes into each slice when the change happened that it tells
//! of (`endpoints.kubernetes.io/last-change-trigger-time`). The snapshot has no room for that:
//! an equal slice with another time would be news to everybody. So the times wait here until
//! whoever applies snapshots says which generation is in the kernel.

use crate::{Kind, index::Indexed};
use k8s_openapi::{api::discovery::v1::EndpointSlice, jiff::Timestamp};
use kube::{Resource, runtime::watcher::Event};
use std::{
    any::Any,
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};
use weft_model::IpFamily;

/// Annotation of an EndpointSlice: when the change happened that it tells of (RFC 3339).
pub const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Times that wait at most; more are not measured.
const WAITING_MAX: usize = 65_536;

/// Counts and times; shared by the source and whoever applies its snapshots.
#[derive(Debug, Default)]
pub struct Tally(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    services: u64,
    slices: u64,
    queued_at: Option<SystemTime>,
    /// Not in a snapshot yet.
    fresh: Batch,
    /// In a snapshot that is not applied yet.
    published: VecDeque<(u64, Batch)>,
}

#[derive(Debug, Default)]
struct Batch {
    services: u64,
    slices: u64,
    triggers: Vec<(IpFamily, SystemTime)>,
}

/// What was seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Changes of Services.
    pub services: u64,
    /// Those of them that are not applied yet.
    pub services_pending: u64,
    /// Changes of EndpointSlices.
    pub slices: u64,
    /// Those of them that are not applied yet.
    pub slices_pending: u64,
    /// When the last one arrived.
    pub queued_at: Option<SystemTime>,
}

/// What became true in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// When the changes happened that the EndpointSlices told of, by family.
    pub triggers: Vec<(IpFamily, SystemTime)>,
}

impl Tally {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in an event of a watch. Lists count as changes, but nobody knows when these
    /// happened: their times may be days old.
    pub(crate) fn see<K: Indexed + Resource + Any>(&self, event: &Event<K>) {
        let (object, listed) = match event {
            Event::Apply(object) => (object, false),
            Event::InitApply(object) => (object, true),
            Event::Delete(object) => (object, true),
            Event::Init | Event::InitDone => return,
        };
        let mut inner = self.inner();
        let inner = &mut *inner;
        match K::KIND {
            Kind::Service => {
                inner.services += 1;
                inner.fresh.services += 1;
            }
            Kind::EndpointSlice => {
                inner.slices += 1;
                inner.fresh.slices += 1;
                let slice = (object as &dyn Any).downcast_ref::<EndpointSlice>();
                let waiting: usize = inner.published.iter().map(|(_, b)| b.triggers.len()).sum();
                let room = waiting + inner.fresh.triggers.len() < WAITING_MAX;
                if let Some(trigger) = slice.filter(|_| !listed && room).and_then(trigger) {
                    inner.fresh.triggers.push(trigger);
                }
            }
            _ => return,
        }
        inner.queued_at = Some(SystemTime::now());
    }

    /// What was seen is in the snapshot of this generation; or in none, where it changed
    /// nothing.
    pub(crate) fn published(&self, generation: Option<u64>) {
        let mut inner = self.inner();
        let batch = std::mem::take(&mut inner.fresh);
        let news = batch.services + batch.slices > 0;
        if let Some(generation) = generation.filter(|_| news) {
            inner.published.push_back((generation, batch));
        }
    }

    /// The snapshot of this generation is applied.
    pub fn applied(&self, generation: u64) -> Applied {
        let mut inner = self.inner();
        let mut applied = Applied::default();
        while inner.published.front().is_some_and(|(g, _)| *g <= generation) {
            let (_, batch) = inner.published.pop_front().unwrap_or_default();
            applied.triggers.extend(batch.triggers);
        }
        applied
    }

    /// The counts.
    pub fn seen(&self) -> Seen {
        let inner = self.inner();
        let pending = |of: fn(&Batch) -> u64| -> u64 {
            inner.published.iter().map(|(_, b)| of(b)).sum::<u64>() + of(&inner.fresh)
        };
        Seen {
            services: inner.services,
            services_pending: pending(|b| b.services),
            slices: inner.slices,
            slices_pending: pending(|b| b.slices),
            queued_at: inner.queued_at,
        }
    }
}

fn trigger(slice: &EndpointSlice) -> Option<(IpFamily, SystemTime)> {
    let family = match slice.address_type.as_str() {
        "IPv4" => IpFamily::V4,
        "IPv6" => IpFamily::V6,
        _ => return None,
    };
    let text = slice.metadata.annotations.as_ref()?.get(TRIGGER_ANNOTATION)?;
    Some((family, text.parse::<Timestamp>().ok()?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;
    use std::time::Duration;

    fn slice(family: &str, time: &str) -> EndpointSlice {
        let mut slice = EndpointSlice { address_type: family.to_owned(), ..Default::default() };
        let annotations = [(TRIGGER_ANNOTATION.to_owned(), time.to_owned())];
        slice.metadata.annotations = Some(annotations.into());
        slice
    }

    #[test]
    fn times_wait_for_their_generation() {
        let tally = Tally::default();
        tally.see(&Event::InitApply(slice("IPv4", "2026-01-01T00:00:00Z")));
        tally.see(&Event::InitApply(Service::default()));
        tally.published(Some(1));
        tally.see(&Event::Apply(slice("IPv4", "1970-01-01T00:00:01Z")));
        tally.see(&Event::Apply(slice("IPv6", "not a time")));
        tally.published(Some(2));
        tally.see(&Event::Apply(slice("IPv6", "1970-01-01T00:00:02.5Z")));
        let seen = tally.seen();
        assert_eq!((seen.services, seen.services_pending), (1, 1));
        assert_eq!((seen.slices, seen.slices_pending), (4, 4));
        assert!(tally.applied(1).triggers.is_empty(), "a list tells no times");
        let at = |s| SystemTime::UNIX_EPOCH + Duration::from_secs_f64(s);
        assert_eq!(tally.applied(2).triggers, [(IpFamily::V4, at(1.0))]);
        assert_eq!(tally.seen().slices_pending, 1);
        // What is not published is not applied.
        assert!(tally.applied(9).triggers.is_empty());
        tally.published(Some(10));
        assert_eq!(tally.applied(12).triggers, [(IpFamily::V6, at(2.5))]);
        let seen = tally.seen();
        assert_eq!((seen.slices, seen.slices_pending, seen.services_pending), (4, 0, 0));
        // A change that changed nothing.
        tally.see(&Event::Apply(slice("IPv4", "1970-01-01T00:00:03Z")));
        tally.published(None);
        assert_eq!((tally.seen().slices, tally.seen().slices_pending), (5, 0));
    }
}
