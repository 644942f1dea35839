//! Tables of expressions with what Kubernetes 1.35 makes of them: type, value or error, and cost.
//!
//! The tables were filled by running each expression through Kubernetes' own environment (the Go
//! modules `k8s.io/apiserver` 0.35 and cel-go 0.26), not by this crate.

use serde_json::Value as Json;
use weft_cel::{Bindings, Budget, Env};

mod support;

fn check(case: &Json, env: &Env, bindings: &Bindings<'_>) -> Result<(), String> {
    let source = case["expr"].as_str().expect("an expression");
    let wanted = |key: &str| case[key].as_str();
    let program = match env.compile(source) {
        Ok(program) => program,
        Err(errors) => {
            let key = if errors.is_instantiation() { "program" } else { "compile" };
            return match wanted(key) {
                Some(text) if text == errors.to_string() => Ok(()),
                _ => Err(format!("does not compile:\n{errors}")),
            };
        }
    };
    for key in ["compile", "program"] {
        if let Some(text) = wanted(key) {
            return Err(format!("compiles, but should not:\n{text}"));
        }
    }
    let ty = program.result_type().to_string();
    if wanted("type") != Some(&ty) {
        return Err(format!("type is {ty}"));
    }
    let mut budget = Budget::default();
    match program.eval(bindings, &mut budget) {
        Ok(value) if wanted("value") == Some(&support::render(&value)) => {}
        Ok(value) => return Err(format!("value is {}", support::render(&value))),
        Err(error) if wanted("error") == Some(&error.to_string()) => {}
        Err(error) => return Err(format!("error is {error}")),
    }
    if case["cost"] != budget.spent() {
        return Err(format!("cost is {}", budget.spent()));
    }
    Ok(())
}

fn check_all(table: &str, env: &Env, bindings: &Bindings<'_>) {
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in table.lines() {
        let case: Json = serde_json::from_str(line).expect("a JSON object a line");
        count += 1;
        if let Err(why) = check(&case, env, bindings) {
            wrong.push(format!("{}\n  {why}\n  wanted {case}", case["expr"]));
        }
    }
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn expressions_without_variables() {
    check_all(include_str!("data/expressions.jsonl"), &Env::new(), &Bindings::new());
}

#[test]
fn expressions_over_a_document_and_its_schema() {
    let data: Json = serde_json::from_str(include_str!("data/typed.json")).expect("JSON");
    let ty = support::schema_type("selfType", &data["schema"]);
    let env = Env::new().variable("self", ty.clone()).variable("oldSelf", ty);
    let document =
        |case: &Json, key: &str| &data["documents"][case[key].as_u64().expect("a number") as usize];
    let mut wrong = Vec::new();
    for line in include_str!("data/typed.jsonl").lines() {
        let case: Json = serde_json::from_str(line).expect("a JSON object a line");
        let bindings = Bindings::new()
            .json("self", document(&case, "self"))
            .json("oldSelf", document(&case, "oldSelf"));
        if let Err(why) = check(&case, &env, &bindings) {
            wrong.push(format!("{}\n  {why}\n  wanted {case}", case["expr"]));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}
