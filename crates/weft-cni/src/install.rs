//! Putting the plugin where a node's container runtime looks for it, and taking it away.
//!
//! The runtime may look at any moment: files appear under their final names complete or not at
//! all, and the configuration comes last, because a runtime that finds one calls the node's
//! network ready. Taking away goes the other way round.

use crate::types::Conflist;
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Name of the plugin in the folder of plugins; configurations name it in `type`.
pub const PLUGIN: &str = "weft-cni";
/// Name of the second plugin, that runtimes call for the loopback link; a link to the first.
pub const LOOPBACK: &str = "loopback";
/// Name of the configuration. Runtimes take the first by name.
pub const CONFLIST: &str = "10-weft.conflist";
/// What containerd and CRI-O take for a configuration (`libcni.ConfFiles`).
const CONF_EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];
/// Compared and copied at a time, in bytes.
const CHUNK_LEN: usize = 1 << 16;

/// Where things go.
#[derive(Clone, Debug)]
pub struct Places {
    /// Folder of plugins.
    pub bin_dir: PathBuf,
    /// Folder of configurations.
    pub conf_dir: PathBuf,
}

/// What was done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It was not there.
    Created,
    /// It was different.
    Replaced,
    /// It was the same.
    Unchanged,
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Created => "installed",
            Self::Replaced => "replaced",
            Self::Unchanged => "unchanged",
        })
    }
}

/// Why nothing, or not everything, was done.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// An operation on a file failed.
    #[error("cannot {operation} {}: {source}", path.display())]
    File {
        /// The operation.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another network's configuration would be taken.
    #[error(
        "{} comes before {CONFLIST}, so the container runtime would go on using it: \
         remove the other network plugin first",
        path.display()
    )]
    Shadowed {
        /// The other configuration.
        path: PathBuf,
    },
    /// The socket's path depends on who reads it.
    #[error("the agent's socket {} is no absolute path", path.display())]
    Relative {
        /// The path.
        path: PathBuf,
    },
}

fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::File { operation, path, source }
}

impl Places {
    /// The plugin's file.
    pub fn plugin(&self) -> PathBuf {
        self.bin_dir.join(PLUGIN)
    }

    /// The configuration's file.
    pub fn conflist(&self) -> PathBuf {
        self.conf_dir.join(CONFLIST)
    }

    /// Copies `program` and writes the configuration with the agent's socket. Can be repeated,
    /// also while pods are made: whatever version was there is replaced in one step. Nothing is
    /// changed where another network's configuration comes first.
    pub fn install(
        &self,
        program: &Path,
        agent_socket: &Path,
    ) -> Result<[(PathBuf, Done); 3], InstallError> {
        let socket = agent_socket.to_str().filter(|_| agent_socket.is_absolute());
        let socket = socket.ok_or_else(|| InstallError::Relative { path: agent_socket.into() })?;
        for dir in [&self.bin_dir, &self.conf_dir] {
            fs::create_dir_all(dir).map_err(file("create", dir))?;
        }
        if let Some(path) = self.shadow()? {
            return Err(InstallError::Shadowed { path });
        }
        let (plugin, conflist) = (self.plugin(), self.conflist());
        let mut source = File::open(program).map_err(file("open", program))?;
        let first = put(&plugin, &mut source, 0o755)?;
        let loopback = self.loopback();
        let second = link(&loopback)?;
        let text = format!("{:#}\n", serde_json::json!(Conflist::weft(socket)));
        let third = put(&conflist, &mut io::Cursor::new(text), 0o644)?;
        Ok([(plugin, first), (loopback, second), (conflist, third)])
    }

    fn loopback(&self) -> PathBuf {
        self.bin_dir.join(LOOPBACK)
    }

    /// Removes the configuration, then the plugin; gives back what was there. Goes on after an
    /// error and returns all.
    pub fn uninstall(&self) -> Result<Vec<PathBuf>, Vec<InstallError>> {
        let (mut removed, mut errors) = (Vec::new(), Vec::new());
        let ours = fs::read_link(self.loopback()).is_ok_and(|to| to == Path::new(PLUGIN));
        let loopback = ours.then(|| self.loopback());
        for path in [self.conflist()].into_iter().chain(loopback).chain([self.plugin()]) {
            match fs::remove_file(&path) {
                Ok(()) => removed.push(path),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => errors.push(file("remove", &path)(e)),
            }
        }
        if errors.is_empty() { Ok(removed) } else { Err(errors) }
    }

