//! OpenAPI documents, computed on first use.

use std::sync::Arc;

use serde_json::{Value, json};

/// The document at `/openapi/v3`: one entry per group version, with a hash in its URL.
pub fn v3_index() -> Value {
    json!({"paths": {}})
}

/// The document at `/openapi/v3/{path}` where path is `api/v1` or `apis/apps/v1`.
pub fn v3(_path: &str) -> Option<Arc<[u8]>> {
    None
}

/// The content hash of a v3 document, as its URL and ETag carry it.
pub fn v3_hash(_path: &str) -> Option<String> {
    None
}

/// The document at `/openapi/v2` (JSON), for older clients.
pub fn v2() -> Arc<[u8]> {
    Arc::from(&b"{}"[..])
}
