//! The commands of `bpf(2)` that the load balancer needs.
//!
//! JUSTIFICATION: aya's maps and links can neither update many elements by one call nor
//! replace the program of a pinned cgroup link, and its loader reads all of the kernel's BTF
//! first, which takes ten times as long as everything here together.
//!
//! Every function takes file descriptors and plain bytes; each attribute struct is the
//! prefix of `union bpf_attr` that the command reads (`include/uapi/linux/bpf.h`); the
//! kernel takes the size and treats what is missing as zero.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
};

const MAP_CREATE: u32 = 0;
const MAP_LOOKUP_ELEM: u32 = 1;
const MAP_UPDATE_ELEM: u32 = 2;
const PROG_LOAD: u32 = 5;
const OBJ_PIN: u32 = 6;
const OBJ_GET: u32 = 7;
const PROG_GET_FD_BY_ID: u32 = 13;
const OBJ_GET_INFO_BY_FD: u32 = 15;
const BTF_LOAD: u32 = 18;
const MAP_LOOKUP_BATCH: u32 = 24;
const MAP_UPDATE_BATCH: u32 = 26;
const MAP_DELETE_BATCH: u32 = 27;
const LINK_CREATE: u32 = 28;
const LINK_UPDATE: u32 = 29;
const LINK_DETACH: u32 = 34;

fn bpf<T>(command: u32, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is a live repr(C) struct of the size passed, and the pointers inside
    // point to live buffers of the sizes that the map or the struct itself states; callers
    // below guarantee that.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut::<T>(attr),
            u32::try_from(size_of::<T>()).expect("invariant: attributes are small"),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn fd_of(result: i32) -> OwnedFd {
    // SAFETY: the command returned a new file descriptor that nobody else owns; the kernel
    // sets O_CLOEXEC on all of bpf's.
    unsafe { OwnedFd::from_raw_fd(result) }
}

fn path_of(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// At most 15 characters and a zero (`BPF_OBJ_NAME_LEN`); longer names are cut.
fn object_name(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let length = name.len().min(15);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}

#[repr(C)]
#[derive(Default)]
struct MapCreateAttr {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: [u8; 16],
}

/// Makes a map.
pub(crate) fn map_create(name: &str, like: &MapInfo) -> io::Result<OwnedFd> {
    let mut attr = MapCreateAttr {
        kind: like.kind,
        key_size: like.key_size,
        value_size: like.value_size,
        max_entries: like.max_entries,
        flags: like.flags,
        name: object_name(name),
        ..Default::default()
    };
    bpf(MAP_CREATE, &mut attr).map(fd_of)
}

#[repr(C)]
#[derive(Default)]
struct BtfLoadAttr {
    btf: u64,
    log: u64,
    btf_size: u32,
    log_size: u32,
    log_level: u32,
}

/// Loads type information.
pub(crate) fn btf_load(btf: &[u8]) -> io::Result<OwnedFd> {
    let mut attr =
        BtfLoadAttr { btf: btf.as_ptr() as u64, btf_size: btf.len() as u32, ..Default::default() };
    bpf(BTF_LOAD, &mut attr).map(fd_of)
}

#[repr(C)]
#[derive(Default)]
struct ProgLoadAttr {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    attach_type: u32,
    btf_fd: u32,
    func_info_size: u32,
    func_info: u64,
    func_info_count: u32,
    line_info_size: u32,
    line_info: u64,
    line_info_count: u32,
    pad: u32,
}

/// Records of one kind that belong to a program's BTF.
#[derive(Clone, Copy, Default)]
pub(crate) struct Records<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) count: usize,
    /// Bytes of each.
    pub(crate) size: usize,
}

