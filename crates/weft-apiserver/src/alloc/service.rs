//! What a Service's families, addresses and ports become. Pure.
//!
//! The steps and their order are those of kube-apiserver's Service registry: what a client left
//! out comes back from the stored Service, singular and plural ClusterIP are brought in step,
//! families are completed, addresses and ports are allocated; only then is the whole validated.
//! An absent `ipFamilyPolicy` means SingleStack on create and "as before" on update; who wants
//! fewer families must say SingleStack; PreferDualStack never changes by itself.

use super::{
    pool::{Addresses, PoolError, PortPool, Range},
    ports,
};
use serde_json::{Value, json};
use std::net::IpAddr;
use weft_kinds::{FieldError, FieldErrorKind, address::parse_ip, validate::service_addresses};

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
    /// 500, as an internal error: nothing is left.
    Exhausted(String),
    /// 500, in these words.
    Plain(String),
}

/// What may be given, and random numbers to choose from it.
pub(crate) struct Source<'a> {
    /// Whether each configured family is IPv4, the primary one first.
    pub(crate) families: &'a [bool],
    pub(crate) ranges: &'a [Range],
    pub(crate) v4: &'a Addresses,
    pub(crate) v6: &'a Addresses,
    pub(crate) ports: &'a PortPool,
    pub(crate) random: &'a mut dyn FnMut() -> u128,
    /// A dry run takes nothing and shows stand-ins, as the real one does.
    pub(crate) dry_run: bool,
}

pub(super) fn invalid(
    field: impl Into<String>,
    value: Value,
    detail: impl Into<String>,
) -> FieldError {
    FieldError {
        field: field.into(),
        kind: FieldErrorKind::Invalid,
        bad_value: Some(value),
        detail: detail.into(),
    }
}

pub(super) fn text<'a>(service: &'a Value, field: &str) -> &'a str {
    service["spec"][field].as_str().unwrap_or_default()
}

fn texts(service: &Value, field: &str) -> Vec<String> {
    let list = service["spec"][field].as_array();
    list.into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

pub(super) fn set(service: &mut Value, field: &str, value: Value) {
    service["spec"][field] = value;
}

fn clear(service: &mut Value, field: &str) {
    if let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) {
        spec.shift_remove(field);
    }
}

fn has_cluster_ip(service: &Value) -> bool {
    text(service, "type") != "ExternalName"
}

/// The addresses that a stored Service holds.
pub(crate) fn held_ips(service: &Value) -> Vec<IpAddr> {
    if !has_cluster_ip(service) {
        return Vec::new();
    }
    texts(service, "clusterIPs").iter().filter_map(|ip| parse_ip(ip)).collect()
}

/// Before allocation: brings back what an update left out, keeps `clusterIP` and `clusterIPs` in
/// step, and drops what a new type cannot have.
pub(crate) fn prepare(new: &mut Value, old: Option<&Value>) {
    let Some(old) = old else {
        if !text(new, "clusterIP").is_empty() && texts(new, "clusterIPs").is_empty() {
            let ip = text(new, "clusterIP").to_owned();
            set(new, "clusterIPs", json!([ip]));
        }
        return;
    };
    if has_cluster_ip(old) && has_cluster_ip(new) {
        if text(new, "clusterIP").is_empty() {
            restore(new, old, "clusterIP");
        }
        if texts(new, "clusterIPs").is_empty() {
            restore(new, old, "clusterIPs");
        }
    }
    ports::carry_over(new, old);
    normalize(new, old);
    drop_type_dependent(new, old);
}

fn normalize(new: &mut Value, old: &Value) {
    let (was, is) = (text(old, "clusterIP").to_owned(), text(new, "clusterIP").to_owned());
    let before = texts(old, "clusterIPs");
    if !before.is_empty() && texts(new, "clusterIPs").is_empty() && was == is {
        // An old client that does not know the plural.
        restore(new, old, "clusterIPs");
    }
    if was != is && before == texts(new, "clusterIPs") {
        if !was.is_empty() && is.is_empty() {
            clear(new, "clusterIPs");
        } else {
            set(new, "clusterIPs", json!([is]));
        }
    }
}

pub(super) fn restore(new: &mut Value, old: &Value, field: &str) {
    match old["spec"].get(field) {
        Some(v) => set(new, field, v.clone()),
        None => clear(new, field),
    }
}

