//! Why a frontend answers as it does, for one client.
//!
//! The tables are the statement and this is its reason: [`explain`] reads the answer from the
//! tables that [`crate::plan`] made, and asks the very rules that chose the backends
//! (`eligible.rs`) about every other endpoint. It chooses nothing itself.

use crate::{
    Answer, Backend, Frontend, FrontendKind, ServiceTables,
    eligible::{self, Judge, Verdict},
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};
use weft_model::{
    Endpoint, EndpointSlice, IpFamily, NamespacedName, NodeName, Protocol, Service, ServicePort,
    Snapshot, TrafficPolicy,
};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// A pod of the node that the tables are of, with a network of its own.
    OnNode {
        /// The source address of its packets, where it is known.
        source: Option<IpAddr>,
    },
    /// A process in the network of that node, or a pod of the host network.
    Process {
        /// The source address of its packets, where it is known.
        source: Option<IpAddr>,
    },
    /// Anybody else: its packets reach the node's stack.
    Arriving {
        /// The source address of its packets, where it is known.
        source: Option<IpAddr>,
    },
}

impl Client {
    fn source(self) -> Option<IpAddr> {
        match self {
            Self::OnNode { source } | Self::Process { source } | Self::Arriving { source } => {
                source
            }
        }
    }
}

/// Where a connection is led to its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At the socket, when the process connects: nothing is done per packet.
    SocketHook,
    /// At the link of the pod that the packets come from. Clients that are no pods are refused.
    PodLink,
    /// In the node's netfilter table.
    Netfilter,
}

/// What becomes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes to one of these: at least one, sorted.
    Forwarded {
        /// Where it is translated.
        at: Place,
        /// The backends.
        backends: Vec<Backend>,
    },
    /// The client sees a refusal.
    Refused(Reason),
    /// The client sees nothing.
    Dropped(Reason),
}

/// Why a connection is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// No endpoint of the port can serve, on any node.
    #[error("the Service has no endpoint that serves this port")]
    NoEndpoint,
    /// `internalTrafficPolicy: Local`, and none is here.
    #[error("internalTrafficPolicy is Local, and no endpoint on this node serves")]
    NoneHereInternal,
    /// `externalTrafficPolicy: Local`, and none is here.
    #[error("externalTrafficPolicy is Local, and no endpoint on this node serves")]
    NoneHereExternal,
    /// `loadBalancerSourceRanges` do not have the client.
    #[error("loadBalancerSourceRanges do not admit the client")]
    SourceRanges,
    /// Packets with a cluster address from outside are refused by every node.
    #[error("a cluster IP is served to clients in the cluster alone")]
    ClusterIpFromOutside,
    /// No mechanism translates this.
    #[error("nothing translates this protocol for this kind of address")]
    NotTranslated,
}

/// One endpoint, and why it is used or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Its address.
    pub address: IpAddr,
    /// Its port; `None` where the slice has none for this Service port.
    pub port: Option<weft_model::Port>,
    /// `targetRef` where it is a Pod.
    pub pod: Option<NamespacedName>,
    /// Its node.
    pub node: Option<NodeName>,
    /// Its zone.
    pub zone: Option<Arc<str>>,
    /// Zones that the hints give it to.
    pub zone_hints: Vec<Arc<str>>,
    /// Nodes that the hints give it to.
    pub node_hints: Vec<Arc<str>>,
    /// The slice that names it.
    pub slice: Arc<str>,
    /// Whether it is used.
    pub why: Why,
}

/// Why an endpoint is used or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// What the rules of the Service say.
    Rule(Verdict),
    /// Its address cannot be sent to.
    BadAddress(&'static str),
    /// Its slice has no port of this name and protocol.
    NoSuchPort,
    /// It has an address of the other family only.
    OtherFamily(IpFamily),
    /// The cluster's DNS port is answered by each node itself.
    NodeDns,
}

impl Judged {
    /// Whether new connections may go to it.
    pub fn eligible(&self) -> bool {
        self.why == Why::Rule(Verdict::Eligible)
    }
}

/// A frontend explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The frontend.
    pub frontend: Frontend,
    /// Where its address comes from.
    pub kind: FrontendKind,
    /// The Service.
    pub service: NamespacedName,
    /// Name of its port.
    pub port_name: Arc<str>,
    /// The traffic policy that holds for this client.
    pub policy: TrafficPolicy,
    /// What becomes of the connection.
    pub outcome: Outcome,
    /// Every endpoint of the Service, in the order of their addresses.
    pub endpoints: Vec<Judged>,
    /// Time-out in seconds where clients stay with their backend.
    pub affinity_timeout_s: Option<u32>,
    /// Who may use it; `None` for everybody.
    pub sources: Option<Vec<IpNet>>,
}

