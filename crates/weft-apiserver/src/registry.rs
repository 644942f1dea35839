//! Which kinds are served: the built-in ones, and those that came at run time.
//!
//! A registry never changes: who adds or removes kinds puts a new one in its place, and a request
//! goes on with the kind that it began with.

use crate::{
    discovery::Documents,
    server::{State, table_name},
    store::{Store, Table},
};
use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};
use weft_kinds::Kind;

/// A kind and where its objects are.
struct Served {
    kind: Arc<Kind>,
    table: Table,
}

/// The kinds of one moment.
pub(crate) struct Registry {
    /// In the order of discovery.
    kinds: Vec<Arc<Kind>>,
    /// By group; a group has few kinds, so that looking through them is cheap.
    groups: HashMap<String, Vec<Served>>,
    /// What discovery says about them, made when first asked for.
    documents: OnceLock<Documents>,
}

impl Registry {
    pub(crate) fn new(store: &Store, kinds: Vec<Arc<Kind>>) -> Self {
        let mut groups: HashMap<String, Vec<Served>> = HashMap::new();
        for kind in &kinds {
            let table = store.table(&table_name(kind.storage()));
            let group = groups.entry(kind.group.clone()).or_default();
            group.push(Served { kind: kind.clone(), table });
        }
        Self { kinds, groups, documents: OnceLock::new() }
    }

    /// All kinds, in the order of discovery.
    pub(crate) fn kinds(&self) -> &[Arc<Kind>] {
        &self.kinds
    }

    /// The kind of a resource as URLs name it.
    pub(crate) fn lookup(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        let mut served = self.groups.get(group)?.iter();
        let kind = |s: &&Served| s.kind.plural == plural && s.kind.version == version;
        served.find(kind).map(|s| &s.kind)
    }

    fn table(&self, kind: &Kind) -> Option<Table> {
        let mut served = self.groups.get(&kind.group)?.iter();
        served.find(|s| s.kind.plural == kind.plural).map(|s| s.table)
    }

    pub(crate) fn documents(&self) -> &Documents {
        self.documents.get_or_init(|| Documents::of(&self.kinds))
    }
}

impl State {
    /// The kinds that are served now.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.registry.read().expect("invariant: nothing panics while it holds the registry").clone()
    }

    /// The table of a kind's objects.
    pub(crate) fn table(&self, kind: &Kind) -> Table {
        let registry =
            self.registry.read().expect("invariant: nothing panics while it holds the registry");
        // A kind that is not served any more has still its table.
        registry.table(kind).unwrap_or_else(|| self.store.table(&table_name(kind.storage())))
    }
}
