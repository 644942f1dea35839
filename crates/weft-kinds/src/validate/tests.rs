use proptest::prelude::*;
use serde_json::{Value, json};

use super::validate;
use crate::decode::{Decoded, conform, tests::any_json};
use crate::{default, lookup_version, strategy};

/// An object as the server has it before validation.
fn made(mut object: Value) -> Value {
    let kind = kind_of(&object);
    strategy::prepare_create(kind, &mut object);
    default(kind, &mut object);
    object
}

fn kind_of(object: &Value) -> &'static crate::Kind {
    let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
    lookup_version(&text("apiVersion"), &text("kind")).expect("row")
}

fn errors(new: Value, old: Option<Value>) -> Vec<String> {
    let (new, old) = (made(new), old.map(made));
    validate(kind_of(&new), &new, old.as_ref()).iter().map(ToString::to_string).collect()
}

fn service(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "n"}, "spec": spec})
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"}, "spec": spec})
}

#[test]
fn names_are_refused_in_the_words_of_the_real_api() {
    let named = |version: &str, kind: &str, name: &str| json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "n"}});
    assert_eq!(
        errors(named("v1", "ConfigMap", "Bad_Name"), None),
        [
            "metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain must consist of \
          lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric \
          character (e.g. 'example.com', regex used for validation is \
          '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        ]
    );
    let mut bad = service(json!({"ports": [{"port": 80}]}));
    bad["metadata"]["name"] = "1s".into();
    assert_eq!(
        errors(bad, None),
        ["metadata.name: Invalid value: \"1s\": a DNS-1035 label must consist of lower case \
          alphanumeric characters or '-', start with an alphabetic character, and end with an \
          alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is \
          '[a-z]([-a-z0-9]*[a-z0-9])?')"]
    );
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a.b"}});
    assert_eq!(
        errors(namespace, None),
        // The name is also the value of a label.
        ["metadata.name: Invalid value: \"a.b\": must not contain dots"]
    );
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                      "metadata": {"name": "system:a/b"}});
    assert_eq!(
        errors(role, None),
        ["metadata.name: Invalid value: \"system:a/b\": may not contain '/'"]
    );
    assert!(errors(named("v1", "ConfigMap", "a.b-c"), None).is_empty());
    assert_eq!(
        errors(
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "n"}}),
            None
        ),
        ["metadata.name: Required value: name or generateName is required"]
    );
    let mut labelled = named("v1", "ConfigMap", "a");
    labelled["metadata"]["labels"] = json!({"-a": "b c"});
    assert_eq!(errors(labelled, None).len(), 2);
}

