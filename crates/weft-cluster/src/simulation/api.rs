//! An API in a few lines: what the controllers rely on, and nothing else.

use std::collections::{BTreeMap, VecDeque};

use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use crate::action::{Action, Delete, Verb};
use crate::core::{Core, Outcome};
use crate::kinds::{Change, Kind, WATCHED};

#[derive(Default)]
pub(crate) struct FakeApi {
    pub(crate) objects: BTreeMap<(Kind, String, String), Value>,
    pub(crate) version: u64,
    /// What each watch has still to tell.
    pub(crate) watches: BTreeMap<Kind, VecDeque<Change>>,
    pub(crate) clock_s: i64,
    /// Kinds beside those of the table.
    pub(crate) others: Vec<Kind>,
}

impl FakeApi {
    pub(crate) fn list(&self, kind: Kind) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |((of, ..), _)| *of == kind).map(|(_, object)| object)
    }

    pub(crate) fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(kind, namespace.to_owned(), name.to_owned()))
    }

    /// The first list of a watch, or one after a break: what it had to tell is lost. The start
    /// of a list reaches the core before the API makes the list; that order is what the store
    /// relies on, and what the one queue of `run` gives.
    pub(crate) fn relist(&mut self, kind: Kind, core: &mut Core) {
        core.handle_change(Change::decode(kind, Event::Init));
        let items: Vec<Value> = self.list(kind).cloned().collect();
        let queue = self.watches.entry(kind).or_default();
        queue.clear();
        let events = items.into_iter().map(Event::InitApply).chain([Event::InitDone]);
        queue.extend(events.map(|event| Change::decode(kind, event)));
    }

    pub(crate) fn relist_all(&mut self, core: &mut Core) {
        core.handle_change(Change::Kinds(self.others.clone()));
        for kind in WATCHED.iter().copied().chain(self.others.clone()) {
            self.relist(kind, core);
        }
    }

    fn store(&mut self, kind: Kind, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        if kind.api_version() != "" {
            object["apiVersion"] = kind.api_version().into();
            object["kind"] = kind.name().into();
        }
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or("").to_owned();
        self.objects.insert((kind, text("namespace"), text("name")), object.clone());
        self.tell(kind, Event::Apply(object.clone()));
        object
    }

    fn tell(&mut self, kind: Kind, event: Event<Value>) {
        self.watches.entry(kind).or_default().push_back(Change::decode(kind, event));
    }

    fn remove(&mut self, kind: Kind, namespace: &str, name: &str) {
        let key = (kind, namespace.to_owned(), name.to_owned());
        if let Some(mut object) = self.objects.remove(&key) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = self.version.to_string().into();
            self.tell(kind, Event::Delete(object));
        }
    }

    pub(crate) fn create(&mut self, kind: Kind, namespace: &str, mut object: Value) -> Outcome {
        let version = self.version + 1;
        if object["metadata"]["name"].as_str().unwrap_or("").is_empty() {
            let prefix = object["metadata"]["generateName"].as_str().expect("a name").to_owned();
            object["metadata"]["name"] = format!("{prefix}{version:05x}").into();
        }
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        if self.get(kind, namespace, &name).is_some() {
            return Outcome::Conflict;
        }
        if kind.namespaced() {
            object["metadata"]["namespace"] = namespace.into();
        }
        object["metadata"]["uid"] = format!("uid-{version}").into();
        object["metadata"]["generation"] = 1.into();
        object["metadata"]["creationTimestamp"] = time(self.clock_s);
        Outcome::Done(self.store(kind, object))
    }

    /// Merges `body` into an object, as a user or a kubelet would.
    pub(crate) fn merge(
        &mut self,
        kind: Kind,
        namespace: &str,
        name: &str,
        body: &Value,
    ) -> Outcome {
        let Some(held) = self.get(kind, namespace, name).cloned() else { return Outcome::NotFound };
        for field in ["resourceVersion", "uid"] {
            let wanted = &body["metadata"][field];
            if !wanted.is_null() && *wanted != held["metadata"][field] {
                return Outcome::Conflict;
            }
        }
        let mut next = held.clone();
        json_patch::merge(&mut next, body);
        if next == held {
            return Outcome::Done(held);
        }
        if next["spec"] != held["spec"] {
            let generation = held["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            next["metadata"]["generation"] = generation.into();
        }
        let finalizers =
            next["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty());
        let over = kind != Kind::Pod || next["metadata"]["deletionGracePeriodSeconds"] == 0;
        if !next["metadata"]["deletionTimestamp"].is_null() && !finalizers && over {
            self.remove(kind, namespace, name);
            return Outcome::Done(next);
        }
        Outcome::Done(self.store(kind, next))
    }

    pub(crate) fn delete(
        &mut self,
        kind: Kind,
        namespace: &str,
        name: &str,
        how: &Delete,
    ) -> Outcome {
        let Some(held) = self.get(kind, namespace, name).cloned() else { return Outcome::NotFound };
        if how.uid.as_ref().is_some_and(|uid| held["metadata"]["uid"] != *uid) {
            return Outcome::Conflict;
        }
        let version = &held["metadata"]["resourceVersion"];
        if how.version.as_ref().is_some_and(|wanted| version != wanted) {
            return Outcome::Conflict;
        }
        let graceful = kind == Kind::Pod
            && how.grace_seconds != Some(0)
            && !held["spec"]["nodeName"].is_null();
        let finalizer = match how.propagation {
            Some("Foreground") => Some("foregroundDeletion"),
            Some("Orphan") => Some("orphan"),
            _ => None,
        };
        let kept = held["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty());
        if graceful || kept || finalizer.is_some() {
            let mut next = held;
            if kind == Kind::Pod && !graceful {
                next["metadata"]["deletionGracePeriodSeconds"] = 0.into();
                next["metadata"]["deletionTimestamp"] = time(self.clock_s);
                return Outcome::Done(self.store(kind, next));
            }
            if next["metadata"]["deletionTimestamp"].is_null() {
                next["metadata"]["deletionTimestamp"] = time(self.clock_s);
                if let Some(finalizer) = finalizer {
                    next["metadata"]["finalizers"] = json!([finalizer]);
                }
                let generation = next["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
                next["metadata"]["generation"] = generation.into();
                next = self.store(kind, next);
            }
            return Outcome::Done(next);
        }
        self.remove(kind, namespace, name);
        Outcome::Done(json!({"kind": "Status", "status": "Success"}))
    }

    /// Executes a controller's write.
    pub(crate) fn execute(&mut self, action: &Action) -> Outcome {
        let (kind, namespace, name) = (action.kind, &*action.namespace, &*action.name);
        match &action.verb {
            Verb::Create(_) if kind == Kind::Event => Outcome::Done(Value::Null),
            Verb::Create(body) => self.create(kind, namespace, body.clone()),
            Verb::CreateSub("binding", body) => {
                let Some(pod) = self.get(kind, namespace, name) else { return Outcome::NotFound };
                if !pod["spec"]["nodeName"].is_null() {
                    return Outcome::Conflict;
                }
                let bound = json!({"spec": {"nodeName": body["target"]["name"]},
                    "metadata": {"uid": body["metadata"]["uid"]}});
                match self.merge(kind, namespace, name, &bound) {
                    Outcome::Done(_) => Outcome::Done(json!({"kind": "Status"})),
                    other => other,
                }
            }
            Verb::CreateSub(sub, _) => panic!("no subresource {sub}"),
            Verb::Replace(_, body) => {
                let Some(held) = self.get(kind, namespace, name) else { return Outcome::NotFound };
                if held["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] {
                    return Outcome::Conflict;
                }
                Outcome::Done(self.store(kind, body.clone()))
            }
            // Lists of conditions have at most one entry here, so merging is replacing.
            Verb::Merge(_, body) | Verb::Strategic(_, body) => {
                self.merge(kind, namespace, name, body)
            }
            Verb::Delete(how) => self.delete(kind, namespace, name, how),
            Verb::IfGone { missing, then } => {
                for owner in missing {
                    let held = self.get(owner.kind, &owner.namespace, &owner.name);
                    if held.is_some_and(|held| held["metadata"]["uid"] == owner.uid) {
                        return Outcome::Conflict;
                    }
                }
                self.execute(&Action { verb: then.as_ref().clone(), ..action.clone() })
            }
            Verb::Sweep => panic!("no namespace ends here"),
        }
    }
}

pub(crate) fn time(seconds: i64) -> Value {
    jiff::Timestamp::from_second(seconds).expect("a time").to_string().into()
}
