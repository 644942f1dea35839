//! What schemas do with objects.

use super::Schema;
use crate::Violation;
use proptest::prelude::*;
use serde_json::{Value, json};

fn schema(json: Value) -> Schema {
    Schema::parse(&json)
}

fn told(schema: &Schema, value: &Value) -> Vec<String> {
    let mut out = Vec::new();
    schema.check_values("", value, None, &mut out);
    out.iter().map(Violation::to_string).collect()
}

#[test]
fn unknown_members_go_and_are_named() {
    let s = schema(json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "a": {"type": "string"},
            "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "integer"}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"y": {"type": "string"}}}},
            "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"known": {"type": "object", "properties": {"z": {"type": "string"}}}}},
            "pod": {"type": "object", "x-kubernetes-embedded-resource": true,
                "properties": {"spec": {"type": "object"}}},
            "none": {"type": "object"},
        }},
    }}));
    let mut object = json!({"apiVersion": "v", "kind": "K", "metadata": {"name": "n", "x": 1}, "top": 1,
        "spec": {"a": "s", "b": 2, "list": [{"x": 1, "q": 2}, 3], "map": {"k": {"y": "", "w": 1}},
            "any": {"free": {"deep": [1]}, "known": {"z": "", "no": 1}},
            "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"a": 1}, "spec": {"x": 1}, "status": 1},
            "none": {"m": 1}}});
    let unknown = s.prune(&mut object);
    assert_eq!(
        unknown,
        [
            "spec.any.known.no",
            "spec.b",
            "spec.list[0].q",
            "spec.map.k.w",
            "spec.none.m",
            "spec.pod.spec.x",
            "spec.pod.status",
            "top"
        ]
    );
    assert_eq!(
        object,
        json!({"apiVersion": "v", "kind": "K", "metadata": {"name": "n", "x": 1},
            "spec": {"a": "s", "list": [{"x": 1}, 3], "map": {"k": {"y": ""}},
                "any": {"free": {"deep": [1]}, "known": {"z": ""}},
                "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"a": 1}, "spec": {}},
                "none": {}}})
    );
}

#[test]
fn defaults_fill_what_is_missing_and_nulls_that_may_not_be() {
    let s = schema(json!({"type": "object", "properties": {
        "a": {"type": "string", "default": "x"},
        "b": {"type": "string", "nullable": true, "default": "y"},
        "c": {"type": "string"},
        "d": {"type": "object", "default": {}, "properties": {"e": {"type": "integer", "default": 3}}},
        "l": {"type": "array", "items": {"type": "object", "properties": {"p": {"type": "string", "default": "TCP"}}}},
        "m": {"type": "object", "additionalProperties": {"type": "integer", "default": 7}},
    }}));
    let mut object =
        json!({"a": null, "b": null, "c": null, "l": [{}, {"p": "UDP"}], "m": {"k": null}});
    s.default(&mut object);
    assert_eq!(
        object,
        json!({"a": "x", "b": null, "l": [{"p": "TCP"}, {"p": "UDP"}], "m": {"k": 7}, "d": {"e": 3}})
    );
}

