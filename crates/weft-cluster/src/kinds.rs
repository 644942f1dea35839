//! The kinds the controllers know, as one table: a row gives a store, a watch and a path. Of all
//! other kinds the API serves, custom ones too, they know the metadata: owners and finalizers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::Resource as _;
use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
    ReplicationController, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::runtime::watcher;
use serde_json::Value;

use crate::store::{Object, Store};

macro_rules! kinds {
    ($($kind:ident $field:ident $namespaced:literal;)*) => {
        /// A kind of object that the controllers watch or write.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum Kind {
            $($kind,)*
            Event,
            /// A kind that discovery told of.
            Other(&'static Resource),
        }

        /// Every kind that is watched as a whole.
        pub(crate) const WATCHED: &[Kind] = &[$(Kind::$kind),*];

        impl Kind {
            pub(crate) fn api_version(self) -> &'static str {
                match self {
                    $(Kind::$kind => $kind::API_VERSION,)*
                    Kind::Event => Event::API_VERSION,
                    Kind::Other(resource) => &resource.api_version,
                }
            }
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Kind::$kind => $kind::KIND,)*
                    Kind::Event => Event::KIND,
                    Kind::Other(resource) => &resource.kind,
                }
            }
            pub(crate) fn plural(self) -> &'static str {
                match self {
                    $(Kind::$kind => $kind::URL_PATH_SEGMENT,)*
                    Kind::Event => Event::URL_PATH_SEGMENT,
                    Kind::Other(resource) => &resource.plural,
                }
            }
            pub(crate) fn namespaced(self) -> bool {
                match self {
                    $(Kind::$kind => $namespaced,)*
                    Kind::Event => true,
                    Kind::Other(resource) => resource.namespaced,
                }
            }
            /// The kind an owner reference names, where it is one of the table. The version may
            /// differ, the group may not.
            pub(crate) fn of(api_version: &str, kind: &str) -> Option<Kind> {
                WATCHED.iter().copied().find(|known| known.is(api_version, kind))
            }
        }

        /// One step of one watch.
        // It travels in a box, and is taken apart where it arrives.
        #[allow(clippy::large_enum_variant)]
        pub(crate) enum Change {
            $($kind(watcher::Event<$kind>),)*
            /// The server does not serve this kind. A store of the table counts as complete; of
            /// any other kind nothing is known any more.
            Absent(Kind),
            Other(Kind, watcher::Event<Partial>),
            /// These are all the kinds beside those of the table.
            Kinds(Vec<Kind>),
        }

        #[cfg(test)]
        impl Change {
            /// A watch event of `kind`, as a simulated API sends it.
            pub(crate) fn decode(kind: Kind, event: watcher::Event<Value>) -> Self {
                match kind {
                    $(Kind::$kind => {
                        let typed = |body: Value| -> $kind {
                            serde_json::from_value(body).expect("an object that decodes")
                        };
                        Change::$kind(match event {
                            watcher::Event::Init => watcher::Event::Init,
                            watcher::Event::InitApply(body) => {
                                watcher::Event::InitApply(typed(body))
                            }
                            watcher::Event::InitDone => watcher::Event::InitDone,
                            watcher::Event::Apply(body) => watcher::Event::Apply(typed(body)),
                            watcher::Event::Delete(body) => watcher::Event::Delete(typed(body)),
                        })
                    })*
                    Kind::Event => unreachable!("Events are not watched"),
                    Kind::Other(_) => {
                        let of = |body: Value| Partial::of(
                            serde_json::from_value(body["metadata"].clone()).expect("metadata"));
                        Change::Other(kind, match event {
                            watcher::Event::Init => watcher::Event::Init,
                            watcher::Event::InitApply(body) => watcher::Event::InitApply(of(body)),
                            watcher::Event::InitDone => watcher::Event::InitDone,
                            watcher::Event::Apply(body) => watcher::Event::Apply(of(body)),
                            watcher::Event::Delete(body) => watcher::Event::Delete(of(body)),
                        })
                    }
                }
            }
        }

        /// What changed in the world.
        #[derive(Clone)]
        pub(crate) enum Delta {
            $($kind(Option<Arc<$kind>>, Option<Arc<$kind>>),)*
            Other(Kind, Option<Arc<Partial>>, Option<Arc<Partial>>),
        }

        impl Delta {
            /// Kind and both states' metadata.
            pub(crate) fn metadata(&self) -> (Kind, Option<&Meta>, Option<&Meta>) {
                match self {
                    $(Delta::$kind(old, new) => (
                        Kind::$kind,
                        old.as_ref().map(|object| &object.metadata),
                        new.as_ref().map(|object| &object.metadata),
                    ),)*
                    Delta::Other(kind, old, new) => (
                        *kind,
                        old.as_ref().map(|object| &object.metadata),
                        new.as_ref().map(|object| &object.metadata),
                    ),
                }
            }
        }

        /// Everything the controllers know of the cluster. Planners read it, the core writes it.
        #[derive(Default)]
        pub(crate) struct World {
            $(pub(crate) $field: Store<$kind>,)*
            /// The kinds beside those of the table.
            others: BTreeMap<Kind, Store<Partial>>,
            /// Those of them that discovery named last.
            served: BTreeSet<Kind>,
            /// Whether discovery has told of them.
            discovered: bool,
        }

        impl World {
            /// Whether every first list of the table's kinds is complete.
            pub(crate) fn synced(&self) -> bool { $(self.$field.synced())&&* }

            /// The kinds whose first list is still missing.
            pub(crate) fn missing(&self) -> Vec<&'static str> {
                let mut missing = Vec::new();
                $(if !self.$field.synced() { missing.push(Kind::$kind.plural()); })*
                missing
            }

            pub(crate) fn ingest(&mut self, change: Change) -> Vec<Delta> {
                match change {
                    $(Change::$kind(event) => ingest(&mut self.$field, event)
                        .into_iter().map(|(old, new)| Delta::$kind(old, new)).collect(),)*
                    Change::Absent(kind) => {
                        match kind {
                            $(Kind::$kind => self.$field.set_synced(),)*
                            Kind::Event => {}
                            // Its objects may still be there and be served again: they are
                            // forgotten, not gone.
                            Kind::Other(_) => drop(self.others.remove(&kind)),
                        }
                        Vec::new()
                    }
                    Change::Other(kind, event) => {
                        // It is served again.
                        if matches!(event, watcher::Event::Init) && self.served.contains(&kind) {
                            self.others.entry(kind).or_default();
                        }
                        match self.others.get_mut(&kind) {
                            Some(store) => ingest(store, event).into_iter()
                                .map(|(old, new)| Delta::Other(kind, old, new)).collect(),
                            None => Vec::new(),
                        }
                    }
                    Change::Kinds(kinds) => {
                        self.set_others(kinds);
                        Vec::new()
                    }
                }
            }

            /// Takes in the answer to a write. What does not decode is left to the watch.
            pub(crate) fn absorb(&mut self, kind: Kind, answer: Value) -> Vec<Delta> {
                match kind {
                    $(Kind::$kind => match serde_json::from_value::<$kind>(answer) {
                        Ok(object) => self.$field.upsert(object)
                            .into_iter().map(|(old, new)| Delta::$kind(old, new)).collect(),
                        Err(_) => Vec::new(),
                    })*
                    Kind::Event => Vec::new(),
                    Kind::Other(_) => {
                        let meta = serde_json::from_value::<Meta>(answer["metadata"].clone());
                        let (Some(store), Ok(meta)) = (self.others.get_mut(&kind), meta) else {
                            return Vec::new();
                        };
                        store.upsert(Partial::of(meta))
                            .into_iter().map(|(old, new)| Delta::Other(kind, old, new)).collect()
                    }
                }
            }

            /// Takes in that an object is gone.
            pub(crate) fn forget(
                &mut self, kind: Kind, namespace: &str, name: &str, uid: Option<&str>,
            ) -> Option<Delta> {
                match kind {
                    $(Kind::$kind => {
                        let held = self.$field.get(namespace, name)?.uid().to_owned();
                        let (old, new) =
                            self.$field.remove(namespace, name, uid.unwrap_or(&held))?;
                        Some(Delta::$kind(old, new))
                    })*
                    Kind::Event => None,
                    Kind::Other(_) => {
                        let store = self.others.get_mut(&kind)?;
                        let held = store.get(namespace, name)?.uid().to_owned();
                        let (old, new) = store.remove(namespace, name, uid.unwrap_or(&held))?;
                        Some(Delta::Other(kind, old, new))
                    }
                }
            }

            /// Metadata of one object.
            pub(crate) fn metadata(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Meta> {
                match kind {
                    $(Kind::$kind => self.$field.get(namespace, name).map(|object| &object.metadata),)*
                    Kind::Event => None,
                    Kind::Other(_) => {
                        self.others.get(&kind)?.get(namespace, name).map(|object| &object.metadata)
                    }
                }
            }

            /// Every known object that names `uid` among its owners.
            pub(crate) fn dependents(&self, uid: &str) -> Vec<(Kind, &Meta)> {
                let mut found = Vec::new();
                $(found.extend(
                    self.$field.owned_by(uid).map(|object| (Kind::$kind, &object.metadata)));)*
                for (kind, store) in &self.others {
                    found.extend(store.owned_by(uid).map(|object| (*kind, &object.metadata)));
                }
                found
            }

            /// Where an object of a kind is that has this uid, wherever that is.
            pub(crate) fn find(&self, kind: Kind, uid: &str) -> Option<&Meta> {
                match kind {
                    $(Kind::$kind => self.$field.iter()
                        .find(|object| object.uid() == uid).map(|object| &object.metadata),)*
                    Kind::Event => None,
                    Kind::Other(_) => self.others.get(&kind)?.iter()
                        .find(|object| object.uid() == uid).map(|object| &object.metadata),
                }
            }

            /// Whether an object was seen to go for good.
            pub(crate) fn is_gone(&self, kind: Kind, uid: &str) -> bool {
                match kind {
                    $(Kind::$kind => self.$field.is_gone(uid),)*
                    Kind::Event => false,
                    Kind::Other(_) => self.others.get(&kind).is_some_and(|all| all.is_gone(uid)),
                }
            }

            /// Every object that has owners or waits for the end of its finalizers.
            pub(crate) fn bound(&self) -> Vec<(Kind, &Meta)> {
                let bound = |meta: &Meta| {
                    meta.owner_references.as_ref().is_some_and(|all| !all.is_empty())
                        || (meta.deletion_timestamp.is_some()
                            && meta.finalizers.as_ref().is_some_and(|all| !all.is_empty()))
                };
                let mut found = Vec::new();
                $(found.extend(self.$field.iter().map(|object| (Kind::$kind, &object.metadata))
                    .filter(|(_, meta)| bound(meta)));)*
                for (kind, store) in &self.others {
                    found.extend(store.iter().map(|object| (*kind, &object.metadata))
                        .filter(|(_, meta)| bound(meta)));
                }
                found
            }

            /// Every known object of a namespace.
            pub(crate) fn contents<'a>(&'a self, namespace: &'a str) -> Vec<(Kind, &'a Meta)> {
                let mut found = Vec::new();
                $(if $namespaced {
                    found.extend(
                        self.$field.within(namespace).map(|object| (Kind::$kind, &object.metadata)));
                })*
                for (kind, store) in self.others.iter().filter(|(kind, _)| kind.namespaced()) {
                    found.extend(store.within(namespace).map(|object| (*kind, &object.metadata)));
                }
                found
            }
        }

        /// Calls `$each!(Kind)` for every watched kind.
        macro_rules! for_each_kind { ($each:ident) => { $($each!($kind);)* } }
        pub(crate) use for_each_kind;
    };
}

