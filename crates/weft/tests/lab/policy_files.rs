//! `weft policy` as people run it: exit statuses, what goes where, closed pipes. Needs no root.

use crate::harness::*;
use std::{
    fs,
    io::Read,
    path::Path,
    process::{Command, Output, Stdio},
};

fn policy(args: &[&str]) -> Output {
    weft(&[&["policy"], args].concat())
}

fn example() -> String {
    project().join("examples/policy").display().to_string()
}

/// A directory with one file.
fn dir(content: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temporary directory");
    fs::write(dir.path().join("a.yaml"), content).expect("write");
    dir
}

fn path(dir: &tempfile::TempDir) -> &str {
    Path::to_str(dir.path()).expect("UTF-8 path")
}

const PODS: &str = "kind: Pod\nmetadata: {name: a}\nspec: {}\n---\nkind: Pod\nmetadata: {name: b}\n\
    spec: {}\n---\nkind: PolicyTest\ntests: [{from: a, to: b, expect: allow}]\n---\n";
const DENY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\n\
    spec: {podSelector: {}}\n---\n";
/// Says nothing about anybody, since its type is misspelt.
const MISSPELT: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: \
    q}\nspec: {podSelector: {}, policyTypes: [ingress]}\n---\n";

#[test]
fn the_exit_status_is_yes_no_or_cannot_say() {
    let (good, closed) = (dir(PODS), dir(&format!("{PODS}{DENY}")));
    let (misspelt, broken) = (dir(&format!("{PODS}{MISSPELT}")), dir("a: ["));
    let told = "policyTypes[0] 'ingress' is unknown; did you mean Ingress?";
    for (args, status, on_stderr) in [
        (vec!["test", path(&good)], 0, ""),
        (vec!["test", path(&closed)], 1, ""),
        (vec!["test", path(&misspelt)], 2, told),
        (vec!["test", path(&broken)], 2, "error: "),
        (vec!["matrix", path(&closed)], 0, ""),
        (vec!["matrix", path(&misspelt)], 2, told),
        (vec!["diff", path(&good), path(&good)], 0, ""),
        (vec!["diff", path(&good), path(&closed)], 1, ""),
        (vec!["diff", path(&good), path(&misspelt)], 2, told),
        (vec!["diff", path(&good)], 2, "give two files"),
        (vec!["lint", &example()], 0, ""),
        (vec!["lint", path(&misspelt)], 1, ""),
    ] {
        let out = policy(&args);
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(status), "{args:?}: {said}{}", text(&out.stdout));
        assert!(said.contains(on_stderr) && said.is_empty() == on_stderr.is_empty(), "{said}");
        // The answer is there all the same, unless there is none.
        assert_eq!(out.stdout.is_empty(), status == 2 && on_stderr != told, "{args:?}");
    }
    // A misspelt object that is the same on both sides is told once.
    let out = policy(&["diff", path(&misspelt), path(&misspelt)]);
    assert_eq!(text(&out.stderr).matches(told).count(), 1);
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    // More than a pipe holds.
    let pods: String = (0..120)
        .map(|n| format!("kind: Pod\nmetadata: {{name: p{n}}}\nspec: {{}}\n---\n"))
        .collect();
    let many = dir(&pods);
    let mut child = Command::new(WEFT)
        .args(["policy", "matrix", "-o", "json", path(&many)])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run weft");
    let mut output = child.stdout.take().expect("stdout is piped");
    output.read_exact(&mut [0; 1]).expect("some output");
    drop(output);
    let out = child.wait_with_output().expect("wait");
    assert_eq!((out.status.code(), text(&out.stderr)), (Some(0), String::new()));
}
