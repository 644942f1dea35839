//! Tables of commands and what they print, run with every kubectl release at hand.
//!
//! ```text
//! ;; a comment
//! == a section: a fresh server (or the lab) and a fresh working directory
//! $ kubectl get pods        what a person types; the shell reads it
//! > more of it              further lines of the same command
//! ? 1                       its exit code, 0 if absent
//! NAME   READY   [..]       lines of standard output; [..] stands for anything
//! ...                       any number of lines
//! ! error: …                lines of standard error
//! @1.32+ … / @<1.32 …       a line (or with $, a whole row) for some releases only
//! ```
//!
//! Runs of spaces inside a line count as one, because columns are as wide as what stands in
//! them; so do runs of empty lines, which releases of kubectl set differently.

use crate::harness::text;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
};

/// A command that hangs is a failure, not a stuck test.
const SECONDS_MAX: &str = "90";

/// A kubectl of one release.
#[derive(Clone, Debug)]
pub struct Kubectl {
    pub program: PathBuf,
    /// 27 for 1.27.
    pub minor: u32,
}

/// Every release at hand, the oldest first: the one on PATH, those beside it, and the one that
/// `cargo xtask test` builds.
pub fn releases() -> Vec<Kubectl> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut programs: Vec<PathBuf> =
        std::env::split_paths(&path).map(|d| d.join("kubectl")).filter(|p| p.is_file()).collect();
    if let Some(real) = programs.first().and_then(|p| p.canonicalize().ok()) {
        let beside = fs::read_dir(real.parent().unwrap()).into_iter().flatten().flatten();
        programs.extend(beside.map(|e| e.path()).filter(|p| {
            p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("kubectl.1."))
        }));
    }
    programs.push(built("kubectl"));
    let mut all: Vec<Kubectl> = programs.into_iter().filter_map(release).collect();
    all.sort_by_key(|k| k.minor);
    all.dedup_by_key(|k| k.minor);
    all
}

/// The text of a table.
pub fn table(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/tables");
    fs::read_to_string(dir.join(name)).unwrap()
}

/// Where `cargo xtask test` puts what it builds.
pub fn built(program: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/clients").join(program)
}

fn release(program: PathBuf) -> Option<Kubectl> {
    let out = Command::new(&program).args(["version", "--client", "-o", "json"]).output().ok()?;
    let version: serde_json::Value = serde_json::from_slice(&out.stdout).ok()?;
    let minor = version["clientVersion"]["minor"].as_str()?;
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    Some(Kubectl { program, minor: digits.parse().ok()? })
}

/// One command and what is expected of it.
#[derive(Debug, Default, PartialEq)]
pub struct Row {
    line: usize,
    command: String,
    code: i32,
    stdout: Vec<String>,
    stderr: Vec<String>,
}

/// The rows of each section, for one release.
pub fn parse(table: &str, minor: u32) -> Vec<(String, Vec<Row>)> {
    let mut sections: Vec<(String, Vec<Row>)> = Vec::new();
    let mut skipping = false;
    for (at, raw) in table.lines().enumerate() {
        let (applies, line) = condition(raw, minor);
        if let Some(name) = line.strip_prefix("== ") {
            sections.push((name.to_owned(), Vec::new()));
            continue;
        }
        if line.starts_with(";; ") || sections.is_empty() {
            continue;
        }
        let rows = &mut sections.last_mut().unwrap().1;
        if let Some(command) = line.strip_prefix("$ ") {
            skipping = !applies;
            if applies {
                rows.push(Row { line: at + 1, command: command.into(), ..Row::default() });
            }
            continue;
        }
        let Some(row) = rows.last_mut().filter(|_| applies && !skipping) else { continue };
        if let Some(more) = line.strip_prefix("> ") {
            row.command.push('\n');
            row.command.push_str(more);
        } else if let Some(code) = line.strip_prefix("? ") {
            row.code = code.trim().parse().unwrap();
        } else if let Some(error) = line.strip_prefix("! ") {
            row.stderr.push(error.into());
        } else {
            row.stdout.push(line.into());
        }
    }
    sections
}

/// Whether a line is for this release, and the line without its condition.
fn condition(line: &str, minor: u32) -> (bool, &str) {
    let Some((words, rest)) = line.split_once(' ') else { return (true, line) };
    let number = |t: &str| t.parse::<u32>().unwrap();
    if let Some(from) = words.strip_prefix("@1.").and_then(|w| w.strip_suffix('+')) {
        (minor >= number(from), rest)
    } else if let Some(before) = words.strip_prefix("@<1.") {
        (minor < number(before), rest)
    } else {
        (true, line)
    }
}

/// Where the commands of a section run.
pub struct Place {
    pub dir: PathBuf,
    pub kubeconfig: PathBuf,
    pub path: std::ffi::OsString,
}

