//! Functions on text. Positions count characters.

use super::convert;
use crate::{
    budget::Meter,
    error::EvalError,
    eval::Evaluated,
    value::{List, Map, Str, Value, char_count},
};
use regex::Regex;
use std::fmt::Write;

fn mismatch<'a>() -> Evaluated<'a> {
    Err(EvalError::no_such_overload())
}

/// A part of a text; it borrows where the text does.
fn part<'a>(text: &Str<'a>, from: usize, to: usize) -> Value<'a> {
    match text {
        Str::Ref(text) => Value::String(Str::Ref(&text[from..to])),
        Str::Shared(text) => Value::str(&text[from..to]),
    }
}

/// Bytes of text that are searched in the time of a visit.
const SEARCHED_PER_VISIT: usize = 16;

/// The byte offset of a character, or of the end.
fn offset(text: &str, chars: usize) -> Option<usize> {
    // No more is looked at than what is before the character.
    if text.as_bytes().get(..chars)?.is_ascii() {
        return Some(chars);
    }
    text.char_indices().map(|(at, _)| at).chain([text.len()]).nth(chars)
}

fn out_of_range(index: i64) -> EvalError {
    EvalError::text(format!("index out of range: {index}"))
}

pub(crate) fn contains<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(a), Value::String(b)] = args else { return mismatch() };
    Ok(Value::Bool(a.contains(&**b)))
}

pub(crate) fn starts_with<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(a), Value::String(b)] = args else { return mismatch() };
    Ok(Value::Bool(a.starts_with(&**b)))
}

pub(crate) fn ends_with<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(a), Value::String(b)] = args else { return mismatch() };
    Ok(Value::Bool(a.ends_with(&**b)))
}

pub(crate) fn matches<'a>(meter: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(text), Value::String(pattern)] = args else { return mismatch() };
    Ok(Value::Bool(meter.pattern(pattern)?.regex.is_match(text)))
}

/// The first match, or nothing.
pub(crate) fn found<'a>(regex: &Regex, text: &Str<'a>) -> Value<'a> {
    match regex.find(text) {
        Some(found) => part(text, found.start(), found.end()),
        None => Value::String(Str::Ref("")),
    }
}

/// All matches, or the first ones; a negative limit is none.
pub(crate) fn all_found<'a>(
    meter: &mut Meter,
    regex: &Regex,
    text: &Str<'a>,
    limit: Option<&Value<'a>>,
) -> Evaluated<'a> {
    let limit = match limit {
        None => usize::MAX,
        Some(Value::Int(n)) => usize::try_from(*n).unwrap_or(usize::MAX),
        Some(_) => return mismatch(),
    };
    let mut items = Vec::new();
    for found in regex.find_iter(text).take(limit) {
        meter.room_for(items.len() as u64)?;
        items.push(part(text, found.start(), found.end()));
        // The cost of the call pays for going through the text once. How far a search looks
        // beyond its match is not known: perhaps to the end, for each match anew.
        meter.burn(((text.len() - found.end()) / SEARCHED_PER_VISIT) as u64)?;
    }
    Value::list(items)
}

fn illegal(error: EvalError) -> EvalError {
    match error {
        EvalError::Other(message) => EvalError::text(format!("Illegal regex: {message}")),
        other => other,
    }
}

pub(crate) fn find<'a>(meter: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(text), Value::String(pattern)] = args else { return mismatch() };
    let pattern = meter.pattern(pattern).map_err(illegal)?;
    Ok(found(&pattern.regex, text))
}

pub(crate) fn find_all<'a>(meter: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let (Some(Value::String(text)), Some(Value::String(pattern))) = (args.first(), args.get(1))
    else {
        return mismatch();
    };
    let pattern = meter.pattern(pattern).map_err(illegal)?;
    all_found(meter, &pattern.regex, text, args.get(2))
}

