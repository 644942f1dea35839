//! What policy says about each way of an answer: both sides asked of the evaluator of
//! `weft_policy`, with the addresses that each side sees.
//!
//! The source's link judges what leaves it after the translation at the socket or at that link,
//! so that its peer is the backend; what the netfilter table of a node translates has passed the
//! link before, with the address that was asked for. The destination's link judges the source that
//! arrives there: the client, or the node that stands for it.

use crate::{
    Outcome, Path, World,
    answer::{Backend, Judgement, Place, Rule, Side, Verdict},
    ends::Source,
    remedy,
};
use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    rc::Rc,
};
use weft_fabric::router_address;
use weft_model::{
    Action, Direction, IpFamily, NamespaceSet, NodeName, Peer, PodSet, Port, Protocol,
};
use weft_policy::{
    Decision, Evaluator, Flow, Owner, PolicyId, PolicyInput, Reach, Reason, RuleId, Stretches,
    Transport,
};

/// Denials of one answer for which remedies are looked for: each costs a few evaluators.
const REMEDIES_MAX: u32 = 8;

/// Somebody outside whose address is not known (RFC 5737, RFC 3849).
fn somebody(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => Ipv4Addr::new(198, 51, 100, 1).into(),
        IpFamily::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xc0ff, 0xee, 0, 0, 0, 1).into(),
    }
}

/// What policy depends on, as each node sees it: its own router addresses are the cluster's DNS,
/// those of others are other nodes.
pub(crate) struct Inputs<'a> {
    all: &'a PolicyInput,
    nodes: BTreeMap<&'a NodeName, PolicyInput>,
}

impl<'a> Inputs<'a> {
    pub fn of(world: &'a World) -> Self {
        let nodes = world.snapshot.nodes.iter().map(|(name, node)| {
            let mut input = world.policy.clone();
            input.dns.extend(node.pod_cidrs.iter().filter_map(|c| router_address(*c)));
            (name, input)
        });
        Self { all: &world.policy, nodes: nodes.collect() }
    }
}

/// Judges for one client.
pub(crate) struct Judge<'a> {
    world: &'a World,
    source: &'a Source,
    inputs: &'a Inputs<'a>,
    /// Who has which address.
    owners: weft_policy::World<'a>,
    evaluators: RefCell<BTreeMap<Option<NodeName>, Rc<Evaluator<'a>>>>,
    stretches: OnceCell<Stretches>,
    remedies_left: Cell<u32>,
}

/// One way as each side sees it.
struct Ways {
    out: Flow,
    into: Flow,
}

impl<'a> Judge<'a> {
    pub fn new(world: &'a World, source: &'a Source, inputs: &'a Inputs<'a>) -> Self {
        Self {
            world,
            source,
            inputs,
            owners: weft_policy::World::new(inputs.all),
            evaluators: RefCell::default(),
            stretches: OnceCell::new(),
            remedies_left: Cell::new(REMEDIES_MAX),
        }
    }

