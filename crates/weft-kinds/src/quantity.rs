//! Quantities in canonical form, as the real API stores them.

/// Digits that a quantity may have; more is refused. Real quantities fit 19.
const DIGITS_MAX: usize = 30;

/// The canonical form of a quantity: no fraction, the largest suffix of its own base that
/// keeps it whole (`0.5` → `500m`, `1024Mi` → `1Gi`, `1e3` stays an exponent).
/// `None` where it is no quantity.
pub fn canonical(text: &str) -> Option<String> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty())
        || fraction.contains('.')
        || whole.len() + fraction.len() > DIGITS_MAX
    {
        return None;
    }
    let digits: u128 = format!("0{whole}{fraction}").parse().ok()?;
    let places = i32::try_from(fraction.len()).ok()?;
    let format = Format::of(suffix)?;
    let body = match format {
        Format::Binary(power) => binary(digits, places, power)?,
        Format::Decimal(exponent) => decimal(digits, exponent - places, false)?,
        Format::Exponent(exponent) => decimal(digits, exponent - places, true)?,
    };
    Some(if negative && body != "0" { format!("-{body}") } else { body })
}

enum Format {
    /// 1024 to this power.
    Binary(u32),
    /// 10 to this power, by suffix.
    Decimal(i32),
    /// 10 to this power, by exponent.
    Exponent(i32),
}

const BINARY: &[&str] = &["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: &[(&str, i32)] = &[
    ("E", 18),
    ("P", 15),
    ("T", 12),
    ("G", 9),
    ("M", 6),
    ("k", 3),
    ("", 0),
    ("m", -3),
    ("u", -6),
    ("n", -9),
];

impl Format {
    fn of(suffix: &str) -> Option<Self> {
        if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
            return Some(Self::Decimal(*exponent));
        }
        if let Some(power) = BINARY.iter().position(|name| *name == suffix) {
            return u32::try_from(power).ok().map(Self::Binary);
        }
        let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
        (-30..=30).contains(&exponent).then_some(Self::Exponent(exponent))
    }
}

fn binary(digits: u128, places: i32, power: u32) -> Option<String> {
    let scaled = digits.checked_mul(1024u128.checked_pow(power)?)?;
    let divisor = 10u128.checked_pow(u32::try_from(places).ok()?)?;
    if scaled % divisor != 0 {
        // A fraction of a byte: the real API falls back to decimal milli-units.
        let milli = scaled.checked_mul(1000)?.div_ceil(divisor);
        return decimal(milli, -3, false);
    }
    let mut value = scaled / divisor;
    let mut index = 0;
    while value != 0 && value % 1024 == 0 && index + 1 < BINARY.len() {
        value /= 1024;
        index += 1;
    }
    Some(format!("{value}{}", BINARY[index]))
}

fn decimal(mut digits: u128, mut exponent: i32, as_exponent: bool) -> Option<String> {
    if digits == 0 {
        return Some("0".to_owned());
    }
    while digits.is_multiple_of(10) {
        digits /= 10;
        exponent += 1;
    }
    // Smaller than nano is rounded up, as the real API does.
    while exponent < -9 {
        digits = digits.div_ceil(10);
        exponent += 1;
    }
    let step = exponent.div_euclid(3) * 3;
    let step = if as_exponent { step } else { step.min(18) };
    let up = u32::try_from(exponent - step).ok()?;
    let value = digits.checked_mul(10u128.checked_pow(up)?)?;
    if as_exponent {
        return Some(if step == 0 { value.to_string() } else { format!("{value}e{step}") });
    }
    let (suffix, _) = DECIMAL.iter().find(|(_, e)| *e == step)?;
    Some(format!("{value}{suffix}"))
}

#[cfg(test)]
mod tests {
    use super::canonical;
    use proptest::prelude::*;

    #[test]
    fn canonical_forms_are_those_of_the_real_api() {
        for (from, to) in [
            ("1", "1"),
            ("0", "0"),
            ("-0", "0"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.5", "1500m"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("64Mi", "64Mi"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("12e6", "12e6"),
            ("-2Gi", "-2Gi"),
            ("0.1m", "100u"),
            ("10E", "10E"),
        ] {
            assert_eq!(canonical(from).as_deref(), Some(to), "{from}");
        }
        for bad in ["", "x", "1x", "1 Gi", "--1", "1.2.3", "Gi", ".", "1e99", "é"] {
            assert_eq!(canonical(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn canonical_is_a_fixed_point(number in "[0-9]{1,6}(\\.[0-9]{1,3})?",
                                      suffix in "|m|k|M|G|Ki|Mi|Gi|e3") {
            let once = canonical(&format!("{number}{suffix}")).expect("a quantity");
            prop_assert_eq!(canonical(&once), Some(once.clone()));
        }

        #[test]
        fn no_text_panics(text in ".*") { let _ = canonical(&text); }
    }
}
