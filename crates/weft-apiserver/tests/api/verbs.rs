//! What the verbs do, beyond what clients of every day ask.

use crate::ask::{
    APPLY, JSON_PATCH, MERGE, STRATEGIC, YAML, api, delete, get, patch, post, put, send,
};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use std::io::Write;
use weft_apiserver::{ApiServer, Config};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MAP: &str = "/api/v1/namespaces/default/configmaps/a";
const PODS: &str = "/api/v1/namespaces/default/pods";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
const TYPE: &str = "content-type: application/json";

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn pod(name: &str, labels: Value) -> Value {
    json!({"metadata": {"name": name, "labels": labels}, "spec": {"nodeName": "n",
        "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]}})
}

#[tokio::test]
async fn options_are_checked() {
    let api = api();
    post(&api, MAPS, map("a", json!({}))).await.is(201);
    let long = "x".repeat(129);
    for (method, query, kind, body, message) in [
        (
            "POST",
            "dryRun=Some".to_owned(),
            "application/json",
            "CreateOptions",
            "dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
        ),
        (
            "PUT",
            "fieldValidation=Loose".to_owned(),
            "application/json",
            "UpdateOptions",
            "fieldValidation: Unsupported value: \"Loose\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
        ),
        (
            "PATCH",
            "force=true".to_owned(),
            MERGE,
            "PatchOptions",
            "force: Forbidden: may not be specified for non-apply patch",
        ),
        (
            "PATCH",
            String::new(),
            APPLY,
            "PatchOptions",
            "fieldManager: Required value: is required for apply patch",
        ),
        (
            "PUT",
            format!("fieldManager={long}"),
            "application/json",
            "UpdateOptions",
            "fieldManager: Too long: may not be more than 128 bytes",
        ),
        (
            "PUT",
            "fieldManager=a%07b".to_owned(),
            "application/json",
            "UpdateOptions",
            "fieldManager: Invalid value: \"a\\u0007b\": invalid character U+0007 (at position 1)",
        ),
        (
            "DELETE",
            "propagationPolicy=Sideways".to_owned(),
            "application/json",
            "DeleteOptions",
            "propagationPolicy: Unsupported value: \"Sideways\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
        ),
    ] {
        let path = if method == "POST" { MAPS } else { MAP };
        let kind_header = format!("content-type: {kind}");
        let text = map("a", json!({})).to_string();
        let text = if method == "DELETE" { String::new() } else { text };
        let reply = send(&api, method, &format!("{path}?{query}"), &[&kind_header], text).await;
        assert_eq!(reply.refused(422), format!("{body}.meta.k8s.io \"\" is invalid: {message}"));
    }
    let both = json!({"propagationPolicy": "Orphan", "orphanDependents": true});
    let both = delete(&api, MAP, both).await.refused(422);
    assert!(
        both.ends_with("orphanDependents and deletionPropagation cannot be both set"),
        "{both}"
    );
    delete(&api, MAP, json!({"dryRun": ["Most"]})).await.refused(422);
    get(&api, MAP).await.is(200);
}

#[tokio::test]
async fn a_put_makes_what_may_be_made_so() {
    let api = api();
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}});
    let made = put(&api, LEASE, lease.clone()).await.is(201);
    assert_eq!(made["metadata"]["managedFields"][0]["operation"], "Update");
    // The real API replaces Leases by version only.
    let refused = put(&api, LEASE, lease).await;
    assert_eq!(
        refused.refused(422),
        "leases.coordination.k8s.io \"l\" is invalid: metadata.resourceVersion: Invalid value: \
         0x0: must be specified for an update"
    );
    put(&api, LEASE, made).await.is(200);
    put(&api, MAP, map("a", json!({}))).await.refused(404);
    let dry = format!("{}?dryRun=All", LEASE.replace("/l", "/m").replace("/mease", "/lease"));
    let lease = json!({"metadata": {"name": "m"}, "spec": {}});
    put(&api, &dry, lease).await.is(201);
    get(&api, dry.split('?').next().unwrap()).await.refused(404);
}

