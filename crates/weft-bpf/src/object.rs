//! The committed object: its programs, and how they are loaded.

use crate::{
    BpfError, MapSizes, Result,
    pins::Pins,
    sys::{self, MapInfo, Records},
    upgrade::carry_over,
};
use aya_obj::{Object, btf::BtfFeatures, generated::bpf_insn};
use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::PathBuf,
};
use weft_bpf_abi::{
    Addr, AffinityValue, BlockKey, BucketValue, ClientKey, ConnKey, ConnValue, Counter,
    EventConfig, FlowKey, FlowValue, FragmentKey, FragmentValue, MapKind, MapName, MemberKey,
    NodeValue, PeerKey, PodPolicy, PodValue, ReasonValue, Record, RuleKey, RuleValue, ServiceValue,
    SetValue, SlotKey, SocketKey, TcConfig, TcCounter, TcWork,
};

/// Built by `cargo xtask bpf`; `weft.bpf.lock` beside it says from what.
static OBJECT: Aligned<[u8; include_bytes!("weft.bpf.o").len()]> =
    Aligned(*include_bytes!("weft.bpf.o"));

/// ELF structures are read in place, so they must lie where they would lie in a file.
#[repr(C, align(8))]
struct Aligned<T>(T);

/// Room for what the verifier says about a program that it refuses.
const LOG_SIZE: usize = 1 << 20;

/// `BPF_PROG_TYPE_CGROUP_SOCK`.
const CGROUP_SOCK: u32 = 9;
/// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`.
const CGROUP_SOCK_ADDR: u32 = 18;

/// A place where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    /// Name of the program in the object.
    pub(crate) program: &'static str,
    /// Name of the pin.
    pub(crate) pin: &'static str,
    /// `enum bpf_prog_type`.
    pub(crate) program_type: u32,
    /// `enum bpf_attach_type`.
    pub(crate) attach_type: u32,
    /// Whether translation is wrong without it.
    pub(crate) required: bool,
}

const fn hook(program: &'static str, pin: &'static str, attach_type: u32) -> Hook {
    Hook { program, pin, program_type: CGROUP_SOCK_ADDR, attach_type, required: true }
}

/// All hooks; those that show the frontend again stand before those that translate it.
pub(crate) const HOOKS: [Hook; 9] = [
    hook("weft_getpeername4", "getpeername4", 29),
    hook("weft_getpeername6", "getpeername6", 30),
    hook("weft_recvmsg4", "recvmsg4", 19),
    hook("weft_recvmsg6", "recvmsg6", 20),
    // Only tidies up after closed sockets; without it their records wait for eviction.
    Hook {
        program: "weft_release",
        pin: "sock_release",
        program_type: CGROUP_SOCK,
        attach_type: 34,
        required: false,
    },
    hook("weft_sendmsg4", "sendmsg4", 14),
    hook("weft_sendmsg6", "sendmsg6", 15),
    hook("weft_connect4", "connect4", 10),
    hook("weft_connect6", "connect6", 11),
];

/// `BPF_PROG_TYPE_SCHED_CLS`.
const SCHED_CLS: u32 = 3;

const fn link_hook(program: &'static str, pin: &'static str) -> Hook {
    // Where it is attached is no matter of loading: tcx links and filters take it alike.
    Hook { program, pin, program_type: SCHED_CLS, attach_type: 0, required: true }
}

/// The programs at each pod's link: what comes from the pod, what goes to it.
pub(crate) const LINK_HOOKS: [Hook; 2] =
    [link_hook("weft_from_pod", "from_pod"), link_hook("weft_to_pod", "to_pod")];

/// The loaded object.
pub(crate) struct Loaded {
    object: Object,
    maps: BTreeMap<MapName, OwnedFd>,
    /// Absent where the kernel does not take it: only people who look at programs miss it.
    btf: Option<OwnedFd>,
}

impl Loaded {
    /// Makes the maps, or takes those that are pinned. Nothing is attached yet.
    pub(crate) fn new(pins: Option<&Pins>, sizes: &MapSizes) -> Result<Self> {
        let broken = |e: &dyn std::error::Error| BpfError::Object(e.to_string());
        let mut object = Object::parse(&OBJECT.0).map_err(|e| broken(&e))?;
        let definitions: Vec<_> = object.maps.drain().collect();
        let mut maps = BTreeMap::new();
        let mut relocations = Vec::new();
        for (name, definition) in &definitions {
            let Some(map) = MapName::ALL.into_iter().find(|m| m.as_str() == name) else {
                return Err(BpfError::Object(format!("nobody knows its map {name}")));
            };
            let shape = MapInfo {
                kind: definition.map_type(),
                key_size: definition.key_size(),
                value_size: definition.value_size(),
                max_entries: entries(map, sizes).unwrap_or(definition.max_entries()),
                flags: definition.map_flags(),
                ..MapInfo::default()
            };
            let fd = open_map(map, &shape, pins)?;
            relocations.push((name.as_str(), fd.as_raw_fd(), definition));
            maps.insert(map, fd);
        }
        let sections = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(relocations.into_iter(), &sections).map_err(|e| broken(&e))?;
        object.relocate_calls(&sections).map_err(|e| broken(&e))?;
        let btf = load_btf(&mut object);
        Ok(Self { object, maps, btf })
    }

