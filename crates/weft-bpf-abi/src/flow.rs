//! Pod links and the flows that are translated there.

use crate::{Addr, ConnKey, ConnValue, JudgeWork, VerdictEvent};
use core::mem::{align_of, offset_of, size_of};

/// How many Service ranges of one family the programs can compare with.
pub const RANGES_MAX: usize = 4;

/// What the programs at the pods' links know of their node ([`crate::MapName::TcConfig`]).
/// Addresses and masks are words as the kernel keeps them (network byte order).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcConfig {
    /// Service ranges, network and mask; an unused one is `NONE`.
    pub v4: [[u32; 2]; RANGES_MAX],
    /// Service ranges, network and mask.
    pub v6: [[[u32; 4]; 2]; RANGES_MAX],
    /// The node's router addresses, v4-mapped and IPv6: they stand for a pod that reaches
    /// itself. Zero where the node has none.
    pub routers: [[u32; 4]; 2],
    /// [`crate::crc32c::POWERS`]: the programs have no constants in memory.
    pub powers: [u32; crate::crc32c::LENGTH_BITS],
}

impl TcConfig {
    /// A range that contains nothing: no packet goes to the unspecified address.
    pub const NONE: [u32; 2] = [0, u32::MAX];

    /// Without ranges and router addresses.
    pub const EMPTY: Self = Self {
        v4: [Self::NONE; RANGES_MAX],
        v6: [[[0; 4], [u32::MAX; 4]]; RANGES_MAX],
        routers: [[0; 4]; 2],
        powers: crate::crc32c::POWERS,
    };
}

/// One pod's link ([`crate::MapName::Pods`]; the key is its index on the node's side).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodValue {
    /// The client for session affinity, as in [`crate::ClientKey`]: the cookie of the pod's
    /// network namespace, or [`PodValue::MADE_UP`] and the link's index where that is not known.
    pub client: u64,
    /// Written by the programs: not 0 once a flow of this pod was translated. Until then
    /// packets to the pod are looked up nowhere.
    pub has_flows: u32,
    /// The pod's IPv4 address as a word of the kernel; 0 for none.
    pub v4: u32,
    /// The pod's IPv6 address; zero for none.
    pub v6: [u32; 4],
}

impl PodValue {
    /// Marks a `client` that is no cookie: those count up from 1 and never come so far.
    pub const MADE_UP: u64 = 1 << 63;
}

/// Where a packet passes: from the pod or to it ([`FlowKey::direction`]).
pub const FROM_POD: u32 = 0;
/// See [`FROM_POD`].
pub const TO_POD: u32 = 1;

/// Packets of one direction of a translated flow, as they arrive ([`crate::MapName::Flows`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source.
    pub src: Addr,
    /// Destination.
    pub dst: Addr,
    /// Index of the pod's link. Links of one namespace count up, so that a new pod with an
    /// old address finds no flow of the old one.
    pub link: u32,
    /// [`FROM_POD`] or [`TO_POD`].
    pub direction: u32,
}

/// How the packets go on ([`crate::MapName::Flows`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowValue {
    /// Last packet, in nanoseconds of the monotonic clock; at most a second old.
    pub last_ns: u64,
    /// New source.
    pub src: Addr,
    /// New destination.
    pub dst: Addr,
    /// Generation of the frontend's set of backends that the backend was last found in.
    pub generation: u32,
    /// [`FlowValue::NEW`], [`FlowValue::OPEN`] or [`FlowValue::CLOSING`].
    pub state: u8,
    /// [`FlowValue::REVERSE`], [`FlowValue::BOUNCE`].
    pub flags: u8,
    /// Zero.
    pub pad: u16,
}

impl FlowValue {
    /// The client has begun; no more is known.
    pub const NEW: u8 = 0;
    /// TCP and SCTP: both sides have spoken.
    pub const OPEN: u8 = 1;
    /// TCP and SCTP: one side ends it.
    pub const CLOSING: u8 = 2;
    /// The answering direction: backend to client.
    pub const REVERSE: u8 = 1;
    /// The pod reaches itself: packets go back where they came from.
    pub const BOUNCE: u8 = 2;
}

/// A fragmented packet ([`crate::MapName::Fragments`]); the value is a [`FragmentValue`].
/// Only its first fragment has ports, so that the others go by its number.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source address.
    pub src: [u32; 4],
    /// Destination address.
    pub dst: [u32; 4],
    /// The number of the packet.
    pub id: u32,
    /// Index of the pod's link.
    pub link: u32,
    /// [`FROM_POD`] or [`TO_POD`].
    pub direction: u32,
    /// Protocol number.
    pub protocol: u32,
}

/// What became of the first fragment.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentValue {
    /// New source address.
    pub src: [u32; 4],
    /// New destination address.
    pub dst: [u32; 4],
    /// As in [`FlowValue::flags`], or [`FragmentValue::PLAIN`].
    pub flags: u32,
}

impl FragmentValue {
    /// The packet goes on as it is.
    pub const PLAIN: u32 = 1 << 8;
}