    /// A configuration that a runtime would take before ours.
    fn shadow(&self) -> Result<Option<PathBuf>, InstallError> {
        let read = file("read", &self.conf_dir);
        let entries = match fs::read_dir(&self.conf_dir) {
            Ok(entries) => entries,
            Err(e) => return Err(read(e)),
        };
        let taken = |path: &PathBuf| {
            let extension = path.extension().and_then(|e| e.to_str());
            extension.is_some_and(|e| CONF_EXTENSIONS.contains(&e))
                && path.file_name().is_some_and(|n| n < CONFLIST)
        };
        Ok(entries.filter_map(Result::ok).map(|e| e.path()).filter(taken).min())
    }
}

/// Makes `path` hold what `source` does. The bytes reach the disk before the name does: after
/// a power cut there is the old file or the new one.
fn put(path: &Path, source: &mut (impl Read + io::Seek), mode: u32) -> Result<Done, InstallError> {
    let there = same(path, source, mode).map_err(file("compare", path))?;
    if there == Some(true) {
        return Ok(Done::Unchanged);
    }
    // No extension that a runtime would take for a configuration's.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.new", std::process::id()));
    let mut write = || -> io::Result<()> {
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut to = File::options().write(true).create_new(true).mode(mode).open(&temporary)?;
        source.rewind()?;
        io::copy(source, &mut to)?;
        // The mode at creation is less the umask.
        to.set_permissions(fs::Permissions::from_mode(mode))?;
        to.flush()?;
        to.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&temporary);
        file("write", path)(e)
    })?;
    Ok(if there.is_some() { Done::Replaced } else { Done::Created })
}

/// Makes a link to the plugin where nothing is: a `loopback` that the node has is as good.
fn link(path: &Path) -> Result<Done, InstallError> {
    match std::os::unix::fs::symlink(PLUGIN, path) {
        Ok(()) => Ok(Done::Created),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(Done::Unchanged),
        Err(e) => Err(file("make", path)(e)),
    }
}

