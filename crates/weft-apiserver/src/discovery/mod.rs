//! What there is: versions, groups, resources, OpenAPI, health.

mod gnostic;

use crate::{
    error::ApiError,
    http::{
        accept,
        reply::{self, ApiBody},
        route::{self, Route},
    },
    registry::Registry,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::{Arc, OnceLock};
use weft_kinds::{Kind, SubresourceOf, openapi, status};

/// The Kubernetes version that the server speaks.
pub(crate) const GIT_VERSION: &str = "v1.35.0";

pub(crate) fn answer(
    registry: &Registry,
    route: &Route,
    headers: &HeaderMap,
) -> Result<Response<ApiBody>, ApiError> {
    let kinds = registry.kinds();
    match route {
        Route::Root => Ok(reply::json(200, &json!({"paths": route::paths(kinds)}))),
        Route::Version => Ok(reply::json(200, &version())),
        Route::CoreVersions => discovery(headers, &registry.documents().core, || {
            json!({
                "kind": "APIVersions",
                "versions": ["v1"],
                "serverAddressByClientCIDRs": [],
            })
        }),
        Route::Groups => discovery(
            headers,
            &registry.documents().named,
            || json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups(kinds)}),
        ),
        Route::Group(name) => {
            let mut group = groups(kinds)
                .into_iter()
                .find(|g| g["name"] == name.as_str())
                .ok_or_else(|| ApiError::from(status::unknown_resource()))?;
            group["kind"] = "APIGroup".into();
            group["apiVersion"] = "v1".into();
            Ok(reply::json(200, &group))
        }
        Route::Resources(group, version) => resource_list(kinds, group, version)
            .map(|v| reply::json(200, &v))
            .ok_or_else(|| status::unknown_resource().into()),
        Route::OpenApiV2 => Ok(openapi_v2(registry, headers)),
        Route::OpenApiV3Index => {
            let custom: Vec<(String, String)> = registry
                .documents()
                .custom
                .iter()
                .map(|document| (document.path.clone(), document.hash.clone()))
                .collect();
            Ok(reply::json(200, &openapi::v3_index(&custom)))
        }
        Route::OpenApiV3(path) => {
            let mut custom = registry.documents().custom.iter();
            if let Some(document) = custom.find(|document| document.path == *path) {
                return Ok(tagged(headers, &document.hash, || {
                    reply::bytes(200, "application/json", document.body())
                }));
            }
            let document =
                openapi::v3(path).ok_or_else(|| ApiError::from(status::unknown_resource()))?;
            let etag = openapi::v3_hash(path).unwrap_or_default();
            Ok(tagged(headers, &etag, || {
                reply::bytes(200, "application/json", document.to_vec().into())
            }))
        }
        Route::Resource(_) | Route::Health(_) | Route::Metrics | Route::NotFound => {
            Err(status::unknown_resource().into())
        }
    }
}

/// The v2 document as JSON, or as the protobuf that kubectl asks for.
fn openapi_v2(registry: &Registry, headers: &HeaderMap) -> Response<ApiBody> {
    let documents = registry.documents();
    let json = documents.v2.get_or_init(|| {
        if documents.custom.is_empty() { openapi::v2() } else { openapi::v2_of(registry.kinds()) }
    });
    if accept::ranges(headers).iter().any(|m| m.kind.contains("proto-openapi.spec.v2")) {
        let kind = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
        let encoded = documents.v2_protobuf.get_or_init(|| {
            let document: Value = serde_json::from_slice(json).unwrap_or_default();
            gnostic::encode(&document).into()
        });
        return reply::bytes(200, kind, encoded.clone());
    }
    reply::bytes(200, "application/json", json.to_vec().into())
}

fn version() -> Value {
    json!({
        "major": "1", "minor": "35", "emulationMajor": "1", "emulationMinor": "35",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "34",
        "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "", "platform": "linux/amd64",
    })
}

/// An aggregated document with its ETag.
struct Aggregated {
    v2: (Value, String),
    v2beta1: (Value, String),
}

