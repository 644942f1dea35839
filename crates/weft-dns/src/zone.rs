//! The cluster's domain.

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
    text: String,
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
                && l.len() <= 63
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        if !text.split('.').all(good) {
            return refuse("use labels of letters, digits and '-', joined by dots");
        }
        Ok(Self { text })
    }

    /// The domain: lower case, no final dot.
    pub fn as_str(&self) -> &str {
        &self.text
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
