//! Properties of parser, checker and evaluator on what nobody wrote by hand.

use crate::{
    Bindings, Budget, CALL_LIMIT, Env, EvalError, Type, Value,
    ast::{
        BinaryOp, Call, Comprehension, Element, Entry, Expr, Kind, Macro, Select, SelectMode,
        UnaryOp,
    },
    parser::parse,
    print::print,
};
use proptest::{prelude::*, strategy::Union};
use serde_json::{Value as Json, json};

fn at(kind: Kind) -> Expr {
    Expr { pos: 0, depth: 1, kind }
}

fn over(
    kind: Macro,
    range: Expr,
    (var, var2): (&str, Option<&str>),
    filter: Option<Expr>,
    body: Expr,
) -> Kind {
    let (var, var2) = (var.to_owned(), var2.map(str::to_owned));
    Kind::Comprehension(Box::new(Comprehension { kind, range, var, var2, filter, body }))
}

fn name() -> impl Strategy<Value = String> {
    "[xyz][a-c_]{0,2}"
}

fn double() -> impl Strategy<Value = f64> {
    any::<f64>().prop_filter("literals are finite", |n| n.is_finite())
}

fn expression() -> impl Strategy<Value = Expr> {
    let leaf = Union::new([
        Just(Kind::Null).boxed(),
        any::<bool>().prop_map(Kind::Bool).boxed(),
        any::<i64>().prop_map(Kind::Int).boxed(),
        any::<u64>().prop_map(Kind::Uint).boxed(),
        double().prop_map(Kind::Double).boxed(),
        any::<String>().prop_map(Kind::String).boxed(),
        any::<Vec<u8>>().prop_map(Kind::Bytes).boxed(),
        name().prop_map(Kind::Ident).boxed(),
    ]);
    leaf.prop_map(at).prop_recursive(5, 40, 4, |inner| {
        let binary = prop::sample::select(vec![
            BinaryOp::Or,
            BinaryOp::And,
            BinaryOp::Equal,
            BinaryOp::NotEqual,
            BinaryOp::Less,
            BinaryOp::LessEqual,
            BinaryOp::Greater,
            BinaryOp::GreaterEqual,
            BinaryOp::In,
            BinaryOp::Add,
            BinaryOp::Subtract,
            BinaryOp::Multiply,
            BinaryOp::Divide,
            BinaryOp::Modulo,
        ]);
        let mode =
            prop::sample::select(vec![SelectMode::Plain, SelectMode::Test, SelectMode::Optional]);
        let one = prop::sample::select(vec![
            Macro::All,
            Macro::Exists,
            Macro::ExistsOne,
            Macro::Filter,
            Macro::SortBy,
            Macro::OptMap,
            Macro::OptFlatMap,
        ]);
        let two = prop::sample::select(vec![
            Macro::TransformList,
            Macro::TransformMap,
            Macro::TransformMapEntry,
        ]);
        let unary = prop::sample::select(vec![UnaryOp::Not, UnaryOp::Negate]);
        Union::new([
            (unary, inner.clone()).prop_map(|(op, e)| Kind::Unary(op, Box::new(e))).boxed(),
            (binary, inner.clone(), inner.clone())
                .prop_map(|(op, a, b)| Kind::Binary(op, Box::new([a, b])))
                .boxed(),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| Kind::Ternary(Box::new([a, b, c])))
                .boxed(),
            (inner.clone(), name(), mode)
                .prop_map(|(operand, field, mode)| {
                    Kind::Select(Box::new(Select { operand, field, mode }))
                })
                .boxed(),
            (inner.clone(), inner.clone(), any::<bool>())
                .prop_map(|(a, b, optional)| Kind::Index { args: Box::new([a, b]), optional })
                .boxed(),
            (name(), prop::option::of(inner.clone()), prop::collection::vec(inner.clone(), 0..3))
                .prop_map(|(name, target, args)| Kind::Call(Box::new(Call { name, target, args })))
                .boxed(),
            prop::collection::vec((inner.clone(), any::<bool>()), 0..4)
                .prop_map(|items| {
                    let element = |(expr, optional)| Element { expr, optional };
                    Kind::List(items.into_iter().map(element).collect())
                })
                .boxed(),
            prop::collection::vec((inner.clone(), inner.clone(), any::<bool>()), 0..3)
                .prop_map(|items| {
                    let entry = |(key, value, optional)| Entry { key, value, optional };
                    Kind::Map(items.into_iter().map(entry).collect())
                })
                .boxed(),
            (one, inner.clone(), inner.clone())
                .prop_map(|(kind, range, body)| over(kind, range, ("v", None), None, body))
                .boxed(),
            (two, inner.clone(), prop::option::of(inner.clone()), inner)
                .prop_map(|(kind, range, filter, body)| {
                    over(kind, range, ("k", Some("v")), filter, body)
                })
                .boxed(),
        ])
        .prop_map(at)
    })
}

