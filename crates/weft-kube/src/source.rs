//! The watches, and the one task that writes the index and publishes.

use crate::{
    Diagnostic, Kind,
    cluster_policy::ClusterNetworkPolicy,
    index::{Change, Index, Indexed},
    optional::{Told, while_served},
    pace::Delays,
    slim::{LIVING_PODS, WatchedDefinition, WatchedPod},
    tally::Tally,
    watch::{WatchError, watch},
};
use futures::{StreamExt, stream::BoxStream};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Service},
    discovery::v1::EndpointSlice,
    networking::v1::NetworkPolicy,
};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};
use tokio::{sync::watch as channel, task::JoinSet, time::Instant};
use weft_model::Snapshot;

/// Events taken in before the clock is looked at again.
const BURST_MAX: usize = 1024;

/// How to watch.
#[derive(Clone, Debug)]
pub struct Options {
    /// The least time between two snapshots. The first change after a quiet time is published
    /// at once; those of a burst wait until this much has passed and become one snapshot.
    pub publish_interval: Duration,
    /// How long to wait after failures.
    pub delays: Delays,
}

impl Default for Options {
    fn default() -> Self {
        Self { publish_interval: Duration::from_millis(5), delays: Delays::default() }
    }
}

/// Why no snapshot can come any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The task that publishes has ended (it panicked, or the runtime shuts down).
    #[error("the watches of the Kubernetes API have ended")]
    Ended,
}

/// How the watch of one kind fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KindStatus {
    /// Whether it was listed completely at least once.
    pub listed: bool,
    /// The last failure, until the API answers as it should. A watch that fails is tried again
    /// with growing delays; what was known before stays published.
    pub error: Option<String>,
}

/// How the watches fare, by kind.
pub type Status = BTreeMap<Kind, KindStatus>;

/// The running watches. They end when this is dropped.
#[derive(Debug)]
pub struct SnapshotSource {
    /// The latest snapshot; `None` until every kind was listed. Closed when the task ended.
    pub snapshots: channel::Receiver<Option<Arc<Snapshot>>>,
    /// What is wrong with objects now.
    pub diagnostics: channel::Receiver<Arc<[Diagnostic]>>,
    /// How the watches fare.
    pub status: channel::Receiver<Status>,
    /// What the watches brought, for metrics.
    pub tally: Arc<Tally>,
    _task: JoinSet<()>,
}

impl SnapshotSource {
    /// Starts to watch. Must be called inside a tokio runtime; returns at once. An API that
    /// does not answer is tried again for ever: see [`Self::status`].
    pub fn start(client: Client, options: Options) -> Self {
        let tally = Arc::new(Tally::default());
        Self::from_events(events(&client, options.delays, &tally), options, tally)
    }

    /// As [`Self::start`], with the events given.
    fn from_events(events: Events, options: Options, tally: Arc<Tally>) -> Self {
        let (snapshots_tx, snapshots) = channel::channel(None);
        let (diagnostics_tx, diagnostics) = channel::channel(Arc::from([]));
        let (status_tx, status) = channel::channel(Status::default());
        let publisher = Publisher {
            index: Index::default(),
            errors: BTreeMap::new(),
            snapshots: snapshots_tx,
            diagnostics: diagnostics_tx,
            status: status_tx,
            tally: tally.clone(),
        };
        let mut task = JoinSet::new();
        task.spawn(publisher.run(events, options));
        Self { snapshots, diagnostics, status, tally, _task: task }
    }

    /// Waits for the first snapshot.
    pub async fn first(&self) -> Result<Arc<Snapshot>, SourceError> {
        let mut rx = self.snapshots.clone();
        let snapshot = rx.wait_for(Option::is_some).await.map_err(|_| SourceError::Ended)?;
        snapshot.clone().ok_or(SourceError::Ended)
    }
}

type Item = (Kind, Result<Option<Change>, WatchError>);
type Events = BoxStream<'static, Item>;

/// The definition of ClusterNetworkPolicy, which a cluster may not have.
const CLUSTER_POLICIES: &str = "metadata.name=clusternetworkpolicies.policy.networking.k8s.io";

/// The events of all kinds.
fn events(client: &Client, delays: Delays, tally: &Arc<Tally>) -> Events {
    futures::stream::select_all([
        watch_kind::<Namespace>(client, None, delays, tally),
        watch_kind::<Node>(client, None, delays, tally),
        watch_kind::<Service>(client, None, delays, tally),
        watch_kind::<EndpointSlice>(client, None, delays, tally),
        watch_kind::<WatchedPod>(client, Some(LIVING_PODS), delays, tally),
        watch_kind::<NetworkPolicy>(client, None, delays, tally),
        cluster_policies(client, delays, tally),
    ])
    .boxed()
}

