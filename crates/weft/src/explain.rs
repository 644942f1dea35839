//! `weft why` and `weft get`: which cluster is meant, what `weft-explain` is asked, printing.

use crate::world;
use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;
use std::{
    io::Write,
    net::{IpAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};
use weft_dns::Zone;
use weft_explain::{Answer, Question, ServiceRow, Setup, World};
use weft_fabric::Mode;
use weft_lab::{
    paths::{LabPaths, STATE_ROOT},
    state::LabState,
    topology,
};
use weft_model::IpFamily;

/// MTU of the links of a lab's underlay: what the kernel gives a veth.
const LAB_MTU: u32 = 1500;
/// How long this machine's resolver may take for a name that is none of the cluster's.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Which cluster is meant: a kubeconfig, or a lab
#[derive(Debug, Args)]
pub(crate) struct Cluster {
    /// Kubeconfig of the cluster [default: KUBECONFIG, else the only lab that runs]
    #[arg(long, conflicts_with = "name")]
    kubeconfig: Option<PathBuf>,
    /// Name of a running lab
    #[arg(long)]
    name: Option<String>,
    /// Directory of all labs' state
    #[arg(long, env = "WEFT_STATE_DIR", default_value = STATE_ROOT, hide = true)]
    state_dir: PathBuf,
    #[command(flatten)]
    agents: Agents,
}

/// How the agents are set: what the API does not tell. A lab knows its own.
#[derive(Debug, Args)]
#[command(next_help_heading = "As the agents are started (a lab knows its own)")]
struct Agents {
    /// How pods of different nodes reach each other
    #[arg(long, value_enum, default_value = "vxlan")]
    network: Network,
    /// DNS domain of the cluster
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Service address ranges [default: those of the cluster's ServiceCIDR objects]
    #[arg(long, value_delimiter = ',')]
    service_cidr: Vec<IpNet>,
    /// Which of the nodes' addresses answer on node ports; all where not given
    #[arg(long, value_delimiter = ',')]
    nodeport_addresses: Vec<IpNet>,
    /// Whether processes of a node reach node ports at 127.0.0.1 and ::1
    #[arg(long, action = clap::ArgAction::Set, default_value_t = true)]
    localhost_node_ports: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Network {
    Vxlan,
    Native,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    #[default]
    Text,
    /// An interface: stable field names (docs/why.md)
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum TableOutput {
    /// For people
    #[default]
    Text,
    /// All addresses, and every port, family and node
    Wide,
    /// An interface: stable field names (docs/why.md)
    Json,
}

/// What happens to this traffic and which object decides it.
#[derive(Debug, Args)]
pub struct WhyArgs {
    #[command(flatten)]
    cluster: Cluster,
    /// Namespace of names without one
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The node that a client outside comes in through; every one where not given
    #[arg(long, value_name = "NODE")]
    through: Option<String>,
    /// IPv4 alone
    #[arg(short = '4', conflicts_with = "v6")]
    v4: bool,
    /// IPv6 alone
    #[arg(short = '6')]
    v6: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// [NAMESPACE/]POD, node/NODE, client or outside, or an IP address
    #[arg(value_name = "SRC")]
    from: String,
    /// [NAMESPACE/]POD, svc/[NAMESPACE/]NAME, node/NODE, an IP address or a DNS name
    #[arg(value_name = "DST[:PORT][/PROTOCOL]")]
    to: String,
}

/// Tables of what Weft makes of the cluster's objects.
#[derive(Debug, Args)]
pub struct GetArgs {
    #[command(subcommand)]
    what: Get,
}

#[derive(Debug, Subcommand)]
enum Get {
    /// Services, how many endpoints clients may use, and what is wrong with them
    #[command(visible_aliases = ["service", "svc"])]
    Services {
        #[command(flatten)]
        cluster: Cluster,
        /// Namespace
        #[arg(short, long, default_value = "default")]
        namespace: String,
        /// All namespaces
        #[arg(short = 'A', long, conflicts_with = "namespace")]
        all_namespaces: bool,
        /// As seen from one node
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: TableOutput,
    },
}

/// Runs `weft why`; 0 only where every path leads somewhere and policy allows all of it.
pub fn why(args: WhyArgs) -> Result<i32> {
    let mut world = args.cluster.read()?;
    let family = match (args.v4, args.v6) {
        (true, _) => Some(IpFamily::V4),
        (_, true) => Some(IpFamily::V6),
        _ => None,
    };
    let mut question = Question {
        from: args.from,
        to: args.to,
        namespace: args.namespace,
        through: args.through,
        family,
        resolved: Vec::new(),
    };
    let mut answer = weft_explain::why(&world, &question)?;
    if let Some(name) = outside_name(&answer) {
        question.resolved = resolve(name);
        if !question.resolved.is_empty() {
            let addresses = question.resolved.iter().copied().collect();
            world.policy.names.insert(name.into(), addresses);
            answer = weft_explain::why(&world, &question)?;
        }
    }
    match args.output {
        Output::Text => say(answer.render().trim_end())?,
        Output::Json => say(&serde_json::to_string_pretty(&answer)?)?,
    }
    Ok(if answer.ok { 0 } else { 1 })
}

/// The name that was asked for, where the cluster's DNS does not know it to be one of its own.
fn outside_name(answer: &Answer) -> Option<&str> {
    let dns = answer.dns.as_ref()?;
    let last = dns.tried.last().filter(|t| t.result == "outside")?;
    dns.aliases.is_empty().then_some(&*last.name)
}

/// What this machine's resolver says, if it says something in time.
fn resolve(name: &str) -> Vec<IpAddr> {
    let (found, answer) = mpsc::channel();
    let name = name.to_owned();
    // The system's resolver cannot be told how long to try: a late answer finds nobody.
    std::thread::spawn(move || {
        let all = (&*name, 0u16).to_socket_addrs();
        let mut all: Vec<IpAddr> = all.into_iter().flatten().map(|a| a.ip()).collect();
        all.sort_unstable();
        all.dedup();
        let _ = found.send(all);
    });
    answer.recv_timeout(RESOLVE_TIMEOUT).unwrap_or_default()
}

/// Runs `weft get …`.
pub fn get(args: GetArgs) -> Result<i32> {
    let Get::Services { cluster, namespace, all_namespaces, node, output } = args.what;
    let world = cluster.read()?;
    let namespace = (!all_namespaces).then_some(namespace.as_str());
    let rows = weft_explain::services(&world, namespace, node.as_deref())?;
    match output {
        TableOutput::Json => {
            let items = serde_json::json!({ "items": rows });
            say(&serde_json::to_string_pretty(&items)?)?;
        }
        _ if rows.is_empty() => match namespace {
            Some(namespace) => say(&format!("namespace {namespace} has no Services"))?,
            None => say("there are no Services")?,
        },
        other => {
            let wide = other == TableOutput::Wide;
            say(ServiceRow::render(&rows, all_namespaces, wide).trim_end())?;
        }
    }
    Ok(0)
}

/// Prints; a reader that went away (`| head`) is no error.
pub(crate) fn say(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e).context("write output"),
        _ => Ok(()),
    }
}

impl Cluster {
    fn read(&self) -> Result<World> {
        let (path, setup) = self.choose()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.context("start runtime")?.block_on(world::read(&path, setup))
    }

    /// The kubeconfig, and the agents' settings.
    fn choose(&self) -> Result<(PathBuf, Setup)> {
        let environment = std::env::var_os("KUBECONFIG").filter(|p| !p.is_empty());
        let given = match (&self.kubeconfig, &self.name) {
            (Some(path), _) => Some(path.clone()),
            (None, Some(_)) => None,
            (None, None) => environment.map(PathBuf::from),
        };
        let root = self.state_dir.canonicalize().unwrap_or_else(|_| self.state_dir.clone());
        let lab = match &given {
            Some(path) => lab_of(&root, path),
            None => Some(weft_lab::state::choose(&root, self.name.as_deref())?),
        };
        let setup = match lab {
            Some(paths) => {
                let state = LabState::read(&paths)?.context("the lab has gone")?;
                let setup = of_lab(&state)?;
                return Ok((given.unwrap_or_else(|| paths.kubeconfig()), setup));
            }
            None => self.agents.setup()?,
        };
        Ok((given.context("invariant: without a lab there is a kubeconfig")?, setup))
    }
}

/// The lab whose kubeconfig this is.
fn lab_of(root: &Path, kubeconfig: &Path) -> Option<LabPaths> {
    let real = kubeconfig.canonicalize().ok()?;
    let name = real.parent()?.file_name()?.to_str()?.parse().ok()?;
    let paths = LabPaths::new(root, &name);
    (paths.kubeconfig() == real).then_some(paths)
}

fn of_lab(state: &LabState) -> Result<Setup> {
    let mode = match state.config.network {
        weft_lab::config::Network::Native => Mode::Native,
        _ => Mode::Vxlan,
    };
    let client = topology::plan(&state.config).client;
    Ok(Setup {
        mode,
        // Read from the API.
        service_cidrs: Vec::new(),
        node_port_ranges: Vec::new(),
        localhost_node_ports: true,
        zone: Zone::new("cluster.local")?,
        uplink_mtu: Some(LAB_MTU),
        outside: client.addresses.iter().map(IpNet::addr).collect(),
    })
}

impl Agents {
    fn setup(&self) -> Result<Setup> {
        Ok(Setup {
            mode: match self.network {
                Network::Vxlan => Mode::Vxlan,
                Network::Native => Mode::Native,
            },
            service_cidrs: self.service_cidr.clone(),
            node_port_ranges: self.nodeport_addresses.clone(),
            localhost_node_ports: self.localhost_node_ports,
            zone: Zone::new(&self.cluster_domain)?,
            uplink_mtu: None,
            outside: Vec::new(),
        })
    }
}
