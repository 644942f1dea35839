//! Any text is an expression or refused; what compiles runs within its budget, on typed and on
//! untyped documents.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Value as Json, json};
use std::sync::LazyLock;
use weft_cel::{Bindings, Budget, CALL_LIMIT, Env, Type};

static DOCUMENT: LazyLock<Json> = LazyLock::new(|| {
    json!({
        "a": [1, 2, 3], "b": {"x": "y", "z": null}, "c": "text", "n": 1.5, "t": true,
        "when": "2024-02-29T12:00:00Z", "ttl": "1h", "raw": "YQ==",
        "list": [{"k": 1, "v": "a"}, {"k": 2, "v": "b"}],
    })
});

static ENVS: LazyLock<[Env; 2]> = LazyLock::new(|| {
    let item = Type::object("item", [("k".into(), Type::Int), ("v".into(), Type::String)]);
    let typed = Type::object(
        "self",
        [
            ("a".into(), Type::set(Type::Int)),
            ("b".into(), Type::map(Type::String)),
            ("c".into(), Type::String),
            ("n".into(), Type::Double),
            ("t".into(), Type::Bool),
            ("when".into(), Type::Timestamp),
            ("ttl".into(), Type::Duration),
            ("raw".into(), Type::Bytes),
            ("list".into(), Type::list_map(item, ["k".to_owned()])),
        ],
    );
    [typed, Type::Dyn].map(|ty| Env::new().variable("self", ty).variable("x", Type::Dyn))
});

fuzz_target!(|source: &str| {
    for env in &*ENVS {
        match env.compile(source) {
            Ok(program) => {
                let mut budget = Budget::default();
                let bindings = Bindings::new().json("self", &DOCUMENT).json("x", &DOCUMENT);
                if let Err(error) = program.eval(&bindings, &mut budget) {
                    assert!(!error.to_string().is_empty());
                } else {
                    assert!(budget.spent() <= CALL_LIMIT);
                }
            }
            Err(errors) => assert!(!errors.to_string().is_empty()),
        }
    }
});
