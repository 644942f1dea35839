//! Values: what an expression works on, borrowed from JSON for as long as possible.
//!
//! JSON is not converted: a list or an object is a reference to the document and its declared
//! type, and an element becomes a [`Value`] when a rule looks at it.

use crate::{
    budget::Meter,
    error::EvalError,
    library::{self, net::CidrValue, quantity::Quantity, semver::Semver, time::Time, url::Url},
    types::{ListKind, ListType, ObjectType, Opaque, Type},
};
use serde_json::{Map as JsonMap, Value as Json};
use std::{cmp::Ordering, collections::BTreeMap, net::IpAddr, ops::Deref, sync::Arc};

/// What a value of type `dyn` is seen as.
pub(crate) static DYN: Type = Type::Dyn;
/// A list of such.
pub(crate) static DYN_LIST: ListType = ListType { elem: Type::Dyn, kind: ListKind::Atomic };
/// How deep values may nest that rules make.
const NESTED_MAX: u16 = 200;

/// The kind of lists that rules make themselves.
pub(crate) static ATOMIC: ListKind = ListKind::Atomic;

/// A value of the language. `'a` is the life of the JSON and of the program.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// A boolean.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// A binary64 number.
    Double(f64),
    /// Text.
    String(Str<'a>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// A point in time.
    Timestamp(Time),
    /// A length of time in nanoseconds.
    Duration(i64),
    /// A list.
    List(List<'a>),
    /// A map, or an object.
    Map(Map<'a>),
    /// A value that may be absent.
    Optional(Option<Arc<Value<'a>>>),
    /// A type's name.
    Type(TypeName),
    /// A value of one of the Kubernetes libraries.
    Opaque(Arc<OpaqueValue>),
}

/// Text: borrowed where it was there already.
#[derive(Clone, Debug)]
pub enum Str<'a> {
    /// From the JSON or the program.
    Ref(&'a str),
    /// Made by the rule.
    Shared(Arc<str>),
}

impl Deref for Str<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Str::Ref(text) => text,
            Str::Shared(text) => text,
        }
    }
}

/// The run-time type of a value, which `type()` gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeName(pub(crate) &'static str);

impl TypeName {
    /// As the language spells it.
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

/// A value of one of the Kubernetes libraries.
#[derive(Debug)]
pub enum OpaqueValue {
    /// An amount, such as `1Gi`.
    Quantity(Quantity),
    /// An address.
    Ip(IpAddr),
    /// A prefix.
    Cidr(CidrValue),
    /// A URL.
    Url(Url),
    /// A named format.
    Format(&'static library::format::Format),
    /// A semantic version.
    Semver(Semver),
}

impl OpaqueValue {
    pub(crate) fn kind(&self) -> Opaque {
        match self {
            OpaqueValue::Quantity(_) => Opaque::Quantity,
            OpaqueValue::Ip(_) => Opaque::Ip,
            OpaqueValue::Cidr(_) => Opaque::Cidr,
            OpaqueValue::Url(_) => Opaque::Url,
            OpaqueValue::Format(_) => Opaque::Format,
            OpaqueValue::Semver(_) => Opaque::Semver,
        }
    }

    fn equals(&self, other: &OpaqueValue) -> bool {
        match (self, other) {
            (OpaqueValue::Quantity(a), OpaqueValue::Quantity(b)) => a.cmp(b) == Ordering::Equal,
            (OpaqueValue::Ip(a), OpaqueValue::Ip(b)) => a == b,
            (OpaqueValue::Cidr(a), OpaqueValue::Cidr(b)) => a == b,
            (OpaqueValue::Url(a), OpaqueValue::Url(b)) => a == b,
            (OpaqueValue::Format(a), OpaqueValue::Format(b)) => a.name == b.name,
            (OpaqueValue::Semver(a), OpaqueValue::Semver(b)) => a.cmp(b) == Ordering::Equal,
            _ => false,
        }
    }
}

/// A list.
#[derive(Clone, Debug)]
pub struct List<'a>(pub(crate) ListRepr<'a>);

#[derive(Clone, Debug)]
pub(crate) enum ListRepr<'a> {
    Json(&'a Vec<Json>, &'a ListType),
    Owned(Arc<OwnedList<'a>>),
}

/// A list that a rule made.
#[derive(Debug)]
pub(crate) struct OwnedList<'a> {
    pub items: Vec<Value<'a>>,
    pub kind: &'a ListKind,
    /// Levels of made values in it.
    depth: u16,
}

