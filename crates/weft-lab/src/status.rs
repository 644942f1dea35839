//! `weft lab status`.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, api::ListParams};
use serde::Serialize;
use std::fmt::Write as _;

use crate::{cli, paths::LabPaths, state::LabState};

/// A lab's state; the JSON of `-o json`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The supervisor lives and every node is Ready.
    pub ok: bool,
    /// Name of the lab.
    pub name: String,
    /// Whether its supervisor lives.
    pub running: bool,
    /// `vxlan` or `native`.
    pub network: String,
    /// `ipv4`, `ipv6` or `dual`.
    pub ip_family: String,
    /// Path of the kubeconfig.
    pub kubeconfig: String,
    /// Milliseconds from `up` to ready.
    pub ready_after_ms: Option<u64>,
    /// The nodes.
    pub nodes: Vec<NodeStatus>,
    /// The pods.
    pub pods: Vec<PodStatus>,
}

/// A node.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Condition Ready.
    pub ready: bool,
    /// Its zone.
    pub zone: String,
    /// `InternalIP` addresses.
    pub addresses: Vec<String>,
    /// Pod ranges.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
}

/// A pod.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID; names the pod's directory and cgroup.
    pub uid: String,
    /// Its node, once scheduled.
    pub node: String,
    /// Phase.
    pub phase: String,
    /// Condition Ready.
    pub ready: bool,
    /// Addresses.
    pub ips: Vec<String>,
    /// Containers that run a stand-in for their image's program.
    pub stand_ins: Vec<String>,
}

/// imageID of a container that runs a stand-in.
const STAND_IN: &str = "weft://stand-in";

/// Reads a lab's state.
pub async fn status(paths: &LabPaths) -> Result<Status> {
    let state = LabState::read(paths)?.context("the lab has gone")?;
    let running = state.running();
    let (mut nodes, mut pods) = (Vec::new(), Vec::new());
    if running {
        let client = cli::client(paths).await?;
        let all = ListParams::default();
        let nodes_api: Api<Node> = Api::all(client.clone());
        let pods_api: Api<Pod> = Api::all(client);
        let lists = tokio::try_join!(nodes_api.list(&all), pods_api.list(&all));
        let (n, p) = lists.context("read the lab's API")?;
        nodes = n.items.iter().map(node_status).collect();
        pods = p.items.iter().map(pod_status).collect();
    }
    Ok(Status {
        ok: running && !nodes.is_empty() && nodes.iter().all(|n| n.ready),
        name: paths.name().to_string(),
        running,
        network: state.config.network.as_str().to_owned(),
        ip_family: state.config.ip_family.to_string(),
        kubeconfig: paths.kubeconfig().display().to_string(),
        ready_after_ms: state.ready_after_ms,
        nodes,
        pods,
    })
}

fn node_status(node: &Node) -> NodeStatus {
    let labels = node.metadata.labels.as_ref();
    let status = node.status.as_ref();
    NodeStatus {
        name: node.metadata.name.clone().unwrap_or_default(),
        ready: status
            .into_iter()
            .flat_map(|s| s.conditions.iter().flatten())
            .any(|c| c.type_ == "Ready" && c.status == "True"),
        zone: labels
            .and_then(|l| l.get("topology.kubernetes.io/zone").cloned())
            .unwrap_or_default(),
        addresses: status
            .into_iter()
            .flat_map(|s| s.addresses.iter().flatten())
            .filter(|a| a.type_ == "InternalIP")
            .map(|a| a.address.clone())
            .collect(),
        pod_cidrs: node.spec.iter().flat_map(|s| s.pod_cidrs.clone().unwrap_or_default()).collect(),
    }
}

fn pod_status(pod: &Pod) -> PodStatus {
    let status = pod.status.as_ref();
    let containers = || status.into_iter().flat_map(|s| s.container_statuses.iter().flatten());
    PodStatus {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default(),
        phase: status.and_then(|s| s.phase.clone()).unwrap_or_default(),
        ready: status
            .into_iter()
            .flat_map(|s| s.conditions.iter().flatten())
            .any(|c| c.type_ == "Ready" && c.status == "True"),
        ips: status
            .into_iter()
            .flat_map(|s| s.pod_ips.iter().flatten())
            .map(|ip| ip.ip.clone())
            .collect(),
        stand_ins: containers()
            .filter(|c| c.image_id == STAND_IN)
            .map(|c| c.name.clone())
            .collect(),
    }
}

impl Status {
    /// For people.
    pub fn render(&self) -> String {
        let mut out = String::new();
        let state = if self.running {
            "running"
        } else {
            "stopped (its supervisor has died: `weft lab up` revives it)"
        };
        let _ = writeln!(
            out,
            "lab {}: {state}, network {}, {}",
            self.name, self.network, self.ip_family
        );
        let _ = writeln!(out, "kubeconfig {}", self.kubeconfig);
        if self.nodes.is_empty() {
            return out;
        }
        let _ = writeln!(
            out,
            "\n{:<10} {:<6} {:<8} {:<32} POD CIDRS",
            "NODE", "READY", "ZONE", "ADDRESSES"
        );
        for n in &self.nodes {
            let _ = writeln!(
                out,
                "{:<10} {:<6} {:<8} {:<32} {}",
                n.name,
                if n.ready { "yes" } else { "no" },
                n.zone,
                n.addresses.join(","),
                n.pod_cidrs.join(",")
            );
        }
        if self.pods.is_empty() {
            return out;
        }
        let id = |p: &PodStatus| format!("{}/{}", p.namespace, p.name);
        let width = self.pods.iter().map(|p| id(p).len()).max().unwrap_or(0).max(3);
        let _ = writeln!(
            out,
            "\n{:width$} {:<10} {:<10} {:<6} {:<36} STAND-INS",
            "POD", "NODE", "PHASE", "READY", "ADDRESSES"
        );
        for p in &self.pods {
            let _ = writeln!(
                out,
                "{:width$} {:<10} {:<10} {:<6} {:<36} {}",
                id(p),
                p.node,
                p.phase,
                if p.ready { "yes" } else { "no" },
                p.ips.join(","),
                p.stand_ins.join(",")
            );
        }
        out
    }
}