    /// Passes a program through the verifier.
    pub(crate) fn program(&self, hook: &Hook) -> Result<OwnedFd> {
        let missing = || BpfError::Object(format!("it has no program {}", hook.program));
        let program = self.object.programs.get(hook.program).ok_or_else(missing)?;
        let function = self.object.functions.get(&program.function_key()).ok_or_else(missing)?;
        let (functions, lines) =
            (function.func_info.func_info_bytes(), function.line_info.line_info_bytes());
        let records =
            |bytes, size| Records { bytes, count: <[u8]>::len(bytes) / usize::max(size, 1), size };
        let program = sys::Program {
            name: hook.program,
            kind: hook.program_type,
            attach_type: hook.attach_type,
            instructions: instruction_bytes(&function.instructions),
            license: &program.license,
            btf: self.btf.as_ref().map(|fd| {
                let functions = records(&functions, function.func_info_rec_size);
                (fd.as_fd(), functions, records(&lines, function.line_info_rec_size))
            }),
        };
        sys::prog_load(&program, &mut []).map_err(|source| {
            // Only now, since a log makes the verifier slower.
            let mut log = vec![0; LOG_SIZE];
            let _ = sys::prog_load(&program, &mut log);
            BpfError::Program { program: hook.program, log: last_words(&log), source }
        })
    }

    /// Takes a map out.
    pub(crate) fn map(&mut self, map: MapName) -> Result<OwnedFd> {
        let missing = || BpfError::Object(format!("it has no map {}", map.as_str()));
        self.maps.remove(&map).ok_or_else(missing)
    }
}

/// Opens the pinned map if there is one, else makes one and pins it.
fn open_map(map: MapName, shape: &MapInfo, pins: Option<&Pins>) -> Result<OwnedFd> {
    check_shape(shape, map, || PathBuf::from("weft.bpf.o"))?;
    let pin = pins.map(|p| p.map(map));
    if let Some(pin) = &pin {
        match sys::obj_get(pin) {
            Ok(fd) => {
                let info =
                    sys::map_info(fd.as_fd()).map_err(BpfError::call("INFO", map.as_str()))?;
                check_shape(&info, map, || pin.clone())?;
                return Ok(fd);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(BpfError::file("open", pin)(e)),
        }
    }
    let fd =
        sys::map_create(map.as_str(), shape).map_err(BpfError::call("MAP_CREATE", map.as_str()))?;
    if let (Some(pins), Some(pin)) = (pins, pin) {
        carry_over(map, fd.as_fd(), pins);
        sys::obj_pin(fd.as_fd(), &pin).map_err(BpfError::file("pin", &pin))?;
    }
    Ok(fd)
}

/// Loads the object's BTF, brought to what Linux 5.15 knows.
fn load_btf(object: &mut Object) -> Option<OwnedFd> {
    // Functions, global ones, data sections, empty ones, floats; not: declaration tags, type
    // tags, 64-bit enumerations.
    let features = BtfFeatures::new(true, true, true, true, true, false, false, false);
    let bytes = object.fixup_and_sanitize_btf(&features).ok()??.to_bytes();
    match sys::btf_load(&bytes) {
        Ok(fd) => Some(fd),
        Err(error) => {
            tracing::debug!(%error, "the kernel does not take the object's BTF");
            None
        }
    }
}

fn instruction_bytes(instructions: &[bpf_insn]) -> &[u8] {
    // SAFETY: `struct bpf_insn` is eight bytes without padding.
    unsafe { std::slice::from_raw_parts(instructions.as_ptr().cast(), size_of_val(instructions)) }
}

/// The line in which the verifier says what it does not like: the last one before its
/// statistics.
fn last_words(log: &[u8]) -> String {
    let end = log.iter().position(|b| *b == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]);
    let statistics = ["processed ", "verification time", "stack depth"];
    let mut lines = text.lines().rev().map(str::trim);
    let said = lines.find(|l| !l.is_empty() && !statistics.iter().any(|s| l.starts_with(s)));
    said.unwrap_or_default().to_owned()
}

