//! Functions of several kinds of values: sizes, elements, optionals, and Kubernetes' types.

use super::{
    convert, format, net,
    quantity::{self, Quantity},
    semver, strings, url,
};
use crate::{
    budget::Meter,
    error::EvalError,
    eval::Evaluated,
    value::{List, ListRepr, OpaqueValue, TypeName, Value, equals, map_literal},
};
use std::net::IpAddr;

fn mismatch<'a>() -> Evaluated<'a> {
    Err(EvalError::no_such_overload())
}

/// A value as messages show it.
pub(crate) fn shown(value: &Value<'_>) -> String {
    match convert::text(value) {
        Ok(Some(text)) => text,
        _ => value.type_name().to_owned(),
    }
}

/// Bytes of text whose characters are counted in the time of a visit.
const COUNTED_PER_VISIT: usize = 256;

pub(crate) fn size<'a>(meter: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => {
            // It costs one, as upstream, but long texts take their time.
            meter.burn((text.len() / COUNTED_PER_VISIT) as u64)?;
            Ok(Value::Int(args[0].size() as i64))
        }
        [Value::Bytes(_) | Value::List(_) | Value::Map(_)] => Ok(Value::Int(args[0].size() as i64)),
        _ => Err(EvalError::NoSuchOverload("size".into())),
    }
}

pub(crate) fn type_of<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let [value] = args else { return mismatch() };
    Ok(Value::Type(TypeName(value.type_name())))
}

pub(crate) fn identity<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let [value] = args else { return mismatch() };
    Ok(value.clone())
}

/// The element or entry that an index names; nothing if there is none.
pub(crate) fn element<'a>(
    value: &Value<'a>,
    key: &Value<'a>,
) -> Result<Option<Value<'a>>, EvalError> {
    match value {
        Value::List(list) => {
            let at = match key {
                Value::Int(n) => Some(*n),
                Value::Uint(n) => i64::try_from(*n).ok(),
                Value::Double(n) if n.fract() == 0.0 && n.abs() < 9e15 => Some(*n as i64),
                Value::Double(n) => {
                    let n = convert::double_text(*n);
                    return Err(EvalError::text(format!("unsupported index value {n} in list")));
                }
                other => {
                    let kind = other.type_name();
                    return Err(EvalError::text(format!(
                        "unsupported index type '{kind}' in list"
                    )));
                }
            };
            at.and_then(|at| usize::try_from(at).ok()).and_then(|at| list.get(at)).transpose()
        }
        Value::Map(map) => match map.get(key) {
            Some(Err(EvalError::NoSuchOverload(_))) if !matches!(key, Value::String(_)) => Ok(None),
            found => found.transpose(),
        },
        // Everything else has no elements.
        _ => Ok(None),
    }
}

