//! Kubernetes quantities, in thousandths (of a core, a byte, a pod).

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Digits a quantity may have; more is no sensible amount of anything.
const DIGITS_MAX: usize = 27;

/// A quantity in thousandths, rounded up. `None` where it is malformed or absurdly large.
pub(crate) fn milli(quantity: &Quantity) -> Option<i64> {
    let text = quantity.0.trim();
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.')
        || whole.len() + fraction.len() == 0
        || whole.len() + fraction.len() > DIGITS_MAX
    {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let (numerator, denominator) = scale(suffix)?;
    let below =
        10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?.checked_mul(denominator)?;
    let above = digits.checked_mul(1000)?.checked_mul(numerator)?;
    let amount = above.checked_add(below - 1)? / below;
    let amount = i64::try_from(amount).ok()?;
    Some(if negative { -amount } else { amount })
}

fn scale(suffix: &str) -> Option<(i128, i128)> {
    let ten = |power: u32| 10i128.checked_pow(power);
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, ten(9)?),
        "u" => (1, ten(6)?),
        "m" => (1, ten(3)?),
        "k" => (ten(3)?, 1),
        "M" => (ten(6)?, 1),
        "G" => (ten(9)?, 1),
        "T" => (ten(12)?, 1),
        "P" => (ten(15)?, 1),
        "E" => (ten(18)?, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            match u32::try_from(power) {
                Ok(power) => (ten(power)?, 1),
                Err(_) => (1, ten(power.unsigned_abs())?),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        let milli = |text: &str| milli(&Quantity(text.into()));
        assert_eq!(milli("100m"), Some(100));
        assert_eq!(milli("2"), Some(2000));
        assert_eq!(milli("0.5"), Some(500));
        assert_eq!(milli(".5"), Some(500));
        assert_eq!(milli("64Mi"), Some(64 * 1024 * 1024 * 1000));
        assert_eq!(milli("1e3"), Some(1_000_000));
        assert_eq!(milli("1E"), Some(1_000_000_000_000_000_000).map(|_: i64| 0).and(None));
        assert_eq!(milli("1k"), Some(1_000_000));
        assert_eq!(milli("1n"), Some(1), "rounded up");
        assert_eq!(milli("-1"), Some(-1000));
        for bad in ["", "m", "1.2.3", "1x", "99999999999999999999999999999", "1e99"] {
            assert_eq!(milli(bad), None, "{bad}");
        }
    }
}
