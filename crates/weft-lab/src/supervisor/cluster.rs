//! What the lab itself puts into its cluster: the DNS Service, whose endpoints are the nodes'
//! own DNS servers, and for native routing the routes of the underlay's router.

use anyhow::{Context, Result};
use futures::TryStreamExt;
use ipnet::IpNet;
use k8s_openapi::api::{core::v1::Node, core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use std::{collections::BTreeMap, net::IpAddr};
use tokio::sync::oneshot;
use weft_model::{IpFamilies, IpFamily};

use crate::{
    config::{Config, nth},
    paths::LabPaths,
    underlay,
};

/// Makes the Service `kube-system/kube-dns` with the cluster's DNS addresses.
pub async fn bootstrap(client: &Client, config: &Config) -> Result<()> {
    let services: Api<Service> = Api::namespaced(client.clone(), "kube-system");
    let dns: Vec<String> = config.cluster_dns().iter().map(ToString::to_string).collect();
    let families: Vec<String> = config.ip_family.list().iter().map(ToString::to_string).collect();
    let policy = if families.len() > 1 { "RequireDualStack" } else { "SingleStack" };
    let service: Service = serde_json::from_value(json!({
        "metadata": {
            "name": "kube-dns",
            "labels": { "k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS" },
        },
        "spec": {
            "clusterIP": dns.first(), "clusterIPs": dns,
            "ipFamilies": families, "ipFamilyPolicy": policy,
            "ports": [
                { "name": "dns", "port": 53, "protocol": "UDP" },
                { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
            ],
        },
    }))
    .context("invariant: a Service")?;
    // Looked for first: creating it once more would be refused for its address, which is taken,
    // before anyone notices that it is there.
    let made = match services.get_opt("kube-dns").await {
        Ok(None) => services.create(&PostParams::default(), &service).await.map(drop),
        found => found.map(drop),
    };
    made.context("make Service kube-system/kube-dns")
}

/// Follows the nodes: keeps the endpoints of the DNS Service and the underlay's routes, and
/// says once that all are Ready.
pub async fn follow_nodes(
    client: Client,
    families: IpFamilies,
    wanted: usize,
    routes: Option<LabPaths>,
    all_ready: oneshot::Sender<()>,
) -> Result<()> {
    let mut all_ready = Some(all_ready);
    let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
    let mut published = BTreeMap::new();
    let mut routed: BTreeMap<IpNet, IpAddr> = BTreeMap::new();
    let watched = watcher(Api::<Node>::all(client.clone()), watcher::Config::default());
    let mut events = std::pin::pin!(watched.default_backoff());
    loop {
        match events.try_next().await {
            Ok(Some(watcher::Event::Apply(n) | watcher::Event::InitApply(n))) => {
                nodes.insert(n.metadata.name.clone().unwrap_or_default(), n);
            }
            Ok(Some(watcher::Event::Delete(n))) => {
                nodes.remove(n.metadata.name.as_deref().unwrap_or_default());
            }
            Ok(Some(watcher::Event::Init)) => nodes.clear(),
            Ok(Some(watcher::Event::InitDone)) => {}
            Ok(None) => anyhow::bail!("the watch of nodes ended"),
            // The watcher backs off and lists again by itself.
            Err(e) => tracing::warn!("watch nodes: {e}"),
        }
        for family in families.list() {
            let endpoints = dns_endpoints(&nodes, *family);
            if published.get(family) != Some(&endpoints) {
                match publish(&client, *family, &endpoints).await {
                    Ok(()) => drop(published.insert(*family, endpoints)),
                    // Tried again with the next event; nodes renew their status.
                    Err(e) => tracing::warn!("{e:#}"),
                }
            }
        }
        if let Some(paths) = &routes {
            for (pods, node) in pod_routes(&nodes) {
                if routed.get(&pods) != Some(&node) {
                    let p = paths.clone();
                    let route = move || underlay::route_pods(&p, pods, node);
                    match tokio::task::spawn_blocking(route).await? {
                        Ok(()) => drop(routed.insert(pods, node)),
                        // Any user may make a Node object with any address.
                        Err(e) => tracing::warn!("{e:#}"),
                    }
                }
            }
        }
        if nodes.values().filter(|n| is_ready(n)).count() >= wanted
            && let Some(tell) = all_ready.take()
        {
            // Nobody listens any more only if the lab is going down.
            let _ = tell.send(());
        }
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn pod_cidrs(node: &Node) -> impl Iterator<Item = IpNet> + '_ {
    let cidrs = node.spec.iter().flat_map(|s| s.pod_cidrs.iter().flatten());
    cidrs.filter_map(|c| c.parse().ok())
}

fn internal_ips(node: &Node) -> impl Iterator<Item = IpAddr> + '_ {
    let addresses = node.status.iter().flat_map(|s| s.addresses.iter().flatten());
    addresses.filter(|a| a.type_ == "InternalIP").filter_map(|a| a.address.parse().ok())
}

/// Node, zone, address and readiness of every node's DNS server of one family: it listens on
/// the node's router address, the first of its pod range.
fn dns_endpoints(
    nodes: &BTreeMap<String, Node>,
    family: IpFamily,
) -> Vec<(String, Option<String>, IpAddr, bool)> {
    let of_node = |(name, node): (&String, &Node)| {
        let net = pod_cidrs(node).find(|n| IpFamily::of(n.addr()) == family)?;
        let labels = node.metadata.labels.as_ref();
        let zone = labels.and_then(|l| l.get("topology.kubernetes.io/zone").cloned());
        // A range of one address, in a Node that somebody made, has no second one.
        (net.prefix_len() < family.host_bits())
            .then(|| (name.clone(), zone, nth(net, 1), is_ready(node)))
    };
    nodes.iter().filter_map(of_node).collect()
}

async fn publish(
    client: &Client,
    family: IpFamily,
    endpoints: &[(String, Option<String>, IpAddr, bool)],
) -> Result<()> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "kube-system");
    let name = format!("kube-dns-{}", family.to_string().to_lowercase());
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/service-name": "kube-dns",
                "endpointslice.kubernetes.io/managed-by": "weft.dev",
            },
        },
        "addressType": family.to_string(),
        "ports": [
            { "name": "dns", "port": 53, "protocol": "UDP" },
            { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
        ],
        "endpoints": endpoints.iter().map(|(node, zone, ip, ready)| json!({
            "addresses": [ip],
            "nodeName": node,
            "zone": zone,
            "conditions": { "ready": ready, "serving": ready, "terminating": false },
        })).collect::<Vec<_>>(),
    });
    let params = PatchParams::apply("weft-lab").force();
    slices
        .patch(&name, &params, &Patch::Apply(&slice))
        .await
        .with_context(|| format!("publish EndpointSlice kube-system/{name}"))?;
    Ok(())
}

/// Where the underlay's router sends each node's pod range: the node's address of the same
/// family.
fn pod_routes(nodes: &BTreeMap<String, Node>) -> Vec<(IpNet, IpAddr)> {
    nodes
        .values()
        .flat_map(|node| {
            pod_cidrs(node).filter_map(|net| {
                let ip = internal_ips(node).find(|ip| ip.is_ipv4() == net.addr().is_ipv4())?;
                Some((net, ip))
            })
        })
        .collect()
}
