//! Rules of pods and pod templates.

use serde_json::Value;

use super::{Errors, container, integer, list, meta, pod_update, string, strings, text};

const VOLUME_TYPES_TEXT: &str = "may not specify more than 1 volume type";
/// `MaxDNSNameservers` and its companions of the real API.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCHES_CHARS_MAX: usize = 2048;

pub(super) fn pod(e: &mut Errors, new: &Value, old: Option<&Value>) {
    let empty = Value::Null;
    let new_spec = new.get("spec").unwrap_or(&empty);
    spec(e, new_spec, "spec");
    match old {
        None => {
            if !list(new_spec, "ephemeralContainers").is_empty() {
                e.forbidden("spec.ephemeralContainers", "cannot be set on create");
            }
            let gated = !list(new_spec, "schedulingGates").is_empty();
            if gated && !string(new_spec, "nodeName").is_empty() {
                let detail = "cannot be set until all schedulingGates have been cleared";
                e.forbidden("spec.nodeName", detail);
            }
        }
        Some(old) => pod_update::update(e, new_spec, old.get("spec").unwrap_or(&empty)),
    }
}

/// A template at `path`: its labels, annotations and spec.
pub(super) fn template(e: &mut Errors, template: &Value, path: &str) {
    let labels = template.pointer("/metadata/labels");
    meta::labels(e, labels, &format!("{path}.metadata.labels"));
    let at = format!("{path}.metadata.annotations");
    for (key, _) in meta::members(template.pointer("/metadata/annotations")) {
        e.each(&at, key, text::qualified_name(&key.to_ascii_lowercase()));
    }
    let empty = Value::Null;
    let spec_value = template.get("spec").unwrap_or(&empty);
    spec(e, spec_value, &format!("{path}.spec"));
    if !list(spec_value, "ephemeralContainers").is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        e.forbidden(format!("{path}.spec.ephemeralContainers"), detail);
    }
}

fn spec(e: &mut Errors, spec: &Value, path: &str) {
    let volumes = volumes(e, spec, path);
    container::all(e, spec, path, &volumes);
    let at = |key: &str| format!("{path}.{key}");
    if let Some(seconds) = spec.get("activeDeadlineSeconds").and_then(Value::as_i64)
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let detail = format!("must be between 1 and {}, inclusive", i32::MAX);
        e.invalid(at("activeDeadlineSeconds"), seconds, detail);
    }
    let grace = spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64);
    if let Some(seconds) = grace.filter(|s| *s > i64::from(i32::MAX)) {
        let detail = format!("must be less than or equal to {}", i32::MAX);
        e.invalid(at("terminationGracePeriodSeconds"), seconds, detail);
    }
    e.one_of(at("restartPolicy"), string(spec, "restartPolicy"), &["Always", "OnFailure", "Never"]);
    e.one_of(
        at("dnsPolicy"),
        string(spec, "dnsPolicy"),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    meta::labels(e, spec.get("nodeSelector"), &at("nodeSelector"));
    for (key, rule) in [
        ("serviceAccountName", text::subdomain as fn(&str) -> Vec<String>),
        ("nodeName", text::subdomain),
        ("priorityClassName", text::subdomain),
        ("hostname", text::label),
        ("subdomain", text::label),
        ("hostnameOverride", text::subdomain),
        ("runtimeClassName", text::subdomain),
    ] {
        let value = string(spec, key);
        if !value.is_empty() {
            e.each(&at(key), value, rule(value));
        }
    }
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        host_network_ports(e, spec, path);
    }
    dns_config(e, spec, path);
    tolerations(e, spec, path);
    for (index, alias) in list(spec, "hostAliases").iter().enumerate() {
        let at = format!("{path}.hostAliases[{index}]");
        let ip = string(alias, "ip");
        e.each(&format!("{at}.ip"), ip, text::ip(ip));
        for (index, name) in strings(alias, "hostnames").into_iter().enumerate() {
            e.each(&format!("{at}.hostnames[{index}]"), name, text::subdomain(name));
        }
    }
    spread(e, spec, path);
}

fn host_network_ports(e: &mut Errors, spec: &Value, path: &str) {
    for (index, container) in list(spec, "containers").iter().enumerate() {
        for (place, port) in list(container, "ports").iter().enumerate() {
            let host = integer(port, "hostPort");
            if host != 0 && host != integer(port, "containerPort") {
                e.invalid(
                    format!("{path}.containers[{index}].ports[{place}].hostPort"),
                    host,
                    "must match `containerPort` when `hostNetwork` is true",
                );
            }
        }
    }
}

