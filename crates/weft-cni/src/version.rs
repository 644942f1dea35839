//! CNI versions.

use std::{fmt, str::FromStr};

/// The newest version that is spoken.
pub const CURRENT: Version = Version { major: 1, minor: 1, patch: 0 };

/// The versions that are spoken, oldest first.
pub const SUPPORTED: [&str; 3] = ["0.4.0", "1.0.0", "1.1.0"];

/// A CNI version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    /// The oldest version that is spoken.
    pub const OLDEST: Self = Self { major: 0, minor: 4, patch: 0 };

    /// A version by its numbers.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// Whether it is one of [`SUPPORTED`].
    pub fn is_supported(self) -> bool {
        SUPPORTED.contains(&self.to_string().as_str())
    }
}

impl FromStr for Version {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        let mut parts = s.split('.').map(|p| p.parse::<u32>().map_err(drop));
        let mut next = || parts.next().unwrap_or(Err(()));
        let version = Self { major: next()?, minor: next()?, patch: next()? };
        if parts.next().is_some() { Err(()) } else { Ok(version) }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}