/// Pieces of the language in no order.
fn soup() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "self",
        ".a",
        ".b",
        ".?c",
        "[0]",
        "[?'a']",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "?",
        "+",
        "-",
        "*",
        "/",
        "%",
        "!",
        "&&",
        "||",
        "==",
        "!=",
        "<",
        ">=",
        " in ",
        "1",
        "2u",
        "0.5",
        "'x'",
        "b'y'",
        "null",
        "true",
        "x",
        ".all(x, ",
        ".exists(x, ",
        ".map(x, ",
        ".filter(x, ",
        ".exists_one(x, ",
        ".transformMap(k, x, ",
        ".sortBy(x, ",
        ".optMap(x, ",
        "size(",
        "has(",
        "string(",
        "int(",
        "dyn(",
        "type(",
        ".size()",
        ".matches('a')",
        ".format([",
        ".split('')",
        ".join()",
        ".sort()",
        ".flatten()",
        "quantity('1')",
        "ip('::1')",
        "optional.of(",
        "duration('1s')",
        "timestamp(0)",
        ".getHours('+01:00')",
        "lists.range(9)",
        ".first()",
        ".orValue(",
        "'''",
        "\"",
        "`",
        "//",
        "\n",
        "\u{e9}",
        "if",
        ".charAt(1)",
        ".replace('', ",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn document() -> Json {
    json!({
        "a": [1, 2, 3], "b": {"x": "y", "z": null}, "c": "text", "n": 1.5, "t": true,
        "list": [{"k": 1, "v": "a"}, {"k": 2, "v": "b"}],
    })
}

fn typed() -> Type {
    let item = Type::object("item", [("k".into(), Type::Int), ("v".into(), Type::String)]);
    Type::object(
        "self",
        [
            ("a".into(), Type::set(Type::Int)),
            ("b".into(), Type::map(Type::String)),
            ("c".into(), Type::String),
            ("n".into(), Type::Double),
            ("t".into(), Type::Bool),
            ("list".into(), Type::list_map(item, ["k".to_owned()])),
        ],
    )
}

