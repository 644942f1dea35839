//! From a snapshot to tables.

use crate::{
    Answer, Backend, Diagnostic, DiagnosticKind, Frontend, FrontendKind, Group, Health,
    LoadBalancer, Outside, ServiceTables,
    eligible::{self, Eligible},
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
};
use weft_model::{
    IpFamily, NamespacedName, Node, NodeName, Port, Protocol, Service, ServiceKind, ServicePort,
    Snapshot, TrafficPolicy,
};

/// What the planner is told beside the snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanInput {
    /// Addresses where this node's own DNS listens on port 53, at most one a family. The DNS
    /// port of `kube-system/kube-dns` goes there, so that names resolve without leaving the
    /// node. A family that is absent keeps the Service's endpoints.
    pub node_dns: Vec<IpAddr>,
    /// Which of the node's addresses answer on node ports; all where empty
    /// (`nodePortAddresses` of kube-proxy).
    pub node_port_ranges: Vec<IpNet>,
}

/// Port of DNS (RFC 1035).
const DNS_PORT: u16 = 53;

/// Plans the Service tables of `node`.
pub fn plan(snapshot: &Snapshot, node: &NodeName, input: &PlanInput) -> ServiceTables {
    let mut planner = Planner {
        snapshot,
        node,
        input,
        own: snapshot.nodes.get(node).map(AsRef::as_ref),
        owners: BTreeMap::new(),
        judged: BTreeMap::new(),
        tables: ServiceTables { generation: snapshot.generation, ..Default::default() },
    };
    let ours = || {
        let all = snapshot.services.values();
        all.filter(|s| !s.foreign_proxy && s.kind == ServiceKind::Virtual)
    };
    // Addresses that the API allocates come before those that people write, so that nobody
    // takes over another's Service by an externalIP.
    for kind in FrontendKind::ALL {
        for service in ours() {
            for port in &service.ports {
                planner.frontends(kind, service, port);
            }
        }
    }
    for service in ours() {
        eligible::complaints(snapshot, service, &mut planner.tables.diagnostics);
        planner.health(service);
    }
    planner.tables
}

struct Planner<'a> {
    snapshot: &'a Snapshot,
    node: &'a NodeName,
    input: &'a PlanInput,
    own: Option<&'a Node>,
    owners: BTreeMap<Frontend, &'a NamespacedName>,
    /// By Service, port name, protocol and family: several frontends ask for the same.
    judged: BTreeMap<(&'a NamespacedName, &'a str, Protocol, IpFamily), Eligible>,
    tables: ServiceTables,
}

impl<'a> Planner<'a> {
    /// Plans the frontends of one kind of one port.
    fn frontends(&mut self, kind: FrontendKind, service: &'a Service, port: &'a ServicePort) {
        let (addresses, number) = match kind {
            FrontendKind::ClusterIp => (service.cluster_ips.clone(), port.port),
            FrontendKind::NodePort => match port.node_port {
                Some(number) => (self.node_addresses(service), number),
                None => return,
            },
            FrontendKind::LoadBalancer => (service.external.balancer_addresses.clone(), port.port),
            FrontendKind::ExternalIp => (service.external.addresses.clone(), port.port),
        };
        for addr in addresses {
            let frontend = Frontend { addr, port: number, protocol: port.protocol };
            match self.owners.entry(frontend) {
                Entry::Vacant(free) => {
                    free.insert(&service.id);
                    self.frontend(kind, service, port, frontend);
                }
                // One address may be both given by a load balancer and listed by people.
                Entry::Occupied(taken) if *taken.get() == &service.id => {}
                Entry::Occupied(taken) => {
                    let owner = (*taken.get()).clone();
                    self.complain(service, DiagnosticKind::Conflict { frontend, owner });
                }
            }
        }
    }

    /// This node's addresses that answer on node ports, of the Service's families.
    fn node_addresses(&self, service: &Service) -> Vec<IpAddr> {
        let ranges = &self.input.node_port_ranges;
        let all = self.own.map_or(&[][..], |n| &n.internal_ips).iter().copied();
        all.filter(|a| service.families.contains(&IpFamily::of(*a)))
            .filter(|a| ranges.is_empty() || ranges.iter().any(|r| r.contains(a)))
            .collect()
    }

