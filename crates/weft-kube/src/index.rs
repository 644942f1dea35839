//! The index: what the API holds now, lowered. One writer applies [`Change`]s to it; it knows
//! no time and does no I/O, so that every interleaving of events can be tried in a test.

use crate::{
    Diagnostic, Kind,
    lower::{self, Lowered},
};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use kube::runtime::watcher::Event;
use std::{collections::BTreeMap, sync::Arc};
use weft_model::{EndpointSlice, NamespacedName, Node, Service, Snapshot};

/// A lowered object of one of the watched kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// Name of a namespace.
    Namespace(Arc<str>),
    /// A node.
    Node(Arc<Node>),
    /// A Service.
    Service(Arc<Service>),
    /// An EndpointSlice.
    EndpointSlice(Arc<EndpointSlice>),
}

/// What one event of a watch does to the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A list begins: forget the unfinished one, if any.
    ListBegins,
    /// An object of the list.
    Listed(NamespacedName, Lowered<Object>),
    /// The list is complete: it replaces what was known of its kind.
    ListEnds,
    /// An object was written.
    Written(NamespacedName, Lowered<Object>),
    /// An object is gone.
    Gone(NamespacedName),
}

/// A Kubernetes type that the index holds.
pub trait Indexed {
    /// Its kind.
    const KIND: Kind;
    /// Namespace and name.
    fn id(&self) -> NamespacedName;
    /// Lowers it.
    fn lower(&self) -> Lowered<Object>;
}

macro_rules! indexed {
    ($($type:ty, $kind:ident, $lower:expr, $wrap:expr;)*) => {$(
        impl Indexed for $type {
            const KIND: Kind = Kind::$kind;
            fn id(&self) -> NamespacedName {
                lower::id_of(&self.metadata)
            }
            fn lower(&self) -> Lowered<Object> {
                let Lowered { value, diagnostics } = $lower(self);
                let value = value.map(|v| Object::$kind($wrap(v)));
                Lowered { value, diagnostics }
            }
        }
    )*};
}

indexed! {
    core::Namespace, Namespace, lower::namespace, std::convert::identity;
    core::Node, Node, lower::node, Arc::new;
    core::Service, Service, lower::service, Arc::new;
    discovery::EndpointSlice, EndpointSlice, lower::endpoint_slice, Arc::new;
}

impl Change {
    /// The change that a watch event makes. Lowers at once, so that nothing of the API object
    /// is kept.
    pub fn of<K: Indexed>(event: Event<K>) -> Self {
        match event {
            Event::Init => Self::ListBegins,
            Event::InitApply(k) => Self::Listed(k.id(), k.lower()),
            Event::InitDone => Self::ListEnds,
            Event::Apply(k) => Self::Written(k.id(), k.lower()),
            Event::Delete(k) => Self::Gone(k.id()),
        }
    }
}

impl Object {
    /// Puts the object into a snapshot, in place of `old`, the same object as it was before.
    fn put(&self, old: Option<&Self>, snapshot: &mut Snapshot) {
        match self {
            Self::Namespace(name) => {
                snapshot.namespaces.insert(name.clone());
            }
            Self::Node(node) => {
                snapshot.nodes.insert(node.name.clone(), node.clone());
            }
            Self::Service(service) => {
                snapshot.services.insert(service.id.clone(), service.clone());
            }
            Self::EndpointSlice(slice) => {
                // Its place is with its Service, which may be another one than before.
                if let Some(Self::EndpointSlice(before)) = old
                    && before.service != slice.service
                {
                    snapshot.remove_slice(&before.service, &before.id.name);
                }
                snapshot.insert_slice(slice.clone());
            }
        }
    }

    /// Takes the object out of a snapshot.
    fn take(&self, snapshot: &mut Snapshot) {
        match self {
            Self::Namespace(name) => {
                snapshot.namespaces.remove(name);
            }
            Self::Node(node) => {
                snapshot.nodes.remove(&node.name);
            }
            Self::Service(service) => {
                snapshot.services.remove(&service.id);
            }
            Self::EndpointSlice(slice) => snapshot.remove_slice(&slice.service, &slice.id.name),
        }
    }
}