fn volumes<'a>(e: &mut Errors, spec: &'a Value, path: &str) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        let at = format!("{path}.volumes[{index}]");
        let name = string(volume, "name");
        if name.is_empty() {
            e.required(format!("{at}.name"), "");
        } else {
            e.each(&format!("{at}.name"), name, text::label(name));
        }
        if names.contains(&name) {
            e.duplicate(format!("{at}.name"), name);
        }
        names.push(name);
        let mut sources = meta::members(Some(volume)).filter(|(key, _)| *key != "name");
        let Some((source, value)) = sources.next() else {
            e.required(at.as_str(), "must specify a volume type");
            continue;
        };
        for (other, _) in sources {
            e.forbidden(format!("{at}.{other}"), VOLUME_TYPES_TEXT);
        }
        let needed = match source.as_str() {
            "configMap" => "name",
            "secret" => "secretName",
            "hostPath" => "path",
            "persistentVolumeClaim" => "claimName",
            _ => continue,
        };
        let at = format!("{at}.{source}");
        if string(value, needed).is_empty() {
            e.required(format!("{at}.{needed}"), "");
        }
        for (index, item) in list(value, "items").iter().enumerate() {
            let at = format!("{at}.items[{index}]");
            for key in ["key", "path"] {
                if string(item, key).is_empty() {
                    e.required(format!("{at}.{key}"), "");
                }
            }
            let target = string(item, "path");
            if target.starts_with('/') {
                e.invalid(format!("{at}.path"), target, "must be a relative path");
            }
            if target.split('/').any(|part| part == "..") {
                e.invalid(format!("{at}.path"), target, "must not contain '..'");
            }
        }
        let mode = integer(value, "defaultMode");
        if !(0..=0o777).contains(&mode) {
            let detail = "must be a number between 0 and 0777 (octal), both inclusive";
            e.invalid(format!("{at}.defaultMode"), mode, detail);
        }
        if source == "hostPath" && string(value, "path").split('/').any(|part| part == "..") {
            e.invalid(format!("{at}.path"), string(value, "path"), "must not contain '..'");
        }
    }
    names
}

fn dns_config(e: &mut Errors, spec: &Value, path: &str) {
    let at = format!("{path}.dnsConfig");
    let config = spec.get("dnsConfig");
    if string(spec, "dnsPolicy") == "None" {
        match config {
            None => {
                e.required(at, "must provide `dnsConfig` when `dnsPolicy` is None");
                return;
            }
            Some(config) if list(config, "nameservers").is_empty() => {
                e.required(
                    format!("{at}.nameservers"),
                    "must provide at least one DNS nameserver when `dnsPolicy` is None",
                );
                return;
            }
            Some(_) => {}
        }
    }
    let Some(config) = config else { return };
    let servers = strings(config, "nameservers");
    if servers.len() > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        e.invalid(format!("{at}.nameservers"), Value::from(servers.clone()), detail);
    }
    for (index, server) in servers.into_iter().enumerate() {
        e.each(&format!("{at}.nameservers[{index}]"), server, text::ip(server));
    }
    let searches = strings(config, "searches");
    if searches.len() > SEARCHES_MAX {
        let detail = format!("must not have more than {SEARCHES_MAX} search paths");
        e.invalid(format!("{at}.searches"), Value::from(searches.clone()), detail);
    }
    if searches.join(" ").len() > SEARCHES_CHARS_MAX {
        let detail = format!(
            "must not have more than {SEARCHES_CHARS_MAX} characters (including spaces) in the \
             search list"
        );
        e.invalid(format!("{at}.searches"), Value::from(searches.clone()), detail);
    }
    for (index, search) in searches.into_iter().enumerate() {
        // A lone dot is the root; underscores are allowed.
        if search != "." {
            let name = search.strip_suffix('.').unwrap_or(search).replace('_', "-");
            let trimmed = name.trim_start_matches('-');
            e.each(&format!("{at}.searches[{index}]"), search, text::subdomain(trimmed));
        }
    }
    for (index, option) in list(config, "options").iter().enumerate() {
        if string(option, "name").is_empty() {
            e.required(format!("{at}.options[{index}]"), "must not be empty");
        }
    }
}

fn tolerations(e: &mut Errors, spec: &Value, path: &str) {
    for (index, toleration) in list(spec, "tolerations").iter().enumerate() {
        let at = format!("{path}.tolerations[{index}]");
        let (key, operator) = (string(toleration, "key"), string(toleration, "operator"));
        if key.is_empty() {
            if operator != "Exists" {
                e.invalid(
                    format!("{at}.operator"),
                    operator,
                    "operator must be Exists when `key` is empty, which means \"match all values \
                     and all keys\"",
                );
            }
        } else {
            e.each(&format!("{at}.key"), key, text::qualified_name(key));
        }
        let effect = string(toleration, "effect");
        if toleration.get("tolerationSeconds").is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            e.invalid(format!("{at}.effect"), effect, detail);
        }
        let value = string(toleration, "value");
        match operator {
            "" | "Equal" => {
                e.each(&format!("{at}.operator"), value, text::label_value(value));
            }
            "Exists" if !value.is_empty() => e.invalid(
                format!("{at}.operator"),
                value,
                "value must be empty when `operator` is 'Exists'",
            ),
            "Exists" => {}
            other => e.not_supported(format!("{at}.operator"), other, &["Equal", "Exists"]),
        }
        if !matches!(effect, "" | "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
            let known = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
            e.not_supported(format!("{at}.effect"), effect, known);
        }
    }
}

fn spread(e: &mut Errors, spec: &Value, path: &str) {
    for (index, constraint) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        let at = format!("{path}.topologySpreadConstraints[{index}]");
        let skew = integer(constraint, "maxSkew");
        if skew <= 0 {
            e.invalid(format!("{at}.maxSkew"), skew, "must be greater than zero");
        }
        if string(constraint, "topologyKey").is_empty() {
            e.required(format!("{at}.topologyKey"), "can not be empty");
        }
        let when = string(constraint, "whenUnsatisfiable");
        if !matches!(when, "DoNotSchedule" | "ScheduleAnyway") {
            let known = &["DoNotSchedule", "ScheduleAnyway"];
            e.not_supported(format!("{at}.whenUnsatisfiable"), when, known);
        }
    }
}
