//! What can go wrong: at compilation with a place, at evaluation with a reason.

use std::{borrow::Cow, fmt};

/// Longest line of source that an error quotes, in bytes.
const SNIPPET_MAX: usize = 16_384;

/// One mistake in an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
}

/// All mistakes that were found in an expression, at least one. Printed as cel-go prints them:
/// a line `ERROR: <input>:1:6: …` each, the source line, and a mark under the place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct CompileErrors {
    errors: Vec<CompileError>,
    text: String,
    instantiation: bool,
}

impl CompileErrors {
    /// From messages at byte offsets.
    pub(crate) fn new(source: &str, mut found: Vec<(u32, String)>) -> CompileErrors {
        // As cel-go orders them: by place; those of one place as they were found.
        found.sort_by_key(|(pos, _)| *pos);
        let errors = found
            .into_iter()
            .map(|(pos, message)| {
                let before = source.get(..pos as usize).unwrap_or(source);
                let line = before.bytes().filter(|b| *b == b'\n').count() as u32 + 1;
                let start = before.rfind('\n').map_or(0, |at| at + 1);
                let column = before[start..].chars().count() as u32 + 1;
                CompileError { line, column, message }
            })
            .collect();
        CompileErrors { errors, text: source.to_owned(), instantiation: false }
    }

    /// For an expression whose form is right, but a constant part has no value.
    pub(crate) fn instantiation(message: String) -> CompileErrors {
        let errors = vec![CompileError { line: 1, column: 1, message }];
        CompileErrors { errors, text: String::new(), instantiation: true }
    }

    /// Whether form and types are right, and only a constant part has no value, such as
    /// `int('a')`: the API server then says "program instantiation failed" where it says
    /// "compilation failed" otherwise, and no place is printed.
    pub fn is_instantiation(&self) -> bool {
        self.instantiation
    }

    /// The mistakes, by place.
    pub fn errors(&self) -> &[CompileError] {
        &self.errors
    }
}

impl fmt::Display for CompileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            if self.instantiation {
                return f.write_str(&error.message);
            }
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "ERROR: <input>:{}:{}: {}", error.line, error.column, error.message)?;
            let Some(line) = self.text.split('\n').nth(error.line as usize - 1) else { continue };
            if line.len() > SNIPPET_MAX {
                continue;
            }
            write!(f, "\n | {}\n | ", line.replace('\t', " "))?;
            let mut chars = line.chars();
            // Wide marks under what is not ASCII: it tends to be drawn wide too.
            for c in chars.by_ref().take(error.column as usize - 1) {
                f.write_str(if c.is_ascii() { "." } else { "\u{ff0e}" })?;
            }
            f.write_str(if chars.next().is_none_or(|c| c.is_ascii()) { "^" } else { "\u{ff3e}" })?;
        }
        Ok(())
    }
}

/// Why an expression has no value for this input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// One call cost more than [`crate::CALL_LIMIT`]: no further rule of this object runs.
    #[error("operation cancelled: actual cost limit exceeded")]
    CallLimit,
    /// The object's budget is spent: no further rule of this object runs.
    #[error(
        "validation failed due to running out of cost budget, no further validation rules will be run"
    )]
    BudgetSpent,
    /// No function takes values of these types; the checker catches what is not `dyn`.
    #[error("no such overload{}{}", if .0.is_empty() { "" } else { ": " }, .0)]
    NoSuchOverload(Cow<'static, str>),
    /// Everything else: a missing key, an overflow, a division by zero, a conversion.
    #[error("{0}")]
    Other(Cow<'static, str>),
}

impl EvalError {
    pub(crate) fn text(message: impl Into<Cow<'static, str>>) -> EvalError {
        EvalError::Other(message.into())
    }

    pub(crate) fn no_such_overload() -> EvalError {
        EvalError::NoSuchOverload(Cow::Borrowed(""))
    }

    /// Whether evaluation has to stop at once: no operator absorbs this.
    pub(crate) fn is_fatal(&self) -> bool {
        matches!(self, EvalError::CallLimit | EvalError::BudgetSpent)
    }
}
