use super::*;
use crate::fields::View;
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;

fn pod() -> k8s_openapi::api::core::v1::Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u-1",
            "labels": {"app": "web", "a.b/c": "d"}, "annotations": {"note": "x\ny"}},
        "spec": {"nodeName": "n1", "serviceAccountName": "sa", "containers": [
            {"name": "c", "resources": {"limits": {"cpu": "250m", "memory": "64Mi"}}},
            {"name": "d"}]}
    }))
    .unwrap()
}

fn build_env(c: serde_json::Value, sources: &Sources) -> Result<Vec<(String, String)>> {
    let pod = pod();
    let ips = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    let allocatable = BTreeMap::from([("cpu".to_owned(), "2".to_owned())]);
    let view = View { pod: &pod, pod_ips: &ips, host_ips: &ips[1..], allocatable: &allocatable };
    let c: Container = serde_json::from_value(c).unwrap();
    build(&view, &c, sources, &[("SVC_PORT".into(), "svc".into())])
}

fn get(env: &[(String, String)], name: &str) -> String {
    env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()).unwrap_or("<none>".into())
}

#[test]
fn expansion_follows_kubernetes() {
    let vars = |n: &str| (n == "A").then(|| "1".to_owned());
    for (text, want) in [
        ("$(A)", "1"),
        ("x$(A)y$(A)", "x1y1"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(B)", "$(B)"),
        ("$(A", "$(A"),
        ("$A $", "$A $"),
        ("$()", "$()"),
        ("é$(A)é", "é1é"),
    ] {
        assert_eq!(expand(text, vars), want, "{text}");
    }
}

proptest! {
    #[test]
    fn expansion_without_dollar_is_identity(text in "[^$]*") {
        prop_assert_eq!(expand(&text, |_| Some("x".into())), text);
    }

    #[test]
    fn expansion_never_panics(text in "[$()A-C é]*") {
        let _ = expand(&text, |n| (n == "A").then(String::new));
    }
}

#[test]
fn later_variables_see_earlier_ones_and_service_variables() {
    let env = build_env(
        json!({"name": "c", "env": [
            {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(SVC_PORT)-$(C)"},
            {"name": "C", "value": "late"}, {"name": "SVC_PORT", "value": "own"}]}),
        &Sources::new(),
    )
    .unwrap();
    assert_eq!(get(&env, "B"), "1-svc-$(C)");
    assert_eq!(get(&env, "SVC_PORT"), "own");
}

#[test]
fn fields_and_resources() {
    let field = |p: &str| json!({"name": p, "valueFrom": {"fieldRef": {"fieldPath": p}}});
    let res = |c: &str, r: &str, d: &str| {
        json!({"name": format!("{c}{r}{d}"), "valueFrom": {"resourceFieldRef":
            {"containerName": c, "resource": r, "divisor": d}}})
    };
    let env = build_env(
        json!({"name": "c", "env": [
            field("metadata.labels['a.b/c']"), field("status.podIP"), field("status.podIPs"),
            field("status.hostIP"), field("spec.nodeName"), field("metadata.uid"),
            field("metadata.annotations['note']"), field("metadata.annotations['none']"),
            res("", "limits.cpu", "1m"), res("", "limits.cpu", "0"), res("c", "requests.memory", "1Mi"),
            res("d", "limits.cpu", "1")]}),
        &Sources::new(),
    )
    .unwrap();
    for (name, want) in [
        ("metadata.labels['a.b/c']", "d"),
        ("status.podIP", "10.0.0.1"),
        ("status.podIPs", "10.0.0.1,fd00::1"),
        ("status.hostIP", "fd00::1"),
        ("spec.nodeName", "n1"),
        ("metadata.uid", "u-1"),
        ("metadata.annotations['note']", "x\ny"),
        ("metadata.annotations['none']", ""),
        ("limits.cpu1m", "250"),
        ("limits.cpu0", "1"),
        ("crequests.memory1Mi", "64"),
        ("dlimits.cpu1", "2"),
    ] {
        assert_eq!(get(&env, name), want, "{name}");
    }
    let bad = json!({"name": "c", "env": [field("spec.tolerations")]});
    assert!(build_env(bad, &Sources::new()).is_err());
}

#[test]
fn sources_missing_optional_and_prefixed() {
    let mut s = Sources::new();
    s.insert((Kind::ConfigMap, "cm".into()), [("k".into(), b"v".to_vec())].into());
    s.insert((Kind::Secret, "sec".into()), [("p".into(), b"q".to_vec())].into());
    let env = build_env(
        json!({"name": "c",
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}},
                {"secretRef": {"name": "sec"}}, {"secretRef": {"name": "no", "optional": true}}],
            "env": [{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}},
                {"name": "O", "valueFrom":
                    {"secretKeyRef": {"name": "sec", "key": "no", "optional": true}}}]}),
        &s,
    )
    .unwrap();
    assert_eq!((get(&env, "P_k"), get(&env, "p")), ("v".into(), "q".into()));
    assert_eq!((get(&env, "K"), get(&env, "O")), ("v".into(), "<none>".into()));
    let key = |name: &str, key: &str| {
        json!({"name": "c", "env": [{"name": "K", "valueFrom":
            {"configMapKeyRef": {"name": name, "key": key}}}]})
    };
    let e = build_env(key("none", "k"), &s).unwrap_err().to_string();
    assert_eq!(e, "configmap \"none\" not found");
    let e = build_env(key("cm", "z"), &s).unwrap_err().to_string();
    assert_eq!(e, "couldn't find key z in ConfigMap ns/cm");
}

#[test]
fn service_variables_of_own_namespace_and_of_the_api() {
    let svc = |ns: &str, name: &str, ip: &str, ports: serde_json::Value| -> Service {
        serde_json::from_value(json!({"metadata": {"namespace": ns, "name": name},
            "spec": {"clusterIP": ip, "ports": ports}}))
        .unwrap()
    };
    let all = [
        svc("ns", "redis-master", "10.0.0.11", json!([{"port": 6379, "name": "db-main"}])),
        svc("ns", "v6", "fd00::5", json!([{"port": 53, "protocol": "UDP"}])),
        svc("ns", "headless", "None", json!([{"port": 1}])),
        svc("other", "x", "10.0.0.12", json!([{"port": 1}])),
        svc("default", "kubernetes", "10.96.0.1", json!([{"port": 443, "name": "https"}])),
    ];
    let env = service_variables("ns", &all, true);
    for (k, v) in [
        ("REDIS_MASTER_SERVICE_HOST", "10.0.0.11"),
        ("REDIS_MASTER_SERVICE_PORT", "6379"),
        ("REDIS_MASTER_SERVICE_PORT_DB_MAIN", "6379"),
        ("REDIS_MASTER_PORT", "tcp://10.0.0.11:6379"),
        ("REDIS_MASTER_PORT_6379_TCP", "tcp://10.0.0.11:6379"),
        ("REDIS_MASTER_PORT_6379_TCP_PROTO", "tcp"),
        ("REDIS_MASTER_PORT_6379_TCP_PORT", "6379"),
        ("REDIS_MASTER_PORT_6379_TCP_ADDR", "10.0.0.11"),
        ("V6_PORT_53_UDP", "udp://[fd00::5]:53"),
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
        ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
        ("HEADLESS_SERVICE_HOST", "<none>"),
        ("X_SERVICE_HOST", "<none>"),
    ] {
        assert_eq!(get(&env, k), v, "{k}");
    }
    let env = service_variables("ns", &all, false);
    assert!(env.iter().all(|(k, _)| k.starts_with("KUBERNETES_")), "{env:?}");
}
