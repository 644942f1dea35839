//! `weft lab exec`: in a pod through the API, on a node or the client in its namespace.

use anyhow::{Context, Result, bail};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::{
    Api,
    api::{AttachParams, AttachedProcess},
};
use std::path::Path;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::{error::LabError, nodes::Place, paths::LabPaths};

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTarget {
    /// Namespace.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Container; the first where absent.
    pub container: Option<String>,
}

/// Where a command runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// In a container.
    Pod(PodTarget),
    /// In the namespace of a node or of `client`.
    Place(String),
}

impl Target {
    /// Reads `POD`, `node/NODE` or `client`.
    pub fn parse(text: &str, namespace: String, container: Option<String>) -> Self {
        match text.strip_prefix("node/") {
            Some(node) => Self::Place(node.to_owned()),
            None if text == "client" => Self::Place(text.to_owned()),
            None => {
                let pod = text.strip_prefix("pod/").unwrap_or(text).to_owned();
                Self::Pod(PodTarget { namespace, pod, container })
            }
        }
    }
}

/// Runs a command in a container; returns its exit code.
pub async fn in_pod(
    client: kube::Client,
    target: PodTarget,
    command: Vec<String>,
    stdin: bool,
    tty: bool,
) -> Result<i32> {
    let pods: Api<Pod> = Api::namespaced(client, &target.namespace);
    let mut params = AttachParams::default().stdin(stdin).stdout(true).stderr(!tty).tty(tty);
    params.container = target.container.clone();
    let mut process = pods
        .exec(&target.pod, command, &params)
        .await
        .with_context(|| format!("exec in pod {}/{}", target.namespace, target.pod))?;
    let _raw = if tty { RawTerminal::enter() } else { None };
    let input = process.stdin();
    let feed = tokio::spawn(async move {
        if let Some(input) = input {
            pump(tokio::io::stdin(), input).await;
        }
    });
    let out = process.stdout();
    let err = process.stderr();
    tokio::join!(drain(out, tokio::io::stdout()), drain(err, tokio::io::stderr()));
    feed.abort();
    exit_code(process).await
}

async fn drain(from: Option<impl AsyncRead + Unpin>, to: impl AsyncWrite + Unpin) {
    if let Some(from) = from {
        pump(from, to).await;
    }
}

/// Copies until either side ends; the exit code tells the rest.
async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let _ = tokio::io::copy(&mut from, &mut to).await;
    let _ = to.shutdown().await;
}

async fn exit_code(mut process: AttachedProcess) -> Result<i32> {
    let status = process.take_status().context("invariant: the status is taken once")?.await;
    let Some(status) = status else { bail!("the connection ended before the command") };
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    match code_of(&status) {
        Some(code) => Ok(code),
        None => bail!("{}", status.message.unwrap_or_else(|| "the command failed".into())),
    }
}

/// The exit code travels as a cause of the Status (remotecommand's v4 protocol).
fn code_of(status: &Status) -> Option<i32> {
    let causes = status.details.as_ref()?.causes.as_ref()?;
    let cause = causes.iter().find(|c| c.reason.as_deref() == Some("ExitCode"))?;
    cause.message.as_deref()?.parse().ok()
}

/// The caller's terminal in raw mode for as long as this lives.
struct RawTerminal(nix::sys::termios::Termios);

impl RawTerminal {
    fn enter() -> Option<Self> {
        use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        use nix::sys::termios::{SetArg, tcsetattr};
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0);
    }
}

/// Runs a command as root in the namespace of a node or of the client.
pub fn in_place(paths: &LabPaths, part: &str, argv: &[String]) -> Result<i32> {
    let netns = paths.netns(part);
    if !netns.exists() {
        bail!(LabError::input(format!(
            "lab '{}' has no node '{part}': `weft lab status` lists them",
            paths.name()
        )));
    }
    let cgroup = match part {
        "client" => paths.cgroup().join("client"),
        node => paths.node_cgroup(node).join("system/exec"),
    };
    let place = Place { netns, cgroup: Some(cgroup) };
    let (program, rest) = argv.split_first().context("invariant: clap requires a command")?;
    let mut child = place
        .command(Path::new(program))?
        .args(rest)
        .spawn()
        .with_context(|| format!("run {program}"))?;
    let status = child.wait().context("wait for the command")?;
    use std::os::unix::process::ExitStatusExt;
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_told_apart() {
        let parse = |t: &str| Target::parse(t, "default".into(), None);
        assert_eq!(parse("node/node1"), Target::Place("node1".into()));
        assert_eq!(parse("client"), Target::Place("client".into()));
        assert!(matches!(parse("pod/web-0"), Target::Pod(p) if p.pod == "web-0"));
    }
}
