//! On which line of a YAML text something stands.
//!
//! The parser keeps no positions, but its errors have them: the document is read once more by a
//! visitor that walks to the place asked for and refuses to read on there.

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Into a mapping.
    Key(&'static str),
    /// Into a list.
    Item(usize),
}

/// The line, from 1, of the place that `path` leads to in document number `document` of `text`;
/// of the place nearest to it that exists.
pub fn line_of(text: &str, document: usize, path: &[Step]) -> Option<usize> {
    (0..=path.len()).rev().find_map(|n| exact_line(text, document, &path[..n]))
}

fn exact_line(text: &str, document: usize, path: &[Step]) -> Option<usize> {
    let document = serde_yaml_ng::Deserializer::from_str(text).nth(document)?;
    let error = Seek(path).deserialize(document).err()?;
    // Any other error means that the path does not exist. (The text begins with the path.)
    error.to_string().contains(FOUND).then_some(())?;
    error.location().map(|l| l.line())
}

const FOUND: &str = "weft: here it is";

#[derive(Clone, Copy)]
struct Seek<'p>(&'p [Step]);

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
                Step::Key(wanted) if key.as_str() == Some(wanted) => {
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
        let line = |path: &[Step]| line_of(TEXT, 1, path);
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
}
