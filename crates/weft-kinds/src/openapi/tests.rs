use serde_json::Value;

use super::*;

fn document(path: &str) -> Value {
    serde_json::from_slice(&v3(path).expect("a document")).expect("JSON")
}

fn references(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(target)) = members.get("$ref") {
                out.push(target.clone());
            }
            members.values().for_each(|v| references(v, out));
        }
        Value::Array(items) => items.iter().for_each(|v| references(v, out)),
        _ => {}
    }
}

#[test]
fn every_reference_has_a_target() {
    for entry in DOCUMENTS.iter() {
        let document = document(&entry.path);
        let mut all = Vec::new();
        references(&document, &mut all);
        assert!(!all.is_empty());
        for target in all {
            let pointer = target.trim_start_matches('#');
            assert!(document.pointer(pointer).is_some(), "{}: {target}", entry.path);
        }
    }
    let v2: Value = serde_json::from_slice(&v2()).expect("JSON");
    let mut all = Vec::new();
    references(&v2, &mut all);
    for target in all {
        assert!(v2.pointer(target.trim_start_matches('#')).is_some(), "v2: {target}");
    }
}

/// What kubectl looks for before it sends a body: the kind's PATCH with `fieldValidation` and
/// strategic merge, and one schema that bears the kind.
#[test]
fn kubectl_finds_every_kind() {
    for kind in kinds().iter().filter(|kind| kind.stored) {
        let document = document(kind.group_path().trim_start_matches('/'));
        let gvk = json!({"group": kind.group, "kind": kind.kind, "version": kind.version});
        let paths = document["paths"].as_object().expect("paths");
        let patch = paths
            .values()
            .map(|item| &item["patch"])
            .find(|op| op["x-kubernetes-group-version-kind"] == gvk)
            .unwrap_or_else(|| panic!("{} has no patch", kind.kind));
        let parameters = patch["parameters"].as_array().expect("list");
        assert!(parameters.iter().any(|p| p["name"] == "fieldValidation" && p["in"] == "query"));
        assert!(
            patch.pointer("/requestBody/content/application~1strategic-merge-patch+json").is_some()
        );
        let schemas = document["components"]["schemas"].as_object().expect("schemas");
        let bearing = schemas.values().filter(|schema| {
            let list = schema["x-kubernetes-group-version-kind"].as_array();
            list.is_some_and(|list| list.contains(&gvk))
        });
        assert_eq!(bearing.count(), 1, "{}", kind.kind);
    }
}

#[test]
fn schemas_carry_merge_keys_and_names() {
    let document = document("apis/apps/v1");
    let schemas = &document["components"]["schemas"];
    let spec = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"];
    assert_eq!(spec["containers"]["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(spec["volumes"]["x-kubernetes-patch-strategy"], "merge,retainKeys");
    assert_eq!(spec["containers"]["x-kubernetes-list-map-keys"], json!(["name"]));
    let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(
        deployment["properties"]["spec"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"
    );
    assert!(deployment["properties"]["spec"]["description"].is_string());
    let path = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments"];
    assert_eq!(path["get"]["operationId"], "listAppsV1NamespacedDeployment");
    assert_eq!(path["get"]["x-kubernetes-action"], "list");
    let scale = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale";
    assert_eq!(document["paths"][scale]["get"]["x-kubernetes-group-version-kind"]["kind"], "Scale");
}

#[test]
fn the_index_lists_every_group_version() {
    let index = v3_index(&[]);
    let paths = index["paths"].as_object().expect("paths");
    assert!(paths.contains_key("api/v1") && paths.contains_key("apis/networking.k8s.io/v1"));
    for (path, entry) in paths {
        let url = entry["serverRelativeURL"].as_str().expect("URL");
        assert_eq!(url, format!("/openapi/v3/{path}?hash={}", v3_hash(path).expect("hash")));
    }
    assert!(v3("apis/nothing/v1").is_none());
}

/// What `kubectl explain` shows as ENUM.
#[test]
fn values_of_named_types_are_told() {
    let core = document("api/v1");
    let of = |kind: &str, field: &str| {
        let properties = format!("/components/schemas/io.k8s.api.core.v1.{kind}/properties");
        core.pointer(&properties).expect("a schema")[field].clone()
    };
    let types = json!(["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    assert_eq!(of("ServiceSpec", "type")["enum"], types);
    let modes = json!(["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"]);
    assert_eq!(of("PersistentVolumeClaimSpec", "accessModes")["items"]["enum"], modes);
    assert_eq!(of("ServiceSpec", "clusterIP")["enum"], Value::Null);
    let discovery = document("apis/discovery.k8s.io/v1");
    let port = "/components/schemas/io.k8s.api.discovery.v1.EndpointPort/properties/protocol/enum";
    assert_eq!(discovery.pointer(port), Some(&json!(["SCTP", "TCP", "UDP"])));
}