/// What the old type had and the new one cannot have goes, unless the user changed it (then
/// validation says so).
fn drop_type_dependent(new: &mut Value, old: &Value) {
    let same = |new: &Value, field: &str| new["spec"].get(field) == old["spec"].get(field);
    if has_cluster_ip(old) && !has_cluster_ip(new) {
        if same(new, "clusterIP") && same(new, "clusterIPs") {
            clear(new, "clusterIP");
            clear(new, "clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if same(new, field) {
                clear(new, field);
            }
        }
    }
    ports::drop_type_dependent(new, old);
    if text(old, "type") == "LoadBalancer" && text(new, "type") != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if same(new, field) {
                clear(new, field);
            }
        }
    }
    let accessible = |service: &Value| match text(service, "type") {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => !texts(service, "externalIPs").is_empty(),
        _ => false,
    };
    if accessible(old) && !accessible(new) && same(new, "externalTrafficPolicy") {
        clear(new, "externalTrafficPolicy");
    }
}

/// Completes families, addresses and ports, and says what that takes and releases.
pub(crate) fn plan(
    source: &mut Source<'_>,
    new: &mut Value,
    old: Option<&Value>,
) -> Result<Delta, AllocError> {
    let mut delta = Delta::default();
    if !old.is_some_and(|old| prefers_as_before(new, old)) {
        families(source, new, old)?;
        cluster_ips(source, new, old, &mut delta)?;
    }
    ports::plan(source, new, old, &mut delta)?;
    Ok(delta)
}

/// What the deletion of a Service releases.
pub(crate) fn release(old: &Value) -> Delta {
    Delta { release_ips: held_ips(old), release_ports: ports::held(old), ..Delta::default() }
}

/// A Service that prefers two families is neither upgraded nor downgraded in passing.
fn prefers_as_before(new: &Value, old: &Value) -> bool {
    let same = |field: &str| texts(old, field) == texts(new, field);
    has_cluster_ip(new)
        && text(old, "type") == text(new, "type")
        && text(new, "ipFamilyPolicy") == PREFER
        && matches!(text(old, "ipFamilyPolicy"), PREFER | "")
        && same("clusterIPs")
        && same("ipFamilies")
}

fn is_v4(family: &str) -> bool {
    family == "IPv4"
}

fn family_of(ip: &str) -> &'static str {
    if parse_ip(ip).is_some_and(|ip| ip.is_ipv6()) { "IPv6" } else { "IPv4" }
}

fn other(family: &str) -> &'static str {
    if is_v4(family) { "IPv6" } else { "IPv4" }
}

