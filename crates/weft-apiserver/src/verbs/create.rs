//! Create, and what every cluster has from the start.

use super::{
    Ctx, Outcome, Part, Tracking, delete::DeleteOptions, meta, refused, remove_meta, to_storage,
};
use crate::{
    Error, alloc,
    error::ApiError,
    fields::{self, Managed},
    server::{State, attrs},
    store::{Commit, CommitError, Expect, Key, Write},
};
use serde_json::{Value, json};
use weft_kinds::{Kind, decode::Decoded, default, schema, status, strategy, validate, warnings};

/// Kubernetes' own: five characters without vowels and look-alikes.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LEN: usize = 5;
/// Longest prefix that leaves room for the suffix.
const GENERATED_PREFIX_LEN_MAX: usize = 63 - SUFFIX_LEN;
/// A generated name that is taken is generated again.
const GENERATE_TRIES: usize = 8;

impl State {
    pub(crate) fn create(
        &self,
        ctx: &mut Ctx,
        kind: &Kind,
        namespace: Option<&str>,
        decoded: Decoded,
    ) -> Result<Outcome, ApiError> {
        self.create_tracked(ctx, kind, namespace, decoded, Tracking::Update)
    }

    pub(crate) fn create_tracked(
        &self,
        ctx: &mut Ctx,
        kind: &Kind,
        namespace: Option<&str>,
        decoded: Decoded,
        tracking: Tracking,
    ) -> Result<Outcome, ApiError> {
        ctx.strict(kind, decoded.strict)?;
        let mut object = decoded.object;
        settle_namespace(kind, &mut object, namespace)?;
        let kind = to_storage(kind, &mut object);
        if !meta(&object, "resourceVersion").is_empty() {
            return Err(status::bad_request(
                "resourceVersion should not be set on objects to be created",
            )
            .into());
        }
        let generated = meta(&object, "name").is_empty();
        if generated && meta(&object, "generateName").is_empty() {
            let missing = weft_kinds::FieldError {
                field: "metadata.name".into(),
                kind: weft_kinds::FieldErrorKind::Required,
                bad_value: None,
                detail: "name or generateName is required".into(),
            };
            return Err(status::invalid(kind, "", &[missing]).into());
        }
        if tracking == Tracking::Update {
            // What the server decides later is nobody's.
            default(kind, &mut object);
            let (now, api_version) = (ctx.now_text(), kind.api_version());
            let by = ctx.writer(Part::Main, kind, &api_version, &now);
            let managed = Managed::of_write(&Value::Null, &object, "");
            remove_meta(&mut object, "managedFields");
            fields::update(schema::of(kind), &Value::Null, &mut object, managed, &by);
        }
        self.admit(kind, &mut object)?;
        prepare(kind, &mut object, ctx);
        for _ in 0..GENERATE_TRIES {
            let mut attempt = object.clone();
            if generated {
                attempt["metadata"]["name"] = generate(meta(&object, "generateName")).into();
            }
            alloc::prepare(kind, &mut attempt, None);
            default(kind, &mut attempt);
            let name = meta(&attempt, "name").to_owned();
            if !alloc::validates(kind, Part::Main) {
                let errors = validate(kind, &attempt, None);
                if !errors.is_empty() {
                    return Err(status::invalid(kind, &name, &errors).into());
                }
            }
            let doubts = warnings(kind, &attempt, None, false);
            let again = alloc::validates(kind, Part::Main).then(|| attempt.clone());
            match self.commit_new(ctx, kind, attempt) {
                Err(CommitError::Raced) if generated => continue,
                Err(CommitError::Raced) => {
                    if let Some(attempt) = again {
                        self.judge(ctx, kind, &attempt)?;
                    }
                    return Err(status::already_exists(kind, &name).into());
                }
                Err(e) => return Err(refused(e, kind, &name)),
                Ok(outcome) => {
                    ctx.warnings.extend(doubts);
                    return Ok(outcome);
                }
            }
        }
        Err(status::already_exists(kind, meta(&object, "generateName")).into())
    }

    fn commit_new(
        &self,
        ctx: &Ctx,
        kind: &Kind,
        object: Value,
    ) -> Result<Outcome, CommitError<ApiError>> {
        let key = Key::new(meta(&object, "namespace"), meta(&object, "name"));
        let entry = self.store.commit(
            Commit {
                table: self.table(kind),
                key: &key,
                expect: Expect::Absent,
                write: Write::Put(object),
                dry_run: ctx.dry_run,
            },
            |v| attrs(kind, v),
            |txn, write| {
                self.registry().check_fresh(txn, kind, true)?;
                if kind.namespaced {
                    self.check_namespace(txn, kind, &key.namespace, &key.name)?;
                }
                self.allocate(ctx, txn, kind, Part::Main, None, write)
            },
            |delta| self.allocated(delta),
        )?;
        Ok(Outcome::entry(201, &entry))
    }

