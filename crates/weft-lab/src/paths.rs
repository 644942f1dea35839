//! Where a lab keeps things, and what it calls them. Every name that a lab owns is made here.

use std::path::{Path, PathBuf};
use weft_model::LabName;

/// Directory of all labs unless `--state-dir` or `WEFT_STATE_DIR` says otherwise.
pub const STATE_ROOT: &str = "/run/weft";

/// Paths of one lab.
#[derive(Clone, Debug)]
pub struct LabPaths {
    root: PathBuf,
    name: LabName,
}

impl LabPaths {
    /// Paths of lab `name` under the state root.
    pub fn new(root: &Path, name: &LabName) -> Self {
        Self { root: root.to_owned(), name: name.clone() }
    }

    /// The lab's name.
    pub fn name(&self) -> &LabName {
        &self.name
    }

    /// The directory of everything.
    pub fn dir(&self) -> PathBuf {
        self.root.join(self.name.as_str())
    }

    /// Serialises `up` and `down`; outside [`Self::dir`], which `down` removes.
    pub fn lock(&self) -> PathBuf {
        self.root.join(format!("{}.lock", self.name))
    }

    /// Definition and processes of the lab.
    pub fn state(&self) -> PathBuf {
        self.dir().join("lab.json")
    }

    /// Kubeconfig for people, over loopback.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir().join("kubeconfig")
    }

    /// The supervisor's log.
    pub fn log(&self) -> PathBuf {
        self.dir().join("supervisor.log")
    }

    /// CA, certificate and tokens.
    pub fn pki(&self) -> PathBuf {
        self.dir().join("pki")
    }

    /// The API's journal.
    pub fn api_data(&self) -> PathBuf {
        self.dir().join("api")
    }

    /// Mount point of the lab's own bpffs.
    pub fn bpf(&self) -> PathBuf {
        self.dir().join("bpf")
    }

    /// What the claims of the lab's pods hold: one directory a volume, whatever node they are on.
    pub fn volumes(&self) -> PathBuf {
        self.dir().join("volumes")
    }

    /// Directory of a node.
    pub fn node(&self, node: &str) -> PathBuf {
        self.dir().join(node)
    }

    /// The lab's cgroup relative to a hierarchy's mount point. Lab names have no dots, so
    /// no two labs share one.
    pub fn cgroup(&self) -> PathBuf {
        PathBuf::from(format!("weft.{}", self.name))
    }

    /// A node's cgroup, where the socket hooks are attached.
    pub fn node_cgroup(&self, node: &str) -> PathBuf {
        self.cgroup().join(node)
    }

    /// A pod's cgroup; its containers have one each below it.
    pub fn pod_cgroup(&self, node: &str, uid: &str) -> PathBuf {
        self.node_cgroup(node).join("pods").join(uid)
    }

    /// Name of a namespace under /run/netns: at most 5 + 20 + 1 + 8 characters.
    pub fn netns_name(&self, part: &str) -> String {
        format!("weft.{}.{part}", self.name)
    }

    /// Path of that namespace.
    pub fn netns(&self, part: &str) -> PathBuf {
        Path::new("/run/netns").join(self.netns_name(part))
    }
}

/// Names of the labs that have a state directory, running or not.
pub fn labs(root: &Path) -> Vec<LabName> {
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    let mut names: Vec<LabName> = entries
        .flatten()
        .filter(|e| e.path().is_dir())
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect();
    names.sort();
    names
}
