//! Responses: objects, lists, tables, Status; compressed when large.

use super::{
    accept::{Encoding, Format},
    body::BoxError,
};
use crate::{error::ApiError, lean, verbs::read::List};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::{io::Write, num::NonZero};
use weft_kinds::{Kind, status, table};

/// Body of every response.
pub type ApiBody = UnsyncBoxBody<Bytes, BoxError>;

/// Replies from this size on are compressed, as kube-apiserver does.
const GZIP_BYTES_MIN: usize = 128 << 10;
/// Fewer items are not worth a thread of their own.
const PART_ITEMS_MIN: usize = 500;
const PARTS_MAX: usize = 8;

pub(crate) fn full(bytes: Bytes) -> ApiBody {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn bytes(code: u16, content_type: &'static str, body: Bytes) -> Response<ApiBody> {
    let mut r = Response::new(full(body));
    *r.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    // kube-apiserver sends it on everything that is no document.
    r.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    r
}

pub(crate) fn json(code: u16, value: &Value) -> Response<ApiBody> {
    bytes(code, "application/json", value.to_string().into())
}

pub(crate) fn error(e: &ApiError) -> Response<ApiBody> {
    let mut r = json(e.code(), &e.0);
    if let Some(seconds) = e.0.pointer("/details/retryAfterSeconds").and_then(Value::as_u64) {
        r.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    if e.code() == 401 {
        r.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    r
}

/// One object in the form asked for.
pub(crate) fn object(
    code: u16,
    kind: &Kind,
    object: Bytes,
    format: Format,
    include: &str,
) -> Response<ApiBody> {
    let body = match format {
        Format::Json => object,
        _ => render(kind, &object, format, include, true),
    };
    bytes(code, "application/json", body)
}

/// One object as Table or metadata; also for watch events, where column definitions come once.
pub(crate) fn render(
    kind: &Kind,
    object: &[u8],
    format: Format,
    include: &str,
    definitions: bool,
) -> Bytes {
    let value: Value = serde_json::from_slice(object).unwrap_or_default();
    let out = match format {
        Format::Json => return Bytes::copy_from_slice(object),
        Format::Metadata(v) | Format::MetadataList(v) => metadata_only(&value, v),
        Format::Table(v) => {
            let rv = value["metadata"]["resourceVersion"].clone();
            let rows = vec![row(kind, value, v, include)];
            table_of(kind, v, json!({"resourceVersion": rv}), rows, definitions)
        }
    };
    out.to_string().into()
}

/// A Scale: a row of its own kind of Table.
pub(crate) fn scale(object: Bytes, format: Format, include: &str) -> Response<ApiBody> {
    let body = match format {
        Format::Table(v) => {
            let value: Value = serde_json::from_slice(&object).unwrap_or_default();
            let cells = table::scale_cells(&value, Timestamp::now());
            let metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
            let rows = vec![row_of(cells, value, v, include)];
            table_with(table::scale_definitions(), v, metadata, rows).to_string().into()
        }
        _ => object,
    };
    bytes(200, "application/json", body)
}

fn metadata_only(object: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object["metadata"],
    })
}

fn row(kind: &Kind, object: Value, version: &str, include: &str) -> Value {
    row_of(table::cells(kind, &object, Timestamp::now()), object, version, include)
}

fn row_of(cells: Vec<Value>, object: Value, version: &str, include: &str) -> Value {
    match include {
        "None" => json!({"cells": cells}),
        "Object" => json!({"cells": cells, "object": object}),
        _ => json!({"cells": cells, "object": metadata_only(&object, version)}),
    }
}

fn table_of(kind: &Kind, version: &str, metadata: Value, rows: Vec<Value>, defined: bool) -> Value {
    let definitions = if defined { table::column_definitions(kind) } else { json!([]) };
    table_with(definitions, version, metadata, rows)
}

fn table_with(definitions: Value, version: &str, metadata: Value, rows: Vec<Value>) -> Value {
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": metadata,
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

/// A list in the form asked for.
pub(crate) fn list(kind: &Kind, list: &List, format: Format, include: &str) -> Response<ApiBody> {
    let mut metadata = json!({"resourceVersion": list.rv.to_string()});
    if let Some(next) = &list.next {
        metadata["continue"] = next.as_str().into();
    }
    if let Some(n) = list.remaining {
        metadata["remainingItemCount"] = n.into();
    }
    let body = match format {
        Format::Table(v) => {
            let table = table_of(kind, v, metadata, Vec::new(), true);
            written(table, "rows", &list.items, |item, out| write_row(kind, item, v, include, out))
        }
        Format::Metadata(v) | Format::MetadataList(v) => {
            let head = json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": format!("meta.k8s.io/{v}"),
                "metadata": metadata,
            });
            written(head, "items", &list.items, |item, out| write_metadata(item, v, out))
        }
        Format::Json => concatenated(kind, &metadata, &list.items),
    };
    bytes(200, "application/json", body)
}

/// A list whose last member is written item by item: a tree of all of them would take ten times
/// the memory of their text.
fn written(
    mut head: Value,
    member: &str,
    items: &[Bytes],
    write: impl Fn(&Bytes, &mut Vec<u8>) + Sync,
) -> Bytes {
    if let Some(map) = head.as_object_mut() {
        map.shift_remove(member);
    }
    let mut out = head.to_string().into_bytes();
    out.pop();
    out.extend_from_slice(format!(",\"{member}\":[").as_bytes());
    for (i, piece) in in_pieces(items, &write).iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(piece);
    }
    out.extend_from_slice(b"]}");
    out.into()
}

