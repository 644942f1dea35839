//! Who owns which field after every kind of write.

use crate::ask::{APPLY, JSON_PATCH, MERGE, Reply, api, get, patch, post, put, send};
use serde_json::{Value, json};
use weft_apiserver::ApiServer;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MAP: &str = "/api/v1/namespaces/default/configmaps/a";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/default/deployments/d";

/// The entries as `manager/operation[/subresource]` and fields.
fn entries(object: &Value) -> Vec<(String, Value)> {
    let list = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    list.iter()
        .map(|e| {
            assert_eq!(e["fieldsType"], "FieldsV1");
            assert!(e["time"].as_str().unwrap().ends_with('Z'), "{e}");
            let text = |k: &str| e[k].as_str().unwrap_or_default().to_owned();
            let mut who = format!("{}/{}", text("manager"), text("operation"));
            if e.get("subresource").is_some() {
                who = format!("{who}/{}", text("subresource"));
            }
            (who, e["fieldsV1"].clone())
        })
        .collect()
}

fn managers(object: &Value) -> Vec<String> {
    entries(object).into_iter().map(|(who, _)| who).collect()
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

async fn apply(api: &ApiServer, path: &str, query: &str, body: Value) -> Reply {
    patch(api, &format!("{path}?{query}"), APPLY, body).await
}

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "labels": {"app": "d"}},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "d"}},
            "template": {"metadata": {"labels": {"app": "d"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

#[tokio::test]
async fn a_create_owns_what_it_sets_and_what_is_defaulted() {
    let api = api();
    let path = format!("{DEPLOYMENTS}?fieldManager=kubectl-create");
    let made = post(&api, &path, deployment()).await.is(201);
    assert_eq!(managers(&made), ["kubectl-create/Update"]);
    assert_eq!(made["metadata"]["managedFields"][0]["apiVersion"], "apps/v1");
    // As a real cluster writes it.
    let expected = json!({
        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
        "f:spec": {
            "f:progressDeadlineSeconds": {},
            "f:replicas": {},
            "f:revisionHistoryLimit": {},
            "f:selector": {},
            "f:strategy": {
                "f:rollingUpdate": {".": {}, "f:maxSurge": {}, "f:maxUnavailable": {}},
                "f:type": {}},
            "f:template": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {},
                        "f:imagePullPolicy": {}, "f:name": {}, "f:resources": {},
                        "f:terminationMessagePath": {}, "f:terminationMessagePolicy": {}}},
                    "f:dnsPolicy": {}, "f:restartPolicy": {}, "f:schedulerName": {},
                    "f:securityContext": {}, "f:terminationGracePeriodSeconds": {}},
            },
        },
    });
    assert_eq!(entries(&made)[0].1, expected, "{:#}", entries(&made)[0].1);
    let service = json!({"metadata": {"name": "s"}, "spec": {"selector": {"app": "d"},
        "ports": [{"port": 80}]}});
    let made = send(
        &api,
        "POST",
        "/api/v1/namespaces/default/services",
        &["content-type: application/json", "user-agent: kubectl/v1.35.0 (linux/amd64)"],
        service.to_string(),
    )
    .await
    .is(201);
    let expected = json!({"f:spec": {"f:internalTrafficPolicy": {},
        "f:ports": {".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}":
            {".": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {}}},
        "f:selector": {}, "f:sessionAffinity": {}, "f:type": {}}});
    assert_eq!(entries(&made), [("kubectl/Update".to_owned(), expected)]);
}

