//! The stream of a watch.

use super::{accept::Format, body::BoxError, reply};
use super::{params::Params, reply::ApiBody};
use crate::{
    ApiServer,
    aside::Aside,
    error::ApiError,
    metrics::Open,
    store::{Change, Entry, Event, Expired, Key, Scope, Watch, ring_line},
    verbs::{self, read},
};
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture, stream};
use http::{HeaderValue, Response, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use weft_kinds::Kind;

/// kube-apiserver ends a watch without a time-out after 30 to 60 minutes.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30 * 60);
/// Events that are there at once go out in one piece up to this size.
const BATCH_BYTES: usize = 64 << 10;

/// How the client wants its events.
struct Form {
    kind: Arc<Kind>,
    format: Format,
    include: String,
    /// Whether column definitions were sent; they come with the first event only.
    defined: bool,
}

impl Form {
    fn line(&mut self, change: Change, event: &Event) -> Bytes {
        let plain =
            matches!(self.format, Format::Json) && std::ptr::eq(self.kind.storage(), &*self.kind);
        // An object that moved out of the selection is shown as it was, at this version.
        let left = change == Change::Deleted && event.after.is_some();
        if plain && !left {
            return event.line(change);
        }
        let object = || match (&event.before, left) {
            (Some(before), true) => {
                let mut v = before.value();
                v["metadata"]["resourceVersion"] = event.rv.to_string().into();
                v.to_string().into()
            }
            _ => event.object.clone(),
        };
        if matches!(self.format, Format::Table(_)) && !self.defined {
            // Column definitions come with the first event only.
            return self.encode(change.as_str(), &object());
        }
        let name = format!(
            "{} {:?} {} {} {left}",
            self.kind.api_version(),
            self.format,
            self.include,
            change.as_str()
        );
        event.form(name, || self.encode(change.as_str(), &object()))
    }

    fn encode(&mut self, change: &str, object: &Bytes) -> Bytes {
        let object = verbs::from_storage(&self.kind, object);
        match self.format {
            Format::Json => ring_line(change, &object),
            format => {
                let first = !std::mem::replace(&mut self.defined, true);
                ring_line(change, &reply::render(&self.kind, &object, format, &self.include, first))
            }
        }
    }

    fn bookmark(&mut self, rv: u64, initial_end: bool) -> Bytes {
        let mut object = json!({
            "kind": self.kind.kind,
            "apiVersion": self.kind.api_version(),
            "metadata": {"resourceVersion": rv.to_string(), "creationTimestamp": null},
        });
        if initial_end {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        match self.format {
            Format::Json => ring_line("BOOKMARK", object.to_string().as_bytes()),
            Format::Metadata(v) | Format::MetadataList(v) => {
                object["kind"] = "PartialObjectMetadata".into();
                object["apiVersion"] = format!("meta.k8s.io/{v}").into();
                ring_line("BOOKMARK", object.to_string().as_bytes())
            }
            Format::Table(v) => {
                let row = json!({"cells": [], "object": {"kind": "PartialObjectMetadata",
                    "apiVersion": format!("meta.k8s.io/{v}"), "metadata": object["metadata"]}});
                let table = json!({"kind": "Table", "apiVersion": format!("meta.k8s.io/{v}"),
                    "metadata": {"resourceVersion": rv.to_string()}, "columnDefinitions": [], "rows": [row]});
                ring_line("BOOKMARK", table.to_string().as_bytes())
            }
        }
    }
}

/// The present state, sent before events: encoded only as the client takes it.
struct Initial {
    entries: std::vec::IntoIter<(Key, Entry)>,
    /// The version of the bookmark that ends it, where one is wanted.
    bookmark: Option<u64>,
}

/// What comes between events.
enum Pause {
    /// It is time to tell the client how far it has come.
    Bookmark,
    /// The server ends, or the time that the client asked for is over.
    End,
}

/// When there are pauses.
struct Pauses {
    bookmark_every: Option<Duration>,
    until: Instant,
    shutdown: CancellationToken,
}

impl Pauses {
    fn next(&self) -> Aside<BoxFuture<'static, Pause>> {
        let (every, until, shutdown) = (self.bookmark_every, self.until, self.shutdown.clone());
        let pause = async move {
            let bookmark = async {
                match every {
                    Some(every) => sleep(every).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => Pause::End,
                () = sleep_until(until) => Pause::End,
                () = bookmark => Pause::Bookmark,
            }
        };
        Aside::new(pause.boxed())
    }
}

struct Stream {
    server: ApiServer,
    form: Form,
    initial: Option<Initial>,
    watch: Watch,
    pauses: Pauses,
    pause: Aside<BoxFuture<'static, Pause>>,
    /// The newest version that the client knows.
    rv: u64,
    /// The last piece is out.
    ended: bool,
    /// Counted as long as it is there.
    _open: Open,
}

impl Stream {
    /// The next piece of the body; `None` ends the watch. Nothing is shown that the disk could
    /// still lose.
    async fn next(&mut self) -> Option<Bytes> {
        let piece = self.piece().await?;
        self.server.0.store.durable(self.rv).await.ok()?;
        Some(piece)
    }

    async fn piece(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let first = self.present();
        if !first.is_empty() {
            return Some(first.into());
        }
        tokio::select! {
            biased;
            pause = &mut self.pause => match pause {
                Pause::Bookmark => {
                    self.pause = self.pauses.next();
                    self.bookmark()
                }
                Pause::End => self.last(),
            },
            event = self.watch.next() => {
                let (change, event) = event?;
                Some(self.batch(change, &event))
            }
        }
    }

    /// The next lines of the present state.
    fn present(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let Some(initial) = &mut self.initial else { return out };
        for (_, entry) in &mut initial.entries {
            out.extend_from_slice(&self.form.encode("ADDED", &entry.bytes));
            if out.len() > BATCH_BYTES {
                return out;
            }
        }
        if let Some(rv) = initial.bookmark {
            out.extend_from_slice(&self.form.bookmark(rv, true));
        }
        self.initial = None;
        out
    }

    /// Everything that waits, and how far the client has come with it.
    fn bookmark(&mut self) -> Option<Bytes> {
        // All events up to this version are in the channel by now; they go first.
        let rv = self.server.0.store.rv();
        let mut out = Vec::new();
        while let Some((change, event)) = self.watch.try_next() {
            out.extend_from_slice(&self.batch(change, &event));
        }
        // A watcher that was cut off has missed events up to this version: no bookmark, and the
        // stream ends at the next step.
        if self.watch.ended() {
            return (!out.is_empty()).then(|| out.into());
        }
        self.rv = self.rv.max(rv);
        out.extend_from_slice(&self.form.bookmark(self.rv, false));
        Some(out.into())
    }

    /// At the end the client learns once more how far it has come, if it wants to.
    fn last(&mut self) -> Option<Bytes> {
        self.ended = true;
        self.pauses.bookmark_every.is_some().then(|| self.bookmark()).flatten()
    }

    /// The event, and those that wait behind it.
    fn batch(&mut self, change: Change, event: &Event) -> Bytes {
        self.rv = event.rv;
        let first = self.form.line(change, event);
        let Some((mut change, mut event)) = self.watch.try_next() else { return first };
        let mut out = first.to_vec();
        loop {
            self.rv = event.rv;
            out.extend_from_slice(&self.form.line(change, &event));
            if out.len() > BATCH_BYTES {
                return out.into();
            }
            match self.watch.try_next() {
                Some(next) => (change, event) = next,
                None => return out.into(),
            }
        }
    }
}

pub(crate) fn start(
    server: &ApiServer,
    kind: &Arc<Kind>,
    scope: Scope,
    params: &Params,
    format: Format,
) -> Result<Response<ApiBody>, ApiError> {
    let state = &server.0;
    let table = state.table(kind);
    let rv = read::version(params)?.filter(|rv| *rv > 0);
    // A watch from no version in particular has always begun with what there is.
    let initial = params.flag("sendInitialEvents").unwrap_or(rv.is_none());
    let bookmarks = params.flag("allowWatchBookmarks") == Some(true);
    let include = params.get("includeObject").unwrap_or("Metadata").to_owned();
    let open = Open::watch(state, kind, &scope);
    let form = Form { kind: kind.clone(), format, include, defined: false };
    let (initial, watch, known) = if initial {
        read::reached(rv.unwrap_or(0), state.store.rv())?;
        let (listing, watch) = state.store.list_and_watch(table, scope);
        let bookmark = bookmarks.then_some(listing.rv);
        let initial = Initial { entries: listing.items.into_iter(), bookmark };
        (Some(initial), watch, listing.rv)
    } else {
        let from = rv.unwrap_or_else(|| state.store.rv());
        match state.store.watch(table, scope, from) {
            Ok(watch) => (None, watch, from),
            Err(e) => return Ok(expired(e)),
        }
    };
    // Who changed the kind has ended its watches, and perhaps before this one was among them.
    if !state.registry().serves(kind) {
        return Ok(streaming(reply::full(Bytes::new())));
    }
    let timeout = params
        .get("timeoutSeconds")
        .and_then(|t| t.parse::<u64>().ok())
        .filter(|t| *t > 0)
        .map_or(TIMEOUT_DEFAULT, |t| Duration::from_secs(t.min(24 * 3600)));
    let pauses = Pauses {
        bookmark_every: bookmarks.then_some(state.config.limits.bookmark_every),
        until: Instant::now() + timeout,
        shutdown: state.shutdown.clone(),
    };
    let (pause, server, rv) = (pauses.next(), server.clone(), known);
    let stream =
        Stream { server, form, initial, watch, pauses, pause, rv, ended: false, _open: open };
    let frames = stream::unfold(stream, |mut s| async move {
        let bytes = s.next().await?;
        Some((Ok::<_, BoxError>(Frame::data(bytes)), s))
    });
    Ok(streaming(StreamBody::new(frames).boxed_unsync()))
}

fn streaming(body: ApiBody) -> Response<ApiBody> {
    let mut r = Response::new(body);
    r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    r.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    r
}

/// kube-apiserver answers a watch from too old a version with one ERROR event. A version that is
/// still to come is of another life of a server in memory: its client has to list again, too.
fn expired(e: Expired) -> Response<ApiBody> {
    let e: ApiError = e.into();
    streaming(reply::full(ring_line("ERROR", e.0.to_string().as_bytes())))
}

/// The scope of a watch, as of a list.
pub(crate) fn scope(
    kind: &Kind,
    namespace: Option<&str>,
    params: &Params,
) -> Result<Scope, ApiError> {
    read::scope(kind, namespace, params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watch_of_a_kind_of_the_past_ends_at_once() {
        let api = ApiServer::new(crate::Config::default()).unwrap();
        let kind = api.0.registry().lookup("", "v1", "configmaps").unwrap().clone();
        let start = |kind: &Arc<Kind>, query: &str| {
            let params = Params::parse(query);
            start(&api, kind, Scope::default(), &params, Format::Json).unwrap().into_body()
        };
        for query in ["", "resourceVersion=1&sendInitialEvents=false"] {
            // One of the same name that was replaced after the request had found it.
            let mut past = start(&Arc::new(Kind::clone(&kind)), query);
            while let Some(frame) = past.frame().await {
                assert!(frame.unwrap().into_data().unwrap().is_empty());
            }
        }
        use futures::FutureExt;
        assert!(start(&kind, "").frame().now_or_never().is_none());
    }
}
