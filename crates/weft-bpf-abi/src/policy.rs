//! Policy at the pods' links: who the peers are, the rules, the flows, and what is told of them.

use core::mem::{align_of, offset_of, size_of};

/// One host's address ([`crate::MapName::Peers`]); the value is its identity (`u32`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey {
    /// Of the tables that the identity belongs to; never 0.
    pub epoch: u32,
    /// As in [`crate::Addr::ip`].
    pub ip: [u32; 4],
}

/// A prefix that is no single host ([`crate::MapName::Blocks`], a trie of longest prefixes);
/// the value is its identity (`u32`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockKey {
    /// How many bits behind this field count: [`BlockKey::FIXED_BITS`] and those of the
    /// (v4-mapped) prefix.
    pub bits: u32,
    /// As in [`PeerKey::epoch`].
    pub epoch: u32,
    /// 4 or 6: `::/0` must not hold IPv4 addresses, although they are v4-mapped.
    pub family: u32,
    /// As in [`crate::Addr::ip`]; the bits behind the prefix are zero.
    pub ip: [u32; 4],
}

impl BlockKey {
    /// Epoch and family count as a whole.
    pub const FIXED_BITS: u32 = 64;
    /// What a look-up of one address has in [`BlockKey::bits`].
    pub const ALL_BITS: u32 = Self::FIXED_BITS + 128;
}

/// What a rule is found by ([`crate::MapName::Rules`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleKey {
    /// The rule set; never 0.
    pub set: u32,
    /// The peer's identity; 0 for everybody.
    pub identity: u32,
    /// First destination port of the prefix, **host byte order**.
    pub port: u16,
    /// Protocol number; 0 for every one, those without ports included. Then `port` and `bits`
    /// are 0.
    pub protocol: u8,
    /// How many leading bits of the port count, 0 to 16.
    pub bits: u8,
}

/// What a rule says ([`crate::MapName::Rules`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleValue {
    /// The lower, the stronger.
    pub precedence: u32,
    /// Number of the reason.
    pub reason: u32,
    /// [`RuleValue::ACCEPT`], [`RuleValue::DENY`] or [`RuleValue::PASS`].
    pub action: u8,
    /// [`RuleValue::AUDIT`].
    pub flags: u8,
    /// Zero.
    pub pad: u16,
}

impl RuleValue {
    /// The flow is allowed.
    pub const ACCEPT: u8 = 0;
    /// The flow is denied.
    pub const DENY: u8 = 1;
    /// The second set decides.
    pub const PASS: u8 = 2;
    /// With [`RuleValue::DENY`]: the flow goes on, finally, and is told as "would be denied".
    /// With [`RuleValue::PASS`]: the second set is asked, and what passes there is told so.
    pub const AUDIT: u8 = 1;
}

/// One rule set ([`crate::MapName::Sets`]; the key is its number).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetValue {
    /// [`SetValue::ADMIN`], [`SetValue::NETWORK`] or [`SetValue::BASELINE`].
    pub kind: u32,
    /// Bit `n` is set where a rule with a protocol and a port prefix of `n` bits exists.
    pub lengths: u32,
}

impl SetValue {
    /// A miss leads to the second set.
    pub const ADMIN: u32 = 0;
    /// The last rule denies; a pod may talk to itself.
    pub const NETWORK: u32 = 1;
    /// A miss allows.
    pub const BASELINE: u32 = 2;
}

/// What applies to one pod ([`crate::MapName::PodPolicy`]; the key is its link's index).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodPolicy {
    /// The key again: an element that the kernel reuses while it is read is another link's.
    pub link: u32,
    /// Whose identities its peers have.
    pub epoch: u32,
    /// [`PodPolicy::UNKNOWN`] or [`PodPolicy::READY`].
    pub state: u32,
    /// Rule sets for what the pod receives: the Admin tier, and what is asked after it; 0 for
    /// none.
    pub ingress: [u32; 2],
    /// The same for what it sends.
    pub egress: [u32; 2],
}

impl PodPolicy {
    /// Nobody has judged the pod yet: only its node reaches it.
    pub const UNKNOWN: u32 = 0;
    /// The sets hold.
    pub const READY: u32 = 1;
}

