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

/// The maps of the socket load balancer and of the programs at the pods' links.
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
    /// Cookie of a network namespace (`u64`) whose sockets are left alone → `u32`, of no meaning.
    OptOut,
    /// One [`crate::TcConfig`].
    TcConfig,
    /// Index of a pod's link (`u32`) → [`crate::PodValue`].
    Pods,
    /// [`crate::FlowKey`] → [`crate::FlowValue`].
    Flows,
    /// [`crate::FragmentKey`] → [`crate::FragmentValue`].
    Fragments,
    /// One [`crate::TcWork`] per CPU; of no meaning between two packets.
    TcWork,
    /// [`crate::TcCounter`] → `u64` per CPU.
    TcCounters,
}

impl MapName {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Services,
        Self::Slots,
        Self::Members,
        Self::UdpSticky,
        Self::Reverse,
        Self::Affinity,
        Self::Counters,
        Self::Node,
        Self::OptOut,
        Self::TcConfig,
        Self::Pods,
        Self::Flows,
        Self::Fragments,
        Self::TcWork,
        Self::TcCounters,
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
            Self::OptOut => "WEFT_OPT_OUT",
            Self::TcConfig => "WEFT_TC_CONFIG",
            Self::Pods => "WEFT_PODS",
            Self::Flows => "WEFT_FLOWS",
            Self::Fragments => "WEFT_FRAGMENTS",
            Self::TcWork => "WEFT_TC_WORK",
            Self::TcCounters => "WEFT_TC_COUNT",
        }
    }

    /// How it is allocated.
    pub const fn kind(self) -> MapKind {
        match self {
            Self::Services | Self::Slots | Self::Members | Self::OptOut | Self::Pods => {
                MapKind::Hash
            }
            Self::UdpSticky | Self::Reverse | Self::Affinity | Self::Flows | Self::Fragments => {
                MapKind::LruHash
            }
            Self::Node | Self::TcConfig => MapKind::Array,
            Self::Counters | Self::TcWork | Self::TcCounters => MapKind::PerCpuArray,
        }
    }
}
