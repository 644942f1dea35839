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
//! - A policy in audit mode (`docs/adr/0024-audit-mode.md`) allows as others do. What its Deny rules
//!   match goes on to the rules below; what a NetworkPolicy in audit mode does not allow is denied
//!   where one that is not isolates the pod too, and goes on to the Baseline tier otherwise.
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
    /// Its policy is in audit mode. Only Deny is different then: it marks what it matches.
    pub audit: bool,
}

/// The rules of a tier group.
#[derive(Clone, Debug)]
pub enum Rest<'a> {
    /// NetworkPolicies select the pod: what no step allows is denied.
    Network {
        /// Whether all of them are in audit mode.
        audit: bool,
        /// Those that deny the rest, by name: the ones that are not in audit mode, or all where
        /// every one is.
        policies: Vec<NamespacedName>,
        /// The rules of all of them.
        steps: Vec<Step<'a>>,
        /// Where all are in audit mode: what then decides about the rest.
        below: Vec<Step<'a>>,
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
            let audit = selecting.iter().all(|p| world.in_audit_mode(p));
            let denying = selecting.iter().filter(|p| audit || !world.in_audit_mode(p));
            Rest::Network {
                audit,
                policies: denying.map(|p| p.id.clone()).collect(),
                steps: selecting.iter().flat_map(|p| network_steps(p, direction)).collect(),
                below: if audit { tier(Tier::Baseline) } else { Vec::new() },
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
        audit: policy.audit,
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
        audit: false,
    })
}
