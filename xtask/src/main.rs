//! `cargo xtask …`: set-up, lab, tests, benches, the eBPF object and the house rules.
//!
//! Every command does its own set-up, builds as the calling user, and uses sudo only for the
//! lab and the kernel tests.

mod bench;
mod bpf;
mod clients;
mod lab;
mod setup;
mod sh;
mod tally;
mod test;
mod tidy;
mod vm;

use anyhow::{Result, bail};
use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask COMMAND

  lab             build, start a lab, apply the sample application, verify it
  test            everything that CI runs
  test --vm       a lab on Debian's kernel in an emulated machine (minutes)
  check           formatting, clippy, house rules and the pure tests
  bench WHAT      apiserver | lab-start | policy | program | services
  tidy            the house rules alone
  bpf [--check]   build the eBPF object; --check compares it with the committed one
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match dispatch(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(words: &[&str]) -> Result<()> {
    match words {
        ["lab"] => lab::run(),
        ["test"] => test::all(),
        ["test", "--vm"] => test::finish(vm::run()?),
        ["check"] => test::check(),
        ["bench", what] => bench::run(what),
        ["tidy"] => tidy::run(),
        ["bpf", rest @ ..] => bpf::run(rest),
        ["bench-netfilter"] => bench::netfilter::main(),
        ["bench-policy-rules"] => bench::policy::rules::main(),
        ["bench-worker", rest @ ..] => bench::worker::main(rest),
        ["help" | "--help" | "-h"] | [] => {
            print!("{USAGE}");
            Ok(())
        }
        other => bail!("unknown command '{}'\n\n{USAGE}", other.join(" ")),
    }
}
