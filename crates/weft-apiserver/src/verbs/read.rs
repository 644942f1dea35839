//! Get and list.

use super::from_storage;
use crate::{
    error::ApiError,
    http::params::Params,
    selector::{Selector, SelectorError},
    server::State,
    store::{Key, Listing, Scope},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;
use weft_kinds::{Kind, status};

/// A page of objects with what `ListMeta` says about it.
pub(crate) struct List {
    pub(crate) rv: u64,
    pub(crate) items: Vec<Bytes>,
    pub(crate) next: Option<String>,
    pub(crate) remaining: Option<usize>,
}

/// What a list or watch selects, from its URL.
pub(crate) fn scope(
    kind: &Kind,
    namespace: Option<&str>,
    params: &Params,
) -> Result<Scope, ApiError> {
    let stored = kind.storage();
    let selector = Selector::parse(params.get("labelSelector"), params.get("fieldSelector"), |path| {
        matches!(path, "metadata.name" | "metadata.namespace") || kind.selectable.iter().any(|known| known == path)
    })
    .map_err(|e| match &e {
        // What the real API says of kinds that have no conversion of field labels of their own.
        SelectorError::Unsupported(label) if kind.selectable.is_empty() => {
            status::bad_request(format!(
                "{label:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
            ))
        }
        _ => status::bad_request(e.to_string()),
    })?;
    let selector = if std::ptr::eq(stored, kind) {
        selector
    } else {
        selector.renamed(super::events::stored_field)
    };
    let namespace = namespace.or_else(|| selector.exact_namespace()).map(Arc::from);
    Ok(Scope { namespace, selector: Arc::new(selector) })
}

impl State {
    pub(crate) fn get(&self, kind: &Kind, key: &Key) -> Result<Bytes, ApiError> {
        Ok(from_storage(kind, &self.existing(kind, key)?.bytes))
    }

    pub(crate) fn list(
        &self,
        kind: &Kind,
        scope: &Scope,
        params: &Params,
    ) -> Result<List, ApiError> {
        let limit = match params.get("limit").map(str::parse::<usize>) {
            None => 0,
            Some(Ok(n)) => n,
            Some(Err(_)) => return Err(status::bad_request("limit must be a number").into()),
        };
        let (at, after) = match params.get("continue") {
            Some(_) if params.get("resourceVersion").is_some_and(|rv| rv != "0") => {
                let why = "specifying resource version is not allowed when using continue";
                return Err(status::bad_request(why).into());
            }
            Some(token) => {
                let (rv, key) = decode_token(token)
                    .ok_or_else(|| status::bad_request("continue key is not valid"))?;
                ((rv != INCONSISTENT).then_some(rv), Some(key))
            }
            None => (self.list_version(params, limit)?, None),
        };
        let listing = self.store.list(self.table(kind), scope, at, after.as_ref(), limit);
        let Listing { rv, items, remaining } = match &after {
            Some(key) => listing.map_err(|_| too_late(key))?,
            None => listing.map_err(|_| {
                status::expired("The resourceVersion for the provided list is too old.")
            })?,
        };
        let next = match items.last() {
            Some((key, _)) if remaining > 0 => Some(encode_token(rv, key)),
            _ => None,
        };
        // With selectors Kubernetes does not count what it has not looked at.
        let remaining = (remaining > 0 && scope.selector.is_empty()).then_some(remaining);
        let items = items.iter().map(|(_, e)| from_storage(kind, &e.bytes)).collect();
        Ok(List { rv, items, next, remaining })
    }

    /// The version at which a list without `continue` is served; `None` is the newest.
    fn list_version(&self, params: &Params, limit: usize) -> Result<Option<u64>, ApiError> {
        let Some(rv) = version(params)? else { return Ok(None) };
        reached(rv, self.store.rv())?;
        match params.get("resourceVersionMatch") {
            Some("Exact") if rv > 0 => Ok(Some(rv)),
            // Pages of a version are of that version, also without a word.
            None if rv > 0 && limit > 0 => Ok(Some(rv)),
            // The newest is not older than any.
            _ => Ok(None),
        }
    }
}

/// The version that a request names.
pub(crate) fn version(params: &Params) -> Result<Option<u64>, ApiError> {
    let Some(text) = params.get("resourceVersion") else { return Ok(None) };
    let rv = text.parse();
    rv.map(Some)
        .map_err(|_| status::bad_request(format!("invalid resource version {text:?}")).into())
}

/// Refuses a version that this server has not come to.
pub(crate) fn reached(rv: u64, newest: u64) -> Result<(), ApiError> {
    if rv <= newest {
        return Ok(());
    }
    let mut late = status::timeout(format!("Too large resource version: {rv}, current: {newest}"));
    late["details"] = json!({"causes": [{"reason": "ResourceVersionTooLarge",
        "message": "Too large resource version"}], "retryAfterSeconds": 1});
    Err(late.into())
}

/// In a token: the rest of the list as it is then.
const INCONSISTENT: u64 = 0;

/// 410 for a continuation of a version that is not kept, with a token for going on without it.
fn too_late(after: &Key) -> ApiError {
    let mut gone = status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    gone["metadata"]["continue"] = encode_token(INCONSISTENT, after).into();
    gone.into()
}

fn encode_token(rv: u64, key: &Key) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(json!([rv, key.namespace, key.name]).to_string())
}

fn decode_token(token: &str) -> Option<(u64, Key)> {
    let v: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    Some((v[0].as_u64()?, Key::new(v[1].as_str()?, v[2].as_str()?)))
}
