//! What a node's data path looks up, and the look-up.
//!
//! Two maps suffice in the kernel: a longest-prefix map from the peer's address to an
//! [`Identity`], and a hash map from (rule set, identity, protocol, port prefix) to an [`Entry`].
//! A new flow costs one look-up of the first, and of the second a few for the peer's identity and
//! for [`Identity::ANY`]: [`RuleSet::lengths`] says which prefix lengths are worth a try.
//!
//! Longest prefix is not priority. Within one identity the compiler leaves nothing that a stronger
//! and wider entry shadows, so the longest prefix that is found is the strongest of that identity;
//! between the two identities the precedences are compared. The same precedence is one rule, of
//! which audit mode left two entries: the peer's own one says more.

use crate::{Decision, Diagnostic, PortPrefix, Reason, Reasons, RuleId, Transport};
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

/// Number of a rule set. 0 is never one.
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
    /// Audit mode. With Deny the flow passes, finally, and is marked with the reason. With Pass
    /// the next set is asked, and if the flow passes there, it is marked with this reason. Never
    /// with Accept.
    pub audit: bool,
    /// Number in [`Reasons`].
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
    /// Bit `n` is set where an entry with a protocol and a port prefix of `n` bits may exist. The
    /// rules alone decide: it stays while the set lives, whoever becomes a peer.
    pub lengths: u32,
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
    pub reasons: Reasons,
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

/// Where tables are looked up: in a picture of them, or in what stands in for the kernel's maps.
pub trait Lookup {
    /// The sets of a pod, ingress and egress; `None` for one that nobody judged.
    fn hooks(&self, pod: &NamespacedName) -> Option<[Hooks; 2]>;
    /// The identity of an address as a pod sees it: that of the longest prefix.
    fn identity(&self, pod: &NamespacedName, address: IpAddr) -> Identity;
    /// Kind and prefix lengths of a set.
    fn set(&self, set: SetId) -> Option<(SetKind, u32)>;
    /// An entry.
    fn entry(&self, set: SetId, key: &Key) -> Option<Entry>;
    /// What a number stands for.
    fn reason(&self, number: u32) -> Option<Reason>;
}

/// What the data path does with `packet`; `None` where nobody judged the pod.
pub fn interpret(tables: &impl Lookup, packet: &Packet<'_>) -> Option<Decision> {
    let hooks = tables.hooks(packet.pod)?[packet.direction as usize];
    if packet.itself && !packet.through_service {
        return Some(Decision::allow(Reason::Itself));
    }
    if packet.direction == Direction::Ingress && packet.from_this_node {
        return Some(Decision::allow(Reason::OwnNode));
    }
    let identity = tables.identity(packet.pod, packet.peer);
    let ask = |set: Option<SetId>| {
        let set = set?;
        let (kind, lengths) = tables.set(set)?;
        Some((kind, find(tables, set, lengths, identity, packet.transport)?))
    };
    let reason = |entry: Entry| tables.reason(entry.reason).unwrap_or(Reason::TooLarge);
    let decision = |entry: Entry, passed| {
        let allowed = entry.action == Action::Accept || entry.audit;
        let passed = if entry.audit { Vec::new() } else { passed };
        Decision { allowed, audit: entry.audit, reason: reason(entry), passed }
    };
    let pass = |entry: Entry, passed: &mut Vec<RuleId>| {
        if let Reason::Rule(rule) = reason(entry) {
            passed.push(rule);
        }
    };
    let (mut passed, mut marked) = (Vec::new(), None);
    match ask(hooks.admin) {
        Some((_, entry)) if entry.action != Action::Pass => return Some(decision(entry, passed)),
        Some((_, entry)) if entry.audit => marked = Some(reason(entry)),
        Some((_, entry)) => pass(entry, &mut passed),
        None => {}
    }
    let allow = |reason, passed| Decision { passed, ..Decision::allow(reason) };
    let rest = match ask(hooks.rest) {
        None => allow(Reason::Unselected, passed),
        Some((_, entry)) if entry.action == Action::Pass => {
            pass(entry, &mut passed);
            allow(Reason::Unselected, passed)
        }
        Some((SetKind::Network, entry)) if entry.action == Action::Deny && packet.itself => {
            allow(Reason::Itself, passed)
        }
        Some((_, entry)) => decision(entry, passed),
    };
    Some(rest.marked(marked))
}

/// The strongest entry for this peer.
fn find(
    tables: &impl Lookup,
    set: SetId,
    lengths: u32,
    identity: Identity,
    transport: Transport,
) -> Option<Entry> {
    let of = |identity| {
        if let Transport::Port(protocol, port) = transport {
            for bits in (0..=16).rev().filter(|b| lengths & (1 << b) != 0) {
                let ports = PortPrefix::around(port.get(), bits);
                let key = Key { identity, protocol: Some(protocol), ports };
                if let Some(entry) = tables.entry(set, &key) {
                    return Some(entry);
                }
            }
        }
        tables.entry(set, &Key { identity, protocol: None, ports: PortPrefix::ALL })
    };
    let own = of(identity);
    if identity == Identity::ANY {
        return own;
    }
    // Of equal ones the first: the peer's own.
    own.into_iter().chain(of(Identity::ANY)).min_by_key(|e| e.precedence)
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
        interpret(self, packet)
    }

    /// How many entries all sets have together.
    pub fn entries(&self) -> usize {
        self.sets.values().map(|s| s.entries.len()).sum()
    }
}

impl Lookup for PolicyTables {
    fn hooks(&self, pod: &NamespacedName) -> Option<[Hooks; 2]> {
        self.pods.get(pod).copied()
    }

    fn identity(&self, _: &NamespacedName, address: IpAddr) -> Identity {
        self.identity(address)
    }

    fn set(&self, set: SetId) -> Option<(SetKind, u32)> {
        self.sets.get(&set).map(|s| (s.kind, s.lengths))
    }

    fn entry(&self, set: SetId, key: &Key) -> Option<Entry> {
        self.sets.get(&set)?.entries.get(key).copied()
    }

    fn reason(&self, number: u32) -> Option<Reason> {
        self.reasons.get(number).cloned()
    }
}