#[tokio::test]
async fn dry_runs_of_every_verb_change_nothing() {
    let api = api();
    post(&api, MAPS, map("a", json!({"k": "v"}))).await.is(201);
    let before = get(&api, MAP).await.is(200);
    let dry = format!("{MAP}?dryRun=All");
    post(&api, &format!("{MAPS}?dryRun=All"), map("b", json!({}))).await.is(201);
    put(&api, &dry, map("a", json!({"k": "w"}))).await.is(200);
    patch(&api, &dry, MERGE, json!({"data": {"k": "w"}})).await.is(200);
    patch(&api, &dry, STRATEGIC, json!({"data": {"k": "w"}})).await.is(200);
    let op = json!([{"op": "replace", "path": "/data/k", "value": "w"}]);
    let shown = patch(&api, &dry, JSON_PATCH, op).await.is(200);
    assert_eq!(shown["data"]["k"], "w");
    let path = format!("{dry}&fieldManager=m&force=true");
    patch(&api, &path, APPLY, map("a", json!({"k": "w"}))).await.is(200);
    let path = format!("{MAPS}/new?dryRun=All&fieldManager=m");
    patch(&api, &path, APPLY, map("new", json!({"k": "w"}))).await.is(201);
    delete(&api, &dry, Value::Null).await.is(200);
    delete(&api, MAP, json!({"dryRun": ["All"]})).await.is(200);
    delete(&api, &format!("{MAPS}?dryRun=All"), Value::Null).await.is(200);
    assert_eq!(get(&api, MAP).await.is(200), before);
    assert_eq!(get(&api, MAPS).await.is(200)["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn deletes_say_what_they_did() {
    let api = api();
    let made = post(&api, MAPS, map("a", json!({}))).await.is(201);
    let wrong = json!({"preconditions": {"uid": "x"}});
    let uid = made["metadata"]["uid"].as_str().unwrap();
    assert_eq!(
        delete(&api, MAP, wrong).await.refused(409),
        format!(
            "Operation cannot be fulfilled on configmaps \"a\": Precondition failed: UID in precondition: x, UID in object meta: {uid}"
        )
    );
    let old = json!({"preconditions": {"resourceVersion": "1"}});
    assert!(
        delete(&api, MAP, old).await.refused(409).contains("ResourceVersion in precondition: 1")
    );
    let gone = delete(&api, MAP, Value::Null).await.is(200);
    assert_eq!(gone["status"], "Success");
    assert_eq!(gone["details"], json!({"name": "a", "kind": "configmaps", "uid": uid}));
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}]}});
    let path = "/api/v1/namespaces/default/services";
    post(&api, path, service).await.is(201);
    let gone = delete(&api, &format!("{path}/s"), Value::Null).await.is(200);
    assert_eq!((&gone["kind"], &gone["metadata"]["name"]), (&json!("Service"), &json!("s")));
}