/// A map that a rule made.
#[derive(Debug)]
pub(crate) struct OwnedMap<'a> {
    pub entries: BTreeMap<MapKey<'a>, Value<'a>>,
    depth: u16,
}

/// A map or an object.
#[derive(Clone, Debug)]
pub struct Map<'a>(pub(crate) MapRepr<'a>);

#[derive(Clone, Debug)]
pub(crate) enum MapRepr<'a> {
    /// Keys of strings, values of one type.
    Json(&'a JsonMap<String, Json>, &'a Type),
    Object(&'a JsonMap<String, Json>, &'a ObjectType),
    Owned(Arc<OwnedMap<'a>>),
}

/// A key of a map that a rule made. Integers of both kinds are one number line.
#[derive(Clone, Debug)]
pub(crate) enum MapKey<'a> {
    Bool(bool),
    Int(i64),
    Uint(u64),
    String(Str<'a>),
}

impl MapKey<'_> {
    fn number(&self) -> Option<i128> {
        match self {
            MapKey::Int(n) => Some((*n).into()),
            MapKey::Uint(n) => Some((*n).into()),
            _ => None,
        }
    }
}

impl Ord for MapKey<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (MapKey::Bool(a), MapKey::Bool(b)) => a.cmp(b),
            (MapKey::Bool(_), _) => Ordering::Less,
            (_, MapKey::Bool(_)) => Ordering::Greater,
            (MapKey::String(a), MapKey::String(b)) => (**a).cmp(&**b),
            (MapKey::String(_), _) => Ordering::Greater,
            (_, MapKey::String(_)) => Ordering::Less,
            (a, b) => a.number().cmp(&b.number()),
        }
    }
}

impl PartialOrd for MapKey<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for MapKey<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for MapKey<'_> {}

impl<'a> MapKey<'a> {
    /// The key that `value` is or, for a lookup, is equal to.
    pub fn of(value: &Value<'a>) -> Option<MapKey<'a>> {
        Some(match value {
            Value::Bool(b) => MapKey::Bool(*b),
            Value::Int(n) => MapKey::Int(*n),
            Value::Uint(n) => MapKey::Uint(*n),
            Value::String(s) => MapKey::String(s.clone()),
            Value::Double(d) if *d >= -9.3e18 && *d < 1.9e19 && d.fract() == 0.0 => {
                let whole = *d as i128;
                match (i64::try_from(whole), u64::try_from(whole)) {
                    (Ok(n), _) => MapKey::Int(n),
                    (_, Ok(n)) => MapKey::Uint(n),
                    _ => return None,
                }
            }
            _ => return None,
        })
    }

    pub fn to_value(&self) -> Value<'a> {
        match self {
            MapKey::Bool(b) => Value::Bool(*b),
            MapKey::Int(n) => Value::Int(*n),
            MapKey::Uint(n) => Value::Uint(*n),
            MapKey::String(s) => Value::String(s.clone()),
        }
    }
}

