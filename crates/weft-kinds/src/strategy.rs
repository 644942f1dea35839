//! What a create, an update or a status update may touch, and what is decided once.
//!
//! To be called before [`validate`](fn@crate::validate); the order with respect to
//! [`default`](crate::default()) does not matter.

mod create;

use serde_json::{Value, json};

use crate::{Generation, Kind};

/// Before a create: replaces `status` where `/status` owns it by the kind's first one, sets
/// `metadata.generation`, and decides what is decided once (a namespace's finalizer, a pod's
/// QoS class).
pub fn prepare_create(kind: &Kind, object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    // A kubelet registers its node with the status in one request.
    if kind.status && kind.type_name() != "core.v1.Node" && !keeps_status(kind) {
        map.shift_remove("status");
    }
    create::once(kind, map);
    drop_topology(kind, object);
    let Some(map) = object.as_object_mut() else { return };
    if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
        match kind.generation {
            Generation::Spec => metadata.insert("generation".into(), 1.into()),
            Generation::Never => metadata.shift_remove("generation"),
        };
    }
}

/// Before an update of the resource itself: `status` stays the stored one, and
/// `metadata.generation` grows when anything but metadata and status changed. What a Service
/// keeps of its allocations is the server's affair.
pub fn prepare_update(kind: &Kind, new: &mut Value, old: &Value) {
    if kind.status && !keeps_status(kind) {
        copy_member(new, old, "status");
    }
    if kind.type_name() == "core.v1.Service" && new["spec"]["type"] != "LoadBalancer" {
        // What a balancer reported goes with the type; taking the balancer down may last longer.
        new["status"]["loadBalancer"] = json!({});
    }
    if kind.type_name() == "apiextensions.v1.CustomResourceDefinition" {
        weft_crd::definition::add_stored_version(new);
    }
    drop_topology(kind, new);
    let generation = old.pointer("/metadata/generation").and_then(Value::as_i64);
    let next = match kind.generation {
        Generation::Never => None,
        Generation::Spec
            if same_but_metadata_and_status(new, old)
                && !relabelled(kind, new, old)
                && !restated(kind, new, old) =>
        {
            generation
        }
        Generation::Spec => Some(generation.unwrap_or(0).saturating_add(1)),
    };
    if let Some(Value::Object(metadata)) = new.get_mut("metadata") {
        match next {
            Some(number) => metadata.insert("generation".into(), number.into()),
            None => metadata.shift_remove("generation"),
        };
    }
}

/// Before an update through `/status`: everything but `status` and metadata's labels and
/// annotations stays the stored one.
pub fn prepare_status_update(new: &mut Value, old: &Value) {
    let mut next = old.clone();
    copy_member(&mut next, new, "status");
    if let (Some(Value::Object(to)), Some(Value::Object(from))) =
        (next.get_mut("metadata"), new.get("metadata"))
    {
        for key in ["labels", "annotations", "finalizers", "resourceVersion", "managedFields"] {
            match from.get(key) {
                Some(value) => to.insert(key.into(), value.clone()),
                None => to.shift_remove(key),
            };
        }
    }
    *new = next;
}

/// The real API forgets to guard the status of ServiceCIDRs; clients may rely on it.
fn keeps_status(kind: &Kind) -> bool {
    kind.type_name() == "networking.v1.ServiceCIDR"
}

/// `deprecatedTopology` was another version's; the real API drops it from every write.
fn drop_topology(kind: &Kind, object: &mut Value) {
    if kind.type_name() == "discovery.v1.EndpointSlice" {
        let endpoints = object.get_mut("endpoints").and_then(Value::as_array_mut);
        for endpoint in endpoints.into_iter().flatten().filter_map(Value::as_object_mut) {
            endpoint.shift_remove("deprecatedTopology");
        }
    }
}

/// The labels of an EndpointSlice count for its generation, too.
fn relabelled(kind: &Kind, new: &Value, old: &Value) -> bool {
    let labels = |object: &Value| object["metadata"]["labels"].clone();
    kind.type_name() == "discovery.v1.EndpointSlice" && labels(new) != labels(old)
}

/// Whether the status of a custom resource changed that is no subresource: then it is like any
/// other member.
fn restated(kind: &Kind, new: &Value, old: &Value) -> bool {
    kind.custom().is_some() && !kind.status && new.get("status") != old.get("status")
}

fn copy_member(to: &mut Value, from: &Value, key: &str) {
    let Some(map) = to.as_object_mut() else { return };
    match from.get(key) {
        Some(value) => map.insert(key.into(), value.clone()),
        None => map.shift_remove(key),
    };
}

fn same_but_metadata_and_status(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return false };
    let skipped = |key: &str| matches!(key, "metadata" | "status" | "apiVersion" | "kind");
    let subset = |a: &serde_json::Map<String, Value>, b: &serde_json::Map<String, Value>| {
        a.iter().all(|(key, value)| skipped(key) || b.get(key) == Some(value))
    };
    subset(new, old) && subset(old, new)
}

#[cfg(test)]
mod tests;
