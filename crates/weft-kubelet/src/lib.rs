//! The lab's kubelet: pods from the API to sandboxes, probes, logs and exec.

#![forbid(unsafe_code)]

mod args;

pub use args::Args;

/// Runs the kubelet of one node until SIGTERM; containers go on running without it.
pub fn run(args: Args) -> anyhow::Result<()> {
    anyhow::bail!("the kubelet of {} is not written yet", args.node)
}
