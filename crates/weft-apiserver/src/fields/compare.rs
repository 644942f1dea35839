//! What differs between two states of an object, as sets of fields.
//!
//! Presence is Go's: a struct that is no pointer, and a list or map that Go writes when it is
//! empty, are there as soon as what contains them is. So creating an object gives its writer
//! `f:labels` with a `.`, and `f:spec` without one.

use super::{Element, FieldSet, path_text, set::item_key};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use weft_kinds::schema::{Field, ListType, Shape, Type};

/// The difference of two objects.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Added or with another value.
    pub(super) changed: FieldSet,
    /// Gone.
    pub(super) removed: FieldSet,
}

/// What is there without a value of its own.
static NULL: Value = Value::Null;

/// Compares two objects of one type.
pub(super) fn compare(kind: &Type, old: &Value, new: &Value) -> Changes {
    let mut at = Changes::default();
    at.members(kind, Some(old), Some(new));
    at
}

type Side<'a> = Option<&'a Value>;

impl Changes {
    /// Goes down to a child and keeps what it finds.
    fn below(&mut self, step: impl FnOnce() -> Element, visit: impl FnOnce(&mut Self)) {
        let mut child = Self::default();
        visit(&mut child);
        let Self { changed, removed } = child;
        match (changed.is_empty(), removed.is_empty()) {
            (true, true) => {}
            (false, true) => drop(self.changed.children.insert(step(), changed)),
            (true, false) => drop(self.removed.children.insert(step(), removed)),
            (false, false) => {
                let step = step();
                self.changed.children.insert(step.clone(), changed);
                self.removed.children.insert(step, removed);
            }
        }
    }

    fn leaf(&mut self, old: Side<'_>, new: Side<'_>) {
        match (old, new) {
            (Some(_), None) => self.removed.own = true,
            (None, Some(_)) => self.changed.own = true,
            (Some(o), Some(n)) => self.changed.own = o != n,
            (None, None) => {}
        }
    }

    /// A branch that came or went is itself in the set.
    fn presence(&mut self, old: Side<'_>, new: Side<'_>) {
        self.changed.own |= old.is_none();
        self.removed.own |= new.is_none();
    }

    fn members(&mut self, kind: &Type, old: Side<'_>, new: Side<'_>) {
        let (Some(o), Some(n)) = (branch(old), branch(new)) else { return self.leaf(old, new) };
        if kind.atomic {
            return self.leaf(old, new);
        }
        for (key, value) in n {
            let field = kind.member(key);
            let before = o.get(key).or_else(|| field.and_then(|f| implied(f, old.is_some())));
            self.below(
                || Element::Field(key.clone()),
                |c| match field {
                    Some(f) => c.field(f, before, Some(value)),
                    None => c.leaf(before, Some(value)),
                },
            );
        }
        for (key, value) in o {
            if n.contains_key(key) {
                continue;
            }
            let field = kind.member(key);
            let after = field.and_then(|f| implied(f, new.is_some()));
            self.below(
                || Element::Field(key.clone()),
                |c| match field {
                    Some(f) => c.field(f, Some(value), after),
                    None => c.leaf(Some(value), after),
                },
            );
        }
        self.presence(old, new);
    }

    fn field(&mut self, field: &Field, old: Side<'_>, new: Side<'_>) {
        if field.atomic {
            return self.leaf(old, new);
        }
        match (field.shape, field.type_of()) {
            (Shape::One, Some(kind)) => self.members(kind, old, new),
            (Shape::One, None) => self.leaf(old, new),
            (Shape::Map, kind) => self.entries(kind, old, new),
            (Shape::List, kind) => match (&field.list, kind) {
                (ListType::Set, _) => {
                    self.items(old, new, |v| Element::Value(v.to_string()), None);
                }
                (ListType::Map(keys), Some(kind)) => {
                    self.items(old, new, |v| Element::Key(item_key(keys, v)), Some(kind));
                }
                _ => self.leaf(old, new),
            },
        }
    }

    fn entries(&mut self, kind: Option<&Type>, old: Side<'_>, new: Side<'_>) {
        let (Some(o), Some(n)) = (branch(old), branch(new)) else { return self.leaf(old, new) };
        if o.is_empty() && n.is_empty() {
            return self.leaf(old, new);
        }
        let gone = o.iter().filter(|(k, _)| !n.contains_key(*k)).map(|(k, v)| (k, Some(v), None));
        let there = n.iter().map(|(k, v)| (k, o.get(k), Some(v)));
        for (key, old, new) in there.chain(gone) {
            self.below(
                || Element::Field(key.clone()),
                |c| match kind {
                    Some(kind) => c.members(kind, old, new),
                    None => c.leaf(old, new),
                },
            );
        }
        self.presence(old, new);
    }

