//! Which link is which pod.
//!
//! The runtime tells it with ADD and never again, so it is kept: one small file an attachment,
//! written before ADD is answered. A restarted agent judges by it as the one before.

use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;
use tracing::warn;
use weft_model::{Map, NamespacedName, Pod, Snapshot};
use weft_netlink::Netlink;

/// Whose link it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Owner {
    /// This pod's.
    Pod {
        /// Its namespace and name.
        id: NamespacedName,
        /// [`Pod::incarnation`] where the API knew it, else 0 (a static pod that was not mirrored
        /// yet).
        incarnation: u64,
    },
    /// Nobody's that has a name: attached by hand. No policy can select it.
    Nobody,
    /// It was attached by an agent that did not keep it.
    Forgotten,
}

/// Whom ADD attaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Whose link it will be.
    pub owner: Owner,
    /// The pod as it was then, where anybody knew it.
    pub seed: Option<Arc<Pod>>,
}

impl Subject {
    /// Somebody without a name.
    pub const NOBODY: Self = Self { owner: Owner::Nobody, seed: None };

    /// Whether the socket hooks shall leave the pod alone.
    pub fn sockets_alone(&self) -> bool {
        self.seed.as_ref().is_some_and(|pod| pod.sockets_alone)
    }
}

/// An attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalLink {
    /// Name of the link on the node's side.
    pub name: Arc<str>,
    /// Its index.
    pub index: u32,
    /// Its addresses, at most one a family.
    pub ips: Vec<IpAddr>,
    /// Whose it is.
    pub owner: Owner,
    /// The pod as ADD knew it; the snapshot's word counts as soon as it has the pod.
    pub seed: Option<Arc<Pod>>,
}

/// What is written of one.
#[derive(Serialize, Deserialize)]
struct Entry {
    ips: Vec<IpAddr>,
    owner: Owner,
}

/// All attachments by the names of their links.
pub type Links = Map<Arc<str>, Arc<LocalLink>>;

/// The attachments of this node, and who follows them.
#[derive(Debug)]
pub struct LocalPods {
    dir: PathBuf,
    /// Held while the folder is written.
    writing: Mutex<()>,
    links: watch::Sender<Links>,
}

impl LocalPods {
    /// Restores what an earlier agent wrote into `dir`; forgets links that are gone. The calling
    /// thread is in the node's namespace.
    pub fn open(dir: &Path, netlink: &Netlink) -> io::Result<Self> {
        let indexes = netlink.links().map_err(io::Error::other)?;
        let indexes = indexes.into_iter().map(|l| (l.name, l.index)).collect();
        Self::open_among(dir, &indexes)
    }