#[test]
fn services_are_judged_as_the_real_api_does() {
    for (spec, expected) in [
        (json!({"ports": [{"port": 80}]}), &[][..]),
        (json!({}), &["spec.ports: Required value"]),
        (json!({"clusterIP": "None", "clusterIPs": ["None"]}), &[]),
        (
            json!({"ports": [{"port": 70000}]}),
            &[
                "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
                "spec.ports[0].targetPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "a"}]}),
            &[
                "spec.ports[1].name: Duplicate value: \"a\"",
                "spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":80,\"TargetPort\":0,\"NodePort\":0}",
            ],
        ),
        (
            json!({"ports": [{"port": 80}, {"port": 81}]}),
            &["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"],
        ),
        (
            json!({"type": "Weird", "ports": [{"port": 80, "protocol": "ICMP"}], "internalTrafficPolicy": "Local"}),
            &[
                "spec.ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                "spec.type: Unsupported value: \"Weird\": supported values: \"ClusterIP\", \"ExternalName\", \
                 \"LoadBalancer\", \"NodePort\"",
            ],
        ),
        (json!({"type": "ExternalName"}), &["spec.externalName: Required value"]),
        (
            json!({"type": "NodePort", "clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]}),
            &[
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
            ],
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": 30000}]}),
            &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        ),
        (
            json!({"ports": [{"port": 80}], "ipFamilies": ["IPv4", "IPv4"], "ipFamilyPolicy": "Both"}),
            &[
                "spec.ipFamilies[1]: Duplicate value: \"IPv4\"",
                "spec.ipFamilyPolicy: Unsupported value: \"Both\": supported values: \"PreferDualStack\", \
                 \"RequireDualStack\", \"SingleStack\"",
            ],
        ),
        (
            json!({"ports": [{"port": 80}], "clusterIP": "fd00::1", "clusterIPs": ["fd00::1"], "ipFamilies": ["IPv4"]}),
            &[
                "spec.clusterIPs[0]: Invalid value: \"fd00::1\": expected an IPv4 value as indicated by `ipFamilies[0]`",
            ],
        ),
        (
            json!({"ports": [{"port": 80}], "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "10.0.0.2"]}),
            &[
                "spec.clusterIPs: Invalid value: [\"10.0.0.1\",\"10.0.0.2\"]: may specify no more than one IP for each IP family",
            ],
        ),
        (
            json!({"ports": [{"port": 80}], "externalIPs": ["127.0.0.1"]}),
            &[
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ],
        ),
        (
            json!({"ports": [{"port": 80}], "sessionAffinity": "ClientIP",
                   "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 90000}}}),
            &[
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 90000: must be greater than 0 \
               and less than 86400",
            ],
        ),
        (
            json!({"ports": [{"port": 80}], "loadBalancerClass": "a/b", "allocateLoadBalancerNodePorts": false}),
            &[
                "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'",
                "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ],
        ),
        (
            json!({"ports": [{"port": 80}], "externalTrafficPolicy": "Local"}),
            &[
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ],
        ),
        (
            json!({"ports": [{"port": 80}], "trafficDistribution": "Near"}),
            &[
                "spec.trafficDistribution: Unsupported value: \"Near\": supported values: \"PreferClose\", \
               \"PreferSameZone\", \"PreferSameNode\"",
            ],
        ),
        (
            json!({"ports": [{"port": 80, "targetPort": "Http!"}]}),
            &[
                "spec.ports[0].targetPort: Invalid value: \"Http!\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
            ],
        ),
    ] {
        assert_eq!(errors(service(spec.clone()), None), expected, "{spec}");
    }
}

#[test]
fn a_service_keeps_its_first_address_and_family() {
    let dual = || {
        json!({"ports": [{"port": 80}], "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"],
                         "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"})
    };
    let update = |new: Value| errors(service(new), Some(service(dual())));
    assert!(update(dual()).is_empty());
    let mut other = dual();
    other["clusterIP"] = "10.0.0.2".into();
    other["clusterIPs"] = json!(["10.0.0.2", "fd00::1"]);
    assert_eq!(
        update(other),
        ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\",\"fd00::1\"]: may not change once set"]
    );
    let mut single = dual();
    single["clusterIPs"] = json!(["10.0.0.1"]);
    single["ipFamilies"] = json!(["IPv4"]);
    assert_eq!(
        update(single.clone()),
        [
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be set to 'SingleStack' when \
             releasing the secondary clusterIP",
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be set to 'SingleStack' when \
             releasing the secondary ipFamily",
        ]
    );
    single["ipFamilyPolicy"] = "SingleStack".into();
    assert!(update(single).is_empty());
    assert!(update(json!({"type": "ExternalName", "externalName": "a.example"})).is_empty());
}

#[test]
fn pods_are_judged() {
    let ok = || json!({"containers": [{"name": "a", "image": "i"}]});
    let with = |key: &str, value: Value| {
        let mut spec = ok();
        spec[key] = value;
        errors(pod(spec), None)
    };
    assert!(errors(pod(ok()), None).is_empty());
    assert_eq!(errors(pod(json!({})), None), ["spec.containers: Required value"]);
    assert_eq!(
        with(
            "containers",
            json!([
            {"name": "a", "image": "i", "ports": [{"containerPort": 0}, {"containerPort": 80, "name": "http"},
                {"containerPort": 81, "name": "http"}],
             "env": [{"name": "A=B"}, {"name": "C", "valueFrom": {}}],
             "volumeMounts": [{"name": "v", "mountPath": "/v"}],
             "livenessProbe": {"httpGet": {"port": 99999}, "tcpSocket": {"port": 1}, "successThreshold": 2}},
            {"name": "a", "image": "", "imagePullPolicy": "Sometimes"}])
        ),
        [
            "spec.containers[0].ports[0].containerPort: Required value",
            "spec.containers[0].ports[2].name: Duplicate value: \"http\"",
            "spec.containers[0].env[0].name: Invalid value: \"A=B\": a valid environment variable name must \
             consist only of printable ASCII characters other than '='",
            "spec.containers[0].env[1].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, \
             `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
            "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
            "spec.containers[0].livenessProbe.httpGet.port: Invalid value: 99999: must be between 1 and 65535, inclusive",
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            "spec.containers[1].image: Required value",
            "spec.containers[1].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \
             \"IfNotPresent\", \"Never\"",
            "spec.containers[1].name: Duplicate value: \"a\"",
        ]
    );
    assert_eq!(
        with("restartPolicy", "Sometimes".into()),
        [
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\""
        ]
    );
    assert_eq!(
        with("dnsPolicy", "None".into()),
        ["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"]
    );
    assert_eq!(
        with("volumes", json!([{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}])),
        ["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"]
    );
}

#[test]
fn a_pod_stays_what_it_is() {
    let old = || json!({"containers": [{"name": "a", "image": "i:1"}]});
    let update = |new: Value| errors(pod(new), Some(pod(old())));
    assert!(update(json!({"containers": [{"name": "a", "image": "i:2", "imagePullPolicy": "IfNotPresent"}]})).is_empty());
    assert_eq!(
        update(json!({"containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "i"}]})),
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
    let changed = update(
        json!({"containers": [{"name": "a", "image": "i:1", "command": ["x"]}], "hostname": "h"}),
    );
    assert_eq!(changed.len(), 1);
    assert!(
        changed[0].starts_with("spec: Forbidden: pod updates may not change fields other than"),
        "{changed:?}"
    );
    assert!(changed[0].ends_with("changed: spec.containers[0], spec.hostname"), "{changed:?}");
    let mut bound = old();
    bound["nodeName"] = "n1".into();
    assert!(update(bound.clone()).is_empty(), "binding");
    let mut moved = old();
    moved["nodeName"] = "n2".into();
    assert_eq!(errors(pod(moved), Some(pod(bound))).len(), 1);
}

#[test]
fn workloads_are_judged() {
    let deployment = |selector: Value, labels: Value| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"},
               "spec": {"selector": selector,
                        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "i"}]}}}})
    };
    let app = |name: &str| json!({"matchLabels": {"app": name}});
    assert!(errors(deployment(app("a"), json!({"app": "a", "b": "c"})), None).is_empty());
    assert_eq!(
        errors(deployment(app("a"), json!({"app": "b"})), None),
        [
            "spec.template.metadata.labels: Invalid value: {\"app\":\"b\"}: `selector` does not match template `labels`"
        ]
    );
    let mut none = deployment(app("a"), json!({"app": "a"}));
    none["spec"].as_object_mut().expect("map").shift_remove("selector");
    assert_eq!(errors(none, None), ["spec.selector: Required value"]);
    assert_eq!(
        errors(
            deployment(app("b"), json!({"app": "b"})),
            Some(deployment(app("a"), json!({"app": "a"})))
        ),
        ["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"b\"}}: field is immutable"]
    );
    let mut strategy = deployment(app("a"), json!({"app": "a"}));
    strategy["spec"]["strategy"] =
        json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}});
    strategy["spec"]["replicas"] = json!(-1);
    assert_eq!(
        errors(strategy, None),
        [
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
        ]
    );
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "n"},
        "spec": {"template": {"spec": {"containers": [{"name": "a", "image": "i"}]}}}});
    assert_eq!(
        errors(job, None),
        [
            "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""
        ]
    );
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "s", "namespace": "n"},
        "spec": {"serviceName": "s", "selector": app("a"), "volumeClaimTemplates": [{"metadata": {"name": "data"}}],
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [
                {"name": "a", "image": "i", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]}}}});
    assert!(errors(set.clone(), None).is_empty(), "a claim template is a volume");
    let mut other = set.clone();
    other["spec"]["serviceName"] = "t".into();
    assert_eq!(errors(other, Some(set)).len(), 1);
}

