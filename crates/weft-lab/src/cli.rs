//! Arguments of `weft lab …` and their dispatch.

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use std::{io::Write, path::PathBuf};

use crate::{
    apply,
    config::{LabFile, Network},
    down,
    error::LabError,
    exec,
    paths::{self, LabPaths, STATE_ROOT},
    state, status, up, verify,
};

/// A Kubernetes network on this machine: an embedded API and virtual nodes.
#[derive(Debug, Args)]
pub struct LabArgs {
    /// Directory of all labs' state
    #[arg(long, global = true, env = "WEFT_STATE_DIR", default_value = STATE_ROOT)]
    state_dir: PathBuf,
    #[command(subcommand)]
    command: LabCommand,
}

/// Chooses a running lab.
#[derive(Debug, Args)]
struct Name {
    /// Name of the lab; may be left out where exactly one runs
    #[arg(long)]
    name: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people
    #[default]
    Text,
    /// An interface: stable field names
    Json,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Start a lab; it is ready when this returns. Prints the path of the kubeconfig
    Up(UpArgs),
    /// Stop a lab and leave nothing behind
    Down {
        /// Name of the lab
        #[arg(long, default_value = "lab", conflicts_with = "all")]
        name: String,
        /// Every lab
        #[arg(long)]
        all: bool,
    },
    /// Nodes, pods and stand-ins of a lab
    Status {
        #[command(flatten)]
        name: Name,
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Print the path of the kubeconfig
    Kubeconfig {
        #[command(flatten)]
        name: Name,
    },
    /// Apply manifests, for machines without kubectl
    Apply {
        #[command(flatten)]
        name: Name,
        /// A file, a directory, or - for standard input; may be repeated
        #[arg(short, long = "filename", required = true)]
        filename: Vec<PathBuf>,
    },
    /// Run a command in a pod, on a node (node/NAME) or outside the cluster (client)
    Exec {
        #[command(flatten)]
        lab: Name,
        /// Namespace of the pod
        #[arg(short, long, default_value = "default")]
        namespace: String,
        /// Container of the pod; the first one where absent
        #[arg(short, long)]
        container: Option<String>,
        /// Give the command a terminal
        #[arg(short, long)]
        tty: bool,
        /// Connect standard input
        #[arg(short = 'i', long)]
        stdin: bool,
        /// POD, node/NODE or client
        target: String,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Prove the network model with real packets
    Verify {
        #[command(flatten)]
        name: Name,
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

#[derive(Debug, Args)]
struct UpArgs {
    /// Name of the lab [default: lab]
    #[arg(long)]
    name: Option<String>,
    /// Number of nodes, 1 to 100 [default: 3]
    #[arg(long)]
    nodes: Option<u16>,
    /// Number of zones that the nodes are dealt to [default: 1]
    #[arg(long)]
    zones: Option<u16>,
    /// dual, ipv4 or ipv6 [default: dual]
    #[arg(long)]
    ip_family: Option<String>,
    /// How nodes reach each other's pods [default: vxlan]
    #[arg(long, value_enum)]
    network: Option<Network>,
    /// Lab definition; flags override it
    #[arg(long)]
    file: Option<PathBuf>,
    /// Let privileged containers run (they are root on this machine)
    #[arg(long)]
    allow_privileged: bool,
}

/// Runs `weft lab …`; the exit status is 0 only where everything asked for holds.
pub fn run(args: LabArgs) -> Result<i32> {
    let root = absolute(&args.state_dir)?;
    match args.command {
        LabCommand::Up(up_args) => {
            require_root("up")?;
            let file = match &up_args.file {
                Some(path) => LabFile::read(path)?,
                None => LabFile::default(),
            };
            let config = up_args.flags().over(file).validate()?;
            let paths = LabPaths::new(&root, &config.name);
            up::up(&paths, config)?;
            say(&paths.kubeconfig().display().to_string())?;
            Ok(0)
        }
        LabCommand::Down { name, all } => {
            require_root("down")?;
            let names = if all {
                paths::labs(&root)
            } else {
                vec![name.parse().map_err(|e| LabError::input(format!("--name: {e}")))?]
            };
            let mut failed = Vec::new();
            for name in names {
                let paths = LabPaths::new(&root, &name);
                let outcome = up::locked(&paths).and_then(|_lock| {
                    let outcome = down::down(&paths);
                    let _ = std::fs::remove_file(paths.lock());
                    outcome
                });
                if let Err(e) = outcome {
                    failed.push(format!("lab {name}: {e:#}"));
                }
            }
            anyhow::ensure!(failed.is_empty(), "{}", failed.join("; "));
            Ok(0)
        }
        LabCommand::Status { name, output } => {
            let paths = state::choose(&root, name.name.as_deref())?;
            let found = runtime()?.block_on(status::status(&paths))?;
            match output {
                Output::Text => say(found.render().trim_end())?,
                Output::Json => say(&serde_json::to_string_pretty(&found)?)?,
            }
            Ok(if found.ok { 0 } else { 1 })
        }
        LabCommand::Kubeconfig { name } => {
            let paths = state::choose(&root, name.name.as_deref())?;
            say(&paths.kubeconfig().display().to_string())?;
            Ok(0)
        }
        LabCommand::Apply { name, filename } => {
            let documents = apply::read(&filename)?;
            let paths = state::choose(&root, name.name.as_deref())?;
            runtime()?.block_on(async {
                let client = client(&paths).await?;
                apply::apply(&client, documents, &mut |line| say(line)).await
            })
        }
        LabCommand::Exec { lab, namespace, container, tty, stdin, target, command } => {
            let paths = state::choose(&root, lab.name.as_deref())?;
            match exec::Target::parse(&target, namespace, container) {
                exec::Target::Pod(pod) => {
                    let runtime = runtime()?;
                    let outcome = runtime.block_on(async {
                        let client = client(&paths).await?;
                        exec::in_pod(client, pod, command, stdin, tty).await
                    });
                    // A read of standard input cannot be cancelled: do not wait for it.
                    runtime.shutdown_background();
                    outcome
                }
                exec::Target::Place(part) => {
                    require_root("exec")?;
                    exec::in_place(&paths, &part, &command)
                }
            }
        }
        LabCommand::Verify { name, output } => {
            require_root("verify")?;
            let paths = state::choose(&root, name.name.as_deref())?;
            let report = runtime()?.block_on(async {
                let client = client(&paths).await?;
                verify::verify(&paths, &client).await
            })?;
            match output {
                Output::Text => say(report.render().trim_end())?,
                Output::Json => say(&serde_json::to_string_pretty(&report)?)?,
            }
            Ok(if report.ok { 0 } else { 1 })
        }
    }
}

impl UpArgs {
    fn flags(&self) -> LabFile {
        LabFile {
            name: self.name.clone(),
            nodes: self.nodes,
            zones: self.zones,
            ip_family: self.ip_family.clone(),
            network: self.network,
            allow_privileged: self.allow_privileged.then_some(true),
            ..LabFile::default()
        }
    }
}

/// The state directory without links or relative parts: the supervisor runs in another
/// directory, and mounts are found by their real paths.
fn absolute(dir: &std::path::Path) -> Result<PathBuf> {
    match dir.canonicalize() {
        Ok(real) => Ok(real),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let name = dir.file_name().context("--state-dir: name a directory")?;
            let parent = match dir.parent() {
                Some(p) if !p.as_os_str().is_empty() => p.canonicalize(),
                _ => std::env::current_dir(),
            };
            let parent = parent.with_context(|| format!("--state-dir {}", dir.display()))?;
            Ok(parent.join(name))
        }
        Err(e) => Err(e).with_context(|| format!("--state-dir {}", dir.display())),
    }
}

fn require_root(what: &'static str) -> Result<(), LabError> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err(LabError::NotRoot(what)) }
}

/// Prints a line; a reader that went away (`| head`) is no error.
fn say(line: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e).context("write output"),
        _ => Ok(()),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start runtime")
}

/// A client of the lab's API through its kubeconfig.
pub async fn client(paths: &LabPaths) -> Result<kube::Client> {
    let path = paths.kubeconfig();
    let kubeconfig = kube::config::Kubeconfig::read_from(&path)
        .with_context(|| format!("read {}", path.display()))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .with_context(|| format!("use {}", path.display()))?;
    kube::Client::try_from(config).context("make API client")
}
