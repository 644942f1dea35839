//! Static types: what a declaration says about a value before it is there.

use crate::escape::escape_field;
use std::{fmt, sync::Arc};

/// The type of an expression, of a variable or of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// Anything; what it is shows when the rule runs. An int-or-string field is this.
    Dyn,
    /// `null`.
    Null,
    /// A boolean.
    Bool,
    /// A signed integer of 64 bits.
    Int,
    /// An unsigned integer of 64 bits.
    Uint,
    /// A binary64 number. A JSON integer read as this is converted.
    Double,
    /// Text.
    String,
    /// Bytes; in JSON standard base64 (schema format `byte`).
    Bytes,
    /// A point in time; in JSON RFC 3339, or a date alone (formats `date-time` and `date`).
    Timestamp,
    /// A length of time; in JSON Go's notation such as `1h30m` (format `duration`).
    Duration,
    /// A list.
    List(Arc<ListType>),
    /// A map.
    Map(Arc<MapType>),
    /// An object with known fields.
    Object(Arc<ObjectType>),
    /// A value that may be absent.
    Optional(Arc<Type>),
    /// The type of a type.
    Type(Arc<Type>),
    /// A type of one of the Kubernetes libraries.
    Opaque(Opaque),
    /// A type parameter: of a function's signature, or one that inference has not found yet.
    /// Never declared by users.
    Var(u32),
    /// What an expression with an error has, so that one mistake is reported once.
    Error,
}

/// Types of the Kubernetes libraries, without a JSON form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opaque {
    /// `quantity("1Gi")`
    Quantity,
    /// `ip("192.0.2.1")`
    Ip,
    /// `cidr("192.0.2.0/24")`
    Cidr,
    /// `url("https://example.com")`
    Url,
    /// `format.dns1123Label()`
    Format,
    /// `semver("1.2.3")`
    Semver,
}

/// A list's type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListType {
    /// What its elements are.
    pub elem: Type,
    /// How equality and `+` treat it.
    pub kind: ListKind,
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// Order counts; `+` appends.
    Atomic,
    /// Order does not count; `+` is the union.
    Set,
    /// Elements have a key, the JSON names of `x-kubernetes-list-map-keys`: order does not
    /// count, and `+` merges by key.
    Map(Arc<[String]>),
}

/// A map's type. Maps that are read from JSON have string keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapType {
    /// What its keys are.
    pub key: Type,
    /// What its values are.
    pub value: Type,
}

/// An object's type: its fields by name.
#[derive(Debug)]
pub struct ObjectType {
    name: String,
    /// Sorted by JSON name.
    fields: Vec<Field>,
    /// Indexes of `fields` sorted by identifier; only those that have one.
    by_ident: Vec<u32>,
}

/// A field of an object.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its name in JSON.
    pub json: String,
    /// Its identifier in a rule; `None` where no rule can reach it.
    pub ident: Option<String>,
    /// Its type.
    pub ty: Type,
}

impl ObjectType {
    /// A type with these fields, each given by its *JSON* name. Identifiers follow from
    /// [`escape_field`]. Of two fields with one name the last counts. `name` shows in errors
    /// and decides whether two object types are the same: give every one its own.
    pub fn new(
        name: impl Into<String>,
        fields: impl IntoIterator<Item = (String, Type)>,
    ) -> ObjectType {
        let mut all: Vec<Field> = fields
            .into_iter()
            .map(|(json, ty)| Field { ident: escape_field(&json), json, ty })
            .collect();
        all.reverse();
        all.sort_by(|a, b| a.json.cmp(&b.json));
        all.dedup_by(|a, b| a.json == b.json);
        let mut by_ident: Vec<u32> =
            (0..all.len() as u32).filter(|i| all[*i as usize].ident.is_some()).collect();
        by_ident.sort_by(|a, b| all[*a as usize].ident.cmp(&all[*b as usize].ident));
        ObjectType { name: name.into(), fields: all, by_ident }
    }

