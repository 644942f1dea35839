//! Operators on numbers, times, texts and lists.

use super::{lists, time::Time};
use crate::{
    budget::Meter,
    error::EvalError,
    eval::Evaluated,
    value::{Value, compare_numbers},
};
use std::cmp::Ordering;

fn int(value: Option<i64>) -> Evaluated<'static> {
    value.map(Value::Int).ok_or_else(|| EvalError::text("integer overflow"))
}

fn uint(value: Option<u64>) -> Evaluated<'static> {
    value.map(Value::Uint).ok_or_else(|| EvalError::text("unsigned integer overflow"))
}

fn duration(value: Option<i64>) -> Evaluated<'static> {
    value.map(Value::Duration).ok_or_else(|| EvalError::text("integer overflow"))
}

pub(crate) fn negate<'a>(a: &Value<'a>) -> Evaluated<'a> {
    match a {
        Value::Int(n) => int(n.checked_neg()),
        Value::Double(n) => Ok(Value::Double(-n)),
        Value::Duration(n) => duration(n.checked_neg()),
        _ => Err(EvalError::no_such_overload()),
    }
}

pub(crate) fn add<'a>(meter: &mut Meter, a: &Value<'a>, b: &Value<'a>) -> Evaluated<'a> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => int(a.checked_add(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_add(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::String(a), Value::String(b)) => {
            meter.room_for_text((a.len() + b.len()) as u64)?;
            let mut text = String::with_capacity(a.len() + b.len());
            text.push_str(a);
            text.push_str(b);
            Ok(Value::str(text))
        }
        (Value::Bytes(a), Value::Bytes(b)) => {
            meter.room_for_text((a.len() + b.len()) as u64)?;
            Ok(Value::Bytes([&**a, &**b].concat().into()))
        }
        (Value::List(a), Value::List(b)) => {
            meter.burn((a.len() + b.len()) as u64)?;
            lists::concat(a, b, meter)
        }
        (Value::Duration(a), Value::Duration(b)) => duration(a.checked_add(*b)),
        (Value::Timestamp(t), Value::Duration(d)) | (Value::Duration(d), Value::Timestamp(t)) => {
            t.plus(*d).map(Value::Timestamp)
        }
        (
            Value::Null
            | Value::Bool(_)
            | Value::Map(_)
            | Value::Type(_)
            | Value::Optional(_)
            | Value::Opaque(_),
            _,
        ) => Err(EvalError::NoSuchOverload("_+_".into())),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// The error for a left side that does not know an operator. Values that have methods are
/// asked for one, and their answer names no function.
fn unknown(left: &Value<'_>, function: &'static str) -> EvalError {
    match left {
        Value::String(_) | Value::Timestamp(_) | Value::Duration(_) => {
            EvalError::no_such_overload()
        }
        _ => EvalError::NoSuchOverload(function.into()),
    }
}

pub(crate) fn subtract<'a>(a: &Value<'a>, b: &Value<'a>) -> Evaluated<'a> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => int(a.checked_sub(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_sub(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a - b)),
        (Value::Duration(a), Value::Duration(b)) => duration(a.checked_sub(*b)),
        (Value::Timestamp(t), Value::Duration(d)) => t.minus(*d).map(Value::Timestamp),
        (Value::Timestamp(a), Value::Timestamp(b)) => Time::since(a, b).map(Value::Duration),
        (
            Value::Int(_)
            | Value::Uint(_)
            | Value::Double(_)
            | Value::Duration(_)
            | Value::Timestamp(_),
            _,
        ) => Err(EvalError::no_such_overload()),
        _ => Err(unknown(a, "_-_")),
    }
}

pub(crate) fn multiply<'a>(a: &Value<'a>, b: &Value<'a>) -> Evaluated<'a> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => int(a.checked_mul(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_mul(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a * b)),
        (Value::Int(_) | Value::Uint(_) | Value::Double(_), _) => {
            Err(EvalError::no_such_overload())
        }
        _ => Err(unknown(a, "_*_")),
    }
}

pub(crate) fn divide<'a>(a: &Value<'a>, b: &Value<'a>) -> Evaluated<'a> {
    match (a, b) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => {
            Err(EvalError::text("division by zero"))
        }
        (Value::Int(a), Value::Int(b)) => int(a.checked_div(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_div(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a / b)),
        (Value::Int(_) | Value::Uint(_) | Value::Double(_), _) => {
            Err(EvalError::no_such_overload())
        }
        _ => Err(unknown(a, "_/_")),
    }
}

pub(crate) fn modulo<'a>(a: &Value<'a>, b: &Value<'a>) -> Evaluated<'a> {
    match (a, b) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => {
            Err(EvalError::text("modulus by zero"))
        }
        (Value::Int(a), Value::Int(b)) => int(a.checked_rem(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_rem(*b)),
        (Value::Int(_) | Value::Uint(_), _) => Err(EvalError::no_such_overload()),
        _ => Err(unknown(a, "_%_")),
    }
}

/// The order of two values.
pub(crate) fn compare(a: &Value<'_>, b: &Value<'_>) -> Result<Ordering, EvalError> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Ok((**a).cmp(&**b)),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Ok(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Ok(a.cmp(b)),
        (Value::Duration(a), Value::Duration(b)) => Ok(a.cmp(b)),
        (
            Value::Int(_) | Value::Uint(_) | Value::Double(_),
            Value::Int(_) | Value::Uint(_) | Value::Double(_),
        ) => compare_numbers(a, b).ok_or_else(|| EvalError::text("NaN values cannot be ordered")),
        _ => Err(EvalError::no_such_overload()),
    }
}
