//! One watch: a paged list, then the changes after it, for ever, whatever the API does.
//!
//! Why not kube-runtime's `watcher`: it asks again at once when a watch ends at once, begins
//! its delays anew with every list that succeeds (an API that answers each watch with 410 was
//! listed ten times a second), never lists again where 410 is the answer to the request and
//! not an event in it, and applies events in whatever order they come.
//!
//! What is read as lost, and answered with a new list (which replaces what was known only when
//! it is complete):
//! - 410 Gone, as an answer or as an event;
//! - an event whose resourceVersion lies before one that was seen: a watch delivers them in
//!   order (KEP-5504 made the order public), so something between repeats or reorders;
//! - answers that are no events, several times in a row.

use crate::pace::{Delays, Pace};
use futures::{Stream, StreamExt, stream::BoxStream};
use kube::{
    Api, Resource, ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
    runtime::watcher::Event,
};
use rand::RngExt;
use serde::de::DeserializeOwned;
use std::{
    collections::VecDeque,
    fmt::Debug,
    time::{Duration, Instant},
};

/// Objects asked for at a time (client-go's own number).
const PAGE_LEN: u32 = 500;
/// Longest wait for a page of a list: the API server's own limit for a request.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for the head of a watch's answer.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the API is asked to keep a watch open.
const WATCH_SECONDS: u32 = 290;
/// A watch in which nothing arrives for longer is dead, and its end was lost on the way.
const IDLE_TIMEOUT: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 5);
/// Answers that are no events, in a row, until the position counts as lost.
const NONSENSE_MAX: u32 = 3;

