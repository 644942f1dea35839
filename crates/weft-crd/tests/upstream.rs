//! The definitions of the Gateway API and of ClusterNetworkPolicy as their projects publish
//! them, and objects that they accept and refuse.
#![allow(clippy::unwrap_used)] // a test

use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::HashMap, path::PathBuf, sync::LazyLock};
use weft_crd::definition::{Version, add_stored_version, validate};

/// Where the published files lie: beside the project.
fn files() -> Vec<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/upstream");
    let folders = ["gateway-api/standard", "gateway-api/experimental", "network-policy-api"];
    let mut files: Vec<PathBuf> = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    files
}

/// All definitions, by file name without folder; those of the standard channel first.
fn definitions() -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for file in files() {
        let text = std::fs::read_to_string(&file).unwrap();
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let mut value = Value::deserialize(document).unwrap();
            if value["kind"] != "CustomResourceDefinition" {
                continue;
            }
            value["spec"]["conversion"] = json!({"strategy": "None"});
            value.as_object_mut().unwrap().shift_remove("status");
            add_stored_version(&mut value);
            all.push((file.display().to_string(), value));
        }
    }
    all
}

/// The versions that hold the objects, by kind and channel.
static KINDS: LazyLock<HashMap<String, Version>> = LazyLock::new(|| {
    let mut kinds = HashMap::new();
    for (file, definition) in definitions() {
        let versions = definition["spec"]["versions"].as_array().unwrap();
        let storage = versions.iter().find(|v| v["storage"] == true).unwrap();
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap();
        let channel = if file.contains("experimental") { "x/" } else { "" };
        let version = Version::of(&definition, storage["name"].as_str().unwrap()).unwrap();
        kinds.insert(format!("{channel}{kind}"), version);
    }
    kinds
});

/// Says once that there is nothing to test with.
fn there(test: &str) -> bool {
    let there = !files().is_empty();
    if !there {
        println!("SKIP {test}: no published definitions beside the project");
    }
    there
}

#[test]
fn published_definitions_are_valid() {
    if !there("published_definitions_are_valid") {
        return;
    }
    let all = definitions();
    assert!(all.len() >= 24, "{}", all.len());
    for (file, definition) in all {
        let found: Vec<String> =
            validate(&definition, None).iter().map(ToString::to_string).collect();
        assert_eq!(found, [""; 0], "{file}");
    }
}

fn told(kind: &str, object: &Value, old: Option<&Value>) -> Vec<String> {
    let version = &KINDS[kind];
    let ready = |object: &Value| {
        let mut object = object.clone();
        let unknown = version.schema().prune(&mut object);
        assert!(unknown.is_empty(), "{kind}: {unknown:?}");
        version.schema().default(&mut object);
        object
    };
    let (object, old) = (ready(object), old.map(ready));
    let found = version.validate(&object, old.as_ref(), &mut Vec::new());
    found.iter().map(ToString::to_string).collect()
}

fn route(spec: Value) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "r", "namespace": "default"}, "spec": spec})
}

fn gateway(listeners: Value) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "g", "namespace": "default"},
        "spec": {"gatewayClassName": "c", "listeners": listeners}})
}

fn rule(rule: Value) -> Value {
    route(json!({"rules": [rule]}))
}

fn filter(filter: Value) -> Value {
    rule(json!({"filters": [filter]}))
}

fn path(kind: &str, value: &str) -> Value {
    rule(json!({"matches": [{"path": {"type": kind, "value": value}}]}))
}

fn policy(spec: Value) -> Value {
    json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "p"}, "spec": spec})
}

fn ingress(rule: Value) -> Value {
    policy(
        json!({"tier": "Admin", "priority": 10, "subject": {"namespaces": {}}, "ingress": [rule]}),
    )
}

fn egress(peer: Value) -> Value {
    policy(json!({"tier": "Admin", "priority": 10, "subject": {"namespaces": {}},
        "egress": [{"action": "Deny", "to": [peer]}]}))
}

