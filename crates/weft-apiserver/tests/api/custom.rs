//! Custom resources over HTTP: small definitions of our own, one for each thing they can do.

use crate::Server;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::Service;

/// An answer: code, headers, body.
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

/// Sends a request to the server in this process.
pub(crate) async fn send(
    server: &Server,
    method: &str,
    path: &str,
    (content_type, body): (&str, String),
    accept: &str,
) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", content_type)
        .header("accept", accept)
        .body(http_body_util::Full::new(bytes::Bytes::from(body)))
        .unwrap();
    let response = server.api.service().call(request).await.unwrap();
    let (code, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    Answer { code, headers, body: serde_json::from_slice(&bytes).unwrap_or_default() }
}

pub(crate) async fn post(server: &Server, path: &str, body: &Value) -> Answer {
    send(server, "POST", path, ("application/json", body.to_string()), "application/json").await
}

async fn put(server: &Server, path: &str, body: &Value) -> Answer {
    send(server, "PUT", path, ("application/json", body.to_string()), "application/json").await
}

pub(crate) async fn get(server: &Server, path: &str) -> Answer {
    send(server, "GET", path, ("application/json", String::new()), "application/json").await
}

async fn delete(server: &Server, path: &str) -> Answer {
    send(server, "DELETE", path, ("application/json", String::new()), "application/json").await
}

async fn patch(server: &Server, path: &str, kind: &str, body: Value) -> Answer {
    let kind = format!("application/{kind}");
    send(server, "PATCH", path, (&kind, body.to_string()), "application/json").await
}

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

fn definition() -> Value {
    let spec = json!({"type": "object", "description": "What is wanted.", "required": ["color"],
        "properties": {
            "color": {"type": "string", "enum": ["red", "blue"], "description": "Its color."},
            "replicas": {"type": "integer", "default": 1, "minimum": 0},
            "ports": {"type": "array", "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {
                    "name": {"type": "string"}, "port": {"type": "integer"}}}},
            "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    let status = json!({"type": "object", "properties": {
        "replicas": {"type": "integer"}, "selector": {"type": "string"}}});
    let version = json!({"name": "v1", "served": true, "storage": true,
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
        "additionalPrinterColumns": [
            {"name": "Size", "type": "integer", "jsonPath": ".spec.replicas",
                "description": "How many"},
            {"name": "Color", "type": "string", "jsonPath": ".spec.color", "priority": 1},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}],
        "selectableFields": [{"jsonPath": ".spec.color"}],
        "schema": {"openAPIV3Schema": {"type": "object", "description": "A widget.",
            "properties": {"spec": spec, "status": status}}}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"],
                "categories": ["all"]},
            "versions": [version]}})
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

async fn with_widgets() -> Server {
    let server = Server::start(|_| {});
    let made = post(&server, CRDS, &definition()).await;
    assert_eq!(made.code, 201, "{}", made.message());
    server
}

fn condition<'a>(definition: &'a Value, kind: &str) -> &'a Value {
    let all = definition["status"]["conditions"].as_array().unwrap();
    all.iter().find(|c| c["type"] == kind).unwrap()
}

