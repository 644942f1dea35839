//! Names of JSON fields as identifiers of the language.
//!
//! The rule is Kubernetes': a field is reachable when its name has only letters, digits and
//! `_ . - /` and does not start with a digit; what no identifier may hold is spelled out.

/// Words that the language keeps for itself.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Whether `word` is kept by the language.
pub(crate) fn is_reserved(word: &str) -> bool {
    RESERVED.contains(&word)
}

/// The identifier under which a rule reaches the JSON field `name`, or `None` where no rule can.
pub fn escape_field(name: &str) -> Option<String> {
    let first = name.chars().next()?;
    if first.is_ascii_digit() {
        return None;
    }
    if is_reserved(name) {
        return Some(format!("__{name}__"));
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        let taken = match c {
            '_' if rest.starts_with("__") => {
                out.push_str("__underscores__");
                2
            }
            '.' => {
                out.push_str("__dot__");
                1
            }
            '-' => {
                out.push_str("__dash__");
                1
            }
            '/' => {
                out.push_str("__slash__");
                1
            }
            c if c.is_ascii_alphanumeric() || c == '_' => {
                out.push(c);
                1
            }
            _ => return None,
        };
        rest = &rest[taken..];
    }
    Some(out)
}

/// The JSON field behind an identifier: the inverse of [`escape_field`], or `None` for an
/// escape that does not exist.
pub fn unescape_field(name: &str) -> Option<String> {
    if !name.contains("__") {
        return Some(name.to_owned());
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while !rest.is_empty() {
        let word = rest.strip_prefix("__").and_then(|tail| {
            let len = tail.find('_')?;
            (len > 0 && tail[len..].starts_with("__")).then(|| &tail[..len])
        });
        let Some(word) = word else {
            let len = rest.chars().next().map_or(1, char::len_utf8);
            out.push_str(&rest[..len]);
            rest = &rest[len..];
            continue;
        };
        match word {
            "underscores" => out.push_str("__"),
            "dot" => out.push('.'),
            "dash" => out.push('-'),
            "slash" => out.push('/'),
            word if is_reserved(word) && word.len() + 4 == name.len() => out.push_str(word),
            _ => return None,
        }
        rest = &rest[word.len() + 4..];
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_identifiers() {
        for (json, cel) in [
            ("plain", Some("plain")),
            ("snake_case", Some("snake_case")),
            ("a.b", Some("a__dot__b")),
            ("a-b/c", Some("a__dash__b__slash__c")),
            ("a__b", Some("a__underscores__b")),
            ("___", Some("__underscores___")),
            ("namespace", Some("__namespace__")),
            ("int", Some("int")),
            ("1st", None),
            ("", None),
            ("a$", None),
            ("ü", None),
        ] {
            assert_eq!(escape_field(json).as_deref(), cel, "{json}");
            if let Some(cel) = cel {
                assert_eq!(unescape_field(cel).as_deref(), Some(json), "{cel}");
            }
        }
        assert_eq!(unescape_field("a__what__b"), None);
        assert_eq!(unescape_field("x__in__"), None);
    }
}
