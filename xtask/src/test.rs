//! `cargo xtask test` and `check`.

use anyhow::{Context, Result, bail};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use crate::{
    bpf, clients, setup, sh,
    tally::{Tally, failures, skips},
    tidy,
};

const DENY_VERSION: &str = "0.20.2";
/// How many kernel tests of a whole run get a second try. They run with stock clients and real
/// packets on a machine that does other things, too; each second try is told as FLAKY, and a
/// run that needs more of them has failed.
const SECOND_TRIES_MAX: usize = 2;

/// A compiled test binary.
struct TestBinary {
    /// `crate::target`.
    name: String,
    path: PathBuf,
    /// Working directory that cargo would give it.
    dir: PathBuf,
    /// An integration test: needs root and the kernel, and runs one test at a time.
    kernel: bool,
}

/// Formatting, clippy, house rules and the pure tests.
pub fn check() -> Result<()> {
    let mut tally = Tally::default();
    lints(&mut tally);
    for binary in binaries()?.iter().filter(|b| !b.kernel) {
        tally.add(run_binary(binary)?.tally);
    }
    finish(tally)
}

/// Everything that CI runs.
pub fn all() -> Result<()> {
    setup::packages()?;
    setup::test_packages()?;
    clients::provide()?;
    let mut tally = Tally::default();
    lints(&mut tally);
    step(&mut tally, "cargo deny", || {
        let deny = setup::cargo_tool("cargo-deny", DENY_VERSION)?;
        let args = ["--log-level", "error", "check", "licenses", "bans", "sources"];
        sh::run("cargo deny", sh::command(&deny).args(args).env("CARGO", "cargo"))
    });
    ebpf_object(&mut tally);
    let (kernel, pure): (Vec<_>, Vec<_>) = binaries()?.into_iter().partition(|b| b.kernel);
    for binary in &pure {
        tally.add(run_binary(binary)?.tally);
    }
    let mut tries = SECOND_TRIES_MAX;
    for binary in &kernel {
        tally.add(with_second_tries(binary, &mut tries)?);
    }
    finish(tally)
}

/// Rebuilds the eBPF object and compares; the compiler comes from Debian's packages.
fn ebpf_object(tally: &mut Tally) {
    if setup::known("rustc-web") {
        return step(tally, "cargo xtask bpf --check", || bpf::build(true));
    }
    println!("SKIP cargo xtask bpf --check: this system has no package rustc-web (Debian 12 has)");
    tally.add(Tally { skipped: 1, ..Tally::default() });
}

fn lints(tally: &mut Tally) {
    step(tally, "cargo fmt", || sh::run("fmt", sh::cargo().args(["fmt", "--all", "--check"])));
    step(tally, "cargo clippy", || {
        let args = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
        sh::run("clippy", sh::cargo().args(args))
    });
    step(tally, "cargo xtask tidy", tidy::run);
}

fn step(tally: &mut Tally, name: &str, f: impl FnOnce() -> Result<()>) {
    let started = Instant::now();
    let outcome = f();
    let took = started.elapsed().as_secs_f32();
    match &outcome {
        Ok(()) => println!("ok     {name} ({took:.1} s)"),
        Err(e) => println!("FAILED {name} ({took:.1} s): {e:#}"),
    }
    tally.add(Tally::step(outcome.is_ok()));
}

/// Compiles all tests and finds their binaries.
fn binaries() -> Result<Vec<TestBinary>> {
    let started = Instant::now();
    let mut build = sh::cargo();
    build.args(["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]);
    build.stderr(std::process::Stdio::inherit());
    let out = sh::output("build the tests", &mut build)?;
    if !out.status.success() {
        bail!("the tests do not compile");
    }
    let mut found: Vec<TestBinary> =
        String::from_utf8_lossy(&out.stdout).lines().filter_map(test_binary).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    println!(
        "ok     build of {} test binaries ({:.1} s)",
        found.len(),
        started.elapsed().as_secs_f32()
    );
    Ok(found)
}

fn test_binary(line: &str) -> Option<TestBinary> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let path = PathBuf::from(message["executable"].as_str()?);
    let manifest = Path::new(message["manifest_path"].as_str()?);
    let dir = manifest.parent()?.to_owned();
    let target = message["target"]["name"].as_str()?;
    let kernel = message["target"]["kind"][0] == "test";
    let krate = dir.file_name()?.to_str()?.to_owned();
    let name = if kernel { format!("{krate}::{target}") } else { krate };
    Some(TestBinary { name, path, dir, kernel })
}

/// What running a binary gave.
struct Run {
    tally: Tally,
    /// Names of the tests that failed; empty also where the binary died.
    failed: Vec<String>,
}

/// The command that runs a binary's tests.
fn tests_of(binary: &TestBinary) -> Command {
    let mut run = if binary.kernel { sh::as_root(&binary.path) } else { sh::command(&binary.path) };
    run.current_dir(&binary.dir).arg("--show-output");
    if binary.kernel {
        run.arg("--test-threads=1");
    }
    run
}

/// Runs a binary, and what failed in it once more, each test alone, while there are `tries`.
fn with_second_tries(binary: &TestBinary, tries: &mut usize) -> Result<Tally> {
    let Run { mut tally, failed } = run_binary(binary)?;
    if failed.is_empty() || failed.len() > *tries {
        return Ok(tally);
    }
    for name in &failed {
        *tries -= 1;
        let out = sh::output(name, tests_of(binary).args(["--exact", name]))?;
        let text = String::from_utf8_lossy(&out.stdout);
        let again = Tally::of_libtest(&text).filter(|_| out.status.success());
        if again.is_some_and(|t| (t.passed, t.skipped) == (1, 0)) {
            println!("FLAKY  {}: {name} failed, and passed when run again alone", binary.name);
            tally.failed -= 1;
            tally.passed += 1;
        } else {
            println!(
                "{text}\n{}\nFAILED {}: {name}, twice",
                String::from_utf8_lossy(&out.stderr),
                binary.name
            );
        }
    }
    Ok(tally)
}

fn run_binary(binary: &TestBinary) -> Result<Run> {
    let started = Instant::now();
    let mut run = tests_of(binary);
    let out = sh::output(&binary.name, &mut run)?;
    let text = String::from_utf8_lossy(&out.stdout);
    let took = started.elapsed().as_secs_f32();
    for skip in skips(&text) {
        println!("{skip}");
    }
    // A binary that died has no result line: that is a failure whatever it counted before.
    let tally = Tally::of_libtest(&text)
        .filter(|t| out.status.success() == (t.failed == 0))
        .unwrap_or(Tally { failed: 1, ..Tally::default() });
    if tally.failed == 0 {
        println!("ok     {} ({} passed, {took:.1} s)", binary.name, tally.passed);
    } else {
        println!("{text}\n{}", String::from_utf8_lossy(&out.stderr));
        println!("FAILED {} ({} failed, {took:.1} s)", binary.name, tally.failed);
    }
    let failed = failures(&text).into_iter().map(str::to_owned).collect();
    Ok(Run { tally, failed })
}

/// Prints the closing line; exits with failure where something failed, or was skipped in CI.
pub fn finish(tally: Tally) -> Result<()> {
    let Tally { passed, failed, skipped } = tally;
    let ci = std::env::var("CI").is_ok_and(|v| v == "true");
    if ci && skipped > 0 {
        println!("a skip is a failure with CI=true");
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed > 0 || (ci && skipped > 0) {
        std::process::exit(1);
    }
    Some(()).filter(|()| passed > 0).context("no test ran")
}
