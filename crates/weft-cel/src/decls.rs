//! The functions of Kubernetes 1.35: names, signatures, what each call costs, who computes it.

use crate::{
    eval::Native,
    library::{convert, lists, misc, strings, temporal},
    types::{ListKind, ListType, MapType, Opaque, Type},
};
use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

/// What a call costs, in cel-go's units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cost {
    One,
    /// A tenth of the first argument's size, rounded up; times this many.
    Traverse(u64),
    /// A fifth of the result's size.
    Result,
    /// A tenth of the smaller argument.
    Smaller,
    /// A tenth of both arguments.
    Both,
    /// The second argument's size.
    Second,
    /// Text times pattern.
    Regex,
    Contains,
    /// Every element of the first argument.
    Elements,
    /// The product of both sizes; times this many.
    Product(u64),
    /// Eleven and the result's size.
    Made,
    /// Eleven and the first argument's size for each level that the second says.
    Flatten,
    /// Eleven and twice the square of the size of this argument, a list.
    Square(usize),
    ContainsIp {
        parses: bool,
    },
    ContainsCidr {
        parses: bool,
    },
    Validate,
}

#[derive(Debug)]
pub(crate) struct Function {
    pub name: &'static str,
    pub overloads: Vec<Overload>,
    /// Absent for operators, which the evaluator knows itself.
    pub native: Option<Native>,
}

#[derive(Debug)]
pub(crate) struct Overload {
    pub member: bool,
    pub params: Vec<Type>,
    pub result: Type,
    /// How many type parameters it has: `Var(0)` and on.
    pub vars: u32,
    pub cost: Cost,
    /// Whether the cost holds too where several overloads may apply.
    pub cost_by_name: bool,
}

/// The function with this name.
pub(crate) fn lookup(name: &str) -> Option<&'static Function> {
    FUNCTIONS.get(name)
}

static FUNCTIONS: LazyLock<HashMap<&'static str, Function>> = LazyLock::new(|| {
    let mut functions: HashMap<&'static str, Function> = HashMap::new();
    for (name, native, rows) in TABLE {
        let function = functions.entry(name).or_insert_with(|| Function {
            name,
            overloads: Vec::new(),
            native: *native,
        });
        for (signature, cost) in *rows {
            function.overloads.extend(overloads(signature, *cost, by_name(name)));
        }
    }
    functions
});

/// Kubernetes reckons by the function's name alone; cel-go by the overload, if it is one.
fn by_name(name: &str) -> bool {
    matches!(
        name,
        "isSorted"
            | "sum"
            | "max"
            | "min"
            | "indexOf"
            | "lastIndexOf"
            | "url"
            | "lowerAscii"
            | "upperAscii"
            | "substring"
            | "trim"
            | "replace"
            | "split"
            | "join"
            | "find"
            | "findAll"
            | "cidr"
            | "isIP"
            | "isCIDR"
            | "ip"
            | "ip.isCanonical"
            | "containsIP"
            | "containsCIDR"
            | "quantity"
            | "isQuantity"
            | "semver"
            | "isSemver"
            | "validate"
    )
}

/// Types that have an order.
const ORDERED: [&str; 8] =
    ["int", "uint", "double", "bool", "duration", "timestamp", "string", "bytes"];

/// One signature; `$` in it stands for each of the ordered types.
fn overloads(signature: &str, cost: Cost, cost_by_name: bool) -> Vec<Overload> {
    if signature.contains('$') {
        let each = ORDERED.iter().map(|ty| signature.replace('$', ty));
        return each.flat_map(|s| overloads(&s, cost, cost_by_name)).collect();
    }
    let (params, result) =
        signature.split_once(" -> ").expect("invariant: each row of the table has a result");
    let (member, params) = match params.strip_prefix("m ") {
        Some(params) => (true, params),
        None => (false, params.trim_start_matches('f').trim_start()),
    };
    let mut vars = Vec::new();
    let params = split(params).map(|p| parse_type(p, &mut vars)).collect();
    let result = parse_type(result, &mut vars);
    vec![Overload { member, params, result, vars: vars.len() as u32, cost, cost_by_name }]
}

/// Splits at the commas outside of parentheses.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    let outside = text.split(move |c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    });
    outside.map(str::trim).filter(|part| !part.is_empty())
}