    /// Creates what every cluster has, where it is missing.
    pub(crate) fn bootstrap(&self) -> Result<(), Error> {
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            self.ensure(
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
            )?;
        }
        self.ensure_default_range(true)?;
        // Before anything is given.
        self.repair_allocations(jiff::Timestamp::now());
        // Its address may be somebody else's, or its range on the way out: the objects are served
        // all the same, and it is tried again while the server runs.
        if let Err(error) = self.ensure_kubernetes_service() {
            tracing::warn!(%error, "the Service kubernetes cannot be made");
        }
        self.tend_ranges();
        Ok(())
    }

    /// Creates the `kubernetes` Service and its endpoints where they are missing, or brings them
    /// to what the settings say.
    pub(crate) fn ensure_kubernetes_service(&self) -> Result<(), Error> {
        super::super::server::kubernetes_service(&self.config)
            .into_iter()
            .try_for_each(|object| self.ensure(object))
    }

    /// Creates the object, or brings an older one to this state.
    fn ensure(&self, object: Value) -> Result<(), Error> {
        let mut ctx = Ctx::internal();
        let (version, name) = (object["apiVersion"].as_str(), object["kind"].as_str());
        let kind = version
            .zip(name)
            .and_then(|(v, k)| weft_kinds::lookup_version(v, k))
            .expect("invariant: what the server makes itself has a row");
        let namespace = kind.namespaced.then(|| meta(&object, "namespace").to_owned());
        let key = Key::new(meta(&object, "namespace"), meta(&object, "name"));
        let mut stored = self.store.get(self.table(kind), &key).map(|entry| entry.value());
        let made = if stored.as_ref().is_some_and(|old| is_of_another_family(old, &object)) {
            stored = None;
            self.delete(&ctx, kind, &key, &DeleteOptions::default()).map(drop)
        } else {
            Ok(())
        };
        let made = made.and_then(|()| match stored {
            None => {
                let decoded = Decoded { object, strict: Vec::new() };
                self.create(&mut ctx, kind, namespace.as_deref(), decoded).map(drop)
            }
            // The addresses of this start.
            Some(_) if matches!(&*kind.kind, "EndpointSlice" | "Endpoints") => {
                self.update(&mut ctx, kind, &key, super::Part::Main, object).map(drop)
            }
            Some(_) => Ok(()),
        });
        made.map_err(|e| Error::Config(format!("{}: {}", key.name, e.message())))
    }
}

/// Whether this is a slice that cannot become the other: its address type does not change.
fn is_of_another_family(old: &Value, new: &Value) -> bool {
    old["addressType"] != new["addressType"]
}

/// What the server decides on every new object.
fn prepare(kind: &Kind, object: &mut Value, ctx: &Ctx) {
    for key in ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        remove_meta(object, key);
    }
    // A node registers itself together with its first status.
    let kept = (kind.kind == "Node").then(|| object.get("status").cloned()).flatten();
    strategy::prepare_create(kind, object);
    if let Some(status) = kept {
        object["status"] = status;
    }
    object["metadata"]["uid"] = uuid::Uuid::new_v4().to_string().into();
    object["metadata"]["creationTimestamp"] = ctx.now_text().into();
    match &*kind.kind {
        "Namespace" if kind.group.is_empty() => {
            object["spec"]["finalizers"] = json!(["kubernetes"]);
            object["status"] = json!({"phase": "Active"});
            let name = meta(object, "name").to_owned();
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name.into();
        }
        "Pod" if object["status"].is_null() => {
            object["status"] = json!({"phase": "Pending"});
        }
        _ => {}
    }
}

/// Puts the URL's namespace into the object, or refuses another one.
pub(super) fn settle_namespace(
    kind: &Kind,
    object: &mut Value,
    namespace: Option<&str>,
) -> Result<(), ApiError> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    if !kind.namespaced {
        remove_meta(object, "namespace");
        return Ok(());
    }
    let given = meta(object, "namespace");
    match namespace {
        Some(ns) if given.is_empty() || given == ns => {
            object["metadata"]["namespace"] = ns.into();
            Ok(())
        }
        Some(_) => Err(status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )
        .into()),
        None => Err(status::method_not_allowed().into()),
    }
}

pub(super) fn generate(prefix: &str) -> String {
    let cut = prefix.char_indices().map(|(i, _)| i).find(|i| *i >= GENERATED_PREFIX_LEN_MAX);
    let mut name = prefix[..cut.unwrap_or(prefix.len())].to_owned();
    for _ in 0..SUFFIX_LEN {
        let i: u32 = rand::random();
        name.push(SUFFIX_ALPHABET[i as usize % SUFFIX_ALPHABET.len()] as char);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_keep_to_63_characters() {
        let n = generate("web-");
        assert!(n.starts_with("web-") && n.len() == 9);
        assert_eq!(generate(&"x".repeat(200)).len(), 63);
        assert_ne!(generate("a"), generate("a"));
    }
}
