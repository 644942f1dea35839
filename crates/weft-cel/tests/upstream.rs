//! Every rule of the Gateway API and the Network Policy API: it compiles against what its schema
//! says, and against a `self` of which nothing is known.

use serde_json::{Value as Json, json};
use std::{
    fs,
    path::{Path, PathBuf},
};
use weft_cel::{Bindings, Budget, Env, Type};

mod support;

/// The definitions, or a named skip.
fn upstream_or_skip(test: &str, dir: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/upstream").join(dir);
    if path.is_dir() {
        return Some(path);
    }
    println!("SKIP {test}: ../shared/upstream/{dir} is not there");
    None
}

fn manifests(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            manifests(&path, out);
        } else if path.extension().is_some_and(|e| e == "yaml") {
            out.push(path);
        }
    }
}

/// A rule, and the schema that it stands at.
struct Rule {
    at: String,
    rule: String,
    message_expression: Option<String>,
    optional_old_self: bool,
    schema: Json,
}

fn rules(at: &str, schema: &Json, out: &mut Vec<Rule>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        out.push(Rule {
            at: at.to_owned(),
            rule: rule["rule"].as_str().unwrap_or_default().to_owned(),
            message_expression: rule["messageExpression"].as_str().map(str::to_owned),
            optional_old_self: rule["optionalOldSelf"] == true,
            schema: schema.clone(),
        });
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        rules(&format!("{at}.{name}"), inner, out);
    }
    for key in ["items", "additionalProperties"] {
        if schema[key].is_object() {
            rules(&format!("{at}[]"), &schema[key], out);
        }
    }
}

fn rules_in(dir: &Path) -> Vec<Rule> {
    let mut files = Vec::new();
    manifests(dir, &mut files);
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a file");
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let definition: Json = serde::Deserialize::deserialize(document).expect("YAML");
            if definition["kind"] != "CustomResourceDefinition" {
                continue;
            }
            for version in definition["spec"]["versions"].as_array().into_iter().flatten() {
                let kind = definition["spec"]["names"]["kind"].as_str().unwrap_or_default();
                let name = version["name"].as_str().unwrap_or_default();
                let at = format!("{kind}/{name}");
                let mut schema = version["schema"]["openAPIV3Schema"].clone();
                // What every object has, said or not.
                let text = json!({"type": "string"});
                schema["properties"]["metadata"] =
                    json!({"type": "object", "properties": {"name": text, "generateName": text}});
                rules(&at, &schema, &mut found);
            }
        }
    }
    found
}

fn compile(rule: &Rule, ty: &Type) -> Vec<String> {
    let old = if rule.optional_old_self { Type::optional(ty.clone()) } else { ty.clone() };
    let env = Env::new().variable("self", ty.clone()).variable("oldSelf", old);
    let mut wrong = Vec::new();
    let sources =
        [(Some(&rule.rule), Type::Bool), (rule.message_expression.as_ref(), Type::String)];
    for (source, wanted) in sources {
        let Some(source) = source else { continue };
        match env.compile(source) {
            Ok(program) => {
                let result = program.result_type();
                if *result != wanted && *ty != Type::Dyn {
                    wrong.push(format!("{}: {source}: of type {result}", rule.at));
                }
                // Any document will do to see that nothing breaks.
                for document in [json!(null), json!({}), json!([]), json!("text"), json!(7)] {
                    let bindings =
                        Bindings::new().json("self", &document).json("oldSelf", &document);
                    let _ = program.eval(&bindings, &mut Budget::default());
                }
            }
            Err(errors) => wrong.push(format!("{}: {errors}", rule.at)),
        }
    }
    wrong
}

#[test]
fn every_rule_of_published_definitions_compiles() {
    for (dir, least) in [("gateway-api", 300), ("network-policy-api", 10)] {
        let Some(path) = upstream_or_skip("every_rule_of_published_definitions_compiles", dir)
        else {
            continue;
        };
        let rules = rules_in(&path);
        let mut wrong = Vec::new();
        for rule in &rules {
            wrong.extend(compile(rule, &Type::Dyn));
            wrong.extend(compile(rule, &support::schema_type("self", &rule.schema)));
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        println!("{dir}: {} rules", rules.len());
        assert!(rules.len() >= least, "{dir}: only {} rules", rules.len());
    }
}