#[tokio::test]
async fn answers_come_in_the_form_asked_for() {
    let api = api();
    post(&api, MAPS, map("a", json!({"k": "v"}))).await.is(201);
    let with = async |path: &str, accept: &str| {
        send(&api, "GET", path, &[&format!("accept: {accept}")], "").await
    };
    let yaml = with(MAP, "application/yaml").await;
    assert_eq!(yaml.header("content-type"), "application/yaml");
    let back: Value = serde_yaml_ng::from_slice(&yaml.bytes).unwrap();
    assert_eq!(back, get(&api, MAP).await.is(200));
    let list = with(MAPS, "application/yaml;q=0.9, text/plain").await;
    assert!(list.bytes.starts_with(b"kind: ConfigMapList"));
    let pretty = get(&api, &format!("{MAP}?pretty=true")).await;
    assert!(pretty.bytes.starts_with(b"{\n  \""));
    let curl = send(&api, "GET", MAP, &["user-agent: curl/8"], "").await;
    assert_eq!(curl.bytes, pretty.bytes);
    assert_eq!(
        with(MAP, "text/html").await.refused(406),
        "only the following media types are accepted: application/json, application/yaml"
    );
    assert_eq!(with(&format!("{MAPS}?watch=1"), "application/yaml").await.code, 406);
    for form in ["PartialObjectMetadata", "PartialObjectMetadataList"] {
        let accept = format!("application/json;as={form};g=meta.k8s.io;v=v1");
        let one = with(MAP, &accept).await.is(200);
        assert_eq!(one["kind"], "PartialObjectMetadata");
        assert!(one["metadata"]["uid"].is_string() && one.get("data").is_none());
        let list = with(MAPS, &accept).await.is(200);
        assert_eq!(list["kind"], "PartialObjectMetadataList");
        let watch =
            with(&format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion=0"), &accept).await;
        let line = watch.bytes.split(|b| *b == b'\n').next().unwrap();
        let event: Value = serde_json::from_slice(line).unwrap();
        assert_eq!(event["object"]["kind"], "PartialObjectMetadata");
    }
    let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
    for (include, kind) in [
        ("None", Value::Null),
        ("Metadata", json!("PartialObjectMetadata")),
        ("Object", json!("ConfigMap")),
    ] {
        let rows = with(&format!("{MAPS}?includeObject={include}"), table).await.is(200);
        assert_eq!(rows["rows"][0]["object"]["kind"], kind, "{include}");
        assert_eq!(rows["rows"][0]["cells"][0], "a");
    }
}

#[tokio::test]
async fn bodies_come_in_every_form() {
    let api = api();
    let yaml = "metadata:\n  name: y\ndata:\n  k: \"1\"\n";
    let made = send(&api, "POST", MAPS, &[&format!("content-type: {YAML}")], yaml).await.is(201);
    assert_eq!(made["data"]["k"], "1");
    let zip = |bytes: &[u8]| {
        let mut z = GzEncoder::new(Vec::new(), Compression::best());
        z.write_all(bytes).unwrap();
        z.finish().unwrap()
    };
    let zipped = async |body: Vec<u8>, coding: &str| {
        send(&api, "POST", MAPS, &[TYPE, &format!("content-encoding: {coding}")], body).await
    };
    let body = map("z", json!({})).to_string();
    zipped(zip(body.as_bytes()), "gzip").await.is(201);
    zipped(body.clone().into_bytes(), "gzip").await.refused(400);
    zipped(zip(body.as_bytes()), "br").await.refused(415);
    zipped(body.into_bytes(), "identity").await.refused(409);
    let bomb = zip(&vec![b' '; 64 << 20]);
    assert!(bomb.len() < 1 << 20);
    zipped(bomb, "gzip").await.refused(413);
}

#[tokio::test]
async fn every_field_that_is_not_there_is_reported() {
    let api = api();
    post(&api, MAPS, map("a", json!({}))).await.is(201);
    let strict = format!("{MAP}?fieldValidation=Strict");
    let mut wrong = map("a", json!({}));
    wrong["datum"] = json!(1);
    put(&api, &strict, wrong.clone()).await.refused(400);
    for kind in [MERGE, STRATEGIC] {
        let text = patch(&api, &strict, kind, json!({"datum": 1})).await.refused(400);
        assert!(text.contains("unknown field \"datum\""), "{text}");
        let body = r#"{"data": {"k": "1", "k": "2"}}"#;
        let text = send(&api, "PATCH", &strict, &[&format!("content-type: {kind}")], body).await;
        assert!(text.refused(400).contains("duplicate field \"data.k\""));
    }
    let add = json!([{"op": "add", "path": "/datum", "value": 1}]);
    patch(&api, &strict, JSON_PATCH, add).await.refused(400);
    let twice = "data:\n  k: \"1\"\n  k: \"2\"\nkind: ConfigMap\napiVersion: v1\n";
    let path = format!("{strict}&fieldManager=m");
    let text = send(&api, "PATCH", &path, &[&format!("content-type: {APPLY}")], twice).await;
    assert!(text.refused(400).contains("duplicate field"));
    let reply = put(&api, MAP, wrong).await;
    assert_eq!(reply.header("warning"), "299 - \"unknown field \\\"datum\\\"\"");
    let endpoints = get(&api, "/api/v1/namespaces/default/endpoints").await;
    assert_eq!(
        endpoints.header("warning"),
        "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\""
    );
}

#[tokio::test]
async fn status_and_scale_take_every_patch() {
    let api = api();
    let set = json!({"metadata": {"name": "r"}, "spec": {"replicas": 1,
        "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let path = "/apis/apps/v1/namespaces/default/replicasets";
    post(&api, path, set).await.is(201);
    let (status, scale) = (format!("{path}/r/status"), format!("{path}/r/scale"));
    for (n, kind) in [(2, MERGE), (3, STRATEGIC)] {
        let done = patch(&api, &status, kind, json!({"status": {"replicas": n}})).await.is(200);
        assert_eq!(done["status"]["replicas"], n);
        let done = patch(&api, &scale, kind, json!({"spec": {"replicas": n}})).await.is(200);
        assert_eq!((&done["kind"], &done["spec"]["replicas"]), (&json!("Scale"), &json!(n)));
    }
    let op = json!([{"op": "replace", "path": "/status/replicas", "value": 4}]);
    assert_eq!(patch(&api, &status, JSON_PATCH, op).await.is(200)["status"]["replicas"], 4);
    let op = json!([{"op": "replace", "path": "/spec/replicas", "value": 4}]);
    assert_eq!(patch(&api, &scale, JSON_PATCH, op).await.is(200)["spec"]["replicas"], 4);
    let body = json!({"kind": "ReplicaSet", "apiVersion": "apps/v1", "metadata": {"name": "r"},
        "status": {"readyReplicas": 3, "replicas": 4}});
    let path = format!("{status}?fieldManager=m&force=true");
    let done = patch(&api, &path, APPLY, body).await.is(200);
    assert_eq!(done["status"]["readyReplicas"], 3);
    let object = get(&api, &format!("{}/r", path.split("/r/").next().unwrap())).await.is(200);
    assert_eq!(object["metadata"]["generation"], 4, "scale changes it, status does not");
}

#[tokio::test]
async fn pods_get_debuggers_and_other_sizes() {
    let api = api();
    post(&api, PODS, pod("p", json!({}))).await.is(201);
    let (one, debug, resize) =
        (format!("{PODS}/p"), format!("{PODS}/p/ephemeralcontainers"), format!("{PODS}/p/resize"));
    let body = json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "busybox",
        "targetContainerName": "c"}], "nodeName": "other"}});
    let done = patch(&api, &debug, STRATEGIC, body).await.is(200);
    assert_eq!(done["spec"]["ephemeralContainers"][0]["name"], "d");
    assert_eq!(done["spec"]["nodeName"], "n", "nothing else");
    let size = |cpu: &str| {
        json!({"spec": {"containers": [{"name": "c", "image": "x",
        "resources": {"requests": {"cpu": cpu}}}]}})
    };
    patch(
        &api,
        &one,
        STRATEGIC,
        json!({"spec": {"containers":
        [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]}}),
    )
    .await
    .refused(422);
    let done = patch(&api, &resize, STRATEGIC, size("2")).await.is(200);
    let container = &done["spec"]["containers"][0];
    assert_eq!(
        (&container["resources"]["requests"]["cpu"], &container["image"]),
        (&json!("2"), &json!("i"))
    );
    assert_eq!(get(&api, &resize).await.is(200)["spec"], done["spec"]);
}

