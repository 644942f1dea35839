//! The maps. Sizes are placeholders: the loader sets them, except that of the counters.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
};
use weft_bpf_abi::{
    Addr, AffinityValue, BucketValue, ClientKey, ConnKey, ConnValue, Counter, EventConfig, FlowKey,
    FlowValue, FragmentKey, FragmentValue, MemberKey, NodeValue, PeerKey, PodPolicy, PodValue,
    ReasonValue, Record, RuleKey, RuleValue, ServiceValue, SetValue, SlotKey, SocketKey, TcConfig,
    TcCounter, TcWork,
};

// Elements are allocated as they come: most nodes use a small part of the size, and memory
// for the whole would be the largest thing in the agent.

#[map(name = "WEFT_SERVICES")]
pub static SERVICES: HashMap<Addr, ServiceValue> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

#[map(name = "WEFT_SLOTS")]
pub static SLOTS: HashMap<SlotKey, Addr> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

#[map(name = "WEFT_MEMBERS")]
pub static MEMBERS: HashMap<MemberKey, u32> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

// Records of sockets go by least recent use: a closed socket's cookie never comes again, so
// its entries are harmless and the first to be evicted.

#[map(name = "WEFT_UDP_STICKY")]
pub static UDP_STICKY: LruHashMap<SocketKey, Addr> = LruHashMap::with_max_entries(1, 0);

#[map(name = "WEFT_REVERSE")]
pub static REVERSE: LruHashMap<SocketKey, Record> = LruHashMap::with_max_entries(1, 0);

#[map(name = "WEFT_AFFINITY")]
pub static AFFINITY: LruHashMap<ClientKey, AffinityValue> = LruHashMap::with_max_entries(1, 0);

#[map(name = "WEFT_NODE")]
pub static NODE: Array<NodeValue> = Array::with_max_entries(1, 0);

#[map(name = "WEFT_COUNTERS")]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::ALL.len() as u32, 0);

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the element is this CPU's own, and the program does not migrate.
        unsafe { *value += 1 };
    }
}

// What the programs at the pods' links have beside the Services.

#[map(name = "WEFT_OPT_OUT")]
pub static OPT_OUT: HashMap<u64, u32> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

#[map(name = "WEFT_TC_CONFIG")]
pub static TC_CONFIG: Array<TcConfig> = Array::with_max_entries(1, 0);

#[map(name = "WEFT_PODS")]
pub static PODS: HashMap<u32, PodValue> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

#[map(name = "WEFT_FLOWS")]
pub static FLOWS: LruHashMap<FlowKey, FlowValue> = LruHashMap::with_max_entries(1, 0);

#[map(name = "WEFT_FRAGMENTS")]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentValue> = LruHashMap::with_max_entries(1, 0);

#[map(name = "WEFT_TC_WORK")]
pub static TC_WORK: PerCpuArray<TcWork> = PerCpuArray::with_max_entries(1, 0);

#[map(name = "WEFT_TC_COUNT")]
static TC_COUNTERS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(TcCounter::ALL.len() as u32, 0);

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn tc_count(counter: TcCounter) {
    if let Some(value) = TC_COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the element is this CPU's own, and the program does not migrate.
        unsafe { *value += 1 };
    }
}

// Policy.

#[map(name = "WEFT_PEERS")]
pub static PEERS: HashMap<PeerKey, u32> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// The key is a [`weft_bpf_abi::BlockKey`]: the number of bits, and what they are of.
#[map(name = "WEFT_BLOCKS")]
pub static BLOCKS: LpmTrie<[u32; 6], u32> = LpmTrie::with_max_entries(1, 0);

#[map(name = "WEFT_RULES")]
pub static RULES: HashMap<RuleKey, RuleValue> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

#[map(name = "WEFT_SETS")]
pub static SETS: HashMap<u32, SetValue> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

// An element that is not allocated beforehand is replaced as a whole by an update.
#[map(name = "WEFT_POD_POLICY")]
pub static POD_POLICY: HashMap<u32, PodPolicy> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

#[map(name = "WEFT_GENERATION")]
pub static GENERATION: Array<u32> = Array::with_max_entries(1, 0);

#[map(name = "WEFT_CONNS")]
pub static CONNS: LruHashMap<ConnKey, ConnValue> = LruHashMap::with_max_entries(1, 0);

#[map(name = "WEFT_VERDICTS")]
pub static VERDICTS: RingBuf = RingBuf::with_byte_size(65_536, 0);

#[map(name = "WEFT_EVENTS")]
pub static EVENTS: Array<EventConfig> = Array::with_max_entries(1, 0);

#[map(name = "WEFT_BUCKETS")]
pub static BUCKETS: PerCpuArray<BucketValue> = PerCpuArray::with_max_entries(2, 0);

#[map(name = "WEFT_REASONS")]
pub static REASONS: PerCpuHashMap<u32, ReasonValue> =
    PerCpuHashMap::with_max_entries(1, BPF_F_NO_PREALLOC);
