//! Lists and watches, byte for byte as the clients get them.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use std::time::Duration;
use tower::ServiceExt;
use weft_apiserver::{ApiBody, ApiServer, Config};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "application/json";
const TABLE: &str = "application/json;as=Table;g=meta.k8s.io;v=v1";
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

fn server(change: impl FnOnce(&mut Config)) -> ApiServer {
    let mut config = Config::default();
    change(&mut config);
    ApiServer::new(config).unwrap()
}

async fn send(api: &ApiServer, method: &str, path: &str, accept: &str, body: Value) -> ApiBody {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("accept", accept)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    api.service().oneshot(request).await.unwrap().into_body()
}

async fn ask(api: &ApiServer, method: &str, path: &str, body: Value) -> Value {
    let body = send(api, method, path, JSON, body).await.collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

async fn get(api: &ApiServer, path: &str) -> Value {
    ask(api, "GET", path, Value::Null).await
}

/// Creates or replaces a ConfigMap and returns its version.
async fn put(api: &ApiServer, name: &str, color: &str) -> u64 {
    let object = json!({"metadata": {"name": name, "labels": {"color": color}}});
    let mut made = ask(api, "PUT", &format!("{MAPS}/{name}"), object.clone()).await;
    if made["code"] == 404 {
        made = ask(api, "POST", MAPS, object).await;
    }
    rv(&made["metadata"]["resourceVersion"])
}

fn rv(v: &Value) -> u64 {
    v.as_str().unwrap_or_else(|| panic!("no version in {v}")).parse().unwrap()
}

/// A watch, event by event.
struct Watching {
    body: ApiBody,
    buffer: Vec<u8>,
}

impl Watching {
    async fn start(api: &ApiServer, query: &str, accept: &str) -> Self {
        let path = format!("{MAPS}?watch=true&{query}");
        Self { body: send(api, "GET", &path, accept, Value::Null).await, buffer: Vec::new() }
    }

    /// The next event; `None` when the stream ended as it should.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?;
            self.buffer.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }

    /// Type and name of the next event.
    async fn short(&mut self) -> (String, String) {
        let e = self.next().await.expect("the stream goes on");
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        (text(&e["type"]), text(&e["object"]["metadata"]["name"]))
    }
}

fn is(event: (String, String), kind: &str, name: &str) {
    assert_eq!(event, (kind.to_owned(), name.to_owned()));
}

const INITIAL: &str =
    "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";

#[tokio::test]
async fn streaming_lists_end_with_their_bookmark() {
    let api = server(|_| {});
    put(&api, "a", "red").await;
    let newest = put(&api, "b", "blue").await;
    let exact = format!("{INITIAL}&resourceVersion={newest}");
    for (query, color) in [(INITIAL, "green"), (exact.as_str(), "brown")] {
        let mut w = Watching::start(&api, query, JSON).await;
        is(w.short().await, "ADDED", "a");
        is(w.short().await, "ADDED", "b");
        let end = w.next().await.unwrap();
        assert_eq!(end["type"], "BOOKMARK");
        assert_eq!(end["object"]["kind"], "ConfigMap");
        let meta = &end["object"]["metadata"];
        assert_eq!(meta["annotations"]["k8s.io/initial-events-end"], "true");
        assert!(rv(&meta["resourceVersion"]) >= newest);
        put(&api, "a", color).await;
        is(w.short().await, "MODIFIED", "a");
    }
    // Nothing is there: the bookmark alone.
    let mut w = Watching::start(&api, &format!("{INITIAL}&labelSelector=color=none"), JSON).await;
    is(w.short().await, "BOOKMARK", "");
    // The version is still to come.
    let late = format!("{MAPS}?watch=true&{INITIAL}&resourceVersion=100000");
    let refused = get(&api, &late).await;
    assert_eq!((&refused["code"], &refused["reason"]), (&json!(504), &json!("Timeout")));
    // Without what there is: only what comes.
    let none = "sendInitialEvents=false&resourceVersionMatch=NotOlderThan";
    let mut w = Watching::start(&api, none, JSON).await;
    put(&api, "c", "red").await;
    is(w.short().await, "ADDED", "c");
    // As clients have always done it: no version in particular, no bookmarks.
    for (query, color) in [("", "one"), ("resourceVersion=0", "two")] {
        let mut w = Watching::start(&api, query, JSON).await;
        for name in ["a", "b", "c"] {
            is(w.short().await, "ADDED", name);
        }
        put(&api, "b", color).await;
        is(w.short().await, "MODIFIED", "b");
    }
}

