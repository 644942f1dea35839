//! Request bodies: bounded in size and time, JSON, YAML or protobuf.

use crate::error::ApiError;
use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;
use serde_json::Value;
use std::{io::Read, time::Duration};
use tokio::sync::{Semaphore, SemaphorePermit};
use weft_kinds::{
    Kind,
    decode::{self, Decoded},
    protobuf, status,
};

/// What kube-apiserver takes (`--max-request-bytes`, 3 MiB).
pub(crate) const BODY_BYTES_MAX: usize = 3 << 20;
/// The media type of a server-side apply.
pub(crate) const APPLY: &str = "application/apply-patch+yaml";

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Reads a body that arrives in time. Meanwhile it takes up some of the server's `room` for
/// bodies, in KiB: as much as it announces, or else as much as it may be long.
pub(crate) async fn read<'a, B>(
    headers: &HeaderMap,
    body: B,
    timeout: Duration,
    room: &'a Semaphore,
) -> Result<(Bytes, SemaphorePermit<'a>), ApiError>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    let hint = body.size_hint();
    if hint.lower() > BODY_BYTES_MAX as u64 {
        return Err(status::too_large(BODY_BYTES_MAX).into());
    }
    let len = hint.upper().map_or(BODY_BYTES_MAX, |n| n.min(BODY_BYTES_MAX as u64) as usize);
    let taken = tokio::time::timeout(timeout, room.acquire_many(len.div_ceil(1 << 10) as u32));
    let Ok(taken) = taken.await else {
        let why = "Too many requests, please try again later.";
        return Err(status::too_many_requests(why, 1).into());
    };
    let taken = taken.expect("invariant: nobody closes the semaphore");
    let collect = Limited::new(Box::pin(body), BODY_BYTES_MAX).collect();
    match tokio::time::timeout(timeout, collect).await {
        Ok(Ok(body)) => Ok((plain(headers, body.to_bytes())?, taken)),
        Ok(Err(e)) if e.is::<LengthLimitError>() => Err(status::too_large(BODY_BYTES_MAX).into()),
        Ok(Err(e)) => Err(status::bad_request(format!("the body ended early: {e}")).into()),
        Err(_) => Err(status::timeout("the request body did not arrive in time").into()),
    }
}

/// The body without its compression; what it becomes is as bounded as what it was.
fn plain(headers: &HeaderMap, body: Bytes) -> Result<Bytes, ApiError> {
    let encoding = headers.get(header::CONTENT_ENCODING).map_or(&b"identity"[..], |v| v.as_bytes());
    if encoding.eq_ignore_ascii_case(b"identity") || encoding.is_empty() {
        return Ok(body);
    }
    if !encoding.eq_ignore_ascii_case(b"gzip") {
        return Err(status::unsupported_media_type(ACCEPTED).into());
    }
    let mut out = Vec::new();
    let limit = BODY_BYTES_MAX as u64 + 1;
    match GzDecoder::new(&body[..]).take(limit).read_to_end(&mut out) {
        Ok(_) if out.len() > BODY_BYTES_MAX => Err(status::too_large(BODY_BYTES_MAX).into()),
        Ok(_) => Ok(out.into()),
        Err(e) => Err(status::bad_request(format!("the body is no gzip: {e}")).into()),
    }
}

/// The media type of the body, without parameters.
pub(crate) fn content_type(headers: &HeaderMap) -> &str {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split(';').next())
        .map_or("application/json", str::trim)
}

const ACCEPTED: &[&str] =
    &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// Any object: syntax only.
pub(crate) fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Decoded, ApiError> {
    let refused = |e: &dyn std::fmt::Display| {
        ApiError::from(status::bad_request(format!("the object provided is unrecognized: {e}")))
    };
    match content_type(headers) {
        "application/json" | "" => decode::json_value(body).map_err(|e| refused(&e)),
        "application/yaml" => decode::yaml_value(body).map_err(|e| refused(&e)),
        "application/vnd.kubernetes.protobuf" => {
            let object = protobuf::decode(body).map_err(|e| refused(&e))?.object;
            Ok(Decoded { object, strict: Vec::new() })
        }
        _ => Err(status::unsupported_media_type(ACCEPTED).into()),
    }
}

/// An object of this kind: the right apiVersion and kind (filled in where absent), known fields.
pub(crate) fn object(
    headers: &HeaderMap,
    body: &[u8],
    (api_version, name): (&str, &str),
    kind: &Kind,
) -> Result<Decoded, ApiError> {
    let mut decoded = parse(headers, body)?;
    type_meta(&mut decoded.object, api_version, name)?;
    decode::conform(kind, &mut decoded).map_err(|e| status::undecodable(kind, e))?;
    Ok(decoded)
}

/// A body that is no row's object, along its type; what the type does not have is dropped.
pub(crate) fn conform_named(type_name: &str, mut decoded: Decoded) -> Result<Value, ApiError> {
    decode::conform_named(type_name, &mut decoded)
        .map_err(|e| status::bad_request(e.to_string()))?;
    Ok(decoded.object)
}

/// Checks apiVersion and kind, and fills them in where they are absent.
pub(crate) fn type_meta(object: &mut Value, api_version: &str, kind: &str) -> Result<(), ApiError> {
    let Some(map) = object.as_object_mut() else {
        return Err(status::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): json: cannot unmarshal into an object"
        ))
        .into());
    };
    for (key, want) in [("apiVersion", api_version), ("kind", kind)] {
        match map.get(key).and_then(Value::as_str) {
            Some(given) if given == want => {}
            None | Some("") => {
                map.insert(key.to_owned(), want.into());
            }
            Some(given) => {
                let what = if key == "kind" { "kind" } else { "API version" };
                return Err(status::bad_request(format!(
                    "the {what} in the data ({given}) does not match the expected {what} ({want})"
                ))
                .into());
            }
        }
    }
    Ok(())
}