#[tokio::test]
async fn updates_take_what_they_change() {
    let api = api();
    post(&api, &format!("{MAPS}?fieldManager=one"), map(json!({"a": "1", "b": "1"}))).await.is(201);
    let path = format!("{MAP}?fieldManager=two");
    let two = put(&api, &path, map(json!({"a": "1", "b": "2"}))).await.is(200);
    let data = |keys: &[&str], first: bool| {
        let mut f: Value = json!({});
        if first {
            f["."] = json!({});
        }
        keys.iter().for_each(|k| f[format!("f:{k}")] = json!({}));
        json!({"f:data": f})
    };
    let owned = |who: &str, fields: Value| (who.to_owned(), fields);
    assert_eq!(
        entries(&two),
        [owned("one/Update", data(&["a"], true)), owned("two/Update", data(&["b"], false))]
    );
    // Every kind of patch, and a merge with an entry that is there.
    let body = json!({"data": {"c": "3"}});
    patch(&api, &format!("{MAP}?fieldManager=two"), MERGE, body).await.is(200);
    let body = json!([{"op": "add", "path": "/data/d", "value": "4"}]);
    let four = patch(&api, &format!("{MAP}?fieldManager=two"), JSON_PATCH, body).await.is(200);
    assert_eq!(entries(&four)[1], owned("two/Update", data(&["b", "c", "d"], false)));
    // What is removed is nobody's.
    let body = json!({"data": {"a": null, "d": null}});
    let less = patch(&api, &format!("{MAP}?fieldManager=three"), MERGE, body).await.is(200);
    assert_eq!(
        entries(&less),
        [owned("one/Update", json!({"f:data": {}})), owned("two/Update", data(&["b", "c"], false))]
    );
    // What changes nothing writes nothing, and takes nothing.
    let path = format!("{MAP}?fieldManager=x");
    let same = patch(&api, &path, MERGE, json!({"data": {"b": "2"}})).await.is(200);
    assert_eq!(same, less);
}

#[tokio::test]
async fn subresources_have_entries_of_their_own() {
    let api = api();
    post(&api, &format!("{DEPLOYMENTS}?fieldManager=one"), deployment()).await.is(201);
    let status = json!({"status": {"replicas": 1, "conditions":
        [{"type": "Available", "status": "True"}]}, "spec": {"replicas": 7}});
    let path = format!("{DEPLOYMENT}/status?fieldManager=ctrl");
    let with = patch(&api, &path, MERGE, status).await.is(200);
    let expected = json!({"f:status": {"f:conditions": {".": {}, "k:{\"type\":\"Available\"}":
        {".": {}, "f:status": {}, "f:type": {}}}, "f:replicas": {}}});
    assert_eq!(
        entries(&with).iter().find(|e| e.0 == "ctrl/Update/status").unwrap().1["f:status"]["f:conditions"],
        expected["f:status"]["f:conditions"]
    );
    let path = format!("{DEPLOYMENT}/scale?fieldManager=hpa");
    patch(&api, &path, MERGE, json!({"spec": {"replicas": 4}})).await.is(200);
    let scaled = get(&api, DEPLOYMENT).await.is(200);
    let all = entries(&scaled);
    let scale = all.iter().find(|e| e.0 == "hpa/Update/scale").unwrap();
    assert_eq!(scale.1, json!({"f:spec": {"f:replicas": {}}}));
    let one = all.iter().find(|e| e.0 == "one/Update").unwrap();
    assert!(one.1["f:spec"].get("f:replicas").is_none());
}

#[tokio::test]
async fn only_ten_updaters_are_kept_apart() {
    let api = api();
    post(&api, &format!("{MAPS}?fieldManager=m0"), map(json!({"k0": "v"}))).await.is(201);
    let mut last = Value::Null;
    for i in 1..14 {
        let body = json!({"data": {format!("k{i}"): "v"}});
        last = patch(&api, &format!("{MAP}?fieldManager=m{i}"), MERGE, body).await.is(200);
    }
    let all = entries(&last);
    assert_eq!(all.len(), 10, "{:?}", managers(&last));
    let owned: usize = all.iter().map(|(_, f)| f["f:data"].as_object().unwrap().len()).sum();
    assert_eq!(owned, 15, "fourteen keys and the map itself");
    let ancient = all.iter().find(|(who, _)| who == "ancient-changes/Update").unwrap();
    assert!(ancient.1["f:data"].as_object().unwrap().len() >= 5);
}

