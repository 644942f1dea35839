//! The specification, read a second time and as plainly as possible: written from the API's own
//! documentation, on the objects as the API spells them, without anything of the crate's.
//! Quotations are from the documentation of the fields.

use crate::generate::{Cluster, annotated};
use serde_json::Value;
use std::net::IpAddr;
use weft_policy::{Flow, Transport};

/// For the source's side and the destination's: whether it allows a flow, and whether it does so
/// only because policies are in audit mode. That is: without the annotations it would not.
pub fn judged(cluster: &Cluster, flow: &Flow) -> [(bool, bool); 2] {
    let real = allowed(cluster, flow);
    let enforced = allowed_by(cluster, flow, false);
    [(real.0, real.0 && !enforced.0), (real.1, real.1 && !enforced.1)]
}

/// Whether the source's side and the destination's side allow a flow.
pub fn allowed(cluster: &Cluster, flow: &Flow) -> (bool, bool) {
    allowed_by(cluster, flow, true)
}

/// Whether a policy is in audit mode; that of a namespace is that of its NetworkPolicies.
fn audited(cluster: &Cluster, policy: &Value) -> bool {
    let namespace = policy["metadata"]["namespace"].as_str();
    let namespace = namespace.and_then(|n| named(&cluster.namespaces, n));
    annotated(policy) || namespace.is_some_and(annotated)
}

fn allowed_by(cluster: &Cluster, flow: &Flow, audit: bool) -> (bool, bool) {
    let from_a_node = flow.from_node.as_ref().map(|n| n.as_str());
    let source = if from_a_node.is_some() { None } else { pod_at(cluster, flow.source) };
    let destination = pod_at(cluster, flow.destination);
    let itself = match (source, destination) {
        (Some(a), Some(b)) => a["metadata"]["name"] == b["metadata"]["name"],
        _ => false,
    };
    // "A Pod connecting to its own Pod IP is not subject to CNP", and "a Pod cannot block access
    // to itself".
    if itself && !flow.through_service {
        return (true, true);
    }
    let egress = source.is_none_or(|pod| side(cluster, flow, pod, "egress", itself, audit));
    // "OR if the traffic source is the pod's local node"
    let ingress = destination.is_none_or(|pod| {
        let local = from_a_node.is_some() && pod["spec"]["nodeName"].as_str() == from_a_node;
        local || side(cluster, flow, pod, "ingress", itself, audit)
    });
    (egress, ingress)
}

/// What the policies of one pod say, tier after tier.
fn side(
    cluster: &Cluster,
    flow: &Flow,
    pod: &Value,
    direction: &str,
    itself: bool,
    audit: bool,
) -> bool {
    match tier(cluster, flow, pod, direction, "Admin", audit) {
        Some("Accept") => return true,
        Some("Deny") => return false,
        _ => {}
    }
    let selecting: Vec<&Value> =
        cluster.network_policies.iter().filter(|np| isolates(np, pod, direction)).collect();
    if !selecting.is_empty() {
        // "traffic to and from the node where a Pod is running is always allowed"
        let own_node = direction == "egress"
            && !cluster.dns.contains(&flow.destination)
            && pod_at(cluster, flow.destination).is_none()
            && node_at(cluster, flow.destination)
                .is_some_and(|n| n["metadata"]["name"] == pod["spec"]["nodeName"]);
        // "a pod cannot block access to itself"
        let allowed = itself
            || own_node
            || selecting.iter().any(|np| {
                let rules = np["spec"][direction].as_array();
                rules.into_iter().flatten().any(|rule| {
                    let peers = if direction == "egress" { &rule["to"] } else { &rule["from"] };
                    // "If this field is empty or missing, this rule matches all".
                    let by_peer = empty(peers)
                        || list(peers).any(|p| network_peer(cluster, flow, np, p, direction));
                    let by_port = empty(&rule["ports"])
                        || list(&rule["ports"]).any(|p| network_port(cluster, flow, p));
                    by_peer && by_port
                })
            });
        // In audit mode a policy allows, but does not isolate.
        let isolated = selecting.iter().any(|np| !audit || !audited(cluster, np));
        if allowed || isolated {
            return allowed;
        }
    }
    // "If a given connection wasn't allowed or denied by any of the tiers, the default kubernetes
    // policy is applied, which says that all pods can communicate with each other."
    tier(cluster, flow, pod, direction, "Baseline", audit) != Some("Deny")
}

