//! What each verb means: pure steps on JSON values around one store transaction.

mod admission;
pub(crate) mod apply;
pub(crate) mod create;
pub(crate) mod delete;
mod events;
pub(crate) mod pod;
pub(crate) mod read;
pub(crate) mod review;
pub(crate) mod scale;
mod token;
pub(crate) mod update;

use crate::{
    auth::Identity,
    error::ApiError,
    fields::Writer,
    server::State,
    store::{CommitError, Entry, Key, OBJECT_BYTES_MAX, Txn},
};
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;
use weft_kinds::{DEPTH_MAX, Kind, lookup, status};

pub(crate) use events::{from_storage, to_storage};

/// What a write does with fields that its kind does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// What a request brings besides its object.
#[derive(Clone, Debug)]
pub(crate) struct Ctx {
    pub(crate) identity: Identity,
    pub(crate) dry_run: bool,
    pub(crate) validation: FieldValidation,
    /// `fieldManager`, or the client's name from User-Agent.
    pub(crate) manager: String,
    pub(crate) now: Timestamp,
    /// For Warning headers.
    pub(crate) warnings: Vec<String>,
}

impl Ctx {
    /// The server itself, at its start.
    pub(crate) fn internal() -> Self {
        Self {
            identity: Identity { user: "system:apiserver".into(), ..Identity::default() },
            dry_run: false,
            validation: FieldValidation::Strict,
            manager: "kube-apiserver".into(),
            now: Timestamp::now(),
            warnings: Vec::new(),
        }
    }

    /// The time as Kubernetes writes it: RFC 3339 in whole seconds.
    pub(crate) fn now_text(&self) -> String {
        time_text(self.now)
    }

    /// Who writes this part of a kind's objects.
    pub(crate) fn writer<'a>(
        &'a self,
        part: Part,
        kind: &Kind,
        api_version: &'a str,
        now: &'a str,
    ) -> Writer<'a> {
        let ignored: &[&str] = match part {
            Part::Status => &["spec"],
            _ if kind.status => &["status"],
            _ => &[],
        };
        Writer { manager: &self.manager, api_version, subresource: part.name(), now, ignored }
    }

    /// Deals with unknown and duplicate fields.
    pub(crate) fn strict(&mut self, kind: &Kind, found: Vec<String>) -> Result<(), ApiError> {
        match self.validation {
            _ if found.is_empty() => Ok(()),
            FieldValidation::Ignore => Ok(()),
            FieldValidation::Warn => {
                self.warnings.extend(found);
                Ok(())
            }
            FieldValidation::Strict => Err(status::strict(kind, &found).into()),
        }
    }
}

/// RFC 3339 in whole seconds, as `metav1.Time`.
pub(crate) fn time_text(t: Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `seconds` after `t` (before, when negative), or the end of time.
pub(crate) fn later(t: Timestamp, seconds: i64) -> Timestamp {
    let end = if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
    t.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(end)
}

/// An answer that is one object.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) code: u16,
    pub(crate) object: Bytes,
    /// Whether `object` is of the kind asked for (and not a Status or another kind).
    pub(crate) own_kind: bool,
}

impl Outcome {
    pub(crate) fn entry(code: u16, entry: &Entry) -> Self {
        Self { code, object: entry.bytes.clone(), own_kind: true }
    }

    pub(crate) fn value(code: u16, value: &Value) -> Self {
        Self { code, object: value.to_string().into(), own_kind: false }
    }
}

/// One subresource that is written like its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The object itself, without its status where that is a subresource.
    Main,
    /// `/status`
    Status,
    /// `/finalize` of a namespace.
    Finalize,
    /// `/binding` of a pod: spec and status at once.
    Binding,
    /// `/scale`: the object itself, by its number of replicas.
    Scale,
    /// `/ephemeralcontainers` of a pod: only those.
    EphemeralContainers,
    /// `/resize` of a pod: only its containers' resources.
    Resize,
}

impl Part {
    /// The subresource's name; empty for the object itself.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::Status => "status",
            Self::Finalize => "finalize",
            Self::Binding => "binding",
            Self::Scale => "scale",
            Self::EphemeralContainers => "ephemeralcontainers",
            Self::Resize => "resize",
        }
    }
}

/// Who keeps the account of the fields' managers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracking {
    /// This write is an update by its context's manager.
    Update,
    /// The object brings it: it was applied, or nobody owns what is written.
    Done,
}

impl State {
    /// Refuses a create in a namespace that is missing or on its way out. Called inside the
    /// transaction, so that nothing slips into a namespace after it was emptied.
    pub(crate) fn check_namespace(
        &self,
        txn: &Txn<'_>,
        kind: &Kind,
        namespace: &str,
        name: &str,
    ) -> Result<(), ApiError> {
        let namespaces = namespaces();
        match txn.get(self.table(namespaces), &Key::new("", namespace)) {
            None => Err(status::not_found(namespaces, namespace).into()),
            Some(e) if e.attrs.field("status.phase") == "Terminating" => {
                let why = format!(
                    "unable to create new content in namespace {namespace} because it is being terminated"
                );
                let mut refused = status::forbidden(kind, name, &why);
                refused["details"]["causes"] = serde_json::json!([{
                    "reason": "NamespaceTerminating",
                    "message": format!("namespace {namespace} is being terminated"),
                    "field": "metadata.namespace",
                }]);
                Err(refused.into())
            }
            Some(_) => Ok(()),
        }
    }

    /// The stored object or 404.
    pub(crate) fn existing(&self, kind: &Kind, key: &Key) -> Result<Entry, ApiError> {
        self.store
            .get(self.table(kind), key)
            .ok_or_else(|| status::not_found(kind, &key.name).into())
    }
}

pub(crate) fn namespaces() -> &'static Kind {
    lookup("", "v1", "namespaces").expect("invariant: namespaces have a row")
}

/// Turns a refused commit into a reply; a lost race is for the caller.
pub(crate) fn refused(e: CommitError<ApiError>, kind: &Kind, name: &str) -> ApiError {
    match e {
        CommitError::Refused(e) => e,
        CommitError::Raced => status::conflict(kind, name).into(),
        CommitError::TooLarge => status::too_large(OBJECT_BYTES_MAX).into(),
        CommitError::TooDeep => {
            let why = format!("{name:?} is nested deeper than {DEPTH_MAX}");
            status::bad_request(why).into()
        }
        CommitError::Journal(e) => not_journalled(e),
    }
}

/// The disk is full or broken: nothing is acknowledged.
pub(crate) fn not_journalled(e: std::io::Error) -> ApiError {
    tracing::error!(error = %e, "the journal cannot be written");
    status::internal(format_args!("cannot write the journal: {e}")).into()
}

/// A text of metadata, empty when absent.
pub(crate) fn meta<'a>(object: &'a Value, key: &str) -> &'a str {
    object["metadata"][key].as_str().unwrap_or_default()
}

/// Whether metadata lists at least one finalizer.
pub(crate) fn has_finalizers(object: &Value) -> bool {
    object.pointer("/metadata/finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty())
}

/// Removes a member of metadata.
pub(crate) fn remove_meta(object: &mut Value, key: &str) {
    if let Some(Value::Object(m)) = object.get_mut("metadata") {
        m.shift_remove(key);
    }
}
