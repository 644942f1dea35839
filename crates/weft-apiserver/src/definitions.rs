//! CustomResourceDefinitions: names, conditions, kinds that come and go.
//!
//! The real API has a controller for each of these steps. Here all of them are done before the
//! write that asked for them is answered, one definition after the other in the order of their
//! creation: whoever asks first gets a name. Names of built-in kinds are never given, and a write
//! of an instance holds only if its definition is still the one that its kind was made from.

use crate::{
    lean,
    registry::{Defined, Registry},
    server::{State, attrs},
    store::{Commit, CommitError, Expect, Key, Scope, Table, Write},
    verbs::{Ctx, delete::DeleteOptions, time_text},
};
use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc};
use weft_crd::definition::{
    Naming, TakenNames, accept_names, condition, condition_is, set_condition,
};
use weft_kinds::{Kind, default, kinds, lookup};

#[cfg(test)]
mod tests;

/// Holds a definition until its instances are gone.
pub(crate) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// A write of a status that loses this many races is left to the next change.
const RACES_MAX: usize = 50;

/// Definitions as they were read last, each with its version: they are large.
pub(crate) type Known = HashMap<Key, (u64, Arc<Value>)>;

/// A definition and its version.
struct Definition {
    key: Key,
    rv: u64,
    value: Arc<Value>,
}

/// The kind of definitions.
pub(crate) fn definitions() -> &'static Arc<Kind> {
    lookup("apiextensions.k8s.io", "v1", "customresourcedefinitions")
        .expect("invariant: definitions have a row")
}

/// Whether a write to this kind may change what is served.
pub(crate) fn concerns(registry: &Registry, kind: &Kind) -> bool {
    kind.type_name() == definitions().type_name() || registry.terminating(kind)
}

/// A definition that is to be deleted is held until its instances are gone, and says so.
pub(crate) fn begin_deletion(definition: &mut Value, now: &str) {
    let finalizers = &mut definition["metadata"]["finalizers"];
    match finalizers.as_array_mut() {
        Some(list) if list.iter().any(|f| f == CLEANUP) => {}
        Some(list) => list.push(CLEANUP.into()),
        None => *finalizers = json!([CLEANUP]),
    }
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will \
                   begin soon";
    let pending = ["Terminating", "True", "InstanceDeletionPending", message];
    set_condition(definition, pending, now);
}

impl State {
    /// Brings names, conditions and kinds in line with the definitions.
    pub(crate) fn sync_definitions(&self) {
        let mut known =
            self.definitions.lock().expect("invariant: nothing panics while it holds definitions");
        self.settle_all(&mut known);
        // With their kinds served, instances of definitions on their way out can be deleted.
        let mut changed = false;
        for definition in self.all_definitions(&mut known) {
            if definition.value["metadata"]["deletionTimestamp"].is_string() {
                changed |= self.work_off(&definition.key);
            }
        }
        if changed {
            // Names are free again, and the registry knows the new versions.
            self.settle_all(&mut known);
        }
    }

    fn settle_all(&self, known: &mut Known) {
        let all = self.all_definitions(known);
        let mut given = false;
        for definition in &all {
            given |= self.settle(definition, &all);
            if given {
                // What was given away just now is not there for the next.
                break;
            }
        }
        if given {
            return self.settle_all(known);
        }
        self.serve_defined(&all);
    }

    /// All definitions, oldest first.
    fn all_definitions(&self, known: &mut Known) -> Vec<Definition> {
        let table = self.table(definitions());
        let listed = self.store.list(table, &Scope::default(), None, None, 0);
        let listed = listed.map(|listing| listing.items).unwrap_or_default();
        known.retain(|key, _| listed.iter().any(|(other, _)| other == key));
        let mut all: Vec<Definition> = listed
            .into_iter()
            .map(|(key, entry)| {
                let known = known.entry(key.clone()).or_insert_with(|| (0, Arc::default()));
                if known.0 != entry.rv {
                    *known = (entry.rv, Arc::new(entry.value()));
                }
                Definition { key, rv: entry.rv, value: known.1.clone() }
            })
            .collect();
        all.sort_by_cached_key(|definition| {
            let created = definition.value["metadata"]["creationTimestamp"].as_str();
            (created.unwrap_or_default().to_owned(), definition.key.name.clone())
        });
        all
    }

