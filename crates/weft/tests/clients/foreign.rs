//! Programs of other languages: client-go and the Python client, each with its scenarios.

use crate::{
    harness::{Api, text},
    table::built,
};
use std::process::Command;

/// Runs a program against a server of its own; it prints `ok NAME` for each scenario.
fn scenarios(test: &str, mut program: Command, names: &[&str]) {
    if !std::path::Path::new(program.get_program()).is_file() {
        println!("SKIP {test}: {:?} is not built (cargo xtask test does)", program.get_program());
        return;
    }
    let api = Api::start();
    let out = program.env("KUBECONFIG", api.kubeconfig()).env("HOME", api.dir.path()).output();
    let out = out.unwrap();
    let said = text(&out.stdout);
    let expected: String = names.iter().map(|n| format!("ok {n}\n")).collect();
    assert!(
        out.status.success() && said == expected,
        "{}\n{said}\n{}",
        out.status,
        text(&out.stderr)
    );
}

#[test]
fn client_go_reads_writes_watches_and_elects() {
    let program = Command::new(built("session"));
    let names = [
        "crud",
        "protobuf",
        "paging",
        "patches",
        "apply",
        "watch",
        "informers",
        "watchlist",
        "election",
        "dynamic",
        "discovery",
    ];
    scenarios("client_go_reads_writes_watches_and_elects", program, &names);
}

#[test]
fn the_python_client_reads_writes_and_watches() {
    let mut program = Command::new(built("python/bin/python"));
    program.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/python/session.py"));
    let names = ["crud", "paging", "patches", "apply", "watching", "manifests"];
    scenarios("the_python_client_reads_writes_and_watches", program, &names);
}
