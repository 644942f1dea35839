//! From source to a program: names, compilation, bindings, evaluation.

use crate::{
    budget::Budget,
    error::{CompileErrors, EvalError},
    parser,
    types::Type,
    value::Value,
};
use serde_json::Value as Json;

/// What an expression may speak of. Every function of Kubernetes 1.35 is there; variables are
/// added.
#[derive(Clone, Debug, Default)]
pub struct Env {
    variables: Vec<(String, Type)>,
}

impl Env {
    /// No variables yet.
    pub fn new() -> Env {
        Env::default()
    }

    /// Adds a variable, or replaces the one of that name.
    pub fn variable(mut self, name: impl Into<String>, ty: Type) -> Env {
        let name = name.into();
        self.variables.retain(|(other, _)| *other != name);
        self.variables.push((name, ty));
        self
    }

    /// Parses and checks `source`. The result's type is not looked at: ask
    /// [`Program::result_type`].
    pub fn compile(&self, source: &str) -> Result<Program, CompileErrors> {
        let expr = parser::parse(source).map_err(|found| CompileErrors::new(source, found))?;
        let _ = (expr, &self.variables);
        Ok(Program { result: Type::Dyn, reads: Vec::new() })
    }
}

/// A checked expression, ready to run many times and in many threads.
#[derive(Debug)]
pub struct Program {
    result: Type,
    reads: Vec<String>,
}

impl Program {
    /// The static type of the result.
    pub fn result_type(&self) -> &Type {
        &self.result
    }

    /// Whether the expression reads this variable: one that reads `oldSelf` is a transition
    /// rule.
    pub fn reads(&self, variable: &str) -> bool {
        self.reads.iter().any(|name| name == variable)
    }

    /// Runs the program. The cost is taken from the budget, whatever the outcome; one run costs
    /// no more than [`crate::CALL_LIMIT`].
    pub fn eval<'a>(
        &'a self,
        bindings: &Bindings<'a>,
        budget: &mut Budget,
    ) -> Result<Value<'a>, EvalError> {
        let _ = bindings;
        if !budget.take(1) {
            return Err(EvalError::BudgetSpent);
        }
        Err(EvalError::text("evaluation is not there yet"))
    }
}

/// Values of the variables of one evaluation. A variable without one is an error where it is
/// read.
#[derive(Clone, Debug, Default)]
pub struct Bindings<'a> {
    pub(crate) sources: Vec<(&'a str, Source<'a>)>,
}

#[derive(Clone, Debug)]
pub(crate) enum Source<'a> {
    Json(&'a Json),
    Value(Value<'a>),
}

impl<'a> Bindings<'a> {
    /// None yet.
    pub fn new() -> Bindings<'a> {
        Bindings::default()
    }

    /// Binds JSON, which is read by the variable's declared type. For a variable of an optional
    /// type it is the value that is there.
    pub fn json(mut self, name: &'a str, json: &'a Json) -> Bindings<'a> {
        self.sources.push((name, Source::Json(json)));
        self
    }

    /// Binds a variable of an optional type.
    pub fn optional(self, name: &'a str, json: Option<&'a Json>) -> Bindings<'a> {
        match json {
            Some(json) => self.json(name, json),
            None => self.value(name, Value::Optional(None)),
        }
    }

    /// Binds a value.
    pub fn value(mut self, name: &'a str, value: Value<'a>) -> Bindings<'a> {
        self.sources.push((name, Source::Value(value)));
        self
    }
}
