//! A Rust compiler that can target eBPF, in a private folder.
//!
//! eBPF needs `core` built from source (`-Zbuild-std`) and `bpf-linker`, which must be built
//! against the LLVM of that very compiler. Debian packages such a trio; its packages are
//! unpacked below `target/`, and nothing is installed on the system. The versions are what
//! the package lists say; the lock file records what was used.

use crate::sh;
use anyhow::{Context, Result, bail, ensure};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

/// The linker's version; it names the LLVM versions that it can use in its features.
const LINKER_VERSION: &str = "0.13.0";

/// Compiler and library source; what they depend on is found in the package lists.
const PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];

/// What an ordinary build needs too, so it is there already.
const PREREQUISITES: [&str; 3] = ["gcc", "libc6-dev", "binutils"];

/// A toolchain that is ready.
pub struct Toolchain {
    /// Where the packages are unpacked.
    root: PathBuf,
    /// Libraries of the compiler.
    lib: PathBuf,
    /// The linker.
    linker_path: PathBuf,
    /// Version of compiler and LLVM.
    pub compiler: String,
    /// Version of the linker.
    pub linker: String,
}

impl Toolchain {
    /// Flags for the eBPF target, when all dependencies are fetched. No path of this machine may end in the object: it would
    /// differ from machine to machine.
    pub fn rustflags(&self, project: &Path) -> Result<String> {
        let cargo_home = match std::env::var_os("CARGO_HOME") {
            Some(dir) => PathBuf::from(dir),
            None => {
                PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cargo")
            }
        };
        // Later ones win, so the folder inside the project comes last. The sources of
        // dependencies lie in one folder for each registry, whatever it is called.
        let mut remap = vec![(project.to_owned(), "/weft")];
        for registry in fs::read_dir(cargo_home.join("registry/src")).into_iter().flatten() {
            remap.push((registry?.path(), "/crates"));
        }
        remap.push((self.root.clone(), "/toolchain"));
        let mut flags = vec![
            format!("-Clinker={}", self.linker_path.display()),
            "-Clink-arg=--btf".to_owned(),
            // BTF is made from the debug information.
            "-Cdebuginfo=2".to_owned(),
        ];
        for (from, to) in remap {
            let from = fs::canonicalize(&from).unwrap_or(from);
            ensure!(!from.to_string_lossy().contains(' '), "{}: has a space", from.display());
            flags.push(format!("--remap-path-prefix={}={to}", from.display()));
        }
        Ok(flags.join(" "))
    }

    /// Makes cargo use this compiler, and nothing that the caller's environment says.
    pub fn environment(&self, cargo: &mut Command) {
        for name in
            ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"]
        {
            cargo.env_remove(name);
        }
        cargo
            .env("RUSTC", rustc(&self.root))
            .env("RUSTC_BOOTSTRAP", "1")
            .env("LD_LIBRARY_PATH", &self.lib);
    }
}

/// Sets the toolchain up below `dir`; what is there already is used.
pub fn set_up(dir: &Path) -> Result<Toolchain> {
    let root = dir.join("root");
    if !rustc(&root).exists() {
        unpack(dir, &root)?;
    }
    let lib = library_dir(&root)?;
    let version =
        text("rustc -vV", Command::new(rustc(&root)).arg("-vV").env("LD_LIBRARY_PATH", &lib))?;
    let compiler = version.lines().next().unwrap_or_default().to_owned();
    let llvm = version
        .lines()
        .find_map(|l| l.strip_prefix("LLVM version: "))
        .context("rustc does not say which LLVM it uses")?;
    let linker_path = dir.join("bin/bpf-linker");
    if !linker_path.exists() {
        build_linker(dir, &lib, llvm)?;
    }
    Ok(Toolchain {
        linker: format!("bpf-linker {LINKER_VERSION}"),
        compiler: format!("{compiler}, LLVM {llvm}"),
        root,
        lib,
        linker_path,
    })
}

fn rustc(root: &Path) -> PathBuf {
    root.join("usr/bin/rustc")
}

/// `usr/lib/<architecture>-linux-gnu`.
fn library_dir(root: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(root.join("usr/lib")).context("the compiler's packages")?;
    entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .find(|p| p.to_string_lossy().ends_with("-linux-gnu"))
        .context("the compiler's packages have no library folder")
}

