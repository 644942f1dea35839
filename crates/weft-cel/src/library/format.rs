//! Named formats: what `format.dns1123Label().validate(x)` says.

use super::{bytes, time, url};

/// A named format.
#[derive(Debug)]
pub struct Format {
    pub(crate) name: &'static str,
    /// Length of the regular expression that cost is reckoned with.
    pub(crate) regex_size: u64,
    /// What is wrong with a text; nothing where all is well.
    pub(crate) validate: fn(&str) -> Vec<String>,
}

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// Every format by the name of its function.
pub(crate) static FORMATS: [(&str, Format); 13] = [
    ("dns1123Label", Format { name: "DNS1123Label", regex_size: 30, validate: dns_label }),
    ("dns1123Subdomain", Format { name: "DNS1123Subdomain", regex_size: 60, validate: subdomain }),
    ("dns1035Label", Format { name: "DNS1035Label", regex_size: 30, validate: dns_1035 }),
    ("qualifiedName", Format { name: "QualifiedName", regex_size: 60, validate: qualified_name }),
    (
        "dns1123LabelPrefix",
        Format {
            name: "DNS1123LabelPrefix",
            regex_size: 30,
            validate: |s| dns_label(&mask_dash(s)),
        },
    ),
    (
        "dns1123SubdomainPrefix",
        Format {
            name: "DNS1123SubdomainPrefix",
            regex_size: 60,
            validate: |s| subdomain(&mask_dash(s)),
        },
    ),
    (
        "dns1035LabelPrefix",
        Format {
            name: "DNS1035LabelPrefix",
            regex_size: 30,
            validate: |s| dns_1035(&mask_dash(s)),
        },
    ),
    ("labelValue", Format { name: "LabelValue", regex_size: 40, validate: label_value }),
    ("uri", Format { name: "URI", regex_size: 1103, validate: uri }),
    ("uuid", Format { name: "uuid", regex_size: 103, validate: uuid }),
    ("byte", Format { name: "byte", regex_size: 84, validate: byte }),
    ("date", Format { name: "date", regex_size: 135, validate: date }),
    ("datetime", Format { name: "datetime", regex_size: 135, validate: datetime }),
];

/// The format that a function or `format.named` calls `name`.
pub(crate) fn named(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|(n, _)| *n == name).map(|(_, format)| format)
}

/// A prefix may end in a dash: something will follow it.
fn mask_dash(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(head) if text.len() > 1 => format!("{head}a"),
        _ => text.to_owned(),
    }
}

fn too_long(text: &str, max: usize, out: &mut Vec<String>) {
    if text.len() > max {
        out.push(format!("must be no more than {max} bytes"));
    }
}

fn is_label(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    edge(text.bytes().next())
        && edge(text.bytes().next_back())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn dns_label(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    too_long(text, 63, &mut out);
    if !is_label(text) {
        if subdomain(text).is_empty() && text.contains('.') {
            out.push("must not contain dots".to_owned());
        } else {
            out.push(LABEL.to_owned());
        }
    }
    out
}

fn subdomain(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    too_long(text, 253, &mut out);
    if !text.split('.').all(is_label) {
        out.push(SUBDOMAIN.to_owned());
    }
    out
}

fn dns_1035(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    too_long(text, 63, &mut out);
    if !is_label(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        out.push(LABEL_1035.to_owned());
    }
    out
}

fn is_name(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    edge(text.bytes().next())
        && edge(text.bytes().next_back())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn qualified_name(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                out.push("prefix part must be non-empty".to_owned());
            } else {
                out.extend(subdomain(prefix).into_iter().map(|m| format!("prefix part {m}")));
            }
            name
        }
        _ => {
            let rule = QUALIFIED.strip_prefix("name part ").unwrap_or(QUALIFIED);
            return vec![format!(
                "a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                rule
            )];
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        out.push("name part must be no more than 63 bytes".to_owned());
    }
    if !is_name(name) {
        out.push(QUALIFIED.to_owned());
    }
    out
}

fn label_value(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    too_long(text, 63, &mut out);
    if !text.is_empty() && !is_name(text) {
        out.push(LABEL_VALUE.to_owned());
    }
    out
}

fn uri(text: &str) -> Vec<String> {
    url::request(text).err().map(|why| format!("parse {text:?}: {why}")).into_iter().collect()
}

fn one(fine: bool, message: &str) -> Vec<String> {
    if fine { Vec::new() } else { vec![message.to_owned()] }
}

fn uuid(text: &str) -> Vec<String> {
    let hex: String = text.split('-').collect();
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    let fine = hex.bytes().all(|b| b.is_ascii_hexdigit())
        && (groups == [8, 4, 4, 4, 12] || (groups.iter().sum::<usize>() == 32));
    one(fine, "does not match the UUID format")
}

fn byte(text: &str) -> Vec<String> {
    one(!text.is_empty() && bytes::decode_base64(text).is_some(), "invalid base64")
}

fn date(text: &str) -> Vec<String> {
    one(time::is_date(text), "invalid date")
}

fn datetime(text: &str) -> Vec<String> {
    one(time::is_datetime(text), "invalid datetime")
}

/// `f.validate(text)`: nothing, or a list of what is wrong.
pub(crate) fn check(format: &Format, text: &str) -> Option<Vec<String>> {
    let problems = (format.validate)(text);
    (!problems.is_empty()).then_some(problems)
}
