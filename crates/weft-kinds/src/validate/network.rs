//! Rules of endpoints, policies, addresses and ranges.

use serde_json::{Value, json};

use super::service::port_or_name;
use super::{Errors, PROTOCOLS, integer, list, selector, string, strings, text};
use crate::address::{parse_cidr, parse_ip, strict_cidr, strict_ip};

/// Limits of an EndpointSlice, as the real API has them.
const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const HINTS_MAX: usize = 8;

pub(super) fn endpoint_slice(e: &mut Errors, new: &Value, old: Option<&Value>) {
    let kind = string(new, "addressType");
    e.one_of("addressType", kind, &["FQDN", "IPv4", "IPv6"]);
    let ports = list(new, "ports");
    if ports.len() > PORTS_MAX {
        e.too_many("ports", ports.len(), PORTS_MAX);
    } else {
        slice_ports(e, ports);
    }
    let endpoints = list(new, "endpoints");
    if endpoints.len() > ENDPOINTS_MAX {
        e.too_many("endpoints", endpoints.len(), ENDPOINTS_MAX);
    } else if old.is_none_or(|old| old.get("endpoints") != new.get("endpoints")) {
        for (index, endpoint) in endpoints.iter().enumerate() {
            slice_endpoint(e, endpoint, kind, &format!("endpoints[{index}]"));
        }
    }
    if let Some(old) = old {
        e.immutable("addressType", new.get("addressType"), old.get("addressType"));
    }
}

fn slice_ports(e: &mut Errors, ports: &[Value]) {
    let mut names: Vec<&str> = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let at = format!("ports[{index}]");
        let name = string(port, "name");
        if !name.is_empty() {
            e.each(&format!("{at}.name"), name, text::label(name));
        }
        if names.contains(&name) {
            e.duplicate(format!("{at}.name"), name);
        }
        names.push(name);
        e.one_of(format!("{at}.protocol"), string(port, "protocol"), PROTOCOLS);
        if let Some(Value::String(protocol)) = port.get("appProtocol") {
            e.each(&format!("{at}.appProtocol"), protocol, text::qualified_name(protocol));
        }
    }
}

fn slice_endpoint(e: &mut Errors, endpoint: &Value, kind: &str, at: &str) {
    let addresses = strings(endpoint, "addresses");
    let field = format!("{at}.addresses");
    if addresses.is_empty() {
        e.required(field.as_str(), "must contain at least 1 address");
    } else if addresses.len() > ADDRESSES_MAX {
        e.too_many(field.as_str(), addresses.len(), ADDRESSES_MAX);
    }
    for (index, address) in addresses.into_iter().enumerate() {
        let one = format!("{field}[{index}]");
        match kind {
            "IPv4" | "IPv6" => {
                // The newer family has the stricter rule.
                let messages = if kind == "IPv4" { text::ip(address) } else { strict_ip(address) };
                if !messages.is_empty() {
                    e.each(&one, address, messages);
                    continue;
                }
                if parse_ip(address).is_some_and(|ip| ip.is_ipv4() != (kind == "IPv4")) {
                    e.invalid(field.as_str(), address, format!("must be an {kind} address"));
                }
                e.each(&one, address, text::endpoint_ip(address));
            }
            "FQDN" => domain(e, address, &one),
            _ => {}
        }
    }
    for (key, rule) in
        [("nodeName", text::subdomain as fn(&str) -> Vec<String>), ("hostname", text::label)]
    {
        if let Some(Value::String(name)) = endpoint.get(key) {
            e.each(&format!("{at}.{key}"), name, rule(name));
        }
    }
    for (key, rule) in
        [("forZones", text::label_value as fn(&str) -> Vec<String>), ("forNodes", text::subdomain)]
    {
        let hints = endpoint.get("hints").map_or(&[][..], |hints| list(hints, key));
        let field = format!("{at}.hints.{key}");
        if hints.len() > HINTS_MAX {
            e.too_many(field, hints.len(), HINTS_MAX);
            return;
        }
        for (index, hint) in hints.iter().enumerate() {
            let name = string(hint, "name");
            let one = format!("{field}[{index}].name");
            if hints[..index].iter().any(|other| string(other, "name") == name) {
                e.duplicate(one.as_str(), name);
            }
            e.each(&one, name, rule(name));
        }
    }
}

/// A fully qualified domain name, with or without the last dot.
fn domain(e: &mut Errors, text: &str, field: &str) {
    if text.is_empty() {
        e.required(field, "");
        return;
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let messages = text::subdomain(name);
    if !messages.is_empty() {
        e.invalid(field, name, messages.join(","));
    } else if !name.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        e.invalid(field, name, detail);
    } else if let Some(label) = name.split('.').find(|label| !text::label(label).is_empty()) {
        e.invalid(field, label, text::label(label).join(","));
    }
}

