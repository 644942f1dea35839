//! Lowering: one API object to one value of the model. Pure functions; the API server already
//! validated what it stores, so a complaint here means an object written by something else
//! (or a newer API), and costs that object alone.

use crate::{Diagnostic, Kind};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use std::{collections::BTreeMap, fmt::Display, net::IpAddr, str::FromStr, sync::Arc};
use weft_model::{
    Balance, Endpoint, EndpointPort, EndpointSlice, External, IpFamily, NamespacedName, Node,
    NodeName, Port, Protocol, Service, ServiceKind, ServicePort, TrafficPolicy,
};

mod policy;

pub use policy::{cluster_network_policy, labelled_namespace, network_policy, node_peer, pod};

/// Label of an EndpointSlice that names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Label of a Service that another proxy serves.
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Annotation of a Service: how a backend is chosen for a client, `random` or `maglev`.
pub const BALANCE_ANNOTATION: &str = "weft.dev/lb";
/// Label of a node that names its zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Annotation of a pod whose sockets are left alone with the value `disabled`: its packets bear
/// the Service's address up to its link, as a service mesh wants to see them.
pub const SOCKET_LB: &str = "weft.dev/socket-lb";
/// Annotation of a policy, or of a namespace for its NetworkPolicies: with the value `enabled` they
/// deny nothing, and what they would deny is told.
pub const POLICY_AUDIT: &str = "weft.dev/policy-audit";
/// Taint of a node that the cluster autoscaler is about to remove.
pub const LEAVING_TAINT: &str = "ToBeDeletedByClusterAutoscaler";
/// `sessionAffinityConfig.clientIP.timeoutSeconds` where it is not set (API default: 3 hours).
pub const AFFINITY_TIMEOUT_DEFAULT_S: u32 = 10_800;

/// The outcome of lowering one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lowered<T> {
    /// The value; `None` where the object is left out (with a diagnostic, or because it does
    /// not concern the network, such as a slice of FQDNs).
    pub value: Option<T>,
    /// What was wrong with it.
    pub diagnostics: Vec<Diagnostic>,
}

/// Collects complaints about one object.
struct Findings {
    kind: Kind,
    object: NamespacedName,
    list: Vec<Diagnostic>,
}

impl Findings {
    fn new(kind: Kind, object: &NamespacedName) -> Self {
        Self { kind, object: object.clone(), list: Vec::new() }
    }

    fn add(&mut self, field: impl Into<String>, message: impl Display) {
        self.list.push(Diagnostic {
            kind: self.kind,
            object: self.object.clone(),
            field: field.into(),
            message: message.to_string(),
        });
    }

    /// Parses `text`, or complains and returns `None`.
    fn parse<T: FromStr<Err: Display>>(&mut self, field: &str, text: &str) -> Option<T> {
        text.parse().map_err(|e| self.add(field, e)).ok()
    }

    /// As [`Self::parse`] for addresses, whose parse error does not repeat the text.
    fn address(&mut self, field: &str, text: &str) -> Option<IpAddr> {
        text.parse().map_err(|_| self.add(field, format!("'{text}' is not an IP address"))).ok()
    }

    /// The value unless something was wrong.
    fn all_or_nothing<T>(self, value: T) -> Lowered<T> {
        Lowered { value: self.list.is_empty().then_some(value), diagnostics: self.list }
    }

    /// The value whatever was wrong: only parts of it were left out.
    fn partial<T>(self, value: T) -> Lowered<T> {
        Lowered { value: Some(value), diagnostics: self.list }
    }

    /// No value.
    fn nothing<T>(self) -> Lowered<T> {
        Lowered { value: None, diagnostics: self.list }
    }
}