pub(crate) fn char_at<'a>(meter: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(text), Value::Int(index)] = args else { return mismatch() };
    let at = usize::try_from(*index).map_err(|_| out_of_range(*index))?;
    // The cost of the call is 1, however far the character is.
    meter.burn((at.min(text.len()) / SEARCHED_PER_VISIT) as u64)?;
    let from = offset(text, at).ok_or_else(|| out_of_range(*index))?;
    let len = text[from..].chars().next().map_or(0, char::len_utf8);
    Ok(part(text, from, from + len))
}

/// `a.indexOf(b)` and `a.indexOf(b, from)` for texts.
pub(crate) fn index_of(text: &str, wanted: &str, from: i64) -> Result<i64, EvalError> {
    if wanted.is_empty() {
        return Ok(from);
    }
    let start = usize::try_from(from).map_err(|_| out_of_range(from))?;
    let Some(start) = offset(text, start) else { return Ok(-1) };
    Ok(match text[start..].find(wanted) {
        Some(at) => char_count(&text[..start + at]) as i64,
        None => -1,
    })
}

/// `a.lastIndexOf(b)` and `a.lastIndexOf(b, from)` for texts.
pub(crate) fn last_index_of(text: &str, wanted: &str, from: Option<i64>) -> Result<i64, EvalError> {
    let count = char_count(text) as i64;
    let Some(from) = from else {
        if wanted.is_empty() {
            return Ok(count);
        }
        return Ok(text.rfind(wanted).map_or(-1, |at| char_count(&text[..at]) as i64));
    };
    if wanted.is_empty() {
        return Ok(from);
    }
    let start = usize::try_from(from).map_err(|_| out_of_range(from))?;
    if from >= count {
        return Ok(-1);
    }
    let start = offset(text, start).unwrap_or(text.len());
    // A match that starts no later ends no later than that far on; none ends inside of a
    // character.
    let mut end = start.saturating_add(wanted.len()).min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Ok(text[..end].rfind(wanted).map_or(-1, |at| char_count(&text[..at]) as i64))
}

pub(crate) fn lower_ascii<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(text)] = args else { return mismatch() };
    Ok(Value::str(text.to_ascii_lowercase()))
}

pub(crate) fn upper_ascii<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(text)] = args else { return mismatch() };
    Ok(Value::str(text.to_ascii_uppercase()))
}

pub(crate) fn replace<'a>(meter: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let (Some(Value::String(text)), Some(Value::String(old)), Some(Value::String(new))) =
        (args.first(), args.get(1), args.get(2))
    else {
        return mismatch();
    };
    let limit = match args.get(3) {
        None => usize::MAX,
        Some(Value::Int(n)) => usize::try_from(*n).unwrap_or(usize::MAX),
        Some(_) => return mismatch(),
    };
    let times = text.matches(&**old).take(limit).count() as u64;
    meter.room_for_text(text.len() as u64 + times.saturating_mul(new.len() as u64))?;
    Ok(Value::str(text.replacen(&**old, new, limit)))
}

pub(crate) fn split<'a>(meter: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let (Some(Value::String(text)), Some(Value::String(separator))) = (args.first(), args.get(1))
    else {
        return mismatch();
    };
    let limit = match args.get(2) {
        None => usize::MAX,
        Some(Value::Int(n)) => usize::try_from(*n).unwrap_or(usize::MAX),
        Some(_) => return mismatch(),
    };
    if limit == 0 {
        return Value::list(Vec::new());
    }
    let mut items = Vec::new();
    let mut from = 0;
    while items.len() + 1 < limit {
        let (end, next) = if separator.is_empty() {
            // Between any two characters.
            match text[from..].chars().next() {
                Some(c) if from + c.len_utf8() < text.len() => {
                    (from + c.len_utf8(), from + c.len_utf8())
                }
                _ => break,
            }
        } else {
            match text[from..].find(&**separator) {
                Some(at) => (from + at, from + at + separator.len()),
                None => break,
            }
        };
        meter.room_for(items.len() as u64)?;
        items.push(part(text, from, end));
        from = next;
    }
    if !(separator.is_empty() && text.is_empty()) {
        items.push(part(text, from, text.len()));
    }
    Value::list(items)
}

