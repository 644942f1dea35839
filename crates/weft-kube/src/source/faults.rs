//! The watches against an API that misbehaves: the embedded one, with faults put between it
//! and the client. Whatever happens, what is published becomes what is true, nothing that is
//! still there is ever taken away, and the API is not asked in a loop.

use super::*;
use bytes::Bytes;
use futures::Stream;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::{
    api::{DeleteParams, Patch, PatchParams, PostParams},
    client::Body,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use std::sync::{Mutex, PoisonError};
use tower::{BoxError, ServiceExt};
use weft_apiserver::{ApiServer, Config};
use weft_model::NamespacedName;

const PATIENCE: Duration = Duration::from_secs(30);
const CHAOS: Duration = Duration::from_millis(1500);
/// Watches that run: one a kind, and in place of ClusterNetworkPolicies, which the embedded API
/// does not bring, that of their definition.
const WATCHES: usize = Kind::ALL.len();

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// No answer: the connection breaks.
    Reset,
    /// This status, as the API gives it.
    Status(u16),
    /// 429 with a body and header as API Priority and Fairness gives them.
    Busy {
        seconds: u64,
    },
    /// A load balancer's page.
    Garbage,
    /// The answer comes late.
    Slow(Duration),
    /// The watch ends as if its time was over.
    End(Duration),
    /// The watch breaks in the middle of a line after so many.
    Cut(usize),
    /// The watch ends with an event 410 after so many.
    Gone(usize),
    /// Every event comes again after the next one.
    Repeat,
    /// Pairs of events come in the wrong order.
    Swap,
    /// A bookmark after every event.
    Bookmarks,
}

type Answer = UnsyncBoxBody<Bytes, BoxError>;

fn whole(text: Vec<u8>) -> Answer {
    Full::new(Bytes::from(text)).map_err(BoxError::from).boxed_unsync()
}

type Choose = Box<dyn FnMut(bool) -> Fault + Send>;

/// The API, and what the client asked it for.
#[derive(Clone)]
struct Faulty {
    server: ApiServer,
    /// The fault for the next request; is told whether it is a watch.
    choose: Arc<Mutex<Choose>>,
    /// Path and whether it was a watch.
    asked: Arc<Mutex<Vec<(String, bool)>>>,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Faulty {
    fn new(choose: impl FnMut(bool) -> Fault + Send + 'static) -> Self {
        let server = ApiServer::new(Config::default()).expect("starts");
        let choose: Choose = Box::new(choose);
        Self { server, choose: Arc::new(Mutex::new(choose)), asked: Arc::default() }
    }

    fn fine(&self) {
        *lock(&self.choose) = Box::new(|_| Fault::None);
    }

    /// The client of the watches.
    fn client(&self) -> Client {
        let this = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let this = this.clone();
            async move { this.answer(request).await }
        });
        Client::new(crate::access::polite(service), "default")
    }

    /// One without faults, for the test's own writes.
    fn clean(&self) -> Client {
        Client::new(self.server.service(), "default")
    }

    /// How many lists and watches there were of the kind asked for most.
    fn busiest(&self) -> (usize, usize) {
        let asked = lock(&self.asked);
        let of = |watch: bool| {
            let mut counts = BTreeMap::<&str, usize>::new();
            for (path, _) in asked.iter().filter(|(_, w)| *w == watch) {
                *counts.entry(path).or_default() += 1;
            }
            counts.values().copied().max().unwrap_or(0)
        };
        (of(false), of(true))
    }

    async fn answer(&self, request: Request<Body>) -> Result<Response<Answer>, BoxError> {
        let watch = request.uri().query().is_some_and(|q| q.contains("watch=true"));
        lock(&self.asked).push((request.uri().path().to_owned(), watch));
        let fault = lock(&self.choose)(watch);
        match fault {
            Fault::Reset => return Err("connection reset by peer".into()),
            Fault::Status(code) => return status(code),
            Fault::Busy { seconds } => {
                let answer = Response::builder().status(StatusCode::TOO_MANY_REQUESTS);
                let answer = answer.header("retry-after", seconds);
                let text = b"Too many requests, please try again later.\n".to_vec();
                return Ok(answer.body(whole(text))?);
            }
            Fault::Garbage => {
                let text = b"<html>\n<h1>502 Bad Gateway</h1>\n</html>\n".to_vec();
                return Ok(Response::builder().status(502).body(whole(text))?);
            }
            Fault::Slow(by) => tokio::time::sleep(by).await,
            _ => {}
        }
        let answer = self.server.service().oneshot(request).await?;
        let (head, body) = answer.into_parts();
        if !watch {
            return Ok(Response::from_parts(head, body.map_err(BoxError::from).boxed_unsync()));
        }
        let frames = bend(fault, lines(body)).map(|line| line.map(hyper::body::Frame::data));
        Ok(Response::from_parts(head, StreamBody::new(frames).boxed_unsync()))
    }
}

