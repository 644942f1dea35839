//! Running programs.

use anyhow::{Context, Result, bail};
use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

/// The project's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("invariant: xtask lies in the project")
}

/// PATH of the commands that follow, where it is not our own.
static PATH: OnceLock<OsString> = OnceLock::new();

/// Sets the PATH of the commands that follow; the first call counts.
pub fn set_path(path: OsString) {
    let _ = PATH.set(path);
}

/// A command in the project's root.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut c = Command::new(program);
    c.current_dir(root());
    if let Some(path) = PATH.get() {
        c.env("PATH", path);
    }
    c
}

/// The cargo that runs us.
pub fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Whether we are root.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// A command run as root: directly, or through sudo with the variables that matter.
pub fn as_root(program: &Path) -> Command {
    if is_root() {
        return command(program);
    }
    let mut c = command("sudo");
    c.arg("--preserve-env=CI,WEFT_STATE_DIR,WEFT_LOG,PATH").arg(program);
    c
}

/// Runs a command and fails with its name.
pub fn run(what: &str, c: &mut Command) -> Result<()> {
    let status =
        c.status().with_context(|| format!("{what}: cannot start {:?}", c.get_program()))?;
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    Ok(())
}

/// Runs a command for its output.
pub fn output(what: &str, c: &mut Command) -> Result<Output> {
    c.output().with_context(|| format!("{what}: cannot start {:?}", c.get_program()))
}

/// Whether a program is on PATH.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(sbin).any(|d| d.join(program).is_file())
}