#[tokio::test]
async fn budgets_refuse_evictions() {
    let api = api();
    for (name, ready) in [("a", "True"), ("b", "True"), ("c", "False")] {
        post(&api, PODS, pod(name, json!({"app": "web"}))).await.is(201);
        let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
        patch(&api, &format!("{PODS}/{name}/status"), MERGE, status).await.is(200);
    }
    let budget = json!({"metadata": {"name": "keep"}, "spec": {"minAvailable": 2,
        "selector": {"matchLabels": {"app": "web"}}}});
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    post(&api, budgets, budget.clone()).await.is(201);
    let evict = async |name: &str| {
        let body =
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        post(&api, &format!("{PODS}/{name}/eviction"), body).await
    };
    let reply = evict("a").await;
    assert_eq!(
        reply.json["details"]["causes"][0]["message"],
        "The disruption budget keep needs 2 healthy pods and has 2 currently"
    );
    assert_eq!(
        reply.refused(429),
        "Cannot evict pod as it would violate the pod's disruption budget."
    );
    evict("c").await.is(201);
    let more = json!({"spec": {"minAvailable": "33%"}});
    patch(&api, &format!("{budgets}/keep"), MERGE, more).await.is(200);
    evict("a").await.is(201);
    evict("b").await.refused(429);
    let mut second = budget;
    second["metadata"]["name"] = "also".into();
    post(&api, budgets, second).await.is(201);
    evict("b").await.refused(500);
    evict("none").await.refused(404);
}