fn status(code: u16) -> Result<Response<Answer>, BoxError> {
    let reason = if code == 410 { "Expired" } else { "InternalError" };
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                      "message": "made up", "reason": reason, "code": code});
    Ok(Response::builder().status(code).body(whole(body.to_string().into_bytes()))?)
}

type Lines = futures::stream::BoxStream<'static, Result<Bytes, BoxError>>;

/// The lines of a body, each with its end.
fn lines<B>(body: B) -> impl Stream<Item = Bytes> + Send + 'static
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
{
    let data = Box::pin(body.into_data_stream());
    futures::stream::unfold((data, Vec::new()), |(mut data, mut rest)| async move {
        loop {
            if let Some(end) = rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                return Some((Bytes::from(line), (data, rest)));
            }
            rest.extend_from_slice(&data.next().await?.ok()?);
        }
    })
}

/// The same lines, as the fault has them.
fn bend(fault: Fault, lines: impl Stream<Item = Bytes> + Send + 'static) -> Lines {
    let fine = |line: Bytes| Ok::<_, BoxError>(line);
    match fault {
        Fault::End(after) => {
            lines.take_until(Box::pin(tokio::time::sleep(after))).map(fine).boxed()
        }
        Fault::Cut(n) => {
            let half = Ok(Bytes::from_static(b"{\"type\":\"MODIFIED\",\"object\":{\"meta"));
            let broken = Err(BoxError::from("connection reset by peer"));
            lines.take(n).map(fine).chain(futures::stream::iter([half, broken])).boxed()
        }
        Fault::Gone(n) => {
            let event = json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1",
                "metadata": {}, "status": "Failure", "reason": "Expired", "code": 410,
                "message": "too old resource version"}});
            let event = Ok(Bytes::from(format!("{event}\n")));
            lines.take(n).map(fine).chain(futures::stream::iter([event])).boxed()
        }
        Fault::Repeat => lines
            .scan(Bytes::new(), |before, line| {
                let both = [&line[..], &before[..]].concat();
                *before = line;
                std::future::ready(Some(Ok(Bytes::from(both))))
            })
            .boxed(),
        Fault::Swap => lines
            .ready_chunks(2)
            .map(|pair| Ok(Bytes::from(pair.iter().rev().flatten().copied().collect::<Vec<u8>>())))
            .boxed(),
        Fault::Bookmarks => lines.map(|line| Ok(with_bookmark(&line))).boxed(),
        _ => lines.map(fine).boxed(),
    }
}

fn with_bookmark(line: &Bytes) -> Bytes {
    let event: serde_json::Value = serde_json::from_slice(line).unwrap_or_default();
    let version = &event["object"]["metadata"]["resourceVersion"];
    let mark = json!({"type": "BOOKMARK", "object": {
        "kind": event["object"]["kind"], "apiVersion": event["object"]["apiVersion"],
        "metadata": {"resourceVersion": version, "creationTimestamp": null}}});
    Bytes::from([&line[..], format!("{mark}\n").as_bytes()].concat())
}

fn id(name: &str) -> NamespacedName {
    NamespacedName::new("default", name)
}

fn services(client: &Client) -> Api<Service> {
    Api::namespaced(client.clone(), "default")
}

async fn write(client: &Client, name: &str, port: u16) {
    let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
                        "spec": {"ports": [{"port": port}]}});
    let done = services(client)
        .patch(name, &PatchParams::apply("test").force(), &Patch::Apply(object))
        .await;
    done.unwrap_or_else(|e| panic!("write {name}: {e}"));
}

