//! What applying means, on Deployments and Services.

use super::{FieldSet, compare::compare, merge, prune};
use proptest::prelude::*;
use serde_json::{Value, json};
use weft_kinds::schema::{Type, find};

fn service() -> &'static Type {
    find("core.v1.Service").unwrap()
}

fn deployment() -> &'static Type {
    find("apps.v1.Deployment").unwrap()
}

#[test]
fn sets_have_the_fields_v1_form() {
    let s = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "a", "labels": {"x": "y"}},
        "spec": {"selector": {"a": "b"}, "ports": [{"port": 80, "name": "http"}]}});
    let set = FieldSet::of(service(), &s);
    let expected = json!({
        "f:metadata": {"f:labels": {"f:x": {}}},
        "f:spec": {
            "f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}, "f:port": {}}},
            "f:selector": {},
        },
    });
    assert_eq!(set.to_value(), expected);
    assert_eq!(FieldSet::parse(&expected), set);
}

#[test]
fn keyed_items_are_merged_and_removed() {
    let pod =
        |containers: Value| json!({"spec": {"template": {"spec": {"containers": containers}}}});
    let live = pod(json!([{"name": "a", "image": "1", "tty": true}, {"name": "b", "image": "1"}]));
    let applied = pod(json!([{"name": "a", "image": "2"}, {"name": "c", "image": "3"}]));
    let mut merged = merge(deployment(), &live, &applied);
    assert_eq!(
        merged,
        pod(
            json!([{"name": "a", "image": "2", "tty": true}, {"name": "b", "image": "1"}, {"name": "c", "image": "3"}])
        )
    );
    let last = FieldSet::of(deployment(), &applied);
    let keep = FieldSet::of(deployment(), &pod(json!([{"name": "a", "image": "2"}])));
    prune(deployment(), &mut merged, &last, &keep);
    assert_eq!(
        merged,
        pod(json!([{"name": "a", "image": "2", "tty": true}, {"name": "b", "image": "1"}]))
    );
}

#[test]
fn many_keyed_items_keep_their_places() {
    let names = |names: &mut dyn Iterator<Item = usize>| {
        let items: Vec<Value> = names.map(|n| json!({"name": n.to_string()})).collect();
        json!({"spec": {"template": {"spec": {"containers": items}}}})
    };
    let live = names(&mut (0..20_000));
    let applied = names(&mut (10_000..30_000).rev());
    let merged = merge(deployment(), &live, &applied);
    assert_eq!(merged, names(&mut (0..20_000).chain((20_000..30_000).rev())));
    // Of several live items with one key, the first is merged; an applied one is not added twice.
    let of = |items: Value| json!({"spec": {"template": {"spec": {"containers": items}}}});
    let live = of(json!([{"name": "a", "image": "1"}, {"name": "a", "image": "2"}]));
    let applied =
        of(json!([{"name": "a", "tty": true}, {"name": "b"}, {"name": "b", "tty": true}]));
    let expected = json!([{"name": "a", "image": "1", "tty": true}, {"name": "a", "image": "2"},
        {"name": "b", "tty": true}]);
    assert_eq!(merge(deployment(), &live, &applied), of(expected));
}

#[test]
fn an_emptied_map_goes() {
    let mut d = json!({"metadata": {"name": "d", "labels": {"a": "b"}}, "spec": {}});
    let set = FieldSet::of(deployment(), &d);
    let keep = FieldSet::of(deployment(), &json!({"metadata": {"annotations": {"x": "y"}}}));
    prune(deployment(), &mut d, &set, &keep);
    assert_eq!(d["metadata"], json!({"name": "d"}));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-c]{0,3}".prop_map(Value::from)
    ];
    let key = prop_oneof![
        Just("spec"),
        Just("metadata"),
        Just("ports"),
        Just("port"),
        Just("labels"),
        Just("template"),
        Just("containers"),
        Just("name"),
        Just("selector"),
        Just("x")
    ];
    leaf.prop_recursive(6, 40, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key.clone(), inner), 0..5).prop_map(|m| {
                Value::Object(m.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_is_survived_and_applying_twice_changes_nothing(a in any_json(), b in any_json()) {
        for kind in [service(), deployment()] {
            let set = FieldSet::of(kind, &a);
            FieldSet::parse(&a);
            let mut none = set.clone();
            none.subtract(&set);
            prop_assert!(none.is_empty());
            prop_assert_eq!(&set.and(&set), &set);
            let once = merge(kind, &b, &a);
            let mut twice = merge(kind, &once, &a);
            prop_assert_eq!(&once, &twice);
            prune(kind, &mut twice, &set, &FieldSet::default());
            super::duplicates(kind, &a);
            let same = compare(kind, &a, &a);
            prop_assert!(same.changed.is_empty() && same.removed.is_empty(), "{:?}", same);
            let (there, back) = (compare(kind, &a, &b), compare(kind, &b, &a));
            prop_assert_eq!(there.changed.is_empty() && there.removed.is_empty(),
                back.changed.is_empty() && back.removed.is_empty());
            prop_assert_eq!(FieldSet::parse(&there.changed.to_value()).to_value(), there.changed.to_value());
        }
    }
}
