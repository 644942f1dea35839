//! Which connections would open and close between two sets of manifests.

use crate::{
    Cluster,
    matrix::{between, ends},
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};
use weft_model::IpFamilies;
use weft_policy::{Evaluator, Stretches};

/// What changes between two ends. The names of these fields are an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The sender.
    pub from: String,
    /// The receiver.
    pub to: String,
    /// What opens; empty for nothing.
    pub opened: String,
    /// What closes; empty for nothing.
    pub closed: String,
}

/// All that changes. The names of these fields are an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Whether nothing does.
    pub same: bool,
    /// Workloads that only the second has.
    pub added: Vec<String>,
    /// Workloads that only the first has.
    pub removed: Vec<String>,
    /// Between workloads that are in both.
    pub differences: Vec<Difference>,
    /// What is not judged as it is written, on either side; the differences are not to be relied
    /// on while there is any.
    pub problems: Vec<String>,
}

/// Compares what may pass before and after.
pub fn compare(
    before: &Cluster,
    after: &Cluster,
    families: IpFamilies,
) -> Result<Comparison, String> {
    let stretches = Stretches::of([&before.input, &after.input]);
    let evaluators = (Evaluator::new(&before.input), Evaluator::new(&after.input));
    let named = |cluster| -> Result<BTreeMap<String, _>, String> {
        Ok(ends(cluster)?.into_iter().map(|e| (e.name.clone(), e)).collect())
    };
    let (old, new) = (named(before)?, named(after)?);
    let names = |of: &BTreeMap<String, _>| of.keys().cloned().collect::<BTreeSet<String>>();
    let (old_names, new_names) = (names(&old), names(&new));
    let mut differences = Vec::new();
    for from in old_names.intersection(&new_names) {
        for to in old_names.intersection(&new_names) {
            let was = between(before, &evaluators.0, &stretches, families, (&old[from], &old[to]));
            let is = between(after, &evaluators.1, &stretches, families, (&new[from], &new[to]));
            let (was, is) = match (was.reach(), is.reach()) {
                (Some(was), Some(is)) => (was, is),
                // One pod alone, before or after: that it has others now is no policy's doing.
                _ => continue,
            };
            if was == is {
                continue;
            }
            let text = |r: weft_policy::Reach| {
                if r.is_nothing() { String::new() } else { r.to_string() }
            };
            differences.push(Difference {
                from: from.clone(),
                to: to.clone(),
                opened: text(is.without(&was)),
                closed: text(was.without(&is)),
            });
        }
    }
    let added: Vec<String> = new_names.difference(&old_names).cloned().collect();
    let removed: Vec<String> = old_names.difference(&new_names).cloned().collect();
    let same = differences.is_empty() && added.is_empty() && removed.is_empty();
    let mut problems = before.problems();
    problems.extend(after.problems().into_iter().filter(|p| !before.problems().contains(p)));
    Ok(Comparison { same, added, removed, differences, problems })
}

impl Comparison {
    /// For people: `+` opens, `-` closes.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for name in &self.removed {
            let _ = writeln!(text, "- workload {name}");
        }
        for name in &self.added {
            let _ = writeln!(text, "+ workload {name}");
        }
        for d in &self.differences {
            for (sign, what) in [('-', &d.closed), ('+', &d.opened)] {
                if !what.is_empty() {
                    let _ = writeln!(text, "{sign} {} → {}  {what}", d.from, d.to);
                }
            }
        }
        if self.same {
            text.push_str("nothing opens and nothing closes\n");
        }
        text
    }
}