/// The ports of every Service: enough to tell any two states of these tests apart.
fn state(snapshot: &Snapshot) -> BTreeMap<String, Vec<u16>> {
    let ports = |s: &weft_model::Service| s.ports.iter().map(|p| p.port.get()).collect();
    snapshot.services.iter().map(|(id, s)| (id.to_string(), ports(s))).collect()
}

/// What the API holds now.
async fn truth(faulty: &Faulty) -> BTreeMap<String, Vec<u16>> {
    let source = SnapshotSource::start(faulty.clean(), Options::default());
    let first = tokio::time::timeout(PATIENCE, source.first()).await;
    state(&first.expect("in time").expect("a snapshot"))
}

async fn until(source: &SnapshotSource, what: &str, holds: impl Fn(&Snapshot) -> bool) {
    let mut rx = source.snapshots.clone();
    let found = rx.wait_for(|s| s.as_deref().is_some_and(&holds));
    if tokio::time::timeout(PATIENCE, found).await.is_err() {
        panic!("not in time: {what}; {:?}", source.status.borrow());
    }
}

/// Watches what is published from the first snapshot on: `anchor` must be in all of it.
fn guard(source: &SnapshotSource) -> tokio::task::JoinHandle<u64> {
    let mut rx = source.snapshots.clone();
    tokio::spawn(async move {
        let mut generation = 0;
        while rx.changed().await.is_ok() {
            let Some(snapshot) = rx.borrow_and_update().clone() else { continue };
            assert!(snapshot.services.contains_key(&id("anchor")), "taken away: {snapshot:?}");
            assert!(snapshot.namespaces.contains_key("default"), "taken away: {snapshot:?}");
            assert!(snapshot.generation > generation);
            generation = snapshot.generation;
        }
        generation
    })
}

fn any_fault(rng: &mut StdRng, watch: bool) -> Fault {
    let short = Duration::from_millis(rng.random_range(0..300));
    let n = rng.random_range(0..4);
    let faults: &[Fault] = if watch {
        &[
            Fault::None,
            Fault::Reset,
            Fault::Status(410),
            Fault::Status(500),
            Fault::Status(401),
            Fault::Garbage,
            Fault::Slow(short),
            Fault::End(short),
            Fault::Cut(n),
            Fault::Gone(n),
            Fault::Repeat,
            Fault::Swap,
            Fault::Bookmarks,
        ]
    } else {
        &[
            Fault::None,
            Fault::None,
            Fault::Reset,
            Fault::Status(503),
            Fault::Status(410),
            Fault::Garbage,
            Fault::Slow(short),
        ]
    };
    faults[rng.random_range(0..faults.len())]
}

async fn chaos(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut dice = StdRng::seed_from_u64(seed + 1000);
    let faulty = Faulty::new(|_| Fault::None);
    let clean = faulty.clean();
    write(&clean, "anchor", 1).await;
    let source = SnapshotSource::start(faulty.client(), Options::default());
    until(&source, "a first snapshot", |s| s.services.contains_key(&id("anchor"))).await;
    let guard = guard(&source);
    // From now on each new request meets a fault; the watches that run do after a 410 event.
    *lock(&faulty.choose) = Box::new(move |watch| any_fault(&mut dice, watch));
    let end = Instant::now() + CHAOS;
    while Instant::now() < end {
        let name = format!("s{}", rng.random_range(0..8));
        if rng.random_range(0..3) == 0 {
            let _ = services(&clean).delete(&name, &DeleteParams::default()).await;
        } else {
            write(&clean, &name, rng.random_range(1..1000)).await;
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..20))).await;
    }
    let (lists, watches) = faulty.busiest();
    faulty.fine();
    let wanted = truth(&faulty).await;
    until(&source, &format!("seed {seed}: {wanted:?}"), |s| state(s) == wanted).await;
    // At most the first delays' worth of each, and what a watch that lived allows.
    assert!(lists <= 15 && watches <= 15, "seed {seed}: {lists} lists, {watches} watches");
    drop(source);
    guard.await.expect("nothing was taken away");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_api_does_the_truth_is_published_in_the_end() {
    let runs: Vec<_> = (0..12).map(|seed| tokio::spawn(chaos(seed))).collect();
    for run in runs {
        run.await.expect("converges");
    }
}

