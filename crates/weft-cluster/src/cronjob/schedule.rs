//! Schedules of five fields, as cron has them: `*/15 9-17 * * MON-FRI`, `@daily`, `@every 1h30m`.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

/// Years after which a schedule that never comes true is given up (30 February).
const YEARS_MAX: i64 = 5;
const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// When something is to happen.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Schedule {
    /// A bit for each minute, hour, day of the month, month, and day of the week.
    Fields([u64; 5], Stars),
    Every(SignedDuration),
}

/// Whether day of month and day of week are free: if neither is, one of them is enough.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Stars {
    month_day: bool,
    week_day: bool,
}

impl Schedule {
    /// Reads a schedule.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Some(rest) = text.strip_prefix("@every ") {
            return Some(Self::Every(duration(rest.trim())?.max(SignedDuration::from_secs(1))));
        }
        let text = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, month_day, month, week_day] = fields.as_slice() else { return None };
        let mut days = field(week_day, 0, 7, &DAYS)?;
        // Sunday is 0 and 7.
        days |= days >> 7 & 1;
        let bits = [
            field(minute, 0, 59, &[])?,
            field(hour, 0, 23, &[])?,
            field(month_day, 1, 31, &[])?,
            field(month, 1, 12, &MONTHS)?,
            days,
        ];
        let star = |field: &str| field.starts_with('*') || field.starts_with('?');
        Some(Self::Fields(bits, Stars { month_day: star(month_day), week_day: star(week_day) }))
    }

    /// The first time after `after`.
    pub(super) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let (bits, stars) = match self {
            Self::Fields(bits, stars) => (bits, stars),
            Self::Every(pause) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                return whole.checked_add(*pause).ok();
            }
        };
        let [minutes, hours, month_days, months, week_days] = *bits;
        let has = |bits: u64, at: i8| u32::try_from(at).is_ok_and(|at| bits >> at & 1 == 1);
        let start = after.to_zoned(zone.clone()).datetime();
        let mut date = start.date();
        let mut from = (start.hour(), start.minute());
        let last = date.checked_add(YEARS_MAX.years()).ok()?;
        while date <= last {
            let of_month = has(month_days, date.day());
            let of_week = has(week_days, date.weekday().to_sunday_zero_offset());
            let day = match stars.month_day || stars.week_day {
                true => of_month && of_week,
                false => of_month || of_week,
            };
            if day && has(months, date.month()) {
                for hour in (from.0..24).filter(|hour| has(hours, *hour)) {
                    let first = if hour == from.0 { from.1 } else { 0 };
                    for minute in (first..60).filter(|minute| has(minutes, *minute)) {
                        let time = zone.to_ambiguous_timestamp(date.at(hour, minute, 0, 0));
                        // What the clock leaps over does not happen.
                        let found = time.compatible().ok().filter(|found| *found > after);
                        if found.is_some() {
                            return found;
                        }
                    }
                }
            }
            date = date.tomorrow().ok()?;
            from = (0, 0);
        }
        None
    }
}

/// Values, ranges, steps and lists of one field.
fn field(text: &str, least: u32, most: u32, names: &[&str]) -> Option<u64> {
    let number = |text: &str| -> Option<u32> {
        let lower = text.to_ascii_lowercase();
        match names.iter().position(|name| *name == lower) {
            Some(at) => u32::try_from(at).ok()?.checked_add(least),
            None => text.parse().ok(),
        }
    };
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                (range, Some(step.parse::<u32>().ok().filter(|step| *step > 0)?))
            }
            None => (part, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" || range == "?" => (least, if most == 7 { 6 } else { most }),
            Some((first, last)) => (number(first)?, number(last)?),
            // `5/15`: from 5 on.
            None => (number(range)?, if step.is_some() { most } else { number(range)? }),
        };
        if first < least || last > most || first > last {
            return None;
        }
        let step = usize::try_from(step.unwrap_or(1)).ok()?;
        (first..=last).step_by(step).for_each(|at| bits |= 1u64 << at);
    }
    Some(bits)
}

/// `1h30m`, `45s`.
fn duration(text: &str) -> Option<SignedDuration> {
    let mut total = 0i64;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = rest.split_at(end);
        let seconds = match unit.chars().next()? {
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        total = total.checked_add(number.parse::<i64>().ok()?.checked_mul(seconds)?)?;
        rest = &unit[1..];
    }
    (total > 0).then(|| SignedDuration::from_secs(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(schedule: &str, at: &str) -> String {
        let schedule = Schedule::parse(schedule).expect("a schedule");
        let at = at.parse().expect("a time");
        schedule.next(at, &TimeZone::UTC).map(|time| time.to_string()).unwrap_or_default()
    }

    #[test]
    fn times() {
        let at = "2026-11-21T15:30:20Z"; // a Saturday
        for (schedule, next) in [
            ("* * * * *", "2026-11-21T15:31:00Z"),
            ("*/15 * * * *", "2026-11-21T15:45:00Z"),
            ("30 15 * * *", "2026-11-22T15:30:00Z"),
            ("0 9-17/4 * * MON-FRI", "2026-11-23T09:00:00Z"),
            ("5/20 * * * *", "2026-11-21T15:45:00Z"),
            ("0 0 1 jan *", "2027-01-01T00:00:00Z"),
            ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
            ("0 0 13 * 5", "2026-11-27T00:00:00Z"),
            ("0 12 * * 7", "2026-11-22T12:00:00Z"),
            ("@hourly", "2026-11-21T16:00:00Z"),
            ("@weekly", "2026-11-22T00:00:00Z"),
            ("@every 1h30m", "2026-11-21T17:00:20Z"),
            ("0 0 30 2 *", ""),
        ] {
            assert_eq!(after(schedule, at), next, "{schedule}");
        }
        for bad in
            ["", "* * * *", "60 * * * *", "*/0 * * * *", "5-1 * * * *", "x * * * *", "@often"]
        {
            assert_eq!(Schedule::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn zones() {
        let zone = TimeZone::fixed(jiff::tz::offset(9));
        let schedule = Schedule::parse("0 8 * * *").expect("a schedule");
        let at: Timestamp = "2026-11-21T15:30:20Z".parse().expect("a time");
        let next = schedule.next(at, &zone).expect("a time");
        assert_eq!(next.to_string(), "2026-11-21T23:00:00Z");
    }
}
