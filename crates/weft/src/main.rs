//! The `weft` binary: argument parsing, dispatch, and the I/O of apiserver, why, check, flows and
//! policy.

mod apiserver;
mod check;
mod cni;
mod explain;
mod flows;
mod log;
mod policy;
mod policy_status;
mod world;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The whole Kubernetes network in one binary
#[derive(Parser)]
#[command(name = "weft", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// An embedded Kubernetes API and virtual nodes on this machine
    Lab(weft_lab::LabArgs),
    /// An embedded Kubernetes API and its controllers alone: no nodes, no root
    Apiserver(apiserver::Args),
    /// The node agent: pod network, service proxy and node-local DNS
    Agent(weft_agent::Args),
    /// The CNI plugin (also when called as weft-cni); on a real node: its installation
    Cni(cni::Args),
    /// What happens to this traffic and which object decides it
    Why(explain::WhyArgs),
    /// How the agents of a lab, or the one of this machine, fare
    Status(check::CheckArgs),
    /// What is wrong with them, and what to do about it
    Check(check::CheckArgs),
    /// Which connections policy let through or denied, and by which rule
    Flows(flows::FlowsArgs),
    /// Tables of what Weft makes of the cluster's objects
    Get(explain::GetArgs),
    /// Take from this node what its agent made: rules, links, routes, programs, files
    Cleanup(weft_agent::CleanupArgs),
    /// Network policies as code: test, compare, draw and lint them, from files alone or against a
    /// lab or a cluster; and how they are in force
    Policy(policy::Args),
    #[command(hide = true)]
    LabSupervisor(weft_lab::supervisor::Args),
    #[command(hide = true)]
    LabKubelet(weft_kubelet::Args),
    #[command(hide = true)]
    LabProbe,
}

fn main() -> ExitCode {
    // The helpers run before anything else: they must stay single-threaded and quick.
    let called_as = std::env::args_os().next().unwrap_or_default();
    let first = std::env::args_os().nth(1).unwrap_or_default();
    let name = std::path::Path::new(&called_as).file_name().unwrap_or_default();
    if name == weft_cni::install::PLUGIN {
        return code(weft_cni::main());
    }
    if name == weft_cni::install::LOOPBACK {
        return code(cni::loopback());
    }
    match first.to_str() {
        Some("cni") if std::env::args_os().len() == 2 => return code(weft_cni::main()),
        Some("sandbox-init") => return code(weft_sandbox::init_main()),
        Some("stand-in") => return code(weft_standin::main()),
        _ => {}
    }
    match run(Cli::parse().command) {
        Ok(exit) => code(exit),
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<i32> {
    match command {
        Command::Lab(args) => weft_lab::run(args),
        Command::Apiserver(args) => logged(|| apiserver::run(args)),
        Command::Agent(args) => logged(|| weft_agent::run(args)),
        Command::Policy(args) => policy::run_command(args),
        Command::Cni(args) => cni::run(args),
        Command::Status(args) => check::run(args, true),
        Command::Check(args) => check::run(args, false),
        Command::Why(args) => explain::why(args),
        Command::Flows(args) => flows::run(args),
        Command::Get(args) => explain::get(args),
        Command::Cleanup(args) => weft_agent::run_cleanup(&args).map(|()| 0),
        Command::LabSupervisor(args) => logged(|| weft_lab::supervisor::run(&args)),
        Command::LabKubelet(args) => logged(|| weft_kubelet::run(args)),
        Command::LabProbe => weft_lab::probe::main().map(|()| 0),
    }
}

/// Runs a daemon, which logs.
fn logged(daemon: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<i32> {
    log::init();
    daemon().map(|()| 0)
}

fn code(exit: i32) -> ExitCode {
    ExitCode::from(u8::try_from(exit).unwrap_or(1))
}
