//! What the real API decides once, when an object is created.

use serde_json::{Map, Value, json};

use crate::Kind;

type Object = Map<String, Value>;

pub(super) fn once(kind: &Kind, object: &mut Object) {
    match kind.type_name() {
        "apiextensions.v1.CustomResourceDefinition" => {
            let mut definition = Value::Object(std::mem::take(object));
            weft_crd::definition::add_stored_version(&mut definition);
            if let Value::Object(map) = definition {
                *object = map;
            }
        }
        "core.v1.Namespace" => {
            let spec = object.entry("spec").or_insert_with(|| json!({}));
            if spec.get("finalizers").and_then(Value::as_array).is_none_or(Vec::is_empty)
                && let Some(spec) = spec.as_object_mut()
            {
                spec.insert("finalizers".into(), json!(["kubernetes"]));
            }
            object.insert("status".into(), json!({"phase": "Active"}));
        }
        "core.v1.Pod" => {
            let class = qos_class(object);
            object.insert("status".into(), json!({"phase": "Pending", "qosClass": class}));
        }
        "core.v1.PersistentVolume" | "core.v1.PersistentVolumeClaim" => {
            object.insert("status".into(), json!({"phase": "Pending"}));
        }
        "core.v1.Service" | "networking.v1.Ingress" => {
            object.insert("status".into(), json!({"loadBalancer": {}}));
        }
        "apps.v1.Deployment" | "batch.v1.CronJob" | "batch.v1.Job" => {
            object.insert("status".into(), json!({}));
        }
        "apps.v1.ReplicaSet" | "apps.v1.StatefulSet" | "core.v1.ReplicationController" => {
            object.insert("status".into(), json!({"replicas": 0}));
        }
        "apps.v1.DaemonSet" => {
            object.insert(
                "status".into(),
                json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0,
                       "numberMisscheduled": 0, "numberReady": 0}),
            );
        }
        _ => {}
    }
}

/// BestEffort without requests and limits, Guaranteed when every container limits CPU and
/// memory to what it requests, Burstable otherwise.
fn qos_class(pod: &Object) -> &'static str {
    let containers = ["containers", "initContainers"]
        .into_iter()
        .filter_map(|list| pod.get("spec")?.get(list)?.as_array())
        .flatten();
    let (mut any, mut guaranteed) = (false, true);
    for container in containers {
        let amount = |which: &str, resource: &str| {
            let found = container.pointer(&format!("/resources/{which}/{resource}"));
            found.and_then(Value::as_str).filter(|quantity| *quantity != "0")
        };
        for resource in ["cpu", "memory"] {
            let (request, limit) = (amount("requests", resource), amount("limits", resource));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
