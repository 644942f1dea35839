//! Mount points inside a root that is being built.

use crate::sys;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Gid, Uid, fchownat};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

/// Links in a row, as the kernel has it.
const LINKS_MAX: u32 = 40;

/// A root and who owns what is made in it.
pub(crate) struct Root<'a> {
    pub fd: BorrowedFd<'a>,
    pub owner: u32,
}

impl Root<'_> {
    /// `O_PATH` of a path in the root; made, with its parents, where it is not there. A dangling
    /// symbolic link is followed and its target made: on Ubuntu /etc/resolv.conf is a link into
    /// /run, which is empty here.
    pub fn ensure(&self, path: &Path, directory: bool) -> io::Result<OwnedFd> {
        self.step(path, directory, LINKS_MAX)
    }

    fn step(&self, path: &Path, directory: bool, links_left: u32) -> io::Result<OwnedFd> {
        match sys::open_in_root(self.fd, path) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            other => return other,
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        };
        let holder = self.step(parent, true, links_left)?;
        if let Ok(link) = readlinkat(&holder, name) {
            let Some(links_left) = links_left.checked_sub(1) else {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            };
            // An absolute target replaces the path; either way it stays in the root.
            return self.step(&parent.join(link), directory, links_left);
        }
        if directory {
            mkdirat(&holder, name, Mode::from_bits_truncate(0o755))?;
        } else {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            openat(&holder, name, flags, Mode::from_bits_truncate(0o644))?;
        }
        let owner = (Uid::from_raw(self.owner), Gid::from_raw(self.owner));
        fchownat(&holder, name, Some(owner.0), Some(owner.1), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        sys::open_in_root(self.fd, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsFd;

    #[test]
    fn links_stay_inside_and_their_targets_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir(at("etc")).unwrap();
        std::os::unix::fs::symlink("../run/a/resolv.conf", at("etc/resolv.conf")).unwrap();
        std::os::unix::fs::symlink("/outside/file", at("etc/absolute")).unwrap();
        std::os::unix::fs::symlink("../../../../climbing", at("etc/up")).unwrap();
        std::os::unix::fs::symlink("loop", at("etc/loop")).unwrap();
        let fd = fs::File::open(dir.path()).unwrap();
        let root = Root { fd: fd.as_fd(), owner: nix::unistd::getuid().as_raw() };
        root.ensure(Path::new("/etc/resolv.conf"), false).unwrap();
        root.ensure(Path::new("/etc/absolute"), true).unwrap();
        root.ensure(Path::new("/etc/up/x"), false).unwrap();
        root.ensure(Path::new("/new/deep/dir"), true).unwrap();
        root.ensure(Path::new("/new/deep/file"), false).unwrap();
        root.ensure(Path::new("/new/../other"), true).unwrap();
        assert!(at("run/a/resolv.conf").is_file());
        assert!(at("outside/file").is_dir());
        assert!(at("climbing/x").is_file());
        assert!(at("new/deep/dir").is_dir() && at("new/deep/file").is_file());
        assert!(at("other").is_dir());
        assert_eq!(
            root.ensure(Path::new("/etc/loop"), false).unwrap_err().raw_os_error(),
            Some(libc::ELOOP)
        );
        assert!(root.ensure(Path::new("/new/deep/file/x"), false).is_err());
    }
}