/// A kind that the table does not have.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Resource {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) namespaced: bool,
}

impl Resource {
    /// The kind of this resource. It lives as long as the process: keys and stores name kinds by
    /// value, and a process meets few of them, each once.
    pub(crate) fn intern(self) -> Kind {
        static KNOWN: Mutex<BTreeSet<&'static Resource>> = Mutex::new(BTreeSet::new());
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.get(&self).copied();
        Kind::Other(found.unwrap_or_else(|| {
            let kept: &'static Resource = Box::leak(Box::new(self));
            known.insert(kept);
            kept
        }))
    }
}

impl Kind {
    /// Whether this is the kind that an object or an owner reference names, in whatever version.
    pub(crate) fn is(self, api_version: &str, kind: &str) -> bool {
        let group = |version| str::rsplit_once(version, '/').map(|(group, _)| group);
        self.name() == kind && group(self.api_version()) == group(api_version)
    }
}

/// The metadata of an object of any kind, as far as it matters to owners and finalizers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Partial {
    pub(crate) metadata: Meta,
}

impl Partial {
    pub(crate) fn of(meta: Meta) -> Self {
        Self {
            metadata: Meta {
                name: meta.name,
                namespace: meta.namespace,
                uid: meta.uid,
                resource_version: meta.resource_version,
                owner_references: meta.owner_references,
                finalizers: meta.finalizers,
                deletion_timestamp: meta.deletion_timestamp,
                ..Meta::default()
            },
        }
    }
}