/// `item in aggregate`
pub(crate) fn is_in<'a>(
    meter: &mut Meter,
    item: &Value<'a>,
    aggregate: &Value<'a>,
) -> Result<bool, EvalError> {
    match aggregate {
        Value::List(list) => {
            // A list of the document asks its elements, a list of the rule the item: it matters
            // where one of the two is a set.
            let asks_item = matches!(list, List(ListRepr::Owned(_)));
            let mut failed = None;
            for other in list.iter() {
                let other = other?;
                let (a, b) = if asks_item { (item, &other) } else { (&other, item) };
                match equals(a, b, meter) {
                    Ok(true) => return Ok(true),
                    Ok(false) => {}
                    Err(error) if error.is_fatal() => return Err(error),
                    Err(_) if asks_item => {}
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            failed.map_or(Ok(false), Err)
        }
        Value::Map(map) => match (map.get(item), item) {
            (Some(Err(error @ EvalError::NoSuchOverload(_))), Value::String(_)) => Err(error),
            (Some(Err(EvalError::NoSuchOverload(_))), _) => Ok(false),
            (found, _) => Ok(found.transpose()?.is_some()),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

/// What walking a value costs: one for each scalar, a tenth of a text's bytes.
pub(crate) fn traversal(meter: &mut Meter, value: &Value<'_>) -> Result<u64, EvalError> {
    meter.burn(1)?;
    Ok(match value {
        Value::String(s) => s.len() as u64 / 10,
        Value::Bytes(b) => b.len() as u64 / 10,
        Value::List(list) => {
            let mut cost = 0_u64;
            for item in list.iter() {
                cost += traversal(meter, &item?)?;
            }
            cost
        }
        Value::Map(map) => {
            let mut cost = 0_u64;
            for key in map.keys() {
                cost += traversal(meter, &key)?;
                if let Some(value) = map.get(&key) {
                    cost += traversal(meter, &value?)?;
                }
            }
            cost
        }
        _ => 1,
    })
}

pub(crate) fn index_of<'a>(meter: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::List(list), item] => {
            for (i, other) in list.iter().enumerate() {
                if equals(&other?, item, meter)? {
                    return Ok(Value::Int(i as i64));
                }
            }
            Ok(Value::Int(-1))
        }
        [Value::String(text), Value::String(wanted)] => {
            strings::index_of(text, wanted, 0).map(Value::Int)
        }
        [Value::String(text), Value::String(wanted), Value::Int(from)] => {
            strings::index_of(text, wanted, *from).map(Value::Int)
        }
        _ => mismatch(),
    }
}

pub(crate) fn last_index_of<'a>(meter: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::List(list), item] => {
            for i in (0..list.len()).rev() {
                if let Some(other) = list.get(i)
                    && equals(&other?, item, meter)?
                {
                    return Ok(Value::Int(i as i64));
                }
            }
            Ok(Value::Int(-1))
        }
        [Value::String(text), Value::String(wanted)] => {
            strings::last_index_of(text, wanted, None).map(Value::Int)
        }
        [Value::String(text), Value::String(wanted), Value::Int(from)] => {
            strings::last_index_of(text, wanted, Some(*from)).map(Value::Int)
        }
        _ => mismatch(),
    }
}

pub(crate) fn optional_none<'a>(_: &mut Meter, _: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Optional(None))
}

pub(crate) fn optional_of<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let [value] = args else { return mismatch() };
    Value::some(value.clone())
}

pub(crate) fn optional_of_non_zero<'a>(meter: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let zero = match args {
        [Value::Null | Value::Bool(false) | Value::Int(0) | Value::Uint(0)] => true,
        [Value::Double(n)] => *n == 0.0,
        [Value::String(s)] => s.is_empty(),
        [Value::Bytes(b)] => b.is_empty(),
        [Value::List(l)] => l.is_empty(),
        [Value::Map(m)] => m.is_empty(),
        [Value::Duration(n)] => *n == 0,
        [Value::Timestamp(t)] => t.seconds == -62_135_596_800 && t.nanos == 0,
        [Value::Optional(None)] => true,
        [Value::Optional(Some(v))] => {
            let inner = optional_of_non_zero(meter, &[(**v).clone()])?;
            matches!(inner, Value::Optional(None))
        }
        [_] => false,
        _ => return mismatch(),
    };
    if zero { Ok(Value::Optional(None)) } else { optional_of(meter, args) }
}

pub(crate) fn unwrap_optionals<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(list)] = args else { return mismatch() };
    let mut items = Vec::new();
    for item in list.iter() {
        match item? {
            Value::Optional(value) => items.extend(value.map(|v| (*v).clone())),
            other => {
                let kind = other.type_name();
                return Err(EvalError::text(format!(
                    "value of type {kind} in optional.unwrap() is no optional"
                )));
            }
        }
    }
    Value::list(items)
}

pub(crate) fn has_value<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::Optional(value)] = args else { return mismatch() };
    Ok(Value::Bool(value.is_some()))
}

pub(crate) fn optional_value<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Optional(Some(value))] => Ok((**value).clone()),
        [Value::Optional(None)] => Err(EvalError::text("optional.none() dereference")),
        _ => mismatch(),
    }
}

