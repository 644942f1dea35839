//! JSON and YAML to values, noting duplicate fields.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{DecodeError, Decoded, FINDINGS_MAX};

/// Parses JSON; nesting is limited to 128 levels. For bodies whose kind is not known yet.
pub fn json_value(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let mut strict = Vec::new();
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let object = Node { path: None, duplicates: &mut strict }
        .deserialize(&mut parser)
        .and_then(|value| parser.end().map(|()| value))
        .map_err(|error| DecodeError::Json(error.to_string()))?;
    Ok(Decoded { object, strict })
}

/// Parses YAML, one document; nesting and alias expansion are limited by the parser.
pub fn yaml_value(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let mut strict = Vec::new();
    let object = Node { path: None, duplicates: &mut strict }
        .deserialize(serde_yaml_ng::Deserializer::from_slice(bytes))
        .map_err(|error| DecodeError::Yaml(error.to_string()))?;
    Ok(Decoded { object, strict })
}

/// Where the parser is; lives on the stack, so that only a duplicate pays for a path.
struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Key(key) if self.parent.is_some() => write!(f, ".{key}"),
            Step::Key(key) => f.write_str(key),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// Seed for the value at `path`.
struct Node<'a> {
    path: Option<&'a Path<'a>>,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let path = Path { parent: self.path, step: Step::Index(items.len()) };
            let item = Node { path: Some(&path), duplicates: &mut *self.duplicates };
            match seq.next_element_seed(item)? {
                Some(value) => items.push(value),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = Path { parent: self.path, step: Step::Key(&key) };
            let node = Node { path: Some(&path), duplicates: &mut *self.duplicates };
            let value = map.next_value_seed(node)?;
            if members.contains_key(&key) && self.duplicates.len() < FINDINGS_MAX {
                self.duplicates.push(format!("duplicate field {:?}", path.to_string()));
            }
            members.insert(key, value);
        }
        Ok(Value::Object(members))
    }
}
