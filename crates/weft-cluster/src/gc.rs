//! Garbage: what is owned goes with its last owner, in the background, in the foreground, or
//! not at all (`Orphan`). Of every kind the API serves.
//!
//! A dependent may be seen before its owner, since each kind has a watch of its own; so the
//! deletion asks the API for every missing owner first ([`Verb::IfGone`]). What waits for its
//! dependents waits until every kind is known.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};

use crate::action::{About, Action, Delete, Gone, Plan, Severity, Verb, value};
use crate::kinds::{Kind, Meta, World};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

enum Owner {
    Solid,
    /// Is being deleted in the foreground and waits for this object.
    Waiting,
    Missing(Gone),
    /// An object of no namespace names an owner of a namespaced kind: it may be anywhere, so the
    /// object stays.
    Impossible,
}

/// How long an owner waits at least before its dependents are believed to be all known: each kind
/// has a watch of its own, and one that was made just before must be seen.
const DEPENDENTS_WAIT: SignedDuration = SignedDuration::from_millis(250);

/// Whether an object is being deleted and has its dependents to see to.
pub(crate) fn ends(world: &World, kind: Kind, namespace: &str, name: &str) -> bool {
    let meta = world.metadata(kind, namespace, name);
    meta.is_some_and(|meta| {
        meta.deletion_timestamp.is_some() && (has(meta, ORPHAN) || has(meta, FOREGROUND))
    })
}

/// What becomes of one object because of its owners or its dependents; and what its Event says,
/// where there is one. `since`: when it was first seen to have its dependents to see to.
pub(crate) fn plan(
    world: &World,
    (kind, namespace, name): (Kind, &str, &str),
    since: Timestamp,
    now: Timestamp,
) -> (Plan, Option<String>) {
    let Some(meta) = world.metadata(kind, namespace, name) else { return (Plan::default(), None) };
    if meta.deletion_timestamp.is_none() {
        let about = About { kind, meta, component: "garbage-collector-controller", now };
        return owned(world, &about);
    }
    let plan = match (has(meta, ORPHAN), has(meta, FOREGROUND)) {
        _ if !world.others_synced() => Plan::default(),
        (true, _) => orphan(world, kind, meta, since, now),
        (_, true) => foreground(world, kind, meta, since, now),
        _ => Plan::default(),
    };
    (plan, None)
}

fn has(meta: &Meta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|held| held == finalizer)
}

