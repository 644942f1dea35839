//! Who may talk to whom.

use crate::{Cluster, Group, Party, limits::GROUPS_MAX};
use serde::Serialize;
use std::fmt::Write;
use weft_model::{IpFamilies, NamespacedName};
use weft_policy::{Evaluator, Reach, Stretches, Transport};

/// What passes between two groups of pods, or one and somebody outside. The names of these fields
/// are an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// The sender.
    pub from: String,
    /// The receiver.
    pub to: String,
    /// `everything`, `nothing`, `itself`, `no address`, or ports.
    pub allowed: String,
}

/// All of it. The names of these fields are an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Matrix {
    /// Rows and columns, in order.
    pub ends: Vec<String>,
    /// Every pair, row by row.
    pub cells: Vec<Cell>,
    /// What is not judged as it is written; the cells are not to be relied on while there is any.
    pub problems: Vec<String>,
}

/// An end of a matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub name: String,
    pods: Vec<Party>,
}

/// The ends of a cluster: its workloads, and somebody outside.
pub(crate) fn ends(cluster: &Cluster) -> Result<Vec<End>, String> {
    if cluster.groups.len() > GROUPS_MAX {
        return Err(format!("more than {GROUPS_MAX} workloads"));
    }
    let party = |id: &NamespacedName| Party::Pod(id.clone());
    let end = |g: &Group| End { name: g.id.to_string(), pods: g.pods.iter().map(party).collect() };
    let mut all: Vec<End> = cluster.groups.iter().map(end).collect();
    all.push(End { name: "outside".to_owned(), pods: vec![Party::Outside] });
    Ok(all)
}

/// What passes from one end to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Passes {
    /// They are one and the same pod.
    Itself,
    /// They have no addresses of one family among those asked for.
    NoAddress,
    /// What always passes, from each pod of the one to each of the other, in every family.
    Reach(Reach),
}

impl Passes {
    /// What passes; nothing between ends that cannot meet.
    pub(crate) fn reach(self) -> Option<Reach> {
        match self {
            Self::Itself => None,
            Self::NoAddress => Some(Reach::default()),
            Self::Reach(reach) => Some(reach),
        }
    }
}

impl std::fmt::Display for Passes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Itself => f.write_str("itself"),
            Self::NoAddress => f.write_str("no address"),
            Self::Reach(reach) => reach.fmt(f),
        }
    }
}

/// What passes between two ends.
pub(crate) fn between(
    cluster: &Cluster,
    evaluator: &Evaluator<'_>,
    stretches: &Stretches,
    families: IpFamilies,
    (from, to): (&End, &End),
) -> Passes {
    let mut all: Option<Reach> = None;
    let mut others = false;
    for family in families.list() {
        for (a, b) in from.pods.iter().flat_map(|a| to.pods.iter().map(move |b| (a, b))) {
            if a == b {
                continue;
            }
            others = true;
            let Some(flow) = cluster.flow(a, b, *family, Transport::Other) else { continue };
            let reach = Reach::of(evaluator, &flow, stretches);
            all = Some(all.map_or_else(|| reach.clone(), |r| r.and(&reach)));
        }
    }
    match all {
        Some(reach) => Passes::Reach(reach),
        None if others => Passes::NoAddress,
        None => Passes::Itself,
    }
}

/// The matrix of a cluster.
pub fn matrix(cluster: &Cluster, families: IpFamilies) -> Result<Matrix, String> {
    let ends = ends(cluster)?;
    let evaluator = Evaluator::new(&cluster.input);
    let stretches = Stretches::of([&cluster.input]);
    let mut cells = Vec::with_capacity(ends.len() * ends.len());
    for from in &ends {
        for to in &ends {
            let passes = between(cluster, &evaluator, &stretches, families, (from, to));
            let allowed = passes.to_string();
            cells.push(Cell { from: from.name.clone(), to: to.name.clone(), allowed });
        }
    }
    let ends = ends.into_iter().map(|e| e.name).collect();
    Ok(Matrix { ends, cells, problems: cluster.problems() })
}

impl Matrix {
    /// A picture of the whole (`●` everything, `◐` some ports, `·` nothing, `○` itself, `–` no
    /// addresses of one family), and the ports.
    pub fn text(&self) -> String {
        let mut text = String::from("from ↓  to →\n");
        let width = self.ends.iter().map(|e| e.chars().count()).max().unwrap_or(0);
        let n = self.ends.len();
        let _ = write!(text, "{:width$}    ", "");
        (1..=n).for_each(|i| text.push_str(&format!(" {i:>2}")));
        text.push('\n');
        for (i, row) in self.cells.chunks(n.max(1)).enumerate() {
            let _ = write!(text, "{:width$} {:>2} ", self.ends[i], i + 1);
            for cell in row {
                let _ = write!(text, "  {}", sign(&cell.allowed));
            }
            text.push('\n');
        }
        text.push_str("● everything  ◐ some ports  · nothing  ○ itself");
        if self.cells.iter().any(|c| sign(&c.allowed) == '–') {
            text.push_str("  – no addresses of one family");
        }
        text.push('\n');
        let some = |c: &&Cell| sign(&c.allowed) == '◐';
        for cell in self.cells.iter().filter(some) {
            let _ = writeln!(text, "{} → {}  {}", cell.from, cell.to, cell.allowed);
        }
        text
    }

    /// For Graphviz: an arrow for what passes.
    pub fn dot(&self) -> String {
        let quoted = |s: &str| format!("\"{}\"", s.replace('\\', "\\\\").replace('"', "\\\""));
        let mut dot = String::from("digraph policy {\n  rankdir=LR;\n  node [shape=box];\n");
        for end in &self.ends {
            let _ = writeln!(dot, "  {};", quoted(end));
        }
        for cell in &self.cells {
            match sign(&cell.allowed) {
                '●' => {
                    let _ = writeln!(dot, "  {} -> {};", quoted(&cell.from), quoted(&cell.to));
                }
                '◐' => {
                    let (from, to) = (quoted(&cell.from), quoted(&cell.to));
                    let _ = writeln!(dot, "  {from} -> {to} [label={}];", quoted(&cell.allowed));
                }
                _ => {}
            }
        }
        dot.push_str("}\n");
        dot
    }
}

fn sign(allowed: &str) -> char {
    match allowed {
        "everything" => '●',
        "nothing" => '·',
        "itself" => '○',
        "no address" => '–',
        _ => '◐',
    }
}
