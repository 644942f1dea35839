//! Prints what typical rules take: compilation, and evaluation a run and a unit of cost.
//! Not a test: the figures are the machine's.

use serde_json::json;
use std::{hint::black_box, time::Instant};
use weft_cel::{Bindings, Budget, Env, Type, Value};

fn main() {
    let item = Type::object("item", [("name".into(), Type::String), ("port".into(), Type::Int)]);
    let ty = Type::object(
        "spec",
        [
            ("minReplicas".into(), Type::Int),
            ("replicas".into(), Type::Int),
            ("name".into(), Type::String),
            ("tags".into(), Type::set(Type::String)),
            ("ports".into(), Type::list_map(item, ["name".to_owned()])),
        ],
    );
    let ports: Vec<_> = (0..10).map(|i| json!({"name": format!("p{i}"), "port": i})).collect();
    let object = json!({
        "minReplicas": 1, "replicas": 3, "name": "web-frontend", "tags": ["a", "b", "c"],
        "ports": ports,
    });
    let env = Env::new().variable("self", ty.clone()).variable("oldSelf", ty);
    let old = object.clone();
    println!("{:>10} {:>10} {:>6} {:>8}  rule", "compile ns", "eval ns", "cost", "ns/unit");
    for rule in [
        "self.minReplicas <= self.replicas",
        "self.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "self.name in ['web-frontend', 'web-backend', 'other']",
        "self.tags == oldSelf.tags",
        "self.ports.all(p, p.port >= 0 && p.port < 65536)",
        "self.ports.all(p, self.ports.exists_one(q, q.name == p.name))",
        "self.ports.map(p, p.name).join(',').size() > 3",
    ] {
        let runs = 2_000;
        let start = Instant::now();
        for _ in 0..200 {
            black_box(env.compile(black_box(rule)).expect("a rule"));
        }
        let compile = start.elapsed().as_nanos() / 200;
        let program = env.compile(rule).expect("a rule");
        let mut spent = 0;
        let start = Instant::now();
        for _ in 0..runs {
            let bindings = Bindings::new().json("self", &object).json("oldSelf", &old);
            let mut budget = Budget::default();
            let value = program.eval(&bindings, &mut budget).expect("a value");
            assert!(matches!(value, Value::Bool(true)));
            spent = budget.spent();
        }
        let eval = start.elapsed().as_nanos() / runs;
        println!(
            "{compile:>10} {eval:>10} {spent:>6} {:>8}  {rule}",
            eval / u128::from(spent.max(1))
        );
    }
}
