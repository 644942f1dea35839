//! The language of expectations: YAML documents of `kind: PolicyTest`.

use crate::limits::{ENDS_MAX, EXPECTATIONS_MAX, FILE_BYTES_MAX};
use serde::Deserialize;
use serde_json::Value;
use weft_model::IpFamilies;

/// A document of expectations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suite {
    /// Namespace of names that have none.
    pub namespace: String,
    /// The families in which every expectation must hold.
    pub families: IpFamilies,
    /// The expectations.
    pub tests: Vec<Expectation>,
}

/// One expectation: every end of `from` may, or may not, talk to every end of `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// For people; may be empty.
    pub name: String,
    /// The senders.
    pub from: Vec<String>,
    /// The receivers.
    pub to: Vec<String>,
    /// `8080`, `53/UDP`, `http`, `ICMP`; `None` for everything.
    pub port: Option<String>,
    /// Whether it shall pass.
    pub allow: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawSuite {
    #[serde(rename = "apiVersion")]
    _api_version: Option<Value>,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(rename = "metadata")]
    _metadata: Option<Value>,
    namespace: Option<String>,
    ip_family: Option<String>,
    tests: Vec<RawTest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTest {
    name: Option<String>,
    from: OneOrMany,
    to: OneOrMany,
    port: Option<PortText>,
    expect: Verdict,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PortText {
    Number(u16),
    Text(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Allow,
    Deny,
}

impl OneOrMany {
    fn list(self, what: &str, place: usize) -> Result<Vec<String>, String> {
        let list = match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        };
        match list.len() {
            0 => Err(format!("tests[{place}].{what}: names nobody")),
            n if n > ENDS_MAX => Err(format!("tests[{place}].{what}: more than {ENDS_MAX} items")),
            _ => Ok(list),
        }
    }
}

/// Reads a document that is already parsed.
pub(crate) fn suite_of(document: &Value) -> Result<Suite, String> {
    let raw = RawSuite::deserialize(document).map_err(|e| format!("PolicyTest: {e}"))?;
    if raw.tests.len() > EXPECTATIONS_MAX {
        return Err(format!("tests: more than {EXPECTATIONS_MAX} items"));
    }
    let families = raw.ip_family.as_deref().unwrap_or("ipv4").parse();
    let families = families.map_err(|e| format!("ipFamily: {e}"))?;
    let tests = raw.tests.into_iter().enumerate().map(|(i, test)| {
        Ok(Expectation {
            name: test.name.unwrap_or_default(),
            from: test.from.list("from", i)?,
            to: test.to.list("to", i)?,
            port: test.port.map(|p| match p {
                PortText::Number(n) => n.to_string(),
                PortText::Text(t) => t,
            }),
            allow: matches!(test.expect, Verdict::Allow),
        })
    });
    Ok(Suite {
        namespace: raw.namespace.unwrap_or_else(|| "default".to_owned()),
        families,
        tests: tests.collect::<Result<_, String>>()?,
    })
}

/// Reads one document of expectations. Any text is a suite or refused with a reason.
pub fn parse_suite(text: &str) -> Result<Suite, String> {
    if text.len() > FILE_BYTES_MAX {
        return Err(format!("is larger than {FILE_BYTES_MAX} bytes"));
    }
    let value: Value = serde_yaml_ng::from_str(text).map_err(|e| e.to_string())?;
    suite_of(&value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "
kind: PolicyTest
namespace: shop
ipFamily: dual
tests:
- {from: web, to: [db, cache], port: 5432, expect: allow}
- name: nothing else
  from: '*'
  to: db
  expect: deny
";

    #[test]
    fn a_suite_is_read_or_refused_with_a_reason() {
        let suite = parse_suite(GOOD).expect("valid");
        assert_eq!((suite.namespace.as_str(), suite.families), ("shop", IpFamilies::Dual));
        assert_eq!(suite.tests[0].to, ["db", "cache"]);
        assert_eq!(suite.tests[0].port.as_deref(), Some("5432"));
        assert!(suite.tests[0].allow && !suite.tests[1].allow);
        for (from, to, why) in [
            ("expect: allow", "expect: maybe", "unknown variant `maybe`"),
            ("port: 5432", "prot: 5432", "unknown field `prot`"),
            ("[db, cache]", "[]", "tests[0].to: names nobody"),
            ("ipFamily: dual", "ipFamily: both", "unknown IP family 'both'"),
            ("tests:", "tests: 1\nother:", "PolicyTest"),
        ] {
            let error = parse_suite(&GOOD.replace(from, to)).expect_err(to);
            assert!(error.contains(why), "{to}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_suite_or_refused(text in "[ -~\n]{0,200}", cut in 0..GOOD.len()) {
            let _ = parse_suite(&text);
            let _ = parse_suite(&GOOD[..cut]);
            let _ = parse_suite(&format!("{}{text}", &GOOD[..cut]));
            let _ = crate::line_of(&text, 0, &[crate::Step::Key("spec"), crate::Step::Item(1)]);
        }
    }
}
