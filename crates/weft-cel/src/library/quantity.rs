//! Amounts such as `1.5Gi` or `500m`, as far as rules calculate with them.

use crate::error::EvalError;
use std::cmp::Ordering;

const NANO: i32 = -9;
const FORMAT: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
const NUMERIC: &str = "unable to parse numeric part of quantity";
const SUFFIX: &str = "unable to parse quantity's suffix";

/// An amount. Which of the two forms it has shows in `isInteger()` and `asInteger()`: they know
/// only small numbers without a negative exponent, as apimachinery does.
#[derive(Clone, Copy, Debug)]
pub enum Quantity {
    /// `value` times ten to the power of `scale`.
    Small {
        /// The digits.
        value: i64,
        /// The exponent of ten.
        scale: i32,
    },
    /// Billionths.
    Big(i128),
}

impl Quantity {
    /// A whole number.
    pub(crate) fn whole(value: i64) -> Quantity {
        Quantity::Small { value, scale: 0 }
    }

    /// Billionths, where they fit.
    fn nanos(&self) -> Option<i128> {
        match *self {
            Quantity::Big(nanos) => Some(nanos),
            Quantity::Small { value: 0, .. } => Some(0),
            Quantity::Small { value, scale } => {
                let power = u32::try_from(scale - NANO).ok()?;
                10_i128.checked_pow(power)?.checked_mul(value.into())
            }
        }
    }

    pub(crate) fn sign(&self) -> i64 {
        match *self {
            Quantity::Big(nanos) => nanos.signum() as i64,
            Quantity::Small { value, .. } => value.signum(),
        }
    }

    pub(crate) fn cmp(&self, other: &Quantity) -> Ordering {
        match (self.nanos(), other.nanos()) {
            (Some(a), Some(b)) => a.cmp(&b),
            // What does not fit is larger, on its side of zero, than all that does.
            _ => self.approximate().total_cmp(&other.approximate()),
        }
    }

    pub(crate) fn approximate(&self) -> f64 {
        match *self {
            Quantity::Big(nanos) => nanos as f64 * 1e-9,
            Quantity::Small { value, scale: 0 } => value as f64,
            Quantity::Small { value, scale } => value as f64 * 10_f64.powi(scale),
        }
    }

    pub(crate) fn as_integer(&self) -> Option<i64> {
        match *self {
            Quantity::Small { value, scale } if scale >= 0 => {
                10_i64.checked_pow(scale as u32)?.checked_mul(value)
            }
            _ => None,
        }
    }

    pub(crate) fn add(&self, other: &Quantity) -> Result<Quantity, EvalError> {
        if let (Quantity::Small { value: a, scale: s }, Quantity::Small { value: b, scale: t }) =
            (*self, *other)
        {
            if b == 0 {
                return Ok(*self);
            }
            if a == 0 {
                return Ok(*other);
            }
            let scale = s.min(t);
            let at = |value: i64, from: i32| {
                10_i64.checked_pow((from - scale) as u32).and_then(|p| p.checked_mul(value))
            };
            if let (Some(a), Some(b)) = (at(a, s), at(b, t))
                && let Some(value) = a.checked_add(b)
            {
                return Ok(Quantity::Small { value, scale });
            }
        }
        let sum = self.nanos().zip(other.nanos()).and_then(|(a, b)| a.checked_add(b));
        sum.map(Quantity::Big).ok_or_else(|| EvalError::text(NUMERIC))
    }

    pub(crate) fn sub(&self, other: &Quantity) -> Result<Quantity, EvalError> {
        let negative = match *other {
            Quantity::Small { value, scale } => match value.checked_neg() {
                Some(value) => Quantity::Small { value, scale },
                None => Quantity::Big(-other.nanos().ok_or_else(|| EvalError::text(NUMERIC))?),
            },
            Quantity::Big(nanos) => Quantity::Big(-nanos),
        };
        self.add(&negative)
    }
}

enum Base {
    /// Ten to this power.
    Ten(i32),
    /// Two to this power.
    Two(u32),
}

