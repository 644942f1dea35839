//! The OpenAPI v2 document as protobuf, which kubectl before 1.30 insists on.
//!
//! The messages are those of `openapi.v2` (github.com/google/gnostic, openapiv2/OpenAPIv2.proto);
//! only what the document of `weft-kinds` has is written. Any value is YAML text there, and JSON
//! is YAML.

use serde_json::{Map, Value};

/// A protobuf message being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u32, inner: Message) {
        self.bytes(field, &inner.0);
    }

    fn text(&mut self, field: u32, value: &Value) {
        if let Some(s) = value.as_str() {
            self.bytes(field, s.as_bytes());
        }
    }

    fn texts(&mut self, field: u32, value: &Value) {
        value.as_array().into_iter().flatten().for_each(|v| self.text(field, v));
    }

    fn flag(&mut self, field: u32, value: &Value) {
        if value == true {
            self.varint(u64::from(field) << 3);
            self.varint(1);
        }
    }

    /// `repeated NamedX`: name and value.
    fn named(&mut self, field: u32, map: &Value, value: impl Fn(&Value) -> Message) {
        for (k, v) in map.as_object().into_iter().flatten() {
            let mut named = Message::default();
            named.bytes(1, k.as_bytes());
            named.message(2, value(v));
            self.message(field, named);
        }
    }

    /// `repeated NamedAny vendor_extension`.
    fn extensions(&mut self, field: u32, object: &Value) {
        let all: Map<String, Value> = object
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(k, _)| k.starts_with("x-"))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        self.named(field, &Value::Object(all), any);
    }
}

fn any(value: &Value) -> Message {
    let mut m = Message::default();
    m.bytes(2, value.to_string().as_bytes());
    m
}

/// A message with one field.
fn wrapped(field: u32, inner: Message) -> Message {
    let mut m = Message::default();
    m.message(field, inner);
    m
}

/// The whole document.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut m = Message::default();
    m.text(1, &document["swagger"]);
    let mut info = Message::default();
    info.text(1, &document["info"]["title"]);
    info.text(2, &document["info"]["version"]);
    m.message(2, info);
    let mut paths = Message::default();
    paths.named(2, &document["paths"], path_item);
    m.message(8, paths);
    let mut definitions = Message::default();
    definitions.named(1, &document["definitions"], schema);
    m.message(9, definitions);
    m.0
}

fn path_item(item: &Value) -> Message {
    let mut m = Message::default();
    let verbs = ["get", "put", "post", "delete", "options", "head", "patch"];
    for (verb, field) in verbs.iter().zip(2..) {
        if item[*verb].is_object() {
            m.message(field, operation(&item[*verb]));
        }
    }
    for p in item["parameters"].as_array().into_iter().flatten() {
        m.message(9, parameter(p));
    }
    m
}

fn operation(op: &Value) -> Message {
    let mut m = Message::default();
    m.texts(1, &op["tags"]);
    m.text(3, &op["description"]);
    m.text(5, &op["operationId"]);
    m.texts(6, &op["produces"]);
    m.texts(7, &op["consumes"]);
    for p in op["parameters"].as_array().into_iter().flatten() {
        m.message(8, parameter(p));
    }
    let mut responses = Message::default();
    responses.named(1, &op["responses"], |r| {
        let mut response = Message::default();
        response.text(1, &r["description"]);
        if r["schema"].is_object() {
            response.message(2, wrapped(1, schema(&r["schema"])));
        }
        wrapped(1, response)
    });
    m.message(9, responses);
    m.extensions(13, op);
    m
}

/// `ParametersItem`: of a body, a path or a query.
fn parameter(p: &Value) -> Message {
    let mut m = Message::default();
    let inner = match p["in"].as_str() {
        Some("body") => {
            m.text(1, &p["description"]);
            m.text(2, &p["name"]);
            m.text(3, &p["in"]);
            m.flag(4, &p["required"]);
            m.message(5, schema(&p["schema"]));
            wrapped(1, m)
        }
        place => {
            m.flag(1, &p["required"]);
            m.text(2, &p["in"]);
            m.text(3, &p["description"]);
            m.text(4, &p["name"]);
            // PathParameterSubSchema has no allow_empty_value: its numbers are one lower.
            let (kind, of) = if place == Some("path") { (5, 4) } else { (6, 3) };
            m.text(kind, &p["type"]);
            m.text(kind + 1, &p["format"]);
            m.flag(kind + 14, &p["uniqueItems"]);
            wrapped(2, wrapped(of, m))
        }
    };
    wrapped(1, inner)
}

fn schema(s: &Value) -> Message {
    let mut m = Message::default();
    m.text(1, &s["$ref"]);
    m.text(2, &s["format"]);
    m.text(4, &s["description"]);
    if !s["default"].is_null() {
        m.message(5, any(&s["default"]));
    }
    m.texts(19, &s["required"]);
    match &s["additionalProperties"] {
        Value::Object(_) => m.message(21, wrapped(1, schema(&s["additionalProperties"]))),
        Value::Bool(b) => {
            let mut item = Message::default();
            item.flag(2, &Value::Bool(*b));
            m.message(21, item);
        }
        _ => {}
    }
    if s["type"].is_string() {
        let mut kind = Message::default();
        kind.text(1, &s["type"]);
        m.message(22, kind);
    }
    if s["items"].is_object() {
        m.message(23, wrapped(1, schema(&s["items"])));
    }
    if s["properties"].is_object() {
        let mut properties = Message::default();
        properties.named(1, &s["properties"], schema);
        m.message(25, properties);
    }
    m.extensions(31, s);
    m
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_are_protobuf() {
        let m = schema(&json!({"type": "string", "x-y": 1}));
        // 22: TypeItem { 1: "string" }, 31: NamedAny { 1: "x-y", 2: Any { 2: "1" } }
        let mut expected = vec![0xb2, 0x01, 8, 0x0a, 6];
        expected.extend_from_slice(b"string");
        expected.extend_from_slice(&[0xfa, 0x01, 10, 0x0a, 3]);
        expected.extend_from_slice(b"x-y");
        expected.extend_from_slice(&[0x12, 3, 0x12, 1, b'1']);
        assert_eq!(m.0, expected);
    }

    #[test]
    fn parameters_know_where_they_are() {
        let query =
            parameter(&json!({"name": "q", "in": "query", "type": "string", "uniqueItems": true}));
        // ParametersItem 1 → Parameter 2 → NonBodyParameter 3 → …, 20: true
        assert_eq!((query.0[0], query.0[2], query.0[4]), (0x0a, 0x12, 0x1a));
        assert_eq!(query.0[query.0.len() - 3..], [0xa0, 0x01, 1]);
    }
}
