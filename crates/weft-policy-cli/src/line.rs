//! On which line of a YAML text something stands.
//!
//! The parser that makes values keeps no positions. A second one, which tells its steps with
//! theirs, is run over a text once, when the first line of it is asked for ([`Lines`]). It refuses
//! a few texts that the first one takes (more than 32 comments in a row in some places). There
//! the errors of the first one help, which have positions: the document is read once more by a
//! visitor that walks to the place asked for and refuses to read on ([`line_of`]). That costs the
//! whole text for each line, so it is the exception.

use granit_parser::{Event, Parser};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::{collections::HashMap, fmt};

/// One step of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'p> {
    /// Into a mapping.
    Key(&'p str),
    /// Into a list.
    Item(usize),
}

/// The steps of a path as complaints spell it: `spec.ingress[0].from`.
pub(crate) fn steps(field: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    for part in field.split('.') {
        let mut words = part.split('[');
        steps.extend(words.next().filter(|k| !k.is_empty()).map(Step::Key));
        let indexes = words.map_while(|w| w.strip_suffix(']')?.parse().ok());
        steps.extend(indexes.map(Step::Item));
    }
    steps
}

/// Where everything in a text stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    nodes: Vec<Node>,
    /// The root of each document.
    documents: Vec<usize>,
}

/// A value by its line, and what is in it by index into [`Lines::nodes`].
#[derive(Clone, Debug)]
struct Node {
    line: usize,
    inside: Inside,
}

#[derive(Clone, Debug)]
enum Inside {
    Nothing,
    Items(Vec<usize>),
    Fields(Vec<(Box<str>, usize)>),
}

/// A collection that is being read; a mapping knows the key whose value comes next.
struct Open {
    node: usize,
    key: Option<Box<str>>,
}

impl Lines {
    /// Reads a text, up to where it cannot be read.
    pub(crate) fn of(text: &str) -> Self {
        let mut lines = Self::default();
        let mut anchors: HashMap<usize, usize> = HashMap::new();
        let mut open: Vec<Open> = Vec::new();
        for step in Parser::new_from_str(text) {
            let Ok((event, span)) = step else {
                // What was begun is not whole.
                if !open.is_empty() {
                    lines.documents.pop();
                }
                break;
            };
            let inside = match &event {
                Event::Scalar(..) | Event::Alias(_) => Inside::Nothing,
                Event::SequenceStart(..) => Inside::Items(Vec::new()),
                Event::MappingStart(..) => Inside::Fields(Vec::new()),
                Event::SequenceEnd | Event::MappingEnd => {
                    open.pop();
                    continue;
                }
                _ => continue,
            };
            let collection = !matches!(inside, Inside::Nothing);
            let node = match &event {
                // What it stands for; one that is nowhere stands for nothing.
                Event::Alias(id) => anchors.get(id).copied(),
                _ => None,
            };
            let node = node.unwrap_or_else(|| {
                lines.nodes.push(Node { line: span.start.line(), inside });
                lines.nodes.len() - 1
            });
            if let Some(anchor) = event.anchor_id() {
                anchors.insert(anchor, node);
            }
            let scalar = event.scalar().map(|(text, _)| text);
            lines.put(open.last_mut(), node, scalar);
            if collection {
                open.push(Open { node, key: None });
            }
        }
        lines
    }

    /// Puts a value where it belongs: into what is open, or as a document.
    fn put(&mut self, parent: Option<&mut Open>, node: usize, scalar: Option<&str>) {
        let Some(parent) = parent else {
            self.documents.push(node);
            return;
        };
        match &mut self.nodes[parent.node].inside {
            Inside::Nothing => {}
            Inside::Items(items) => items.push(node),
            Inside::Fields(fields) => match parent.key.take() {
                Some(key) => fields.push((key, node)),
                // Keys that are no texts are nobody's step.
                None => parent.key = Some(scalar.unwrap_or_default().into()),
            },
        }
    }