/// What the rules of a tier do with the flow.
fn tier<'c>(
    cluster: &'c Cluster,
    flow: &Flow,
    pod: &Value,
    direction: &str,
    tier: &str,
    audit: bool,
) -> Option<&'c str> {
    let of_tier = cluster.cluster_policies.iter().filter(|p| p["spec"]["tier"] == tier);
    let mut applying: Vec<&Value> = of_tier.filter(|p| subject(cluster, p, pod)).collect();
    // "Policies with lower priority values have higher precedence"; among equals we promise the
    // order of names.
    applying.sort_by_key(|p| {
        (p["spec"]["priority"].as_u64(), p["metadata"]["name"].as_str().map(str::to_owned))
    });
    for policy in applying {
        for rule in list(&policy["spec"][direction]) {
            let action = rule["action"].as_str().expect("an action");
            let peers = if direction == "egress" { &rule["to"] } else { &rule["from"] };
            let known = ["namespaces", "pods", "nodes", "networks", "domainNames"];
            let protocols = &rule["protocols"];
            let strange = empty(peers)
                || list(peers).any(|p| p.get("networks").is_some_and(empty))
                || list(peers).any(|p| p.get("domainNames").is_some_and(empty))
                // "MinItems=1", "MinProperties=1": without any field, one is set that we do not
                // know.
                || (protocols.is_array() && empty(protocols))
                || list(protocols).any(|p| {
                    let fields = p.as_object().and_then(|o| o.values().next());
                    fields.and_then(Value::as_object).is_some_and(|o| o.is_empty())
                })
                || list(peers).any(|p| known.iter().all(|k| p.get(k).is_none()))
                || list(&rule["protocols"]).any(|p| p.get("icmp").is_some())
                // "DomainNames is only supported for Accept rules."
                || (action != "Accept" && list(peers).any(|p| p.get("domainNames").is_some()));
            if strange {
                // "For "Accept" rules, "fail closed" means: "treat the rule as matching no
                // traffic". For "Deny" and "Pass" rules, "fail closed" means: "treat the rule as
                // a 'Deny all' rule"."
                if action == "Accept" || (audit && audited(cluster, policy)) {
                    continue;
                }
                return Some("Deny");
            }
            let by_peer = list(peers).any(|p| cluster_peer(cluster, flow, p, direction));
            let by_port = rule.get("protocols").is_none()
                || list(&rule["protocols"]).any(|p| cluster_protocol(cluster, flow, p));
            // In audit mode nothing is denied.
            let mute = action == "Deny" && audit && audited(cluster, policy);
            if by_peer && by_port && !mute {
                return Some(action);
            }
        }
    }
    None
}

fn subject(cluster: &Cluster, policy: &Value, pod: &Value) -> bool {
    let subject = &policy["spec"]["subject"];
    let namespace = pod["metadata"]["namespace"].as_str().expect("a namespace");
    by_namespaces_or_pods(cluster, subject, namespace, &pod["metadata"]["labels"])
}

/// The two fields that subjects and peers of ClusterNetworkPolicies share.
fn by_namespaces_or_pods(cluster: &Cluster, item: &Value, namespace: &str, labels: &Value) -> bool {
    // A namespace that is not known matches no selector.
    let Some(ns) = named(&cluster.namespaces, namespace) else { return false };
    if let Some(selector) = item.get("namespaces") {
        return selects(selector, &ns["metadata"]["labels"]);
    }
    let Some(pods) = item.get("pods") else { return false };
    // "if empty, it selects all Namespaces"
    let by_namespace = pods
        .get("namespaceSelector")
        .is_none_or(|selector| selects(selector, &ns["metadata"]["labels"]));
    by_namespace && selects(&pods["podSelector"], labels)
}