#[test]
fn networking_kinds_are_judged() {
    let slice = |addresses: Value, kind: &str| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "e", "namespace": "n"},
               "addressType": kind, "endpoints": [{"addresses": addresses}], "ports": [{"port": 80}]})
    };
    assert!(errors(slice(json!(["10.0.0.1"]), "IPv4"), None).is_empty());
    assert_eq!(
        errors(slice(json!(["fd00::1"]), "IPv4"), None),
        ["endpoints[0].addresses: Invalid value: \"fd00::1\": must be an IPv4 address"]
    );
    assert_eq!(
        errors(slice(json!([]), "IPv6"), None),
        ["endpoints[0].addresses: Required value: must contain at least 1 address"]
    );
    assert_eq!(
        errors(slice(json!(["a.b"]), "IPv5"), Some(slice(json!(["a.b"]), "IPv4"))),
        [
            "addressType: Unsupported value: \"IPv5\": supported values: \"FQDN\", \"IPv4\", \"IPv6\"",
            "addressType: Invalid value: \"IPv5\": field is immutable",
        ]
    );
    let policy = |spec: Value| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
               "metadata": {"name": "p", "namespace": "n"}, "spec": spec})
    };
    assert!(errors(policy(json!({"podSelector": {}, "ingress": [{}]})), None).is_empty());
    assert_eq!(
        errors(
            policy(json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]},
            "ingress": [{"from": [{}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}],
                         "ports": [{"port": 10, "endPort": 5}]}]})),
            None
        ),
        [
            "spec.podSelector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            "spec.ingress[0].ports[0].endPort: Invalid value: 10: must be greater than or equal to `port`",
            "spec.ingress[0].from[0]: Required value: must specify a peer",
            "spec.ingress[0].from[1].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
        ]
    );
    let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "i", "namespace": "n"},
        "spec": {"rules": [{"host": "10.0.0.1", "http": {"paths": [
            {"path": "x", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}},
            {"path": "/y", "backend": {}}]}}]}});
    assert_eq!(
        errors(ingress, None),
        [
            "spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address",
            "spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path",
            "spec.rules[0].http.paths[1].pathType: Required value: pathType must be specified",
        ]
    );
}

