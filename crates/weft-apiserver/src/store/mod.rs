//! Objects as encoded bytes, one resourceVersion, one event ring per kind.
//!
//! Writers prepare outside the lock and [`Store::commit`] against the version that they read;
//! whoever lost the race prepares again. Under the lock: the caller's guard (namespace exists,
//! addresses allocated), the new version, encoding, the journal, the map, the ring, the watchers.
//! A guard may add changes of other objects; all of them happen, or none.
//! So every watcher sees every event in order, and a list and the watch that continues it meet
//! without gap. Knows of an object only where its resourceVersion goes.

mod background;
mod crc;
mod journal;
mod queue;
mod reform;
mod ring;
#[cfg(test)]
mod tests;
mod txn;

use bytes::Bytes;
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    path::Path,
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use background::Background;
pub use journal::lock_directory;
pub(crate) use journal::{Journal, Record};
pub(crate) use ring::{Change, Event, Expired, Scope, Watch, line as ring_line};
use ring::{Ring, Watcher};
pub(crate) use txn::{Commit, CommitError, Expect, Txn, Write};

/// An encoded object may not be longer; patches could make one grow past what a body may hold.
pub(crate) const OBJECT_BYTES_MAX: usize = 3 << 20;

/// A table of objects: the index of its interned name, such as `apps/deployments`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Table(usize);

/// Namespace (empty for cluster-scoped kinds) and name; sorts as Kubernetes lists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// What selectors may ask for, extracted at write time.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Attrs {
    labels: Box<[(Box<str>, Box<str>)]>,
    fields: Box<[(Box<str>, Box<str>)]>,
}

impl Attrs {
    pub(crate) fn new(
        labels: impl Iterator<Item = (Box<str>, Box<str>)>,
        fields: impl Iterator<Item = (Box<str>, Box<str>)>,
    ) -> Self {
        Self { labels: labels.collect(), fields: fields.filter(|(_, v)| !v.is_empty()).collect() }
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| &**k == key).map(|(_, v)| &**v)
    }

    /// The field's value; empty when the object does not set it.
    pub(crate) fn field(&self, path: &str) -> &str {
        self.fields.iter().find(|(k, _)| &**k == path).map_or("", |(_, v)| &**v)
    }
}

/// One stored version of an object. Cloning shares the bytes.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) rv: u64,
    pub(crate) bytes: Bytes,
    pub(crate) attrs: Arc<Attrs>,
    /// What was written, where `bytes` is only how that reads since its definition changed.
    written: Option<Bytes>,
}

impl Entry {
    fn new(rv: u64, bytes: Bytes, attrs: Attrs) -> Self {
        Self { rv, bytes, attrs: Arc::new(attrs), written: None }
    }

    /// What the journal keeps.
    fn written(&self) -> &Bytes {
        self.written.as_ref().unwrap_or(&self.bytes)
    }

    /// The object, decoded.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).expect("invariant: stored objects are JSON")
    }
}

/// One page of a list, at one version.
pub(crate) struct Listing {
    pub(crate) rv: u64,
    pub(crate) items: Vec<(Key, Entry)>,
    /// Matching objects after this page.
    pub(crate) remaining: usize,
}

#[derive(Default)]
struct Objects {
    map: BTreeMap<Key, Entry>,
    ring: Ring,
    watchers: Vec<Watcher>,
}

struct Inner {
    rv: u64,
    tables: Vec<Objects>,
    journal: Option<Journal>,
    ring_len_max: usize,
    /// Nothing is written any more.
    closed: bool,
}

/// What the store's threads share with it.
struct Shared {
    inner: RwLock<Inner>,
    background: Background,
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().expect("invariant: nothing panics while it holds the store")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().expect("invariant: nothing panics while it holds the store")
    }
}

/// The store. All methods but [`durable`](Self::durable) and [`close`](Self::close) are short.
pub(crate) struct Store {
    shared: Arc<Shared>,
    names: RwLock<HashMap<String, Table>>,
}

