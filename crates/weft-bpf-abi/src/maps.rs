//! Names of the maps.

/// How a map is allocated; the loader checks it against what the kernel reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// Hash, elements allocated as they come.
    Hash,
    /// Hash that evicts the least recently used.
    LruHash,
    /// One array per CPU.
    PerCpuArray,
    /// Array.
    Array,
}

/// The maps of the socket load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MapName {
    /// Frontend [`crate::Addr`] → [`crate::ServiceValue`].
    Services,
    /// [`crate::SlotKey`] → backend [`crate::Addr`].
    Slots,
    /// [`crate::MemberKey`] → `u32` generation.
    Members,
    /// [`crate::SocketKey`] with a frontend → backend [`crate::Addr`].
    UdpSticky,
    /// [`crate::SocketKey`] with a backend → [`crate::Record`].
    Reverse,
    /// [`crate::ClientKey`] → [`crate::AffinityValue`].
    Affinity,
    /// [`crate::Counter`] → `u64` per CPU.
    Counters,
    /// 0 → [`crate::NodeValue`].
    Node,
}

impl MapName {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Services,
        Self::Slots,
        Self::Members,
        Self::UdpSticky,
        Self::Reverse,
        Self::Affinity,
        Self::Counters,
        Self::Node,
    ];

    /// Name in the object, in the kernel (at most 15 characters: `BPF_OBJ_NAME_LEN` is 16)
    /// and of the pin.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Services => "WEFT_SERVICES",
            Self::Slots => "WEFT_SLOTS",
            Self::Members => "WEFT_MEMBERS",
            Self::UdpSticky => "WEFT_UDP_STICKY",
            Self::Reverse => "WEFT_REVERSE",
            Self::Affinity => "WEFT_AFFINITY",
            Self::Counters => "WEFT_COUNTERS",
            Self::Node => "WEFT_NODE",
        }
    }

    /// How it is allocated.
    pub const fn kind(self) -> MapKind {
        match self {
            Self::Services | Self::Slots | Self::Members => MapKind::Hash,
            Self::UdpSticky | Self::Reverse | Self::Affinity => MapKind::LruHash,
            Self::Counters => MapKind::PerCpuArray,
            Self::Node => MapKind::Array,
        }
    }
}
