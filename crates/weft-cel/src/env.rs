//! From source to a program: names, compilation, bindings, evaluation.

use crate::{
    budget::{Budget, Meter},
    check::{self, Refused},
    error::{CompileErrors, EvalError},
    eval::Run,
    parser,
    plan::Node,
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
        match check::check(&expr, &self.variables) {
            Ok(checked) => Ok(Program {
                variables: self.variables.clone(),
                result: checked.ty,
                reads: checked.reads,
                locals: checked.locals,
                root: checked.node,
            }),
            Err(Refused::Found(found)) => Err(CompileErrors::new(source, found)),
            Err(Refused::Constant(message)) => Err(CompileErrors::instantiation(message)),
        }
    }
}

/// A checked expression, ready to run many times and in many threads.
#[derive(Debug)]
pub struct Program {
    variables: Vec<(String, Type)>,
    result: Type,
    /// Which of the variables it reads.
    reads: Vec<bool>,
    locals: u16,
    root: Node,
}

impl Program {
    /// The static type of the result.
    pub fn result_type(&self) -> &Type {
        &self.result
    }

    /// Whether the expression reads this variable: one that reads `oldSelf` is a transition
    /// rule.
    pub fn reads(&self, variable: &str) -> bool {
        self.variables.iter().zip(&self.reads).any(|((name, _), reads)| name == variable && *reads)
    }

    /// Runs the program. The cost is taken from the budget, whatever the outcome; one run costs
    /// no more than [`crate::CALL_LIMIT`]. A budget that is overdrawn by this run takes its
    /// result away, as in the real API.
    pub fn eval<'a>(
        &'a self,
        bindings: &Bindings<'a>,
        budget: &mut Budget,
    ) -> Result<Value<'a>, EvalError> {
        let bound = |name: &str| bindings.sources.iter().rev().find(|(n, _)| *n == name);
        let globals =
            self.variables.iter().map(|(name, _)| bound(name).map(|(_, s)| s.clone())).collect();
        let mut run = Run {
            variables: &self.variables,
            globals,
            locals: vec![Value::Null; self.locals as usize],
            meter: Meter::default(),
        };
        let result = run.eval(&self.root);
        if !budget.take(run.meter.cost()) {
            return Err(EvalError::BudgetSpent);
        }
        result
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
