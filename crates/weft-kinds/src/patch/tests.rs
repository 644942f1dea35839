use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::decode::tests::any_json;
use crate::lookup;

fn deployment(object: Value, patch: Value) -> Result<Value, PatchError> {
    strategic(lookup("apps", "v1", "deployments").expect("row"), &object, &patch)
}

fn pod_spec(object: Value, patch: Value) -> Value {
    let pod = lookup("", "v1", "pods").expect("row");
    let result = strategic(pod, &json!({"spec": object}), &json!({"spec": patch}));
    result.expect("applies")["spec"].clone()
}

#[test]
fn lists_of_maps_merge_by_their_key() {
    let old = json!({"containers": [
        {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}],
         "ports": [{"containerPort": 80, "name": "http"}]},
        {"name": "b", "image": "b:1"}],
        "tolerations": [{"key": "k"}]});
    assert_eq!(
        pod_spec(
            old,
            json!({"containers": [
                {"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "3"}, {"name": "Z", "value": "4"}],
                 "ports": [{"containerPort": 80, "protocol": "UDP"}]}],
                "tolerations": [{"key": "other"}]})
        ),
        json!({"containers": [
            {"name": "a", "image": "a:2",
             "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "3"}, {"name": "Z", "value": "4"}],
             "ports": [{"containerPort": 80, "name": "http", "protocol": "UDP"}]},
            {"name": "b", "image": "b:1"}],
            "tolerations": [{"key": "other"}]})
    );
}

#[test]
fn directives_delete_replace_and_order() {
    let old = || json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]});
    let names = |value: Value| -> Vec<String> {
        let list = value["containers"].as_array().expect("list").clone();
        list.iter().map(|c| c["name"].as_str().expect("name").to_owned()).collect()
    };
    let after = |patch: Value| names(pod_spec(old(), patch));
    assert_eq!(after(json!({"containers": [{"$patch": "delete", "name": "b"}]})), ["a", "c"]);
    assert_eq!(after(json!({"containers": [{"$patch": "replace"}, {"name": "z"}]})), ["z"]);
    assert_eq!(
        after(
            json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}, {"name": "b"}]})
        ),
        ["c", "a", "b"]
    );
    assert_eq!(
        after(json!({"$setElementOrder/containers": [{"name": "a"}, {"name": "d"}, {"name": "c"}],
                     "containers": [{"name": "d"}, {"$patch": "delete", "name": "b"}]})),
        ["a", "d", "c"]
    );
    assert_eq!(after(json!({"containers": [{"name": "z"}]})), ["z", "a", "b", "c"]);
    let error = deployment(
        json!({"spec": {"template": {"spec": {"containers": [{"name": "a"}]}}}}),
        json!({"spec": {"template": {"spec": {"containers": [{"image": "x"}]}}}}),
    );
    assert_eq!(
        error,
        Err(PatchError::Malformed(
            "map: {\"image\":\"x\"} does not contain declared merge key: name".to_owned()
        ))
    );
}

#[test]
fn whole_maps_are_replaced_deleted_and_pruned() {
    let old = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
                              "replicas": 1}});
    assert_eq!(
        deployment(
            old.clone(),
            json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}})
        )
        .expect("applies")["spec"],
        json!({"strategy": {"type": "Recreate"}, "replicas": 1})
    );
    assert!(
        deployment(
            old.clone(),
            json!({"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}})
        )
        .is_err()
    );
    assert_eq!(
        deployment(old.clone(), json!({"spec": {"$patch": "replace", "paused": true}}))
            .expect("applies")["spec"],
        json!({"paused": true})
    );
    assert_eq!(
        deployment(old, json!({"spec": {"strategy": null, "replicas": 2}})).expect("applies")["spec"],
        json!({"replicas": 2})
    );
}

#[test]
fn finalizers_are_a_set_and_volumes_keep_one_source() {
    let object = json!({"metadata": {"finalizers": ["a", "b"], "labels": {"x": "1", "y": "2"}}});
    let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"],
                                    "$setElementOrder/finalizers": ["b", "c"],
                                    "finalizers": ["c"], "labels": {"x": null, "z": "3"}}});
    assert_eq!(
        deployment(object, patch).expect("applies"),
        json!({"metadata": {"finalizers": ["b", "c"], "labels": {"y": "2", "z": "3"}}})
    );
    assert_eq!(
        pod_spec(
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"],
                                "configMap": {"name": "m"}}]})
        ),
        json!({"volumes": [{"name": "v", "configMap": {"name": "m"}}]})
    );
}