/// The one text argument.
fn text<'v>(args: &'v [Value<'_>]) -> Result<&'v str, EvalError> {
    match args {
        [Value::String(s)] => Ok(s),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn opaque<'v>(args: &'v [Value<'_>], at: usize) -> Result<&'v OpaqueValue, EvalError> {
    match args.get(at) {
        Some(Value::Opaque(o)) => Ok(o),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn a_quantity<'v>(args: &'v [Value<'_>], at: usize) -> Result<&'v Quantity, EvalError> {
    match opaque(args, at)? {
        OpaqueValue::Quantity(q) => Ok(q),
        _ => Err(EvalError::no_such_overload()),
    }
}

pub(crate) fn quantity<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::opaque(OpaqueValue::Quantity(quantity::parse(text(args)?)?)))
}

pub(crate) fn is_quantity<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(quantity::parse(text(args)?).is_ok()))
}

pub(crate) fn quantity_sign<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Int(a_quantity(args, 0)?.sign()))
}

pub(crate) fn quantity_is_integer<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(a_quantity(args, 0)?.as_integer().is_some()))
}

pub(crate) fn quantity_as_integer<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let value = a_quantity(args, 0)?.as_integer();
    value.map(Value::Int).ok_or_else(|| EvalError::text("cannot convert value to integer"))
}

pub(crate) fn quantity_as_float<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Double(a_quantity(args, 0)?.approximate()))
}

/// The second amount of a sum: an amount or a whole number.
fn addend(args: &[Value<'_>]) -> Result<Quantity, EvalError> {
    match args.get(1) {
        Some(Value::Int(n)) => Ok(Quantity::whole(*n)),
        _ => a_quantity(args, 1).copied(),
    }
}

pub(crate) fn quantity_add<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let sum = a_quantity(args, 0)?.add(&addend(args)?)?;
    Ok(Value::opaque(OpaqueValue::Quantity(sum)))
}

pub(crate) fn quantity_sub<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let difference = a_quantity(args, 0)?.sub(&addend(args)?)?;
    Ok(Value::opaque(OpaqueValue::Quantity(difference)))
}

fn order(args: &[Value<'_>]) -> Result<std::cmp::Ordering, EvalError> {
    match (opaque(args, 0)?, opaque(args, 1)?) {
        (OpaqueValue::Quantity(a), OpaqueValue::Quantity(b)) => Ok(a.cmp(b)),
        (OpaqueValue::Semver(a), OpaqueValue::Semver(b)) => Ok(a.cmp(b)),
        _ => Err(EvalError::no_such_overload()),
    }
}

pub(crate) fn is_greater_than<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(order(args)?.is_gt()))
}

pub(crate) fn is_less_than<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(order(args)?.is_lt()))
}

pub(crate) fn compare_to<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Int(order(args)? as i64))
}

fn versioned(args: &[Value<'_>]) -> Result<Result<semver::Semver, EvalError>, EvalError> {
    match args {
        [Value::String(s)] => Ok(semver::parse(s, false)),
        [Value::String(s), Value::Bool(normalize)] => Ok(semver::parse(s, *normalize)),
        _ => Err(EvalError::no_such_overload()),
    }
}

pub(crate) fn semver<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::opaque(OpaqueValue::Semver(versioned(args)??)))
}

pub(crate) fn is_semver<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(versioned(args)?.is_ok()))
}

fn semver_part<'a>(args: &[Value<'_>], at: usize) -> Evaluated<'a> {
    match opaque(args, 0)? {
        // Go converts without looking; numbers beyond are no versions.
        OpaqueValue::Semver(version) => Ok(Value::Int(version.core[at] as i64)),
        _ => mismatch(),
    }
}

pub(crate) fn semver_major<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    semver_part(args, 0)
}

pub(crate) fn semver_minor<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    semver_part(args, 1)
}

pub(crate) fn semver_patch<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    semver_part(args, 2)
}

fn an_ip(args: &[Value<'_>]) -> Result<IpAddr, EvalError> {
    match opaque(args, 0)? {
        OpaqueValue::Ip(ip) => Ok(*ip),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn a_cidr<'v>(args: &'v [Value<'_>]) -> Result<&'v net::CidrValue, EvalError> {
    match opaque(args, 0)? {
        OpaqueValue::Cidr(cidr) => Ok(cidr),
        _ => Err(EvalError::no_such_overload()),
    }
}

pub(crate) fn ip<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let ip = match args {
        [Value::String(s)] => net::parse_ip(s)?,
        _ => a_cidr(args)?.0.addr(),
    };
    Ok(Value::opaque(OpaqueValue::Ip(ip)))
}

pub(crate) fn is_ip<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(net::parse_ip(text(args)?).is_ok()))
}

pub(crate) fn ip_is_canonical<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let text = text(args)?;
    Ok(Value::Bool(net::parse_ip(text)?.to_string() == text))
}