    /// Plans one frontend that nobody else claims.
    fn frontend(
        &mut self,
        kind: FrontendKind,
        service: &'a Service,
        port: &'a ServicePort,
        frontend: Frontend,
    ) {
        let family = IpFamily::of(frontend.addr);
        let eligible = self.judge(service, port, family);
        let ranges = sources(kind, service, family);
        // Clients on this node reach what the policy from outside is about from inside: they
        // may use every endpoint (as kube-proxy's short cut for pods and the node itself).
        let (inside, outside) = match kind {
            FrontendKind::ClusterIp => (service.internal_policy, service.internal_policy),
            _ => (TrafficPolicy::Cluster, service.external.policy),
        };
        if frontend.protocol == Protocol::Sctp {
            if kind == FrontendKind::ClusterIp {
                self.complain(service, DiagnosticKind::NotTranslatable(frontend));
                return;
            }
        } else if self.admits_own_clients(ranges.as_deref(), family) {
            let backends = eligible.by(inside).to_vec();
            if backends.is_empty() {
                self.tables.without_backends.insert(frontend);
            } else {
                let affinity_timeout_s = service.affinity_timeout_s;
                let service = service.id.clone();
                let lb = LoadBalancer { service, backends, affinity_timeout_s };
                self.tables.frontends.insert(frontend, lb);
            }
        }
        let answer = self.answer(kind, service, port, family, outside, &eligible);
        let service_id = service.id.clone();
        self.tables.outside.insert(
            frontend,
            Outside {
                service: service_id,
                kind,
                answer,
                affinity_timeout_s: service.affinity_timeout_s,
                sources: ranges,
            },
        );
    }

    /// What becomes of packets that reach this node's stack.
    fn answer(
        &mut self,
        kind: FrontendKind,
        service: &Service,
        port: &ServicePort,
        family: IpFamily,
        policy: TrafficPolicy,
        eligible: &Eligible,
    ) -> Answer {
        let backends = eligible.by(policy);
        if backends.is_empty() {
            // A load balancer outside finds another node by itself where it is not answered;
            // a refusal would reach the client.
            let elsewhere = kind != FrontendKind::ClusterIp && eligible.anywhere;
            return if elsewhere { Answer::Drop } else { Answer::Refuse };
        }
        let group = Group {
            service: service.id.clone(),
            port: port.name.clone(),
            protocol: port.protocol,
            family,
            policy,
        };
        self.tables.groups.entry(group.clone()).or_insert_with(|| backends.to_vec());
        Answer::Forward(group)
    }

    fn judge(&mut self, service: &'a Service, port: &'a ServicePort, family: IpFamily) -> Eligible {
        let key = (&service.id, &*port.name, port.protocol, family);
        if let Some(known) = self.judged.get(&key) {
            return known.clone();
        }
        let mut eligible = eligible::eligible(self.snapshot, self.node, service, port, family);
        let dns = node_dns_backends(service, port.port, family, self.input);
        if !dns.is_empty() {
            eligible = Eligible { cluster: dns.clone(), local: dns, anywhere: true };
        }
        self.judged.insert(key, eligible.clone());
        eligible
    }

    /// Whether every client on this node may use a frontend with these ranges. At the socket
    /// the source address is not chosen yet, so a frontend that some may not use is left to
    /// the stack, which sees it.
    fn admits_own_clients(&self, ranges: Option<&[IpNet]>, family: IpFamily) -> bool {
        let Some(ranges) = ranges else { return true };
        let pods = self.own.into_iter().flat_map(|n| n.pod_cidrs.iter().copied());
        let own = self.own.into_iter().flat_map(|n| n.internal_ips.iter().map(|a| (*a).into()));
        let mut clients = pods.chain(own).filter(|n: &IpNet| IpFamily::of(n.addr()) == family);
        clients.all(|c| ranges.iter().any(|r| r.contains(&c)))
    }

    fn health(&mut self, service: &Service) {
        let Some(port) = service.external.health_port else { return };
        let ready_here = eligible::ready_here(self.snapshot, self.node, service);
        let health = Health { service: service.id.clone(), ready_here };
        match self.tables.health.entry(port) {
            Entry::Vacant(free) => {
                free.insert(health);
            }
            Entry::Occupied(taken) => {
                let owner = taken.get().service.clone();
                self.complain(service, DiagnosticKind::HealthPortConflict { port, owner });
            }
        }
    }

    fn complain(&mut self, service: &Service, kind: DiagnosticKind) {
        self.tables.diagnostics.push(Diagnostic { service: service.id.clone(), kind });
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
    let is_dns = &*service.id.namespace == "kube-system"
        && &*service.id.name == "kube-dns"
        && port.get() == DNS_PORT;
    if !is_dns {
        return Vec::new();
    }
    let of_family = input.node_dns.iter().filter(|a| IpFamily::of(**a) == family);
    let mut backends: Vec<_> = of_family.map(|&addr| Backend { addr, port }).collect();
    backends.sort_unstable();
    backends.dedup();
    backends
}
