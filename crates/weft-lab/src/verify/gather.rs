//! Reads from the API what `verify` has to try.

use anyhow::{Context, Result};
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Api, api::ListParams};
use std::{collections::BTreeMap, collections::BTreeSet, net::IpAddr};

use crate::{nodes::Place, paths::LabPaths, state::LabState};

/// A running pod.
#[derive(Clone, Debug)]
pub struct PodAt {
    /// `namespace/name`.
    pub id: String,
    /// Its node.
    pub node: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Whether it shares the node's namespace.
    pub host_network: bool,
    /// Names of its running containers.
    pub containers: Vec<String>,
    /// Its namespace and cgroup.
    pub place: Place,
}

/// A Service port that has a ready backend.
#[derive(Clone, Debug)]
pub struct ServiceAt {
    /// `name.namespace.svc.<domain>`.
    pub dns_name: String,
    /// TCP ports.
    pub ports: Vec<u16>,
    /// Cluster IPs that have a ready endpoint of their family.
    pub ips: Vec<IpAddr>,
}

/// The cluster as `verify` sees it.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Running pods, by node and then by name.
    pub pods: Vec<PodAt>,
    /// Nodes: name and every address that its own traffic may bear.
    pub nodes: BTreeMap<String, Vec<IpAddr>>,
    /// Services with TCP ports.
    pub services: Vec<ServiceAt>,
    /// Cluster DNS addresses.
    pub dns: Vec<IpAddr>,
}

/// Reads the cluster.
pub async fn gather(paths: &LabPaths, client: &kube::Client) -> Result<Cluster> {
    let state = LabState::read(paths)?.context("the lab has gone")?;
    let all = ListParams::default();
    let nodes_api: Api<Node> = Api::all(client.clone());
    let pods_api: Api<Pod> = Api::all(client.clone());
    let services_api: Api<Service> = Api::all(client.clone());
    let slices_api: Api<EndpointSlice> = Api::all(client.clone());
    let (nodes, pods, services, slices) = tokio::try_join!(
        nodes_api.list(&all),
        pods_api.list(&all),
        services_api.list(&all),
        slices_api.list(&all)
    )
    .context("read the cluster from the API")?;
    let mut pods: Vec<PodAt> = pods.items.iter().filter_map(|p| pod_at(paths, p)).collect();
    pods.sort_by(|a, b| (&a.node, &a.id).cmp(&(&b.node, &b.id)));
    let ready = ready_families(&slices.items);
    Ok(Cluster {
        pods,
        nodes: nodes.items.iter().filter_map(node_at).collect(),
        services: services.items.iter().filter_map(|s| service_at(s, &ready)).collect(),
        dns: state.config.cluster_dns(),
    })
}

fn pod_at(paths: &LabPaths, pod: &Pod) -> Option<PodAt> {
    let spec = pod.spec.as_ref()?;
    let status = pod.status.as_ref()?;
    if status.phase.as_deref() != Some("Running") || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let node = spec.node_name.clone()?;
    let uid = pod.metadata.uid.as_deref()?;
    let host_network = spec.host_network == Some(true);
    let netns = if host_network {
        paths.netns(&node)
    } else {
        paths.node(&node).join("pods").join(uid).join("netns")
    };
    Some(PodAt {
        id: format!("{}/{}", pod.metadata.namespace.as_deref()?, pod.metadata.name.as_deref()?),
        ips: status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect(),
        host_network,
        containers: status
            .container_statuses
            .iter()
            .flatten()
            .filter(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()))
            .map(|c| c.name.clone())
            .collect(),
        place: Place { netns, cgroup: Some(paths.pod_cgroup(&node, uid).join("verify")) },
        node,
    })
}

fn node_at(node: &Node) -> Option<(String, Vec<IpAddr>)> {
    let name = node.metadata.name.clone()?;
    let mut ips: Vec<IpAddr> = node
        .status
        .iter()
        .flat_map(|s| s.addresses.iter().flatten())
        .filter_map(|a| a.address.parse().ok())
        .collect();
    // The node's router address: the first of its pod CIDR, source of what it sends to
    // remote pods through a tunnel.
    let cidrs = node.spec.iter().flat_map(|s| s.pod_cidrs.iter().flatten());
    let hosts = |net: &ipnet::IpNet| net.prefix_len() < net.max_prefix_len();
    let nets = cidrs.filter_map(|c| c.parse().ok()).filter(hosts);
    ips.extend(nets.map(|net| crate::config::nth(net, 1)));
    Some((name, ips))
}

/// `namespace/service` and address type of every slice with a ready endpoint.
fn ready_families(slices: &[EndpointSlice]) -> BTreeSet<(String, String)> {
    slices
        .iter()
        .filter(|s| {
            s.endpoints.iter().any(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true))
        })
        .filter_map(|s| {
            let service = s.metadata.labels.as_ref()?.get("kubernetes.io/service-name")?;
            let namespace = s.metadata.namespace.as_deref()?;
            Some((format!("{namespace}/{service}"), s.address_type.clone()))
        })
        .collect()
}

fn service_at(service: &Service, ready: &BTreeSet<(String, String)>) -> Option<ServiceAt> {
    let (namespace, name) =
        (service.metadata.namespace.as_deref()?, service.metadata.name.as_deref()?);
    let spec = service.spec.as_ref()?;
    let has_ready = |ip: &IpAddr| {
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        ready.contains(&(format!("{namespace}/{name}"), family.to_owned()))
    };
    let ips: Vec<IpAddr> = spec
        .cluster_ips
        .iter()
        .flatten()
        .filter_map(|ip| ip.parse().ok())
        .filter(has_ready)
        .collect();
    let ports: Vec<u16> = spec
        .ports
        .iter()
        .flatten()
        .filter(|p| p.protocol.as_deref().unwrap_or("TCP") == "TCP")
        .filter_map(|p| u16::try_from(p.port).ok())
        .collect();
    (!ips.is_empty() && !ports.is_empty()).then(|| ServiceAt {
        dns_name: format!("{name}.{namespace}.svc.cluster.local."),
        ports,
        ips,
    })
}
