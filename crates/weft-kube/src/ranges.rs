//! The ranges of Service addresses, from the cluster's ServiceCIDR objects.

use crate::{
    pace::Delays,
    source::error_chain,
    watch::{WatchError, watch},
};
use futures::StreamExt;
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::{Api, Client, runtime::watcher::Event};
use std::{collections::BTreeMap, sync::Arc};
use tokio::{sync::watch, task::JoinSet};

/// The ranges, sorted; none before the first list.
pub type Ranges = watch::Receiver<Option<Arc<[IpNet]>>>;

/// The running watch. It ends when this is dropped.
#[derive(Debug)]
pub struct ServiceRanges {
    /// The latest ranges.
    pub ranges: Ranges,
    /// The last failure, until the next event: a sentence.
    pub error: watch::Receiver<Option<String>>,
    _task: JoinSet<()>,
}

impl ServiceRanges {
    /// Starts to watch; must be called inside a tokio runtime.
    pub fn follow(client: Client) -> Self {
        let (ranges_tx, ranges) = watch::channel(None);
        let (error_tx, error) = watch::channel(None);
        let mut task = JoinSet::new();
        task.spawn(run(client, ranges_tx, error_tx));
        Self { ranges, error, _task: task }
    }
}

/// Ranges that were given and never change.
pub fn fixed(mut ranges: Vec<IpNet>) -> Ranges {
    ranges.sort();
    // A receiver keeps its value without a sender.
    watch::channel(Some(ranges.into())).1
}

async fn run(
    client: Client,
    ranges: watch::Sender<Option<Arc<[IpNet]>>>,
    error: watch::Sender<Option<String>>,
) {
    let mut events =
        std::pin::pin!(watch(Api::<ServiceCIDR>::all(client), None, Delays::default()));
    let (mut live, mut incoming) = (BTreeMap::new(), BTreeMap::new());
    let mut listed = false;
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(e) => {
                let text = sentence(&e);
                tracing::warn!(error = %text, "the ranges of Services");
                error.send_replace(Some(text));
                continue;
            }
        };
        error.send_if_modified(|e| e.take().is_some());
        let Some(event) = event else { continue };
        match event {
            Event::Init => incoming = BTreeMap::new(),
            Event::InitApply(cidr) => drop(put(&mut incoming, cidr)),
            Event::InitDone => {
                live = std::mem::take(&mut incoming);
                listed = true;
            }
            Event::Apply(cidr) => drop(put(&mut live, cidr)),
            Event::Delete(cidr) => {
                live.remove(&cidr.metadata.name.unwrap_or_default());
            }
        }
        if listed {
            let mut now: Vec<IpNet> = live.values().flatten().copied().collect();
            now.sort();
            now.dedup();
            ranges.send_if_modified(|published| {
                let changed = published.as_deref() != Some(now.as_slice());
                *published = Some(now.into());
                changed
            });
        }
    }
}

/// A range that cannot be read is left out: the API validates them.
fn put(table: &mut BTreeMap<String, Vec<IpNet>>, cidr: ServiceCIDR) -> Option<Vec<IpNet>> {
    let ranges = cidr.spec.and_then(|s| s.cidrs).unwrap_or_default();
    let ranges = ranges.iter().filter_map(|r| r.parse().ok()).collect();
    table.insert(cidr.metadata.name.unwrap_or_default(), ranges)
}

fn sentence(e: &WatchError) -> String {
    if e.is_not_served() {
        return "the cluster has no ServiceCIDR objects (Kubernetes before 1.33): \
                give its ranges with --service-cidr"
            .to_owned();
    }
    error_chain(e)
}
