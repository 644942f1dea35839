//! Times and durations: Go's notations, civil dates by arithmetic, time zones.

use crate::error::EvalError;
use std::fmt::Write;

/// A point in time between the years 1 and 9999, with the offset it was written in.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    /// Seconds since 1970 in UTC.
    pub(crate) seconds: i64,
    pub(crate) nanos: u32,
    /// Seconds east of UTC; only for printing.
    pub(crate) offset: i32,
}

impl Time {
    fn instant(&self) -> (i64, u32) {
        (self.seconds, self.nanos)
    }
}

impl PartialEq for Time {
    fn eq(&self, other: &Self) -> bool {
        self.instant() == other.instant()
    }
}

impl Eq for Time {}

impl PartialOrd for Time {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Time {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.instant().cmp(&other.instant())
    }
}

/// 0001-01-01T00:00:00Z
const SECONDS_MIN: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z
const SECONDS_MAX: i64 = 253_402_300_799;
const NANOS_PER_SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400;

/// A date and a time of day somewhere.
pub(crate) struct Civil {
    pub year: i64,
    /// From 1.
    pub month: u32,
    /// From 1.
    pub day: u32,
    pub hour: u32,
    pub minute: u32,
    pub second: u32,
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar.
fn days_of(year: i64, month: u32, day: u32) -> i64 {
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let of_era = shifted.rem_euclid(400);
    let month = i64::from((month + 9) % 12);
    let of_year = (153 * month + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn date_of(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = (of_year - (153 * month + 2) / 5 + 1) as u32;
    let month = if month < 10 { month + 3 } else { month - 9 } as u32;
    (year + era * 400 + i64::from(month <= 2), month, day)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: u32) -> u32 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl Time {
    /// A time that the language can hold.
    pub(crate) fn new(seconds: i64, nanos: u32, offset: i32) -> Result<Time, EvalError> {
        if !(SECONDS_MIN..=SECONDS_MAX).contains(&seconds) {
            return Err(EvalError::text("timestamp overflow"));
        }
        Ok(Time { seconds, nanos, offset })
    }

    pub(crate) fn civil(&self, offset: i32) -> Civil {
        let local = self.seconds + i64::from(offset);
        let (year, month, day) = date_of(local.div_euclid(DAY));
        let second = local.rem_euclid(DAY) as u32;
        Civil {
            year,
            month,
            day,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
        }
    }

    /// From 0, Sunday.
    pub(crate) fn weekday(&self, offset: i32) -> i64 {
        ((self.seconds + i64::from(offset)).div_euclid(DAY) + 4).rem_euclid(7)
    }

    /// From 0.
    pub(crate) fn day_of_year(&self, offset: i32) -> i64 {
        let civil = self.civil(offset);
        days_of(civil.year, civil.month, civil.day) - days_of(civil.year, 1, 1)
    }

    /// RFC 3339 with as many digits of the second as it has, in the offset it came with.
    pub fn text(&self) -> String {
        let c = self.civil(self.offset);
        let mut out = format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
            c.year, c.month, c.day, c.hour, c.minute, c.second
        );
        if self.nanos != 0 {
            let digits = format!("{:09}", self.nanos);
            out.push('.');
            out.push_str(digits.trim_end_matches('0'));
        }
        if self.offset == 0 {
            out.push('Z');
        } else {
            let minutes = self.offset.abs() / 60;
            let sign = if self.offset < 0 { '-' } else { '+' };
            // Writing to a String cannot fail.
            let _ = write!(out, "{sign}{:02}:{:02}", minutes / 60, minutes % 60);
        }
        out
    }

    /// This time moved by a duration.
    pub(crate) fn plus(&self, nanos: i64) -> Result<Time, EvalError> {
        self.shifted(i128::from(nanos))
    }

    /// This time moved back by a duration.
    pub(crate) fn minus(&self, nanos: i64) -> Result<Time, EvalError> {
        self.shifted(-i128::from(nanos))
    }

    fn shifted(&self, by: i128) -> Result<Time, EvalError> {
        let total = self.total_nanos() + by;
        let per_second = i128::from(NANOS_PER_SECOND);
        let seconds = i64::try_from(total.div_euclid(per_second))
            .map_err(|_| EvalError::text("timestamp overflow"))?;
        Time::new(seconds, total.rem_euclid(per_second) as u32, self.offset)
    }

    fn total_nanos(&self) -> i128 {
        i128::from(self.seconds) * i128::from(NANOS_PER_SECOND) + i128::from(self.nanos)
    }

    /// The duration from `other` to this.
    pub(crate) fn since(&self, other: &Time) -> Result<i64, EvalError> {
        i64::try_from(self.total_nanos() - other.total_nanos())
            .map_err(|_| EvalError::text("integer overflow"))
    }
}

/// Takes `count` digits off the front.
fn digits(text: &mut &[u8], count: usize) -> Option<u32> {
    let (head, rest) = text.split_at_checked(count)?;
    if !head.iter().all(u8::is_ascii_digit) {
        return None;
    }
    *text = rest;
    Some(head.iter().fold(0, |n, b| n * 10 + u32::from(b - b'0')))
}

fn literal(text: &mut &[u8], one_of: &[u8]) -> Option<u8> {
    let (first, rest) = text.split_first()?;
    *text = rest;
    one_of.contains(first).then_some(*first)
}

fn date(text: &mut &[u8]) -> Option<i64> {
    let year = i64::from(digits(text, 4)?);
    literal(text, b"-")?;
    let month = digits(text, 2)?;
    literal(text, b"-")?;
    let day = digits(text, 2)?;
    let valid = (1..=12).contains(&month) && day >= 1 && day <= days_in(year, month);
    valid.then(|| days_of(year, month, day))
}

/// RFC 3339 as Go reads it; `loose` adds what schema validation lets pass beside it.
fn parse(text: &str, loose: bool) -> Option<Time> {
    let text = &mut text.as_bytes();
    let days = date(text)?;
    literal(text, if loose { b"Tt " } else { b"T" })?;
    let hour = digits(text, 2)?;
    literal(text, b":")?;
    let minute = digits(text, 2)?;
    literal(text, b":")?;
    let second = digits(text, 2)?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut nanos = 0;
    if let [b'.' | b',', b'0'..=b'9', ..] = text {
        *text = &text[1..];
        let mut unit = 100_000_000;
        while let [digit @ b'0'..=b'9', rest @ ..] = text {
            // Digits beyond nanoseconds are read and dropped.
            nanos += u32::from(digit - b'0') * unit;
            unit /= 10;
            *text = rest;
        }
    }
    let offset = match text {
        [b'Z'] => 0,
        [b'z'] | [] if loose => 0,
        [b'+' | b'-', ..] => {
            let sign = if text[0] == b'-' { -1 } else { 1 };
            *text = &text[1..];
            let hours = digits(text, 2)?;
            if !loose || text.first() == Some(&b':') {
                literal(text, b":")?;
            }
            let minutes = digits(text, 2)?;
            if hours > 24 || minutes > 59 || !text.is_empty() {
                return None;
            }
            sign * (hours * 3600 + minutes * 60) as i32
        }
        _ => return None,
    };
    let seconds = days * DAY + i64::from(hour * 3600 + minute * 60 + second) - i64::from(offset);
    Some(Time { seconds, nanos, offset })
}

/// `timestamp("…")`
pub(crate) fn parse_time(text: &str) -> Option<Time> {
    parse(text, false).filter(|t| (SECONDS_MIN..=SECONDS_MAX).contains(&t.seconds))
}

/// A JSON value of format `date-time` or `date`.
pub(crate) fn from_json(text: &str) -> Result<Time, EvalError> {
    if let Some(time) = parse(text, true) {
        return Ok(time);
    }
    let rest = &mut text.as_bytes();
    match date(rest) {
        Some(days) if rest.is_empty() => Ok(Time { seconds: days * DAY, nanos: 0, offset: 0 }),
        _ => Err(EvalError::text(format!("Invalid date-time formatted string {text}"))),
    }
}

/// Whether this is a date alone, as format `date` wants it.
pub(crate) fn is_date(text: &str) -> bool {
    let rest = &mut text.as_bytes();
    date(rest).is_some() && rest.is_empty()
}

/// Whether this is a time, as format `datetime` wants it.
pub(crate) fn is_datetime(text: &str) -> bool {
    parse(text, true).is_some_and(|_| text.len() > 10 && !text.contains(' '))
}

fn unit_nanos(unit: &str) -> Option<i64> {
    Some(match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => NANOS_PER_SECOND,
        "m" => 60 * NANOS_PER_SECOND,
        "h" => 3600 * NANOS_PER_SECOND,
        _ => return None,
    })
}

/// A duration in Go's notation: `1h30m`, `-1.5s`, `0`.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: i128 = 0;
    loop {
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        let number_len = rest.find(|c| !is_number(c))?;
        let (number, tail) = rest.split_at(number_len);
        let unit_len = tail.find(is_number).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let unit = i128::from(unit_nanos(unit)?);
        let (whole, fraction) = match number.split_once('.') {
            Some((whole, fraction)) => (whole, fraction),
            None => (number, ""),
        };
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { i128::from(whole.parse::<u64>().ok()?) };
        total += whole * unit;
        // Eighteen digits of a fraction are more than an hour has nanoseconds.
        let fraction = &fraction[..fraction.len().min(18)];
        if !fraction.is_empty() {
            let scale = 10_i128.pow(fraction.len() as u32);
            total += i128::from(fraction.parse::<u64>().ok()?) * unit / scale;
        }
        if total > 1 << 63 {
            return None;
        }
        rest = tail;
        if rest.is_empty() {
            break;
        }
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// A JSON value of format `duration`: Go's notation, or numbers with the names of units.
pub(crate) fn duration_from_json(text: &str) -> Result<i64, EvalError> {
    parse_duration(text).or_else(|| wordy_duration(text)).ok_or_else(|| {
        EvalError::text(format!("Invalid duration {text}: unable to parse {text} as duration"))
    })
}

/// `3 days`, `2w 1h`.
fn wordy_duration(text: &str) -> Option<i64> {
    let mut total: i64 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let split = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest[..split].parse().ok()?;
        let tail = rest[split..].trim_start();
        let split = tail.find(|c: char| !c.is_alphabetic()).unwrap_or(tail.len());
        let nanos = match tail[..split].to_lowercase().as_str() {
            "ns" | "nanosecond" | "nanoseconds" | "nano" | "nanos" => 1,
            "us" | "\u{b5}s" | "microsecond" | "microseconds" | "micro" | "micros" => 1_000,
            "ms" | "millisecond" | "milliseconds" | "milli" | "millis" => 1_000_000,
            "s" | "sec" | "secs" | "second" | "seconds" => NANOS_PER_SECOND,
            "m" | "min" | "mins" | "minute" | "minutes" => 60 * NANOS_PER_SECOND,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3600 * NANOS_PER_SECOND,
            "d" | "day" | "days" => DAY * NANOS_PER_SECOND,
            "w" | "wk" | "wks" | "week" | "weeks" => 7 * DAY * NANOS_PER_SECOND,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(nanos)?)?;
        rest = tail[split..].trim_start();
    }
    Some(total)
}

/// A duration as `string()` prints it: seconds, in as few digits as tell it from its neighbours.
pub(crate) fn duration_text(nanos: i64) -> String {
    let seconds = (nanos / NANOS_PER_SECOND) as f64 + (nanos % NANOS_PER_SECOND) as f64 / 1e9;
    format!("{seconds}s")
}

/// The offset of a time zone at a time: `+05:30`, or a name that the system knows.
pub(crate) fn zone_offset(zone: &str, time: &Time) -> Result<i32, EvalError> {
    if zone.is_empty() || zone == "UTC" {
        return Ok(0);
    }
    if let Some((hours, minutes)) = zone.split_once(':') {
        let number = |text: &str| -> Result<i64, EvalError> {
            text.parse::<i64>().ok().filter(|n| n.abs() < 1_000_000).ok_or_else(|| {
                EvalError::text(format!("strconv.Atoi: parsing \"{text}\": invalid syntax"))
            })
        };
        let (hours, minutes) = (number(hours)?, number(minutes)?);
        let minutes =
            if zone.starts_with('-') { hours * 60 - minutes } else { hours * 60 + minutes };
        return i32::try_from(minutes * 60)
            .map_err(|_| EvalError::text(format!("unknown time zone {zone}")));
    }
    let unknown = || EvalError::text(format!("unknown time zone {zone}"));
    let zone = jiff::tz::TimeZone::get(zone).map_err(|_| unknown())?;
    let instant = jiff::Timestamp::new(time.seconds, 0).map_err(|_| unknown())?;
    Ok(zone.to_offset(instant).seconds())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_round_trip_over_the_whole_range() {
        let first = days_of(1, 1, 1);
        let last = days_of(9999, 12, 31);
        assert_eq!(first * DAY, SECONDS_MIN);
        assert_eq!((last + 1) * DAY - 1, SECONDS_MAX);
        let mut previous = (0, 0, 0);
        for days in first..=last {
            let (year, month, day) = date_of(days);
            assert_eq!(days_of(year, month, day), days);
            assert!((year, month, day) > previous && day <= days_in(year, month));
            previous = (year, month, day);
        }
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanos) in [
            ("1h30m", Some(5_400 * NANOS_PER_SECOND)),
            ("-1.5s", Some(-1_500_000_000)),
            (".5s", Some(500_000_000)),
            ("1.s", Some(NANOS_PER_SECOND)),
            ("0", Some(0)),
            ("-0", Some(0)),
            ("1us1ns", Some(1001)),
            ("1\u{b5}s", Some(1000)),
            ("9223372036854775807ns", Some(i64::MAX)),
            ("-9223372036854775808ns", Some(i64::MIN)),
            ("9223372036854775808ns", None),
            ("3000000h", None),
            ("", None),
            ("1", None),
            (".s", None),
            ("1.2.3s", None),
            ("1d", None),
            ("--1s", None),
        ] {
            assert_eq!(parse_duration(text), nanos, "{text}");
        }
    }
}