#[tokio::test]
async fn entries_can_be_dropped_but_not_by_accident() {
    let api = api();
    let made = post(&api, MAPS, map(json!({"a": "1"}))).await.is(201);
    assert_eq!(managers(&made), ["unknown/Update"]);
    for list in [json!([]), Value::Null] {
        let body = json!({"metadata": {"managedFields": list}});
        let kept = patch(&api, MAP, MERGE, body).await.is(200);
        assert_eq!(kept, made);
    }
    let clear = json!({"metadata": {"managedFields": [{}]}});
    let cleared = patch(&api, MAP, MERGE, clear).await.is(200);
    assert_eq!(cleared["metadata"].get("managedFields"), None);
    // Nobody tracks any more, until somebody applies.
    let changed = patch(&api, MAP, MERGE, json!({"data": {"b": "1"}})).await.is(200);
    assert_eq!(changed["metadata"].get("managedFields"), None);
    let applied = apply(&api, MAP, "fieldManager=me", map(json!({"c": "1"}))).await.is(200);
    let all = entries(&applied);
    assert_eq!(managers(&applied), ["me/Apply", "before-first-apply/Update"]);
    assert_eq!(all[1].1, json!({"f:data": {".": {}, "f:a": {}, "f:b": {}}}));
    // kubectl rewrites the list by a patch when it migrates.
    let list = json!([{"manager": "kubectl", "operation": "Apply", "apiVersion": "v1",
        "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:a": {}}}}]);
    let body = json!([{"op": "replace", "path": "/metadata/managedFields", "value": list}]);
    let replaced = patch(&api, MAP, JSON_PATCH, body).await.is(200);
    assert_eq!(replaced["metadata"]["managedFields"], list);
    // What cannot be read leaves the stored ones.
    let body = json!({"metadata": {"managedFields": [{"manager": "x", "fieldsType": "F"}]}});
    let kept = patch(&api, MAP, MERGE, body).await.is(200);
    assert_eq!(kept["metadata"]["managedFields"], list);
}

#[tokio::test]
async fn applying_conflicts_with_updates_and_takes_over_by_force() {
    let api = api();
    let path = format!("{MAPS}?fieldManager=one");
    post(&api, &path, map(json!({"a": "1", "b": "1"}))).await.is(201);
    let one = apply(&api, MAP, "fieldManager=me", map(json!({"a": "2"}))).await.refused(409);
    assert_eq!(one, "Apply failed with 1 conflict: conflict with \"one\" using v1: .data.a");
    let reply = apply(&api, MAP, "fieldManager=me", map(json!({"a": "2", "b": "2"}))).await;
    assert_eq!(
        reply.json["details"]["causes"],
        json!([
            {"reason": "FieldManagerConflict", "message": "conflict with \"one\" using v1", "field": ".data.a"},
            {"reason": "FieldManagerConflict", "message": "conflict with \"one\" using v1", "field": ".data.b"}])
    );
    assert_eq!(
        reply.refused(409),
        "Apply failed with 2 conflicts: conflicts with \"one\" using v1:\n- .data.a\n- .data.b"
    );
    // The same value is owned together.
    apply(&api, MAP, "fieldManager=me", map(json!({"b": "1"}))).await.is(200);
    let forced =
        apply(&api, MAP, "fieldManager=me&force=true", map(json!({"a": "2"}))).await.is(200);
    assert_eq!(forced["data"], json!({"a": "2", "b": "1"}), "b is still the other's");
    assert_eq!(
        entries(&forced),
        [
            ("me/Apply".to_owned(), json!({"f:data": {"f:a": {}}})),
            ("one/Update".to_owned(), json!({"f:data": {".": {}, "f:b": {}}}))
        ]
    );
    // An update takes back, and what is applied no more goes unless someone else owns it.
    let body = json!({"data": {"a": "3"}});
    let taken = patch(&api, &format!("{MAP}?fieldManager=one"), MERGE, body).await.is(200);
    assert_eq!(managers(&taken), ["one/Update"]);
    apply(&api, MAP, "fieldManager=me", map(json!({"x": "1", "y": "1"}))).await.is(200);
    let less = apply(&api, MAP, "fieldManager=me", map(json!({"x": "1"}))).await.is(200);
    assert_eq!(less["data"], json!({"a": "3", "b": "1", "x": "1"}));
    let again = apply(&api, MAP, "fieldManager=me", map(json!({"x": "1"}))).await.is(200);
    assert_eq!(again, less, "nothing changed, no new version");
}

