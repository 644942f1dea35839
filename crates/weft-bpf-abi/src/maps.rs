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
    /// Longest prefix.
    LpmTrie,
    /// Hash of one value per CPU, elements allocated as they come.
    PerCpuHash,
    /// Ring buffer; it has neither keys nor values.
    RingBuf,
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
    /// [`crate::PeerKey`] → identity (`u32`).
    Peers,
    /// [`crate::BlockKey`] → identity (`u32`).
    Blocks,
    /// [`crate::RuleKey`] → [`crate::RuleValue`].
    Rules,
    /// Number of a rule set (`u32`) → [`crate::SetValue`].
    Sets,
    /// Index of a pod's link (`u32`) → [`crate::PodPolicy`].
    PodPolicy,
    /// One `u32`: a flow that was judged under another number is judged again.
    Generation,
    /// [`crate::ConnKey`] → [`crate::ConnValue`].
    Conns,
    /// [`crate::VerdictEvent`]s.
    Verdicts,
    /// One [`crate::EventConfig`].
    Events,
    /// 0 for allowed flows, 1 for denials → [`crate::BucketValue`] per CPU.
    Buckets,
    /// Number of a reason (`u32`) → [`crate::ReasonValue`] per CPU.
    Reasons,
}

impl MapName {
    /// All of them.
    pub const ALL: [Self; 26] = [
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
        Self::Peers,
        Self::Blocks,
        Self::Rules,
        Self::Sets,
        Self::PodPolicy,
        Self::Generation,
        Self::Conns,
        Self::Verdicts,
        Self::Events,
        Self::Buckets,
        Self::Reasons,
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
            Self::Peers => "WEFT_PEERS",
            Self::Blocks => "WEFT_BLOCKS",
            Self::Rules => "WEFT_RULES",
            Self::Sets => "WEFT_SETS",
            Self::PodPolicy => "WEFT_POD_POLICY",
            Self::Generation => "WEFT_GENERATION",
            Self::Conns => "WEFT_CONNS",
            Self::Verdicts => "WEFT_VERDICTS",
            Self::Events => "WEFT_EVENTS",
            Self::Buckets => "WEFT_BUCKETS",
            Self::Reasons => "WEFT_REASONS",
        }
    }

    /// How it is allocated.
    pub const fn kind(self) -> MapKind {
        match self {
            Self::Services | Self::Slots | Self::Members | Self::OptOut | Self::Pods => {
                MapKind::Hash
            }
            Self::Peers | Self::Rules | Self::Sets | Self::PodPolicy => MapKind::Hash,
            Self::UdpSticky | Self::Reverse | Self::Affinity | Self::Flows | Self::Fragments => {
                MapKind::LruHash
            }
            Self::Conns => MapKind::LruHash,
            Self::Node | Self::TcConfig | Self::Generation | Self::Events => MapKind::Array,
            Self::Counters | Self::TcWork | Self::TcCounters | Self::Buckets => {
                MapKind::PerCpuArray
            }
            Self::Blocks => MapKind::LpmTrie,
            Self::Reasons => MapKind::PerCpuHash,
            Self::Verdicts => MapKind::RingBuf,
        }
    }

    /// Whether what it holds means the same in layout `version`, so that its elements can be
    /// copied.
    pub const fn is_unchanged_since(self, version: u32) -> bool {
        version == 2
            && matches!(
                self,
                Self::UdpSticky
                    | Self::Reverse
                    | Self::Affinity
                    | Self::OptOut
                    | Self::Pods
                    | Self::Flows
            )
    }
}
