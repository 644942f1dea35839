//! What one Service asks for, whoever else there is: the leaf of both planners.

use crate::{
    Answer, Backend, DiagnosticKind, Frontend, FrontendKind, Group, Health, LoadBalancer, Outside,
    PlanInput,
    eligible::{self, Eligible},
    shadow::{Shadow, Surroundings},
};
use ipnet::IpNet;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};
use weft_model::{
    IpFamily, NamespacedName, Node, NodeName, Port, Protocol, Service, ServiceKind, ServicePort,
    Snapshot, TrafficPolicy,
};

/// Port of DNS (RFC 1035).
const DNS_PORT: u16 = 53;

/// Where a Service is planned. Beside the Service and its slices, this is all that its plan
/// depends on.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) node: &'a NodeName,
    /// The object of `node`.
    pub(crate) own: Option<&'a Node>,
    pub(crate) input: &'a PlanInput,
    /// Addresses that have an owner.
    pub(crate) around: &'a Surroundings,
}

/// What becomes of clients on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Inside {
    /// They are translated.
    Translated(Arc<LoadBalancer>),
    /// They are refused by the stack: there is no backend.
    WithoutBackends,
    /// The stack decides.
    LeftToStack,
}

/// A frontend that a Service asks for, and how it is served if the Service gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) frontend: Frontend,
    pub(crate) kind: FrontendKind,
    pub(crate) inside: Inside,
    /// `None` for what never reaches the stack as a packet.
    pub(crate) outside: Option<Arc<Outside>>,
}

impl Claim {
    /// The group that it leads to.
    pub(crate) fn group(&self) -> Option<&Group> {
        match &self.outside.as_ref()?.answer {
            Answer::Forward(group) => Some(group),
            Answer::Refuse | Answer::Drop => None,
        }
    }
}

/// The plan of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Planned {
    /// In the order of kind and port, each frontend once.
    pub(crate) claims: Vec<Claim>,
    /// The groups that claims lead to.
    pub(crate) groups: Vec<(Group, Arc<[Backend]>)>,
    /// What is wrong with its addresses from outside, and with its endpoints.
    pub(crate) complaints: Vec<DiagnosticKind>,
    /// The `healthCheckNodePort` that it asks for.
    pub(crate) health: Option<(Port, Health)>,
    /// When the Service was created: who came first has what several claim.
    pub(crate) created_s: i64,
}

/// Whether this data path serves it at all.
pub(crate) fn is_ours(service: &Service) -> bool {
    !service.foreign_proxy && service.kind == ServiceKind::Virtual
}

/// Plans one Service.
pub(crate) fn plan(place: Place<'_>, service: &Service) -> Planned {
    let mut of = OfService { place, service, judged: Vec::new(), planned: Planned::default() };
    for kind in FrontendKind::ALL {
        for port in &service.ports {
            of.frontends(kind, port);
        }
    }
    let mut planned = of.planned;
    planned.created_s = service.created_s;
    planned.complaints.extend(eligible::complaints(place.snapshot, service));
    planned.health = service.external.health_port.map(|port| {
        let ready_here = eligible::ready_here(place.snapshot, place.node, service);
        (port, Health { service: service.id.clone(), ready_here })
    });
    planned
}

/// Several frontends of a port and family ask for the same.
struct Judged<'a> {
    key: (&'a str, Protocol, IpFamily),
    eligible: Eligible,
    balancers: [Option<Arc<LoadBalancer>>; 2],
}

struct OfService<'a> {
    place: Place<'a>,
    service: &'a Service,
    judged: Vec<Judged<'a>>,
    planned: Planned,
}

