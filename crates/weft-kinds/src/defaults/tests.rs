use proptest::prelude::*;
use serde_json::{Value, json};

use super::default;
use crate::decode::{Decoded, conform, tests::any_json};
use crate::lookup_version;

fn defaulted(mut object: Value) -> Value {
    let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
    let kind = lookup_version(&text("apiVersion"), &text("kind")).expect("row");
    default(kind, &mut object);
    object
}

#[test]
fn a_service_gets_its_defaults() {
    let service = defaulted(json!({"apiVersion": "v1", "kind": "Service", "spec": {
        "ports": [{"port": 80}, {"port": 53, "protocol": "UDP", "targetPort": "dns"}]}}));
    assert_eq!(
        service["spec"],
        json!({"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80},
                         {"port": 53, "protocol": "UDP", "targetPort": "dns"}],
               "sessionAffinity": "None", "type": "ClusterIP", "internalTrafficPolicy": "Cluster"})
    );
    let balancer = defaulted(json!({"apiVersion": "v1", "kind": "Service", "spec": {
        "type": "LoadBalancer", "sessionAffinity": "ClientIP"}}));
    assert_eq!(
        balancer["spec"],
        json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP",
               "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
               "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster",
               "allocateLoadBalancerNodePorts": true})
    );
    let name = defaulted(json!({"apiVersion": "v1", "kind": "Service", "spec": {
        "type": "ExternalName", "externalName": "example.org"}}));
    assert_eq!(name["spec"].get("internalTrafficPolicy"), None);
}

#[test]
fn a_pod_gets_its_defaults() {
    let pod = defaulted(json!({"apiVersion": "v1", "kind": "Pod", "spec": {
        "hostNetwork": true,
        "containers": [{"name": "a", "image": "nginx", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "1"}},
            "readinessProbe": {"httpGet": {"port": 80}},
            "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}],
        "volumes": [{"name": "s", "secret": {"secretName": "x"}}, {"name": "e"}]}}));
    assert_eq!(
        pod["spec"],
        json!({
            "hostNetwork": true,
            "containers": [{
                "name": "a", "image": "nginx",
                "ports": [{"containerPort": 80, "protocol": "TCP", "hostPort": 80}],
                "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                    "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP", "apiVersion": "v1"}}}],
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "imagePullPolicy": "Always"}],
            "volumes": [{"name": "s", "secret": {"secretName": "x", "defaultMode": 420}},
                        {"name": "e", "emptyDir": {}}],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
            "securityContext": {}, "schedulerName": "default-scheduler", "enableServiceLinks": true,
        })
    );
}

#[test]
fn workloads_get_their_defaults() {
    let of = |version: &str, kind: &str, spec: Value| {
        let mut spec =
            defaulted(json!({"apiVersion": version, "kind": kind, "spec": spec}))["spec"].take();
        if let Some(spec) = spec.as_object_mut() {
            spec.shift_remove("template");
        }
        spec
    };
    assert_eq!(
        of("apps/v1", "Deployment", json!({"strategy": {"rollingUpdate": {"maxSurge": 1}}})),
        json!({"strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": "25%"}, "type": "RollingUpdate"},
               "replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600})
    );
    assert_eq!(
        of("apps/v1", "Deployment", json!({"replicas": 0, "strategy": {"type": "Recreate"}}))["strategy"],
        json!({"type": "Recreate"})
    );
    assert_eq!(
        of("apps/v1", "DaemonSet", json!({})),
        json!({"revisionHistoryLimit": 10,
               "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}})
    );
    assert_eq!(
        of("batch/v1", "Job", json!({})),
        json!({"completions": 1, "parallelism": 1, "backoffLimit": 6, "completionMode": "NonIndexed",
               "suspend": false, "manualSelector": false, "podReplacementPolicy": "TerminatingOrFailed"})
    );
    assert_eq!(of("apps/v1", "StatefulSet", json!({}))["podManagementPolicy"], "OrderedReady");
    let job = defaulted(json!({"apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {}}}}));
    assert_eq!(
        job["spec"]["selector"],
        json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}})
    );
    assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
}

#[test]
fn the_rest() {
    assert_eq!(
        defaulted(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}))["metadata"]
            ["labels"],
        json!({"kubernetes.io/metadata.name": "a"})
    );
    assert_eq!(
        defaulted(
            json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": "eA=="}, "stringData": {"b": "y"}})
        ),
        json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": "eA==", "b": "eQ=="}, "type": "Opaque"})
    );
    assert_eq!(
        defaulted(json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                         "spec": {"egress": [{"ports": [{"port": 53}]}]}}))["spec"],
        json!({"egress": [{"ports": [{"port": 53, "protocol": "TCP"}]}], "podSelector": {},
               "policyTypes": ["Ingress", "Egress"]})
    );
}

proptest! {
    #[test]
    fn defaults_are_idempotent_and_conform(object in any_json()) {
        for kind in crate::kinds() {
            let mut decoded = Decoded { object: object.clone(), strict: Vec::new() };
            let conforms = conform(kind, &mut decoded).is_ok();
            let mut once = decoded.object;
            default(kind, &mut once);
            let mut twice = once.clone();
            default(kind, &mut twice);
            prop_assert_eq!(&twice, &once);
            if conforms {
                let mut again = Decoded { object: once, strict: Vec::new() };
                prop_assert!(conform(kind, &mut again).is_ok());
                prop_assert!(again.strict.is_empty(), "{:?}", again.strict);
            }
        }
    }
}
