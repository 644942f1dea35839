//! Protobuf request bodies, decoded along the type table.
//!
//! kubectl's generators send protobuf since 1.32 and do not fall back: the magic bytes, then
//! `runtime.Unknown` around the object. The wire is read by field number from the same table
//! that checks JSON, so that there is no message type per kind.
//!
//! Any bytes are answered with an object or an error; depth and number of values are limited.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::decode::{micros, seconds};
use crate::schema::{self, Content, Field, Shape, Type};

/// The magic bytes before every Kubernetes protobuf body.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// Nesting of messages; real objects stay below 20.
const DEPTH_MAX: u32 = 64;
/// Values in one object: bounds the memory that a body of tiny fields could take.
const VALUES_MAX: u32 = 500_000;

/// A decoded body.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// `apiVersion` of the envelope.
    pub api_version: String,
    /// `kind` of the envelope.
    pub kind: String,
    /// The object as JSON, with `apiVersion` and `kind`. To be conformed like any other.
    pub object: Value,
}

/// Why a body cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// The `k8s\0` prefix is missing.
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    NoMagic,
    /// The bytes end early or are no protobuf.
    #[error("malformed protobuf: {0}")]
    Malformed(&'static str),
    /// The kind is not in the type table.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind {
        /// `apiVersion` of the envelope.
        api_version: String,
        /// `kind` of the envelope.
        kind: String,
    },
}

type Result<T> = std::result::Result<T, ProtobufError>;

/// Decodes a body: envelope, then the object by the type table.
pub fn decode(body: &[u8]) -> Result<Object> {
    let Some(body) = body.strip_prefix(MAGIC) else { return Err(ProtobufError::NoMagic) };
    let (mut type_meta, mut raw, mut encoding) = (&body[..0], &body[..0], &body[..0]);
    let mut reader = Reader(body);
    while let Some((number, wire)) = reader.field()? {
        match (number, wire) {
            (1, Wire::Bytes(bytes)) => type_meta = bytes,
            (2, Wire::Bytes(bytes)) => raw = bytes,
            (3, Wire::Bytes(bytes)) => encoding = bytes,
            _ => {}
        }
    }
    if !encoding.is_empty() {
        return Err(ProtobufError::Malformed("the content encoding is not supported"));
    }
    let (mut api_version, mut kind) = (String::new(), String::new());
    let mut reader = Reader(type_meta);
    while let Some((number, wire)) = reader.field()? {
        match (number, wire) {
            (1, Wire::Bytes(bytes)) => api_version = text(bytes)?,
            (2, Wire::Bytes(bytes)) => kind = text(bytes)?,
            _ => {}
        }
    }
    let Some(of) = type_of(&api_version, &kind) else {
        return Err(ProtobufError::UnknownKind { api_version, kind });
    };
    let mut members = Map::new();
    members.insert("apiVersion".into(), api_version.as_str().into());
    members.insert("kind".into(), kind.as_str().into());
    Decoder { values: 0 }.message(of, raw, &mut members, 0)?;
    Ok(Object { api_version, kind, object: Value::Object(members) })
}

/// The type of an `apiVersion` and `kind`. The packages of the Go types are named by the first
/// label of their group; `DeleteOptions` and `Status` belong to every group.
fn type_of(api_version: &str, kind: &str) -> Option<&'static Type> {
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    let package = group.split('.').next().unwrap_or(group);
    schema::find(&format!("{package}.{version}.{kind}"))
        .or_else(|| schema::find(&format!("meta.v1.{kind}")))
}

/// A value on the wire.
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    /// A 32-bit value; no Kubernetes type has one.
    Other,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn field(&mut self) -> Result<Option<(u32, Wire<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3)
            .ok()
            .filter(|n| *n != 0)
            .ok_or(ProtobufError::Malformed("illegal field number"))?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?)
                    .map_err(|_| ProtobufError::Malformed("length out of range"))?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Other
            }
            _ => return Err(ProtobufError::Malformed("unsupported wire type")),
        };
        Ok(Some((number, wire)))
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let [byte] = self.array()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Malformed("integer overflow"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (head, tail) =
            self.0.split_at_checked(length).ok_or(ProtobufError::Malformed("unexpected end"))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }
}

struct Decoder {
    values: u32,
}

