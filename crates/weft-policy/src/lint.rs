//! What is probably not meant so: findings about policies, in the light of the pods that there
//! are.

use crate::{
    Evaluator, Flow, PolicyId, PolicyInput, Reason, RuleId, Step, Transport, World,
    program::{cluster_steps, network_steps},
    world::has_own_network,
};
use std::{collections::BTreeMap, fmt, sync::Arc};
use weft_model::{
    ClusterNetworkPolicy, Direction, IpBlock, NamespaceSet, NamespacedName, Peer, Pod, PodSet,
    Port, PortMatch, Protocol, Selector, Tier,
};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Something does not work as its author must have meant it.
    Error,
    /// Something has no effect, or more than it seems.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The policy.
    pub policy: PolicyId,
    /// The rule, where it is about one: direction and place.
    pub rule: Option<(Direction, usize)>,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Problem {
    /// The subject.
    #[error("selects no pod")]
    SelectsNothing,
    /// Pods of the host network.
    #[error("has no effect on {0}: pods of the host network are not told apart from their node")]
    HostNetwork(NamespacedName),
    /// A peer.
    #[error("peer [{index}] ({peer}) matches nobody")]
    PeerMatchesNobody {
        /// Its place in the list.
        index: usize,
        /// What it says.
        peer: String,
    },
    /// A named port.
    #[error("no destination of this rule calls a port '{0}'")]
    UnknownPortName(String),
    /// A rule that never decides.
    #[error("never decides: {by} covers it")]
    Shadowed {
        /// The stronger rule.
        by: RuleId,
    },
    /// A rule that adds nothing.
    #[error("adds nothing: {by} allows the same")]
    Redundant {
        /// The other rule.
        by: RuleId,
    },
    /// Egress without DNS.
    #[error("lets {pod} send, but not ask the cluster's DNS (UDP port 53)")]
    NoDns {
        /// One of the pods.
        pod: NamespacedName,
    },
    /// No rules.
    #[error("has no rules, so it has no effect")]
    NoRules,
    /// Baseline below NetworkPolicies.
    #[error("is never asked for {direction}: NetworkPolicies select every pod that it is about")]
    NeverAsked {
        /// The direction.
        direction: Direction,
    },
    /// Equal priorities.
    #[error(
        "has the priority of ClusterNetworkPolicy {0} and pods in common: the API leaves open which comes first"
    )]
    Ambiguous(Arc<str>),
}

impl Problem {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Self::NoDns { .. } | Self::UnknownPortName(_) => Severity::Error,
            _ => Severity::Warning,
        }
    }
}

/// Looks for all of it, in the order of policies.
pub fn lint(input: &PolicyInput) -> Vec<Finding> {
    let evaluator = Evaluator::new(input);
    let mut linter = Linter { input, world: evaluator.world(), findings: Vec::new() };
    linter.subjects();
    linter.rules();
    linter.covered();
    linter.tiers();
    linter.dns(&evaluator);
    let mut findings = linter.findings;
    findings.sort();
    findings.dedup();
    findings
}

struct Linter<'w, 'a> {
    input: &'a PolicyInput,
    world: &'w World<'a>,
    findings: Vec<Finding>,
}

