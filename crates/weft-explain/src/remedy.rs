//! What would have to change for a denied flow to pass: small changes of one object, each tried
//! with the evaluator before it is proposed.
//!
//! Looked for are rules that nearly match (the peer and not the port, the port and not the
//! peer's labels), and at last a rule of its own. A proposal says what would work, not that it
//! should be done: a label may also change what Services select.

use crate::{answer::Remedy, judge::port_text};
use ipnet::IpNet;
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};
use weft_model::{
    Action, ClusterRule, Direction, IpBlock, LabelTest, Labels, NamespaceSet, NamespacedName,
    NetworkRule, Peer, PodSet, PortMatch, Selector, Tier,
};
use weft_policy::{
    Evaluator, Flow, Owner, PolicyId, PolicyInput, Reason, RuleId, Transport, World,
};

/// Proposals for one denial.
const PROPOSALS_MAX: usize = 3;
/// Changes that are tried for one denial.
const TRIES_MAX: usize = 24;
/// Labels by which workloads are usually told apart, the best first.
const USUAL_LABELS: [&str; 4] = ["app.kubernetes.io/name", "app", "k8s-app", "name"];

/// Label changes: key and new value, `None` to take it away.
type Changes = BTreeMap<Arc<str>, Option<Arc<str>>>;

/// A change of the input.
enum Edit {
    Labels { pod: Option<(NamespacedName, Changes)>, namespace: Option<(Arc<str>, Changes)> },
    Port(RuleId, PortMatch),
    Peer(RuleId, Peer),
    Except(RuleId, usize, IpNet),
    Rule(RuleId, Option<Peer>, Option<PortMatch>),
}

struct Candidate {
    cost: u32,
    edit: Edit,
    remedy: Remedy,
}

/// `from` or `to`.
pub(crate) fn peers_field(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    }
}

/// What the list of ports is called.
pub(crate) fn ports_field(policy: &PolicyId) -> &'static str {
    match policy {
        PolicyId::Network(_) => "ports",
        PolicyId::Cluster { .. } => "protocols",
    }
}

/// `spec.ingress[0]`.
fn rule_field(rule: &RuleId) -> String {
    format!("spec.{}[{}]", rule.direction, rule.index)
}

/// The changes that make the side `direction` allow `flow`, the smallest first.
pub(crate) fn find(
    evaluator: &Evaluator<'_>,
    direction: Direction,
    flow: &Flow,
    reason: &Reason,
) -> Vec<Remedy> {
    let world = evaluator.world();
    let Some(search) = Search::new(world, direction, flow) else { return Vec::new() };
    let mut all = search.near_misses();
    all.extend(search.own_rule(reason));
    // Stable: equal costs stay in the order of policies.
    all.sort_by_key(|c| c.cost);
    let before = evaluator.evaluate(flow);
    let works = |candidate: &Candidate| {
        let mut changed = world.input().clone();
        apply(&mut changed, &candidate.edit);
        let after = Evaluator::new(&changed).evaluate(flow);
        let (side, other, other_before) = match direction {
            Direction::Egress => (after.egress, after.ingress, before.ingress.allowed),
            Direction::Ingress => (after.ingress, after.egress, before.egress.allowed),
        };
        side.allowed && (other.allowed || !other_before)
    };
    let tried = all.into_iter().take(TRIES_MAX);
    tried.filter(works).take(PROPOSALS_MAX).map(|c| c.remedy).collect()
}

struct Search<'w, 'a> {
    world: &'w World<'a>,
    direction: Direction,
    transport: Transport,
    /// Whose rules deny.
    pod: &'a weft_model::Pod,
    peer: IpAddr,
    owner: Owner<'a>,
    /// The destination, for the names of its ports.
    destination: Owner<'a>,
}

impl<'w, 'a> Search<'w, 'a> {
    fn new(world: &'w World<'a>, direction: Direction, flow: &Flow) -> Option<Self> {
        let (subject, peer) = match direction {
            Direction::Egress => (flow.source, flow.destination),
            Direction::Ingress => (flow.destination, flow.source),
        };
        let Owner::Pod(pod) = world.owner(subject) else { return None };
        let (owner, destination) = (world.owner(peer), world.owner(flow.destination));
        Some(Self { world, direction, transport: flow.transport, pod, peer, owner, destination })
    }

