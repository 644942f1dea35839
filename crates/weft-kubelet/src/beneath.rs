//! Paths in places that containers write to, looked up as root: from a directory that containers
//! cannot replace downwards, name by name, and never through a symbolic link. Otherwise a link
//! that a container has put into a volume would make the kubelet create files, or give them away,
//! anywhere on the machine.

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{Gid, Uid, fchown, geteuid};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path};

/// A directory that containers cannot replace.
pub struct Root(File);

/// User and group that get what is made; `None` leaves it to root.
pub type Ids = Option<(u32, u32)>;

impl Root {
    /// Opens the directory, which belongs to the kubelet; made where it is not there.
    pub fn open(path: &Path) -> io::Result<Root> {
        std::fs::create_dir_all(path)?;
        let flags = libc::O_DIRECTORY;
        Ok(Root(std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?))
    }

    /// Opens the directory itself to everybody, as what is made below it is.
    pub fn share(&self) -> io::Result<()> {
        Ok(give(&self.0, 0o777, None)?)
    }

    /// What lies at a relative path; `None`: nothing.
    pub fn find(&self, path: &Path) -> io::Result<Option<Metadata>> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        match open(&self.0, path, OFlag::O_PATH, Mode::empty()) {
            Ok(file) => file.metadata().map(Some),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes the directories of a relative path that are not there, for everybody to use: the
    /// containers' users are nobody to the machine. Returns the last one.
    pub fn directory(&self, path: &Path, ids: Ids) -> io::Result<File> {
        let mut at = self.0.try_clone()?;
        for part in path.components() {
            let Component::Normal(name) = part else {
                return Err(Errno::EXDEV.into());
            };
            let name = Path::new(name);
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
            at = match open(&at, name, flags, Mode::empty()) {
                Err(Errno::ENOENT) => {
                    let made = mkdirat(&at, name, Mode::from_bits_truncate(0o700));
                    let dir = open(&at, name, flags, Mode::empty())?;
                    match made {
                        // A container may have put another one of its own in its place.
                        Ok(()) if dir.metadata()?.uid() == geteuid().as_raw() => {
                            give(&dir, 0o777, ids)?;
                        }
                        Ok(()) | Err(Errno::EEXIST) => {}
                        Err(e) => return Err(e.into()),
                    }
                    dir
                }
                other => other?,
            };
        }
        Ok(at)
    }

    /// Makes an empty file, and its directories, for everybody to use.
    pub fn file(&self, path: &Path, ids: Ids) -> io::Result<()> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::EISDIR.into());
        };
        let dir = self.directory(parent, ids)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let file = open(&dir, Path::new(name), flags, Mode::from_bits_truncate(0o600))?;
        Ok(give(&file, 0o666, ids)?)
    }
}

fn give(file: &File, mode: u32, ids: Ids) -> nix::Result<()> {
    if let Some((uid, gid)) = ids {
        match fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
            // Without root (tests) it stays the caller's.
            Ok(()) | Err(Errno::EPERM) => {}
            Err(e) => return Err(e),
        }
    }
    fchmod(file, Mode::from_bits_truncate(mode))
}

/// openat2(2) that neither leaves the directory nor follows a link.
fn open(dir: &File, path: &Path, flags: OFlag, mode: Mode) -> nix::Result<File> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(
        ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS,
    );
    loop {
        match openat2(dir, path, how) {
            // A rename elsewhere on the machine raced the resolution.
            Err(Errno::EAGAIN) => {}
            other => return other.map(File::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn what_is_made_is_everybodys_and_links_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::create_dir(&outside).unwrap();
        let root = Root::open(&inside).unwrap();
        let mode = |p: &str| inside.join(p).metadata().unwrap().permissions().mode() & 0o7777;
        root.directory(Path::new("a/b"), None).unwrap();
        root.directory(Path::new("a/b"), None).unwrap();
        root.file(Path::new("a/c/f"), None).unwrap();
        assert_eq!(
            [mode("a"), mode("a/b"), mode("a/c"), mode("a/c/f")],
            [0o777, 0o777, 0o777, 0o666]
        );
        assert!(root.find(Path::new("")).unwrap().unwrap().is_dir());
        assert!(root.find(Path::new("a/c/f")).unwrap().unwrap().is_file());
        assert!(root.find(Path::new("a/none")).unwrap().is_none());
        symlink(&outside, inside.join("abs")).unwrap();
        symlink("../out", inside.join("rel")).unwrap();
        symlink("/proc/self/cwd", inside.join("magic")).unwrap();
        symlink("../out/new", inside.join("dangling")).unwrap();
        for link in ["abs", "rel", "magic", "dangling"] {
            for path in [link.to_owned(), format!("{link}/x")] {
                let path = Path::new(&path);
                let e = |r: io::Result<()>| r.unwrap_err().raw_os_error().unwrap();
                let looped = [
                    e(root.find(path).map(drop)),
                    e(root.directory(path, None).map(drop)),
                    e(root.file(&path.join("f"), None)),
                ];
                assert!(
                    looped.iter().all(|n| [libc::ELOOP, libc::ENOTDIR].contains(n)),
                    "{path:?}"
                );
                assert!(root.file(path, None).is_err());
            }
        }
        assert!(root.directory(Path::new("../out/x"), None).is_err());
        assert!(root.find(Path::new("../out")).is_err());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }
}
