//! From a question to its answer.

use crate::{
    Answer, AskError, End, Outcome, Path, Question, World,
    answer::{Backend, Destination, Excluded, Frontend, Judgement, Place},
    dns,
    ends::{Source, node_end},
    error::nearest,
    fabric::{At, router_of},
    judge::{Inputs, Judge},
    parse::{self, Host, PortText},
};
use std::{cell::RefCell, collections::BTreeMap, net::IpAddr, rc::Rc};
use weft_dns::DnsIndex;
use weft_model::{
    IpFamily, NamespacedName, Node, NodeName, Port, Protocol, Service, ServiceKind, ServicePort,
    TrafficPolicy,
};
use weft_services::{
    Client, DiagnosticKind, Explanation, FrontendKind, Judged, Reason, ServiceTables, Verdict, Why,
    explain,
};

/// Answers a question.
pub fn why(world: &World, question: &Question) -> Result<Answer, AskError> {
    let source = world.source(parse::from(&question.from, &question.namespace)?)?;
    let to = parse::to(&question.to, &question.namespace)?;
    let through = match &question.through {
        Some(name) => vec![world.node(name)?],
        None => world.snapshot.nodes.values().map(AsRef::as_ref).collect(),
    };
    let tracer = Tracer {
        world,
        source: &source,
        through,
        family: question.family,
        resolved: &question.resolved,
        planned: RefCell::default(),
    };
    let mut answer = Answer {
        ok: false,
        from: source.end(),
        to: address_end(&question.to),
        dns: None,
        paths: Vec::new(),
    };
    let want = Want { port: to.port, protocol: to.protocol };
    match to.host {
        Host::Address(address) => answer.paths = tracer.address(address, &want)?,
        Host::Node(name) => {
            let node = world.node(&name)?;
            answer.to = node_end(node);
            answer.paths = tracer.addresses(&node.internal_ips, &want)?;
        }
        Host::Pod(id) => tracer.pod(&id, &want, &mut answer)?,
        Host::Service(id) => tracer.service(world.service(&id)?, &want, &mut answer)?,
        Host::Name(name) => {
            let pod = NamespacedName::new(&question.namespace, &name);
            if !name.contains('.') && world.pods.contains_key(&pod) {
                tracer.pod(&pod, &want, &mut answer)?;
            } else {
                tracer.name(&name, question, &want, &mut answer)?;
            }
        }
    }
    let inputs = Inputs::of(world);
    let judge = Judge::new(world, &source, &inputs);
    answer.paths.iter_mut().for_each(|p| judge.path(p));
    if let Some(dns) = &mut answer.dns {
        dns.policy = tracer.asks_dns(&judge);
    }
    let resolves = answer.dns.iter().filter_map(|d| d.policy.as_ref()).all(Judgement::allowed);
    let fine = |p: &Path| tracer.leads(p) && ways_open(p);
    answer.ok = resolves && !answer.paths.is_empty() && answer.paths.iter().all(fine);
    Ok(answer)
}

/// Whether policy opens every way of a path.
fn ways_open(path: &Path) -> bool {
    path.backends.iter().filter_map(|b| b.policy.as_ref()).all(Judgement::allowed)
}

/// Port and protocol as far as they were given.
struct Want {
    port: Option<PortText>,
    protocol: Option<Protocol>,
}

impl Want {
    /// The number, where names mean nothing.
    fn number(&self) -> Result<Option<Port>, AskError> {
        match &self.port {
            None => Ok(None),
            Some(PortText::Number(n)) => Ok(Some(*n)),
            Some(PortText::Name(name)) => Err(AskError::PortName(name.clone())),
        }
    }

    fn is(&self, port: &ServicePort) -> bool {
        let number = match &self.port {
            None => true,
            Some(PortText::Number(n)) => port.port == *n,
            Some(PortText::Name(name)) => *port.name == **name,
        };
        number && self.protocol.is_none_or(|p| p == port.protocol)
    }
}

struct Tracer<'a> {
    world: &'a World,
    source: &'a Source,
    /// Nodes that a client outside may come in through.
    through: Vec<&'a Node>,
    family: Option<IpFamily>,
    /// What a resolver outside says about the name that is asked for.
    resolved: &'a [IpAddr],
    planned: RefCell<BTreeMap<NodeName, Rc<ServiceTables>>>,
}

