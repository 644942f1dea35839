//! Garbage: what is owned goes with its last owner, in the background, in the foreground, or
//! not at all (`Orphan`).
//!
//! A dependent may be seen before its owner, since each kind has a watch of its own; so the
//! deletion asks the API for every missing owner first ([`Verb::DeleteOrphan`]).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;

use crate::action::{Action, Delete, Plan, Verb, value};
use crate::kinds::{Kind, Meta, World};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

enum Owner {
    Solid,
    /// Is being deleted in the foreground and waits for this object.
    Waiting,
    Missing,
}

/// What becomes of one object because of its owners or its dependents.
pub(crate) fn plan(world: &World, kind: Kind, namespace: &str, name: &str) -> Plan {
    let Some(meta) = world.metadata(kind, namespace, name) else { return Plan::default() };
    let finalizers = meta.finalizers.as_deref().unwrap_or_default();
    let has = |wanted: &str| finalizers.iter().any(|held| held == wanted);
    if meta.deletion_timestamp.is_some() {
        if has(ORPHAN) {
            return orphan(world, kind, meta).into();
        }
        if has(FOREGROUND) {
            return foreground(world, kind, meta).into();
        }
        return Plan::default();
    }
    owned(world, kind, meta).into()
}

fn uid(meta: &Meta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

fn state(world: &World, dependent: &Meta, owner: &OwnerReference) -> Owner {
    // Kinds that are not watched here (custom resources) count as there.
    let Some(kind) = Kind::of(&owner.api_version, &owner.kind) else { return Owner::Solid };
    let namespace = if kind.namespaced() { dependent.namespace.as_deref() } else { None };
    let held = world.metadata(kind, namespace.unwrap_or_default(), &owner.name);
    match held.filter(|held| uid(held) == owner.uid) {
        None => Owner::Missing,
        Some(held)
            if held.deletion_timestamp.is_some()
                && held.finalizers.iter().flatten().any(|one| one == FOREGROUND) =>
        {
            Owner::Waiting
        }
        Some(_) => Owner::Solid,
    }
}

fn owned(world: &World, kind: Kind, meta: &Meta) -> Vec<Action> {
    let (mut solid, mut waiting, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for owner in meta.owner_references.iter().flatten() {
        match state(world, meta, owner) {
            Owner::Solid => solid.push(owner),
            Owner::Waiting => waiting.push(owner),
            Owner::Missing => missing.push(owner.clone()),
        }
    }
    if waiting.is_empty() && missing.is_empty() {
        return Vec::new();
    }
    if !solid.is_empty() {
        // Another owner still wants it. Leave a reference that is merely not seen yet.
        return match waiting.is_empty() {
            true => Vec::new(),
            false => {
                let kept: Vec<&OwnerReference> = solid.into_iter().chain(missing.iter()).collect();
                vec![set(kind, meta, json!({"ownerReferences": kept}))]
            }
        };
    }
    let has_dependents = !world.dependents(uid(meta)).is_empty();
    let propagation = match !waiting.is_empty() && has_dependents {
        true => "Foreground",
        false => "Background",
    };
    let delete =
        Delete { uid: meta.uid.clone(), propagation: Some(propagation), ..Delete::default() };
    vec![Action::on(kind, meta, Verb::DeleteOrphan { missing, delete })]
}

/// The owner waits for those dependents that say so (`blockOwnerDeletion`).
fn foreground(world: &World, kind: Kind, meta: &Meta) -> Vec<Action> {
    let blocking = world.dependents(uid(meta)).into_iter().any(|(_, dependent)| {
        dependent
            .owner_references
            .iter()
            .flatten()
            .any(|owner| owner.uid == uid(meta) && owner.block_owner_deletion == Some(true))
    });
    if blocking { Vec::new() } else { vec![release(kind, meta, FOREGROUND)] }
}

fn orphan(world: &World, kind: Kind, meta: &Meta) -> Vec<Action> {
    let dependents = world.dependents(uid(meta));
    if dependents.is_empty() {
        return vec![release(kind, meta, ORPHAN)];
    }
    dependents
        .into_iter()
        .map(|(kind, dependent)| {
            let owners = dependent.owner_references.iter().flatten();
            let kept: Vec<_> = owners.filter(|owner| owner.uid != uid(meta)).collect();
            set(kind, dependent, json!({"ownerReferences": kept}))
        })
        .collect()
}

fn release(kind: Kind, meta: &Meta, finalizer: &str) -> Action {
    let kept: Vec<_> = meta.finalizers.iter().flatten().filter(|held| *held != finalizer).collect();
    set(kind, meta, json!({"finalizers": value(&kept)}))
}

/// Changes metadata on top of what was seen.
fn set(kind: Kind, meta: &Meta, mut body: serde_json::Value) -> Action {
    body["resourceVersion"] = meta.resource_version.clone().into();
    Action::merge(kind, meta, None, json!({"metadata": body}))
}