pub(super) fn endpoints(e: &mut Errors, new: &Value, old: Option<&Value>) {
    // What was there before is not judged by newer rules.
    if old.is_some_and(|old| old.get("subsets") == new.get("subsets")) {
        return;
    }
    for (index, subset) in list(new, "subsets").iter().enumerate() {
        let at = format!("subsets[{index}]");
        let lists = ["addresses", "notReadyAddresses"];
        if lists.iter().all(|key| list(subset, key).is_empty()) {
            e.required(at.as_str(), "must specify `addresses` or `notReadyAddresses`");
        }
        for key in lists {
            for (index, address) in list(subset, key).iter().enumerate() {
                let at = format!("{at}.{key}[{index}]");
                let ip = string(address, "ip");
                e.each(&format!("{at}.ip"), ip, text::ip(ip));
                let hostname = string(address, "hostname");
                if !hostname.is_empty() {
                    e.each(&format!("{at}.hostname"), hostname, text::label(hostname));
                }
                if let Some(Value::String(node)) = address.get("nodeName") {
                    e.each(&format!("{at}.nodeName"), node, text::subdomain(node));
                }
                e.each(&format!("{at}.ip"), ip, text::endpoint_ip(ip));
            }
        }
        let ports = list(subset, "ports");
        for (index, port) in ports.iter().enumerate() {
            let at = format!("{at}.ports[{index}]");
            match string(port, "name") {
                "" if ports.len() > 1 => e.required(format!("{at}.name"), ""),
                "" => {}
                name => e.each(&format!("{at}.name"), name, text::label(name)),
            }
            let number = integer(port, "port");
            for message in text::port_number(number) {
                e.invalid(format!("{at}.port"), number, message);
            }
            e.one_of(format!("{at}.protocol"), string(port, "protocol"), PROTOCOLS);
            if let Some(Value::String(protocol)) = port.get("appProtocol") {
                e.each(&format!("{at}.appProtocol"), protocol, text::qualified_name(protocol));
            }
        }
    }
}

pub(super) fn network_policy(e: &mut Errors, new: &Value, old: Option<&Value>) {
    let empty = Value::Null;
    let spec = new.get("spec").unwrap_or(&empty);
    // The real API judges an update twice, the second time with regard to what was there.
    policy_spec(e, spec, &[]);
    if let Some(old) = old {
        policy_spec(e, spec, &blocks(old.get("spec").unwrap_or(&empty)));
    }
}

/// Every CIDR of a policy.
fn blocks(spec: &Value) -> Vec<&str> {
    [("ingress", "from"), ("egress", "to")]
        .into_iter()
        .flat_map(|(direction, side)| list(spec, direction).iter().flat_map(move |r| list(r, side)))
        .filter_map(|peer| peer.get("ipBlock"))
        .flat_map(|block| {
            let mut all = strings(block, "except");
            all.push(string(block, "cidr"));
            all
        })
        .collect()
}

fn policy_spec(e: &mut Errors, spec: &Value, existing: &[&str]) {
    selector::selector(e, spec.get("podSelector"), "spec.podSelector");
    for (direction, side) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in list(spec, direction).iter().enumerate() {
            let at = format!("spec.{direction}[{index}]");
            for (index, port) in list(rule, "ports").iter().enumerate() {
                policy_port(e, port, &format!("{at}.ports[{index}]"));
            }
            for (index, peer) in list(rule, side).iter().enumerate() {
                policy_peer(e, peer, &format!("{at}.{side}[{index}]"), existing);
            }
        }
    }
    let types = strings(spec, "policyTypes");
    if types.len() > 2 {
        let detail = "may not specify more than two policyTypes";
        e.invalid("spec.policyTypes", Value::from(types), detail);
        return;
    }
    for (index, kind) in types.into_iter().enumerate() {
        if !matches!(kind, "Ingress" | "Egress") {
            let field = format!("spec.policyTypes[{index}]");
            e.not_supported(field, kind, &["Ingress", "Egress"]);
        }
    }
}

fn policy_port(e: &mut Errors, port: &Value, at: &str) {
    if let Some(Value::String(protocol)) = port.get("protocol")
        && !PROTOCOLS.contains(&protocol.as_str())
    {
        e.not_supported(format!("{at}.protocol"), protocol.as_str(), &["TCP", "UDP", "SCTP"]);
    }
    let end = port.get("endPort").and_then(Value::as_i64);
    let number = port.get("port");
    if number.is_some() {
        port_or_name(e, number, &format!("{at}.port"));
    }
    let Some(end) = end else { return };
    let field = format!("{at}.endPort");
    match number {
        None => e.invalid(field, end, "may not be specified when `port` is not specified"),
        Some(Value::String(_)) => {
            e.invalid(field, end, "may not be specified when `port` is non-numeric");
        }
        Some(number) => {
            let first = number.as_i64().unwrap_or_default();
            if end < first {
                e.invalid(field.as_str(), first, "must be greater than or equal to `port`");
            }
            for message in text::port_number(end) {
                e.invalid(field.as_str(), end, message);
            }
        }
    }
}

