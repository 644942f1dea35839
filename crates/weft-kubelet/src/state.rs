//! What the kubelet has seen of a pod: plain data, written to disk at every change, so that a
//! restarted kubelet goes on where its predecessor stopped.

use crate::backoff::Backoff;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A pod as observed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// The sandbox.
    pub sandbox: Sandbox,
    /// Containers by name, init containers included.
    pub containers: BTreeMap<String, ContainerObs>,
    /// All init containers have completed once; they do not run again in this sandbox.
    pub initialized: bool,
    /// The pod as a whole has failed: reason and message.
    pub failed: Option<(String, String)>,
    /// When this kubelet first saw the pod.
    pub start_time: Option<Timestamp>,
    /// The pod is gone from the API: containers get one second, nobody reads the status.
    pub gone: bool,
}

/// The sandbox's life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Sandbox {
    /// Not there; the next attempt waits for `retry_at`.
    Absent {
        /// Failed attempts so far.
        attempts: u32,
        /// When to try again.
        retry_at: Option<Timestamp>,
        /// Something of it may be there and is taken down first.
        dirty: bool,
    },
    /// Being created, network included.
    Creating {
        /// Failed attempts so far.
        attempts: u32,
    },
    /// Namespaces and network stand.
    Ready {
        /// Addresses, primary family first.
        ips: Vec<IpAddr>,
    },
    /// Network and namespaces are being taken down.
    Closing,
    /// Nothing is left of it.
    Closed,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::Absent { attempts: 0, retry_at: None, dirty: false }
    }
}

impl Sandbox {
    /// Addresses of the pod, primary family first; empty before the network stands.
    pub fn ips(&self) -> &[IpAddr] {
        match self {
            Self::Ready { ips } => ips,
            _ => &[],
        }
    }
}

/// One container as observed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerObs {
    /// What it does now.
    pub state: State,
    /// How its previous run ended.
    pub last: Option<Ended>,
    /// Restarts so far; also the number of the run that the current state speaks of.
    pub restarts: u32,
    /// The startup probe, if any, has succeeded in this run.
    pub started: bool,
    /// The readiness probe, if any, says so.
    pub ready: bool,
    /// A probe or hook has condemned this run: the reason, and the grace period that the probe asks for.
    pub condemned: Option<(String, Option<i64>)>,
    /// When a stop in progress ends in SIGKILL.
    pub stop_by: Option<Timestamp>,
    /// Delay before the next restart.
    pub backoff: Backoff,
    /// After an attempt to start that failed: not before.
    pub retry_at: Option<Timestamp>,
    /// A stand-in runs in the place of the image's program.
    pub stand_in: bool,
    /// The stand-in is to be started again with other ports; not a restart of the container.
    pub replace: bool,
    /// Identifier of the current run.
    pub id: String,
}

/// What a container does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum State {
    /// Not running, with the reason shown to the user.
    Waiting {
        /// Reason, CamelCase.
        reason: String,
        /// Message.
        message: Option<String>,
    },
    /// Being started.
    Starting,
    /// Running.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// Ended.
    Ended(Ended),
}

impl Default for State {
    fn default() -> Self {
        Self::Waiting { reason: "ContainerCreating".into(), message: None }
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Exit code; 128 + signal where a signal ended it.
    pub code: i32,
    /// The signal.
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `ContainerStatusUnknown`…
    pub reason: String,
    /// Termination message.
    pub message: Option<String>,
    /// Start of the run.
    pub started_at: Timestamp,
    /// Its end.
    pub finished_at: Timestamp,
    /// Identifier of the run.
    pub id: String,
}

impl ContainerObs {
    /// Whether a process runs or is being started.
    pub fn active(&self) -> bool {
        matches!(self.state, State::Running { .. } | State::Starting)
    }

    /// The end of the current run.
    pub fn ended(&self) -> Option<&Ended> {
        match &self.state {
            State::Ended(e) => Some(e),
            _ => None,
        }
    }
}