#[test]
fn configuration_is_judged() {
    let map = |data: Value, immutable: bool| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"},
               "data": data, "immutable": immutable})
    };
    assert_eq!(
        errors(map(json!({"a/b": "", "..": ""}), false), None),
        [
            "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' \
             or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
            "data[..]: Invalid value: \"..\": must not be '..'",
        ]
    );
    assert_eq!(
        errors(map(json!({"a": "2"}), true), Some(map(json!({"a": "1"}), true))),
        ["data: Forbidden: field is immutable when `immutable` is set"]
    );
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "n"},
                        "type": "kubernetes.io/tls"});
    assert_eq!(
        errors(secret, None),
        ["data[tls.crt]: Required value", "data[tls.key]: Required value"]
    );
}

proptest! {
    #[test]
    fn nothing_panics(new in any_json(), old in any_json()) {
        for kind in crate::kinds() {
            let _ = validate(kind, &new, None);
            let _ = validate(kind, &new, Some(&old));
            let mut decoded = Decoded { object: new.clone(), strict: Vec::new() };
            if conform(kind, &mut decoded).is_ok() {
                default(kind, &mut decoded.object);
                let _ = validate(kind, &decoded.object, None);
                let _ = validate(kind, &decoded.object, Some(&decoded.object));
            }
        }
    }
}
