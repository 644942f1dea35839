//! All Services in a table: `weft get services`.

use crate::{AskError, World, trace::kind_name};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weft_model::{IpFamily, NodeName, Service, ServiceKind, TrafficPolicy};
use weft_services::{Judged, judge_all};

/// One Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRow {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `ClusterIP`, `Headless`, `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Cluster IPs.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<IpAddr>,
    /// Addresses of load balancers and `externalIPs`; the target of an ExternalName.
    pub external: Vec<String>,
    /// `80:30080/TCP (http)`.
    pub ports: Vec<String>,
    /// Endpoints, for each port, family and node.
    pub endpoints: Vec<Count>,
    /// What is wrong with it, and what is particular.
    pub notes: Vec<String>,
}

/// How many endpoints of one port and family clients may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Count {
    /// The node.
    pub node: String,
    /// `80/TCP`.
    pub port: String,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// Those that clients on the node may use.
    pub eligible: usize,
    /// Those that clients from outside may use that come in through the node; absent where
    /// nobody comes in.
    pub eligible_outside: Option<usize>,
    /// All that the slices name.
    pub all: usize,
}

/// The Services of a namespace (all, where none is given), with the endpoints as seen from a
/// node (every node, where none is given).
pub fn services(
    world: &World,
    namespace: Option<&str>,
    node: Option<&str>,
) -> Result<Vec<ServiceRow>, AskError> {
    let nodes: Vec<NodeName> = match node {
        Some(name) => vec![world.node(name)?.name.clone()],
        None => world.snapshot.nodes.keys().cloned().collect(),
    };
    // Complaints are the same on all nodes, but for the addresses of node ports.
    let mut complaints: BTreeMap<_, Vec<String>> = world.complaints.clone();
    for node in &nodes {
        for d in world.tables(node).diagnostics.iter() {
            let list = complaints.entry(d.service.clone()).or_default();
            let text = d.kind.to_string();
            if !list.contains(&text) {
                list.push(text);
            }
        }
    }
    let wanted = world.snapshot.services.iter();
    let wanted = wanted.filter(|(id, _)| namespace.is_none_or(|n| *id.namespace == *n));
    let mut rows: Vec<ServiceRow> = wanted
        .map(|(id, service)| {
            let kind = world.service_types.get(id).map(String::as_str);
            let mut row = row(service, kind);
            row.endpoints = nodes.iter().flat_map(|n| counts(world, n, service)).collect();
            row.notes.extend(complaints.remove(id).unwrap_or_default());
            row
        })
        .collect();
    // Those that were left out whole are in no snapshot.
    for (id, notes) in complaints {
        let ours = namespace.is_none_or(|n| *id.namespace == *n);
        if ours
            && !world.snapshot.services.contains_key(&id)
            && world.service_types.contains_key(&id)
        {
            let mut notes = notes;
            notes.insert(0, "not served".to_owned());
            rows.push(ServiceRow {
                namespace: id.namespace.to_string(),
                name: id.name.to_string(),
                kind: world.service_types[&id].clone(),
                cluster_ips: Vec::new(),
                external: Vec::new(),
                ports: Vec::new(),
                endpoints: Vec::new(),
                notes,
            });
        }
    }
    rows.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Ok(rows)
}

fn row(service: &Service, kind: Option<&str>) -> ServiceRow {
    let mut notes = Vec::new();
    let mut note = |on: bool, text: &str| {
        if on {
            notes.push(text.to_owned());
        }
    };
    note(service.foreign_proxy, "served by another proxy (label service-proxy-name)");
    note(service.internal_policy == TrafficPolicy::Local, "internalTrafficPolicy Local");
    note(service.external.policy == TrafficPolicy::Local, "externalTrafficPolicy Local");
    if let Some(s) = service.affinity_timeout_s {
        notes.push(format!("clients stay with their backend for {s} s"));
    }
    if !service.external.source_ranges.is_empty() {
        let all: Vec<String> =
            service.external.source_ranges.iter().map(ToString::to_string).collect();
        notes.push(format!("load balancer for {} only", all.join(", ")));
    }
    let addresses = service.external.balancer_addresses.iter().chain(&service.external.addresses);
    let mut external: Vec<String> = addresses.map(ToString::to_string).collect();
    external.dedup();
    let kind = match &service.kind {
        ServiceKind::ExternalName(target) => {
            external.push(target.to_string());
            "ExternalName"
        }
        ServiceKind::Headless => "Headless",
        ServiceKind::Virtual => kind.unwrap_or(kind_name(weft_services::FrontendKind::ClusterIp)),
    };
    let ports = service.ports.iter().map(|p| match p.node_port {
        Some(node_port) => format!("{}:{node_port}/{}", p.port, p.protocol),
        None => format!("{}/{}", p.port, p.protocol),
    });
    ServiceRow {
        namespace: service.id.namespace.to_string(),
        name: service.id.name.to_string(),
        kind: kind.to_owned(),
        cluster_ips: service.cluster_ips.clone(),
        external,
        ports: ports.collect(),
        endpoints: Vec::new(),
        notes,
    }
}

