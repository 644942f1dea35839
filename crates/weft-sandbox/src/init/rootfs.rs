//! The container's root: programs of the machine, read from it, and nothing else of it.
//!
//! Not the machine's root with places hidden, but an empty file system with places let in: what
//! nobody thought of is absent. Let in are the trees that programs need ([`LAYERED`], [`SHARED`]),
//! without what is mounted below them, without set-user-id and without devices. Over the first a
//! private layer takes changes; it and everything else lie in one tmpfs that goes with the
//! container.

use super::idmap::IdMaps;
use super::target::Root;
use super::{At, Step};
use crate::spec::Mount;
use crate::sys::{self, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY};
use crate::wire::{Stage, Start};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown, symlink};
use std::path::Path;

/// Trees of the machine with a writable layer. Their top belongs to the container's root, so
/// that it can add and replace files; files inside keep their owners, whom the user namespace
/// does not map: /etc/shadow stays unreadable.
const LAYERED: [&str; 3] = ["etc", "opt", "usr"];
/// Trees, or links, that are taken as they are, where they exist: with a merged /usr, links.
const SHARED: [&str; 8] = ["bin", "lib", "lib32", "lib64", "libx32", "sbin", "nix", "gnu"];
/// Programs on a file system of their own below one of these.
const NESTED: [&str; 2] = ["usr/local", "usr/share"];
/// Empty directories and their modes.
const EMPTY: [(&str, u32); 24] = [
    ("boot", 0o755),
    ("dev", 0o755),
    ("home", 0o755),
    ("media", 0o755),
    ("mnt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("run/lock", 0o1777),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("var/backups", 0o755),
    ("var/cache", 0o755),
    ("var/empty", 0o755),
    ("var/lib", 0o755),
    ("var/local", 0o755),
    ("var/log", 0o755),
    ("var/mail", 0o1777),
    ("var/opt", 0o755),
    ("var/spool", 0o755),
    ("var/tmp", 0o1777),
    ("var/www", 0o755),
];
/// Character devices: name, major, minor.
const DEVICES: [(&str, u64, u64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
/// Hidden files of /proc and /sys; directories get an empty one over them.
const MASKED: [&str; 14] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/config.gz",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// Read-only parts of /proc.
const FROZEN: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

const HARMLESS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
/// Size of the private layer, /tmp and /run included. Charged to the container's memory.
const LAYER_SIZE: &str = "1g";

/// Builds the root in the calling process's own mount namespace and makes it `/`.
pub(crate) fn build(start: &Start, maps: &IdMaps) -> Step<()> {
    let owner = if start.identity.privileged { 0 } else { start.identity.base };
    let spec = &start.spec;
    umask(Mode::empty());
    isolate()?;
    let scratch = start.dir.join("root");
    let options = format!("mode=755,uid={owner},gid={owner},size={LAYER_SIZE}");
    mount(Some("root"), &scratch, Some("tmpfs"), HARMLESS, Some(options.as_str()))
        .at(Stage::Root, &scratch)?;
    std::env::set_current_dir(&scratch).at(Stage::Root, &scratch)?;
    // One level down, so that the layers are not in the container's sight.
    directory("root", 0o755, owner)?;
    mount(Some("root"), "root", None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .at(Stage::Root, "root")?;
    for (name, mode) in EMPTY {
        directory(&format!("root/{name}"), mode, owner)?;
    }
    for (link, target) in [("var/run", "/run"), ("var/lock", "/run/lock")] {
        symlink(target, format!("root/{link}")).at(Stage::Root, link)?;
    }
    for name in LAYERED {
        layered(name, owner)?;
    }
    for name in SHARED {
        shared(name)?;
    }
    for name in NESTED {
        nested(name)?;
    }
    devices(&start.dir, owner, start.identity.privileged)?;
    let nothing = HARMLESS | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "root/proc", Some("proc"), nothing, None::<&str>)
        .at(Stage::Root, "/proc")?;
    let sys_flags = if spec.privileged { nothing } else { nothing | MsFlags::MS_RDONLY };
    mount(Some("sysfs"), "root/sys", Some("sysfs"), sys_flags, None::<&str>)
        .at(Stage::Root, "/sys")?;
    volumes(start, owner, maps)?;
    if spec.read_only_root {
        // Not recursively: volumes and /dev stay as they are.
        for part in ["."].iter().chain(&LAYERED) {
            let part = Path::new("root").join(part);
            let top = fs::File::open(&part).at(Stage::Root, &part)?;
            match sys::set_attr(top.as_fd(), MOUNT_ATTR_RDONLY, false) {
                // Not a mount: the machine has no such tree, so it is part of the top.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                other => other.at(Stage::Root, &part)?,
            }
        }
    }
    pivot()?;
    if spec.privileged { Ok(()) } else { mask() }
}

/// Makes an empty, read-only root `/` of the calling process's own mount namespace.
pub(crate) fn empty(dir: &Path) -> Step<()> {
    isolate()?;
    let scratch = dir.join("root");
    let flags = HARMLESS | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    mount(Some("empty"), &scratch, Some("tmpfs"), flags, Some("size=4k,mode=555"))
        .at(Stage::Root, &scratch)?;
    std::env::set_current_dir(dir).at(Stage::Root, dir)?;
    pivot()
}

/// Nothing that happens here may reach the machine.
fn isolate() -> Step<()> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .at(Stage::Root, "/")
}

fn directory(path: &str, mode: u32, owner: u32) -> Step<()> {
    fs::DirBuilder::new().mode(mode).create(path).at(Stage::Root, path)?;
    chown(path, Some(owner), Some(owner)).at(Stage::Root, path)
}

/// The machine's tree below, a private layer above.
fn layered(name: &str, owner: u32) -> Step<()> {
    let source = format!("/{name}");
    let target = format!("root/{name}");
    directory(&target, 0o755, owner)?;
    if !Path::new(&source).is_dir() {
        return Ok(());
    }
    // The attributes of the merged directory are the upper one's.
    let (upper, work) = (format!("{name}.upper"), format!("{name}.work"));
    directory(&upper, 0o755, owner)?;
    directory(&work, 0o700, 0)?;
    // overlayfs looks at the mount of the lower directory only: submounts are not in sight.
    let options = format!("lowerdir={source},upperdir={upper},workdir={work}");
    own_directories(&source, &upper, owner)?;
    match mount(Some("weft"), target.as_str(), Some("overlay"), HARMLESS, Some(options.as_str())) {
        Ok(()) => Ok(()),
        // No overlayfs in this kernel, or not over this file system: read-only, then.
        Err(_) => bind(Path::new(&source), Path::new(&target), false),
    }
}

/// Gives the directories right below the tree to the container's root as well, since an image's
/// belong to it. Not those that the machine keeps to some: their mode is all that guards them.
fn own_directories(source: &str, upper: &str, owner: u32) -> Step<()> {
    for entry in fs::read_dir(source).at(Stage::Root, source)?.flatten() {
        let Ok(found) = entry.metadata() else { continue };
        if found.is_dir() && found.mode() & 0o007 == 0o005 {
            let path = Path::new(upper).join(entry.file_name());
            fs::DirBuilder::new().mode(0o755).create(&path).at(Stage::Root, &path)?;
            chown(&path, Some(owner), Some(owner)).at(Stage::Root, &path)?;
        }
    }
    Ok(())
}

fn shared(name: &str) -> Step<()> {
    let source = format!("/{name}");
    let target = format!("root/{name}");
    let Ok(found) = fs::symlink_metadata(&source) else { return Ok(()) };
    if found.is_symlink() {
        let link = fs::read_link(&source).at(Stage::Root, &source)?;
        return symlink(link, &target).at(Stage::Root, target);
    }
    if !found.is_dir() {
        return Ok(());
    }
    directory(&target, 0o755, 0)?;
    bind(Path::new(&source), Path::new(&target), false)
}

fn nested(name: &str) -> Step<()> {
    let source = Path::new("/").join(name);
    let device = |path: &Path| fs::symlink_metadata(path).map(|found| found.dev()).ok();
    let parent = source.parent().and_then(device);
    if device(&source).is_none() || device(&source) == parent {
        return Ok(());
    }
    bind(&source, &Path::new("root").join(name), false)
}

/// Binds a tree of the machine, read-only.
fn bind(source: &Path, target: &Path, recursive: bool) -> Step<()> {
    let tree = sys::clone_tree(source, recursive).at(Stage::Root, source)?;
    let attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
    sys::set_attr(tree.as_fd(), attributes, recursive).at(Stage::Root, source)?;
    let target_fd = fs::File::open(target).at(Stage::Root, target)?;
    sys::attach(tree.as_fd(), target_fd.as_fd()).at(Stage::Root, target)
}

fn devices(dir: &Path, owner: u32, privileged: bool) -> Step<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("dev"), "root/dev", Some("tmpfs"), flags, Some("mode=755,size=64k"))
        .at(Stage::Root, "/dev")?;
    for (name, major, minor) in DEVICES {
        let path = format!("root/dev/{name}");
        let mode = Mode::from_bits_truncate(0o666);
        if mknod(path.as_str(), SFlag::S_IFCHR, mode, makedev(major, minor)).is_err() {
            // Root without the right to make nodes: the machine's own.
            let source = format!("/dev/{name}");
            fs::File::create(&path).at(Stage::Root, &path)?;
            let bind = MsFlags::MS_BIND;
            mount(Some(source.as_str()), path.as_str(), None::<&str>, bind, None::<&str>)
                .at(Stage::Root, &path)?;
        }
    }
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ];
    for (link, target) in links {
        symlink(target, format!("root/dev/{link}")).at(Stage::Root, link)?;
    }
    directory("root/dev/pts", 0o755, 0)?;
    // Group tty of the container.
    let tty = if privileged { 5 } else { owner + 5 };
    let options = format!("newinstance,ptmxmode=0666,mode=0620,gid={tty}");
    mount(Some("devpts"), "root/dev/pts", Some("devpts"), flags, Some(options.as_str()))
        .at(Stage::Root, "/dev/pts")?;
    // Shared memory belongs to the pod, as its IPC namespace does.
    directory("root/dev/shm", 0o1777, 0)?;
    let shm = dir.join("shm");
    mount(Some(&shm), "root/dev/shm", None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .at(Stage::Root, "/dev/shm")
}