    /// The evaluator of the node whose pod has an address.
    fn evaluator(&self, subject: IpAddr) -> Rc<Evaluator<'a>> {
        let node = match self.owners.owner(subject) {
            Owner::Pod(pod) => pod.node.clone(),
            _ => None,
        };
        let input = node.as_ref().and_then(|n| self.inputs.nodes.get(n));
        let input = input.unwrap_or(self.inputs.all);
        let mut all = self.evaluators.borrow_mut();
        all.entry(node).or_insert_with(|| Rc::new(Evaluator::new(input))).clone()
    }

    /// Judges every way of a path; one that policy closes altogether is [`Outcome::Denied`].
    pub fn path(&self, path: &mut Path) {
        let Ok(protocol) = path.destination.protocol.parse() else { return };
        let mut backends = std::mem::take(&mut path.backends);
        for backend in &mut backends {
            backend.policy = self.backend(path, backend, protocol);
        }
        self.note(path, &backends);
        let denied = |b: &Backend| {
            b.policy.as_ref().is_some_and(|p: &Judgement| p.verdict == Verdict::Denied)
        };
        let open =
            matches!(path.outcome, Outcome::Forwarded | Outcome::Delivered | Outcome::Unknown);
        if open && !backends.is_empty() && backends.iter().all(denied) {
            path.outcome = Outcome::Denied;
            let first = backends.first().and_then(|b| b.policy.as_ref());
            path.reason = first.and_then(Judgement::denial);
        }
        path.backends = backends;
    }

    /// What has to be known to understand the verdicts.
    fn note(&self, path: &mut Path, backends: &[Backend]) {
        let judged = |b: &&Backend| b.policy.is_some();
        let Some(first) = backends.iter().find(judged) else { return };
        if matches!(self.source, Source::Outside(all) if all.is_empty()) {
            let address = somebody(IpFamily::of(first.address));
            path.notes.push(format!(
                "policy is judged for {address}: ask with the client's address for its own verdict"
            ));
        }
        let own = self.source.address(IpFamily::of(first.address));
        let asked = first.policy.as_ref().and_then(|p| p.egress.as_ref());
        if path.translated_at == Some(Place::Netfilter) && asked.is_some_and(|s| s.pod.is_some()) {
            path.notes.push(
                "egress is judged by the address that was asked for: the translation comes \
                 behind the pod's link"
                    .to_owned(),
            );
        }
        let to_itself = |b: &Backend| Some(b.address) == own;
        if path.translated_at == Some(Place::Socket)
            && !self.source.on_host()
            && backends.iter().any(to_itself)
        {
            path.notes.push(
                "a connection of the pod to itself never leaves it: no policy sees it".into(),
            );
        }
    }

    fn backend(&self, path: &Path, backend: &Backend, protocol: Protocol) -> Option<Judgement> {
        let ways = self.ways(path, backend, protocol)?;
        if backend.port.is_none() {
            return Some(self.any_port(&ways));
        }
        let egress = self.side(Direction::Egress, &ways.out);
        let ingress = self.side(Direction::Ingress, &ways.into);
        let verdict = match egress.allowed && ingress.allowed {
            true => Verdict::Allowed,
            false => Verdict::Denied,
        };
        Some(Judgement { verdict, ports: None, egress: Some(egress), ingress: Some(ingress) })
    }

    fn ways(&self, path: &Path, backend: &Backend, protocol: Protocol) -> Option<Ways> {
        let family = IpFamily::of(backend.address);
        let own = match self.source {
            Source::Outside(all) if all.is_empty() => Some(somebody(family)),
            source => source.address(family),
        }?;
        let transport = |port: Option<u16>| match port.map(|p| Port::try_from(i32::from(p))) {
            Some(Ok(port)) => Transport::Port(protocol, port),
            _ => Transport::Other,
        };
        let from_node = self.source.node().filter(|_| self.source.on_host()).cloned();
        let in_stack = path.translated_at == Some(Place::Netfilter);
        // What stays on a loopback link is talk to oneself.
        let end = if backend.address.is_loopback() { own } else { backend.address };
        let (asked, asked_port) = match path.destination.address.filter(|_| in_stack) {
            Some(address) => (address, path.destination.port),
            None => (end, backend.port),
        };
        // At its own link a pod that reaches itself is known for what it is.
        let itself = end == own && path.translated_at == Some(Place::PodLink);
        let seen = backend.source_seen.filter(|_| !itself && !backend.address.is_loopback());
        let through_service =
            path.frontend.is_some() && path.translated_at.is_some_and(|p| p != Place::Socket);
        // Another node's stack sends it on: it does not bear the mark of its own output there.
        let node = path.node.as_deref();
        let marked = |n: &weft_model::NodeName| !in_stack || node == Some(n.as_str());
        Some(Ways {
            out: Flow {
                source: own,
                destination: asked,
                transport: transport(asked_port),
                from_node: from_node.clone(),
                through_service,
            },
            into: Flow {
                source: seen.unwrap_or(own),
                destination: end,
                transport: transport(backend.port),
                from_node: from_node.filter(marked),
                through_service,
            },
        })
    }

    /// The verdict where no port was asked for.
    fn any_port(&self, ways: &Ways) -> Judgement {
        let stretches = self.stretches.get_or_init(|| Stretches::of([&self.world.policy]));
        // Nothing is translated where no port is known, so that both ways differ at most in the
        // source, and that only where the other end is no pod or the source is none.
        let out = Flow { source: ways.out.source, ..ways.into.clone() };
        let receiver = self.evaluator(ways.into.destination);
        let reach = Reach::of(&receiver, &ways.into, stretches).and(&Reach::of(
            &self.evaluator(out.source),
            &out,
            stretches,
        ));
        let sides = |verdict| Judgement {
            verdict,
            ports: Some(reach.to_string()),
            egress: Some(self.side(Direction::Egress, &ways.out)),
            ingress: Some(self.side(Direction::Ingress, &ways.into)),
        };
        if reach == Reach::everything() {
            return sides(Verdict::Allowed);
        }
        if reach.is_nothing() {
            return sides(Verdict::Denied);
        }
        let ports = Some(reach.to_string());
        Judgement { verdict: Verdict::Partly, ports, egress: None, ingress: None }
    }

    fn side(&self, direction: Direction, flow: &Flow) -> Side {
        let (subject, peer) = match direction {
            Direction::Egress => (flow.source, flow.destination),
            Direction::Ingress => (flow.destination, flow.source),
        };
        let evaluator = self.evaluator(subject);
        let verdict = evaluator.evaluate(flow);
        let decision = match direction {
            Direction::Egress => verdict.egress,
            Direction::Ingress => verdict.ingress,
        };
        let pod = match evaluator.world().owner(subject) {
            Owner::Pod(pod) if decision.reason != Reason::NotAPod => Some(pod.id.to_string()),
            _ => None,
        };
        let rule = match &decision.reason {
            Reason::Rule(rule) => Some(self.rule(&evaluator, rule, flow)),
            _ => None,
        };
        let isolated_by = match &decision.reason {
            Reason::Isolated(all) => all.iter().map(|id| format!("NetworkPolicy {id}")).collect(),
            _ => Vec::new(),
        };
        let passed: Vec<Rule> =
            decision.passed.iter().map(|r| self.rule(&evaluator, r, flow)).collect();
        let mut remedies = Vec::new();
        if !decision.allowed && self.remedies_left.get() > 0 {
            self.remedies_left.set(self.remedies_left.get() - 1);
            remedies = remedy::find(&evaluator, direction, flow, &decision.reason);
        }
        let peer_name = peer_name(&evaluator, peer, direction);
        Side {
            allowed: decision.allowed,
            audit: decision.audit,
            text: words(&decision, rule.as_ref(), &passed, direction, &peer_name, flow.transport),
            pod,
            peer,
            peer_name,
            reason: reason_name(&decision.reason),
            rule,
            isolated_by,
            passed,
            remedies,
        }
    }

    fn rule(&self, evaluator: &Evaluator<'_>, id: &RuleId, flow: &Flow) -> Rule {
        let input = &self.world.policy;
        let (subject, name, action) = match &id.policy {
            PolicyId::Network(policy) => {
                let pods = input.network_policies.get(policy).map(|p| PodSet {
                    namespaces: NamespaceSet::Name(policy.namespace.clone()),
                    pods: p.pods.clone(),
                });
                (pods, None, Action::Accept)
            }
            PolicyId::Cluster { name, .. } => {
                let policy = input.cluster_policies.get(name);
                let rule = policy.and_then(|p| p.rules(id.direction).get(id.index));
                let name = rule.map(|r| r.name.to_string()).filter(|n| !n.is_empty());
                let action = rule.map_or(Action::Deny, |r| r.action);
                (policy.map(|p| p.subject.clone()), name, action)
            }
        };
        let matched = evaluator.why(id, flow);
        let (peer, port) = matched.map_or((None, None), |m| (m.peer, m.port));
        let peers = remedy::peers_field(id.direction);
        let ports = remedy::ports_field(&id.policy);
        Rule {
            policy: id.policy.to_string(),
            subject: subject.map(|s| Peer::Pods(s).to_string()).unwrap_or_default(),
            direction: id.direction.to_string(),
            index: id.index,
            name,
            action: action.to_string(),
            peer: peer.map(|(_, p)| p.to_string()),
            peer_field: peer.map(|(i, _)| format!("{peers}[{i}]")),
            port: port.map(|(_, p)| p.to_string()),
            port_field: port.map(|(i, _)| format!("{ports}[{i}]")),
        }
    }
}

