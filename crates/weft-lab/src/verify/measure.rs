//! Sends the packets.

use anyhow::{Context, Result};
use std::{collections::BTreeMap, net::IpAddr, net::SocketAddr, path::PathBuf};
use weft_model::IpFamily;

use super::{
    gather::{Cluster, PodAt},
    report::Check,
};
use crate::{
    nodes::Place,
    paths::LabPaths,
    probe::{Dialled, Probe, Target},
    proc::{CgroupMounts, cgroup_pids},
};

/// A probe in a pod, and where it listens.
struct Stand<'a> {
    pod: &'a PodAt,
    probe: Probe,
    ports: BTreeMap<IpAddr, u16>,
}

impl Stand<'_> {
    fn listens_at(&self) -> Vec<SocketAddr> {
        let at = |ip: &IpAddr| Some(SocketAddr::new(*ip, *self.ports.get(ip)?));
        self.pod.ips.iter().filter_map(at).collect()
    }
}

/// Runs every check. A probe that cannot be started is an error: nothing can be said then.
pub fn measure(paths: &LabPaths, cluster: &Cluster) -> Result<Vec<Check>> {
    let outcome = measure_all(paths, cluster);
    remove_probe_cgroups(paths, cluster);
    outcome
}

fn measure_all(paths: &LabPaths, cluster: &Cluster) -> Result<Vec<Check>> {
    let mut stands = Vec::new();
    // A pod may have ended since it was listed.
    for pod in cluster.pods.iter().filter(|p| p.place.netns.exists()) {
        let mut probe = Probe::start(&pod.place)?;
        let ports = probe
            .listen(pod.ips.clone())
            .with_context(|| format!("listen on the addresses of pod {}", pod.id))?;
        stands.push(Stand { pod, probe, ports });
    }
    let mut nodes = BTreeMap::new();
    for name in cluster.nodes.keys() {
        let place = Place {
            netns: paths.netns(name),
            cgroup: Some(paths.node_cgroup(name).join("system/verify")),
        };
        nodes.insert(name.as_str(), Probe::start(&place)?);
    }
    let mut checks = pod_to_pod(cluster, &mut stands)?;
    checks.extend(node_to_local_pod(cluster, &mut nodes, &stands)?);
    checks.extend(localhost(cluster)?);
    checks.extend(services(cluster, &mut nodes, &mut stands)?);
    Ok(checks)
}

fn check(
    name: &'static str,
    from: &str,
    to: String,
    family: IpFamily,
    allowed: &[IpAddr],
    dialled: &Dialled,
) -> Check {
    let expected = match allowed {
        [] => "an answer".to_owned(),
        ips => ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "),
    };
    let (observed, reason) = match (&dialled.error, dialled.seen_as) {
        (Some(e), _) => ("nothing".to_owned(), e.clone()),
        (None, Some(ip)) if allowed.is_empty() || allowed.contains(&ip) => {
            (ip.to_string(), String::new())
        }
        (None, Some(ip)) => {
            (ip.to_string(), "the receiver sees another address than the sender's".to_owned())
        }
        (None, None) => ("connected".to_owned(), String::new()),
    };
    Check {
        name,
        from: from.to_owned(),
        to,
        family: family.to_string(),
        ok: reason.is_empty(),
        observed,
        expected,
        reason,
    }
}

fn pod_to_pod(cluster: &Cluster, stands: &mut [Stand<'_>]) -> Result<Vec<Check>> {
    let receivers: Vec<(String, String, Vec<SocketAddr>)> =
        stands.iter().map(|s| (s.pod.id.clone(), s.pod.node.clone(), s.listens_at())).collect();
    let mut checks = Vec::new();
    for stand in stands {
        let mut labels = Vec::new();
        let mut targets = Vec::new();
        for (id, node, addresses) in &receivers {
            for to in addresses {
                labels.push((id.clone(), node.clone()));
                targets.push(Target { to: *to, told: true });
            }
        }
        let results = stand.probe.dial(targets.clone())?;
        for (((to, node), target), dialled) in labels.into_iter().zip(&targets).zip(&results) {
            let family = IpFamily::of(target.to.ip());
            let allowed = sources(cluster, stand.pod, &node, family);
            checks.push(check("pod-to-pod", &stand.pod.id, to, family, &allowed, dialled));
        }
    }
    Ok(checks)
}

/// Addresses that a pod's traffic may bear: its own, and nothing else. A hostNetwork pod is
/// the node: the node's address, or its router address where a tunnel carries the packet.
fn sources(cluster: &Cluster, pod: &PodAt, to_node: &str, family: IpFamily) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = pod.ips.clone();
    if pod.host_network {
        ips.extend(cluster.nodes.get(&pod.node).into_iter().flatten());
        if to_node == pod.node {
            // Within the node's own namespace the kernel may choose the target's address.
            ips.extend(
                cluster
                    .pods
                    .iter()
                    .filter(|p| p.node == to_node && p.host_network)
                    .flat_map(|p| &p.ips),
            );
        }
    }
    ips.retain(|ip| IpFamily::of(*ip) == family);
    ips.sort();
    ips.dedup();
    ips
}

