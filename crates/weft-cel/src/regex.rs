//! Regular expressions in Go's syntax, run by the regex crate in linear time.
//!
//! The two dialects differ in details: what `\d`, `\s` and `\w` match (ASCII alone in Go), what
//! a bracket expression may hold, which braces and escapes are literals.

use regex::{Regex, RegexBuilder};

/// Bytes that a compiled pattern may take.
const SIZE_MAX: usize = 1 << 20;
/// Bytes that a pattern may have.
const LENGTH_MAX: usize = 16_384;
/// Go's limit on `{n}`.
const REPEAT_MAX: u32 = 1000;

/// A compiled pattern.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub regex: Regex,
    /// Characters of the source, which cost counts.
    pub size: u64,
}

impl Pattern {
    /// Compiles a pattern; the message says what is wrong with it.
    pub fn new(text: &str) -> Result<Pattern, String> {
        let fail = |why: &str| format!("error parsing regexp: {why}");
        if text.len() > LENGTH_MAX {
            return Err(fail("expression too large"));
        }
        let translated = translate(text).map_err(|why| fail(&why))?;
        let built = RegexBuilder::new(&translated)
            .size_limit(SIZE_MAX)
            .dfa_size_limit(SIZE_MAX)
            .nest_limit(200)
            .build();
        match built {
            Ok(regex) => Ok(Pattern { regex, size: text.chars().count() as u64 }),
            Err(regex::Error::CompiledTooBig(_)) => Err(fail("expression too large")),
            Err(_) => Err(fail(&format!("invalid expression: `{text}`"))),
        }
    }
}

/// The same pattern in the dialect of the regex crate.
fn translate(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    // Inside of brackets, and whether right after the opening one.
    let mut class = false;
    let mut first = false;
    // How far a repetition has gone: none, an operator, an operator made lazy.
    let mut repeated = 0;
    while let Some(c) = rest.chars().next() {
        let tail = &rest[c.len_utf8()..];
        let at_start = std::mem::take(&mut first);
        let repeats =
            !class && (matches!(c, '*' | '+' | '?') || (c == '{' && repetition(tail)?.is_some()));
        repeated = match (repeats, repeated) {
            (false, _) => 0,
            (true, 0) => 1,
            (true, 1) if c == '?' => 2,
            (true, _) => return Err(format!("invalid nested repetition operator: `{c}`")),
        };
        rest = match c {
            '\\' => escape(tail, class, &mut out)?,
            '[' if !class => {
                class = true;
                first = true;
                out.push('[');
                match tail.strip_prefix('^') {
                    Some(tail) => {
                        out.push('^');
                        tail
                    }
                    None => tail,
                }
            }
            '[' => match tail.strip_prefix(':').and_then(|t| t.find(":]")) {
                Some(end) => {
                    let end = 1 + end + 2;
                    out.push('[');
                    out.push_str(&tail[..end]);
                    &tail[end..]
                }
                None => {
                    out.push_str("\\[");
                    tail
                }
            },
            // A bracket right at the start is one of the characters.
            ']' if class && at_start => {
                out.push_str("\\]");
                tail
            }
            ']' if class => {
                class = false;
                out.push(']');
                tail
            }
            '&' | '~' if class => {
                out.push('\\');
                out.push(c);
                tail
            }
            '-' if class && tail.starts_with('-') => {
                out.push_str("\\-");
                tail
            }
            '{' if !class => match repetition(tail)? {
                Some(len) => {
                    out.push('{');
                    out.push_str(&tail[..len]);
                    &tail[len..]
                }
                None => {
                    out.push_str("\\{");
                    tail
                }
            },
            '}' if !class => {
                out.push_str("\\}");
                tail
            }
            '(' if !class && tail.starts_with('?') => {
                flags(tail)?;
                out.push_str("(?");
                &tail[1..]
            }
            c => {
                out.push(c);
                tail
            }
        };
    }
    if class {
        return Err(format!("missing closing ]: `{}`", unclosed(text)));
    }
    Ok(out)
}

/// The pattern from its last opening bracket on.
fn unclosed(text: &str) -> &str {
    text.rfind('[').map_or(text, |at| &text[at..])
}