/// Bind mounts of the specification, in order.
fn volumes(start: &Start, owner: u32, maps: &IdMaps) -> Step<()> {
    let top = fs::File::open("root").at(Stage::Mount, "/")?;
    let root = Root { fd: top.as_fd(), owner };
    for volume in &start.spec.mounts {
        // Looked up once: what is bound is what was examined.
        let source = fs::File::from(source(volume).at(Stage::Mount, &volume.source)?);
        let found = source.metadata().at(Stage::Mount, &volume.source)?;
        let tree = sys::clone_tree_of(source.as_fd()).at(Stage::Mount, &volume.source)?;
        let mut attributes = 0;
        if !start.spec.privileged {
            attributes |= MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
        }
        if volume.read_only {
            attributes |= MOUNT_ATTR_RDONLY;
        }
        // The node's directory lies on /run, which distributions mount noexec; programs in
        // volumes are to run. Where the mount is locked they cannot, and the rest still works.
        sys::change_attr(tree.as_fd(), attributes, MOUNT_ATTR_NOEXEC, true)
            .or_else(|_| sys::set_attr(tree.as_fd(), attributes, true))
            .at(Stage::Mount, &volume.source)?;
        if let Some(map) = volume.ids.and_then(|ids| maps.get(ids)) {
            match sys::map_ids(tree.as_fd(), map) {
                // This file system cannot: the files are nobody's, which most pods can live with.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                other => other.at(Stage::Mount, &volume.source)?,
            }
        }
        let target =
            root.ensure(&volume.target, found.is_dir()).at(Stage::Mount, &volume.target)?;
        sys::attach(tree.as_fd(), target.as_fd()).at(Stage::Mount, &volume.target)?;
    }
    Ok(())
}

