//! What a Service's families, addresses and ports become. Pure.
//!
//! The rules are those of kube-apiserver's Service registry: an absent `ipFamilyPolicy` means
//! SingleStack on create and "as before" on update; `clusterIP` is always `clusterIPs[0]`; who
//! wants fewer families must say SingleStack; PreferDualStack never changes by itself.

use super::pool::{IpPool, PoolError, PortPool};
use serde_json::{Value, json};
use std::{collections::HashMap, net::IpAddr};
use weft_kinds::{FieldError, FieldErrorKind};

const NONE: &str = "None";
const SINGLE: &str = "SingleStack";
const PREFER: &str = "PreferDualStack";
const REQUIRE: &str = "RequireDualStack";

/// What the transaction takes and gives back.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Delta {
    pub(crate) take_ips: Vec<IpAddr>,
    pub(crate) release_ips: Vec<IpAddr>,
    pub(crate) take_ports: Vec<u16>,
    pub(crate) release_ports: Vec<u16>,
}

/// Why a Service cannot have what it asks for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum AllocError {
    /// 422.
    Invalid(Vec<FieldError>),
    /// 500: nothing is left.
    Exhausted(String),
}

/// The pools, and random numbers to choose from them.
pub(crate) struct Source<'a> {
    /// Primary family first.
    pub(crate) ips: &'a [IpPool],
    pub(crate) ports: &'a PortPool,
    pub(crate) random: &'a mut dyn FnMut() -> u128,
}

fn invalid(field: impl Into<String>, value: Value, detail: impl Into<String>) -> FieldError {
    FieldError {
        field: field.into(),
        kind: FieldErrorKind::Invalid,
        bad_value: Some(value),
        detail: detail.into(),
    }
}

fn text<'a>(service: &'a Value, field: &str) -> &'a str {
    service["spec"][field].as_str().unwrap_or_default()
}

fn texts(service: &Value, field: &str) -> Vec<String> {
    let list = service["spec"][field].as_array();
    list.into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn set(service: &mut Value, field: &str, value: Value) {
    service["spec"][field] = value;
}

fn clear(service: &mut Value, field: &str) {
    if let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) {
        spec.shift_remove(field);
    }
}

/// An absent type is ClusterIP.
fn has_cluster_ip(service: &Value) -> bool {
    text(service, "type") != "ExternalName"
}

fn has_node_ports(service: &Value) -> bool {
    match text(service, "type") {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"] != json!(false),
        _ => false,
    }
}

/// Types that may carry node ports, whether or not they are allocated.
fn may_have_node_ports(service: &Value) -> bool {
    matches!(text(service, "type"), "NodePort" | "LoadBalancer")
}

fn has_health_check_port(service: &Value) -> bool {
    text(service, "type") == "LoadBalancer" && text(service, "externalTrafficPolicy") == "Local"
}

