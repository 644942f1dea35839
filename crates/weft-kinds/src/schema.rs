//! The types of the Kubernetes API as a table: fields, numbers, merge keys.
//! Custom resources get types of the same form, made from their structural schemas.
//!
//! The table (`schema/types-v1.35.txt`) is text with one type per unindented line
//! (`core.v1.Pod object`; `object` = carries apiVersion and kind, `atomic` = one value for
//! server-side apply) and one field per indented
//! line: protobuf number, JSON name, type, attributes. A type is a scalar or another type's
//! name, with `[]` for a list of it and `{}` for a map from strings. Attributes: `inline` (the
//! members of the named type stand in this one's JSON), `merge[=key]`, `retainKeys` and
//! `replace` (strategic merge), `list=atomic|set|map(keys)` and `atomic` (server-side apply),
//! `omit` (left out of JSON when zero), `enum=A|B` (the values of its named type). `schema/generate.py` writes it from the Go modules.
//!
//! It is parsed on first use, which takes about a millisecond.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

mod custom;

use crate::{Kind, Schema};
pub(crate) use custom::members;

const TEXT: &str = include_str!("../schema/types-v1.35.txt");

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A string, also of a named string type.
    String,
    /// A boolean.
    Bool,
    /// A 32-bit integer.
    Int32,
    /// A 64-bit integer.
    Int64,
    /// A floating-point number.
    Double,
    /// Bytes, base64 in JSON.
    Bytes,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// A Go duration; `1h0m0s` in JSON.
    Duration,
    /// A quantity such as `500m`.
    Quantity,
    /// An integer or a string.
    IntOrString,
    /// Any JSON.
    Raw,
    /// A list of strings that is one value (`ExtraValue`).
    Strings,
    /// Another type of the table.
    Type(TypeId),
}

/// How many of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One.
    One,
    /// A list.
    List,
    /// A map from strings.
    Map,
}

/// How server-side apply and structural comparison see a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListType {
    /// One value, replaced whole. The default.
    Atomic,
    /// Each scalar stands for itself.
    Set,
    /// Items are found by these keys.
    Map(Vec<Cow<'static, str>>),
}

/// How strategic merge treats a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// Replaced whole.
    Replace,
    /// Scalars are united.
    Union,
    /// Items are merged by this key.
    ByKey(&'static str),
}

/// A field of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Number in protobuf; 0 for `apiVersion` and `kind`, which the envelope carries.
    pub number: u32,
    /// Name in JSON; `-` for an inlined type.
    pub json: Cow<'static, str>,
    /// How many.
    pub shape: Shape,
    /// Of what.
    pub content: Content,
    /// Whether the members of the type stand in the containing type's JSON.
    pub inline: bool,
    /// Strategic merge of the list.
    pub merge: Merge,
    /// Whether strategic merge honours `$retainKeys` here.
    pub retain_keys: bool,
    /// The list's type for server-side apply.
    pub list: ListType,
    /// Whether a map or struct is replaced whole by server-side apply.
    pub atomic: bool,
    /// Whether the zero value is left out of JSON.
    pub omit_zero: bool,
    /// Whether this is a struct that Go always has (no pointer): absent and empty are the same.
    pub value: bool,
    /// Whether something that is no object may stand in the type's place.
    pub loose: bool,
    /// The values that Kubernetes documents, with `|` between them; empty where any will do.
    pub values: &'static str,
    /// The type of the value or of the items where it is none of the table.
    pub own: Option<Arc<Type>>,
}

impl Field {
    /// The type of the field's value or items, when it has members.
    pub fn type_of(&self) -> Option<&Type> {
        match self.content {
            Content::Type(id) => Some(id.get()),
            _ => self.own.as_deref(),
        }
    }
}

/// A type of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    /// Name such as `core.v1.PodSpec`.
    pub name: &'static str,
    /// Whether server-side apply replaces it whole, wherever it stands.
    pub atomic: bool,
    /// Fields by protobuf number, inlined types as one field.
    pub fields: Vec<Field>,
    /// Fields by JSON name, sorted, with the members of inlined types.
    pub members: Vec<Field>,
}

impl Type {
    /// The field of that JSON name.
    pub fn member(&self, json: &str) -> Option<&Field> {
        self.members.binary_search_by(|f| (*f.json).cmp(json)).ok().map(|i| &self.members[i])
    }

    /// The field of that protobuf number.
    pub fn number(&self, number: u32) -> Option<&Field> {
        self.fields.iter().find(|f| f.number == number && number != 0)
    }

    /// Name without group and version: `PodSpec`.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// Name as Go's messages write it: `v1.PodSpec`.
    pub fn go_name(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(_, rest)| rest)
    }
}

/// Index of a type in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeId(u16);

impl TypeId {
    /// The type itself.
    pub fn get(self) -> &'static Type {
        &TABLE.types[usize::from(self.0)]
    }
}

struct Table {
    types: Vec<Type>,
    names: HashMap<&'static str, TypeId>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| parse(TEXT));

/// The type of that name.
pub fn find(name: &str) -> Option<&'static Type> {
    TABLE.names.get(name).map(|id| id.get())
}

/// All types.
pub fn types() -> &'static [Type] {
    &TABLE.types
}

/// The type of a kind's objects.
pub fn of(kind: &Kind) -> &Type {
    match &kind.schema {
        Schema::Builtin(of) => of,
        Schema::Custom(custom) => custom.members(),
    }
}

