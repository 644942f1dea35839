//! Rules of the other kinds.

use serde_json::Value;

use super::{Errors, list, string, strings, text};

const RBAC: &str = "rbac.authorization.k8s.io";

pub(super) fn namespace(e: &mut Errors, new: &Value, _: Option<&Value>) {
    let Some(spec) = new.get("spec") else { return };
    for finalizer in strings(spec, "finalizers") {
        e.each("spec.finalizers", finalizer, text::qualified_name(finalizer));
    }
}

pub(super) fn node(e: &mut Errors, new: &Value, old: Option<&Value>) {
    let empty = Value::Null;
    let spec = new.get("spec").unwrap_or(&empty);
    let cidrs = strings(spec, "podCIDRs");
    for (index, cidr) in cidrs.iter().enumerate() {
        e.each(&format!("spec.podCIDRs[{index}]"), cidr, text::cidr(cidr));
    }
    if cidrs.len() > 2 {
        let detail = "may specify no more than one CIDR for each IP family";
        e.invalid("spec.podCIDRs", Value::from(cidrs.clone()), detail);
    }
    for (index, taint) in list(spec, "taints").iter().enumerate() {
        let at = format!("spec.taints[{index}]");
        let (key, value) = (string(taint, "key"), string(taint, "value"));
        if key.is_empty() {
            e.required(format!("{at}.key"), "");
        } else {
            e.each(&format!("{at}.key"), key, text::qualified_name(key));
        }
        e.each(&format!("{at}.value"), value, text::label_value(value));
        let effect = string(taint, "effect");
        e.one_of(format!("{at}.effect"), effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
    }
    if let Some(before) = old.and_then(|old| old.get("spec")) {
        let was = strings(before, "podCIDRs");
        if !was.is_empty() && was != cidrs {
            let detail = "node updates may not change podCIDR except from \"\" to valid";
            e.forbidden("spec.podCIDRs", detail);
        }
        let (is, was) = (string(spec, "providerID"), string(before, "providerID"));
        if !was.is_empty() && is != was {
            let detail = "node updates may not change providerID except from \"\" to valid";
            e.forbidden("spec.providerID", detail);
        }
    }
}

pub(super) fn lease(e: &mut Errors, new: &Value, _: Option<&Value>) {
    let Some(spec) = new.get("spec") else { return };
    let seconds = spec.get("leaseDurationSeconds").and_then(Value::as_i64);
    if let Some(seconds) = seconds.filter(|seconds| *seconds <= 0) {
        e.invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0");
    }
    e.not_negative("spec.leaseTransitions", spec.get("leaseTransitions"));
}

pub(super) fn role(e: &mut Errors, new: &Value, _: Option<&Value>) {
    let namespaced = new.get("kind").and_then(Value::as_str) == Some("Role");
    for (index, rule) in list(new, "rules").iter().enumerate() {
        let at = format!("rules[{index}]");
        let has = |key: &str| !list(rule, key).is_empty();
        if !has("verbs") {
            e.required(format!("{at}.verbs"), "verbs must contain at least one value");
        }
        if has("nonResourceURLs") {
            let field = format!("{at}.nonResourceURLs");
            if namespaced {
                let urls = rule["nonResourceURLs"].clone();
                e.invalid(field, urls, "namespaced rules cannot apply to non-resource URLs");
            } else if has("apiGroups") || has("resources") || has("resourceNames") {
                let urls = rule["nonResourceURLs"].clone();
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                e.invalid(field, urls, detail);
            }
            continue;
        }
        if !has("apiGroups") {
            let detail = "resource rules must supply at least one api group";
            e.required(format!("{at}.apiGroups"), detail);
        }
        if !has("resources") {
            let detail = "resource rules must supply at least one resource";
            e.required(format!("{at}.resources"), detail);
        }
    }
}

pub(super) fn role_binding(e: &mut Errors, new: &Value, old: Option<&Value>) {
    let empty = Value::Null;
    let role = new.get("roleRef").unwrap_or(&empty);
    let cluster = new.get("kind").and_then(Value::as_str) == Some("ClusterRoleBinding");
    if string(role, "apiGroup") != RBAC {
        e.not_supported("roleRef.apiGroup", string(role, "apiGroup"), &[RBAC]);
    }
    let known: &[&str] = if cluster { &["ClusterRole"] } else { &["Role", "ClusterRole"] };
    if !known.contains(&string(role, "kind")) {
        e.not_supported("roleRef.kind", string(role, "kind"), known);
    }
    match string(role, "name") {
        "" => e.required("roleRef.name", ""),
        name => e.each("roleRef.name", name, text::path_segment(name)),
    }
    for (index, subject) in list(new, "subjects").iter().enumerate() {
        let at = format!("subjects[{index}]");
        let name = string(subject, "name");
        if name.is_empty() {
            e.required(format!("{at}.name"), "");
        }
        match string(subject, "kind") {
            "ServiceAccount" => {
                if !name.is_empty() {
                    e.each(&format!("{at}.name"), name, text::subdomain(name));
                }
                if cluster && string(subject, "namespace").is_empty() {
                    e.required(format!("{at}.namespace"), "");
                }
            }
            "User" | "Group" => {
                if string(subject, "apiGroup") != RBAC {
                    e.not_supported(format!("{at}.apiGroup"), string(subject, "apiGroup"), &[RBAC]);
                }
            }
            other => {
                let known = &["ServiceAccount", "User", "Group"];
                e.not_supported(format!("{at}.kind"), other, known);
            }
        }
    }
    if let Some(before) = old.and_then(|old| old.get("roleRef"))
        && before != role
    {
        e.invalid("roleRef", role.clone(), "cannot change roleRef");
    }
}