    /// Changes a definition as it is now, or removes it when `change` says `true`; `None` of
    /// `change` leaves it. With `instances`, nothing happens unless that table is empty.
    fn revise(
        &self,
        key: &Key,
        instances: Option<Table>,
        change: impl Fn(&mut Value) -> Option<bool>,
    ) -> Option<bool> {
        let kind = definitions();
        let table = self.table(kind);
        for _ in 0..RACES_MAX {
            let entry = self.store.get(table, key)?;
            let mut value = entry.value();
            let gone = change(&mut value)?;
            let write = if gone { Write::Delete(value) } else { Write::Put(value) };
            let commit = Commit { table, key, expect: Expect::At(entry.rv), write, dry_run: false };
            let done = self.store.commit(
                commit,
                |v| attrs(kind, v),
                |txn, _| match instances {
                    Some(instances) if txn.all(instances).next().is_some() => Err(()),
                    _ => Ok(()),
                },
                |()| {},
            );
            match done {
                Ok(_) => return Some(gone),
                Err(CommitError::Raced) => {}
                Err(CommitError::Refused(())) => return None,
                Err(error) => {
                    tracing::error!(%error, name = %key.name, "a definition cannot be written");
                    return None;
                }
            }
        }
        None
    }

    /// Gives a definition its names and conditions; whether it changed.
    fn settle(&self, own: &Definition, all: &[Definition]) -> bool {
        let mut taken = TakenNames::default();
        let group = &own.value["spec"]["group"];
        all.iter()
            .filter(|other| other.key != own.key && other.value["spec"]["group"] == *group)
            .for_each(|other| taken.add(&other.value));
        let naming = give_names(&own.value, &taken);
        let settled = naming.conflict.is_none()
            && naming.accepted == own.value["status"]["acceptedNames"]
            && condition_is(&own.value, "NamesAccepted", "True")
            && condition_is(&own.value, "Established", "True");
        if settled {
            return false;
        }
        let done = self.revise(&own.key, None, |definition| {
            let naming = give_names(definition, &taken);
            let before = definition.clone();
            definition["status"]["acceptedNames"] = naming.accepted;
            let now = time_text(jiff::Timestamp::now());
            match &naming.conflict {
                None => {
                    let fine = ["NamesAccepted", "True", "NoConflicts", "no conflicts found"];
                    set_condition(definition, fine, &now);
                    if !condition_is(definition, "Established", "True") {
                        let message = "the initial names have been accepted";
                        let done = ["Established", "True", "InitialNamesAccepted", message];
                        set_condition(definition, done, &now);
                    }
                }
                Some((reason, message)) => {
                    set_condition(definition, ["NamesAccepted", "False", reason, message], &now);
                    if condition(definition, "Established").is_none() || is_built_in(definition) {
                        let message = "not all names are accepted";
                        let not = ["Established", "False", "NotAccepted", message];
                        set_condition(definition, not, &now);
                    }
                }
            }
            (*definition != before).then_some(false)
        });
        done.is_some()
    }

    /// Registers the kinds of all definitions that are established, and ends what watches kinds
    /// that are gone or that changed.
    fn serve_defined(&self, all: &[Definition]) {
        let before = self.registry();
        let mut defined: HashMap<String, Arc<Defined>> = HashMap::new();
        let mut changed: Vec<(u64, Arc<Defined>)> = Vec::new();
        for Definition { key, rv, value } in all {
            if !condition_is(value, "Established", "True") || is_built_in(value) {
                continue;
            }
            let old = before.defined.get(&*key.name);
            let now = Defined::of(&self.store, *rv, value, old);
            if old.is_none_or(|old| !old.same(&now)) {
                changed.push((*rv, now.clone()));
            }
            defined.insert(key.name.to_string(), now);
        }
        let gone: Vec<_> = before
            .defined
            .iter()
            .filter(|(name, old)| defined.get(*name).is_none_or(|now| !now.same(old)))
            .map(|(_, old)| old.table)
            .collect();
        let same = changed.is_empty()
            && gone.is_empty()
            && defined.len() == before.defined.len()
            && defined.iter().all(|(name, now)| {
                before.defined.get(name).is_some_and(|old| Arc::ptr_eq(old, now))
            });
        if same {
            return;
        }
        for (rv, now) in changed {
            let stored = now.kinds.iter().find(|kind| kind.stored_as.is_none());
            let Some(kind) = stored else { continue };
            self.store.reform(
                now.table,
                rv,
                |object| reform(kind, object),
                |object| attrs(kind, object),
            );
        }
        self.serve_kinds(Registry::new(&self.store, defined));
        for table in gone {
            self.store.end_watches(table);
        }
    }

