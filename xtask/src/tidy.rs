//! House rules that no compiler checks.

use anyhow::{Context, Result, bail};
use std::{fs, path::Path};

use crate::sh;

/// Lines at which a file is one room too crowded.
const LINES_MAX: usize = 1200;

/// Crates that may hold `unsafe` (with a reason at each block); all others forbid it.
const UNSAFE: [&str; 9] = [
    "weft-bpf",
    "weft-netlink",
    "weft-sandbox",
    "weft-standin",
    "weft-lab",
    "weft-kubelet",
    "weft-cni",
    "weft-agent",
    "weft-bpf-abi",
];

/// What a crate must not depend on: the arrows of the plan. Lower knows nothing of higher.
const FORBIDDEN_EDGES: [(&str, &[&str]); 12] = [
    ("weft-model", &["weft-", "kube", "k8s-openapi", "tokio"]),
    ("weft-services", &["weft-kube", "weft-agent", "weft-lab", "kube", "k8s-openapi", "tokio"]),
    ("weft-policy", &["weft-kube", "weft-agent", "weft-lab", "kube", "k8s-openapi", "tokio"]),
    ("weft-policy-cli", &["weft-agent", "weft-lab", "weft-bpf", "weft-netlink", "kube", "tokio"]),
    ("weft-fabric", &["weft-kube", "weft-agent", "weft-lab", "kube", "k8s-openapi", "tokio"]),
    ("weft-dns", &["weft-kube", "weft-agent", "weft-lab", "kube", "k8s-openapi", "tokio"]),
    ("weft-cel", &["weft-", "kube", "k8s-openapi", "tokio"]),
    (
        "weft-crd",
        &["weft-kinds", "weft-apiserver", "weft-lab", "kube", "k8s-openapi", "tokio", "hyper"],
    ),
    ("weft-kinds", &["weft-apiserver", "weft-lab", "tokio", "hyper", "axum"]),
    ("weft-agent", &["weft-lab", "weft-apiserver", "weft-cluster", "weft-sandbox"]),
    ("weft-cni", &["weft-agent", "weft-lab", "kube", "tokio"]),
    ("weft-apiserver", &["weft-agent", "weft-lab", "weft-cluster", "weft-netlink"]),
];

/// Checks every rule and reports all that is broken.
pub fn run() -> Result<()> {
    let mut broken = Vec::new();
    let files = sh::output("git ls-files", sh::command("git").args(["ls-files"]))?;
    for file in String::from_utf8_lossy(&files.stdout).lines() {
        let path = sh::root().join(file);
        if !path.is_file() {
            continue;
        }
        if let Ok(text) = fs::read_to_string(&path) {
            check_file(file, &text, &mut broken);
        }
    }
    for entry in fs::read_dir(sh::root().join("crates")).context("read crates")?.flatten() {
        check_crate(&entry.path(), &mut broken);
    }
    if broken.is_empty() {
        return Ok(());
    }
    bail!("house rules broken:\n  {}", broken.join("\n  "))
}

fn check_file(file: &str, text: &str, broken: &mut Vec<String>) {
    if file.ends_with(".rs") {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            broken.push(format!("{file}: {lines} lines, at most {LINES_MAX}: split it"));
        }
    }
    let markup = [".md", ".rs", ".toml", ".yaml"].iter().any(|e| file.ends_with(e));
    // The home is spelled in two parts, so that this file does not break its own rule.
    let project = sh::root().display().to_string();
    for path in [project.as_str(), concat!("/ro", "ot/.")] {
        if markup && text.contains(path) {
            broken.push(format!("{file}: holds a path of one machine ({path})"));
        }
    }
}

fn check_crate(dir: &Path, broken: &mut Vec<String>) {
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let lib =
        ["src/lib.rs", "src/main.rs"].iter().find_map(|f| fs::read_to_string(dir.join(f)).ok());
    let Some(lib) = lib else {
        broken.push(format!("crates/{name}: has neither src/lib.rs nor src/main.rs"));
        return;
    };
    if !lib.starts_with("//!") {
        broken.push(format!("crates/{name}: its root does not say what it is"));
    }
    if !UNSAFE.contains(&name.as_str()) && name != "weft" && !lib.contains("forbid(unsafe_code)") {
        broken.push(format!("crates/{name}: add #![forbid(unsafe_code)]"));
    }
    let manifest = fs::read_to_string(dir.join("Cargo.toml")).unwrap_or_default();
    let dependencies = manifest.split("[dependencies]").nth(1).unwrap_or_default();
    let dependencies = dependencies.split("\n[").next().unwrap_or_default();
    let Some((_, forbidden)) = FORBIDDEN_EDGES.iter().find(|(n, _)| *n == name) else { return };
    for line in dependencies.lines() {
        let dependency = line.split(['.', ' ', '=']).next().unwrap_or_default();
        let hit = forbidden
            .iter()
            .any(|f| if f.ends_with('-') { dependency.starts_with(f) } else { dependency == *f });
        if hit {
            broken.push(format!("crates/{name}: must know nothing of {dependency}"));
        }
    }
}