fn base(suffix: &str) -> Option<Base> {
    Some(match suffix {
        "" => Base::Ten(0),
        "n" => Base::Ten(-9),
        "u" => Base::Ten(-6),
        "m" => Base::Ten(-3),
        "k" => Base::Ten(3),
        "M" => Base::Ten(6),
        "G" => Base::Ten(9),
        "T" => Base::Ten(12),
        "P" => Base::Ten(15),
        "E" => Base::Ten(18),
        "Ki" => Base::Two(10),
        "Mi" => Base::Two(20),
        "Gi" => Base::Two(30),
        "Ti" => Base::Two(40),
        "Pi" => Base::Two(50),
        "Ei" => Base::Two(60),
        _ => Base::Ten(suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    })
}

/// Parses an amount. More than 36 digits, or an exponent beyond 1000, is refused. A sign or a
/// point alone is zero: apimachinery reads it so.
pub(crate) fn parse(text: &str) -> Result<Quantity, EvalError> {
    let bad = |message: &'static str| Err(EvalError::text(message));
    let (negative, body) = match text.as_bytes().first() {
        None => return bad(FORMAT),
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        Some(_) => (false, text),
    };
    let zeros = body.len() - body.trim_start_matches('0').len();
    let body = &body[zeros..];
    if body.is_empty() {
        return Ok(Quantity::whole(0));
    }
    let split = body.find(|c: char| !c.is_ascii_digit()).unwrap_or(body.len());
    let (whole, rest) = body.split_at(split);
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())),
        None => ("", rest),
    };
    let letters = suffix.find(|c: char| !"eEinumkKMGTP".contains(c)).unwrap_or(suffix.len());
    let digits = suffix[letters..].strip_prefix(['-', '+']).unwrap_or(&suffix[letters..]);
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return bad(FORMAT);
    }
    let Some(base) = base(suffix) else { return bad(SUFFIX) };
    let whole = if whole.is_empty() { "0" } else { whole };
    if whole.len() + fraction.len() > 36 || matches!(base, Base::Ten(e) if e.abs() > 1000) {
        return bad(NUMERIC);
    }
    let Ok(digits) = format!("{whole}{fraction}").parse::<i128>() else { return bad(NUMERIC) };
    let signed = if negative { -digits } else { digits };
    // The small form where apimachinery takes it: few digits, nothing below a billionth.
    let count = (whole.len() + fraction.len()) as i32;
    let places = fraction.len() as i32;
    let small = match base {
        Base::Ten(power) if 18 - count >= 0 && power - places >= NANO => {
            Some((signed, power - places))
        }
        Base::Two(power) if places == 0 => {
            let room = 15 - count - (power as f32 * 3.0 / 10.0) as i32 - 1;
            (room >= 0).then_some((signed << power, 0))
        }
        _ => None,
    };
    if let Some((value, scale)) = small
        && let Ok(value) = i64::try_from(value)
    {
        return Ok(Quantity::Small { value, scale });
    }
    let (numerator, power) = match base {
        Base::Ten(power) => (digits, power - places - NANO),
        Base::Two(power) => match digits.checked_mul(1 << power) {
            Some(scaled) => (scaled, -places - NANO),
            None => return bad(NUMERIC),
        },
    };
    let nanos = if power >= 0 {
        10_i128.checked_pow(power as u32).and_then(|p| p.checked_mul(numerator))
    } else {
        // Below a billionth is rounded up: who asks for something gets something.
        Some(match 10_i128.checked_pow(power.unsigned_abs()) {
            Some(divisor) => numerator / divisor + i128::from(numerator % divisor != 0),
            None => i128::from(numerator != 0),
        })
    };
    let Some(mut nanos) = nanos else { return bad(NUMERIC) };
    if matches!(base, Base::Two(_)) {
        nanos = nanos.min(i128::from(i64::MAX) * 1_000_000_000);
    }
    Ok(Quantity::Big(if negative { -nanos } else { nanos }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_compare_by_value() {
        for (a, b, order) in [
            ("1Ki", "1024", Ordering::Equal),
            ("1.5Gi", "1536Mi", Ordering::Equal),
            ("500m", "0.5", Ordering::Equal),
            ("1e3", "1k", Ordering::Equal),
            ("0.1n", "1n", Ordering::Equal),
            ("100Ei", "10Ei", Ordering::Equal),
            ("-1", "1n", Ordering::Less),
            ("1e50", "1E", Ordering::Greater),
            ("-1e50", "-1E", Ordering::Less),
        ] {
            let (a, b) = (parse(a).expect(a), parse(b).expect(b));
            assert_eq!(a.cmp(&b), order, "{a:?} {b:?}");
        }
        for text in ["", "1x", "1e", "1.2.3", "1 ", "1ee3", "1Kib", "1e99999999999"] {
            assert!(parse(text).is_err(), "{text}: {:?}", parse(text));
        }
    }
}
