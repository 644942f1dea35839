//! The whole way from HTTP to the channel, against an API that a test plays.

use super::*;
use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    sync::{Mutex, PoisonError},
};

/// An API whose every answer is a script: per path the lists, then the watches, in order; a
/// watch that is over hangs when there is no next one.
#[derive(Clone, Default)]
struct FakeApi(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    lists: BTreeMap<String, Vec<Value>>,
    watches: BTreeMap<String, Vec<Vec<Value>>>,
    seen: Vec<String>,
}

impl FakeApi {
    fn list(&self, path: &str, items: &[Value]) -> &Self {
        let mut script = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let list = json!({"kind": "List", "apiVersion": "v1", "items": items,
                          "metadata": {"resourceVersion": "10"}});
        script.lists.entry(path.to_owned()).or_default().push(list);
        drop(script);
        self
    }

    fn watch(&self, path: &str, events: &[Value]) -> &Self {
        let mut script = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        script.watches.entry(path.to_owned()).or_default().push(events.to_vec());
        drop(script);
        self
    }

    fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            let uri = request.uri().clone();
            async move { Ok::<_, Infallible>(api.answer(&uri).await) }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, uri: &http::Uri) -> Response<Body> {
        let path = uri.path().to_owned();
        let query = uri.query().unwrap_or_default().to_owned();
        let text = {
            let mut script = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            script.seen.push(format!("{path}?{query}"));
            if query.contains("watch=true") {
                let watches = script.watches.entry(path).or_default();
                if watches.is_empty() {
                    None
                } else {
                    let lines = watches.remove(0);
                    Some(lines.iter().map(|l| format!("{l}\n")).collect::<String>())
                }
            } else {
                let lists = script.lists.entry(path).or_default();
                // The last list stands for ever; kinds that a test says nothing about are empty.
                let empty = || json!({"items": [], "metadata": {"resourceVersion": "1"}});
                let last = || lists.first().cloned().unwrap_or_else(empty);
                let list = if lists.len() > 1 { lists.remove(0) } else { last() };
                Some(list.to_string())
            }
        };
        match text {
            Some(text) => Response::new(Body::from(text.into_bytes())),
            None => std::future::pending().await,
        }
    }
}

const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

fn service(name: &str, ip: &str) -> Value {
    json!({"metadata": {"namespace": "a", "name": name, "resourceVersion": "11"},
           "spec": {"clusterIPs": [ip], "ports": [{"port": 80}]}})
}

fn api() -> FakeApi {
    let api = FakeApi::default();
    api.list("/api/v1/namespaces", &[json!({"metadata": {"name": "a"}})])
        .list("/api/v1/nodes", &[json!({"metadata": {"name": "n1"}})]);
    api
}

fn names(s: &Snapshot) -> Vec<String> {
    s.services.keys().map(|id| id.name.to_string()).collect()
}

#[tokio::test]
async fn a_relist_after_410_drops_what_vanished_and_shows_no_empty_state() {
    let api = api();
    api.list(SLICES, &[])
        .list(SERVICES, &[service("gone", "10.0.0.1"), service("stays", "10.0.0.2")])
        .list(SERVICES, &[service("new", "10.0.0.3"), service("stays", "10.0.0.2")])
        .watch(
            SERVICES,
            &[json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1",
                     "code": 410, "reason": "Expired", "status": "Failure",
                     "message": "too old resource version"}})],
        );
    let source = SnapshotSource::start(api.client(), Options::default());
    let mut rx = source.snapshots.clone();
    let mut history = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let now = rx.borrow_and_update().clone();
            if let Some(s) = now {
                let done = names(&s) == ["new", "stays"];
                history.push(names(&s));
                if done {
                    break;
                }
            }
            rx.changed().await.expect("the source runs");
        }
    })
    .await
    .unwrap_or_else(|_| panic!("no relist: {history:?}, {:?}", source.status.borrow()));
    // The first state may have been coalesced away by a slow scheduler, never replaced by an
    // empty one.
    assert!(history.iter().all(|h| h.len() == 2), "{history:?}");
}