/// What the kinds of a registry are described by.
pub(crate) struct Documents {
    core: Aggregated,
    named: Aggregated,
    /// The v3 documents of custom resources, one a group version.
    custom: Vec<CustomDocument>,
    v2: OnceLock<Arc<[u8]>>,
    v2_protobuf: OnceLock<Bytes>,
}

struct CustomDocument {
    /// Below `/openapi/v3/`.
    path: String,
    hash: String,
    kinds: Vec<Arc<Kind>>,
    body: OnceLock<Bytes>,
}

impl CustomDocument {
    fn all(kinds: &[Arc<Kind>]) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for kind in kinds.iter().filter(|kind| kind.custom().is_some()) {
            let path = kind.group_path().trim_start_matches('/').to_owned();
            match all.iter_mut().find(|document| document.path == path) {
                Some(document) => document.kinds.push(kind.clone()),
                None => {
                    let (hash, kinds) = (String::new(), vec![kind.clone()]);
                    all.push(Self { path, hash, kinds, body: OnceLock::new() });
                }
            }
        }
        for document in &mut all {
            document.hash = openapi::custom_hash(&document.rows());
        }
        all
    }

    fn rows(&self) -> Vec<&Kind> {
        self.kinds.iter().map(|kind| &**kind).collect()
    }

    fn body(&self) -> Bytes {
        self.body.get_or_init(|| openapi::v3_custom(&self.rows()).into()).clone()
    }
}

impl Documents {
    pub(crate) fn of(kinds: &[Arc<Kind>]) -> Self {
        Self {
            core: Aggregated::of(kinds, |k| k.group.is_empty()),
            named: Aggregated::of(kinds, |k| !k.group.is_empty()),
            custom: CustomDocument::all(kinds),
            v2: OnceLock::new(),
            v2_protobuf: OnceLock::new(),
        }
    }
}

impl Aggregated {
    fn of(kinds: &[Arc<Kind>], filter: impl Fn(&Kind) -> bool) -> Self {
        let items = aggregated_groups(kinds, filter);
        let document = |version: &str| {
            let v = json!({
                "kind": "APIGroupDiscoveryList",
                "apiVersion": format!("apidiscovery.k8s.io/{version}"),
                "metadata": {},
                "items": items,
            });
            let etag: String =
                Sha256::digest(v.to_string()).iter().map(|b| format!("{b:02X}")).collect();
            (v, etag)
        };
        Self { v2: document("v2"), v2beta1: document("v2beta1") }
    }
}

/// The aggregated form where the client asks for it, else the legacy one.
fn discovery(
    headers: &HeaderMap,
    all: &Aggregated,
    legacy: impl FnOnce() -> Value,
) -> Result<Response<ApiBody>, ApiError> {
    for m in accept::ranges(headers).iter().filter(|m| m.json()) {
        let (document, content_type) = match (m.param("as"), m.param("v")) {
            (Some("APIGroupDiscoveryList"), Some("v2")) => {
                (&all.v2, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
            }
            (Some("APIGroupDiscoveryList"), Some("v2beta1")) => (
                &all.v2beta1,
                "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
            ),
            (Some(_), _) => continue,
            (None, _) => return Ok(vary(reply::json(200, &legacy()))),
        };
        let body = || reply::bytes(200, content_type, document.0.to_string().into());
        return Ok(vary(tagged(headers, &document.1, body)));
    }
    Err(status::not_acceptable(&["application/json"]).into())
}

fn vary(mut r: Response<ApiBody>) -> Response<ApiBody> {
    r.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    r
}

/// 304 where the client has this version already.
fn tagged(
    headers: &HeaderMap,
    etag: &str,
    body: impl FnOnce() -> Response<ApiBody>,
) -> Response<ApiBody> {
    let quoted = format!("\"{etag}\"");
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let mut r = if known.is_some_and(|k| k == quoted || k == etag) {
        // Caches take the headers of a 304 over: with a content type of its own, kubectl would
        // read the aggregated document that it kept as a legacy one.
        let mut r = Response::new(reply::full(Default::default()));
        *r.status_mut() = http::StatusCode::NOT_MODIFIED;
        r
    } else {
        body()
    };
    if let Ok(v) = HeaderValue::from_str(&quoted) {
        r.headers_mut().insert(header::ETAG, v);
    }
    r
}

/// Group versions in the order of the kinds, each with its kinds.
fn versions(kinds: &[Arc<Kind>], filter: impl Fn(&Kind) -> bool) -> Vec<(&str, &str, Vec<&Kind>)> {
    let mut all: Vec<(&str, &str, Vec<&Kind>)> = Vec::new();
    for k in kinds.iter().filter(|k| filter(k)) {
        match all.iter_mut().find(|(g, v, _)| *g == k.group && *v == k.version) {
            Some((_, _, list)) => list.push(k),
            None => all.push((&k.group, &k.version, vec![k])),
        }
    }
    all
}

fn groups(kinds: &[Arc<Kind>]) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    for (group, version, _) in versions(kinds, |k| !k.group.is_empty()) {
        let gv = json!({"groupVersion": format!("{group}/{version}"), "version": version});
        match all.iter_mut().find(|g| g["name"] == group) {
            Some(g) => {
                if let Some(list) = g["versions"].as_array_mut() {
                    list.push(gv);
                }
            }
            None => all.push(json!({"name": group, "versions": [gv], "preferredVersion": gv})),
        }
    }
    all
}