type Frontends = weft_services::Frontend;

impl<'a> Tracer<'a> {
    fn tables(&self, node: &NodeName) -> Rc<ServiceTables> {
        let mut planned = self.planned.borrow_mut();
        let make = || Rc::new(self.world.tables(node));
        planned.entry(node.clone()).or_insert_with(make).clone()
    }

    fn wants(&self, address: &IpAddr) -> bool {
        self.family.is_none_or(|f| f == IpFamily::of(*address))
    }

    /// Whether a path leads somewhere; what is outside of the cluster is, as far as the cluster
    /// can tell.
    fn leads(&self, path: &Path) -> bool {
        let leaves = || {
            let outside = |b: &Backend| b.route.kind == "outside";
            self.source.node().is_some() && path.backends.first().is_some_and(outside)
        };
        match path.outcome {
            Outcome::Forwarded | Outcome::Delivered => true,
            Outcome::Unknown => leaves(),
            _ => false,
        }
    }

    /// What policy says about a pod's questions to the cluster's DNS.
    fn asks_dns(&self, judge: &Judge<'_>) -> Option<Judgement> {
        let Source::Pod(pod) = self.source else { return None };
        let id = NamespacedName::new("kube-system", "kube-dns");
        let service = self.world.snapshot.services.get(&id).filter(|_| !pod.host_network)?;
        let port = service.ports.iter().find(|p| p.protocol == Protocol::Udp)?;
        let has = |a: &&IpAddr| self.source.address(IpFamily::of(**a)).is_some();
        let address = service.cluster_ips.iter().find(has)?;
        let mut path = self.frontend(*address, port.port, Protocol::Udp)?.into_iter().next()?;
        judge.path(&mut path);
        path.backends.into_iter().next()?.policy
    }

    fn pod(&self, id: &NamespacedName, want: &Want, answer: &mut Answer) -> Result<(), AskError> {
        let pod = self.world.pod(id)?;
        answer.to = Source::Pod(pod.clone()).end();
        answer.paths = self.addresses(&pod.ips, want)?;
        Ok(())
    }

    fn addresses(&self, all: &[IpAddr], want: &Want) -> Result<Vec<Path>, AskError> {
        let mut paths = Vec::new();
        for address in all.iter().filter(|a| self.wants(a)) {
            paths.extend(self.address(*address, want)?);
        }
        Ok(paths)
    }

