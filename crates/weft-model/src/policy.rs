//! NetworkPolicy (networking.k8s.io/v1) and ClusterNetworkPolicy
//! (policy.networking.k8s.io/v1alpha2), parsed.
//!
//! A list that the API leaves out or empty means "not restricted", and is `None` here. An empty
//! `Some` matches nothing: it is what remains of a list of which every item was unusable.

use crate::{NamespacedName, Port, Protocol, Selector};
use ipnet::IpNet;
use std::{fmt, sync::Arc};

/// From where a policy is seen: of the pod that it selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// Which destination ports a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// Every port of the protocol.
    All(Protocol),
    /// `first..=last` of the protocol.
    Range {
        /// The protocol.
        protocol: Protocol,
        /// The first port.
        first: Port,
        /// The last port, not below `first`.
        last: Port,
    },
    /// What the destination pod calls so, possibly of one protocol alone (a NetworkPolicy
    /// always says which).
    Named {
        /// The protocol; `None` for any.
        protocol: Option<Protocol>,
        /// Name of a container port.
        name: Arc<str>,
    },
}

impl fmt::Display for PortMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(protocol) => write!(f, "{protocol}"),
            Self::Range { protocol, first, last } if first == last => {
                write!(f, "{protocol}/{first}")
            }
            Self::Range { protocol, first, last } => write!(f, "{protocol}/{first}-{last}"),
            Self::Named { protocol: Some(protocol), name } => write!(f, "{protocol}/{name}"),
            Self::Named { protocol: None, name } => write!(f, "{name}"),
        }
    }
}

/// An address range with holes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpBlock {
    /// The range, without host bits.
    pub cidr: IpNet,
    /// What is not part of it.
    pub except: Vec<IpNet>,
}

/// Pods by the labels of their namespaces and their own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodSet {
    /// Their namespaces.
    pub namespaces: NamespaceSet,
    /// The pods in them.
    pub pods: Selector,
}

/// Some namespaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamespaceSet {
    /// This one alone.
    Name(Arc<str>),
    /// Those with matching labels.
    Selected(Selector),
}

/// One item of `to` or `from`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Pods of the pod network.
    Pods(PodSet),
    /// Addresses, whosoever they are.
    Block(IpBlock),
    /// Nodes, by any of their addresses.
    Nodes(Selector),
    /// Addresses that this name was seen to resolve to.
    Domain(DomainPattern),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods(set) => match &set.namespaces {
                NamespaceSet::Name(name) => write!(f, "pods {} in namespace {name}", set.pods),
                NamespaceSet::Selected(s) => write!(f, "pods {} in namespaces {s}", set.pods),
            },
            Self::Block(block) if block.except.is_empty() => write!(f, "{}", block.cidr),
            Self::Block(block) => {
                let except: Vec<String> = block.except.iter().map(ToString::to_string).collect();
                write!(f, "{} except {}", block.cidr, except.join(", "))
            }
            Self::Nodes(selector) => write!(f, "nodes {selector}"),
            Self::Domain(name) => write!(f, "{name}"),
        }
    }
}

/// `domainNames[]`: a name, or with `*.` in front everything below it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainPattern {
    below: bool,
    /// Lower case, without the final dot.
    name: Arc<str>,
}

impl DomainPattern {
    /// Parses what the API accepts; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (below, name) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        let label = |l: &str| {
            let inside = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            !l.is_empty()
                && l.bytes().all(inside)
                && !l.starts_with(['-', '_'])
                && !l.ends_with(['-', '_'])
        };
        let good = name.len() <= 253 && name.contains('.') && name.split('.').all(label);
        good.then(|| Self { below, name: name.to_ascii_lowercase().into() })
    }

    /// Whether `name` (any case, with or without the final dot) is meant. `*` stands for one or
    /// more whole labels.
    pub fn matches(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        if !self.below {
            return name.eq_ignore_ascii_case(&self.name);
        }
        let Some(split) = name.len().checked_sub(self.name.len() + 1) else { return false };
        split > 0
            && name.is_char_boundary(split)
            && name.as_bytes()[split] == b'.'
            && name[split + 1..].eq_ignore_ascii_case(&self.name)
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.name)
    }
}

