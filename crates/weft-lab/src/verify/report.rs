//! What was found, as JSON (an interface) and as a matrix for people.

use serde::Serialize;
use std::{collections::BTreeMap, fmt::Write as _};

use super::gather::Cluster;

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// `pod-to-pod`, `node-to-local-pod`, `localhost`, `service-by-name`.
    pub name: &'static str,
    /// The sender: `namespace/pod` or `node/name`.
    pub from: String,
    /// The receiver: `namespace/pod`, `container`, or `name:port` of a Service.
    pub to: String,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// Whether it holds.
    pub ok: bool,
    /// What was seen.
    pub observed: String,
    /// What the network model says.
    pub expected: String,
    /// Why it does not hold; empty where it does.
    pub reason: String,
}

/// The outcome of `verify`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Every check holds, and there was at least one.
    pub ok: bool,
    /// All checks.
    pub checks: Vec<Check>,
    #[serde(skip)]
    rows: Vec<(String, String)>,
}

impl Report {
    /// Sums up.
    pub fn new(cluster: &Cluster, checks: Vec<Check>) -> Self {
        let rows = cluster.pods.iter().map(|p| (p.id.clone(), p.node.clone())).collect();
        Self { ok: !checks.is_empty() && checks.iter().all(|c| c.ok), checks, rows }
    }

    /// The matrix and the summary.
    pub fn render(&self) -> String {
        let mut out = String::new();
        self.render_matrix(&mut out);
        let mut by_name: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
        for c in &self.checks {
            let n = by_name.entry((c.name, &c.family)).or_default();
            n.0 += usize::from(c.ok);
            n.1 += 1;
        }
        for ((name, family), (ok, all)) in &by_name {
            let mark = if ok == all { "✓" } else { "✗" };
            let _ = writeln!(out, "{mark} {name:<18} {family}  {ok}/{all}");
        }
        for c in self.checks.iter().filter(|c| !c.ok).take(20) {
            let _ = writeln!(
                out,
                "✗ {} {} → {} {}: {} (expected {}, observed {})",
                c.name, c.from, c.to, c.family, c.reason, c.expected, c.observed
            );
        }
        let failed = self.checks.iter().filter(|c| !c.ok).count();
        if failed > 20 {
            let _ = writeln!(out, "… and {} more (-o json lists all)", failed - 20);
        }
        let _ = if self.ok {
            writeln!(out, "The network model holds: {} checks.", self.checks.len())
        } else if self.checks.is_empty() {
            writeln!(out, "Nothing to verify: no pod is running.")
        } else {
            writeln!(
                out,
                "The network model does not hold: {failed} of {} checks failed.",
                self.checks.len()
            )
        };
        out
    }

    /// Senders down, receivers across; `46` where both families answer with the sender's own
    /// address, `x` for a family that does not.
    fn render_matrix(&self, out: &mut String) {
        if self.rows.is_empty() {
            return;
        }
        let mut cells: BTreeMap<(&str, &str), Vec<(&str, bool)>> = BTreeMap::new();
        for c in self.checks.iter().filter(|c| c.name == "pod-to-pod") {
            cells.entry((&c.from, &c.to)).or_default().push((&c.family, c.ok));
        }
        let width = self.rows.iter().map(|r| r.0.len()).max().unwrap_or(0);
        let node_width = self.rows.iter().map(|r| r.1.len()).max().unwrap_or(0);
        let _ = write!(out, "{:width$}  {:node_width$} ", "from ↓  to →", "node");
        for i in 1..=self.rows.len() {
            let _ = write!(out, " {i:>2}");
        }
        let _ = writeln!(out);
        for (from, node) in &self.rows {
            let _ = write!(out, "{from:width$}  {node:node_width$} ");
            for (to, _) in &self.rows {
                let text = match cells.get(&(from.as_str(), to.as_str())) {
                    None => " ·".to_owned(),
                    Some(families) => families
                        .iter()
                        .map(|(f, ok)| match (ok, f.ends_with('4')) {
                            (false, _) => 'x',
                            (true, true) => '4',
                            (true, false) => '6',
                        })
                        .collect(),
                };
                let _ = write!(out, " {text:>2}");
            }
            let _ = writeln!(out);
        }
        let _ = writeln!(out, "columns are the pods in the order of the rows\n");
    }
}
