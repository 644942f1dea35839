//! What a node's data path looks up, and the look-up.
//!
//! Two maps suffice in the kernel: a longest-prefix map from the peer's address to an
//! [`Identity`], and a hash map from (rule set, identity, protocol, port prefix) to an [`Entry`].
//! A new flow costs one look-up of the first, and of the second a few for the peer's identity and
//! for [`Identity::ANY`]: [`RuleSet::lengths`] says which prefix lengths are worth a try.
//!
//! Longest prefix is not priority. Within one identity the compiler leaves nothing that a stronger
//! and wider entry shadows, so the longest prefix that is found is the strongest of that identity;
//! between the two identities the precedences are compared.

use crate::{Decision, Diagnostic, PortPrefix, Reason, RuleId, Transport};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};
use weft_model::{Action, Direction, NamespacedName, NodeName, Protocol};

/// A class of peers that no rule of this node tells apart. A number of this node alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(pub u32);

impl Identity {
    /// Everybody: the wildcard in entries, and the identity of addresses that no rule means.
    pub const ANY: Self = Self(0);
}

/// Number of a rule set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(pub u32);

/// What an entry is found by, inside its set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The peer.
    pub identity: Identity,
    /// The protocol; `None` for every one, those without ports included.
    pub protocol: Option<Protocol>,
    /// The destination ports; [`PortPrefix::ALL`] where the protocol is `None`.
    pub ports: PortPrefix,
}

/// What is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The lower, the stronger; unique to a rule within the set.
    pub precedence: u32,
    /// What becomes of the flow.
    pub action: Action,
    /// Index into [`PolicyTables::reasons`].
    pub reason: u32,
}

/// What a miss means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetKind {
    /// Admin tier: ask the second set.
    Admin,
    /// NetworkPolicies: a last entry denies, there is no miss. A pod may talk to itself.
    Network,
    /// Baseline tier: allowed.
    Baseline,
}

/// The rules that pods share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSet {
    /// What a miss means.
    pub kind: SetKind,
    /// The entries.
    pub entries: HashMap<Key, Entry>,
    /// Bit `n` is set where an entry with a protocol and a port prefix of `n` bits exists.
    pub lengths: u32,
}

impl RuleSet {
    /// The strongest entry for this peer.
    fn find(&self, identity: Identity, transport: Transport) -> Option<Entry> {
        let own = self.find_of(identity, transport);
        if identity == Identity::ANY {
            return own;
        }
        let any = self.find_of(Identity::ANY, transport);
        own.into_iter().chain(any).min_by_key(|e| e.precedence)
    }

    fn find_of(&self, identity: Identity, transport: Transport) -> Option<Entry> {
        if let Transport::Port(protocol, port) = transport {
            for bits in (0..=16).rev().filter(|b| self.lengths & (1 << b) != 0) {
                let ports = PortPrefix::around(port.get(), bits);
                let key = Key { identity, protocol: Some(protocol), ports };
                if let Some(entry) = self.entries.get(&key) {
                    return Some(*entry);
                }
            }
        }
        self.entries.get(&Key { identity, protocol: None, ports: PortPrefix::ALL }).copied()
    }
}

/// The sets of one pod and direction; with neither, no policy is about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Asked first; a miss and Pass lead to `rest`.
    pub admin: Option<SetId>,
    /// NetworkPolicies or the Baseline tier.
    pub rest: Option<SetId>,
}

/// All that one node's policy data path must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyTables {
    /// Generation of the input.
    pub generation: u64,
    /// The node.
    pub node: NodeName,
    /// Longest prefix → identity. What is in no prefix is [`Identity::ANY`].
    pub prefixes: BTreeMap<IpNet, Identity>,
    /// The pods of this node that have a network of their own: ingress, egress.
    pub pods: BTreeMap<NamespacedName, [Hooks; 2]>,
    /// The rule sets.
    pub sets: BTreeMap<SetId, RuleSet>,
    /// What the numbers in entries stand for.
    pub reasons: Vec<Reason>,
    /// What could not be done.
    pub diagnostics: Vec<Diagnostic>,
}

/// A first packet at the link of one of the node's pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The pod.
    pub pod: &'a NamespacedName,
    /// Whether it reaches or leaves the pod.
    pub direction: Direction,
    /// The address at the other end.
    pub peer: IpAddr,
    /// What it carries.
    pub transport: Transport,
    /// The other end is this very pod.
    pub itself: bool,
    /// It was sent to a Service.
    pub through_service: bool,
    /// It bears the mark of this node's own output.
    pub from_this_node: bool,
}

impl PolicyTables {
    /// The identity of an address.
    pub fn identity(&self, address: IpAddr) -> Identity {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        for length in (0..=bits).rev() {
            let Ok(net) = IpNet::new(address, length) else { continue };
            if let Some(identity) = self.prefixes.get(&net.trunc()) {
                return *identity;
            }
        }
        Identity::ANY
    }

    /// What the data path does with `packet`; `None` where the pod is not one of this node's.
    pub fn interpret(&self, packet: &Packet<'_>) -> Option<Decision> {
        let hooks = self.pods.get(packet.pod)?[packet.direction as usize];
        if packet.itself && !packet.through_service {
            return Some(Decision::allow(Reason::Itself));
        }
        if packet.direction == Direction::Ingress && packet.from_this_node {
            return Some(Decision::allow(Reason::OwnNode));
        }
        let identity = self.identity(packet.peer);
        let mut passed = Vec::new();
        if let Some(entry) = self.find(hooks.admin, identity, packet.transport) {
            match entry.action {
                Action::Pass => passed.extend(self.rule(entry)),
                _ => return Some(self.decision(entry, passed)),
            }
        }
        let unselected = |passed| Decision { allowed: true, reason: Reason::Unselected, passed };
        let Some(entry) = self.find(hooks.rest, identity, packet.transport) else {
            return Some(unselected(passed));
        };
        let network = hooks.rest.and_then(|s| self.sets.get(&s));
        let network = network.is_some_and(|s| s.kind == SetKind::Network);
        Some(match entry.action {
            Action::Pass => {
                passed.extend(self.rule(entry));
                unselected(passed)
            }
            Action::Deny if network && packet.itself => {
                Decision { allowed: true, reason: Reason::Itself, passed }
            }
            _ => self.decision(entry, passed),
        })
    }

    fn find(&self, set: Option<SetId>, identity: Identity, transport: Transport) -> Option<Entry> {
        self.sets.get(&set?)?.find(identity, transport)
    }

    fn rule(&self, entry: Entry) -> Option<RuleId> {
        match self.reasons.get(entry.reason as usize) {
            Some(Reason::Rule(rule)) => Some(rule.clone()),
            _ => None,
        }
    }

    fn decision(&self, entry: Entry, passed: Vec<RuleId>) -> Decision {
        let reason = self.reasons.get(entry.reason as usize).cloned();
        let reason = reason.unwrap_or(Reason::TooLarge);
        Decision { allowed: entry.action == Action::Accept, reason, passed }
    }

    /// How many entries all sets have together.
    pub fn entries(&self) -> usize {
        self.sets.values().map(|s| s.entries.len()).sum()
    }
}
