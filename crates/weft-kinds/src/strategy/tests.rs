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
fn a_service_keeps_its_allocations() {
    let kind = lookup("", "v1", "services").expect("row");
    let old = || {
        json!({"metadata": {}, "spec": {"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
        "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "externalTrafficPolicy": "Cluster",
        "ports": [{"name": "a", "port": 80, "nodePort": 30080}, {"name": "b", "port": 81, "nodePort": 30081}]}})
    };
    let new = json!({"metadata": {}, "spec": {"type": "NodePort",
        "ports": [{"name": "b", "port": 82}, {"name": "c", "port": 83}]}});
    assert_eq!(
        updated(kind, new, old())["spec"],
        json!({"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
               "ports": [{"name": "b", "port": 82, "nodePort": 30081}, {"name": "c", "port": 83}]})
    );
    let mut cluster = old();
    cluster["spec"]["type"] = "ClusterIP".into();
    assert_eq!(
        updated(kind, cluster, old())["spec"],
        json!({"type": "ClusterIP", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
               "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
               "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]})
    );
    let mut external = old();
    external["spec"]["type"] = "ExternalName".into();
    external["spec"]["externalName"] = "example.org".into();
    let external = updated(kind, external, old());
    assert_eq!(external["spec"].get("clusterIP"), None);
    assert_eq!(external["spec"].get("ipFamilies"), None);
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
    let job = created(
        "batch",
        "jobs",
        json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {}}}}),
    );
    assert_eq!(
        job["spec"]["selector"],
        json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}})
    );
    assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
}
