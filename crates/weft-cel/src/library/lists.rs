//! Lists: sets and maps by key, and what Kubernetes and cel-go add to lists.

use super::arith;
use crate::{
    budget::Meter,
    error::EvalError,
    eval::Evaluated,
    types::ListKind,
    value::{List, Map, MapKey, MapRepr, Value, equals},
};
use serde_json::Value as Json;
use std::collections::{BTreeSet, HashMap};

/// A set of values that finds scalars fast.
#[derive(Debug, Default)]
pub(crate) struct ScalarSet<'a> {
    keys: BTreeSet<MapKey<'a>>,
    /// What is no key, such as 0.5.
    others: Vec<Value<'a>>,
}

impl<'a> ScalarSet<'a> {
    pub fn of(list: &List<'a>, meter: &mut Meter) -> Result<ScalarSet<'a>, EvalError> {
        let mut set = ScalarSet::default();
        for item in list.iter() {
            set.insert(item?, meter)?;
        }
        Ok(set)
    }

    /// Adds a value; false if it was there.
    pub fn insert(&mut self, value: Value<'a>, meter: &mut Meter) -> Result<bool, EvalError> {
        if let Some(key) = MapKey::of(&value) {
            return Ok(self.keys.insert(key));
        }
        if self.contains(&value, meter)? {
            return Ok(false);
        }
        self.others.push(value);
        Ok(true)
    }

    pub fn contains(&self, value: &Value<'_>, meter: &mut Meter) -> Result<bool, EvalError> {
        if let Some(key) = MapKey::of(value) {
            return Ok(self.keys.contains(&key));
        }
        for other in &self.others {
            if equals(other, value, meter)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Adds a constant.
    pub fn insert_scalar(&mut self, value: Value<'a>) {
        match MapKey::of(&value) {
            Some(key) => {
                self.keys.insert(key);
            }
            None => self.others.push(value),
        }
    }
}

/// The key of an element of a list with `x-kubernetes-list-type: map`.
pub(crate) fn key_of(value: &Value<'_>, keys: &[String]) -> Result<String, EvalError> {
    let mut out = String::new();
    for key in keys {
        let part = match value {
            Value::Map(Map(MapRepr::Json(map, _) | MapRepr::Object(map, _))) => {
                map.get(key).map(Json::to_string)
            }
            Value::Map(map) => match map.get_str(key).transpose()? {
                Some(Value::String(s)) => Some(Json::from(&*s).to_string()),
                Some(Value::Int(n)) => Some(n.to_string()),
                Some(Value::Uint(n)) => Some(n.to_string()),
                Some(Value::Bool(b)) => Some(b.to_string()),
                _ => None,
            },
            _ => {
                return Err(EvalError::text(
                    "unexpected data format for element of array with x-kubernetes-list-type=map",
                ));
            }
        };
        // JSON text has no NUL: parts cannot run into each other.
        out.push_str(part.as_deref().unwrap_or("null"));
        out.push('\0');
    }
    Ok(out)
}

/// Where in a list each key is.
pub(crate) fn index_by_key(
    list: &List<'_>,
    keys: &[String],
) -> Result<HashMap<String, usize>, EvalError> {
    let mut index = HashMap::with_capacity(list.len());
    for (i, item) in list.iter().enumerate() {
        index.insert(key_of(&item?, keys)?, i);
    }
    Ok(index)
}

/// `a + b`: appended, united or merged, as the left list's kind says.
pub(crate) fn concat<'a>(a: &List<'a>, b: &List<'a>, meter: &mut Meter) -> Evaluated<'a> {
    let mut items = Vec::with_capacity(a.len() + b.len());
    for item in a.iter() {
        items.push(item?);
    }
    match a.kind() {
        ListKind::Atomic => {
            for item in b.iter() {
                items.push(item?);
            }
        }
        ListKind::Set => {
            let mut set = ScalarSet::of(a, meter)?;
            for item in b.iter() {
                let item = item?;
                if set.insert(item.clone(), meter)? {
                    items.push(item);
                }
            }
        }
        ListKind::Map(keys) => {
            let mut index = index_by_key(a, keys)?;
            for item in b.iter() {
                let item = item?;
                match index.entry(key_of(&item, keys)?) {
                    std::collections::hash_map::Entry::Occupied(at) => items[*at.get()] = item,
                    std::collections::hash_map::Entry::Vacant(free) => {
                        free.insert(items.len());
                        items.push(item);
                    }
                }
            }
        }
    }
    Value::list_of_kind(items, a.kind())
}

fn list<'v, 'a>(args: &'v [Value<'a>]) -> Result<&'v List<'a>, EvalError> {
    match args.first() {
        Some(Value::List(list)) => Ok(list),
        _ => Err(EvalError::no_such_overload()),
    }
}

pub(crate) fn is_sorted<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let mut previous = None;
    for item in list(args)?.iter() {
        let item = item?;
        if let Some(previous) = &previous
            && arith::compare(previous, &item)?.is_gt()
        {
            return Ok(Value::Bool(false));
        }
        previous = Some(item);
    }
    Ok(Value::Bool(true))
}

fn total<'a>(meter: &mut Meter, args: &[Value<'a>], zero: Value<'a>) -> Evaluated<'a> {
    let mut total = None;
    for item in list(args)?.iter() {
        let item = item?;
        if !matches!(item, Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::Duration(_)) {
            return Err(EvalError::no_such_overload());
        }
        total = Some(match &total {
            Some(total) => arith::add(meter, total, &item)?,
            None => item,
        });
    }
    Ok(total.unwrap_or(zero))
}

// The sum of nothing is a zero of the list's static type.

pub(crate) fn sum<'a>(meter: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    total(meter, args, Value::Int(0))
}

