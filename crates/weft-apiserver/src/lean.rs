//! Parts of stored objects, without decoding the rest. Half of an object are often its
//! managedFields, which no column and no selector looks at.

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Map, Value, value::RawValue};
use std::fmt;

/// The metadata as they are stored.
pub(crate) fn metadata(object: &[u8]) -> &str {
    #[derive(Deserialize)]
    struct Object<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
    }
    serde_json::from_slice::<Object<'_>>(object).map_or("null", |o| o.metadata.get())
}

/// Whether the object is being deleted.
pub(crate) fn deleting(object: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Object {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        deletion_timestamp: Option<IgnoredAny>,
    }
    serde_json::from_slice::<Object>(object).is_ok_and(|o| o.metadata.deletion_timestamp.is_some())
}

/// The object without its managedFields.
pub(crate) fn object(object: &[u8]) -> serde_json::Result<Value> {
    let mut from = serde_json::Deserializer::from_slice(object);
    let value = Part::Object.deserialize(&mut from)?;
    from.end()?;
    Ok(value)
}

/// Where the decoder is.
#[derive(Clone, Copy)]
enum Part {
    Object,
    Metadata,
}

impl<'de> DeserializeSeed<'de> for Part {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Part {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of the API")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = from.next_key::<String>()? {
            let value = match (self, key.as_str()) {
                (Self::Object, "metadata") => from.next_value_seed(Self::Metadata)?,
                (Self::Metadata, "managedFields") => {
                    from.next_value::<IgnoredAny>()?;
                    continue;
                }
                _ => from.next_value()?,
            };
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_managed_fields_are_left_out() {
        let text = r#"{"kind":"A","metadata":{"name":"a","managedFields":[{"a":1}],"uid":"u"},"spec":{"metadata":{"managedFields":[2]}}}"#;
        let expected = json!({"kind": "A", "metadata": {"name": "a", "uid": "u"},
            "spec": {"metadata": {"managedFields": [2]}}});
        assert_eq!(object(text.as_bytes()).unwrap(), expected);
        assert_eq!(
            metadata(text.as_bytes()),
            r#"{"name":"a","managedFields":[{"a":1}],"uid":"u"}"#
        );
        assert!(object(b"{").is_err() && object(b"[]").is_err() && object(b"{} x").is_err());
        assert_eq!(metadata(b"{}"), "null");
        assert!(!deleting(text.as_bytes()));
        assert!(deleting(br#"{"spec":1,"metadata":{"deletionTimestamp":"2026-01-01T00:00:00Z"}}"#));
    }
}
