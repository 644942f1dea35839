//! Files of a lab: PKI, tokens, kubeconfigs, CNI configuration, and the mounts: a bpffs, the
//! disks of nodes and claims, the CNI plugin.

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::Path,
};
use weft_apiserver::Pki;
use weft_controlplane::{Credentials, write_atomic};

use crate::{
    config::{Config, nth},
    paths::LabPaths,
    topology::{API_PORT, Topology},
};

/// A disk holds at most this much, however much memory the machine has.
const DISK_BYTES_MAX: u64 = 1 << 30;
/// And at least this much, however little.
const DISK_BYTES_MIN: u64 = 64 << 20;
/// All disks together may fill this part of the machine's memory.
const DISKS_PART_OF_MEMORY: u64 = 4;

/// Mounts the lab's own bpffs: /sys/fs/bpf may not be mounted, and `down` removes this one
/// with all its pins.
pub fn mount_bpf(at: &Path) -> Result<()> {
    fs::create_dir_all(at).with_context(|| format!("make {}", at.display()))?;
    let kind = nix::sys::statfs::statfs(at).with_context(|| format!("look at {}", at.display()))?;
    if kind.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC {
        return Ok(());
    }
    mount(
        Some("bpf"),
        at,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0700"),
    )
    .with_context(|| {
        format!("mount bpffs on {} (the kernel needs CONFIG_BPF_SYSCALL)", at.display())
    })
}

/// Loads or makes the CA, and a server certificate for every address that the API has.
pub fn pki(paths: &LabPaths, topology: &Topology, config: &Config) -> Result<Pki> {
    let mut addresses: Vec<IpAddr> = topology.api.clone();
    addresses.push(std::net::Ipv4Addr::LOCALHOST.into());
    addresses.extend(config.service_cidrs.iter().map(|n| nth(*n, 1)));
    private_dir(&paths.pki())?;
    Pki::load_or_create(&paths.pki(), &addresses).context("make certificates")
}

/// Bearer tokens: one for people, one a node, and the key that signs service account tokens.
#[derive(Clone, Serialize, Deserialize)]
pub struct Tokens {
    #[serde(flatten)]
    common: Credentials,
    nodes: BTreeMap<String, String>,
}

/// Loads the lab's tokens, or makes them.
pub fn tokens(paths: &LabPaths) -> Result<Tokens> {
    let make = || Tokens {
        common: Credentials::random(),
        nodes: (1..=crate::config::NODES_MAX)
            .map(|n| (format!("node{n}"), weft_apiserver::random_token()))
            .collect(),
    };
    Ok(Credentials::load_or_create(&paths.pki().join("tokens.json"), make)?)
}

impl Tokens {
    /// The signing key's bytes.
    pub fn key(&self) -> Result<[u8; 32]> {
        self.common.key().context("tokens.json is damaged")
    }

    /// What the API accepts.
    pub fn for_api(&self, topology: &Topology) -> Vec<weft_apiserver::Token> {
        let admin = self.common.admin_token("weft-admin");
        let nodes = topology.nodes.iter().filter_map(|n| {
            Some(weft_apiserver::Token {
                token: self.nodes.get(&n.name)?.clone(),
                user: format!("system:node:{}", n.name),
                groups: vec!["system:nodes".into()],
            })
        });
        std::iter::once(admin).chain(nodes).collect()
    }
}

/// Makes the directories of nodes and volumes, and writes the kubeconfig of people and of each node.
pub fn write_kubeconfigs(
    paths: &LabPaths,
    topology: &Topology,
    pki: &Pki,
    tokens: &Tokens,
    port: u16,
) -> Result<()> {
    let mine = weft_apiserver::kubeconfig(
        &format!("https://127.0.0.1:{port}"),
        &pki.ca_pem,
        tokens.common.admin(),
    );
    write_atomic(&paths.kubeconfig(), mine.as_bytes(), 0o600)?;
    give_to_caller(&paths.kubeconfig())?;
    let api = topology.api.first().context("invariant: a lab has a family")?;
    let server = format!("https://{}", SocketAddr::new(*api, API_PORT));
    // The nodes' and that of the claims, which is no node's.
    let disk = disk_bytes(memory_bytes(), topology.nodes.len() as u64 + 1);
    private_dir(&paths.volumes())?;
    mount_disk(&paths.volumes(), disk)?;
    for node in &topology.nodes {
        let dir = paths.node(&node.name);
        private_dir(&dir)?;
        mount_disk(&dir, disk)?;
        for part in ["cni", "cni/net.d", "cni/bin", "state", "pods", "hostroot"] {
            private_dir(&dir.join(part))?;
        }
        let token = tokens.nodes.get(&node.name).context("tokens.json lacks a node")?;
        let text = weft_apiserver::kubeconfig(&server, &pki.ca_pem, token);
        write_atomic(&dir.join("kubeconfig"), text.as_bytes(), 0o600)?;
        write_cni(&dir)?;
    }
    Ok(())
}

