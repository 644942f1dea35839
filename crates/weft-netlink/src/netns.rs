//! Named network namespaces, as iproute2 keeps them: bind mounts under [`DIR`].

use crate::error::{Error, Result};
use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::{stat::Mode, statfs::statfs},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where named namespaces are mounted (the same folder as iproute2's).
pub const DIR: &str = "/run/netns";
/// `statfs` type of a mounted namespace (linux/magic.h).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Path of the namespace `name`.
pub fn path_of(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// Makes a new namespace named `name` and returns its path; one that is there is adopted.
pub fn create_named(name: &str) -> Result<PathBuf> {
    check_name(name)?;
    prepare_dir()?;
    let path = path_of(name);
    create_at(&path)?;
    Ok(path)
}

/// Makes a new namespace and mounts it at `path` (the file is created); a namespace that
/// is mounted there already is adopted.
pub fn create_at(path: &Path) -> Result<()> {
    if is_netns(path) {
        return Ok(());
    }
    open(path, OFlag::O_RDONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC, Mode::S_IRUSR | Mode::S_IRGRP)
        .map_err(|e| Error::nix("create namespace file", path.display(), e))?;
    let made = on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|e| Error::nix("create network namespace", path.display(), e))?;
        // The thread's own entry: /proc/self is the main thread's.
        mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|e| Error::nix("mount network namespace", path.display(), e))
    })
    .and_then(|r| r);
    if made.is_err() {
        let _ = fs::remove_file(path);
    }
    made
}

/// Removes the namespace `name`; an absent one is fine. The namespace itself lives on while
/// a process, socket or other mount holds it.
pub fn delete_named(name: &str) -> Result<()> {
    check_name(name)?;
    delete_at(&path_of(name))
}

/// Unmounts a namespace from `path` and removes the file; absent is fine.
pub fn delete_at(path: &Path) -> Result<()> {
    // More than one mount can lie on the file, when two processes raced to create it.
    loop {
        match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(e) => return Err(Error::nix("unmount namespace", path.display(), e)),
        }
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove namespace file", path.display(), e))
        }
        _ => Ok(()),
    }
}

/// Names of all namespaces in [`DIR`] that begin with `prefix`, sorted (half-made ones too,
/// so that they can be cleaned up).
pub fn list(prefix: &str) -> Result<Vec<String>> {
    let entries = match fs::read_dir(DIR) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("list namespaces in", DIR, e)),
    };
    let mut names: Vec<String> = entries
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|n| n.starts_with(prefix))
        .collect();
    names.sort();
    Ok(names)
}

/// Whether a namespace is mounted at `path` (or it is a `/proc/…/ns/…` file).
pub fn is_netns(path: &Path) -> bool {
    statfs(path).is_ok_and(|s| s.filesystem_type().0 == NSFS_MAGIC)
}

/// Runs `f` inside the namespace mounted at `path`, on a thread of its own that ends with
/// it, and returns its result. Threads that `f` starts and sockets that it opens are in
/// that namespace too. Blocks the caller; a panic in `f` is passed on.
pub fn run_in<T: Send>(path: &Path, f: impl FnOnce() -> T + Send) -> Result<T> {
    let fd = open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|e| Error::nix("open namespace", path.display(), e))?;
    on_thread(move || {
        setns(fd, CloneFlags::CLONE_NEWNET)
            .map_err(|e| Error::nix("enter namespace", path.display(), e))?;
        Ok(f())
    })
    .and_then(|r| r)
}

/// Runs `f` on a new thread and waits for its end.
fn on_thread<T: Send>(f: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, f)
            .map_err(|e| Error::io("start thread", "netns", e))?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// A name is one path component, so that it cannot point outside [`DIR`].
fn check_name(name: &str) -> Result<()> {
    let fine = !name.is_empty() && name.len() <= 200 && !name.contains(['/', '\0']);
    if fine && name != "." && name != ".." {
        return Ok(());
    }
    Err(Error::Name {
        name: name.to_owned(),
        rule: "a namespace name is 1 to 200 characters without '/'",
    })
}

/// Makes sure that [`DIR`] exists and that mounts below it propagate: were it private, a
/// mount namespace made in the meantime would keep a copy of each namespace mount and with
/// it the namespace, after ours is gone. Where /run is a shared mount already (systemd)
/// nothing is to be done; otherwise the folder is bound onto itself, as iproute2 does.
fn prepare_dir() -> Result<()> {
    fs::create_dir_all(DIR).map_err(|e| Error::io("create", DIR, e))?;
    let mountinfo = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|e| Error::io("read", "/proc/self/mountinfo", e))?;
    let dir = fs::canonicalize(DIR).map_err(|e| Error::io("resolve", DIR, e))?;
    if is_shared(&mountinfo, &dir) {
        return Ok(());
    }
    let shared = MsFlags::MS_SHARED | MsFlags::MS_REC;
    if mount(None::<&str>, DIR, None::<&str>, shared, None::<&str>) == Err(Errno::EINVAL) {
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(DIR), DIR, None::<&str>, bind, None::<&str>)
            .map_err(|e| Error::nix("bind", DIR, e))?;
        mount(None::<&str>, DIR, None::<&str>, shared, None::<&str>)
            .map_err(|e| Error::nix("share mount", DIR, e))?;
    }
    Ok(())
}

/// Whether the mount that contains `path` is shared, according to `mountinfo` (proc(5):
/// field 5 is the mount point, optional fields follow field 6 up to a `-`).
fn is_shared(mountinfo: &str, path: &Path) -> bool {
    let mut best: Option<(usize, bool)> = None;
    for line in mountinfo.lines() {
        let mut fields = line.split(' ').skip(4);
        let Some(point) = fields.next() else { continue };
        if !path.starts_with(point) {
            continue;
        }
        let shared = fields.skip(1).take_while(|f| *f != "-").any(|f| f.starts_with("shared:"));
        // Of mounts on one point, the later lies on top.
        if best.is_none_or(|(len, _)| point.len() >= len) {
            best = Some((point.len(), shared));
        }
    }
    best.is_some_and(|(_, shared)| shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside_the_folder() {
        for bad in ["", ".", "..", "a/b", "/x", "a\0"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert!(check_name("weft.lab.node-1").is_ok());
    }

    #[test]
    fn propagation_is_that_of_the_innermost_mount() {
        let info = "1 0 8:1 / / rw shared:1 - ext4 /dev/x rw\n\
                    2 1 0:5 / /run rw,nosuid - tmpfs tmpfs rw\n";
        assert!(!is_shared(info, Path::new("/run/netns")));
        assert!(is_shared(info, Path::new("/var")));
        let more = format!("{info}3 2 0:5 /netns /run/netns rw shared:9 - tmpfs tmpfs rw\n");
        assert!(is_shared(&more, Path::new("/run/netns")));
    }
}
