//! The Node object and its lease.

use crate::cni::{self, Cni};
use crate::error::{Error, Result};
use crate::publish::now_seconds;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

/// Renewal of the lease (a quarter of Kubernetes' 40 s).
const LEASE_PERIOD: Duration = Duration::from_secs(10);
/// Life of the lease, in seconds.
const LEASE_SECONDS: i32 = 40;
/// The network is asked this often until it is ready.
const POLL_FAST: Duration = Duration::from_millis(20);
/// And this often afterwards.
const POLL_SLOW: Duration = Duration::from_secs(5);
/// While it fails after having been ready.
const POLL_RETRY: Duration = Duration::from_millis(200);
/// A node is not ready when the network has failed for so long.
const TOLERANCE: Duration = Duration::from_secs(5);
/// The status is written at least this often.
const REPORT: Duration = Duration::from_secs(60);
/// Pods that a node takes: what the addresses of an IPv4 /24 do (253: the network, the router and
/// the broadcast address are none), rounded down. Kubernetes' own 110 is for larger pods.
const PODS: u32 = 250;

/// Global addresses of `eth0` in this network namespace, IPv4 first.
pub fn addresses() -> Result<Vec<IpAddr>> {
    let list = nix::ifaddrs::getifaddrs()
        .map_err(|e| Error::Config(format!("addresses of this node: {e}")))?;
    let mut out: Vec<IpAddr> = list
        .filter(|i| i.interface_name == "eth0")
        .filter_map(|i| {
            let a = i.address?;
            let v4 = a.as_sockaddr_in().map(|s| IpAddr::V4(s.ip()));
            v4.or_else(|| a.as_sockaddr_in6().map(|s| IpAddr::V6(s.ip())))
        })
        .filter(|ip| match ip {
            IpAddr::V4(v) => !v.is_link_local(),
            IpAddr::V6(v) => !v.is_unicast_link_local(),
        })
        .collect();
    out.sort_by_key(IpAddr::is_ipv6);
    Ok(out)
}

/// Memory and processors of this machine, which every node of a lab offers whole.
pub fn resources() -> BTreeMap<String, String> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let memory = total.and_then(|l| l.split_whitespace().next()).unwrap_or("1048576");
    [
        ("cpu", cpus.to_string()),
        ("memory", format!("{memory}Ki")),
        ("pods", PODS.to_string()),
        ("ephemeral-storage", "100Gi".into()),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .into()
}

/// What the Node object says apart from conditions.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Name.
    pub name: String,
    /// Addresses, primary family first.
    pub ips: Vec<IpAddr>,
    /// Labels beyond the well-known ones.
    pub labels: Vec<(String, String)>,
    /// Capacity.
    pub resources: BTreeMap<String, String>,
}