pub(crate) fn sum_uint<'a>(meter: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    total(meter, args, Value::Uint(0))
}

pub(crate) fn sum_double<'a>(meter: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    total(meter, args, Value::Double(0.0))
}

pub(crate) fn sum_duration<'a>(meter: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    total(meter, args, Value::Duration(0))
}

fn extreme<'a>(args: &[Value<'a>], name: &str, prefer: std::cmp::Ordering) -> Evaluated<'a> {
    let mut best: Option<Value<'a>> = None;
    for item in list(args)?.iter() {
        let item = item?;
        let better = match &best {
            Some(best) => arith::compare(&item, best)? == prefer,
            None => true,
        };
        if better {
            best = Some(item);
        }
    }
    best.ok_or_else(|| EvalError::text(format!("{name} called on empty list")))
}

pub(crate) fn max<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    extreme(args, "max", std::cmp::Ordering::Greater)
}

pub(crate) fn min<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    extreme(args, "min", std::cmp::Ordering::Less)
}

pub(crate) fn slice<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(list), Value::Int(start), Value::Int(end)] = args else {
        return Err(EvalError::no_such_overload());
    };
    let call = format!("cannot slice({start}, {end})");
    let fail = |why: String| Err(EvalError::text(format!("{call}, {why}")));
    if *start < 0 || *end < 0 {
        return fail("negative indexes not supported".to_owned());
    }
    if start > end {
        return fail("start index must be less than or equal to end index".to_owned());
    }
    if *end > list.len() as i64 {
        return fail(format!("list is length {}", list.len()));
    }
    let items = list.iter().take(*end as usize).skip(*start as usize);
    Value::list(items.collect::<Result<_, _>>()?)
}

fn flatten_into<'a>(
    from: &List<'a>,
    levels: i64,
    out: &mut Vec<Value<'a>>,
    meter: &mut Meter,
) -> Result<(), EvalError> {
    for item in from.iter() {
        meter.burn(1)?;
        match item? {
            Value::List(inner) if levels > 0 => flatten_into(&inner, levels - 1, out, meter)?,
            item => {
                out.push(item);
                meter.room_for(out.len() as u64)?;
            }
        }
    }
    Ok(())
}

pub(crate) fn flatten<'a>(meter: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let levels = match args {
        [_] => 1,
        [_, Value::Int(levels)] => *levels,
        _ => return Err(EvalError::no_such_overload()),
    };
    if levels < 0 {
        return Err(EvalError::text("level must be non-negative"));
    }
    let mut out = Vec::new();
    flatten_into(list(args)?, levels, &mut out, meter)?;
    Value::list(out)
}

/// The list in the order of its keys, one for each element.
pub(crate) fn sort_by_keys<'a>(list: &List<'a>, keys: &Value<'a>) -> Evaluated<'a> {
    let Value::List(keys) = keys else { return Err(EvalError::no_such_overload()) };
    let mut pairs = Vec::with_capacity(list.len());
    for (item, key) in list.iter().zip(keys.iter()) {
        pairs.push((key?, item?));
    }
    if let Some((first, _)) = pairs.first() {
        if arith::compare(first, first).is_err() && !matches!(first, Value::Double(_)) {
            return Err(EvalError::text("list elements must be comparable"));
        }
        if pairs.iter().any(|(key, _)| key.type_name() != first.type_name()) {
            return Err(EvalError::text("list elements must have the same type"));
        }
    }
    pairs.sort_by(|(a, _), (b, _)| arith::compare(a, b).unwrap_or(std::cmp::Ordering::Equal));
    Value::list(pairs.into_iter().map(|(_, item)| item).collect())
}

pub(crate) fn sort<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let [keys] = args else { return Err(EvalError::no_such_overload()) };
    sort_by_keys(list(args)?, keys)
}

pub(crate) fn range<'a>(meter: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::Int(end)] = args else { return Err(EvalError::no_such_overload()) };
    meter.room_for((*end).max(0) as u64)?;
    Value::list((0..*end).map(Value::Int).collect())
}

pub(crate) fn reverse<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let mut items = list(args)?.iter().collect::<Result<Vec<_>, _>>()?;
    items.reverse();
    Value::list(items)
}

pub(crate) fn distinct<'a>(meter: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let mut seen = ScalarSet::default();
    let mut items = Vec::new();
    for item in list(args)?.iter() {
        let item = item?;
        if seen.insert(item.clone(), meter)? {
            items.push(item);
        }
    }
    Value::list(items)
}

pub(crate) fn first<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    match list(args)?.get(0) {
        Some(item) => Value::some(item?),
        None => Ok(Value::Optional(None)),
    }
}

pub(crate) fn last<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let list = list(args)?;
    match list.len().checked_sub(1).and_then(|at| list.get(at)) {
        Some(item) => Value::some(item?),
        None => Ok(Value::Optional(None)),
    }
}

fn includes(all: &List<'_>, some: &List<'_>, meter: &mut Meter) -> Result<bool, EvalError> {
    let set = ScalarSet::of(all, meter)?;
    for item in some.iter() {
        if !set.contains(&item?, meter)? {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(crate) fn sets_contains<'a>(meter: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(a), Value::List(b)] = args else { return Err(EvalError::no_such_overload()) };
    includes(a, b, meter).map(Value::Bool)
}

pub(crate) fn sets_equivalent<'a>(meter: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(a), Value::List(b)] = args else { return Err(EvalError::no_such_overload()) };
    Ok(Value::Bool(includes(a, b, meter)? && includes(b, a, meter)?))
}

pub(crate) fn sets_intersects<'a>(meter: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(a), Value::List(b)] = args else { return Err(EvalError::no_such_overload()) };
    let set = ScalarSet::of(a, meter)?;
    for item in b.iter() {
        if set.contains(&item?, meter)? {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}
