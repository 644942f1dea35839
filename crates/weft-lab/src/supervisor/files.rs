//! Files of a lab: PKI, tokens, kubeconfigs, CNI configuration, and the bpffs mount.

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};
use weft_apiserver::Pki;

use crate::{
    config::{Config, nth},
    paths::LabPaths,
    state::write_atomic,
    topology::{API_PORT, Topology},
};

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
    admin: String,
    nodes: BTreeMap<String, String>,
    signing_key: String,
}

/// Loads the lab's tokens, or makes them.
pub fn tokens(paths: &LabPaths) -> Result<Tokens> {
    let path = paths.pki().join("tokens.json");
    if let Ok(bytes) = fs::read(&path) {
        return serde_json::from_slice(&bytes).context("tokens.json is damaged");
    }
    let tokens = Tokens {
        admin: weft_apiserver::random_token(),
        nodes: (1..=crate::config::NODES_MAX)
            .map(|n| (format!("node{n}"), weft_apiserver::random_token()))
            .collect(),
        signing_key: weft_apiserver::random_token(),
    };
    write_atomic(&path, &serde_json::to_vec(&tokens)?, 0o600)?;
    Ok(tokens)
}

impl Tokens {
    /// The signing key's bytes.
    pub fn key(&self) -> Result<[u8; 32]> {
        let digits = self.signing_key.get(..64).context("tokens.json is damaged")?;
        let mut key = [0; 32];
        for (i, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * i..2 * i + 2], 16)
                .context("tokens.json is damaged")?;
        }
        Ok(key)
    }

    /// What the API accepts.
    pub fn for_api(&self, topology: &Topology) -> Vec<weft_apiserver::Token> {
        let admin = weft_apiserver::Token {
            token: self.admin.clone(),
            user: "weft-admin".into(),
            groups: vec!["system:masters".into(), "system:authenticated".into()],
        };
        let nodes = topology.nodes.iter().filter_map(|n| {
            Some(weft_apiserver::Token {
                token: self.nodes.get(&n.name)?.clone(),
                user: format!("system:node:{}", n.name),
                groups: vec!["system:nodes".into(), "system:authenticated".into()],
            })
        });
        std::iter::once(admin).chain(nodes).collect()
    }
}

/// Makes the nodes' directories, and writes the kubeconfig of people and of each node.
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
        &tokens.admin,
    );
    write_atomic(&paths.kubeconfig(), mine.as_bytes(), 0o600)?;
    give_to_caller(&paths.kubeconfig())?;
    let api = topology.api.first().context("invariant: a lab has a family")?;
    let server = format!("https://{}", SocketAddr::new(*api, API_PORT));
    for node in &topology.nodes {
        let dir = paths.node(&node.name);
        for part in ["", "cni", "cni/net.d", "cni/bin", "state", "pods", "hostroot"] {
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
        "plugins": [{ "type": "weft-cni", "agentSocket": dir.join("agent.sock") }],
    });
    let text = serde_json::to_vec_pretty(&conf)?;
    write_atomic(&dir.join("cni/net.d/10-weft.conflist"), &text, 0o644)?;
    let plugin = dir.join("cni/bin/weft-cni");
    let me = std::env::current_exe().context("find this binary")?;
    match fs::remove_file(&plugin) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("replace {}", plugin.display()));
        }
        _ => {}
    }
    // A hard link survives a rebuild of the binary while the lab runs; across file systems
    // only a symbolic link is possible.
    fs::hard_link(&me, &plugin)
        .or_else(|_| std::os::unix::fs::symlink(&me, &plugin))
        .with_context(|| format!("link {}", plugin.display()))
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