/// Namespace and name of an object (namespace empty for cluster-scoped kinds).
pub fn id_of(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> NamespacedName {
    NamespacedName::new(
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    )
}

/// Lowers a Node. A bad address or CIDR is left out alone, since the other family still works.
pub fn node(node: &core::Node) -> Lowered<Node> {
    let id = id_of(&node.metadata);
    let mut found = Findings::new(Kind::Node, &id);
    let Some(name) = found.parse::<NodeName>("metadata.name", &id.name) else {
        return found.nothing();
    };
    let status = node.status.as_ref();
    let mut internal_ips: Vec<IpAddr> = Vec::new();
    for (i, a) in status.and_then(|s| s.addresses.as_ref()).into_iter().flatten().enumerate() {
        if a.type_ != "InternalIP" {
            continue;
        }
        let Some(ip) = found.address(&format!("status.addresses[{i}].address"), &a.address) else {
            continue;
        };
        // The first of a family is the node's address, as kubelet orders them.
        if !internal_ips.iter().any(|x| IpFamily::of(*x) == IpFamily::of(ip)) {
            internal_ips.push(ip);
        }
    }
    let spec = node.spec.as_ref();
    let many = spec.and_then(|s| s.pod_cidrs.as_ref()).filter(|c| !c.is_empty());
    let one = spec.and_then(|s| s.pod_cidr.as_ref()).filter(|c| !c.is_empty());
    let texts: Vec<(String, &String)> = match (many, one) {
        (Some(m), _) => {
            m.iter().enumerate().map(|(i, c)| (format!("spec.podCIDRs[{i}]"), c)).collect()
        }
        (None, Some(c)) => vec![("spec.podCIDR".to_owned(), c)],
        (None, None) => Vec::new(),
    };
    let mut pod_cidrs: Vec<ipnet::IpNet> = Vec::new();
    for (field, text) in texts {
        let Ok(net) = text.parse::<ipnet::IpNet>() else {
            found.add(field, format!("'{text}' is not an address range"));
            continue;
        };
        // The API allows at most one a family.
        if pod_cidrs.iter().any(|x| IpFamily::of(x.addr()) == IpFamily::of(net.addr())) {
            found.add(field, format!("'{text}' is a second range of its family"));
            continue;
        }
        pod_cidrs.push(net.trunc());
    }
    let ready = status
        .and_then(|s| s.conditions.as_ref())
        .into_iter()
        .flatten()
        .any(|c| c.type_ == "Ready" && c.status == "True");
    let zone = label(&node.metadata.labels, ZONE_LABEL).map(Arc::from);
    let taints = spec.and_then(|s| s.taints.as_ref()).into_iter().flatten();
    let leaving = taints.into_iter().any(|t| t.key == LEAVING_TAINT);
    let eligible = !leaving && node.metadata.deletion_timestamp.is_none();
    found.partial(Node { name, internal_ips, pod_cidrs, zone, ready, eligible })
}

/// Lowers a Service, whole or not at all: half a Service would send traffic astray.
pub fn service(svc: &core::Service) -> Lowered<Service> {
    let id = id_of(&svc.metadata);
    let mut found = Findings::new(Kind::Service, &id);
    let Some(spec) = &svc.spec else {
        found.add("spec", "is missing");
        return found.nothing();
    };
    let texts = cluster_ip_texts(spec);
    let kind = match spec.type_.as_deref().unwrap_or("ClusterIP") {
        "ExternalName" => match spec.external_name.as_deref() {
            Some(n) if !n.is_empty() => ServiceKind::ExternalName(n.into()),
            _ => {
                found.add("spec.externalName", "is missing, and type is ExternalName");
                return found.nothing();
            }
        },
        "ClusterIP" if texts.first() == Some(&"None") => ServiceKind::Headless,
        "ClusterIP" | "NodePort" | "LoadBalancer" => ServiceKind::Virtual,
        other => {
            found.add("spec.type", format!("'{other}' is not a type of Service"));
            return found.nothing();
        }
    };
    let mut cluster_ips: Vec<IpAddr> = Vec::new();
    if kind == ServiceKind::Virtual {
        for (i, text) in texts.iter().enumerate() {
            cluster_ips.extend(found.address(&format!("spec.clusterIPs[{i}]"), text));
        }
        if texts.is_empty() {
            found.add("spec.clusterIPs", "no address is allocated");
        }
    }
    let families = families(spec, &cluster_ips, &mut found);
    // What is wrong with the way in from outside does not close the one inside.
    let mut complaints = Findings::new(Kind::Service, &id);
    let ports = spec.ports.iter().flatten().enumerate();
    let ports = ports.filter_map(|(i, p)| service_port(i, p, &mut found)).collect();
    let external = external(svc, spec, &mut complaints);
    let service = Service {
        id,
        kind,
        cluster_ips,
        families,
        ports,
        internal_policy: match spec.internal_traffic_policy.as_deref() {
            Some("Local") => TrafficPolicy::Local,
            _ => TrafficPolicy::Cluster,
        },
        external,
        affinity_timeout_s: (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
            let config = spec.session_affinity_config.as_ref();
            let seconds = config.and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
            // The API allows 1 to 86400.
            seconds
                .and_then(|s| u32::try_from(s).ok())
                .filter(|s| *s > 0)
                .unwrap_or(AFFINITY_TIMEOUT_DEFAULT_S)
        }),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        foreign_proxy: label(&svc.metadata.labels, PROXY_NAME_LABEL).is_some(),
        created_s: svc.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()),
        balance: balance(svc, &mut complaints),
    };
    let mut lowered = found.all_or_nothing(service);
    lowered.diagnostics.extend(complaints.list);
    lowered
}

