//! Rules of endpoints, policies, addresses and ranges.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::service::port_or_name;
use super::{Errors, PROTOCOLS, integer, list, selector, string, strings, text};

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
            "IPv4" | "IPv6" => match address.parse::<IpAddr>() {
                Err(_) => e.each(&one, address, text::ip(address)),
                Ok(ip) => {
                    if ip.is_ipv4() != (kind == "IPv4") {
                        e.invalid(field.as_str(), address, format!("must be an {kind} address"));
                    }
                    e.each(&one, address, text::endpoint_ip(address));
                }
            },
            "FQDN" => {
                let name = address.strip_suffix('.').unwrap_or(address);
                let mut messages = text::subdomain(name);
                if messages.is_empty() && !name.contains('.') {
                    let detail = "should be a domain with at least two segments separated by dots";
                    messages.push(detail.to_owned());
                }
                e.each(&one, address, messages);
            }
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
            continue;
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

pub(super) fn endpoints(e: &mut Errors, new: &Value, _: Option<&Value>) {
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
                let mut messages = text::ip(ip);
                if messages.is_empty() {
                    messages = text::endpoint_ip(ip);
                }
                e.each(&format!("{at}.ip"), ip, messages);
                let hostname = string(address, "hostname");
                if !hostname.is_empty() {
                    e.each(&format!("{at}.hostname"), hostname, text::label(hostname));
                }
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
        }
    }
}

pub(super) fn network_policy(e: &mut Errors, new: &Value, _: Option<&Value>) {
    let empty = Value::Null;
    let spec = new.get("spec").unwrap_or(&empty);
    selector::selector(e, spec.get("podSelector"), "spec.podSelector");
    for (direction, side) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in list(spec, direction).iter().enumerate() {
            let at = format!("spec.{direction}[{index}]");
            for (index, port) in list(rule, "ports").iter().enumerate() {
                policy_port(e, port, &format!("{at}.ports[{index}]"));
            }
            for (index, peer) in list(rule, side).iter().enumerate() {
                policy_peer(e, peer, &format!("{at}.{side}[{index}]"));
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

fn policy_peer(e: &mut Errors, peer: &Value, at: &str) {
    let block = peer.get("ipBlock");
    let mut selectors = 0;
    for key in ["podSelector", "namespaceSelector"] {
        if let Some(chosen) = peer.get(key) {
            selectors += 1;
            selector::selector(e, Some(chosen), &format!("{at}.{key}"));
        }
    }
    match (block, selectors) {
        (None, 0) => e.required(at, "must specify a peer"),
        (Some(_), 1..) => e.forbidden(at, "may not specify both ipBlock and another peer"),
        _ => {}
    }
    let Some(block) = block else { return };
    let cidr = string(block, "cidr");
    if cidr.is_empty() {
        e.required(format!("{at}.ipBlock.cidr"), "");
        return;
    }
    e.each(&format!("{at}.ipBlock.cidr"), cidr, text::cidr(cidr));
    let Ok(whole) = cidr.parse::<IpNet>() else { return };
    for (index, except) in strings(block, "except").into_iter().enumerate() {
        let field = format!("{at}.ipBlock.except[{index}]");
        match except.parse::<IpNet>() {
            Err(_) => e.each(&field, except, text::cidr(except)),
            Ok(part) => {
                if !whole.contains(&part.addr()) || part.prefix_len() <= whole.prefix_len() {
                    e.invalid(field, except, "must be a strict subset of `cidr`");
                }
            }
        }
    }
}

pub(super) fn ip_address(e: &mut Errors, new: &Value, old: Option<&Value>) {
    let name = new.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    if let Ok(ip) = name.parse::<IpAddr>()
        && ip.to_string() != name
    {
        e.invalid("metadata.name", name, "must be a valid IP address in canonical form");
    }
    match new.pointer("/spec/parentRef") {
        None => e.required("spec.parentRef", ""),
        Some(parent) => {
            for key in ["resource", "name"] {
                if string(parent, key).is_empty() {
                    e.required(format!("spec.parentRef.{key}"), "");
                }
            }
        }
    }
    if let Some(old) = old {
        let of = |object: &'static str, value: &Value| value.pointer(object).cloned();
        let (is, was) = (of("/spec/parentRef", new), of("/spec/parentRef", old));
        e.immutable("spec.parentRef", is.as_ref(), was.as_ref());
    }
}

pub(super) fn service_cidr(e: &mut Errors, new: &Value, old: Option<&Value>) {
    let empty = Value::Null;
    let spec = new.get("spec").unwrap_or(&empty);
    let cidrs = strings(spec, "cidrs");
    match cidrs.len() {
        0 => e.required("spec.cidrs", "at least one CIDR required"),
        1 | 2 => {}
        _ => {
            let detail = "may only hold up to 2 values";
            e.invalid("spec.cidrs", Value::from(cidrs.clone()), detail);
        }
    }
    for (index, cidr) in cidrs.iter().enumerate() {
        e.each(&format!("spec.cidrs[{index}]"), cidr, text::cidr(cidr));
    }
    let families: Vec<bool> = cidrs
        .iter()
        .filter_map(|cidr| cidr.parse::<IpNet>().ok())
        .map(|net| net.addr().is_ipv6())
        .collect();
    if let [first, second] = families.as_slice()
        && first == second
    {
        let detail = "may specify no more than one IP for each IP family";
        e.invalid("spec.cidrs", Value::from(cidrs.clone()), detail);
    }
    if let Some(old) = old.and_then(|old| old.get("spec")) {
        e.immutable("spec.cidrs", spec.get("cidrs"), old.get("cidrs"));
    }
}