impl Judgement {
    /// Whether all that was asked for passes.
    pub fn allowed(&self) -> bool {
        self.verdict == Verdict::Allowed
    }

    /// The side that denies, in words; the source's first.
    pub(crate) fn denial(&self) -> Option<String> {
        let of = |side: &Option<Side>, name: &str| {
            let side = side.as_ref().filter(|s| !s.allowed)?;
            Some(format!("{name} of {}: {}", side.pod.as_deref().unwrap_or_default(), side.text))
        };
        of(&self.egress, "egress").or_else(|| of(&self.ingress, "ingress"))
    }
}

/// Who has an address, as policy sees it.
fn peer_name(evaluator: &Evaluator<'_>, address: IpAddr, direction: Direction) -> String {
    match evaluator.world().owner(address) {
        Owner::Pod(pod) => format!("pod {}", pod.id),
        Owner::Dns if direction == Direction::Egress => "the cluster's DNS".to_owned(),
        Owner::Node(node) if node.addresses.first() == Some(&address) => {
            format!("node {}", node.name)
        }
        Owner::Node(node) => format!("node {} ({address})", node.name),
        // As a source, the address that a node answers DNS at stands for the node itself.
        Owner::Dns | Owner::Nobody => address.to_string(),
    }
}

fn reason_name(reason: &Reason) -> &'static str {
    match reason {
        Reason::Rule(_) => "rule",
        Reason::Isolated(_) => "isolated",
        Reason::Unselected => "unselected",
        Reason::Itself => "itself",
        Reason::OwnNode => "ownNode",
        Reason::NotAPod => "notAPod",
        Reason::TooLarge => "tooLarge",
    }
}

