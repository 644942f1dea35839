//! The rules for one pod and direction, in the order in which they are asked. Evaluator and
//! compiler both start here, so that they cannot disagree about which rules apply.
//!
//! The order is that of the ClusterNetworkPolicy API: the Admin tier by priority; then, for a pod
//! that any NetworkPolicy selects for this direction, the NetworkPolicies, which always decide;
//! for all others the Baseline tier; then everything is allowed. Where the specifications leave a
//! choice:
//!
//! - Of several NetworkPolicy rules that allow the same, the first by namespace, name and place in
//!   the list is the one that is named.
//! - What a pod sends to its own node is allowed by NetworkPolicies ("traffic to and from the node
//!   where a Pod is running is always allowed"), but ClusterNetworkPolicies may deny it: their
//!   `nodes` peers are there for that.
//! - What the node itself sends to its own pods is allowed before any policy: probes must pass.

use crate::{PolicyId, RuleId, World};
use weft_model::{
    Action, ClusterNetworkPolicy, Direction, NamespacedName, NetworkPolicy, Peer, Pod, PortMatch,
    Tier,
};

/// One rule.
#[derive(Clone, Debug)]
pub struct Step<'a> {
    /// Which.
    pub rule: RuleId,
    /// What it does.
    pub action: Action,
    /// Whom it is about; `None` for everybody.
    pub peers: Option<&'a [Peer]>,
    /// Which ports; `None` for everything.
    pub ports: Option<&'a [PortMatch]>,
}

/// The rules of a tier group.
#[derive(Clone, Debug)]
pub enum Rest<'a> {
    /// NetworkPolicies select the pod: what no step allows is denied.
    Network {
        /// The policies, by name.
        policies: Vec<NamespacedName>,
        /// Their rules.
        steps: Vec<Step<'a>>,
    },
    /// None does: what no step decides is allowed.
    Baseline(Vec<Step<'a>>),
}

/// The rules for one pod and direction.
#[derive(Clone, Debug)]
pub struct Program<'a> {
    /// The Admin tier; the first step that matches decides, or with Pass leaves the tier.
    pub admin: Vec<Step<'a>>,
    /// What is asked after it.
    pub rest: Rest<'a>,
}

impl<'a> Program<'a> {
    /// The rules for `pod`.
    pub fn of(world: &World<'a>, pod: &Pod, direction: Direction) -> Self {
        let tier = |tier| {
            let policies = world.cluster_policies(tier, pod, direction);
            policies.flat_map(|p| cluster_steps(p, direction)).collect::<Vec<_>>()
        };
        let selecting: Vec<_> = world.network_policies(pod, direction).collect();
        let rest = if selecting.is_empty() {
            Rest::Baseline(tier(Tier::Baseline))
        } else {
            Rest::Network {
                policies: selecting.iter().map(|p| p.id.clone()).collect(),
                steps: selecting.iter().flat_map(|p| network_steps(p, direction)).collect(),
            }
        };
        Self { admin: tier(Tier::Admin), rest }
    }
}

/// The rules of a ClusterNetworkPolicy, in order.
pub(crate) fn cluster_steps(
    policy: &ClusterNetworkPolicy,
    direction: Direction,
) -> impl Iterator<Item = Step<'_>> {
    policy.rules(direction).iter().enumerate().map(move |(index, rule)| Step {
        rule: RuleId {
            policy: PolicyId::Cluster { tier: policy.tier, name: policy.name.clone() },
            direction,
            index,
        },
        action: rule.action,
        peers: rule.peers.as_deref(),
        ports: rule.ports.as_deref(),
    })
}

/// The rules of a NetworkPolicy, in order.
pub(crate) fn network_steps(
    policy: &NetworkPolicy,
    direction: Direction,
) -> impl Iterator<Item = Step<'_>> {
    let rules = policy.rules(direction).into_iter().flatten();
    rules.enumerate().map(move |(index, rule)| Step {
        rule: RuleId { policy: PolicyId::Network(policy.id.clone()), direction, index },
        action: Action::Accept,
        peers: rule.peers.as_deref(),
        ports: rule.ports.as_deref(),
    })
}
