//! Servers as child processes.

use crate::client::{Connection, Target};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::process::{Child, Command};

const START_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Servers(HashMap<String, Running>);

/// Killed when dropped.
struct Running {
    child: Child,
    kubeconfig: PathBuf,
}

impl Servers {
    /// Spawns a server that writes its kubeconfig once it can be reached; the time ends with
    /// its first answer to an authenticated request.
    pub async fn start(
        &mut self,
        name: &str,
        kubeconfig: &Path,
        program: &str,
        args: &[&str],
    ) -> Result<Value> {
        let _ = std::fs::remove_file(kubeconfig);
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("start {program}"))?;
        let mut running = Running { child, kubeconfig: kubeconfig.to_owned() };
        loop {
            if let Some(status) = running.child.try_wait()? {
                bail!("{program} ended: {status}");
            }
            if kubeconfig.exists() && first_answer(kubeconfig).await.is_ok() {
                break;
            }
            if started.elapsed() > START_TIMEOUT {
                bail!("{program} does not answer");
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        let ms = started.elapsed().as_secs_f64() * 1e3;
        self.0.insert(name.to_owned(), running);
        Ok(json!({"ms": ms}))
    }

    /// Ends a server, and says how long that took.
    pub async fn stop(&mut self, name: &str, gently: bool) -> Result<Value> {
        let mut running = self.0.remove(name).context("no such server")?;
        let started = Instant::now();
        let pid = running.child.id().context("the server has ended by itself")?;
        let signal = if gently { "-TERM" } else { "-KILL" };
        Command::new("kill").args([signal, &pid.to_string()]).status().await?;
        running.child.wait().await?;
        Ok(json!({"ms": started.elapsed().as_secs_f64() * 1e3}))
    }

    /// Resident memory now and at its highest, in bytes.
    pub fn rss(&self, name: &str) -> Result<Value> {
        let pid = self.0.get(name).and_then(|r| r.child.id()).context("no such server")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |key: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(key))?;
            line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
        };
        Ok(json!({"now": field("VmRSS:"), "peak": field("VmHWM:")}))
    }

    pub fn target(&self, name: &str) -> Result<Target> {
        Target::of(&self.0.get(name).context("no such server")?.kubeconfig)
    }
}

async fn first_answer(kubeconfig: &Path) -> Result<()> {
    let target = Target::of(kubeconfig)?;
    let request = target.request("GET", "/api/v1/namespaces/default", "application/json", b"");
    Connection::open(&target).await?.exchange(&request).await?.expect(200)
}
