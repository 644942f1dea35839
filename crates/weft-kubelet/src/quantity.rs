//! Kubernetes quantities (`100m`, `1.5Gi`, `1e3`), exactly, as nano-units.

/// One unit in the nano-units of [`parse`].
const NANO: i128 = 1_000_000_000;

/// Value of a quantity in nano-units; `None` where it is not one or does not fit.
pub fn parse(text: &str) -> Option<i128> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(r) => (true, r),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || number.len() > 30 {
        return None;
    }
    // Numerator over denominator, both in units of one.
    let (mul, div): (i128, i128) = match suffix {
        "n" => (1, NANO),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "" => (1, 1),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (NANO, 1),
        "T" => (1000 * NANO, 1),
        "P" => (1_000_000 * NANO, 1),
        "E" => (NANO * NANO, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exp: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            if exp.unsigned_abs() > 18 {
                return None;
            }
            let p = 10i128.pow(exp.unsigned_abs());
            if exp < 0 { (1, p) } else { (p, 1) }
        }
    };
    let digits: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let scale = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let n = digits.checked_mul(NANO)?.checked_mul(mul)?;
    let d = scale.checked_mul(div)?;
    // Kubernetes rounds up what is finer than it keeps.
    let v = n.div_euclid(d) + i128::from(n.rem_euclid(d) != 0);
    Some(if negative { -v } else { v })
}

/// A quantity divided by a divisor, rounded up, as `resourceFieldRef` shows it.
pub fn divided(value: &str, divisor: Option<&str>) -> Option<i128> {
    let v = parse(value)?;
    let d = match divisor.map(parse) {
        None => NANO,
        // A divisor of 0 is the default, 1.
        Some(Some(0)) => NANO,
        Some(d) => d?,
    };
    if d <= 0 {
        return None;
    }
    Some(v.div_euclid(d) + i128::from(v.rem_euclid(d) != 0))
}

/// A quantity in whole units, rounded up.
pub fn units(value: &str) -> Option<u64> {
    u64::try_from(divided(value, None)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn forms_and_rounding() {
        for (text, want) in [
            ("0", Some(0)),
            ("1", Some(1)),
            ("100m", Some(1)),
            ("1.5Gi", Some(1_610_612_736)),
            ("1e3", Some(1000)),
            ("2k", Some(2000)),
            (".5", Some(1)),
            ("", None),
            ("x", None),
            ("1.2.3", None),
            ("1Kib", None),
            ("-1", None),
        ] {
            assert_eq!(units(text), want, "{text:?}");
        }
        assert_eq!(divided("250m", Some("1m")), Some(250));
        assert_eq!(divided("250m", Some("1")), Some(1));
        assert_eq!(divided("64Mi", Some("1Mi")), Some(64));
        assert_eq!(divided("64Mi", Some("0")), Some(67_108_864));
    }

    proptest! {
        #[test]
        fn never_panics(text in "[-+]?[0-9.]{0,40}[a-zA-Z0-9+-]{0,6}") {
            let _ = parse(&text);
        }

        #[test]
        fn whole_numbers_are_themselves(n in 0u64..1 << 60) {
            prop_assert_eq!(units(&n.to_string()), Some(n));
        }
    }
}
