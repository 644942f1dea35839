//! Rules of Services, to the letter of the real API but for what allocation decides.

use serde_json::{Value, json};

use super::meta::labels;
use super::{Errors, PROTOCOLS, integer, list, service_ips, string, strings, text};

const LOAD_BALANCER_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
/// Seconds of ClientIP affinity: one day.
const AFFINITY_SECONDS_MAX: i64 = 86_400;

pub(super) fn is_headless(spec: &Value) -> bool {
    strings(spec, "clusterIPs") == ["None"] || string(spec, "clusterIP") == "None"
}

pub(super) fn service(e: &mut Errors, new: &Value, old: Option<&Value>) {
    let empty = Value::Null;
    let spec = new.get("spec").unwrap_or(&empty);
    let before = old.and_then(|old| old.get("spec"));
    if let Some(before) = before {
        service_ips::update(e, spec, before);
        if string(before, "type") == "LoadBalancer"
            && string(spec, "type") == "LoadBalancer"
            && before.get("loadBalancerClass") != spec.get("loadBalancerClass")
        {
            let class = spec.get("loadBalancerClass").cloned().unwrap_or_default();
            e.invalid("spec.loadBalancerClass", class, "may not change once set");
        }
    }
    kind(e, spec);
    ports(e, spec);
    labels(e, spec.get("selector"), "spec.selector");
    affinity(e, spec);
    service_ips::cluster_ips(e, spec);
    for (index, ip) in strings(spec, "externalIPs").into_iter().enumerate() {
        let field = format!("spec.externalIPs[{index}]");
        let mut messages = text::ip(ip);
        if messages.is_empty() {
            messages = text::endpoint_ip(ip);
        }
        e.each(&field, ip, messages);
    }
    e.one_of(
        "spec.type",
        string(spec, "type"),
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
    );
    duplicates(e, spec);
    balancer(e, spec);
    traffic(e, spec, before);
}

fn kind(e: &mut Errors, spec: &Value) {
    let kind = string(spec, "type");
    if list(spec, "ports").is_empty() && !is_headless(spec) && kind != "ExternalName" {
        e.required("spec.ports", "");
    }
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(spec) => e.invalid(
            "spec.clusterIPs[0]",
            "None",
            format!("may not be set to 'None' for {kind} services"),
        ),
        "ExternalName" => {
            let has_ip = matches!(string(spec, "clusterIP"), ip if !ip.is_empty())
                || !list(spec, "clusterIPs").is_empty();
            for (set, field) in [
                (has_ip, "clusterIPs"),
                (!list(spec, "ipFamilies").is_empty(), "ipFamilies"),
                (spec.get("ipFamilyPolicy").is_some(), "ipFamilyPolicy"),
            ] {
                if set {
                    let field = format!("spec.{field}");
                    e.forbidden(field, "may not be set for ExternalName services");
                }
            }
            let name = string(spec, "externalName");
            match name.strip_suffix('.').unwrap_or(name) {
                "" => e.required("spec.externalName", ""),
                name => e.each("spec.externalName", name, text::subdomain(name)),
            }
        }
        _ => {}
    }
}

fn ports(e: &mut Errors, spec: &Value) {
    let ports = list(spec, "ports");
    let mut names: Vec<&str> = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        match string(port, "name") {
            "" if ports.len() > 1 => e.required(format!("{at}.name"), ""),
            "" => {}
            name => {
                e.each(&format!("{at}.name"), name, text::label(name));
                if names.contains(&name) {
                    e.duplicate(format!("{at}.name"), name);
                }
                names.push(name);
            }
        }
        let number = integer(port, "port");
        for message in text::port_number(number) {
            e.invalid(format!("{at}.port"), number, message);
        }
        e.one_of(format!("{at}.protocol"), string(port, "protocol"), PROTOCOLS);
        port_or_name(e, port.get("targetPort"), &format!("{at}.targetPort"));
        if let Some(Value::String(protocol)) = port.get("appProtocol") {
            e.each(&format!("{at}.appProtocol"), protocol, text::qualified_name(protocol));
        }
        if string(spec, "type") == "ClusterIP" && integer(port, "nodePort") != 0 {
            let field = format!("{at}.nodePort");
            e.forbidden(field, "may not be used when `type` is 'ClusterIP'");
        }
    }
}

/// A port's number or name, as `targetPort` and probes have it.
pub(super) fn port_or_name(e: &mut Errors, port: Option<&Value>, field: &str) {
    match port {
        Some(Value::String(name)) => e.each(field, name, text::port_name(name)),
        other => {
            let number = other.and_then(Value::as_i64).unwrap_or_default();
            for message in text::port_number(number) {
                e.invalid(field, number, message);
            }
        }
    }
}

