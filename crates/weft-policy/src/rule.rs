//! What decided, in words that people know.

use std::{fmt, sync::Arc};
use weft_model::{Direction, NamespacedName, Tier};

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyId {
    /// A NetworkPolicy.
    Network(NamespacedName),
    /// A ClusterNetworkPolicy.
    Cluster {
        /// Its tier.
        tier: Tier,
        /// Its name.
        name: Arc<str>,
    },
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(id) => write!(f, "NetworkPolicy {id}"),
            Self::Cluster { tier, name } => write!(f, "ClusterNetworkPolicy {name} ({tier})"),
        }
    }
}

/// A rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId {
    /// The policy.
    pub policy: PolicyId,
    /// Which of its two lists.
    pub direction: Direction,
    /// Its place in that list, from 0 as in `spec.ingress[0]`.
    pub index: usize,
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}[{}]", self.policy, self.direction, self.index)
    }
}

/// Why a side of a connection said yes or no.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// This rule matched.
    Rule(RuleId),
    /// These NetworkPolicies select the pod, and no rule of theirs allows it.
    Isolated(Vec<NamespacedName>),
    /// No policy decides: everything is allowed.
    Unselected,
    /// A pod may always talk to itself.
    Itself,
    /// A node and its own pods may always talk.
    OwnNode,
    /// This side is no pod of the pod network: policy does not apply to it.
    NotAPod,
    /// The pod's rules exceed what tables may hold: nothing passes until they do not.
    TooLarge,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => rule.fmt(f),
            Self::Isolated(policies) => {
                let names: Vec<String> = policies.iter().map(ToString::to_string).collect();
                write!(f, "isolated by NetworkPolicy {}, no rule allows it", names.join(", "))
            }
            Self::Unselected => f.write_str("no policy applies"),
            Self::Itself => f.write_str("a pod may talk to itself"),
            Self::OwnNode => f.write_str("a node and its own pods may talk"),
            Self::NotAPod => f.write_str("not a pod of the pod network"),
            Self::TooLarge => f.write_str("the rules of this pod exceed the limits"),
        }
    }
}

/// The verdict of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether this side lets it through.
    pub allowed: bool,
    /// It passes only because policies are in audit mode: without their annotations it would be
    /// denied, for this reason. Never where it is denied.
    pub audit: bool,
    /// Why; for what passes by audit mode alone, what would deny it first.
    pub reason: Reason,
    /// The rules with action Pass that it met before, at most one a tier; none is told of what
    /// passes by audit mode.
    pub passed: Vec<RuleId>,
}

impl Decision {
    /// Allowed, for a reason that is no rule.
    pub(crate) fn allow(reason: Reason) -> Self {
        Self { allowed: true, audit: false, reason, passed: Vec::new() }
    }

    /// The same, where a policy in audit mode would have denied it before this was asked.
    pub(crate) fn marked(self, by: Option<Reason>) -> Self {
        match by {
            Some(reason) if self.allowed => Self { audit: true, ..Self::allow(reason) },
            _ => self,
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match (self.allowed, self.audit) {
            (true, true) => "allow (audit: would deny)",
            (true, false) => "allow",
            (false, _) => "deny",
        };
        write!(f, "{verdict}: {}", self.reason)?;
        for rule in &self.passed {
            write!(f, ", passed by {rule}")?;
        }
        Ok(())
    }
}

/// What could not be done as asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Diagnostic {
    /// Two pods claim an address; the first in the order of namespace and name has it.
    #[error("pod {loser} is not told apart at {address}: pod {owner} has this address too")]
    SharedAddress {
        /// The address.
        address: std::net::IpAddr,
        /// The pod that keeps it.
        owner: NamespacedName,
        /// The one that does not.
        loser: NamespacedName,
    },
    /// A rule set is closed because it exceeds a bound.
    #[error("{direction} of {pods} pods is closed: their rules need more than {limit} entries")]
    TooLarge {
        /// Which direction.
        direction: Direction,
        /// How many pods of this node it concerns.
        pods: usize,
        /// The bound.
        limit: usize,
        /// The policies whose rules they are.
        policies: Vec<PolicyId>,
    },
    /// A rule set is closed because the address ranges and names of its rules exceed a bound.
    #[error(
        "{direction} of {pods} pods is closed: all ranges and names together exceed {limit} prefixes"
    )]
    TooManyPrefixes {
        /// Which direction.
        direction: Direction,
        /// How many pods of this node it concerns.
        pods: usize,
        /// The bound.
        limit: usize,
        /// The policies whose rules they are.
        policies: Vec<PolicyId>,
    },
    /// Every rule set is closed because there are more peers than a bound.
    #[error("all policies are closed: {peers} addresses of pods and nodes exceed {limit}")]
    TooManyPeers {
        /// How many addresses have an owner.
        peers: usize,
        /// The bound.
        limit: usize,
    },
}
