//! What planners want done: writes so specific that execution makes no choices.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::kinds::{Kind, Meta};
use crate::store::Object;

/// One write to the API.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Action {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    /// Empty where the server makes the name.
    pub(crate) name: String,
    pub(crate) verb: Verb,
}

/// How the write is made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verb {
    Create(Value),
    /// POST to a subresource (`binding`).
    CreateSub(&'static str, Value),
    /// PUT of the whole object, or of a subresource (`finalize`).
    Replace(Option<&'static str>, Value),
    /// JSON merge patch. A `metadata.resourceVersion` inside makes it conditional.
    Merge(Option<&'static str>, Value),
    /// Strategic merge patch: conditions merge by their type, others' stay.
    Strategic(Option<&'static str>, Value),
    Delete(Delete),
    /// Does something to an object if the API confirms that the owners it misses are gone.
    IfGone {
        missing: Vec<Gone>,
        then: Box<Verb>,
    },
    /// Deletes everything in the namespace of this name, and lets it go once it is empty.
    Sweep,
}

/// An object that is believed to be gone.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Gone {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// Conditions and manner of a deletion.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Delete {
    /// Only the object with this uid.
    pub(crate) uid: Option<String>,
    /// Only if the object is still of this version.
    pub(crate) version: Option<String>,
    pub(crate) grace_seconds: Option<i64>,
    /// `Background`, `Foreground` or `Orphan`; the kind's default where absent.
    pub(crate) propagation: Option<&'static str>,
}

impl Action {
    pub(crate) fn create<K: Serialize + Object>(kind: Kind, object: &K) -> Self {
        let mut body = value(object);
        body["apiVersion"] = kind.api_version().into();
        body["kind"] = kind.name().into();
        Self {
            kind,
            namespace: object.namespace().to_owned(),
            name: object.name().to_owned(),
            verb: Verb::Create(body),
        }
    }

    pub(crate) fn replace<K: Serialize + Object>(kind: Kind, object: &K) -> Self {
        let mut action = Self::create(kind, object);
        if let Verb::Create(body) = action.verb {
            action.verb = Verb::Replace(None, body);
        }
        action
    }

    pub(crate) fn merge(kind: Kind, meta: &Meta, sub: Option<&'static str>, body: Value) -> Self {
        Self::on(kind, meta, Verb::Merge(sub, body))
    }

    pub(crate) fn strategic(
        kind: Kind,
        meta: &Meta,
        sub: Option<&'static str>,
        body: Value,
    ) -> Self {
        Self::on(kind, meta, Verb::Strategic(sub, body))
    }

    /// Deletes exactly this object, never a later one of its name.
    pub(crate) fn delete(kind: Kind, meta: &Meta) -> Self {
        Self::delete_with(kind, meta, Delete::default())
    }

    pub(crate) fn delete_with(kind: Kind, meta: &Meta, mut delete: Delete) -> Self {
        delete.uid = meta.uid.clone();
        Self::on(kind, meta, Verb::Delete(delete))
    }

    pub(crate) fn on(kind: Kind, meta: &Meta, verb: Verb) -> Self {
        Self {
            kind,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            verb,
        }
    }

    /// An Event about an object.
    pub(crate) fn event(
        about: &About<'_>,
        severity: Severity,
        reason: &str,
        message: &str,
    ) -> Self {
        // Kubernetes: `<name>.<hex of the time>`. Two events of one instant differ in their text.
        let mut hash = Sha256::new();
        hash.update(reason);
        hash.update(message);
        let digest = hash.finalize();
        let suffix = format!(
            "{:x}{:02x}{:02x}",
            about.now.as_nanosecond().unsigned_abs() as u64,
            digest[0],
            digest[1]
        );
        let object = about.meta.name.as_deref().unwrap_or_default();
        // 253 characters is the limit of a name.
        let name = format!("{}.{suffix}", &object[..object.len().min(230)]);
        let namespace = about.meta.namespace.clone().unwrap_or_else(|| "default".into());
        let now = about.now.to_string();
        let body = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": about.kind.api_version(), "kind": about.kind.name(),
                "namespace": about.meta.namespace, "name": about.meta.name,
                "uid": about.meta.uid, "resourceVersion": about.meta.resource_version,
            },
            "reason": reason, "message": message,
            "type": match severity { Severity::Normal => "Normal", Severity::Warning => "Warning" },
            "count": 1, "firstTimestamp": now, "lastTimestamp": now,
            "source": {"component": about.component},
            "reportingComponent": about.component, "reportingInstance": "",
        });
        Self { kind: Kind::Event, namespace, name, verb: Verb::Create(body) }
    }

    /// The uid that a deletion is limited to.
    pub(crate) fn deleted_uid(&self) -> Option<&str> {
        match &self.verb {
            Verb::Delete(delete) => delete.uid.as_deref(),
            Verb::IfGone { then, .. } => match then.as_ref() {
                Verb::Delete(delete) => delete.uid.as_deref(),
                _ => None,
            },
            _ => None,
        }
    }

    pub(crate) fn is_event(&self) -> bool {
        self.kind == Kind::Event
    }
}

/// Weight of an Event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

/// Whom an Event concerns and who says it.
pub(crate) struct About<'a> {
    pub(crate) kind: Kind,
    pub(crate) meta: &'a Meta,
    pub(crate) component: &'static str,
    pub(crate) now: Timestamp,
}

/// What a planner wants: writes that may run at the same time, and when to ask again.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    /// Ask again at this time even if nothing changes until then.
    pub(crate) again_at: Option<Timestamp>,
}

impl Plan {
    pub(crate) fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub(crate) fn ask_again(&mut self, at: Timestamp) {
        self.again_at = Some(self.again_at.map_or(at, |known| known.min(at)));
    }
}

impl From<Vec<Action>> for Plan {
    fn from(actions: Vec<Action>) -> Self {
        Self { actions, again_at: None }
    }
}

/// The JSON form of an API object.
pub(crate) fn value<T: Serialize>(object: &T) -> Value {
    serde_json::to_value(object).expect("invariant: API types always serialize to JSON")
}
