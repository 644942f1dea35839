//! Conversions between types, as the reference implementation rounds and refuses.

use super::time::{self, Time};
use crate::{
    budget::Meter,
    error::EvalError,
    eval::Evaluated,
    value::{OpaqueValue, Value},
};

fn cannot<'a>(value: &Value<'a>, to: &str) -> Evaluated<'a> {
    let from = value.type_name();
    Err(EvalError::text(format!("type conversion error from '{from}' to '{to}'")))
}

pub(crate) fn to_bool<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Bool(b)] => Ok(Value::Bool(*b)),
        [Value::String(s)] => match &**s {
            "true" | "TRUE" | "True" | "t" | "T" | "1" => Ok(Value::Bool(true)),
            "false" | "FALSE" | "False" | "f" | "F" | "0" => Ok(Value::Bool(false)),
            _ => cannot(&args[0], "bool"),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

pub(crate) fn to_bytes<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Bytes(b)] => Ok(Value::Bytes(b.clone())),
        [Value::String(s)] => Ok(Value::Bytes(s.as_bytes().into())),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// A number in Go's notation: underscores are not allowed, infinities are, hexadecimal is.
fn parse_double(text: &str) -> Option<f64> {
    let body = text.strip_prefix(['+', '-']).unwrap_or(text);
    let negative = text.starts_with('-');
    let lower = body.to_ascii_lowercase();
    let value = match lower.as_str() {
        "inf" | "infinity" => f64::INFINITY,
        "nan" => return (body.len() == text.len()).then_some(f64::NAN),
        _ if body.starts_with(|c: char| c.is_ascii_digit() || c == '.') => {
            body.parse().ok().filter(|n: &f64| n.is_finite())?
        }
        _ => return None,
    };
    Some(if negative { -value } else { value })
}

pub(crate) fn to_double<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Double(n)] => Ok(Value::Double(*n)),
        [Value::Int(n)] => Ok(Value::Double(*n as f64)),
        [Value::Uint(n)] => Ok(Value::Double(*n as f64)),
        [Value::String(s)] => match parse_double(s) {
            Some(n) => Ok(Value::Double(n)),
            None => cannot(&args[0], "double"),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

pub(crate) fn to_duration<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Duration(n)] => Ok(Value::Duration(*n)),
        // The signature is there; a conversion is not.
        [Value::Int(_)] => cannot(&args[0], "google.protobuf.Duration"),
        [Value::String(s)] => match time::parse_duration(s) {
            Some(n) => Ok(Value::Duration(n)),
            None => cannot(&args[0], "google.protobuf.Duration"),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

/// Go's integers: an optional sign and digits.
fn is_integer(text: &str, signed: bool) -> bool {
    let digits = if signed { text.strip_prefix(['+', '-']).unwrap_or(text) } else { text };
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

pub(crate) fn to_int<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let overflow = || EvalError::text("integer overflow");
    match args {
        [Value::Int(n)] | [Value::Duration(n)] => Ok(Value::Int(*n)),
        [Value::Uint(n)] => i64::try_from(*n).map(Value::Int).map_err(|_| overflow()),
        [Value::Double(n)] => {
            // Both ends are refused: as doubles they stand for numbers beyond too.
            if *n > i64::MIN as f64 && *n < i64::MAX as f64 {
                Ok(Value::Int(*n as i64))
            } else {
                Err(overflow())
            }
        }
        [Value::Timestamp(t)] => Ok(Value::Int(t.seconds)),
        [Value::String(s)] => match s.parse() {
            Ok(n) if is_integer(s, true) => Ok(Value::Int(n)),
            _ => cannot(&args[0], "int"),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

pub(crate) fn to_uint<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let overflow = || EvalError::text("unsigned integer overflow");
    match args {
        [Value::Uint(n)] => Ok(Value::Uint(*n)),
        [Value::Int(n)] => u64::try_from(*n).map(Value::Uint).map_err(|_| overflow()),
        [Value::Double(n)] => {
            if *n >= 0.0 && *n < u64::MAX as f64 {
                Ok(Value::Uint(*n as u64))
            } else {
                Err(overflow())
            }
        }
        [Value::String(s)] => match s.parse() {
            Ok(n) if is_integer(s, false) => Ok(Value::Uint(n)),
            _ => cannot(&args[0], "uint"),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

pub(crate) fn to_timestamp<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Timestamp(t)] => Ok(Value::Timestamp(*t)),
        [Value::Int(n)] => Time::new(*n, 0, 0).map(Value::Timestamp),
        [Value::String(s)] => match time::parse_time(s) {
            Some(t) => Ok(Value::Timestamp(t)),
            None => cannot(&args[0], "google.protobuf.Timestamp"),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

pub(crate) fn to_string<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let [value] = args else { return Err(EvalError::no_such_overload()) };
    match value {
        Value::String(s) => Ok(Value::String(s.clone())),
        Value::Opaque(o) => match &**o {
            OpaqueValue::Ip(ip) => Ok(Value::str(ip.to_string())),
            OpaqueValue::Cidr(cidr) => Ok(Value::str(cidr.0.to_string())),
            _ => Err(EvalError::no_such_overload()),
        },
        _ => match text(value)? {
            Some(text) => Ok(Value::str(text)),
            None => Err(EvalError::no_such_overload()),
        },
    }
}

/// The text of a scalar.
pub(crate) fn text(value: &Value<'_>) -> Result<Option<String>, EvalError> {
    Ok(Some(match value {
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Uint(n) => n.to_string(),
        Value::Double(n) => double_text(*n),
        Value::String(s) => (**s).to_owned(),
        Value::Bytes(b) => match std::str::from_utf8(b) {
            Ok(s) => s.to_owned(),
            Err(_) => {
                return Err(EvalError::text("invalid UTF-8 in bytes, cannot convert to string"));
            }
        },
        Value::Timestamp(t) => t.text(),
        Value::Duration(n) => time::duration_text(*n),
        Value::Type(t) => t.as_str().to_owned(),
        _ => return Ok(None),
    }))
}

/// A number as Go's `%g` prints it in as few digits as needed: with an exponent below a ten
/// thousandth and from a million on.
pub(crate) fn double_text(n: f64) -> String {
    if n.is_nan() {
        return "NaN".to_owned();
    }
    if n.is_infinite() {
        return if n > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{n:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if n == 0.0 || (-4..6).contains(&exponent) {
        return format!("{n}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}
