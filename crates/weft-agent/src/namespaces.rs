//! Where the pods' network namespaces are, for whoever must look into them later.
//!
//! ADD tells the path, and nothing else ever does; so it is kept, one small file an attachment,
//! written before ADD is answered. A namespace is asked for by its cookie, which is what the
//! socket hooks know; a cookie is learned by entering the namespace once.
//!
//! A path may be no namespace for a while: after a restart of the machine or of the runtime
//! the agent may come first. So what is kept is forgotten with its attachment, by DEL or GC or
//! because the address journal does not know it, and not because nothing is there yet.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tracing::debug;
use weft_netlink::{self as nl, netns, sock_diag::SockDiag};

/// The network namespaces of the node's pods.
#[derive(Debug)]
pub struct PodNamespaces {
    dir: PathBuf,
    known: Mutex<BTreeMap<String, Place>>,
}

#[derive(Clone, Debug)]
struct Place {
    path: PathBuf,
    /// Once somebody was there.
    cookie: Option<u64>,
}

impl PodNamespaces {
    /// Restores what an earlier agent wrote into `dir`; forgets what is not `attached`: an
    /// attachment by the name of its link.
    pub fn open(dir: &Path, attached: impl Fn(&str) -> bool) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut known = BTreeMap::new();
        for entry in fs::read_dir(dir)? {
            let file = entry?.path();
            let path = PathBuf::from(std::ffi::OsString::from_vec(fs::read(&file)?));
            match file.file_name().and_then(|n| n.to_str()) {
                Some(name) if attached(name) => {
                    known.insert(name.to_owned(), Place { path, cookie: None });
                }
                // Half-written ones, too: a name with an extension was never told.
                _ => fs::remove_file(&file)?,
            }
        }
        Ok(Self { dir: dir.to_owned(), known: Mutex::new(known) })
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Place>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps where the namespace of an attachment is; `name` is the name of its link.
    pub fn insert(&self, name: &str, path: &Path) -> io::Result<()> {
        if self.known().get(name).is_some_and(|p| p.path == path) {
            return Ok(());
        }
        let (file, half) = (self.dir.join(name), self.dir.join(format!("{name}.new")));
        fs::write(&half, path.as_os_str().as_bytes())?;
        fs::rename(half, file)?;
        self.known().insert(name.to_owned(), Place { path: path.to_owned(), cookie: None });
        Ok(())
    }

    /// Forgets an attachment; one that is not known is fine.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.known().remove(name);
        match fs::remove_file(self.dir.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// The sockets of the namespace with this cookie; `None` where it is no pod's. Blocks: each
    /// namespace that nobody has entered yet is entered, on a thread of its own that ends.
    pub fn sockets(&self, cookie: u64) -> Option<nl::Result<SockDiag>> {
        let known = self.known().clone();
        let there = known.values().find(|p| p.cookie == Some(cookie));
        if let Some(place) = there {
            return Some(SockDiag::open_in(&place.path).map(|(sockets, _)| sockets));
        }
        let unknown = known.iter().filter(|(_, p)| p.cookie.is_none() && netns::is_netns(&p.path));
        for (name, place) in unknown {
            match SockDiag::open_in(&place.path) {
                Ok((sockets, found)) => {
                    let mut known = self.known();
                    // It may be another one's by now.
                    if let Some(p) = known.get_mut(name).filter(|p| p.path == place.path) {
                        p.cookie = Some(found);
                    }
                    if found == cookie {
                        return Some(Ok(sockets));
                    }
                }
                // It is just being taken down, and its sockets with it.
                Err(e) => debug!("namespace of {name}: {e}"),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_survives_and_what_is_detached_is_forgotten() {
        let dir = tempfile::tempdir().expect("folder");
        let at = dir.path().join("netns");
        let own = Path::new("/proc/self/ns/net");
        let names = |n: &PodNamespaces| n.known().keys().cloned().collect::<Vec<_>>();
        let first = PodNamespaces::open(&at, |_| true).expect("open");
        first.insert("wv1", own).expect("insert");
        first.insert("wv1", own).expect("again");
        first.insert("wv2", own).expect("insert");
        fs::write(at.join("wv3.new"), "/proc/sel").expect("half-written");
        let second = PodNamespaces::open(&at, |name| name == "wv1").expect("open");
        assert_eq!(names(&second), ["wv1"]);
        assert_eq!(fs::read_dir(&at).expect("list").count(), 1);
        second.remove("wv1").expect("remove");
        second.remove("wv1").expect("again");
        assert!(names(&PodNamespaces::open(&at, |_| true).expect("open")).is_empty());
    }

    #[test]
    fn a_namespace_that_comes_after_the_agent_is_found() {
        let dir = tempfile::tempdir().expect("folder");
        let (at, pod) = (dir.path().join("netns"), dir.path().join("pod"));
        let first = PodNamespaces::open(&at, |_| true).expect("open");
        first.insert("wv1", &pod).expect("insert");
        // The agent starts anew before the runtime does.
        let second = PodNamespaces::open(&at, |_| true).expect("open");
        let cookie = weft_netlink::sock_diag::netns_cookie().expect("cookie");
        assert!(second.sockets(cookie).is_none(), "not there yet");
        if !nix::unistd::geteuid().is_root() {
            println!("SKIP a_namespace_that_comes_after_the_agent_is_found: needs root");
            return;
        }
        std::os::unix::fs::symlink("/proc/self/ns/net", &pod).expect("link");
        assert!(second.sockets(cookie).expect("found").is_ok());
    }
}
