//! Google's Common Expression Language, as Kubernetes 1.35 speaks it in
//! `x-kubernetes-validations` and in admission policies.
//!
//! ```text
//! source ─ lexer, parser ─► tree ─ check ─► types, overloads ─ plan ─► Program ─ eval ─► Value
//!                                   ▲                                    ▲        │
//!                              Env (variables)              Bindings (JSON), Budget
//! ```
//!
//! Usage: declare the variables with their types, compile once, run often.
//!
//! ```
//! use serde_json::json;
//! use weft_cel::{Bindings, Budget, Env, Type};
//!
//! let spec = Type::object("spec", [("replicas".to_owned(), Type::Int)]);
//! let env = Env::new().variable("self", spec);
//! let program = env.compile("self.replicas <= 5").expect("a rule");
//! assert_eq!(program.result_type(), &Type::Bool);
//!
//! let object = json!({"replicas": 3});
//! let bindings = Bindings::new().json("self", &object);
//! let value = program.eval(&bindings, &mut Budget::default()).expect("a value");
//! assert_eq!(value.as_bool(), Some(true));
//! ```
//!
//! Invariants: no source and no JSON makes this crate panic or recurse deeply; evaluation ends,
//! and costs no more than its budget; regular expressions run in linear time; the same program
//! and JSON give the same value.
//!
//! It deliberately does not know: schemas (they become [`Type`]s elsewhere), HTTP, the wording
//! of the API server around an error, time or randomness.
#![forbid(unsafe_code)]

mod ast;
mod budget;
mod check;
mod decls;
mod env;
mod error;
mod escape;
mod eval;
mod lexer;
mod library;
mod parser;
mod plan;
#[cfg(test)]
mod print;
#[cfg(test)]
mod properties;
mod regex;
mod types;
mod unify;
mod value;

pub use budget::{Budget, CALL_LIMIT, OBJECT_LIMIT};
pub use env::{Bindings, Env, Program};
pub use error::{CompileError, CompileErrors, EvalError};
pub use escape::{escape_field, unescape_field};
pub use library::time::Time;
pub use types::{Field, ListKind, ListType, MapType, ObjectType, Opaque, Type};
pub use value::{List, Map, OpaqueValue, Str, TypeName, Value};
