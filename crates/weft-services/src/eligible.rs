//! Which endpoints of a Service port may be used from this node, as kube-proxy decides it
//! (`CategorizeEndpoints` in `pkg/proxy/topology.go`; KEP-1669 for terminating endpoints,
//! KEP-2086 for `internalTrafficPolicy`, KEP-2433 and KEP-3015 for hints).

use crate::{Backend, Diagnostic, DiagnosticKind};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};
use weft_model::{Endpoint, IpFamily, NodeName, Service, ServicePort, Snapshot, TrafficPolicy};

/// The backends of one port and family, by traffic policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Eligible {
    /// Policy `Cluster`: the ready endpoints that the hints leave; if none is ready at all,
    /// those that are terminating and still serving.
    pub(crate) cluster: Vec<Backend>,
    /// Policy `Local`: this node's, with the same fall-back. Hints play no part.
    pub(crate) local: Vec<Backend>,
    /// Whether any node has an endpoint that could serve.
    pub(crate) anywhere: bool,
}

impl Eligible {
    pub(crate) fn by(&self, policy: TrafficPolicy) -> &[Backend] {
        match policy {
            TrafficPolicy::Cluster => &self.cluster,
            TrafficPolicy::Local => &self.local,
        }
    }
}

/// What the slices say about one backend, merged over all slices that name it: one that moves
/// between slices is in both for a while, and which one is newer is not known. One slice that
/// calls it usable is enough.
#[derive(Clone, Default)]
struct Merged {
    ready: bool,
    serving_terminating: bool,
    here: bool,
    zone_hints: BTreeSet<Arc<str>>,
    node_hints: BTreeSet<Arc<str>>,
}

/// How the choice among ready endpoints is narrowed.
enum Preference {
    None,
    Node,
    Zone,
}

/// Judges the endpoints of one port and family.
///
/// `publishNotReadyAddresses` needs nothing here: the EndpointSlice controller already
/// publishes such endpoints as ready.
pub(crate) fn eligible(
    snapshot: &Snapshot,
    node: &NodeName,
    service: &Service,
    port: &ServicePort,
    family: IpFamily,
) -> Eligible {
    let mut found: BTreeMap<Backend, Merged> = BTreeMap::new();
    for slice in snapshot.slices_of(&service.id).filter(|s| s.family == family) {
        let matching =
            slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol);
        // A slice port without a number means "all ports", which a Service with a virtual
        // address cannot use; kube-proxy ignores it too.
        for number in matching.filter_map(|p| p.port) {
            for endpoint in slice.endpoints.iter().filter(|e| wrong(e, family).is_none()) {
                let backend = Backend { addr: endpoint.address, port: number };
                found.entry(backend).or_default().add(endpoint, node);
            }
        }
    }
    let pick = |usable: &dyn Fn(&Merged) -> bool| -> Vec<Backend> {
        found.iter().filter(|(_, m)| usable(m)).map(|(b, _)| *b).collect()
    };
    let zone = snapshot.nodes.get(node).and_then(|n| n.zone.clone());
    let mut cluster = match preference(found.values(), node, zone.as_deref()) {
        Preference::None => pick(&|m| m.ready),
        Preference::Node => pick(&|m| m.ready && m.node_hints.contains(node.as_str())),
        Preference::Zone => pick(&|m| m.ready && m.for_zone(zone.as_deref())),
    };
    if cluster.is_empty() {
        cluster = pick(&|m| m.serving_terminating);
    }
    let mut local = pick(&|m| m.here && m.ready);
    if local.is_empty() {
        local = pick(&|m| m.here && m.serving_terminating);
    }
    let anywhere = !cluster.is_empty();
    Eligible { cluster, local, anywhere }
}

impl Merged {
    fn add(&mut self, endpoint: &Endpoint, node: &NodeName) {
        self.ready |= endpoint.ready;
        self.serving_terminating |= endpoint.serving && endpoint.terminating;
        self.here |= endpoint.node.as_ref() == Some(node);
        self.zone_hints.extend(endpoint.zone_hints.iter().cloned());
        self.node_hints.extend(endpoint.node_hints.iter().cloned());
    }

    fn for_zone(&self, zone: Option<&str>) -> bool {
        zone.is_some_and(|z| self.zone_hints.contains(z))
    }
}

/// Hints count only where every ready endpoint has one of the kind, and at least one is meant
/// for this node (or its zone): anything else is a cluster in the middle of a change, where
/// following the rest would overload or lose somebody. Nodes before zones.
fn preference<'a>(
    all: impl Iterator<Item = &'a Merged> + Clone,
    node: &NodeName,
    zone: Option<&str>,
) -> Preference {
    let mut ready = all.filter(|m| m.ready);
    let every =
        |hints: fn(&Merged) -> &BTreeSet<Arc<str>>| ready.clone().all(|m| !hints(m).is_empty());
    let (nodes, zones) = (every(|m| &m.node_hints), every(|m| &m.zone_hints));
    if nodes && ready.clone().any(|m| m.node_hints.contains(node.as_str())) {
        Preference::Node
    } else if zones && ready.any(|m| m.for_zone(zone)) {
        Preference::Zone
    } else {
        Preference::None
    }
}

/// How many of this node's endpoints are ready, whatever their ports: what a load balancer
/// that probes `healthCheckNodePort` is told.
pub(crate) fn ready_here(snapshot: &Snapshot, node: &NodeName, service: &Service) -> usize {
    let slices = snapshot.slices_of(&service.id);
    let usable = slices.flat_map(|s| s.endpoints.iter().filter(|e| wrong(e, s.family).is_none()));
    let here = usable.filter(|e| e.ready && e.node.as_ref() == Some(node));
    here.map(|e| e.address).collect::<BTreeSet<IpAddr>>().len()
}

/// Complaints about endpoints that cannot be used, one for each.
pub(crate) fn complaints(snapshot: &Snapshot, service: &Service, out: &mut Vec<Diagnostic>) {
    let mut seen = BTreeSet::new();
    for slice in snapshot.slices_of(&service.id) {
        for endpoint in &slice.endpoints {
            if let Some(reason) = wrong(endpoint, slice.family)
                && seen.insert((endpoint.address, reason))
            {
                let kind = DiagnosticKind::BadEndpoint { address: endpoint.address, reason };
                out.push(Diagnostic { service: service.id.clone(), kind });
            }
        }
    }
}

/// Why an endpoint's address cannot be sent to. The API refuses all of these; what something
/// else wrote must not turn a node's own or its neighbours' ports into a Service (CVE-2020-8554
/// and its kin).
fn wrong(endpoint: &Endpoint, family: IpFamily) -> Option<&'static str> {
    let address = endpoint.address;
    if IpFamily::of(address) != family {
        return Some("it is not of the slice's family");
    }
    let (link_local, mapped) = match address {
        IpAddr::V4(a) => (a.is_link_local() || a.is_broadcast(), false),
        IpAddr::V6(a) => (a.is_unicast_link_local(), a.to_ipv4_mapped().is_some()),
    };
    if address.is_unspecified() {
        Some("it is the unspecified address")
    } else if address.is_loopback() {
        Some("it is a loopback address")
    } else if link_local {
        Some("it is valid on one link only")
    } else if address.is_multicast() {
        Some("it is a multicast address")
    } else if mapped {
        Some("it is an IPv4 address in IPv6 form")
    } else {
        None
    }
}
