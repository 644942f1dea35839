//! Which kinds are served: the built-in ones, and those of the definitions.
//!
//! A registry never changes: who adds or removes kinds puts a new one in its place, and a request
//! goes on with the kind that it began with.

use crate::{
    definitions::definitions,
    discovery::Documents,
    error::ApiError,
    server::{State, table_name},
    store::{Key, Store, Table, Txn},
};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};
use weft_kinds::{Kind, custom_kinds, kinds, status};

/// A kind and where its objects are.
struct Served {
    kind: Arc<Kind>,
    table: Table,
}

/// What a CustomResourceDefinition brings.
pub(crate) struct Defined {
    /// The definition's version.
    rv: u64,
    /// Of uid, spec and names of the definition: with an equal one, its kinds are the same.
    digest: [u8; 32],
    /// All versions, also those that are not served.
    pub(crate) kinds: Vec<Arc<Kind>>,
    pub(crate) table: Table,
    /// Whether it is being deleted: its instances go, and none are made.
    pub(crate) terminating: bool,
}

impl Defined {
    /// The kinds of a definition; those that `old` has already, when nothing changed.
    pub(crate) fn of(
        store: &Store,
        rv: u64,
        definition: &Value,
        old: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        if let Some(old) = old.filter(|old| old.rv == rv) {
            return old.clone();
        }
        let metadata = &definition["metadata"];
        let accepted = &definition["status"]["acceptedNames"];
        let mut digest = Sha256::new();
        for part in [&metadata["uid"], &definition["spec"], accepted] {
            digest.update(part.to_string());
        }
        let digest: [u8; 32] = digest.finalize().into();
        let terminating = metadata["deletionTimestamp"].is_string();
        if let Some(old) = old
            && old.digest == digest
        {
            let (kinds, table) = (old.kinds.clone(), old.table);
            return Arc::new(Self { rv, digest, kinds, table, terminating });
        }
        let kinds = custom_kinds(definition);
        let (group, plural) = (&definition["spec"]["group"], &accepted["plural"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let table = store.table(&format!("{}/{}", text(group), text(plural)));
        Arc::new(Self { rv, digest, kinds, table, terminating })
    }

    /// Whether both serve the same kinds.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.kinds.len() == other.kinds.len()
            && self.kinds.iter().zip(&other.kinds).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

/// The kinds of one moment.
pub(crate) struct Registry {
    /// In the order of discovery.
    kinds: Vec<Arc<Kind>>,
    /// By group; a group has few kinds, so that looking through them is cheap.
    groups: HashMap<String, Vec<Served>>,
    /// By the name of the definition.
    pub(crate) defined: HashMap<String, Arc<Defined>>,
    /// What discovery says about them, made when first asked for.
    documents: OnceLock<Documents>,
}

impl Registry {
    pub(crate) fn new(store: &Store, defined: HashMap<String, Arc<Defined>>) -> Self {
        let mut all = kinds().to_vec();
        let mut custom: Vec<&Arc<Kind>> = defined
            .values()
            .flat_map(|d| &d.kinds)
            .filter(|kind| kind.custom().is_some_and(|custom| custom.served()))
            .collect();
        // Stable: versions stay in their order of preference.
        custom.sort_by(|a, b| (&a.group, &a.plural).cmp(&(&b.group, &b.plural)));
        all.extend(custom.into_iter().cloned());
        let mut groups: HashMap<String, Vec<Served>> = HashMap::new();
        for kind in &all {
            let table = store.table(&table_name(kind.storage()));
            let group = groups.entry(kind.group.clone()).or_default();
            group.push(Served { kind: kind.clone(), table });
        }
        Self { kinds: all, groups, defined, documents: OnceLock::new() }
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

    /// Whether the definition of this kind is being deleted.
    pub(crate) fn terminating(&self, kind: &Kind) -> bool {
        kind.custom().is_some()
            && self.defined.get(&kind.qualified_plural()).is_some_and(|d| d.terminating)
    }

    /// Whether this very kind is served: not one of the same name from before a change.
    pub(crate) fn serves(&self, kind: &Arc<Kind>) -> bool {
        let now = self.lookup(&kind.group, &kind.version, &kind.plural);
        now.is_some_and(|now| Arc::ptr_eq(now, kind))
    }

    /// Refuses a write of a custom resource whose definition changed since the request found its
    /// kind: nothing may be stored in an older form, nor where nobody finds it any more. Called
    /// inside the transaction, and compared with the definition that is stored then, so that the
    /// time between its change and that of the registry counts, too.
    pub(crate) fn check_fresh(
        &self,
        txn: &Txn<'_>,
        kind: &Kind,
        create: bool,
    ) -> Result<(), ApiError> {
        if kind.custom().is_none() {
            return Ok(());
        }
        let name = kind.qualified_plural();
        let known = self.defined.get(&name);
        let known = known.filter(|d| d.kinds.iter().any(|own| std::ptr::eq(&**own, kind)));
        let table = self.table(definitions());
        let stored = table.and_then(|table| txn.get(table, &Key::new("", &name)));
        match known.zip(stored) {
            Some((known, stored)) if known.rv == stored.rv => {
                if create && known.terminating {
                    Err(terminating())
                } else {
                    Ok(())
                }
            }
            _ => Err(ApiError::stale_kind()),
        }
    }

    pub(crate) fn documents(&self) -> &Documents {
        self.documents.get_or_init(|| Documents::of(&self.kinds))
    }
}

/// Why nothing is created of a kind on its way out.
pub(crate) fn terminating() -> ApiError {
    let why = "create not allowed while custom resource definition is terminating";
    status::failure(405, "MethodNotAllowed", why).into()
}

impl State {
    /// The kinds that are served now.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.registry.read().expect("invariant: nothing panics while it holds the registry").clone()
    }

    /// Serves these kinds from now on.
    pub(crate) fn serve_kinds(&self, registry: Registry) {
        let mut now =
            self.registry.write().expect("invariant: nothing panics while it holds the registry");
        *now = Arc::new(registry);
    }

    /// The table of a kind's objects.
    pub(crate) fn table(&self, kind: &Kind) -> Table {
        // A kind that is not served any more has still its table. The lock is free again by then:
        // transactions ask for the registry, and tables are made in one.
        self.registry().table(kind).unwrap_or_else(|| self.store.table(&table_name(kind.storage())))
    }
}
