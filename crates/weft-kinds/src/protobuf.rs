//! Protobuf request bodies.

use serde_json::Value;

/// The magic bytes before every Kubernetes protobuf body.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// A decoded body.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// `apiVersion` of the envelope.
    pub api_version: String,
    /// `kind` of the envelope.
    pub kind: String,
    /// The object as JSON, with `apiVersion` and `kind`.
    pub object: Value,
}

/// Why a body cannot be decoded.
#[derive(Debug, thiserror::Error)]
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

/// Decodes a body: envelope, then the object by the type table.
pub fn decode(body: &[u8]) -> Result<Object, ProtobufError> {
    if !body.starts_with(MAGIC) {
        return Err(ProtobufError::NoMagic);
    }
    Err(ProtobufError::Malformed("not decoded yet"))
}
