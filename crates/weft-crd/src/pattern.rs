//! Patterns of schemas: Go's regular expressions on Rust's engine.
//!
//! Both are linear-time engines with almost one syntax. What differs is brought over here: Go's
//! `\d`, `\w`, `\s` and `\b` are ASCII, a `[` inside a class stands for itself, and there are no
//! set operations. `{` that begins no repetition is literal in Go.

use regex::{Regex, RegexBuilder};
use std::sync::OnceLock;

/// Longest pattern; Kubernetes has no limit but that of the object.
const PATTERN_BYTES_MAX: usize = 64 << 10;
/// Memory of one compiled pattern: counted repetitions expand.
const COMPILED_BYTES_MAX: usize = 4 << 20;
/// How deep groups may nest.
const NEST_MAX: u32 = 100;

/// A pattern that is compiled when it is first used.
#[derive(Debug)]
pub(crate) struct Pattern {
    source: String,
    compiled: OnceLock<Result<Regex, String>>,
}

impl Pattern {
    pub(crate) fn new(source: String) -> Self {
        Self { source, compiled: OnceLock::new() }
    }

    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Whether the text matches; why not, when the pattern is none.
    pub(crate) fn matches(&self, text: &str) -> Result<bool, &str> {
        match self.compiled.get_or_init(|| compile(&self.source)) {
            Ok(regex) => Ok(regex.is_match(text)),
            Err(why) => Err(why),
        }
    }
}

/// Compiles a pattern in Go's syntax.
pub(crate) fn compile(source: &str) -> Result<Regex, String> {
    if source.len() > PATTERN_BYTES_MAX {
        return Err("error parsing regexp: expression too large".to_owned());
    }
    RegexBuilder::new(&translate(source))
        .size_limit(COMPILED_BYTES_MAX)
        .dfa_size_limit(COMPILED_BYTES_MAX)
        .nest_limit(NEST_MAX)
        .build()
        .map_err(|error| {
            let text = error.to_string();
            let why = text.lines().last().unwrap_or_default();
            format!("error parsing regexp: {}: `{source}`", why.trim_start_matches("error: "))
        })
}

fn translate(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + 16);
    let mut chars = source.chars().peekable();
    let mut class = false;
    // Right after `[` or `[^`, where `]` is literal.
    let mut opened = false;
    while let Some(c) = chars.next() {
        let first = std::mem::take(&mut opened);
        match c {
            '\\' => match chars.next() {
                Some('d') => out.push_str(if class { "0-9" } else { "[0-9]" }),
                Some('w') => out.push_str(if class { "0-9A-Za-z_" } else { "[0-9A-Za-z_]" }),
                Some('s') => out.push_str(if class { r"\t\n\f\r " } else { r"[\t\n\f\r ]" }),
                Some('D') => out.push_str("[^0-9]"),
                Some('W') => out.push_str("[^0-9A-Za-z_]"),
                Some('S') => out.push_str(r"[^\t\n\f\r ]"),
                Some('b') if !class => out.push_str(r"(?-u:\b)"),
                Some('B') if !class => out.push_str(r"(?-u:\B)"),
                Some('Q') if !class => {
                    let mut literal = String::new();
                    while let Some(c) = chars.next() {
                        if c == '\\' && chars.peek() == Some(&'E') {
                            chars.next();
                            break;
                        }
                        literal.push(c);
                    }
                    out.push_str(&regex::escape(&literal));
                }
                Some(other) => {
                    out.push('\\');
                    out.push(other);
                    // `\p{Greek}`, `\x{10FFFF}`
                    if matches!(other, 'p' | 'P' | 'x') && chars.peek() == Some(&'{') {
                        for c in chars.by_ref() {
                            out.push(c);
                            if c == '}' {
                                break;
                            }
                        }
                    }
                }
                None => out.push('\\'),
            },
            '[' if !class => {
                class = true;
                opened = true;
                out.push('[');
                if chars.peek() == Some(&'^') {
                    chars.next();
                    out.push('^');
                }
            }
            '[' => {
                // A named class, or the character.
                if let Some(name) = named_class(chars.clone()) {
                    out.push_str("[:");
                    out.push_str(&name);
                    out.push_str(":]");
                    // The colons and the bracket.
                    chars.nth(name.chars().count() + 2);
                    continue;
                }
                out.push_str(r"\[");
            }
            ']' if class && first => out.push_str(r"\]"),
            ']' if class => {
                class = false;
                out.push(']');
            }
            '&' | '~' if class => {
                out.push('\\');
                out.push(c);
            }
            // `--` would be a difference; a single one is a range or the character.
            '-' if class && chars.peek() == Some(&'-') => out.push_str(r"\-"),
            '{' if !class && !repetition(chars.clone()) => out.push_str(r"\{"),
            other => out.push(other),
        }
    }
    out
}

