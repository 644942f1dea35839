//! Types and limits of values, with the findings that kube-openapi has, in its words.

use super::{Additional, Schema, Types, Values, correlate::OldItems};
use crate::{Violation, ViolationKind as Kind, format::go_float, path::Path};
use serde_json::{Map, Number, Value};
use std::collections::HashSet;

/// Findings of one object; more help nobody.
const FINDINGS_MAX: usize = 1000;

/// Findings of one walk.
#[derive(Default)]
struct Out<'a> {
    /// Where the walked value is, when it is a part of an object.
    prefix: &'a str,
    found: Vec<Violation>,
    /// Only whether something is wrong is asked: nothing is worded, the first finding ends it.
    probe: bool,
    failed: bool,
}

impl Schema {
    /// What is wrong with the types and limits of `value`. With `old`, what has not changed is
    /// not held against the new value.
    pub(crate) fn check_values(
        &self,
        prefix: &str,
        value: &Value,
        old: Option<&Value>,
        out: &mut Vec<Violation>,
    ) {
        let mut quick = Out { probe: true, ..Out::default() };
        node(self, value, old, &Path::ROOT, &mut quick);
        if !quick.failed {
            return;
        }
        let mut worded = Out { prefix, ..Out::default() };
        node(self, value, old, &Path::ROOT, &mut worded);
        out.append(&mut worded.found);
    }
}

impl Out<'_> {
    /// Whether to go on.
    fn done(&self) -> bool {
        if self.probe { self.failed } else { self.full() }
    }

    /// Findings that come later are not told.
    fn full(&self) -> bool {
        self.found.len() >= FINDINGS_MAX
    }

    fn add(&mut self, violation: Violation) {
        if !self.full() && !self.found.contains(&violation) {
            self.found.push(violation);
        }
    }

    fn field(&self, name: &str) -> String {
        match (self.prefix, name) {
            ("", name) => name.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, name) if name.starts_with('[') => format!("{prefix}{name}"),
            (prefix, name) => format!("{prefix}.{name}"),
        }
    }

    fn push(
        &mut self,
        path: &Path<'_>,
        kind: Kind,
        value: impl FnOnce() -> Option<Value>,
        detail: impl FnOnce(&str) -> String,
    ) {
        self.failed = true;
        if self.probe || self.full() {
            return;
        }
        let name = path.to_string();
        let (field, detail) = (self.field(&name), detail(&name));
        self.add(Violation::new(kind, field, value(), detail));
    }

    fn invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, why: &str) {
        let value = value.into();
        self.push(path, Kind::Invalid, || Some(value), |name| format!("{name} in body {why}"));
    }

    fn wrong_type(&mut self, path: &Path<'_>, expected: &str, found: &str) {
        self.push(
            path,
            Kind::TypeInvalid,
            || Some(found.into()),
            |name| format!("{name} in body must be of type {expected}: {found:?}"),
        );
    }

    fn too_many(&mut self, path: &Path<'_>, count: usize, most: i64) {
        let noun = if most == 1 { "item" } else { "items" };
        self.push(
            path,
            Kind::TooMany,
            || Some(count.into()),
            |_| format!("must have at most {most} {noun}"),
        );
    }

    /// A finding about alternatives, which names the object as a whole as its field.
    fn composite(&mut self, path: &Path<'_>, why: &str) {
        self.failed = true;
        if !self.probe && !self.full() {
            let detail = format!("{:?} {why}", path.to_string());
            self.add(Violation::invalid(self.prefix, "", detail));
        }
    }
}

/// Checks a value, and counts the checks that it went through: of several alternatives that
/// fail, the findings of the one that got furthest are told.
fn node(
    schema: &Schema,
    value: &Value,
    old: Option<&Value>,
    path: &Path<'_>,
    out: &mut Out<'_>,
) -> usize {
    let (mark, failed) = (out.found.len(), out.failed);
    let count = checks(schema, value, old, path, out);
    // What was accepted once stays accepted until it is changed.
    if out.failed && !failed && old == Some(value) {
        out.failed = false;
        out.found.truncate(mark);
    } else if out.found.len() > mark && old == Some(value) {
        out.found.truncate(mark);
    }
    count
}

