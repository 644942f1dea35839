use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::lookup_version;

fn decode(text: &str) -> Result<Decoded, DecodeError> {
    let mut decoded = json_value(text.as_bytes())?;
    let kind = lookup_version(
        decoded.object["apiVersion"].as_str().unwrap_or_default(),
        decoded.object["kind"].as_str().unwrap_or_default(),
    )
    .expect("a kind");
    conform(kind, &mut decoded)?;
    Ok(decoded)
}

#[test]
fn unknown_and_duplicate_fields_are_found_with_their_paths() {
    let decoded = decode(
        r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a","nme":"b"},
            "spec":{"replicas":1,"replicas":2,"foo":{"bar":1},
            "template":{"spec":{"containers":[{"name":"c","imagee":"x"},{"name":"d","name":"e"}]}}}}"#,
    )
    .expect("decodes");
    assert_eq!(
        decoded.strict,
        [
            "duplicate field \"spec.replicas\"",
            "duplicate field \"spec.template.spec.containers[1].name\"",
            "unknown field \"metadata.nme\"",
            "unknown field \"spec.foo\"",
            "unknown field \"spec.template.spec.containers[0].imagee\"",
        ]
    );
    assert_eq!(
        decoded.object["spec"],
        json!({"replicas": 2, "template": {"spec": {"containers": [{"name": "c"}, {"name": "e"}]}}})
    );
}

#[test]
fn wrong_types_are_worded_as_go_does() {
    for (text, message) in [
        (
            r#"{"apiVersion":"apps/v1","kind":"Deployment","spec":{"replicas":"x"}}"#,
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            r#"{"apiVersion":"v1","kind":"Pod","spec":{"containers":[{"env":[{"name":"a","value":1}]}]}}"#,
            "json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string",
        ),
        (
            r#"{"apiVersion":"v1","kind":"Pod","spec":{"containers":{}}}"#,
            "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            r#"{"apiVersion":"v1","kind":"Service","spec":{"ports":[{"port":3000000000}]}}"#,
            "json: cannot unmarshal number 3000000000 into Go struct field ServicePort.spec.ports.port of type int32",
        ),
        (
            r#"{"apiVersion":"v1","kind":"Secret","data":{"a":"?"}}"#,
            "illegal base64 data at input byte 0",
        ),
    ] {
        assert_eq!(decode(text).expect_err(text).to_string(), message);
    }
}

#[test]
fn the_object_becomes_canonical() {
    let decoded = decode(
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","creationTimestamp":null,
            "labels":{},"deletionTimestamp":"2024-01-02T03:04:05.9+02:00"},
            "spec":{"nodeName":"","hostNetwork":false,"terminationGracePeriodSeconds":0,
            "containers":[{"name":"c","resources":{"limits":{"cpu":0.5,"memory":"1024Mi"}},
            "securityContext":{"privileged":false}}]},"status":{}}"#,
    )
    .expect("decodes");
    assert!(decoded.strict.is_empty(), "{:?}", decoded.strict);
    assert_eq!(
        decoded.object,
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "deletionTimestamp": "2024-01-02T01:04:05Z"},
            "spec": {"terminationGracePeriodSeconds": 0,
                "containers": [{"name": "c", "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
                    "securityContext": {"privileged": false}}]},
            "status": {}})
    );
}

#[test]
fn yaml_is_read_with_the_same_findings() {
    let decoded = yaml_value(b"kind: Service\nspec:\n  type: A\n  type: B\n1: x\n").expect("YAML");
    assert_eq!(decoded.strict, ["duplicate field \"spec.type\""]);
    assert_eq!(decoded.object, json!({"kind": "Service", "spec": {"type": "B"}, "1": "x"}));
    assert!(yaml_value(b"a: [").is_err());
    assert!(yaml_value(b"a: 1\n---\nb: 2\n").is_err(), "one document only");
}

#[test]
fn nesting_is_limited() {
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    assert!(json_value(deep.as_bytes()).is_err());
    assert!(yaml_value(deep.as_bytes()).is_err());
    assert!(json_value(b"{} x").is_err(), "trailing text");
    assert!(json_value(b"").is_err());
}

/// Any JSON value, of the sizes that matter here.
pub(crate) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z0-9.é-]{0,8}".prop_map(Value::from),
    ];
    let key = prop_oneof![
        Just("metadata"),
        Just("spec"),
        Just("status"),
        Just("name"),
        Just("labels"),
        Just("template"),
        Just("containers"),
        Just("ports"),
        Just("port"),
        Just("selector"),
        Just("type"),
        Just("env"),
        Just("data"),
        Just("rules"),
        Just("subsets"),
        Just("endpoints"),
    ];
    leaf.prop_recursive(6, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn conform_is_idempotent_and_never_panics(object in any_json()) {
        for kind in crate::kinds() {
            let mut once = Decoded { object: object.clone(), strict: Vec::new() };
            if conform(kind, &mut once).is_ok() {
                let mut twice = Decoded { object: once.object.clone(), strict: Vec::new() };
                prop_assert!(conform(kind, &mut twice).is_ok());
                prop_assert_eq!(&twice.object, &once.object);
                prop_assert!(twice.strict.is_empty());
            }
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = json_value(&bytes);
        let _ = yaml_value(&bytes);
    }

    #[test]
    fn json_is_read_as_serde_json_does(object in any_json()) {
        let text = object.to_string();
        prop_assert_eq!(json_value(text.as_bytes()).expect("JSON").object,
                        serde_json::from_str::<Value>(&text).expect("JSON"));
    }
}