fn parse_type<'t>(text: &'t str, vars: &mut Vec<&'t str>) -> Type {
    if let Some((name, inner)) = text.strip_suffix(')').and_then(|t| t.split_once('(')) {
        let mut of =
            split(inner).map(|part| parse_type(part, vars)).collect::<Vec<_>>().into_iter();
        let mut next = || of.next().expect("invariant: each type of the table is complete");
        return match name {
            "list" => Type::List(Arc::new(ListType { elem: next(), kind: ListKind::Atomic })),
            "map" => {
                let key = next();
                Type::Map(Arc::new(MapType { key, value: next() }))
            }
            "optional" => Type::optional(next()),
            _ => Type::Type(Arc::new(next())),
        };
    }
    match text {
        "dyn" => Type::Dyn,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "Quantity" => Type::Opaque(Opaque::Quantity),
        "IP" => Type::Opaque(Opaque::Ip),
        "CIDR" => Type::Opaque(Opaque::Cidr),
        "URL" => Type::Opaque(Opaque::Url),
        "Format" => Type::Opaque(Opaque::Format),
        "Semver" => Type::Opaque(Opaque::Semver),
        var => {
            let found = vars.iter().position(|v| *v == var).unwrap_or_else(|| {
                vars.push(var);
                vars.len() - 1
            });
            Type::Var(found as u32)
        }
    }
}

