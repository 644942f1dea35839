//! Policy in the kernel's terms: numbers of rule sets, identities and reasons, and links by their
//! index. What the numbers stand for is the caller's.

mod maps;

pub use maps::PolicyMaps;

use crate::verdicts::ends;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use weft_bpf_abi::{
    Addr, BlockKey, ConnKey, ConnValue, EventConfig, FROM_POD, PROTO_SCTP, PROTO_TCP, PROTO_UDP,
    PeerKey, PodPolicy, RuleKey, RuleValue, SetValue,
};
use weft_model::{Action, Direction, Protocol};

/// One entry of a rule set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyEntry {
    /// The peer's identity; 0 for everybody.
    pub identity: u32,
    /// The protocol; `None` for every one, those without ports included.
    pub protocol: Option<Protocol>,
    /// First destination port of the prefix; 0 where the protocol is `None`.
    pub port: u16,
    /// How many leading bits of the port count, 0 to 16.
    pub bits: u8,
    /// The lower, the stronger.
    pub precedence: u32,
    /// What becomes of the flow.
    pub action: Action,
    /// A policy on trial. With Deny the flow goes on, finally, and is told of; with Pass the second
    /// set is asked, and what passes there is told of.
    pub audit: bool,
    /// Number of the reason, below [`weft_bpf_abi::reason::FIRST`].
    pub reason: u32,
}

impl PolicyEntry {
    fn key(&self, set: u32) -> RuleKey {
        let protocol = match self.protocol {
            None => 0,
            Some(Protocol::Tcp) => PROTO_TCP,
            Some(Protocol::Udp) => PROTO_UDP,
            Some(Protocol::Sctp) => PROTO_SCTP,
        };
        RuleKey { set, identity: self.identity, port: self.port, protocol, bits: self.bits }
    }

    fn value(&self) -> RuleValue {
        let action = match self.action {
            Action::Accept => RuleValue::ACCEPT,
            Action::Deny => RuleValue::DENY,
            Action::Pass => RuleValue::PASS,
        };
        let flags = if self.audit { RuleValue::AUDIT } else { 0 };
        RuleValue { precedence: self.precedence, reason: self.reason, action, flags, pad: 0 }
    }
}

/// What a miss in a rule set means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicySetKind {
    /// The second set is asked.
    Admin,
    /// There is none: the last entry denies. A pod may talk to itself.
    Network,
    /// Everything is allowed.
    Baseline,
}

/// A rule set, or what is added to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySet {
    /// Its number; never 0.
    pub number: u32,
    /// What a miss means.
    pub kind: PolicySetKind,
    /// Bit `n` is set where the whole set has an entry with a protocol and `n` bits.
    pub lengths: u32,
    /// The entries.
    pub entries: Vec<PolicyEntry>,
}

impl PolicySet {
    fn value(&self) -> SetValue {
        let kind = match self.kind {
            PolicySetKind::Admin => SetValue::ADMIN,
            PolicySetKind::Network => SetValue::NETWORK,
            PolicySetKind::Baseline => SetValue::BASELINE,
        };
        SetValue { kind, lengths: self.lengths }
    }
}

/// The rule sets of one pod and direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodSets {
    /// The Admin tier.
    pub admin: Option<u32>,
    /// What is asked after it.
    pub rest: Option<u32>,
}

/// Whether a pod was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodState {
    /// Not yet: only its own node reaches it.
    Unknown,
    /// Its sets hold.
    Ready,
}

/// What applies to one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyPod {
    /// Index of its link.
    pub link: u32,
    /// Whose identities its peers have; 0 for a pod that has no sets.
    pub epoch: u32,
    /// Whether the sets hold.
    pub state: PodState,
    /// For what it receives.
    pub ingress: PodSets,
    /// For what it sends.
    pub egress: PodSets,
}

impl PolicyPod {
    /// A pod that nobody has judged yet.
    pub fn unknown(link: u32) -> Self {
        let (ingress, egress) = Default::default();
        Self { link, epoch: 0, state: PodState::Unknown, ingress, egress }
    }

    fn lower(&self) -> PodPolicy {
        let sets = |s: PodSets| [s.admin.unwrap_or(0), s.rest.unwrap_or(0)];
        PodPolicy {
            link: self.link,
            epoch: self.epoch,
            state: match self.state {
                PodState::Unknown => PodPolicy::UNKNOWN,
                PodState::Ready => PodPolicy::READY,
            },
            ingress: sets(self.ingress),
            egress: sets(self.egress),
        }
    }

