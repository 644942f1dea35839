//! Label and field selectors over the attributes stored beside every object.
//!
//! Objects are stored as bytes; what a selector can ask for is extracted once, at write time.

use crate::store::Attrs;

/// One requirement of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Label {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
    /// `key>n` (true) and `key<n` (false).
    Compare(String, bool, i64),
}

/// One requirement of a field selector: path, must-be-equal, value.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    path: String,
    equal: bool,
    value: String,
}

/// Both selectors of a request, parsed. The default matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: Vec<Label>,
    fields: Vec<Field>,
}

/// Why a selector was refused; becomes a 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SelectorError {
    #[error("unable to parse requirement: {0}")]
    Label(String),
    #[error("invalid selector: '{0}'; can't understand '{1}'")]
    Field(String, String),
    #[error("field label not supported: {0}")]
    Unsupported(String),
}

impl Selector {
    /// Parses `labelSelector` and `fieldSelector`; `supported` says which field paths the kind has.
    pub(crate) fn parse(
        labels: Option<&str>,
        fields: Option<&str>,
        supported: impl Fn(&str) -> bool,
    ) -> Result<Self, SelectorError> {
        let labels = labels.map(parse_labels).transpose()?.unwrap_or_default();
        let fields = fields.map(parse_fields).transpose()?.unwrap_or_default();
        if let Some(f) = fields.iter().find(|f| !supported(&f.path)) {
            return Err(SelectorError::Unsupported(f.path.clone()));
        }
        Ok(Self { labels, fields })
    }

    /// The same selector with other field paths, for kinds that are a view of another.
    pub(crate) fn renamed(mut self, name: impl Fn(&str) -> String) -> Self {
        for f in &mut self.fields {
            f.path = name(&f.path);
        }
        self
    }

    /// Whether it selects everything.
    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The name demanded by `metadata.name=…`, so that a list becomes a look-up.
    pub(crate) fn exact_name(&self) -> Option<&str> {
        self.fields.iter().find(|f| f.equal && f.path == "metadata.name").map(|f| f.value.as_str())
    }

    /// The namespace demanded by `metadata.namespace=…`.
    pub(crate) fn exact_namespace(&self) -> Option<&str> {
        self.fields
            .iter()
            .find(|f| f.equal && f.path == "metadata.namespace")
            .map(|f| f.value.as_str())
    }

    /// Whether an object with these attributes is selected.
    pub(crate) fn matches(&self, namespace: &str, name: &str, attrs: &Attrs) -> bool {
        self.labels.iter().all(|l| label_matches(l, attrs))
            && self.fields.iter().all(|f| {
                let actual = match f.path.as_str() {
                    "metadata.name" => name,
                    "metadata.namespace" => namespace,
                    path => attrs.field(path),
                };
                (actual == f.value) == f.equal
            })
    }
}

fn label_matches(l: &Label, attrs: &Attrs) -> bool {
    match l {
        Label::In(k, vs) => attrs.label(k).is_some_and(|v| vs.iter().any(|w| w == v)),
        Label::NotIn(k, vs) => attrs.label(k).is_none_or(|v| vs.iter().all(|w| w != v)),
        Label::Exists(k) => attrs.label(k).is_some(),
        Label::Absent(k) => attrs.label(k).is_none(),
        Label::Compare(k, greater, n) => attrs
            .label(k)
            .and_then(|v| v.parse::<i64>().ok())
            .is_some_and(|v| if *greater { v > *n } else { v < *n }),
    }
}