pub(crate) fn substring<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let (text, start, end) = match args {
        [Value::String(text), Value::Int(start)] => (text, *start, None),
        [Value::String(text), Value::Int(start), Value::Int(end)] => (text, *start, Some(*end)),
        _ => return mismatch(),
    };
    if let Some(end) = end.filter(|end| start > *end) {
        return Err(EvalError::text(format!(
            "invalid substring range. start: {start}, end: {end}"
        )));
    }
    let at = |index: i64| {
        usize::try_from(index).ok().and_then(|i| offset(text, i)).ok_or_else(|| out_of_range(index))
    };
    let from = at(start)?;
    let to = end.map_or(Ok(text.len()), at)?;
    Ok(part(text, from, to))
}

pub(crate) fn trim<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(text)] = args else { return mismatch() };
    let from = text.len() - text.trim_start().len();
    Ok(part(text, from, from + text.trim().len()))
}

pub(crate) fn join<'a>(meter: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let (list, separator) = match args {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::String(separator)] => (list, &**separator),
        _ => return mismatch(),
    };
    let mut out = String::new();
    for (i, item) in list.iter().enumerate() {
        let item = item?;
        let Value::String(item) = &item else {
            return Err(EvalError::text(format!(
                "join: invalid input: {}",
                super::misc::shown(&item)
            )));
        };
        if i > 0 {
            out.push_str(separator);
        }
        meter.room_for_text((out.len() + item.len()) as u64)?;
        out.push_str(item);
    }
    Ok(Value::str(out))
}

pub(crate) fn quote<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(text)] = args else { return mismatch() };
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    Ok(Value::str(out))
}

/// A piece of a text for `format`.
enum Piece<'t> {
    Text(&'t str),
    /// The letter, and the digits after the point.
    Clause(char, Option<usize>),
}

/// Digits that a clause may ask for.
const PRECISION_MAX: usize = 1000;

/// Takes a text apart; the message says what is wrong with it. `seen` gets how many clauses
/// came before.
fn pieces(text: &str) -> impl Iterator<Item = Result<Piece<'_>, String>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some(tail) = rest.strip_prefix('%') else {
            let end = rest.find('%').unwrap_or(rest.len());
            let (piece, tail) = rest.split_at(end);
            rest = tail;
            return Some(Ok(Piece::Text(piece)));
        };
        if let Some(after) = tail.strip_prefix('%') {
            rest = after;
            return Some(Ok(Piece::Text("%")));
        }
        rest = "";
        if tail.is_empty() {
            return Some(Err("unexpected end of string".to_owned()));
        }
        let mut tail = tail;
        let mut precision = None;
        if let Some(digits) = tail.strip_prefix('.') {
            let end = digits.find(|c: char| !c.is_ascii_digit());
            let Some(end) = end else {
                return Some(Err("could not parse formatting clause: error while parsing precision: could not find end of precision specifier".to_owned()));
            };
            match digits[..end].parse() {
                Ok(n) if n <= PRECISION_MAX => precision = Some(n),
                _ => {
                    return Some(Err(format!(
                        "could not parse formatting clause: error while parsing precision: error while converting precision to integer: strconv.Atoi: parsing \"{}\": invalid syntax",
                        &digits[..end]
                    )));
                }
            }
            tail = &digits[end..];
        }
        let letter = tail.chars().next().unwrap_or('%');
        if !"sdfebxXo".contains(letter) {
            return Some(Err(format!(
                "could not parse formatting clause: unrecognized formatting clause \"{letter}\""
            )));
        }
        rest = &tail[letter.len_utf8()..];
        Some(Ok(Piece::Clause(letter, precision)))
    })
}