/// Runs the watches for `time` against `choose`, with one write in the middle that must arrive
/// where `arrives`; gives back the most lists and watches of a kind.
async fn counted(
    choose: impl FnMut(bool) -> Fault + Send + 'static,
    time: Duration,
    arrives: bool,
) -> (usize, usize) {
    let faulty = Faulty::new(choose);
    let clean = faulty.clean();
    write(&clean, "anchor", 1).await;
    let source = SnapshotSource::start(faulty.client(), Options::default());
    until(&source, "a first snapshot", |s| s.services.contains_key(&id("anchor"))).await;
    let guard = guard(&source);
    let end = tokio::time::Instant::now() + time;
    tokio::time::sleep(time / 2).await;
    write(&clean, "new", 2).await;
    if arrives {
        until(&source, "a write", |s| s.services.contains_key(&id("new"))).await;
    }
    tokio::time::sleep_until(end).await;
    let counts = faulty.busiest();
    drop(source);
    guard.await.expect("nothing was taken away");
    counts
}

#[tokio::test]
async fn a_watch_that_ends_at_once_is_not_asked_for_in_a_loop() {
    let end_at_once = |watch| if watch { Fault::End(Duration::ZERO) } else { Fault::None };
    let (lists, watches) = counted(end_at_once, Duration::from_secs(2), false).await;
    assert!(lists == 1 && (3..=8).contains(&watches), "{lists} lists, {watches} watches");
}

#[tokio::test]
async fn a_watch_that_ends_every_second_goes_on_where_it_ended() {
    let second = |watch| if watch { Fault::End(Duration::from_secs(1)) } else { Fault::None };
    let (lists, watches) = counted(second, Duration::from_millis(2500), true).await;
    assert!(lists == 1 && (2..=4).contains(&watches), "{lists} lists, {watches} watches");
}

#[tokio::test]
async fn an_api_that_is_always_gone_is_listed_more_and_more_seldom() {
    let counts = [Fault::Gone(0), Fault::Status(410)].map(|gone| {
        let choose = move |watch| if watch { gone } else { Fault::None };
        counted(choose, Duration::from_secs(2), true)
    });
    for (lists, watches) in futures::future::join_all(counts).await {
        assert!((3..=8).contains(&lists), "{lists} lists");
        assert!((2..=8).contains(&watches), "{watches} watches");
    }
}

#[tokio::test]
async fn answers_that_are_no_events_end_in_a_new_list() {
    let choose = |watch| if watch { Fault::Garbage } else { Fault::None };
    let (lists, watches) = counted(choose, Duration::from_secs(2), true).await;
    assert!((2..=4).contains(&lists) && watches <= 8, "{lists} lists, {watches} watches");
}

#[tokio::test]
async fn a_busy_api_is_left_alone_as_long_as_it_asks() {
    let mut left = 3;
    let choose = move |_| {
        left -= 1;
        if left >= 0 { Fault::Busy { seconds: 1 } } else { Fault::None }
    };
    let begin = Instant::now();
    let (lists, _) = counted(choose, Duration::from_millis(10), true).await;
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
    assert!(lists <= 4, "{lists} lists");
}

#[tokio::test]
async fn a_slow_list_leaves_what_was_known() {
    let mut first = BTreeMap::new();
    let choose = move |watch: bool| {
        let n = first.entry(watch).or_insert(0_usize);
        *n += 1;
        match (watch, *n) {
            // The first watches are gone, the second lists are slow.
            (true, ..=WATCHES) => Fault::Gone(0),
            (false, n) if n > WATCHES => Fault::Slow(Duration::from_millis(500)),
            _ => Fault::None,
        }
    };
    let (lists, _) = counted(choose, Duration::from_secs(1), true).await;
    assert_eq!(lists, 2);
}

