//! Names, parsed at the edge.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, sync::Arc};

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} '{value}': {rule}")]
pub struct NameError {
    /// What the name was for, e.g. `node name`.
    pub what: &'static str,
    /// The refused text.
    pub value: String,
    /// The rule that it breaks, in words.
    pub rule: &'static str,
}

/// RFC 1123 label: at most 63 of `a-z`, `0-9` and `-`, not beginning or ending with `-`.
fn is_dns_label(s: &str) -> bool {
    !s.is_empty()
        && s.len() <= 63
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !s.starts_with('-')
        && !s.ends_with('-')
}

/// RFC 1123 subdomain: labels joined by dots, at most 253 characters.
fn is_dns_subdomain(s: &str) -> bool {
    s.len() <= 253 && s.split('.').all(is_dns_label)
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(s: &str) -> Result<Self, NameError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(s) {
                    Ok(Self(s.into()))
                } else {
                    Err(NameError { what: $what, value: s.to_owned(), rule: $rule })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(s: String) -> Result<Self, NameError> {
                s.parse()
            }
        }

        impl From<$name> for String {
            fn from(n: $name) -> String {
                n.0.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// Name of a Node: an RFC 1123 subdomain (Kubernetes object names).
    NodeName,
    "node name",
    "use lower-case letters, digits, '-' and '.', at most 253 characters",
    is_dns_subdomain
);

name_type!(
    /// Name of a lab: an RFC 1123 label of at most 20 characters. It stands inside names of
    /// namespaces, cgroups and paths, so it has no dots and stays short.
    LabName,
    "lab name",
    "use lower-case letters, digits and '-', at most 20 characters",
    |s| s.len() <= 20 && is_dns_label(s)
);

/// Namespace and name of an object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NamespacedName {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl NamespacedName {
    /// Joins a namespace and a name that the API already validated.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lab_names_have_no_dots_and_are_short() {
        for bad in ["", "a.b", "A", "-a", "a-", "a_b", "aaaaaaaaaaaaaaaaaaaaa"] {
            assert!(bad.parse::<LabName>().is_err(), "{bad}");
        }
        assert_eq!("lab-2".parse::<LabName>().expect("valid").as_str(), "lab-2");
    }

    #[test]
    fn node_names_may_have_dots() {
        assert!("node1.example".parse::<NodeName>().is_ok());
        assert!("node1..example".parse::<NodeName>().is_err());
    }
}