/// A flow at a pod's link ([`crate::MapName::Conns`]), as its packets look on the wire outside
/// of the pod: behind the translation of what it sends, before that of what it receives.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnKey {
    /// Address of the other end, as in [`crate::Addr::ip`].
    pub peer: [u32; 4],
    /// Address of the pod's end.
    pub own: [u32; 4],
    /// Index of the pod's link.
    pub link: u32,
    /// Port of the pod's end, network byte order. ICMP: the identifier, at both ends; other
    /// protocols without ports: 0.
    pub own_port: u16,
    /// Port of the other end, network byte order.
    pub peer_port: u16,
    /// Protocol number (IANA).
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// How a flow stands ([`crate::MapName::Conns`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnValue {
    /// Last packet, in nanoseconds of the monotonic clock; at most about a second old.
    pub last_ns: u64,
    /// The node's generation when it was judged ([`crate::MapName::Generation`]).
    pub generation: u32,
    /// Number of the reason.
    pub reason: u32,
    /// Who sent the first packet: [`crate::FROM_POD`] or [`crate::TO_POD`].
    pub initiator: u8,
    /// [`ConnValue::ALLOWED`], [`ConnValue::DENIED`] or [`ConnValue::AUDITED`].
    pub verdict: u8,
    /// [`ConnValue::NEW`], [`ConnValue::OPEN`] or [`ConnValue::CLOSING`].
    pub state: u8,
    /// [`ConnValue::FROM_NODE`] and others.
    pub flags: u8,
    /// Zero.
    pub pad: u32,
}

impl ConnValue {
    /// Packets pass.
    pub const ALLOWED: u8 = 0;
    /// Packets are dropped.
    pub const DENIED: u8 = 1;
    /// Packets pass; a rule on trial would deny them.
    pub const AUDITED: u8 = 2;

    /// One side has spoken.
    pub const NEW: u8 = 0;
    /// Both sides have spoken.
    pub const OPEN: u8 = 1;
    /// TCP and SCTP: one side ends it.
    pub const CLOSING: u8 = 2;

    /// The pod's own node sent the first packet.
    pub const FROM_NODE: u8 = 1;
    /// The first packet was sent to a Service and translated at this link.
    pub const THROUGH_SERVICE: u8 = 2;
    /// The pod reaches itself: packets turn round at the link.
    pub const BOUNCE: u8 = 4;
    /// It was allowed once, and a change of the rules ended it.
    pub const CUT: u8 = 8;
    /// The pod's end is an address of the pod: its source was looked at.
    pub const OWN: u8 = 16;
}

/// What is told of a flow ([`crate::MapName::Verdicts`], records of this layout one after the
/// other).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerdictEvent {
    /// When, in nanoseconds of the monotonic clock.
    pub time_ns: u64,
    /// Which flow.
    pub key: ConnKey,
    /// Number of the reason.
    pub reason: u32,
    /// Number of the last rule that it met before and whose action is Pass; [`reason::NONE`]
    /// for none.
    pub passed: u32,
    /// The node's generation when it was judged.
    pub generation: u32,
    /// Which way was judged: [`crate::FROM_POD`] by egress rules, [`crate::TO_POD`] by ingress
    /// rules.
    pub direction: u8,
    /// As in [`ConnValue::verdict`].
    pub verdict: u8,
    /// As in [`ConnValue::flags`].
    pub flags: u8,
    /// Zero.
    pub pad: [u8; 5],
}

/// Which events are told ([`crate::MapName::Events`], one element).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventConfig {
    /// One of so many new allowed flows is told of; 0 for none.
    pub allowed_every: u32,
    /// Whether denials, and what would be denied, are told of: 0 or 1.
    pub denied: u32,
    /// Events a second and CPU, for allowed flows and for denials each.
    pub rate_per_s: u32,
    /// How many of them may come at once.
    pub burst: u32,
}

/// How many events may still be sent ([`crate::MapName::Buckets`]; per CPU, one for allowed
/// flows, one for denials).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketValue {
    /// When it was filled last.
    pub last_ns: u64,
    /// In billionths of an event.
    pub tokens: u64,
}