/// Downloads the packages and unpacks them. A half-unpacked folder is begun anew.
fn unpack(dir: &Path, root: &Path) -> Result<()> {
    if !sh::on_path("apt-get") || !sh::on_path("dpkg-deb") {
        bail!(
            "building the eBPF object needs a Debian system: the compiler comes from its packages. \
               An ordinary build needs none: the object is committed"
        );
    }
    let debs = dir.join("debs");
    let fresh = dir.join("root.new");
    for path in [&debs, &fresh] {
        let _ = fs::remove_dir_all(path);
        fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
    }
    // apt's own user downloads, if we are root.
    fs::set_permissions(&debs, fs::Permissions::from_mode(0o777))?;
    let packages = packages()?;
    println!("eBPF toolchain: downloading {}", packages.join(" "));
    let mut download = Command::new("apt-get");
    download.args(["--quiet=2", "download"]).args(&packages).current_dir(&debs);
    sh::run("downloading Debian's compiler (`apt-get update` first?)", &mut download)?;
    for deb in fs::read_dir(&debs)? {
        let mut extract = Command::new("dpkg-deb");
        extract.arg("--extract").arg(deb?.path()).arg(&fresh);
        sh::run("unpacking", &mut extract)?;
    }
    fs::remove_dir_all(&debs)?;
    let _ = fs::remove_dir_all(root);
    fs::rename(&fresh, root).context("move the unpacked packages")?;
    Ok(())
}

/// The packages and all that they depend on, without what is installed.
fn packages() -> Result<Vec<String>> {
    let list = text(
        "apt-cache depends",
        Command::new("apt-cache")
            .args(["depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts"])
            .args(["--no-breaks", "--no-replaces", "--no-enhances"])
            .args(PACKAGES),
    )?;
    let wanted: BTreeSet<&str> = list
        .lines()
        .filter(|l| !l.starts_with([' ', '|', '<']) && !l.is_empty())
        .map(|l| l.split(':').next().unwrap_or(l))
        .collect();
    for package in PACKAGES {
        ensure!(wanted.contains(package), "this system has no package {package} (Debian 12 has)");
    }
    let installed = text(
        "dpkg-query",
        Command::new("dpkg-query")
            .args(["--show", "--showformat=${db:Status-Abbrev} ${Package}\n"]),
    )?;
    let installed: BTreeSet<&str> =
        installed.lines().filter_map(|l| l.strip_prefix("ii ")).map(str::trim).collect();
    for package in PREREQUISITES {
        ensure!(installed.contains(package), "install build-essential first: {package} is missing");
    }
    Ok(wanted.difference(&installed).map(|p| (*p).to_owned()).collect())
}

/// Builds the linker against the compiler's LLVM.
fn build_linker(dir: &Path, lib: &Path, llvm: &str) -> Result<()> {
    let major = llvm.split('.').next().unwrap_or(llvm);
    let library = fs::read_dir(lib)?
        .filter_map(|e| e.ok().map(|e| e.path()))
        .find(|p| p.file_name().is_some_and(|n| is_llvm(&n.to_string_lossy(), major)))
        .with_context(|| format!("no libLLVM {major} in {}", lib.display()))?;
    // The build looks for lib/libLLVM.so below a prefix, as a development package has it.
    let prefix = dir.join("llvm");
    let link = prefix.join("lib/libLLVM.so");
    let _ = fs::remove_dir_all(&prefix);
    fs::create_dir_all(prefix.join("lib"))?;
    symlink(&library, &link).with_context(|| format!("link {}", link.display()))?;
    println!("eBPF toolchain: building bpf-linker {LINKER_VERSION} for LLVM {major}");
    let mut install = sh::cargo();
    install
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--quiet"])
        .args(["--no-default-features", "--features", &format!("llvm-{major}"), "--root"])
        .arg(dir)
        .env("LLVM_PREFIX", &prefix)
        .env("LD_LIBRARY_PATH", lib)
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env(
            "RUSTFLAGS",
            format!(
                "-Clink-arg=-Wl,-rpath,{} -Clink-arg=-Wl,--allow-shlib-undefined",
                lib.display()
            ),
        );
    sh::run("building bpf-linker", &mut install)
}

/// `libLLVM.so.22.1` for 22.
fn is_llvm(name: &str, major: &str) -> bool {
    name.strip_prefix("libLLVM.so.").is_some_and(|v| v.split('.').next() == Some(major))
}

fn text(what: &str, command: &mut Command) -> Result<String> {
    let output = sh::output(what, command)?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what} failed: {}", error.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