/// How large a map is made; `None` keeps the size in the object.
fn entries(map: MapName, sizes: &MapSizes) -> Option<u32> {
    match map {
        MapName::Services => Some(sizes.services),
        MapName::Slots => Some(sizes.slots),
        MapName::Members => Some(sizes.members),
        MapName::UdpSticky | MapName::Reverse => Some(sizes.sockets),
        MapName::Affinity => Some(sizes.clients),
        MapName::OptOut | MapName::Pods | MapName::PodPolicy => Some(sizes.pods),
        MapName::Peers => Some(sizes.peers),
        MapName::Blocks => Some(sizes.blocks),
        MapName::Rules => Some(sizes.rules),
        MapName::Sets => Some(sizes.sets),
        MapName::Conns => Some(sizes.conns),
        MapName::Verdicts => Some(sizes.event_bytes),
        MapName::Reasons => Some(REASONS),
        MapName::Flows => Some(sizes.flows),
        MapName::Fragments => Some(FRAGMENTS),
        MapName::Counters
        | MapName::Node
        | MapName::TcConfig
        | MapName::TcWork
        | MapName::TcCounters
        | MapName::Generation
        | MapName::Events
        | MapName::Buckets => None,
    }
}

/// Reasons with counters.
const REASONS: u32 = 4096;

/// Packets whose fragments are on their way at a time.
const FRAGMENTS: u32 = 1024;

/// Sizes of key and value.
fn shape(map: MapName) -> (usize, usize) {
    match map {
        MapName::Services => (size_of::<Addr>(), size_of::<ServiceValue>()),
        MapName::Slots => (size_of::<SlotKey>(), size_of::<Addr>()),
        MapName::Members => (size_of::<MemberKey>(), size_of::<u32>()),
        MapName::UdpSticky => (size_of::<SocketKey>(), size_of::<Addr>()),
        MapName::Reverse => (size_of::<SocketKey>(), size_of::<Record>()),
        MapName::Affinity => (size_of::<ClientKey>(), size_of::<AffinityValue>()),
        MapName::Node => (size_of::<u32>(), size_of::<NodeValue>()),
        MapName::Counters | MapName::TcCounters => (size_of::<u32>(), size_of::<u64>()),
        MapName::OptOut => (size_of::<u64>(), size_of::<u32>()),
        MapName::TcConfig => (size_of::<u32>(), size_of::<TcConfig>()),
        MapName::Pods => (size_of::<u32>(), size_of::<PodValue>()),
        MapName::Flows => (size_of::<FlowKey>(), size_of::<FlowValue>()),
        MapName::Fragments => (size_of::<FragmentKey>(), size_of::<FragmentValue>()),
        MapName::TcWork => (size_of::<u32>(), size_of::<TcWork>()),
        MapName::Peers => (size_of::<PeerKey>(), size_of::<u32>()),
        MapName::Blocks => (size_of::<BlockKey>(), size_of::<u32>()),
        MapName::Rules => (size_of::<RuleKey>(), size_of::<RuleValue>()),
        MapName::Sets => (size_of::<u32>(), size_of::<SetValue>()),
        MapName::PodPolicy => (size_of::<u32>(), size_of::<PodPolicy>()),
        MapName::Generation => (size_of::<u32>(), size_of::<u32>()),
        MapName::Conns => (size_of::<ConnKey>(), size_of::<ConnValue>()),
        MapName::Verdicts => (0, 0),
        MapName::Events => (size_of::<u32>(), size_of::<EventConfig>()),
        MapName::Buckets => (size_of::<u32>(), size_of::<BucketValue>()),
        MapName::Reasons => (size_of::<u32>(), size_of::<ReasonValue>()),
    }
}

/// `enum bpf_map_type`.
fn kind(map: MapName) -> u32 {
    match map.kind() {
        MapKind::Hash => 1,
        MapKind::Array => 2,
        MapKind::PerCpuArray => 6,
        MapKind::LruHash => 9,
        MapKind::LpmTrie => 11,
        MapKind::PerCpuHash => 5,
        MapKind::RingBuf => 27,
    }
}

/// Refuses a map that is not of this layout: one that is pinned, or one in the object.
pub(crate) fn check_shape(info: &MapInfo, map: MapName, path: impl Fn() -> PathBuf) -> Result<()> {
    let (key, value) = shape(map);
    let expected = (kind(map), key, value);
    let found = (info.kind, info.key_size as usize, info.value_size as usize);
    let least = match map {
        MapName::Counters => Counter::ALL.len(),
        MapName::TcCounters => TcCounter::ALL.len(),
        MapName::Buckets => 2,
        _ => 0,
    };
    let too_short = (info.max_entries as usize) < least;
    if found != expected || too_short {
        let text = |(kind, key, value)| format!("type {kind} with {key} → {value} bytes");
        return Err(BpfError::Layout {
            path: path(),
            found: text(found),
            expected: text(expected),
        });
    }
    Ok(())
}