/// Explains what `client` meets at `frontend`, by the tables of `node`. `None` where no Service
/// has the frontend there.
pub fn explain(
    snapshot: &Snapshot,
    node: &NodeName,
    tables: &ServiceTables,
    frontend: Frontend,
    client: Client,
) -> Option<Explanation> {
    let (service, kind, port) = owner(snapshot, node, tables, frontend)?;
    let outside = tables.outside.get(&frontend);
    let sctp = frontend.protocol == Protocol::Sctp;
    // SCTP passes no socket hook: pods' packets to a cluster address are translated at their
    // links, all others in the stack, where cluster addresses are entrances for that reason.
    let socket = match client {
        Client::OnNode { .. } => !sctp || kind == FrontendKind::ClusterIp,
        Client::Process { .. } => !sctp,
        Client::Arriving { .. } => false,
    };
    let at_socket = tables.frontends.get(&frontend).filter(|_| socket);
    let refused_at_socket = socket && tables.without_backends.contains(&frontend);
    // At the socket, policies about traffic from outside do not hold.
    let by_socket = at_socket.is_some() || refused_at_socket;
    let policy = match kind {
        FrontendKind::ClusterIp => service.internal_policy,
        _ if by_socket => TrafficPolicy::Cluster,
        _ => service.external.policy,
    };
    let sources = outside.and_then(|o| o.sources.clone());
    let admitted = || match (&sources, client.source()) {
        (Some(ranges), Some(source)) => ranges.iter().any(|r| r.contains(&source)),
        _ => true,
    };
    let outcome = if let Some(lb) = at_socket {
        let at = if sctp { Place::PodLink } else { Place::SocketHook };
        Outcome::Forwarded { at, backends: lb.backends.to_vec() }
    } else if refused_at_socket {
        Outcome::Refused(nothing_here(kind, policy))
    } else if kind == FrontendKind::ClusterIp && !sctp {
        Outcome::Refused(match client {
            Client::Arriving { .. } => Reason::ClusterIpFromOutside,
            Client::OnNode { .. } | Client::Process { .. } => Reason::NotTranslated,
        })
    } else {
        match outside.map(|o| &o.answer) {
            // Where nobody is forwarded, nobody is asked who he is.
            Some(Answer::Refuse) => Outcome::Refused(nothing_here(kind, policy)),
            Some(Answer::Drop) => Outcome::Dropped(Reason::NoneHereExternal),
            Some(Answer::Forward(_)) if !admitted() => Outcome::Dropped(Reason::SourceRanges),
            Some(Answer::Forward(group)) => {
                let backends = tables.groups.get(group).map(|b| b.to_vec()).unwrap_or_default();
                Outcome::Forwarded { at: Place::Netfilter, backends }
            }
            None => Outcome::Refused(Reason::NotTranslated),
        }
    };
    let family = IpFamily::of(frontend.addr);
    let mut endpoints = judge_all(snapshot, node, service, port, family, policy);
    if let Outcome::Forwarded { backends, .. } = &outcome {
        mark_node_dns(&mut endpoints, backends);
    }
    Some(Explanation {
        frontend,
        kind,
        service: service.id.clone(),
        port_name: port.name.clone(),
        policy,
        outcome,
        endpoints,
        affinity_timeout_s: service.affinity_timeout_s,
        sources,
    })
}

/// Why the tables have no backend for clients on the node.
fn nothing_here(kind: FrontendKind, policy: TrafficPolicy) -> Reason {
    match (kind, policy) {
        (FrontendKind::ClusterIp, TrafficPolicy::Local) => Reason::NoneHereInternal,
        _ => Reason::NoEndpoint,
    }
}