fn node_to_local_pod(
    cluster: &Cluster,
    nodes: &mut BTreeMap<&str, Probe>,
    stands: &[Stand<'_>],
) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for (node, probe) in nodes {
        let local = stands.iter().filter(|s| s.pod.node == **node && !s.pod.host_network);
        let (mut ids, mut targets) = (Vec::new(), Vec::new());
        for stand in local {
            for to in stand.listens_at() {
                ids.push(stand.pod.id.clone());
                targets.push(Target { to, told: true });
            }
        }
        let results = probe.dial(targets.clone())?;
        for ((id, target), dialled) in ids.into_iter().zip(&targets).zip(&results) {
            let family = IpFamily::of(target.to.ip());
            let mut own = cluster.nodes.get(*node).cloned().unwrap_or_default();
            own.retain(|ip| IpFamily::of(*ip) == family);
            let from = format!("node/{node}");
            checks.push(check("node-to-local-pod", &from, id, family, &own, dialled));
        }
    }
    Ok(checks)
}

/// Containers of one pod over localhost: from the first one's namespace to each other one's,
/// both found through the containers' own processes.
fn localhost(cluster: &Cluster) -> Result<Vec<Check>> {
    let mounts = CgroupMounts::find()?;
    let mut checks = Vec::new();
    for pod in cluster.pods.iter().filter(|p| p.containers.len() > 1) {
        let place = |container: &str| -> Option<Place> {
            let cgroup = pod.place.cgroup.as_ref()?.parent()?.join(container);
            let pid = *cgroup_pids(&mounts.unified.join(&cgroup)).last()?;
            let netns = PathBuf::from(format!("/proc/{pid}/ns/net"));
            Some(Place { netns, cgroup: pod.place.cgroup.clone() })
        };
        let Some(first) = pod.containers.first().and_then(|c| place(c)) else { continue };
        let mut sender = Probe::start(&first)?;
        for other in &pod.containers[1..] {
            let Some(there) = place(other) else { continue };
            let mut receiver = Probe::start(&there)?;
            let loopbacks: Vec<IpAddr> = pod.ips.iter().map(|ip| loopback(*ip)).collect();
            for (ip, port) in receiver.listen(loopbacks)? {
                let target = Target { to: SocketAddr::new(ip, port), told: true };
                let results = sender.dial(vec![target])?;
                let dialled = results.first().context("invariant: one result a target")?;
                let from = format!("{} {}", pod.id, pod.containers[0]);
                checks.push(check(
                    "localhost",
                    &from,
                    other.clone(),
                    IpFamily::of(ip),
                    &[ip],
                    dialled,
                ));
            }
        }
    }
    Ok(checks)
}

fn loopback(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    }
}

/// Every Service by its DNS name: from each node, and from one pod on each node.
fn services(
    cluster: &Cluster,
    nodes: &mut BTreeMap<&str, Probe>,
    stands: &mut [Stand<'_>],
) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for (node, probe) in nodes.iter_mut() {
        checks.extend(services_from(cluster, &format!("node/{node}"), probe)?);
    }
    for node in cluster.nodes.keys() {
        let on_node = |s: &&mut Stand<'_>| s.pod.node == *node && !s.pod.host_network;
        if let Some(stand) = stands.iter_mut().find(on_node) {
            checks.extend(services_from(cluster, &stand.pod.id, &mut stand.probe)?);
        }
    }
    Ok(checks)
}

fn services_from(cluster: &Cluster, from: &str, probe: &mut Probe) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for service in &cluster.services {
        for ip in &service.ips {
            let family = IpFamily::of(*ip);
            let found = probe.resolve(cluster.dns.clone(), service.dns_name.clone(), family);
            let addresses = match found {
                Ok(found) if found == [*ip] => found,
                other => {
                    let failed = Dialled {
                        seen_as: None,
                        error: Some(match other {
                            Ok(found) => format!("the name resolves to {found:?}, not to {ip}"),
                            Err(e) => format!("the name does not resolve: {e:#}"),
                        }),
                    };
                    let to = service.dns_name.clone();
                    checks.push(check("service-by-name", from, to, family, &[*ip], &failed));
                    continue;
                }
            };
            let targets: Vec<Target> = addresses
                .iter()
                .flat_map(|ip| service.ports.iter().map(|p| SocketAddr::new(*ip, *p)))
                .map(|to| Target { to, told: false })
                .collect();
            let results = probe.dial(targets.clone())?;
            for (target, dialled) in targets.iter().zip(&results) {
                let to = format!("{}:{}", service.dns_name, target.to.port());
                checks.push(check("service-by-name", from, to, family, &[], dialled));
            }
        }
    }
    Ok(checks)
}

fn remove_probe_cgroups(paths: &LabPaths, cluster: &Cluster) {
    let Ok(mounts) = CgroupMounts::find() else { return };
    let pods = cluster.pods.iter().filter_map(|p| p.place.cgroup.clone());
    let nodes = cluster.nodes.keys().map(|n| paths.node_cgroup(n).join("system/verify"));
    for dir in pods.chain(nodes).flat_map(|c| mounts.all(&c)) {
        // Best effort: an empty cgroup that stays is removed with its pod.
        let _ = std::fs::remove_dir(dir);
    }
}
