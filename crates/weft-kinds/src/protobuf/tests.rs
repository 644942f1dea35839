use proptest::prelude::*;
use serde_json::json;

use super::*;

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes(number: u64, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(number << 3 | 2, &mut out);
    varint(value.len() as u64, &mut out);
    out.extend_from_slice(value);
    out
}

fn number(field: u64, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    varint(field << 3, &mut out);
    varint(value, &mut out);
    out
}

fn body(api_version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
    let meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
    let tail = [bytes(1, &meta), bytes(2, object), bytes(3, b""), bytes(4, b"")].concat();
    [MAGIC.to_vec(), tail].concat()
}

#[test]
fn a_deployment_is_read_by_numbers() {
    let port = [bytes(1, b"http"), number(2, 0), number(3, 8080), bytes(4, b"TCP")].concat();
    let requests = bytes(2, &[bytes(1, b"cpu"), bytes(2, &bytes(1, b"100m"))].concat());
    let container = [
        bytes(1, b"nginx"),
        bytes(2, b"nginx:1"),
        bytes(6, &port),
        bytes(8, &requests),
        bytes(
            11,
            &[
                bytes(
                    1,
                    &bytes(
                        2,
                        &[
                            bytes(1, b"/"),
                            bytes(2, &[number(1, 1), number(2, 0), bytes(3, b"http")].concat()),
                        ]
                        .concat(),
                    ),
                ),
                number(2, 5),
            ]
            .concat(),
        ),
    ]
    .concat();
    let template = [
        bytes(1, &bytes(11, &[bytes(1, b"app"), bytes(2, b"web")].concat())),
        bytes(2, &bytes(2, &container)),
    ]
    .concat();
    let selector = bytes(1, &[bytes(1, b"app"), bytes(2, b"web")].concat());
    let spec = [number(1, 3), bytes(2, &selector), bytes(3, &template), bytes(4, b"")].concat();
    // A zero creationTimestamp is written as an empty message.
    let meta = [bytes(1, b"web"), bytes(8, b""), number(7, 0)].concat();
    let object = [bytes(1, &meta), bytes(2, &spec), bytes(3, &number(1, 0))].concat();
    let decoded = decode(&body("apps/v1", "Deployment", &object)).expect("decodes");
    assert_eq!(
        decoded.object,
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "generation": 0},
            "spec": {
                "replicas": 3,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{
                        "name": "nginx", "image": "nginx:1",
                        "ports": [{"name": "http", "hostPort": 0, "containerPort": 8080, "protocol": "TCP"}],
                        "resources": {"requests": {"cpu": "100m"}},
                        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "initialDelaySeconds": 5},
                    }]},
                },
                "strategy": {},
            },
            "status": {"observedGeneration": 0},
        })
    );
}

#[test]
fn a_service_a_secret_and_reviews_are_read() {
    let port = [number(3, 80), bytes(4, &[number(1, 0), number(2, 8080)].concat())].concat();
    let service = bytes(2, &[bytes(1, &port), bytes(4, b"ClusterIP")].concat());
    assert_eq!(
        decode(&body("v1", "Service", &service)).expect("decodes").object["spec"],
        json!({"ports": [{"port": 80, "targetPort": 8080}], "type": "ClusterIP"})
    );
    let secret = bytes(2, &[bytes(1, b"key"), bytes(2, &[0, 255])].concat());
    assert_eq!(
        decode(&body("v1", "Secret", &secret)).expect("decodes").object["data"],
        json!({"key": "AP8="})
    );
    let review = bytes(2, &bytes(1, &[bytes(1, b"default"), bytes(2, b"get")].concat()));
    assert_eq!(
        decode(&body("authorization.k8s.io/v1", "SelfSubjectAccessReview", &review))
            .expect("decodes")
            .object["spec"],
        json!({"resourceAttributes": {"namespace": "default", "verb": "get"}})
    );
    let options = [number(1, 0), bytes(4, b"Background")].concat();
    assert_eq!(
        decode(&body("policy/v1", "DeleteOptions", &options)).expect("decodes").object,
        json!({"apiVersion": "policy/v1", "kind": "DeleteOptions",
               "gracePeriodSeconds": 0, "propagationPolicy": "Background"})
    );
}

#[test]
fn times_and_negative_numbers() {
    let lease = bytes(
        2,
        &[number(2, u64::MAX), bytes(4, &[number(1, 1_700_000_000), number(2, 5000)].concat())]
            .concat(),
    );
    assert_eq!(
        decode(&body("coordination.k8s.io/v1", "Lease", &lease)).expect("decodes").object["spec"],
        json!({"leaseDurationSeconds": -1, "renewTime": "2023-11-14T22:13:20.000005Z"})
    );
    assert_eq!(go_duration(3_600_000_000_000), "1h0m0s");
    assert_eq!(go_duration(-1_500_000_000), "-1.5s");
    assert_eq!(go_duration(0), "0s");
}

#[test]
fn what_is_no_body_is_refused() {
    assert_eq!(decode(b"{}"), Err(ProtobufError::NoMagic));
    assert!(matches!(decode(&body("v1", "Nothing", b"")), Err(ProtobufError::UnknownKind { .. })));
    assert!(decode(&body("v1", "Pod", &[0x0a, 0xff])).is_err(), "length past the end");
    let mut bomb = Vec::new();
    for _ in 0..VALUES_MAX + 1 {
        bomb.extend_from_slice(&[0x12, 0]);
    }
    assert!(decode(&body("v1", "Pod", &bytes(2, &bomb))).is_err(), "too many containers");
}

proptest! {
    #[test]
    fn no_bytes_panic(tail in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&[MAGIC.to_vec(), tail.clone()].concat());
        for (version, kind) in [("v1", "Pod"), ("apps/v1", "Deployment"), ("v1", "Service"),
                                ("v1", "Secret"), ("coordination.k8s.io/v1", "Lease")] {
            let _ = decode(&body(version, kind, &tail));
        }
    }

    /// Bytes that are well-formed fields get deeper than random ones.
    #[test]
    fn no_fields_panic(fields in prop::collection::vec((1u64..30, prop::collection::vec(any::<u8>(), 0..40), any::<u64>(), any::<bool>()), 0..12)) {
        let object: Vec<u8> = fields.iter().flat_map(|(n, b, v, is_bytes)| {
            if *is_bytes { bytes(*n, b) } else { number(*n, *v) }
        }).collect();
        for kind in crate::kinds() {
            for shell in [object.clone(), bytes(1, &object), bytes(2, &object), bytes(2, &bytes(3, &object))] {
                let _ = decode(&body(&kind.api_version(), &kind.kind, &shell));
            }
        }
    }
}

/// Objects with every field set, encoded by the Go types of Kubernetes 1.35 in both formats.
#[test]
fn what_go_encodes_is_read_as_its_json_is() {
    use crate::decode::{conform, json_value};
    for (pb, json) in [
        (&include_bytes!("fixtures/service.pb")[..], &include_bytes!("fixtures/service.json")[..]),
        (include_bytes!("fixtures/review.pb"), include_bytes!("fixtures/review.json")),
    ] {
        let decoded = decode(pb).expect("decodes");
        let kind = crate::lookup_version(&decoded.api_version, &decoded.kind).expect("a row");
        let mut read = crate::decode::Decoded { object: decoded.object, strict: Vec::new() };
        let mut expected = json_value(json).expect("JSON");
        conform(kind, &mut read).expect("conforms");
        conform(kind, &mut expected).expect("conforms");
        assert!(expected.strict.is_empty(), "the table knows every field: {:?}", expected.strict);
        assert_eq!(read.object, expected.object);
    }
}
