//! Clients for the tests, from their registries: kubectl, Helm, a client-go program and one for
//! container runtimes (with what runs in its containers) out of one Go module, the Python client
//! in an environment of its own. All of it lies in target/clients. What cannot be had is said,
//! and the tests that need it are counted skips.

use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use crate::{setup, sh};

/// Oldest minor version of kubectl that the tests accept.
const MINOR_MIN: u32 = 27;
/// Where the clients' sources and pins lie.
const SOURCES: &str = "crates/weft/tests/clients";
/// What the Go module builds.
const PROGRAMS: [(&str, &str); 5] = [
    ("kubectl", "./kubectl"),
    ("session", "./session"),
    ("helm", "helm.sh/helm/v3/cmd/helm"),
    ("cri", "./cri"),
    ("pod", "./pod"),
];

/// Makes everything that is missing, and sees to it that a kubectl is on the PATH of what runs
/// after this.
pub fn provide() -> Result<()> {
    let target = sh::root().join("target/clients");
    fs::create_dir_all(&target).context("make target/clients")?;
    attempt("the Go clients", || go(&target));
    attempt("the Python client", || python(&target));
    if !usable("kubectl") {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let all: Vec<PathBuf> =
            std::iter::once(target).chain(std::env::split_paths(&path)).collect();
        sh::set_path(std::env::join_paths(all).context("join PATH")?);
    }
    Ok(())
}

fn attempt(what: &str, make: impl FnOnce() -> Result<bool>) {
    let started = Instant::now();
    match make() {
        Ok(true) => println!("ok     {what} ({:.1} s)", started.elapsed().as_secs_f32()),
        Ok(false) => {}
        // No failure by itself: a machine may have no registry. The tests count their skips.
        Err(e) => println!("cannot make {what}: {e:#}"),
    }
}

/// Builds the Go programs unless that was done from the same sources.
fn go(target: &Path) -> Result<bool> {
    let module = sh::root().join(SOURCES).join("go");
    let wanted = fingerprint(&module)?;
    let stamp = target.join("go.stamp");
    let built = PROGRAMS.iter().all(|(name, _)| target.join(name).is_file());
    if built && fs::read_to_string(&stamp).is_ok_and(|s| s == wanted) {
        return Ok(false);
    }
    ensure!(sh::on_path("go"), "there is no Go on PATH");
    println!("building kubectl, Helm, a client-go program and a CRI client (once, some minutes)");
    // What a release build stamps in; kubectl compares it with the server's.
    let version = pinned(&module, "k8s.io/kubectl")?.replacen("v0", "v1", 1);
    let minor = version.split('.').nth(1).unwrap_or_default().to_owned();
    let stamps: Vec<String> =
        [("gitVersion", version.as_str()), ("gitMajor", "1"), ("gitMinor", minor.as_str())]
            .iter()
            .map(|(key, value)| format!("-X k8s.io/component-base/version.{key}={value}"))
            .collect();
    let mut build = sh::command("go");
    build
        .args(["build", "-mod=readonly", "-ldflags", &stamps.join(" "), "-o"])
        .arg(target)
        .args(PROGRAMS.map(|(_, package)| package))
        .current_dir(&module)
        .env("CGO_ENABLED", "0");
    sh::run("go build", &mut build)?;
    fs::write(&stamp, wanted).context("write go.stamp")?;
    Ok(true)
}

/// The pinned version of a module.
fn pinned(module: &Path, name: &str) -> Result<String> {
    let text = fs::read_to_string(module.join("go.mod")).context("read go.mod")?;
    let mut lines = text.lines().map(str::trim);
    let found = lines.find_map(|l| l.strip_prefix(name)?.trim().split(' ').next());
    found.map(str::to_owned).with_context(|| format!("go.mod does not name {name}"))
}

/// Everything the programs are built from: pins and sources.
fn fingerprint(module: &Path) -> Result<String> {
    let mut all = String::new();
    let mut dirs = vec![module.to_owned()];
    while let Some(dir) = dirs.pop() {
        let entries = fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                dirs.push(path);
            } else {
                all.push_str(&fs::read_to_string(&path).context("read a Go source")?);
            }
        }
    }
    Ok(all)
}

/// An environment with the Python client, every package pinned by its hash.
fn python(target: &Path) -> Result<bool> {
    let pins = sh::root().join(SOURCES).join("python/requirements.txt");
    let wanted = fs::read_to_string(&pins).context("read requirements.txt")?;
    let place = target.join("python");
    let stamp = place.join("requirements.stamp");
    if fs::read_to_string(&stamp).is_ok_and(|s| s == wanted) {
        return Ok(false);
    }
    let venv = |place: &Path| {
        let mut make = sh::command("python3");
        make.args(["-m", "venv", "--clear"]).arg(place).stdout(std::process::Stdio::null());
        sh::run("python3 -m venv", &mut make)
    };
    if venv(&place).is_err() {
        // Debian keeps the module in a package of its own.
        setup::install(&["python3", "python3-venv"])?;
        venv(&place)?;
    }
    let mut install = sh::command(place.join("bin/pip"));
    install
        .args(["install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r"])
        .arg(&pins);
    sh::run("pip install", &mut install)?;
    fs::write(&stamp, wanted).context("write requirements.stamp")?;
    Ok(true)
}

fn usable(program: &str) -> bool {
    let args = ["version", "--client", "-o", "json"];
    let Ok(out) = sh::command(program).args(args).output() else { return false };
    let Ok(version) = serde_json::from_slice::<serde_json::Value>(&out.stdout) else {
        return false;
    };
    let minor = version["clientVersion"]["minor"].as_str().unwrap_or_default();
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    digits.parse::<u32>().is_ok_and(|m| m >= MINOR_MIN)
}