fn cluster_peer(cluster: &Cluster, flow: &Flow, peer: &Value, direction: &str) -> bool {
    let address = peer_address(flow, direction);
    if let Some(networks) = peer.get("networks") {
        return list(networks).any(|n| inside(address, n.as_str().expect("text")));
    }
    if let Some(selector) = peer.get("nodes") {
        let owner = node_at(cluster, address).filter(|_| !cluster.dns.contains(&address));
        return owner.is_some_and(|n| selects(selector, &n["metadata"]["labels"]));
    }
    if let Some(names) = peer.get("domainNames") {
        return list(names).any(|wanted| {
            let wanted = wanted.as_str().expect("text");
            cluster.names.iter().any(|(name, at)| {
                let meant = match wanted.strip_prefix('*') {
                    Some(suffix) => name.ends_with(suffix),
                    None => *name == wanted,
                };
                meant && *at == address
            })
        });
    }
    identity(cluster, address, direction).is_some_and(|(namespace, labels)| {
        by_namespaces_or_pods(cluster, peer, &namespace, &labels)
    })
}

fn cluster_protocol(cluster: &Cluster, flow: &Flow, item: &Value) -> bool {
    let Transport::Port(protocol, port) = flow.transport else { return false };
    if let Some(name) = item.get("destinationNamedPort") {
        return calls(cluster, flow, name.as_str().expect("text"));
    }
    let Some(of_protocol) = item.get(protocol.to_string().to_lowercase()) else { return false };
    let Some(wanted) = of_protocol.get("destinationPort") else { return true };
    let port = u64::from(port.get());
    match wanted.get("number") {
        Some(number) => number.as_u64() == Some(port),
        None => {
            let bound = |b: &str| wanted["range"][b].as_u64().expect("a number");
            bound("start") <= port && port <= bound("end")
        }
    }
}

/// Whether a NetworkPolicy makes `pod` isolated in this direction.
fn isolates(policy: &Value, pod: &Value, direction: &str) -> bool {
    let spec = &policy["spec"];
    let types = &spec["policyTypes"];
    // "policies that contain an egress section are assumed to affect egress, and all policies
    // (whether or not they contain an ingress section) are assumed to affect ingress"
    let affects = match (empty(types), direction) {
        (true, "ingress") => true,
        (true, _) => !empty(&spec["egress"]),
        (false, "ingress") => list(types).any(|t| t == "Ingress"),
        (false, _) => list(types).any(|t| t == "Egress"),
    };
    affects
        && policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
        && selects(&spec["podSelector"], &pod["metadata"]["labels"])
}

fn network_peer(
    cluster: &Cluster,
    flow: &Flow,
    policy: &Value,
    peer: &Value,
    direction: &str,
) -> bool {
    let address = peer_address(flow, direction);
    if let Some(block) = peer.get("ipBlock") {
        // "except is a slice of CIDRs that should not be included within an IPBlock"
        return inside(address, block["cidr"].as_str().expect("text"))
            && !list(&block["except"]).any(|e| inside(address, e.as_str().expect("text")));
    }
    let Some((namespace, labels)) = identity(cluster, address, direction) else { return false };
    let by_namespace = match peer.get("namespaceSelector") {
        // "Otherwise it selects the pods matching podSelector in the policy's own namespace."
        None => policy["metadata"]["namespace"] == *namespace,
        Some(selector) => named(&cluster.namespaces, &namespace)
            .is_some_and(|ns| selects(selector, &ns["metadata"]["labels"])),
    };
    by_namespace && peer.get("podSelector").is_none_or(|s| selects(s, &labels))
}

fn network_port(cluster: &Cluster, flow: &Flow, item: &Value) -> bool {
    let Transport::Port(protocol, port) = flow.transport else { return false };
    // "If not specified, this field defaults to TCP."
    if item.get("protocol").and_then(Value::as_str).unwrap_or("TCP") != protocol.to_string() {
        return false;
    }
    match item.get("port") {
        // "If this field is not provided, this matches all port names and numbers."
        None => true,
        Some(Value::String(name)) => calls(cluster, flow, name),
        Some(first) => {
            let first = first.as_u64().expect("a number");
            let last = item.get("endPort").and_then(Value::as_u64).unwrap_or(first);
            (first..=last).contains(&u64::from(port.get()))
        }
    }
}