fn checks(
    schema: &Schema,
    value: &Value,
    old: Option<&Value>,
    path: &Path<'_>,
    out: &mut Out<'_>,
) -> usize {
    let mut count = 1 + type_of(schema, value, path, out);
    if out.done() {
        return count;
    }
    if let Some(values) = &schema.values {
        if !value.is_null() {
            count += alternatives(values, value, old, path, out);
            match value {
                Value::String(text) => count += string(schema, values, text, path, out),
                Value::Number(number) => count += numeric(values, number, path, out),
                _ => {}
            }
        }
        if out.done() {
            return count;
        }
        if !values.enumeration.is_empty() {
            enumeration(values, value, path, out);
        }
    }
    if out.done() {
        return count;
    }
    match value {
        Value::Array(items) => count + array(schema, items, old, path, out),
        Value::Object(members) => count + object(schema, members, old, path, out),
        _ => count,
    }
}

fn type_of(schema: &Schema, value: &Value, path: &Path<'_>, out: &mut Out<'_>) -> usize {
    let typed = schema.int_or_string || !schema.type_name.is_empty();
    let expected = if schema.int_or_string { "integer,string" } else { &schema.type_name };
    let (found, fits) = match value {
        Value::Null => {
            if typed && !schema.nullable {
                out.wrong_type(path, expected, "null");
            }
            return 1;
        }
        Value::Bool(_) => ("boolean", Types::BOOLEAN),
        // A format makes up for the type of a string.
        Value::String(_) => ("string", Types::STRING),
        Value::Number(n) if n.as_f64().is_some_and(|n| n.fract() == 0.0) => {
            let found = if n.is_f64() { "number" } else { "integer" };
            (found, Types(Types::INTEGER.0 | Types::NUMBER.0))
        }
        Value::Number(_) => ("number", Types::NUMBER),
        Value::Array(_) => ("array", Types::ARRAY),
        Value::Object(_) => ("object", Types::OBJECT),
    };
    if !typed || schema.types.has(fits) {
        return 2;
    }
    out.wrong_type(path, expected, found);
    0
}

fn alternatives(
    values: &Values,
    value: &Value,
    old: Option<&Value>,
    path: &Path<'_>,
    out: &mut Out<'_>,
) -> usize {
    let fits = |schema: &Schema| {
        let mut probe = Out { probe: true, ..Out::default() };
        node(schema, value, old, path, &mut probe);
        !probe.failed
    };
    let mut count = 2;
    if !values.any_of.is_empty() && !values.any_of.iter().any(fits) {
        out.composite(path, "must validate at least one schema (anyOf)");
        count += best(&values.any_of, value, old, path, out);
    }
    if !values.one_of.is_empty() && !out.done() {
        match values.one_of.iter().filter(|schema| fits(schema)).count() {
            1 => {}
            0 => {
                let why = "must validate one and only one schema (oneOf). Found none valid";
                out.composite(path, why);
                count += best(&values.one_of, value, old, path, out);
            }
            many => {
                let why = format!(
                    "must validate one and only one schema (oneOf). Found {many} valid alternatives"
                );
                out.composite(path, &why);
            }
        }
    }
    if !values.all_of.is_empty() && !out.done() {
        let mut valid = 0;
        for schema in &values.all_of {
            if fits(schema) {
                valid += 1;
            } else if out.probe {
                out.failed = true;
            } else {
                count += node(schema, value, old, path, out);
            }
        }
        if valid < values.all_of.len() {
            let none = if valid == 0 { ". None validated" } else { "" };
            out.composite(path, &format!("must validate all the schemas (allOf){none}"));
        }
    }
    if let Some(not) = &values.not
        && fits(not)
    {
        out.composite(path, "must not validate the schema (not)");
    }
    count
}

