//! Events: the ring that late watchers read, and the channels of live ones.

use super::{
    Attrs, Entry, Key,
    queue::{Receiver, Sender, queue},
};
use crate::selector::Selector;
use bytes::Bytes;
use std::{
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    sync::{Arc, Mutex, OnceLock},
};

/// Bytes of objects that one ring keeps, whatever their number.
const RING_BYTES_MAX: usize = 64 << 20;

/// Forms of one event, besides the plain ones, that are kept for further watchers.
const FORMS_MAX: usize = 8;

/// The version asked for is not kept any more (or not yet known); becomes 410 Gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {requested} ({oldest})")]
pub(crate) struct Expired {
    pub(crate) requested: u64,
    pub(crate) oldest: u64,
}

/// What a watcher is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Modified,
    Deleted,
}

impl Change {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// What a list or watch selects: one namespace or all, and the selectors.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    pub(crate) namespace: Option<Arc<str>>,
    pub(crate) selector: Arc<Selector>,
}

impl Scope {
    pub(crate) fn namespace_matches(&self, key: &Key) -> bool {
        self.namespace.as_ref().is_none_or(|n| *n == key.namespace)
    }

    pub(crate) fn matches(&self, key: &Key, attrs: &Attrs) -> bool {
        self.namespace_matches(key) && self.selector.matches(&key.namespace, &key.name, attrs)
    }

    /// What the event means inside this scope: an object whose change moves it in is ADDED, out
    /// is DELETED.
    pub(crate) fn change(&self, event: &Event) -> Option<Change> {
        if !self.namespace_matches(&event.key) {
            return None;
        }
        let selected = |e: &Option<Entry>| {
            e.as_ref()
                .is_some_and(|e| self.selector.is_empty() || self.matches(&event.key, &e.attrs))
        };
        match (selected(&event.before), selected(&event.after)) {
            (false, true) => Some(Change::Added),
            (true, true) => Some(Change::Modified),
            (true, false) => Some(Change::Deleted),
            (false, false) => None,
        }
    }
}

/// One committed change of one object.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) rv: u64,
    pub(crate) key: Key,
    pub(crate) before: Option<Entry>,
    pub(crate) after: Option<Entry>,
    /// The object at this version; of a deletion, its last state.
    pub(crate) object: Bytes,
    /// The encoded watch lines by [`Change`], made once and shared by all watchers.
    lines: [OnceLock<Bytes>; 3],
    /// Lines in other forms (tables, metadata, other versions of the kind), by their names.
    forms: Mutex<Vec<(String, Bytes)>>,
}

impl Event {
    pub(super) fn new(
        rv: u64,
        key: Key,
        before: Option<Entry>,
        after: Option<Entry>,
        object: Bytes,
    ) -> Self {
        let (lines, forms) = Default::default();
        Self { rv, key, before, after, object, lines, forms }
    }

    /// Bytes that it keeps alive: the object, and as much again for its watch line. What was
    /// before belongs to the event before.
    fn cost(&self) -> usize {
        2 * self.object.len()
    }

    /// The line of the watch stream.
    pub(crate) fn line(&self, change: Change) -> Bytes {
        self.lines[change as usize].get_or_init(|| line(change.as_str(), &self.object)).clone()
    }
}

impl Event {
    /// The line in the form of that name, made once for all watchers that want it.
    pub(crate) fn form(&self, name: String, make: impl FnOnce() -> Bytes) -> Bytes {
        let lock = "invariant: encoding does not panic";
        let mut forms = self.forms.lock().expect(lock);
        if let Some((_, line)) = forms.iter().find(|(n, _)| *n == name) {
            return line.clone();
        }
        let line = make();
        if forms.len() < FORMS_MAX {
            forms.push((name, line.clone()));
        }
        line
    }
}

/// `{"type":…,"object":…}` and a line feed.
pub(crate) fn line(kind: &str, object: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(object.len() + kind.len() + 24);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
    out.into()
}

/// The latest events of one kind, oldest first.
#[derive(Default)]
pub(super) struct Ring {
    /// The table's name, for the journal.
    pub(super) name: Arc<str>,
    events: VecDeque<Arc<Event>>,
    /// What `events` hold together.
    bytes: usize,
    /// Everything after this version is in `events`.
    floor: u64,
}

impl Ring {
    pub(super) fn forget_until(&mut self, rv: u64) {
        self.events.clear();
        self.bytes = 0;
        self.floor = rv;
    }

    pub(super) fn push(&mut self, event: Arc<Event>, len_max: usize) {
        self.bytes += event.cost();
        self.events.push_back(event);
        while self.events.len() > len_max || self.bytes > RING_BYTES_MAX {
            let Some(old) = self.events.pop_front() else { break };
            self.bytes -= old.cost();
            self.floor = old.rv;
        }
    }

    fn after(&self, rv: u64) -> Result<impl DoubleEndedIterator<Item = &Arc<Event>>, Expired> {
        if rv < self.floor {
            return Err(Expired { requested: rv, oldest: self.floor });
        }
        let start = self.events.partition_point(|e| e.rv <= rv);
        Ok(self.events.range(start..))
    }

    pub(super) fn since(
        &self,
        rv: u64,
        scope: &Scope,
    ) -> Result<Vec<(Change, Arc<Event>)>, Expired> {
        Ok(self.after(rv)?.filter_map(|e| Some((scope.change(e)?, e.clone()))).collect())
    }

    /// For every object changed after `rv`, what it was then.
    pub(super) fn undo(&self, rv: u64) -> Result<BTreeMap<Key, Option<Entry>>, Expired> {
        let mut then = BTreeMap::new();
        for e in self.after(rv)?.rev() {
            then.insert(e.key.clone(), e.before.clone());
        }
        Ok(then)
    }
}

/// The sending end of one watch.
pub(super) struct Watcher {
    scope: Scope,
    live: Sender,
}

impl Watcher {
    pub(super) fn new(scope: Scope, missed: Vec<(Change, Arc<Event>)>) -> (Self, Watch) {
        let (tx, live) = queue();
        (Self { scope, live: tx }, Watch { missed: missed.into(), live })
    }

    /// Hands the event over; false when the watcher is gone or too slow, and is cut off.
    pub(super) fn offer(&self, event: &Arc<Event>) -> bool {
        match self.scope.change(event) {
            Some(change) => self.live.offer(change, event),
            None => !self.live.is_closed(),
        }
    }
}

/// The receiving end: what was missed, then what comes.
pub(crate) struct Watch {
    missed: VecDeque<(Change, Arc<Event>)>,
    pub(super) live: Receiver,
}

impl Watch {
    /// The next event; `None` when the watcher was cut off. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<(Change, Arc<Event>)> {
        match self.missed.pop_front() {
            Some(e) => Some(e),
            None => poll_fn(|context| self.live.poll(context)).await,
        }
    }

    /// The next event that is already there.
    pub(crate) fn try_next(&mut self) -> Option<(Change, Arc<Event>)> {
        self.missed.pop_front().or_else(|| self.live.try_take())
    }

    /// Whether the watcher was cut off and everything before that was read: events are missing
    /// from here on.
    pub(crate) fn ended(&self) -> bool {
        self.missed.is_empty() && self.live.ended()
    }
}