#[tokio::test]
async fn objects_enter_and_leave_a_selection() {
    let api = server(|_| {});
    let from = put(&api, "a", "blue").await;
    let query = format!("resourceVersion={from}&labelSelector=color%3Dred");
    let mut w = Watching::start(&api, &query, JSON).await;
    put(&api, "b", "blue").await;
    put(&api, "a", "red").await;
    is(w.short().await, "ADDED", "a");
    put(&api, "b", "red").await;
    is(w.short().await, "ADDED", "b");
    let left = put(&api, "a", "green").await;
    let gone = w.next().await.unwrap();
    assert_eq!(gone["type"], "DELETED");
    // As it was when it was selected, at the version of the change.
    assert_eq!(gone["object"]["metadata"]["labels"]["color"], "red");
    assert_eq!(rv(&gone["object"]["metadata"]["resourceVersion"]), left);
    ask(&api, "DELETE", &format!("{MAPS}/b"), Value::Null).await;
    is(w.short().await, "DELETED", "b");
    // One object by its name.
    let query = format!("resourceVersion={from}&fieldSelector=metadata.name%3Da");
    let mut w = Watching::start(&api, &query, JSON).await;
    is(w.short().await, "MODIFIED", "a");
    is(w.short().await, "MODIFIED", "a");
    ask(&api, "DELETE", &format!("{MAPS}/a"), Value::Null).await;
    is(w.short().await, "DELETED", "a");
}

#[tokio::test]
async fn a_version_that_is_not_kept_is_gone() {
    let api = server(|c| c.watch_history = 4);
    let old = put(&api, "a", "red").await;
    for n in 0..10 {
        put(&api, "a", &format!("c{n}")).await;
    }
    let mut w = Watching::start(&api, &format!("resourceVersion={old}"), JSON).await;
    let error = w.next().await.unwrap();
    assert_eq!(error["type"], "ERROR");
    let status = &error["object"];
    assert_eq!((&status["kind"], &status["code"]), (&json!("Status"), &json!(410)));
    assert_eq!(status["reason"], "Expired");
    let message = status["message"].as_str().unwrap();
    assert!(message.starts_with(&format!("too old resource version: {old} (")), "{message}");
    assert!(w.next().await.is_none(), "and that is all");
    let exact = format!("{MAPS}?resourceVersion={old}&resourceVersionMatch=Exact");
    let gone = get(&api, &exact).await;
    assert_eq!(gone["message"], "The resourceVersion for the provided list is too old.");
    assert_eq!((&gone["code"], &gone["reason"]), (&json!(410), &json!("Expired")));
}

#[tokio::test]
async fn bookmarks_come_by_themselves_and_at_the_end() {
    let api = server(|c| c.limits.bookmark_every = Duration::from_millis(10));
    let from = put(&api, "a", "red").await;
    let query = format!("resourceVersion={from}&allowWatchBookmarks=true&labelSelector=color=no");
    let mut w = Watching::start(&api, &query, JSON).await;
    let wanted = put(&api, "a", "blue").await;
    loop {
        let e = w.next().await.unwrap();
        assert_eq!(e["type"], "BOOKMARK", "nothing else was selected");
        assert!(e["object"]["metadata"].get("annotations").is_none());
        if rv(&e["object"]["metadata"]["resourceVersion"]) >= wanted {
            break;
        }
    }
    let api = server(|_| {});
    let from = put(&api, "a", "red").await;
    for (bookmarks, last) in [("true", true), ("false", false)] {
        let query =
            format!("resourceVersion={from}&timeoutSeconds=1&allowWatchBookmarks={bookmarks}");
        let mut w = Watching::start(&api, &query, JSON).await;
        let end = w.next().await;
        assert_eq!(end.as_ref().is_some_and(|e| e["type"] == "BOOKMARK"), last);
        assert!(!last || w.next().await.is_none(), "the time is over");
    }
    // The end of the server is an end like any other.
    let query = format!("resourceVersion={from}&allowWatchBookmarks=true");
    let mut w = Watching::start(&api, &query, JSON).await;
    api.shutdown();
    is(w.short().await, "BOOKMARK", "");
    assert!(w.next().await.is_none());
}