fn listener(extra: Value) -> Value {
    let mut listener = json!({"name": "l", "port": 80, "protocol": "HTTP"});
    for (key, value) in extra.as_object().unwrap() {
        listener[key] = value.clone();
    }
    gateway(json!([listener]))
}

fn tls_policy(validation: Value) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
        "metadata": {"name": "b", "namespace": "default"},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "s"}], "validation": validation}})
}

fn grpc(matches: Value) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GRPCRoute",
        "metadata": {"name": "g", "namespace": "default"}, "spec": {"rules": [{"matches": [matches]}]}})
}

fn class(controller: &str) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": {"name": "c"}, "spec": {"controllerName": controller}})
}

#[test]
fn sound_objects_are_accepted() {
    if !there("sound_objects_are_accepted") {
        return;
    }
    let backend = json!([{"name": "s", "port": 80, "weight": 3}]);
    let ca = json!([{"group": "", "kind": "ConfigMap", "name": "ca"}]);
    for (kind, object) in [
        (
            "HTTPRoute",
            route(json!({"parentRefs": [{"name": "g"}], "hostnames": ["*.example.com"],
            "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/a"}}, {"method": "GET",
                "headers": [{"name": "x", "value": "y"}]}], "backendRefs": backend,
                "timeouts": {"request": "10s", "backendRequest": "5s"}}]})),
        ),
        ("HTTPRoute", route(json!({}))),
        ("HTTPRoute", path("RegularExpression", "/a//b.*")),
        (
            "HTTPRoute",
            filter(
                json!({"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301}}),
            ),
        ),
        (
            "HTTPRoute",
            filter(json!({"type": "URLRewrite", "urlRewrite": {"hostname": "h",
            "path": {"type": "ReplaceFullPath", "replaceFullPath": "/x"}}})),
        ),
        ("Gateway", listener(json!({"hostname": "a.example.com"}))),
        (
            "Gateway",
            gateway(
                json!([{"name": "a", "port": 80, "protocol": "HTTP"}, {"name": "b", "port": 443, "protocol": "HTTPS",
            "tls": {"mode": "Terminate", "certificateRefs": [{"name": "c"}]}}]),
            ),
        ),
        ("GatewayClass", class("example.com/c")),
        (
            "BackendTLSPolicy",
            tls_policy(json!({"hostname": "h", "wellKnownCACertificates": "System"})),
        ),
        ("BackendTLSPolicy", tls_policy(json!({"hostname": "h", "caCertificateRefs": ca}))),
        ("GRPCRoute", grpc(json!({"method": {"service": "a.B", "method": "C"}}))),
        (
            "ClusterNetworkPolicy",
            ingress(json!({"action": "Accept", "from": [{"namespaces": {}}],
            "protocols": [{"tcp": {"destinationPort": {"range": {"start": 1, "end": 2}}}}]})),
        ),
        ("ClusterNetworkPolicy", egress(json!({"networks": ["10.0.0.0/8", "fd00::/64"]}))),
    ] {
        assert_eq!(told(kind, &object, None), [""; 0], "{kind} {object}");
        assert_eq!(told(kind, &object, Some(&object)), [""; 0], "{kind} unchanged");
    }
}