    /// Changes of rules that miss the flow by one thing.
    fn near_misses(&self) -> Vec<Candidate> {
        let mut all = Vec::new();
        let direction = self.direction;
        let cluster = [Tier::Admin, Tier::Baseline].into_iter();
        for policy in cluster.flat_map(|t| self.world.cluster_policies(t, self.pod, direction)) {
            let id = PolicyId::Cluster { tier: policy.tier, name: policy.name.clone() };
            for (index, rule) in policy.rules(direction).iter().enumerate() {
                if rule.action != Action::Deny {
                    let at = RuleId { policy: id.clone(), direction, index };
                    self.miss(&at, rule.peers.as_deref(), rule.ports.as_deref(), &mut all);
                }
            }
        }
        for policy in self.world.network_policies(self.pod, direction) {
            let id = PolicyId::Network(policy.id.clone());
            for (index, rule) in policy.rules(direction).into_iter().flatten().enumerate() {
                let at = RuleId { policy: id.clone(), direction, index };
                self.miss(&at, rule.peers.as_deref(), rule.ports.as_deref(), &mut all);
            }
        }
        all
    }

    fn miss(
        &self,
        rule: &RuleId,
        peers: Option<&[Peer]>,
        ports: Option<&[PortMatch]>,
        all: &mut Vec<Candidate>,
    ) {
        let means = |p: &Peer| self.world.means(p, self.direction, self.peer, self.owner);
        let peers_match = peers.is_none_or(|all| all.iter().any(means));
        let ports_match = ports.is_none_or(|all| all.iter().any(|p| self.is_port(p)));
        match (peers_match, ports_match) {
            (true, false) => all.extend(self.port(rule)),
            (false, true) => {
                for (index, peer) in peers.into_iter().flatten().enumerate() {
                    all.extend(self.labels(rule, index, peer));
                    all.extend(self.hole(rule, index, peer));
                }
                all.push(self.peer(rule));
            }
            _ => {}
        }
    }

    fn is_port(&self, item: &PortMatch) -> bool {
        let Transport::Port(protocol, port) = self.transport else { return false };
        match item {
            PortMatch::All(p) => *p == protocol,
            PortMatch::Range { protocol: p, first, last } => {
                *p == protocol && (*first..=*last).contains(&port)
            }
            PortMatch::Named { protocol: p, name } => {
                let mut named = self.world.named_ports(self.destination).iter();
                p.is_none_or(|p| p == protocol)
                    && named.any(|n| n.name == *name && n.protocol == protocol && n.port == port)
            }
        }
    }

    /// The port as a rule would name it.
    fn own_port(&self) -> Option<PortMatch> {
        match self.transport {
            Transport::Port(protocol, port) => {
                Some(PortMatch::Range { protocol, first: port, last: port })
            }
            Transport::Other => None,
        }
    }

    /// The peer as a rule would name it.
    fn own_peer(&self) -> Peer {
        let pods = |namespace: &str, labels: Vec<(&str, &str)>| {
            let is = |v: &str| LabelTest::In([Arc::from(v)].into());
            let pods: Selector = labels.into_iter().map(|(k, v)| (k, is(v))).collect();
            Peer::Pods(PodSet { namespaces: NamespaceSet::Name(namespace.into()), pods })
        };
        match self.owner {
            Owner::Pod(pod) => {
                let usual = USUAL_LABELS.iter().find_map(|k| Some((*k, pod.labels.get(k)?)));
                let labels = match usual {
                    Some(label) => vec![label],
                    None => pod.labels.iter().collect(),
                };
                pods(&pod.id.namespace, labels)
            }
            Owner::Dns if self.direction == Direction::Egress => {
                pods("kube-system", vec![("k8s-app", "kube-dns")])
            }
            _ => Peer::Block(IpBlock { cidr: self.peer.into(), except: Vec::new() }),
        }
    }

    fn port(&self, rule: &RuleId) -> Option<Candidate> {
        let port = self.own_port()?;
        let field = format!("{}.{}", rule_field(rule), ports_field(&rule.policy));
        let text = format!("add port {port} to {field} of {}", rule.policy);
        let remedy = Remedy { kind: "port", object: rule.policy.to_string(), field, text };
        Some(Candidate { cost: 9, edit: Edit::Port(rule.clone(), port), remedy })
    }

    fn peer(&self, rule: &RuleId) -> Candidate {
        let peer = self.own_peer();
        let field = format!("{}.{}", rule_field(rule), peers_field(self.direction));
        let text = format!("add {peer} to {field} of {}", rule.policy);
        let remedy = Remedy { kind: "peer", object: rule.policy.to_string(), field, text };
        Candidate { cost: 20, edit: Edit::Peer(rule.clone(), peer), remedy }
    }