fn node_port(port: &Value) -> u16 {
    port["nodePort"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(0)
}

fn ports(service: &Value) -> &[Value] {
    service["spec"]["ports"].as_array().map_or(&[], Vec::as_slice)
}

fn node_ports(service: &Value) -> Vec<u16> {
    let mut all: Vec<u16> = ports(service).iter().map(node_port).filter(|p| *p != 0).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The addresses that a stored Service holds.
pub(crate) fn held_ips(service: &Value) -> Vec<IpAddr> {
    if !has_cluster_ip(service) {
        return Vec::new();
    }
    texts(service, "clusterIPs").iter().filter_map(|ip| ip.parse().ok()).collect()
}

/// The node ports that a stored Service holds, the health check's too.
pub(crate) fn held_ports(service: &Value) -> Vec<u16> {
    let mut all = node_ports(service);
    let health =
        service["spec"]["healthCheckNodePort"].as_u64().and_then(|p| u16::try_from(p).ok());
    all.extend(health.filter(|p| *p != 0));
    all
}

/// Before validation: keeps `clusterIP` and `clusterIPs` in step, carries over what an update
/// left out, and drops what a new type cannot have.
pub(crate) fn prepare(new: &mut Value, old: Option<&Value>) {
    let Some(old) = old else {
        if !text(new, "clusterIP").is_empty() && texts(new, "clusterIPs").is_empty() {
            let ip = text(new, "clusterIP").to_owned();
            set(new, "clusterIPs", json!([ip]));
        }
        return;
    };
    normalize(new, old);
    carry_over(new, old);
    drop_type_dependent(new, old);
}

fn normalize(new: &mut Value, old: &Value) {
    let (was, is) = (text(old, "clusterIP").to_owned(), text(new, "clusterIP").to_owned());
    if texts(new, "clusterIPs").is_empty() && was == is {
        // An old client that does not know the plural.
        restore(new, old, "clusterIPs");
    }
    if was != is && texts(old, "clusterIPs") == texts(new, "clusterIPs") {
        if is.is_empty() {
            clear(new, "clusterIPs");
        } else {
            set(new, "clusterIPs", json!([is]));
        }
    }
}

fn restore(new: &mut Value, old: &Value, field: &str) {
    match old["spec"].get(field) {
        Some(v) => set(new, field, v.clone()),
        None => clear(new, field),
    }
}

fn carry_over(new: &mut Value, old: &Value) {
    if has_cluster_ip(old) && has_cluster_ip(new) {
        if text(new, "clusterIP").is_empty() {
            restore(new, old, "clusterIP");
        }
        if texts(new, "clusterIPs").is_empty() && text(new, "clusterIP") == text(old, "clusterIP") {
            restore(new, old, "clusterIPs");
        }
    }
    if may_have_node_ports(old) && may_have_node_ports(new) {
        let kept = node_ports(new);
        let mut used: Vec<u16> = node_ports(old).into_iter().filter(|p| kept.contains(p)).collect();
        let by_name: HashMap<String, u16> = ports(old)
            .iter()
            .map(|p| (p["name"].as_str().unwrap_or_default().to_owned(), node_port(p)))
            .collect();
        for p in new["spec"]["ports"].as_array_mut().into_iter().flatten() {
            let before = by_name.get(p["name"].as_str().unwrap_or_default()).copied().unwrap_or(0);
            if node_port(p) == 0 && before != 0 && !used.contains(&before) {
                p["nodePort"] = before.into();
                used.push(before);
            }
        }
    }
    if has_health_check_port(old)
        && has_health_check_port(new)
        && new["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0) == 0
    {
        restore(new, old, "healthCheckNodePort");
    }
}

/// What the old type had and the new one cannot have goes, unless the user changed it (then
/// validation says so).
fn drop_type_dependent(new: &mut Value, old: &Value) {
    let same = |new: &Value, field: &str| new["spec"].get(field) == old["spec"].get(field);
    if has_cluster_ip(old) && !has_cluster_ip(new) {
        for field in
            ["clusterIPs", "clusterIP", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]
        {
            if same(new, field) {
                clear(new, field);
            }
        }
    }
    if may_have_node_ports(old) && !may_have_node_ports(new) && node_ports(old) == node_ports(new) {
        for p in new["spec"]["ports"].as_array_mut().into_iter().flatten() {
            if let Some(p) = p.as_object_mut() {
                p.shift_remove("nodePort");
            }
        }
    }
    if may_have_node_ports(old) && !may_have_node_ports(new) && same(new, "externalTrafficPolicy") {
        clear(new, "externalTrafficPolicy");
    }
    if has_health_check_port(old) && !has_health_check_port(new) && same(new, "healthCheckNodePort")
    {
        clear(new, "healthCheckNodePort");
    }
    if text(old, "type") == "LoadBalancer" && text(new, "type") != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if same(new, field) {
                clear(new, field);
            }
        }
    }
}

/// Completes families, addresses and ports, and says what that takes and releases.
pub(crate) fn plan(
    source: &mut Source<'_>,
    new: &mut Value,
    old: Option<&Value>,
) -> Result<Delta, AllocError> {
    families(source, new, old)?;
    let mut delta = Delta::default();
    cluster_ips(source, new, old, &mut delta)?;
    allocate_ports(source, new, old, &mut delta)?;
    Ok(delta)
}

/// What the deletion of a Service releases.
pub(crate) fn release(old: &Value) -> Delta {
    Delta { release_ips: held_ips(old), release_ports: held_ports(old), ..Delta::default() }
}

fn family_of(ip: &str) -> &'static str {
    if ip.contains(':') { "IPv6" } else { "IPv4" }
}

fn other(family: &str) -> &'static str {
    if family == "IPv4" { "IPv6" } else { "IPv4" }
}

fn pool<'a>(source: &Source<'a>, family: &str) -> Option<&'a IpPool> {
    source.ips.iter().find(|p| p.is_ipv4() == (family == "IPv4"))
}

