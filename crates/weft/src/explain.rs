//! `weft why` and `weft get`: reads a cluster, asks `weft-explain`, prints.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Api, api::ListParams};
use serde::de::DeserializeOwned;
use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};
use weft_dns::Zone;
use weft_explain::{Question, ServiceRow, Setup, World};
use weft_fabric::Mode;
use weft_kube::lower::{self, Lowered};
use weft_lab::{
    paths::{LabPaths, STATE_ROOT},
    state::LabState,
    topology,
};
use weft_model::{IpFamily, NamespacedName, Snapshot};

/// MTU of the links of a lab's underlay: what the kernel gives a veth.
const LAB_MTU: u32 = 1500;

/// Which cluster is meant: a kubeconfig, or a lab
#[derive(Debug, Args)]
struct Cluster {
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
    /// Service address ranges
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.0/16,fd00:10:96::/112")]
    service_cidr: Vec<IpNet>,
    /// Which of the nodes' addresses answer on node ports; all where not given
    #[arg(long, value_delimiter = ',')]
    nodeport_addresses: Vec<IpNet>,
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

/// Runs `weft why`; 0 only where every path leads somewhere.
pub fn why(args: WhyArgs) -> Result<i32> {
    let world = args.cluster.read()?;
    let family = match (args.v4, args.v6) {
        (true, _) => Some(IpFamily::V4),
        (_, true) => Some(IpFamily::V6),
        _ => None,
    };
    let question = Question {
        from: args.from,
        to: args.to,
        namespace: args.namespace,
        through: args.through,
        family,
    };
    let answer = weft_explain::why(&world, &question)?;
    match args.output {
        Output::Text => say(answer.render().trim_end())?,
        Output::Json => say(&serde_json::to_string_pretty(&answer)?)?,
    }
    Ok(if answer.ok { 0 } else { 1 })
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
        runtime.context("start runtime")?.block_on(read(&path, setup))
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
        service_cidrs: state.config.service_cidrs.clone(),
        node_port_ranges: Vec::new(),
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
            zone: Zone::new(&self.cluster_domain)?,
            uplink_mtu: None,
            outside: Vec::new(),
        })
    }
}

async fn list<K>(client: &kube::Client, what: &str) -> Result<Vec<K>>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let all = Api::<K>::all(client.clone()).list(&ListParams::default()).await;
    Ok(all.with_context(|| format!("cannot list {what}"))?.items)
}

async fn read(path: &Path, setup: Setup) -> Result<World> {
    let kubeconfig = kube::config::Kubeconfig::read_from(path)
        .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .with_context(|| format!("cannot use the kubeconfig {}", path.display()))?;
    let client = kube::Client::try_from(config).context("cannot build the API client")?;
    let (namespaces, nodes, services, slices, pods) = tokio::try_join!(
        list::<Namespace>(&client, "namespaces"),
        list::<Node>(&client, "nodes"),
        list::<Service>(&client, "services"),
        list::<EndpointSlice>(&client, "endpointslices"),
        list::<Pod>(&client, "pods"),
    )?;
    if nodes.is_empty() {
        bail!("the cluster has no nodes yet");
    }
    let mut world = World {
        snapshot: Snapshot { generation: 1, ..Snapshot::default() },
        pods: BTreeMap::new(),
        service_types: BTreeMap::new(),
        complaints: BTreeMap::new(),
        setup,
    };
    let snapshot = &mut world.snapshot;
    for namespace in namespaces.iter().filter_map(|n| lower::labelled_namespace(n).value) {
        snapshot.namespaces.insert(namespace.name.clone(), Arc::new(namespace));
    }
    for node in nodes.iter().filter_map(|n| lower::node(n).value) {
        snapshot.nodes.insert(node.name.clone(), Arc::new(node));
    }
    for object in &services {
        let id = lower::id_of(&object.metadata);
        let kind = object.spec.as_ref().and_then(|s| s.type_.clone());
        world.service_types.insert(id.clone(), kind.unwrap_or_else(|| "ClusterIP".to_owned()));
        let Lowered { value, diagnostics } = lower::service(object);
        let texts = diagnostics.iter().map(|d| format!("{}: {}", d.field, d.message));
        world.complaints.entry(id.clone()).or_default().extend(texts);
        snapshot.services.extend(value.map(|s| (id, Arc::new(s))));
    }
    for object in &slices {
        let Lowered { value, diagnostics } = lower::endpoint_slice(object);
        let labels = object.metadata.labels.as_ref();
        let service = labels.and_then(|l| l.get(lower::SERVICE_NAME_LABEL));
        if let Some(service) = service {
            let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
            let id = NamespacedName::new(namespace, service);
            let texts = diagnostics
                .iter()
                .map(|d| format!("EndpointSlice {}: {}: {}", d.object.name, d.field, d.message));
            world.complaints.entry(id).or_default().extend(texts);
        }
        if let Some(slice) = value {
            snapshot.insert_slice(Arc::new(slice));
        }
    }
    for pod in &pods {
        let pod = pod_of(pod);
        world.pods.insert(pod.id.clone(), pod);
    }
    Ok(world)
}

fn pod_of(pod: &Pod) -> weft_explain::Pod {
    let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
    let node = spec.and_then(|s| s.node_name.as_deref());
    let ips = status.and_then(|s| s.pod_ips.as_ref()).into_iter().flatten();
    weft_explain::Pod {
        id: lower::id_of(&pod.metadata),
        node: node.and_then(|n| n.parse().ok()),
        ips: ips.filter_map(|a| a.ip.parse().ok()).collect(),
        host_network: spec.and_then(|s| s.host_network).unwrap_or(false),
        phase: status.and_then(|s| s.phase.clone()).unwrap_or_else(|| "Pending".to_owned()),
    }
}
