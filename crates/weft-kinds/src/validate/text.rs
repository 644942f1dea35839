//! What names, keys and addresses may look like; each function returns what is wrong.

use std::net::IpAddr;

use crate::address;
pub(super) use crate::address::{legacy_cidr as cidr, legacy_ip as ip};

type Messages = Vec<String>;

fn too_long(most: usize) -> String {
    format!("must be no more than {most} characters")
}

fn too_many_bytes(most: usize) -> String {
    format!("must be no more than {most} bytes")
}

fn pattern(text: &str, regex: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{text} (e.g. {}regex used for validation is '{regex}')", examples.join(" or "))
}

fn lower_or_digit(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`
fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(a), Some(z)) if lower_or_digit(*a) && lower_or_digit(*z))
        && bytes.iter().all(|b| lower_or_digit(*b) || *b == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

const SUBDOMAIN_REGEX: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";

/// RFC 1123 label.
pub(super) fn label(text: &str) -> Messages {
    let mut messages = Vec::new();
    if text.len() > 63 {
        messages.push(too_long(63));
    }
    if is_label(text) {
        return messages;
    }
    messages.push(if is_subdomain(text) {
        "must not contain dots".to_owned()
    } else {
        pattern(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or \
             '-', and must start and end with an alphanumeric character",
            "[a-z0-9]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "123-abc"],
        )
    });
    messages
}

/// RFC 1123 subdomain.
pub(super) fn subdomain(text: &str) -> Messages {
    let mut messages = Vec::new();
    if text.len() > 253 {
        messages.push(too_long(253));
    }
    if !is_subdomain(text) {
        messages.push(pattern(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
             '-' or '.', and must start and end with an alphanumeric character",
            SUBDOMAIN_REGEX,
            &["example.com"],
        ));
    }
    messages
}

/// `*.` and a subdomain.
pub(super) fn wildcard(text: &str) -> Messages {
    let mut messages = Vec::new();
    if text.len() > 253 {
        messages.push(too_long(253));
    }
    if !text.strip_prefix("*.").is_some_and(is_subdomain) {
        messages.push(pattern(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS \
             subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and \
             end with an alphanumeric character",
            &format!(r"\*\.{SUBDOMAIN_REGEX}"),
            &["*.example.com"],
        ));
    }
    messages
}

/// RFC 1035 label.
pub(super) fn label_1035(text: &str) -> Messages {
    let mut messages = Vec::new();
    if text.len() > 63 {
        messages.push(too_long(63));
    }
    if !is_label(text) || text.as_bytes().first().is_some_and(u8::is_ascii_digit) {
        messages.push(pattern(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start \
             with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    messages
}

/// `[A-Za-z0-9]` at both ends, `-_.` between.
fn is_name_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()),
             (Some(a), Some(z)) if a.is_ascii_alphanumeric() && z.is_ascii_alphanumeric())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

/// A label's value.
pub(super) fn label_value(text: &str) -> Messages {
    let mut messages = Vec::new();
    if text.len() > 63 {
        messages.push(too_many_bytes(63));
    }
    if !text.is_empty() && !is_name_part(text) {
        messages.push(pattern(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', \
             '_' or '.', and must start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    messages
}

/// A label's key: an optional subdomain, a slash and a name.
pub(super) fn qualified_name(text: &str) -> Messages {
    const REGEX: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
    const TEXT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must \
                        start and end with an alphanumeric character";
    const EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];
    let mut messages = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                messages.push("prefix part must be non-empty".to_owned());
            } else {
                messages.extend(subdomain(prefix).into_iter().map(|m| format!("prefix part {m}")));
            }
            name
        }
        _ => {
            let text = pattern(&format!("a valid label key {TEXT}"), REGEX, EXAMPLES);
            messages.push(format!(
                "{text} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ));
            return messages;
        }
    };
    if name.is_empty() {
        messages.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        messages.push(format!("name part {}", too_many_bytes(63)));
    }
    if !is_name_part(name) {
        messages.push(pattern(&format!("name part {TEXT}"), REGEX, EXAMPLES));
    }
    messages
}

/// A name in a URL's path (RBAC).
pub(super) fn path_segment(text: &str) -> Messages {
    if matches!(text, "." | "..") {
        return vec![format!("may not be '{text}'")];
    }
    let found = ['/', '%'].into_iter().filter(|c| text.contains(*c));
    found.map(|c| format!("may not contain '{c}'")).collect()
}

/// The path of a domain-prefixed path.
pub(super) fn http_path(text: &str) -> Messages {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    if !text.is_empty() && text.bytes().all(known) {
        return Vec::new();
    }
    const REGEX: &str = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+";
    vec![format!("Invalid path (regex used for validation is '{REGEX}')")]
}

pub(super) fn port_number(number: i64) -> Messages {
    if (1..=65535).contains(&number) {
        return Vec::new();
    }
    vec!["must be between 1 and 65535, inclusive".to_owned()]
}

/// IANA service name (RFC 6335).
pub(super) fn port_name(text: &str) -> Messages {
    let mut messages = Vec::new();
    let bytes = text.as_bytes();
    let mut check = |wrong: bool, message: &str| {
        if wrong {
            messages.push(message.to_owned());
        }
    };
    check(bytes.len() > 15, "must be no more than 15 characters");
    check(
        bytes.is_empty() || !bytes.iter().all(|b| lower_or_digit(*b) || *b == b'-'),
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
    );
    check(!bytes.iter().any(u8::is_ascii_lowercase), "must contain at least one letter (a-z)");
    check(text.contains("--"), "must not contain consecutive hyphens");
    check(text.starts_with('-') || text.ends_with('-'), "must not begin or end with a hyphen");
    messages
}

/// Key of a ConfigMap or Secret.
pub(super) fn config_key(text: &str) -> Messages {
    let mut messages = Vec::new();
    if text.len() > 253 {
        messages.push(too_long(253));
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        messages.push(pattern(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match text {
        "." | ".." => messages.push(format!("must not be '{text}'")),
        _ if text.starts_with("..") => messages.push("must not start with '..'".to_owned()),
        _ => {}
    }
    messages
}

/// Name of an environment variable, by the relaxed rule of 1.34.
pub(super) fn env_name(text: &str) -> Messages {
    if text.chars().all(|c| (' '..='~').contains(&c) && c != '=') {
        return Vec::new();
    }
    vec![
        "a valid environment variable name must consist only of printable ASCII characters \
         other than '='"
            .to_owned(),
    ]
}

/// Name of an HTTP header.
pub(super) fn header_name(text: &str) -> Messages {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    vec![pattern(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// A count or a percentage such as `25%`.
pub(super) fn percent(text: &str) -> Messages {
    let digits = text.strip_suffix('%').unwrap_or("");
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    vec![pattern(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    )]
}

/// An address that may be an endpoint: none that means this machine, this link or any.
pub(super) fn endpoint_ip(text: &str) -> Messages {
    let Some(ip) = address::parse_ip(text) else {
        return vec!["must be a valid IP address".to_owned()];
    };
    let (link_local, link_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    let mut messages = Vec::new();
    let mut check = |wrong: bool, message: String| {
        if wrong {
            messages.push(message);
        }
    };
    check(ip.is_unspecified(), format!("may not be unspecified ({text})"));
    check(ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned());
    check(link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned());
    check(
        link_multicast,
        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned(),
    );
    messages
}