#[test]
fn service_ports_merge_by_port() {
    let service = lookup("", "v1", "services").expect("row");
    let result = strategic(
        service,
        &json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}, {"port": 443}],
                         "selector": {"a": "1"}}}),
        &json!({"spec": {"ports": [{"port": 80, "targetPort": 9090}], "selector": {"b": "2"}}}),
    );
    assert_eq!(
        result.expect("applies"),
        json!({"spec": {"ports": [{"port": 80, "targetPort": 9090}, {"port": 443}],
                        "selector": {"a": "1", "b": "2"}}})
    );
}

#[test]
fn json_patches_are_limited() {
    let copies: Vec<Value> =
        (0..40).map(|n| json!({"op": "copy", "from": "", "path": format!("/{n}")})).collect();
    assert!(matches!(
        json(&json!({"a": "x".repeat(100)}), &Value::from(copies)),
        Err(PatchError::TooLarge(_))
    ));
    assert_eq!(
        json(&json!({"a": [1, 2]}), &json!([{"op": "remove", "path": "/a/0"}])),
        Ok(json!({"a": [2]}))
    );
    assert!(matches!(
        json(&json!({}), &json!([{"op": "test", "path": "/a", "value": 1}])),
        Err(PatchError::Unprocessable(_))
    ));
    assert!(matches!(json(&json!({}), &json!({"op": "x"})), Err(PatchError::Malformed(_))));
    // As finalizers are added: only where there are none.
    let first = json!([{"op": "test", "path": "/m/f", "value": null},
        {"op": "add", "path": "/m/f", "value": ["x"]}]);
    assert_eq!(json(&json!({"m": {}}), &first), Ok(json!({"m": {"f": ["x"]}})));
    assert!(json(&json!({"m": {"f": ["y"]}}), &first).is_err());
    assert!(json(&json!({}), &first).is_err(), "what is above must be there");
    assert_eq!(
        merge(&json!({"a": {"b": 1, "c": 2}}), &json!({"a": {"b": null}})),
        Ok(json!({"a": {"c": 2}}))
    );
    assert!(merge(&json!({}), &json!([])).is_err());
}

fn pods() -> impl Strategy<Value = Value> {
    let container =
        ("[abc]", prop::option::of("[xy]"), prop::collection::btree_map("[EFG]", "[12]", 0..3));
    prop::collection::vec(container, 1..4).prop_map(|list| {
        let mut seen = Vec::new();
        let containers: Vec<Value> = list
            .into_iter()
            .filter(|(name, ..)| {
                let new = !seen.contains(name);
                seen.push(name.clone());
                new
            })
            .map(|(name, image, env)| {
                let mut c = json!({"name": name});
                if let Some(image) = image {
                    c["image"] = image.into();
                }
                if !env.is_empty() {
                    c["env"] = env.iter().map(|(k, v)| json!({"name": k, "value": v})).collect();
                }
                c
            })
            .collect();
        json!({"spec": {"containers": containers}})
    })
}

proptest! {
    #[test]
    fn a_patch_applied_twice_is_a_patch_applied_once(object in pods(), patch in pods()) {
        let pod = lookup("", "v1", "pods").expect("row");
        let once = strategic(pod, &object, &patch).expect("applies");
        prop_assert_eq!(strategic(pod, &once, &patch).expect("applies"), once);
    }

    #[test]
    fn an_object_patched_with_itself_is_itself(object in pods()) {
        let pod = lookup("", "v1", "pods").expect("row");
        prop_assert_eq!(strategic(pod, &object, &object).expect("applies"), object);
    }

    #[test]
    fn no_patch_panics(object in any_json(), patch in any_json()) {
        for kind in crate::kinds() {
            let _ = strategic(kind, &object, &patch);
        }
        let _ = merge(&object, &patch);
        let _ = json(&object, &patch);
    }
}

#[test]
fn copies_below_themselves_do_not_double_the_depth() {
    let mut path = "/x".to_owned();
    let patch: Vec<Value> = (0..26)
        .map(|n: u32| {
            let step = json!({"op": "copy", "from": "/x", "path": format!("{path}/a")});
            path.push_str(&"/a".repeat(1 << n.min(8)));
            step
        })
        .collect();
    let refused = json(&json!({"x": {"a": {}}}), &patch.into());
    assert!(matches!(refused, Err(PatchError::Unprocessable(_))), "{refused:?}");
    let chain: Vec<Value> = (0..200)
        .map(|_| json!({"op": "add", "path": "", "value": {"x": {}}}))
        .chain([json!({"op": "move", "from": "/x", "path": format!("/x{}", "/a".repeat(200))})])
        .collect();
    assert!(json(&json!({}), &chain.into()).is_err());
}