/// A program as the verifier gets it.
pub(crate) struct Program<'a> {
    pub(crate) name: &'a str,
    /// `enum bpf_prog_type`.
    pub(crate) kind: u32,
    /// `enum bpf_attach_type`.
    pub(crate) attach_type: u32,
    /// Eight bytes each.
    pub(crate) instructions: &'a [u8],
    pub(crate) license: &'a CStr,
    /// BTF with functions and lines, for people who look at loaded programs.
    pub(crate) btf: Option<(BorrowedFd<'a>, Records<'a>, Records<'a>)>,
}

/// Loads a program; what the verifier says goes into `log`, where that is not empty.
pub(crate) fn prog_load(program: &Program<'_>, log: &mut [u8]) -> io::Result<OwnedFd> {
    let mut attr = ProgLoadAttr {
        kind: program.kind,
        instruction_count: (program.instructions.len() / 8) as u32,
        instructions: program.instructions.as_ptr() as u64,
        license: program.license.as_ptr() as u64,
        name: object_name(program.name),
        attach_type: program.attach_type,
        ..Default::default()
    };
    if !log.is_empty() {
        attr.log_level = 1;
        attr.log_size = log.len() as u32;
        attr.log = log.as_mut_ptr() as u64;
    }
    if let Some((fd, functions, lines)) = program.btf {
        attr.btf_fd = fd.as_raw_fd() as u32;
        (attr.func_info_size, attr.func_info_count) =
            (functions.size as u32, functions.count as u32);
        attr.func_info = functions.bytes.as_ptr() as u64;
        (attr.line_info_size, attr.line_info_count) = (lines.size as u32, lines.count as u32);
        attr.line_info = lines.bytes.as_ptr() as u64;
    }
    bpf(PROG_LOAD, &mut attr).map(fd_of)
}

#[repr(C)]
#[derive(Default)]
struct ObjAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Pins a map, program or link.
pub(crate) fn obj_pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = path_of(path)?;
    let mut attr = ObjAttr {
        pathname: path.as_ptr() as u64,
        bpf_fd: fd.as_raw_fd() as u32,
        ..Default::default()
    };
    bpf(OBJ_PIN, &mut attr).map(drop)
}

/// Opens a pinned map, program or link.
pub(crate) fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = path_of(path)?;
    let mut attr = ObjAttr { pathname: path.as_ptr() as u64, ..Default::default() };
    bpf(OBJ_GET, &mut attr).map(fd_of)
}