/// `O_PATH` of what a mount binds.
fn source(volume: &Mount) -> io::Result<OwnedFd> {
    let path_only = |path: &Path| {
        let flags = libc::O_PATH | libc::O_CLOEXEC;
        fs::OpenOptions::new().read(true).custom_flags(flags).open(path)
    };
    let Some(root) = &volume.beneath else { return Ok(path_only(&volume.source)?.into()) };
    let rest = volume.source.strip_prefix(root);
    let rest = rest.map_err(|_| io::Error::from_raw_os_error(libc::EXDEV))?;
    let root = path_only(root)?;
    sys::open_beneath(root.as_fd(), rest)
}

/// The new root on top of the old one, and the old one away (pivot_root(2), "pivot_root(".", ".")").
fn pivot() -> Step<()> {
    std::env::set_current_dir("root").at(Stage::Root, "root")?;
    nix::unistd::pivot_root(".", ".").at(Stage::Root, "pivot_root")?;
    umount2(".", MntFlags::MNT_DETACH).at(Stage::Root, "old root")?;
    std::env::set_current_dir("/").at(Stage::Root, "/")
}

fn mask() -> Step<()> {
    for path in FROZEN.map(Path::new) {
        if path.exists() {
            let attributes =
                MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
            let tree = sys::clone_tree(path, true).at(Stage::Root, path)?;
            sys::set_attr(tree.as_fd(), attributes, true).at(Stage::Root, path)?;
            let target = fs::File::open("/").at(Stage::Root, "/")?;
            let target = sys::open_in_root(target.as_fd(), path).at(Stage::Root, path)?;
            sys::attach(tree.as_fd(), target.as_fd()).at(Stage::Root, path)?;
        }
    }
    for path in MASKED.map(Path::new) {
        let Ok(found) = fs::metadata(path) else { continue };
        let masked = if found.is_dir() {
            let flags = HARMLESS | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
            mount(Some("mask"), path, Some("tmpfs"), flags, Some("size=0,mode=555"))
        } else {
            mount(Some("/dev/null"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        };
        masked.at(Stage::Root, path)?;
    }
    Ok(())
}