pub(crate) fn ip_family<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Int(if an_ip(args)?.is_ipv4() { 4 } else { 6 }))
}

pub(crate) fn ip_is_unspecified<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(an_ip(args)?.is_unspecified()))
}

pub(crate) fn ip_is_loopback<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(an_ip(args)?.is_loopback()))
}

pub(crate) fn ip_is_link_local_multicast<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(net::is_link_local_multicast(an_ip(args)?)))
}

pub(crate) fn ip_is_link_local_unicast<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(net::is_link_local_unicast(an_ip(args)?)))
}

pub(crate) fn ip_is_global_unicast<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(net::is_global_unicast(an_ip(args)?)))
}

pub(crate) fn cidr<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::opaque(OpaqueValue::Cidr(net::parse_cidr(text(args)?)?)))
}

pub(crate) fn is_cidr<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(net::parse_cidr(text(args)?).is_ok()))
}

pub(crate) fn cidr_contains_ip<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let cidr = a_cidr(args)?;
    let ip = match args.get(1) {
        Some(Value::String(s)) => net::parse_ip(s)?,
        _ => match opaque(args, 1)? {
            OpaqueValue::Ip(ip) => *ip,
            _ => return mismatch(),
        },
    };
    Ok(Value::Bool(cidr.contains_ip(ip)))
}

pub(crate) fn cidr_contains_cidr<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let cidr = a_cidr(args)?;
    let other = match args.get(1) {
        Some(Value::String(s)) => net::parse_cidr(s)?,
        _ => match opaque(args, 1)? {
            OpaqueValue::Cidr(other) => *other,
            _ => return mismatch(),
        },
    };
    Ok(Value::Bool(cidr.contains_cidr(&other)))
}

pub(crate) fn cidr_masked<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::opaque(OpaqueValue::Cidr(a_cidr(args)?.masked())))
}

pub(crate) fn cidr_prefix_length<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Int(a_cidr(args)?.0.prefix_len().into()))
}

pub(crate) fn url<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::opaque(OpaqueValue::Url(url::parse(text(args)?)?)))
}

pub(crate) fn is_url<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(url::request(text(args)?).is_ok()))
}

fn url_part<'a>(args: &[Value<'_>], part: impl Fn(&url::Url) -> &str) -> Evaluated<'a> {
    match opaque(args, 0)? {
        OpaqueValue::Url(url) => Ok(Value::str(part(url))),
        _ => mismatch(),
    }
}

pub(crate) fn url_scheme<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    url_part(args, |url| &url.scheme)
}

pub(crate) fn url_host<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    url_part(args, |url| &url.host)
}

pub(crate) fn url_hostname<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    url_part(args, url::Url::hostname)
}

pub(crate) fn url_port<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    url_part(args, url::Url::port)
}

pub(crate) fn url_escaped_path<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    url_part(args, |url| &url.path)
}

pub(crate) fn url_query<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let OpaqueValue::Url(url) = opaque(args, 0)? else { return mismatch() };
    let mut values: std::collections::BTreeMap<String, Vec<Value<'a>>> =
        std::collections::BTreeMap::new();
    for (key, value) in url.query() {
        values.entry(key).or_default().push(Value::str(value));
    }
    let pairs = values.into_iter().map(|(key, values)| Ok((Value::str(key), Value::list(values)?)));
    map_literal(pairs.collect::<Result<Vec<_>, EvalError>>()?.into_iter())
}

pub(crate) fn format_named<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    match format::named(text(args)?) {
        Some(format) => Value::some(Value::opaque(OpaqueValue::Format(format))),
        None => Ok(Value::Optional(None)),
    }
}

pub(crate) fn format_validate<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let (OpaqueValue::Format(format), Some(Value::String(text))) = (opaque(args, 0)?, args.get(1))
    else {
        return mismatch();
    };
    match format::check(format, text) {
        Some(problems) => Value::some(Value::list(problems.into_iter().map(Value::str).collect())?),
        None => Ok(Value::Optional(None)),
    }
}