/// Kind, object, and the finding that there is: all of it up to `…`.
fn refused() -> Vec<(&'static str, Value, &'static str)> {
    let long = "a".repeat(300);
    let many = |n: usize, item: Value| Value::Array(vec![item; n]);
    let redirect =
        |path: Value| filter(json!({"type": "RequestRedirect", "requestRedirect": {"path": path}}));
    let rewrite = |path: Value| filter(json!({"type": "URLRewrite", "urlRewrite": {"path": path}}));
    let header = json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "a", "value": "b"}]}});
    let range = |start: i64, end: i64| {
        ingress(json!({"action": "Accept", "from": [{"namespaces": {}}],
        "protocols": [{"tcp": {"destinationPort": {"range": {"start": start, "end": end}}}}]}))
    };
    let san = |san: Value| {
        tls_policy(
            json!({"hostname": "h", "wellKnownCACertificates": "System", "subjectAltNames": [san]}),
        )
    };
    vec![
        // Patterns, limits and types.
        (
            "HTTPRoute",
            route(json!({"hostnames": ["-a"]})),
            "spec.hostnames[0]: Invalid value: \"-a\": spec.hostnames[0] in body should match '^…",
        ),
        (
            "HTTPRoute",
            route(json!({"hostnames": [long.clone()]})),
            "spec.hostnames[0]: Too long: may not be more than 253 bytes",
        ),
        (
            "HTTPRoute",
            route(json!({"hostnames": [""]})),
            "spec.hostnames[0]: Invalid value: \"\": spec.hostnames[0] in body should be at least 1 chars long",
        ),
        (
            "HTTPRoute",
            route(json!({"hostnames": many(17, json!("a"))})),
            "spec.hostnames: Too many: 17: must have at most 16 items",
        ),
        (
            "HTTPRoute",
            route(json!({"hostnames": [1]})),
            "spec.hostnames[0]: Invalid value: \"integer\": spec.hostnames[0] in body must be of type string: \"integer\"",
        ),
        (
            "HTTPRoute",
            route(json!({"parentRefs": [{}]})),
            "spec.parentRefs[0].name: Required value",
        ),
        (
            "HTTPRoute",
            route(json!({"parentRefs": [{"name": "g", "port": 0}]})),
            "spec.parentRefs[0].port: Invalid value: 0: spec.parentRefs[0].port in body should be greater than or equal to 1",
        ),
        (
            "HTTPRoute",
            route(json!({"parentRefs": [{"name": "g", "port": 65536}]})),
            "spec.parentRefs[0].port: Invalid value: 65536: spec.parentRefs[0].port in body should be less than or equal to 65535",
        ),
        (
            "HTTPRoute",
            route(json!({"parentRefs": [{"name": "g", "group": "A_B"}]})),
            "spec.parentRefs[0].group: Invalid value: \"A_B\": spec.parentRefs[0].group in body should match '^…",
        ),
        (
            "HTTPRoute",
            rule(json!({"matches": [{"method": "FETCH"}]})),
            "spec.rules[0].matches[0].method: Unsupported value: \"FETCH\": supported values: \"GET\", \"HEAD\", \"POST\", …",
        ),
        (
            "HTTPRoute",
            rule(json!({"matches": [{"headers": [{"name": "x"}]}]})),
            "spec.rules[0].matches[0].headers[0].value: Required value",
        ),
        (
            "HTTPRoute",
            rule(
                json!({"matches": [{"headers": [{"name": "x", "value": "1"}, {"name": "x", "value": "2"}]}]}),
            ),
            "spec.rules[0].matches[0].headers[1]: Duplicate value: {\"name\":\"x\"}",
        ),
        (
            "HTTPRoute",
            rule(json!({"backendRefs": [{"name": "s", "port": 80, "weight": -1}]})),
            "spec.rules[0].backendRefs[0].weight: Invalid value: -1: spec.rules[0].backendRefs[0].weight in body should be greater than or equal to 0",
        ),
        (
            "HTTPRoute",
            rule(json!({"backendRefs": [{"name": "s", "port": "http"}]})),
            "spec.rules[0].backendRefs[0].port: Invalid value: \"string\": spec.rules[0].backendRefs[0].port in body must be of type integer: \"string\"",
        ),
        (
            "HTTPRoute",
            rule(json!({"timeouts": {"request": "1d"}})),
            "spec.rules[0].timeouts.request: Invalid value: \"1d\": spec.rules[0].timeouts.request in body should match '^([0-9]{1,5}(h|m|s|ms)){1,4}$'",
        ),
        (
            "HTTPRoute",
            filter(json!({"type": "RequestRedirect", "requestRedirect": {"statusCode": 200}})),
            "spec.rules[0].filters[0].requestRedirect.statusCode: Unsupported value: 200: supported values: \"301\", \"302\", …",
        ),
        (
            "HTTPRoute",
            filter(json!({"type": "Teapot"})),
            "spec.rules[0].filters[0].type: Unsupported value: \"Teapot\": …",
        ),
        (
            "HTTPRoute",
            filter(json!({"type": "RequestRedirect", "requestRedirect": {"scheme": "ftp"}})),
            "spec.rules[0].filters[0].requestRedirect.scheme: Unsupported value: \"ftp\": supported values: \"http\", \"https\"",
        ),
        // Rules of paths.
        (
            "HTTPRoute",
            path("Exact", "a"),
            "spec.rules[0].matches[0].path: Invalid value: value must be an absolute path and start with '/' when type one of ['Exact', 'PathPrefix']",
        ),
        (
            "HTTPRoute",
            path("PathPrefix", "/a//b"),
            "spec.rules[0].matches[0].path: Invalid value: must not contain '//' when type one of ['Exact', 'PathPrefix']",
        ),
        (
            "HTTPRoute",
            path("PathPrefix", "/a/./b"),
            "spec.rules[0].matches[0].path: Invalid value: must not contain '/./' when type one of ['Exact', 'PathPrefix']",
        ),
        (
            "HTTPRoute",
            path("PathPrefix", "/a/../b"),
            "spec.rules[0].matches[0].path: Invalid value: must not contain '/../' when type one of ['Exact', 'PathPrefix']",
        ),
        (
            "HTTPRoute",
            path("PathPrefix", "/a%2fb"),
            "spec.rules[0].matches[0].path: Invalid value: must not contain '%2f' when type one of ['Exact', 'PathPrefix']",
        ),
        (
            "HTTPRoute",
            path("PathPrefix", "/a%2Fb"),
            "spec.rules[0].matches[0].path: Invalid value: must not contain '%2F' when type one of ['Exact', 'PathPrefix']",
        ),
        (
            "HTTPRoute",
            path("PathPrefix", "/a#b"),
            "spec.rules[0].matches[0].path: Invalid value: must not contain '#' when type one of ['Exact', 'PathPrefix']",
        ),
        (
            "HTTPRoute",
            path("PathPrefix", "/a/.."),
            "spec.rules[0].matches[0].path: Invalid value: must not end with '/..' when type one of ['Exact', 'PathPrefix']",
        ),
        (
            "HTTPRoute",
            path("PathPrefix", "/a/."),
            "spec.rules[0].matches[0].path: Invalid value: must not end with '/.' when type one of ['Exact', 'PathPrefix']",
        ),
        (
            "HTTPRoute",
            path("PathPrefix", "/a b"),
            "spec.rules[0].matches[0].path: Invalid value: must only contain valid characters (matching …",
        ),
        // Rules of filters.
        (
            "HTTPRoute",
            rule(
                json!({"backendRefs": [{"name": "s", "port": 1}], "filters": [{"type": "RequestRedirect", "requestRedirect": {}}]}),
            ),
            "spec.rules[0]: Invalid value: RequestRedirect filter must not be used together with backendRefs",
        ),
        (
            "HTTPRoute",
            rule(json!({"backendRefs": [{"name": "s"}]})),
            "spec.rules[0].backendRefs[0]: Invalid value: Must have port for Service reference",
        ),
        (
            "HTTPRoute",
            rule(json!({"filters": [header, header]})),
            "spec.rules[0].filters: Invalid value: RequestHeaderModifier filter cannot be repeated",
        ),
        (
            "HTTPRoute",
            rule(
                json!({"filters": [{"type": "RequestRedirect", "requestRedirect": {}}, {"type": "URLRewrite", "urlRewrite": {}}]}),
            ),
            "spec.rules[0].filters: Invalid value: May specify either httpRouteFilterRequestRedirect or httpRouteFilterRequestRewrite, but not both",
        ),
        (
            "HTTPRoute",
            filter(json!({"type": "RequestRedirect"})),
            "spec.rules[0].filters[0]: Invalid value: filter.requestRedirect must be specified for RequestRedirect filter.type",
        ),
        (
            "HTTPRoute",
            filter(json!({"type": "RequestRedirect", "requestRedirect": {}, "urlRewrite": {}})),
            "spec.rules[0].filters[0]: Invalid value: filter.urlRewrite must be nil if the filter.type is not URLRewrite",
        ),
        (
            "HTTPRoute",
            filter(json!({"type": "ExtensionRef"})),
            "spec.rules[0].filters[0]: Invalid value: filter.extensionRef must be specified for ExtensionRef filter.type",
        ),
        (
            "HTTPRoute",
            filter(
                json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "s"}}}),
            ),
            "spec.rules[0].filters[0].requestMirror.backendRef: Invalid value: Must have port for Service reference",
        ),
        (
            "HTTPRoute",
            filter(
                json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "s", "port": 1}, "percent": 5, "fraction": {"numerator": 1}}}),
            ),
            "spec.rules[0].filters[0].requestMirror: Invalid value: Only one of percent or fraction may be specified in HTTPRequestMirrorFilter",
        ),
        (
            "HTTPRoute",
            filter(
                json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "s", "port": 1}, "fraction": {"numerator": 101}}}),
            ),
            "spec.rules[0].filters[0].requestMirror.fraction: Invalid value: numerator must be less than or equal to denominator",
        ),
        (
            "HTTPRoute",
            filter(json!({"type": "CORS", "cors": {"allowMethods": ["*", "GET"]}})),
            "spec.rules[0].filters[0].cors.allowMethods: Invalid value: AllowMethods cannot contain '*' alongside other methods",
        ),
        (
            "HTTPRoute",
            redirect(json!({"type": "ReplaceFullPath"})),
            "spec.rules[0].filters[0].requestRedirect.path: Invalid value: replaceFullPath must be specified when type is set to 'ReplaceFullPath'",
        ),
        (
            "HTTPRoute",
            redirect(json!({"type": "ReplacePrefixMatch", "replaceFullPath": "/"})),
            "spec.rules[0].filters[0].requestRedirect.path: Invalid value: type must be 'ReplaceFullPath' when replaceFullPath is set",
        ),
        (
            "HTTPRoute",
            rewrite(json!({"type": "ReplacePrefixMatch"})),
            "spec.rules[0].filters[0].urlRewrite.path: Invalid value: replacePrefixMatch must be specified when type is set to 'ReplacePrefixMatch'",
        ),
        (
            "HTTPRoute",
            rule(
                json!({"matches": [{"path": {"type": "Exact", "value": "/"}}], "filters": [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/x"}}}]}),
            ),
            "spec.rules[0]: Invalid value: When using URLRewrite filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified",
        ),
        (
            "HTTPRoute",
            rule(json!({"timeouts": {"request": "1s", "backendRequest": "2s"}})),
            "spec.rules[0].timeouts: Invalid value: backendRequest timeout cannot be longer than request timeout",
        ),
        (
            "HTTPRoute",
            route(
                json!({"parentRefs": [{"name": "g", "sectionName": "a"}, {"name": "g", "sectionName": "a"}]}),
            ),
            "spec.parentRefs: Invalid value: sectionName must be unique when parentRefs includes 2 or more references to the same parent",
        ),
        (
            "HTTPRoute",
            route(json!({"parentRefs": [{"name": "g"}, {"name": "g", "sectionName": "a"}]})),
            "spec.parentRefs: Invalid value: sectionName must be specified when parentRefs includes 2 or more references to the same parent",
        ),
        // Gateways.
        (
            "Gateway",
            gateway(json!([])),
            "spec.listeners: Invalid value: 0: spec.listeners in body should have at least 1 items",
        ),
        (
            "Gateway",
            gateway(json!([{"name": "a", "protocol": "HTTP"}])),
            "spec.listeners[0].port: Required value",
        ),
        (
            "Gateway",
            listener(json!({"protocol": "HT TP"})),
            "spec.listeners[0].protocol: Invalid value: \"HT TP\": spec.listeners[0].protocol in body should match '^…",
        ),
        (
            "Gateway",
            gateway(
                json!([{"name": "a", "port": 80, "protocol": "HTTP"}, {"name": "a", "port": 81, "protocol": "HTTP"}]),
            ),
            "spec.listeners[1]: Duplicate value: {\"name\":\"a\"}",
        ),
        (
            "Gateway",
            gateway(
                json!([{"name": "a", "port": 80, "protocol": "HTTP"}, {"name": "b", "port": 80, "protocol": "HTTP"}]),
            ),
            "spec.listeners: Invalid value: Combination of port, protocol and hostname must be unique for each listener",
        ),
        (
            "Gateway",
            listener(json!({"tls": {"certificateRefs": [{"name": "c"}]}})),
            "spec.listeners: Invalid value: tls must not be specified for protocols ['HTTP', 'TCP', 'UDP']",
        ),
        (
            "Gateway",
            listener(json!({"protocol": "HTTPS", "tls": {"mode": "Passthrough"}})),
            "spec.listeners: Invalid value: tls mode must be Terminate for protocol HTTPS",
        ),
        (
            "Gateway",
            listener(json!({"protocol": "TLS"})),
            "spec.listeners: Invalid value: tls mode must be set for protocol TLS",
        ),
        (
            "Gateway",
            listener(json!({"protocol": "TCP", "hostname": "h"})),
            "spec.listeners: Invalid value: hostname must not be specified for protocols ['TCP', 'UDP']",
        ),
        (
            "Gateway",
            listener(json!({"protocol": "HTTPS", "tls": {"mode": "Terminate"}})),
            "spec.listeners[0].tls: Invalid value: \"object\": no such key: certificateRefs evaluating rule: certificateRefs or options must be specified when mode is Terminate",
        ),
        (
            "Gateway",
            {
                let mut g = listener(json!({}));
                g["spec"]["addresses"] = json!([{"type": "Hostname", "value": "_"}]);
                g
            },
            "spec.addresses[0]: Invalid value: Hostname value must be empty or contain only valid characters …",
        ),
        (
            "Gateway",
            {
                let mut g = listener(json!({}));
                g["spec"]["addresses"] = json!([{"type": "IPAddress", "value": "1.2.3.4"}, {"type": "IPAddress", "value": "1.2.3.4"}]);
                g
            },
            "spec.addresses: Invalid value: IPAddress values must be unique",
        ),
        (
            "Gateway",
            {
                let mut g = listener(json!({}));
                g["spec"]["infrastructure"] = json!({"labels": {"_/x": "y"}});
                g
            },
            "spec.infrastructure.labels: Invalid value: Label keys must be in the form of …",
        ),
        // The others.
        (
            "GatewayClass",
            class("no-slash"),
            "spec.controllerName: Invalid value: \"no-slash\": spec.controllerName in body should match '^…",
        ),
        (
            "BackendTLSPolicy",
            tls_policy(json!({"hostname": "h"})),
            "spec.validation: Invalid value: must specify either CACertificateRefs or WellKnownCACertificates",
        ),
        (
            "BackendTLSPolicy",
            tls_policy(
                json!({"hostname": "h", "wellKnownCACertificates": "System", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "c"}]}),
            ),
            "spec.validation: Invalid value: must not contain both CACertificateRefs and WellKnownCACertificates",
        ),
        (
            "BackendTLSPolicy",
            san(json!({"type": "Hostname"})),
            "spec.validation.subjectAltNames[0]: Invalid value: SubjectAltName element must contain Hostname, if Type is set to Hostname",
        ),
        (
            "BackendTLSPolicy",
            san(json!({"type": "URI", "uri": "spiffe://a/b", "hostname": "h"})),
            "spec.validation.subjectAltNames[0]: Invalid value: SubjectAltName element must not contain Hostname, if Type is not set to Hostname",
        ),
        (
            "GRPCRoute",
            grpc(json!({"method": {}})),
            "spec.rules[0].matches[0].method: Invalid value: One or both of 'service' or 'method' must be specified",
        ),
        (
            "GRPCRoute",
            grpc(json!({"method": {"service": "a-b"}})),
            "spec.rules[0].matches[0].method: Invalid value: service must only contain valid characters …",
        ),
        (
            "GRPCRoute",
            grpc(json!({"method": {"method": "1"}})),
            "spec.rules[0].matches[0].method: Invalid value: method must only contain valid characters …",
        ),
        (
            "ClusterNetworkPolicy",
            range(5, 5),
            "spec.ingress[0].protocols[0].tcp.destinationPort.range: Invalid value: Start port must be less than End port",
        ),
        (
            "ClusterNetworkPolicy",
            egress(json!({"networks": ["10.0.0.0/33"]})),
            "spec.egress[0].to[0].networks[0]: Invalid value: \"10.0.0.0/33\": Invalid CIDR format provided",
        ),
        (
            "ClusterNetworkPolicy",
            ingress(json!({"action": "Maybe", "from": [{"namespaces": {}}]})),
            "spec.ingress[0].action: Unsupported value: \"Maybe\": …",
        ),
        (
            "ClusterNetworkPolicy",
            policy(json!({"tier": "Admin", "priority": -1, "subject": {"namespaces": {}}})),
            "spec.priority: Invalid value: -1: spec.priority in body should be greater than or equal to 0",
        ),
        (
            "ClusterNetworkPolicy",
            policy(json!({"tier": "Other", "priority": 1, "subject": {"namespaces": {}}})),
            "spec.tier: Unsupported value: \"Other\": …",
        ),
        (
            "ClusterNetworkPolicy",
            ingress(json!({"action": "Deny"})),
            "spec.ingress[0].from: Required value",
        ),
        (
            "ClusterNetworkPolicy",
            policy(json!({"tier": "Admin", "priority": 1, "subject": {}})),
            "spec.subject: Invalid value: 0: spec.subject in body should have at least 1 properties",
        ),
    ]
}

