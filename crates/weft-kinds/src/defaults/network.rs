//! Defaults of the networking kinds.

use serde_json::{Value, json};

use super::{Object, ensure, items, member, put, text};

/// Seconds that ClientIP affinity lasts: three hours.
const AFFINITY_SECONDS: u32 = 10_800;

pub(super) fn service(object: &mut Object) {
    if let Some(status) = ensure(object, "status") {
        put(status, "loadBalancer", json!({}));
    }
    let Some(spec) = ensure(object, "spec") else { return };
    put(spec, "sessionAffinity", "None");
    match text(spec, "sessionAffinity") {
        "ClientIP" => {
            let config = ensure(spec, "sessionAffinityConfig");
            if let Some(client) = config.and_then(|c| ensure(c, "clientIP")) {
                put(client, "timeoutSeconds", AFFINITY_SECONDS);
            }
        }
        "None" => {
            spec.shift_remove("sessionAffinityConfig");
        }
        _ => {}
    }
    put(spec, "type", "ClusterIP");
    for port in items(spec, "ports") {
        put(port, "protocol", "TCP");
        let unset = matches!(port.get("targetPort"), None | Some(Value::Null))
            || port.get("targetPort") == Some(&json!(0))
            || port.get("targetPort") == Some(&json!(""));
        if unset && let Some(number) = port.get("port").cloned() {
            port.insert("targetPort".into(), number);
        }
    }
    let kind = text(spec, "type").to_owned();
    let external_ips = spec.get("externalIPs").and_then(Value::as_array);
    let has_external_ips = external_ips.is_some_and(|list| !list.is_empty());
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer")
        || (kind == "ClusterIP" && has_external_ips)
    {
        put(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        put(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        put(spec, "allocateLoadBalancerNodePorts", true);
        let status = member(object, "status");
        let balancer = status.and_then(|status| member(status, "loadBalancer"));
        for ingress in balancer.into_iter().flat_map(|balancer| items(balancer, "ingress")) {
            if !text(ingress, "ip").is_empty() {
                put(ingress, "ipMode", "VIP");
            }
        }
    }
}

pub(super) fn endpoints(object: &mut Object) {
    for subset in items(object, "subsets") {
        for port in items(subset, "ports") {
            put(port, "protocol", "TCP");
        }
    }
}

pub(super) fn endpoint_slice(object: &mut Object) {
    put(object, "endpoints", json!([]));
    // Go writes a list that is not there as null.
    put(object, "ports", Value::Null);
    for endpoint in items(object, "endpoints") {
        put(endpoint, "conditions", json!({}));
    }
    for port in items(object, "ports") {
        put(port, "name", "");
        put(port, "protocol", "TCP");
    }
}

pub(super) fn network_policy(object: &mut Object) {
    let Some(spec) = member(object, "spec") else { return };
    for direction in ["ingress", "egress"] {
        for rule in items(spec, direction) {
            for port in items(rule, "ports") {
                put(port, "protocol", "TCP");
            }
        }
    }
    put(spec, "podSelector", json!({}));
    let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    put(
        spec,
        "policyTypes",
        if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) },
    );
}

pub(super) fn ingress_class(object: &mut Object) {
    let spec = member(object, "spec");
    if let Some(parameters) = spec.and_then(|spec| member(spec, "parameters")) {
        put(parameters, "scope", "Cluster");
    }
}

pub(super) fn service_cidr(object: &mut Object) {
    put(object, "status", json!({}));
}
