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

type Objects = BTreeMap<NamespacedName, Lowered<Object>>;

/// The objects of one kind.
#[derive(Clone, Debug, Default)]
struct Table {
    /// What is published.
    live: Objects,
    /// The list under way.
    incoming: Objects,
    /// Whether a list was ever complete.
    listed: bool,
}

impl Table {
    fn apply(&mut self, change: Change) {
        match change {
            Change::ListBegins => self.incoming.clear(),
            Change::Listed(id, lowered) => {
                let lowered = self.shared(&id, lowered);
                self.incoming.insert(id, lowered);
            }
            Change::ListEnds => {
                self.live = std::mem::take(&mut self.incoming);
                self.listed = true;
            }
            Change::Written(id, lowered) => {
                let lowered = self.shared(&id, lowered);
                self.live.insert(id, lowered);
            }
            Change::Gone(id) => {
                self.live.remove(&id);
            }
        }
    }

    /// The value that is already there where the new one equals it: snapshots then share it,
    /// and comparing them is a comparison of pointers.
    fn shared(&self, id: &NamespacedName, new: Lowered<Object>) -> Lowered<Object> {
        match self.live.get(id) {
            Some(old) if *old == new => old.clone(),
            _ => new,
        }
    }
}

/// All objects of all kinds.
#[derive(Clone, Debug)]
pub struct Index {
    tables: BTreeMap<Kind, Table>,
}

impl Default for Index {
    fn default() -> Self {
        Self { tables: Kind::ALL.iter().map(|k| (*k, Table::default())).collect() }
    }
}

impl Index {
    /// Applies one change.
    pub fn apply(&mut self, kind: Kind, change: Change) {
        self.tables.entry(kind).or_default().apply(change);
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
    /// nothing changed.
    pub fn snapshot(&self, previous: Option<&Snapshot>) -> Option<Snapshot> {
        if !self.complete() {
            return None;
        }
        let generation = previous.map_or(0, |p| p.generation);
        let mut next = Snapshot { generation, ..Snapshot::default() };
        for object in self.objects() {
            match object {
                Object::Namespace(name) => {
                    next.namespaces.insert(name.clone());
                }
                Object::Node(node) => {
                    next.nodes.insert(node.name.clone(), node.clone());
                }
                Object::Service(service) => {
                    next.services.insert(service.id.clone(), service.clone());
                }
                Object::EndpointSlice(slice) => {
                    let of_service = next.slices.entry(slice.service.clone()).or_default();
                    of_service.insert(slice.id.name.clone(), slice.clone());
                }
            }
        }
        if previous == Some(&next) {
            return None;
        }
        next.generation += 1;
        Some(next)
    }

    /// Everything that is wrong now, in the order of kind, object and field.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let entries = self.tables.values().flat_map(|t| t.live.values());
        entries.flat_map(|e| e.diagnostics.iter().cloned()).collect()
    }

    fn objects(&self) -> impl Iterator<Item = &Object> {
        self.tables.values().flat_map(|t| t.live.values()).filter_map(|e| e.value.as_ref())
    }
}

#[cfg(test)]
mod tests;
