//! What `weft policy status` and the metrics say about policies: who they select here, and how
//! often each rule decided.

use crate::{
    flows::{Why, by_reason, reason_name},
    state::State,
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::AddAssign,
    sync::Arc,
};
use weft_model::{Direction, NamespacedName, NodeName, Pod, Snapshot, Tier};
use weft_policy::{PolicyId, PolicyInput, Reason, RuleId, World};

/// Policies of one answer; of more only the number is told.
const POLICIES_MAX: usize = 500;
/// Pods that are named for a policy.
const PODS_MAX: usize = 50;

/// How often something was the reason, since the kernel's counters began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Flows that it allowed; a flow that is judged again counts again.
    pub allowed: u64,
    /// Flows that it denied.
    pub denied: u64,
    /// Flows that it would deny, were its policy not on trial.
    pub audited: u64,
    /// Packets that it dropped.
    pub dropped: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.allowed += other.allowed;
        self.denied += other.denied;
        self.audited += other.audited;
        self.dropped += other.dropped;
    }
}

impl Counts {
    fn json(&self) -> Value {
        json!({
            "allowed": self.allowed,
            "denied": self.denied,
            "audited": self.audited,
            "dropped": self.dropped,
        })
    }
}

/// How far the node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Generation of the latest picture of the API.
    pub wanted: u64,
    /// The one that is in force.
    pub applied: u64,
    /// The kernel's own generation of rules.
    pub generation: u32,
    /// Entries of rules in the kernel.
    pub entries: u64,
    /// What could not be done.
    pub complaints: Vec<String>,
}

/// The answer of this agent, by the latest picture of the API.
pub fn of_agent(state: &State, snapshot: &Snapshot, name: Option<&str>) -> Value {
    let input = PolicyInput {
        generation: snapshot.generation,
        namespaces: snapshot.namespaces.clone(),
        pods: snapshot.pods.clone(),
        nodes: snapshot.node_peers.clone(),
        network_policies: snapshot.network_policies.clone(),
        cluster_policies: snapshot.cluster_policies.clone(),
        ..PolicyInput::default()
    };
    let stage = state.all_stages().remove("policy").unwrap_or_default();
    let generation = state.policy.borrow().as_ref().map_or(0, |a| a.generation);
    let progress = Progress {
        wanted: snapshot.generation,
        applied: stage.generation,
        generation,
        entries: stage.counts.get("entries").copied().unwrap_or_default(),
        complaints: stage.errors.into_iter().chain(stage.diagnostics).collect(),
    };
    let node = state.node.parse::<NodeName>();
    match node {
        Ok(node) => report(&input, &node, &progress, &by_reason(state), name),
        Err(_) => Value::Null,
    }
}

/// Whether a policy goes by `name`: `namespace/name`, a name, or as it is displayed.
fn is_called(policy: &PolicyId, name: &str) -> bool {
    let own = match policy {
        PolicyId::Network(id) => id.to_string() == name || *id.name == *name,
        PolicyId::Cluster { name: own, .. } => **own == *name,
    };
    own || policy.to_string() == name
}