/// Compiles and runs, whatever comes of it.
fn run(source: &str) {
    let json = document();
    for ty in [Type::Dyn, typed()] {
        let env = Env::new().variable("self", ty).variable("x", Type::Dyn);
        let Ok(program) = env.compile(source) else { continue };
        let mut budget = Budget::default();
        let bindings = Bindings::new().json("self", &json).json("x", &json);
        let _ = program.eval(&bindings, &mut budget);
        assert!(budget.spent() < 2 * CALL_LIMIT, "{source}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        run(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn soup_never_panics(source in soup()) {
        run(&source);
    }

    #[test]
    fn printed_expressions_run_without_panics(expr in expression()) {
        run(&print(&expr));
    }

    #[test]
    fn what_is_printed_parses_to_the_same(expr in expression()) {
        let text = print(&expr);
        let again = parse(&text).map_err(|e| TestCaseError::fail(format!("{text}: {e:?}")))?;
        prop_assert_eq!(again, expr, "{}", text);
    }

    #[test]
    fn integers_calculate_as_integers(a in any::<i64>(), b in any::<i64>(), small in -9_i64..9) {
        for (x, y) in [(a, b), (a, small), (small, b), (small, small)] {
            let (wide_x, wide_y) = (i128::from(x), i128::from(y));
            for (op, wanted) in [
                ("+", Some(wide_x + wide_y)),
                ("-", Some(wide_x - wide_y)),
                ("*", Some(wide_x * wide_y)),
                ("/", wide_x.checked_div(wide_y)),
                ("%", wide_x.checked_rem(wide_y)),
            ] {
                let source = format!("x {op} y");
                let env = Env::new().variable("x", Type::Int).variable("y", Type::Int);
                let program = env.compile(&source).expect("a sum");
                let bindings =
                    Bindings::new().value("x", Value::Int(x)).value("y", Value::Int(y));
                let got = program.eval(&bindings, &mut Budget::default());
                // The remainder of the least integer by -1 overflows in the reference too.
                let overflows = op == "%" && x == i64::MIN && y == -1;
                match wanted.and_then(|w| i64::try_from(w).ok()).filter(|_| !overflows) {
                    Some(wanted) => prop_assert!(matches!(got, Ok(Value::Int(n)) if n == wanted)),
                    None => prop_assert!(got.is_err()),
                }
            }
        }
    }

    #[test]
    fn logic_is_the_table_of_three_values(formula in formula()) {
        let env = Env::new();
        let got = env.compile(&formula.source()).expect("a formula").eval_to_three();
        prop_assert_eq!(got, formula.value(), "{}", formula.source());
    }
}

/// True, false or an error.
type Three = Option<bool>;

#[derive(Clone, Debug)]
enum Formula {
    Leaf(Three),
    Not(Box<Formula>),
    And(Box<Formula>, Box<Formula>),
    Or(Box<Formula>, Box<Formula>),
    If(Box<Formula>, Box<Formula>, Box<Formula>),
}

impl Formula {
    fn source(&self) -> String {
        match self {
            Formula::Leaf(Some(b)) => b.to_string(),
            Formula::Leaf(None) => "(1 / 0 > 0)".to_owned(),
            Formula::Not(a) => format!("!({})", a.source()),
            Formula::And(a, b) => format!("({} && {})", a.source(), b.source()),
            Formula::Or(a, b) => format!("({} || {})", a.source(), b.source()),
            Formula::If(a, b, c) => format!("({} ? {} : {})", a.source(), b.source(), c.source()),
        }
    }

    fn value(&self) -> Three {
        match self {
            Formula::Leaf(value) => *value,
            Formula::Not(a) => a.value().map(|b| !b),
            Formula::And(a, b) => match (a.value(), b.value()) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            Formula::Or(a, b) => match (a.value(), b.value()) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            },
            Formula::If(a, b, c) => a.value().and_then(|a| if a { b.value() } else { c.value() }),
        }
    }
}

fn formula() -> impl Strategy<Value = Formula> {
    prop::option::of(any::<bool>()).prop_map(Formula::Leaf).prop_recursive(6, 60, 3, |inner| {
        let boxed = inner.prop_map(Box::new);
        prop_oneof![
            boxed.clone().prop_map(Formula::Not),
            (boxed.clone(), boxed.clone()).prop_map(|(a, b)| Formula::And(a, b)),
            (boxed.clone(), boxed.clone()).prop_map(|(a, b)| Formula::Or(a, b)),
            (boxed.clone(), boxed.clone(), boxed).prop_map(|(a, b, c)| Formula::If(a, b, c)),
        ]
    })
}

impl crate::Program {
    fn eval_to_three(&self) -> Three {
        match self.eval(&Bindings::new(), &mut Budget::default()) {
            Ok(value) => Some(value.as_bool().expect("a boolean")),
            Err(_) => None,
        }
    }
}

