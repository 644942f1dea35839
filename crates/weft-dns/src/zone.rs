//! The cluster's domain.

use crate::wire::name_to_wire;
use std::{fmt, str::FromStr};

/// Why a cluster domain was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid cluster domain '{value}': {rule}")]
pub struct ZoneError {
    /// The refused text.
    pub value: String,
    /// The rule that it breaks, in words.
    pub rule: &'static str,
}

/// The domain under which the cluster's names live, e.g. `cluster.local`; lower case, without
/// the final dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    text: Box<str>,
    wire: Box<[u8]>,
    labels: usize,
}

/// Longest cluster domain in characters. Leaves room for
/// `<hostname 63>.<service 63>.<namespace 63>.svc.` within the 253 of a name.
const DOMAIN_LEN_MAX: usize = 253 - 3 * 64 - 4;

impl Zone {
    /// Parses a domain such as `cluster.local`; a final dot is accepted.
    pub fn new(domain: &str) -> Result<Self, ZoneError> {
        let refuse = |rule| Err(ZoneError { value: domain.to_owned(), rule });
        let text = domain.strip_suffix('.').unwrap_or(domain).to_ascii_lowercase();
        if text.len() > DOMAIN_LEN_MAX {
            return refuse("use at most 57 characters, so that every Service has a name");
        }
        let good = |l: &str| {
            !l.is_empty()
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        let labels = text.split('.').filter(|l| good(l)).count();
        match name_to_wire(&text) {
            Some(wire) if labels == text.split('.').count() => {
                Ok(Self { text: text.into(), wire, labels })
            }
            _ => refuse("use labels of letters, digits and '-', joined by dots"),
        }
    }

    /// The domain: lower case, no final dot.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The domain on the wire, with the root.
    pub(crate) fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// How many labels it has.
    pub(crate) fn labels(&self) -> usize {
        self.labels
    }
}

impl FromStr for Zone {
    type Err = ZoneError;
    fn from_str(s: &str) -> Result<Self, ZoneError> {
        Self::new(s)
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains() {
        let zone = Zone::new("Cluster.Local.").expect("valid");
        assert_eq!((zone.as_str(), zone.labels()), ("cluster.local", 2));
        assert_eq!(zone.wire(), b"\x07cluster\x05local\0");
        let long = "a".repeat(58);
        for bad in ["", ".", "a..b", "-a", "a-", "a_b", "a b", "\u{e9}", long.as_str(), "a.b.."] {
            assert!(Zone::new(bad).is_err(), "{bad}");
        }
    }
}
