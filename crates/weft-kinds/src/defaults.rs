//! Kubernetes' own defaults, as its documentation and `pkg/apis/*/v1/defaults.go` give them.
//!
//! A member that is present, whatever its value, is left alone. What is decided once, at
//! creation (phases, finalizers), is in [`crate::strategy`]; what depends on
//! the cluster (ClusterIPs, ipFamilies, node ports) is left to allocation.

mod network;
mod pod;
mod workload;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::Kind;

pub(crate) type Object = Map<String, Value>;

/// Fills in what the real API fills in before validation. Idempotent.
///
/// For pods this includes what the admission plugins of a default cluster add: the default
/// service account, priority and the not-ready and unreachable tolerations.
pub fn default(kind: &Kind, object: &mut Value) {
    if let Some(custom) = kind.custom() {
        return custom.schema().default(object);
    }
    let Some(object) = object.as_object_mut() else { return };
    if let Some((_, fill)) = DEFAULTERS.iter().find(|(name, _)| *name == kind.type_name()) {
        fill(object);
    }
}

type Defaulter = fn(&mut Object);

static DEFAULTERS: &[(&str, Defaulter)] = &[
    ("apiextensions.v1.CustomResourceDefinition", definition),
    ("core.v1.Namespace", namespace),
    ("core.v1.Node", node),
    ("core.v1.Pod", pod::pod),
    ("core.v1.PodTemplate", |object| {
        if let Some(template) = member(object, "template") {
            pod::template(template);
        }
    }),
    ("core.v1.ReplicationController", workload::replication_controller),
    ("core.v1.Secret", secret),
    ("core.v1.Service", network::service),
    ("core.v1.Endpoints", network::endpoints),
    ("core.v1.PersistentVolume", persistent_volume),
    ("core.v1.PersistentVolumeClaim", persistent_volume_claim),
    ("apps.v1.Deployment", workload::deployment),
    ("apps.v1.ReplicaSet", workload::replica_set),
    ("apps.v1.DaemonSet", workload::daemon_set),
    ("apps.v1.StatefulSet", workload::stateful_set),
    ("batch.v1.Job", workload::job),
    ("batch.v1.CronJob", workload::cron_job),
    ("discovery.v1.EndpointSlice", network::endpoint_slice),
    ("networking.v1.NetworkPolicy", network::network_policy),
    ("networking.v1.IngressClass", network::ingress_class),
    ("networking.v1.ServiceCIDR", network::service_cidr),
    ("autoscaling.v2.HorizontalPodAutoscaler", |object| {
        put_in(object, "spec", "minReplicas", 1);
    }),
    ("rbac.v1.RoleBinding", binding),
    ("rbac.v1.ClusterRoleBinding", binding),
    ("scheduling.v1.PriorityClass", |object| {
        put(object, "preemptionPolicy", "PreemptLowerPriority");
    }),
    ("storage.v1.StorageClass", |object| {
        put(object, "reclaimPolicy", "Delete");
        put(object, "volumeBindingMode", "Immediate");
    }),
];

fn definition(object: &mut Object) {
    let Some(spec) = member(object, "spec") else { return };
    put(spec, "conversion", json!({"strategy": "None"}));
    let Some(names) = member(spec, "names") else { return };
    let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    if !kind.is_empty() {
        put(names, "singular", kind.to_lowercase());
        put(names, "listKind", format!("{kind}List"));
    }
}

/// Inserts a member that is absent.
fn put(object: &mut Object, key: &str, value: impl Into<Value>) {
    if !object.contains_key(key) {
        object.insert(key.to_owned(), value.into());
    }
}

/// Inserts a member of a member; the outer one is made if absent.
fn put_in(object: &mut Object, outer: &str, key: &str, value: impl Into<Value>) {
    if let Some(inner) = ensure(object, outer) {
        put(inner, key, value);
    }
}

/// A member that is an object.
fn member<'a>(object: &'a mut Object, key: &str) -> Option<&'a mut Object> {
    object.get_mut(key)?.as_object_mut()
}

/// A member that is an object, made if absent.
fn ensure<'a>(object: &'a mut Object, key: &str) -> Option<&'a mut Object> {
    object.entry(key).or_insert_with(|| json!({})).as_object_mut()
}

/// The items of a list that are objects.
fn items<'a>(object: &'a mut Object, key: &str) -> impl Iterator<Item = &'a mut Object> {
    let list = object.get_mut(key).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

fn text<'a>(object: &'a Object, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn namespace(object: &mut Object) {
    let Some(metadata) = member(object, "metadata") else { return };
    let name = text(metadata, "name").to_owned();
    if !name.is_empty()
        && let Some(labels) = ensure(metadata, "labels")
    {
        labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
    }
}

fn node(object: &mut Object) {
    if let Some(status) = member(object, "status")
        && let Some(capacity) = status.get("capacity").cloned()
    {
        put(status, "allocatable", capacity);
    }
}

/// `stringData` is write-only: it goes into `data` and over what is there.
fn secret(object: &mut Object) {
    put(object, "type", "Opaque");
    if let Some(Value::Object(plain)) = object.shift_remove("stringData")
        && let Some(data) = ensure(object, "data")
    {
        for (key, value) in plain {
            let encoded = STANDARD.encode(value.as_str().unwrap_or_default());
            data.insert(key, encoded.into());
        }
    }
}

fn persistent_volume(object: &mut Object) {
    put_in(object, "spec", "persistentVolumeReclaimPolicy", "Retain");
    put_in(object, "spec", "volumeMode", "Filesystem");
}

pub(crate) fn persistent_volume_claim(object: &mut Object) {
    put_in(object, "spec", "volumeMode", "Filesystem");
    put_in(object, "status", "phase", "Pending");
}

fn binding(object: &mut Object) {
    const RBAC: &str = "rbac.authorization.k8s.io";
    put_in(object, "roleRef", "apiGroup", RBAC);
    for subject in items(object, "subjects") {
        if matches!(text(subject, "kind"), "User" | "Group") {
            put(subject, "apiGroup", RBAC);
        }
    }
}

#[cfg(test)]
mod tests;