impl Store {
    /// An empty store in memory that keeps `ring_len_max` events per kind.
    pub(crate) fn in_memory(ring_len_max: usize) -> Self {
        let tables = Vec::new();
        let inner = Inner { rv: 1, tables, journal: None, ring_len_max, closed: false };
        let shared = Shared { inner: RwLock::new(inner), background: Background::default() };
        Self { shared: Arc::new(shared), names: RwLock::default() }
    }

    /// A store that journals to `dir` and begins with what is there. `attrs` rebuilds the
    /// attributes of an object of the named table.
    pub(crate) fn open(
        dir: &Path,
        sync: bool,
        ring_len_max: usize,
        attrs: impl Fn(&str, &Value) -> Attrs,
    ) -> std::io::Result<Self> {
        let store = Self::in_memory(ring_len_max);
        let mut rv = 1;
        let mut live: HashMap<Arc<str>, BTreeMap<Key, Record>> = HashMap::new();
        let mut journal = Journal::open(dir, sync, |r| {
            rv = rv.max(r.rv);
            if !r.table.is_empty() {
                let map = live.entry(r.table.clone()).or_default();
                match &r.object {
                    Some(_) => map.insert(r.key.clone(), r),
                    None => map.remove(&r.key),
                };
            }
            Ok(())
        })?;
        for (name, map) in live {
            let table = store.table(&name);
            let mut inner = store.write();
            for (key, record) in map {
                journal.count_live(&record);
                let bytes = record.object.unwrap_or_default();
                // Going on without it would lose the object and what it owns.
                let value = crate::lean::object(&bytes).map_err(|error| {
                    let Key { namespace, name: of } = &key;
                    let why = format!("{}: {name} {namespace}/{of}: {error}", dir.display());
                    std::io::Error::new(std::io::ErrorKind::InvalidData, why)
                })?;
                let entry = Entry::new(record.rv, bytes, attrs(&name, &value));
                inner.tables[table.0].map.insert(key, entry);
            }
        }
        {
            let mut inner = store.write();
            inner.rv = rv;
            inner.journal = Some(journal);
            // History before the restart is gone: who asks for it lists again.
            for t in &mut inner.tables {
                t.ring.forget_until(rv);
            }
        }
        store.start_background(sync)?;
        Ok(store)
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.shared.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.shared.write()
    }

    /// The table of that name, made on first use.
    pub(crate) fn table(&self, name: &str) -> Table {
        let known = |names: &HashMap<String, Table>| names.get(name).copied();
        let lock = "invariant: nothing panics while it holds the table names";
        if let Some(t) = known(&self.names.read().expect(lock)) {
            return t;
        }
        let mut names = self.names.write().expect(lock);
        if let Some(t) = known(&names) {
            return t;
        }
        let mut inner = self.write();
        let table = Table(inner.tables.len());
        let mut objects = Objects::default();
        objects.ring.name = name.into();
        // A table made after a restart has no history from before it.
        if inner.journal.is_some() {
            objects.ring.forget_until(inner.rv);
        }
        inner.tables.push(objects);
        names.insert(name.to_owned(), table);
        table
    }

    /// How many objects each table has, by its name.
    pub(crate) fn counts(&self) -> Vec<(Arc<str>, usize)> {
        let inner = self.read();
        let mut all: Vec<_> =
            inner.tables.iter().map(|t| (t.ring.name.clone(), t.map.len())).collect();
        all.sort();
        all
    }

    /// Whether writes are taken: not where the disk has failed, nor at the end.
    pub(crate) fn is_sound(&self) -> bool {
        let inner = self.read();
        !inner.closed && !inner.journal.as_ref().is_some_and(Journal::is_broken)
    }

    /// The newest version.
    pub(crate) fn rv(&self) -> u64 {
        self.read().rv
    }

    /// The object's newest version.
    pub(crate) fn get(&self, table: Table, key: &Key) -> Option<Entry> {
        self.read().tables[table.0].map.get(key).cloned()
    }