/// Whether `n}`, `n,}` or `n,m}` follows.
fn repetition(mut chars: std::iter::Peekable<std::str::Chars<'_>>) -> bool {
    let mut digits = 0;
    while chars.next_if(char::is_ascii_digit).is_some() {
        digits += 1;
    }
    if digits == 0 {
        return false;
    }
    if chars.next_if_eq(&',').is_some() {
        while chars.next_if(char::is_ascii_digit).is_some() {}
    }
    chars.next() == Some('}')
}

/// The name, if `:name:]` follows.
fn named_class(mut chars: std::iter::Peekable<std::str::Chars<'_>>) -> Option<String> {
    chars.next_if_eq(&':')?;
    let mut name = String::new();
    while let Some(c) = chars.next_if(|c| !matches!(c, ':' | ']')) {
        name.push(c);
    }
    (chars.next() == Some(':') && chars.next() == Some(']')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Pattern::new(pattern.to_owned()).matches(text).unwrap()
    }

    #[test]
    fn classes_are_ascii_as_in_go() {
        assert!(matches(r"^\d+$", "12") && !matches(r"^\d+$", "١٢"));
        assert!(matches(r"^[\w.-]+$", "a_1.-") && !matches(r"^\w$", "é"));
        assert!(!matches(r"^[^\s]$", " ") && matches(r"^[^\s]$", "x") && matches(r"^[\S]$", "é"));
    }

    #[test]
    fn brackets_and_set_operators_are_literal_in_classes() {
        assert!(matches(r"^[[a]$", "[") && matches(r"^[]a]$", "]"));
        assert!(matches(r"^[a&&b]+$", "a&b"));
        assert!(matches(r"^[!#$%&'*+.^_`|~0-9a-zA-Z-]+$", "a~~b&&c--"));
        assert!(matches(r"^[[:alpha:]]+$", "ab") && !matches(r"^[[:alpha:]]+$", "a1"));
        assert!(matches(r"^[[:^alpha:]x]+$", "1x") && matches(r"^[[:]+$", "[:"));
        assert!(matches(r"^[[:a[:digit:]]+$", "[:a1") && !matches(r"^[[:a[:digit:]]+$", "d"));
        assert!(matches(r"^[a-z--9]+$", "b-5") || compile(r"^[a-z--9]+$").is_ok());
    }

    #[test]
    fn braces_that_repeat_nothing_are_literal() {
        assert!(matches(r"^{a}$", "{a}") && matches(r"^a{2}$", "aa") && matches(r"^a{1,}$", "aaa"));
        assert!(matches(r"^\Qa.b\E$", "a.b") && !matches(r"^\Qa.b\E$", "axb"));
        assert!(matches(r"^\p{L}+$", "é"));
        assert!(matches(r"^}a{2}}[{]}$", "}aa}{}") && matches(r"^[}]\}\x{41}}$", "}}A}"));
    }

    #[test]
    fn no_pattern_is_too_much() {
        assert!(compile("(").is_err());
        assert!(compile("((a{1000}){1000}){1000}").is_err());
        assert!(compile(&"(".repeat(10_000)).is_err());
    }
}
