//! Rules of Ingresses and their classes.

use serde_json::Value;

use super::{Errors, integer, list, service_status, string, strings, text};
use crate::address::parse_ip;

const CONTROLLER_BYTES_MAX: usize = 250;

pub(super) fn ingress(e: &mut Errors, new: &Value, old: Option<&Value>) {
    let empty = Value::Null;
    let spec = new.get("spec").unwrap_or(&empty);
    let class = spec.get("ingressClassName").and_then(Value::as_str);
    let rules = list(spec, "rules");
    if rules.is_empty() && spec.get("defaultBackend").is_none() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        e.invalid("spec", Value::Null, detail);
    }
    if let Some(target) = spec.get("defaultBackend") {
        backend(e, target, "spec.defaultBackend");
    }
    for (index, rule) in rules.iter().enumerate() {
        self::rule(e, rule, &format!("spec.rules[{index}]"));
    }
    for (index, tls) in list(spec, "tls").iter().enumerate() {
        let at = format!("spec.tls[{index}]");
        for (index, name) in strings(tls, "hosts").into_iter().enumerate() {
            e.each(&format!("{at}.hosts[{index}]"), name, host(name));
        }
        let secret = string(tls, "secretName");
        if !secret.is_empty() {
            e.each(&format!("{at}.secretName"), secret, text::subdomain(secret));
        }
    }
    if let Some(class) = class {
        e.each("spec.ingressClassName", class, text::subdomain(class));
    }
    const ANNOTATION: &str = "kubernetes.io/ingress.class";
    let annotated = new.pointer("/metadata/annotations").and_then(|all| all.get(ANNOTATION));
    if old.is_none()
        && let (Some(class), Some(Value::String(annotated))) = (class, annotated)
        && annotated != class
    {
        let detail = "must match `ingressClassName` when both are specified";
        e.invalid(format!("annotations.{ANNOTATION}"), annotated.as_str(), detail);
    }
    if old.is_some() {
        service_status::ingress(e, new, old);
    }
}

fn host(name: &str) -> Vec<String> {
    if name.contains('*') { text::wildcard(name) } else { text::subdomain(name) }
}

fn rule(e: &mut Errors, rule: &Value, at: &str) {
    let name = string(rule, "host");
    if !name.is_empty() {
        if parse_ip(name).is_some() {
            let detail = "must be a DNS name, not an IP address";
            e.invalid(format!("{at}.host"), name, detail);
        }
        e.each(&format!("{at}.host"), name, host(name));
    }
    let Some(http) = rule.get("http") else { return };
    let paths = list(http, "paths");
    if paths.is_empty() {
        e.required(format!("{at}.http.paths"), "");
    }
    for (index, path) in paths.iter().enumerate() {
        http_path(e, path, &format!("{at}.http.paths[{index}]"));
    }
}

fn http_path(e: &mut Errors, entry: &Value, at: &str) {
    let path = string(entry, "path");
    let field = format!("{at}.path");
    let Some(Value::String(kind)) = entry.get("pathType") else {
        e.required(format!("{at}.pathType"), "pathType must be specified");
        return;
    };
    match kind.as_str() {
        "Exact" | "Prefix" => {
            if !path.starts_with('/') {
                e.invalid(field.as_str(), path, "must be an absolute path");
            }
            for sequence in ["//", "/./", "/../", "%2f", "%2F"] {
                if path.contains(sequence) {
                    e.invalid(field.as_str(), path, format!("must not contain '{sequence}'"));
                }
            }
            for suffix in ["/..", "/."] {
                if path.ends_with(suffix) {
                    e.invalid(field.as_str(), path, format!("cannot end with '{suffix}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && !path.starts_with('/') {
                e.invalid(field, path, "must be an absolute path");
            }
        }
        other => {
            let known = &["Exact", "ImplementationSpecific", "Prefix"];
            e.not_supported(format!("{at}.pathType"), other, known);
        }
    }
    let empty = Value::Null;
    backend(e, entry.get("backend").unwrap_or(&empty), &format!("{at}.backend"));
}

fn backend(e: &mut Errors, backend: &Value, at: &str) {
    match (backend.get("resource"), backend.get("service")) {
        (Some(_), Some(_)) => {
            e.invalid(at, "", "cannot set both resource and service backends");
        }
        (Some(resource), None) => typed_reference(e, resource, &format!("{at}.resource")),
        (None, Some(service)) => {
            match string(service, "name") {
                "" => e.required(format!("{at}.service.name"), ""),
                name => e.each(&format!("{at}.service.name"), name, text::label_1035(name)),
            }
            let port = service.get("port").unwrap_or(&Value::Null);
            match (string(port, "name"), integer(port, "number")) {
                ("", 0) => e.required(at, "port name or number is required"),
                ("", number) => {
                    for message in text::port_number(number) {
                        e.invalid(format!("{at}.service.port.number"), number, message);
                    }
                }
                (name, 0) => {
                    e.each(&format!("{at}.service.port.name"), name, text::port_name(name));
                }
                _ => e.invalid(at, "", "cannot set both port name & port number"),
            }
        }
        (None, None) => e.invalid(at, "", "resource or service backend is required"),
    }
}

fn typed_reference(e: &mut Errors, reference: &Value, at: &str) {
    if let Some(Value::String(group)) = reference.get("apiGroup") {
        e.each(&format!("{at}.apiGroup"), group, text::subdomain(group));
    }
    for key in ["kind", "name"] {
        match string(reference, key) {
            "" => e.required(format!("{at}.{key}"), ""),
            value => e.each(&format!("{at}.{key}"), value, text::path_segment(value)),
        }
    }
}

pub(super) fn ingress_class(e: &mut Errors, new: &Value, old: Option<&Value>) {
    const FIELD: &str = "spec.controller";
    let empty = Value::Null;
    let spec = new.get("spec").unwrap_or(&empty);
    if let Some(old) = old.and_then(|old| old.get("spec")) {
        e.immutable(FIELD, spec.get("controller"), old.get("controller"));
    }
    let controller = string(spec, "controller");
    if controller.len() > CONTROLLER_BYTES_MAX {
        e.too_long(FIELD, CONTROLLER_BYTES_MAX);
    }
    match controller.split_once('/') {
        _ if controller.is_empty() => e.required(FIELD, ""),
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() => {
            e.each(FIELD, domain, text::subdomain(domain));
            e.each(FIELD, path, text::http_path(path));
        }
        _ => {
            let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            e.invalid(FIELD, controller, detail);
        }
    }
    if let Some(parameters) = spec.get("parameters") {
        self::parameters(e, parameters, "spec.parameters");
    }
}

fn parameters(e: &mut Errors, parameters: &Value, at: &str) {
    typed_reference(e, parameters, at);
    let Some(Value::String(scope)) = parameters.get("scope") else {
        return e.required(format!("{at}.scope"), "");
    };
    let field = format!("{at}.namespace");
    match (scope.as_str(), parameters.get("namespace").and_then(Value::as_str)) {
        ("Namespace", None) => e.required(field, "`parameters.scope` is set to 'Namespace'"),
        ("Namespace", Some(namespace)) => e.each(&field, namespace, text::label(namespace)),
        ("Cluster", Some(_)) => e.forbidden(field, "`parameters.scope` is set to 'Cluster'"),
        ("Cluster", None) => {}
        (other, _) => {
            e.not_supported(format!("{at}.scope"), other, &["Cluster", "Namespace"]);
        }
    }
}