/// The findings of the alternative that went through most checks.
fn best(
    schemas: &[Schema],
    value: &Value,
    old: Option<&Value>,
    path: &Path<'_>,
    out: &mut Out<'_>,
) -> usize {
    if out.probe || out.full() {
        return 0;
    }
    let mut best: Option<(usize, Vec<Violation>)> = None;
    for schema in schemas {
        let mut trial = Out { prefix: out.prefix, ..Out::default() };
        let count = node(schema, value, old, path, &mut trial);
        if best.as_ref().is_none_or(|(most, _)| count > *most) {
            best = Some((count, trial.found));
        }
    }
    let Some((count, found)) = best else { return 0 };
    found.into_iter().for_each(|violation| out.add(violation));
    count
}

fn string(
    schema: &Schema,
    values: &Values,
    text: &str,
    path: &Path<'_>,
    out: &mut Out<'_>,
) -> usize {
    let longer = |most: i64| {
        // Most texts are so short that their bytes are few enough.
        text.len() as i64 > most && text.chars().count() as i64 > most
    };
    if let Some(most) = values.max_length.filter(|most| longer(*most)) {
        let noun = if most == 1 { "byte" } else { "bytes" };
        let why = |_: &str| format!("may not be more than {most} {noun}");
        out.push(path, Kind::TooLong, || None, why);
    } else if let Some(least) = values.min_length.filter(|n| (text.chars().count() as i64) < *n) {
        out.invalid(path, text, &format!("should be at least {least} chars long"));
    } else if let Some(pattern) = &values.pattern {
        match pattern.matches(text) {
            Ok(true) => {}
            Ok(false) => {
                out.invalid(path, text, &format!("should match '{}'", pattern.source()));
            }
            Err(why) => {
                let source = pattern.source();
                let why = format!("should match '{source}, but pattern is invalid: {why}'");
                out.invalid(path, text, &why);
            }
        }
    }
    if let Some((name, format)) = &values.format
        && (schema.types.has(Types::STRING) || schema.type_name.is_empty())
        && !format.accepts(text)
    {
        out.wrong_type_of(path, name, text);
    }
    2
}

impl Out<'_> {
    /// A text that does not have its format.
    fn wrong_type_of(&mut self, path: &Path<'_>, format: &str, text: &str) {
        self.push(
            path,
            Kind::TypeInvalid,
            || Some(text.into()),
            |name| format!("{name} in body must be of type {format}: {text:?}"),
        );
    }
}

fn numeric(values: &Values, number: &Number, path: &Path<'_>, out: &mut Out<'_>) -> usize {
    let shown = |limit: f64| match number.as_i64() {
        Some(_) => (limit as i64).to_string(),
        None => go_float(limit),
    };
    let value = number.as_f64().unwrap_or(f64::NAN);
    // Whole numbers are compared as such: a float would round large ones.
    let order = |limit: f64| match number.as_i64() {
        Some(n) => n.cmp(&(limit as i64)),
        None => value.total_cmp(&limit),
    };
    if let Some(factor) = values.multiple_of {
        let fits = match number.as_i64() {
            Some(n) if factor >= 1.0 => n % (factor as i64).max(1) == 0,
            _ if factor < 1.0 => (1.0 / factor * value).fract().abs() < f64::EPSILON,
            _ => (value / factor).fract().abs() < f64::EPSILON,
        };
        if factor <= 0.0 {
            let why = format!("factor MultipleOf declared for {path} must be positive: {factor}");
            out.push(path, Kind::Invalid, || Some(factor.into()), |_| why);
        } else if !fits {
            let why = format!("should be a multiple of {}", shown(factor));
            out.invalid(path, number.clone(), &why);
        }
    }
    if let Some(limit) = values.minimum {
        let exclusive = values.exclusive_minimum;
        if order(limit).is_lt() || (exclusive && order(limit).is_eq()) {
            let than = if exclusive { "greater than" } else { "greater than or equal to" };
            out.invalid(path, number.clone(), &format!("should be {than} {}", shown(limit)));
        }
    }
    if let Some(limit) = values.maximum {
        let exclusive = values.exclusive_maximum;
        if order(limit).is_gt() || (exclusive && order(limit).is_eq()) {
            let than = if exclusive { "less than" } else { "less than or equal to" };
            out.invalid(path, number.clone(), &format!("should be {than} {}", shown(limit)));
        }
    }
    2
}