/// The answer for `node`: its progress, and its policies, or those that go by `name`.
pub fn report(
    input: &PolicyInput,
    node: &NodeName,
    progress: &Progress,
    counts: &[(Why, Counts)],
    name: Option<&str>,
) -> Value {
    let world = World::new(input);
    let here =
        |p: &&Arc<Pod>| p.node.as_ref() == Some(node) && !p.host_network && !p.phase.is_over();
    let local: Vec<&Pod> = input.pods.values().filter(here).map(Arc::as_ref).collect();
    let selected = selected(&world, &local);
    let mut of_rule: BTreeMap<&RuleId, Counts> = BTreeMap::new();
    let mut isolated: BTreeMap<&NamespacedName, Counts> = BTreeMap::new();
    for (reason, counts) in counts {
        match reason {
            Why::Policy(Reason::Rule(rule)) => *of_rule.entry(rule).or_default() += *counts,
            Why::Policy(Reason::Isolated(policies)) => {
                for policy in policies {
                    *isolated.entry(policy).or_default() += *counts;
                }
            }
            _ => {}
        }
    }
    let network = input.network_policies.values().map(|p| {
        let rules = Direction::ALL.map(|d| p.rules(d).map_or(0, <[_]>::len));
        (PolicyId::Network(p.id.clone()), rules, p.audit)
    });
    let cluster = input.cluster_policies.values().map(|p| {
        let id = PolicyId::Cluster { tier: p.tier, name: p.name.clone() };
        (id, Direction::ALL.map(|d| p.rules(d).len()), p.audit)
    });
    let all = network.chain(cluster);
    let mut all: Vec<_> =
        all.filter(|(id, ..)| name.is_none_or(|name| is_called(id, name))).collect();
    let more = all.len().saturating_sub(POLICIES_MAX);
    all.truncate(POLICIES_MAX);
    let policies: Vec<Value> = all
        .iter()
        .map(|(id, rules, audit)| {
            let none = BTreeSet::new();
            let pods = selected.get(id).unwrap_or(&none);
            let rules = Direction::ALL.iter().zip(rules).flat_map(|(direction, count)| {
                (0..*count).map(|index| RuleId { policy: id.clone(), direction: *direction, index })
            });
            let rules: Vec<Value> = rules
                .map(|rule| {
                    let counts = of_rule.get(&rule).copied().unwrap_or_default();
                    let direction = rule.direction.to_string();
                    json!({"direction": direction, "index": rule.index, "counts": counts.json()})
                })
                .collect();
            let by_none = match id {
                PolicyId::Network(id) => isolated.get(id).copied(),
                PolicyId::Cluster { .. } => None,
            };
            json!({
                "policy": id.to_string(),
                "audit": audit,
                "podCount": pods.len(),
                "pods": pods.iter().take(PODS_MAX).map(ToString::to_string).collect::<Vec<_>>(),
                "rules": rules,
                // Denied because no rule of the policies that select the pod allows it.
                "noRule": by_none.map(|c| c.json()),
            })
        })
        .collect();
    json!({
        "node": node.to_string(),
        "wanted": progress.wanted,
        "applied": progress.applied,
        "newest": progress.applied >= progress.wanted,
        "generation": progress.generation,
        "pods": local.len(),
        "entries": progress.entries,
        "policies": policies,
        "more": more,
        "complaints": progress.complaints,
    })
}

/// The node's pods that each policy selects.
fn selected<'a>(
    world: &World<'a>,
    local: &[&'a Pod],
) -> BTreeMap<PolicyId, BTreeSet<&'a NamespacedName>> {
    let mut selected: BTreeMap<PolicyId, BTreeSet<&NamespacedName>> = BTreeMap::new();
    for pod in local {
        for direction in Direction::ALL {
            for policy in world.network_policies(pod, direction) {
                let id = PolicyId::Network(policy.id.clone());
                selected.entry(id).or_default().insert(&pod.id);
            }
            for tier in [Tier::Admin, Tier::Baseline] {
                for policy in world.cluster_policies(tier, pod, direction) {
                    let id = PolicyId::Cluster { tier, name: policy.name.clone() };
                    selected.entry(id).or_default().insert(&pod.id);
                }
            }
        }
    }
    selected
}

/// Rules that have samples of their own.
pub const RULE_SAMPLES_MAX: usize = 500;

/// Counts for metrics: of each rule (the first ones by name), of all others together, and of each
/// kind of reason.
pub struct Sums {
    /// By rule.
    pub rules: Vec<(RuleId, Counts)>,
    /// Rules beyond [`RULE_SAMPLES_MAX`].
    pub other: Counts,
    /// By kind of reason.
    pub kinds: BTreeMap<&'static str, Counts>,
}