impl<'a> Linter<'_, 'a> {
    fn add(&mut self, policy: PolicyId, rule: Option<(Direction, usize)>, problem: Problem) {
        self.findings.push(Finding { policy, rule, problem });
    }

    fn pods(&self) -> impl Iterator<Item = &'a Pod> + use<'a> {
        self.input.pods.values().map(Arc::as_ref).filter(|p| !p.phase.is_over())
    }

    /// Subjects that select nobody, or nobody that policy reaches.
    fn subjects(&mut self) {
        let mut subjects: Vec<(PolicyId, PodSet)> = Vec::new();
        for policy in self.input.network_policies.values() {
            let namespaces = NamespaceSet::Name(policy.id.namespace.clone());
            let set = PodSet { namespaces, pods: policy.pods.clone() };
            subjects.push((PolicyId::Network(policy.id.clone()), set));
        }
        for policy in self.input.cluster_policies.values() {
            if policy.ingress.is_empty() && policy.egress.is_empty() {
                self.add(id_of(policy), None, Problem::NoRules);
            }
            subjects.push((id_of(policy), policy.subject.clone()));
        }
        for (policy, set) in subjects {
            let selected: Vec<&Pod> =
                self.pods().filter(|p| self.world.contains(&set, p)).collect();
            if selected.is_empty() {
                self.add(policy, None, Problem::SelectsNothing);
                continue;
            }
            // A policy for everybody does not mean to say that it reaches the host network.
            if !set.pods.is_everything() {
                for pod in selected.iter().filter(|p| p.host_network) {
                    self.add(policy.clone(), None, Problem::HostNetwork(pod.id.clone()));
                }
            }
        }
    }

    /// Every rule of every policy.
    fn steps(&self) -> Vec<(PodSet, Step<'a>)> {
        let mut all = Vec::new();
        for direction in Direction::ALL {
            for policy in self.input.network_policies.values() {
                let namespaces = NamespaceSet::Name(policy.id.namespace.clone());
                let set = PodSet { namespaces, pods: policy.pods.clone() };
                all.extend(network_steps(policy, direction).map(|s| (set.clone(), s)));
            }
            for policy in self.input.cluster_policies.values() {
                let set = &policy.subject;
                all.extend(cluster_steps(policy, direction).map(|s| (set.clone(), s)));
            }
        }
        all
    }

    /// Peers and port names that mean nobody.
    fn rules(&mut self) {
        for (subject, step) in self.steps() {
            let at = Some((step.rule.direction, step.rule.index));
            for (index, peer) in step.peers.into_iter().flatten().enumerate() {
                let nobody = match peer {
                    Peer::Pods(_) => !self.world.owners().any(|(address, owner)| {
                        self.world.means(peer, step.rule.direction, address, owner)
                    }),
                    Peer::Nodes(s) => !self.input.nodes.values().any(|n| s.matches(&n.labels)),
                    // What is outside is not known here.
                    Peer::Block(_) | Peer::Domain(_) => false,
                };
                if nobody {
                    let problem = Problem::PeerMatchesNobody { index, peer: peer.to_string() };
                    self.add(step.rule.policy.clone(), at, problem);
                }
            }
            for port in step.ports.into_iter().flatten() {
                let PortMatch::Named { protocol, name } = port else { continue };
                let called = self.world.owners().any(|(address, owner)| {
                    let named = self.world.named_ports(owner).iter().any(|p| {
                        p.name == *name && protocol.is_none_or(|protocol| protocol == p.protocol)
                    });
                    let destination = match step.rule.direction {
                        Direction::Ingress => match owner {
                            crate::Owner::Pod(pod) => self.world.contains(&subject, pod),
                            _ => false,
                        },
                        Direction::Egress => step.peers.is_none_or(|peers| {
                            let direction = Direction::Egress;
                            peers.iter().any(|p| self.world.means(p, direction, address, owner))
                        }),
                    };
                    named && destination
                });
                if !called {
                    let problem = Problem::UnknownPortName(name.to_string());
                    self.add(step.rule.policy.clone(), at, problem);
                }
            }
        }
    }

    /// Rules that another one makes superfluous, by what they say (not by the pods that happen
    /// to be there).
    fn covered(&mut self) {
        let steps = self.steps();
        let mut groups: BTreeMap<_, Vec<(u16, &(PodSet, Step<'a>))>> = BTreeMap::new();
        for entry in &steps {
            let (key, strength) = match &entry.1.rule.policy {
                PolicyId::Network(id) => ((None, Some(id.namespace.clone())), 0),
                PolicyId::Cluster { tier, name } => {
                    let priority = self.input.cluster_policies.get(name).map_or(0, |p| p.priority);
                    ((Some(*tier), None), priority)
                }
            };
            groups.entry((key, entry.1.rule.direction)).or_default().push((strength, entry));
        }
        for ((_, _), mut group) in groups {
            // Stable: policies come by name, rules by their place.
            group.sort_by_key(|(strength, _)| *strength);
            for (i, (_, (subject, step))) in group.iter().enumerate() {
                let stronger = group[..i].iter().find(|(_, (s, earlier))| {
                    covers_pods(s, subject)
                        && covers(earlier.peers, step.peers, covers_peer)
                        && covers(earlier.ports, step.ports, covers_port)
                });
                let Some((_, (_, by))) = stronger else { continue };
                let by = by.rule.clone();
                let problem = match step.rule.policy {
                    PolicyId::Network(_) => Problem::Redundant { by },
                    PolicyId::Cluster { .. } => Problem::Shadowed { by },
                };
                let at = Some((step.rule.direction, step.rule.index));
                self.add(step.rule.policy.clone(), at, problem);
            }
        }
    }

    /// Baseline policies that are never asked, and priorities that leave the order open.
    fn tiers(&mut self) {
        let policies: Vec<&ClusterNetworkPolicy> =
            self.input.cluster_policies.values().map(Arc::as_ref).collect();
        for (i, policy) in policies.iter().enumerate() {
            let of = |p: &ClusterNetworkPolicy| -> Vec<&'a Pod> {
                let pods = self.pods().filter(|pod| has_own_network(pod));
                pods.filter(|pod| self.world.contains(&p.subject, pod)).collect()
            };
            let pods = of(policy);
            if pods.is_empty() {
                continue;
            }
            if policy.tier == Tier::Baseline {
                for direction in Direction::ALL {
                    let isolated =
                        |pod: &&Pod| self.world.network_policies(pod, direction).next().is_some();
                    if !policy.rules(direction).is_empty() && pods.iter().all(isolated) {
                        self.add(id_of(policy), None, Problem::NeverAsked { direction });
                    }
                }
            }
            for other in &policies[..i] {
                let both_have_rules = |d| !policy.rules(d).is_empty() && !other.rules(d).is_empty();
                if (other.tier, other.priority) == (policy.tier, policy.priority)
                    && Direction::ALL.into_iter().any(both_have_rules)
                    && pods.iter().any(|pod| self.world.contains(&other.subject, pod))
                {
                    self.add(id_of(policy), None, Problem::Ambiguous(other.name.clone()));
                }
            }
        }
    }

    /// Pods that may send something, but not ask for names.
    fn dns(&mut self, evaluator: &Evaluator<'a>) {
        let Ok(port) = Port::try_from(53) else { return };
        let transport = Transport::Port(Protocol::Udp, port);
        for pod in self.pods().filter(|p| has_own_network(p)) {
            let policies: Vec<_> = self.world.network_policies(pod, Direction::Egress).collect();
            // One that lets nothing out means it.
            let sends = policies.iter().any(|p| p.egress.as_ref().is_some_and(|e| !e.is_empty()));
            if !sends {
                continue;
            }
            for source in &pod.addresses {
                let of_family = |d: &&std::net::IpAddr| d.is_ipv4() == source.is_ipv4();
                let mut servers = self.input.dns.iter().filter(of_family).peekable();
                if servers.peek().is_none() {
                    continue;
                }
                let asks = servers.any(|dns| {
                    let flow = Flow {
                        source: *source,
                        destination: *dns,
                        transport,
                        from_node: None,
                        through_service: true,
                    };
                    let egress = evaluator.evaluate(&flow).egress;
                    egress.allowed || !matches!(egress.reason, Reason::Isolated(_))
                });
                if !asks {
                    // Said of the policies that let something out: there it was forgotten.
                    for policy in &policies {
                        if policy.egress.as_ref().is_some_and(|e| !e.is_empty()) {
                            let id = PolicyId::Network(policy.id.clone());
                            let known = self.findings.iter().any(|f| {
                                f.policy == id && matches!(f.problem, Problem::NoDns { .. })
                            });
                            if !known {
                                self.add(id, None, Problem::NoDns { pod: pod.id.clone() });
                            }
                        }
                    }
                }
            }
        }
    }
}

