//! `format` of a string, as kube-openapi checks it; and numbers as Go prints them.

use crate::pattern::Pattern;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

/// The formats that are checked; all others are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    BsonObjectId,
    Byte,
    Cidr,
    CreditCard,
    Date,
    DateTime,
    Duration,
    Email,
    HexColor,
    Hostname,
    Ipv4,
    Ipv6,
    Isbn,
    Isbn10,
    Isbn13,
    LongName,
    Mac,
    Password,
    RgbColor,
    ShortName,
    Ssn,
    Uri,
    Uuid,
    Uuid3,
    Uuid4,
    Uuid5,
}

impl Format {
    /// The format of that name; dashes do not matter.
    pub(crate) fn find(name: &str) -> Option<Self> {
        Some(match name.replace('-', "").as_str() {
            "bsonobjectid" => Self::BsonObjectId,
            "byte" => Self::Byte,
            "cidr" => Self::Cidr,
            "creditcard" => Self::CreditCard,
            "date" => Self::Date,
            "datetime" => Self::DateTime,
            "duration" => Self::Duration,
            "email" => Self::Email,
            "hexcolor" => Self::HexColor,
            "hostname" => Self::Hostname,
            "ipv4" => Self::Ipv4,
            "ipv6" => Self::Ipv6,
            "isbn" => Self::Isbn,
            "isbn10" => Self::Isbn10,
            "isbn13" => Self::Isbn13,
            "k8slongname" => Self::LongName,
            "k8sshortname" => Self::ShortName,
            "mac" => Self::Mac,
            "password" => Self::Password,
            "rgbcolor" => Self::RgbColor,
            "ssn" => Self::Ssn,
            "uri" => Self::Uri,
            "uuid" => Self::Uuid,
            "uuid3" => Self::Uuid3,
            "uuid4" => Self::Uuid4,
            "uuid5" => Self::Uuid5,
            _ => return None,
        })
    }

    pub(crate) fn accepts(self, text: &str) -> bool {
        match self {
            Self::BsonObjectId => text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit()),
            Self::Byte => BYTE.is(text),
            Self::Cidr => cidr(text),
            Self::CreditCard => credit_card(text),
            Self::Date => date(text),
            Self::DateTime => date_time(text),
            Self::Duration => duration(text),
            Self::Email => email(text),
            Self::HexColor => HEX_COLOR.is(text),
            Self::Hostname => hostname(text),
            Self::Ipv4 => text.contains('.') && sloppy_ip(text).is_some(),
            Self::Ipv6 => text.contains(':') && text.parse::<Ipv6Addr>().is_ok(),
            Self::Isbn => isbn10(text) || isbn13(text),
            Self::Isbn10 => isbn10(text),
            Self::Isbn13 => isbn13(text),
            Self::LongName => text.len() <= 253 && text.split('.').all(name_segment),
            Self::Mac => mac(text),
            Self::Password => true,
            Self::RgbColor => RGB_COLOR.is(text),
            Self::ShortName => text.len() <= 63 && name_segment(text),
            Self::Ssn => text.len() == 11 && SSN.is(text),
            Self::Uri => uri(text),
            Self::Uuid => uuid(text, None),
            Self::Uuid3 => uuid(text, Some(('3', false))),
            Self::Uuid4 => uuid(text, Some(('4', true))),
            Self::Uuid5 => uuid(text, Some(('5', true))),
        }
    }
}

struct Known(LazyLock<Pattern>);

impl Known {
    fn is(&self, text: &str) -> bool {
        self.0.matches(text).unwrap_or(false)
    }
}

macro_rules! known {
    ($name:ident, $pattern:literal) => {
        static $name: Known = Known(LazyLock::new(|| Pattern::new($pattern.to_owned())));
    };
}

known!(BYTE, r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})$");
known!(HEX_COLOR, r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$");
known!(
    RGB_COLOR,
    r"^rgb\(\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*\)$"
);
known!(SSN, r"^\d{3}[- ]?\d{2}[- ]?\d{4}$");
known!(
    CREDIT_CARD,
    r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35\d{3})\d{11})$"
);
known!(TIME, r"^([0-9]{2}):([0-9]{2}):([0-9]{2})(\.[0-9]+)?(z|([+-][0-9]{2}:[0-9]{2}))$");

/// Go before 1.17 took leading zeros, and Kubernetes still does.
fn sloppy_ip(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || part.len() > 20 || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *octet = part
            .trim_start_matches('0')
            .parse()
            .or(Err(()))
            .or_else(|()| if part.bytes().all(|b| b == b'0') { Ok(0) } else { Err(()) })
            .ok()?;
    }
    parts.next().is_none().then(|| IpAddr::V4(Ipv4Addr::from(octets)))
}

fn cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let most = match sloppy_ip(address) {
        Some(IpAddr::V4(_)) => 32,
        Some(IpAddr::V6(_)) => 128,
        None => return false,
    };
    !length.is_empty()
        && length.bytes().all(|b| b.is_ascii_digit())
        && length.parse::<u32>().is_ok_and(|n| n <= most)
}