type Row = (&'static str, Option<Native>, &'static [(&'static str, Cost)]);

use Cost::*;

/// `f` a function, `m` a method with its receiver first. The order of overloads is cel-go's.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    ("_?_:_", None, &[("f bool, A, A -> A", One)]),
    ("!_", None, &[("f bool -> bool", One)]),
    ("-_", None, &[("f double -> double", One), ("f int -> int", One)]),
    ("_==_", None, &[("f A, A -> bool", Smaller)]),
    ("_!=_", None, &[("f A, A -> bool", Smaller)]),
    ("_+_", None, &[
        ("f bytes, bytes -> bytes", Both), ("f double, double -> double", One),
        ("f duration, duration -> duration", One), ("f duration, timestamp -> timestamp", One),
        ("f timestamp, duration -> timestamp", One), ("f int, int -> int", One),
        ("f list(A), list(A) -> list(A)", One), ("f string, string -> string", Both),
        ("f uint, uint -> uint", One),
    ]),
    ("_-_", None, &[
        ("f double, double -> double", One), ("f duration, duration -> duration", One),
        ("f int, int -> int", One), ("f timestamp, duration -> timestamp", One),
        ("f timestamp, timestamp -> duration", One), ("f uint, uint -> uint", One),
    ]),
    ("_*_", None, &[("f double, double -> double", One), ("f int, int -> int", One), ("f uint, uint -> uint", One)]),
    ("_/_", None, &[("f double, double -> double", One), ("f int, int -> int", One), ("f uint, uint -> uint", One)]),
    ("_%_", None, &[("f int, int -> int", One), ("f uint, uint -> uint", One)]),
    ("_<_", None, COMPARED), ("_<=_", None, COMPARED), ("_>_", None, COMPARED), ("_>=_", None, COMPARED),
    ("_[_]", None, &[
        ("f list(A), int -> A", One), ("f map(A, B), A -> B", One),
        ("f optional(list(V)), int -> optional(V)", One),
        ("f optional(map(K, V)), K -> optional(V)", One),
    ]),
    ("_[?_]", None, &[
        ("f list(V), int -> optional(V)", One), ("f optional(list(V)), int -> optional(V)", One),
        ("f map(K, V), K -> optional(V)", One), ("f optional(map(K, V)), K -> optional(V)", One),
    ]),
    ("@in", None, &[("f A, list(A) -> bool", Second), ("f A, map(A, B) -> bool", One)]),
    ("@mapInsert", None, &[("f map(K, V), map(K, V) -> map(K, V)", One)]),
    ("@sortByAssociatedKeys", None, &[("m list(T), list($) -> list(T)", Square(1))]),

    ("size", Some(misc::size), &[
        ("f bytes -> int", One), ("m bytes -> int", One), ("f list(A) -> int", One), ("m list(A) -> int", One),
        ("f map(A, B) -> int", One), ("m map(A, B) -> int", One), ("f string -> int", One), ("m string -> int", One),
    ]),
    ("type", Some(misc::type_of), &[("f A -> type(A)", One)]),
    ("dyn", Some(misc::identity), &[("f A -> dyn", One)]),
    ("bool", Some(convert::to_bool), &[("f bool -> bool", One), ("f string -> bool", One)]),
    ("bytes", Some(convert::to_bytes), &[("f bytes -> bytes", One), ("f string -> bytes", Traverse(1))]),
    ("double", Some(convert::to_double), &[
        ("f double -> double", One), ("f int -> double", One), ("f string -> double", One), ("f uint -> double", One),
    ]),
    ("duration", Some(convert::to_duration), &[
        ("f duration -> duration", One), ("f int -> duration", One), ("f string -> duration", One),
    ]),
    ("int", Some(convert::to_int), &[
        ("f int -> int", One), ("f double -> int", One), ("f duration -> int", One), ("f string -> int", One),
        ("f timestamp -> int", One), ("f uint -> int", One),
    ]),
    ("string", Some(convert::to_string), &[
        ("f string -> string", One), ("f bool -> string", One), ("f bytes -> string", Traverse(1)),
        ("f double -> string", One), ("f duration -> string", One), ("f int -> string", One),
        ("f timestamp -> string", One), ("f uint -> string", One), ("f IP -> string", One), ("f CIDR -> string", One),
    ]),
    ("timestamp", Some(convert::to_timestamp), &[
        ("f timestamp -> timestamp", One), ("f int -> timestamp", One), ("f string -> timestamp", One),
    ]),
    ("uint", Some(convert::to_uint), &[
        ("f uint -> uint", One), ("f double -> uint", One), ("f int -> uint", One), ("f string -> uint", One),
    ]),

    ("contains", Some(strings::contains), &[("m string, string -> bool", Contains)]),
    ("endsWith", Some(strings::ends_with), &[("m string, string -> bool", Traverse(1))]),
    ("startsWith", Some(strings::starts_with), &[("m string, string -> bool", Traverse(1))]),
    ("matches", Some(strings::matches), &[("f string, string -> bool", One), ("m string, string -> bool", Regex)]),
    ("charAt", Some(strings::char_at), &[("m string, int -> string", One)]),
    ("indexOf", Some(misc::index_of), &[
        ("m list(A), A -> int", Elements), ("m string, string -> int", Elements),
        ("m string, string, int -> int", Elements),
    ]),
    ("lastIndexOf", Some(misc::last_index_of), &[
        ("m list(A), A -> int", Elements), ("m string, string -> int", Elements),
        ("m string, string, int -> int", Elements),
    ]),
    ("lowerAscii", Some(strings::lower_ascii), &[("m string -> string", Traverse(1))]),
    ("upperAscii", Some(strings::upper_ascii), &[("m string -> string", Traverse(1))]),
    ("replace", Some(strings::replace), &[
        ("m string, string, string -> string", Traverse(2)), ("m string, string, string, int -> string", Traverse(2)),
    ]),
    ("split", Some(strings::split), &[
        ("m string, string -> list(string)", Traverse(2)), ("m string, string, int -> list(string)", Traverse(2)),
    ]),
    ("substring", Some(strings::substring), &[
        ("m string, int -> string", Traverse(1)), ("m string, int, int -> string", Traverse(1)),
    ]),
    ("trim", Some(strings::trim), &[("m string -> string", Traverse(1))]),
    ("format", Some(strings::format), &[("m string, list(dyn) -> string", Traverse(1))]),
    ("strings.quote", Some(strings::quote), &[("f string -> string", Traverse(1))]),
    ("join", Some(strings::join), &[("m list(string) -> string", Result), ("m list(string), string -> string", Result)]),
    ("find", Some(strings::find), &[("m string, string -> string", Regex)]),
    ("findAll", Some(strings::find_all), &[
        ("m string, string -> list(string)", Regex), ("m string, string, int -> list(string)", Regex),
    ]),

    ("isSorted", Some(lists::is_sorted), &[("m list($) -> bool", Elements)]),
    ("sum", Some(lists::sum), &[
        ("m list(int) -> int", Elements), ("m list(uint) -> uint", Elements),
        ("m list(double) -> double", Elements), ("m list(duration) -> duration", Elements),
    ]),
    ("max", Some(lists::max), &[("m list($) -> $", Elements)]),
    ("min", Some(lists::min), &[("m list($) -> $", Elements)]),
    ("slice", Some(lists::slice), &[("m list(T), int, int -> list(T)", Made)]),
    ("flatten", Some(lists::flatten), &[("m list(list(T)) -> list(T)", Flatten), ("m list(dyn), int -> list(dyn)", Flatten)]),
    ("sort", Some(lists::sort), &[("m list($) -> list($)", Square(0))]),
    ("lists.range", Some(lists::range), &[("f int -> list(int)", Made)]),
    ("reverse", Some(lists::reverse), &[("m list(T) -> list(T)", Made)]),
    ("distinct", Some(lists::distinct), &[("m list(T) -> list(T)", Square(0))]),
    ("first", Some(lists::first), &[("m list(V) -> optional(V)", One)]),
    ("last", Some(lists::last), &[("m list(V) -> optional(V)", One)]),
    ("sets.contains", Some(lists::sets_contains), &[("f list(T), list(T) -> bool", Product(1))]),
    ("sets.equivalent", Some(lists::sets_equivalent), &[("f list(T), list(T) -> bool", Product(2))]),
    ("sets.intersects", Some(lists::sets_intersects), &[("f list(T), list(T) -> bool", Product(1))]),

    ("optional.none", Some(misc::optional_none), &[("f -> optional(V)", One)]),
    ("optional.of", Some(misc::optional_of), &[("f V -> optional(V)", One)]),
    ("optional.ofNonZeroValue", Some(misc::optional_of_non_zero), &[("f V -> optional(V)", One)]),
    ("optional.unwrap", Some(misc::unwrap_optionals), &[("f list(optional(V)) -> list(V)", One)]),
    ("unwrapOpt", Some(misc::unwrap_optionals), &[("m list(optional(V)) -> list(V)", One)]),
    ("hasValue", Some(misc::has_value), &[("m optional(V) -> bool", One)]),
    ("value", Some(misc::optional_value), &[("m optional(V) -> V", One)]),
    ("or", None, &[("m optional(V), optional(V) -> optional(V)", One)]),
    ("orValue", None, &[("m optional(V), V -> V", One)]),

    ("getFullYear", Some(temporal::full_year), ZONED), ("getMonth", Some(temporal::month), ZONED),
    ("getDate", Some(temporal::date), ZONED), ("getDayOfMonth", Some(temporal::day_of_month), ZONED),
    ("getDayOfWeek", Some(temporal::day_of_week), ZONED), ("getDayOfYear", Some(temporal::day_of_year), ZONED),
    ("getHours", Some(temporal::hours), ZONED_OR_LONG), ("getMinutes", Some(temporal::minutes), ZONED_OR_LONG),
    ("getSeconds", Some(temporal::seconds), ZONED_OR_LONG),
    ("getMilliseconds", Some(temporal::milliseconds), ZONED_OR_LONG),

    ("quantity", Some(misc::quantity), &[("f string -> Quantity", Traverse(1))]),
    ("isQuantity", Some(misc::is_quantity), &[("f string -> bool", Traverse(1))]),
    ("sign", Some(misc::quantity_sign), &[("f Quantity -> int", One)]),
    ("isInteger", Some(misc::quantity_is_integer), &[("m Quantity -> bool", One)]),
    ("asInteger", Some(misc::quantity_as_integer), &[("m Quantity -> int", One)]),
    ("asApproximateFloat", Some(misc::quantity_as_float), &[("m Quantity -> double", One)]),
    ("add", Some(misc::quantity_add), &[("m Quantity, Quantity -> Quantity", One), ("m Quantity, int -> Quantity", One)]),
    ("sub", Some(misc::quantity_sub), &[("m Quantity, Quantity -> Quantity", One), ("m Quantity, int -> Quantity", One)]),
    ("isGreaterThan", Some(misc::is_greater_than), &[("m Quantity, Quantity -> bool", One), ("m Semver, Semver -> bool", One)]),
    ("isLessThan", Some(misc::is_less_than), &[("m Quantity, Quantity -> bool", One), ("m Semver, Semver -> bool", One)]),
    ("compareTo", Some(misc::compare_to), &[("m Quantity, Quantity -> int", One), ("m Semver, Semver -> int", One)]),

    ("semver", Some(misc::semver), &[("f string -> Semver", Traverse(1)), ("f string, bool -> Semver", Traverse(1))]),
    ("isSemver", Some(misc::is_semver), &[("f string -> bool", Traverse(1)), ("f string, bool -> bool", Traverse(1))]),
    ("major", Some(misc::semver_major), &[("m Semver -> int", One)]),
    ("minor", Some(misc::semver_minor), &[("m Semver -> int", One)]),
    ("patch", Some(misc::semver_patch), &[("m Semver -> int", One)]),

    ("ip", Some(misc::ip), &[("f string -> IP", Traverse(1)), ("m CIDR -> IP", One)]),
    ("isIP", Some(misc::is_ip), &[("f string -> bool", Traverse(1))]),
    ("ip.isCanonical", Some(misc::ip_is_canonical), &[("f string -> bool", Traverse(2))]),
    ("family", Some(misc::ip_family), &[("m IP -> int", One)]),
    ("isUnspecified", Some(misc::ip_is_unspecified), &[("m IP -> bool", One)]),
    ("isLoopback", Some(misc::ip_is_loopback), &[("m IP -> bool", One)]),
    ("isLinkLocalMulticast", Some(misc::ip_is_link_local_multicast), &[("m IP -> bool", One)]),
    ("isLinkLocalUnicast", Some(misc::ip_is_link_local_unicast), &[("m IP -> bool", One)]),
    ("isGlobalUnicast", Some(misc::ip_is_global_unicast), &[("m IP -> bool", One)]),
    ("cidr", Some(misc::cidr), &[("f string -> CIDR", Traverse(1))]),
    ("isCIDR", Some(misc::is_cidr), &[("f string -> bool", Traverse(1))]),
    ("containsIP", Some(misc::cidr_contains_ip), &[
        ("m CIDR, string -> bool", ContainsIp { parses: true }), ("m CIDR, IP -> bool", ContainsIp { parses: false }),
    ]),
    ("containsCIDR", Some(misc::cidr_contains_cidr), &[
        ("m CIDR, string -> bool", ContainsCidr { parses: true }), ("m CIDR, CIDR -> bool", ContainsCidr { parses: false }),
    ]),
    ("masked", Some(misc::cidr_masked), &[("m CIDR -> CIDR", One)]),
    ("prefixLength", Some(misc::cidr_prefix_length), &[("m CIDR -> int", One)]),

    ("url", Some(misc::url), &[("f string -> URL", Traverse(1))]),
    ("isURL", Some(misc::is_url), &[("f string -> bool", One)]),
    ("getScheme", Some(misc::url_scheme), &[("m URL -> string", One)]),
    ("getHost", Some(misc::url_host), &[("m URL -> string", One)]),
    ("getHostname", Some(misc::url_hostname), &[("m URL -> string", One)]),
    ("getPort", Some(misc::url_port), &[("m URL -> string", One)]),
    ("getEscapedPath", Some(misc::url_escaped_path), &[("m URL -> string", One)]),
    ("getQuery", Some(misc::url_query), &[("m URL -> map(string, list(string))", One)]),

    ("format.named", Some(misc::format_named), &[("f string -> optional(Format)", One)]),
    ("validate", Some(misc::format_validate), &[("m Format, string -> optional(list(string))", Validate)]),
];

const COMPARED: &[(&str, Cost)] = &[
    ("f bool, bool -> bool", One),
    ("f int, int -> bool", One),
    ("f int, double -> bool", One),
    ("f int, uint -> bool", One),
    ("f uint, uint -> bool", One),
    ("f uint, double -> bool", One),
    ("f uint, int -> bool", One),
    ("f double, double -> bool", One),
    ("f double, int -> bool", One),
    ("f double, uint -> bool", One),
    ("f string, string -> bool", Smaller),
    ("f bytes, bytes -> bool", Smaller),
    ("f timestamp, timestamp -> bool", One),
    ("f duration, duration -> bool", One),
];

const ZONED: &[(&str, Cost)] = &[("m timestamp -> int", One), ("m timestamp, string -> int", One)];
const ZONED_OR_LONG: &[(&str, Cost)] =
    &[("m timestamp -> int", One), ("m timestamp, string -> int", One), ("m duration -> int", One)];