fn id_of(policy: &ClusterNetworkPolicy) -> PolicyId {
    PolicyId::Cluster { tier: policy.tier, name: policy.name.clone() }
}

/// Whether a list covers another; an absent one covers everything.
fn covers<T>(wide: Option<&[T]>, narrow: Option<&[T]>, covers: impl Fn(&T, &T) -> bool) -> bool {
    match (wide, narrow) {
        (None, _) => true,
        (Some(_), None) => false,
        // A list that is empty matches nothing: that is said elsewhere.
        (Some(wide), Some(narrow)) => {
            !narrow.is_empty() && narrow.iter().all(|n| wide.iter().any(|w| covers(w, n)))
        }
    }
}

fn covers_selector(wide: &Selector, narrow: &Selector) -> bool {
    wide.is_everything() || wide == narrow
}

fn covers_pods(wide: &PodSet, narrow: &PodSet) -> bool {
    let namespaces = match (&wide.namespaces, &narrow.namespaces) {
        (NamespaceSet::Selected(w), NamespaceSet::Selected(n)) => covers_selector(w, n),
        (NamespaceSet::Selected(w), NamespaceSet::Name(_)) => w.is_everything(),
        (a, b) => a == b,
    };
    namespaces && covers_selector(&wide.pods, &narrow.pods)
}

fn covers_peer(wide: &Peer, narrow: &Peer) -> bool {
    match (wide, narrow) {
        (Peer::Pods(w), Peer::Pods(n)) => covers_pods(w, n),
        (Peer::Nodes(w), Peer::Nodes(n)) => covers_selector(w, n),
        (Peer::Block(w), Peer::Block(n)) => covers_block(w, n),
        (w, n) => w == n,
    }
}

fn covers_block(wide: &IpBlock, narrow: &IpBlock) -> bool {
    let hole_is_outside = |hole: &ipnet::IpNet| {
        !hole.contains(&narrow.cidr) && !narrow.cidr.contains(hole)
            || narrow.except.iter().any(|e| e.contains(hole))
    };
    wide.cidr.contains(&narrow.cidr) && wide.except.iter().all(hole_is_outside)
}

fn covers_port(wide: &PortMatch, narrow: &PortMatch) -> bool {
    match (wide, narrow) {
        (PortMatch::All(w), PortMatch::All(n) | PortMatch::Range { protocol: n, .. }) => w == n,
        (PortMatch::All(w), PortMatch::Named { protocol, .. }) => *protocol == Some(*w),
        (
            PortMatch::Range { protocol: wp, first: wf, last: wl },
            PortMatch::Range { protocol: np, first: nf, last: nl },
        ) => wp == np && wf <= nf && nl <= wl,
        (w, n) => w == n,
    }
}