/// Whether the file at `path` is a plain one with these bytes and this mode; `None` where
/// there is nothing.
fn same(path: &Path, source: &mut (impl Read + io::Seek), mode: u32) -> io::Result<Option<bool>> {
    let meta = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if !meta.is_file() || meta.permissions().mode() & 0o7777 != mode {
        return Ok(Some(false));
    }
    source.rewind()?;
    let mut old = File::open(path)?;
    let (mut a, mut b) = (Vec::with_capacity(CHUNK_LEN), Vec::with_capacity(CHUNK_LEN));
    loop {
        a.clear();
        b.clear();
        let limit = CHUNK_LEN as u64;
        Read::take(&mut *source, limit).read_to_end(&mut a)?;
        Read::take(&mut old, limit).read_to_end(&mut b)?;
        if a != b || a.is_empty() {
            return Ok(Some(a == b));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Node {
        _dir: tempfile::TempDir,
        places: Places,
        program: PathBuf,
    }

    fn node() -> Node {
        let dir = tempfile::tempdir().expect("temporary folder");
        let root = dir.path();
        let places = Places { bin_dir: root.join("opt/bin"), conf_dir: root.join("etc/net.d") };
        let program = root.join("weft");
        fs::write(&program, vec![7; CHUNK_LEN + 5]).expect("program");
        Node { _dir: dir, places, program }
    }

    impl Node {
        fn install(&self) -> Result<[Done; 3], InstallError> {
            let done = self.places.install(&self.program, Path::new("/run/weft/a.sock"))?;
            Ok(done.map(|(_, d)| d))
        }

        fn names(dir: &Path) -> Vec<String> {
            let entries = fs::read_dir(dir).expect("folder").flatten();
            let mut names: Vec<String> =
                entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        }
    }

    #[test]
    fn installing_again_changes_nothing_and_a_new_version_replaces_the_old() {
        let node = node();
        assert_eq!(node.install().expect("fine"), [Done::Created; 3]);
        assert_eq!(node.install().expect("fine"), [Done::Unchanged; 3]);
        let plugin = node.places.plugin();
        assert_eq!(fs::metadata(&plugin).expect("there").permissions().mode() & 0o777, 0o755);
        // Same length, one byte different.
        let mut newer = vec![7; CHUNK_LEN + 5];
        newer[CHUNK_LEN + 4] = 8;
        fs::write(&node.program, &newer).expect("program");
        // A plugin that runs keeps its file: the name moves to another one.
        let mut running = File::open(&plugin).expect("open");
        let done = node.install().expect("fine");
        assert_eq!(done, [Done::Replaced, Done::Unchanged, Done::Unchanged]);
        let mut old = Vec::new();
        running.read_to_end(&mut old).expect("readable");
        assert_eq!(old, vec![7; CHUNK_LEN + 5]);
        assert_eq!(fs::read(&plugin).expect("there"), newer);
        assert_eq!(Node::names(&node.places.bin_dir), [LOOPBACK, PLUGIN]);
        assert_eq!(Node::names(&node.places.conf_dir), [CONFLIST]);
    }

    #[test]
    fn the_configuration_serves_old_and_new_runtimes() {
        let node = node();
        node.install().expect("fine");
        let bytes = fs::read(node.places.conflist()).expect("there");
        let list = Conflist::parse(&bytes).expect("own list");
        // containerd 1.x stops at 1.0.0 and reads only `cniVersion`.
        assert_eq!(list.cni_version, "1.0.0");
        assert_eq!(list.version(), crate::CURRENT);
        assert_eq!(list.plugins[0]["type"], PLUGIN);
        assert_eq!(list.plugins[0]["agentSocket"], "/run/weft/a.sock");
    }

    #[test]
    fn another_network_that_comes_first_is_named_and_nothing_is_changed() {
        let node = node();
        fs::create_dir_all(&node.places.conf_dir).expect("folder");
        let put = |name: &str| fs::write(node.places.conf_dir.join(name), "{}").expect("file");
        ["87-podman.conflist", "05-old.conflist.bak", "README"].into_iter().for_each(put);
        node.install().expect("these are not taken before ours");
        node.places.uninstall().expect("fine");
        put("10-calico.conflist");
        let e = node.install().expect_err("shadowed").to_string();
        assert!(e.contains("10-calico.conflist comes before"), "{e}");
        assert!(!node.places.plugin().exists() && !node.places.conflist().exists());
    }

    #[test]
    fn what_cannot_be_done_is_one_clear_error() {
        let node = node();
        let e = node.places.install(&node.program, Path::new("agent.sock")).expect_err("relative");
        assert!(e.to_string().contains("no absolute path"), "{e}");
        let e = node.places.install(Path::new("/nonexistent"), Path::new("/a")).expect_err("gone");
        assert_eq!(
            e.to_string(),
            "cannot open /nonexistent: No such file or directory (os error 2)"
        );
        assert!(!node.places.conflist().exists(), "no configuration without a plugin");
        fs::create_dir_all(node.places.plugin().join("x")).expect("folder in the way");
        let e = node.install().expect_err("a folder").to_string();
        assert!(e.starts_with("cannot write") && e.contains(PLUGIN), "{e}");
        assert_eq!(Node::names(&node.places.bin_dir), [PLUGIN], "no temporary file is left");
    }

    #[test]
    fn uninstalling_takes_away_what_is_ours_and_can_be_repeated() {
        let node = node();
        node.install().expect("fine");
        fs::write(node.places.bin_dir.join("bridge"), "").expect("another plugin");
        let gone = node.places.uninstall().expect("fine");
        let [conflist, plugin] = [node.places.conflist(), node.places.plugin()];
        assert_eq!(gone, [conflist.clone(), node.places.loopback(), plugin.clone()]);
        assert_eq!(node.places.uninstall().expect("fine"), Vec::<PathBuf>::new());
        // Somebody else's stay.
        fs::write(node.places.loopback(), "").expect("another loopback");
        node.install().expect("fine");
        assert_eq!(node.places.uninstall().expect("fine"), [conflist, plugin]);
        assert_eq!(Node::names(&node.places.bin_dir), ["bridge", LOOPBACK]);
    }
}
