//! Rules of what a load balancer reports, on Services and Ingresses.

use serde_json::Value;

use super::{Errors, list, string, text};
use crate::address::parse_ip;

const INGRESS: &str = "status.loadBalancer.ingress";

fn reported(object: &Value) -> &[Value] {
    object.pointer("/status/loadBalancer").map_or(&[], |balancer| list(balancer, "ingress"))
}

pub(super) fn service(e: &mut Errors, new: &Value, old: Option<&Value>) {
    if string(&new["spec"], "type") != "LoadBalancer" && !reported(new).is_empty() {
        e.forbidden(INGRESS, "may only be used when `spec.type` is 'LoadBalancer'");
        return;
    }
    addresses(e, new, old, |e, at, entry| {
        let mode = entry.get("ipMode").and_then(Value::as_str);
        let field = format!("{at}.ipMode");
        match (mode, string(entry, "ip").is_empty()) {
            (None, false) => e.required(field, "must be specified when `ip` is set"),
            (Some(_), true) => e.forbidden(field, "may not be specified when `ip` is not set"),
            (Some(mode), false) if !matches!(mode, "VIP" | "Proxy") => {
                e.not_supported(field, mode, &["Proxy", "VIP"]);
            }
            _ => {}
        }
    });
}

pub(super) fn ingress(e: &mut Errors, new: &Value, old: Option<&Value>) {
    addresses(e, new, old, |_, _, _| {});
}

fn addresses(
    e: &mut Errors,
    new: &Value,
    old: Option<&Value>,
    mode: impl Fn(&mut Errors, &str, &Value),
) {
    let existing: Vec<&str> =
        old.map(reported).unwrap_or_default().iter().map(|entry| string(entry, "ip")).collect();
    for (index, entry) in reported(new).iter().enumerate() {
        let at = format!("{INGRESS}[{index}]");
        let ip = string(entry, "ip");
        if !ip.is_empty() && !existing.contains(&ip) {
            e.each(&format!("{at}.ip"), ip, text::ip(ip));
        }
        mode(e, &at, entry);
        let name = string(entry, "hostname");
        if !name.is_empty() {
            let field = format!("{at}.hostname");
            e.each(&field, name, text::subdomain(name));
            if parse_ip(name).is_some() {
                e.invalid(field, name, "must be a DNS name, not an IP address");
            }
        }
    }
}
