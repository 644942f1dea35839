//! `cargo xtask bpf`: builds the eBPF object that `weft-bpf` embeds, and records from what.
//!
//! The object is committed, so that an ordinary build needs no eBPF toolchain. `weft.bpf.lock`
//! beside it names the hash of its sources and the compiler; `--check` proves that the object
//! is built from these sources, byte for byte where the compiler is the recorded one.

mod elf;
mod toolchain;

use crate::sh;
use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
};
use toolchain::Toolchain;

/// The committed object.
const OBJECT: &str = "crates/weft-bpf/src/weft.bpf.o";
/// What it was built from.
const LOCK: &str = "crates/weft-bpf/src/weft.bpf.lock";
/// Files and folders that the object depends on.
const SOURCES: [&str; 5] = [
    "bpf/Cargo.toml",
    "bpf/Cargo.lock",
    "bpf/src",
    "crates/weft-bpf-abi/Cargo.toml",
    "crates/weft-bpf-abi/src",
];
/// The target: little-endian, as all machines are that Weft runs on.
const TARGET: &str = "bpfel-unknown-none";

/// Arguments after `cargo xtask bpf`.
pub fn run(args: &[&str]) -> Result<()> {
    match args {
        [] => build(false),
        ["--check"] => build(true),
        other => bail!("unknown arguments '{}': cargo xtask bpf [--check]", other.join(" ")),
    }
}

/// Builds the object; writes it and its lock, or with `check` compares it with the committed.
pub fn build(check: bool) -> Result<()> {
    let toolchain = toolchain::set_up(&sh::root().join("target/bpf-toolchain"))?;
    let object = compile(&toolchain)?;
    let new = Lock {
        sources: sources_hash()?,
        object: hash(&object),
        compiler: toolchain.compiler.clone(),
        linker: toolchain.linker.clone(),
    };
    let (object_path, lock_path) = (sh::root().join(OBJECT), sh::root().join(LOCK));
    if !check {
        fs::write(&object_path, &object).with_context(|| format!("write {OBJECT}"))?;
        fs::write(&lock_path, new.to_string()).with_context(|| format!("write {LOCK}"))?;
        println!("{OBJECT}: {} bytes, {}", object.len(), new.compiler);
        return Ok(());
    }
    let old = committed()?;
    if (&old.compiler, &old.linker) == (&new.compiler, &new.linker) {
        let committed = fs::read(&object_path).with_context(|| format!("read {OBJECT}"))?;
        ensure!(committed == object, "{OBJECT} differs from what its sources give: {REBUILD}");
        println!("{OBJECT}: byte for byte what its sources give");
    } else {
        println!(
            "{OBJECT}: its sources build; bytes are not compared, because the committed one is \
             from {} and {}, this machine has {} and {}",
            old.compiler, old.linker, new.compiler, new.linker
        );
    }
    Ok(())
}

const REBUILD: &str = "run `cargo xtask bpf` and commit the result";

/// The lock, if object and sources are those that it names.
fn committed() -> Result<Lock> {
    let text = fs::read_to_string(sh::root().join(LOCK)).with_context(|| format!("read {LOCK}"))?;
    let lock = Lock::parse(&text)?;
    let object = fs::read(sh::root().join(OBJECT)).with_context(|| format!("read {OBJECT}"))?;
    ensure!(lock.object == hash(&object), "{OBJECT} is not the one that {LOCK} names: {REBUILD}");
    ensure!(lock.sources == sources_hash()?, "{OBJECT} is older than its sources: {REBUILD}");
    Ok(lock)
}

/// What an object was built from.
#[derive(Debug, PartialEq, Eq)]
struct Lock {
    sources: String,
    object: String,
    compiler: String,
    linker: String,
}

impl std::fmt::Display for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "# Written by `cargo xtask bpf`.")?;
        writeln!(f, "sources = {}", self.sources)?;
        writeln!(f, "object = {}", self.object)?;
        writeln!(f, "compiler = {}", self.compiler)?;
        writeln!(f, "linker = {}", self.linker)
    }
}

impl Lock {
    fn parse(text: &str) -> Result<Self> {
        let field = |name: &str| {
            text.lines()
                .find_map(|l| l.strip_prefix(name)?.strip_prefix(" = "))
                .map(str::to_owned)
                .with_context(|| format!("{LOCK} has no '{name}'"))
        };
        Ok(Self {
            sources: field("sources")?,
            object: field("object")?,
            compiler: field("compiler")?,
            linker: field("linker")?,
        })
    }
}

fn hash(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// Hash over names and contents of all sources.
fn sources_hash() -> Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        list(&sh::root().join(source), &mut files)?;
    }
    files.sort();
    let mut sum = Sha256::new();
    for file in files {
        let name = file.strip_prefix(sh::root()).expect("invariant: found below the root");
        let content = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        sum.update(format!("{} {}\n", name.display(), content.len()));
        sum.update(content);
    }
    Ok(format!("sha256:{:x}", sum.finalize()))
}

fn list(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(|| format!("read {}", path.display()))? {
        list(&entry?.path(), files)?;
    }
    Ok(())
}

/// Compiles the programs, and strips what the kernel does not need.
fn compile(toolchain: &Toolchain) -> Result<Vec<u8>> {
    let target_dir = sh::root().join("target/bpf");
    let cargo = || {
        let mut cargo = sh::cargo();
        cargo.current_dir(sh::root().join("bpf"));
        toolchain.environment(&mut cargo);
        cargo
    };
    sh::run("fetching the dependencies", cargo().args(["fetch", "--quiet", "--locked"]))?;
    let flags = toolchain.rustflags(sh::root())?;
    sh::run(
        "building the eBPF programs",
        cargo()
            .args(["build", "--quiet", "--release", "--locked", "-Zbuild-std=core"])
            .args(["--target", TARGET])
            .env("CARGO_TARGET_DIR", &target_dir)
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", flags),
    )?;
    let built = target_dir.join(TARGET).join("release/weft");
    let raw = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    elf::strip(&raw).with_context(|| format!("strip {}", built.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_object_is_of_these_sources() {
        let lock = committed().expect("object, lock and sources belong together");
        assert_eq!(Lock::parse(&lock.to_string()).expect("parse"), lock);
    }

    #[test]
    fn the_committed_object_names_no_machine() {
        let object = fs::read(sh::root().join(OBJECT)).expect("object");
        let text = String::from_utf8_lossy(&object);
        for path in ["/home/", "/root/", "/registry/src/", "/target/"] {
            assert!(!text.contains(path), "{path} is in {OBJECT}");
        }
    }
}