/// `initIPFamilyFields` of kube-apiserver.
fn families(source: &Source<'_>, new: &mut Value, old: Option<&Value>) -> Result<(), AllocError> {
    if !has_cluster_ip(new) {
        return Ok(());
    }
    if let Some(old) = old
        && has_cluster_ip(old)
        && [old, new].iter().all(|s| text(s, "ipFamilyPolicy") == PREFER)
        && texts(old, "clusterIPs") == texts(new, "clusterIPs")
        && texts(old, "ipFamilies") == texts(new, "ipFamilies")
    {
        return Ok(());
    }
    let headless = text(new, "clusterIP") == NONE;
    let selectorless = new["spec"]["selector"].as_object().is_none_or(|s| s.is_empty());
    if text(new, "ipFamilyPolicy").is_empty() {
        let before = old.map(|o| text(o, "ipFamilyPolicy")).filter(|p| !p.is_empty());
        let policy = match before {
            Some(p) => p,
            None if headless && selectorless => REQUIRE,
            None => SINGLE,
        };
        set(new, "ipFamilyPolicy", policy.into());
    }
    let policy = text(new, "ipFamilyPolicy").to_owned();
    let (mut ips, mut families) = (texts(new, "clusterIPs"), texts(new, "ipFamilies"));
    let mut errors = Vec::new();
    let bad_policy = |detail: &str| invalid("spec.ipFamilyPolicy", json!(policy), detail);
    if let Some(old) = old {
        let (old_ips, old_families) = (texts(old, "clusterIPs"), texts(old, "ipFamilies"));
        if policy == SINGLE {
            if old_ips == ips {
                ips.truncate(1);
            }
            if old_families == families {
                families.truncate(1);
            }
        } else {
            if ips.len() == 1 && old_ips.len() == 2 && ips[0] == old_ips[0] {
                errors
                    .push(bad_policy("must be 'SingleStack' to release the secondary cluster IP"));
            }
            if families.len() == 1 && old_families.len() == 2 && families[0] == old_families[0] {
                errors.push(bad_policy("must be 'SingleStack' to release the secondary IP family"));
            }
        }
    }
    if policy == SINGLE {
        if ips.len() == 2 {
            errors.push(bad_policy(
                "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified",
            ));
        }
        if families.len() == 2 {
            errors.push(bad_policy(
                "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
            ));
        }
    }
    for (i, ip) in ips.iter().enumerate().filter(|(_, ip)| *ip != NONE) {
        let family = family_of(ip);
        if i < families.len() {
            continue;
        }
        if pool(source, family).is_some() {
            families.push(family.to_owned());
        } else {
            let detail = format!("{family} is not configured on this cluster");
            errors.push(invalid(format!("spec.clusterIPs[{i}]"), json!(ips), detail));
        }
    }
    let default_family = || {
        let v4 = source.ips.first().is_none_or(IpPool::is_ipv4);
        if v4 { "IPv4" } else { "IPv6" }.to_owned()
    };
    if errors.is_empty() && !(headless && selectorless) {
        if policy == REQUIRE && source.ips.len() < 2 {
            errors.push(bad_policy("this cluster is not configured for dual-stack services"));
        }
        for (i, family) in families.iter().enumerate() {
            if pool(source, family).is_none() {
                let field = format!("spec.ipFamilies[{i}]");
                errors.push(invalid(field, json!(family), "not configured on this cluster"));
            }
        }
    }
    if !errors.is_empty() {
        return Err(AllocError::Invalid(errors));
    }
    if families.is_empty() {
        families.push(default_family());
    }
    // A headless Service without selector may have families that the cluster has not.
    let both = source.ips.len() == 2 || (headless && selectorless);
    if policy != SINGLE && families.len() == 1 && both {
        families.push(other(&families[0]).to_owned());
    }
    set(new, "ipFamilies", json!(families));
    if !ips.is_empty() {
        set(new, "clusterIPs", json!(ips));
    }
    Ok(())
}

