//! The networking kinds, request by request, against what the real API server answered.
//!
//! `cases.ndjson` has one case a line: the ranges of the cluster and the steps of one client,
//! each with the answer of Kubernetes 1.35's own registry code (object, error, warnings, cells
//! of the table), as facts. Addresses and node ports that chance decides are written `v4#0`,
//! `v6#0`, `p#0` in the order of their appearance, so that sharing is compared, too.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use tower::ServiceExt;
use weft_apiserver::{ApiServer, Config};

const CASES: &str = include_str!("cases.ndjson");

struct Answer {
    code: u16,
    body: Value,
    warnings: Vec<String>,
}

async fn call(
    api: &ApiServer,
    method: Method,
    path: &str,
    kind: &str,
    accept: &str,
    body: &Value,
) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .header("accept", accept)
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    let response = api.service().oneshot(request).await.unwrap();
    let warnings = response.headers().get_all("warning").iter();
    let warnings = warnings
        .map(|w| {
            let text = w.to_str().unwrap().splitn(3, ' ').nth(2).unwrap();
            let quoted = text.strip_prefix('"').unwrap().strip_suffix('"').unwrap();
            quoted.replace("\\\"", "\"")
        })
        // Of the group version, not of the registry that was asked.
        .filter(|w| !w.starts_with("v1 Endpoints is deprecated"))
        .collect();
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    Answer { code, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null), warnings }
}

fn collection(object: &Value) -> String {
    let (plural, namespaced) = match object["kind"].as_str().unwrap() {
        "Service" => ("services", true),
        "Endpoints" => ("endpoints", true),
        "EndpointSlice" => ("endpointslices", true),
        "Ingress" => ("ingresses", true),
        "NetworkPolicy" => ("networkpolicies", true),
        "IngressClass" => ("ingressclasses", false),
        "IPAddress" => ("ipaddresses", false),
        "ServiceCIDR" => ("servicecidrs", false),
        other => panic!("{other}"),
    };
    let version = object["apiVersion"].as_str().unwrap();
    let root = if version == "v1" { "/api/v1".into() } else { format!("/apis/{version}") };
    let space = if namespaced { "/namespaces/default" } else { "" };
    format!("{root}{space}/{plural}")
}

/// Names for what chance decided.
#[derive(Default)]
struct Chance {
    /// The text of all steps: what stands there is no chance.
    given: String,
    names: BTreeMap<String, String>,
    counts: BTreeMap<&'static str, usize>,
}

impl Chance {
    fn name(&mut self, kind: &'static str, text: &str) -> String {
        let given = if kind == "p" { text.to_owned() } else { format!("{text:?}") };
        if self.given.contains(&given) {
            return text.to_owned();
        }
        if let Some(name) = self.names.get(text) {
            return name.clone();
        }
        let count = self.counts.entry(kind).or_default();
        let name = format!("{kind}#{count}");
        *count += 1;
        self.names.insert(text.to_owned(), name.clone());
        name
    }

    fn ip(&mut self, ip: &mut Value) {
        let text = ip.as_str().unwrap_or_default().to_owned();
        if !text.is_empty() && text != "None" {
            *ip = self.name(if text.contains(':') { "v6" } else { "v4" }, &text).into();
        }
    }

    fn port(&mut self, port: &mut Value) {
        if let Some(number) = port.as_i64() {
            *port = self.name("p", &number.to_string()).into();
        }
    }

    fn mask(&mut self, service: &mut Value) {
        let Some(spec) = service["spec"].as_object_mut() else { return };
        if let Some(ip) = spec.get_mut("clusterIP") {
            self.ip(ip);
        }
        for ip in spec.get_mut("clusterIPs").and_then(Value::as_array_mut).into_iter().flatten() {
            self.ip(ip);
        }
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(port) = port.get_mut("nodePort") {
                self.port(port);
            }
        }
        if let Some(port) = spec.get_mut("healthCheckNodePort") {
            self.port(port);
        }
    }

    fn mask_text(&self, text: &str) -> String {
        let mut names: Vec<_> = self.names.iter().collect();
        names.sort_by_key(|(k, _)| std::cmp::Reverse(k.len()));
        names.into_iter().fold(text.to_owned(), |t, (k, v)| t.replace(k, v))
    }
}