/// Splits at commas outside of parentheses.
fn split_requirements(s: &str) -> Vec<&str> {
    let (mut depth, mut start, mut out) = (0usize, 0, Vec::new());
    for (i, c) in s.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                out.push(&s[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    out.push(&s[start..]);
    out
}

fn parse_labels(s: &str) -> Result<Vec<Label>, SelectorError> {
    if s.trim().is_empty() {
        return Ok(Vec::new());
    }
    split_requirements(s).into_iter().map(|r| parse_label(r.trim())).collect()
}

fn parse_label(r: &str) -> Result<Label, SelectorError> {
    let bad = |why: &str| SelectorError::Label(format!("{why} in '{r}'"));
    let key = |k: &str| {
        let k = k.trim();
        is_label_key(k).then(|| k.to_owned()).ok_or_else(|| bad("invalid label key"))
    };
    let value = |v: &str| {
        let v = v.trim();
        is_label_value(v).then(|| v.to_owned()).ok_or_else(|| bad("invalid label value"))
    };
    if let Some(k) = r.strip_prefix('!') {
        return Ok(Label::Absent(key(k)?));
    }
    if let Some((head, list)) = r.split_once('(') {
        let list = list.trim_end().strip_suffix(')').ok_or_else(|| bad("missing ')'"))?;
        let values = list.split(',').map(value).collect::<Result<Vec<_>, _>>()?;
        let mut words = head.split_whitespace();
        let (k, op) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        if words.next().is_some() {
            return Err(bad("unexpected word"));
        }
        return match op {
            "in" => Ok(Label::In(key(k)?, values)),
            "notin" => Ok(Label::NotIn(key(k)?, values)),
            _ => Err(bad("expected 'in' or 'notin'")),
        };
    }
    if let Some((k, v)) = r.split_once("!=") {
        return Ok(Label::NotIn(key(k)?, vec![value(v)?]));
    }
    if let Some((k, v)) = r.split_once("==").or_else(|| r.split_once('=')) {
        return Ok(Label::In(key(k)?, vec![value(v)?]));
    }
    for (sign, greater) in [('>', true), ('<', false)] {
        if let Some((k, v)) = r.split_once(sign) {
            let n = v.trim().parse().map_err(|_| bad("not an integer"))?;
            return Ok(Label::Compare(key(k)?, greater, n));
        }
    }
    Ok(Label::Exists(key(r)?))
}

fn parse_fields(s: &str) -> Result<Vec<Field>, SelectorError> {
    s.split(',')
        .filter(|t| !t.trim().is_empty())
        .map(|t| {
            let t = t.trim();
            let (path, equal, value) = if let Some((p, v)) = t.split_once("!=") {
                (p, false, v)
            } else if let Some((p, v)) = t.split_once("==").or_else(|| t.split_once('=')) {
                (p, true, v)
            } else {
                return Err(SelectorError::Field(s.to_owned(), t.to_owned()));
            };
            Ok(Field { path: path.trim().to_owned(), equal, value: value.trim().to_owned() })
        })
        .collect()
}

fn is_label_value(s: &str) -> bool {
    s.is_empty() || is_qualified_part(s)
}

/// At most 63 of `[A-Za-z0-9-_.]`, beginning and ending alphanumeric.
fn is_qualified_part(s: &str) -> bool {
    let b = s.as_bytes();
    !b.is_empty()
        && b.len() <= 63
        && b.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
        && b[0].is_ascii_alphanumeric()
        && b[b.len() - 1].is_ascii_alphanumeric()
}

fn is_label_key(s: &str) -> bool {
    match s.split_once('/') {
        None => is_qualified_part(s),
        Some((prefix, name)) => {
            is_qualified_part(name)
                && !prefix.is_empty()
                && prefix.len() <= 253
                && prefix.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attrs(labels: &[(&str, &str)], fields: &[(&str, &str)]) -> Attrs {
        Attrs::new(
            labels.iter().map(|(k, v)| ((*k).into(), (*v).into())),
            fields.iter().map(|(k, v)| ((*k).into(), (*v).into())),
        )
    }

    fn selects(labels: &str, a: &Attrs) -> bool {
        Selector::parse(Some(labels), None, |_| true).unwrap().matches("ns", "n", a)
    }

    #[test]
    fn label_requirements_follow_the_kubernetes_meaning() {
        let a = attrs(&[("app", "web"), ("tier", "front"), ("n", "7")], &[]);
        for yes in [
            "app=web",
            "app==web",
            "app in (web,api)",
            "app",
            "!gone",
            "gone!=x",
            "gone notin (a,b)",
            "app=web,tier in (front)",
            "n>6",
            "n<8",
            "",
            " app = web ",
        ] {
            assert!(selects(yes, &a), "{yes}");
        }
        for no in ["app=api", "app!=web", "app notin (web)", "!app", "gone", "gone in (x)", "n>7"] {
            assert!(!selects(no, &a), "{no}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["a in b", "a in (b", "=x", "a=b c", "-a", "a>x", "a xin (b)", ","] {
            assert!(Selector::parse(Some(bad), None, |_| true).is_err(), "{bad}");
        }
        assert!(Selector::parse(None, Some("status.phase"), |_| true).is_err());
        assert_eq!(
            Selector::parse(None, Some("spec.foo=x"), |_| false),
            Err(SelectorError::Unsupported("spec.foo".into()))
        );
    }

    #[test]
    fn fields_compare_with_empty_when_absent() {
        let a = attrs(&[], &[("status.phase", "Running")]);
        let f = |s| Selector::parse(None, Some(s), |_| true).unwrap().matches("ns", "n", &a);
        assert!(f("status.phase=Running,spec.nodeName="));
        assert!(f("metadata.name=n,metadata.namespace!=other"));
        assert!(!f("status.phase!=Running"));
    }

    proptest! {
        #[test]
        fn parser_never_panics(l in ".{0,60}", f in ".{0,60}") {
            let _ = Selector::parse(Some(&l), Some(&f), |_| true);
        }

        #[test]
        fn in_is_the_negation_of_notin(v in "[a-c]{1,2}", set in proptest::collection::vec("[a-c]{1,2}", 1..4)) {
            let a = attrs(&[("k", &v)], &[]);
            let list = set.join(",");
            prop_assert_ne!(selects(&format!("k in ({list})"), &a), selects(&format!("k notin ({list})"), &a));
        }
    }
}