fn enumeration(values: &Values, value: &Value, path: &Path<'_>, out: &mut Out<'_>) {
    let same = |known: &Value| match (known, value) {
        (Value::Null, _) => false,
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (a, b) => a == b,
    };
    if values.enumeration.iter().any(same) {
        return;
    }
    out.push(
        path,
        Kind::NotSupported,
        || Some(value.clone()),
        |_| {
            let known: Vec<String> = values
                .enumeration
                .iter()
                .map(|known| match known {
                    Value::String(text) => format!("{text:?}"),
                    other => format!("{:?}", other.to_string()),
                })
                .collect();
            format!("supported values: {}", known.join(", "))
        },
    );
}

fn array(
    schema: &Schema,
    items: &[Value],
    old: Option<&Value>,
    path: &Path<'_>,
    out: &mut Out<'_>,
) -> usize {
    let mut count = 2;
    if let Some(inner) = schema.items() {
        let olds = OldItems::of(schema, old);
        for (i, item) in items.iter().enumerate() {
            count += node(inner, item, olds.find(item), &path.index(i), out);
            if out.done() {
                return count;
            }
        }
    }
    let Some(values) = &schema.values else { return count };
    let len = items.len() as i64;
    if let Some(least) = values.min_items.filter(|least| len < *least) {
        out.invalid(path, len, &format!("should have at least {least} items"));
    }
    if let Some(most) = values.max_items.filter(|most| len > *most) {
        out.too_many(path, items.len(), most);
    }
    let mut seen = HashSet::new();
    if values.unique_items && !items.iter().all(|item| seen.insert(item)) {
        out.push(
            path,
            Kind::Invalid,
            || Some("".into()),
            |name| format!("{name} in body shouldn't contain duplicates"),
        );
    }
    count
}

fn object(
    schema: &Schema,
    members: &Map<String, Value>,
    old: Option<&Value>,
    path: &Path<'_>,
    out: &mut Out<'_>,
) -> usize {
    let mut count = 1;
    if let Some(values) = &schema.values {
        let len = members.len() as i64;
        if let Some(least) = values.min_properties.filter(|least| len < *least) {
            out.invalid(path, len, &format!("should have at least {least} properties"));
        }
        if let Some(most) = values.max_properties.filter(|most| len > *most) {
            out.too_many(path, members.len(), most);
        }
    }
    for (name, value) in members {
        let at = path.child(name);
        // Type and version were converted: that they are the same says nothing.
        let typed = path.is_root() && matches!(name.as_str(), "apiVersion" | "kind");
        let before = if typed { None } else { old.and_then(|old| old.get(name)) };
        match (schema.member(name), &schema.additional) {
            (Some(inner), _) => count += node(inner, value, before, &at, out),
            (None, Additional::Bool(false)) => {
                out.push(
                    path,
                    Kind::Invalid,
                    || Some("".into()),
                    |parent| format!("{parent}.{name} in body is a forbidden property"),
                );
            }
            _ => {}
        }
        if out.done() {
            return count;
        }
    }
    if let Some(values) = &schema.values {
        for name in &values.required {
            if !members.contains_key(name) {
                out.push(&path.child(name), Kind::Required, || None, |_| String::new());
            }
        }
    }
    count
}
