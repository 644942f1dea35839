//! Rules of containers.

use serde_json::Value;

use super::service::port_or_name;
use super::{Errors, PROTOCOLS, integer, list, string, strings, text};

const HANDLERS: &[&str] = &["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

/// Regular and init containers of a pod with these volumes.
pub(super) fn all(e: &mut Errors, spec: &Value, path: &str, volumes: &[&str]) {
    let containers = list(spec, "containers");
    let field = format!("{path}.containers");
    if containers.is_empty() {
        e.required(field.as_str(), "");
    }
    let mut names: Vec<&str> = Vec::new();
    let mut host_ports = Vec::new();
    for (index, container) in containers.iter().enumerate() {
        let at = format!("{field}[{index}]");
        common(e, container, &at, volumes);
        unique_name(e, container, &at, &mut names);
        running(e, container, &at);
        unique_host_ports(e, container, &at, &mut host_ports);
    }
    for (index, container) in list(spec, "initContainers").iter().enumerate() {
        let at = format!("{path}.initContainers[{index}]");
        common(e, container, &at, volumes);
        unique_name(e, container, &at, &mut names);
        unique_host_ports(e, container, &at, &mut Vec::new());
        match string(container, "restartPolicy") {
            "Always" => running(e, container, &at),
            other => {
                if !matches!(other, "" | "Never" | "OnFailure") {
                    let known = &["Always", "OnFailure", "Never"];
                    e.not_supported(format!("{at}.restartPolicy"), other, known);
                }
                for key in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                    if container.get(key).is_some() {
                        e.forbidden(
                            format!("{at}.{key}"),
                            "may not be set for init containers without restartPolicy=Always",
                        );
                    }
                }
            }
        }
    }
}

fn unique_name<'a>(e: &mut Errors, container: &'a Value, at: &str, names: &mut Vec<&'a str>) {
    let name = string(container, "name");
    if !name.is_empty() && names.contains(&name) {
        e.duplicate(format!("{at}.name"), name);
    }
    names.push(name);
}

/// Host ports, with their protocol and address, that are taken already.
fn unique_host_ports<'a>(
    e: &mut Errors,
    container: &'a Value,
    at: &str,
    taken: &mut Vec<(i64, &'a str, &'a str)>,
) {
    for (index, port) in list(container, "ports").iter().enumerate() {
        let number = integer(port, "hostPort");
        let key = (number, string(port, "protocol"), string(port, "hostIP"));
        if number == 0 {
            continue;
        }
        if taken.contains(&key) {
            let value = format!("{}/{}/{}", key.1, key.2, key.0);
            e.duplicate(format!("{at}.ports[{index}].hostPort"), value);
        }
        taken.push(key);
    }
}

fn common(e: &mut Errors, container: &Value, at: &str, volumes: &[&str]) {
    match string(container, "name") {
        "" => e.required(format!("{at}.name"), ""),
        name => e.each(&format!("{at}.name"), name, text::label(name)),
    }
    let image = string(container, "image");
    if image.is_empty() {
        e.required(format!("{at}.image"), "");
    } else if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        e.invalid(format!("{at}.image"), image, detail);
    }
    let policy = string(container, "terminationMessagePolicy");
    let known = &["File", "FallbackToLogsOnError"];
    e.one_of(format!("{at}.terminationMessagePolicy"), policy, known);
    let policy = string(container, "imagePullPolicy");
    e.one_of(format!("{at}.imagePullPolicy"), policy, &["Always", "IfNotPresent", "Never"]);
    ports(e, container, at);
    env(e, container, at);
    mounts(e, container, at, volumes);
    resources(e, container.get("resources"), &format!("{at}.resources"));
}

fn ports(e: &mut Errors, container: &Value, at: &str) {
    let mut names: Vec<&str> = Vec::new();
    for (index, port) in list(container, "ports").iter().enumerate() {
        let at = format!("{at}.ports[{index}]");
        let name = string(port, "name");
        if !name.is_empty() {
            let messages = text::port_name(name);
            if messages.is_empty() && names.contains(&name) {
                e.duplicate(format!("{at}.name"), name);
            }
            e.each(&format!("{at}.name"), name, messages);
            names.push(name);
        }
        match integer(port, "containerPort") {
            0 => e.required(format!("{at}.containerPort"), ""),
            number => {
                for message in text::port_number(number) {
                    e.invalid(format!("{at}.containerPort"), number, message);
                }
            }
        }
        let host = integer(port, "hostPort");
        if host != 0 {
            for message in text::port_number(host) {
                e.invalid(format!("{at}.hostPort"), host, message);
            }
        }
        e.one_of(format!("{at}.protocol"), string(port, "protocol"), PROTOCOLS);
    }
}

