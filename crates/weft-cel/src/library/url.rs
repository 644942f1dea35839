//! URLs as Go's `net/url` takes them apart.

use crate::error::EvalError;
use std::fmt::Write;

/// A URL's parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub(crate) scheme: String,
    /// `user:password`, as written.
    user: Option<String>,
    /// With port and brackets.
    pub(crate) host: String,
    /// Rootless rest of `mailto:a@b`.
    opaque: String,
    /// Percent-encoded.
    pub(crate) path: String,
    query: Option<String>,
    fragment: Option<String>,
}

/// What a part may hold without percent-encoding.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Path,
    Host,
    Query,
    Fragment,
}

/// Parses what the format `uri` takes: an absolute URL or an absolute path. The fragment, if
/// any, is cut off for that check, and kept.
pub(crate) fn parse(text: &str) -> Result<Url, EvalError> {
    let fail = |why: String| {
        EvalError::text(format!(
            "URL parse error during conversion from string: parse {text:?}: {why}"
        ))
    };
    request(text).map_err(&fail)?;
    let (rest, fragment) = match text.split_once('#') {
        Some((rest, fragment)) => (rest, Some(fragment)),
        None => (text, None),
    };
    let mut url = reference(rest, false).map_err(&fail)?;
    if let Some(fragment) = fragment {
        unescape(fragment, Part::Fragment).map_err(&fail)?;
        url.fragment = Some(fragment.to_owned());
    }
    Ok(url)
}

/// Checks a URL as it stands in a request; the reason where it is none.
pub(crate) fn request(text: &str) -> Result<Url, String> {
    reference(text, true)
}

fn reference(text: &str, request: bool) -> Result<Url, String> {
    if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    if text.is_empty() && request {
        return Err("empty url".to_owned());
    }
    let mut url = Url {
        scheme: String::new(),
        user: None,
        host: String::new(),
        opaque: String::new(),
        path: String::new(),
        query: None,
        fragment: None,
    };
    if text == "*" {
        url.path = "*".to_owned();
        return Ok(url);
    }
    let (scheme, rest) = scheme(text)?;
    url.scheme = scheme.to_ascii_lowercase();
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, Some(query.to_owned())),
        None => (rest, None),
    };
    url.query = query;
    let mut path = rest;
    if !rest.starts_with('/') {
        if !url.scheme.is_empty() {
            url.opaque = rest.to_owned();
            return Ok(url);
        }
        if request {
            return Err("invalid URI for request".to_owned());
        }
        let first = rest.split('/').next().unwrap_or_default();
        if first.contains(':') {
            return Err("first path segment in URL cannot contain colon".to_owned());
        }
    }
    let authority = !url.scheme.is_empty() || (!request && !rest.starts_with("///"));
    if authority && let Some(after) = rest.strip_prefix("//") {
        let end = after.find('/').unwrap_or(after.len());
        (url.user, url.host) = parse_authority(&after[..end])?;
        path = &after[end..];
    }
    let decoded = unescape(path, Part::Path)?;
    url.path = if valid_encoded_path(path) { path.to_owned() } else { escape_path(&decoded) };
    Ok(url)
}

fn scheme(text: &str) -> Result<(&str, &str), String> {
    for (i, b) in text.bytes().enumerate() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if i > 0 => {}
            b':' if i == 0 => return Err("missing protocol scheme".to_owned()),
            b':' => return Ok((&text[..i], &text[i + 1..])),
            _ => return Ok(("", text)),
        }
    }
    Ok(("", text))
}

fn parse_authority(text: &str) -> Result<(Option<String>, String), String> {
    let (user, host) = match text.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, text),
    };
    let host = parse_host(host)?;
    if let Some(user) = user {
        let fine = |b: u8| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b);
        if !user.bytes().all(fine) {
            return Err("net/url: invalid userinfo".to_owned());
        }
        unescape(user, Part::Fragment)?;
    }
    Ok((user.map(str::to_owned), host))
}

fn parse_host(host: &str) -> Result<String, String> {
    let port = if host.starts_with('[') {
        let end = host.rfind(']').ok_or("missing ']' in host")?;
        &host[end + 1..]
    } else {
        host.rfind(':').map_or("", |at| &host[at..])
    };
    let digits = port.strip_prefix(':');
    if !port.is_empty() && !digits.is_some_and(|d| d.bytes().all(|b| b.is_ascii_digit())) {
        return Err(format!("invalid port {port:?} after host"));
    }
    unescape(host, Part::Host)
}

/// Decodes percent-encoding; an error where it is none or where the part may not hold it.
fn unescape(text: &str, part: Part) -> Result<String, String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let hex =
                    text.get(at + 1..at + 3).filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit()));
                let Some(hex) = hex else {
                    let mut end = (at + 3).min(bytes.len());
                    while !text.is_char_boundary(end) {
                        end += 1;
                    }
                    return Err(format!("invalid URL escape {:?}", &text[at..end]));
                };
                let value = u8::from_str_radix(hex, 16).unwrap_or_default();
                // In a host only what is not ASCII may be encoded; a zone's `%25` aside.
                if part == Part::Host && value < 0x80 && hex != "25" {
                    return Err(format!("invalid URL escape {:?}", &text[at..at + 3]));
                }
                out.push(value);
                at += 3;
            }
            b'+' if part == Part::Query => {
                out.push(b' ');
                at += 1;
            }
            b if part == Part::Host
                && b < 0x80
                && !b.is_ascii_alphanumeric()
                && !b"-_.~!$&'()*+,;=:[]<>\"".contains(&b) =>
            {
                return Err(format!(
                    "invalid character {:?} in host name",
                    (b as char).to_string()
                ));
            }
            b => {
                out.push(b);
                at += 1;
            }
        }
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn valid_encoded_path(path: &str) -> bool {
    path.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:@[]%/".contains(&b))
}

fn escape_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for b in path.bytes() {
        if b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&b) {
            out.push(b as char);
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

impl Url {
    /// The host without port and brackets.
    pub(crate) fn hostname(&self) -> &str {
        let host = match self.port() {
            "" => self.host.strip_suffix(':').unwrap_or(&self.host),
            port => &self.host[..self.host.len() - port.len() - 1],
        };
        host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host)
    }

    /// The port, or nothing.
    pub(crate) fn port(&self) -> &str {
        match self.host.rfind(':') {
            Some(at) if !self.host[at..].contains(']') => &self.host[at + 1..],
            _ => "",
        }
    }

    /// The query's parameters in order; what cannot be decoded is left out.
    pub(crate) fn query(&self) -> Vec<(String, String)> {
        let Some(query) = &self.query else { return Vec::new() };
        let pairs = query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
        pairs
            .filter_map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                Some((unescape(key, Part::Query).ok()?, unescape(value, Part::Query).ok()?))
            })
            .collect()
    }
}