#[test]
fn deep_sources_are_refused_or_run_on_a_small_stack() {
    let deep =
        |open: &str, close: &str, n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
    let sources = [
        deep("(", ")", 90_000 / 2),
        deep("[", "]", 45_000),
        deep("{1:", "}", 20_000),
        deep("dyn(", ")", 15_000),
        "!".repeat(99_000) + "true",
        "-".repeat(99_000) + "1",
        "1 + ".repeat(20_000) + "1",
        "true && ".repeat(10_000) + "true",
        "true ? 1 : ".repeat(9_000) + "1",
        "x".to_owned() + &".a".repeat(40_000),
        "x".to_owned() + &"[0]".repeat(30_000),
        "x".to_owned() + &".size()".repeat(12_000),
        "[1]".to_owned() + &".map(i, [i])".repeat(8_000),
        "[1]".to_owned() + &".map(i, [i])".repeat(120),
        deep("[", "]", 240),
        deep("(", ")", 240),
        "1 + ".repeat(240) + "1",
        "x".to_owned() + &".a".repeat(240),
        "true && ".repeat(240) + "true",
        // Each step nests what the one before it made.
        "optional.of([1])".to_owned()
            + &format!(".optMap(a, {})", "[".repeat(100) + "a" + &"]".repeat(100)).repeat(100),
    ];
    // Threads of servers have two mebibytes; half of that has to do.
    let thread = std::thread::Builder::new().stack_size(1 << 20);
    let ran = thread.spawn(move || sources.iter().for_each(|s| run(s))).expect("a thread").join();
    assert!(ran.is_ok());
}

#[test]
fn abuse_ends_at_the_limit() {
    let million = "lists.range(900000)";
    let list = "[1,2,3,4,5,6,7,8,9,10]";
    let nested = (0..12).fold("true".to_owned(), |body, i| format!("{list}.all(x{i}, {body})"));
    let doubling = "[1,1]".to_owned();
    let doubling = (0..60)
        .fold(format!("optional.of({doubling})"), |s, _| format!("{s}.optMap(a, dyn([a, a]))"));
    for source in [
        nested,
        format!("{million}.map(x, {million})"),
        "lists.range(9223372036854775807).size() > 0".to_owned(),
        format!("{million}.map(x, 'a').join('aaaaaaaaaaaaaaaaaaaa').size() > 0"),
        format!("{million}.sort().size() > 0"),
        format!("{million}.map(i, i).filter(i, i > 0).exists(i, i < 0)"),
        "lists.range(20000).all(i, 'a'.matches('(a{500}' + string(i) + ')?'))".to_owned(),
        format!("{doubling}.value() == {doubling}.value()"),
        format!("[{doubling}.value()].flatten(100).size() > 0"),
        format!("'%s'.format([{doubling}.value()]).size() > 0"),
        "lists.range(9000).map(i, '0123456789').join().replace('', lists.range(9000).map(i, '0123456789').join()).size() > 0".to_owned(),
    ] {
        let program = Env::new().compile(&source).unwrap_or_else(|e| panic!("{source}: {e}"));
        let mut budget = Budget::default();
        let result = program.eval(&Bindings::new(), &mut budget);
        // A step that costs more than all of the budget is told as that.
        let stopped = matches!(result, Err(EvalError::CallLimit | EvalError::BudgetSpent));
        assert!(stopped, "{source}: {result:?}");
    }
}

#[test]
fn a_budget_is_for_all_runs_together() {
    let program = Env::new().compile("[1, 2, 3].all(i, i > 0)").expect("a rule");
    let mut budget = Budget::new(40);
    for _ in 0..2 {
        assert!(program.eval(&Bindings::new(), &mut budget).is_ok());
    }
    assert_eq!((budget.left(), budget.spent()), (8, 32));
    let third = program.eval(&Bindings::new(), &mut budget);
    assert!(matches!(third, Err(EvalError::BudgetSpent)));
    assert_eq!((budget.left(), budget.spent()), (0, 48));
}