    /// One address: a Service's, or whoever has it.
    fn address(&self, address: IpAddr, want: &Want) -> Result<Vec<Path>, AskError> {
        let number = want.number()?;
        let holder = self.holder(address);
        let Some(port) = number else {
            // A Service's address without a port: all its ports.
            let ports = holder.into_iter().flat_map(|s| &s.ports).filter(|p| want.is(p));
            let all: Vec<Path> = ports
                .filter_map(|p| self.frontend(address, p.port, p.protocol))
                .flatten()
                .collect();
            return Ok(match all.is_empty() {
                true => vec![self.direct(address, None, want.protocol.unwrap_or(Protocol::Tcp))],
                false => all,
            });
        };
        let protocols = match want.protocol {
            Some(p) => vec![p],
            None => vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp],
        };
        let all: Vec<Path> =
            protocols.iter().filter_map(|p| self.frontend(address, port, *p)).flatten().collect();
        if !all.is_empty() {
            return Ok(all);
        }
        Ok(vec![self.direct(address, Some(port), protocols[0])])
    }

    /// The Service that has an address as one of its own, not as a node's.
    fn holder(&self, address: IpAddr) -> Option<&'a Service> {
        let all = self.world.snapshot.services.values().map(AsRef::as_ref);
        let lists = |s: &Service, of: fn(&Service) -> &[IpAddr]| of(s).contains(&address);
        let ways: [fn(&Service) -> &[IpAddr]; 3] =
            [|s| &s.cluster_ips, |s| &s.external.balancer_addresses, |s| &s.external.addresses];
        ways.into_iter().find_map(|of| all.clone().find(|s| lists(s, of)))
    }

    /// The paths to a frontend; `None` where no Service has it.
    fn frontend(&self, addr: IpAddr, port: Port, protocol: Protocol) -> Option<Vec<Path>> {
        let frontend = Frontends { addr, port, protocol };
        // The loopback of a pod, and of a client outside, is its own.
        if addr.is_loopback() && !self.source.on_host() {
            return None;
        }
        if let Some(node) = self.source.node()
            && let Some(path) = self.on_node(node, frontend)
        {
            return Some(vec![path]);
        }
        let client = Client::Arriving { source: self.world.source_seen(self.source, addr) };
        if let At::Node(node) = self.world.locate(addr) {
            let service = self.explained(&node.name, frontend, client);
            return service.or_else(|| self.host_port(node, frontend)).map(|p| vec![p]);
        }
        if self.source.node().is_some() {
            return None;
        }
        let mut paths: Vec<Path> =
            self.through.iter().filter_map(|n| self.explained(&n.name, frontend, client)).collect();
        let cluster = |f: &Frontend| f.kind == kind_name(FrontendKind::ClusterIp);
        let refused = |p: &Path| p.outcome == Outcome::Refused;
        if paths.first().is_some_and(|p| refused(p) && p.frontend.as_ref().is_some_and(cluster)) {
            // The same on every node.
            paths.truncate(1);
            paths[0].node = None;
        }
        (!paths.is_empty()).then_some(paths)
    }

    /// The path of a client on a node, by that node's own tables.
    fn on_node(&self, node: &NodeName, at: Frontends) -> Option<Path> {
        let source = self.source.address(IpFamily::of(at.addr));
        if self.source.on_host() {
            return self.explained(node, at, Client::Process { source });
        }
        let mut path = self.explained(node, at, Client::OnNode { source })?;
        if !self.source.opted_out() {
            return Some(path);
        }
        // Its sockets are left alone: cluster addresses are translated at its link, all others
        // in the stack, as what comes from elsewhere.
        if path.frontend.as_ref().is_some_and(|f| f.kind == kind_name(FrontendKind::ClusterIp)) {
            if path.translated_at == Some(Place::Socket) {
                path.translated_at = Some(Place::PodLink);
                self.see_at_link(node, &mut path);
            }
        } else {
            path = self.explained(node, at, Client::Arriving { source })?;
        }
        path.notes.push(
            "the pod opted out of translation at its sockets (weft.dev/socket-lb, as it was when \
             the pod started)"
                .to_owned(),
        );
        Some(path)
    }

    /// At its link a pod that reaches itself is seen as the node's router address.
    fn see_at_link(&self, node: &NodeName, path: &mut Path) {
        let Some(node) = self.world.snapshot.nodes.get(node) else { return };
        for backend in &mut path.backends {
            let family = IpFamily::of(backend.address);
            if self.source.address(family) == Some(backend.address) {
                backend.source_seen = router_of(node, family).or(backend.source_seen);
            }
        }
    }

    /// The path to a port of a node that is led to one of its pods.
    fn host_port(&self, node: &Node, at: Frontends) -> Option<Path> {
        let (pod, mapping, ip) = self.world.host_port(node, at.addr, at.port, at.protocol)?;
        let mut path = self.blank(at.addr, Some(at.port), at.protocol);
        path.node = Some(node.name.to_string());
        path.frontend = Some(Frontend {
            kind: "HostPort",
            service: String::new(),
            port_name: mapping.name.clone(),
            policy: policy_name(TrafficPolicy::Cluster),
            affinity_seconds: None,
            source_ranges: None,
        });
        path.outcome = Outcome::Forwarded;
        path.translated_at = Some(Place::Netfilter);
        let port = Some(mapping.container_port);
        let mut to = self.backend(&node.name, path.translated_at, ip, port);
        to.pod = Some(pod.id.to_string());
        path.backends.push(to);
        Some(path)
    }

    fn explained(&self, node: &NodeName, at: Frontends, client: Client) -> Option<Path> {
        let said = explain(&self.world.snapshot, node, &self.tables(node), at, client)?;
        Some(self.path(node, said))
    }

    fn path(&self, node: &NodeName, said: Explanation) -> Path {
        let mut path =
            self.blank(said.frontend.addr, Some(said.frontend.port), said.frontend.protocol);
        path.node = Some(node.to_string());
        path.frontend = Some(Frontend {
            kind: kind_name(said.kind),
            service: said.service.to_string(),
            port_name: said.port_name.to_string(),
            policy: policy_name(said.policy),
            affinity_seconds: said.affinity_timeout_s,
            source_ranges: said.sources.clone(),
        });
        let family = IpFamily::of(said.frontend.addr);
        if self.source.address(family).is_none() && self.source.node().is_some() {
            path.outcome = Outcome::Unreachable;
            path.reason = Some(format!("the client has no {family} address"));
            return path;
        }
        let mut used = &Vec::new();
        match &said.outcome {
            weft_services::Outcome::Forwarded { at, backends } => {
                used = backends;
                path.outcome = Outcome::Forwarded;
                path.translated_at = Some(match at {
                    weft_services::Place::SocketHook => Place::Socket,
                    weft_services::Place::PodLink => Place::PodLink,
                    weft_services::Place::Netfilter => Place::Netfilter,
                });
            }
            weft_services::Outcome::Refused(why) => {
                path.outcome = Outcome::Refused;
                path.reason = Some(why.to_string());
            }
            weft_services::Outcome::Dropped(why) => {
                path.outcome = Outcome::Dropped;
                path.reason = Some(why.to_string());
            }
        }
        for backend in used {
            let known = said
                .endpoints
                .iter()
                .find(|e| e.address == backend.addr && e.port == Some(backend.port));
            let mut to = self.backend(node, path.translated_at, backend.addr, Some(backend.port));
            if let Some(e) = known {
                to.zone = e.zone.as_deref().map(str::to_owned);
                to.pod = e.pod.as_ref().map(ToString::to_string).or(to.pod);
                to.node = e.node.as_ref().map(ToString::to_string).or(to.node);
            } else {
                path.notes.push("the node's own DNS server answers this port".to_owned());
            }
            path.backends.push(to);
        }
        if path.translated_at == Some(Place::PodLink) {
            self.see_at_link(node, &mut path);
        }
        if let weft_services::Outcome::Refused(
            Reason::ClusterIpFromOutside | Reason::NotTranslated,
        ) = said.outcome
        {
            // No endpoint could change it.
            return path;
        }
        let barred = said.outcome == weft_services::Outcome::Dropped(Reason::SourceRanges);
        path.excluded = said
            .endpoints
            .iter()
            .filter(|e| barred || !e.eligible())
            .filter(|e| !twin(e, &said.endpoints))
            .map(|e| excluded(e, barred && e.eligible(), family))
            .collect();
        path
    }

    fn blank(&self, address: IpAddr, port: Option<Port>, protocol: Protocol) -> Path {
        Path {
            destination: Destination {
                address: Some(address),
                port: port.map(Port::get),
                protocol: protocol.to_string(),
            },
            node: self.source.node().map(ToString::to_string),
            frontend: None,
            outcome: Outcome::Unknown,
            reason: None,
            translated_at: None,
            backends: Vec::new(),
            excluded: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// A target, as reached from the node that translates (or from the client's own).
    fn backend(
        &self,
        at: &NodeName,
        place: Option<Place>,
        address: IpAddr,
        port: Option<Port>,
    ) -> Backend {
        let node = self.world.snapshot.nodes.get(at);
        let source_seen = match (place, node) {
            (Some(Place::Netfilter), Some(n)) => self.world.source_through(n, self.source, address),
            _ => self.world.source_seen(self.source, address),
        };
        self.target(Some(at), address, port, source_seen)
    }

    fn target(
        &self,
        from: Option<&NodeName>,
        address: IpAddr,
        port: Option<Port>,
        source_seen: Option<IpAddr>,
    ) -> Backend {
        let on = match self.world.locate(address) {
            At::Pod(n) | At::Node(n) => Some(n),
            At::Outside => None,
        };
        Backend {
            address,
            port: port.map(Port::get),
            pod: self.world.pod_at(address).map(|p| p.id.to_string()),
            node: on.map(|n| n.name.to_string()),
            zone: on.and_then(|n| n.zone.as_deref().map(str::to_owned)),
            source_seen,
            route: self.world.route(from, address),
            policy: None,
        }
    }

    /// What stays on the client's own loopback link.
    fn loopback(&self, address: IpAddr, port: Option<Port>, path: &mut Path) {
        let Some(node) = self.source.node() else {
            path.reason = Some("a loopback address is the client's own".to_owned());
            return;
        };
        let mut to = self.target(Some(node), address, port, Some(address));
        to.node = Some(node.to_string());
        to.route.kind = "local";
        to.route.node = to.node.clone();
        path.outcome = Outcome::Delivered;
        if let (Source::Pod(pod), false) = (self.source, self.source.on_host()) {
            to.pod = Some(pod.id.to_string());
            path.notes.push("a pod's loopback is its own: what listens in the pod answers".into());
        } else {
            path.notes.push("what listens on the node itself answers".to_owned());
        }
        path.backends = vec![to];
    }

    /// An address that no Service serves at this port.
    fn direct(&self, address: IpAddr, port: Option<Port>, protocol: Protocol) -> Path {
        let mut path = self.blank(address, port, protocol);
        let family = IpFamily::of(address);
        if address.is_loopback() {
            self.loopback(address, port, &mut path);
            return path;
        }
        let refused = port.and_then(|port| self.refused(address, port, protocol));
        path.notes.extend(refused.clone());
        if let (Some(service), Some(port), None) = (self.holder(address), port, refused) {
            self.without_port(service, port, protocol, &mut path);
            return path;
        }
        if self.world.setup.service_cidrs.iter().any(|c| c.contains(&address)) {
            path.outcome = Outcome::Refused;
            path.reason = Some("it is in a Service range, and no Service has it".to_owned());
            return path;
        }
        if self.source.node().is_some() && self.source.address(family).is_none() {
            path.outcome = Outcome::Unreachable;
            path.reason = Some(format!("the client has no {family} address"));
            return path;
        }
        let seen = self.world.source_seen(self.source, address);
        path.backends = vec![self.target(self.source.node(), address, port, seen)];
        match self.world.locate(address) {
            At::Pod(node) if router_of(node, family) == Some(address) => {
                path.outcome = Outcome::Delivered;
                path.notes.push(format!(
                    "it is the router address of {}, where its own DNS server listens",
                    node.name
                ));
            }
            At::Pod(node) => match (self.world.pod_at(address), self.source.node()) {
                (None, _) => {
                    path.outcome = Outcome::Unreachable;
                    path.reason = Some(format!("no pod has it: {} answers unreachable", node.name));
                    path.backends.clear();
                }
                (Some(_), None) => {
                    let why = "pods are reached from outside only where the network routes them";
                    path.reason = Some(why.to_owned());
                }
                (Some(_), Some(_)) => path.outcome = Outcome::Delivered,
            },
            At::Node(_) => {
                path.outcome = Outcome::Delivered;
                path.notes.push("what listens on the node itself answers".to_owned());
            }
            At::Outside => {
                let why = "it is not an address of the cluster: the network outside decides";
                path.reason = Some(why.to_owned());
            }
        }
        path
    }

    /// Why a Service that asks for a frontend does not get it.
    fn refused(&self, addr: IpAddr, port: Port, protocol: Protocol) -> Option<String> {
        let asked = Frontends { addr, port, protocol };
        let node = self.source.node().or_else(|| self.through.first().map(|n| &n.name))?;
        self.tables(node).diagnostics.iter().find_map(|d| match &d.kind {
            DiagnosticKind::Refused { frontend, .. } if *frontend == asked => Some(d.to_string()),
            _ => None,
        })
    }

    fn without_port(&self, service: &Service, port: Port, protocol: Protocol, path: &mut Path) {
        if service.foreign_proxy {
            let label = "its label service.kubernetes.io/service-proxy-name";
            path.reason = Some(format!("Service {} is another proxy's by {label}", service.id));
            return;
        }
        let what =
            format!("Service {} has this address, but no port {port}/{protocol}", service.id);
        let inside = path.destination.address.is_some_and(|a| service.cluster_ips.contains(&a));
        if inside {
            path.outcome = Outcome::Refused;
        }
        path.reason = Some(format!("{what}: it has {}", ports_text(service)));
    }

    fn service(&self, service: &Service, want: &Want, answer: &mut Answer) -> Result<(), AskError> {
        answer.to = End {
            kind: "service",
            name: service.id.to_string(),
            node: None,
            addresses: service.cluster_ips.clone(),
            host_network: false,
        };
        match &service.kind {
            ServiceKind::ExternalName(_) => {
                let NamespacedName { namespace, name } = &service.id;
                let full = format!("{name}.{namespace}.svc.{}.", self.world.setup.zone.as_str());
                let found = dns::resolve(&self.index(), &full, None);
                answer.paths = self.resolved(&found, want)?;
                answer.dns = Some(found);
            }
            ServiceKind::Headless => answer.paths = vec![self.headless(service, want)?],
            ServiceKind::Virtual => answer.paths = self.virtual_service(service, want)?,
        }
        Ok(())
    }

    fn virtual_service(&self, service: &Service, want: &Want) -> Result<Vec<Path>, AskError> {
        let ports: Vec<&ServicePort> = service.ports.iter().filter(|p| want.is(p)).collect();
        if ports.is_empty() {
            return Err(no_port(service, want));
        }
        let mut paths = Vec::new();
        for port in ports {
            let mut at: Vec<(IpAddr, Port)> = Vec::new();
            if self.source.node().is_none() {
                let external = &service.external;
                let own = external.balancer_addresses.iter().chain(&external.addresses);
                at.extend(own.map(|a| (*a, port.port)));
                let nodes = self.through.iter().flat_map(|n| &n.internal_ips);
                let nodes = nodes.filter(|a| service.families.contains(&IpFamily::of(**a)));
                at.extend(
                    port.node_port.into_iter().flat_map(|n| nodes.clone().map(move |a| (*a, n))),
                );
            }
            if at.is_empty() {
                at.extend(service.cluster_ips.iter().map(|a| (*a, port.port)));
            }
            for (address, number) in at.into_iter().filter(|(a, _)| self.wants(a)) {
                match self.frontend(address, number, port.protocol) {
                    Some(found) => paths.extend(found),
                    None => paths.push(self.direct(address, Some(number), port.protocol)),
                }
            }
        }
        Ok(paths)
    }

    /// A headless Service: its name has the endpoints' addresses, and nothing is translated.
    fn headless(&self, service: &Service, want: &Want) -> Result<Path, AskError> {
        let number = match &want.port {
            Some(PortText::Number(n)) => Some(*n),
            Some(PortText::Name(_)) if !service.ports.iter().any(|p| want.is(p)) => {
                return Err(no_port(service, want));
            }
            _ => None,
        };
        let protocol = want.protocol.unwrap_or(Protocol::Tcp);
        let mut path = self.blank(IpAddr::from([0, 0, 0, 0]), number, protocol);
        path.destination.address = None;
        path.frontend = Some(Frontend {
            kind: "Headless",
            service: service.id.to_string(),
            port_name: String::new(),
            policy: policy_name(TrafficPolicy::Cluster),
            affinity_seconds: None,
            source_ranges: None,
        });
        let mut seen = std::collections::BTreeSet::new();
        for slice in self.world.snapshot.slices_of(&service.id) {
            let named = slice.ports.iter().find(|p| match &want.port {
                Some(PortText::Name(name)) => *p.name == **name,
                _ => number.is_some() && p.port == number,
            });
            for e in slice.endpoints.iter().filter(|e| self.wants(&e.address)) {
                if !seen.insert(e.address) {
                    continue;
                }
                let port = named.and_then(|p| p.port).or(number);
                let source = self.world.source_seen(self.source, e.address);
                let mut to = self.target(self.source.node(), e.address, port, source);
                to.pod = e.pod.as_ref().map(ToString::to_string).or(to.pod);
                to.zone = e.zone.as_deref().map(str::to_owned).or(to.zone);
                if e.ready || service.publish_not_ready {
                    path.backends.push(to);
                    continue;
                }
                let (reason, detail) = match e.terminating {
                    true => ("terminating", "terminating: its name is gone"),
                    false => ("notReady", "not ready"),
                };
                path.excluded.push(Excluded {
                    address: e.address,
                    port: to.port,
                    pod: to.pod,
                    node: to.node,
                    zone: to.zone,
                    reason,
                    detail: detail.to_owned(),
                });
            }
        }
        path.outcome = Outcome::Delivered;
        path.notes.push("headless: the client chooses among the addresses that DNS gives, and the port is the endpoint's own".to_owned());
        if path.backends.is_empty() {
            path.outcome = Outcome::Unresolved;
            path.reason = Some("no endpoint is ready, so that the name does not exist".to_owned());
        } else if self.source.node().is_none() {
            path.outcome = Outcome::Unknown;
            let why = "pods are reached from outside only where the network routes them";
            path.reason = Some(why.to_owned());
        }
        Ok(path)
    }

    fn index(&self) -> DnsIndex {
        DnsIndex::build(&self.world.snapshot, &self.world.setup.zone, None)
    }

    fn name(
        &self,
        name: &str,
        question: &Question,
        want: &Want,
        answer: &mut Answer,
    ) -> Result<(), AskError> {
        let mut found = dns::resolve(&self.index(), name, self.source.namespace());
        if self.source.namespace().is_none() {
            found.note = Some(
                "as the cluster's DNS says; other resolvers do not know the cluster's names"
                    .to_owned(),
            );
        }
        answer.to = address_end(name);
        answer.to.kind = "name";
        answer.to.addresses = found.addresses.clone();
        let service = self.named_service(&found, name);
        match service.and_then(|id| self.world.snapshot.services.get(&id).cloned()) {
            // Headless ones are explained whole, also where their name does not exist.
            Some(service) if service.kind == ServiceKind::Headless => {
                answer.paths = vec![self.headless(&service, want)?];
            }
            Some(service) if matches!(want.port, Some(PortText::Name(_)) | None) => {
                match service.kind {
                    ServiceKind::Virtual => answer.paths = self.virtual_service(&service, want)?,
                    _ => answer.paths = self.resolved(&found, want)?,
                }
            }
            Some(_) => answer.paths = self.resolved(&found, want)?,
            None => {
                self.must_exist(name, question)?;
                answer.paths = self.resolved(&found, want)?;
            }
        }
        let outside = found.tried.last().is_some_and(|t| t.result == "outside");
        if outside && !self.resolved.is_empty() {
            found.addresses = self.resolved.to_vec();
            let text = "as this machine resolves it: it is not a name of the cluster's";
            found.note = Some(text.to_owned());
            answer.to.addresses = found.addresses.clone();
        }
        answer.dns = Some(found);
        Ok(())
    }

    /// The Service whose own name was found, or would be the name if it had addresses.
    fn named_service(&self, found: &crate::Dns, name: &str) -> Option<NamespacedName> {
        let suffix = format!(".svc.{}", self.world.setup.zone.as_str());
        let of = |full: &str| {
            let (service, namespace) = full.strip_suffix(&suffix)?.split_once('.')?;
            let id = NamespacedName::new(namespace, service);
            self.world.snapshot.services.contains_key(&id).then_some(id)
        };
        let full = found.tried.iter().find(|t| t.result == "found").map(|t| &*t.name);
        match full {
            Some(full) => of(full),
            None => found.tried.iter().find_map(|t| of(&t.name)).or_else(|| of(name)),
        }
    }

    /// A name that looks like one of the cluster's and is none is a mistake in the question.
    fn must_exist(&self, name: &str, question: &Question) -> Result<(), AskError> {
        let namespaces = &self.world.snapshot.namespaces;
        let labels: Vec<&str> = name.trim_end_matches('.').split('.').collect();
        let cluster = labels.len() == 1
            || (namespaces.contains_key(labels[1]) && (labels.len() == 2 || labels[2] == "svc"));
        let (first, second) = (labels[0], labels.get(1).copied());
        let id = NamespacedName::new(second.unwrap_or(&question.namespace), first);
        if !cluster || self.world.snapshot.services.contains_key(&id) {
            return Ok(());
        }
        let services = self.world.snapshot.services.keys().map(ToString::to_string);
        let pods = self.world.pods.keys().map(ToString::to_string);
        let near = nearest(&id.to_string(), services.chain(pods.filter(|_| labels.len() == 1)));
        let kind = if labels.len() == 1 { "pod or Service" } else { "Service" };
        Err(AskError::Missing { kind, name: id.to_string(), near })
    }

    /// The paths to what a name resolved to.
    fn resolved(&self, found: &crate::Dns, want: &Want) -> Result<Vec<Path>, AskError> {
        let mut addresses = found.addresses.clone();
        let outside = found.tried.last().is_some_and(|t| t.result == "outside");
        if outside && found.aliases.is_empty() {
            addresses.extend(self.resolved);
        }
        let paths = self.addresses(&addresses, want)?;
        if !paths.is_empty() {
            return Ok(paths);
        }
        let protocol = want.protocol.unwrap_or(Protocol::Tcp);
        let mut path = self.blank(IpAddr::from([0, 0, 0, 0]), want.number()?, protocol);
        path.destination.address = None;
        path.outcome = Outcome::Unresolved;
        path.reason = Some(if let Some(alias) = found.aliases.last() {
            format!("it is an alias for {alias}, which is not a name of this cluster")
        } else if outside {
            "it is not a name of this cluster, whose DNS refuses it".to_owned()
        } else {
            "the name has no address".to_owned()
        });
        Ok(vec![path])
    }
}

fn address_end(text: &str) -> End {
    End {
        kind: "address",
        name: text.to_owned(),
        node: None,
        addresses: Vec::new(),
        host_network: false,
    }
}

fn no_port(service: &Service, want: &Want) -> AskError {
    let port = match &want.port {
        Some(PortText::Number(n)) => n.to_string(),
        Some(PortText::Name(name)) => name.clone(),
        None => String::new(),
    };
    let port = match want.protocol {
        Some(p) => format!("{port}/{p}"),
        None => port,
    };
    AskError::NoPort { service: service.id.to_string(), port, has: ports_text(service) }
}

/// `80/TCP (http), 9000/UDP`.
fn ports_text(service: &Service) -> String {
    let one = |p: &ServicePort| match p.name.is_empty() {
        true => format!("{}/{}", p.port, p.protocol),
        false => format!("{}/{} ({})", p.port, p.protocol, p.name),
    };
    let all: Vec<String> = service.ports.iter().map(one).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

pub(crate) fn kind_name(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "ClusterIP",
        FrontendKind::NodePort => "NodePort",
        FrontendKind::LoadBalancer => "LoadBalancer",
        FrontendKind::ExternalIp => "ExternalIP",
    }
}

fn policy_name(policy: TrafficPolicy) -> &'static str {
    match policy {
        TrafficPolicy::Cluster => "Cluster",
        TrafficPolicy::Local => "Local",
    }
}