impl k8s_openapi::Resource for Partial {
    const API_VERSION: &'static str = "meta.k8s.io/v1";
    const GROUP: &'static str = "meta.k8s.io";
    const KIND: &'static str = "PartialObjectMetadata";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "";
    type Scope = k8s_openapi::ClusterResourceScope;
}

impl k8s_openapi::Metadata for Partial {
    type Ty = Meta;
    fn metadata(&self) -> &Meta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut Meta {
        &mut self.metadata
    }
}

impl World {
    /// The kind that an owner reference names, where the API serves it.
    pub(crate) fn kind_of(&self, api_version: &str, kind: &str) -> Option<Kind> {
        let other = || self.others.keys().copied().find(|known| known.is(api_version, kind));
        Kind::of(api_version, kind).or_else(other)
    }

    /// Whether every list is complete of kinds that the table does not have.
    pub(crate) fn others_synced(&self) -> bool {
        self.discovered && self.others.values().all(Store::synced)
    }

    /// Whether the objects of this kind are known.
    pub(crate) fn knows(&self, kind: Kind) -> bool {
        match kind {
            Kind::Other(_) => self.others.get(&kind).is_some_and(Store::synced),
            _ => true,
        }
    }

    /// Discovery's word. The objects of a kind that it does not name any more may still be there:
    /// which of them are gone, their watch told before.
    fn set_others(&mut self, kinds: Vec<Kind>) {
        self.discovered = true;
        self.served = kinds.into_iter().collect();
        self.others.retain(|held, _| self.served.contains(held));
        for kind in &self.served {
            self.others.entry(*kind).or_default();
        }
    }

