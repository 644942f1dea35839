//! Defaults of pods and pod templates.

use serde_json::{Value, json};

use super::{Object, ensure, items, member, put, put_in, text};

/// A pod: the template's defaults, and what holds for pods only.
pub(super) fn pod(object: &mut Object) {
    template(object);
    let Some(spec) = member(object, "spec") else { return };
    put(spec, "enableServiceLinks", true);
    for list in ["containers", "initContainers"] {
        for container in items(spec, list) {
            requests_from_limits(container);
        }
    }
}

/// A template: `spec` of anything that makes pods.
pub(super) fn template(object: &mut Object) {
    if let Some(spec) = ensure(object, "spec") {
        pod_spec(spec);
    }
}

fn pod_spec(spec: &mut Object) {
    put(spec, "restartPolicy", "Always");
    put(spec, "terminationGracePeriodSeconds", 30);
    put(spec, "dnsPolicy", "ClusterFirst");
    put(spec, "securityContext", json!({}));
    put(spec, "schedulerName", "default-scheduler");
    // serviceAccount is the deprecated spelling; both are shown.
    let account = [text(spec, "serviceAccountName"), text(spec, "serviceAccount")]
        .into_iter()
        .find(|name| !name.is_empty())
        .map(str::to_owned);
    if let Some(account) = account {
        spec.insert("serviceAccountName".into(), account.as_str().into());
        spec.insert("serviceAccount".into(), account.into());
    }
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in items(spec, list) {
            self::container(container);
            if host_network && list != "ephemeralContainers" {
                for port in items(container, "ports") {
                    if let Some(number) = port.get("containerPort").cloned() {
                        put(port, "hostPort", number);
                    }
                }
            }
        }
    }
    for volume in items(spec, "volumes") {
        self::volume(volume);
    }
}

fn container(container: &mut Object) {
    put(container, "resources", json!({}));
    put(container, "terminationMessagePath", "/dev/termination-log");
    put(container, "terminationMessagePolicy", "File");
    let policy = pull_policy(text(container, "image"));
    put(container, "imagePullPolicy", policy);
    for port in items(container, "ports") {
        put(port, "protocol", "TCP");
    }
    for env in items(container, "env") {
        if let Some(from) = member(env, "valueFrom") {
            if let Some(field) = member(from, "fieldRef") {
                put(field, "apiVersion", "v1");
            }
            if let Some(resource) = member(from, "resourceFieldRef") {
                put(resource, "divisor", "0");
            }
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = member(container, name) {
            handler(probe);
            put(probe, "timeoutSeconds", 1);
            put(probe, "periodSeconds", 10);
            put(probe, "successThreshold", 1);
            put(probe, "failureThreshold", 3);
        }
    }
    if let Some(lifecycle) = member(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = member(lifecycle, hook) {
                handler(hook);
            }
        }
    }
}

fn handler(handler: &mut Object) {
    if let Some(http) = member(handler, "httpGet") {
        put(http, "path", "/");
        put(http, "scheme", "HTTP");
    }
    if let Some(grpc) = member(handler, "grpc") {
        put(grpc, "service", "");
    }
}

/// `Always` for a tag that moves: `latest`, or none and no digest.
fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.rsplit_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn requests_from_limits(container: &mut Object) {
    let Some(resources) = member(container, "resources") else { return };
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else { return };
    if let Some(requests) = ensure(resources, "requests") {
        for (name, quantity) in limits {
            put(requests, &name, quantity);
        }
    }
}

fn volume(volume: &mut Object) {
    /// 0644, as decimal as JSON has it.
    const MODE: u32 = 0o644;
    if volume.keys().all(|key| key == "name") {
        volume.insert("emptyDir".into(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = member(volume, source) {
            put(source, "defaultMode", MODE);
        }
    }
    if let Some(source) = member(volume, "downwardAPI") {
        downward(source);
    }
    if let Some(source) = member(volume, "hostPath") {
        put(source, "type", "");
    }
    if let Some(projected) = member(volume, "projected") {
        for source in items(projected, "sources") {
            if source.contains_key("serviceAccountToken") {
                put_in(source, "serviceAccountToken", "expirationSeconds", 3600);
            }
            if let Some(source) = member(source, "downwardAPI") {
                downward(source);
            }
        }
    }
    if let Some(ephemeral) = member(volume, "ephemeral")
        && let Some(claim) = member(ephemeral, "volumeClaimTemplate")
    {
        put_in(claim, "spec", "volumeMode", "Filesystem");
    }
}

fn downward(source: &mut Object) {
    for item in items(source, "items") {
        if let Some(field) = member(item, "fieldRef") {
            put(field, "apiVersion", "v1");
        }
        if let Some(resource) = member(item, "resourceFieldRef") {
            put(resource, "divisor", "0");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::pull_policy;

    #[test]
    fn the_pull_policy_follows_the_tag() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("registry.example:5000/nginx", "Always"),
            ("registry.example:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
            ("", "Always"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
