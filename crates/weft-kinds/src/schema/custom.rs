//! Types of custom resources, for server-side apply: what is merged, and by which keys.

use std::borrow::Cow;
use std::sync::Arc;

use weft_crd::{Additional, ListType as List, Schema};

use super::{Content, Field, ListType, Shape, TABLE, Type, envelope};

/// The type of the objects of a structural schema.
pub(crate) fn members(schema: &Schema) -> Type {
    let mut of = object(schema);
    of.members.retain(|f| !matches!(&*f.json, "apiVersion" | "kind" | "metadata"));
    of.members.extend(envelope());
    let metadata = TABLE.names["meta.v1.ObjectMeta"];
    let content = Content::Type(metadata);
    of.members.push(Field { content, ..Field::scalar("metadata".into()) });
    of.members.sort_by(|a, b| a.json.cmp(&b.json));
    of
}

fn object(schema: &Schema) -> Type {
    let properties = schema.properties();
    let members = properties.map(|(name, property)| field(name, property)).collect();
    Type { name: "", atomic: schema.is_atomic(), fields: Vec::new(), members }
}

/// The type of a value that has members of its own; what lies in a list of lists or a map of
/// maps is one value.
fn inner(schema: &Schema) -> Option<Arc<Type>> {
    schema.is_struct().then(|| Arc::new(object(schema)))
}

fn field(name: &str, schema: &Schema) -> Field {
    let mut field = Field::scalar(Cow::Owned(name.to_owned()));
    field.content = Content::Raw;
    field.atomic = schema.is_atomic();
    if let Some(items) = schema.items() {
        field.shape = Shape::List;
        field.own = inner(items);
        field.list = match schema.list_type() {
            List::Atomic => ListType::Atomic,
            List::Set => ListType::Set,
            List::Map => ListType::Map(schema.map_keys().iter().cloned().map(Cow::Owned).collect()),
        };
    } else if schema.is_struct() {
        field.own = inner(schema);
    } else if let Additional::Schema(values) = schema.additional() {
        field.shape = Shape::Map;
        field.own = inner(values);
    }
    field
}
