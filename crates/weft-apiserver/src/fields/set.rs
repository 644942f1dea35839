//! The set itself and its FieldsV1 form.

use serde_json::{Map, Value};
use std::{
    borrow::Cow,
    collections::{BTreeMap, btree_map::Entry},
};
use weft_kinds::schema::{Field, ListType, Shape, Type};

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Element {
    /// `f:name`: a field or a key of a map.
    Field(String),
    /// `k:{…}`: the item of a keyed list, by its keys as JSON.
    Key(String),
    /// `v:…`: the item of a set, as JSON.
    Value(String),
}

/// A tree of paths; `own` says that the path itself is in the set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldSet {
    pub(crate) own: bool,
    pub(crate) children: BTreeMap<Element, FieldSet>,
}

/// Never owned by anybody: identity, and what the server writes.
const UNOWNED_META: &[&str] = &[
    "name",
    "namespace",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
];

/// How deep objects may nest.
const DEPTH_MAX: usize = 64;

/// The keys of an item, as JSON with sorted names; missing protocols are TCP, the one default
/// that the schema gives a key.
pub(super) fn item_key(keys: &[Cow<'static, str>], item: &Value) -> String {
    let mut sorted: Vec<&str> = keys.iter().map(|key| &**key).collect();
    sorted.sort();
    let mut out = Map::new();
    for k in sorted {
        let value = match item.get(k) {
            None | Some(Value::Null) if k == "protocol" => "TCP".into(),
            None => Value::Null,
            Some(v) => v.clone(),
        };
        out.insert(k.to_owned(), value);
    }
    Value::Object(out).to_string()
}

impl FieldSet {
    fn leaf() -> Self {
        Self { own: true, children: BTreeMap::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.own && self.children.is_empty()
    }

    /// The fields that an applied configuration states.
    pub(crate) fn of(kind: &Type, object: &Value) -> Self {
        let mut set = Self::of_struct(kind, object, 0);
        set.own = false;
        set.strip();
        set
    }

    /// Takes out what nobody owns.
    pub(super) fn strip(&mut self) {
        for name in ["apiVersion", "kind"] {
            self.children.remove(&Element::Field(name.into()));
        }
        let metadata = Element::Field("metadata".into());
        if let Some(meta) = self.children.get_mut(&metadata) {
            for name in UNOWNED_META {
                meta.children.remove(&Element::Field((*name).into()));
            }
            meta.own = false;
            if meta.is_empty() {
                self.children.remove(&metadata);
            }
        }
    }

    fn of_struct(kind: &Type, object: &Value, depth: usize) -> Self {
        let whole = kind.atomic || depth >= DEPTH_MAX;
        let Some(map) = object.as_object().filter(|m| !m.is_empty() && !whole) else {
            return Self::leaf();
        };
        let children = map.iter().map(|(k, v)| {
            let child = match kind.member(k) {
                Some(f) => Self::of_field(f, v, depth + 1),
                None => Self::leaf(),
            };
            (Element::Field(k.clone()), child)
        });
        Self { own: false, children: children.collect() }
    }

    fn of_field(field: &Field, value: &Value, depth: usize) -> Self {
        match (field.shape, field.type_of(), value) {
            _ if field.atomic || depth >= DEPTH_MAX => Self::leaf(),
            (Shape::One, Some(kind), Value::Object(_)) => Self::of_struct(kind, value, depth),
            (Shape::Map, kind, Value::Object(map)) if !map.is_empty() => {
                let children = map.iter().map(|(k, v)| {
                    let mut child =
                        kind.map_or_else(Self::leaf, |t| Self::of_struct(t, v, depth + 1));
                    child.own = true;
                    (Element::Field(k.clone()), child)
                });
                Self { own: false, children: children.collect() }
            }
            (Shape::List, kind, Value::Array(items)) => match (&field.list, kind) {
                (ListType::Set, _) => {
                    let children =
                        items.iter().map(|i| (Element::Value(i.to_string()), Self::leaf()));
                    Self { own: false, children: children.collect() }
                }
                (ListType::Map(keys), Some(kind)) => {
                    let children = items.iter().map(|i| {
                        let mut item = Self::of_struct(kind, i, depth + 1);
                        item.own = true;
                        (Element::Key(item_key(keys, i)), item)
                    });
                    Self { own: false, children: children.collect() }
                }
                _ => Self::leaf(),
            },
            _ => Self::leaf(),
        }
    }

    /// FieldsV1 to a set; what is no FieldsV1 is left out.
    pub(crate) fn parse(fields: &Value) -> Self {
        let mut set = Self::default();
        for (k, v) in fields.as_object().into_iter().flatten() {
            let element = match k.split_at_checked(2) {
                _ if k == "." => {
                    set.own = true;
                    continue;
                }
                Some(("f:", name)) => Element::Field(name.to_owned()),
                Some(("k:", keys)) => Element::Key(canonical(keys)),
                Some(("v:", value)) => Element::Value(value.to_owned()),
                _ => continue,
            };
            let mut child = Self::parse(v);
            // An empty object is the path itself.
            child.own |= child.children.is_empty();
            set.children.insert(element, child);
        }
        set
    }

    /// The FieldsV1 form.
    pub(crate) fn to_value(&self) -> Value {
        let mut out = Map::new();
        if self.own && !self.children.is_empty() {
            out.insert(".".into(), Value::Object(Map::new()));
        }
        for (element, child) in &self.children {
            let key = match element {
                Element::Field(n) => format!("f:{n}"),
                Element::Key(k) => format!("k:{k}"),
                Element::Value(v) => format!("v:{v}"),
            };
            out.insert(key, child.to_value());
        }
        Value::Object(out)
    }

    /// What is in both.
    pub(super) fn and(&self, other: &Self) -> Self {
        let children = self.children.iter().filter_map(|(e, mine)| {
            let both = mine.and(other.children.get(e)?);
            (!both.is_empty()).then(|| (e.clone(), both))
        });
        Self { own: self.own && other.own, children: children.collect() }
    }

    /// Adds what is there.
    pub(super) fn extend(&mut self, other: Self) {
        self.own |= other.own;
        for (e, theirs) in other.children {
            match self.children.entry(e) {
                Entry::Vacant(free) => drop(free.insert(theirs)),
                Entry::Occupied(mut mine) => mine.get_mut().extend(theirs),
            }
        }
    }

    /// Takes out what is there.
    pub(super) fn subtract(&mut self, other: &Self) {
        self.own &= !other.own;
        if other.children.is_empty() {
            return;
        }
        self.children.retain(|e, mine| {
            if let Some(theirs) = other.children.get(e) {
                mine.subtract(theirs);
            }
            !mine.is_empty()
        });
    }

    /// The paths themselves, each from the root.
    pub(crate) fn paths(&self) -> Vec<Vec<Element>> {
        let mut out = Vec::new();
        self.collect(&mut Vec::new(), &mut out);
        out
    }

    fn collect(&self, at: &mut Vec<Element>, out: &mut Vec<Vec<Element>>) {
        if self.own {
            out.push(at.clone());
        }
        for (e, child) in &self.children {
            at.push(e.clone());
            child.collect(at, out);
            at.pop();
        }
    }
}

/// Keys with sorted names, as this server writes them.
fn canonical(keys: &str) -> String {
    match serde_json::from_str::<Map<String, Value>>(keys) {
        Ok(map) => {
            let sorted: BTreeMap<_, _> = map.into_iter().collect();
            Value::Object(sorted.into_iter().collect()).to_string()
        }
        Err(_) => keys.to_owned(),
    }
}

/// A path as conflicts name it: `.spec.ports[port=80,protocol="TCP"].name`.
pub(crate) fn path_text(path: &[Element]) -> String {
    let mut out = String::new();
    for e in path {
        match e {
            Element::Field(n) => {
                out.push('.');
                out.push_str(n);
            }
            Element::Value(v) => out.push_str(&format!("[={v}]")),
            Element::Key(k) => {
                let map: Map<String, Value> = serde_json::from_str(k).unwrap_or_default();
                let keys: Vec<String> = map.iter().map(|(k, v)| format!("{k}={v}")).collect();
                out.push_str(&format!("[{}]", keys.join(",")));
            }
        }
    }
    out
}