    fn raise(link: u32, value: &PodPolicy) -> Self {
        let number = |n: u32| Some(n).filter(|n| *n != 0);
        let sets = |[admin, rest]: [u32; 2]| PodSets { admin: number(admin), rest: number(rest) };
        let ready = value.state == PodPolicy::READY;
        Self {
            link,
            epoch: value.epoch,
            state: if ready { PodState::Ready } else { PodState::Unknown },
            ingress: sets(value.ingress),
            egress: sets(value.egress),
        }
    }
}

/// A change of the tables; [`PolicyMaps::apply`] does it in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyStep {
    /// The epoch of `moves`; never 0.
    pub epoch: u32,
    /// Entries for identities that nobody bears yet, added to sets that exist.
    pub extend: Vec<PolicySet>,
    /// Identities of prefixes; `None` where they have none any more.
    pub moves: Vec<(IpNet, Option<u32>)>,
    /// New sets, whole.
    pub sets: Vec<PolicySet>,
    /// Pods whose sets, epoch or state change.
    pub pods: Vec<PolicyPod>,
}

/// What nobody refers to any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyRetire {
    /// All identities of these epochs.
    pub epochs: Vec<u32>,
    /// These sets with all entries.
    pub sets: Vec<u32>,
    /// Single entries of sets that stay.
    pub entries: Vec<(u32, PolicyEntry)>,
    /// Counters of these reasons.
    pub reasons: Vec<u32>,
    /// Links without policy from now on: everything passes there.
    pub pods: Vec<u32>,
}

/// What a restarted agent finds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyObserved {
    /// The generation in force.
    pub generation: u32,
    /// The highest epoch, 0 for none.
    pub epoch_max: u32,
    /// The highest number of a set, 0 for none.
    pub set_max: u32,
    /// All epochs that something is there of, in order.
    pub epochs: Vec<u32>,
    /// All sets that something is there of, in order.
    pub sets: Vec<u32>,
    /// All pods with a value, by link.
    pub pods: Vec<PolicyPod>,
}

/// Counters of policy since the maps were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyStats {
    /// Flows that were remembered.
    pub flows: u64,
    /// Packets dropped, whatever the reason.
    pub denied: u64,
    /// Those of them that met the entry of a denied flow.
    pub tombstones: u64,
    /// Those of them in the middle of a flow that nobody knows.
    pub no_flow: u64,
    /// Those of them at a pod that nobody had judged.
    pub unknown: u64,
    /// Those of them whose transport header cannot be found.
    pub unreadable: u64,
    /// Flows judged again after a change.
    pub rejudged: u64,
    /// Those of them that ended by it.
    pub cut: u64,
    /// Flows that a rule on trial would deny.
    pub audited: u64,
    /// Events sent.
    pub events: u64,
    /// Events not sent because there were too many.
    pub events_limited: u64,
    /// Events that found no room.
    pub events_lost: u64,
    /// Judgements counted under no reason because there are too many.
    pub reasons_full: u64,
    /// Contradictions in the tables.
    pub faults: u64,
}

/// Counters of one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReasonCounts {
    /// Flows allowed by it, each judgement counted.
    pub allowed: u64,
    /// Flows denied by it.
    pub denied: u64,
    /// Flows that would be denied by it.
    pub audited: u64,
    /// Packets dropped by it.
    pub dropped: u64,
}

/// Which events are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventOptions {
    /// One of so many new allowed flows is told of; 0 for none.
    pub allowed_every: u32,
    /// Whether denials, and what would be denied, are told of.
    pub denied: bool,
    /// Events a second and CPU, for allowed flows and for denials each.
    pub rate_per_s: u32,
    /// How many of them may come at once.
    pub burst: u32,
}

impl Default for EventOptions {
    /// Everything, 1,000 a second.
    fn default() -> Self {
        Self { allowed_every: 1, denied: true, rate_per_s: 1000, burst: 1000 }
    }
}

impl EventOptions {
    fn lower(&self) -> EventConfig {
        EventConfig {
            allowed_every: self.allowed_every,
            denied: u32::from(self.denied),
            rate_per_s: self.rate_per_s,
            burst: self.burst,
        }
    }
}

/// What became of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyVerdict {
    /// It passes.
    Allowed,
    /// It is dropped.
    Denied,
    /// It passes; a rule on trial would deny it.
    Audited,
}

impl PolicyVerdict {
    pub(crate) fn new(verdict: u8) -> Self {
        match verdict {
            ConnValue::ALLOWED => Self::Allowed,
            ConnValue::AUDITED => Self::Audited,
            _ => Self::Denied,
        }
    }
}

