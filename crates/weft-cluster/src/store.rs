//! One kind's objects as the controllers see them: the watch, and the answers to our own writes.
//!
//! The answer to a write is fed into the store at once, so a planner never runs on a picture
//! that lacks what it just did. That takes the place of Kubernetes' "expectations". Three rules
//! keep the two sources consistent:
//! - resource versions are ordered (KEP-5504), an older one never overwrites a newer one;
//! - the uid of a deleted object is remembered, so a late answer cannot bring it back;
//! - a re-list prunes neither what it listed nor what an answer stored since it began. For that
//!   its beginning must be noted before the API makes the list, and in the order of the answers:
//!   both take one queue (`run.rs`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// Namespace (empty for cluster-scoped objects) and name.
pub(crate) type Id = (String, String);

/// Deleted uids that are remembered. An answer is late by one round trip, in which far fewer
/// objects are deleted.
const GONE_MAX: usize = 16_384;

/// An object of the API with ordinary metadata.
pub(crate) trait Object:
    Metadata<Ty = ObjectMeta> + Clone + PartialEq + Send + Sync + 'static
{
    fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }
    fn namespace(&self) -> &str {
        self.metadata().namespace.as_deref().unwrap_or_default()
    }
    fn uid(&self) -> &str {
        self.metadata().uid.as_deref().unwrap_or_default()
    }
    fn id(&self) -> Id {
        (self.namespace().to_owned(), self.name().to_owned())
    }
    fn deleting(&self) -> bool {
        self.metadata().deletion_timestamp.is_some()
    }
    fn owners(&self) -> &[OwnerReference] {
        self.metadata().owner_references.as_deref().unwrap_or_default()
    }
    /// The owner that manages this object (`controller: true`).
    fn controller(&self) -> Option<&OwnerReference> {
        self.owners().iter().find(|owner| owner.controller == Some(true))
    }
    fn controlled_by(&self, uid: &str) -> bool {
        self.controller().is_some_and(|owner| owner.uid == uid)
    }
    fn labels(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.metadata().labels.as_ref().unwrap_or(&NONE)
    }
    fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata().annotations.as_ref()?.get(key).map(String::as_str)
    }
    fn version(&self) -> Option<u64> {
        self.metadata().resource_version.as_ref()?.parse().ok()
    }
    /// Seconds since 1970, 0 where the server set no time.
    fn created_seconds(&self) -> i64 {
        self.metadata().creation_timestamp.as_ref().map_or(0, |time| time.0.as_second())
    }
}

impl<K: Metadata<Ty = ObjectMeta> + Clone + PartialEq + Send + Sync + 'static> Object for K {}

/// What one step changed: before and after.
pub(crate) type Diff<K> = (Option<Arc<K>>, Option<Arc<K>>);

/// The objects of one kind.
pub(crate) struct Store<K> {
    items: BTreeMap<Id, Arc<K>>,
    by_owner: HashMap<String, BTreeSet<Id>>,
    /// By namespace and the Service that a label names: slices.
    by_service: HashMap<Id, BTreeSet<Id>>,
    listing: Option<HashSet<Id>>,
    synced: bool,
    gone: HashSet<String>,
    gone_order: VecDeque<String>,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self {
            items: BTreeMap::new(),
            by_owner: HashMap::new(),
            by_service: HashMap::new(),
            listing: None,
            synced: false,
            gone: HashSet::new(),
            gone_order: VecDeque::new(),
        }
    }
}

impl<K: Object> Store<K> {
    pub(crate) fn synced(&self) -> bool {
        self.synced
    }

    pub(crate) fn set_synced(&mut self) {
        self.synced = true;
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&Arc<K>> {
        self.items.get(&(namespace.to_owned(), name.to_owned()))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<K>> {
        self.items.values()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// Objects of one namespace, by name.
    pub(crate) fn within<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<K>> {
        self.items
            .range((namespace.to_owned(), String::new())..)
            .take_while(move |((of, _), _)| of == namespace)
            .map(|(_, object)| object)
    }

    /// Objects that name `uid` among their owners.
    pub(crate) fn owned_by<'a>(&'a self, uid: &str) -> impl Iterator<Item = &'a Arc<K>> {
        self.by_owner.get(uid).into_iter().flatten().filter_map(|id| self.items.get(id))
    }

    /// Objects whose label says that they are of this Service.
    pub(crate) fn of_service<'a>(
        &'a self,
        namespace: &str,
        service: &str,
    ) -> impl Iterator<Item = &'a Arc<K>> + use<'a, K> {
        let ids = self.by_service.get(&(namespace.to_owned(), service.to_owned()));
        ids.into_iter().flatten().filter_map(|id| self.items.get(id))
    }