    fn open_among(dir: &Path, indexes: &BTreeMap<String, u32>) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut links = Links::new();
        for file in fs::read_dir(dir)? {
            let path = file?.path();
            let name = path.file_name().and_then(|n| n.to_str());
            let there = name.and_then(|n| Some((n, *indexes.get(n)?)));
            let entry = serde_json::from_slice::<Entry>(&fs::read(&path)?);
            match (there, entry) {
                (Some((name, index)), Ok(Entry { ips, owner })) => {
                    let name: Arc<str> = name.into();
                    let link = LocalLink { name: name.clone(), index, ips, owner, seed: None };
                    links.insert(name, Arc::new(link));
                }
                // Of a link that is there, whose is it? Found out by its addresses.
                (Some((name, _)), Err(e)) => {
                    warn!("whose link {name} is cannot be read: {e}");
                    fs::remove_file(&path)?;
                }
                // Half-written ones, too: a name with an extension was never told.
                (None, _) => fs::remove_file(&path)?,
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            writing: Mutex::default(),
            links: watch::Sender::new(links),
        })
    }

    /// Nobody attached yet.
    #[cfg(test)]
    pub(super) fn open_empty(dir: &Path) -> Self {
        Self::open_among(dir, &BTreeMap::new()).expect("a folder")
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the attachments.
    pub fn follow(&self) -> watch::Receiver<Links> {
        self.links.subscribe()
    }

    /// The attachment of a link; `None` where the link of that name is another one by now.
    pub fn get(&self, name: &str, index: u32) -> Option<Arc<LocalLink>> {
        self.links.borrow().get(name).filter(|l| l.index == index).cloned()
    }

    /// Keeps an attachment, in place of an earlier one of its name.
    pub fn insert(&self, link: LocalLink) -> io::Result<()> {
        let _held = self.writing();
        let entry = Entry { ips: link.ips.clone(), owner: link.owner.clone() };
        let (file, half) =
            (self.dir.join(&*link.name), self.dir.join(format!("{}.new", link.name)));
        fs::write(&half, serde_json::to_vec(&entry)?)?;
        fs::rename(half, file)?;
        self.links.send_modify(|links| drop(links.insert(link.name.clone(), Arc::new(link))));
        Ok(())
    }

    /// Notes a link of an earlier agent that did not say whose it is.
    pub(crate) fn insert_forgotten(&self, name: &str, index: u32, ips: &[IpAddr]) {
        let (name, ips): (Arc<str>, _) = (name.into(), ips.to_vec());
        let link =
            LocalLink { name: name.clone(), index, ips, owner: Owner::Forgotten, seed: None };
        self.links.send_if_modified(|links| {
            let news = !links.contains_key(&name);
            if news {
                links.insert(name, Arc::new(link));
            }
            news
        });
    }

    /// Forgets an attachment; one that is not known is fine.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        let _held = self.writing();
        self.links.send_if_modified(|links| links.remove(name).is_some());
        match fs::remove_file(self.dir.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Says whose the forgotten links are: whose addresses they have.
    pub(crate) fn identify(&self, snapshot: &Snapshot, node: &weft_model::NodeName) {
        let links = self.links.borrow().clone();
        let mut forgotten = links.values().filter(|l| l.owner == Owner::Forgotten).peekable();
        if forgotten.peek().is_none() {
            return;
        }
        let here = snapshot.pods.values();
        let here = here.filter(|p| p.node.as_ref() == Some(node) && !p.host_network);
        let owners: BTreeMap<IpAddr, &Pod> =
            here.flat_map(|p| p.addresses.iter().map(move |a| (*a, &**p))).collect();
        for link in forgotten {
            let Some(pod) = link.ips.iter().find_map(|ip| owners.get(ip)) else { continue };
            let owner = Owner::Pod { id: pod.id.clone(), incarnation: pod.incarnation };
            if let Err(e) = self.insert(LocalLink { owner, ..LocalLink::clone(link) }) {
                // It is found again after the next restart.
                warn!("cannot keep whose link {} is: {e}", link.name);
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::policy) fn link(name: &str, index: u32, ip: &str, pod: &str) -> LocalLink {
        let ips = vec![ip.parse().expect("address")];
        let owner = Owner::Pod { id: NamespacedName::new("ns", pod), incarnation: 7 };
        LocalLink { name: name.into(), index, ips, owner, seed: None }
    }

    #[test]
    fn whose_links_they_are_outlives_the_agent_and_not_the_links() {
        let dir = tempfile::tempdir().expect("folder");
        let at = dir.path().join("pods");
        let there = |names: &[(&str, u32)]| -> BTreeMap<String, u32> {
            names.iter().map(|(n, i)| ((*n).to_owned(), *i)).collect()
        };
        let first = LocalPods::open_among(&at, &there(&[])).expect("open");
        let (a, b) = (link("wv1", 4, "10.0.0.1", "a"), link("wv2", 5, "10.0.0.2", "b"));
        first.insert(a.clone()).expect("insert");
        first.insert(b).expect("insert");
        first
            .insert(LocalLink { owner: Owner::Nobody, ..link("wv3", 6, "10.0.0.3", "-") })
            .expect("in");
        fs::write(at.join("wv4.new"), "{\"ip").expect("half-written");
        fs::write(at.join("wv5"), "{\"ip").expect("damaged");
        assert!(first.get("wv1", 4).is_some() && first.get("wv1", 9).is_none());

        let second = LocalPods::open_among(&at, &there(&[("wv1", 4), ("wv3", 8), ("wv5", 9)]));
        let second = second.expect("open");
        let links = second.follow().borrow().clone();
        assert_eq!(links.len(), 2, "{links:?}");
        assert_eq!(*links["wv1"], a);
        assert_eq!((&links["wv3"].owner, links["wv3"].index), (&Owner::Nobody, 8));
        assert_eq!(fs::read_dir(&at).expect("list").count(), 2);
        second.remove("wv1").expect("remove");
        second.remove("wv1").expect("again");
        let third = LocalPods::open_among(&at, &there(&[("wv1", 4), ("wv3", 8)])).expect("open");
        assert_eq!(third.follow().borrow().len(), 1);
    }

    #[test]
    fn forgotten_links_are_known_by_their_addresses() {
        let dir = tempfile::tempdir().expect("folder");
        let node: weft_model::NodeName = "n1".parse().expect("name");
        let locals = LocalPods::open_among(dir.path(), &BTreeMap::new()).expect("open");
        for (n, name) in ["wv1", "wv2"].into_iter().enumerate() {
            let ip = format!("10.0.0.{}", n + 1).parse().expect("address");
            locals.insert_forgotten(name, n as u32 + 1, &[ip]);
        }
        let mut snapshot = Snapshot::default();
        let pod = super::super::tests::pod("a", &[("app", "a")], "n1", "10.0.0.2");
        snapshot.pods.insert(pod.id.clone(), Arc::new(pod.clone()));
        locals.identify(&snapshot, &node);
        let links = locals.follow().borrow().clone();
        assert_eq!(links["wv1"].owner, Owner::Forgotten);
        assert_eq!(links["wv2"].owner, Owner::Pod { id: pod.id, incarnation: pod.incarnation });
        // Kept, too.
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1);
    }
}