/// The CNI configuration of a node, and the plugin: a link to this very binary.
fn write_cni(dir: &Path) -> Result<()> {
    let conf = serde_json::json!({
        "cniVersion": "1.1.0",
        "name": "weft",
        "plugins": [{
            "type": "weft-cni",
            "agentSocket": dir.join("agent.sock"),
            "capabilities": { "portMappings": true },
        }],
    });
    let text = serde_json::to_vec_pretty(&conf)?;
    write_atomic(&dir.join("cni/net.d/10-weft.conflist"), &text, 0o644)?;
    bind_plugin(&dir.join("cni/bin/weft-cni"))
}

/// Shows this very binary as the plugin. A mount, unlike a link, stays what it is when the binary
/// is built again, moved or removed while the lab runs.
fn bind_plugin(plugin: &Path) -> Result<()> {
    let me = std::env::current_exe().context("find this binary")?;
    // An earlier supervisor's.
    match umount2(plugin, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(e) => return Err(e).with_context(|| format!("replace {}", plugin.display())),
    }
    fs::File::create(plugin).with_context(|| format!("make {}", plugin.display()))?;
    mount(Some(&me), plugin, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("show {} as {}", me.display(), plugin.display()))
}

/// Gives a node, or the claims, a file system of their own, in memory, for all that is written
/// there: a full one is this node's trouble, not that of the machine's /run. Private, so that what the node
/// mounts in it is not kept alive by other mount namespaces of the machine.
fn mount_disk(dir: &Path, bytes: u64) -> Result<()> {
    let device = |path: &Path| {
        fs::metadata(path).map(|m| m.dev()).with_context(|| format!("look at {}", path.display()))
    };
    let above = dir.parent().context("invariant: a disk's directory lies in the lab's")?;
    if device(dir)? != device(above)? {
        // The last supervisor's.
        return Ok(());
    }
    let options = format!("mode=0700,size={bytes}");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("weft"), dir, Some("tmpfs"), flags, Some(options.as_str()))
        .and_then(|()| mount(None::<&str>, dir, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>))
        .with_context(|| format!("mount {}", dir.display()))
}

/// The size of each disk.
fn disk_bytes(memory: Option<u64>, disks: u64) -> u64 {
    let share = memory.map_or(DISK_BYTES_MIN, |m| m / DISKS_PART_OF_MEMORY / disks.max(1));
    share.clamp(DISK_BYTES_MIN, DISK_BYTES_MAX)
}

/// The machine's memory.
fn memory_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// A directory for root alone.
fn private_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("make {}", dir.display()))
}

/// Under sudo, the kubeconfig belongs to the user who called.
fn give_to_caller(path: &Path) -> Result<()> {
    let id = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u32>().ok());
    if let (Some(uid), Some(gid)) = (id("SUDO_UID"), id("SUDO_GID")) {
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
            .with_context(|| format!("give {} to its caller", path.display()))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("protect {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_share_a_part_of_the_memory() {
        let gib = 1 << 30;
        assert_eq!(disk_bytes(Some(64 * gib), 3), gib);
        assert_eq!(disk_bytes(Some(4 * gib), 4), gib / 4);
        assert_eq!(disk_bytes(Some(2 * gib), 100), DISK_BYTES_MIN);
        assert_eq!(disk_bytes(None, 1), DISK_BYTES_MIN);
        assert!(memory_bytes().is_some_and(|m| m > DISK_BYTES_MIN));
    }
}
