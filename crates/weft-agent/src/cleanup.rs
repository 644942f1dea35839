//! Taking everything back: for uninstalling, and for nodes of a lab that goes away.

use std::{fs, io, path::Path};
use weft_netlink::Netlink;

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
