//! Evaluates expressions from standard input, one JSON object a line: `Expr`, and perhaps
//! `Schema` (OpenAPI), `Self` and `OldSelf`. Prints type, value or error, and cost, in the form
//! in which other implementations can be compared with this one.

use serde_json::{Value as Json, json};
use std::io::BufRead;
use weft_cel::{Bindings, Budget, Env};

#[path = "../tests/support/mod.rs"]
mod support;

fn main() {
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("a line");
        let input: Json = serde_json::from_str(&line).expect("JSON");
        println!("{}", answer(&input));
    }
}

fn answer(input: &Json) -> Json {
    let source = input["Expr"].as_str().unwrap_or_default();
    let mut env = Env::new();
    if !input["Schema"].is_null() {
        let ty = support::schema_type("selfType", &input["Schema"]);
        env = env.variable("self", ty.clone()).variable("oldSelf", ty);
    }
    let mut out = json!({"expr": source});
    let program = match env.compile(source) {
        Ok(program) => program,
        Err(errors) => {
            let key = if errors.is_instantiation() { "program" } else { "compile" };
            out[key] = errors.to_string().into();
            return out;
        }
    };
    out["type"] = program.result_type().to_string().into();
    let mut bindings = Bindings::new();
    for (name, key) in [("self", "Self"), ("oldSelf", "OldSelf")] {
        if let Some(json) = input.get(key) {
            bindings = bindings.json(name, json);
        }
    }
    let mut budget = Budget::default();
    match program.eval(&bindings, &mut budget) {
        Ok(value) => out["value"] = support::render(&value).into(),
        Err(error) => out["error"] = error.to_string().into(),
    }
    out["cost"] = budget.spent().into();
    out
}