fn resource_list(kinds: &[Arc<Kind>], group: &str, version: &str) -> Option<Value> {
    let (_, _, list) = versions(kinds, |k| k.group == group && k.version == version).pop()?;
    let mut resources = Vec::new();
    for k in list {
        let mut r = json!({
            "name": k.plural, "singularName": k.singular, "namespaced": k.namespaced,
            "kind": k.kind, "verbs": k.verbs,
        });
        if !k.short_names.is_empty() {
            r["shortNames"] = json!(k.short_names);
        }
        if !k.categories.is_empty() {
            r["categories"] = json!(k.categories);
        }
        resources.push(r);
        for s in subresources(k) {
            let mut r = json!({
                "name": format!("{}/{}", k.plural, s.name), "singularName": "",
                "namespaced": k.namespaced, "kind": s.kind, "verbs": s.verbs,
            });
            if (s.group, s.version) != (&*k.group, &*k.version) {
                r["group"] = s.group.into();
                r["version"] = s.version.into();
            }
            resources.push(r);
        }
    }
    let gv = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": gv, "resources": resources,
    }))
}

/// All subresources of a kind, by name.
fn subresources(k: &Kind) -> Vec<SubresourceOf<'_>> {
    let mut all = k.all_subresources();
    all.sort_by_key(|s| s.name);
    all
}

fn aggregated_groups(kinds: &[Arc<Kind>], filter: impl Fn(&Kind) -> bool) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    for (group, version, list) in versions(kinds, filter) {
        let entry = json!({
            "version": version,
            "freshness": "Current",
            "resources": list.iter().map(|k| aggregated_resource(k)).collect::<Vec<_>>(),
        });
        match all.iter_mut().find(|g| {
            g["metadata"]["name"] == group || (group.is_empty() && g["metadata"]["name"].is_null())
        }) {
            Some(g) => {
                if let Some(versions) = g["versions"].as_array_mut() {
                    versions.push(entry);
                }
            }
            None => {
                let metadata = if group.is_empty() {
                    json!({"creationTimestamp": null})
                } else {
                    json!({"name": group, "creationTimestamp": null})
                };
                all.push(json!({"metadata": metadata, "versions": [entry]}));
            }
        }
    }
    all
}

fn aggregated_resource(k: &Kind) -> Value {
    let mut r = json!({
        "resource": k.plural,
        "responseKind": {"group": k.group, "version": k.version, "kind": k.kind},
        "scope": if k.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": k.singular,
        "verbs": k.verbs,
    });
    if !k.short_names.is_empty() {
        r["shortNames"] = json!(k.short_names);
    }
    if !k.categories.is_empty() {
        r["categories"] = json!(k.categories);
    }
    let subs: Vec<Value> = subresources(k)
        .iter()
        .map(|s| {
            json!({
                "subresource": s.name,
                "responseKind": {"group": s.group, "version": s.version, "kind": s.kind},
                "verbs": s.verbs,
            })
        })
        .collect();
    if !subs.is_empty() {
        r["subresources"] = subs.into();
    }
    r
}