fn cluster_ips(
    source: &mut Source<'_>,
    new: &mut Value,
    old: Option<&Value>,
    delta: &mut Delta,
) -> Result<(), AllocError> {
    let held = old.map(held_ips).unwrap_or_default();
    let mut kept = Vec::new();
    if has_cluster_ip(new) && texts(new, "clusterIPs").first().map(String::as_str) != Some(NONE) {
        let asked = texts(new, "clusterIPs");
        let mut ips = Vec::new();
        for (i, family) in texts(new, "ipFamilies").iter().enumerate() {
            let Some(pool) = pool(source, family) else { continue };
            let ip = match asked.get(i).filter(|ip| !ip.is_empty()) {
                None => {
                    let ip = pool.next((source.random)()).map_err(|e| {
                        AllocError::Exhausted(format!("failed to allocate a serviceIP: {e}"))
                    })?;
                    delta.take_ips.push(ip);
                    ip
                }
                Some(text) => {
                    let refuse = |why: String| {
                        AllocError::Invalid(vec![invalid("spec.clusterIPs", json!(asked), why)])
                    };
                    let ip: IpAddr = text.parse().map_err(|_| {
                        refuse(format!("failed to allocate IP {text}: not an IP address"))
                    })?;
                    if !held.contains(&ip) {
                        pool.check(ip)
                            .map_err(|e| refuse(format!("failed to allocate IP {text}: {e}")))?;
                        delta.take_ips.push(ip);
                    }
                    ip
                }
            };
            kept.push(ip);
            ips.push(ip.to_string());
        }
        if let Some(first) = ips.first() {
            set(new, "clusterIP", json!(first));
            set(new, "clusterIPs", json!(ips));
        }
    }
    delta.release_ips = held.into_iter().filter(|ip| !kept.contains(ip)).collect();
    Ok(())
}

fn allocate_ports(
    source: &mut Source<'_>,
    new: &mut Value,
    old: Option<&Value>,
    delta: &mut Delta,
) -> Result<(), AllocError> {
    let held = old.map(held_ports).unwrap_or_default();
    let full = |e: PoolError| AllocError::Exhausted(format!("failed to allocate a nodePort: {e}"));
    let mut errors = Vec::new();
    // The ones asked for come first, so that none of them is given to a port that does not care.
    let mut ours: Vec<u16> = Vec::new();
    let mut by_port: HashMap<u64, u16> = HashMap::new();
    if may_have_node_ports(new) {
        for (i, p) in ports(new).iter().enumerate().filter(|(_, p)| node_port(p) != 0) {
            let n = node_port(p);
            if !held.contains(&n) && !ours.contains(&n) {
                match source.ports.check(n) {
                    Ok(()) => delta.take_ports.push(n),
                    Err(e) => errors.push(invalid(
                        format!("spec.ports[{i}].nodePort"),
                        json!(n),
                        e.to_string(),
                    )),
                }
            }
            ours.push(n);
            by_port.entry(p["port"].as_u64().unwrap_or(0)).or_insert(n);
        }
    }
    let health = new["spec"]["healthCheckNodePort"]
        .as_u64()
        .and_then(|p| u16::try_from(p).ok())
        .unwrap_or(0);
    if health != 0 {
        if !held.contains(&health) {
            match source.ports.check(health) {
                Ok(()) if !ours.contains(&health) => delta.take_ports.push(health),
                Ok(()) => errors.push(invalid(
                    "spec.healthCheckNodePort",
                    json!(health),
                    PoolError::PortTaken.to_string(),
                )),
                Err(e) => {
                    errors.push(invalid("spec.healthCheckNodePort", json!(health), e.to_string()))
                }
            }
        }
        ours.push(health);
    }
    if !errors.is_empty() {
        return Err(AllocError::Invalid(errors));
    }
    if has_node_ports(new) {
        let mut protocols: Vec<(u64, String)> = ports(new)
            .iter()
            .filter(|p| node_port(p) != 0)
            .map(|p| (p["port"].as_u64().unwrap_or(0), protocol(p)))
            .collect();
        for p in new["spec"]["ports"].as_array_mut().into_iter().flatten() {
            if node_port(p) != 0 {
                continue;
            }
            let number = p["port"].as_u64().unwrap_or(0);
            let same_protocol = protocols.contains(&(number, protocol(p)));
            // One port over TCP and UDP (DNS) gets one node port.
            let n = match by_port.get(&number).filter(|_| !same_protocol) {
                Some(n) => *n,
                None => {
                    let n = source.ports.next((source.random)(), &ours).map_err(full)?;
                    delta.take_ports.push(n);
                    ours.push(n);
                    by_port.insert(number, n);
                    n
                }
            };
            protocols.push((number, protocol(p)));
            p["nodePort"] = n.into();
        }
    }
    if has_health_check_port(new) && health == 0 {
        let n = source.ports.next((source.random)(), &ours).map_err(full)?;
        delta.take_ports.push(n);
        ours.push(n);
        set(new, "healthCheckNodePort", n.into());
    }
    delta.release_ports = held.into_iter().filter(|p| !ours.contains(p)).collect();
    Ok(())
}

fn protocol(port: &Value) -> String {
    port["protocol"].as_str().unwrap_or("TCP").to_owned()
}