/// Whether the destination has a container port of this name, with the flow's protocol and port.
fn calls(cluster: &Cluster, flow: &Flow, name: &str) -> bool {
    let Transport::Port(protocol, port) = flow.transport else { return false };
    let (protocol, port) = (protocol.to_string(), port.get());
    if cluster.dns.contains(&flow.destination) {
        // What the manifests of CoreDNS call them.
        return [("dns", "UDP"), ("dns-tcp", "TCP")].contains(&(name, &protocol)) && port == 53;
    }
    let Some(pod) = pod_at(cluster, flow.destination) else { return false };
    list(&pod["spec"]["containers"]).flat_map(|c| list(&c["ports"])).any(|p| {
        p.get("name").and_then(Value::as_str) == Some(name)
            && p.get("protocol").and_then(Value::as_str).unwrap_or("TCP") == protocol
            && p["containerPort"].as_u64() == Some(u64::from(port))
    })
}

fn peer_address(flow: &Flow, direction: &str) -> IpAddr {
    if direction == "egress" { flow.destination } else { flow.source }
}

/// Namespace and labels by which selectors know an address.
fn identity(cluster: &Cluster, address: IpAddr, direction: &str) -> Option<(String, Value)> {
    if cluster.dns.contains(&address) {
        let labels = serde_json::json!({"k8s-app": "kube-dns"});
        return (direction == "egress").then(|| ("kube-system".to_owned(), labels));
    }
    let pod = pod_at(cluster, address)?;
    let namespace = pod["metadata"]["namespace"].as_str()?.to_owned();
    Some((namespace, pod["metadata"]["labels"].clone()))
}

/// The pod that has this address for itself.
fn pod_at(cluster: &Cluster, address: IpAddr) -> Option<&Value> {
    if cluster.dns.contains(&address) {
        return None;
    }
    let has_it = cluster.pods.iter().filter(|pod| {
        let gone = ["Succeeded", "Failed"].iter().any(|p| pod["status"]["phase"] == *p);
        let host = pod["spec"]["hostNetwork"] == true;
        !gone && !host && list(&pod["status"]["podIPs"]).any(|ip| ip["ip"] == address.to_string())
    });
    // Two at one address cannot be told apart: we promise the first by name.
    let name = |pod: &Value| ["namespace", "name"].map(|k| pod["metadata"][k].to_string());
    has_it.min_by_key(|pod| name(pod))
}

fn node_at(cluster: &Cluster, address: IpAddr) -> Option<&Value> {
    cluster.nodes.iter().find(|node| {
        list(&node["status"]["addresses"]).any(|a| a["address"] == address.to_string())
    })
}

fn named<'v>(objects: &'v [Value], name: &str) -> Option<&'v Value> {
    objects.iter().find(|o| o["metadata"]["name"] == name)
}

/// "The requirements are ANDed"; "an empty label selector matches all objects".
fn selects(selector: &Value, labels: &Value) -> bool {
    let of = |key: &str| labels.get(key).and_then(Value::as_str);
    let by_labels = selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .is_none_or(|all| all.iter().all(|(key, value)| of(key) == value.as_str()));
    let by_expressions = list(&selector["matchExpressions"]).all(|expression| {
        let value = of(expression["key"].as_str().expect("a key"));
        let listed = value.is_some_and(|v| list(&expression["values"]).any(|x| x == v));
        match expression["operator"].as_str() {
            Some("In") => listed,
            Some("NotIn") => !listed,
            Some("Exists") => value.is_some(),
            Some("DoesNotExist") => value.is_none(),
            other => panic!("operator {other:?}"),
        }
    });
    by_labels && by_expressions
}

fn inside(address: IpAddr, cidr: &str) -> bool {
    let (network, length) = cidr.split_once('/').expect("a CIDR");
    let length: u32 = length.parse().expect("a length");
    let number = |a: IpAddr| match a {
        IpAddr::V4(a) => (32, u128::from(u32::from(a))),
        IpAddr::V6(a) => (128, u128::from(a)),
    };
    let ((bits, a), (of, b)) = (number(address), number(network.parse().expect("an address")));
    let shift = bits - length.min(bits);
    bits == of && (shift >= 128 || a >> shift == b >> shift)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn empty(value: &Value) -> bool {
    list(value).next().is_none()
}