/// Counters of a reason ([`crate::MapName::Reasons`]; per CPU, the key is the number).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReasonValue {
    /// Flows allowed by it, each judgement counted.
    pub allowed: u64,
    /// Flows denied by it.
    pub denied: u64,
    /// Flows that would be denied by it.
    pub audited: u64,
    /// Packets dropped by it.
    pub dropped: u64,
}

/// What the judge is asked and answers ([`crate::TcWork`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JudgeWork {
    /// What applies to the pod.
    pub pod: PodPolicy,
    /// The peer.
    pub peer: PeerKey,
    /// The same for the trie.
    pub block: BlockKey,
    /// The rule that is looked for.
    pub rule: RuleKey,
    /// The last one found.
    pub found: RuleValue,
    /// Destination port, host byte order; and protocol (in the high half), 0 for those without
    /// ports.
    pub transport: u32,
    /// Kind of the set that was asked last.
    pub kind: u32,
    /// Answer: reason.
    pub reason: u32,
    /// Answer: as in [`VerdictEvent::passed`].
    pub passed: u32,
    /// Zero.
    pub pad: u32,
}

/// Reasons that are no rule's. Numbers of rules are below [`reason::FIRST`].
pub mod reason {
    /// The lowest of these.
    pub const FIRST: u32 = 0xffff_ff00;
    /// The link has no policy value: nobody judges here.
    pub const NO_POLICY: u32 = FIRST;
    /// No policy decides: everything is allowed.
    pub const UNSELECTED: u32 = FIRST + 1;
    /// A pod may always talk to itself.
    pub const ITSELF: u32 = FIRST + 2;
    /// A node may always talk to its own pods.
    pub const OWN_NODE: u32 = FIRST + 3;
    /// Nobody has judged the pod yet.
    pub const UNKNOWN: u32 = FIRST + 4;
    /// A packet in the middle of a flow that nobody knows: TCP without SYN, an answer without a
    /// question, an ICMP error or a fragment about nothing known.
    pub const NO_FLOW: u32 = FIRST + 5;
    /// The transport header cannot be found.
    pub const UNREADABLE: u32 = FIRST + 6;
    /// The tables contradict themselves: a set is not there. Closed.
    pub const FAULT: u32 = FIRST + 7;
    /// No reason.
    pub const NONE: u32 = u32::MAX;
}

/// Mark of packets that the node itself sends to a pod, set in its output path.
pub const MARK_FROM_NODE: u32 = 0x0800_0000;

/// The whole mark of packets that turn round at a pod's link and were judged on their way out.
/// The kernel clears marks where a packet enters another network namespace.
pub const MARK_BOUNCED: u32 = 0x0457_0b0c;

const _: () = {
    assert!(size_of::<PeerKey>() == 20 && align_of::<PeerKey>() == 4);
    assert!(size_of::<BlockKey>() == 28 && offset_of!(BlockKey, ip) == 12);
    assert!(size_of::<RuleKey>() == 12 && offset_of!(RuleKey, port) == 8);
    assert!(offset_of!(RuleKey, protocol) == 10 && offset_of!(RuleKey, bits) == 11);
    assert!(size_of::<RuleValue>() == 12 && offset_of!(RuleValue, action) == 8);
    assert!(size_of::<SetValue>() == 8 && offset_of!(SetValue, lengths) == 4);
    assert!(size_of::<PodPolicy>() == 28 && offset_of!(PodPolicy, ingress) == 12);
    assert!(offset_of!(PodPolicy, egress) == 20);
    assert!(size_of::<ConnKey>() == 44 && align_of::<ConnKey>() == 4);
    assert!(offset_of!(ConnKey, link) == 32 && offset_of!(ConnKey, protocol) == 40);
    assert!(size_of::<ConnValue>() == 24 && align_of::<ConnValue>() == 8);
    assert!(offset_of!(ConnValue, initiator) == 16 && offset_of!(ConnValue, flags) == 19);
    assert!(size_of::<VerdictEvent>() == 72 && align_of::<VerdictEvent>() == 8);
    assert!(offset_of!(VerdictEvent, reason) == 52 && offset_of!(VerdictEvent, flags) == 66);
    assert!(size_of::<EventConfig>() == 16 && size_of::<BucketValue>() == 16);
    assert!(size_of::<ReasonValue>() == 32 && size_of::<JudgeWork>() == 120);
};
