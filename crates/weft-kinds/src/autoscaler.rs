//! `autoscaling/v1` HorizontalPodAutoscaler as a view of `v2`: its one target is the metric for
//! the use of CPU. What `v1` has no field for is kept in an annotation, so that a client of `v1`
//! that reads and writes loses nothing.

use serde_json::{Map, Value, json};

/// The other metrics, as JSON of `v2`.
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
/// The behavior, as JSON of `v2`.
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
/// A longer annotation is a user's own text.
const ANNOTATION_BYTES_MAX: usize = 64 << 10;

fn is_cpu(metric: &Value) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && metric["resource"]["target"]["averageUtilization"].is_i64()
}

fn fields<'a>(object: &'a mut Value, part: &str) -> Option<&'a mut Map<String, Value>> {
    object.get_mut(part).and_then(Value::as_object_mut)
}

/// Takes an annotation off and reads it; what cannot be read stays.
fn taken(object: &mut Value, name: &str) -> Option<Value> {
    let annotations = object.pointer_mut("/metadata/annotations")?.as_object_mut()?;
    let text = annotations.get(name)?.as_str().filter(|t| t.len() <= ANNOTATION_BYTES_MAX)?;
    let value = serde_json::from_str(text).ok()?;
    annotations.remove(name);
    if annotations.is_empty() {
        fields(object, "metadata")?.remove("annotations");
    }
    Some(value)
}

/// From `v1` to `v2`.
pub fn to_v2(object: &mut Value) {
    let Some(members) = object.as_object_mut() else { return };
    members.insert("apiVersion".to_owned(), json!("autoscaling/v2"));
    let others = taken(object, METRICS);
    let behavior = taken(object, BEHAVIOR);
    if let Some(spec) = fields(object, "spec") {
        let mut metrics = match others {
            Some(Value::Array(others)) => others,
            _ => Vec::new(),
        };
        if let Some(percent) = spec.remove("targetCPUUtilizationPercentage") {
            let target = json!({"type": "Utilization", "averageUtilization": percent});
            let resource = json!({"name": "cpu", "target": target});
            metrics.insert(0, json!({"type": "Resource", "resource": resource}));
        }
        if !metrics.is_empty() {
            spec.insert("metrics".to_owned(), metrics.into());
        }
        if let Some(behavior @ Value::Object(_)) = behavior {
            spec.insert("behavior".to_owned(), behavior);
        }
    }
    if let Some(status) = fields(object, "status")
        && let Some(percent) = status.remove("currentCPUUtilizationPercentage")
    {
        // The value of the measured metric is required and not known here.
        let current = json!({"averageUtilization": percent, "averageValue": "0"});
        let resource = json!({"name": "cpu", "current": current});
        let metric = json!([{"type": "Resource", "resource": resource}]);
        status.insert("currentMetrics".to_owned(), metric);
    }
}

/// From `v2` to `v1`.
pub fn to_v1(object: &mut Value) {
    let Some(members) = object.as_object_mut() else { return };
    members.insert("apiVersion".to_owned(), json!("autoscaling/v1"));
    let mut kept: Vec<(&str, String)> = Vec::new();
    if let Some(spec) = fields(object, "spec") {
        let metrics = spec.remove("metrics");
        let mut metrics = metrics.as_ref().and_then(Value::as_array).cloned().unwrap_or_default();
        if let Some(at) = metrics.iter().position(is_cpu) {
            let percent = metrics.remove(at)["resource"]["target"]["averageUtilization"].take();
            spec.insert("targetCPUUtilizationPercentage".to_owned(), percent);
        }
        if !metrics.is_empty() {
            kept.push((METRICS, Value::from(metrics).to_string()));
        }
        if let Some(behavior) = spec.remove("behavior") {
            kept.push((BEHAVIOR, behavior.to_string()));
        }
    }
    if let Some(status) = fields(object, "status") {
        let measured = status.remove("currentMetrics");
        let measured = measured.as_ref().and_then(Value::as_array);
        let percent = measured.into_iter().flatten().find_map(|m| {
            let found = &m["resource"]["current"]["averageUtilization"];
            (m["resource"]["name"] == "cpu" && found.is_i64()).then(|| found.clone())
        });
        if let Some(percent) = percent {
            status.insert("currentCPUUtilizationPercentage".to_owned(), percent);
        }
        status.remove("conditions");
    }
    for (name, text) in kept {
        if let Some(metadata) = fields(object, "metadata") {
            let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
            if let Some(annotations) = annotations.as_object_mut() {
                annotations.insert(name.to_owned(), text.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_version_loses_nothing() {
        let v1 = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 70}});
        let mut object = v1.clone();
        to_v2(&mut object);
        assert_eq!(object["apiVersion"], "autoscaling/v2");
        assert_eq!(object["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70);
        to_v1(&mut object);
        assert_eq!(object, v1);

        let pods = json!({"type": "Pods", "pods": {"metric": {"name": "x"}}});
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 5}}});
        let v2 = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "metrics": [cpu, pods],
                "behavior": {"scaleUp": {"selectPolicy": "Max"}}}});
        let mut object = v2.clone();
        to_v1(&mut object);
        assert_eq!(object["spec"], json!({"maxReplicas": 3, "targetCPUUtilizationPercentage": 5}));
        to_v2(&mut object);
        assert_eq!(object, v2);
    }

    #[test]
    fn whatever_a_user_writes_there_is_no_panic() {
        for odd in [
            json!({}),
            json!([1]),
            json!({"spec": 1, "metadata": [], "status": "x"}),
            json!({"metadata": {"annotations": {METRICS: "{", BEHAVIOR: "[]"}}, "spec": {}}),
            json!({"metadata": {"annotations": {METRICS: "{}"}}, "spec": {"metrics": 1}}),
        ] {
            let mut object = odd.clone();
            to_v2(&mut object);
            to_v1(&mut object);
        }
    }
}