    /// Deletes the instances of a definition; when none is left, the definition itself. Whether
    /// it changed.
    fn work_off(&self, key: &Key) -> bool {
        let registry = self.registry();
        let kind = registry
            .defined
            .get(&*key.name)
            .and_then(|d| d.kinds.iter().find(|kind| kind.stored_as.is_none()));
        let mut left = 0;
        if let Some(kind) = kind {
            let (ctx, options) = (Ctx::internal(), DeleteOptions::default());
            for instance in self.staying(kind) {
                match self.delete(&ctx, kind, &instance, &options) {
                    Err(error) if error.code() != 404 => {
                        tracing::warn!(why = error.message(), name = %key.name, "instances stay");
                        break;
                    }
                    _ => {}
                }
            }
            let listed = self.store.list(self.table(kind), &Scope::default(), None, None, 0);
            left = listed.map_or(0, |listing| listing.items.len());
        }
        // What was made since then holds the definition.
        let instances = kind.filter(|_| left == 0).map(|kind| self.table(kind));
        let now = time_text(jiff::Timestamp::now());
        let done = self.revise(key, instances, |definition| {
            let before = definition.clone();
            let progress = match (kind, left) {
                (None, _) => ["False", "NeverEstablished", "resource was never established"],
                (_, 0) => ["False", "InstanceDeletionCompleted", "removed all instances"],
                _ => {
                    ["True", "InstanceDeletionInProgress", "CustomResource deletion is in progress"]
                }
            };
            let [status, reason, message] = progress;
            set_condition(definition, ["Terminating", status, reason, message], &now);
            if left == 0
                && let Some(list) = definition["metadata"]["finalizers"].as_array_mut()
            {
                list.retain(|finalizer| finalizer != CLEANUP);
            }
            let held =
                definition["metadata"]["finalizers"].as_array().is_some_and(|l| !l.is_empty());
            if !held {
                return Some(true);
            }
            (*definition != before).then_some(false)
        });
        done.is_some()
    }

    /// The instances that nobody has deleted yet; to delete the others again would do nothing.
    fn staying(&self, kind: &Kind) -> Vec<Key> {
        let listed = self.store.list(self.table(kind), &Scope::default(), None, None, 0);
        let listed = listed.map(|listing| listing.items).unwrap_or_default();
        let staying = listed.into_iter().filter(|(_, entry)| !lean::deleting(&entry.bytes));
        staying.map(|(key, _)| key).collect()
    }
}

/// The names of a definition; none where they would be those of a built-in kind.
fn give_names(definition: &Value, taken: &TakenNames) -> Naming {
    let wanted = &definition["spec"]["names"];
    let Some((key, reason)) = built_in(definition, wanted) else {
        return accept_names(definition, taken);
    };
    let why = format!("{} is already in use", wanted[key]);
    Naming { accepted: json!({"plural": "", "kind": ""}), conflict: Some((reason, why)) }
}

/// Which of these names in the definition's group is that of a built-in kind, and how the
/// conflict is called. Objects of built-in kinds are where a definition's would be.
fn built_in(definition: &Value, names: &Value) -> Option<(&'static str, &'static str)> {
    let own = || kinds().iter().filter(|kind| definition["spec"]["group"] == *kind.group);
    if own().any(|kind| names["kind"] == *kind.kind) {
        return Some(("kind", "KindConflict"));
    }
    own().any(|kind| names["plural"] == *kind.plural).then_some(("plural", "PluralConflict"))
}

/// Whether a definition wants, or was given by whatever means, names of a built-in kind.
fn is_built_in(definition: &Value) -> bool {
    let names = [&definition["spec"]["names"], &definition["status"]["acceptedNames"]];
    names.into_iter().any(|names| built_in(definition, names).is_some())
}

/// An object in the form that its kind has now.
fn reform(kind: &Kind, object: &mut Value) {
    object["apiVersion"] = kind.api_version().into();
    kind.prune(object);
    default(kind, object);
}
