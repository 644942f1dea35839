//! The committed object: its programs, and how they are loaded.

use crate::{BpfError, MapSizes, Result, pins::Pins, sys};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData},
    programs::Program,
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};
use weft_bpf_abi::{
    Addr, AffinityValue, ClientKey, Counter, MapKind, MapName, MemberKey, ServiceValue, SlotKey,
    SocketKey,
};

/// Built by `cargo xtask bpf`; `weft.bpf.lock` beside it says from what.
static OBJECT: &[u8] = aya::include_bytes_aligned!("weft.bpf.o");

/// A place where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    /// Name of the program in the object.
    pub(crate) program: &'static str,
    /// Name of the pin.
    pub(crate) pin: &'static str,
    /// `enum bpf_attach_type`.
    pub(crate) attach_type: u32,
    /// Whether translation is wrong without it.
    pub(crate) required: bool,
}

const fn hook(program: &'static str, pin: &'static str, attach_type: u32) -> Hook {
    Hook { program, pin, attach_type, required: true }
}

/// All hooks; those that show the frontend again stand before those that translate it.
pub(crate) const HOOKS: [Hook; 9] = [
    hook("weft_getpeername4", "getpeername4", 29),
    hook("weft_getpeername6", "getpeername6", 30),
    hook("weft_recvmsg4", "recvmsg4", 19),
    hook("weft_recvmsg6", "recvmsg6", 20),
    // Only tidies up after closed sockets; without it their records wait for eviction.
    Hook { program: "weft_release", pin: "sock_release", attach_type: 34, required: false },
    hook("weft_sendmsg4", "sendmsg4", 14),
    hook("weft_sendmsg6", "sendmsg6", 15),
    hook("weft_connect4", "connect4", 10),
    hook("weft_connect6", "connect6", 11),
];

/// The loaded object.
pub(crate) struct Loaded {
    ebpf: Ebpf,
}

impl Loaded {
    /// Makes the maps, or takes those that are pinned. Nothing is attached yet.
    pub(crate) fn new(pins: Option<&Pins>, sizes: &MapSizes) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        // No field of the kernel's own structs is read, so its BTF is not needed.
        loader.btf(None);
        for map in MapName::ALL {
            if let Some(pins) = pins {
                check_pin(pins.map(map), map)?;
                loader.map_pin_path(map.as_str(), pins.map(map));
            }
            if let Some(entries) = entries(map, sizes) {
                loader.map_max_entries(map.as_str(), entries);
            }
        }
        let ebpf = loader.load(OBJECT).map_err(|e| BpfError::Object(Box::new(e)))?;
        Ok(Self { ebpf })
    }

    /// Passes a program through the verifier.
    pub(crate) fn program(&mut self, hook: &Hook) -> Result<OwnedFd> {
        let refused =
            |source| BpfError::Program { program: hook.program, source: Box::new(source) };
        let program = self
            .ebpf
            .program_mut(hook.program)
            .ok_or_else(|| BpfError::Missing(format!("program {}", hook.program)))?;
        match program {
            Program::CgroupSockAddr(p) => p.load(),
            Program::CgroupSock(p) => p.load(),
            other => return Err(BpfError::Missing(format!("{:?}", other.prog_type()))),
        }
        .map_err(refused)?;
        let fd = program.fd().map_err(refused)?;
        fd.as_fd().try_clone_to_owned().map_err(BpfError::call("dup", hook.program))
    }

    /// Takes a map out.
    pub(crate) fn map(&mut self, map: MapName) -> Result<OwnedFd> {
        let data = match self.ebpf.take_map(map.as_str()) {
            Some(Map::HashMap(d) | Map::LruHashMap(d) | Map::PerCpuArray(d)) => d,
            _ => return Err(BpfError::Missing(format!("map {}", map.as_str()))),
        };
        let fd = MapData::fd(&data).as_fd().try_clone_to_owned();
        fd.map_err(BpfError::call("dup", map.as_str()))
    }
}

/// How large a map is made; `None` keeps the size in the object.
fn entries(map: MapName, sizes: &MapSizes) -> Option<u32> {
    match map {
        MapName::Services => Some(sizes.services),
        MapName::Slots | MapName::Members => Some(sizes.slots),
        MapName::UdpSticky | MapName::Reverse => Some(sizes.sockets),
        MapName::Affinity => Some(sizes.clients),
        MapName::Counters => None,
    }
}

/// Sizes of key and value.
pub(crate) fn shape(map: MapName) -> (usize, usize) {
    match map {
        MapName::Services => (size_of::<Addr>(), size_of::<ServiceValue>()),
        MapName::Slots => (size_of::<SlotKey>(), size_of::<Addr>()),
        MapName::Members => (size_of::<MemberKey>(), size_of::<u32>()),
        MapName::UdpSticky | MapName::Reverse => (size_of::<SocketKey>(), size_of::<Addr>()),
        MapName::Affinity => (size_of::<ClientKey>(), size_of::<AffinityValue>()),
        MapName::Counters => (size_of::<u32>(), size_of::<u64>()),
    }
}

/// `enum bpf_map_type`.
fn kind(map: MapName) -> u32 {
    match map.kind() {
        MapKind::Hash => 1,
        MapKind::PerCpuArray => 6,
        MapKind::LruHash => 9,
    }
}

/// Refuses a pinned map that is not of this layout: aya would take it as it is.
fn check_pin(path: PathBuf, map: MapName) -> Result<()> {
    let fd = match sys::obj_get(&path) {
        Ok(fd) => fd,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(BpfError::file("open", path)(e)),
    };
    let info = sys::map_info(fd.as_fd()).map_err(BpfError::call("INFO", map.as_str()))?;
    let (key, value) = shape(map);
    let expected = (kind(map), key, value);
    let found = (info.kind, info.key_size as usize, info.value_size as usize);
    let too_short = map == MapName::Counters && (info.max_entries as usize) < Counter::ALL.len();
    if found != expected || too_short {
        let text = |(kind, key, value)| format!("type {kind} with {key} → {value} bytes");
        return Err(BpfError::Layout { path, found: text(found), expected: text(expected) });
    }
    Ok(())
}