impl Place {
    /// A working directory with the tables' files and the kubectl under test.
    pub fn new(dir: &Path, kubeconfig: &Path, kubectl: &Kubectl) -> Self {
        let work = dir.join("work");
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/files"), &work);
        let bin = dir.join("bin");
        fs::create_dir_all(&bin).unwrap();
        std::os::unix::fs::symlink(kubectl.program.canonicalize().unwrap(), bin.join("kubectl"))
            .unwrap();
        // A copy: some commands change the kubeconfig.
        let own = dir.join("own-kubeconfig");
        fs::copy(kubeconfig, &own).unwrap();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([bin].into_iter().chain(std::env::split_paths(&path)));
        Self { dir: work, kubeconfig: own, path: path.unwrap() }
    }

    fn shell(&self, command: &str) -> std::process::Output {
        Command::new("timeout")
            .args([SECONDS_MAX, "sh", "-c", command])
            .current_dir(&self.dir)
            .env("PATH", &self.path)
            .env("HOME", &self.dir)
            .env("TMPDIR", &self.dir)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", self.dir.join(".cache"))
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs one row; what was wrong, if anything was.
    pub fn run(&self, row: &Row) -> Option<String> {
        let out = self.shell(&row.command);
        let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
        let code = out.status.code();
        let fine = code == Some(row.code)
            && matches(&row.stdout, &stdout)
            && matches(&row.stderr, &stderr);
        (!fine).then(|| {
            let quoted = stderr.lines().map(|l| format!("! {l}\n")).collect::<String>();
            format!(
                "line {}: $ {}\nexpected ? {}\n{}\n{}\ngot ? {code:?}\n{stdout}{quoted}",
                row.line,
                row.command,
                row.code,
                row.stdout.join("\n"),
                row.stderr.iter().map(|l| format!("! {l}\n")).collect::<String>(),
            )
        })
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Whether the whole text is as expected.
fn matches(expected: &[String], got: &str) -> bool {
    let trim = |mut lines: Vec<String>| {
        lines.dedup_by(|a, b| a.is_empty() && b.is_empty());
        let end = lines.iter().rposition(|l| !l.is_empty()).map_or(0, |i| i + 1);
        lines.truncate(end);
        lines
    };
    let expected = trim(expected.iter().map(|l| squeeze(l)).collect());
    let got = trim(got.lines().map(squeeze).collect());
    lines_match(&expected, &got)
}

fn lines_match(expected: &[String], got: &[String]) -> bool {
    match expected.split_first() {
        None => got.is_empty(),
        Some((first, rest)) if first == "..." => {
            (0..=got.len()).any(|skip| lines_match(rest, &got[skip..]))
        }
        Some((first, rest)) => got
            .split_first()
            .is_some_and(|(line, others)| line_matches(first, line) && lines_match(rest, others)),
    }
}

fn line_matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split("[..]");
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// Keeps the indentation, makes every other run of blanks one space, drops the end's.
fn squeeze(line: &str) -> String {
    let body = line.trim_start_matches(' ');
    if body.trim().is_empty() {
        return String::new();
    }
    let indent = &line[..line.len() - body.len()];
    format!("{indent}{}", body.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Runs every section for every release, a few at a time; panics with all that differed.
/// `section` makes what the commands talk to and runs the rows.
pub fn run_all(
    table: &str,
    releases: &[Kubectl],
    threads: usize,
    section: impl Fn(&Kubectl, &str, &[Row]) -> Vec<String> + Sync,
) {
    let jobs: Vec<(&Kubectl, String, Vec<Row>)> = releases
        .iter()
        .flat_map(|k| parse(table, k.minor).into_iter().map(move |(s, rows)| (k, s, rows)))
        .collect();
    let rows: usize = jobs.iter().map(|(_, _, rows)| rows.len()).sum();
    let next = Mutex::new(jobs.iter());
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some((kubectl, name, rows)) = next.lock().unwrap().next() else { return };
                    for failure in section(kubectl, name, rows) {
                        let title = format!("=== kubectl 1.{}, {name}", kubectl.minor);
                        failures.lock().unwrap().push(format!("{title}\n{failure}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    println!("{rows} commands with {} releases of kubectl", releases.len());
    assert!(failures.is_empty(), "{} of {rows}:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn tables_are_read_by_release() {
    let table = "intro\n== one\n$ a\n> b\n? 2\nout\n\n@1.30+ new\n@<1.30 old\n! err\n\
                 @1.30+ $ only new\nx\n;; note\n$ c\n";
    let row = |line, command: &str| Row { line, command: command.into(), ..Row::default() };
    let old = parse(table, 29);
    let first = Row {
        code: 2,
        stdout: ["out", "", "old"].map(String::from).to_vec(),
        stderr: vec!["err".into()],
        ..row(3, "a\nb")
    };
    assert_eq!(old, [("one".to_owned(), vec![first, row(14, "c")])]);
    assert_eq!(parse(table, 30)[0].1.len(), 3);
    let lines = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    assert!(matches(&lines(&["NAME AGE", "a-[..] [..]s"]), "NAME   AGE\na-x1   5s\n\n"));
    assert!(!matches(&lines(&["a-[..]s"]), "a-5m"));
    assert!(matches(&lines(&["a", "...", "z"]), "a\nb\nc\nz\n"));
    assert!(matches(&lines(&["a", "...", "z"]), "a\nz"));
    assert!(!matches(&lines(&["a", "..."]), "b\n"));
    assert!(!matches(&lines(&[]), "b\n"), "nothing expected means nothing");
}
