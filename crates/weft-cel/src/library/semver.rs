//! Semantic versions, version 2.0.0.

use crate::error::EvalError;
use std::cmp::Ordering;

/// A version.
#[derive(Clone, Debug)]
pub struct Semver {
    pub(crate) core: [u64; 3],
    /// Identifiers of the pre-release.
    pre: Vec<String>,
}

impl Semver {
    /// Order of precedence; build metadata has no part in it.
    pub(crate) fn cmp(&self, other: &Semver) -> Ordering {
        self.core.cmp(&other.core).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                for (a, b) in self.pre.iter().zip(&other.pre) {
                    let order = match (a.parse::<u64>(), b.parse::<u64>()) {
                        (Ok(a), Ok(b)) => a.cmp(&b),
                        (Ok(_), Err(_)) => Ordering::Less,
                        (Err(_), Ok(_)) => Ordering::Greater,
                        (Err(_), Err(_)) => a.cmp(b),
                    };
                    if order != Ordering::Equal {
                        return order;
                    }
                }
                self.pre.len().cmp(&other.pre.len())
            }
        })
    }
}

/// Parses a version; `normalize` adds what is missing: `v1.02` is 1.2.0.
pub(crate) fn parse(text: &str, normalize: bool) -> Result<Semver, EvalError> {
    if normalize {
        return strict(&normalized(text)?);
    }
    strict(text)
}

fn strict(text: &str) -> Result<Semver, EvalError> {
    let err = |message: &str| Err(EvalError::text(message.to_owned()));
    if text.is_empty() {
        return err("Version string empty");
    }
    let parts: Vec<&str> = text.splitn(3, '.').collect();
    let [major, minor, rest] = parts[..] else {
        return err("No Major.Minor.Patch elements found");
    };
    let (rest, build) = match rest.split_once('+') {
        Some((rest, build)) => (rest, Some(build)),
        None => (rest, None),
    };
    let (patch, pre) = match rest.split_once('-') {
        Some((patch, pre)) => (patch, Some(pre)),
        None => (rest, None),
    };
    let mut core = [0; 3];
    for (i, (name, part)) in
        [("major", major), ("minor", minor), ("patch", patch)].into_iter().enumerate()
    {
        let capital = ["Major", "Minor", "Patch"][i];
        if !part.bytes().all(|b| b.is_ascii_digit()) || (part.is_empty() && i < 2) {
            return err(&format!("Invalid character(s) found in {name} number {part:?}"));
        }
        if part.len() > 1 && part.starts_with('0') {
            return err(&format!("{capital} number must not contain leading zeroes {part:?}"));
        }
        core[i] = match part.parse() {
            Ok(number) => number,
            Err(_) if part.is_empty() => {
                return err("strconv.ParseUint: parsing \"\": invalid syntax");
            }
            Err(_) => {
                return err(&format!("strconv.ParseUint: parsing {part:?}: value out of range"));
            }
        };
    }
    let allowed = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let pre: Vec<String> = pre.map_or(Vec::new(), |p| p.split('.').map(str::to_owned).collect());
    for part in &pre {
        if part.is_empty() {
            return err("Prerelease is empty");
        }
        if part.bytes().all(|b| b.is_ascii_digit()) {
            if part.len() > 1 && part.starts_with('0') {
                let message = "Numeric PreRelease version must not contain leading zeroes";
                return err(&format!("{message} {part:?}"));
            }
        } else if !allowed(part) {
            return err(&format!("Invalid character(s) found in prerelease {part:?}"));
        }
    }
    for part in build.into_iter().flat_map(|b| b.split('.')) {
        if part.is_empty() {
            return err("Build meta data is empty");
        }
        if !allowed(part) {
            return err(&format!("Invalid character(s) found in build meta data {part:?}"));
        }
    }
    Ok(Semver { core, pre })
}

fn normalized(text: &str) -> Result<String, EvalError> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts: Vec<String> = text
        .splitn(3, '.')
        .map(|part| {
            if part.len() <= 1 {
                return part.to_owned();
            }
            let short = part.trim_start_matches('0');
            if short.starts_with(|c: char| c.is_ascii_digit()) {
                short.to_owned()
            } else {
                format!("0{short}")
            }
        })
        .collect();
    if parts.len() < 3 {
        if parts.last().is_some_and(|p| p.contains(['+', '-'])) {
            return Err(EvalError::text("short version cannot contain PreRelease/Build meta data"));
        }
        parts.resize(3, "0".to_owned());
    }
    Ok(parts.join("."))
}