/// Adds up what is the same. `counts`: by reason; one may occur more than once, where its number
/// changed.
pub fn sums(counts: &[(Why, Counts)]) -> Sums {
    let mut rules: BTreeMap<&RuleId, Counts> = BTreeMap::new();
    let mut kinds: BTreeMap<&'static str, Counts> = BTreeMap::new();
    for (reason, counts) in counts {
        *kinds.entry(reason_name(reason)).or_default() += *counts;
        if let Why::Policy(Reason::Rule(rule)) = reason {
            *rules.entry(rule).or_default() += *counts;
        }
    }
    let mut other = Counts::default();
    rules.values().skip(RULE_SAMPLES_MAX).for_each(|c| other += *c);
    let rules = rules.into_iter().take(RULE_SAMPLES_MAX).map(|(r, c)| (r.clone(), c)).collect();
    Sums { rules, other, kinds }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::{
        ClusterNetworkPolicy, ClusterRule, LabelTest, Labels, NamespaceSet, NetworkPolicy,
        NetworkRule, PodPhase, PodSet, Selector,
    };

    fn id(name: &str) -> NamespacedName {
        NamespacedName::new("shop", name)
    }

    fn is(app: &str) -> Selector {
        [("app", LabelTest::In([app.into()].into()))].into_iter().collect()
    }

    fn input() -> PolicyInput {
        let mut input = PolicyInput { generation: 7, ..PolicyInput::default() };
        for (name, app, node, host_network) in [
            ("web-0", "web", "node1", false),
            ("web-1", "web", "node2", false),
            ("db-0", "db", "node1", false),
            ("host-0", "web", "node1", true),
        ] {
            let pod = Pod {
                id: id(name),
                labels: [("app", app)].into_iter().collect::<Labels>(),
                node: Some(node.parse().expect("name")),
                addresses: Vec::new(),
                host_network,
                phase: PodPhase::Running,
                ports: Vec::new(),
                incarnation: 0,
                sockets_alone: false,
            };
            input.pods.insert(pod.id.clone(), Arc::new(pod));
        }
        let open = || NetworkRule { peers: None, ports: None };
        for (name, ingress) in [("web", vec![open(), open()]), ("closed", Vec::new())] {
            let policy = NetworkPolicy {
                id: id(name),
                pods: is("web"),
                ingress: Some(ingress),
                egress: None,
                audit: false,
            };
            input.network_policies.insert(policy.id.clone(), Arc::new(policy));
        }
        let all = NamespaceSet::Name("shop".into());
        let rule = ClusterRule {
            name: "".into(),
            action: weft_model::Action::Deny,
            peers: None,
            ports: None,
        };
        let fence = ClusterNetworkPolicy {
            name: "fence".into(),
            tier: Tier::Admin,
            priority: 1,
            subject: PodSet { namespaces: all, pods: Selector::everything() },
            ingress: Vec::new(),
            egress: vec![rule],
            audit: true,
        };
        input.cluster_policies.insert(fence.name.clone(), Arc::new(fence));
        input
    }

    fn rule(index: usize) -> Why {
        let policy = PolicyId::Network(id("web"));
        Why::Policy(Reason::Rule(RuleId { policy, direction: Direction::Ingress, index }))
    }

    fn denied(denied: u64) -> Counts {
        Counts { denied, ..Counts::default() }
    }

    #[test]
    fn a_node_tells_its_own_pods_and_how_often_rules_decided() {
        let (input, node) = (input(), "node1".parse().expect("name"));
        let progress = Progress { wanted: 7, applied: 6, generation: 3, ..Progress::default() };
        let counts = [
            (rule(1), Counts { allowed: 4, ..Counts::default() }),
            (rule(1), Counts { allowed: 1, ..Counts::default() }),
            (Why::Policy(Reason::Isolated(vec![id("closed"), id("web")])), denied(2)),
            (Why::Policy(Reason::Unselected), Counts { allowed: 9, ..Counts::default() }),
        ];
        let said = report(&input, &node, &progress, &counts, None);
        assert_eq!((&said["newest"], &said["pods"]), (&false.into(), &2.into()));
        let names: Vec<&str> = said["policies"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|p| p["policy"].as_str())
            .collect();
        assert_eq!(
            names,
            [
                "NetworkPolicy shop/closed",
                "NetworkPolicy shop/web",
                "ClusterNetworkPolicy fence (Admin)"
            ]
        );
        let web = &said["policies"][1];
        assert_eq!((&web["podCount"], &web["pods"]), (&1.into(), &json!(["shop/web-0"])));
        assert_eq!(web["rules"][1]["counts"]["allowed"], 5);
        assert_eq!(
            (&web["rules"][0]["counts"]["allowed"], &web["noRule"]["denied"]),
            (&0.into(), &2.into())
        );
        let fence = &said["policies"][2];
        assert_eq!(
            (&fence["podCount"], &fence["noRule"], &fence["audit"]),
            (&2.into(), &Value::Null, &true.into())
        );
        for name in ["shop/web", "web", "NetworkPolicy shop/web"] {
            let one = report(&input, &node, &progress, &counts, Some(name));
            assert_eq!(one["policies"].as_array().map(Vec::len), Some(1), "{name}");
        }
        let none = report(&input, &node, &progress, &counts, Some("shop/we"));
        assert_eq!(none["policies"], json!([]));
    }

    #[test]
    fn samples_are_bounded_and_nothing_is_lost() {
        let many: Vec<(Why, Counts)> =
            (0..RULE_SAMPLES_MAX + 3).map(|n| (rule(n), denied(1))).collect();
        let all = sums(&many);
        assert_eq!((all.rules.len(), all.other), (RULE_SAMPLES_MAX, denied(3)));
        assert_eq!(all.kinds["rule"], denied(many.len() as u64));
    }
}