/// `initIPFamilyFields` of kube-apiserver.
fn families(source: &Source<'_>, new: &mut Value, old: Option<&Value>) -> Result<(), AllocError> {
    if !has_cluster_ip(new) {
        return Ok(());
    }
    let configured = |family: &str| source.families.contains(&is_v4(family));
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
    let errors = service_addresses(new, old);
    if !errors.is_empty() {
        return Err(AllocError::Invalid(errors));
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
            if !ips.is_empty() && ips.len() < old_ips.len() {
                errors
                    .push(bad_policy("must be 'SingleStack' to release the secondary cluster IP"));
            }
            if !families.is_empty() && families.len() < old_families.len() {
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
    for (i, ip) in ips.iter().enumerate().take_while(|(_, ip)| *ip != NONE) {
        let family = family_of(ip);
        if i < families.len() {
            continue;
        }
        if configured(family) {
            families.push(family.to_owned());
        } else {
            let detail = format!("{family} is not configured on this cluster");
            errors.push(invalid(format!("spec.clusterIPs[{i}]"), json!(ips), detail));
        }
    }
    if errors.is_empty() && !(headless && selectorless) {
        if policy == REQUIRE && source.families.len() < 2 {
            errors.push(bad_policy("this cluster is not configured for dual-stack services"));
        }
        for (i, family) in families.iter().enumerate().filter(|(_, f)| !configured(f)) {
            let field = format!("spec.ipFamilies[{i}]");
            errors.push(invalid(field, json!(family), "not configured on this cluster"));
        }
    }
    if !errors.is_empty() {
        return Err(AllocError::Invalid(errors));
    }
    if families.is_empty() {
        let v4 = source.families.first().is_none_or(|v4| *v4);
        families.push(if v4 { "IPv4" } else { "IPv6" }.to_owned());
    }
    // A headless Service without selector may have families that the cluster has not.
    let both = source.families.len() == 2 || (headless && selectorless);
    if policy != SINGLE && families.len() == 1 && both {
        families.push(other(&families[0]).to_owned());
    }
    set(new, "ipFamilies", json!(families));
    if !ips.is_empty() {
        set(new, "clusterIPs", json!(ips));
    }
    Ok(())
}

/// `allocClusterIPs` and `updateClusterIPs` of kube-apiserver.
fn cluster_ips(
    source: &mut Source<'_>,
    new: &mut Value,
    old: Option<&Value>,
    delta: &mut Delta,
) -> Result<(), AllocError> {
    let had = old.filter(|old| has_cluster_ip(old));
    let Some(old) = had else { return allocate(source, new, 0, delta) };
    if texts(old, "clusterIPs").first().is_some_and(|ip| ip == NONE) {
        return Ok(());
    }
    if !has_cluster_ip(new) {
        delta.release_ips = held_ips(old);
        return Ok(());
    }
    match (texts(old, "ipFamilies").len(), texts(new, "ipFamilies").len()) {
        (1, 2) => allocate(source, new, 1, delta),
        (2, 1) => {
            delta.release_ips = held_ips(old).into_iter().skip(1).collect();
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Gives an address of each family from number `first` on, the one asked for or a free one.
fn allocate(
    source: &mut Source<'_>,
    new: &mut Value,
    first: usize,
    delta: &mut Delta,
) -> Result<(), AllocError> {
    let mut ips = texts(new, "clusterIPs");
    if !has_cluster_ip(new) || ips.first().is_some_and(|ip| ip == NONE) {
        return Ok(());
    }
    let families = texts(new, "ipFamilies");
    for (i, family) in families.iter().enumerate().skip(first) {
        match ips.get(i) {
            Some(asked) => {
                let refuse = |why: PoolError| {
                    let why = format!("failed to allocate IP {asked}: {why}");
                    AllocError::Invalid(vec![invalid(
                        "spec.clusterIPs",
                        shown(&ips, &families),
                        why,
                    )])
                };
                let ip = parse_ip(asked).ok_or_else(|| {
                    AllocError::Exhausted(format!("failed to parse service IP {asked:?}"))
                })?;
                source.check(ip, is_v4(family)).map_err(refuse)?;
                delta.take_ips.push(ip);
            }
            None => match source.next(is_v4(family)) {
                Ok(ip) => {
                    delta.take_ips.push(ip);
                    ips.push(ip.to_string());
                }
                Err(PoolError::Full) => {
                    let why = format!("failed to allocate a serviceIP: {}", PoolError::Full);
                    return Err(AllocError::Exhausted(why));
                }
                Err(why) => {
                    let why = format!("failed to allocate IP: {why}");
                    let shown = shown(&ips, &families);
                    return Err(AllocError::Invalid(vec![invalid("spec.clusterIPs", shown, why)]));
                }
            },
        }
    }
    if let Some(ip) = ips.first() {
        set(new, "clusterIP", json!(ip));
        set(new, "clusterIPs", json!(ips));
    }
    Ok(())
}

/// The addresses as the real one shows them in an error: empty where one is to be given.
fn shown(ips: &[String], families: &[String]) -> Value {
    let mut ips = ips.to_vec();
    ips.resize(ips.len().max(families.len()), String::new());
    json!(ips)
}

impl Source<'_> {
    fn of_family(&self, v4: bool) -> impl Iterator<Item = &Range> {
        self.ranges.iter().filter(move |range| range.is_ipv4() == v4 && range.is_usable())
    }

    fn addresses(&self, v4: bool) -> &Addresses {
        if v4 { self.v4 } else { self.v6 }
    }

    /// The range that a dry run asks: any.
    fn some_range(&self, v4: bool) -> Option<&Range> {
        self.of_family(v4).find(|range| range.ready).or_else(|| self.of_family(v4).next())
    }

    /// Whether this address may be taken.
    fn check(&self, ip: IpAddr, v4: bool) -> Result<(), PoolError> {
        if self.dry_run {
            let found = self.of_family(v4).find(|range| range.ready && range.contains(ip));
            let range = found.or_else(|| self.some_range(v4)).ok_or(PoolError::NotReady)?;
            return match range {
                range if !range.ready => Err(PoolError::NotReady),
                range if !range.contains(ip) => Err(PoolError::IpOutside(ip, range.net)),
                _ => Ok(()),
            };
        }
        if !self.of_family(v4).any(|range| range.ready && range.contains(ip)) {
            return Err(PoolError::NoRange);
        }
        if self.addresses(v4).contains(ip) { Err(PoolError::IpTaken) } else { Ok(()) }
    }

    /// A free address of any range that is ready.
    fn next(&mut self, v4: bool) -> Result<IpAddr, PoolError> {
        if self.dry_run {
            // No address is looked for; the range's own stands for one.
            let range = self.some_range(v4).filter(|range| range.ready);
            return range.map(|range| range.net.network()).ok_or(PoolError::NotReady);
        }
        let random = (self.random)();
        self.of_family(v4)
            .filter(|range| range.ready)
            .find_map(|range| range.next(self.addresses(v4), random))
            .ok_or(PoolError::Full)
    }
}