fn counts(world: &World, node: &NodeName, service: &Service) -> Vec<Count> {
    let mut all = Vec::new();
    if matches!(service.kind, ServiceKind::ExternalName(_)) {
        return all;
    }
    let entrances = |p: &weft_model::ServicePort| {
        let e = &service.external;
        p.node_port.is_some() || !e.addresses.is_empty() || !e.balancer_addresses.is_empty()
    };
    for port in &service.ports {
        for family in &service.families {
            let judged = |policy| judge_all(&world.snapshot, node, service, port, *family, policy);
            let of_port = |j: &&Judged| j.port.is_some() && IpFamily::of(j.address) == *family;
            let eligible = |all: &[Judged]| all.iter().filter(|j| j.eligible()).count();
            let inside = judged(service.internal_policy);
            let outside = entrances(port).then(|| eligible(&judged(service.external.policy)));
            all.push(Count {
                node: node.to_string(),
                port: format!("{}/{}", port.port, port.protocol),
                family: family.to_string(),
                eligible: match service.kind {
                    // A name has the ready endpoints, wherever they are.
                    ServiceKind::Headless => headless(world, service, *family),
                    _ => eligible(&inside),
                },
                eligible_outside: outside,
                all: inside.iter().filter(of_port).count(),
            });
        }
    }
    all
}

fn headless(world: &World, service: &Service, family: IpFamily) -> usize {
    let slices = world.snapshot.slices_of(&service.id).filter(|s| s.family == family);
    let ready = slices.flat_map(|s| &s.endpoints);
    let ready = ready.filter(|e| e.ready || service.publish_not_ready);
    ready.map(|e| e.address).collect::<BTreeSet<_>>().len()
}

impl ServiceRow {
    /// `3/3`; where ports, families or nodes differ, each of them (all of them where `wide`).
    pub fn endpoints_text(&self, wide: bool) -> String {
        let text = |c: &Count| match c.eligible_outside {
            Some(n) if n != c.eligible => format!("{}/{} (outside {n})", c.eligible, c.all),
            _ => format!("{}/{}", c.eligible, c.all),
        };
        let mut seen: BTreeMap<(&str, &str), Vec<(&str, String)>> = BTreeMap::new();
        for c in &self.endpoints {
            seen.entry((&c.port, &c.family)).or_default().push((&c.node, text(c)));
        }
        // Where two ports of a family (or two families of a port) differ, each is named.
        let pairs = || seen.iter().flat_map(|x| seen.iter().map(move |y| (x, y)));
        let ports_differ = pairs().any(|((a, x), (b, y))| a.1 == b.1 && x != y);
        let families_differ = pairs().any(|((a, x), (b, y))| a.0 == b.0 && x != y);
        let ports: BTreeSet<&str> = seen.keys().map(|k| k.0).collect();
        let families: BTreeSet<&str> = seen.keys().map(|k| k.1).collect();
        let by_port = ports_differ || (wide && ports.len() > 1);
        let by_family = families_differ || (wide && families.len() > 1);
        let mut parts: Vec<String> = Vec::new();
        for ((port, family), by_node) in &seen {
            let mut texts: Vec<(&str, Vec<&str>)> = Vec::new();
            for (node, text) in by_node {
                match texts.iter_mut().find(|(t, _)| t == text) {
                    Some((_, nodes)) => nodes.push(node),
                    None => texts.push((text, vec![node])),
                }
            }
            for (text, nodes) in &texts {
                let mut words = Vec::new();
                words.extend(by_port.then(|| (*port).to_owned()));
                words.extend(by_family.then(|| (*family).to_owned()));
                words.extend((texts.len() > 1).then(|| nodes.join(",")));
                words.push((*text).to_owned());
                let part = words.join(" ");
                if !parts.contains(&part) {
                    parts.push(part);
                }
            }
        }
        if parts.is_empty() { "-".to_owned() } else { parts.join("; ") }
    }
}
