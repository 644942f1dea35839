//! Loader, pins and maps of the eBPF programs: [`SocketLb`] translates Services when a
//! socket connects or sends, nothing per packet; [`PodLinks`] are the programs at the pods'
//! links, for packets that passed no socket hook, and for policy; [`PolicyMaps`] are the tables
//! by which they judge.
//!
//! Flow: [`SocketLb::open`] loads the committed object (or adopts what an earlier agent
//! pinned), attaches it to a node's cgroup, and reads the maps; [`SocketLb::apply`] compares
//! [`weft_services::ServiceTables`] with what the kernel holds and changes the difference.
//!
//! Invariants:
//! - Maps and links are pinned under `<bpf dir>/v<layout>/`: translation goes on while no
//!   agent runs, and a restarted one adopts it without a gap.
//! - New backends stand before the frontend points at them, and old ones go only after no
//!   program can still be reading them: a reader sees the old set or the new one.
//! - Whatever is under the pin path is Weft's: entries that no table asks for are removed.
//! - All calls block; none of them sleeps longer than one RCU grace period.
//!
//! This crate knows nothing of Kubernetes and mounts nothing: the bpf file system and the
//! cgroup are the caller's.
#![allow(unsafe_code)]

mod attach;
mod diff;
mod engine;
mod error;
mod lb;
mod map;
mod object;
mod pins;
mod pod_links;
mod policy;
mod probe;
mod records;
mod sys;
mod upgrade;
mod verdicts;

pub use attach::Attached;
pub use error::{BpfError, Failures, LeftOut, Result};
pub use lb::{ApplyStats, MapSizes, OpenOptions, SocketLb, Stats};
pub use pod_links::{LinkAttach, PodLinkSpec, PodLinks, TcStats, ranges_left_out};
pub use policy::{
    EventOptions, FlowMarks, PodSets, PodState, PolicyEntry, PolicyFlow, PolicyMaps,
    PolicyObserved, PolicyPod, PolicyRetire, PolicySet, PolicySetKind, PolicyStats, PolicyStep,
    PolicyVerdict, ReasonCounts,
};
pub use probe::{Feature, probe};
pub use records::{Records, SocketRecord};
pub use verdicts::{Batch, PolicyEvent, Verdicts};
pub use weft_bpf_abi::reason;
