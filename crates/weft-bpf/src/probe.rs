//! What this kernel can do.

use crate::{
    MapSizes,
    object::{HOOKS, LINK_HOOKS, Loaded},
    sys,
};
use std::{error::Error, fs, os::fd::AsFd};

/// One feature of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Short stable name, e.g. `socket-connect4`.
    pub name: String,
    /// Whether it works.
    pub ok: bool,
    /// Whether Weft can do without it.
    pub optional: bool,
    /// One sentence: what it is for; or what is missing, and what follows from that.
    pub detail: String,
}

/// Sizes of the maps that are made only to load the programs.
const PROBE_SIZES: MapSizes = MapSizes {
    services: 64,
    slots: 64,
    members: 64,
    sockets: 64,
    clients: 64,
    pods: 64,
    flows: 64,
    peers: 64,
    blocks: 64,
    rules: 64,
    sets: 64,
    conns: 64,
    event_bytes: 65_536,
};

/// Tries the features that the socket load balancer needs: reads `/proc`, and passes the very
/// programs through the verifier. Attaches and leaves nothing.
pub fn probe() -> Vec<Feature> {
    let mut features = vec![
        filesystem("bpf", "bpf-filesystem", "keeps programs and maps while no agent runs"),
        filesystem("cgroup2", "cgroup2", "programs are attached to a node's cgroup"),
    ];
    match Loaded::new(None, &PROBE_SIZES) {
        Ok(loaded) => {
            features.push(feature("bpf-maps", false, Ok(()), "hold Services and backends"));
            let mut any = None;
            for hook in &HOOKS {
                let program = loaded.program(hook);
                let purpose = format!("hook {} of sockets", hook.pin);
                let result = program.as_ref().map(drop).map_err(reasons);
                let name = format!("socket-{}", hook.pin);
                features.push(feature(&name, !hook.required, result, &purpose));
                any = any.or(program.ok().map(|p| (p, hook.attach_type)));
            }
            for hook in &LINK_HOOKS {
                let program = loaded.program(hook);
                let purpose = format!("program {} at the pods' links", hook.pin);
                let name = format!("link-{}", hook.pin.replace('_', "-"));
                let result = program.as_ref().map(drop).map_err(reasons);
                features.push(feature(&name, false, result, &purpose));
                if let (Ok(program), "from_pod") = (&program, hook.pin) {
                    let known = sys::tcx_is_known(program.as_fd());
                    let result = known.map_err(|e| format!("filters of clsact do instead ({e})"));
                    features.push(feature("tcx", true, result, "keeps those attached"));
                }
            }
            if let Some((program, attach_type)) = any {
                let known = sys::link_create_is_known(program.as_fd(), attach_type);
                let result = known.map_err(|e| e.to_string());
                features.push(feature("cgroup-link", false, result, "outlives the agent"));
            }
        }
        Err(error) => {
            let result = Err(reasons(&error));
            features.push(feature("bpf-maps", false, result, "hold Services and backends"));
        }
    }
    let barrier = match sys::can_wait_for_readers() {
        Ok(true) => Ok(()),
        Ok(false) => Err("not with nohz_full; they go 100 ms later".to_owned()),
        Err(e) => Err(e.to_string()),
    };
    features.push(feature("membarrier", true, barrier, "old backends go without a delay"));
    features
}

fn feature(name: &str, optional: bool, result: Result<(), String>, purpose: &str) -> Feature {
    let detail = match &result {
        Ok(()) => purpose.to_owned(),
        Err(reason) => format!("{purpose}: {reason}"),
    };
    Feature { name: name.to_owned(), ok: result.is_ok(), optional, detail }
}

fn filesystem(kind: &str, name: &str, purpose: &str) -> Feature {
    let result = match fs::read_to_string("/proc/filesystems") {
        Ok(text) if text.lines().any(|l| l.split_whitespace().last() == Some(kind)) => Ok(()),
        Ok(_) => Err(format!("this kernel has no file system '{kind}'")),
        Err(e) => Err(format!("/proc/filesystems: {e}")),
    };
    feature(name, false, result, purpose)
}

/// An error with its causes, on one line.
pub(crate) fn reasons(error: impl Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += ": ";
        text += &error.to_string();
        cause = error.source();
    }
    text
}
