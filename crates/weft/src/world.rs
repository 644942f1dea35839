//! A cluster as `weft-explain` wants it, read from the API once.

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use k8s_openapi::api::{
    core::v1::{Container, Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
    networking::v1::{NetworkPolicy, ServiceCIDR},
};
use kube::{Api, api::ListParams};
use serde::de::DeserializeOwned;
use std::{collections::BTreeMap, net::IpAddr, path::Path, sync::Arc};
use weft_explain::{HostPort, Setup, World};
use weft_kube::{
    cluster_policy::ClusterNetworkPolicy,
    lower::{self, Lowered},
};
use weft_model::{NamespacedName, Port, Protocol, Snapshot};
use weft_policy::PolicyInput;

/// Annotation of a pod whose sockets are left alone with the value `disabled`.
const SOCKET_LB: &str = "weft.dev/socket-lb";
/// Service ranges where a cluster has no ServiceCIDR objects (Kubernetes before 1.33): the
/// agents have to be told theirs as well.
const SERVICE_CIDRS: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];

async fn list<K>(client: &kube::Client, what: &str) -> Result<Vec<K>>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let all = Api::<K>::all(client.clone()).list(&ListParams::default()).await;
    Ok(all.with_context(|| format!("cannot list {what}"))?.items)
}

/// As [`list`], for a kind that a cluster may not serve; `None` where it does not.
async fn list_if_served<K>(client: &kube::Client, what: &str) -> Result<Option<Vec<K>>>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    match Api::<K>::all(client.clone()).list(&ListParams::default()).await {
        Ok(all) => Ok(Some(all.items)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot list {what}")),
    }
}

/// Everything that policy is about, as the API has it.
struct Objects {
    nodes: Vec<Node>,
    pods: Vec<Pod>,
    network_policies: Vec<NetworkPolicy>,
    cluster_policies: Vec<ClusterNetworkPolicy>,
}

/// A client for the cluster of a kubeconfig.
pub(crate) async fn client(path: &Path) -> Result<kube::Client> {
    let kubeconfig = kube::config::Kubeconfig::read_from(path)
        .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .with_context(|| format!("cannot use the kubeconfig {}", path.display()))?;
    kube::Client::try_from(config).context("cannot build the API client")
}