/// One label, or labels and a domain of letters. Symbols count as letters, as in an emoji domain.
fn hostname(text: &str) -> bool {
    let letter = |c: char| {
        if c.is_ascii() {
            c.is_ascii_alphanumeric() || "$+<=>^`|~".contains(c)
        } else {
            !c.is_control() && !c.is_whitespace()
        }
    };
    if text.len() > 255 || text.split('.').any(|label| label.len() > 63) {
        return false;
    }
    let Some((labels, domain)) = text.rsplit_once('.') else {
        // A dash only right after the first character.
        let mut rest = text.chars();
        let begins = rest.next().is_some_and(letter);
        let rest = rest.as_str();
        return begins && rest.strip_prefix('-').unwrap_or(rest).chars().all(letter);
    };
    let label = |label: &str| {
        label.starts_with(letter)
            && label.ends_with(letter)
            && label.chars().all(|c| letter(c) || c == '-')
    };
    labels.split('.').all(label)
        && domain.chars().count() >= 2
        && domain.chars().all(|c| c.is_ascii_alphabetic() || (!c.is_ascii() && c.is_alphabetic()))
}

fn date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

fn date_time(text: &str) -> bool {
    let lower = text.to_lowercase();
    let Some((day, time)) = lower.split_once('t') else { return false };
    if !date(day) || !TIME.is(time) {
        return false;
    }
    let part = |from: usize| time.get(from..from + 2).unwrap_or("99");
    part(0) <= "23" && part(3) <= "59" && part(6) <= "59"
}

/// A Go duration (`1h30m`, `-1.5s`), or a number and a unit in words (`3 days`).
fn duration(text: &str) -> bool {
    go_duration(text) || words_duration(text)
}

fn go_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, after) = rest.split_at(number);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let fits = digits.bytes().any(|b| b.is_ascii_digit())
            && digits.matches('.').count() <= 1
            && digits.split('.').next().is_none_or(|n| n.len() <= 19);
        if !fits || !matches!(unit, "ns" | "us" | "µs" | "μs" | "ms" | "s" | "m" | "h") {
            return false;
        }
        rest = after;
    }
    true
}

fn words_duration(text: &str) -> bool {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = text[digits..].trim().to_lowercase();
    let known = [
        "ns", "nano", "us", "µs", "micro", "ms", "milli", "s", "sec", "m", "min", "h", "hr",
        "hour", "d", "day", "w", "week", "wk",
    ];
    let long = ["nano", "micro", "milli", "sec", "min", "hour", "hr", "day", "week", "wk"];
    digits > 0
        && digits <= 18
        && (known.contains(&unit.as_str()) || long.iter().any(|l| unit.starts_with(l)))
}

fn email(text: &str) -> bool {
    // A bare address, or one in angle brackets after a name.
    let address = match (text.rfind('<'), text.ends_with('>')) {
        (Some(open), true) => &text[open + 1..text.len() - 1],
        (None, _) => text.trim(),
        _ => return false,
    };
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let atom =
        |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || !c.is_ascii();
    let dotted = |text: &str| {
        !text.is_empty() && text.split('.').all(|p| !p.is_empty() && p.chars().all(atom))
    };
    let quoted = local.len() >= 2 && local.starts_with('"') && local.ends_with('"');
    let literal = domain.starts_with('[') && domain.ends_with(']');
    (dotted(local) || quoted) && (dotted(domain) || literal)
}

/// Go's `url.ParseRequestURI`: an absolute URI or an absolute path.
fn uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return false;
    }
    let rest = if text.starts_with('/') || text == "*" {
        text
    } else {
        let Some((scheme, rest)) = text.split_once(':') else { return false };
        let mut bytes = scheme.bytes();
        let begins = bytes.next().is_some_and(|b| b.is_ascii_alphabetic());
        if !begins || !bytes.all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) {
            return false;
        }
        if let Some(authority) = rest.strip_prefix("//") {
            let host = authority.split(['/', '?']).next().unwrap_or_default();
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            if host.contains([' ', '<', '>', '"', '^', '`', '{', '|', '}', '\\']) {
                return false;
            }
            let after = host.rsplit_once(']').map_or(host, |(_, after)| after);
            if after
                .rsplit_once(':')
                .is_some_and(|(_, port)| !port.bytes().all(|b| b.is_ascii_digit()))
            {
                return false;
            }
        }
        rest
    };
    // Every percent sign begins an escape.
    let path = rest.split('?').next().unwrap_or_default();
    path.split('%')
        .skip(1)
        .all(|after| after.len() >= 2 && after.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit))
}

