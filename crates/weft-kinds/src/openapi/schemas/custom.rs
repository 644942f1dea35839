//! Schemas of custom resources, as definitions state them.

use serde_json::{Value, json};

use super::{META, PREFIX};
use crate::Kind;

/// Name of a kind's schema: the group backwards, version and kind.
pub(super) fn name(kind: &Kind) -> String {
    let group: Vec<&str> = kind.group.split('.').rev().collect();
    format!("{}.{}.{}", group.join("."), kind.version, kind.kind)
}

/// The schema with what every object has.
pub(super) fn schema(source: &Value) -> Value {
    let mut schema = source.clone();
    let Some(members) = schema.as_object_mut() else { return json!({"type": "object"}) };
    let properties = members.entry("properties").or_insert_with(|| json!({}));
    let described = |text: &str| json!({"description": text, "type": "string"});
    properties["apiVersion"] = described(
        "APIVersion defines the versioned schema of this representation of an object. Servers \
         should convert recognized schemas to the latest internal value, and may reject \
         unrecognized values. More info: \
         https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources",
    );
    properties["kind"] = described(
        "Kind is a string value representing the REST resource this object represents. Servers \
         may infer this from the endpoint the client submits requests to. Cannot be updated. In \
         CamelCase. More info: \
         https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
    );
    properties["metadata"] = json!({
        "description": "Standard object's metadata. More info: \
            https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
        "$ref": format!("{PREFIX}{META}ObjectMeta"),
    });
    schema
}