#[repr(C)]
#[derive(Default)]
struct LinkCreateAttr {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program to a cgroup. Links of cgroups always coexist with other programs
/// (they imply BPF_F_ALLOW_MULTI), so `flags` is 0.
pub(crate) fn link_create(
    prog: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let mut attr = LinkCreateAttr {
        prog_fd: prog.as_raw_fd() as u32,
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type,
        flags: 0,
    };
    bpf(LINK_CREATE, &mut attr).map(fd_of)
}

/// Whether the kernel knows links of cgroups: asks for one without a target.
pub(crate) fn link_create_is_known(prog: BorrowedFd<'_>, attach_type: u32) -> io::Result<()> {
    let mut attr = LinkCreateAttr {
        prog_fd: prog.as_raw_fd() as u32,
        target_fd: u32::MAX,
        attach_type,
        flags: 0,
    };
    match bpf(LINK_CREATE, &mut attr) {
        Err(e) if e.raw_os_error() == Some(libc::EBADF) => Ok(()),
        Err(e) => Err(e),
        Ok(fd) => {
            drop(fd_of(fd));
            Ok(())
        }
    }
}

/// `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS`.
pub(crate) const TCX: [u32; 2] = [46, 47];

/// Attaches a program to a link of the calling thread's network namespace (Linux 6.6), behind
/// those that are there.
pub(crate) fn tcx_create(
    prog: BorrowedFd<'_>,
    ifindex: u32,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let prog_fd = prog.as_raw_fd() as u32;
    let mut attr = LinkCreateAttr { prog_fd, target_fd: ifindex, attach_type, flags: 0 };
    bpf(LINK_CREATE, &mut attr).map(fd_of)
}

/// Whether the kernel has tcx: asks for a link that cannot be.
pub(crate) fn tcx_is_known(prog: BorrowedFd<'_>) -> io::Result<()> {
    match tcx_create(prog, i32::MAX as u32, TCX[0]) {
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        Err(e) => Err(e),
        Ok(link) => {
            drop(link);
            Ok(())
        }
    }
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Replaces the program of a link; every call of the hook sees the old or the new one.
pub(crate) fn link_update(link: BorrowedFd<'_>, prog: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr {
        link_fd: link.as_raw_fd() as u32,
        new_prog_fd: prog.as_raw_fd() as u32,
        ..Default::default()
    };
    bpf(LINK_UPDATE, &mut attr).map(drop)
}

/// Ends a link at once. Without it the program goes on until the kernel has freed the last
/// reference in the background.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(LINK_DETACH, &mut (link.as_raw_fd() as u32)).map(drop)
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

fn info<T: Default>(fd: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = T::default();
    let mut attr = InfoAttr {
        bpf_fd: fd.as_raw_fd() as u32,
        info_len: size_of::<T>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// Start of `struct bpf_link_info`, for links of cgroups.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LinkInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) prog_id: u32,
    pad: u32,
    /// 0 after the cgroup was removed: the link is then dead.
    pub(crate) cgroup_id: u64,
    pub(crate) attach_type: u32,
    pad2: u32,
}

/// Start of `struct bpf_link_info`, for tcx.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TcxInfo {
    kind: u32,
    id: u32,
    pub(crate) prog_id: u32,
    pad: u32,
    /// 0 after the link of the network went or somebody detached the program.
    pub(crate) ifindex: u32,
    pub(crate) attach_type: u32,
}

pub(crate) fn tcx_info(link: BorrowedFd<'_>) -> io::Result<TcxInfo> {
    info(link)
}

pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    info(link)
}

/// Start of `struct bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MapInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
}

pub(crate) fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    info(map)
}

/// Start of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct ProgInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
}

/// The kernel's number of a program.
pub(crate) fn prog_id(prog: BorrowedFd<'_>) -> io::Result<u32> {
    info::<ProgInfo>(prog).map(|i| i.id)
}

/// `struct bpf_prog_info` up to the maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct ProgMapsInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    xlated_len: u32,
    jited: u64,
    xlated: u64,
    load_time_ns: u64,
    created_by_uid: u32,
    map_count: u32,
    map_ids: u64,
}

/// What makes a program the same as another one: the kernel's hash over the instructions, and the
/// maps that they name, which the hash leaves out.
pub(crate) fn prog_identity(prog: BorrowedFd<'_>) -> io::Result<([u8; 8], Vec<u32>)> {
    Ok((prog_tag(prog)?, prog_maps(prog)?))
}

/// The numbers of the maps that a program uses, sorted.
fn prog_maps(prog: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    /// The programs use far fewer.
    const MAPS_MAX: usize = 64;
    let mut ids = vec![0u32; MAPS_MAX];
    let mut info = ProgMapsInfo {
        map_count: MAPS_MAX as u32,
        map_ids: ids.as_mut_ptr() as u64,
        ..ProgMapsInfo::default()
    };
    let mut attr = InfoAttr {
        bpf_fd: prog.as_raw_fd() as u32,
        info_len: size_of::<ProgMapsInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    ids.truncate(info.map_count as usize);
    ids.sort_unstable();
    Ok(ids)
}

/// The kernel's hash over the instructions of a program.
fn prog_tag(prog: BorrowedFd<'_>) -> io::Result<[u8; 8]> {
    info::<ProgInfo>(prog).map(|i| i.tag)
}

#[repr(C)]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Opens a program by its number.
pub(crate) fn prog_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = IdAttr { id, ..Default::default() };
    bpf(PROG_GET_FD_BY_ID, &mut attr).map(fd_of)
}

