//! Which endpoints of a Service port may be used from this node, as kube-proxy decides it
//! (`CategorizeEndpoints` in `pkg/proxy/topology.go`; KEP-1669 for terminating endpoints,
//! KEP-2086 for `internalTrafficPolicy`, KEP-2433 and KEP-3015 for hints).

use crate::{Backend, DiagnosticKind};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};
use weft_model::{
    Endpoint, EndpointSlice, IpFamily, NodeName, Service, ServicePort, Snapshot, TrafficPolicy,
};

/// The backends of one port and family, by traffic policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Eligible {
    /// Policy `Cluster`: the ready endpoints that the hints leave; if none is ready at all,
    /// those that are terminating and still serving.
    pub(crate) cluster: Arc<[Backend]>,
    /// Policy `Local`: this node's, with the same fall-back. Hints play no part.
    pub(crate) local: Arc<[Backend]>,
    /// Whether any node has an endpoint that could serve.
    pub(crate) anywhere: bool,
}

impl Eligible {
    pub(crate) fn by(&self, policy: TrafficPolicy) -> &Arc<[Backend]> {
        match policy {
            TrafficPolicy::Cluster => &self.cluster,
            TrafficPolicy::Local => &self.local,
        }
    }
}

/// What the rules say about one backend. The order of the variants is the order in which the
/// rules are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// New connections may go to it.
    Eligible,
    /// The policy is `Local`, and it is on another node.
    OnAnotherNode,
    /// Not ready, and not terminating either: it starts, or its probe fails.
    NotReady,
    /// It terminates and still serves, but others are ready.
    Terminating,
    /// It terminates and serves no more.
    Terminated,
    /// Ready, but the hints give it to other nodes.
    HintsOtherNode,
    /// Ready, but the hints give it to other zones.
    HintsOtherZone,
}

/// What the slices say about one backend, merged over all slices that name it: one that moves
/// between slices is in both for a while, and which one is newer is not known. One slice that
/// calls it usable is enough.
#[derive(Clone, Default)]
struct Merged {
    ready: bool,
    terminating: bool,
    serving_terminating: bool,
    here: bool,
    zone_hints: BTreeSet<Arc<str>>,
    node_hints: BTreeSet<Arc<str>>,
}

/// Which of the backends that a policy admits are used.
#[derive(Clone, Copy)]
enum Rule {
    /// The ready ones, narrowed.
    Ready(Preference),
    /// None is ready: those that terminate and still serve.
    Leaving,
}

/// How the choice among ready endpoints is narrowed.
#[derive(Clone, Copy)]
enum Preference {
    None,
    Node,
    Zone,
}

/// All backends of one port and family, and the rules that hold for them: the one place that
/// decides which are used, for tables and for explanations.
pub(crate) struct Judge<'a> {
    found: BTreeMap<Backend, Merged>,
    node: &'a NodeName,
    zone: Option<&'a str>,
    cluster: Rule,
    local: Rule,
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
    Judge::new(snapshot, node, service, port, family).eligible()
}

impl<'a> Judge<'a> {
    pub(crate) fn new(
        snapshot: &'a Snapshot,
        node: &'a NodeName,
        service: &Service,
        port: &ServicePort,
        family: IpFamily,
    ) -> Self {
        let mut found: BTreeMap<Backend, Merged> = BTreeMap::new();
        for slice in snapshot.slices_of(&service.id).filter(|s| s.family == family) {
            for number in numbers(slice, port) {
                for endpoint in slice.endpoints.iter().filter(|e| wrong(e, family).is_none()) {
                    let backend = Backend { addr: endpoint.address, port: number };
                    found.entry(backend).or_default().add(endpoint, node);
                }
            }
        }
        let zone = snapshot.nodes.get(node).and_then(|n| n.zone.as_deref());
        let any_ready = found.values().any(|m| m.ready);
        let any_ready_here = found.values().any(|m| m.ready && m.here);
        let cluster = match any_ready {
            true => Rule::Ready(preference(found.values(), node, zone)),
            false => Rule::Leaving,
        };
        let local = if any_ready_here { Rule::Ready(Preference::None) } else { Rule::Leaving };
        Self { found, node, zone, cluster, local }
    }

