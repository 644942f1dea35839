use super::*;
use k8s_openapi::{
    api::networking::v1 as networking,
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use serde_json::json;
use std::{collections::BTreeSet, fs, path::PathBuf};

fn complaints(value: &Value, shape: &Shape) -> Vec<String> {
    wrong(value, shape).into_iter().map(|w| format!("{}: {}", w.field, w.message)).collect()
}

/// Struct literals without a rest: a field that a newer API adds does not compile here.
fn everything() -> networking::NetworkPolicy {
    let selector = || LabelSelector {
        match_labels: Some([("a".to_owned(), "b".to_owned())].into()),
        match_expressions: Some(vec![LabelSelectorRequirement {
            key: "a".to_owned(),
            operator: "In".to_owned(),
            values: Some(vec!["b".to_owned()]),
        }]),
    };
    let peers = || {
        let block = networking::IPBlock {
            cidr: "192.0.2.0/24".to_owned(),
            except: Some(vec!["192.0.2.1/32".to_owned()]),
        };
        let peer = networking::NetworkPolicyPeer {
            ip_block: Some(block),
            namespace_selector: Some(selector()),
            pod_selector: Some(selector()),
        };
        Some(vec![peer])
    };
    let ports = || {
        Some(vec![networking::NetworkPolicyPort {
            end_port: Some(81),
            port: Some(IntOrString::Int(80)),
            protocol: Some("TCP".to_owned()),
        }])
    };
    networking::NetworkPolicy {
        metadata: ObjectMeta {
            annotations: Some([].into()),
            creation_timestamp: None,
            deletion_grace_period_seconds: Some(1),
            deletion_timestamp: None,
            finalizers: Some(vec![]),
            generate_name: Some("a".to_owned()),
            generation: Some(1),
            labels: Some([].into()),
            managed_fields: Some(vec![]),
            name: Some("a".to_owned()),
            namespace: Some("a".to_owned()),
            owner_references: Some(vec![]),
            resource_version: Some("1".to_owned()),
            self_link: Some("a".to_owned()),
            uid: Some("a".to_owned()),
        },
        spec: Some(networking::NetworkPolicySpec {
            egress: Some(vec![networking::NetworkPolicyEgressRule { ports: ports(), to: peers() }]),
            ingress: Some(vec![networking::NetworkPolicyIngressRule {
                from: peers(),
                ports: ports(),
            }]),
            pod_selector: Some(selector()),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
        }),
    }
}

#[test]
fn what_the_api_knows_is_known_here() {
    let value = serde_json::to_value(everything()).expect("JSON");
    assert_eq!(complaints(&value, &NETWORK_POLICY), [""; 0]);
}

/// Compares a schema of a definition with a shape: the same fields everywhere.
fn same(schema: &Value, shape: &Shape, at: &str) {
    match shape {
        // Labels, and what lowering looks at.
        Shape::Any | Shape::Word(_) => {}
        Shape::List(list) => {
            let bound = |name: &str| schema[name].as_u64().map(|n| n as usize);
            assert_eq!(bound("minItems").unwrap_or(0), list.min, "{at}");
            assert_eq!(bound("maxItems").unwrap_or(usize::MAX), list.max, "{at}");
            same(&schema["items"], list.of, &format!("{at}[]"));
        }
        Shape::Object(object) => {
            let properties = schema["properties"].as_object().unwrap_or_else(|| panic!("{at}"));
            let theirs: BTreeSet<&str> = properties.keys().map(String::as_str).collect();
            let ours: BTreeSet<&str> = object.fields.iter().map(|(name, _)| *name).collect();
            assert_eq!(theirs, ours, "{at}");
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            let theirs: BTreeSet<&str> = required.iter().filter_map(Value::as_str).collect();
            assert_eq!(theirs, object.required.iter().copied().collect(), "{at}");
            assert_eq!(schema["minProperties"] == 1, object.some, "{at}");
            for (name, shape) in object.fields {
                same(&properties[*name], shape, &format!("{at}.{name}"));
            }
        }
    }
}

#[test]
fn the_shape_is_that_of_the_definition() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/upstream");
    let path = dir.join("network-policy-api/clusternetworkpolicies.experimental.yaml");
    let Ok(text) = fs::read_to_string(&path) else {
        println!("SKIP the_shape_is_that_of_the_definition: no {}", path.display());
        return;
    };
    let definition: Value = serde_yaml_ng::from_str(&text).expect("YAML");
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let Shape::Object(whole) = &CLUSTER_NETWORK_POLICY else { panic!("an object") };
    let spec = whole.fields.iter().find(|(name, _)| *name == "spec").expect("spec").1;
    same(&schema["properties"]["spec"], spec, "spec");
}

