use serde_json::{Value, json};

use super::*;
use crate::lookup;

fn updated(kind: &Kind, mut new: Value, old: Value) -> Value {
    prepare_update(kind, &mut new, &old);
    new
}

#[test]
fn generation_grows_with_the_spec_only() {
    let kind = lookup("apps", "v1", "deployments").expect("row");
    let mut object =
        json!({"metadata": {"name": "a"}, "spec": {"replicas": 1}, "status": {"replicas": 9}});
    prepare_create(kind, &mut object);
    assert_eq!(object["metadata"]["generation"], 1);
    assert_eq!(object["status"], json!({}), "a create cannot set status");
    let labelled = updated(
        kind,
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 1}}),
        object.clone(),
    );
    assert_eq!(labelled["metadata"]["generation"], 1);
    assert_eq!(labelled["status"], json!({}));
    let scaled = updated(
        kind,
        json!({"metadata": {}, "spec": {"replicas": 2}, "status": {"x": 1}}),
        object.clone(),
    );
    assert_eq!(scaled["metadata"]["generation"], 2);
    assert_eq!(scaled["status"], json!({}), "an update cannot set status");
    let mut status = json!({"metadata": {"labels": {"l": "1"}}, "spec": {"replicas": 7}, "status": {"replicas": 1}});
    prepare_status_update(&mut status, &object);
    assert_eq!(status["spec"]["replicas"], 1);
    assert_eq!(status["status"], json!({"replicas": 1}));
    assert_eq!(status["metadata"]["generation"], 1);
}

#[test]
fn what_is_decided_at_creation() {
    let created = |group: &str, plural: &str, mut object: Value| {
        prepare_create(lookup(group, "v1", plural).expect("row"), &mut object);
        object
    };
    let namespace = created("", "namespaces", json!({"metadata": {"name": "a"}}));
    assert_eq!(namespace["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(namespace["status"]["phase"], "Active");
    let qos = |resources: Value| {
        let pod = json!({"metadata": {}, "spec": {"containers": [{"resources": resources}]}});
        created("", "pods", pod)["status"]["qosClass"].clone()
    };
    assert_eq!(qos(json!({})), "BestEffort");
    assert_eq!(qos(json!({"requests": {"cpu": "1"}})), "Burstable");
    assert_eq!(qos(json!({"limits": {"cpu": "1", "memory": "1Gi"}})), "Guaranteed");
}
