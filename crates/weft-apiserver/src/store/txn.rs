//! One transaction: the change of an object, and the changes that its guard adds.

use super::{Attrs, Entry, Event, Inner, Key, OBJECT_BYTES_MAX, Record, Store, Table};
use bytes::Bytes;
use serde_json::Value;
use std::sync::Arc;
use weft_kinds::{DEPTH_MAX, deeper_than};

/// What a writer read before it prepared its change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    Absent,
    At(u64),
}

/// The change to commit. The value gets its resourceVersion here.
pub(crate) enum Write {
    Put(Value),
    /// The last state of the object, which watchers see in DELETED.
    Delete(Value),
}

/// One change of one object.
pub(crate) struct Commit<'a> {
    pub(crate) table: Table,
    pub(crate) key: &'a Key,
    pub(crate) expect: Expect,
    pub(crate) write: Write,
    /// Ends after the guard; nothing changes.
    pub(crate) dry_run: bool,
}

/// Why a transaction did not happen; nothing changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommitError<E> {
    /// Someone else changed the object since it was read.
    #[error("the object changed meanwhile")]
    Raced,
    /// The caller's guard refused.
    #[error("refused")]
    Refused(E),
    /// Encoded, the object is longer than [`OBJECT_BYTES_MAX`].
    #[error("the object is too large")]
    TooLarge,
    /// The object is nested deeper than [`DEPTH_MAX`].
    #[error("the object is nested too deeply")]
    TooDeep,
    /// The journal could not be written.
    #[error("journal: {0}")]
    Journal(#[source] std::io::Error),
}

/// The transaction, as its guard sees it: what there is, and what shall happen besides.
pub(crate) struct Txn<'a> {
    inner: &'a Inner,
    further: Vec<Further>,
}

/// A change that a guard added.
struct Further {
    table: Table,
    key: Key,
    attrs: Attrs,
    write: Write,
}

impl Txn<'_> {
    /// The object as it was before this transaction.
    pub(crate) fn get(&self, table: Table, key: &Key) -> Option<&Entry> {
        self.inner.tables[table.0].map.get(key)
    }

    /// All objects of a table as they were before this transaction, in the order of their keys.
    pub(crate) fn all(&self, table: Table) -> impl Iterator<Item = (&Key, &Entry)> {
        self.inner.tables[table.0].map.iter()
    }

    /// Creates or replaces another object in the same transaction: journalled together with the
    /// first, after it in version and in the order of the calls. Nothing checks the object but
    /// its size and depth; `attrs` are what selectors may ask of it. An object changes once in a
    /// transaction: a second call for the same one takes the place of the first.
    pub(crate) fn put(&mut self, table: Table, key: Key, object: Value, attrs: Attrs) {
        self.add(Further { table, key, attrs, write: Write::Put(object) });
    }

    /// Deletes another object in the same transaction; nothing happens where there is none.
    pub(crate) fn delete(&mut self, table: Table, key: Key) {
        let Some(last) = self.get(table, &key) else { return };
        let (last, attrs) = (last.value(), Attrs::default());
        self.add(Further { table, key, attrs, write: Write::Delete(last) });
    }

    fn add(&mut self, change: Further) {
        self.further.retain(|f| (f.table, &f.key) != (change.table, &change.key));
        self.further.push(change);
    }
}

/// A change that is encoded and not yet made.
struct Pending {
    table: Table,
    key: Key,
    /// The new state; of a deletion, the last one.
    entry: Entry,
    delete: bool,
}

impl Pending {
    /// Checks and encodes the change. Only when `shown` does the object get its version: a dry run
    /// gives none away.
    fn new<E>(
        rv: u64,
        shown: bool,
        table: Table,
        key: Key,
        write: Write,
        attrs: impl FnOnce(&Value) -> Attrs,
    ) -> Result<Self, CommitError<E>> {
        let (delete, mut value) = match write {
            Write::Put(v) => (false, v),
            Write::Delete(v) => (true, v),
        };
        if !delete && deeper_than(&value, DEPTH_MAX) {
            return Err(CommitError::TooDeep);
        }
        if shown {
            value["metadata"]["resourceVersion"] = Value::String(rv.to_string());
        }
        let bytes = Bytes::from(serde_json::to_vec(&value).expect("invariant: a Value encodes"));
        if !delete && bytes.len() > bytes_max(&value) {
            return Err(CommitError::TooLarge);
        }
        let entry = Entry::new(rv, bytes, attrs(&value));
        Ok(Self { table, key, entry, delete })
    }