    /// The name that errors print.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All fields, sorted by JSON name.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The field that a rule calls `ident`.
    pub fn field(&self, ident: &str) -> Option<&Field> {
        self.by_ident
            .binary_search_by(|i| self.fields[*i as usize].ident.as_deref().cmp(&Some(ident)))
            .ok()
            .map(|i| &self.fields[self.by_ident[i] as usize])
    }

    /// The field that JSON calls `name`.
    pub fn json_field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|f| f.json.as_str().cmp(name)).ok().map(|i| &self.fields[i])
    }
}

/// Two object types are the same when their names are.
impl PartialEq for ObjectType {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for ObjectType {}

impl Type {
    /// A list whose order counts.
    pub fn list(elem: Type) -> Type {
        Type::List(Arc::new(ListType { elem, kind: ListKind::Atomic }))
    }

    /// A list with `x-kubernetes-list-type: set`.
    pub fn set(elem: Type) -> Type {
        Type::List(Arc::new(ListType { elem, kind: ListKind::Set }))
    }

    /// A list with `x-kubernetes-list-type: map` and these keys (JSON names).
    pub fn list_map(elem: Type, keys: impl IntoIterator<Item = String>) -> Type {
        let kind = ListKind::Map(keys.into_iter().collect());
        Type::List(Arc::new(ListType { elem, kind }))
    }

    /// A map with string keys, as `additionalProperties` declares it.
    pub fn map(value: Type) -> Type {
        Type::map_of(Type::String, value)
    }

    /// A map.
    pub fn map_of(key: Type, value: Type) -> Type {
        Type::Map(Arc::new(MapType { key, value }))
    }

    /// An object with fields given by JSON name; see [`ObjectType::new`].
    pub fn object(
        name: impl Into<String>,
        fields: impl IntoIterator<Item = (String, Type)>,
    ) -> Type {
        Type::Object(Arc::new(ObjectType::new(name, fields)))
    }

    /// A value that may be absent.
    pub fn optional(of: Type) -> Type {
        Type::Optional(Arc::new(of))
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Dyn => f.write_str("dyn"),
            Type::Null => f.write_str("null"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Uint => f.write_str("uint"),
            Type::Double => f.write_str("double"),
            Type::String => f.write_str("string"),
            Type::Bytes => f.write_str("bytes"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::Duration => f.write_str("duration"),
            Type::List(list) => write!(f, "list({})", list.elem),
            Type::Map(map) => write!(f, "map({}, {})", map.key, map.value),
            Type::Object(object) => f.write_str(object.name()),
            Type::Optional(of) => write!(f, "optional_type({of})"),
            Type::Type(of) => write!(f, "type({of})"),
            Type::Opaque(of) => f.write_str(of.name()),
            Type::Var(n) => write!(f, "_var{n}"),
            Type::Error => f.write_str("!error!"),
        }
    }
}

impl Opaque {
    /// Its name, as errors and `type()` print it.
    pub fn name(self) -> &'static str {
        match self {
            Opaque::Quantity => "kubernetes.Quantity",
            Opaque::Ip => "net.IP",
            Opaque::Cidr => "net.CIDR",
            Opaque::Url => "kubernetes.URL",
            Opaque::Format => "kubernetes.NamedFormat",
            Opaque::Semver => "kubernetes.Semver",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_finds_its_fields_by_either_name() {
        let object = ObjectType::new(
            "o",
            [("in", Type::Int), ("a-b", Type::Bool), ("1", Type::Int), ("a-b", Type::String)]
                .map(|(n, t)| (n.to_owned(), t)),
        );
        assert_eq!(object.field("__in__").map(|f| f.json.as_str()), Some("in"));
        assert_eq!(object.field("in").map(|f| &f.json), None);
        assert_eq!(object.field("a__dash__b").map(|f| &f.ty), Some(&Type::String));
        assert_eq!(object.json_field("1").map(|f| &f.ty), Some(&Type::Int));
        assert_eq!(object.fields().len(), 3);
    }
}