impl<'a> OfService<'a> {
    /// Plans the frontends of one kind of one port.
    fn frontends(&mut self, kind: FrontendKind, port: &'a ServicePort) {
        let service = self.service;
        let (addresses, number) = match kind {
            FrontendKind::ClusterIp => (service.cluster_ips.clone(), port.port),
            FrontendKind::NodePort => match port.node_port {
                Some(number) => (self.node_addresses(), number),
                None => return,
            },
            FrontendKind::LoadBalancer => (service.external.balancer_addresses.clone(), port.port),
            FrontendKind::ExternalIp => (service.external.addresses.clone(), port.port),
        };
        for addr in addresses {
            let frontend = Frontend { addr, port: number, protocol: port.protocol };
            // Nothing but a socket hook can translate what stays on the loopback link; and no
            // Service takes what the node's processes say to themselves by any other field.
            let served = kind == FrontendKind::NodePort && port.protocol != Protocol::Sctp;
            if addr.is_loopback() && !served {
                self.may_take(kind, frontend);
                continue;
            }
            // One address may be both given by a load balancer and listed by people.
            if self.planned.claims.iter().all(|c| c.frontend != frontend)
                && self.may_take(kind, frontend)
            {
                let claim = self.claim(kind, port, frontend);
                self.planned.claims.push(claim);
            }
        }
    }

    /// Whether the Service may have an address that somebody wrote or gave it. What it hides is
    /// said aloud.
    fn may_take(&mut self, kind: FrontendKind, frontend: Frontend) -> bool {
        let Frontend { addr, port, protocol } = frontend;
        let shadow = match kind {
            FrontendKind::LoadBalancer | FrontendKind::ExternalIp => {
                self.place.around.judge(addr, port, protocol)
            }
            // The API allocates these.
            FrontendKind::ClusterIp | FrontendKind::NodePort => None,
        };
        let complaint = match shadow {
            None => return true,
            Some(Shadow::Refused(why)) => DiagnosticKind::Refused { frontend, why },
            Some(Shadow::Hides(node)) => DiagnosticKind::Hides { frontend, node },
        };
        let served = matches!(complaint, DiagnosticKind::Hides { .. });
        if !self.planned.complaints.contains(&complaint) {
            self.planned.complaints.push(complaint);
        }
        served
    }