/// `key=value` pairs.
pub fn labels(args: &[String]) -> Result<Vec<(String, String)>> {
    args.iter()
        .filter(|a| !a.is_empty())
        .map(|a| match a.split_once('=') {
            Some((k, v)) if !k.is_empty() => Ok((k.to_owned(), v.to_owned())),
            _ => Err(Error::Config(format!("--node-labels: {a:?} is not key=value"))),
        })
        .collect()
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn object(f: &Facts) -> Node {
    let mut labels: BTreeMap<String, String> = [
        ("kubernetes.io/hostname", f.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch()),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    labels.extend(f.labels.iter().cloned());
    Node {
        metadata: ObjectMeta {
            name: Some(f.name.clone()),
            labels: Some(labels),
            ..Default::default()
        },
        ..Default::default()
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The status, with `previous` for transition times.
fn status(f: &Facts, network: &Result<(), String>, previous: &NodeStatus) -> NodeStatus {
    let mut addresses: Vec<_> =
        f.ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
    addresses.push(json!({"type": "Hostname", "address": f.name}));
    let os = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let os = os.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    let version = concat!("v1.35.0-weft.", env!("CARGO_PKG_VERSION"));
    let mut out: NodeStatus = serde_json::from_value(json!({
        "addresses": addresses,
        "capacity": f.resources,
        "allocatable": f.resources,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "machineID": read("/etc/machine-id"),
            "systemUUID": "",
            "bootID": read("/proc/sys/kernel/random/boot_id"),
            "kernelVersion": read("/proc/sys/kernel/osrelease"),
            "osImage": os.unwrap_or("Linux").trim_matches('"'),
            "containerRuntimeVersion": concat!("weft://", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": version,
            "kubeProxyVersion": version,
            "operatingSystem": "linux",
            "architecture": arch(),
        },
    }))
    .expect("invariant: the status is made of constants and strings");
    let now = Time(now_seconds());
    let ok = |type_: &str, reason: &str, message: &str| {
        (type_.to_owned(), "False", reason.to_owned(), message.to_owned())
    };
    let ready = match network {
        Ok(()) => ("True", "KubeletReady", "kubelet is posting ready status".to_owned()),
        Err(m) => ("False", "KubeletNotReady", format!("network is not ready: {m}")),
    };
    let own = [
        ok(
            "MemoryPressure",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        ok("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ok("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready".to_owned(), ready.0, ready.1.to_owned(), ready.2),
    ];
    let old = previous.conditions.as_deref().unwrap_or_default();
    let mut conditions: Vec<NodeCondition> = own
        .into_iter()
        .map(|(type_, status, reason, message)| {
            let before = old.iter().find(|c| c.type_ == type_ && c.status == status);
            NodeCondition {
                last_transition_time: before
                    .and_then(|c| c.last_transition_time.clone())
                    .or_else(|| Some(now.clone())),
                last_heartbeat_time: Some(now.clone()),
                type_,
                status: status.into(),
                reason: Some(reason),
                message: Some(message),
            }
        })
        .collect();
    let foreign = old.iter().filter(|c| !conditions.iter().any(|o| o.type_ == c.type_)).cloned();
    let foreign: Vec<_> = foreign.collect();
    conditions.extend(foreign);
    out.conditions = Some(conditions);
    out
}

async fn register(api: &Api<Node>, f: &Facts) -> kube::Result<NodeStatus> {
    let node = object(f);
    match api.create(&PostParams::default(), &node).await {
        Ok(n) => return Ok(n.status.unwrap_or_default()),
        Err(kube::Error::Api(s)) if s.code == 409 => {}
        Err(e) => return Err(e),
    }
    let body = json!({"metadata": {"labels": node.metadata.labels}});
    let n = api.patch(&f.name, &PatchParams::default(), &Patch::Merge(&body)).await?;
    Ok(n.status.unwrap_or_default())
}

/// Whether pods can have a network: configured, and the plugins answer.
async fn network(cni: &Cni) -> Result<(), String> {
    let list = cni::load(&cni.conf).await.map_err(|e| e.to_string())?;
    cni.status(&list).await.map_err(|e| e.to_string())
}

/// Keeps the Node object true, for ever.
pub async fn run(client: kube::Client, facts: Facts, cni: Cni) {
    let api: Api<Node> = Api::all(client);
    let mut previous = loop {
        match register(&api, &facts).await {
            Ok(s) => break s,
            Err(e) => tracing::warn!("registering the node: {e}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let mut reported: Option<(Result<(), String>, Instant)> = None;
    let mut failing: Option<Instant> = None;
    loop {
        let mut state = network(&cni).await;
        // An agent that starts again is away for moments: no reason to move pods.
        failing = if state.is_ok() { None } else { failing.or_else(|| Some(Instant::now())) };
        let was_ready = reported.as_ref().is_some_and(|(s, _)| s.is_ok());
        if was_ready && failing.is_some_and(|since| since.elapsed() < TOLERANCE) {
            state = Ok(());
        }
        let due = match &reported {
            None => true,
            Some((s, at)) => s.is_ok() != state.is_ok() || at.elapsed() > REPORT,
        };
        if due {
            let status = status(&facts, &state, &previous);
            let body = json!({"status": status});
            match api.patch_status(&facts.name, &PatchParams::default(), &Patch::Merge(&body)).await
            {
                Ok(n) => {
                    previous = n.status.unwrap_or(status);
                    if state.is_ok() {
                        tracing::info!("node is ready");
                    }
                    reported = Some((state.clone(), Instant::now()));
                }
                Err(kube::Error::Api(s)) if s.code == 404 => {
                    tracing::warn!("the node was deleted: registering again");
                    if let Ok(s) = register(&api, &facts).await {
                        previous = s;
                    }
                }
                Err(e) => tracing::warn!("node status: {e}"),
            }
        }
        let settled = state.is_ok() && reported.as_ref().is_some_and(|(s, _)| s.is_ok());
        let pause = match (settled, failing) {
            (_, Some(_)) if was_ready => POLL_RETRY,
            (true, _) => POLL_SLOW,
            (false, _) => POLL_FAST,
        };
        tokio::time::sleep(pause).await;
    }
}

/// Renews the node's lease, for ever.
pub async fn lease(client: kube::Client, name: String) {
    let api: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    let mut known = false;
    loop {
        let spec = LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..Default::default()
        };
        let result = if known {
            let body = json!({"spec": spec});
            api.patch(&name, &PatchParams::default(), &Patch::Merge(&body)).await.map(drop)
        } else {
            let metadata = ObjectMeta { name: Some(name.clone()), ..Default::default() };
            let lease = Lease { metadata, spec: Some(spec) };
            match api.create(&PostParams::default(), &lease).await {
                Err(kube::Error::Api(s)) if s.code == 409 => {
                    known = true;
                    continue;
                }
                r => r.map(drop),
            }
        };
        match result {
            Ok(()) => known = true,
            Err(e) => {
                tracing::debug!("lease: {e}");
                known &= !matches!(&e, kube::Error::Api(s) if s.code == 404);
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        }
        tokio::time::sleep(LEASE_PERIOD).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pod_of_a_node_gets_an_address() {
        let pods: u32 = resources()["pods"].parse().unwrap();
        assert!((110..=253).contains(&pods), "{pods}");
    }

    #[test]
    fn node_labels_are_pairs() {
        let ok = labels(&["a=b".into(), String::new(), "c=".into()]).unwrap();
        assert_eq!(ok, [("a".to_owned(), "b".to_owned()), ("c".to_owned(), String::new())]);
        assert!(labels(&["zone".into()]).is_err());
    }

    #[test]
    fn a_transition_keeps_its_time_and_foreign_conditions_stay() {
        let f = Facts {
            name: "n1".into(),
            ips: vec!["172.30.1.10".parse().unwrap(), "fd00::10".parse().unwrap()],
            labels: Vec::new(),
            resources: resources(),
        };
        let mut first = status(&f, &Err("no configuration".into()), &NodeStatus::default());
        let long_ago = Time(Timestamp::from_second(1000).unwrap());
        for c in first.conditions.iter_mut().flatten() {
            c.last_transition_time = Some(long_ago.clone());
        }
        first.conditions.as_mut().unwrap().push(NodeCondition {
            type_: "NetworkUnavailable".into(),
            status: "False".into(),
            ..Default::default()
        });
        let second = status(&f, &Ok(()), &first);
        let get = |t: &str| {
            second.conditions.as_ref().unwrap().iter().find(|c| c.type_ == t).unwrap().clone()
        };
        assert_eq!(get("Ready").status, "True");
        assert_ne!(get("Ready").last_transition_time.unwrap(), long_ago);
        assert_eq!(get("DiskPressure").last_transition_time.unwrap(), long_ago);
        assert_eq!(get("NetworkUnavailable").status, "False");
        let a: Vec<_> = second.addresses.unwrap().into_iter().map(|a| a.address).collect();
        assert_eq!(a, ["172.30.1.10", "fd00::10", "n1"]);
    }
}
