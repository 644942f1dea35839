//! Where things are pinned, and who may touch it.

use crate::{BpfError, Result, error::Failures, object::HOOKS, sys};
use std::{
    fs::{self, DirBuilder, File},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use weft_bpf_abi::{LAYOUT_VERSION, MapName};

/// How long to wait for an agent that is just ending.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// How often to look.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// The directories of pins of one node, held by this process alone.
#[derive(Debug)]
pub(crate) struct Pins {
    bpf_dir: PathBuf,
    /// Its lock ends with it.
    _lock: Option<File>,
    /// Held while a pinned map and the programs that use it are replaced.
    growing: Arc<Mutex<()>>,
}

impl Pins {
    /// Makes the directories and takes the lock.
    pub(crate) fn open(bpf_dir: &Path) -> Result<Self> {
        let all = [
            bpf_dir.to_owned(),
            layout(bpf_dir),
            maps(bpf_dir),
            links(bpf_dir),
            pods(bpf_dir),
            programs(bpf_dir),
        ];
        for dir in all {
            match DirBuilder::new().mode(0o700).create(&dir) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(BpfError::file("create", dir)(e));
                }
                _ => {}
            }
        }
        let lock = File::open(bpf_dir).map_err(BpfError::file("open", bpf_dir))?;
        let deadline = Instant::now() + LOCK_TIMEOUT;
        // SAFETY: flock takes no pointers, and the descriptor is open.
        while unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::WouldBlock {
                return Err(BpfError::file("lock", bpf_dir)(error));
            }
            if Instant::now() > deadline {
                return Err(BpfError::Busy { path: bpf_dir.to_owned() });
            }
            std::thread::sleep(LOCK_INTERVAL);
        }
        Ok(Self { bpf_dir: bpf_dir.to_owned(), _lock: Some(lock), growing: Arc::default() })
    }

    /// The same directories for who works beside the owner, and must not outlive it as their
    /// holder.
    pub(crate) fn beside(&self) -> Self {
        Self { bpf_dir: self.bpf_dir.clone(), _lock: None, growing: self.growing.clone() }
    }

    /// Waits for others who replace maps and programs: who loads programs in between would give
    /// them maps that are not written any more.
    pub(crate) fn growing(&self) -> MutexGuard<'_, ()> {
        self.growing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a map of another layout version is pinned.
    pub(crate) fn map_of(&self, version: u32, map: MapName) -> PathBuf {
        self.bpf_dir.join(format!("v{version}")).join("maps").join(map.as_str())
    }

    pub(crate) fn map(&self, map: MapName) -> PathBuf {
        map_pin(&self.bpf_dir, map)
    }

    /// Pins a map in place of the one that is pinned under its name, in one step.
    pub(crate) fn replace_map(&self, map: MapName, fd: BorrowedFd<'_>) -> Result<()> {
        let pin = self.map(map);
        let new = unfinished(&pin);
        sys::obj_pin(fd, &new).map_err(BpfError::file("pin", &new))?;
        fs::rename(&new, &pin).map_err(BpfError::file("rename", new))
    }

    /// Removes what an agent left that ended in [`Self::replace_map`].
    pub(crate) fn remove_unfinished(&self) -> Result<()> {
        for pin in MapName::ALL.map(|map| unfinished(&self.map(map))) {
            match fs::remove_file(&pin) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(BpfError::file("remove", pin)(e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn link(&self, hook: &str) -> PathBuf {
        links(&self.bpf_dir).join(hook)
    }

    /// Ends and removes what an agent of another layout version left: from now on this
    /// version's programs translate.
    pub(crate) fn remove_other_layouts(&self) -> Result<()> {
        let own = layout(&self.bpf_dir);
        let mut failures = Vec::new();
        let entries = fs::read_dir(&self.bpf_dir).map_err(BpfError::file("read", &self.bpf_dir))?;
        for dir in entries.filter_map(std::result::Result::ok).map(|e| e.path()) {
            if dir == own || !is_layout(&dir) {
                continue;
            }
            tracing::info!(dir = %dir.display(), "removing the programs of another version");
            for hook in &HOOKS {
                let pin = dir.join("links").join(hook.pin);
                let detached = sys::obj_get(&pin).and_then(|link| sys::link_detach(link.as_fd()));
                keep_failure("detach", &pin, detached, &mut failures);
            }
            // At once: until the kernel has freed them they would translate before this version's.
            detach_all(&dir.join("pods"), &mut failures);
            remove_tree(&dir, &mut failures);
        }
        if failures.is_empty() { Ok(()) } else { Err(BpfError::Teardown(Failures(failures))) }
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        programs(&self.bpf_dir).join(name)
    }

    /// Where the links at the pods' links are pinned.
    pub(crate) fn pods(&self) -> PathBuf {
        pods(&self.bpf_dir)
    }

    /// Removes all pins and directories, of every layout version.
    pub(crate) fn remove(&self) -> Result<()> {
        let mut failures = Vec::new();
        for hook in HOOKS.iter().rev() {
            let pin = self.link(hook.pin);
            let detached = sys::obj_get(&pin).and_then(|link| sys::link_detach(link.as_fd()));
            keep_failure("detach", &pin, detached, &mut failures);
        }
        detach_all(&self.pods(), &mut failures);
        remove_tree(&self.bpf_dir, &mut failures);
        if failures.is_empty() { Ok(()) } else { Err(BpfError::Teardown(Failures(failures))) }
    }
}

/// Ends all links that are pinned in a directory.
fn detach_all(dir: &Path, failures: &mut Vec<BpfError>) {
    for pin in fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()) {
        let detached = sys::obj_get(&pin).and_then(|link| sys::link_detach(link.as_fd()));
        keep_failure("detach", &pin, detached, failures);
    }
}

fn remove_tree(path: &Path, failures: &mut Vec<BpfError>) {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return,
        Err(e) => return failures.push(BpfError::file("read", path)(e)),
    };
    for entry in entries.filter_map(Result::ok).map(|e| e.path()) {
        if entry.is_dir() {
            remove_tree(&entry, failures);
        } else {
            keep_failure("remove", &entry, fs::remove_file(&entry), failures);
        }
    }
    keep_failure("remove", path, fs::remove_dir(path), failures);
}

fn keep_failure(
    operation: &'static str,
    path: &Path,
    result: io::Result<()>,
    failures: &mut Vec<BpfError>,
) {
    match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            failures.push(BpfError::file(operation, path)(e));
        }
        _ => {}
    }
}

/// Whether this is a directory of a layout version: `v` and a number.
fn is_layout(dir: &Path) -> bool {
    let name = dir.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix('v'));
    name.is_some_and(|n| n.parse::<u32>().is_ok()) && dir.is_dir()
}

/// Where a map of this layout is pinned.
pub(crate) fn map_pin(bpf_dir: &Path, map: MapName) -> PathBuf {
    maps(bpf_dir).join(map.as_str())
}

/// Where a map is pinned before it takes another one's place. Names in a bpf file system must not
/// contain a dot.
fn unfinished(pin: &Path) -> PathBuf {
    let mut name = pin.as_os_str().to_owned();
    name.push("_NEW");
    name.into()
}

fn layout(bpf_dir: &Path) -> PathBuf {
    bpf_dir.join(format!("v{LAYOUT_VERSION}"))
}

fn maps(bpf_dir: &Path) -> PathBuf {
    layout(bpf_dir).join("maps")
}

fn links(bpf_dir: &Path) -> PathBuf {
    layout(bpf_dir).join("links")
}

fn pods(bpf_dir: &Path) -> PathBuf {
    layout(bpf_dir).join("pods")
}

fn programs(bpf_dir: &Path) -> PathBuf {
    layout(bpf_dir).join("programs")
}