/// The answer in the form of the file.
fn seen(answer: Answer, cells: Option<Vec<Value>>, chance: &mut Chance) -> Value {
    let mut seen = Map::new();
    if !answer.warnings.is_empty() {
        seen.insert("warnings".into(), json!(answer.warnings));
    }
    let mut body = answer.body;
    if answer.code >= 300 {
        let masked = |text: &Value| chance.mask_text(text.as_str().unwrap_or_default());
        let mut error = json!({"code": answer.code, "message": masked(&body["message"])});
        if let Some(causes) = body["details"]["causes"].as_array() {
            let text = |c: &Value, k: &str| masked(&c[k]);
            error["causes"] = causes
                .iter()
                .map(|c| json!({"field": text(c, "field"), "message": text(c, "message"), "reason": text(c, "reason")}))
                .collect();
        }
        seen.insert("error".into(), error);
        return seen.into();
    }
    if body["kind"] == "Service" {
        chance.mask(&mut body);
    }
    if let Some(object) = body.as_object_mut() {
        let metadata = object.remove("metadata").unwrap_or_default();
        object.remove("apiVersion");
        object.remove("kind");
        if let Some(generation) = metadata.get("generation") {
            object.insert("generation".into(), generation.clone());
        }
    }
    seen.insert("object".into(), body);
    if let Some(mut cells) = cells {
        for cell in &mut cells {
            if let Value::String(text) = cell {
                *text = chance.mask_text(text);
            }
        }
        seen.insert("cells".into(), cells.into());
    }
    seen.into()
}

async fn cells(api: &ApiServer, path: &str) -> Vec<Value> {
    const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let table = call(api, Method::GET, path, "application/json", TABLE, &Value::Null).await.body;
    let columns = table["columnDefinitions"].as_array().cloned().unwrap_or_default();
    let cells = table["rows"][0]["cells"].as_array().cloned().unwrap_or_default();
    let named = columns.iter().map(|c| &c["name"]).zip(cells);
    named.filter(|(name, _)| **name != "Age").map(|(_, cell)| cell).collect()
}

async fn run(case: &Value) -> Vec<String> {
    let mut config = Config::default();
    if let Some(cidrs) = case["cidrs"].as_array() {
        config.service_cidrs = cidrs.iter().map(|c| c.as_str().unwrap().parse().unwrap()).collect();
    }
    if let Some((first, last)) = case["ports"].as_str().and_then(|p| p.split_once('-')) {
        config.node_ports = first.parse().unwrap()..=last.parse().unwrap();
    }
    let api = match ApiServer::new(config) {
        Ok(api) => api,
        Err(e) => return vec![format!("no start: {e}")],
    };
    // Its address is one that the cases may ask for.
    const KUBERNETES: &str = "/api/v1/namespaces/default/services/kubernetes";
    const JSON: &str = "application/json";
    call(&api, Method::DELETE, KUBERNETES, JSON, JSON, &json!({})).await;
    let steps = case["steps"].as_array().unwrap();
    let given = steps.iter().map(|s| s["object"].to_string()).collect();
    let mut chance = Chance { given, ..Chance::default() };
    let mut wrong = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let object = &step["object"];
        let collection = collection(object);
        let path = format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap());
        let (method, mut url, kind) = match step["op"].as_str().unwrap() {
            "create" => (Method::POST, collection, JSON),
            "update" => (Method::PUT, path.clone(), JSON),
            "status" => (Method::PUT, format!("{path}/status"), JSON),
            "edit" => (Method::PATCH, path.clone(), "application/merge-patch+json"),
            "delete" => (Method::DELETE, path.clone(), JSON),
            other => panic!("{other}"),
        };
        let dry = step["dryRun"] == true;
        if dry {
            url += "?dryRun=All";
        }
        let deleted = method == Method::DELETE;
        let empty = json!({});
        let body = if deleted { &empty } else { object };
        let answer = call(&api, method, &url, kind, JSON, body).await;
        let mut want = step["want"].clone();
        if deleted {
            if answer.code != 200 {
                wrong.push(format!("step {index}: deletion: {}", answer.code));
            }
            continue;
        }
        // Read back after the names of this answer are known; a dry run leaves nothing to read.
        let shown = if dry || answer.code >= 300 {
            want.as_object_mut().unwrap().remove("cells");
            None
        } else {
            Some(cells(&api, &path).await)
        };
        let got = seen(answer, shown, &mut chance);
        if got != want {
            wrong.push(format!("step {index}:\n   got {got}\n  want {want}"));
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_that_of_the_real_server() {
    let cases: Vec<Value> = CASES.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(cases.len() >= 300);
    let mut failed = 0;
    let mut text = String::new();
    for case in &cases {
        let wrong = run(case).await;
        if !wrong.is_empty() {
            failed += 1;
            text += &format!("{}\n {}\n", case["name"], wrong.join("\n "));
        }
    }
    assert!(failed == 0, "{failed} of {} cases differ:\n{text}", cases.len());
}