/// What is wrong with an argument of this type for a clause.
fn refused(letter: char, kind: &str) -> Option<String> {
    let (kinds, rule): (&[&str], &str) = match letter {
        's' => (
            &[
                "list",
                "map",
                "int",
                "uint",
                "double",
                "bool",
                "string",
                "google.protobuf.Timestamp",
                "bytes",
                "google.protobuf.Duration",
                "type",
                "null_type",
            ],
            "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps",
        ),
        'd' => (&["int", "uint"], "decimal clause can only be used on integers"),
        'f' => (&["double", "string"], "fixed-point clause can only be used on doubles"),
        'e' => (&["double", "string"], "scientific clause can only be used on doubles"),
        'b' => (&["int", "uint", "bool"], "only integers and bools can be formatted as binary"),
        'o' => (&["int", "uint"], "octal clause can only be used on integers"),
        _ => (
            &["int", "uint", "string", "bytes"],
            "only integers, byte buffers, and strings can be formatted as hex",
        ),
    };
    (kind != "dyn" && !kinds.contains(&kind))
        .then(|| format!("error during formatting: {rule}, was given {kind}"))
}

/// Checks a constant text against the types of its arguments, given with their places. An
/// error has a place where it is about one argument.
pub(crate) fn check_format(text: &str, types: &[(u32, &str)]) -> Result<(), (Option<u32>, String)> {
    let mut used = 0;
    for piece in pieces(text) {
        match piece {
            Ok(Piece::Text(_)) => {}
            _ if used >= types.len() => {
                return Err((None, format!("index {used} out of range")));
            }
            Err(message) => return Err((None, message)),
            Ok(Piece::Clause(letter, _)) => {
                let (pos, kind) = types[used];
                used += 1;
                if let Some(message) = refused(letter, kind) {
                    return Err((Some(pos), message));
                }
            }
        }
    }
    if used < types.len() {
        let given = types.len();
        return Err((
            None,
            format!("too many arguments supplied to string.format (expected {used}, got {given})"),
        ));
    }
    Ok(())
}

pub(crate) fn format<'a>(meter: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(text), Value::List(list)] = args else { return mismatch() };
    let mut out = String::with_capacity(text.len() + 16);
    let mut used = 0;
    for piece in pieces(text) {
        let piece = match piece {
            Ok(Piece::Text(text)) => {
                out.push_str(text);
                continue;
            }
            piece => piece,
        };
        let Some(arg) = list.get(used) else {
            return Err(EvalError::text(format!("index {used} out of range")));
        };
        let Piece::Clause(letter, precision) = piece.map_err(EvalError::text)? else { continue };
        used += 1;
        clause(&mut out, letter, precision, &arg?, meter)?;
        meter.room_for_text(out.len() as u64)?;
    }
    Ok(Value::str(out))
}

