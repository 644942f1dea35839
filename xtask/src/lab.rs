//! `cargo xtask lab`: from a clone to a working Kubernetes network.

use anyhow::{Context, Result, bail};
use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::{setup, sh};

/// How long the sample application may take to become Ready.
const READY_TIMEOUT: Duration = Duration::from_secs(90);

/// Builds, starts, applies, verifies, and says what to look at next.
pub fn run() -> Result<()> {
    setup::packages()?;
    println!("building weft (the first build takes several minutes)");
    let weft = setup::build()?;
    let lab = |args: &[&str]| {
        let mut c = sh::as_root(&weft);
        c.arg("lab").args(args);
        c
    };
    sh::run("remove the lab that was there", &mut lab(&["down"]))?;
    let started = Instant::now();
    let up = sh::output("weft lab up", &mut lab(&["up", "--nodes", "3"]))?;
    if !up.status.success() {
        bail!("{}", String::from_utf8_lossy(&up.stderr).trim());
    }
    let kubeconfig = String::from_utf8_lossy(&up.stdout).trim().to_owned();
    println!("lab is ready after {:.2} s", started.elapsed().as_secs_f32());
    sh::run("apply the sample application", &mut lab(&["apply", "-f", "examples/shop"]))?;
    wait_ready(&weft)?;
    println!("sample application is Ready after {:.2} s\n", started.elapsed().as_secs_f32());
    sh::run("weft lab verify", &mut lab(&["verify"]))?;
    let sudo = if sh::is_root() { "" } else { "sudo " };
    let weft = weft.display();
    println!(
        "
Look around:
  {sudo}{weft} lab status
  {sudo}{weft} lab exec -n shop shopper -- curl -s http://web
  export KUBECONFIG={kubeconfig}   # then: kubectl get pods -A -o wide
  {sudo}{weft} lab down
"
    );
    Ok(())
}

fn wait_ready(weft: &Path) -> Result<()> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let mut status = sh::as_root(weft);
        status.args(["lab", "status", "-o", "json"]);
        let out = sh::output("weft lab status", &mut status)?;
        let status: serde_json::Value =
            serde_json::from_slice(&out.stdout).context("decode the lab's status")?;
        let pods = status["pods"].as_array().cloned().unwrap_or_default();
        if !pods.is_empty() && pods.iter().all(|p| p["ready"] == true || p["phase"] == "Succeeded")
        {
            return Ok(());
        }
        if Instant::now() > deadline {
            let waiting: Vec<String> = pods
                .iter()
                .filter(|p| p["ready"] != true)
                .map(|p| format!("{}/{}", p["namespace"], p["name"]))
                .collect();
            bail!("not Ready after {READY_TIMEOUT:?}: {}", waiting.join(", "));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