#[test]
fn what_is_misspelt_or_misplaced_is_told_with_its_remedy() {
    let policy = |spec: Value| complaints(&json!({"spec": spec}), &NETWORK_POLICY);
    for (spec, told) in [
        (
            json!({"podSelectr": {}}),
            "spec.podSelectr: is no field of the API, which ignores or refuses it; did you mean podSelector?",
        ),
        (
            json!({"ingress": [{}, {"to": []}]}),
            "spec.ingress[1].to: is no field of the API, which ignores or refuses it; known here: from, ports",
        ),
        (
            json!({"egress": [{"from": []}]}),
            "spec.egress[0].from: is no field of the API, which ignores or refuses it; known here: ports, to",
        ),
        (
            json!({"policyTypes": ["ingress"]}),
            "spec.policyTypes[0]: 'ingress' is unknown; did you mean Ingress?",
        ),
        (
            json!({"policyTypes": ["Ingress", "both"]}),
            "spec.policyTypes[1]: 'both' is unknown; known here: Ingress, Egress",
        ),
        (
            json!({"ingress": [{"from": [{"podSelector": {"matchLabel": {}}}]}]}),
            "spec.ingress[0].from[0].podSelector.matchLabel: is no field of the API, which ignores or refuses it; did you mean matchLabels?",
        ),
        (
            json!({"ingress": [{"ports": [{"ports": 80}]}]}),
            "spec.ingress[0].ports[0].ports: is no field of the API, which ignores or refuses it; did you mean port?",
        ),
        (
            json!({"ingress": [{"from": [{"ipBlock": {}}]}]}),
            "spec.ingress[0].from[0].ipBlock: lacks cidr, which the API demands",
        ),
    ] {
        assert_eq!(policy(spec.clone()), [told], "{spec}");
    }
    let rule = |list: &str, rule: Value| {
        let spec =
            json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, list: [rule]});
        complaints(&json!({"spec": spec}), &CLUSTER_NETWORK_POLICY)
    };
    let from = json!([{"namespaces": {}}]);
    for (list, value, told) in [
        (
            "ingress",
            json!({"action": "Accept", "from": from, "protocols": [{"tcp": {}}]}),
            "spec.ingress[0].protocols[0].tcp: is empty; it needs one of destinationPort",
        ),
        (
            "ingress",
            json!({"action": "Accept", "from": from, "protocols": []}),
            "spec.ingress[0].protocols: is empty, which the API refuses; leave it out or fill it",
        ),
        (
            "ingress",
            json!({"action": "Accept", "from": from, "to": from}),
            "spec.ingress[0].to: is no field of the API, which ignores or refuses it; known here: action, from, name, protocols",
        ),
        (
            "ingress",
            json!({"action": "Accept", "from": []}),
            "spec.ingress[0].from: is empty, which the API refuses; leave it out or fill it",
        ),
        (
            "egress",
            json!({"action": "Accept", "to": [{"pods": {"namespaceSelector": {}}}]}),
            "spec.egress[0].to[0].pods: lacks podSelector, which the API demands",
        ),
        (
            "egress",
            json!({"action": "Accept", "to": vec![json!({"namespaces": {}}); 26]}),
            "spec.egress[0].to: has more than 25 items, which the API refuses",
        ),
    ] {
        assert_eq!(rule(list, value.clone()), [told], "{value}");
    }
}

#[test]
fn differences_are_counted() {
    for (a, b, d) in [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("to", "from", 3)] {
        assert_eq!((distance(a, b), distance(b, a)), (d, d), "{a} {b}");
    }
    assert_eq!(distance(&"x".repeat(100), "x"), usize::MAX);
}