/// Why a watch had to wait.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The list failed.
    #[error("list")]
    List(#[source] kube::Error),
    /// The watch failed.
    #[error("watch")]
    Watch(#[source] kube::Error),
    /// No answer in time.
    #[error("{0}: no answer in time")]
    Timeout(&'static str),
    /// A list or event without a resourceVersion.
    #[error("{0}: the answer has no resourceVersion")]
    NoVersion(&'static str),
    /// Events came twice or out of order.
    #[error("watch: an event of version {got} came after {last}; listing again")]
    Disorder {
        /// Version of the event.
        got: u64,
        /// Version seen before.
        last: u64,
    },
}

impl WatchError {
    /// Whether the API says that it does not serve the kind.
    pub fn is_not_served(&self) -> bool {
        matches!(self, Self::List(kube::Error::Api(s)) | Self::Watch(kube::Error::Api(s)) if s.code == 404)
    }
}

/// An event, or why none came. `None` after an error: the watch goes on, with nothing to tell.
pub type Item<K> = Result<Option<Event<K>>, WatchError>;

/// Watches everything that `api` and `fields` select (an API that is given a field selector sends
/// what ceases to match as a deletion). The stream never ends. After an error it goes on by
/// itself.
pub fn watch<K>(
    api: Api<K>,
    fields: Option<&'static str>,
    delays: Delays,
) -> impl Stream<Item = Item<K>> + Send
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let watch = Watch {
        api,
        fields,
        pace: Pace::new(delays),
        position: None,
        events: None,
        queue: VecDeque::new(),
        nonsense: 0,
        next_page: None,
        paged: true,
        failed: false,
    };
    futures::stream::unfold(watch, |mut watch| async move {
        loop {
            if let Some(item) = watch.queue.pop_front() {
                return Some((item, watch));
            }
            watch.advance().await;
        }
    })
}

struct Watch<K> {
    api: Api<K>,
    /// The field selector.
    fields: Option<&'static str>,
    pace: Pace,
    /// The resourceVersion to go on from; none before a list, and after it was lost.
    position: Option<String>,
    events: Option<BoxStream<'static, kube::Result<WatchEvent<K>>>>,
    queue: VecDeque<Item<K>>,
    /// Answers that were no events, in a row.
    nonsense: u32,
    /// The token for the next page of the list that is under way.
    next_page: Option<String>,
    /// Off for one list after such a token expired.
    paged: bool,
    /// Whether an error was the last thing told.
    failed: bool,
}

impl<K> Watch<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    /// One request, or one event.
    async fn advance(&mut self) {
        if self.events.is_some() {
            return self.read().await;
        }
        tokio::time::sleep(self.pace.wait(Instant::now())).await;
        let outcome = match self.position.clone() {
            None => self.list().await,
            Some(version) => self.open(&version).await,
        };
        if let Err(e) = outcome {
            self.pace.failed(Instant::now(), random());
            self.tell(Err(e));
        }
    }

    fn tell(&mut self, item: Item<K>) {
        self.failed = item.is_err();
        self.queue.push_back(item);
    }

    /// The API answers as it should.
    fn fine(&mut self) {
        self.nonsense = 0;
        if self.failed {
            self.tell(Ok(None));
        }
    }

    /// One page of a list: a large one is never in memory as a whole.
    async fn list(&mut self) -> Result<(), WatchError> {
        let continue_token = self.next_page.take();
        if continue_token.is_none() {
            self.queue.push_back(Ok(Some(Event::Init)));
        }
        let limit = self.paged.then_some(PAGE_LEN);
        let field_selector = self.fields.map(str::to_owned);
        let params = ListParams { limit, continue_token, field_selector, ..ListParams::default() };
        let page = tokio::time::timeout(LIST_TIMEOUT, self.api.list(&params)).await;
        let page = page.map_err(|_| WatchError::Timeout("list"))?.map_err(|e| {
            // The token of a further page lives for minutes only: this list takes longer.
            self.paged = !is_gone(&e);
            WatchError::List(e)
        })?;
        self.queue.extend(page.items.into_iter().map(|k| Ok(Some(Event::InitApply(k)))));
        self.next_page = page.metadata.continue_.filter(|t| !t.is_empty());
        if self.next_page.is_none() {
            let version = page.metadata.resource_version.filter(|v| !v.is_empty());
            self.position = Some(version.ok_or(WatchError::NoVersion("list"))?);
            self.paged = true;
            self.nonsense = 0;
            self.tell(Ok(Some(Event::InitDone)));
        }
        Ok(())
    }

    async fn open(&mut self, version: &str) -> Result<(), WatchError> {
        let mut params = WatchParams::default().timeout(WATCH_SECONDS);
        params.field_selector = self.fields.map(str::to_owned);
        let opened = tokio::time::timeout(OPEN_TIMEOUT, self.api.watch(&params, version)).await;
        let opened = opened.map_err(|_| WatchError::Timeout("watch"))?;
        let events = opened.map_err(|e| {
            if is_gone(&e) {
                self.position = None;
            }
            WatchError::Watch(e)
        })?;
        self.pace.opened(Instant::now());
        self.events = Some(events.boxed());
        Ok(())
    }

    /// Takes the next event of the open watch.
    async fn read(&mut self) {
        let Some(events) = &mut self.events else { return };
        let Ok(next) = tokio::time::timeout(IDLE_TIMEOUT, events.next()).await else {
            return self.end(Some(WatchError::Timeout("watch")));
        };
        match next {
            None => self.end(None),
            Some(Ok(event)) => {
                if let Err(e) = self.take(event) {
                    self.end(Some(e));
                }
            }
            Some(Err(e)) => {
                self.nonsense += u32::from(!matches!(e, kube::Error::ReadEvents(_)));
                if is_gone(&e) || self.nonsense >= NONSENSE_MAX {
                    self.position = None;
                }
                self.end(Some(WatchError::Watch(e)));
            }
        }
    }

    fn end(&mut self, error: Option<WatchError>) {
        self.events = None;
        let lived = self.pace.ended(Instant::now(), error.is_none(), random());
        match error {
            Some(e) => self.tell(Err(e)),
            None if lived => self.fine(),
            None => {}
        }
    }

    fn take(&mut self, event: WatchEvent<K>) -> Result<(), WatchError> {
        let (object, event): (_, fn(K) -> Event<K>) = match event {
            WatchEvent::Added(k) | WatchEvent::Modified(k) => (k, Event::Apply),
            WatchEvent::Deleted(k) => (k, Event::Delete),
            WatchEvent::Bookmark(mark) => {
                self.fine();
                return self.moved(Some(mark.metadata.resource_version));
            }
            WatchEvent::Error(status) => {
                self.nonsense += 1;
                if status.code == 410 || self.nonsense >= NONSENSE_MAX {
                    self.position = None;
                }
                return Err(WatchError::Watch(kube::Error::Api(status.boxed())));
            }
        };
        self.nonsense = 0;
        self.moved(object.resource_version())?;
        self.tell(Ok(Some(event(object))));
        Ok(())
    }

    /// Notes the version of an event. The very last one may come again: it changes nothing.
    fn moved(&mut self, version: Option<String>) -> Result<(), WatchError> {
        let version = version.filter(|v| !v.is_empty());
        let lost = |this: &mut Self, e| {
            this.position = None;
            Err(e)
        };
        let Some(version) = version else { return lost(self, WatchError::NoVersion("watch")) };
        let number = |text: &str| text.parse::<u64>().ok();
        // Versions that are no numbers cannot be compared.
        if let (Some(got), Some(last)) =
            (number(&version), self.position.as_deref().and_then(number))
            && got < last
        {
            return lost(self, WatchError::Disorder { got, last });
        }
        self.position = Some(version);
        Ok(())
    }
}

fn is_gone(e: &kube::Error) -> bool {
    matches!(e, kube::Error::Api(status) if status.code == 410)
}

fn random() -> f64 {
    rand::rng().random()
}