fn duplicates(e: &mut Errors, spec: &Value) {
    let ports = list(spec, "ports");
    for (index, port) in ports.iter().enumerate() {
        let earlier = |key: &str| {
            ports[..index].iter().any(|other| {
                string(other, "protocol") == string(port, "protocol")
                    && integer(other, key) == integer(port, key)
            })
        };
        let node_port = integer(port, "nodePort");
        if node_port != 0 && earlier("nodePort") {
            e.duplicate(format!("spec.ports[{index}].nodePort"), node_port);
        }
        if earlier("port") {
            let key = json!({"protocol": string(port, "protocol"),
                             "port": integer(port, "port"), "targetPort": 0});
            e.duplicate(format!("spec.ports[{index}]"), key);
        }
    }
}

fn affinity(e: &mut Errors, spec: &Value) {
    const CONFIG: &str = "spec.sessionAffinityConfig";
    let affinity = string(spec, "sessionAffinity");
    e.one_of("spec.sessionAffinity", affinity, &["ClientIP", "None"]);
    let config = spec.get("sessionAffinityConfig");
    match affinity {
        "None" if config.is_some() => {
            e.forbidden(CONFIG, "must not be set when session affinity is None");
        }
        "ClientIP" => {
            let seconds = spec.pointer("/sessionAffinityConfig/clientIP/timeoutSeconds");
            match seconds.and_then(Value::as_i64) {
                None => e.required(
                    format!("{CONFIG}.clientIP.timeoutSeconds"),
                    "when session affinity type is ClientIP",
                ),
                Some(seconds) if !(1..=AFFINITY_SECONDS_MAX).contains(&seconds) => e.invalid(
                    format!("{CONFIG}.clientIP.timeoutSeconds"),
                    seconds,
                    format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}"),
                ),
                Some(_) => {}
            }
        }
        _ => {}
    }
}

fn balancer(e: &mut Errors, spec: &Value) {
    let is_balancer = string(spec, "type") == "LoadBalancer";
    let ranges = strings(spec, "loadBalancerSourceRanges");
    if !ranges.is_empty() {
        // The real API misspells this path; clients see it so.
        const FIELD: &str = "spec.LoadBalancerSourceRanges";
        if !is_balancer {
            e.forbidden(FIELD, LOAD_BALANCER_ONLY);
        }
        for (index, range) in ranges.into_iter().enumerate() {
            let range = range.trim();
            e.each(&format!("{FIELD}[{index}]"), range, text::cidr(range));
        }
    }
    if !is_balancer && spec.get("allocateLoadBalancerNodePorts").is_some() {
        e.forbidden("spec.allocateLoadBalancerNodePorts", LOAD_BALANCER_ONLY);
    }
    if let Some(Value::String(class)) = spec.get("loadBalancerClass") {
        if is_balancer {
            e.each("spec.loadBalancerClass", class, text::qualified_name(class));
        } else {
            e.forbidden("spec.loadBalancerClass", LOAD_BALANCER_ONLY);
        }
    }
}

fn traffic(e: &mut Errors, spec: &Value, before: Option<&Value>) {
    const HEALTH: &str = "spec.healthCheckNodePort";
    let accessible = |spec: &Value| match string(spec, "type") {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => !list(spec, "externalIPs").is_empty(),
        _ => false,
    };
    let policy = string(spec, "externalTrafficPolicy");
    if accessible(spec) {
        e.one_of("spec.externalTrafficPolicy", policy, &["Cluster", "Local"]);
    } else if !policy.is_empty() {
        e.invalid(
            "spec.externalTrafficPolicy",
            policy,
            "may only be set for externally-accessible services",
        );
    }
    let checked = |spec: &Value| {
        string(spec, "type") == "LoadBalancer" && string(spec, "externalTrafficPolicy") == "Local"
    };
    let port = integer(spec, "healthCheckNodePort");
    if !checked(spec) && port != 0 {
        e.invalid(
            HEALTH,
            port,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        );
    } else if port != 0 {
        for message in text::port_number(port) {
            e.invalid(HEALTH, port, message);
        }
    }
    if let Some(before) = before
        && checked(before)
        && checked(spec)
        && port != 0
        && integer(before, "healthCheckNodePort") != port
    {
        e.forbidden(HEALTH, "field is immutable");
    }
    match spec.get("internalTrafficPolicy").and_then(Value::as_str) {
        Some(policy) if !matches!(policy, "Cluster" | "Local") => {
            e.not_supported("spec.internalTrafficPolicy", policy, &["Cluster", "Local"]);
        }
        None if string(spec, "type") != "ExternalName" => {
            e.required("spec.internalTrafficPolicy", "");
        }
        _ => {}
    }
    if let Some(Value::String(distribution)) = spec.get("trafficDistribution") {
        const KNOWN: &[&str] = &["PreferClose", "PreferSameZone", "PreferSameNode"];
        if !KNOWN.contains(&distribution.as_str()) {
            e.not_supported("spec.trafficDistribution", distribution.as_str(), KNOWN);
        }
    }
}
