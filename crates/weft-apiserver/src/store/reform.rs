//! Objects of a kind whose definition changed while they were stored.

use super::{Attrs, Entry, Key, Store, Table};
use serde_json::Value;
use std::sync::Arc;

impl Store {
    /// Shows objects last written before version `before` in the form that `form` gives them.
    /// Their versions stay, and so does what was written: as in Kubernetes, a field that the
    /// definition does not have any more is left out where the object is read, and is back with
    /// the definition's; only a write of the object ends it. `attrs` is asked for every object.
    pub(crate) fn reform(
        &self,
        table: Table,
        before: u64,
        form: impl Fn(&mut Value),
        attrs: impl Fn(&Value) -> Attrs,
    ) {
        let all: Vec<(Key, Entry)> = {
            let inner = self.read();
            inner.tables[table.0].map.iter().map(|(k, e)| (k.clone(), e.clone())).collect()
        };
        let mut done: Vec<(Key, Entry)> = Vec::with_capacity(all.len());
        for (key, mut entry) in all {
            if entry.rv < before
                && let Some(written) = entry.written.take()
            {
                entry.bytes = written;
            }
            let mut value = entry.value();
            if entry.rv < before {
                let was = value.clone();
                form(&mut value);
                if value != was {
                    let shown = value.to_string().into();
                    entry.written = Some(std::mem::replace(&mut entry.bytes, shown));
                }
            }
            entry.attrs = Arc::new(attrs(&value));
            done.push((key, entry));
        }
        let mut inner = self.write();
        let map = &mut inner.tables[table.0].map;
        for (key, entry) in done {
            // Who wrote meanwhile did it in the new form.
            if let Some(now) = map.get_mut(&key).filter(|now| now.rv == entry.rv) {
                *now = entry;
            }
        }
    }

    /// Ends all watches of the table, and forgets its history: clients list again.
    pub(crate) fn end_watches(&self, table: Table) {
        let mut inner = self.write();
        let rv = inner.rv;
        let objects = &mut inner.tables[table.0];
        objects.watchers.clear();
        objects.ring.forget_until(rv);
    }
}