/// One rule of a NetworkPolicy: it allows what matches both lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRule {
    /// `to` or `from`; `None` for everybody.
    pub peers: Option<Vec<Peer>>,
    /// `ports`; `None` for every port and protocol.
    pub ports: Option<Vec<PortMatch>>,
}

/// A NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Namespace and name.
    pub id: NamespacedName,
    /// The pods of its namespace that it isolates.
    pub pods: Selector,
    /// Rules for what reaches them; `None` where `policyTypes` leaves ingress alone.
    pub ingress: Option<Vec<NetworkRule>>,
    /// Rules for what they send; `None` where `policyTypes` leaves egress alone.
    pub egress: Option<Vec<NetworkRule>>,
    /// Annotation `weft.dev/policy-audit: enabled`: its rules allow, and what it alone would deny
    /// passes and is marked.
    pub audit: bool,
}

impl NetworkPolicy {
    /// The rules of one direction.
    pub fn rules(&self, direction: Direction) -> Option<&[NetworkRule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// `spec.tier` of a ClusterNetworkPolicy; NetworkPolicies stand between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Before every NetworkPolicy.
    Admin,
    /// For pods that no NetworkPolicy selects.
    Baseline,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "Admin",
            Self::Baseline => "Baseline",
        })
    }
}

/// `action` of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Let it through; nothing further is asked.
    Accept,
    /// Drop it; nothing further is asked.
    Deny,
    /// Leave the tier.
    Pass,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accept => "Accept",
            Self::Deny => "Deny",
            Self::Pass => "Pass",
        })
    }
}

/// One rule of a ClusterNetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterRule {
    /// `name`; may be empty.
    pub name: Arc<str>,
    /// What it does.
    pub action: Action,
    /// `to` or `from`; `None` for everybody (a rule that failed closed).
    pub peers: Option<Vec<Peer>>,
    /// `protocols`; `None` for every port and protocol.
    pub ports: Option<Vec<PortMatch>>,
}

impl ClusterRule {
    /// What stands in for a rule that holds something unknown (API doc of
    /// ClusterNetworkPolicyEgressPeer): an Accept rule matches no traffic, any other denies all.
    pub fn failed_closed(name: Arc<str>, action: Action) -> Self {
        match action {
            Action::Accept => Self { name, action, peers: Some(Vec::new()), ports: None },
            Action::Deny | Action::Pass => {
                Self { name, action: Action::Deny, peers: None, ports: None }
            }
        }
    }
}

/// A ClusterNetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNetworkPolicy {
    /// Its name.
    pub name: Arc<str>,
    /// Its tier.
    pub tier: Tier,
    /// 0 to 1000; lower comes first within the tier.
    pub priority: u16,
    /// The pods that it applies to.
    pub subject: PodSet,
    /// Rules for what reaches them, the first that matches decides.
    pub ingress: Vec<ClusterRule>,
    /// Rules for what they send.
    pub egress: Vec<ClusterRule>,
    /// Annotation `weft.dev/policy-audit: enabled`: what its Deny rules match is marked, and goes
    /// on to the rules below as if they were not there.
    pub audit: bool,
}

impl ClusterNetworkPolicy {
    /// The rules of one direction.
    pub fn rules(&self, direction: Direction) -> &[ClusterRule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_pattern_means_whole_labels() {
        let exact = DomainPattern::parse("Kubernetes.io").expect("valid");
        for (name, meant) in [
            ("kubernetes.io", true),
            ("KUBERNETES.io.", true),
            ("www.kubernetes.io", false),
            ("my-kubernetes.io", false),
        ] {
            assert_eq!(exact.matches(name), meant, "{name}");
        }
        let below = DomainPattern::parse("*.kubernetes.io.").expect("valid");
        for (name, meant) in [
            ("www.kubernetes.io", true),
            ("latest.blog.kubernetes.io.", true),
            ("kubernetes.io", false),
            (".kubernetes.io", false),
            ("my-kubernetes.io", false),
            ("é.kubernetes.io", true),
            ("wikipedia.org", false),
        ] {
            assert_eq!(below.matches(name), meant, "{name}");
        }
        for bad in ["", "*", "io", "*.io", "a.*.io", "-a.io", "a..io", "a b.io"] {
            assert_eq!(DomainPattern::parse(bad), None, "{bad}");
        }
    }
}