#[tokio::test]
async fn repeated_and_reordered_events_end_in_a_new_list() {
    for fault in [Fault::Repeat, Fault::Swap] {
        let mut bent = 0;
        let faulty = Faulty::new(move |watch| {
            bent += usize::from(watch);
            // The first watch of each kind.
            if watch && bent <= WATCHES { fault } else { Fault::None }
        });
        let clean = faulty.clean();
        write(&clean, "anchor", 1).await;
        let source = SnapshotSource::start(faulty.client(), Options::default());
        until(&source, "a first snapshot", |s| s.services.contains_key(&id("anchor"))).await;
        let guard = guard(&source);
        // The last write must win, whatever came after it.
        for port in 1..20 {
            write(&clean, "flips", port).await;
        }
        let made = services(&clean).get("flips").await.expect("there");
        services(&clean).delete("flips", &DeleteParams::default()).await.expect("deleted");
        write(&clean, "last", 7).await;
        let wanted = truth(&faulty).await;
        assert!(!wanted.contains_key("default/flips"));
        until(&source, &format!("{fault:?}"), |s| state(s) == wanted).await;
        let again = Service {
            metadata: kube::api::ObjectMeta { name: made.metadata.name, ..Default::default() },
            spec: made.spec,
            ..Default::default()
        };
        services(&clean).create(&PostParams::default(), &again).await.expect("made again");
        until(&source, "made again", |s| s.services.contains_key(&id("flips"))).await;
        drop(source);
        guard.await.expect("nothing was taken away");
    }
}

#[tokio::test]
async fn a_list_whose_next_page_expired_is_made_in_one_piece() {
    let mut lists = 0;
    let faulty = Faulty::new(move |watch| {
        lists += usize::from(!watch);
        // All have a first page, one has a second.
        if !watch && lists == WATCHES + 1 { Fault::Status(410) } else { Fault::None }
    });
    let clean = faulty.clean();
    for n in 0..501 {
        write(&clean, &format!("s{n}"), 1).await;
    }
    let source = SnapshotSource::start(faulty.client(), Options::default());
    until(&source, "all Services", |s| s.services.len() == 502).await;
    assert_eq!(faulty.busiest().0, 3, "a page, one that expired, all");
}

#[tokio::test]
async fn a_failure_is_forgotten_when_the_api_answers_again() {
    let mut first = true;
    let faulty = Faulty::new(move |watch| match watch {
        // One kind's watch fails once; afterwards nothing happens but that watches end.
        true if std::mem::take(&mut first) => Fault::Status(500),
        true => Fault::End(Duration::from_secs(1)),
        false => Fault::None,
    });
    let source = SnapshotSource::start(faulty.client(), Options::default());
    let mut status = source.status.clone();
    for failed in [true, false] {
        let wait = status.wait_for(|s| s.values().any(|k| k.error.is_some()) == failed);
        let seen = tokio::time::timeout(PATIENCE, wait).await.expect("in time");
        drop(seen.expect("the source runs"));
    }
}

/// The definition of ClusterNetworkPolicy, with a schema that lets everything through.
fn definition() -> serde_json::Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "clusternetworkpolicies.policy.networking.k8s.io",
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/network-policy-api"}},
        "spec": {
            "group": "policy.networking.k8s.io", "scope": "Cluster",
            "names": {"plural": "clusternetworkpolicies", "singular": "clusternetworkpolicy",
                      "kind": "ClusterNetworkPolicy", "listKind": "ClusterNetworkPolicyList"},
            "versions": [{"name": "v1alpha2", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object",
                    "x-kubernetes-preserve-unknown-fields": true}}}]}
    })
}

fn objects(client: &Client, object: &serde_json::Value) -> Api<kube::api::DynamicObject> {
    let version = object["apiVersion"].as_str().expect("apiVersion");
    let kind = object["kind"].as_str().expect("kind");
    let (group, version) = version.split_once('/').expect("a group");
    let gvk = kube::core::GroupVersionKind::gvk(group, version, kind);
    let mut resource = kube::api::ApiResource::from_gvk(&gvk);
    if kind == "ClusterNetworkPolicy" {
        resource.plural = "clusternetworkpolicies".to_owned();
    }
    Api::all_with(client.clone(), &resource)
}