/// What else is known of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowMarks {
    /// The pod's own node began it.
    pub from_node: bool,
    /// The pod began it with a Service, and it was translated at the link.
    pub through_service: bool,
    /// The pod reaches itself.
    pub bounce: bool,
    /// It was allowed once, and a change of the rules ended it.
    pub cut: bool,
}

impl FlowMarks {
    pub(crate) fn new(flags: u8) -> Self {
        Self {
            from_node: flags & ConnValue::FROM_NODE != 0,
            through_service: flags & ConnValue::THROUGH_SERVICE != 0,
            bounce: flags & ConnValue::BOUNCE != 0,
            cut: flags & ConnValue::CUT != 0,
        }
    }
}

/// A flow that is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyFlow {
    /// Index of the pod's link.
    pub link: u32,
    /// The pod's end.
    pub own: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
    /// Protocol number (IANA).
    pub protocol: u8,
    /// Which way it began.
    pub direction: Direction,
    /// What became of it.
    pub verdict: PolicyVerdict,
    /// Number of the reason.
    pub reason: u32,
    /// The generation that judged it.
    pub generation: u32,
    /// Both ends have spoken.
    pub answered: bool,
    /// TCP and SCTP: one end ends it.
    pub closing: bool,
    /// Last packet, in nanoseconds of the monotonic clock; at most about a second old.
    pub last_ns: u64,
    /// What else is known of it.
    pub marks: FlowMarks,
}

impl PolicyFlow {
    fn new(key: &ConnKey, value: &ConnValue) -> Self {
        let (own, peer) = ends(key);
        Self {
            link: key.link,
            own,
            peer,
            protocol: key.protocol,
            direction: direction(value.initiator),
            verdict: PolicyVerdict::new(value.verdict),
            reason: value.reason,
            generation: value.generation,
            answered: value.state != ConnValue::NEW,
            closing: value.state == ConnValue::CLOSING,
            last_ns: value.last_ns,
            marks: FlowMarks::new(value.flags),
        }
    }
}

pub(crate) fn direction(side: u8) -> Direction {
    if u32::from(side) == FROM_POD { Direction::Egress } else { Direction::Ingress }
}

/// The kernel's form of a prefix: a host, or a block.
enum Place {
    Host(PeerKey),
    Block(BlockKey),
}

fn place(epoch: u32, prefix: &IpNet) -> Place {
    let words = |ip: IpAddr| Addr::from_socket((ip, 0).into(), 0).ip;
    let ip = words(prefix.network());
    if prefix.prefix_len() == prefix.max_prefix_len() {
        return Place::Host(PeerKey { epoch, ip });
    }
    let (family, mapped) = if prefix.addr().is_ipv4() { (4, 96) } else { (6, 0) };
    let bits = BlockKey::FIXED_BITS + mapped + u32::from(prefix.prefix_len());
    Place::Block(BlockKey { bits, epoch, family, ip })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_hosts_or_blocks() {
        let place = |text: &str| place(7, &text.parse().expect("prefix"));
        let word = |bytes| u32::from_ne_bytes(bytes);
        let v4 = |bytes| [0, 0, word([0, 0, 0xff, 0xff]), word(bytes)];
        let Place::Host(key) = place("10.1.2.3/32") else { panic!("a host") };
        assert_eq!(key, PeerKey { epoch: 7, ip: v4([10, 1, 2, 3]) });
        let Place::Block(key) = place("10.1.2.3/8") else { panic!("a block") };
        assert_eq!(key, BlockKey { bits: 64 + 96 + 8, epoch: 7, family: 4, ip: v4([10, 0, 0, 0]) });
        let Place::Block(key) = place("0.0.0.0/0") else { panic!("a block") };
        assert_eq!(key, BlockKey { bits: 64 + 96, epoch: 7, family: 4, ip: v4([0; 4]) });
        let Place::Block(key) = place("::/0") else { panic!("a block") };
        assert_eq!(key, BlockKey { bits: 64, epoch: 7, family: 6, ip: [0; 4] });
        assert!(matches!(place("fd00::1/128"), Place::Host(_)));
    }

    #[test]
    fn pods_come_back_as_they_were_put() {
        let sets = |admin, rest| PodSets { admin, rest };
        let pod = PolicyPod {
            link: 3,
            epoch: 9,
            state: PodState::Ready,
            ingress: sets(None, Some(4)),
            egress: sets(Some(5), None),
        };
        assert_eq!(PolicyPod::raise(3, &pod.lower()), pod);
        let unknown = PolicyPod::unknown(3);
        assert_eq!(PolicyPod::raise(3, &unknown.lower()), unknown);
    }
}