/// Whether an endpoint of the other family is of a pod that has one of this family, too: then
/// it needs no word.
fn twin(e: &Judged, all: &[Judged]) -> bool {
    let of_family = |j: &&Judged| !matches!(j.why, Why::OtherFamily(_));
    matches!(e.why, Why::OtherFamily(_))
        && e.pod.is_some()
        && all.iter().filter(of_family).any(|j| j.pod == e.pod)
}

fn excluded(e: &Judged, barred: bool, family: IpFamily) -> Excluded {
    let listed = |all: &[std::sync::Arc<str>]| all.join(", ");
    let (reason, detail) = match e.why {
        _ if barred => ("notAdmitted", "the client is not in loadBalancerSourceRanges".to_owned()),
        Why::Rule(Verdict::Eligible) => ("eligible", "eligible".to_owned()),
        Why::Rule(Verdict::OnAnotherNode) => {
            ("otherNode", "on another node, and the policy is Local".to_owned())
        }
        Why::Rule(Verdict::NotReady) => ("notReady", "not ready".to_owned()),
        Why::Rule(Verdict::Terminating) => {
            ("terminating", "terminating, and others are ready".to_owned())
        }
        Why::Rule(Verdict::Terminated) => {
            ("terminated", "terminating, and serving no more".to_owned())
        }
        Why::Rule(Verdict::HintsOtherNode) => {
            ("hintsOtherNode", format!("hints: for clients on {}", listed(&e.node_hints)))
        }
        Why::Rule(Verdict::HintsOtherZone) => {
            ("hintsOtherZone", format!("hints: for clients in {}", listed(&e.zone_hints)))
        }
        Why::BadAddress(why) => ("badAddress", format!("ignored: {why}")),
        Why::NoSuchPort => ("noSuchPort", format!("slice {} has no such port", e.slice)),
        Why::OtherFamily(other) => ("otherFamily", format!("{other}, and the address is {family}")),
        Why::NodeDns => ("nodeDns", "the node's own DNS server answers instead".to_owned()),
    };
    Excluded {
        address: e.address,
        port: e.port.map(Port::get),
        pod: e.pod.as_ref().map(ToString::to_string),
        node: e.node.as_ref().map(ToString::to_string),
        zone: e.zone.as_deref().map(str::to_owned),
        reason,
        detail,
    }
}