    /// Lists what `scope` selects, after `after`, at most `limit` (0: all). With `at`, as it was
    /// at that version: the newest state with the events since then undone.
    pub(crate) fn list(
        &self,
        table: Table,
        scope: &Scope,
        at: Option<u64>,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Listing, Expired> {
        let inner = self.read();
        let t = &inner.tables[table.0];
        let (rv, past) = match at {
            Some(at) if at < inner.rv => (at, Some(t.ring.undo(at)?)),
            _ => (inner.rv, None),
        };
        let mut page = Page { limit, items: Vec::new(), remaining: 0 };
        match past.filter(|undone| !undone.is_empty()) {
            None => {
                for (k, e) in range(&t.map, scope, after) {
                    if scope.matches(k, &e.attrs) {
                        page.push(k, e);
                    }
                }
            }
            Some(undone) => {
                let mut then: BTreeMap<&Key, &Entry> = range(&t.map, scope, after).collect();
                for (key, before) in &undone {
                    let in_range = scope.namespace_matches(key) && after.is_none_or(|a| *key > *a);
                    match before {
                        Some(e) if in_range => {
                            then.insert(key, e);
                        }
                        _ => {
                            then.remove(key);
                        }
                    }
                }
                for (k, e) in then {
                    if scope.matches(k, &e.attrs) {
                        page.push(k, e);
                    }
                }
            }
        }
        Ok(Listing { rv, items: page.items, remaining: page.remaining })
    }

    /// Watches from the events after `since`.
    pub(crate) fn watch(&self, table: Table, scope: Scope, since: u64) -> Result<Watch, Expired> {
        let mut inner = self.write();
        if since > inner.rv {
            // A version of another life of this server.
            return Err(Expired { requested: since, oldest: inner.rv });
        }
        let t = &mut inner.tables[table.0];
        let missed = t.ring.since(since, &scope)?;
        let (watcher, watch) = Watcher::new(scope, missed);
        t.watchers.push(watcher);
        Ok(watch)
    }

    /// Lists and watches in one step, for watches that begin with the present state.
    pub(crate) fn list_and_watch(&self, table: Table, scope: Scope) -> (Listing, Watch) {
        let mut inner = self.write();
        let rv = inner.rv;
        let t = &mut inner.tables[table.0];
        let items: Vec<_> = range(&t.map, &scope, None)
            .filter(|(k, e)| scope.matches(k, &e.attrs))
            .map(|(k, e)| (k.clone(), e.clone()))
            .collect();
        let (watcher, watch) = Watcher::new(scope, Vec::new());
        t.watchers.push(watcher);
        (Listing { rv, items, remaining: 0 }, watch)
    }
}

struct Page {
    limit: usize,
    items: Vec<(Key, Entry)>,
    remaining: usize,
}

impl Page {
    fn push(&mut self, k: &Key, e: &Entry) {
        if self.limit > 0 && self.items.len() == self.limit {
            self.remaining += 1;
        } else {
            self.items.push((k.clone(), e.clone()));
        }
    }
}

/// The part of the map that a scope can select from.
fn range<'a>(
    map: &'a BTreeMap<Key, Entry>,
    scope: &Scope,
    after: Option<&Key>,
) -> impl Iterator<Item = (&'a Key, &'a Entry)> + use<'a> {
    let first = Key {
        namespace: scope.namespace.clone().unwrap_or_default(),
        name: scope.selector.exact_name().unwrap_or("").into(),
    };
    let start = match after {
        Some(a) if *a >= first => Bound::Excluded(a.clone()),
        _ if scope.namespace.is_some() => Bound::Included(first),
        _ => Bound::Unbounded,
    };
    let namespace = scope.namespace.clone();
    map.range((start, Bound::Unbounded))
        .take_while(move |(k, _)| namespace.as_ref().is_none_or(|n| k.namespace == *n))
}
