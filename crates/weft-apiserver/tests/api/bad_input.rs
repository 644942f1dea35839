//! Whatever arrives, the answer is a Status and the server goes on.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::ServiceExt;
use weft_apiserver::{ApiServer, Config};

async fn ask(
    api: &ApiServer,
    method: &str,
    path: &str,
    content_type: &str,
    body: impl Into<Bytes>,
) -> (u16, Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", content_type)
        .body(Full::new(body.into()))
        .unwrap();
    let response = api.service().oneshot(request).await.unwrap();
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&body).unwrap_or_default())
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const BINDING: &str = "/api/v1/namespaces/default/pods/p/binding";
const EVICTION: &str = "/api/v1/namespaces/default/pods/p/eviction";
const TOKEN: &str = "/api/v1/namespaces/default/serviceaccounts/s/token";
const JSON: &str = "application/json";

#[tokio::test]
async fn every_refusal_is_a_status_with_the_right_code() {
    let api = ApiServer::new(Config::default()).unwrap();
    let deep = "[".repeat(100_000);
    let nested = format!(
        "{{\"metadata\":{{\"name\":\"a\"}},\"data\":{}{}",
        "{\"a\":".repeat(50_000),
        "}".repeat(50_000)
    );
    let big = "x".repeat(4 << 20);
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: [*g,*g,*g,*g,*g,*g,*g,*g,*g]\n";
    let cases: Vec<(&str, &str, &str, Bytes, u16)> = vec![
        ("POST", MAPS, JSON, "{".into(), 400),
        ("POST", MAPS, JSON, "".into(), 400),
        ("POST", MAPS, JSON, "[]".into(), 400),
        ("POST", MAPS, JSON, "null".into(), 400),
        ("POST", MAPS, JSON, deep.clone().into(), 400),
        ("POST", MAPS, JSON, nested.into(), 400),
        ("POST", MAPS, JSON, Bytes::from_static(b"\xff\xfe{}"), 400),
        ("POST", MAPS, JSON, big.clone().into(), 413),
        ("POST", MAPS, "application/yaml", "a: [b".into(), 400),
        ("POST", MAPS, "application/yaml", bomb.into(), 400),
        ("POST", MAPS, "application/vnd.kubernetes.protobuf", "k8s\0\u{1}junk".into(), 400),
        ("POST", MAPS, "application/vnd.kubernetes.protobuf", "".into(), 400),
        ("POST", MAPS, "text/plain", "{}".into(), 415),
        ("POST", MAPS, JSON, r#"{"metadata":{"name":"a"},"data":5}"#.into(), 400),
        ("POST", MAPS, JSON, r#"{"metadata":"a"}"#.into(), 400),
        ("POST", MAPS, JSON, r#"{"kind":"Secret","metadata":{"name":"a"}}"#.into(), 400),
        ("POST", MAPS, JSON, r#"{"apiVersion":"v2","metadata":{"name":"a"}}"#.into(), 400),
        ("POST", MAPS, JSON, r#"{"metadata":{"name":"a","namespace":"other"}}"#.into(), 400),
        ("POST", MAPS, JSON, r#"{"metadata":{"name":"a","resourceVersion":"5"}}"#.into(), 400),
        ("POST", MAPS, JSON, r#"{"metadata":{}}"#.into(), 422),
        ("POST", MAPS, JSON, r#"{"metadata":{"name":"../x"}}"#.into(), 422),
        ("POST", "/api/v1/configmaps", JSON, r#"{"metadata":{"name":"a"}}"#.into(), 405),
        ("POST", "/api/v1/nothings", JSON, "{}".into(), 404),
        ("POST", "/healthz", JSON, "{}".into(), 405),
        ("DELETE", "/api/v1/namespaces/default", JSON, "".into(), 403),
        ("DELETE", "/api/v1/namespaces/kube-node-lease", JSON, "".into(), 403),
        ("DELETE", MAPS, JSON, r#"{"gracePeriodSeconds":"1"}"#.into(), 400),
        ("DELETE", MAPS, JSON, r#"{"preconditions":5}"#.into(), 400),
        ("DELETE", MAPS, JSON, "[]".into(), 400),
        ("POST", BINDING, JSON, r#"{"target":{"name":5}}"#.into(), 400),
        (
            "POST",
            BINDING,
            JSON,
            r#"{"metadata":{"annotations":{"a":5}},"target":{"name":"n"}}"#.into(),
            400,
        ),
        ("POST", EVICTION, JSON, r#"{"deleteOptions":{"gracePeriodSeconds":1.5}}"#.into(), 400),
        ("POST", TOKEN, JSON, r#"{"spec":{"audiences":"a"}}"#.into(), 400),
        ("POST", TOKEN, JSON, r#"{"spec":{"expirationSeconds":"600"}}"#.into(), 400),
        (
            "PUT",
            "/api/v1/namespaces/default/configmaps/a",
            JSON,
            r#"{"metadata":{"name":"b"}}"#.into(),
            400,
        ),
        (
            "PUT",
            "/api/v1/namespaces/default/configmaps/a",
            JSON,
            r#"{"metadata":{"name":"a"}}"#.into(),
            404,
        ),
        ("PUT", MAPS, JSON, "{}".into(), 405),
        ("BREW", MAPS, JSON, "{}".into(), 405),
        ("PATCH", "/api/v1/namespaces/kube-system", "text/plain", "{}".into(), 415),
        (
            "PATCH",
            "/api/v1/namespaces/kube-system",
            "application/json-patch+json",
            "{}".into(),
            400,
        ),
        (
            "PATCH",
            "/api/v1/namespaces/kube-system",
            "application/json-patch+json",
            r#"[{"op":"remove","path":"/x"}]"#.into(),
            422,
        ),
        (
            "PATCH",
            "/api/v1/namespaces/kube-system",
            "application/merge-patch+json",
            deep.into(),
            400,
        ),
        (
            "PATCH",
            "/api/v1/namespaces/kube-system",
            "application/merge-patch+json",
            "5".into(),
            400,
        ),
        (
            "PATCH",
            "/api/v1/namespaces/kube-system",
            "application/apply-patch+yaml",
            "a".into(),
            422,
        ),
        (
            "DELETE",
            "/api/v1/namespaces/default/configmaps/a?propagationPolicy=Never",
            JSON,
            "".into(),
            422,
        ),
        ("DELETE", "/api/v1/namespaces/default/configmaps/a", JSON, "{".into(), 400),
        ("GET", "/api/v1/pods?labelSelector=a%20in%20(", JSON, "".into(), 400),
        ("GET", "/api/v1/pods?fieldSelector=nonsense", JSON, "".into(), 400),
        ("GET", "/api/v1/pods?limit=x", JSON, "".into(), 400),
        ("GET", "/api/v1/pods?continue=!!", JSON, "".into(), 400),
        ("GET", "/api/v1/pods?resourceVersion=x", JSON, "".into(), 400),
        ("GET", "/api/v1/pods?watch=1&resourceVersion=x", JSON, "".into(), 400),
        ("GET", "/api/v1/pods?watch=1&sendInitialEvents=true", JSON, "".into(), 422),
        ("GET", "/api/v1/pods?resourceVersion=99999999", JSON, "".into(), 504),
        ("GET", "/api/v1/namespaces/default/pods/p/log", JSON, "".into(), 404),
        ("GET", "/%00/%ff/../..", JSON, "".into(), 404),
        ("POST", "/api/v1/namespaces/default/configmaps?dryRun=Some", JSON, "{}".into(), 422),
        (
            "POST",
            "/api/v1/namespaces/default/configmaps?fieldValidation=Maybe",
            JSON,
            "{}".into(),
            422,
        ),
    ];
    let mut wrong = Vec::new();
    for (method, path, content_type, body, code) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let (got, status) = ask(&api, method, path, content_type, body).await;
        let worded = status["message"].as_str().is_some_and(|m| !m.is_empty());
        if got != code || status["kind"] != "Status" || status["code"] != code || !worded {
            wrong.push(format!(
                "{method} {path} {content_type} {shown}: {got}, not {code}: {status}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let (code, _) = ask(&api, "POST", MAPS, JSON, r#"{"metadata":{"name":"good"}}"#).await;
    assert_eq!(code, 201, "after all that");
}

#[tokio::test]
async fn unknown_fields_are_refused_reported_or_dropped() {
    let api = ApiServer::new(Config::default()).unwrap();
    let body =
        |name: &str| format!(r#"{{"metadata":{{"name":"{name}"}},"data":{{"a":"b"}},"datum":1}}"#);
    let path = |v: &str| format!("{MAPS}?fieldValidation={v}");
    let (code, status) = ask(&api, "POST", &path("Strict"), JSON, body("a")).await;
    assert_eq!(code, 400);
    assert!(status["message"].as_str().unwrap().contains("unknown field \"datum\""), "{status}");
    for mode in ["Warn", "Ignore"] {
        let (code, made) = ask(&api, "POST", &path(mode), JSON, body(&mode.to_lowercase())).await;
        assert_eq!((code, &made["datum"]), (201, &Value::Null));
    }
}

#[tokio::test]
async fn forms_of_an_answer() {
    let api = ApiServer::new(Config::default()).unwrap();
    let get = async |accept: &str, path: &str| {
        let request =
            Request::get(path).header("accept", accept).body(Full::new(Bytes::new())).unwrap();
        let response = api.service().oneshot(request).await.unwrap();
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice::<Value>(&body).unwrap_or_default())
    };
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let (_, t) = get(table, "/api/v1/namespaces").await;
    assert_eq!((&t["kind"], t["rows"].as_array().unwrap().len()), (&json!("Table"), 4));
    assert_eq!(t["rows"][0]["cells"][0], "default");
    assert_eq!(t["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let (_, t) = get(table, "/api/v1/namespaces/default").await;
    assert_eq!(t["rows"].as_array().unwrap().len(), 1);
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let (_, l) = get(partial, "/api/v1/namespaces").await;
    assert_eq!(l["kind"], "PartialObjectMetadataList");
    assert!(l["items"][0].get("spec").is_none());
    let (_, d) =
        get("application/json;as=APIGroupDiscoveryList;v=v2;g=apidiscovery.k8s.io", "/apis").await;
    assert_eq!(d["apiVersion"], "apidiscovery.k8s.io/v2");
    assert_eq!(get("application/json", "/apis").await.1["kind"], "APIGroupList");
    assert_eq!(get("application/json", "/apis/apps/v1").await.1["kind"], "APIResourceList");
    assert_eq!(get("application/vnd.kubernetes.protobuf", "/api/v1/namespaces").await.0, 406);
    assert_eq!(get("*/*", "/version").await.1["gitVersion"], "v1.35.0");
}

#[tokio::test]
async fn no_number_overflows() {
    let api = ApiServer::new(Config::default()).unwrap();
    let account = r#"{"metadata":{"name":"s"}}"#;
    let path = "/api/v1/namespaces/default/serviceaccounts";
    assert_eq!(ask(&api, "POST", path, JSON, account).await.0, 201);
    for (seconds, code) in [(i64::MAX, 422), ((1 << 32) + 1, 422), (1 << 32, 201), (i64::MIN, 422)]
    {
        let body = json!({"spec": {"expirationSeconds": seconds}}).to_string();
        assert_eq!(ask(&api, "POST", TOKEN, JSON, body).await.0, code, "{seconds}");
    }
    let pod = |grace: i64| {
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n",
            "terminationGracePeriodSeconds": grace,
            "containers": [{"name": "c", "image": "i"}]}})
        .to_string()
    };
    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(ask(&api, "POST", pods, JSON, pod(i64::MAX)).await.0, 422);
    assert_eq!(ask(&api, "POST", pods, JSON, pod(1 << 30)).await.0, 201);
    let options = json!({"gracePeriodSeconds": i64::MAX}).to_string();
    let path = "/api/v1/namespaces/default/pods/p";
    assert_eq!(ask(&api, "DELETE", path, JSON, options).await.0, 200);
}

#[tokio::test]
async fn patches_cannot_grow_an_object_without_end() {
    let api = ApiServer::new(Config::default()).unwrap();
    let half = "x".repeat(2 << 20);
    let map = |key: &str| json!({"metadata": {"name": "a"}, "data": {key: half}}).to_string();
    // A ConfigMap ends at 1 MiB of data; what has no limit of its own ends at 3 MiB.
    let path = "/apis/apps/v1/namespaces/default/controllerrevisions";
    let made =
        json!({"metadata": {"name": "a"}, "revision": 1, "data": {"x": {"a": {}}, "y": half}});
    assert_eq!(ask(&api, "POST", path, JSON, made.to_string()).await.0, 201);
    let one = format!("{path}/a");
    let merge = "application/merge-patch+json";
    let (code, status) = ask(&api, "PATCH", &one, merge, map("z")).await;
    assert_eq!((code, &status["reason"]), (413, &json!("RequestEntityTooLarge")), "{status}");
    let steps: Vec<Value> = (0..14)
        .map(|n| {
            let to = format!("/data/x{}", "/a".repeat(1 << n));
            json!({"op": "copy", "from": "/data/x", "path": to})
        })
        .collect();
    let json_patch = "application/json-patch+json";
    let (code, status) = ask(&api, "PATCH", &one, json_patch, Value::from(steps).to_string()).await;
    assert_eq!(code, 422, "{status}");
    assert_eq!(ask(&api, "GET", &one, JSON, "").await.0, 200);
}
