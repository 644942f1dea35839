//! Rules of Services, to the letter of the real API but for what allocation decides.

use serde_json::{Value, json};
use std::collections::HashSet;

use super::meta::labels;
use super::{Errors, PROTOCOLS, integer, list, service_ips, service_status, string, strings, text};

const LOAD_BALANCER_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
/// Seconds of ClientIP affinity: one day.
const AFFINITY_SECONDS_MAX: i64 = 86_400;

pub(super) fn is_headless(spec: &Value) -> bool {
    strings(spec, "clusterIPs") == ["None"]
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
        // The real API checks the class's form twice in an update.
        balancer_class(e, spec);
        health_port_stays(e, spec, before);
        service_status::service(e, new, old);
    }
    topology(e, new);
    kind(e, spec);
    ports(e, spec);
    labels(e, spec.get("selector"), "spec.selector");
    affinity(e, spec);
    service_ips::cluster_ips(e, spec, before);
    let existing = before.map(|before| strings(before, "externalIPs")).unwrap_or_default();
    for (index, ip) in strings(spec, "externalIPs").into_iter().enumerate() {
        let field = format!("spec.externalIPs[{index}]");
        let mut messages = if existing.contains(&ip) { Vec::new() } else { text::ip(ip) };
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
    if string(spec, "type") == "ClusterIP" {
        for (index, _) in
            list(spec, "ports").iter().enumerate().filter(|(_, p)| integer(p, "nodePort") != 0)
        {
            let field = format!("spec.ports[{index}].nodePort");
            e.forbidden(field, "may not be used when `type` is 'ClusterIP'");
        }
    }
    duplicates(e, spec);
    balancer(e, new, old);
    traffic(e, spec);
}

/// The older annotation may not contradict the newer one.
fn topology(e: &mut Errors, service: &Value) {
    const MODE: &str = "service.kubernetes.io/topology-mode";
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let annotation =
        |key: &str| service.pointer("/metadata/annotations")?.get(key).and_then(Value::as_str);
    if let (Some(mode), Some(hints)) = (annotation(MODE), annotation(HINTS))
        && mode != hints
    {
        let field = format!("metadata.annotations[{MODE}]");
        e.invalid(field, mode, format!("must match annotations[{HINTS}] when both are specified"));
    }
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
            let has_ip = !list(spec, "clusterIPs").is_empty();
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
    // A set: nothing bounds the number of ports, and this runs while others wait.
    let mut names: HashSet<&str> = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        match string(port, "name") {
            "" if ports.len() > 1 => e.required(format!("{at}.name"), ""),
            "" => {}
            name => {
                e.each(&format!("{at}.name"), name, text::label(name));
                if !names.insert(name) {
                    e.duplicate(format!("{at}.name"), name);
                }
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
    let (mut node_ports, mut numbers) = (HashSet::new(), HashSet::new());
    for (index, port) in ports.iter().enumerate() {
        let node_port = integer(port, "nodePort");
        if node_port != 0 && !node_ports.insert((string(port, "protocol"), node_port)) {
            e.duplicate(format!("spec.ports[{index}].nodePort"), node_port);
        }
    }
    for (index, port) in ports.iter().enumerate() {
        if !numbers.insert((string(port, "protocol"), integer(port, "port"))) {
            // The real API prints its internal type.
            let key = json!({"Name": "", "Protocol": string(port, "protocol"),
                             "AppProtocol": null, "Port": integer(port, "port"),
                             "TargetPort": 0, "NodePort": 0});
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

fn balancer(e: &mut Errors, new: &Value, old: Option<&Value>) {
    const ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let spec = &new["spec"];
    let is_balancer = string(spec, "type") == "LoadBalancer";
    let ranges = strings(spec, "loadBalancerSourceRanges");
    let annotation =
        |service: &Value| Some(service.pointer("/metadata/annotations")?.get(ANNOTATION)?.clone());
    if !ranges.is_empty() {
        // The real API misspells this path; clients see it so.
        const FIELD: &str = "spec.LoadBalancerSourceRanges";
        if !is_balancer {
            e.forbidden(FIELD, LOAD_BALANCER_ONLY);
        }
        let existing =
            old.map(|old| strings(&old["spec"], "loadBalancerSourceRanges")).unwrap_or_default();
        for (index, range) in ranges.into_iter().enumerate() {
            let range = range.trim();
            if !existing.iter().any(|old| old.trim() == range) {
                e.each(&format!("{FIELD}[{index}]"), range, text::cidr(range));
            }
        }
    } else if let Some(Value::String(value)) = annotation(new) {
        let field = format!("metadata.annotations[{ANNOTATION}]");
        if !is_balancer {
            e.forbidden(field.as_str(), LOAD_BALANCER_ONLY);
        }
        let same = old.and_then(annotation).is_some_and(|old| old == value.as_str());
        let value = value.trim();
        if !same && !value.is_empty() {
            for range in value.split(',').map(str::trim) {
                e.each(&field, range, text::cidr(range));
            }
        }
    }
    match spec.get("allocateLoadBalancerNodePorts") {
        Some(_) if !is_balancer => {
            e.forbidden("spec.allocateLoadBalancerNodePorts", LOAD_BALANCER_ONLY);
        }
        // The real API leaves `spec` out of this path.
        None if is_balancer => e.required("allocateLoadBalancerNodePorts", ""),
        _ => {}
    }
    balancer_class(e, spec);
}

fn balancer_class(e: &mut Errors, spec: &Value) {
    let Some(Value::String(class)) = spec.get("loadBalancerClass") else { return };
    if string(spec, "type") == "LoadBalancer" {
        e.each("spec.loadBalancerClass", class, text::qualified_name(class));
    } else {
        e.forbidden("spec.loadBalancerClass", LOAD_BALANCER_ONLY);
    }
}

const HEALTH: &str = "spec.healthCheckNodePort";

fn is_health_checked(spec: &Value) -> bool {
    string(spec, "type") == "LoadBalancer" && string(spec, "externalTrafficPolicy") == "Local"
}

fn health_port_stays(e: &mut Errors, spec: &Value, before: &Value) {
    if is_health_checked(before)
        && is_health_checked(spec)
        && integer(before, "healthCheckNodePort") != integer(spec, "healthCheckNodePort")
    {
        e.forbidden(HEALTH, "field is immutable");
    }
}

fn traffic(e: &mut Errors, spec: &Value) {
    let accessible = match string(spec, "type") {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => !list(spec, "externalIPs").is_empty(),
        _ => false,
    };
    let policy = string(spec, "externalTrafficPolicy");
    if accessible {
        e.one_of("spec.externalTrafficPolicy", policy, &["Cluster", "Local"]);
    } else if !policy.is_empty() {
        e.invalid(
            "spec.externalTrafficPolicy",
            policy,
            "may only be set for externally-accessible services",
        );
    }
    match (is_health_checked(spec), integer(spec, "healthCheckNodePort")) {
        (true, 0) => e.required(HEALTH, ""),
        (true, port) => {
            for message in text::port_number(port) {
                e.invalid(HEALTH, port, message);
            }
        }
        (false, 0) => {}
        (false, port) => e.invalid(
            HEALTH,
            port,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ),
    }
    match spec.get("internalTrafficPolicy").and_then(Value::as_str) {
        Some(policy) if !matches!(policy, "Cluster" | "Local") => {
            e.not_supported("spec.internalTrafficPolicy", policy, &["Cluster", "Local"]);
        }
        None if matches!(string(spec, "type"), "ClusterIP" | "NodePort" | "LoadBalancer") => {
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
