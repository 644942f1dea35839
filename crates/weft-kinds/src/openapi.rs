//! OpenAPI documents, computed on first use.
//!
//! One document per group version, as kubectl asks for them: `apply` and `create` look for
//! the `fieldValidation` parameter of the kind's PATCH and, for strategic merge, for the merge
//! keys in its schema; `explain` goes from the resource's path to the kind and its schema.
//! Schemas come from the typed structs, extensions from the type table.
//!
//! Nothing is computed at start: the index carries hashes of what the documents are made of.

mod paths;
mod schemas;

use std::sync::{Arc, LazyLock, OnceLock};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{Kind, kinds};

/// The Kubernetes version whose API is served.
pub const KUBERNETES_VERSION: &str = "v1.35.0";

/// A group version and its document.
struct Document {
    /// Path below `/openapi/v3/`: `api/v1`, `apis/apps/v1`.
    path: String,
    group: &'static str,
    version: &'static str,
    bytes: OnceLock<Arc<[u8]>>,
}

static DOCUMENTS: LazyLock<Vec<Document>> = LazyLock::new(|| {
    let mut documents: Vec<Document> = Vec::new();
    for kind in kinds() {
        let path = kind.group_path().trim_start_matches('/').to_owned();
        if !documents.iter().any(|d| d.path == path) {
            let (group, version, bytes) = (&*kind.group, &*kind.version, OnceLock::new());
            documents.push(Document { path, group, version, bytes });
        }
    }
    documents
});

/// Hash of everything that the documents are made of: clients keep a document as long as the
/// hash in its URL stays.
static SOURCES: LazyLock<Sha256> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    for source in [
        KUBERNETES_VERSION,
        include_str!("../schema/types-v1.35.txt"),
        include_str!("rows.rs"),
        include_str!("openapi.rs"),
        include_str!("openapi/paths.rs"),
        include_str!("openapi/schemas.rs"),
        include_str!("openapi/schemas/custom.rs"),
    ] {
        hash.update(source.as_bytes());
    }
    hash
});

/// The document at `/openapi/v3`: one entry per group version, with a hash in its URL. `custom`
/// are path and hash of the documents of custom resources.
pub fn v3_index(custom: &[(String, String)]) -> Value {
    let own = DOCUMENTS.iter().map(|document| (document.path.clone(), hash(&document.path)));
    let paths: Map<String, Value> = own
        .chain(custom.iter().cloned())
        .map(|(path, hash)| {
            let url = format!("/openapi/v3/{path}?hash={hash}");
            (path, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

/// The v3 document of custom resources of one group version.
pub fn v3_custom(rows: &[&Kind]) -> Vec<u8> {
    let value = json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes CRD Swagger", "version": KUBERNETES_VERSION},
        "paths": paths::of(rows, &paths::V3),
        "components": {"schemas": schemas::of(rows)},
    });
    value.to_string().into_bytes()
}

/// What stands for a custom resource in the hash of its document.
pub fn custom_hash(rows: &[&Kind]) -> String {
    let mut hash = SOURCES.clone();
    for row in rows {
        let source = row.custom().map(|custom| custom.source().to_string());
        let names = (row.group_path(), &row.kind, &row.plural, row.namespaced, row.status);
        let scale = row.scale.is_some();
        hash.update(format!("{names:?}{scale}{}", source.unwrap_or_default()));
    }
    hex(&hash.finalize())
}

/// The JSON document at `/openapi/v3/{path}` where path is `api/v1` or `apis/apps/v1`.
pub fn v3(path: &str) -> Option<Arc<[u8]>> {
    let document = DOCUMENTS.iter().find(|d| d.path == path)?;
    let bytes = document.bytes.get_or_init(|| {
        let rows: Vec<&Kind> = kinds()
            .iter()
            .map(|kind| &**kind)
            .filter(|kind| (&*kind.group, &*kind.version) == (document.group, document.version))
            .collect();
        let value = json!({
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": KUBERNETES_VERSION},
            "paths": paths::of(&rows, &paths::V3),
            "components": {"schemas": schemas::of(&rows)},
        });
        Arc::from(value.to_string().into_bytes())
    });
    Some(bytes.clone())
}

/// The content hash of a v3 document, as its URL and ETag carry it.
pub fn v3_hash(path: &str) -> Option<String> {
    DOCUMENTS.iter().any(|d| d.path == path).then(|| hash(path))
}

fn hash(path: &str) -> String {
    hex(&SOURCES.clone().chain_update(path.as_bytes()).finalize())
}

fn hex(digest: &[u8]) -> String {
    use std::fmt::Write;
    digest.iter().take(16).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02X}");
        text
    })
}

/// The document at `/openapi/v2` (JSON), for older clients and generators.
pub fn v2() -> Arc<[u8]> {
    static BYTES: OnceLock<Arc<[u8]>> = OnceLock::new();
    BYTES.get_or_init(|| v2_of(kinds())).clone()
}

/// The v2 document of these kinds.
pub fn v2_of(kinds: &[Arc<Kind>]) -> Arc<[u8]> {
    let rows: Vec<&Kind> = kinds.iter().map(|kind| &**kind).collect();
    let mut value = json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": KUBERNETES_VERSION},
        "paths": paths::of(&rows, &paths::V2),
        "definitions": schemas::of(&rows),
    });
    schemas::downgrade(&mut value);
    Arc::from(value.to_string().into_bytes())
}

#[cfg(test)]
mod tests;