#[tokio::test]
async fn nothing_is_published_before_every_kind_was_listed() {
    let api = api();
    api.list(SERVICES, &[service("web", "10.0.0.1")]);
    // No answer for slices: an API that hangs there.
    api.0.lock().expect("lock").lists.insert(SLICES.to_owned(), vec![json!("not a list")]);
    let source = SnapshotSource::start(api.client(), Options::default());
    let mut status = source.status.clone();
    tokio::time::timeout(
        Duration::from_secs(20),
        status.wait_for(|s| {
            let listed = s.values().filter(|k| k.listed).count();
            listed == Kind::ALL.len() - 1 && s[&Kind::EndpointSlice].error.is_some()
        }),
    )
    .await
    .expect("all kinds but one are listed, and that one fails")
    .expect("the source runs");
    assert!(source.snapshots.borrow().is_none());
    // It comes as soon as the last one is there.
    let empty = json!({"kind": "List", "items": [], "metadata": {"resourceVersion": "1"}});
    api.0.lock().expect("lock").lists.insert(SLICES.to_owned(), vec![empty]);
    let first = tokio::time::timeout(Duration::from_secs(20), source.first()).await;
    let first = first.expect("in time").expect("a snapshot");
    assert_eq!((names(&first), first.generation), (vec!["web".to_owned()], 1));
    assert_eq!(first.namespaces.len(), 1);
}

#[tokio::test]
async fn a_broken_service_is_named_and_blocks_nobody() {
    let api = api();
    api.list(SLICES, &[]).list(SERVICES, &[service("bad", "10.0.0"), service("good", "10.0.0.2")]);
    let source = SnapshotSource::start(api.client(), Options::default());
    let first = tokio::time::timeout(Duration::from_secs(20), source.first()).await;
    assert_eq!(names(&first.expect("in time").expect("a snapshot")), ["good"]);
    let shown = source.diagnostics.borrow()[0].to_string();
    assert_eq!(shown, "Service a/bad: spec.clusterIPs[0]: '10.0.0' is not an IP address");
}

fn item(kind: Kind, change: Change) -> Item {
    (kind, Ok(Some(change)))
}

fn write(n: u32) -> Item {
    let s: Service =
        serde_json::from_value(service(&format!("s{n}"), &format!("10.1.{}.{}", n / 250, n % 250)))
            .expect("a Service");
    item(Kind::Service, Change::of(kube::runtime::watcher::Event::Apply(s)))
}

fn first_lists() -> Vec<Item> {
    let lists = Kind::ALL.map(|k| [item(k, Change::ListBegins), item(k, Change::ListEnds)]);
    lists.into_iter().flatten().collect()
}

#[tokio::test]
async fn a_burst_becomes_few_snapshots_and_its_end_is_published() {
    let (tx, rx) = futures::channel::mpsc::unbounded();
    let source = SnapshotSource::from_events(rx.boxed(), Options::default(), Arc::default());
    first_lists().into_iter().for_each(|i| tx.unbounded_send(i).expect("open"));
    source.first().await.expect("complete");
    let start = Instant::now();
    for n in 0..2_000 {
        tx.unbounded_send(write(n)).expect("open");
        if n % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let mut rx = source.snapshots.clone();
    let done = |s: &Option<Arc<Snapshot>>| s.as_ref().is_some_and(|s| s.services.len() == 2_000);
    let last = rx.wait_for(done).await.expect("open").clone().expect("a snapshot");
    let intervals = start.elapsed().as_millis() / Options::default().publish_interval.as_millis();
    let generation_max = u64::try_from(intervals).expect("a short test") + 3;
    assert!(last.generation <= generation_max, "{} snapshots", last.generation);
}

#[tokio::test]
async fn an_equal_result_wakes_nobody() {
    let (tx, rx) = futures::channel::mpsc::unbounded();
    let source = SnapshotSource::from_events(rx.boxed(), Options::default(), Arc::default());
    first_lists().into_iter().for_each(|i| tx.unbounded_send(i).expect("open"));
    tx.unbounded_send(write(1)).expect("open");
    let mut rx = source.snapshots.clone();
    rx.wait_for(|s| s.as_ref().is_some_and(|s| s.services.len() == 1)).await.expect("open");
    let generation = rx.borrow_and_update().as_ref().map_or(0, |s| s.generation);
    // Equal writes, with time for each to be published alone; then one that counts.
    for _ in 0..5 {
        tx.unbounded_send(write(1)).expect("open");
        tokio::time::sleep(Options::default().publish_interval * 2).await;
    }
    tx.unbounded_send(write(2)).expect("open");
    rx.changed().await.expect("open");
    let last = rx.borrow().clone().expect("a snapshot");
    assert_eq!((last.generation, last.services.len()), (generation + 1, 2));
}

#[tokio::test]
async fn the_end_of_the_task_is_an_error_not_a_hang() {
    let source = SnapshotSource::from_events(
        futures::stream::empty().boxed(),
        Options::default(),
        Arc::default(),
    );
    assert_eq!(source.first().await, Err(SourceError::Ended));
}