    fn record(&self, inner: &Inner) -> Record {
        Record {
            table: inner.tables[self.table.0].ring.name.clone(),
            key: self.key.clone(),
            rv: self.entry.rv,
            object: (!self.delete).then(|| self.entry.bytes.clone()),
        }
    }
}

impl Inner {
    /// Makes the change and tells the watchers.
    fn apply(&mut self, Pending { table, key, entry, delete }: Pending) {
        self.rv = entry.rv;
        let ring_len_max = self.ring_len_max;
        let t = &mut self.tables[table.0];
        let (rv, object) = (entry.rv, entry.bytes.clone());
        let after = (!delete).then_some(entry);
        let before = match &after {
            Some(e) => t.map.insert(key.clone(), e.clone()),
            None => t.map.remove(&key),
        };
        let event = Arc::new(Event::new(rv, key, before, after, object));
        t.watchers.retain(|w| w.offer(&event));
        t.ring.push(event, ring_len_max);
    }
}

impl Store {
    /// Looks at several tables at one moment.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&Txn<'_>) -> T) -> T {
        let inner = self.read();
        at(&Txn { inner: &inner, further: Vec::new() })
    }

    /// Commits one change and what `guard` adds to it. The guard runs inside the transaction: it
    /// may look, complete the value, add changes of other objects and refuse; what it returns is
    /// given to `done` once the change is certain. Every change has a resourceVersion and an
    /// event of its own; the entry is that of the first. A dry run ends after the guard.
    ///
    /// The process may die from here on; for the machine see [`durable`](Self::durable).
    pub(crate) fn commit<D, E>(
        &self,
        commit: Commit<'_>,
        attrs: impl FnOnce(&Value) -> Attrs,
        guard: impl FnOnce(&mut Txn<'_>, &mut Write) -> Result<D, E>,
        done: impl FnOnce(D),
    ) -> Result<Entry, CommitError<E>> {
        let Commit { table, key, expect, mut write, dry_run } = commit;
        let mut inner = self.write();
        match (expect, inner.tables[table.0].map.get(key)) {
            (Expect::Absent, None) => {}
            (Expect::At(rv), Some(e)) if e.rv == rv => {}
            _ => return Err(CommitError::Raced),
        }
        let mut txn = Txn { inner: &inner, further: Vec::new() };
        let delta = guard(&mut txn, &mut write).map_err(CommitError::Refused)?;
        let further = txn.further;
        let first = inner.rv + 1;
        let mut changes = vec![Pending::new(first, !dry_run, table, key.clone(), write, attrs)?];
        for Further { table, key, attrs, write } in further {
            let rv = first + changes.len() as u64;
            changes.push(Pending::new(rv, !dry_run, table, key, write, |_| attrs)?);
        }
        let entry = changes[0].entry.clone();
        if dry_run {
            return Ok(Entry { rv: inner.rv, ..entry });
        }
        if inner.closed {
            return Err(CommitError::Journal(std::io::Error::other("the server has ended")));
        }
        if inner.journal.is_some() {
            let records: Vec<Record> = changes.iter().map(|c| c.record(&inner)).collect();
            let journal = inner.journal.as_mut().expect("invariant: looked at just now");
            let appended = journal.append(&records);
            self.shared.background.wrote(journal);
            appended.map_err(CommitError::Journal)?;
        }
        done(delta);
        changes.into_iter().for_each(|c| inner.apply(c));
        Ok(entry)
    }
}

/// The longest encoding of this object. One that is being deleted gets room for the marks of that:
/// otherwise it could never go.
fn bytes_max(object: &Value) -> usize {
    let deleting = object["metadata"]["deletionTimestamp"].is_string();
    OBJECT_BYTES_MAX + if deleting { 64 << 10 } else { 0 }
}