#[test]
fn each_refused_object_breaks_one_rule() {
    if !there("each_refused_object_breaks_one_rule") {
        return;
    }
    let cases = refused();
    assert!(cases.len() >= 60, "{}", cases.len());
    let mut wrong = Vec::new();
    for (kind, object, expected) in cases {
        let found = told(kind, &object, None);
        let fits = |f: &String| match expected.split_once('…') {
            Some((begin, _)) => f.starts_with(begin),
            None => f == expected,
        };
        if !found.iter().any(fits) {
            wrong.push(format!("{kind}: {expected}\n   found {found:#?}"));
        }
        // What was stored before the rule was made may stay. As in the real API, that does not go
        // for rules that cannot be evaluated.
        let still = told(kind, &object, Some(&object));
        let for_good = |f: &String| !f.contains("evaluating rule");
        if still.iter().any(for_good) {
            wrong.push(format!("{kind}: unchanged, yet {still:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn transitions_are_judged_by_what_was() {
    if !there("transitions_are_judged_by_what_was") {
        return;
    }
    let (old, new) = (class("example.com/a"), class("example.com/b"));
    assert_eq!(told("GatewayClass", &new, None), [""; 0], "a new one has nothing to come from");
    assert_eq!(
        told("GatewayClass", &new, Some(&old)),
        ["spec.controllerName: Invalid value: \"example.com/b\": field is immutable"]
    );
}

#[test]
fn validation_takes_tens_of_microseconds() {
    if !there("validation_takes_tens_of_microseconds") {
        return;
    }
    let object = route(json!({"parentRefs": [{"name": "g"}], "hostnames": ["a.example.com"],
        "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/a"}}],
            "backendRefs": [{"name": "s", "port": 80}]}]}));
    told("HTTPRoute", &object, None);
    let start = std::time::Instant::now();
    const ROUNDS: u32 = 200;
    for _ in 0..ROUNDS {
        assert!(told("HTTPRoute", &object, None).is_empty());
    }
    // No limit: the machine may be busy with anything.
    println!("one HTTPRoute: {:?}", start.elapsed() / ROUNDS);
}