// Writing to a String cannot fail: the results of `write!` below say nothing.
fn clause(
    out: &mut String,
    letter: char,
    precision: Option<usize>,
    arg: &Value<'_>,
    meter: &mut Meter,
) -> Result<(), EvalError> {
    if let Some(message) = refused(letter, arg.type_name()) {
        return Err(EvalError::text(message));
    }
    match (letter, arg) {
        ('s', _) => out.push_str(&shown_text(arg, meter)?),
        ('d', Value::Int(n)) => _ = write!(out, "{n}"),
        ('d', Value::Uint(n)) => _ = write!(out, "{n}"),
        ('f' | 'e', _) => {
            let n = match arg {
                Value::Double(n) => *n,
                Value::String(s) if &**s == "NaN" => f64::NAN,
                Value::String(s) if &**s == "Infinity" => f64::INFINITY,
                Value::String(s) if &**s == "-Infinity" => f64::NEG_INFINITY,
                other => {
                    let rule = if letter == 'f' { "fixed-point" } else { "scientific" };
                    return Err(EvalError::text(format!(
                        "error during formatting: {rule} clause can only be used on doubles, was given {}",
                        other.type_name()
                    )));
                }
            };
            if letter == 'f' {
                fixed(out, n, precision.unwrap_or(6))
            } else {
                scientific(out, n, precision)
            }
        }
        ('b', Value::Bool(b)) => out.push(if *b { '1' } else { '0' }),
        ('b', Value::Uint(n)) => _ = write!(out, "{n:b}"),
        ('o', Value::Uint(n)) => _ = write!(out, "{n:o}"),
        ('x', Value::Uint(n)) => _ = write!(out, "{n:x}"),
        ('X', Value::Uint(n)) => _ = write!(out, "{n:X}"),
        (_, Value::Int(n)) => {
            if *n < 0 {
                out.push('-');
            }
            let n = n.unsigned_abs();
            match letter {
                'b' => _ = write!(out, "{n:b}"),
                'o' => _ = write!(out, "{n:o}"),
                'X' => _ = write!(out, "{n:X}"),
                _ => _ = write!(out, "{n:x}"),
            }
        }
        (_, Value::String(s)) => hex(out, s.as_bytes(), letter == 'X'),
        (_, Value::Bytes(b)) => hex(out, b, letter == 'X'),
        _ => return Err(EvalError::no_such_overload()),
    }
    Ok(())
}

fn hex(out: &mut String, bytes: &[u8], upper: bool) {
    for b in bytes {
        _ = if upper { write!(out, "{b:02X}") } else { write!(out, "{b:02x}") };
    }
}

/// What is no number, in the notation of the locale that Kubernetes sets.
fn special(out: &mut String, n: f64) -> bool {
    if n.is_nan() {
        out.push_str("NaN");
    } else if n.is_infinite() {
        out.push_str(if n > 0.0 { "\u{221e}" } else { "-\u{221e}" });
    } else {
        return false;
    }
    true
}

/// Digits in groups of three, as the locale has it.
fn fixed(out: &mut String, n: f64, precision: usize) {
    if special(out, n) {
        return;
    }
    let text = format!("{:.precision$}", n.abs());
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    if n.is_sign_negative() {
        out.push('-');
    }
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if !fraction.is_empty() {
        out.push('.');
        out.push_str(fraction);
    }
}

/// Six digits and a power of ten. What a clause says before its letter is a width: an oddity
/// of the reference implementation.
fn scientific(out: &mut String, n: f64, width: Option<usize>) {
    let mut text = String::new();
    if !special(&mut text, n) {
        let plain = format!("{n:.6e}");
        let (mantissa, exponent) = plain.split_once('e').unwrap_or((&plain, "0"));
        let (sign, digits) = match exponent.strip_prefix('-') {
            Some(digits) => ("\u{207b}", digits),
            None => ("", exponent),
        };
        _ = write!(text, "{mantissa}\u{d7}10{sign}");
        let raised = [
            '\u{2070}', '\u{b9}', '\u{b2}', '\u{b3}', '\u{2074}', '\u{2075}', '\u{2076}',
            '\u{2077}', '\u{2078}', '\u{2079}',
        ];
        for digit in format!("{digits:0>2}").bytes() {
            text.push(raised[usize::from(digit.saturating_sub(b'0')).min(9)]);
        }
    }
    let missing = width.unwrap_or(0).saturating_sub(text.chars().count());
    out.extend(std::iter::repeat_n(' ', missing));
    out.push_str(&text);
}

/// A value as `%s` prints it.
fn shown_text(value: &Value<'_>, meter: &mut Meter) -> Result<String, EvalError> {
    match value {
        Value::Null => Ok("null".to_owned()),
        Value::List(list) => shown_list(list, meter),
        Value::Map(map) => shown_map(map, meter),
        _ => match convert::text(value)? {
            Some(text) => Ok(text),
            None => Err(EvalError::text(format!(
                "error during formatting: {}",
                refused('s', value.type_name()).unwrap_or_default()
            ))),
        },
    }
}