    /// This node's addresses that answer on node ports, of the Service's families; after them
    /// the loopback addresses, which are for sockets of the node's own namespace.
    fn node_addresses(&self) -> Vec<IpAddr> {
        const LOOPBACK: [IpAddr; 2] =
            [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let localhost = self.place.input.localhost_node_ports;
        let ranges = &self.place.input.node_port_ranges;
        let all = self.place.own.map_or(&[][..], |n| &n.internal_ips).iter().copied();
        let loopback = LOOPBACK.into_iter().filter(|_| localhost);
        all.chain(loopback)
            .filter(|a| self.service.families.contains(&IpFamily::of(*a)))
            .filter(|a| ranges.is_empty() || ranges.iter().any(|r| r.contains(a)))
            .collect()
    }

    fn claim(&mut self, kind: FrontendKind, port: &'a ServicePort, frontend: Frontend) -> Claim {
        let service = self.service;
        let family = IpFamily::of(frontend.addr);
        let judged = self.judge(port, family);
        let sources = sources(kind, service, family);
        // Clients on this node reach what the policy from outside is about from inside: they
        // may use every endpoint (as kube-proxy's short cut for pods and the node itself).
        let (inside, outside) = match kind {
            FrontendKind::ClusterIp => (service.internal_policy, service.internal_policy),
            _ => (TrafficPolicy::Cluster, service.external.policy),
        };
        // SCTP passes no socket hook: pods' packets to a cluster address are translated at their
        // links, all others in the stack.
        let here = frontend.protocol != Protocol::Sctp || kind == FrontendKind::ClusterIp;
        let inside = if here && self.admits_own_clients(sources.as_deref(), family) {
            self.balancer(judged, inside).map_or(Inside::WithoutBackends, Inside::Translated)
        } else {
            Inside::LeftToStack
        };
        if frontend.addr.is_loopback() {
            return Claim { frontend, kind, inside, outside: None };
        }
        let outside = Arc::new(Outside {
            service: service.id.clone(),
            kind,
            answer: self.answer(kind, port, judged, outside),
            affinity_timeout_s: service.affinity_timeout_s,
            sources,
        });
        Claim { frontend, kind, inside, outside: Some(outside) }
    }

    /// The backends of clients on this node, if there is one.
    fn balancer(&mut self, judged: usize, policy: TrafficPolicy) -> Option<Arc<LoadBalancer>> {
        let service = self.service;
        let judged = &mut self.judged[judged];
        let backends = judged.eligible.by(policy);
        if backends.is_empty() {
            return None;
        }
        let known = &mut judged.balancers[policy as usize];
        let new = || {
            Arc::new(LoadBalancer {
                service: service.id.clone(),
                backends: backends.clone(),
                affinity_timeout_s: service.affinity_timeout_s,
                balance: service.balance,
            })
        };
        Some(known.get_or_insert_with(new).clone())
    }

    /// What becomes of packets that reach this node's stack.
    fn answer(
        &mut self,
        kind: FrontendKind,
        port: &ServicePort,
        judged: usize,
        policy: TrafficPolicy,
    ) -> Answer {
        let Judged { key: (.., family), eligible, .. } = &self.judged[judged];
        let backends = eligible.by(policy);
        if backends.is_empty() {
            // A load balancer outside finds another node by itself where it is not answered;
            // a refusal would reach the client.
            let elsewhere = kind != FrontendKind::ClusterIp && eligible.anywhere;
            return if elsewhere { Answer::Drop } else { Answer::Refuse };
        }
        let group = Group {
            service: self.service.id.clone(),
            port: port.name.clone(),
            protocol: port.protocol,
            family: *family,
            policy,
            balance: self.service.balance,
        };
        let groups = &mut self.planned.groups;
        if groups.iter().all(|(known, _)| *known != group) {
            groups.push((group.clone(), backends.clone()));
        }
        Answer::Forward(group)
    }

    fn judge(&mut self, port: &'a ServicePort, family: IpFamily) -> usize {
        let key = (&*port.name, port.protocol, family);
        if let Some(known) = self.judged.iter().position(|j| j.key == key) {
            return known;
        }
        let Place { snapshot, node, input, .. } = self.place;
        let mut eligible = eligible::eligible(snapshot, node, self.service, port, family);
        let dns = node_dns_backends(self.service, port.port, family, input);
        if !dns.is_empty() {
            let dns: Arc<[Backend]> = dns.into();
            eligible = Eligible { cluster: dns.clone(), local: dns, anywhere: true };
        }
        self.judged.push(Judged { key, eligible, balancers: [None, None] });
        self.judged.len() - 1
    }

    /// Whether every client on this node may use a frontend with these ranges. At the socket
    /// the source address is not chosen yet, so a frontend that some may not use is left to
    /// the stack, which sees it.
    fn admits_own_clients(&self, ranges: Option<&[IpNet]>, family: IpFamily) -> bool {
        let Some(ranges) = ranges else { return true };
        let own = self.place.own.into_iter();
        let pods = own.clone().flat_map(|n| n.pod_cidrs.iter().copied());
        let own = own.flat_map(|n| n.internal_ips.iter().map(|a| (*a).into()));
        let mut clients = pods.chain(own).filter(|n: &IpNet| IpFamily::of(n.addr()) == family);
        clients.all(|c| ranges.iter().any(|r| r.contains(&c)))
    }
}

/// The source ranges that hold for a frontend; `None` for everybody. As kube-proxy reads them,
/// ranges of one family say nothing about the other one.
fn sources(kind: FrontendKind, service: &Service, family: IpFamily) -> Option<Vec<IpNet>> {
    if kind != FrontendKind::LoadBalancer {
        return None;
    }
    let of_family = service.external.source_ranges.iter();
    let of_family: Vec<IpNet> =
        of_family.filter(|r| IpFamily::of(r.addr()) == family).copied().collect();
    (!of_family.is_empty()).then_some(of_family)
}

/// The node's own DNS where `port` is the DNS port of the cluster DNS Service, else nothing.
fn node_dns_backends(
    service: &Service,
    port: Port,
    family: IpFamily,
    input: &PlanInput,
) -> Vec<Backend> {
    if !is_dns(&service.id) || port.get() != DNS_PORT {
        return Vec::new();
    }
    let of_family = input.node_dns.iter().filter(|a| IpFamily::of(**a) == family);
    let mut backends: Vec<_> = of_family.map(|&addr| Backend { addr, port }).collect();
    backends.sort_unstable();
    backends.dedup();
    backends
}

/// Whether this is the cluster's DNS.
fn is_dns(id: &NamespacedName) -> bool {
    &*id.namespace == "kube-system" && &*id.name == "kube-dns"
}
