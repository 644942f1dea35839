//! Parts of times and durations.

use super::time::{Civil, Time, zone_offset};
use crate::{budget::Meter, error::EvalError, eval::Evaluated, value::Value};

/// The time and the offset to look at it in.
fn zoned(args: &[Value<'_>]) -> Result<(Time, i32), EvalError> {
    match args {
        [Value::Timestamp(t)] => Ok((*t, 0)),
        [Value::Timestamp(t), Value::String(zone)] => Ok((*t, zone_offset(zone, t)?)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn civil<'a>(args: &[Value<'_>], part: impl Fn(&Civil) -> i64) -> Evaluated<'a> {
    let (time, offset) = zoned(args)?;
    Ok(Value::Int(part(&time.civil(offset))))
}

/// Of a time a part of its day, of a duration all of it in a unit.
fn part<'a>(args: &[Value<'_>], unit: i64, of: impl Fn(&Civil) -> u32) -> Evaluated<'a> {
    match args {
        [Value::Duration(nanos)] => Ok(Value::Int(nanos / unit)),
        _ => civil(args, |c| i64::from(of(c))),
    }
}

pub(crate) fn full_year<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    civil(args, |c| c.year)
}

pub(crate) fn month<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    civil(args, |c| i64::from(c.month) - 1)
}

pub(crate) fn date<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    civil(args, |c| i64::from(c.day))
}

pub(crate) fn day_of_month<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    civil(args, |c| i64::from(c.day) - 1)
}

pub(crate) fn day_of_week<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let (time, offset) = zoned(args)?;
    Ok(Value::Int(time.weekday(offset)))
}

pub(crate) fn day_of_year<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    let (time, offset) = zoned(args)?;
    Ok(Value::Int(time.day_of_year(offset)))
}

pub(crate) fn hours<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    part(args, 3_600_000_000_000, |c| c.hour)
}

pub(crate) fn minutes<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    part(args, 60_000_000_000, |c| c.minute)
}

pub(crate) fn seconds<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    part(args, 1_000_000_000, |c| c.second)
}

pub(crate) fn milliseconds<'a>(_: &mut Meter, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Duration(nanos)] => Ok(Value::Int(nanos / 1_000_000)),
        _ => zoned(args).map(|(time, _)| Value::Int(i64::from(time.nanos / 1_000_000))),
    }
}