    /// The items of a set or keyed list. Items that occur more than once on a side are one value
    /// there.
    fn items(
        &mut self,
        old: Side<'_>,
        new: Side<'_>,
        step: impl Fn(&Value) -> Element,
        kind: Option<&Type>,
    ) {
        let (Some(o), Some(n)) = (list(old), list(new)) else { return self.leaf(old, new) };
        if o.is_empty() && n.is_empty() {
            return self.leaf(old, new);
        }
        let mut all: BTreeMap<Element, [Vec<&Value>; 2]> = BTreeMap::new();
        o.iter().for_each(|v| all.entry(step(v)).or_default()[0].push(v));
        n.iter().for_each(|v| all.entry(step(v)).or_default()[1].push(v));
        for (key, [o, n]) in all {
            let one = |c: &mut Self, old, new| match kind {
                Some(kind) => c.members(kind, old, new),
                None => c.leaf(old, new),
            };
            self.below(
                || key,
                |c| match (o.as_slice(), n.as_slice()) {
                    ([] | [_], [] | [_]) => one(c, o.first().copied(), n.first().copied()),
                    ([_, _, ..], [_, _, ..]) => c.changed.own = o != n,
                    (_, [] | [_]) => {
                        if let Some(n) = n.first() {
                            one(c, None, Some(n));
                        }
                        c.removed.own = true;
                    }
                    _ => {
                        if let Some(o) = o.first() {
                            one(c, Some(o), None);
                        }
                        c.changed.own = true;
                    }
                },
            );
        }
        self.presence(old, new);
    }
}

/// What Go has without being told.
fn implied(field: &Field, within: bool) -> Option<&'static Value> {
    let there = match field.shape {
        Shape::One => field.value,
        Shape::List | Shape::Map => !field.omit_zero,
    };
    (within && there).then_some(&NULL)
}

/// The members of an object, none of what is absent; `None` for what is no object.
fn branch(value: Side<'_>) -> Option<&Map<String, Value>> {
    static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    match value {
        None | Some(Value::Null) => Some(&EMPTY),
        Some(v) => v.as_object(),
    }
}

fn list(value: Side<'_>) -> Option<&[Value]> {
    match value {
        None | Some(Value::Null) => Some(&[]),
        Some(v) => v.as_array().map(Vec::as_slice),
    }
}

/// Items of sets and keyed lists that an object has more than once, as errors of an apply.
pub(crate) fn duplicates(kind: &Type, object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    find_duplicates(kind, object, &mut Vec::new(), &mut found);
    found
}

fn find_duplicates(kind: &Type, object: &Value, at: &mut Vec<Element>, found: &mut Vec<String>) {
    for (key, value) in object.as_object().into_iter().flatten() {
        let Some(field) = kind.member(key).filter(|f| !f.atomic) else { continue };
        at.push(Element::Field(key.clone()));
        match (field.shape, field.type_of(), &field.list) {
            (Shape::One, Some(kind), _) => find_duplicates(kind, value, at, found),
            (Shape::Map, Some(kind), _) => {
                for (key, entry) in value.as_object().into_iter().flatten() {
                    at.push(Element::Field(key.clone()));
                    find_duplicates(kind, entry, at, found);
                    at.pop();
                }
            }
            (Shape::List, kind, ListType::Set | ListType::Map(_)) => {
                let mut seen = BTreeSet::new();
                for item in value.as_array().into_iter().flatten() {
                    let step = match &field.list {
                        ListType::Map(keys) => Element::Key(item_key(keys, item)),
                        _ => Element::Value(item.to_string()),
                    };
                    if seen.contains(&step) {
                        let shown = path_text(std::slice::from_ref(&step));
                        let list = path_text(at);
                        found.push(format!("{list}: duplicate entries for key {shown}"));
                        continue;
                    }
                    seen.insert(step.clone());
                    if let Some(kind) = kind {
                        at.push(step);
                        find_duplicates(kind, item, at, found);
                        at.pop();
                    }
                }
            }
            _ => {}
        }
        at.pop();
    }
}