impl<'a> Value<'a> {
    /// Reads `json` as a value of type `ty`. JSON `null` is `null` whatever the type.
    pub fn from_json(json: &'a Json, ty: &'a Type) -> Result<Value<'a>, EvalError> {
        let value = match (json, ty) {
            (Json::Null, _) => Value::Null,
            (_, Type::Dyn | Type::Var(_) | Type::Error) => return Ok(Value::from_any_json(json)),
            (Json::Bool(b), Type::Bool) => Value::Bool(*b),
            (Json::String(s), Type::String) => Value::String(Str::Ref(s)),
            (Json::Number(n), Type::Int) => match n.as_i64() {
                Some(n) => Value::Int(n),
                None => return Err(EvalError::text("invalid data, expected int, got float64")),
            },
            (Json::Number(n), Type::Uint) => match n.as_u64() {
                Some(n) => Value::Uint(n),
                None => return Err(EvalError::text("invalid data, expected uint")),
            },
            (Json::Number(n), Type::Double) => Value::Double(n.as_f64().unwrap_or(f64::NAN)),
            (Json::Array(items), Type::List(list)) => {
                Value::List(List(ListRepr::Json(items, list)))
            }
            (Json::Object(map), Type::Map(types)) => {
                Value::Map(Map(MapRepr::Json(map, &types.value)))
            }
            (Json::Object(map), Type::Object(object)) => {
                Value::Map(Map(MapRepr::Object(map, object)))
            }
            (Json::String(s), Type::Timestamp) => Value::Timestamp(library::time::from_json(s)?),
            (Json::String(s), Type::Duration) => {
                Value::Duration(library::time::duration_from_json(s)?)
            }
            (Json::String(s), Type::Bytes) => Value::Bytes(library::bytes::from_json(s)?),
            (_, Type::Optional(of)) => Value::Optional(Some(Arc::new(Value::from_json(json, of)?))),
            _ => {
                let got = json_kind(json);
                return Err(EvalError::text(format!("invalid data, expected {ty}, got {got}")));
            }
        };
        Ok(value)
    }

    /// Reads JSON for what it is: a number without a fraction is an integer.
    pub fn from_any_json(json: &'a Json) -> Value<'a> {
        match json {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::String(s) => Value::String(Str::Ref(s)),
            Json::Number(n) => match n.as_i64() {
                Some(n) => Value::Int(n),
                None => Value::Double(n.as_f64().unwrap_or(f64::NAN)),
            },
            Json::Array(items) => Value::List(List(ListRepr::Json(items, &DYN_LIST))),
            Json::Object(map) => Value::Map(Map(MapRepr::Json(map, &DYN))),
        }
    }

    /// The boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The text, if it is text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(s) => Some(s),
            _ => None,
        }
    }

    /// The run-time type's name.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::List(_) => "list",
            Value::Map(_) => "map",
            Value::Optional(_) => "optional_type",
            Value::Type(_) => "type",
            Value::Opaque(o) => o.kind().name(),
        }
    }

    pub(crate) fn str(text: impl Into<Arc<str>>) -> Value<'a> {
        Value::String(Str::Shared(text.into()))
    }

    pub(crate) fn list(items: Vec<Value<'a>>) -> Result<Value<'a>, EvalError> {
        Value::list_of_kind(items, &ATOMIC)
    }

    pub(crate) fn list_of_kind(
        items: Vec<Value<'a>>,
        kind: &'a ListKind,
    ) -> Result<Value<'a>, EvalError> {
        let depth = above(items.iter())?;
        Ok(Value::List(List(ListRepr::Owned(Arc::new(OwnedList { items, kind, depth })))))
    }

    pub(crate) fn map(entries: BTreeMap<MapKey<'a>, Value<'a>>) -> Result<Value<'a>, EvalError> {
        let depth = above(entries.values())?;
        Ok(Value::Map(Map(MapRepr::Owned(Arc::new(OwnedMap { entries, depth })))))
    }

    pub(crate) fn opaque(value: OpaqueValue) -> Value<'a> {
        Value::Opaque(Arc::new(value))
    }

    pub(crate) fn some(value: Value<'a>) -> Result<Value<'a>, EvalError> {
        above(std::iter::once(&value))?;
        Ok(Value::Optional(Some(Arc::new(value))))
    }

    /// Levels of values that rules made; JSON has its own limit.
    fn depth(&self) -> u16 {
        match self {
            Value::List(List(ListRepr::Owned(list))) => list.depth,
            Value::Map(Map(MapRepr::Owned(map))) => map.depth,
            Value::Optional(Some(value)) => value.depth() + 1,
            _ => 0,
        }
    }

    /// Characters, bytes or elements; what has no size counts one. What the cost is counted in.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Value::String(s) => char_count(s) as u64,
            Value::Bytes(b) => b.len() as u64,
            Value::List(l) => l.len() as u64,
            Value::Map(m) => m.len() as u64,
            Value::Optional(Some(v)) => v.size(),
            Value::Opaque(o) => match &**o {
                OpaqueValue::Ip(ip) => library::net::ip_size(*ip),
                OpaqueValue::Cidr(cidr) => library::net::cidr_size(cidr),
                _ => 1,
            },
            _ => 1,
        }
    }
}

/// The depth of a value that holds these. Macros can nest values in a chain: walking them and
/// dropping them recurses as deep.
fn above<'v, 'a: 'v>(values: impl Iterator<Item = &'v Value<'a>>) -> Result<u16, EvalError> {
    let depth = values.map(Value::depth).max().unwrap_or(0) + 1;
    if depth > NESTED_MAX { Err(EvalError::text("value is nested too deeply")) } else { Ok(depth) }
}

