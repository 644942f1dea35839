//! `lab.json`: the definition of a lab and its processes, written atomically.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{fs, path::Path};
use weft_controlplane::write_atomic;
use weft_model::LabName;

use crate::{config::Config, error::LabError, paths, paths::LabPaths, proc::ProcessId};

/// What `lab.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabState {
    /// The definition.
    pub config: Config,
    /// The supervisor; absent while `up` has not come that far.
    pub supervisor: Option<ProcessId>,
    /// Loopback port of the API, kept over a restart of the supervisor.
    pub api_port: Option<u16>,
    /// Set once every node was Ready.
    pub ready: bool,
    /// Milliseconds from the supervisor's start to ready.
    pub ready_after_ms: Option<u64>,
}

impl LabState {
    /// Reads a lab's state; `None` where there is no such lab.
    pub fn read(paths: &LabPaths) -> Result<Option<Self>> {
        match fs::read(paths.state()) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).with_context(|| {
                let (file, lab) = (paths.state(), paths.name());
                format!(
                    "{} is damaged: remove the lab with `weft lab down --name {lab}`",
                    file.display()
                )
            })?)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("read {}", paths.state().display())),
        }
    }

    /// Replaces the state on disk: a reader sees the old or the new one.
    pub fn write(&self, paths: &LabPaths) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(self).context("encode lab.json")?;
        Ok(write_atomic(&paths.state(), &bytes, 0o644)?)
    }

    /// Whether the supervisor lives.
    pub fn running(&self) -> bool {
        self.supervisor.is_some_and(ProcessId::alive)
    }
}

/// The labs that run.
pub fn running(root: &Path) -> Vec<LabPaths> {
    paths::labs(root)
        .iter()
        .map(|n| LabPaths::new(root, n))
        .filter(|p| LabState::read(p).ok().flatten().is_some_and(|s| s.running()))
        .collect()
}

/// The lab that a command means: the named one, else the only one running.
pub fn choose(root: &Path, name: Option<&str>) -> Result<LabPaths> {
    if let Some(name) = name {
        let name: LabName = name.parse().map_err(|e| LabError::input(format!("--name: {e}")))?;
        let paths = LabPaths::new(root, &name);
        if LabState::read(&paths)?.is_none() {
            return Err(LabError::Absent(name.to_string()).into());
        }
        return Ok(paths);
    }
    let mut running = running(root);
    match running.len() {
        1 => Ok(running.remove(0)),
        0 => Err(LabError::input("no lab is running: start one with `weft lab up`").into()),
        _ => {
            let names: Vec<&str> = running.iter().map(|p| p.name().as_str()).collect();
            let names = names.join(", ");
            Err(LabError::input(format!("several labs run ({names}): say which with --name"))
                .into())
        }
    }
}