fn mac(text: &str) -> bool {
    let (separator, width) = match text.as_bytes().get(2) {
        Some(b':') => (':', 2),
        Some(b'-') => ('-', 2),
        _ => ('.', 4),
    };
    let parts: Vec<&str> = text.split(separator).collect();
    let bytes = parts.len() * width / 2;
    matches!(bytes, 6 | 8 | 20)
        && parts.iter().all(|p| p.len() == width && p.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Hexadecimal digits with optional dashes; `version` is the digit of the version and whether
/// the variant is checked.
fn uuid(text: &str, version: Option<(char, bool)>) -> bool {
    let mut digits = String::with_capacity(32);
    let mut rest = text;
    for (i, width) in [8usize, 4, 4, 4, 12].into_iter().enumerate() {
        if i > 0 {
            rest = rest.strip_prefix('-').unwrap_or(rest);
        }
        let Some(part) = rest.get(..width) else { return false };
        digits.push_str(part);
        rest = &rest[width..];
    }
    if !rest.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return false;
    }
    let Some((digit, variant)) = version else { return true };
    let at = |i: usize| digits.as_bytes()[i].to_ascii_lowercase() as char;
    at(12) == digit && (!variant || matches!(at(16), '8' | '9' | 'a' | 'b'))
}

fn digits_of(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace() && *c != '-').collect()
}

fn isbn10(text: &str) -> bool {
    let text = digits_of(text);
    let bytes = text.as_bytes();
    let shape = bytes.len() == 10
        && bytes[..9].iter().all(u8::is_ascii_digit)
        && (bytes[9].is_ascii_digit() || bytes[9] == b'X');
    let value = |b: &u8| if *b == b'X' { 10 } else { u32::from(b - b'0') };
    shape && (1..).zip(bytes).map(|(i, b)| i * value(b)).sum::<u32>().is_multiple_of(11)
}

fn isbn13(text: &str) -> bool {
    let text = digits_of(text);
    let bytes = text.as_bytes();
    if bytes.len() != 13 || !bytes.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let weighted = bytes.iter().enumerate().map(|(i, b)| {
        let digit = u32::from(b - b'0');
        if i % 2 == 0 { digit } else { 3 * digit }
    });
    weighted.sum::<u32>().is_multiple_of(10)
}

fn credit_card(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    if !CREDIT_CARD.is(&digits) {
        return false;
    }
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(i, b)| {
            let digit = u32::from(b - b'0') * if i % 2 == 0 { 1 } else { 2 };
            digit / 10 + digit % 10
        })
        .sum();
    sum.is_multiple_of(10)
}

fn name_segment(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !text.is_empty()
        && text.bytes().all(|b| fits(b) || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A float as Go's `%v` prints it.
pub(crate) fn go_float(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return if value.is_nan() { "NaN".to_owned() } else { format!("{value}") };
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_take_what_go_takes() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("ipv4", &["10.0.0.1", "010.0.0.001", "0.0.0.0"], &["10.0.0", "256.1.1.1", "::1"]),
            ("ipv6", &["::1", "fd00::1"], &["10.0.0.1", "fd00:::1"]),
            ("cidr", &["10.0.0.0/8", "fd00::/64"], &["10.0.0.0", "10.0.0.0/33", "x/8"]),
            ("date", &["2024-02-29"], &["2023-02-29", "2024-2-3"]),
            (
                "date-time",
                &["2024-01-01T00:00:00Z", "2024-01-01t01:02:03.5+01:00"],
                &["2024-01-01", "2024-01-01T25:00:00Z", "2024-01-01 00:00:00Z"],
            ),
            ("duration", &["1h30m", "-1.5s", "0", "3 days", "10ms"], &["1", "h", "1x", ""]),
            ("email", &["a@b.c", "N <a@b>"], &["a", "@b", "a@"]),
            ("hostname", &["example.com", "a-b.example.org"], &["a_b.c", "-a.bc", ""]),
            ("uri", &["http://a/b?c", "/x", "urn:a:b"], &["a/b", "", "http://a:b/"]),
            ("mac", &["01:23:45:67:89:ab", "0123.4567.89ab"], &["01:23", "zz:23:45:67:89:ab"]),
            ("uuid", &["123e4567-e89b-12d3-a456-426614174000"], &["123e4567", "é"]),
            (
                "uuid4",
                &["123e4567-e89b-42d3-a456-426614174000"],
                &["123e4567-e89b-12d3-a456-426614174000"],
            ),
            ("byte", &["aGk=", "aGkx"], &["a", "", "aGk"]),
            ("isbn10", &["0321751043"], &["0321751044"]),
            ("isbn13", &["978-0321751041"], &["978-0321751042"]),
            ("creditcard", &["4111 1111 1111 1111"], &["4111 1111 1111 1112"]),
            ("hexcolor", &["#fff", "00ff00"], &["#ff"]),
            ("k8s-short-name", &["a-1"], &["A", "-a", "a.b"]),
            ("k8s-long-name", &["a-1.b"], &["a..b"]),
        ];
        for (name, good, bad) in cases {
            let format = Format::find(name).unwrap();
            for text in *good {
                assert!(format.accepts(text), "{name} {text}");
            }
            for text in *bad {
                assert!(!format.accepts(text), "{name} {text}");
            }
        }
        assert_eq!(Format::find("int32"), None);
    }

    #[test]
    fn floats_read_as_in_go() {
        for (value, text) in [
            (1.5, "1.5"),
            (0.0, "0"),
            (1e21, "1e+21"),
            (2.5e-7, "2.5e-07"),
            (100.0, "100"),
            (123456789.0, "1.23456789e+08"),
        ] {
            assert_eq!(go_float(value), text);
        }
    }
}
