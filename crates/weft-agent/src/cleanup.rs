//! Taking everything back: for uninstalling, and for nodes of a lab that goes away.

use anyhow::{Context, bail};
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use weft_netlink::Netlink;

/// Arguments of `weft cleanup`: the folders that the agent was given.
#[derive(Clone, Debug, clap::Args)]
pub struct CleanupArgs {
    /// The node's folder.
    #[arg(long, default_value = crate::args::STATE_DIR)]
    pub state_dir: PathBuf,
    /// Folder for what outlives a restart of the machine.
    #[arg(long, default_value = crate::args::DATA_DIR)]
    pub data_dir: PathBuf,
    /// Folder in a bpffs mount for pins.
    #[arg(long, default_value = "/sys/fs/bpf/weft")]
    pub bpf_dir: PathBuf,
}

/// `weft cleanup`: takes the data plane and the agent's files from this node. Refuses while an
/// agent runs, and goes on after errors.
pub fn run(args: &CleanupArgs) -> anyhow::Result<()> {
    let lock = args.state_dir.join("agent.lock");
    let held = lock.exists().then(|| crate::run::lock(&lock)).transpose()?;
    let mut errors = cleanup(&args.bpf_dir).err().unwrap_or_default();
    for dir in [&args.state_dir, &args.data_dir] {
        match fs::remove_dir_all(dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                errors.push(format!("remove {}: {e}", dir.display()));
            }
            _ => {}
        }
    }
    drop(held);
    if !errors.is_empty() {
        bail!("{}", errors.join("; "));
    }
    // The parent is ours too, where nothing else is in it.
    let parent = args.state_dir.parent().context("the node's folder has no parent")?;
    if parent.ends_with("weft") {
        let _ = fs::remove_dir(parent);
    }
    Ok(())
}

/// Removes what an agent made: in the calling thread's network namespace the netfilter
/// table, pod links, `weft0`, routes and addresses; and the pins below `bpf_dir` (with the
/// last pin the socket hooks are detached). What is absent is fine; goes on after errors and
/// returns all of them as sentences.
pub fn cleanup(bpf_dir: &Path) -> Result<(), Vec<String>> {
    let mut errors: Vec<String> = match Netlink::open() {
        Ok(netlink) => crate::fabric::remove(&netlink).iter().map(ToString::to_string).collect(),
        Err(e) => vec![e.to_string()],
    };
    match fs::remove_dir_all(bpf_dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            errors.push(format!("remove {}: {e}", bpf_dir.display()));
        }
        _ => {}
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}