fn uid(meta: &Meta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

fn state(world: &World, dependent: &Meta, owner: &OwnerReference) -> Owner {
    // A kind that the API does not serve may be served again.
    let Some(kind) = world.kind_of(&owner.api_version, &owner.kind) else { return Owner::Solid };
    let namespace = dependent.namespace.as_deref().unwrap_or_default();
    if kind.namespaced() && namespace.is_empty() {
        return Owner::Impossible;
    }
    let namespace = if kind.namespaced() { namespace } else { "" };
    let held = world.metadata(kind, namespace, &owner.name);
    match held.filter(|held| uid(held) == owner.uid) {
        None if !world.knows(kind) => Owner::Solid,
        None => Owner::Missing(Gone {
            kind,
            namespace: namespace.to_owned(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        }),
        Some(held) if held.deletion_timestamp.is_some() && has(held, FOREGROUND) => Owner::Waiting,
        Some(_) => Owner::Solid,
    }
}

/// The Event about an owner that is not where the object could have it.
fn complaint(dependent: &Meta, owner: &OwnerReference) -> String {
    let namespace = dependent.namespace.as_deref().unwrap_or_default();
    format!(
        "ownerRef [{}/{}, namespace: {namespace}, name: {}, uid: {}] does not exist in namespace \
         {namespace:?}",
        owner.api_version, owner.kind, owner.name, owner.uid
    )
}

fn owned(world: &World, about: &About<'_>) -> (Plan, Option<String>) {
    let meta = about.meta;
    let (mut solid, mut waiting, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    let mut notices = Vec::new();
    for owner in meta.owner_references.iter().flatten() {
        match state(world, meta, owner) {
            Owner::Solid => solid.push(owner),
            Owner::Waiting => waiting.push(owner),
            Owner::Missing(gone) => {
                if world.find(gone.kind, &gone.uid).is_some() {
                    notices.push(complaint(meta, owner));
                }
                missing.push(gone);
            }
            Owner::Impossible => {
                notices.push(complaint(meta, owner));
                solid.push(owner);
            }
        }
    }
    let mut plan: Plan = decide(world, about, &solid, &waiting, missing).into();
    for notice in &notices {
        let reason = "OwnerRefInvalidNamespace";
        plan.push(Action::event(about, Severity::Warning, reason, notice));
    }
    (plan, (!notices.is_empty()).then(|| notices.join("\n")))
}

fn decide(
    world: &World,
    about: &About<'_>,
    solid: &[&OwnerReference],
    waiting: &[&OwnerReference],
    mut missing: Vec<Gone>,
) -> Vec<Action> {
    let (kind, meta) = (about.kind, about.meta);
    if waiting.is_empty() && missing.is_empty() {
        return Vec::new();
    }
    // What was seen to go need not be asked for.
    missing.retain(|gone| !world.is_gone(gone.kind, &gone.uid));
    if !solid.is_empty() {
        // Another owner still wants it: the others are not owners any more.
        let verb = Verb::Merge(None, body(meta, json!({"ownerReferences": solid})));
        return vec![if_gone(kind, meta, missing, verb)];
    }
    let dependents = world.dependents(uid(meta));
    if !waiting.is_empty() && dependents.iter().any(|(_, one)| has(one, FOREGROUND)) {
        // Its owner waits for it, and it would wait for a dependent that waits as well: this may
        // be a circle, so it stops blocking.
        let mut owners = meta.owner_references.clone().unwrap_or_default();
        if owners.iter().any(|owner| owner.block_owner_deletion == Some(true)) {
            owners.iter_mut().for_each(|owner| owner.block_owner_deletion = Some(false));
            let verb = Verb::Merge(None, body(meta, json!({"ownerReferences": owners})));
            return vec![Action::on(kind, meta, verb)];
        }
    }
    let propagation = if !waiting.is_empty() && !dependents.is_empty() {
        "Foreground"
    } else if has(meta, ORPHAN) {
        "Orphan"
    } else if has(meta, FOREGROUND) {
        "Foreground"
    } else {
        "Background"
    };
    let delete = Delete {
        uid: meta.uid.clone(),
        // Its owners may be others by now.
        version: meta.resource_version.clone(),
        propagation: Some(propagation),
        ..Delete::default()
    };
    vec![if_gone(kind, meta, missing, Verb::Delete(delete))]
}

fn if_gone(kind: Kind, meta: &Meta, missing: Vec<Gone>, verb: Verb) -> Action {
    let verb = match missing.is_empty() {
        true => verb,
        false => Verb::IfGone { missing, then: Box::new(verb) },
    };
    Action::on(kind, meta, verb)
}

/// The owner waits for those dependents that say so (`blockOwnerDeletion`).
fn foreground(world: &World, kind: Kind, meta: &Meta, since: Timestamp, now: Timestamp) -> Plan {
    let blocking = world.dependents(uid(meta)).into_iter().any(|(_, dependent)| {
        dependent
            .owner_references
            .iter()
            .flatten()
            .any(|owner| owner.uid == uid(meta) && owner.block_owner_deletion == Some(true))
    });
    let mut plan = Plan::default();
    if !blocking {
        let_go(kind, meta, FOREGROUND, (since, now), &mut plan);
    }
    plan
}

/// Takes the finalizer off once every dependent must have been seen.
fn let_go(
    kind: Kind,
    meta: &Meta,
    finalizer: &str,
    (since, now): (Timestamp, Timestamp),
    plan: &mut Plan,
) {
    match since.saturating_add(DEPENDENTS_WAIT).unwrap_or(Timestamp::MAX) {
        at if at > now => plan.ask_again(at),
        _ => plan.push(release(kind, meta, finalizer)),
    }
}

fn orphan(world: &World, kind: Kind, meta: &Meta, since: Timestamp, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for (kind, dependent) in world.dependents(uid(meta)) {
        let owners = dependent.owner_references.iter().flatten();
        let kept: Vec<_> = owners.filter(|owner| owner.uid != uid(meta)).collect();
        plan.push(set(kind, dependent, json!({"ownerReferences": kept})));
    }
    if plan.actions.is_empty() {
        let_go(kind, meta, ORPHAN, (since, now), &mut plan);
    }
    plan
}

fn release(kind: Kind, meta: &Meta, finalizer: &str) -> Action {
    let kept: Vec<_> = meta.finalizers.iter().flatten().filter(|held| *held != finalizer).collect();
    set(kind, meta, json!({"finalizers": value(&kept)}))
}

/// Changes metadata on top of what was seen.
fn set(kind: Kind, meta: &Meta, change: Value) -> Action {
    Action::merge(kind, meta, None, body(meta, change))
}

fn body(meta: &Meta, mut change: Value) -> Value {
    change["resourceVersion"] = meta.resource_version.clone().into();
    json!({"metadata": change})
}