fn parse(text: &'static str) -> Table {
    let lines = || text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let mut names = HashMap::new();
    for line in lines().filter(|line| !line.starts_with(' ')) {
        let id = TypeId(u16::try_from(names.len()).expect("invariant: a few hundred types"));
        names.insert(line.split(' ').next().unwrap_or(line), id);
    }
    let mut types: Vec<Type> = Vec::with_capacity(names.len());
    for line in lines() {
        if let Some(field) = line.strip_prefix(' ') {
            let owner = types.last_mut().expect("invariant: a type precedes its fields");
            owner.fields.push(parse_field(field, &names));
        } else {
            let mut words = line.split(' ');
            let name = words.next().unwrap_or(line);
            let (mut fields, mut atomic) = (Vec::new(), false);
            for word in words {
                match word {
                    "object" => fields = envelope(),
                    _ => atomic = true,
                }
            }
            types.push(Type { name, atomic, fields, members: Vec::new() });
        }
    }
    for index in 0..types.len() {
        let mut members = Vec::new();
        flatten(&types, index, &mut members);
        members.sort_by(|a, b| a.json.cmp(&b.json));
        types[index].members = members;
    }
    Table { types, names }
}

fn flatten(types: &[Type], index: usize, out: &mut Vec<Field>) {
    for field in &types[index].fields {
        match field.content {
            Content::Type(id) if field.inline => flatten(types, usize::from(id.0), out),
            _ => out.push(field.clone()),
        }
    }
}

/// `apiVersion` and `kind`.
fn envelope() -> Vec<Field> {
    vec![Field::scalar("apiVersion".into()), Field::scalar("kind".into())]
}

impl Field {
    /// A text that is left out when it is empty.
    fn scalar(json: Cow<'static, str>) -> Self {
        Self {
            number: 0,
            json,
            shape: Shape::One,
            content: Content::String,
            inline: false,
            merge: Merge::Replace,
            retain_keys: false,
            list: ListType::Atomic,
            atomic: false,
            omit_zero: true,
            value: false,
            loose: false,
            values: "",
            own: None,
        }
    }
}

fn parse_field(line: &'static str, names: &HashMap<&'static str, TypeId>) -> Field {
    const SHAPE: &str = "invariant: the embedded table is well formed (a test parses it)";
    let mut words = line.split(' ');
    let number = words.next().and_then(|w| w.parse().ok()).expect(SHAPE);
    let json = words.next().expect(SHAPE);
    let word = words.next().expect(SHAPE);
    let (shape, word) = match (word.strip_prefix("[]"), word.strip_prefix("{}")) {
        (Some(rest), _) => (Shape::List, rest),
        (_, Some(rest)) => (Shape::Map, rest),
        _ => (Shape::One, word),
    };
    let content = match word {
        "string" => Content::String,
        "bool" => Content::Bool,
        "int32" => Content::Int32,
        "int64" => Content::Int64,
        "double" => Content::Double,
        "bytes" => Content::Bytes,
        "time" => Content::Time,
        "microtime" => Content::MicroTime,
        "duration" => Content::Duration,
        "quantity" => Content::Quantity,
        "intorstring" => Content::IntOrString,
        "raw" => Content::Raw,
        "strings" => Content::Strings,
        name => Content::Type(*names.get(name).expect(SHAPE)),
    };
    let mut field = Field { number, shape, content, ..Field::scalar(json.into()) };
    field.omit_zero = false;
    for attribute in words {
        match attribute {
            "inline" => field.inline = true,
            "merge" => field.merge = Merge::Union,
            "retainKeys" => field.retain_keys = true,
            "atomic" => field.atomic = true,
            "omit" => field.omit_zero = true,
            "value" => field.value = true,
            "loose" => field.loose = true,
            "list=set" => field.list = ListType::Set,
            other => {
                if let Some(values) = other.strip_prefix("enum=") {
                    field.values = values;
                } else if let Some(key) = other.strip_prefix("merge=") {
                    field.merge = Merge::ByKey(key);
                } else if let Some(keys) = other.strip_prefix("list=map(") {
                    let keys = keys.trim_end_matches(')').split(',').map(Cow::Borrowed).collect();
                    field.list = ListType::Map(keys);
                }
            }
        }
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_type() {
        for kind in crate::kinds() {
            assert_eq!(find(kind.type_name()).map(|t| t.name), Some(kind.type_name()));
        }
    }

    #[test]
    fn fields_are_found_by_name_and_number() {
        let container = find("core.v1.Container").expect("type");
        let ports = container.member("ports").expect("field");
        assert_eq!((ports.number, ports.shape), (6, Shape::List));
        assert_eq!(ports.merge, Merge::ByKey("containerPort"));
        assert_eq!(ports.list, ListType::Map(vec!["containerPort".into(), "protocol".into()]));
        assert_eq!(container.number(6), Some(ports));
        assert_eq!(ports.type_of().map(Type::go_name), Some("v1.ContainerPort"));
        let volume = find("core.v1.Volume").expect("type");
        assert!(volume.member("emptyDir").is_some(), "members of inlined types are members");
        assert!(volume.member("-").is_none());
        let pod = find("core.v1.Pod").expect("type");
        assert!(pod.member("apiVersion").is_some_and(|f| f.number == 0));
    }

    #[test]
    fn inlining_has_no_clashes() {
        for t in types() {
            for pair in t.members.windows(2) {
                assert_ne!(pair[0].json, pair[1].json, "{}", t.name);
            }
        }
    }
}