/// What a program has read of a packet, for the functions that rewrite it ([`TcWork`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketWork {
    /// Source address.
    pub src: [u32; 4],
    /// Destination address.
    pub dst: [u32; 4],
    /// Number of a fragmented packet.
    pub id: u32,
    /// Offset of the transport header.
    pub at: u32,
    /// Source and destination port.
    pub ports: u32,
    /// Bytes of the transport.
    pub len: u16,
    /// Protocol number.
    pub protocol: u8,
    /// Not 0 for IPv4.
    pub v4: u8,
    /// 1 for the first one of fragments, 2 for the others.
    pub fragment: u8,
    /// Type of an ICMP message.
    pub kind: u8,
    /// Zero.
    pub pad: u16,
}

/// What a program writes down while it is about one packet: more than an eBPF stack holds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcWork {
    /// How the packet's flow stands.
    pub value: FlowValue,
    /// How that of the answers stands.
    pub back: FlowValue,
    /// How the packet looks.
    pub key: FlowKey,
    /// How the answers look.
    pub partner: FlowKey,
    /// The packet that a fragment belongs to.
    pub fragment: FragmentKey,
    /// What became of it.
    pub fate: FragmentValue,
    /// Zero.
    pub pad: u32,
    /// The flow that it is of, as policy sees it.
    pub conn: ConnKey,
    /// Zero.
    pub pad2: u32,
    /// How that one stands.
    pub entry: ConnValue,
    /// What is asked of the judge.
    pub judge: JudgeWork,
    /// What is told.
    pub event: VerdictEvent,
    /// The packet.
    pub packet: PacketWork,
    /// Its IP header.
    pub head: [u32; 10],
    /// Zero.
    pub pad3: u32,
}

/// Index in [`crate::MapName::TcCounters`], an array of one `u64` per CPU.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcCounter {
    /// Flows that were begun.
    Flows = 0,
    /// Packets from pods whose Service address was replaced by a backend's.
    Translated = 1,
    /// Packets to pods that bear the Service's address again.
    Reversed = 2,
    /// Beginnings of flows to a Service address without a backend, left to the stack.
    NoBackend = 3,
    /// Packets from pods that bore a foreign source; dropped.
    Spoofed = 4,
    /// Packets that could not be rewritten, dropped, or not remembered, left as they were.
    Errors = 5,
    /// Flows that policy remembered.
    Conns = 6,
    /// Packets that policy dropped, whatever the reason.
    Denied = 7,
    /// Those of them that met the entry of a denied flow.
    Tombstones = 8,
    /// Those of them in the middle of a flow that nobody knows.
    NoFlow = 9,
    /// Those of them at a pod that nobody had judged.
    Unknown = 10,
    /// Those of them whose transport header cannot be found.
    Unreadable = 11,
    /// Flows that were judged again because the rules had changed.
    Rejudged = 12,
    /// Those of them that ended by it.
    Cut = 13,
    /// Flows that pass, and that a rule on trial would deny.
    Audited = 14,
    /// Events that were sent.
    Events = 15,
    /// Events that were not sent because there were too many.
    EventsLimited = 16,
    /// Events that found no room in the ring buffer.
    EventsLost = 17,
    /// Judgements counted under no reason: there are too many reasons.
    ReasonsFull = 18,
    /// The tables contradicted themselves.
    Faults = 19,
}

impl TcCounter {
    /// All of them, in the order of their indexes.
    pub const ALL: [Self; 20] = [
        Self::Flows,
        Self::Translated,
        Self::Reversed,
        Self::NoBackend,
        Self::Spoofed,
        Self::Errors,
        Self::Conns,
        Self::Denied,
        Self::Tombstones,
        Self::NoFlow,
        Self::Unknown,
        Self::Unreadable,
        Self::Rejudged,
        Self::Cut,
        Self::Audited,
        Self::Events,
        Self::EventsLimited,
        Self::EventsLost,
        Self::ReasonsFull,
        Self::Faults,
    ];
}

const _: () = {
    assert!(size_of::<TcConfig>() == 256 && align_of::<TcConfig>() == 4);
    assert!(offset_of!(TcConfig, v6) == 32 && offset_of!(TcConfig, routers) == 160);
    assert!(offset_of!(TcConfig, powers) == 192);
    assert!(size_of::<PodValue>() == 32 && align_of::<PodValue>() == 8);
    assert!(offset_of!(PodValue, has_flows) == 8 && offset_of!(PodValue, v6) == 16);
    assert!(size_of::<FlowKey>() == 48 && align_of::<FlowKey>() == 4);
    assert!(offset_of!(FlowKey, dst) == 20 && offset_of!(FlowKey, link) == 40);
    assert!(size_of::<FlowValue>() == 56 && align_of::<FlowValue>() == 8);
    assert!(offset_of!(FlowValue, src) == 8 && offset_of!(FlowValue, dst) == 28);
    assert!(offset_of!(FlowValue, generation) == 48 && offset_of!(FlowValue, pad) == 54);
    assert!(size_of::<FragmentKey>() == 48 && align_of::<FragmentKey>() == 4);
    assert!(size_of::<FragmentValue>() == 36 && align_of::<FragmentValue>() == 4);
    assert!(
        size_of::<PacketWork>() == 52 && size_of::<TcWork>() == 656 && align_of::<TcWork>() == 8
    );
};
