//! Printer columns: `additionalPrinterColumns` and the simple JSON paths that they use.

use serde_json::Value;

/// A column of a definition's version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Heading.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: String,
    /// Format of the type; may be empty.
    pub format: String,
    /// What it shows.
    pub description: String,
    /// 0: always shown; more: with `-o wide`.
    pub priority: i64,
    path: JsonPath,
}

/// A path of `.name`, `['name']`, `[3]`, `[*]` and `[?(@.name=="text")]` steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Member(String),
    Index(i64),
    All,
    Filter { path: Vec<String>, equal: bool, text: String },
}

/// Steps of one path.
const STEPS_MAX: usize = 64;
/// Values that one path may find.
const FOUND_MAX: usize = 1024;

impl JsonPath {
    /// Parses a path; `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = text.trim();
        rest = rest.strip_prefix('$').unwrap_or(rest);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if steps.len() == STEPS_MAX {
                return None;
            }
            if let Some(after) = rest.strip_prefix('.') {
                // A dot that is escaped belongs to the name, as in annotations' keys.
                let (name, after) = name(after);
                match name.as_str() {
                    "" if after.is_empty() && steps.is_empty() => {}
                    "" if after.starts_with('[') => {}
                    "" => return None,
                    "*" => steps.push(Step::All),
                    _ => steps.push(Step::Member(name)),
                }
                rest = after;
            } else {
                let (step, after) = bracket(rest.strip_prefix('[')?)?;
                steps.push(step);
                rest = after;
            }
        }
        Some(Self(steps))
    }

    /// What the path leads to.
    pub fn find<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![object];
        for step in &self.0 {
            let mut next = Vec::new();
            for value in found {
                step.apply(value, &mut next);
                if next.len() > FOUND_MAX {
                    next.truncate(FOUND_MAX);
                    break;
                }
            }
            found = next;
        }
        found
    }
}

fn name(text: &str) -> (String, &str) {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '.' | '[' => return (out, &text[at..]),
            '\\' => {
                if let Some((_, c)) = chars.next() {
                    out.push(c);
                }
            }
            c => out.push(c),
        }
    }
    (out, "")
}

fn bracket(text: &str) -> Option<(Step, &str)> {
    if let Some(rest) = text.strip_prefix("?(") {
        let (condition, after) = rest.split_once(")]")?;
        let (left, right, equal) = match condition.split_once("==") {
            Some((l, r)) => (l, r, true),
            None => {
                let (l, r) = condition.split_once("!=")?;
                (l, r, false)
            }
        };
        let path = left.trim().strip_prefix("@.")?.split('.').map(str::to_owned).collect();
        let right = right.trim();
        let text = right.trim_matches(|c| c == '"' || c == '\'').to_owned();
        return Some((Step::Filter { path, equal, text }, after));
    }
    if let Some(quote @ ('\'' | '"')) = text.chars().next() {
        let (name, after) = text[1..].split_once(quote)?;
        return Some((Step::Member(name.to_owned()), after.strip_prefix(']')?));
    }
    let (inside, after) = text.split_once(']')?;
    let step = match inside.trim() {
        "*" => Step::All,
        number => Step::Index(number.parse().ok()?),
    };
    Some((step, after))
}

impl Step {
    fn apply<'a>(&self, value: &'a Value, out: &mut Vec<&'a Value>) {
        match (self, value) {
            (Self::Member(name), Value::Object(members)) => out.extend(members.get(name)),
            (Self::Index(index), Value::Array(items)) => {
                let len = items.len() as i64;
                let at = if *index < 0 { len.saturating_add(*index) } else { *index };
                out.extend(usize::try_from(at).ok().and_then(|at| items.get(at)));
            }
            (Self::All, Value::Array(items)) => out.extend(items),
            (Self::All, Value::Object(members)) => out.extend(members.values()),
            (Self::Filter { path, equal, text }, Value::Array(items)) => {
                out.extend(items.iter().filter(|item| {
                    let found = path.iter().try_fold(*item, |value, name| value.get(name));
                    found.is_some_and(|found| (plain(found) == *text) == *equal)
                }));
            }
            _ => {}
        }
    }
}