#[repr(C)]
#[derive(Default)]
struct ElemAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Reads one element into `value`, which is as long as the map's values are (for a per-CPU
/// map: rounded up to 8 bytes, times the number of possible CPUs).
pub(crate) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    let mut attr = ElemAttr {
        map_fd: map.as_raw_fd() as u32,
        key: key.as_ptr() as u64,
        value: value.as_mut_ptr() as u64,
        ..Default::default()
    };
    bpf(MAP_LOOKUP_ELEM, &mut attr).map(drop)
}

#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Stores `count` elements. The first number is how many were stored, also on failure.
pub(crate) fn update_batch(
    map: BorrowedFd<'_>,
    keys: &[u8],
    values: &[u8],
    count: usize,
) -> (usize, io::Result<()>) {
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: count as u32,
        map_fd: map.as_raw_fd() as u32,
        ..Default::default()
    };
    let result = bpf(MAP_UPDATE_BATCH, &mut attr).map(drop);
    (attr.count as usize, result)
}

/// Deletes `count` elements. The first number is how many were deleted, also on failure.
pub(crate) fn delete_batch(
    map: BorrowedFd<'_>,
    keys: &[u8],
    count: usize,
) -> (usize, io::Result<()>) {
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        count: count as u32,
        map_fd: map.as_raw_fd() as u32,
        ..Default::default()
    };
    let result = bpf(MAP_DELETE_BATCH, &mut attr).map(drop);
    (attr.count as usize, result)
}

/// Stores one element if there is none with this key; says whether there was none.
pub(crate) fn insert_new(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<bool> {
    const NOEXIST: u64 = 1;
    let mut attr = ElemAttr {
        map_fd: map.as_raw_fd() as u32,
        key: key.as_ptr() as u64,
        value: value.as_ptr() as u64,
        flags: NOEXIST,
        ..Default::default()
    };
    match bpf(MAP_UPDATE_ELEM, &mut attr) {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The kernel's cursor in a map: four bytes for hash maps, a key for tries. No key is longer.
pub(crate) type Cursor = [u64; 8];

/// Reads the next elements of a map into `keys` and `values`, which have room for `room`.
/// `position` is the kernel's cursor, `None` at the start.
/// Returns how many were read; `Err` with ENOENT and a count means that these were the last.
pub(crate) fn lookup_batch(
    map: BorrowedFd<'_>,
    position: &mut Option<Cursor>,
    keys: &mut [u8],
    values: &mut [u8],
    room: usize,
) -> (usize, io::Result<()>) {
    let before = *position;
    let mut after = Cursor::default();
    let mut attr = BatchAttr {
        in_batch: before.as_ref().map_or(0, |p| std::ptr::from_ref(p) as u64),
        out_batch: std::ptr::from_mut(&mut after) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: room as u32,
        map_fd: map.as_raw_fd() as u32,
        ..Default::default()
    };
    let result = bpf(MAP_LOOKUP_BATCH, &mut attr).map(drop);
    *position = Some(after);
    (attr.count as usize, result)
}

/// `membarrier(2)`: all threads of all processes.
const MEMBARRIER_CMD_QUERY: libc::c_long = 0;
const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;

fn membarrier(command: libc::c_long) -> io::Result<libc::c_long> {
    // SAFETY: the commands used here take no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Waits until every program that runs now has ended (`MEMBARRIER_CMD_GLOBAL` is
/// `synchronize_rcu`, and programs of cgroups run inside an RCU section).
pub(crate) fn wait_for_readers() -> io::Result<()> {
    membarrier(MEMBARRIER_CMD_GLOBAL).map(drop)
}

/// Whether [`wait_for_readers`] would work.
pub(crate) fn can_wait_for_readers() -> io::Result<bool> {
    Ok(membarrier(MEMBARRIER_CMD_QUERY)? & MEMBARRIER_CMD_GLOBAL != 0)
}
