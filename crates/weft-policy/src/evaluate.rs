//! The answer for one flow.

use crate::{
    Decision, Owner, PolicyInput, Program, Reason, RuleId, Step, World, program::Rest,
    world::has_own_network,
};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, OnceLock},
};
use weft_model::{
    Action, Direction, NamespacedName, NodeName, Peer, Pod, Port, PortMatch, Protocol,
};

/// What a flow carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// A protocol that has ports, and the destination's.
    Port(Protocol, Port),
    /// Another one, such as ICMP: only rules that name no port or protocol are about it.
    Other,
}

/// A flow by its first packet, as it is when policy sees it: after Service translation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// From.
    pub source: IpAddr,
    /// To.
    pub destination: IpAddr,
    /// By what.
    pub transport: Transport,
    /// The node whose own process (or pod of the host network) sent it. Known by a mark from
    /// the output path, never by the source address, which outside clients may bear too.
    pub from_node: Option<NodeName>,
    /// The sender asked for a Service. A pod that reaches itself so is subject to
    /// ClusterNetworkPolicies; one that calls its own address is not.
    pub through_service: bool,
}

/// The answer of both sides. Each judges by its own policies: the source by egress rules, the
/// destination by ingress rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What the source's policies say.
    pub egress: Decision,
    /// What the destination's policies say.
    pub ingress: Decision,
}

impl Verdict {
    /// Whether the connection is possible.
    pub fn allowed(&self) -> bool {
        self.egress.allowed && self.ingress.allowed
    }

    /// The side that speaks for the whole: the one that denies, the source first; else one that
    /// would deny without audit mode; else the destination, unless only the source has something
    /// to say.
    pub fn deciding(&self) -> (Direction, &Decision) {
        let says = |d: &Decision| matches!(d.reason, Reason::Rule(_) | Reason::Isolated(_));
        let both = self.egress.allowed && self.ingress.allowed;
        let egress = self.egress.audit || !(says(&self.ingress) || self.ingress.audit);
        if !self.egress.allowed || (both && egress) {
            (Direction::Egress, &self.egress)
        } else {
            (Direction::Ingress, &self.ingress)
        }
    }
}

/// Which items of a rule's lists matched a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matched<'a> {
    /// Place of the peer in `to` or `from` and the peer; `None` where the rule lists none.
    pub peer: Option<(usize, &'a Peer)>,
    /// Place of the port in `ports` or `protocols`; `None` where the rule lists none.
    pub port: Option<(usize, &'a PortMatch)>,
}

/// Answers for flows.
#[derive(Debug)]
pub struct Evaluator<'a> {
    world: World<'a>,
    programs: HashMap<&'a NamespacedName, [OnceLock<Program<'a>>; 2]>,
}

/// One end of a flow, as the other one's rules see it.
#[derive(Clone, Copy)]
struct End<'a> {
    address: IpAddr,
    owner: Owner<'a>,
}

impl<'a> Evaluator<'a> {
    /// An evaluator of this input.
    pub fn new(input: &'a PolicyInput) -> Self {
        let pods = input.pods.values().map(Arc::as_ref).filter(|p| has_own_network(p));
        let programs = pods.map(|p| (&p.id, Default::default())).collect();
        Self { world: World::new(input), programs }
    }