/// Makes an object; one whose kind was defined just now may have to wait for it.
async fn make(client: &Client, object: &serde_json::Value) {
    let typed: kube::api::DynamicObject = serde_json::from_value(object.clone()).expect("object");
    let api = objects(client, object);
    let begin = Instant::now();
    while let Err(e) = api.create(&PostParams::default(), &typed).await {
        assert!(begin.elapsed() < PATIENCE, "{e}: {object}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn policy(name: &str) -> serde_json::Value {
    json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
           "metadata": {"name": name},
           "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}}})
}

fn policies(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.cluster_policies.keys().map(AsRef::as_ref).collect()
}

/// The kind comes, has objects, goes with them, and comes back: what is known follows, and while
/// it is not there nobody asks for it.
#[tokio::test]
async fn a_kind_that_the_cluster_may_not_have_comes_and_goes() {
    let faulty = Faulty::new(|_| Fault::None);
    let clean = faulty.clean();
    let source = SnapshotSource::start(faulty.client(), Options::default());
    until(&source, "a first snapshot", |s| s.cluster_policies.is_empty()).await;
    let asked = || {
        let asked = lock(&faulty.asked);
        asked.iter().filter(|(path, _)| path.ends_with("/clusternetworkpolicies")).count()
    };
    assert_eq!(asked(), 0);
    for _ in 0..2 {
        make(&clean, &definition()).await;
        make(&clean, &policy("first")).await;
        until(&source, "the first policy", |s| policies(s) == ["first"]).await;
        make(&clean, &policy("second")).await;
        until(&source, "another one", |s| policies(s) == ["first", "second"]).await;
        let name = definition()["metadata"]["name"].as_str().expect("a name").to_owned();
        objects(&clean, &definition()).delete(&name, &DeleteParams::default()).await.expect("gone");
        until(&source, "none", |s| s.cluster_policies.is_empty()).await;
        let begin = Instant::now();
        while objects(&clean, &definition()).get_opt(&name).await.expect("an answer").is_some() {
            assert!(begin.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert!(source.status.borrow()[&Kind::ClusterNetworkPolicy].listed);
}

/// Least privilege: what the agent asks for is what the manifest allows, no more and no less.
#[tokio::test]
async fn the_manifest_s_rights_are_those_that_are_used() {
    let end = |watch| if watch { Fault::End(Duration::from_millis(10)) } else { Fault::None };
    let faulty = Faulty::new(end);
    make(&faulty.clean(), &definition()).await;
    let source = SnapshotSource::start(faulty.client(), Options::default());
    let ranges = crate::ServiceRanges::follow(faulty.client());
    let mut known = ranges.ranges.clone();
    let all = async {
        source.first().await.expect("a snapshot");
        known.wait_for(Option::is_some).await.expect("ranges").as_deref().map(<[_]>::len)
    };
    let ranges = tokio::time::timeout(PATIENCE, all).await.expect("in time");
    assert_eq!(ranges, Some(2), "the embedded API has one range a family");
    // Each kind, the definition of one of them, and the ranges.
    let all_watched = || {
        let asked = lock(&faulty.asked);
        let paths = asked.iter().filter(|(_, w)| *w).map(|(path, _)| path);
        paths.collect::<std::collections::BTreeSet<_>>().len() == Kind::ALL.len() + 2
    };
    let begin = Instant::now();
    while !all_watched() {
        assert!(begin.elapsed() < PATIENCE, "{:?}", lock(&faulty.asked));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let asked = lock(&faulty.asked).clone();
    let used = asked.iter().map(|(path, watch)| {
        let verb = if *watch { "watch" } else { "list" };
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match parts[..] {
            ["api", "v1", resource] => (String::new(), resource.to_owned(), verb.to_owned()),
            ["apis", group, _, resource] => {
                (group.to_owned(), resource.to_owned(), verb.to_owned())
            }
            _ => panic!("no list of a whole kind: {path}"),
        }
    });
    let used: std::collections::BTreeSet<_> = used.collect();
    assert_eq!(used, rights_of_the_manifest());
}

/// The rights that the manifest gives, but for those to Events and to one pod, which no watch
/// needs.
fn rights_of_the_manifest() -> std::collections::BTreeSet<(String, String, String)> {
    use serde::Deserialize;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/manifests/agent-rbac.yaml");
    let text = std::fs::read_to_string(file).expect("the manifest");
    let documents = serde_yaml_ng::Deserializer::from_str(&text);
    let documents = documents.map(|d| serde_json::Value::deserialize(d).expect("YAML"));
    let role = documents.into_iter().find(|d| d["kind"] == "ClusterRole").expect("the role");
    let texts = |value: &serde_json::Value| -> Vec<String> {
        let list = value.as_array().cloned().unwrap_or_default();
        list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let mut rights = std::collections::BTreeSet::new();
    for rule in role["rules"].as_array().expect("rules") {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]).into_iter().filter(|r| r != "events") {
                for verb in texts(&rule["verbs"]).into_iter().filter(|v| v != "get") {
                    rights.insert((group.clone(), resource.clone(), verb));
                }
            }
        }
    }
    rights
}