#[tokio::test]
async fn a_definition_is_served_as_soon_as_it_is_made() {
    let s = with_widgets().await;
    let crd = get(&s, &format!("{CRDS}/widgets.example.com")).await.body;
    assert_eq!(condition(&crd, "Established")["status"], "True");
    assert_eq!(condition(&crd, "NamesAccepted")["reason"], "NoConflicts");
    assert_eq!(crd["status"]["acceptedNames"], crd["spec"]["names"]);
    assert_eq!(crd["spec"]["names"]["listKind"], "WidgetList");
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    let resources = get(&s, "/apis/example.com/v1").await.body;
    let names: Vec<&str> = resources["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["widgets", "widgets/scale", "widgets/status"]);
    assert_eq!(resources["resources"][0]["shortNames"], json!(["wd"]));
    let groups = get(&s, "/apis").await.body;
    assert!(groups["groups"].as_array().unwrap().iter().any(|g| g["name"] == "example.com"));
    let paths = get(&s, "/openapi/v3").await.body;
    let url =
        paths["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let document = get(&s, &url).await.body;
    let schema = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(schema["properties"]["spec"]["properties"]["color"]["description"], "Its color.");
    assert_eq!(
        schema["x-kubernetes-group-version-kind"],
        json!([{"group": "example.com", "kind": "Widget", "version": "v1"}])
    );
    let v2 = get(&s, "/openapi/v2").await.body;
    assert!(v2["definitions"]["com.example.v1.Widget"].is_object());
    // A new state of discovery has a new tag.
    let aggregated = "application/json;v=v2;g=apidiscovery.k8s.io;as=APIGroupDiscoveryList";
    let tag = |a: &Answer| a.headers["etag"].clone();
    let none = ("application/json", String::new());
    let before = send(&s, "GET", "/apis", none.clone(), aggregated).await;
    assert_eq!(delete(&s, &format!("{CRDS}/widgets.example.com")).await.code, 200);
    let after = send(&s, "GET", "/apis", none, aggregated).await;
    assert_ne!(tag(&before), tag(&after));
    assert_eq!(get(&s, WIDGETS).await.code, 404);
    assert_eq!(get(&s, &format!("{CRDS}/widgets.example.com")).await.code, 404);
}

#[tokio::test]
async fn objects_are_pruned_defaulted_and_validated() {
    let s = with_widgets().await;
    let made =
        post(&s, WIDGETS, &widget("a", json!({"color": "red", "x": 1, "free": {"y": [1]}}))).await;
    assert_eq!(made.code, 201, "{}", made.message());
    assert_eq!(made.body["spec"], json!({"color": "red", "free": {"y": [1]}, "replicas": 1}));
    assert_eq!(made.headers["warning"], "299 - \"unknown field \\\"spec.x\\\"\"");
    assert_eq!(made.body["metadata"]["generation"], 1);
    let strict = post(
        &s,
        &format!("{WIDGETS}?fieldValidation=Strict"),
        &widget("b", json!({"color": "red", "x": 1})),
    )
    .await;
    assert_eq!(strict.code, 400);
    assert!(
        strict.message().ends_with("strict decoding error: unknown field \"spec.x\""),
        "{}",
        strict.message()
    );
    for (spec, expected) in [
        (json!({}), "spec.color: Required value"),
        (
            json!({"color": "green"}),
            "spec.color: Unsupported value: \"green\": supported values: \"red\", \"blue\"",
        ),
        (
            json!({"color": "red", "replicas": -1}),
            "spec.replicas: Invalid value: -1: spec.replicas in body should be greater than or equal to 0",
        ),
        (json!({"color": "red", "tags": ["a", "a"]}), "spec.tags[1]: Duplicate value: \"a\""),
        (
            json!({"color": "red", "ports": [{"name": "p"}, {"name": "p"}]}),
            "spec.ports[1]: Duplicate value: {\"name\":\"p\"}",
        ),
    ] {
        let refused = post(&s, WIDGETS, &widget("c", spec.clone())).await;
        assert_eq!(refused.code, 422, "{spec}");
        assert!(
            refused
                .message()
                .starts_with(&format!("Widget.example.com \"c\" is invalid: {expected}"))
                || refused.message().contains(expected),
            "{spec}: {}",
            refused.message()
        );
    }
    let wrong = post(
        &s,
        WIDGETS,
        &json!({"apiVersion": "example.com/v1", "kind": "Gadget", "metadata": {"name": "d"}}),
    )
    .await;
    assert_eq!(wrong.code, 400);
}

#[tokio::test]
async fn status_and_scale_are_parts_of_their_own() {
    let s = with_widgets().await;
    let mut first = widget("a", json!({"color": "red"}));
    first["status"] = json!({"replicas": 7});
    let made = post(&s, WIDGETS, &first).await.body;
    assert!(made.get("status").is_none());
    let at = format!("{WIDGETS}/a");
    let mut both = made.clone();
    both["spec"]["color"] = "blue".into();
    both["status"] = json!({"replicas": 3, "selector": "a=b"});
    let updated = put(&s, &format!("{at}/status"), &both).await.body;
    assert_eq!(
        (&updated["spec"]["color"], &updated["status"]["replicas"]),
        (&json!("red"), &json!(3))
    );
    assert_eq!(updated["metadata"]["generation"], 1);
    let mut spec = updated.clone();
    spec["spec"]["color"] = "blue".into();
    spec["status"] = json!({});
    let updated = put(&s, &at, &spec).await.body;
    assert_eq!(
        (&updated["spec"]["color"], &updated["status"]["replicas"]),
        (&json!("blue"), &json!(3))
    );
    assert_eq!(updated["metadata"]["generation"], 2);
    let scale = get(&s, &format!("{at}/scale")).await.body;
    assert_eq!(scale["spec"], json!({"replicas": 1}));
    assert_eq!(scale["status"], json!({"replicas": 3, "selector": "a=b"}));
    let scaled =
        patch(&s, &format!("{at}/scale"), "merge-patch+json", json!({"spec": {"replicas": 5}}))
            .await;
    assert_eq!((scaled.code, &scaled.body["spec"]["replicas"]), (200, &json!(5)));
    let now = get(&s, &at).await.body;
    assert_eq!((&now["spec"]["replicas"], &now["metadata"]["generation"]), (&json!(5), &json!(3)));
}

#[tokio::test]
async fn tables_and_selectors() {
    let s = with_widgets().await;
    for (name, color) in [("a", "red"), ("b", "blue"), ("c", "red")] {
        assert_eq!(post(&s, WIDGETS, &widget(name, json!({"color": color}))).await.code, 201);
    }
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let t = send(&s, "GET", WIDGETS, ("application/json", String::new()), table).await.body;
    let columns: Vec<&str> = t["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(columns, ["Name", "Size", "Color", "Age"]);
    assert_eq!(t["columnDefinitions"][1]["description"], "How many");
    assert_eq!(
        t["rows"][1]["cells"].as_array().unwrap()[..3],
        [json!("b"), json!(1), json!("blue")]
    );
    let red = get(&s, &format!("{WIDGETS}?fieldSelector=spec.color%3Dred")).await.body;
    assert_eq!(red["items"].as_array().unwrap().len(), 2);
    let bad = get(&s, &format!("{WIDGETS}?fieldSelector=spec.replicas%3D1")).await;
    assert_eq!(bad.code, 400);
}

#[tokio::test]
async fn patches_know_the_schema() {
    let s = with_widgets().await;
    let at = format!("{WIDGETS}/a");
    let config = |spec: Value| widget("a", spec);
    let apply = |manager: &str, spec: Value| {
        let path = format!("{at}?fieldManager={manager}");
        let body = config(spec);
        let s = &s;
        async move { patch(s, &path, "apply-patch+yaml", body).await }
    };
    let first =
        apply("one", json!({"color": "red", "ports": [{"name": "a", "port": 1}], "tags": ["x"]}))
            .await;
    assert_eq!(first.code, 201, "{}", first.message());
    let second =
        apply("two", json!({"color": "red", "ports": [{"name": "b", "port": 2}], "tags": ["y"]}))
            .await;
    assert_eq!(second.code, 200, "{}", second.message());
    assert_eq!(
        second.body["spec"]["ports"],
        json!([{"name": "a", "port": 1}, {"name": "b", "port": 2}])
    );
    assert_eq!(second.body["spec"]["tags"], json!(["x", "y"]));
    let conflict =
        apply("two", json!({"color": "blue", "ports": [{"name": "b", "port": 2}]})).await;
    assert_eq!(conflict.code, 409);
    assert!(
        conflict.message().contains("conflict with \"one\": .spec.color"),
        "{}",
        conflict.message()
    );
    // What an applier leaves out goes, if nobody else has it.
    let less = apply("two", json!({"color": "red"})).await;
    assert_eq!(less.body["spec"]["ports"], json!([{"name": "a", "port": 1}]));
    assert_eq!(less.body["spec"]["tags"], json!(["x"]));
    let unknown = apply("two", json!({"color": "red", "nothing": 1})).await;
    assert_eq!(unknown.code, 500);
    assert!(unknown.message().contains(".spec.nothing: field not declared in schema"));
    let merged =
        patch(&s, &at, "merge-patch+json", json!({"spec": {"replicas": 4, "tags": null}})).await;
    assert_eq!(
        (&merged.body["spec"]["replicas"], merged.body["spec"].get("tags")),
        (&json!(4), None)
    );
    let op = json!([{"op": "replace", "path": "/spec/color", "value": "blue"}]);
    assert_eq!(patch(&s, &at, "json-patch+json", op).await.body["spec"]["color"], "blue");
    let strategic = patch(&s, &at, "strategic-merge-patch+json", json!({"spec": {}})).await;
    assert_eq!(strategic.code, 415);
    assert!(!strategic.message().contains("strategic"), "{}", strategic.message());
    // A change that would break the schema is none.
    let broken = patch(&s, &at, "merge-patch+json", json!({"spec": {"color": "green"}})).await;
    assert_eq!(broken.code, 422);
}

#[tokio::test]
async fn names_are_given_to_who_asks_first() {
    let s = with_widgets().await;
    let mut other = definition();
    other["metadata"]["name"] = "gadgets.example.com".into();
    other["spec"]["names"] = json!({"plural": "gadgets", "kind": "Gadget", "shortNames": ["wd"]});
    let made = post(&s, CRDS, &other).await;
    assert_eq!(made.code, 201);
    let path = format!("{CRDS}/gadgets.example.com");
    let crd = get(&s, &path).await.body;
    let refused = condition(&crd, "NamesAccepted");
    assert_eq!(
        (&refused["status"], &refused["reason"]),
        (&json!("False"), &json!("ShortNamesConflict"))
    );
    assert_eq!(refused["message"], "\"wd\" is already in use");
    assert_eq!(condition(&crd, "Established")["reason"], "NotAccepted");
    assert_eq!(get(&s, "/apis/example.com/v1/gadgets").await.code, 404);
    // The name is free as soon as the first one is gone.
    assert_eq!(delete(&s, &format!("{CRDS}/widgets.example.com")).await.code, 200);
    let crd = get(&s, &path).await.body;
    assert_eq!(condition(&crd, "Established")["status"], "True");
    assert_eq!(get(&s, "/apis/example.com/v1/gadgets").await.code, 200);
}

#[tokio::test]
async fn names_of_built_in_kinds_are_not_given() {
    const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let s = Server::start(|_| {});
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}});
    let lease = post(&s, LEASES, &lease).await.body;
    let mut crd = definition();
    crd["metadata"] = json!({"annotations":
        {"api-approved.kubernetes.io": "https://github.com/kubernetes/kubernetes/pull/1"}});
    crd["spec"]["group"] = "coordination.k8s.io".into();
    crd["spec"]["versions"][0]["name"] = "v1beta7".into();
    for (plural, kind, reason, used) in [
        ("leases", "Loan", "PluralConflict", "leases"),
        ("loans", "Lease", "KindConflict", "Lease"),
        ("leases", "Lease", "KindConflict", "Lease"),
    ] {
        let path = format!("{CRDS}/{plural}.coordination.k8s.io");
        crd["metadata"]["name"] = format!("{plural}.coordination.k8s.io").into();
        crd["spec"]["names"] = json!({"plural": plural, "kind": kind});
        let made = post(&s, CRDS, &crd).await;
        assert_eq!(made.code, 201, "{}", made.message());
        let mut found = get(&s, &path).await.body;
        let check = |found: &Value| {
            let names = condition(found, "NamesAccepted");
            assert_eq!((&names["status"], &names["reason"]), (&json!("False"), &json!(reason)));
            assert_eq!(names["message"], format!("{used:?} is already in use"));
            assert_eq!(condition(found, "Established")["status"], "False");
            assert_eq!(found["status"]["acceptedNames"], json!({"plural": "", "kind": ""}));
        };
        check(&found);
        // Nor does who may write the status get them.
        found["status"]["acceptedNames"] = found["spec"]["names"].clone();
        let done = json!({"type": "Established", "status": "True", "reason": "Mine",
            "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        found["status"]["conditions"] = json!([done]);
        let taken = put(&s, &format!("{path}/status"), &found).await;
        assert_eq!(taken.code, 200, "{}", taken.message());
        check(&get(&s, &path).await.body);
        let served = format!("/apis/coordination.k8s.io/v1beta7/namespaces/default/{plural}");
        assert_eq!(get(&s, &served).await.code, 404);
        assert_eq!(delete(&s, &path).await.code, 200);
        assert_eq!(get(&s, &path).await.code, 404);
        assert_eq!(get(&s, &format!("{LEASES}/l")).await.body, lease);
    }
}

#[tokio::test]
async fn a_put_names_the_version_that_it_replaces() {
    let s = with_widgets().await;
    let made = post(&s, WIDGETS, &widget("a", json!({"color": "red"}))).await.body;
    let unversioned = |object: &Value| {
        let mut object = object.clone();
        object["metadata"].as_object_mut().unwrap().shift_remove("resourceVersion");
        object
    };
    let crds = format!("{CRDS}/widgets.example.com");
    let crd = get(&s, &crds).await.body;
    for (path, object, name) in [
        (format!("{WIDGETS}/a"), &made, "widgets.example.com \"a\""),
        (format!("{WIDGETS}/a/status"), &made, "widgets.example.com \"a\""),
        (crds, &crd, "customresourcedefinitions.apiextensions.k8s.io \"widgets.example.com\""),
    ] {
        let refused = put(&s, &path, &unversioned(object)).await;
        assert_eq!(refused.code, 422);
        assert_eq!(
            refused.message(),
            format!(
                "{name} is invalid: metadata.resourceVersion: Invalid value: 0x0: must be \
                 specified for an update"
            )
        );
        assert_eq!(refused.body["details"]["causes"][0]["field"], "metadata.resourceVersion");
        assert_eq!(put(&s, &path, object).await.code, 200, "{path}");
    }
    let missing = put(&s, &format!("{WIDGETS}/b"), &widget("b", json!({"color": "red"}))).await;
    assert_eq!(missing.code, 404);
}

#[tokio::test]
async fn versions_are_views_of_one_storage() {
    let s = Server::start(|_| {});
    let mut crd = definition();
    let mut beta = crd["spec"]["versions"][0].clone();
    beta["name"] = "v1beta1".into();
    beta["storage"] = false.into();
    beta["deprecated"] = true.into();
    beta["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["old"] =
        json!({"type": "string", "default": "o"});
    crd["spec"]["versions"].as_array_mut().unwrap().push(beta);
    let made = post(&s, CRDS, &crd).await;
    assert_eq!(made.code, 201, "{}", made.message());
    let betas = WIDGETS.replace("/v1/", "/v1beta1/");
    let mut w = widget("a", json!({"color": "red"}));
    w["apiVersion"] = "example.com/v1beta1".into();
    let made = post(&s, &betas, &w).await;
    assert_eq!(made.code, 201, "{}", made.message());
    assert_eq!(made.headers["warning"], "299 - \"example.com/v1beta1 Widget is deprecated\"");
    assert_eq!(
        (&made.body["apiVersion"], &made.body["spec"]["old"]),
        (&json!("example.com/v1beta1"), &json!("o"))
    );
    let v1 = get(&s, &format!("{WIDGETS}/a")).await;
    assert_eq!(v1.body["apiVersion"], "example.com/v1");
    assert!(v1.headers.get("warning").is_none());
    let listed = get(&s, &betas).await.body;
    assert_eq!(listed["items"][0]["apiVersion"], "example.com/v1beta1");
    let group = get(&s, "/apis/example.com").await.body;
    assert_eq!(group["preferredVersion"]["version"], "v1");
}

#[tokio::test]
async fn instances_go_before_their_definition() {
    let s = with_widgets().await;
    let mut held = widget("held", json!({"color": "red"}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    assert_eq!(post(&s, WIDGETS, &held).await.code, 201);
    assert_eq!(post(&s, WIDGETS, &widget("free", json!({"color": "red"}))).await.code, 201);
    let path = format!("{CRDS}/widgets.example.com");
    let going = delete(&s, &path).await;
    assert_eq!(going.code, 200);
    assert_eq!(
        going.body["metadata"]["finalizers"],
        json!(["customresourcecleanup.apiextensions.k8s.io"])
    );
    assert_eq!(get(&s, &format!("{WIDGETS}/free")).await.code, 404);
    assert_eq!(get(&s, &format!("{WIDGETS}/held")).await.code, 200);
    let crd = get(&s, &path).await.body;
    assert_eq!(condition(&crd, "Terminating")["reason"], "InstanceDeletionInProgress");
    let refused = post(&s, WIDGETS, &widget("late", json!({"color": "red"}))).await;
    assert_eq!(refused.code, 405);
    let freed = patch(
        &s,
        &format!("{WIDGETS}/held"),
        "merge-patch+json",
        json!({"metadata": {"finalizers": null}}),
    )
    .await;
    assert_eq!(freed.code, 200);
    assert_eq!(get(&s, &path).await.code, 404);
    assert_eq!(get(&s, WIDGETS).await.code, 404);
}

#[tokio::test]
async fn a_watch_ends_with_its_kind() {
    let s = with_widgets().await;
    let request = Request::builder()
        .uri(format!("{WIDGETS}?watch=true"))
        .body(http_body_util::Full::new(bytes::Bytes::new()))
        .unwrap();
    let mut watch = s.api.service().call(request).await.unwrap().into_body();
    assert_eq!(post(&s, WIDGETS, &widget("a", json!({"color": "red"}))).await.code, 201);
    assert_eq!(delete(&s, &format!("{CRDS}/widgets.example.com")).await.code, 200);
    let mut seen = String::new();
    while let Some(frame) = watch.frame().await {
        seen.push_str(std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap());
    }
    let kinds: Vec<String> = seen
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["type"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(kinds, ["ADDED", "DELETED"]);
}

#[tokio::test]
async fn a_new_schema_is_that_of_old_objects_too_and_all_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let start = || Server::start(|c| c.data_dir = Some(dir.path().to_owned()));
    let s = start();
    assert_eq!(post(&s, CRDS, &definition()).await.code, 201);
    let made = post(&s, WIDGETS, &widget("a", json!({"color": "red", "tags": ["t"]}))).await.body;
    let path = format!("{CRDS}/widgets.example.com");
    let mut crd = get(&s, &path).await.body;
    let spec = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    spec["properties"]["size"] = json!({"type": "string", "default": "L"});
    spec["properties"].as_object_mut().unwrap().shift_remove("tags");
    spec["properties"]["color"]["enum"] = json!(["blue"]);
    let changed = put(&s, &path, &crd).await;
    assert_eq!(changed.code, 200, "{}", changed.message());
    assert_eq!(changed.body["metadata"]["generation"], 2);
    let check = |a: Answer| {
        assert_eq!(a.body["spec"], json!({"color": "red", "replicas": 1, "size": "L"}));
        assert_eq!(a.body["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    };
    check(get(&s, &format!("{WIDGETS}/a")).await);
    s.stop().await;
    let s = start();
    check(get(&s, &format!("{WIDGETS}/a")).await);
    let red = get(&s, &format!("{WIDGETS}?fieldSelector=spec.color%3Dred")).await.body;
    assert_eq!(red["items"].as_array().unwrap().len(), 1);
    // What was there may stay as long as it is left alone.
    let more =
        patch(&s, &format!("{WIDGETS}/a"), "merge-patch+json", json!({"spec": {"replicas": 2}}))
            .await;
    assert_eq!(more.code, 200, "{}", more.message());
    let refused = post(&s, WIDGETS, &widget("b", json!({"color": "red"}))).await;
    assert_eq!(refused.code, 422);
}

/// The documents of all published files of one folder, each with its path in the API.
fn published(folder: &str) -> Vec<(String, Value)> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/upstream");
    let mut all = Vec::new();
    for entry in std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten() {
        let Ok(text) = std::fs::read_to_string(entry.path()) else { continue };
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let Ok(value) = <Value as serde::Deserialize>::deserialize(document) else { continue };
            let path = match value["kind"].as_str() {
                Some("CustomResourceDefinition") => CRDS.to_owned(),
                Some(
                    kind @ "ValidatingAdmissionPolicy" | kind @ "ValidatingAdmissionPolicyBinding",
                ) => {
                    let plural = kind.to_lowercase().replace("policy", "policies");
                    let plural = plural
                        .strip_suffix("policiesbinding")
                        .map_or(plural.clone(), |p| format!("{p}policybindings"));
                    format!("/apis/admissionregistration.k8s.io/v1/{plural}")
                }
                _ => continue,
            };
            all.push((path, value));
        }
    }
    all
}

#[tokio::test]
async fn published_definitions_install_unchanged_and_survive() {
    for (folder, least) in
        [("gateway-api/standard", 10), ("gateway-api/experimental", 13), ("network-policy-api", 1)]
    {
        let mut all = published(folder);
        if all.is_empty() {
            println!("SKIP custom::published_definitions: no {folder} beside the project");
            continue;
        }
        if folder == "network-policy-api" {
            // Both channels are one definition.
            all.truncate(1);
        }
        assert!(all.len() >= least, "{folder}: {}", all.len());
        let dir = tempfile::tempdir().unwrap();
        let start = || Server::start(|c| c.data_dir = Some(dir.path().to_owned()));
        let s = start();
        for (path, object) in &all {
            let made = post(&s, &format!("{path}?fieldValidation=Strict"), object).await;
            assert_eq!(
                made.code,
                201,
                "{folder} {}: {}",
                object["metadata"]["name"],
                made.message()
            );
        }
        let at = |path: &str, object: &Value| {
            format!("{path}/{}", object["metadata"]["name"].as_str().unwrap())
        };
        let check = |path: &str, given: &Value, found: Value| {
            let name = &given["metadata"]["name"];
            if path != CRDS {
                return;
            }
            assert_eq!(condition(&found, "Established")["status"], "True", "{name}");
            assert_eq!(found["spec"]["names"], found["status"]["acceptedNames"], "{name}");
            for (i, version) in given["spec"]["versions"].as_array().unwrap().iter().enumerate() {
                let schema = |v: &Value| v["schema"].clone();
                assert_eq!(schema(version), schema(&found["spec"]["versions"][i]), "{name}");
            }
        };
        for (path, object) in &all {
            check(path, object, get(&s, &at(path, object)).await.body);
        }
        let groups = get(&s, "/apis").await.body["groups"].clone();
        s.stop().await;
        let s = start();
        for (path, object) in &all {
            check(path, object, get(&s, &at(path, object)).await.body);
        }
        assert_eq!(get(&s, "/apis").await.body["groups"], groups);
        if folder != "gateway-api/standard" {
            continue;
        }
        let class = |controller: &str| {
            json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
                "metadata": {"name": "c"}, "spec": {"controllerName": controller}})
        };
        let classes = "/apis/gateway.networking.k8s.io/v1/gatewayclasses";
        let made = post(&s, classes, &class("example.com/a")).await;
        assert_eq!(made.code, 201, "{}", made.message());
        // The schema gives the status its first conditions, but a create has no status.
        assert_eq!(made.body["status"]["conditions"][0]["reason"], "Pending");
        let fixed = patch(
            &s,
            &format!("{classes}/c"),
            "merge-patch+json",
            json!({"spec": {"controllerName": "example.com/b"}}),
        )
        .await;
        assert_eq!(fixed.code, 422);
        assert!(
            fixed.message().ends_with(
                "spec.controllerName: Invalid value: \"example.com/b\": field is immutable"
            ),
            "{}",
            fixed.message()
        );
        assert_eq!(
            get(&s, &classes.replace("/v1/", "/v1beta1/")).await.body["items"][0]["apiVersion"],
            "gateway.networking.k8s.io/v1beta1"
        );
    }
}

#[tokio::test]
async fn rules_are_compiled_with_the_definition_and_run_with_each_object() {
    let s = Server::start(|_| {});
    let mut bad = definition();
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    bad.pointer_mut(spec).unwrap()["x-kubernetes-validations"] = json!([{"rule": "self.replicas < 'x'"}, {"rule": "self.color"}, {"rule": "self.nothing == 1"}]);
    let refused = post(&s, CRDS, &bad).await;
    assert_eq!(refused.code, 422);
    let causes = refused.body["details"]["causes"].as_array().unwrap();
    let at = "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations";
    let fields: Vec<&str> = causes.iter().map(|c| c["field"].as_str().unwrap()).collect();
    assert_eq!(fields, [0, 1, 2].map(|i| format!("{at}[{i}].rule")));
    assert!(refused.message().contains("undefined field 'nothing'"), "{}", refused.message());
    assert!(refused.message().contains("cel expression must evaluate to a bool"));
    let mut good = definition();
    good.pointer_mut(spec).unwrap()["x-kubernetes-validations"] = json!([
        {"rule": "self.replicas <= 3", "messageExpression": "'at most 3, not ' + string(self.replicas)", "fieldPath": ".replicas"},
        {"rule": "!has(self.tags) || self.tags.size() < 3", "message": "too many tags", "reason": "FieldValueForbidden"},
        {"rule": "oldSelf.color == self.color || self.replicas > 1", "message": "paint needs two"},
        {"rule": "oldSelf.hasValue() || self.replicas > 0", "optionalOldSelf": true, "message": "begin with one"}]);
    let made = post(&s, CRDS, &good).await;
    assert_eq!(made.code, 201, "{}", made.message());
    let refused = post(&s, WIDGETS, &widget("a", json!({"color": "red", "replicas": 4}))).await;
    assert!(
        refused.message().ends_with("spec.replicas: Invalid value: at most 3, not 4"),
        "{}",
        refused.message()
    );
    let refused =
        post(&s, WIDGETS, &widget("a", json!({"color": "red", "tags": ["a", "b", "c"]}))).await;
    assert!(refused.message().ends_with("spec: Forbidden: too many tags"), "{}", refused.message());
    let refused = post(&s, WIDGETS, &widget("a", json!({"color": "red", "replicas": 0}))).await;
    assert!(
        refused.message().ends_with("spec: Invalid value: begin with one"),
        "{}",
        refused.message()
    );
    assert_eq!(post(&s, WIDGETS, &widget("a", json!({"color": "red"}))).await.code, 201);
    let at = format!("{WIDGETS}/a");
    let painted = patch(&s, &at, "merge-patch+json", json!({"spec": {"color": "blue"}})).await;
    assert!(
        painted.message().ends_with("spec: Invalid value: paint needs two"),
        "{}",
        painted.message()
    );
    let both =
        patch(&s, &at, "merge-patch+json", json!({"spec": {"color": "blue", "replicas": 2}})).await;
    assert_eq!(both.code, 200, "{}", both.message());
    // Rules are not run on what has the wrong type.
    let blocked =
        post(&s, WIDGETS, &widget("b", json!({"color": "red", "replicas": "many"}))).await;
    assert!(blocked.message().contains("<nil>: Invalid value: null: some validation rules were not checked because the object was invalid"), "{}", blocked.message());
}