#[tokio::test]
async fn kubectl_goes_on_with_what_it_applied_on_its_own_side() {
    let api = api();
    let last = map(json!({"a": "1", "b": "1"})).to_string() + "\n";
    let mut made = map(json!({"a": "1", "b": "1"}));
    made["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] =
        last.into();
    let path = format!("{MAPS}?fieldManager=kubectl-client-side-apply");
    post(&api, &path, made).await.is(201);
    let other = apply(&api, MAP, "fieldManager=other", map(json!({"a": "2"}))).await;
    assert_eq!(other.code, 409);
    let done =
        apply(&api, MAP, "fieldManager=kubectl", map(json!({"a": "2", "b": "1"}))).await.is(200);
    assert_eq!(done["data"]["a"], "2");
    let note = &done["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    let note: Value = serde_json::from_str(note.as_str().unwrap()).unwrap();
    assert_eq!(note["data"], json!({"a": "2", "b": "1"}));
    // What somebody changed since is not kubectl's any more.
    let body = json!({"data": {"b": "9"}});
    patch(&api, &format!("{MAP}?fieldManager=edit"), MERGE, body).await.is(200);
    let body = map(json!({"a": "2", "b": "1"}));
    let refused = apply(&api, MAP, "fieldManager=kubectl", body).await.refused(409);
    assert_eq!(refused, "Apply failed with 1 conflict: conflict with \"edit\" using v1: .data.b");
}

#[tokio::test]
async fn a_configuration_that_does_not_fit_is_refused() {
    let api = api();
    let q = "fieldManager=me";
    let text = apply(
        &api,
        MAP,
        q,
        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {}, "datum": 1}),
    );
    assert_eq!(
        text.await.refused(500),
        "failed to create typed patch object (default/a; /v1, Kind=ConfigMap): .datum: field not declared in schema"
    );
    let service = json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "s"},
        "spec": {"ports": [{"port": 80}, {"port": 80, "name": "x"}]}});
    let text = apply(&api, "/api/v1/namespaces/default/services/s", q, service).await.refused(500);
    assert!(
        text.ends_with(".spec.ports: duplicate entries for key [port=80,protocol=\"TCP\"]"),
        "{text}"
    );
    let body = json!({"kind": "ConfigMap", "apiVersion": "v2", "metadata": {"name": "a"}});
    assert_eq!(
        apply(&api, MAP, q, body).await.refused(400),
        "Incorrect version specified in apply patch. Specified patch version: v2, expected: v1"
    );
    apply(&api, MAP, q, json!({"metadata": {"name": "a"}})).await.refused(400);
    apply(&api, MAP, q, json!([])).await.refused(400);
    let body = json!({"kind": "ConfigMap", "apiVersion": "v1",
        "metadata": {"name": "a", "managedFields": [{"manager": "x"}]}});
    assert_eq!(apply(&api, MAP, q, body).await.refused(400), "metadata.managedFields must be nil");
    assert_eq!(apply(&api, &format!("{DEPLOYMENT}/status"), q, deployment()).await.code, 404);
}

#[tokio::test]
async fn what_is_applied_no_more_goes_with_what_held_it() {
    let api = api();
    let q = "fieldManager=me";
    let mut with = deployment();
    with["spec"]["template"]["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 5});
    with["spec"]["template"]["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "two", "image": "i"}));
    with["metadata"]["annotations"] = json!({"x": "y"});
    apply(&api, DEPLOYMENT, q, with).await.is(201);
    let less = apply(&api, DEPLOYMENT, q, deployment()).await.is(200);
    let containers = less["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1);
    assert_eq!(containers[0].get("securityContext"), None);
    assert_eq!(less["metadata"].get("annotations"), None);
    assert_eq!(less["spec"]["replicas"], 1);
    let mut none = deployment();
    none["spec"].as_object_mut().unwrap().shift_remove("replicas");
    let none = apply(&api, DEPLOYMENT, q, none).await.is(200);
    assert_eq!(none["spec"]["replicas"], 1, "the default");
}
