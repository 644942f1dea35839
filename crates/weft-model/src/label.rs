//! Labels and the selectors over them, parsed once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

/// The labels of an object. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Arc<BTreeMap<Arc<str>, Arc<str>>>);

impl Labels {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(AsRef::as_ref)
    }

    /// Every label, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_ref(), v.as_ref()))
    }
}

impl<K: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(Arc::new(pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect()))
    }
}

/// What a requirement asks of the value of its key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LabelTest {
    /// It is there and one of these.
    In(BTreeSet<Arc<str>>),
    /// It is not there, or none of these.
    NotIn(BTreeSet<Arc<str>>),
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

/// Why a requirement was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Not one of the four operators.
    #[error("unknown operator '{0}': use In, NotIn, Exists or DoesNotExist")]
    UnknownOperator(String),
    /// `In` and `NotIn` need values.
    #[error("operator {0} needs at least one value")]
    NoValues(&'static str),
    /// `Exists` and `DoesNotExist` take none.
    #[error("operator {0} takes no values")]
    Values(&'static str),
}

impl LabelTest {
    /// The test that an operator of the API and its values make (API doc of
    /// LabelSelectorRequirement).
    pub fn parse<V: Into<Arc<str>>>(
        operator: &str,
        values: impl IntoIterator<Item = V>,
    ) -> Result<Self, SelectorError> {
        let values: BTreeSet<Arc<str>> = values.into_iter().map(Into::into).collect();
        match (operator, values.is_empty()) {
            ("In", false) => Ok(Self::In(values)),
            ("NotIn", false) => Ok(Self::NotIn(values)),
            ("Exists", true) => Ok(Self::Exists),
            ("DoesNotExist", true) => Ok(Self::DoesNotExist),
            ("In", true) => Err(SelectorError::NoValues("In")),
            ("NotIn", true) => Err(SelectorError::NoValues("NotIn")),
            ("Exists", false) => Err(SelectorError::Values("Exists")),
            ("DoesNotExist", false) => Err(SelectorError::Values("DoesNotExist")),
            (other, _) => Err(SelectorError::UnknownOperator(other.to_owned())),
        }
    }

    /// Whether a key with this value (`None`: without it) satisfies the test.
    pub fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Self::In(values) => value.is_some_and(|v| values.contains(v)),
            Self::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
            Self::Exists => value.is_some(),
            Self::DoesNotExist => value.is_none(),
        }
    }
}

/// A label selector: all requirements must hold, so that an empty one selects everything.
/// `matchLabels` and `matchExpressions` are one list here, sorted and without duplicates: equal
/// selectors compare equal, however they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector(Arc<[(Arc<str>, LabelTest)]>);

impl Selector {
    /// The selector that selects everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|(key, test)| test.holds(labels.get(key)))
    }

    /// What it asks of which key, in order; a key may occur more than once.
    pub fn requirements(&self) -> impl Iterator<Item = (&Arc<str>, &LabelTest)> {
        self.0.iter().map(|(k, t)| (k, t))
    }

    /// The keys that it looks at, in order; one may occur more than once.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter().map(|(k, _)| k)
    }
}

impl<K: Into<Arc<str>>> FromIterator<(K, LabelTest)> for Selector {
    fn from_iter<I: IntoIterator<Item = (K, LabelTest)>>(requirements: I) -> Self {
        let set: BTreeSet<(Arc<str>, LabelTest)> =
            requirements.into_iter().map(|(k, t)| (k.into(), t)).collect();
        Self(set.into_iter().collect())
    }
}

/// As `kubectl --selector` takes it; `*` for the one that selects everything.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_everything() {
            return f.write_str("*");
        }
        for (i, (key, test)) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let list = |values: &BTreeSet<Arc<str>>| {
                values.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(",")
            };
            match test {
                LabelTest::In(values) if values.len() == 1 => write!(f, "{key}={}", list(values))?,
                LabelTest::In(values) => write!(f, "{key} in ({})", list(values))?,
                LabelTest::NotIn(values) if values.len() == 1 => {
                    write!(f, "{key}!={}", list(values))?;
                }
                LabelTest::NotIn(values) => write!(f, "{key} notin ({})", list(values))?,
                LabelTest::Exists => f.write_str(key)?,
                LabelTest::DoesNotExist => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_label_satisfies_notin_and_doesnotexist_alone() {
        let test = |op: &str, values: &[&str]| {
            let test = LabelTest::parse(op, values.iter().copied()).expect("valid");
            Selector::from_iter([("k", test)])
        };
        let none = Labels::default();
        let a = Labels::from_iter([("k", "a")]);
        for (selector, of_none, of_a) in [
            (test("In", &["a"]), false, true),
            (test("In", &["b"]), false, false),
            (test("NotIn", &["a"]), true, false),
            (test("NotIn", &["b"]), true, true),
            (test("Exists", &[]), false, true),
            (test("DoesNotExist", &[]), true, false),
            (Selector::everything(), true, true),
        ] {
            assert_eq!(selector.matches(&none), of_none, "{selector} of nothing");
            assert_eq!(selector.matches(&a), of_a, "{selector} of k=a");
        }
        for (op, values) in
            [("In", &[][..]), ("NotIn", &[]), ("Exists", &["a"]), ("DoesNotExist", &["a"])]
        {
            assert!(LabelTest::parse(op, values.iter().copied()).is_err(), "{op} {values:?}");
        }
        assert!(LabelTest::parse("Gt", ["1"]).is_err());
    }

    #[test]
    fn selectors_read_as_kubectl_writes_them() {
        let of = |op: &str, values: &[&str]| LabelTest::parse(op, values.to_vec()).expect("valid");
        let selector = Selector::from_iter([
            ("tier", of("In", &["b", "a"])),
            ("app", of("In", &["web"])),
            ("old", of("DoesNotExist", &[])),
            ("env", of("NotIn", &["dev"])),
        ]);
        assert_eq!(selector.to_string(), "app=web,env!=dev,!old,tier in (a,b)");
        assert_eq!(Selector::everything().to_string(), "*");
    }
}
