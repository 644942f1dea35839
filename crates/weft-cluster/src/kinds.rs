//! The kinds the controllers know, as one table: a row gives a store, a watch and a path.

use std::sync::Arc;

use k8s_openapi::Resource as _;
use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use serde_json::Value;

use crate::store::{Object, Store};

macro_rules! kinds {
    ($($kind:ident $field:ident $namespaced:literal;)*) => {
        /// A kind of object that the controllers watch or write.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum Kind { $($kind,)* Event }

        /// Every kind that is watched.
        pub(crate) const WATCHED: &[Kind] = &[$(Kind::$kind),*];

        impl Kind {
            pub(crate) fn api_version(self) -> &'static str {
                match self { $(Kind::$kind => $kind::API_VERSION,)* Kind::Event => Event::API_VERSION }
            }
            pub(crate) fn name(self) -> &'static str {
                match self { $(Kind::$kind => $kind::KIND,)* Kind::Event => Event::KIND }
            }
            pub(crate) fn plural(self) -> &'static str {
                match self {
                    $(Kind::$kind => $kind::URL_PATH_SEGMENT,)*
                    Kind::Event => Event::URL_PATH_SEGMENT,
                }
            }
            pub(crate) fn namespaced(self) -> bool {
                match self { $(Kind::$kind => $namespaced,)* Kind::Event => true }
            }
            /// The kind an owner reference names, where it is one of ours. The version may
            /// differ, the group may not.
            pub(crate) fn of(api_version: &str, kind: &str) -> Option<Kind> {
                let group = |version: &str| version.rsplit_once('/').map(|(g, _)| g.to_owned());
                WATCHED.iter().copied().find(|known| {
                    known.name() == kind && group(known.api_version()) == group(api_version)
                })
            }
        }

        /// One step of one watch.
        pub(crate) enum Change {
            $($kind(watcher::Event<$kind>),)*
            /// The server does not serve this kind: its store counts as complete and empty.
            Absent(Kind),
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
                }
            }
        }

        /// What changed in the world.
        #[derive(Clone)]
        pub(crate) enum Delta { $($kind(Option<Arc<$kind>>, Option<Arc<$kind>>),)* }

        impl Delta {
            /// Kind and both states' metadata.
            pub(crate) fn metadata(&self) -> (Kind, Option<&Meta>, Option<&Meta>) {
                match self {
                    $(Delta::$kind(old, new) => (
                        Kind::$kind,
                        old.as_ref().map(|object| &object.metadata),
                        new.as_ref().map(|object| &object.metadata),
                    ),)*
                }
            }
        }

        /// Everything the controllers know of the cluster. Planners read it, the core writes it.
        #[derive(Default)]
        pub(crate) struct World { $(pub(crate) $field: Store<$kind>,)* }

        impl World {
            /// Whether every first list is complete.
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
                        }
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
                }
            }

            /// Metadata of one object.
            pub(crate) fn metadata(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Meta> {
                match kind {
                    $(Kind::$kind => self.$field.get(namespace, name).map(|object| &object.metadata),)*
                    Kind::Event => None,
                }
            }

            /// Every known object that names `uid` among its owners.
            pub(crate) fn dependents(&self, uid: &str) -> Vec<(Kind, &Meta)> {
                let mut found = Vec::new();
                $(found.extend(
                    self.$field.owned_by(uid).map(|object| (Kind::$kind, &object.metadata)));)*
                found
            }

            /// Every known object of a namespace.
            pub(crate) fn contents<'a>(&'a self, namespace: &'a str) -> Vec<(Kind, &'a Meta)> {
                let mut found = Vec::new();
                $(if $namespaced {
                    found.extend(
                        self.$field.within(namespace).map(|object| (Kind::$kind, &object.metadata)));
                })*
                found
            }
        }

        /// Calls `$each!(Kind)` for every watched kind.
        macro_rules! for_each_kind { ($each:ident) => { $($each!($kind);)* } }
        pub(crate) use for_each_kind;
    };
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
    ServiceAccount service_accounts true;
    ConfigMap config_maps true;
    Secret secrets true;
    Lease leases true;
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