/// The items with commas between them; many are written by all processors, each its part, since
/// each has to be decoded.
fn in_pieces(items: &[Bytes], write: &(impl Fn(&Bytes, &mut Vec<u8>) + Sync)) -> Vec<Vec<u8>> {
    let one = |items: &[Bytes]| {
        let mut out = Vec::new();
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write(item, &mut out);
        }
        out
    };
    let parts = std::thread::available_parallelism().map_or(1, NonZero::get);
    let parts = parts.min(items.len() / PART_ITEMS_MIN).min(PARTS_MAX);
    if parts < 2 {
        return if items.is_empty() { Vec::new() } else { vec![one(items)] };
    }
    std::thread::scope(|scope| {
        let mut chunks = items.chunks(items.len().div_ceil(parts));
        let first = chunks.next().unwrap_or_default();
        let others: Vec<_> = chunks.map(|chunk| scope.spawn(move || one(chunk))).collect();
        let mut all = vec![one(first)];
        for other in others {
            all.push(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        all
    })
}

fn write_metadata(object: &[u8], version: &str, out: &mut Vec<u8>) {
    let head = format!(
        "{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/{version}\",\"metadata\":"
    );
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(lean::metadata(object).as_bytes());
    out.push(b'}');
}

fn write_row(kind: &Kind, object: &[u8], version: &str, include: &str, out: &mut Vec<u8>) {
    let value = lean::object(object).unwrap_or_default();
    let cells = Value::from(table::cells(kind, &value, Timestamp::now()));
    out.extend_from_slice(format!("{{\"cells\":{cells}").as_bytes());
    match include {
        "None" => {}
        "Object" => {
            out.extend_from_slice(b",\"object\":");
            out.extend_from_slice(object);
        }
        _ => {
            out.extend_from_slice(b",\"object\":");
            write_metadata(object, version, out);
        }
    }
    out.push(b'}');
}

/// A list out of stored bytes: nothing is decoded.
fn concatenated(kind: &Kind, metadata: &Value, items: &[Bytes]) -> Bytes {
    let head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
        kind.list_kind,
        kind.api_version()
    );
    let len = head.len() + 2 + items.iter().map(|i| i.len() + 1).sum::<usize>();
    let mut out = Vec::with_capacity(len);
    out.extend_from_slice(head.as_bytes());
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(item);
    }
    out.extend_from_slice(b"]}");
    out.into()
}

/// Writes a whole answer, which is JSON, in another way.
pub(crate) async fn encoded(response: Response<ApiBody>, encoding: Encoding) -> Response<ApiBody> {
    if encoding == Encoding::Json {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let json = match body.collect().await {
        Ok(b) => b.to_bytes(),
        Err(e) => return error(&status::internal(e).into()),
    };
    let Ok(value) = serde_json::from_slice::<Value>(&json) else {
        return Response::from_parts(parts, full(json));
    };
    let text = match encoding {
        Encoding::Yaml => {
            let kind = HeaderValue::from_static("application/yaml");
            parts.headers.insert(header::CONTENT_TYPE, kind);
            serde_yaml_ng::to_string(&value).map_err(|e| e.to_string())
        }
        _ => serde_json::to_string_pretty(&value).map_err(|e| e.to_string()),
    };
    match text {
        Ok(text) => Response::from_parts(parts, full(text.into())),
        Err(e) => error(&status::internal(e).into()),
    }
}

/// Compresses a whole body that is large enough to be worth it.
pub(crate) async fn compressed(response: Response<ApiBody>) -> Response<ApiBody> {
    use hyper::body::Body as _;
    let large = response.body().size_hint().exact().is_some_and(|n| n >= GZIP_BYTES_MIN as u64);
    if !large || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let plain = match body.collect().await {
        Ok(b) => b.to_bytes(),
        Err(e) => return error(&status::internal(e).into()),
    };
    let zipped = tokio::task::spawn_blocking(move || {
        let mut z = GzEncoder::new(Vec::with_capacity(plain.len() / 8), Compression::fast());
        z.write_all(&plain).and_then(|()| z.finish())
    })
    .await;
    match zipped {
        Ok(Ok(z)) => {
            parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            parts.headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
            Response::from_parts(parts, full(z.into()))
        }
        _ => error(&status::internal("cannot compress").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn every_item_is_written_once_and_in_order() {
        for count in [0, 1, 2, PART_ITEMS_MIN, 2 * PART_ITEMS_MIN + 1, 7 * PART_ITEMS_MIN + 3] {
            let items: Vec<Bytes> = (0..count).map(|i| i.to_string().into()).collect();
            let head = json!({"kind": "L", "items": []});
            let list = written(head, "items", &items, |item, out| out.extend_from_slice(item));
            let list: Value = serde_json::from_slice(&list).unwrap();
            assert_eq!(list, json!({"kind": "L", "items": (0..count).collect::<Vec<_>>()}));
        }
    }

    #[tokio::test]
    async fn only_large_bodies_are_compressed() {
        let small = compressed(bytes(200, "application/json", "{}".into())).await;
        assert!(!small.headers().contains_key(header::CONTENT_ENCODING));
        let text = "abc".repeat(GZIP_BYTES_MIN);
        let large = compressed(bytes(200, "application/json", text.clone().into())).await;
        assert_eq!(large.headers()[header::CONTENT_ENCODING], "gzip");
        let body = large.into_body().collect().await.unwrap().to_bytes();
        assert!(body.len() < text.len() / 10);
        let mut back = String::new();
        flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut back).unwrap();
        assert_eq!(back, text);
    }
}