#[tokio::test]
async fn tables_and_metadata_are_watched_too() {
    let api = server(|c| c.limits.bookmark_every = Duration::from_millis(10));
    let from = put(&api, "a", "red").await;
    let query = format!("resourceVersion={from}&allowWatchBookmarks=true");
    let mut first = Watching::start(&api, &query, TABLE).await;
    let mut second = Watching::start(&api, &query, TABLE).await;
    let mut metadata = Watching::start(&api, &query, METADATA).await;
    put(&api, "a", "blue").await;
    put(&api, "b", "blue").await;
    async fn event(w: &mut Watching) -> Value {
        loop {
            let e = w.next().await.unwrap();
            if e["type"] != "BOOKMARK" {
                return e;
            }
        }
    }
    for w in [&mut first, &mut second] {
        let e = event(w).await;
        assert_eq!((&e["type"], &e["object"]["kind"]), (&json!("MODIFIED"), &json!("Table")));
        assert!(!e["object"]["columnDefinitions"].as_array().unwrap().is_empty());
        assert_eq!(e["object"]["rows"][0]["cells"][0], "a");
        let e = event(w).await;
        assert_eq!(e["type"], "ADDED");
        assert_eq!(e["object"]["columnDefinitions"], json!([]), "they come once");
        let row = &e["object"]["rows"][0];
        assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(row["object"]["metadata"]["name"], "b");
    }
    let e = event(&mut metadata).await;
    assert_eq!(e["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(e["object"]["metadata"]["labels"]["color"], "blue");
    assert!(e["object"].get("data").is_none());
    // Their bookmarks have the same form.
    for (w, kind) in [(&mut first, "Table"), (&mut metadata, "PartialObjectMetadata")] {
        loop {
            let e = w.next().await.unwrap();
            if e["type"] == "BOOKMARK" {
                assert_eq!(e["object"]["kind"], kind);
                break;
            }
        }
    }
}

#[tokio::test]
async fn lists_are_at_the_version_asked_for() {
    let api = server(|_| {});
    let one = put(&api, "a", "red").await;
    put(&api, "b", "red").await;
    put(&api, "a", "blue").await;
    ask(&api, "DELETE", &format!("{MAPS}/b"), Value::Null).await;
    let names = |l: &Value| -> Vec<String> {
        let items = l["items"].as_array().unwrap_or_else(|| panic!("{l}"));
        items.iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let exact = |rv: u64| format!("{MAPS}?resourceVersion={rv}&resourceVersionMatch=Exact");
    let then = get(&api, &exact(one)).await;
    assert_eq!((names(&then), rv(&then["metadata"]["resourceVersion"])), (vec!["a".into()], one));
    assert_eq!(then["items"][0]["metadata"]["labels"]["color"], "red");
    assert_eq!(names(&get(&api, &exact(one + 1)).await), ["a", "b"]);
    // A page of an older version is exact, anything else is as new as can be.
    assert_eq!(names(&get(&api, &format!("{MAPS}?resourceVersion={}", one + 1)).await), ["a"]);
    let page = get(&api, &format!("{MAPS}?resourceVersion={}&limit=1", one + 1)).await;
    assert_eq!(
        (names(&page), &page["metadata"]["remainingItemCount"]),
        (vec!["a".into()], &json!(1))
    );
    for path in [
        format!("{MAPS}?resourceVersion=99999"),
        exact(99_999),
        format!("{MAPS}/a?resourceVersion=99999"),
    ] {
        let late = get(&api, &path).await;
        assert_eq!(late["code"], 504, "{late}");
        let message = late["message"].as_str().unwrap();
        assert!(message.starts_with("Too large resource version: 99999, current: "), "{message}");
        assert_eq!(late["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    }
}

#[tokio::test]
async fn pages_are_of_one_version_and_can_be_finished_after_it_is_gone() {
    let api = server(|c| c.watch_history = 6);
    for n in 0..6 {
        put(&api, &format!("c{n}"), "red").await;
    }
    let first = get(&api, &format!("{MAPS}?limit=2")).await;
    let token = |l: &Value| l["metadata"]["continue"].as_str().unwrap().to_owned();
    // Changes before and behind the page.
    ask(&api, "DELETE", &format!("{MAPS}/c3"), Value::Null).await;
    put(&api, "c33", "red").await;
    let second = get(&api, &format!("{MAPS}?limit=2&continue={}", token(&first))).await;
    let names: Vec<_> =
        second["items"].as_array().unwrap().iter().map(|i| &i["metadata"]["name"]).collect();
    assert_eq!(names, ["c2", "c3"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    for n in 0..10 {
        put(&api, "c5", &format!("x{n}")).await;
    }
    let gone = get(&api, &format!("{MAPS}?limit=2&continue={}", token(&second))).await;
    assert_eq!(gone["code"], 410);
    // The token in the refusal goes on with what there is now.
    let rest = get(&api, &format!("{MAPS}?limit=9&continue={}", token(&gone))).await;
    let names: Vec<_> =
        rest["items"].as_array().unwrap().iter().map(|i| &i["metadata"]["name"]).collect();
    assert_eq!(names, ["c33", "c4", "c5"]);
    let both = get(&api, &format!("{MAPS}?continue={}&resourceVersion=3", token(&first))).await;
    assert_eq!(both["code"], 400);
}