/// A value as text without quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// What a cell holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// A value, null among them.
    Value(Value),
    /// A time, to be shown as an age.
    Date(String),
}

impl Column {
    /// The columns that a version states, or the age alone.
    pub fn parse_all(version: &Value) -> Vec<Self> {
        let stated = version.get("additionalPrinterColumns").and_then(Value::as_array);
        match stated.filter(|list| !list.is_empty()) {
            Some(list) => list.iter().filter_map(Self::parse).collect(),
            None => vec![Self {
                name: "Age".into(),
                kind: "date".into(),
                format: String::new(),
                description: String::new(),
                priority: 0,
                path: JsonPath(vec![
                    Step::Member("metadata".into()),
                    Step::Member("creationTimestamp".into()),
                ]),
            }],
        }
    }

    fn parse(json: &Value) -> Option<Self> {
        let text = |key: &str| json.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let source = text("jsonPath");
        let description = match text("description") {
            empty if empty.is_empty() => {
                format!("Custom resource definition column (in JSONPath format): {source}")
            }
            given => given,
        };
        Some(Self {
            name: text("name"),
            kind: text("type"),
            format: text("format"),
            description,
            priority: json.get("priority").and_then(Value::as_i64).unwrap_or(0),
            path: JsonPath::parse(&source)?,
        })
    }

    /// The cell of an object.
    pub fn cell(&self, object: &Value) -> Cell {
        let found = self.path.find(object);
        let Some(value) = found.first() else { return Cell::Value(Value::Null) };
        let value = match (self.kind.as_str(), value) {
            ("string", value) => plain(value).into(),
            ("integer", Value::Number(n)) => match n.as_i64() {
                Some(n) => n.into(),
                None => (n.as_f64().unwrap_or(0.0) as i64).into(),
            },
            ("number", number @ Value::Number(_)) => (*number).clone(),
            ("boolean", flag @ Value::Bool(_)) => (*flag).clone(),
            ("date", Value::String(time)) => return Cell::Date(time.clone()),
            _ => Value::Null,
        };
        Cell::Value(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_find_what_kubectl_finds() {
        let object = json!({"spec": {"a": [1, {"b": "x"}], "m": {"k.y": true}},
            "status": {"conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "False"}]}});
        let find = |path: &str| -> Vec<String> {
            JsonPath::parse(path).unwrap().find(&object).into_iter().map(plain).collect()
        };
        assert_eq!(find(".spec.a[1].b"), ["x"]);
        assert_eq!(find(".spec.a[-1].b"), ["x"]);
        assert_eq!(find(r".spec.m.k\.y"), ["true"]);
        assert_eq!(find(".spec.m['k.y']"), ["true"]);
        assert_eq!(find(".status.conditions[?(@.type==\"B\")].status"), ["False"]);
        assert_eq!(find(".status.conditions[*].type"), ["A", "B"]);
        assert!(find(".spec.none[0].x").is_empty());
        for bad in ["spec", ".a[", ".a..b", ".a[x]", ".a[?(@.b)]"] {
            assert_eq!(JsonPath::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn cells_have_the_type_of_their_column() {
        let version = json!({"additionalPrinterColumns": [
            {"name": "S", "type": "string", "jsonPath": ".s"},
            {"name": "I", "type": "integer", "jsonPath": ".i", "priority": 1},
            {"name": "B", "type": "boolean", "jsonPath": ".b"},
            {"name": "W", "type": "integer", "jsonPath": ".s"},
            {"name": "D", "type": "date", "jsonPath": ".d"},
            {"name": "O", "type": "string", "jsonPath": ".o"}]});
        let object =
            json!({"s": "t", "i": 3, "b": true, "d": "2024-01-01T00:00:00Z", "o": {"x": 1}});
        let cells: Vec<Cell> =
            Column::parse_all(&version).iter().map(|column| column.cell(&object)).collect();
        let value = |v: Value| Cell::Value(v);
        assert_eq!(
            cells,
            [
                value(json!("t")),
                value(json!(3)),
                value(json!(true)),
                value(Value::Null),
                Cell::Date("2024-01-01T00:00:00Z".into()),
                value(json!("{\"x\":1}"))
            ]
        );
        assert_eq!(Column::parse_all(&json!({}))[0].name, "Age");
    }
}