    /// Labels that the peer lacks for being meant.
    fn labels(&self, rule: &RuleId, index: usize, peer: &Peer) -> Option<Candidate> {
        let (Peer::Pods(set), Owner::Pod(pod)) = (peer, self.owner) else { return None };
        let of_namespace = match &set.namespaces {
            NamespaceSet::Name(name) if *name == pod.id.namespace => Changes::new(),
            NamespaceSet::Name(_) => return None,
            NamespaceSet::Selected(selector) => {
                let namespace = self.world.input().namespaces.get(&pod.id.namespace)?;
                changes(selector, &namespace.labels)
            }
        };
        // The API gives it to the namespace: it is its name.
        if of_namespace.contains_key("kubernetes.io/metadata.name") {
            return None;
        }
        let of_pod = changes(&set.pods, &pod.labels);
        let replaced = |changes: &Changes, labels: &Labels| -> u32 {
            changes.keys().map(|k| if labels.get(k).is_some() { 14 } else { 10 }).sum()
        };
        let namespace_cost = if of_namespace.is_empty() { 0 } else { 5 };
        let labels = self.world.input().namespaces.get(&pod.id.namespace).map(|n| &n.labels);
        let cost = replaced(&of_pod, &pod.labels)
            + labels.map_or(0, |l| replaced(&of_namespace, l) + namespace_cost);
        let mut parts = Vec::new();
        let mut objects = Vec::new();
        for (object, changes) in [
            (format!("Namespace {}", pod.id.namespace), &of_namespace),
            (format!("Pod {}", pod.id), &of_pod),
        ] {
            if !changes.is_empty() {
                parts.push(sentence(&object, changes));
                objects.push(object);
            }
        }
        let place = format!("{}.{}[{index}]", rule_field(rule), peers_field(self.direction));
        let text = format!("{}: {place} of {} means it then", parts.join(" and "), rule.policy);
        let named = |changes: Changes| (!changes.is_empty()).then_some(changes);
        let edit = Edit::Labels {
            pod: named(of_pod).map(|c| (pod.id.clone(), c)),
            namespace: named(of_namespace).map(|c| (pod.id.namespace.clone(), c)),
        };
        let field = "metadata.labels".to_owned();
        let remedy = Remedy { kind: "label", object: objects.join(", "), field, text };
        Some(Candidate { cost, edit, remedy })
    }

    /// The hole of a block that the peer is in.
    fn hole(&self, rule: &RuleId, index: usize, peer: &Peer) -> Option<Candidate> {
        let Peer::Block(block) = peer else { return None };
        let mut holes = block.except.iter().filter(|e| e.contains(&self.peer));
        let hole = *holes.next().filter(|_| block.cidr.contains(&self.peer))?;
        let list = peers_field(self.direction);
        let field = format!("{}.{list}[{index}].ipBlock.except", rule_field(rule));
        let text = format!("take {hole} out of {field} of {}", rule.policy);
        let remedy = Remedy { kind: "except", object: rule.policy.to_string(), field, text };
        Some(Candidate { cost: 15, edit: Edit::Except(rule.clone(), index, hole), remedy })
    }

    /// A rule for this flow alone, in the policy that denies it or before the rule that does.
    fn own_rule(&self, reason: &Reason) -> Option<Candidate> {
        let direction = self.direction;
        let at = match reason {
            Reason::Rule(rule) => rule.clone(),
            Reason::Isolated(policies) => {
                let policy = self
                    .world
                    .network_policies(self.pod, direction)
                    .find(|p| policies.first() == Some(&p.id))?;
                let index = policy.rules(direction).map_or(0, <[_]>::len);
                RuleId { policy: PolicyId::Network(policy.id.clone()), direction, index }
            }
            _ => return None,
        };
        let (peer, port) = (self.own_peer(), self.own_port());
        let list = format!("spec.{direction}");
        let towards = match direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        let what = match &port {
            Some(port) => format!("{port} {towards} {peer}"),
            None => format!("{} {towards} {peer}", port_text(self.transport)),
        };
        let text = match &at.policy {
            PolicyId::Network(_) => {
                format!("add a rule to {list} of {} that allows {what}", at.policy)
            }
            PolicyId::Cluster { .. } => {
                let place = rule_field(&at);
                format!("put a rule before {place} of {} that accepts {what}", at.policy)
            }
        };
        let remedy = Remedy { kind: "rule", object: at.policy.to_string(), field: list, text };
        Some(Candidate { cost: 30, edit: Edit::Rule(at, Some(peer), port), remedy })
    }
}

/// What labels need for a selector to match them.
fn changes(selector: &Selector, labels: &Labels) -> Changes {
    let failing = selector.requirements().filter(|(key, test)| !test.holds(labels.get(key)));
    failing
        .map(|(key, test)| {
            let value = match test {
                LabelTest::In(values) => values.iter().next().cloned(),
                LabelTest::Exists => Some("true".into()),
                LabelTest::NotIn(_) | LabelTest::DoesNotExist => None,
            };
            (key.clone(), value)
        })
        .collect()
}

