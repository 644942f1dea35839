//! A pod's state on disk, and what can be read back from a status where it is lost.

use crate::error::{Error, Result, file};
use crate::plan;
use crate::program::Port;
use crate::state::{Ended, Observed, State};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Longest state file read.
const BYTES_MAX: u64 = 4 << 20;

/// What is kept of a pod.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// The object as last seen: it may be gone when the kubelet comes back.
    pub pod: Pod,
    /// What was observed.
    pub obs: Observed,
    /// The network plugins' result.
    pub cni: Option<serde_json::Value>,
    /// How the current runs were started.
    pub runs: HashMap<String, Run>,
}

/// How a container was started.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Run {
    /// Environment, for commands in it.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: Option<PathBuf>,
    /// Ports of the stand-in, where it is one.
    pub stand_in: Option<Vec<Port>>,
}

impl Record {
    /// Writes the record unless it is what `saved` says was written last.
    pub fn save(&self, path: &Path, saved: &mut Vec<u8>) -> Result<()> {
        let bytes = serde_json::to_vec(self).map_err(|e| Error::Config(e.to_string()))?;
        if bytes == *saved {
            return Ok(());
        }
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(file("create", dir))?;
        }
        let tmp = path.with_extension("tmp");
        std::fs::write(&tmp, &bytes).map_err(file("write", &tmp))?;
        std::fs::rename(&tmp, path).map_err(file("rename", path))?;
        *saved = bytes;
        Ok(())
    }

    /// All records of a directory. One that cannot be read is told and left out.
    pub fn load_all(dir: &Path) -> Vec<Self> {
        let mut out = Vec::new();
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().and_then(|e| e.to_str()) != Some("json") {
                continue;
            }
            let short = entry.metadata().is_ok_and(|m| m.len() <= BYTES_MAX);
            let read = if short { std::fs::read(&path).ok() } else { None };
            match read.and_then(|b| serde_json::from_slice(&b).ok()) {
                Some(r) => out.push(r),
                None => tracing::warn!("{} is not readable as a pod's state", path.display()),
            }
        }
        out
    }
}

/// Fills the observations of a pod that is over from its last status: it must not run again.
pub fn restore(obs: &mut Observed, spec: &PodSpec, status: &PodStatus) {
    let now = Timestamp::now();
    let all = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten());
    for s in all {
        let Some(t) = s.state.as_ref().and_then(|s| s.terminated.as_ref()) else { continue };
        let o = obs.containers.entry(s.name.clone()).or_default();
        o.restarts = u32::try_from(s.restart_count).unwrap_or(0);
        o.id = s.container_id.as_deref().unwrap_or_default().trim_start_matches("weft://").into();
        o.state = State::Ended(Ended {
            code: t.exit_code,
            signal: t.signal,
            reason: t.reason.clone().unwrap_or_default(),
            message: t.message.clone(),
            started_at: t.started_at.as_ref().map_or(now, |t| t.0),
            finished_at: t.finished_at.as_ref().map_or(now, |t| t.0),
            id: o.id.clone(),
        });
    }
    obs.initialized = spec.containers.iter().all(|c| obs.containers.contains_key(&c.name));
    if status.phase.as_deref() == Some("Failed") && !plan::terminal(spec, obs) {
        let reason = status.reason.clone().unwrap_or_else(|| "Error".into());
        obs.failed = Some((reason, status.message.clone().unwrap_or_default()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_record_comes_back_and_rubbish_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut r = Record::default();
        r.pod.metadata.uid = Some("u".into());
        r.obs.containers.entry("c".into()).or_default().restarts = 3;
        r.obs.start_time = Some(Timestamp::from_second(5).unwrap());
        let mut saved = Vec::new();
        r.save(&dir.path().join("u.json"), &mut saved).unwrap();
        std::fs::write(dir.path().join("bad.json"), "{").unwrap();
        let all = Record::load_all(dir.path());
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].obs, r.obs);
        assert_eq!(all[0].pod, r.pod);
    }

    #[test]
    fn a_finished_pod_stays_finished() {
        let spec: PodSpec = serde_json::from_value(
            json!({"restartPolicy": "Never", "containers": [{"name": "c"}]}),
        )
        .unwrap();
        let status: PodStatus = serde_json::from_value(json!({"phase": "Succeeded",
            "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false,
                "restartCount": 2, "state": {"terminated": {"exitCode": 0}}}]}))
        .unwrap();
        let mut obs = Observed::default();
        restore(&mut obs, &spec, &status);
        assert!(plan::terminal(&spec, &obs));
        assert_eq!(obs.containers["c"].restarts, 2);
    }
}