#[test]
fn findings_read_as_those_of_the_real_api() {
    let s = schema(
        json!({"type": "object", "required": ["spec"], "properties": {"spec": {"type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "minLength": 2, "maxLength": 4, "pattern": "^[a-z]+$"},
            "n": {"type": "integer", "minimum": 1, "maximum": 9},
            "e": {"type": "string", "enum": ["A", "B"]},
            "l": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "string"}},
            "m": {"type": "object", "maxProperties": 1, "additionalProperties": {"type": "string"}},
            "ip": {"type": "string", "format": "ipv4"},
            "f": {"type": "number", "multipleOf": 0.5, "minimum": 0, "exclusiveMinimum": true},
            "is": {"x-kubernetes-int-or-string": true},
            "one": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
            "any": {"type": "string", "anyOf": [{"minLength": 3}, {"pattern": "^x"}]},
            "all": {"type": "string", "allOf": [{"minLength": 3}, {"maxLength": 1}]},
            "not": {"type": "string", "not": {"enum": ["bad"]}},
        }}}}),
    );
    let spec = |spec: Value| told(&s, &json!({"spec": spec}));
    assert_eq!(told(&s, &json!({})), ["spec: Required value"]);
    assert_eq!(spec(json!({})), ["spec.name: Required value"]);
    let one = |key: &str, value: Value| spec(json!({"name": "abc", key: value}));
    for (key, value, expected) in [
        ("name", json!("abcde"), "spec.name: Too long: may not be more than 4 bytes"),
        (
            "name",
            json!("a"),
            r#"spec.name: Invalid value: "a": spec.name in body should be at least 2 chars long"#,
        ),
        (
            "name",
            json!("A_"),
            r#"spec.name: Invalid value: "A_": spec.name in body should match '^[a-z]+$'"#,
        ),
        (
            "name",
            json!(1),
            r#"spec.name: Invalid value: "integer": spec.name in body must be of type string: "integer""#,
        ),
        (
            "name",
            json!(null),
            r#"spec.name: Invalid value: "null": spec.name in body must be of type string: "null""#,
        ),
        (
            "n",
            json!(0),
            "spec.n: Invalid value: 0: spec.n in body should be greater than or equal to 1",
        ),
        (
            "n",
            json!(10),
            "spec.n: Invalid value: 10: spec.n in body should be less than or equal to 9",
        ),
        (
            "n",
            json!(1.5),
            r#"spec.n: Invalid value: "number": spec.n in body must be of type integer: "number""#,
        ),
        ("e", json!("C"), r#"spec.e: Unsupported value: "C": supported values: "A", "B""#),
        ("l", json!([]), "spec.l: Invalid value: 0: spec.l in body should have at least 1 items"),
        ("l", json!(["a", "b", "c"]), "spec.l: Too many: 3: must have at most 2 items"),
        (
            "l",
            json!(["a", 1]),
            r#"spec.l[1]: Invalid value: "integer": spec.l[1] in body must be of type string: "integer""#,
        ),
        ("m", json!({"a": "", "b": ""}), "spec.m: Too many: 2: must have at most 1 item"),
        (
            "m",
            json!({"a/b": 1}),
            r#"spec.m.a/b: Invalid value: "integer": spec.m.a/b in body must be of type string: "integer""#,
        ),
        (
            "ip",
            json!("x"),
            r#"spec.ip: Invalid value: "x": spec.ip in body must be of type ipv4: "x""#,
        ),
        ("f", json!(0.3), "spec.f: Invalid value: 0.3: spec.f in body should be a multiple of 0.5"),
        ("f", json!(0), "spec.f: Invalid value: 0: spec.f in body should be greater than 0"),
        (
            "is",
            json!(true),
            r#"spec.is: Invalid value: "boolean": spec.is in body must be of type integer,string: "boolean""#,
        ),
        (
            "not",
            json!("bad"),
            r#"<nil>: Invalid value: "": "spec.not" must not validate the schema (not)"#,
        ),
    ] {
        assert_eq!(one(key, value.clone()), [expected], "{key} {value}");
    }
    assert_eq!(
        one("one", json!({})),
        [
            r#"<nil>: Invalid value: "": "spec.one" must validate one and only one schema (oneOf). Found none valid"#,
            "spec.one.a: Required value"
        ]
    );
    assert_eq!(
        one("one", json!({"a": "", "b": ""})),
        [
            r#"<nil>: Invalid value: "": "spec.one" must validate one and only one schema (oneOf). Found 2 valid alternatives"#
        ]
    );
    assert_eq!(
        one("any", json!("ab"))[0],
        r#"<nil>: Invalid value: "": "spec.any" must validate at least one schema (anyOf)"#
    );
    assert_eq!(
        one("all", json!("ab")),
        [
            r#"spec.all: Invalid value: "ab": spec.all in body should be at least 3 chars long"#,
            "spec.all: Too long: may not be more than 1 byte",
            r#"<nil>: Invalid value: "": "spec.all" must validate all the schemas (allOf). None validated"#
        ]
    );
    for fine in [json!(1), json!("50%")] {
        assert!(one("is", fine).is_empty());
    }
    assert!(one("n", json!(2.0)).is_empty(), "a whole number is an integer however it is written");
}

#[test]
fn what_did_not_change_is_not_held_against_an_update() {
    let s = schema(json!({"type": "object", "properties": {
        "a": {"type": "string", "maxLength": 1}, "b": {"type": "string", "maxLength": 1},
        "l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"],
            "items": {"type": "object", "required": ["n"], "properties": {
                "n": {"type": "string"}, "v": {"type": "integer", "maximum": 1}}}},
        "x": {"type": "array", "items": {"type": "integer", "maximum": 1}}}}));
    let old =
        json!({"a": "long", "b": "x", "l": [{"n": "p", "v": 5}, {"n": "q", "v": 6}], "x": [7]});
    let check = |new: Value| {
        let mut out = Vec::new();
        s.check_values("", &new, Some(&old), &mut out);
        out.iter().map(|v| v.field.clone()).collect::<Vec<_>>()
    };
    assert!(check(old.clone()).is_empty());
    // Items of a keyed list are found again wherever they are.
    assert!(check(json!({"a": "long", "l": [{"n": "q", "v": 6}], "x": [7]})).is_empty());
    assert_eq!(check(json!({"a": "other", "b": "yy"})), ["a", "b"]);
    assert_eq!(check(json!({"l": [{"n": "p", "v": 6}]})), ["l[0].v"]);
    assert_eq!(check(json!({"x": [7, 1]})), ["x[0]"], "an atomic list is new as a whole");
}