#[tokio::test]
async fn lists_at_versions_and_in_pages() {
    let api = ApiServer::new(Config { watch_history: 8, ..Config::default() }).unwrap();
    for name in ["a", "b", "c", "d"] {
        post(&api, MAPS, map(name, json!({}))).await.is(201);
    }
    let names = |list: &Value| -> String {
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["metadata"]["name"].as_str().unwrap())
            .collect()
    };
    let page = get(&api, &format!("{MAPS}?limit=2")).await.is(200);
    let rv = page["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let token = page["metadata"]["continue"].as_str().unwrap().to_owned();
    post(&api, MAPS, map("e", json!({}))).await.is(201);
    let at = |query: &str| format!("{MAPS}?{query}");
    let exact = format!("resourceVersion={rv}&resourceVersionMatch=Exact");
    assert_eq!(names(&get(&api, &at(&exact)).await.is(200)), "abcd");
    assert_eq!(
        names(&get(&api, &at(&format!("resourceVersion={rv}&limit=9"))).await.is(200)),
        "abcd"
    );
    assert_eq!(names(&get(&api, &at(&format!("resourceVersion={rv}"))).await.is(200)), "abcde");
    let newer = format!("resourceVersion={rv}&resourceVersionMatch=NotOlderThan");
    assert_eq!(names(&get(&api, &at(&newer)).await.is(200)), "abcde");
    assert_eq!(names(&get(&api, &at("resourceVersion=0&limit=1")).await.is(200)), "a");
    for (query, why) in [
        (
            "resourceVersionMatch=Exact",
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "resourceVersion=0&resourceVersionMatch=Exact",
            "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        (
            "resourceVersion=1&resourceVersionMatch=Near",
            "resourceVersionMatch: Unsupported value: \"Near\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
        ),
        (
            "sendInitialEvents=true",
            "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list",
        ),
        (
            "watch=1&resourceVersionMatch=NotOlderThan&resourceVersion=1",
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
    ] {
        let text = get(&api, &at(query)).await.refused(422);
        assert_eq!(text, format!("ListOptions.meta.k8s.io \"\" is invalid: {why}"));
    }
    let late = get(&api, &at("resourceVersion=999999")).await;
    assert_eq!(late.json["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    late.refused(504);
    get(&api, &at("resourceVersion=x")).await.refused(400);
    get(&api, &at("limit=x")).await.refused(400);
    get(&api, &at("continue=nonsense")).await.refused(400);
    get(&api, &at(&format!("continue={token}&resourceVersion={rv}"))).await.refused(400);
    // Pages stay those of their version, until it is forgotten.
    assert_eq!(names(&get(&api, &at(&format!("continue={token}"))).await.is(200)), "cd");
    for i in 0..20 {
        post(&api, MAPS, map(&format!("x{i:02}"), json!({}))).await.is(201);
    }
    let gone = get(&api, &at(&format!("continue={token}&limit=2"))).await;
    let rest = gone.json["metadata"]["continue"].as_str().unwrap().to_owned();
    assert_eq!(gone.json["reason"], "Expired");
    gone.refused(410);
    let page = get(&api, &at(&format!("continue={rest}&limit=3"))).await.is(200);
    assert_eq!(names(&page), "cde");
    let next = page["metadata"]["continue"].as_str().unwrap();
    assert!(names(&get(&api, &at(&format!("continue={next}"))).await.is(200)).starts_with("x00"));
    get(&api, &at("resourceVersion=1&resourceVersionMatch=Exact")).await.refused(410);
}

#[tokio::test]
async fn selectors_of_lists() {
    let api = api();
    for (name, labels) in [
        ("a", json!({"app": "web", "tier": "front"})),
        ("b", json!({"app": "api"})),
        ("c", json!({})),
    ] {
        let mut p = pod(name, labels);
        p["spec"]["restartPolicy"] = if name == "a" { "Never".into() } else { "Always".into() };
        post(&api, PODS, p).await.is(201);
    }
    let names = async |query: &str| -> String {
        let list = get(&api, &format!("{PODS}?{query}")).await.is(200);
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["metadata"]["name"].as_str().unwrap())
            .collect()
    };
    for (query, found) in [
        ("labelSelector=app%3Dweb", "a"),
        ("labelSelector=app%21%3Dweb", "bc"),
        ("labelSelector=app+in+(web,api),tier", "a"),
        ("labelSelector=app+notin+(web)", "bc"),
        ("labelSelector=%21app", "c"),
        ("fieldSelector=spec.restartPolicy%3DNever", "a"),
        ("fieldSelector=spec.restartPolicy%21%3DNever", "bc"),
        ("fieldSelector=metadata.name%3Db,status.phase%3DPending", "b"),
        ("fieldSelector=spec.nodeName%3Dn&labelSelector=app", "ab"),
    ] {
        assert_eq!(names(query).await, found, "{query}");
    }
    let bad = get(&api, &format!("{PODS}?fieldSelector=spec.x%3Dy")).await.refused(400);
    assert_eq!(bad, "field label not supported: spec.x");
    get(&api, &format!("{PODS}?labelSelector=a+b")).await.refused(400);
}

#[tokio::test]
async fn names_and_conflicts() {
    let api = api();
    post(&api, MAPS, map("a", json!({}))).await.is(201);
    let again = post(&api, MAPS, map("a", json!({}))).await;
    assert_eq!(again.json["details"], json!({"name": "a", "kind": "configmaps"}));
    assert_eq!(again.refused(409), "configmaps \"a\" already exists");
    let mut stale = map("a", json!({}));
    stale["metadata"]["resourceVersion"] = "1".into();
    let stale = put(&api, MAP, stale).await;
    assert_eq!(stale.json["details"], json!({"name": "a", "kind": "configmaps"}));
    assert!(stale.refused(409).starts_with(
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified"
    ));
    let mut other = map("a", json!({}));
    other["metadata"]["uid"] = "other".into();
    assert!(put(&api, MAP, other).await.refused(409).contains("UID in precondition: other"));
    put(&api, MAP, map("b", json!({}))).await.refused(400);
    let mut link = map("l", json!({}));
    link["metadata"]["selfLink"] = "/x".into();
    let made = post(&api, MAPS, link).await.is(201);
    assert_eq!(made["metadata"].get("selfLink"), None);
    assert_eq!(made["metadata"].get("generation"), None);
}
