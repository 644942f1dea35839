//! The two watches: Services, and the pods of this node.

use crate::ctx::Ctx;
use crate::record::Record;
use crate::worker::{self, Handle, Input};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Finished workers are swept this often.
const SWEEP: Duration = Duration::from_secs(5);

/// Pauses between attempts at a watch. The API is on this machine: a kubelet that stays away for
/// half a minute after a restart of it (the client's default) helps nobody.
struct Pause(Duration);

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

impl Iterator for Pause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = self.0;
        self.0 = (now * 2).min(PAUSE_MAX);
        Some(now)
    }
}

impl Backoff for Pause {
    fn reset(&mut self) {
        self.0 = PAUSE_MIN;
    }
}

/// Keeps the table of Services, for ever.
pub async fn services(client: kube::Client, out: watch::Sender<Option<Arc<Vec<Service>>>>) {
    let api: Api<Service> = Api::all(client);
    let mut stream = watcher(api, watcher::Config::default()).backoff(Pause(PAUSE_MIN)).boxed();
    let key = |s: &Service| (s.metadata.namespace.clone(), s.metadata.name.clone());
    let mut table = BTreeMap::new();
    let mut fresh = BTreeMap::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init) => {
                fresh.clear();
                continue;
            }
            Ok(Event::InitApply(s)) => {
                fresh.insert(key(&s), s);
                continue;
            }
            Ok(Event::InitDone) => table = std::mem::take(&mut fresh),
            Ok(Event::Apply(s)) => {
                table.insert(key(&s), s);
            }
            Ok(Event::Delete(s)) => {
                table.remove(&key(&s));
            }
            Err(e) => {
                tracing::warn!("watch of Services: {e}");
                continue;
            }
        }
        out.send_replace(Some(Arc::new(table.values().cloned().collect())));
    }
}

/// Runs a worker for every pod of this node, for ever.
pub async fn pods(ctx: Arc<Ctx>) {
    // The environment of containers names the Services.
    let mut services = ctx.services.clone();
    let _ = services.wait_for(Option::is_some).await;
    let mut left: HashMap<String, Record> = Record::load_all(&ctx.args.dir.join("kubelet"))
        .into_iter()
        .filter_map(|r| Some((r.pod.metadata.uid.clone()?, r)))
        .collect();
    let api: Api<Pod> = Api::all(ctx.client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", ctx.args.node));
    let mut stream = watcher(api, config).backoff(Pause(PAUSE_MIN)).boxed();
    let mut workers: HashMap<String, Handle> = HashMap::new();
    let mut listed: HashSet<String> = HashSet::new();
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        let event = tokio::select! {
            e = stream.next() => match e { Some(e) => e, None => return },
            _ = sweep.tick() => {
                workers.retain(|_, w| !w.task.is_finished());
                continue;
            }
        };
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(pod)) => {
                listed.extend(pod.metadata.uid.clone());
                apply(&ctx, &mut workers, &mut left, pod);
            }
            Ok(Event::InitDone) => {
                for (uid, w) in &workers {
                    if !listed.contains(uid) {
                        w.tx.send_modify(|i| i.gone = true);
                    }
                }
                // What ran before this kubelet and is not in the API any more is taken down.
                for (uid, record) in left.drain() {
                    let pod = Arc::new(record.pod.clone());
                    let handle = worker::spawn(Arc::clone(&ctx), pod, Some(record), true);
                    workers.insert(uid, handle);
                }
            }
            Ok(Event::Apply(pod)) => apply(&ctx, &mut workers, &mut left, pod),
            Ok(Event::Delete(pod)) => {
                let uid = pod.metadata.uid.clone().unwrap_or_default();
                if let Some(w) = workers.get(&uid) {
                    w.tx.send_replace(Input { pod: Arc::new(pod), gone: true });
                }
            }
            Err(e) => tracing::warn!("watch of pods: {e}"),
        }
    }
}

fn apply(
    ctx: &Arc<Ctx>,
    workers: &mut HashMap<String, Handle>,
    left: &mut HashMap<String, Record>,
    pod: Pod,
) {
    let Some(uid) = pod.metadata.uid.clone() else { return };
    let pod = Arc::new(pod);
    match workers.get(&uid) {
        // A worker that has finished with the pod leaves nothing to do: late news of a deletion.
        Some(w) => {
            w.tx.send_replace(Input { pod, gone: false });
        }
        None => {
            let handle = worker::spawn(Arc::clone(ctx), pod, left.remove(&uid), false);
            workers.insert(uid, handle);
        }
    }
}
