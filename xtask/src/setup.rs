//! What a fresh Debian or Ubuntu machine lacks. Every step looks first, and does nothing
//! where nothing is missing.

use anyhow::{Context, Result};
use std::path::PathBuf;

use crate::sh;

/// Program → Debian package, for the lab's containers and the tests' real clients.
const PACKAGES: [(&str, &str); 9] = [
    ("wget", "wget"),
    ("curl", "curl"),
    ("dig", "dnsutils"),
    ("tcpdump", "tcpdump"),
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("nc", "netcat-openbsd"),
    ("nft", "nftables"),
    ("openssl", "openssl"),
];
/// The same, for tests alone: a lab needs no container runtime.
const TEST_PACKAGES: [(&str, &str); 2] = [("containerd", "containerd"), ("runc", "runc")];

/// Installs the Debian packages whose programs are missing.
pub fn packages() -> Result<()> {
    provide(&PACKAGES)
}

/// The same for what only the tests need.
pub fn test_packages() -> Result<()> {
    provide(&TEST_PACKAGES)
}

fn provide(packages: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> =
        packages.iter().filter(|(program, _)| !sh::on_path(program)).map(|(_, p)| *p).collect();
    apt_install(&missing)
}

/// Installs packages that are not installed.
pub fn install(packages: &[&str]) -> Result<()> {
    let absent = |package: &str| {
        let mut query = sh::command("dpkg-query");
        query.args(["-W", "-f", "${Status}", package]);
        let status = query.output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
        !status.is_ok_and(|s| s.contains("install ok installed"))
    };
    let missing: Vec<&str> = packages.iter().copied().filter(|p| absent(p)).collect();
    apt_install(&missing)
}

/// Whether apt knows a package; asks for fresh lists once where it does not.
pub fn known(package: &str) -> bool {
    let shown = || {
        let out = sh::command("apt-cache").args(["show", package]).output();
        out.is_ok_and(|o| o.status.success() && !o.stdout.is_empty())
    };
    shown() || (apt_update().is_ok() && shown())
}

fn apt(args: &[&str]) -> std::process::Command {
    let mut c = sh::as_root("/usr/bin/apt-get".as_ref());
    c.args(args).env("DEBIAN_FRONTEND", "noninteractive").stdout(std::process::Stdio::null());
    c
}

fn apt_update() -> Result<()> {
    sh::run("apt-get update", &mut apt(&["update", "-q"]))
}

fn apt_install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    println!("installing {}", packages.join(" "));
    apt_update()?;
    let mut install = apt(&["install", "-q", "-y", "--no-install-recommends"]);
    sh::run("apt-get install", install.args(packages))
}

/// Builds the `weft` binary and returns its path.
pub fn build() -> Result<PathBuf> {
    sh::run("build", sh::cargo().args(["build", "--quiet", "--workspace"]))?;
    built("weft")
}

/// Builds an example of the workspace, with the workspace's features, and returns its path.
pub fn example(name: &str) -> Result<PathBuf> {
    let args = ["build", "--quiet", "--workspace", "--example", name];
    sh::run("build", sh::cargo().args(args))?;
    built(&format!("examples/{name}"))
}

fn built(name: &str) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| sh::root().join("target"), PathBuf::from);
    let path = target.join("debug").join(name);
    path.canonicalize().with_context(|| format!("find {}", path.display()))
}

/// A cargo tool in target/tools, built once.
pub fn cargo_tool(name: &str, version: &str) -> Result<PathBuf> {
    let tools = sh::root().join("target/tools");
    let program = tools.join("bin").join(name);
    let stamp = tools.join(format!("{name}-{version}"));
    if !(program.is_file() && stamp.is_file()) {
        println!("building {name} {version} (once, a few minutes)");
        let mut install = sh::cargo();
        install
            .args([
                "install",
                "--quiet",
                "--locked",
                "--force",
                "--version",
                version,
                name,
                "--root",
            ])
            .arg(&tools)
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
            .env("CARGO_PROFILE_RELEASE_LTO", "off");
        sh::run(&format!("install {name}"), &mut install)?;
        std::fs::write(&stamp, "").with_context(|| format!("write {}", stamp.display()))?;
    }
    Ok(program)
}
