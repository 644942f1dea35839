//! Percent-encoding and query parameters.

/// Query parameters in order. There may be several of one name (`command=ls&command=-l`).
#[derive(Clone, Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    pub(crate) fn parse(query: &str) -> Self {
        Self(
            query
                .split('&')
                .filter(|p| !p.is_empty())
                .map(|p| {
                    let (k, v) = p.split_once('=').unwrap_or((p, ""));
                    (decode(k, true), decode(v, true))
                })
                .collect(),
        )
    }

    /// The first value of that name, unless it is empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    /// All values of that name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// A boolean as Go's query decoder reads it: everything but `false` and `0` is true.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| !matches!(v.as_str(), "false" | "0"))
    }
}

/// Decodes percent-encoding; bytes that are no UTF-8 become U+FFFD.
pub(crate) fn decode(s: &str, plus_is_space: bool) -> String {
    if !s.contains(['%', '+']) {
        return s.to_owned();
    }
    let hex = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    let bytes = s.as_bytes();
    let (mut out, mut i) = (Vec::with_capacity(bytes.len()), 0);
    while i < bytes.len() {
        let pair = match (bytes.get(i + 1), bytes.get(i + 2)) {
            (Some(&h), Some(&l)) => hex(h).zip(hex(l)),
            _ => None,
        };
        match (bytes[i], pair) {
            (b'%', Some((h, l))) => {
                out.push(h << 4 | l);
                i += 2;
            }
            (b'+', _) if plus_is_space => out.push(b' '),
            (b, _) => out.push(b),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Encodes one value for a query.
pub(crate) fn encode(s: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(s.len());
    for b in s.bytes() {
        if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
            out.push(b as char);
        } else {
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn query_is_decoded() {
        let p =
            Params::parse("watch=true&labelSelector=a%3Db%2Cc&x=1+2&empty=&command=a&f=false&%zz");
        assert_eq!(p.flag("watch"), Some(true));
        assert_eq!(p.get("labelSelector"), Some("a=b,c"));
        assert_eq!(p.get("x"), Some("1 2"));
        assert_eq!(p.get("empty"), None);
        assert_eq!((p.flag("f"), p.flag("no")), (Some(false), None));
    }

    proptest! {
        #[test]
        fn encoding_round_trips(s in ".{0,40}") {
            prop_assert_eq!(decode(&encode(&s), true), s);
        }

        #[test]
        fn decoding_never_panics(s in ".{0,40}") {
            decode(&s, true);
        }
    }
}