    /// What the rules of `policy` say about a backend; `None` where the slices do not name it.
    pub(crate) fn verdict(&self, policy: TrafficPolicy, backend: &Backend) -> Option<Verdict> {
        self.found.get(backend).map(|m| self.judge(policy, m))
    }

    fn judge(&self, policy: TrafficPolicy, m: &Merged) -> Verdict {
        let rule = match policy {
            TrafficPolicy::Local if !m.here => return Verdict::OnAnotherNode,
            TrafficPolicy::Local => self.local,
            TrafficPolicy::Cluster => self.cluster,
        };
        match rule {
            Rule::Leaving if m.serving_terminating => Verdict::Eligible,
            Rule::Ready(preference) if m.ready => match preference {
                Preference::Node if !m.node_hints.contains(self.node.as_str()) => {
                    Verdict::HintsOtherNode
                }
                Preference::Zone if !m.for_zone(self.zone) => Verdict::HintsOtherZone,
                _ => Verdict::Eligible,
            },
            _ if m.serving_terminating => Verdict::Terminating,
            _ if m.terminating => Verdict::Terminated,
            _ => Verdict::NotReady,
        }
    }

    fn eligible(&self) -> Eligible {
        let by = |policy| -> Arc<[Backend]> {
            let eligible = |m: &&Merged| self.judge(policy, m) == Verdict::Eligible;
            self.found.iter().filter(|(_, m)| eligible(m)).map(|(b, _)| *b).collect()
        };
        let cluster = by(TrafficPolicy::Cluster);
        let anywhere = !cluster.is_empty();
        Eligible { cluster, local: by(TrafficPolicy::Local), anywhere }
    }
}

/// The numbers that a slice gives a port of its Service. A slice port without a number means
/// "all ports", which a Service with a virtual address cannot use; kube-proxy ignores it too.
pub(crate) fn numbers(
    slice: &EndpointSlice,
    port: &ServicePort,
) -> impl Iterator<Item = weft_model::Port> {
    let (name, protocol) = (port.name.clone(), port.protocol);
    let matching = slice.ports.iter().filter(move |p| p.name == name && p.protocol == protocol);
    matching.filter_map(|p| p.port)
}

impl Merged {
    fn add(&mut self, endpoint: &Endpoint, node: &NodeName) {
        self.ready |= endpoint.ready;
        self.terminating |= endpoint.terminating;
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
pub(crate) fn complaints(snapshot: &Snapshot, service: &Service) -> Vec<DiagnosticKind> {
    let mut out = Vec::new();
    let mut seen = BTreeSet::new();
    for slice in snapshot.slices_of(&service.id) {
        for endpoint in &slice.endpoints {
            if let Some(reason) = wrong(endpoint, slice.family)
                && seen.insert((endpoint.address, reason))
            {
                let (slice, address) = (slice.id.name.clone(), endpoint.address);
                out.push(DiagnosticKind::BadEndpoint { slice, address, reason });
            }
        }
    }
    out
}

/// Why an endpoint's address cannot be sent to. The API refuses all of these; what something
/// else wrote must not turn a node's own or its neighbours' ports into a Service (CVE-2020-8554
/// and its kin).
pub(crate) fn wrong(endpoint: &Endpoint, family: IpFamily) -> Option<&'static str> {
    let address = endpoint.address;
    if IpFamily::of(address) != family {
        return Some("it is not of the slice's family");
    }
    special(address)
}

/// Why an address means nothing outside one machine or link, or not one machine.
pub(crate) fn special(address: IpAddr) -> Option<&'static str> {
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