fn policy_peer(e: &mut Errors, peer: &Value, at: &str, existing: &[&str]) {
    let mut selectors = 0;
    for key in ["podSelector", "namespaceSelector"] {
        if let Some(chosen) = peer.get(key) {
            selectors += 1;
            selector::selector(e, Some(chosen), &format!("{at}.{key}"));
        }
    }
    let block = peer.get("ipBlock");
    if let Some(block) = block {
        ip_block(e, block, &format!("{at}.ipBlock"), existing);
    }
    match (block, selectors) {
        (None, 0) => e.required(at, "must specify a peer"),
        (Some(_), 1..) => e.forbidden(at, "may not specify both ipBlock and another peer"),
        _ => {}
    }
}

fn ip_block(e: &mut Errors, block: &Value, at: &str, existing: &[&str]) {
    let cidr = string(block, "cidr");
    if cidr.is_empty() {
        e.required(format!("{at}.cidr"), "");
        return;
    }
    let judge = |e: &mut Errors, field: &str, cidr: &str| {
        if !existing.contains(&cidr) {
            e.each(field, cidr, text::cidr(cidr));
        }
    };
    judge(e, &format!("{at}.cidr"), cidr);
    let Some(whole) = parse_cidr(cidr) else { return };
    for (index, except) in strings(block, "except").into_iter().enumerate() {
        let field = format!("{at}.except[{index}]");
        judge(e, &field, except);
        let Some(part) = parse_cidr(except) else { continue };
        if !whole.contains(&part.network()) || part.prefix_len() <= whole.prefix_len() {
            e.invalid(field, except, "must be a strict subset of `cidr`");
        }
    }
}

pub(super) fn ip_address(e: &mut Errors, new: &Value, old: Option<&Value>) {
    let name = new.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    if old.is_some() {
        e.each("metadata.name", name, strict_ip(name));
    }
    let parent = |object: &Value| object.pointer("/spec/parentRef").cloned();
    match parent(new) {
        None => e.required("spec.parentRef", ""),
        Some(parent) => {
            const AT: &str = "spec.parentRef";
            let group = string(&parent, "group");
            if !group.is_empty() {
                e.each(&format!("{AT}.group"), group, text::subdomain(group));
            }
            for (key, required) in [("resource", true), ("name", true), ("namespace", false)] {
                match string(&parent, key) {
                    "" if required => e.required(format!("{AT}.{key}"), ""),
                    "" => {}
                    value => e.each(&format!("{AT}.{key}"), value, text::path_segment(value)),
                }
            }
        }
    }
    if let Some(old) = old
        && parent(old) != parent(new)
    {
        // The real API prints its internal type.
        let shown = parent(new).map(|parent| {
            let part = |key: &str| string(&parent, key).to_owned();
            json!({"Group": part("group"), "Resource": part("resource"),
                   "Namespace": part("namespace"), "Name": part("name")})
        });
        e.invalid("spec.parentRef", shown.unwrap_or_default(), IMMUTABLE);
    }
}

const IMMUTABLE: &str = "field is immutable";

pub(super) fn service_cidr(e: &mut Errors, new: &Value, old: Option<&Value>) {
    const FIELD: &str = "spec.cidrs";
    let cidrs = strings(&new["spec"], "cidrs");
    let Some(old) = old else {
        service_cidrs(e, &cidrs);
        return;
    };
    let before = strings(&old["spec"], "cidrs");
    let changed = |e: &mut Errors, index: usize| {
        if cidrs[index] != before[index] {
            e.invalid(format!("{FIELD}[{index}]"), cidrs[index], IMMUTABLE);
        }
    };
    match (before.len(), cidrs.len()) {
        (was, is) if was == is => (0..is).for_each(|index| changed(e, index)),
        // From one family to two.
        (1, 2) => {
            changed(e, 0);
            service_cidrs(e, &cidrs);
        }
        _ => e.invalid(FIELD, Value::from(cidrs), IMMUTABLE),
    }
}

fn service_cidrs(e: &mut Errors, cidrs: &[&str]) {
    const FIELD: &str = "spec.cidrs";
    match cidrs.len() {
        0 => return e.required(FIELD, "at least one CIDR required"),
        1 | 2 => {}
        _ => {
            let shown = json!({"CIDRs": cidrs});
            return e.invalid(FIELD, shown, "may only hold up to 2 values");
        }
    }
    for (index, cidr) in cidrs.iter().enumerate() {
        e.each(&format!("{FIELD}[{index}]"), cidr, strict_cidr(cidr));
    }
    let families: Vec<_> =
        cidrs.iter().map(|c| parse_cidr(c).map(|n| n.addr().is_ipv6())).collect();
    if let [Some(first), Some(second)] = families[..]
        && first == second
    {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and \
                      2001:db8::/64";
        e.invalid(FIELD, Value::from(cidrs.to_vec()), detail);
    }
}