/// The map of a literal; of equal keys the last counts.
pub(crate) fn map_literal<'a>(
    pairs: impl Iterator<Item = (Value<'a>, Value<'a>)>,
) -> Result<Value<'a>, EvalError> {
    let mut entries = BTreeMap::new();
    for (key, value) in pairs {
        let Some(key) = MapKey::of(&key).filter(|_| !matches!(key, Value::Double(_))) else {
            return Err(EvalError::text(format!("unsupported key type: {}", key.type_name())));
        };
        entries.insert(key, value);
    }
    Value::map(entries)
}

/// Characters of a text; fast where all are ASCII.
pub(crate) fn char_count(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().count() }
}

fn json_kind(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "bool",
        Json::Number(n) if n.is_i64() => "int64",
        Json::Number(_) => "float64",
        Json::String(_) => "string",
        Json::Array(_) => "list",
        Json::Object(_) => "map",
    }
}

impl<'a> List<'a> {
    /// How many elements it has.
    pub fn len(&self) -> usize {
        match &self.0 {
            ListRepr::Json(items, _) => items.len(),
            ListRepr::Owned(list) => list.items.len(),
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at `index`, if there is one. An element that is not of the declared type is
    /// an error.
    pub fn get(&self, index: usize) -> Option<Result<Value<'a>, EvalError>> {
        match &self.0 {
            ListRepr::Json(items, ty) => {
                items.get(index).map(|item| Value::from_json(item, &ty.elem))
            }
            ListRepr::Owned(list) => list.items.get(index).cloned().map(Ok),
        }
    }

    /// All elements.
    pub fn iter(&self) -> impl Iterator<Item = Result<Value<'a>, EvalError>> + '_ {
        (0..self.len()).filter_map(|i| self.get(i))
    }

    pub(crate) fn kind(&self) -> &'a ListKind {
        match &self.0 {
            ListRepr::Json(_, ty) => &ty.kind,
            ListRepr::Owned(list) => list.kind,
        }
    }
}

impl<'a> Map<'a> {
    /// How many entries it has; of an object all fields that are there, declared or not.
    pub fn len(&self) -> usize {
        match &self.0 {
            MapRepr::Json(map, _) | MapRepr::Object(map, _) => map.len(),
            MapRepr::Owned(map) => map.entries.len(),
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value under a string key, or the field with this identifier. A field that is `null`
    /// is absent.
    pub fn get_str(&self, key: &str) -> Option<Result<Value<'a>, EvalError>> {
        match &self.0 {
            MapRepr::Json(map, ty) => map.get(key).map(|v| Value::from_json(v, ty)),
            MapRepr::Object(map, ty) => {
                let field = ty.field(key)?;
                let value = map.get(&field.json)?;
                (!value.is_null()).then(|| Value::from_json(value, &field.ty))
            }
            MapRepr::Owned(map) => {
                let key = MapKey::String(Str::Shared(key.into()));
                map.entries.get(&key).cloned().map(Ok)
            }
        }
    }

    /// The value under `key`.
    pub(crate) fn get(&self, key: &Value<'a>) -> Option<Result<Value<'a>, EvalError>> {
        match (&self.0, key) {
            (MapRepr::Owned(map), _) => map.entries.get(&MapKey::of(key)?).cloned().map(Ok),
            (_, Value::String(key)) => self.get_str(key),
            _ => Some(Err(EvalError::no_such_overload())),
        }
    }

    /// All entries; of an object those whose fields are declared, by identifier.
    pub fn entries(&self) -> impl Iterator<Item = (Value<'a>, Result<Value<'a>, EvalError>)> + '_ {
        self.keys().into_iter().filter_map(|key| {
            let value = self.get(&key)?;
            Some((key, value))
        })
    }

    /// The keys: of an object the identifiers of its declared fields that are there.
    pub(crate) fn keys(&self) -> Vec<Value<'a>> {
        match &self.0 {
            MapRepr::Json(map, _) => map.keys().map(|k| Value::String(Str::Ref(k))).collect(),
            MapRepr::Object(map, ty) => map
                .keys()
                .filter_map(|k| ty.json_field(k))
                .filter_map(|field| field.ident.as_deref())
                .map(|ident| Value::String(Str::Ref(ident)))
                .collect(),
            MapRepr::Owned(map) => map.entries.keys().map(MapKey::to_value).collect(),
        }
    }
}