/// The objects of one kind.
#[derive(Clone, Debug, Default)]
struct Table {
    /// What is published.
    live: BTreeMap<NamespacedName, Object>,
    /// What is wrong with objects, of those only that have something wrong.
    complaints: BTreeMap<NamespacedName, Vec<Diagnostic>>,
    /// The list under way.
    incoming: BTreeMap<NamespacedName, Lowered<Object>>,
    /// Whether a list was ever complete.
    listed: bool,
}

impl Table {
    fn apply(&mut self, change: Change, snapshot: &mut Snapshot) {
        match change {
            Change::ListBegins => self.incoming.clear(),
            Change::Listed(id, lowered) => {
                self.incoming.insert(id, lowered);
            }
            Change::ListEnds => {
                let incoming = std::mem::take(&mut self.incoming);
                let known = self.live.keys().chain(self.complaints.keys());
                let gone: Vec<_> = known.filter(|id| !incoming.contains_key(id)).cloned().collect();
                gone.iter().for_each(|id| self.remove(id, snapshot));
                incoming.into_iter().for_each(|(id, lowered)| self.write(id, lowered, snapshot));
                self.listed = true;
            }
            Change::Written(id, lowered) => self.write(id, lowered, snapshot),
            Change::Gone(id) => self.remove(&id, snapshot),
        }
    }

    /// Takes an object as it is now. One that equals what is known changes nothing, so that
    /// snapshots share it.
    fn write(&mut self, id: NamespacedName, lowered: Lowered<Object>, snapshot: &mut Snapshot) {
        if lowered.diagnostics.is_empty() {
            self.complaints.remove(&id);
        } else {
            self.complaints.insert(id.clone(), lowered.diagnostics);
        }
        let old = self.live.get(&id);
        match (old, lowered.value) {
            (Some(old), Some(new)) if *old == new => {}
            (old, Some(new)) => {
                new.put(old, snapshot);
                self.live.insert(id, new);
            }
            (Some(old), None) => {
                old.take(snapshot);
                self.live.remove(&id);
            }
            (None, None) => {}
        }
    }

    fn remove(&mut self, id: &NamespacedName, snapshot: &mut Snapshot) {
        self.complaints.remove(id);
        if let Some(old) = self.live.remove(id) {
            old.take(snapshot);
        }
    }
}

/// All objects of all kinds, and the snapshot of them: a change goes straight into it.
#[derive(Clone, Debug)]
pub struct Index {
    tables: BTreeMap<Kind, Table>,
    now: Snapshot,
}

impl Default for Index {
    fn default() -> Self {
        let tables = Kind::ALL.iter().map(|k| (*k, Table::default())).collect();
        Self { tables, now: Snapshot::default() }
    }
}

impl Index {
    /// Applies one change, in time that does not depend on what else is known (but for the end
    /// of a list).
    pub fn apply(&mut self, kind: Kind, change: Change) {
        self.tables.entry(kind).or_default().apply(change, &mut self.now);
    }

    /// Whether `kind` was listed completely at least once.
    pub fn listed(&self, kind: Kind) -> bool {
        self.tables.get(&kind).is_some_and(|t| t.listed)
    }

    /// Whether every kind was.
    pub fn complete(&self) -> bool {
        self.tables.values().all(|t| t.listed)
    }

    /// The snapshot that follows `previous`: `None` before every kind was listed, and where
    /// nothing changed. Costs as much as differs from `previous`.
    pub fn snapshot(&self, previous: Option<&Snapshot>) -> Option<Snapshot> {
        if !self.complete() {
            return None;
        }
        let generation = previous.map_or(0, |p| p.generation);
        let mut next = Snapshot { generation, ..self.now.clone() };
        if previous == Some(&next) {
            return None;
        }
        next.generation += 1;
        Some(next)
    }

    /// Everything that is wrong now, in the order of kind, object and field.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        self.tables.values().flat_map(|t| t.complaints.values()).flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests;