/// How backends are chosen; at random where the annotation is not understood.
fn balance(svc: &core::Service, found: &mut Findings) -> Balance {
    match label(&svc.metadata.annotations, BALANCE_ANNOTATION) {
        None | Some("random") => Balance::Random,
        Some("maglev") => Balance::Maglev,
        Some(other) => {
            let why = format!("'{other}' is neither random nor maglev; it is random");
            found.add(format!("metadata.annotations[{BALANCE_ANNOTATION}]"), why);
            Balance::Random
        }
    }
}

/// The way in from outside. A bad address is left out alone; a bad source range, too: those
/// that are left admit fewer clients, not more, and none left admits nobody.
fn external(svc: &core::Service, spec: &core::ServiceSpec, found: &mut Findings) -> External {
    let mut external = External::default();
    if spec.external_traffic_policy.as_deref() == Some("Local") {
        external.policy = TrafficPolicy::Local;
    }
    for (i, text) in spec.external_ips.iter().flatten().enumerate() {
        external.addresses.extend(found.address(&format!("spec.externalIPs[{i}]"), text));
    }
    if spec.type_.as_deref() != Some("LoadBalancer") {
        return external;
    }
    let balancer = svc.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    for (i, ingress) in balancer.and_then(|b| b.ingress.as_ref()).into_iter().flatten().enumerate()
    {
        let Some(text) = ingress.ip.as_deref().filter(|t| !t.is_empty()) else { continue };
        if ingress.ip_mode.as_deref() != Some("Proxy") {
            let field = format!("status.loadBalancer.ingress[{i}].ip");
            external.balancer_addresses.extend(found.address(&field, text));
        }
    }
    let ranges: Vec<&String> = spec.load_balancer_source_ranges.iter().flatten().collect();
    for (i, text) in ranges.iter().enumerate() {
        match text.trim().parse::<ipnet::IpNet>() {
            Ok(range) => external.source_ranges.push(range.trunc()),
            Err(_) => found.add(
                format!("spec.loadBalancerSourceRanges[{i}]"),
                format!("'{text}' is not an address range"),
            ),
        }
    }
    if external.source_ranges.is_empty() && !ranges.is_empty() {
        external.balancer_addresses.clear();
    }
    if external.policy == TrafficPolicy::Local {
        let port = spec.health_check_node_port.filter(|p| *p != 0).map(Port::try_from);
        external.health_port =
            port.and_then(|p| p.map_err(|e| found.add("spec.healthCheckNodePort", e)).ok());
    }
    external
}

/// `clusterIPs`, or `clusterIP` as older API servers have it; empty strings mean "none yet".
fn cluster_ip_texts(spec: &core::ServiceSpec) -> Vec<&str> {
    let many: Vec<&str> = spec.cluster_ips.iter().flatten().map(String::as_str).collect();
    let texts =
        if many.is_empty() { spec.cluster_ip.as_deref().into_iter().collect() } else { many };
    texts.into_iter().filter(|t| !t.is_empty()).collect()
}

/// `ipFamilies`; where it is not set, those of the cluster IPs.
fn families(spec: &core::ServiceSpec, ips: &[IpAddr], found: &mut Findings) -> Vec<IpFamily> {
    let mut out: Vec<IpFamily> = Vec::new();
    for (i, text) in spec.ip_families.iter().flatten().enumerate() {
        match family(text) {
            Some(f) => out.push(f),
            None => found.add(format!("spec.ipFamilies[{i}]"), unknown_family(text)),
        }
    }
    if out.is_empty() { ips.iter().map(|ip| IpFamily::of(*ip)).collect() } else { out }
}

fn service_port(i: usize, port: &core::ServicePort, found: &mut Findings) -> Option<ServicePort> {
    let protocol = protocol(port.protocol.as_deref(), &format!("spec.ports[{i}].protocol"), found)?;
    let number = Port::try_from(port.port);
    let number = number.map_err(|e| found.add(format!("spec.ports[{i}].port"), e)).ok()?;
    // 0 is "none yet".
    let node_port = port.node_port.filter(|p| *p != 0).map(Port::try_from).transpose();
    let node_port =
        node_port.map_err(|e| found.add(format!("spec.ports[{i}].nodePort"), e)).ok()?;
    Some(ServicePort { name: name(port.name.as_deref()), protocol, port: number, node_port })
}

