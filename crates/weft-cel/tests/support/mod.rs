//! Schemas as the tests write them, and values as the tests expect them.
#![allow(dead_code)] // Each test file uses its part.

use serde_json::Value as Json;
use weft_cel::{Type, Value};

/// The type of a JSON schema, as a CRD would declare it.
pub fn schema_type(name: &str, schema: &Json) -> Type {
    let text = |key: &str| schema[key].as_str().unwrap_or_default();
    if schema["x-kubernetes-int-or-string"] == true {
        return Type::Dyn;
    }
    match text("type") {
        "object" => {
            if schema["additionalProperties"].is_object() {
                let inner =
                    schema_type(&format!("{name}.@values"), &schema["additionalProperties"]);
                return Type::map(inner);
            }
            let empty = serde_json::Map::new();
            let properties = schema["properties"].as_object().unwrap_or(&empty);
            let fields = properties
                .iter()
                .map(|(key, inner)| (key.clone(), schema_type(&format!("{name}.{key}"), inner)));
            Type::object(name, fields.collect::<Vec<_>>())
        }
        "array" => {
            let elem = schema_type(&format!("{name}.@idx"), &schema["items"]);
            match text("x-kubernetes-list-type") {
                "set" => Type::set(elem),
                "map" => {
                    let keys = schema["x-kubernetes-list-map-keys"].as_array();
                    let keys = keys.into_iter().flatten().filter_map(Json::as_str);
                    Type::list_map(elem, keys.map(str::to_owned).collect::<Vec<_>>())
                }
                _ => Type::list(elem),
            }
        }
        "string" => match text("format") {
            "byte" => Type::Bytes,
            "duration" => Type::Duration,
            "date" | "date-time" => Type::Timestamp,
            _ => Type::String,
        },
        "boolean" => Type::Bool,
        "number" => Type::Double,
        "integer" => Type::Int,
        _ => Type::Dyn,
    }
}

/// A value in the notation of the tables.
pub fn render(value: &Value<'_>) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Uint(n) => format!("{n}u"),
        Value::Double(n) => format!("{}(double)", go_float(*n)),
        Value::String(s) => format!("{:?}", &**s),
        Value::Bytes(b) => format!("b{:?}", String::from_utf8_lossy(b)),
        Value::Timestamp(t) => format!("{}(google.protobuf.Timestamp)", t.text()),
        Value::Duration(n) => {
            let seconds = (n / 1_000_000_000) as f64 + (n % 1_000_000_000) as f64 / 1e9;
            format!("{seconds}s(google.protobuf.Duration)")
        }
        Value::List(list) => {
            let items: Vec<String> = list
                .iter()
                .map(|item| item.map_or_else(|e| e.to_string(), |v| render(&v)))
                .collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(map) => {
            let mut entries: Vec<String> = map
                .entries()
                .map(|(k, v)| {
                    format!("{}: {}", render(&k), v.map_or_else(|e| e.to_string(), |v| render(&v)))
                })
                .collect();
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Optional(None) => "optional.none".to_owned(),
        Value::Optional(Some(inner)) => format!("optional({})", render(inner)),
        Value::Type(name) => format!("type:{}", name.as_str()),
        Value::Opaque(_) => format!("<{}>", value.type_name()),
    }
}

/// A number as Go prints it with `%v`.
fn go_float(n: f64) -> String {
    if n.is_infinite() {
        return if n > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if n != 0.0 && !(1e-4..1e21).contains(&n.abs()) {
        let text = format!("{n:e}");
        let (mantissa, exponent) = text.split_once('e').expect("an exponent");
        let exponent: i32 = exponent.parse().expect("a number");
        return format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    format!("{n}")
}