fn cluster_policies(client: &Client, delays: Delays, tally: &Arc<Tally>) -> Events {
    let definitions = Api::<WatchedDefinition>::all(client.clone());
    let definitions = watch(definitions, Some(CLUSTER_POLICIES), delays).boxed();
    let (client, tally) = (client.clone(), tally.clone());
    let open = move || changes::<ClusterNetworkPolicy>(&client, None, delays, &tally);
    let version = <ClusterNetworkPolicy as k8s_openapi::Resource>::VERSION;
    while_served(definitions, version, open).map(|told| (Kind::ClusterNetworkPolicy, told)).boxed()
}

/// The events of one kind.
fn watch_kind<K>(
    client: &Client,
    fields: Option<&'static str>,
    delays: Delays,
    tally: &Arc<Tally>,
) -> Events
where
    K: Indexed + Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    changes::<K>(client, fields, delays, tally).map(|told| (K::KIND, told)).boxed()
}

fn changes<K>(
    client: &Client,
    fields: Option<&'static str>,
    delays: Delays,
    tally: &Arc<Tally>,
) -> BoxStream<'static, Told>
where
    K: Indexed + Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let tally = tally.clone();
    watch(Api::<K>::all(client.clone()), fields, delays)
        .map(move |event| {
            // In the task that publishes: what is seen is in the next snapshot.
            if let Ok(Some(event)) = &event {
                tally.see(event);
            }
            event.map(|e| e.map(Change::of))
        })
        .boxed()
}

struct Publisher {
    index: Index,
    errors: BTreeMap<Kind, String>,
    snapshots: channel::Sender<Option<Arc<Snapshot>>>,
    diagnostics: channel::Sender<Arc<[Diagnostic]>>,
    status: channel::Sender<Status>,
    tally: Arc<Tally>,
}

impl Publisher {
    async fn run(mut self, events: Events, options: Options) {
        let mut bursts = events.ready_chunks(BURST_MAX);
        let mut due = Instant::now();
        let mut pending = false;
        loop {
            tokio::select! {
                burst = bursts.next() => match burst {
                    Some(burst) => {
                        burst.into_iter().for_each(|item| self.take(item));
                        pending = true;
                    }
                    None => break,
                },
                () = tokio::time::sleep_until(due), if pending => {}
            }
            if pending && Instant::now() >= due {
                self.publish();
                pending = false;
                due = Instant::now() + options.publish_interval;
            }
        }
        // The watches never end of themselves; a finite list of events (tests) does.
        self.publish();
    }

    fn take(&mut self, (kind, item): Item) {
        match item {
            Ok(change) => {
                self.errors.remove(&kind);
                if let Some(change) = change {
                    self.index.apply(kind, change);
                }
            }
            Err(e) => {
                let text = error_chain(&e);
                tracing::warn!(%kind, error = %text, "watch failed, trying again");
                self.errors.insert(kind, text);
            }
        }
    }

    fn publish(&self) {
        let status = Kind::ALL.iter().map(|k| {
            let error = self.errors.get(k).cloned();
            (*k, KindStatus { listed: self.index.listed(*k), error })
        });
        replace(&self.status, status.collect());
        if !self.index.complete() {
            return;
        }
        replace(&self.diagnostics, self.index.diagnostics().into());
        let current = self.snapshots.borrow().clone();
        let next = self.index.snapshot(current.as_deref());
        self.tally.published(next.as_ref().map(|n| n.generation));
        if let Some(next) = next {
            tracing::debug!(generation = next.generation, "snapshot");
            self.snapshots.send_replace(Some(Arc::new(next)));
        }
    }
}

/// Sends a value unless it equals the current one.
fn replace<T: PartialEq>(tx: &channel::Sender<T>, value: T) {
    tx.send_if_modified(|current| {
        let changed = *current != value;
        if changed {
            *current = value;
        }
        changed
    });
}

/// An error with its causes in one line.
pub(crate) fn error_chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(s) = source {
        let part = s.to_string();
        // kube's errors often repeat their source in their own text.
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        source = s.source();
    }
    text
}

#[cfg(test)]
mod embedded_tests;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod tests;