/// `TCP/80`.
pub(crate) fn port_text(transport: Transport) -> String {
    match transport {
        Transport::Port(protocol, port) => format!("{protocol}/{port}"),
        Transport::Other => "any protocol without ports".to_owned(),
    }
}

impl Rule {
    /// `NetworkPolicy shop/db ingress[0] (pods app=db in namespace shop), from[0] …`.
    fn words(&self) -> String {
        let mut text = format!("{} {}[{}]", self.policy, self.direction, self.index);
        if let Some(name) = &self.name {
            text += &format!(" '{name}'");
        }
        for (field, item) in [(&self.peer_field, &self.peer), (&self.port_field, &self.port)] {
            if let (Some(field), Some(item)) = (field, item) {
                text += &format!(", {field} {item}");
            }
        }
        if !self.subject.is_empty() {
            text += &format!("; it selects {}", self.subject);
        }
        text
    }
}

fn words(
    decision: &Decision,
    rule: Option<&Rule>,
    passed: &[Rule],
    direction: Direction,
    peer: &str,
    transport: Transport,
) -> String {
    let mut text = match (&decision.reason, rule) {
        (Reason::Rule(_), Some(rule)) => {
            let verb = match (decision.audit, decision.allowed) {
                (true, _) => "on trial, would be denied",
                (false, true) => "allowed",
                (false, false) => "denied",
            };
            format!("{verb} by {}", rule.words())
        }
        (Reason::Isolated(all), _) => {
            let names: Vec<String> = all.iter().map(ToString::to_string).collect();
            let select = if all.len() == 1 { "selects" } else { "select" };
            let towards = match direction {
                Direction::Ingress => "from",
                Direction::Egress => "to",
            };
            let verb = if decision.audit { "on trial, would be denied" } else { "denied" };
            format!(
                "{verb}: NetworkPolicy {} {select} it, and no {direction} rule allows {} {towards} {peer}",
                names.join(", "),
                port_text(transport)
            )
        }
        (Reason::Unselected, _) => "allowed: no policy decides".to_owned(),
        (Reason::NotAPod, _) => "not judged: no pod of the pod network".to_owned(),
        (other, _) if decision.allowed => format!("allowed: {other}"),
        (other, _) => format!("denied: {other}"),
    };
    for rule in passed {
        text += &format!("; passed by {}", rule.words());
    }
    text
}