/// Reads the cluster.
pub(crate) async fn read(path: &Path, mut setup: Setup) -> Result<World> {
    let client = client(path).await?;
    let (namespaces, nodes, services, slices, pods, network_policies, cluster_policies, cidrs) = tokio::try_join!(
        list::<Namespace>(&client, "namespaces"),
        list::<Node>(&client, "nodes"),
        list::<Service>(&client, "services"),
        list::<EndpointSlice>(&client, "endpointslices"),
        list::<Pod>(&client, "pods"),
        list::<NetworkPolicy>(&client, "networkpolicies"),
        list_if_served::<ClusterNetworkPolicy>(&client, "clusternetworkpolicies"),
        list_if_served::<ServiceCIDR>(&client, "servicecidrs"),
    )?;
    if nodes.is_empty() {
        bail!("the cluster has no nodes yet");
    }
    if setup.service_cidrs.is_empty() {
        setup.service_cidrs = service_cidrs(cidrs.as_deref());
    }
    let mut world = World {
        snapshot: Snapshot { generation: 1, ..Snapshot::default() },
        pods: BTreeMap::new(),
        policy: PolicyInput::default(),
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
    let cluster_policies = cluster_policies.unwrap_or_default();
    let objects = Objects { nodes, pods, network_policies, cluster_policies };
    world.policy = policy_input(&objects, &world.snapshot);
    Ok(world)
}

/// The ranges of the ServiceCIDR objects, as the agents read them.
fn service_cidrs(objects: Option<&[ServiceCIDR]>) -> Vec<IpNet> {
    let Some(objects) = objects else {
        return SERVICE_CIDRS.iter().filter_map(|c| c.parse().ok()).collect();
    };
    let all = objects.iter().filter_map(|o| o.spec.as_ref()?.cidrs.as_ref()).flatten();
    let mut all: Vec<IpNet> = all.filter_map(|c| c.parse().ok()).collect();
    all.sort();
    all.dedup();
    all
}

/// What policy depends on. What cannot be read is left out or closes, as on the nodes.
fn policy_input(objects: &Objects, snapshot: &Snapshot) -> PolicyInput {
    let mut input = PolicyInput {
        generation: snapshot.generation,
        namespaces: snapshot.namespaces.clone(),
        ..PolicyInput::default()
    };
    for mut peer in objects.nodes.iter().filter_map(|n| lower::node_peer(n).value) {
        // A node is known by its router addresses, too, as the agents have it.
        let cidrs = snapshot.nodes.get(&peer.name).into_iter().flat_map(|n| &n.pod_cidrs);
        peer.addresses.extend(cidrs.filter_map(|c| weft_fabric::router_address(*c)));
        input.nodes.insert(peer.name.clone(), Arc::new(peer));
    }
    for object in &objects.pods {
        let lowered = lower::pod(object).value;
        input.pods.extend(lowered.map(|p| (p.id.clone(), Arc::new(p))));
    }
    for object in &objects.network_policies {
        let lowered = lower::network_policy(object).value;
        input.network_policies.extend(lowered.map(|p| (p.id.clone(), Arc::new(p))));
    }
    for object in &objects.cluster_policies {
        let lowered = lower::cluster_network_policy(object).value;
        input.cluster_policies.extend(lowered.map(|p| (p.name.clone(), Arc::new(p))));
    }
    let dns = snapshot.services.get(&NamespacedName::new("kube-system", "kube-dns"));
    input.dns.extend(dns.into_iter().flat_map(|s| &s.cluster_ips));
    input
}

fn pod_of(pod: &Pod) -> weft_explain::Pod {
    let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
    let node = spec.and_then(|s| s.node_name.as_deref());
    let ips = status.and_then(|s| s.pod_ips.as_ref()).into_iter().flatten();
    let host_network = spec.and_then(|s| s.host_network).unwrap_or(false);
    let annotations = pod.metadata.annotations.as_ref();
    let containers = spec.into_iter().flat_map(|s| {
        let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
        s.containers.iter().chain(s.init_containers.iter().flatten().filter(sidecar))
    });
    weft_explain::Pod {
        id: lower::id_of(&pod.metadata),
        node: node.and_then(|n| n.parse().ok()),
        ips: ips.filter_map(|a| a.ip.parse().ok()).collect(),
        host_network,
        phase: status.and_then(|s| s.phase.clone()).unwrap_or_else(|| "Pending".to_owned()),
        opted_out: annotations.and_then(|a| a.get(SOCKET_LB)).is_some_and(|v| v == "disabled"),
        // In the host's network a container has the port itself.
        host_ports: containers.filter(|_| !host_network).flat_map(host_ports).collect(),
    }
}

/// The host ports of a container; what the API would refuse is left out.
fn host_ports(container: &Container) -> impl Iterator<Item = HostPort> + '_ {
    container.ports.iter().flatten().filter_map(|p| {
        let address = p.host_ip.as_deref().and_then(|t| t.parse::<IpAddr>().ok());
        Some(HostPort {
            host_ip: address.filter(|a| !a.is_unspecified()),
            host_port: Port::try_from(p.host_port.filter(|n| *n != 0)?).ok()?,
            container_port: Port::try_from(p.container_port).ok()?,
            protocol: p.protocol.as_deref().map_or(Ok(Protocol::Tcp), str::parse).ok()?,
            name: p.name.clone().unwrap_or_default(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_tell_what_leads_to_them() {
        let pod = |spec: serde_json::Value, annotations: serde_json::Value| {
            let object = json!({
                "metadata": {"namespace": "shop", "name": "web", "annotations": annotations},
                "spec": spec,
                "status": {"podIPs": [{"ip": "10.244.1.2"}], "phase": "Running"},
            });
            pod_of(&serde_json::from_value(object).expect("a pod"))
        };
        let ports = json!([
            {"containerPort": 80, "hostPort": 8080, "name": "http"},
            {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "192.0.2.1"},
            {"containerPort": 81, "hostPort": 81, "hostIP": "0.0.0.0"},
            {"containerPort": 90},
        ]);
        let plain = json!({"name": "c", "ports": [{"containerPort": 1, "hostPort": 1}]});
        let sidecar = json!({"name": "s", "restartPolicy": "Always",
                             "ports": [{"containerPort": 2, "hostPort": 2}]});
        let spec = json!({"containers": [{"name": "c", "ports": ports}],
                          "initContainers": [plain, sidecar]});
        let got = pod(spec.clone(), json!({"weft.dev/socket-lb": "disabled"}));
        assert!(got.opted_out);
        let told: Vec<String> = got
            .host_ports
            .iter()
            .map(|h| format!("{:?} {} {} {}", h.host_ip, h.host_port, h.container_port, h.protocol))
            .collect();
        assert_eq!(
            told,
            ["None 8080 80 TCP", "Some(192.0.2.1) 53 53 UDP", "None 81 81 TCP", "None 2 2 TCP"]
        );
        let mut host = spec;
        host["hostNetwork"] = json!(true);
        let got = pod(host, json!({"weft.dev/socket-lb": "enabled"}));
        assert!(got.host_ports.is_empty() && !got.opted_out);
    }

    #[test]
    fn ranges_come_from_the_cluster() {
        let object = |name: &str, cidrs: &[&str]| -> ServiceCIDR {
            let object = json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}});
            serde_json::from_value(object).expect("a ServiceCIDR")
        };
        let all = [object("b", &["10.97.0.0/16"]), object("a", &["10.96.0.0/16", "fd00::/112"])];
        let texts: Vec<String> =
            service_cidrs(Some(&all)).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.96.0.0/16", "10.97.0.0/16", "fd00::/112"]);
        assert_eq!(service_cidrs(None).len(), 2);
        assert!(service_cidrs(Some(&[])).is_empty());
    }
}