/// Lowers an EndpointSlice. `None` without a complaint for slices of FQDNs and for slices that
/// belong to no Service. A bad endpoint is left out alone: the others still serve.
pub fn endpoint_slice(slice: &discovery::EndpointSlice) -> Lowered<EndpointSlice> {
    let id = id_of(&slice.metadata);
    let mut found = Findings::new(Kind::EndpointSlice, &id);
    let Some(service) = label(&slice.metadata.labels, SERVICE_NAME_LABEL) else {
        return found.nothing();
    };
    if slice.address_type == "FQDN" {
        return found.nothing();
    }
    let Some(family) = family(&slice.address_type) else {
        found.add("addressType", unknown_family(&slice.address_type));
        return found.nothing();
    };
    let service = NamespacedName::new(&id.namespace, service);
    let mut ports = Vec::new();
    for (i, p) in slice.ports.iter().flatten().enumerate() {
        let field = format!("ports[{i}].protocol");
        let Some(protocol) = protocol(p.protocol.as_deref(), &field, &mut found) else { continue };
        let port = match p.port.map(Port::try_from).transpose() {
            Ok(port) => port,
            Err(e) => {
                found.add(format!("ports[{i}].port"), e);
                continue;
            }
        };
        ports.push(EndpointPort { name: name(p.name.as_deref()), protocol, port });
    }
    let mut endpoints = Vec::with_capacity(slice.endpoints.len());
    for (i, e) in slice.endpoints.iter().enumerate() {
        endpoints.extend(endpoint(i, e, family, &id, &mut found));
    }
    found.partial(EndpointSlice { id, service, family, ports, endpoints })
}

fn endpoint(
    i: usize,
    e: &discovery::Endpoint,
    family: IpFamily,
    slice: &NamespacedName,
    found: &mut Findings,
) -> Option<Endpoint> {
    // API doc of Endpoint.addresses: consumers use the first one only, the others are fungible.
    let field = format!("endpoints[{i}].addresses[0]");
    let Some(text) = e.addresses.first() else {
        found.add(field, "is missing");
        return None;
    };
    let address = found.address(&field, text)?;
    if IpFamily::of(address) != family {
        found.add(field, format!("'{text}' is not {family}, the addressType of the slice"));
        return None;
    }
    let node = e.node_name.as_deref();
    let node = node.and_then(|n| found.parse(&format!("endpoints[{i}].nodeName"), n));
    let conditions = e.conditions.as_ref();
    // API doc of EndpointConditions: nil `ready` is to be read as true, nil `serving` as
    // `ready`, nil `terminating` as false.
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let pod = e.target_ref.as_ref().filter(|r| r.kind.as_deref() == Some("Pod"));
    let pod = pod.and_then(|r| {
        let namespace = r.namespace.as_deref().unwrap_or(&slice.namespace);
        r.name.as_deref().map(|n| NamespacedName::new(namespace, n))
    });
    let hints = e.hints.as_ref();
    let zone_hints = hints.and_then(|h| h.for_zones.as_ref()).into_iter().flatten();
    let node_hints = hints.and_then(|h| h.for_nodes.as_ref()).into_iter().flatten();
    Some(Endpoint {
        zone_hints: zone_hints.map(|z| Arc::from(&*z.name)).collect(),
        node_hints: node_hints.map(|n| Arc::from(&*n.name)).collect(),
        address,
        ready,
        serving: conditions.and_then(|c| c.serving).unwrap_or(ready),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        hostname: e.hostname.as_deref().filter(|h| !h.is_empty()).map(Arc::from),
        node,
        zone: e.zone.as_deref().filter(|z| !z.is_empty()).map(Arc::from),
        pod,
    })
}

/// A label that is set and not empty.
fn label<'a>(labels: &'a Option<BTreeMap<String, String>>, key: &str) -> Option<&'a str> {
    labels.as_ref()?.get(key).map(String::as_str).filter(|v| !v.is_empty())
}

fn family(text: &str) -> Option<IpFamily> {
    match text {
        "IPv4" => Some(IpFamily::V4),
        "IPv6" => Some(IpFamily::V6),
        _ => None,
    }
}

fn unknown_family(text: &str) -> String {
    format!("'{text}' is not IPv4 or IPv6")
}

/// The protocol; not set means TCP (API default).
fn protocol(text: Option<&str>, field: &str, found: &mut Findings) -> Option<Protocol> {
    found.parse(field, text.unwrap_or("TCP"))
}

fn name(text: Option<&str>) -> Arc<str> {
    text.unwrap_or_default().into()
}

#[cfg(test)]
mod tests;
