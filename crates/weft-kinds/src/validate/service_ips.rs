//! Rules of a Service's addresses and families.

use serde_json::Value;

use super::service::is_headless;
use super::{Errors, FieldError, string, strings, text};
use crate::address::parse_ip;

const IPS: &str = "spec.clusterIPs";
const FAMILIES: &str = "spec.ipFamilies";
const POLICY: &str = "spec.ipFamilyPolicy";
const CHANGED: &str = "may not change once set";

/// All that a Service says about its addresses and families, as allocation wants it checked
/// before it completes them.
pub(crate) fn related(spec: &Value, before: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    cluster_ips(&mut errors, spec, before);
    errors.list
}

/// What `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` say about each other.
pub(super) fn cluster_ips(e: &mut Errors, spec: &Value, before: Option<&Value>) {
    if string(spec, "type") == "ExternalName" {
        return;
    }
    let ips = strings(spec, "clusterIPs");
    let all = || Value::from(ips.clone());
    match (string(spec, "clusterIP"), ips.first()) {
        ("", Some(_)) => e.invalid(IPS, all(), "must be empty when `clusterIP` is not specified"),
        ("", None) => {}
        (_, None) => e.required(IPS, ""),
        (ip, Some(first)) if ip != *first => {
            e.invalid(IPS, all(), "first value must match `clusterIP`");
        }
        _ => {}
    }
    let families = strings(spec, "ipFamilies");
    for (index, family) in families.iter().enumerate() {
        let field = format!("{FAMILIES}[{index}]");
        if !matches!(*family, "IPv4" | "IPv6") {
            e.not_supported(field.clone(), *family, &["IPv4", "IPv6"]);
        }
        if families[..index].contains(family) {
            e.duplicate(field, *family);
        }
    }
    if let Some(Value::String(policy)) = spec.get("ipFamilyPolicy") {
        const KNOWN: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];
        if !KNOWN.contains(&policy.as_str()) {
            e.not_supported(POLICY, policy.as_str(), KNOWN);
        }
    }
    let existing = before.map(|before| strings(before, "clusterIPs")).unwrap_or_default();
    let mut well_formed = true;
    for (index, ip) in ips.iter().enumerate() {
        if index == 0 && *ip == "None" {
            if ips.len() > 1 {
                well_formed = false;
                e.invalid(IPS, all(), "'None' must be the first and only value");
            }
            continue;
        }
        let messages = if existing.contains(ip) { Vec::new() } else { text::ip(ip) };
        well_formed &= messages.is_empty();
        e.each(&format!("{IPS}[{index}]"), ip, messages);
    }
    if ips.len() > 2 {
        e.invalid(IPS, all(), "may only hold up to 2 values");
    }
    if !well_formed {
        return;
    }
    let is_v6 = |ip: &str| parse_ip(ip).is_some_and(|ip| ip.is_ipv6());
    let v6 = ips.iter().filter(|ip| is_v6(ip)).count();
    if ips.len() > 1 && (v6 == 0 || v6 == ips.len()) {
        e.invalid(IPS, all(), "may specify no more than one IP for each IP family");
    }
    if is_headless(spec) {
        return;
    }
    for (index, (ip, family)) in ips.iter().zip(&families).enumerate() {
        let expected = if is_v6(ip) { "IPv6" } else { "IPv4" };
        if *family != expected && matches!(*family, "IPv4" | "IPv6") {
            e.invalid(
                format!("{IPS}[{index}]"),
                *ip,
                format!("expected an {family} value as indicated by `ipFamilies[{index}]`"),
            );
        }
    }
}

/// Upgrades add a second address or family, downgrades take it away and say SingleStack; the
/// first stays.
pub(super) fn update(e: &mut Errors, new: &Value, old: &Value) {
    if [new, old].iter().any(|spec| string(spec, "type") == "ExternalName") {
        return;
    }
    let headless = (is_headless(old), is_headless(new));
    if headless != (true, true) {
        let (before, after) = (strings(old, "clusterIPs"), strings(new, "clusterIPs"));
        changed(e, new, IPS, "clusterIP", &before, &after);
    }
    if headless == (false, false) {
        let (before, after) = (strings(old, "ipFamilies"), strings(new, "ipFamilies"));
        changed(e, new, FAMILIES, "ipFamily", &before, &after);
    }
}

fn changed(e: &mut Errors, spec: &Value, field: &str, one: &str, old: &[&str], new: &[&str]) {
    let value = || Value::from(new.to_vec());
    // Here the real API shows the addresses in place of the families.
    let first = || Value::from(strings(spec, "clusterIPs"));
    if old.len() == new.len() {
        for (index, _) in old.iter().zip(new).enumerate().filter(|(_, (a, b))| a != b) {
            // The real API names the first family whichever changed.
            let index = if field == FAMILIES { 0 } else { index };
            e.invalid(format!("{field}[{index}]"), value(), CHANGED);
        }
        return;
    }
    let released = old.len() > new.len();
    // The real API asks for the addresses in both cases: who leaves out the families of a PUT
    // gets them back from the addresses.
    if released && strings(spec, "clusterIPs").is_empty() {
        e.invalid(format!("{field}[0]"), value(), format!("primary {one} can not be unset"));
    }
    if let (Some(was), Some(is)) = (old.first(), new.first())
        && was != is
    {
        e.invalid(format!("{field}[0]"), first(), CHANGED);
    }
    if released && new.len() == 1 && string(spec, "ipFamilyPolicy") != "SingleStack" {
        let policy = spec.get("ipFamilyPolicy").cloned().unwrap_or_default();
        let detail = format!("must be set to 'SingleStack' when releasing the secondary {one}");
        e.invalid(POLICY, policy, detail);
    }
}