fn env(e: &mut Errors, container: &Value, at: &str) {
    for (index, variable) in list(container, "env").iter().enumerate() {
        let at = format!("{at}.env[{index}]");
        match string(variable, "name") {
            "" => e.required(format!("{at}.name"), ""),
            name => e.each(&format!("{at}.name"), name, text::env_name(name)),
        }
        let Some(from) = variable.get("valueFrom") else { continue };
        let at = format!("{at}.valueFrom");
        let sources = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef"];
        let set: Vec<&str> =
            sources.into_iter().chain(["fileKeyRef"]).filter(|s| from.get(s).is_some()).collect();
        match set.len() {
            0 => e.invalid(
                at.as_str(),
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, \
                 `secretKeyRef` or `fileKeyRef`",
            ),
            _ if !string(variable, "value").is_empty() => {
                e.invalid(at.as_str(), "", "may not be specified when `value` is not empty");
            }
            1 => {}
            _ => e.invalid(at.as_str(), "", "may not have more than one field specified at a time"),
        }
        if let Some(field) = from.get("fieldRef") {
            field_ref(e, field, &format!("{at}.fieldRef"));
        }
        for source in ["configMapKeyRef", "secretKeyRef"] {
            if let Some(reference) = from.get(source) {
                match string(reference, "key") {
                    "" => e.required(format!("{at}.{source}.key"), ""),
                    key => e.each(&format!("{at}.{source}.key"), key, text::config_key(key)),
                }
            }
        }
    }
    for (index, from) in list(container, "envFrom").iter().enumerate() {
        let at = format!("{at}.envFrom[{index}]");
        let set = ["configMapRef", "secretRef"].into_iter().filter(|s| from.get(s).is_some());
        match set.count() {
            0 => e.invalid(at, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => e.invalid(at, "", "may not have more than one field specified at a time"),
        }
    }
}

fn field_ref(e: &mut Errors, field: &Value, at: &str) {
    const KNOWN: &[&str] = &[
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    let path = string(field, "fieldPath");
    let subscript = ["metadata.annotations['", "metadata.labels['"]
        .into_iter()
        .find_map(|prefix| path.strip_prefix(prefix)?.strip_suffix("']"));
    match (path, subscript) {
        ("", _) => e.required(format!("{at}.fieldPath"), ""),
        (_, Some(key)) => e.each(at, key, text::qualified_name(&key.to_ascii_lowercase())),
        _ if KNOWN.contains(&path) => {}
        _ => e.not_supported(format!("{at}.fieldPath"), path, KNOWN),
    }
}

fn mounts(e: &mut Errors, container: &Value, at: &str, volumes: &[&str]) {
    let mut paths: Vec<&str> = Vec::new();
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        let at = format!("{at}.volumeMounts[{index}]");
        let name = string(mount, "name");
        if name.is_empty() {
            e.required(format!("{at}.name"), "");
        }
        if !volumes.contains(&name) {
            e.not_found(format!("{at}.name"), name);
        }
        let path = string(mount, "mountPath");
        if path.is_empty() {
            e.required(format!("{at}.mountPath"), "");
        }
        if paths.contains(&path) {
            e.invalid(format!("{at}.mountPath"), path, "must be unique");
        }
        paths.push(path);
        for key in ["subPath", "subPathExpr"] {
            let path = string(mount, key);
            if path.starts_with('/') {
                e.invalid(format!("{at}.{key}"), path, "must be a relative path");
            }
            if path.split('/').any(|part| part == "..") {
                e.invalid(format!("{at}.{key}"), path, "must not contain '..'");
            }
        }
    }
}

fn resources(e: &mut Errors, resources: Option<&Value>, at: &str) {
    for kind in ["limits", "requests"] {
        for (name, quantity) in super::meta::members(resources.and_then(|r| r.get(kind))) {
            let quantity = quantity.as_str().unwrap_or_default();
            if quantity.starts_with('-') {
                let detail = "must be greater than or equal to 0";
                e.invalid(format!("{at}.{kind}[{name}]"), quantity, detail);
            }
        }
    }
}

/// What only a container that keeps running may have.
fn running(e: &mut Errors, container: &Value, at: &str) {
    if let Some(lifecycle) = container.get("lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook_value) = lifecycle.get(hook) {
                handler(e, hook_value, &format!("{at}.lifecycle.{hook}"));
            }
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get(name) else { continue };
        let at = format!("{at}.{name}");
        handler(e, probe, &at);
        for key in [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ] {
            e.not_negative(format!("{at}.{key}"), probe.get(key));
        }
        let grace = probe.get("terminationGracePeriodSeconds").and_then(Value::as_i64);
        if let Some(seconds) = grace.filter(|seconds| *seconds <= 0) {
            let field = format!("{at}.terminationGracePeriodSeconds");
            e.invalid(field, seconds, "must be greater than 0");
        }
        if let Some(seconds) = grace.filter(|s| *s > i64::from(i32::MAX)) {
            let field = format!("{at}.terminationGracePeriodSeconds");
            e.invalid(field, seconds, format!("must be less than or equal to {}", i32::MAX));
        }
        let successes = integer(probe, "successThreshold");
        if name == "readinessProbe" {
            if let Some(seconds) = grace {
                let field = format!("{at}.terminationGracePeriodSeconds");
                e.invalid(field, seconds, "must not be set for readinessProbes");
            }
        } else if successes != 1 {
            e.invalid(format!("{at}.successThreshold"), successes, "must be 1");
        }
    }
}

fn handler(e: &mut Errors, handler: &Value, at: &str) {
    let mut set = HANDLERS.iter().filter(|name| handler.get(**name).is_some());
    let Some(first) = set.next() else {
        e.required(at, "must specify a handler type");
        return;
    };
    for name in set {
        e.forbidden(format!("{at}.{name}"), "may not specify more than 1 handler type");
    }
    let at = format!("{at}.{first}");
    let action = &handler[*first];
    match *first {
        "exec" if strings(action, "command").is_empty() => {
            e.required(format!("{at}.command"), "");
        }
        "httpGet" => {
            if string(action, "path").is_empty() {
                e.required(format!("{at}.path"), "");
            }
            port_or_name(e, action.get("port"), &format!("{at}.port"));
            let scheme = string(action, "scheme");
            if !matches!(scheme, "HTTP" | "HTTPS") {
                e.not_supported(format!("{at}.scheme"), scheme, &["HTTP", "HTTPS"]);
            }
            for header in list(action, "httpHeaders") {
                let name = string(header, "name");
                e.each(&format!("{at}.httpHeaders"), name, text::header_name(name));
            }
        }
        "tcpSocket" | "grpc" => port_or_name(e, action.get("port"), &format!("{at}.port")),
        _ => {}
    }
}
