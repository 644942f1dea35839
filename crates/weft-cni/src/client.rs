//! The agent's socket: one line of JSON each way, one request per connection. Only flows are a
//! stream (`flow.rs`).

use crate::{
    INPUT_LEN_MAX,
    error::{CniError, code},
    types::AddResult,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// How long one answer may take. Less than the two minutes that runtimes give a plugin.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A request to the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Request {
    /// A CNI command.
    Cni {
        /// ADD, DEL, CHECK, GC or STATUS.
        command: String,
        /// CNI_CONTAINERID.
        #[serde(default)]
        container_id: String,
        /// CNI_NETNS.
        #[serde(default)]
        netns: String,
        /// CNI_IFNAME.
        #[serde(default)]
        ifname: String,
        /// CNI_ARGS.
        #[serde(default)]
        args: String,
        /// The configuration from stdin.
        #[serde(default)]
        config: Value,
    },
    /// Whether everything was applied once.
    Ready,
    /// The agent's state, for people and tests.
    Status,
    /// Policies in force, those of one name alone where it is given.
    Policy {
        /// `namespace/name`, or the name of a ClusterNetworkPolicy.
        #[serde(default)]
        name: Option<String>,
    },
    /// Verdicts on flows, as a stream: behind the answer one [`crate::flow::FlowLine`] a line.
    Flows(crate::flow::FlowRequest),
}

/// The agent's answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Whether the request succeeded (for `ready`: whether the agent is ready).
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Result of ADD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<AddResult>,
    /// Error of a CNI command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<CniError>,
    /// Answer to `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}

/// Sends one request to the agent at `socket` and waits for its answer. Blocks.
pub fn call(socket: &Path, request: &Request) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = Vec::new();
    stream.take(INPUT_LEN_MAX as u64 + 1).read_to_end(&mut answer)?;
    if answer.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the agent closed the connection",
        ));
    }
    if answer.len() > INPUT_LEN_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the agent's answer is too long"));
    }
    Ok(serde_json::from_slice(&answer)?)
}

/// The error for a call that failed: the agent is away or restarting, so try again.
pub(crate) fn away(socket: &Path, error: &io::Error) -> CniError {
    let details = format!("{}: {error}", socket.display());
    CniError::new(code::TRY_AGAIN, "the weft agent of this node does not answer", details)
}