/// A value inside of a list or a map.
fn shown_inside(value: &Value<'_>, meter: &mut Meter) -> Result<String, EvalError> {
    meter.burn(1)?;
    Ok(match value {
        Value::String(s) => format!("{:?}", &**s),
        Value::Bytes(_) => format!("b{:?}", shown_text(value, meter)?),
        Value::Double(n) if n.is_finite() => format!("{n:.6}"),
        Value::Double(_) => format!("{:?}", convert::text(value)?.unwrap_or_default()),
        Value::Timestamp(t) => format!("timestamp({:?})", t.text()),
        Value::Duration(_) => format!("duration({:?})", shown_text(value, meter)?),
        Value::Type(t) => format!("type({})", t.as_str()),
        Value::Optional(_) | Value::Opaque(_) => {
            return Err(EvalError::text(format!(
                "error during formatting: no formatting function for {}",
                value.type_name()
            )));
        }
        _ => shown_text(value, meter)?,
    })
}

fn shown_list(list: &List<'_>, meter: &mut Meter) -> Result<String, EvalError> {
    let mut out = "[".to_owned();
    for (i, item) in list.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        out.push_str(&shown_inside(&item?, meter)?);
        meter.room_for_text(out.len() as u64)?;
    }
    out.push(']');
    Ok(out)
}

fn shown_map(map: &Map<'_>, meter: &mut Meter) -> Result<String, EvalError> {
    let mut entries = Vec::with_capacity(map.len());
    for key in map.keys() {
        let value = map.get(&key).unwrap_or(Ok(Value::Null))?;
        entries.push((shown_inside(&key, meter)?, shown_inside(&value, meter)?));
    }
    entries.sort();
    let entries: Vec<String> = entries.into_iter().map(|(k, v)| format!("{k}:{v}")).collect();
    Ok(format!("{{{}}}", entries.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::VISITS_MAX;

    /// Calls with what is left of a budget.
    fn call(
        function: fn(&mut Meter, &[Value<'static>]) -> Evaluated<'static>,
        left: u64,
        args: &[Value<'static>],
    ) -> Evaluated<'static> {
        let mut meter = Meter::default();
        meter.burn(VISITS_MAX - left).unwrap();
        function(&mut meter, args)
    }

    #[test]
    fn searching_text_again_and_again_is_not_free() {
        let text = Value::str("A".repeat(1600));
        let refused = |result| matches!(result, Err(EvalError::CallLimit));
        // Each match is known only at the end of the text.
        let args = [text.clone(), Value::str(".*[^A-Z]|[A-Z]")];
        assert!(refused(call(find_all, 1000, &args)));
        assert!(call(find_all, VISITS_MAX, &args).is_ok());
        let args = [text.clone(), Value::str("A+")];
        assert!(call(find_all, 0, &args).is_ok(), "one match is paid for");
        let args = [text.clone(), Value::Int(1500)];
        assert!(refused(call(char_at, 50, &args)) && call(char_at, 100, &args).is_ok());
        let args = [text, Value::Int(i64::MAX)];
        assert!(call(char_at, 100, &args).is_err_and(|e| !refused(Err(e))));
    }

    #[test]
    fn positions_count_characters() {
        for (text, chars, wanted) in [
            ("ab", 2, Some(2)),
            ("ab", 3, None),
            ("ab\u{e9}c", 2, Some(2)),
            ("ab\u{e9}c", 3, Some(4)),
            ("ab\u{e9}c", 4, Some(5)),
            ("ab\u{e9}c", 5, None),
            ("\u{e9}\u{e9}", 2, Some(4)),
            ("\u{e9}\u{e9}", 3, None),
            ("", 0, Some(0)),
        ] {
            assert_eq!(offset(text, chars), wanted, "{text} {chars}");
        }
    }
}