    /// Objects whose managing owner is `uid`.
    pub(crate) fn controlled_by<'a>(
        &'a self,
        uid: &'a str,
    ) -> impl Iterator<Item = &'a Arc<K>> + 'a {
        self.owned_by(uid).filter(move |object| Object::controlled_by(object.as_ref(), uid))
    }

    /// A list begins.
    pub(crate) fn begin(&mut self) {
        self.listing = Some(HashSet::new());
    }

    /// A list is complete: what it did not mention is gone.
    pub(crate) fn finish(&mut self) -> Vec<Diff<K>> {
        self.synced = true;
        let Some(seen) = self.listing.take() else { return Vec::new() };
        let lost: Vec<Id> = self.items.keys().filter(|id| !seen.contains(*id)).cloned().collect();
        lost.into_iter().filter_map(|id| self.take(&id)).map(|old| (Some(old), None)).collect()
    }

    /// An object exists in this form. Nothing where that was known already; two steps where it
    /// took the place of another of its name, whose end was not told (a re-list).
    pub(crate) fn upsert(&mut self, object: K) -> Vec<Diff<K>> {
        let id = object.id();
        if let Some(seen) = &mut self.listing {
            seen.insert(id.clone());
        }
        if self.gone.contains(object.uid()) {
            return Vec::new();
        }
        if let Some(old) = self.items.get(&id)
            && let (Some(before), Some(after)) = (old.version(), object.version())
            && after <= before
        {
            return Vec::new();
        }
        let object = Arc::new(object);
        let old = self.take_indexed(&id);
        for owner in object.owners() {
            self.by_owner.entry(owner.uid.clone()).or_default().insert(id.clone());
        }
        if let Some(key) = service_of(object.as_ref()) {
            self.by_service.entry(key).or_default().insert(id.clone());
        }
        self.items.insert(id, object.clone());
        match old {
            Some(old) if old.uid() != object.uid() => {
                self.bury(old.uid());
                vec![(Some(old), None), (None, Some(object))]
            }
            old => vec![(old, Some(object))],
        }
    }

    /// The object with this uid is gone.
    pub(crate) fn remove(&mut self, namespace: &str, name: &str, uid: &str) -> Option<Diff<K>> {
        self.bury(uid);
        let id = (namespace.to_owned(), name.to_owned());
        if self.items.get(&id).is_none_or(|held| held.uid() != uid) {
            return None;
        }
        self.take(&id).map(|old| (Some(old), None))
    }

    /// Whether the object of this uid is known to be gone for good.
    pub(crate) fn is_gone(&self, uid: &str) -> bool {
        self.gone.contains(uid)
    }

    fn take(&mut self, id: &Id) -> Option<Arc<K>> {
        let old = self.take_indexed(id)?;
        self.bury(old.uid());
        Some(old)
    }

    fn take_indexed(&mut self, id: &Id) -> Option<Arc<K>> {
        let old = self.items.remove(id)?;
        for owner in old.owners() {
            if let Some(ids) = self.by_owner.get_mut(&owner.uid) {
                ids.remove(id);
                if ids.is_empty() {
                    self.by_owner.remove(&owner.uid);
                }
            }
        }
        if let Some(key) = service_of(old.as_ref())
            && let Some(ids) = self.by_service.get_mut(&key)
        {
            ids.remove(id);
            if ids.is_empty() {
                self.by_service.remove(&key);
            }
        }
        Some(old)
    }

    fn bury(&mut self, uid: &str) {
        if uid.is_empty() || !self.gone.insert(uid.to_owned()) {
            return;
        }
        self.gone_order.push_back(uid.to_owned());
        if self.gone_order.len() > GONE_MAX
            && let Some(oldest) = self.gone_order.pop_front()
        {
            self.gone.remove(&oldest);
        }
    }
}

/// Namespace and name of the Service that an object's label names.
fn service_of(object: &impl Object) -> Option<Id> {
    let name = object.labels().get(crate::targets::SERVICE_NAME)?;
    Some((object.namespace().to_owned(), name.clone()))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(name: &str, uid: &str, version: u64) -> ConfigMap {
        let mut map = ConfigMap::default();
        map.metadata.name = Some(name.into());
        map.metadata.namespace = Some("ns".into());
        map.metadata.uid = Some(uid.into());
        map.metadata.resource_version = Some(version.to_string());
        map
    }

    #[test]
    fn older_versions_and_late_answers_change_nothing() {
        let mut store = Store::default();
        assert!(store.upsert(object("a", "1", 5)).len() == 1);
        assert!(store.upsert(object("a", "1", 4)).is_empty());
        assert!(store.upsert(object("a", "1", 5)).is_empty());
        assert!(store.remove("ns", "a", "1").is_some());
        assert!(store.upsert(object("a", "1", 6)).is_empty(), "the uid is gone for good");
        assert_eq!(store.upsert(object("a", "2", 7)).len(), 1);
        assert!(store.remove("ns", "a", "1").is_none(), "another object bears the name");
        assert_eq!(store.upsert(object("a", "3", 8)).len(), 2, "one goes, one comes");
        assert_eq!(store.len(), 1);
    }

    #[test]
    fn a_relist_prunes_only_what_it_may() {
        let mut store = Store::default();
        store.upsert(object("old", "1", 1));
        store.upsert(object("kept", "2", 2));
        store.begin();
        store.upsert(object("kept", "2", 2));
        store.upsert(object("answer", "3", 9));
        let lost = store.finish();
        assert_eq!(lost.len(), 1);
        assert_eq!(lost[0].0.as_ref().map(|object| object.name().to_owned()), Some("old".into()));
        assert_eq!(store.within("ns").count(), 2);
        assert_eq!(store.within("n").count(), 0);
    }
}