/// `label Pod shop/web with a=b and take c from it`.
fn sentence(object: &str, changes: &Changes) -> String {
    let given: Vec<String> =
        changes.iter().filter_map(|(k, v)| v.as_ref().map(|v| format!("{k}={v}"))).collect();
    let taken: Vec<&str> = changes.iter().filter(|(_, v)| v.is_none()).map(|(k, _)| &**k).collect();
    match (given.is_empty(), taken.is_empty()) {
        (false, true) => format!("label {object} with {}", given.join(", ")),
        (true, _) => format!("take label {} from {object}", taken.join(", ")),
        (false, false) => {
            let (given, taken) = (given.join(", "), taken.join(", "));
            format!("label {object} with {given} and take {taken} from it")
        }
    }
}

fn relabelled(labels: &Labels, changes: &Changes) -> Labels {
    let kept = labels.iter().filter(|(k, _)| !changes.contains_key(*k));
    let kept = kept.map(|(k, v)| (Arc::<str>::from(k), Arc::<str>::from(v)));
    let new = changes.iter().filter_map(|(k, v)| Some((k.clone(), v.clone()?)));
    kept.chain(new).collect()
}

fn apply(input: &mut PolicyInput, edit: &Edit) {
    match edit {
        Edit::Labels { pod, namespace } => {
            if let Some((id, changes)) = pod
                && let Some(known) = input.pods.get(id)
            {
                let mut changed = (**known).clone();
                changed.labels = relabelled(&changed.labels, changes);
                input.pods.insert(id.clone(), Arc::new(changed));
            }
            if let Some((name, changes)) = namespace
                && let Some(known) = input.namespaces.get(name)
            {
                let mut changed = (**known).clone();
                changed.labels = relabelled(&changed.labels, changes);
                input.namespaces.insert(name.clone(), Arc::new(changed));
            }
        }
        Edit::Port(rule, port) => change_rule(input, rule, |_, ports| {
            ports.get_or_insert_default().push(port.clone());
        }),
        Edit::Peer(rule, peer) => change_rule(input, rule, |peers, _| {
            peers.get_or_insert_default().push(peer.clone());
        }),
        Edit::Except(rule, index, hole) => change_rule(input, rule, |peers, _| {
            if let Some(Peer::Block(block)) = peers.as_mut().and_then(|p| p.get_mut(*index)) {
                block.except.retain(|e| e != hole);
            }
        }),
        Edit::Rule(at, peer, port) => add_rule(input, at, peer.clone(), port.clone()),
    }
}

fn change_rule(
    input: &mut PolicyInput,
    rule: &RuleId,
    change: impl FnOnce(&mut Option<Vec<Peer>>, &mut Option<Vec<PortMatch>>),
) {
    match &rule.policy {
        PolicyId::Network(id) => {
            let Some(known) = input.network_policies.get(id) else { return };
            let mut policy = (**known).clone();
            let rules = match rule.direction {
                Direction::Ingress => &mut policy.ingress,
                Direction::Egress => &mut policy.egress,
            };
            let Some(of) = rules.as_mut().and_then(|r| r.get_mut(rule.index)) else { return };
            change(&mut of.peers, &mut of.ports);
            input.network_policies.insert(id.clone(), Arc::new(policy));
        }
        PolicyId::Cluster { name, .. } => {
            let Some(known) = input.cluster_policies.get(name) else { return };
            let mut policy = (**known).clone();
            let rules = match rule.direction {
                Direction::Ingress => &mut policy.ingress,
                Direction::Egress => &mut policy.egress,
            };
            let Some(of) = rules.get_mut(rule.index) else { return };
            change(&mut of.peers, &mut of.ports);
            input.cluster_policies.insert(name.clone(), Arc::new(policy));
        }
    }
}

/// Puts a rule that accepts at a place in the list.
fn add_rule(input: &mut PolicyInput, at: &RuleId, peer: Option<Peer>, port: Option<PortMatch>) {
    let (peers, ports) = (peer.map(|p| vec![p]), port.map(|p| vec![p]));
    match &at.policy {
        PolicyId::Network(id) => {
            let Some(known) = input.network_policies.get(id) else { return };
            let mut policy = (**known).clone();
            let rules = match at.direction {
                Direction::Ingress => &mut policy.ingress,
                Direction::Egress => &mut policy.egress,
            };
            rules.get_or_insert_default().push(NetworkRule { peers, ports });
            input.network_policies.insert(id.clone(), Arc::new(policy));
        }
        PolicyId::Cluster { name, .. } => {
            let Some(known) = input.cluster_policies.get(name) else { return };
            let mut policy = (**known).clone();
            let rules = match at.direction {
                Direction::Ingress => &mut policy.ingress,
                Direction::Egress => &mut policy.egress,
            };
            let rule = ClusterRule { name: "".into(), action: Action::Accept, peers, ports };
            rules.insert(at.index.min(rules.len()), rule);
            input.cluster_policies.insert(name.clone(), Arc::new(policy));
        }
    }
}
