//! What the real API says about objects that it accepts: values that a later release will refuse,
//! fields without effect, deprecated ones.

use serde_json::Value;

use crate::Kind;
use crate::address::{cidr_warnings, ip_warning};

/// Warnings for an accepted object. `old` is what an update replaces; `status` is for updates of
/// the status subresource.
pub fn warnings(kind: &Kind, object: &Value, old: Option<&Value>, status: bool) -> Vec<String> {
    let mut found = Vec::new();
    let create = old.is_none();
    match (kind.type_name(), status) {
        ("core.v1.Service" | "networking.v1.Ingress", true) => balancer(&mut found, object),
        (_, true) => {}
        ("core.v1.Service", false) => service(&mut found, object),
        ("core.v1.Endpoints", false) => endpoints(&mut found, object),
        ("discovery.v1.EndpointSlice", false) => slice(&mut found, object, create),
        ("networking.v1.NetworkPolicy", false) => policy(&mut found, object),
        ("networking.v1.Ingress", false) if create => ingress(&mut found, object),
        ("apiextensions.v1.CustomResourceDefinition", false) => {
            found.extend(weft_crd::definition::warnings(object, old));
        }
        _ => {}
    }
    found
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_default()
}

fn list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object[key].as_array().map_or(&[], Vec::as_slice)
}

fn texts<'a>(object: &'a Value, key: &str) -> impl Iterator<Item = (usize, &'a str)> {
    list(object, key).iter().filter_map(Value::as_str).enumerate()
}

fn service(found: &mut Vec<String>, service: &Value) {
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let spec = &service["spec"];
    let kind = text(spec, "type");
    if service.pointer("/metadata/annotations").is_some_and(|all| all.get(HINTS).is_some()) {
        found.push(format!(
            "annotation {HINTS} is deprecated, please use service.kubernetes.io/topology-mode instead"
        ));
    }
    for (index, ip) in texts(spec, "clusterIPs").filter(|(_, ip)| *ip != "None") {
        found.extend(ip_warning(&format!("spec.clusterIPs[{index}]"), ip));
    }
    if kind == "ClusterIP" && text(spec, "clusterIP") == "None" {
        for (set, field) in [
            (!text(spec, "loadBalancerIP").is_empty(), "loadBalancerIP"),
            (!list(spec, "externalIPs").is_empty(), "externalIPs"),
            (text(spec, "sessionAffinity") != "None", "SessionAffinity"),
        ] {
            if set {
                found.push(format!("spec.{field} is ignored for headless services"));
            }
        }
    }
    for (index, ip) in texts(spec, "externalIPs") {
        found.extend(ip_warning(&format!("spec.externalIPs[{index}]"), ip));
    }
    found.extend(ip_warning("spec.loadBalancerIP", text(spec, "loadBalancerIP")));
    for (index, range) in texts(spec, "loadBalancerSourceRanges") {
        found.extend(cidr_warnings(&format!("spec.loadBalancerSourceRanges[{index}]"), range));
    }
    if kind == "ExternalName" && !list(spec, "externalIPs").is_empty() {
        found.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if kind != "ExternalName" && !text(spec, "externalName").is_empty() {
        found
            .push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if text(spec, "trafficDistribution") == "PreferClose" {
        found.push(
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\""
                .to_owned(),
        );
    }
}

fn balancer(found: &mut Vec<String>, object: &Value) {
    for (index, entry) in list(&object["status"]["loadBalancer"], "ingress").iter().enumerate() {
        let field = format!("status.loadBalancer.ingress[{index}]");
        found.extend(ip_warning(&field, text(entry, "ip")));
    }
}

fn endpoints(found: &mut Vec<String>, endpoints: &Value) {
    let owner = &endpoints["metadata"]["labels"]["endpoints.kubernetes.io/managed-by"];
    if owner == "endpoint-controller" {
        return;
    }
    for (index, subset) in list(endpoints, "subsets").iter().enumerate() {
        for key in ["addresses", "notReadyAddresses"] {
            for (entry, address) in list(subset, key).iter().enumerate() {
                let field = format!("subsets[{index}].{key}[{entry}].ip");
                found.extend(ip_warning(&field, text(address, "ip")));
            }
        }
    }
}

fn slice(found: &mut Vec<String>, slice: &Value, create: bool) {
    const OWNERS: &[&str] =
        &["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];
    let owner = &slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"];
    let owned = owner.as_str().is_some_and(|owner| OWNERS.contains(&owner));
    match text(slice, "addressType") {
        "FQDN" if create => {
            found.push("spec.addressType: FQDN endpoints are deprecated".to_owned())
        }
        // The rule of IPv6 is strict already.
        "IPv4" if !owned => {
            for (index, endpoint) in list(slice, "endpoints").iter().enumerate() {
                for (entry, address) in texts(endpoint, "addresses") {
                    let field = format!("endpoints[{index}].addresses[{entry}]");
                    found.extend(ip_warning(&field, address));
                }
            }
        }
        _ => {}
    }
}

fn ingress(found: &mut Vec<String>, ingress: &Value) {
    const CLASS: &str = "kubernetes.io/ingress.class";
    let annotated =
        ingress.pointer("/metadata/annotations").is_some_and(|a| a.get(CLASS).is_some());
    if annotated && ingress["spec"]["ingressClassName"].is_null() {
        found.push(format!(
            "annotation {CLASS:?} is deprecated, please use 'spec.ingressClassName' instead"
        ));
    }
}

fn policy(found: &mut Vec<String>, policy: &Value) {
    for (direction, side) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in list(&policy["spec"], direction).iter().enumerate() {
            for (entry, peer) in list(rule, side).iter().enumerate() {
                let at = format!("spec.{direction}[{index}].{side}[{entry}].ipBlock");
                let block = &peer["ipBlock"];
                found.extend(cidr_warnings(&format!("{at}.cidr"), text(block, "cidr")));
                for (number, except) in texts(block, "except") {
                    found.extend(cidr_warnings(&format!("{at}.except[{number}]"), except));
                }
            }
        }
    }
}