#[test]
fn sets_and_keys_are_unique() {
    let s = schema(json!({"type": "object", "properties": {
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"],
            "items": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}}}}}));
    let check = |value: Value| {
        let mut out = Vec::new();
        s.check_lists(&value, &crate::path::Path::ROOT, &mut out);
        out.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(
        check(json!({"set": ["a", "b"], "map": [{"a": "x", "b": 1}, {"a": "x", "b": 2}]}))
            .is_empty()
    );
    assert_eq!(check(json!({"set": ["a", "b", "a", "a"]})), [r#"set[2]: Duplicate value: "a""#]);
    assert_eq!(
        check(json!({"map": [{"a": "x", "b": 1, "c": 1}, {"a": "x", "b": 1}]})),
        [r#"map[1]: Duplicate value: {"a":"x","b":1}"#]
    );
}

#[test]
fn findings_are_bounded_and_the_first_ones_are_told() {
    let s = schema(
        json!({"type": "array", "items": {"allOf": [{"type": "string"}], "type": "string"}}),
    );
    let found = told(&s, &json!(vec![7; 100_000]));
    assert_eq!(found.len(), 1000);
    assert!(found[0].starts_with("[0]: Invalid value"), "{}", found[0]);
}

#[test]
fn items_are_unique_whatever_the_order_of_their_members() {
    let s = schema(json!({"type": "array", "uniqueItems": true}));
    assert!(told(&s, &json!([1, "1", {"a": 1, "b": 2}, {"a": 2, "b": 1}, [1]])).is_empty());
    assert_eq!(told(&s, &json!([{"a": 1, "b": 2}, {"b": 2, "a": 1}])).len(), 1);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3..30i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-c1:/]{0,6}".prop_map(Value::from),
    ];
    let key = prop_oneof![
        Just("spec"),
        Just("a"),
        Just("b"),
        Just("list"),
        Just("map"),
        Just("any"),
        Just("one"),
        Just("n"),
        Just("metadata"),
        Just("apiVersion"),
        Just("kind"),
        Just("x")
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec((key.clone(), inner), 0..6).prop_map(|m| Value::Object(
                m.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
            )),
        ]
    })
}

fn rich() -> Schema {
    let leaf = json!({"type": "object", "properties": {
        "a": {"type": "string", "default": "aa", "maxLength": 2, "pattern": "^a"},
        "b": {"type": "integer", "nullable": true, "default": 3, "minimum": 0},
        "n": {"x-kubernetes-int-or-string": true},
        "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"],
            "items": {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}, "b": {"type": "integer", "default": 1}}}},
        "map": {"type": "object", "additionalProperties": {"type": "string", "default": "d"}},
        "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "x-kubernetes-embedded-resource": true},
        "one": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
            "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}}});
    schema(
        json!({"type": "object", "properties": {"spec": leaf, "a": leaf["properties"]["a"], "list": leaf["properties"]["list"]}}),
    )
}

proptest! {
    #[test]
    fn any_object_is_survived(object in any_json(), old in any_json(), definition in any_json()) {
        let s = rich();
        let mut once = object.clone();
        s.prune(&mut once);
        let mut twice = once.clone();
        prop_assert!(s.prune(&mut twice).is_empty());
        prop_assert_eq!(&once, &twice);
        s.default(&mut twice);
        let mut again = twice.clone();
        s.default(&mut again);
        prop_assert_eq!(&twice, &again);
        let mut out = Vec::new();
        s.check_values("", &object, Some(&old), &mut out);
        out.clear();
        s.check_values("", &object, Some(&object), &mut out);
        // Type and version at the top are no part of the update.
        prop_assert!(out.is_empty(), "{:?}", out);
        s.check_lists(&object, &crate::path::Path::ROOT, &mut out);
        s.check_embedded(&object, &crate::path::Path::ROOT, &mut out);
        let strange = Schema::parse(&definition);
        strange.prune(&mut object.clone());
        strange.default(&mut object.clone());
        strange.check_values("", &object, None, &mut out);
        crate::definition::validate(&json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": definition}}]}}), None);
        crate::definition::validate(&definition, Some(&old));
    }
}