impl Decoder {
    fn message(
        &mut self,
        of: &Type,
        bytes: &[u8],
        out: &mut Map<String, Value>,
        depth: u32,
    ) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(ProtobufError::Malformed("nested too deep"));
        }
        let mut reader = Reader(bytes);
        while let Some((number, wire)) = reader.field()? {
            let Some(field) = of.number(number) else { continue };
            if field.inline {
                if let (Some(inner), Wire::Bytes(bytes)) = (field.type_of(), wire) {
                    self.message(inner, bytes, out, depth + 1)?;
                }
                continue;
            }
            match field.shape {
                Shape::One => {
                    let value = self.value(field, wire, depth)?;
                    if !value.is_null() {
                        out.insert(field.json.to_string(), value);
                    }
                }
                Shape::List => {
                    let slot = out.entry(&*field.json).or_insert_with(|| Value::Array(Vec::new()));
                    let Value::Array(items) = slot else { continue };
                    match wire {
                        Wire::Bytes(bytes) if is_number(field.content) => {
                            let mut packed = Reader(bytes);
                            while !packed.0.is_empty() {
                                let wire = match field.content {
                                    Content::Double => {
                                        Wire::Fixed64(u64::from_le_bytes(packed.array()?))
                                    }
                                    _ => Wire::Varint(packed.varint()?),
                                };
                                items.push(self.value(field, wire, depth)?);
                            }
                        }
                        wire => items.push(self.value(field, wire, depth)?),
                    }
                }
                Shape::Map => {
                    let Wire::Bytes(bytes) = wire else { return Err(wrong_wire()) };
                    let (key, value) = self.entry(field, bytes, depth)?;
                    let slot = out.entry(&*field.json).or_insert_with(|| Value::Object(Map::new()));
                    if let Value::Object(entries) = slot {
                        entries.insert(key, value);
                    }
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, field: &Field, bytes: &[u8], depth: u32) -> Result<(String, Value)> {
        let (mut key, mut value) = (String::new(), None);
        let mut reader = Reader(bytes);
        while let Some((number, wire)) = reader.field()? {
            match (number, wire) {
                (1, Wire::Bytes(bytes)) => key = text(bytes)?,
                (2, wire) => value = Some(self.value(field, wire, depth)?),
                _ => {}
            }
        }
        let value = match value {
            Some(value) => value,
            None if is_number(field.content) => 0.into(),
            None => self.value(field, Wire::Bytes(&[]), depth)?,
        };
        Ok((key, value))
    }

    fn value(&mut self, field: &Field, wire: Wire<'_>, depth: u32) -> Result<Value> {
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(ProtobufError::Malformed("too many values"));
        }
        Ok(match (field.content, wire) {
            (Content::Bool, Wire::Varint(number)) => (number != 0).into(),
            // Negative 32-bit numbers are sign-extended to ten bytes; the low half is the number.
            #[expect(clippy::cast_possible_truncation, reason = "protobuf's own rule")]
            (Content::Int32, Wire::Varint(number)) => (number as i32).into(),
            (Content::Int64, Wire::Varint(number)) => number.cast_signed().into(),
            (Content::Double, Wire::Fixed64(bits)) => f64::from_bits(bits).into(),
            (Content::String, Wire::Bytes(bytes)) => text(bytes)?.into(),
            (Content::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
            (Content::Type(id), Wire::Bytes(bytes)) => {
                let mut members = Map::new();
                self.message(id.get(), bytes, &mut members, depth + 1)?;
                Value::Object(members)
            }
            (content, Wire::Bytes(bytes)) => wrapper(content, bytes)?,
            _ => return Err(wrong_wire()),
        })
    }
}

/// The types that are a message on the wire and a scalar in JSON.
fn wrapper(content: Content, bytes: &[u8]) -> Result<Value> {
    let mut numbers = [0i64; 4];
    let mut blobs: [&[u8]; 4] = [&[]; 4];
    let mut list = Vec::new();
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        let Some(slot) = usize::try_from(number).ok().filter(|n| *n < 4) else { continue };
        match wire {
            Wire::Varint(value) => numbers[slot] = value.cast_signed(),
            Wire::Bytes(bytes) => {
                blobs[slot] = bytes;
                if content == Content::Strings && slot == 1 {
                    list.push(Value::from(text(bytes)?));
                }
            }
            _ => {}
        }
    }
    Ok(match content {
        Content::Time | Content::MicroTime => {
            let nanos = i32::try_from(numbers[2])
                .map_err(|_| ProtobufError::Malformed("time out of range"))?;
            if numbers[1] == 0 && nanos == 0 {
                return Ok(Value::Null);
            }
            let time = Timestamp::new(numbers[1], nanos)
                .map_err(|_| ProtobufError::Malformed("time out of range"))?;
            if content == Content::Time { seconds(time).into() } else { micros(time).into() }
        }
        Content::Duration => go_duration(numbers[1]).into(),
        Content::Quantity if blobs[1].is_empty() => "0".into(),
        Content::Quantity => text(blobs[1])?.into(),
        Content::IntOrString if numbers[1] == 0 => i32::try_from(numbers[2])
            .map_err(|_| ProtobufError::Malformed("integer out of range"))?
            .into(),
        Content::IntOrString => text(blobs[3])?.into(),
        Content::Raw if blobs[1].is_empty() => Value::Null,
        Content::Raw => serde_json::from_slice(blobs[1])
            .map_err(|_| ProtobufError::Malformed("embedded JSON cannot be parsed"))?,
        Content::Strings => Value::Array(list),
        _ => return Err(wrong_wire()),
    })
}

/// A duration as Go prints it, to the second or finer: `1h0m0s`, `1.5s`, `0s`.
fn go_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let all = nanos.unsigned_abs();
    let (total, rest) = (all / 1_000_000_000, all % 1_000_000_000);
    let (hours, minutes, secs) = (total / 3600, total / 60 % 60, total % 60);
    let fraction = format!(".{rest:09}");
    let fraction = if rest == 0 { "" } else { fraction.trim_end_matches('0') };
    match (hours, minutes) {
        (0, 0) => format!("{sign}{secs}{fraction}s"),
        (0, _) => format!("{sign}{minutes}m{secs}{fraction}s"),
        _ => format!("{sign}{hours}h{minutes}m{secs}{fraction}s"),
    }
}

fn is_number(content: Content) -> bool {
    matches!(content, Content::Bool | Content::Int32 | Content::Int64 | Content::Double)
}

fn text(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::Malformed("text is not UTF-8"))
}

fn wrong_wire() -> ProtobufError {
    ProtobufError::Malformed("wrong wire type for a field")
}

#[cfg(test)]
mod tests;
