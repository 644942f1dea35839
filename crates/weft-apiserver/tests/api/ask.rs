//! Plain requests to a server in the same process.

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tower::ServiceExt;
use weft_apiserver::{ApiServer, Config};

pub(crate) const JSON: &str = "application/json";
pub(crate) const MERGE: &str = "application/merge-patch+json";
pub(crate) const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub(crate) const JSON_PATCH: &str = "application/json-patch+json";
pub(crate) const APPLY: &str = "application/apply-patch+yaml";
pub(crate) const YAML: &str = "application/yaml";

/// What came back.
pub(crate) struct Reply {
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
    pub(crate) json: Value,
}

impl Reply {
    #[track_caller]
    pub(crate) fn is(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.json);
        self.json
    }

    /// The message of a refusal.
    #[track_caller]
    pub(crate) fn refused(self, code: u16) -> String {
        let status = self.is(code);
        assert_eq!(status["kind"], "Status");
        assert_eq!(status["code"], code);
        status["message"].as_str().unwrap().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

pub(crate) fn api() -> ApiServer {
    ApiServer::new(Config::default()).unwrap()
}

/// One request; `headers` come as `name: value`.
pub(crate) async fn send(
    api: &ApiServer,
    method: &str,
    path: &str,
    headers: &[&str],
    body: impl Into<Bytes>,
) -> Reply {
    let mut request = Request::builder().method(method).uri(path);
    for header in headers {
        let (name, value) = header.split_once(": ").unwrap();
        request = request.header(name, value);
    }
    let response = api.service().oneshot(request.body(Full::new(body.into())).unwrap()).await;
    let (parts, body) = response.unwrap().into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let json = serde_json::from_slice(&bytes).unwrap_or_default();
    Reply { code: parts.status.as_u16(), headers: parts.headers, bytes, json }
}

pub(crate) async fn get(api: &ApiServer, path: &str) -> Reply {
    send(api, "GET", path, &[], "").await
}

pub(crate) async fn post(api: &ApiServer, path: &str, body: Value) -> Reply {
    send(api, "POST", path, &["content-type: application/json"], body.to_string()).await
}

pub(crate) async fn put(api: &ApiServer, path: &str, body: Value) -> Reply {
    send(api, "PUT", path, &["content-type: application/json"], body.to_string()).await
}

pub(crate) async fn patch(api: &ApiServer, path: &str, kind: &str, body: Value) -> Reply {
    send(api, "PATCH", path, &[&format!("content-type: {kind}")], body.to_string()).await
}

pub(crate) async fn delete(api: &ApiServer, path: &str, body: Value) -> Reply {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    send(api, "DELETE", path, &["content-type: application/json"], body).await
}