/// The Service and port that have a frontend on `node`, and by which of its addresses.
fn owner<'a>(
    snapshot: &'a Snapshot,
    node: &NodeName,
    tables: &ServiceTables,
    frontend: Frontend,
) -> Option<(&'a Service, FrontendKind, &'a ServicePort)> {
    let of = |id: &NamespacedName| snapshot.services.get(id).map(Arc::as_ref);
    if let Some(outside) = tables.outside.get(&frontend) {
        let service = of(&outside.service)?;
        let port = service.ports.iter().find(|p| is_port(p, outside.kind, frontend))?;
        return Some((service, outside.kind, port));
    }
    // What no mechanism serves is in no table; what a Service may not have is not its own.
    let refused = |d: &crate::Diagnostic| matches!(&d.kind, crate::DiagnosticKind::Refused { frontend: f, .. } if *f == frontend);
    if tables.diagnostics.iter().any(refused) {
        return None;
    }
    // Loopback addresses are in the tables where the node's processes reach node ports there.
    let loopback = [frontend.addr];
    let in_tables =
        tables.frontends.contains_key(&frontend) || tables.without_backends.contains(&frontend);
    let own = match snapshot.nodes.get(node) {
        Some(_) if frontend.addr.is_loopback() && in_tables => &loopback[..],
        Some(node) => &node.internal_ips,
        None => &[],
    };
    snapshot.services.values().filter(|s| !s.foreign_proxy).find_map(|service| {
        FrontendKind::ALL.into_iter().find_map(|kind| {
            let has = match kind {
                FrontendKind::ClusterIp => &service.cluster_ips[..],
                FrontendKind::NodePort => own,
                FrontendKind::LoadBalancer => &service.external.balancer_addresses,
                FrontendKind::ExternalIp => &service.external.addresses,
            };
            let port = service.ports.iter().find(|p| is_port(p, kind, frontend));
            port.filter(|_| has.contains(&frontend.addr)).map(|p| (service.as_ref(), kind, p))
        })
    })
}

fn is_port(port: &ServicePort, kind: FrontendKind, frontend: Frontend) -> bool {
    let number = match kind {
        FrontendKind::NodePort => port.node_port,
        _ => Some(port.port),
    };
    number == Some(frontend.port) && port.protocol == frontend.protocol
}

/// Every endpoint of a Service, judged for one port, family and policy as seen from `node`.
pub fn judge_all(
    snapshot: &Snapshot,
    node: &NodeName,
    service: &Service,
    port: &ServicePort,
    family: IpFamily,
    policy: TrafficPolicy,
) -> Vec<Judged> {
    let judge = Judge::new(snapshot, node, service, port, family);
    // By backend, since one may be in two slices; what names no backend is by address.
    let mut all: BTreeMap<(IpAddr, Option<weft_model::Port>), Judged> = BTreeMap::new();
    for slice in snapshot.slices_of(&service.id) {
        let mut numbers: Vec<_> = eligible::numbers(slice, port).map(Some).collect();
        if numbers.is_empty() {
            numbers.push(None);
        }
        for (endpoint, number) in
            slice.endpoints.iter().flat_map(|e| numbers.iter().map(move |n| (e, *n)))
        {
            let backend = number.map(|port| Backend { addr: endpoint.address, port });
            let why = if let Some(reason) = eligible::wrong(endpoint, slice.family) {
                Why::BadAddress(reason)
            } else if slice.family != family {
                Why::OtherFamily(slice.family)
            } else {
                let verdict = backend.and_then(|b| judge.verdict(policy, &b));
                verdict.map_or(Why::NoSuchPort, Why::Rule)
            };
            let judged = judged(slice, endpoint, number, why);
            all.entry((endpoint.address, number)).or_insert(judged);
        }
    }
    let named: BTreeSet<IpAddr> =
        all.keys().filter(|(_, port)| port.is_some()).map(|(addr, _)| *addr).collect();
    all.retain(|(addr, port), _| port.is_some() || !named.contains(addr));
    all.into_values().collect()
}

fn judged(slice: &EndpointSlice, e: &Endpoint, port: Option<weft_model::Port>, why: Why) -> Judged {
    Judged {
        address: e.address,
        port,
        pod: e.pod.clone(),
        node: e.node.clone(),
        zone: e.zone.clone(),
        zone_hints: e.zone_hints.clone(),
        node_hints: e.node_hints.clone(),
        slice: slice.id.name.clone(),
        why,
    }
}

/// Where the node answers instead of the endpoints (DNS), these are not used.
fn mark_node_dns(endpoints: &mut [Judged], backends: &[Backend]) {
    for endpoint in endpoints.iter_mut().filter(|e| e.eligible()) {
        let used =
            backends.iter().any(|b| b.addr == endpoint.address && Some(b.port) == endpoint.port);
        if !used {
            endpoint.why = Why::NodeDns;
        }
    }
}
