//! Layouts of the maps that the eBPF programs in `bpf/` and the loader `weft-bpf` share.
//!
//! Every map has one key and one value type here, one name and one pin path
//! (`<bpf dir>/v<LAYOUT_VERSION>/maps/<name>`). Both sides include this crate, so a field
//! cannot drift on one side only; what can drift is a *pinned* map of an older agent, and
//! that is what [`LAYOUT_VERSION`] guards.
//!
//! Invariants:
//! - All types are `repr(C)`, without implicit padding, checked by `const` asserts below:
//!   the kernel compares keys byte by byte, so a padding byte would be part of the key.
//! - Addresses are 16 bytes in network byte order, IPv4 as v4-mapped (`::ffff:a.b.c.d`), so
//!   that one map serves both families and an AF_INET6 socket that talks to a v4-mapped
//!   address finds the IPv4 Service without a special case. Ports are in network byte
//!   order. All other numbers are in host byte order.
//!
//! This crate knows nothing of Kubernetes, of system calls and of who writes which map when.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod crc32c;
mod flow;
mod layout;
mod maps;
mod policy;

pub use flow::{
    FROM_POD, FlowKey, FlowValue, FragmentKey, FragmentValue, PacketWork, PodValue, RANGES_MAX,
    TO_POD, TcConfig, TcCounter, TcWork,
};
pub use layout::{
    Addr, AffinityValue, ClientKey, Counter, MemberKey, NodeValue, Record, ServiceValue, SlotKey,
    SocketKey,
};
pub use maps::{MapKind, MapName};
pub use policy::{
    BlockKey, BucketValue, ConnKey, ConnValue, EventConfig, JudgeWork, MARK_BOUNCED,
    MARK_FROM_NODE, PeerKey, PodPolicy, ReasonValue, RuleKey, RuleValue, SetValue, VerdictEvent,
    reason,
};

/// Version of the layouts; part of the pin path. Any change to a type, a map or the meaning
/// of a field needs a new number: pins of an older number are never reinterpreted.
pub const LAYOUT_VERSION: u32 = 3;

/// TCP's protocol number (IANA). The socket hooks translate this one and UDP's only.
pub const PROTO_TCP: u8 = 6;
/// UDP's protocol number (IANA).
pub const PROTO_UDP: u8 = 17;
/// SCTP's protocol number (IANA).
pub const PROTO_SCTP: u8 = 132;