/// The length of `2,3}` if this is how it goes on.
fn repetition(text: &str) -> Result<Option<usize>, String> {
    let Some(end) = text.find('}') else { return Ok(None) };
    let body = &text[..end];
    let (low, high) = body.split_once(',').unwrap_or((body, body));
    let number = |n: &str| !n.is_empty() && n.len() < 10 && n.bytes().all(|b| b.is_ascii_digit());
    if !number(low) || !(number(high) || (high.is_empty() && body.contains(','))) {
        return Ok(None);
    }
    let value = |n: &str| n.parse::<u32>().unwrap_or(0);
    if value(low) > REPEAT_MAX || value(high) > REPEAT_MAX {
        return Err(format!("invalid repeat count: `{{{body}}}`"));
    }
    Ok(Some(end + 1))
}

/// Refuses groups that only the regex crate knows.
fn flags(text: &str) -> Result<(), String> {
    let body = text.strip_prefix('?').unwrap_or(text);
    let end = body.find([')', ':', '<', '>', '=', '!', 'P']).unwrap_or(body.len());
    if body[..end].bytes().all(|b| b"imsU-".contains(&b)) {
        return Ok(());
    }
    Err(format!("invalid or unsupported Perl syntax: `(?{}`", &body[..end.min(body.len())]))
}

/// One escape, after its backslash.
fn escape<'t>(text: &'t str, class: bool, out: &mut String) -> Result<&'t str, String> {
    let Some(c) = text.chars().next() else {
        return Err("trailing backslash at end of expression: ``".to_owned());
    };
    let tail = &text[c.len_utf8()..];
    match c {
        'd' => out.push_str("[0-9]"),
        'D' => out.push_str("[^0-9]"),
        's' => out.push_str("[\\t\\n\\x0c\\r ]"),
        'S' => out.push_str("[^\\t\\n\\x0c\\r ]"),
        'w' => out.push_str("[0-9A-Za-z_]"),
        'W' => out.push_str("[^0-9A-Za-z_]"),
        'b' if !class => out.push_str("(?-u:\\b)"),
        'Q' if !class => {
            let (literal, tail) = text[1..].split_once("\\E").unwrap_or((&text[1..], ""));
            out.push_str(&regex::escape(literal));
            return Ok(tail);
        }
        '0' => {
            let len = tail.bytes().take(2).take_while(|b| (b'0'..=b'7').contains(b)).count();
            let code = u32::from_str_radix(&text[..=len], 8).unwrap_or(0);
            out.push_str(&format!("\\x{{{code:x}}}"));
            return Ok(&tail[len..]);
        }
        'a' | 'f' | 'n' | 'r' | 't' | 'v' | 'x' | 'p' | 'P' | 'A' | 'z' | 'B' => {
            out.push('\\');
            out.push(c);
        }
        c if c.is_ascii_alphanumeric() || !c.is_ascii() => {
            return Err(format!("invalid escape sequence: `\\{c}`"));
        }
        '<' | '>' => out.push(c),
        c => {
            out.push('\\');
            out.push(c);
        }
    }
    Ok(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_in_go() {
        for (pattern, text, found) in [
            (r"^\d+$", "123", true),
            (r"^\d+$", "\u{661}", false),
            (r"^\w$", "\u{e9}", false),
            (r"^[\w-]+$", "a-b_c", true),
            (r"^[^\W]+$", "ab", true),
            (r"^[]a]+$", "]a", true),
            (r"^[^]a]+$", "]", false),
            (r"^[a&&b]+$", "a&b", true),
            (r"^[[]$", "[", true),
            (r"^[[:alpha:]]+$", "ab", true),
            (r"^a{$", "a{", true),
            (r"^a{,2}$", "a{,2}", true),
            (r"^a{2}$", "aa", true),
            (r"^{}$", "{}", true),
            (r"\Qa.b\E", "a.b", true),
            (r"\Qa.b\E", "axb", false),
            (r"^\<\/\>\-$", "</>-", true),
            (r"a$", "a\n", false),
            (r"(?i)^ABC$", "abc", true),
            (r"(?P<x>a)", "a", true),
            (r"(?:a|b)c", "bc", true),
            (r"\bfoo\b", "a foo b", true),
            (r"^\x41\x{42}\073$", "AB;", true),
        ] {
            let compiled = Pattern::new(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}"));
            assert_eq!(compiled.regex.is_match(text), found, "{pattern} {text:?}");
        }
        for pattern in [
            "[", "(", "a**", r"\1", r"\k", "(?x)a", "(?=a)", "a{1001}", "\\", "*", "[b-a]", "(?u)a",
        ] {
            assert!(Pattern::new(pattern).is_err(), "{pattern}");
        }
        let bomb = format!("{}a{}", "(".repeat(50), "{1000})".repeat(50));
        assert!(Pattern::new(&bomb).is_err());
    }
}