    /// As [`line_of`]; `None` where the document could not be read.
    pub(crate) fn line(&self, document: usize, path: &[Step<'_>]) -> Option<usize> {
        let mut at = *self.documents.get(document)?;
        for step in path {
            let inside = &self.nodes.get(at)?.inside;
            let next = match (step, inside) {
                (Step::Item(index), Inside::Items(items)) => items.get(*index).copied(),
                (Step::Key(key), Inside::Fields(fields)) => {
                    fields.iter().find(|(k, _)| **k == **key).map(|(_, node)| *node)
                }
                _ => None,
            };
            match next {
                Some(next) => at = next,
                None => break,
            }
        }
        Some(self.nodes.get(at)?.line)
    }
}

/// The line, from 1, of the place that `path` leads to in document number `document` of `text`;
/// of the place nearest to it that exists. Reads the text from its beginning.
pub fn line_of(text: &str, document: usize, path: &[Step<'_>]) -> Option<usize> {
    (0..=path.len()).rev().find_map(|n| exact_line(text, document, &path[..n]))
}

fn exact_line(text: &str, document: usize, path: &[Step<'_>]) -> Option<usize> {
    let document = serde_yaml_ng::Deserializer::from_str(text).nth(document)?;
    let error = Seek(path).deserialize(document).err()?;
    // Any other error means that the path does not exist. (The text begins with the path.)
    error.to_string().contains(FOUND).then_some(())?;
    error.location().map(|l| l.line())
}

const FOUND: &str = "weft: here it is";

#[derive(Clone, Copy)]
struct Seek<'p>(&'p [Step<'p>]);

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Seek<'_> {
    fn scalar<E: Error>(self) -> Result<(), E> {
        if self.0.is_empty() { Err(E::custom(FOUND)) } else { Ok(()) }
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.scalar()
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.scalar()
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.scalar()
    }
    fn visit_i128<E: Error>(self, _: i128) -> Result<(), E> {
        self.scalar()
    }
    fn visit_u128<E: Error>(self, _: u128) -> Result<(), E> {
        self.scalar()
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.scalar()
    }
    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.scalar()
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.scalar()
    }
    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.scalar()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some((step, rest)) = self.0.split_first() else {
            return Err(A::Error::custom(FOUND));
        };
        if let Step::Item(index) = step {
            for _ in 0..*index {
                if items.next_element::<IgnoredAny>()?.is_none() {
                    return Ok(());
                }
            }
            items.next_element_seed(Seek(rest))?;
        }
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let Some((step, rest)) = self.0.split_first() else {
            return Err(A::Error::custom(FOUND));
        };
        while let Some(key) = entries.next_key::<serde_yaml_ng::Value>()? {
            match step {
                Step::Key(wanted) if key.as_str() == Some(*wanted) => {
                    entries.next_value_seed(Seek(rest))?;
                }
                _ => {
                    entries.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
kind: A
---
# a comment
kind: B
spec:
  ingress:
  - from:
    - podSelector: {}
  -
    ports: [{port: 1}, {port: 2}]
  egress: [{}, {}]
...
";

    #[test]
    fn lines_are_found_in_every_style() {
        use Step::{Item, Key};
        let line = |path: &[Step<'_>]| {
            let found = line_of(TEXT, 1, path);
            assert_eq!(Lines::of(TEXT).line(1, path), found, "{path:?}");
            found
        };
        assert_eq!(line(&[Key("kind")]), Some(4));
        assert_eq!(line(&[Key("spec"), Key("ingress"), Item(0)]), Some(7));
        assert_eq!(line(&[Key("spec"), Key("ingress"), Item(0), Key("from"), Item(0)]), Some(8));
        assert_eq!(line(&[Key("spec"), Key("ingress"), Item(1)]), Some(10));
        assert_eq!(line(&[Key("spec"), Key("egress"), Item(1)]), Some(11));
        // What does not exist leads to what is nearest.
        assert_eq!(line(&[Key("spec"), Key("egress"), Item(7)]), Some(11));
        assert_eq!(line(&[Key("status")]), Some(4));
        assert_eq!(line_of(TEXT, 5, &[]), None);
        assert_eq!(line_of("{", 0, &[Key("a")]), Some(1));
    }

    /// Every path of a value.
    fn paths<'v>(value: &'v serde_yaml_ng::Value, at: &[Step<'v>], all: &mut Vec<Vec<Step<'v>>>) {
        use serde_yaml_ng::Value;
        all.push(at.to_vec());
        match value {
            Value::Sequence(items) => {
                for (i, item) in items.iter().enumerate() {
                    paths(item, &[at, &[Step::Item(i)]].concat(), all);
                }
            }
            Value::Mapping(fields) => {
                for (key, value) in fields {
                    let Some(key) = key.as_str() else { continue };
                    paths(value, &[at, &[Step::Key(key)]].concat(), all);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn one_reading_finds_every_line_that_the_slow_way_finds() {
        const ODD: &str = "\
# comments before
%YAML 1.2
---
a: &a {b: [1, {c: 2,
    d: 3}]}
e: *a
? f
: folded
  text
\"g h\": 'quoted

  text'
---
- - x
  - y: z
-
  k:
  # between
  - v
--- {flow: [1,
 2]}
";
        let mut compared = 0;
        for text in [TEXT, ODD] {
            let lines = Lines::of(text);
            for (n, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
                let value = serde::Deserialize::deserialize(document).expect("YAML");
                let mut all = Vec::new();
                paths(&value, &[], &mut all);
                compared += all.len();
                for path in all {
                    let slow = line_of(text, n, &path);
                    // What an alias stands for has its line in one and the alias's in the other.
                    if path.first() == Some(&Step::Key("e")) {
                        assert!(lines.line(n, &path).is_some());
                        continue;
                    }
                    assert_eq!(lines.line(n, &path), slow, "{n} {path:?}");
                }
            }
        }
        assert!(compared > 30, "{compared} paths");
        // A text that one of both refuses: what comes before is found.
        let commented = format!("a: 1\n---\nb:\n{}  - c\n", "# x\n".repeat(100));
        assert_eq!(Lines::of(&commented).line(0, &[Step::Key("a")]), Some(1));
        assert_eq!(line_of(&commented, 1, &[Step::Key("b"), Step::Item(0)]), Some(104));
    }

    #[test]
    fn paths_are_read_as_complaints_spell_them() {
        use Step::{Item, Key};
        let read = steps("spec.ingress[0].from[12].ipBlock");
        assert_eq!(
            read,
            [Key("spec"), Key("ingress"), Item(0), Key("from"), Item(12), Key("ipBlock")]
        );
        assert_eq!(steps(""), []);
    }
}