    /// Who is who.
    pub fn world(&self) -> &World<'a> {
        &self.world
    }

    /// The rules for a pod of the pod network, in order; `None` for one that has no network of
    /// its own.
    pub fn program(&self, pod: &'a Pod, direction: Direction) -> Option<&Program<'a>> {
        let cell = &self.programs.get(&pod.id)?[direction as usize];
        Some(cell.get_or_init(|| Program::of(&self.world, pod, direction)))
    }

    /// The answer for `flow`.
    pub fn evaluate(&self, flow: &Flow) -> Verdict {
        let end = |address| End { address, owner: self.world.owner(address) };
        let (source, destination) = (end(flow.source), end(flow.destination));
        let itself = match (source.owner, destination.owner) {
            (Owner::Pod(a), Owner::Pod(b)) => flow.from_node.is_none() && a.id == b.id,
            _ => false,
        };
        if itself && !flow.through_service {
            let yes = Decision::allow(Reason::Itself);
            return Verdict { egress: yes.clone(), ingress: yes };
        }
        let egress = match source.owner {
            Owner::Pod(pod) if flow.from_node.is_none() => {
                self.judge(pod, Direction::Egress, destination, destination, flow, itself)
            }
            _ => Decision::allow(Reason::NotAPod),
        };
        let ingress = match destination.owner {
            Owner::Pod(pod) if pod.node.is_some() && pod.node == flow.from_node => {
                Decision::allow(Reason::OwnNode)
            }
            Owner::Pod(pod) => {
                self.judge(pod, Direction::Ingress, source, destination, flow, itself)
            }
            _ => Decision::allow(Reason::NotAPod),
        };
        Verdict { egress, ingress }
    }

    /// What the policies of `pod` say about its `peer`.
    fn judge(
        &self,
        pod: &'a Pod,
        direction: Direction,
        peer: End<'a>,
        destination: End<'a>,
        flow: &Flow,
        itself: bool,
    ) -> Decision {
        let Some(program) = self.program(pod, direction) else {
            return Decision::allow(Reason::NotAPod);
        };
        let matches = |step: &&Step<'_>| {
            let ports = step.ports;
            let ports = ports.is_none_or(|p| self.port_of(p, flow, destination.owner).is_some());
            ports && step.peers.is_none_or(|p| self.peer_of(p, direction, peer).is_some())
        };
        let mut passed = Vec::new();
        // What would have denied it first, had its policy not been in audit mode.
        let mut marked = None;
        let decision = match first(&program.admin, matches, &mut marked) {
            Some(Step { action: Action::Pass, rule, .. }) => {
                if marked.is_none() {
                    passed.push(rule.clone());
                }
                None
            }
            Some(step) => Some(decided(step, Vec::new())),
            None => None,
        };
        let own_node = direction == Direction::Egress
            && matches!(peer.owner, Owner::Node(n) if pod.node.as_ref() == Some(&n.name));
        let decision = decision.unwrap_or_else(|| {
            Self::rest(&program.rest, matches, (own_node, itself), passed, &mut marked)
        });
        decision.marked(marked)
    }

    /// What follows the Admin tier.
    fn rest(
        rest: &Rest<'_>,
        matches: impl Fn(&&Step<'_>) -> bool,
        (own_node, itself): (bool, bool),
        mut passed: Vec<RuleId>,
        marked: &mut Option<Reason>,
    ) -> Decision {
        let allow = |reason, passed| Decision { passed, ..Decision::allow(reason) };
        match rest {
            Rest::Network { audit, policies, steps, below } => {
                if let Some(step) = steps.iter().find(&matches) {
                    return decided(step, passed);
                }
                if own_node || itself {
                    let reason = if own_node { Reason::OwnNode } else { Reason::Itself };
                    return allow(reason, passed);
                }
                let isolated = Reason::Isolated(policies.clone());
                if !audit {
                    return Decision { allowed: false, ..allow(isolated, passed) };
                }
                marked.get_or_insert(isolated);
                match first(below, &matches, marked) {
                    Some(step) if step.action == Action::Deny => decided(step, passed),
                    _ => allow(Reason::Unselected, passed),
                }
            }
            Rest::Baseline(steps) => match first(steps, &matches, marked) {
                Some(Step { action: Action::Pass, rule, .. }) => {
                    passed.push(rule.clone());
                    allow(Reason::Unselected, passed)
                }
                Some(step) => decided(step, passed),
                None => allow(Reason::Unselected, passed),
            },
        }
    }

    fn peer_of<'p>(
        &self,
        peers: &'p [Peer],
        direction: Direction,
        end: End<'_>,
    ) -> Option<(usize, &'p Peer)> {
        let mut all = peers.iter().enumerate();
        all.find(|(_, p)| self.world.means(p, direction, end.address, end.owner))
    }

    /// The first item of `ports` that means the destination of `flow`.
    fn port_of<'p>(
        &self,
        ports: &'p [PortMatch],
        flow: &Flow,
        destination: Owner<'_>,
    ) -> Option<(usize, &'p PortMatch)> {
        let Transport::Port(protocol, port) = flow.transport else { return None };
        let called = |name: &str| {
            let mut ports = self.world.named_ports(destination).iter();
            ports.any(|p| *p.name == *name && p.protocol == protocol && p.port == port)
        };
        ports.iter().enumerate().find(|(_, item)| match item {
            PortMatch::All(p) => *p == protocol,
            PortMatch::Range { protocol: p, first, last } => {
                *p == protocol && (*first..=*last).contains(&port)
            }
            PortMatch::Named { protocol: p, name } => {
                p.is_none_or(|p| p == protocol) && called(name)
            }
        })
    }

    /// Which items of a rule that decided about `flow` matched it: for explanations.
    pub fn why(&self, rule: &RuleId, flow: &Flow) -> Option<Matched<'_>> {
        let subject = match rule.direction {
            Direction::Egress => flow.source,
            Direction::Ingress => flow.destination,
        };
        let Owner::Pod(pod) = self.world.owner(subject) else { return None };
        let program = self.program(pod, rule.direction)?;
        let (rest, below): (_, &[Step<'_>]) = match &program.rest {
            Rest::Network { steps, below, .. } => (steps, below),
            Rest::Baseline(steps) => (steps, &[]),
        };
        let step = program.admin.iter().chain(rest).chain(below).find(|s| s.rule == *rule)?;
        Some(self.matched(step, flow))
    }

    /// Which items of the rule `step` are the reason why it matches `flow`: for explanations.
    fn matched<'s>(&self, step: &Step<'s>, flow: &Flow) -> Matched<'s> {
        let end = |address| End { address, owner: self.world.owner(address) };
        let peer = match step.rule.direction {
            Direction::Egress => end(flow.destination),
            Direction::Ingress => end(flow.source),
        };
        let destination = self.world.owner(flow.destination);
        Matched {
            peer: step.peers.and_then(|p| self.peer_of(p, step.rule.direction, peer)),
            port: step.ports.and_then(|p| self.port_of(p, flow, destination)),
        }
    }
}

/// The step that decides: the first that matches, but for those that only mark.
fn first<'s, 'a>(
    steps: &'s [Step<'a>],
    matches: impl Fn(&&Step<'_>) -> bool,
    marked: &mut Option<Reason>,
) -> Option<&'s Step<'a>> {
    for step in steps.iter().filter(|s| matches(s)) {
        if !(step.audit && step.action == Action::Deny) {
            return Some(step);
        }
        marked.get_or_insert_with(|| Reason::Rule(step.rule.clone()));
    }
    None
}

fn decided(step: &Step<'_>, passed: Vec<RuleId>) -> Decision {
    let allowed = step.action == Action::Accept;
    Decision { allowed, passed, ..Decision::allow(Reason::Rule(step.rule.clone())) }
}