    /// How many kinds there are beside those of the table.
    pub(crate) fn others_count(&self) -> usize {
        self.others.len()
    }
}

/// Metadata of any object.
pub(crate) type Meta = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

kinds! {
    Namespace namespaces false;
    Node nodes false;
    Pod pods true;
    Service services true;
    EndpointSlice slices true;
    Endpoints endpoints true;
    ReplicaSet replica_sets true;
    Deployment deployments true;
    StatefulSet stateful_sets true;
    DaemonSet daemon_sets true;
    ControllerRevision revisions true;
    Job jobs true;
    CronJob cron_jobs true;
    PodDisruptionBudget budgets true;
    ReplicationController replications true;
    ServiceAccount service_accounts true;
    ConfigMap config_maps true;
    Secret secrets true;
    Lease leases true;
    PersistentVolumeClaim claims true;
    PersistentVolume volumes false;
    StorageClass storage_classes false;
}

fn ingest<K: Object>(store: &mut Store<K>, event: watcher::Event<K>) -> Vec<crate::store::Diff<K>> {
    match event {
        watcher::Event::Init => {
            store.begin();
            Vec::new()
        }
        watcher::Event::InitApply(object) | watcher::Event::Apply(object) => store.upsert(object),
        watcher::Event::InitDone => store.finish(),
        watcher::Event::Delete(object) => {
            store.remove(object.namespace(), object.name(), object.uid()).into_iter().collect()
        }
    }
}
