//! Questions that cannot be answered.

use weft_model::PortError;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// An object that is not there.
    #[error("there is no {kind} {name}{}", also(.near))]
    Missing {
        /// `pod`, `Service`, `node`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Names that are near, best first.
        near: Vec<String>,
    },
    /// A pod that has no address yet.
    #[error("pod {name} has no address ({phase})")]
    NoAddress {
        /// The pod.
        name: String,
        /// Its phase.
        phase: String,
    },
    /// A Service without such a port.
    #[error("Service {service} has no port {port}: it has {has}")]
    NoPort {
        /// The Service.
        service: String,
        /// What was asked for.
        port: String,
        /// Its ports.
        has: String,
    },
    /// A port that is neither a number nor usable as a name here.
    #[error("'{0}' is no port here: names of ports belong to Services, use a number")]
    PortName(String),
    /// A number that is no port, or an unknown protocol.
    #[error(transparent)]
    Port(#[from] PortError),
    /// An end that cannot be read.
    #[error("{what} '{text}': {rule}")]
    Syntax {
        /// `SRC` or `DST`.
        what: &'static str,
        /// The text.
        text: String,
        /// What is expected.
        rule: &'static str,
    },
}

fn also(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("; near: {}", names.join(", ")) }
}

/// Most names that are shown as near.
const NEAR_MAX: usize = 4;

/// Those of `all` that are near to `wanted` (`namespace/name`, or a name): the same name in
/// another namespace first, then few changed letters or a common beginning.
pub(crate) fn nearest<'a>(wanted: &str, all: impl Iterator<Item = String> + 'a) -> Vec<String> {
    let last = |text: &str| text.rsplit('/').next().unwrap_or_default().to_owned();
    let name = last(wanted);
    let mut found: Vec<(usize, String)> = all
        .filter_map(|other| {
            let of_other = last(&other);
            let mut cost = distance(&name, &of_other);
            let shorter = name.len().min(of_other.len());
            if shorter >= 2 && (of_other.starts_with(&name) || name.starts_with(&of_other)) {
                cost = cost.min(1);
            }
            // Short names are near to everything.
            let most = if name.len() < 3 { 1 } else { (name.len() / 3).clamp(2, 3) };
            (cost <= most).then_some((cost, other))
        })
        .collect();
    found.sort();
    found.truncate(NEAR_MAX);
    found.into_iter().map(|(_, n)| n).collect()
}

/// Letters to insert, remove or change.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_few_and_near() {
        let all = ["shop/web", "default/wbe", "default/store", "default/web-79dbb", "x/api"];
        let near = |wanted| nearest(wanted, all.iter().map(|s| (*s).to_owned()));
        assert_eq!(near("default/web"), ["shop/web", "default/web-79dbb", "default/wbe"]);
        assert_eq!(near("default/stroe"), ["default/store"]);
        assert_eq!(near("default/stores"), ["default/store"]);
        assert!(near("nothing").is_empty());
    }
}
