//! The index: what the API holds now, lowered. One writer applies [`Change`]s to it; it knows
//! no time and does no I/O, so that every interleaving of events can be tried in a test.

use crate::{
    Diagnostic, Kind, cluster_policy,
    lower::{self, Lowered},
    slim::WatchedPod,
};
use k8s_openapi::{
    Metadata,
    api::{core::v1 as core, discovery::v1 as discovery, networking::v1 as networking},
};
use kube::runtime::watcher::Event;
use std::{collections::BTreeMap, sync::Arc};
use weft_model::{
    ClusterNetworkPolicy, EndpointSlice, Map, Namespace, NamespacedName, NetworkPolicy, Node,
    NodePeer, Pod, Service, Snapshot,
};

/// A lowered object of one of the watched kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A namespace.
    Namespace(Arc<Namespace>),
    /// A node, for the network and for policies.
    Node(Arc<Node>, Arc<NodePeer>),
    /// A Service.
    Service(Arc<Service>),
    /// An EndpointSlice.
    EndpointSlice(Arc<EndpointSlice>),
    /// A pod.
    Pod(Arc<Pod>),
    /// A NetworkPolicy.
    NetworkPolicy(Arc<NetworkPolicy>),
    /// A ClusterNetworkPolicy.
    ClusterNetworkPolicy(Arc<ClusterNetworkPolicy>),
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
    ($($type:ty, $kind:ident, $lower:expr;)*) => {$(
        impl Indexed for $type {
            const KIND: Kind = Kind::$kind;
            fn id(&self) -> NamespacedName {
                lower::id_of(self.metadata())
            }
            fn lower(&self) -> Lowered<Object> {
                let Lowered { value, diagnostics } = $lower(self);
                let value = value.map(|v| Object::$kind(Arc::new(v)));
                Lowered { value, diagnostics }
            }
        }
    )*};
}

indexed! {
    core::Namespace, Namespace, lower::labelled_namespace;
    core::Service, Service, lower::service;
    discovery::EndpointSlice, EndpointSlice, lower::endpoint_slice;
    WatchedPod, Pod, WatchedPod::lower;
    networking::NetworkPolicy, NetworkPolicy, lower::network_policy;
    cluster_policy::ClusterNetworkPolicy, ClusterNetworkPolicy, lower::cluster_network_policy;
}

impl Indexed for core::Node {
    const KIND: Kind = Kind::Node;

    fn id(&self) -> NamespacedName {
        lower::id_of(&self.metadata)
    }

    fn lower(&self) -> Lowered<Object> {
        // What is wrong with the one is wrong with the other, and said once.
        let Lowered { value, diagnostics } = lower::node(self);
        let both = value.zip(lower::node_peer(self).value);
        let value = both.map(|(node, peer)| Object::Node(Arc::new(node), Arc::new(peer)));
        Lowered { value, diagnostics }
    }
}

impl Change {
    /// The change that a watch event makes. Lowers at once, so that nothing of the API object
    /// is kept.
    pub fn of<K: Indexed>(event: Event<K>) -> Self {
        match event {
            Event::Init => Self::ListBegins,
            Event::InitApply(k) => {
                let (id, lowered) = lowered(&k);
                Self::Listed(id, lowered)
            }
            Event::InitDone => Self::ListEnds,
            Event::Apply(k) => {
                let (id, lowered) = lowered(&k);
                Self::Written(id, lowered)
            }
            Event::Delete(k) => Self::Gone(k.id()),
        }
    }
}

/// The lowered object under its own name: of pods there are many, and a name is kept once.
fn lowered<K: Indexed>(object: &K) -> (NamespacedName, Lowered<Object>) {
    let lowered = object.lower();
    let id = lowered.value.as_ref().and_then(Object::id).cloned();
    (id.unwrap_or_else(|| object.id()), lowered)
}

/// Stores a part of an object, unless an equal one is there: a map in which nothing changed
/// stays the same one, and nobody who looks at it has work.
fn store<K: Ord + Clone, V: PartialEq>(map: &mut Map<K, Arc<V>>, key: &K, value: &Arc<V>) {
    if map.get(key) != Some(value) {
        map.insert(key.clone(), value.clone());
    }
}

impl Object {
    /// Its namespace and name, where the model keeps both.
    fn id(&self) -> Option<&NamespacedName> {
        match self {
            Self::Service(service) => Some(&service.id),
            Self::EndpointSlice(slice) => Some(&slice.id),
            Self::Pod(pod) => Some(&pod.id),
            Self::NetworkPolicy(policy) => Some(&policy.id),
            Self::Namespace(_) | Self::Node(..) | Self::ClusterNetworkPolicy(_) => None,
        }
    }

    /// Puts the object into a snapshot, in place of `old`, the same object as it was before.
    fn put(&self, old: Option<&Self>, snapshot: &mut Snapshot) {
        match self {
            Self::Namespace(namespace) => {
                store(&mut snapshot.namespaces, &namespace.name, namespace);
            }
            Self::Node(node, peer) => {
                store(&mut snapshot.nodes, &node.name, node);
                store(&mut snapshot.node_peers, &peer.name, peer);
            }
            Self::Service(service) => store(&mut snapshot.services, &service.id, service),
            Self::Pod(pod) => store(&mut snapshot.pods, &pod.id, pod),
            Self::NetworkPolicy(policy) => {
                store(&mut snapshot.network_policies, &policy.id, policy);
            }
            Self::ClusterNetworkPolicy(policy) => {
                store(&mut snapshot.cluster_policies, &policy.name, policy);
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
            Self::Namespace(namespace) => {
                snapshot.namespaces.remove(&namespace.name);
            }
            Self::Node(node, peer) => {
                snapshot.nodes.remove(&node.name);
                snapshot.node_peers.remove(&peer.name);
            }
            Self::Service(service) => {
                snapshot.services.remove(&service.id);
            }
            Self::Pod(pod) => {
                snapshot.pods.remove(&pod.id);
            }
            Self::NetworkPolicy(policy) => {
                snapshot.network_policies.remove(&policy.id);
            }
            Self::ClusterNetworkPolicy(policy) => {
                snapshot.cluster_policies.remove(&policy.name);
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
