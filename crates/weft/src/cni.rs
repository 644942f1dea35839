//! `weft cni`: the plugin, and its installation on a real node.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use weft_cni::install::Places;
use weft_netlink::{Netlink, netns};

/// Arguments of `weft cni`. Without any, it is the plugin.
#[derive(Debug, Parser)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put the plugin and its configuration where the container runtime looks; can be repeated
    Install {
        #[command(flatten)]
        places: PlacesArgs,
        /// Socket of this node's agent
        #[arg(long, value_name = "PATH", default_value = "/run/weft/agent/agent.sock")]
        agent_socket: PathBuf,
    },
    /// Take them away
    Uninstall {
        #[command(flatten)]
        places: PlacesArgs,
    },
}

#[derive(Debug, clap::Args)]
struct PlacesArgs {
    /// Folder of the runtime's plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// Folder of the runtime's network configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
}

impl From<PlacesArgs> for Places {
    fn from(args: PlacesArgs) -> Self {
        Self { bin_dir: args.bin_dir, conf_dir: args.conf_dir }
    }
}

/// Runs the command.
pub fn run(args: Args) -> Result<i32> {
    match args.command {
        None => return Ok(weft_cni::main()),
        Some(Command::Install { places, agent_socket }) => {
            let program = std::env::current_exe().context("find this program")?;
            for (path, done) in Places::from(places).install(&program, &agent_socket)? {
                println!("{done} {}", path.display());
            }
        }
        Some(Command::Uninstall { places }) => match Places::from(places).uninstall() {
            Ok(removed) => removed.iter().for_each(|p| println!("removed {}", p.display())),
            Err(errors) => {
                let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
                bail!("{}", all.join("; "));
            }
        },
    }
    Ok(0)
}

/// The plugin `loopback`.
pub fn loopback() -> i32 {
    let up = |path: &Path| {
        let done = netns::run_in(path, || Netlink::open()?.set_up("lo"));
        done.and_then(|inner| inner).map_err(|e| e.to_string())
    };
    weft_cni::loopback::main(&up)
}