/// Equality of the language. Numbers compare by value whatever their kinds, values of different
/// types are unequal, and an error is one of reading an element.
pub(crate) fn equals(a: &Value<'_>, b: &Value<'_>, meter: &mut Meter) -> Result<bool, EvalError> {
    meter.burn(1)?;
    Ok(match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::String(a), Value::String(b)) => **a == **b,
        (Value::Bytes(a), Value::Bytes(b)) => a == b,
        (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
        (Value::Duration(a), Value::Duration(b)) => a == b,
        (Value::Type(a), Value::Type(b)) => a == b,
        (Value::Optional(a), Value::Optional(b)) => match (a, b) {
            (Some(a), Some(b)) => equals(a, b, meter)?,
            (None, None) => true,
            _ => false,
        },
        (Value::Opaque(a), Value::Opaque(b)) if a.kind() == b.kind() => a.equals(b),
        (Value::Opaque(_), Value::Null) => false,
        (Value::Opaque(_), _) => return Err(EvalError::no_such_overload()),
        (Value::List(a), Value::List(b)) => list_equals(a, b, meter)?,
        (Value::Map(a), Value::Map(b)) => map_equals(a, b, meter)?,
        _ => compare_numbers(a, b) == Some(Ordering::Equal),
    })
}

/// The order of two numbers, or `None` where they have none.
pub(crate) fn compare_numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Int(a), Value::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Uint(a), Value::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Int(a), Value::Double(b)) => compare_with_double(i128::from(*a), *b),
        (Value::Uint(a), Value::Double(b)) => compare_with_double(i128::from(*a), *b),
        (Value::Double(a), Value::Int(b)) => {
            compare_with_double(i128::from(*b), *a).map(Ordering::reverse)
        }
        (Value::Double(a), Value::Uint(b)) => {
            compare_with_double(i128::from(*b), *a).map(Ordering::reverse)
        }
        _ => None,
    }
}

/// As cel-go compares: outside the integers' range by the sign, inside as two doubles.
fn compare_with_double(a: i128, b: f64) -> Option<Ordering> {
    if b.is_nan() {
        return None;
    }
    (a as f64).partial_cmp(&b)
}

fn list_equals(a: &List<'_>, b: &List<'_>, meter: &mut Meter) -> Result<bool, EvalError> {
    if a.len() != b.len() {
        return Ok(false);
    }
    match a.kind() {
        ListKind::Atomic => {
            for (x, y) in a.iter().zip(b.iter()) {
                if !equals(&x?, &y?, meter)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        ListKind::Set => {
            let set = library::lists::ScalarSet::of(a, meter)?;
            for y in b.iter() {
                if !set.contains(&y?, meter)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        ListKind::Map(keys) => {
            let by_key = library::lists::index_by_key(a, keys)?;
            for y in b.iter() {
                let y = y?;
                let found = match by_key.get(&library::lists::key_of(&y, keys)?) {
                    Some(i) => a.get(*i).transpose()?,
                    None => None,
                };
                match found {
                    Some(x) if equals(&x, &y, meter)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
    }
}

fn map_equals(a: &Map<'_>, b: &Map<'_>, meter: &mut Meter) -> Result<bool, EvalError> {
    if a.len() != b.len() {
        return Ok(false);
    }
    match (&a.0, &b.0) {
        (MapRepr::Object(a_json, ty), _) => {
            for (name, value) in a_json.iter() {
                let Some(field) = ty.json_field(name) else {
                    // Not declared: only JSON can be compared, and only with its like.
                    if let MapRepr::Object(b_json, _) = &b.0
                        && b_json.get(name).is_some_and(|other| other != value)
                    {
                        return Ok(false);
                    }
                    continue;
                };
                let Some(ident) = field.ident.as_deref() else { continue };
                match (a.get_str(ident), b.get_str(ident)) {
                    (None, None) => {}
                    (Some(x), Some(y)) => {
                        if !equals(&x?, &y?, meter)? {
                            return Ok(false);
                        }
                    }
                    _ => return Ok(false),
                }
            }
        }
        (MapRepr::Json(a_json, _), _) => {
            for key in a_json.keys() {
                match (a.get_str(key).transpose()?, b.get_str(key).transpose()?) {
                    (Some(x), Some(y)) if equals(&x, &y, meter)? => {}
                    _ => return Ok(false),
                }
            }
        }
        (MapRepr::Owned(map), _) => {
            for (key, x) in map.entries.iter() {
                let y = match (&b.0, key) {
                    (MapRepr::Owned(other), _) => other.entries.get(key).cloned().map(Ok),
                    (_, MapKey::String(key)) => b.get_str(key),
                    _ => None,
                };
                match y.transpose()? {
                    Some(y) if equals(x, &y, meter)? => {}
                    _ => return Ok(false),
                }
            }
        }
    }
    Ok(true)
}
