//! The maps. Sizes are placeholders: the loader sets them, except that of the counters.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray},
};
use weft_bpf_abi::{
    Addr, AffinityValue, ClientKey, Counter, FlowKey, FlowValue, FragmentKey, FragmentValue,
    MemberKey, NodeValue, PodValue, Record, ServiceValue, SlotKey, SocketKey, TcConfig, TcCounter,
    TcWork,
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
