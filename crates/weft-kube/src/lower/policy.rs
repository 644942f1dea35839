//! Lowering of what policy is about: pods, labels of namespaces and nodes, and both kinds of
//! policies. The API server validates what it stores; what is unusable all the same never opens
//! anything: an item that cannot be read is left out of its list, and the list then stays a
//! restriction even where nothing is left in it. A policy whose subject cannot be read selects
//! no pod.

use super::{Findings, Lowered, POLICY_AUDIT, SOCKET_LB, id_of, label, protocol};
use crate::{
    Kind,
    cluster_policy::{self as cnp, ClusterNetworkPolicy as ApiClusterNetworkPolicy},
};
use k8s_openapi::{
    api::{core::v1 as core, networking::v1 as networking},
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use std::{collections::BTreeMap, sync::Arc};
use weft_model::{
    Action, ClusterNetworkPolicy, ClusterRule, DomainPattern, IpBlock, LabelTest, Labels,
    NamedPort, Namespace, NamespaceSet, NetworkPolicy, NetworkRule, NodeName, NodePeer, Peer, Pod,
    PodPhase, PodSet, Port, PortMatch, Protocol, Selector, Tier,
};

fn labels(map: &Option<BTreeMap<String, String>>) -> Labels {
    map.iter().flatten().map(|(k, v)| (k.as_str(), v.as_str())).collect()
}

/// Whether an object asks that its policies deny nothing, and what they would deny is told.
fn audit(meta: &ObjectMeta) -> bool {
    label(&meta.annotations, POLICY_AUDIT) == Some("enabled")
}

/// Lowers a Namespace. One that is being deleted counts until it is gone: its Services answer
/// until they are deleted.
pub fn labelled_namespace(ns: &core::Namespace) -> Lowered<Namespace> {
    let name = id_of(&ns.metadata).name;
    let value = Namespace { name, labels: labels(&ns.metadata.labels), audit: audit(&ns.metadata) };
    Lowered { value: Some(value), diagnostics: Vec::new() }
}

/// Lowers a Node as a peer of policies: "the IPs present in the node.Status.Addresses field",
/// of whatever type.
pub fn node_peer(node: &core::Node) -> Lowered<NodePeer> {
    let id = id_of(&node.metadata);
    let mut found = Findings::new(Kind::Node, &id);
    let Some(name) = found.parse::<NodeName>("metadata.name", &id.name) else {
        return found.nothing();
    };
    let all = node.status.iter().filter_map(|s| s.addresses.as_ref()).flatten();
    // Host names and DNS names stand in the same list. A bad address is complained about where
    // the node itself is lowered.
    let addresses = all.filter_map(|a| a.address.parse().ok()).collect();
    found.partial(NodePeer { name, labels: labels(&node.metadata.labels), addresses })
}

/// Lowers a Pod. A bad address or port is left out alone.
pub fn pod(pod: &core::Pod) -> Lowered<Pod> {
    let id = id_of(&pod.metadata);
    let mut found = Findings::new(Kind::Pod, &id);
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let node = spec.and_then(|s| s.node_name.as_deref()).filter(|n| !n.is_empty());
    let node = node.and_then(|n| found.parse("spec.nodeName", n));
    let many = status.and_then(|s| s.pod_ips.as_ref()).filter(|ips| !ips.is_empty());
    let texts: Vec<&str> = match many {
        Some(ips) => ips.iter().map(|ip| ip.ip.as_str()).collect(),
        None => status.and_then(|s| s.pod_ip.as_deref()).into_iter().collect(),
    };
    let addresses = texts.into_iter().filter(|t| !t.is_empty());
    let addresses = addresses.filter_map(|t| found.address("status.podIPs", t)).collect();
    let phase = match status.and_then(|s| s.phase.as_deref()) {
        Some("Running") => PodPhase::Running,
        Some("Succeeded") => PodPhase::Succeeded,
        Some("Failed") => PodPhase::Failed,
        Some("Unknown") => PodPhase::Unknown,
        _ => PodPhase::Pending,
    };
    let ports = spec.map(|s| named_ports(s, &mut found)).unwrap_or_default();
    found.partial(Pod {
        id,
        labels: labels(&pod.metadata.labels),
        node,
        addresses,
        host_network: spec.and_then(|s| s.host_network).unwrap_or(false),
        phase,
        ports,
        incarnation: Pod::incarnation_of(pod.metadata.uid.as_deref().unwrap_or_default()),
        sockets_alone: label(&pod.metadata.annotations, SOCKET_LB) == Some("disabled"),
    })
}

/// The named ports of a pod's containers; of init containers only those that go on running
/// beside them (`restartPolicy: Always`) serve anything.
fn named_ports(spec: &core::PodSpec, found: &mut Findings) -> Vec<NamedPort> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().chain(sidecars);
    let mut ports = Vec::new();
    for port in containers.flat_map(|c| c.ports.iter().flatten()) {
        let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) else { continue };
        let field = format!("port '{name}'");
        let Some(protocol) = protocol(port.protocol.as_deref(), &field, found) else { continue };
        match Port::try_from(port.container_port) {
            Ok(port) => ports.push(NamedPort { name: name.into(), protocol, port }),
            Err(e) => found.add(field, e),
        }
    }
    ports
}

/// The selector, or a complaint.
fn selector(selector: &LabelSelector, field: &str, found: &mut Findings) -> Option<Selector> {
    let mut good = true;
    let mut tests: Vec<(&str, LabelTest)> = Vec::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        tests.push((key, LabelTest::In([Arc::from(value.as_str())].into())));
    }
    for (i, e) in selector.match_expressions.iter().flatten().enumerate() {
        match LabelTest::parse(&e.operator, e.values.iter().flatten().map(String::as_str)) {
            Ok(test) => tests.push((&e.key, test)),
            Err(error) => {
                found.add(format!("{field}.matchExpressions[{i}]"), error);
                good = false;
            }
        }
    }
    good.then(|| tests.into_iter().collect())
}

fn optional_selector(
    text: Option<&LabelSelector>,
    field: &str,
    found: &mut Findings,
) -> Option<Selector> {
    text.map_or_else(|| Some(Selector::everything()), |s| selector(s, field, found))
}

/// Lowers a NetworkPolicy.
pub fn network_policy(policy: &networking::NetworkPolicy) -> Lowered<NetworkPolicy> {
    let id = id_of(&policy.metadata);
    let mut found = Findings::new(Kind::NetworkPolicy, &id);
    let empty = networking::NetworkPolicySpec::default();
    let spec = policy.spec.as_ref().unwrap_or(&empty);
    let subject = spec.pod_selector.as_ref();
    let Some(pods) = optional_selector(subject, "spec.podSelector", &mut found) else {
        return found.nothing();
    };
    // API doc of policyTypes: without it every policy affects ingress, and those with egress
    // rules egress as well.
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let (affects_ingress, affects_egress) = if types.is_empty() {
        (true, spec.egress.as_ref().is_some_and(|e| !e.is_empty()))
    } else {
        (types.iter().any(|t| t == "Ingress"), types.iter().any(|t| t == "Egress"))
    };
    let namespace = &id.namespace;
    let ingress = affects_ingress.then(|| {
        let rules = spec.ingress.iter().flatten().enumerate();
        rules
            .map(|(i, rule)| NetworkRule {
                peers: network_peers(
                    &rule.from,
                    namespace,
                    &format!("spec.ingress[{i}].from"),
                    &mut found,
                ),
                ports: network_ports(&rule.ports, &format!("spec.ingress[{i}].ports"), &mut found),
            })
            .collect()
    });
    let egress = affects_egress.then(|| {
        let rules = spec.egress.iter().flatten().enumerate();
        rules
            .map(|(i, rule)| NetworkRule {
                peers: network_peers(
                    &rule.to,
                    namespace,
                    &format!("spec.egress[{i}].to"),
                    &mut found,
                ),
                ports: network_ports(&rule.ports, &format!("spec.egress[{i}].ports"), &mut found),
            })
            .collect()
    });
    found.partial(NetworkPolicy { id, pods, ingress, egress, audit: audit(&policy.metadata) })
}

/// A list in which only an absent or empty one means everything.
fn restricting<T, U>(
    list: Option<&Vec<T>>,
    field: &str,
    found: &mut Findings,
    mut lower: impl FnMut(&T, &str, &mut Findings) -> Option<U>,
) -> Option<Vec<U>> {
    let list = list.filter(|l| !l.is_empty())?;
    let items = list.iter().enumerate();
    Some(items.filter_map(|(i, item)| lower(item, &format!("{field}[{i}]"), found)).collect())
}

fn network_peers(
    list: &Option<Vec<networking::NetworkPolicyPeer>>,
    namespace: &Arc<str>,
    field: &str,
    found: &mut Findings,
) -> Option<Vec<Peer>> {
    restricting(list.as_ref(), field, found, |peer, field, found| {
        if let Some(block) = &peer.ip_block {
            if peer.pod_selector.is_some() || peer.namespace_selector.is_some() {
                found.add(field, "an ipBlock cannot stand beside a selector");
                return None;
            }
            return ip_block(block, field, found).map(Peer::Block);
        }
        if peer.pod_selector.is_none() && peer.namespace_selector.is_none() {
            found.add(field, "names neither an ipBlock nor a selector");
            return None;
        }
        let namespaces = match &peer.namespace_selector {
            // "Otherwise it selects the pods matching podSelector in the policy's own namespace."
            None => NamespaceSet::Name(namespace.clone()),
            Some(s) => {
                let field = format!("{field}.namespaceSelector");
                NamespaceSet::Selected(selector(s, &field, found)?)
            }
        };
        let pods = peer.pod_selector.as_ref();
        let pods = optional_selector(pods, &format!("{field}.podSelector"), found)?;
        Some(Peer::Pods(PodSet { namespaces, pods }))
    })
}

fn ip_block(block: &networking::IPBlock, field: &str, found: &mut Findings) -> Option<IpBlock> {
    let cidr = cidr(&block.cidr, &format!("{field}.ipBlock.cidr"), found)?;
    let mut except = Vec::new();
    for (i, text) in block.except.iter().flatten().enumerate() {
        // Without the hole the block would let through what it must not.
        except.push(self::cidr(text, &format!("{field}.ipBlock.except[{i}]"), found)?);
    }
    Some(IpBlock { cidr, except })
}

fn cidr(text: &str, field: &str, found: &mut Findings) -> Option<ipnet::IpNet> {
    match text.parse::<ipnet::IpNet>() {
        Ok(net) => Some(net.trunc()),
        Err(_) => {
            found.add(field, format!("'{text}' is not an address range"));
            None
        }
    }
}

fn port(number: i32, field: &str, found: &mut Findings) -> Option<Port> {
    Port::try_from(number).map_err(|e| found.add(field, e)).ok()
}

fn network_ports(
    list: &Option<Vec<networking::NetworkPolicyPort>>,
    field: &str,
    found: &mut Findings,
) -> Option<Vec<PortMatch>> {
    restricting(list.as_ref(), field, found, |item, field, found| {
        let protocol = protocol(item.protocol.as_deref(), &format!("{field}.protocol"), found)?;
        match (&item.port, item.end_port) {
            (None, None) => Some(PortMatch::All(protocol)),
            (Some(IntOrString::String(name)), None) => {
                Some(PortMatch::Named { protocol: Some(protocol), name: name.as_str().into() })
            }
            (Some(IntOrString::Int(first)), last) => {
                let last = last.unwrap_or(*first);
                range(protocol, *first, last, field, found)
            }
            _ => {
                found.add(format!("{field}.endPort"), "needs a port that is a number");
                None
            }
        }
    })
}

fn range(
    protocol: Protocol,
    first: i32,
    last: i32,
    field: &str,
    found: &mut Findings,
) -> Option<PortMatch> {
    let (first, last) = (port(first, field, found)?, port(last, field, found)?);
    if last < first {
        found.add(field, format!("the range ends at {last}, before it begins at {first}"));
        return None;
    }
    Some(PortMatch::Range { protocol, first, last })
}

/// Lowers a ClusterNetworkPolicy.
pub fn cluster_network_policy(policy: &ApiClusterNetworkPolicy) -> Lowered<ClusterNetworkPolicy> {
    let id = id_of(&policy.metadata);
    let mut found = Findings::new(Kind::ClusterNetworkPolicy, &id);
    let spec = &policy.spec;
    let tier = match spec.tier.as_str() {
        "Admin" => Tier::Admin,
        "Baseline" => Tier::Baseline,
        other => {
            found.add("spec.tier", format!("'{other}' is not Admin or Baseline"));
            return found.nothing();
        }
    };
    let Some(priority) = u16::try_from(spec.priority).ok().filter(|p| *p <= 1000) else {
        found.add("spec.priority", format!("{} is not in 0 to 1000", spec.priority));
        return found.nothing();
    };
    let subject = (spec.subject.namespaces.as_ref(), spec.subject.pods.as_ref());
    let subject = match pods(subject, "spec.subject", &mut found) {
        Ok(Some(subject)) => subject,
        Ok(None) => {
            found.add("spec.subject", "names neither namespaces nor pods");
            return found.nothing();
        }
        Err(Unusable) => return found.nothing(),
    };
    let ingress = cluster_rules(&spec.ingress, false, "spec.ingress", &mut found);
    let egress = cluster_rules(&spec.egress, true, "spec.egress", &mut found);
    let (name, audit) = (id.name, audit(&policy.metadata));
    found.partial(ClusterNetworkPolicy { name, tier, priority, subject, ingress, egress, audit })
}

/// Something that was complained about.
struct Unusable;

/// Pods by `namespaces` or by `pods`; `None` where neither is there.
fn pods(
    (namespaces, pods): (Option<&LabelSelector>, Option<&cnp::NamespacedPod>),
    field: &str,
    found: &mut Findings,
) -> Result<Option<PodSet>, Unusable> {
    let set = match (namespaces, pods) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            found.add(field, "names both namespaces and pods");
            None
        }
        (Some(s), None) => selector(s, &format!("{field}.namespaces"), found).map(|s| PodSet {
            namespaces: NamespaceSet::Selected(s),
            pods: Selector::everything(),
        }),
        (None, Some(both)) => {
            let namespaces = both.namespace_selector.as_ref();
            let namespaces =
                optional_selector(namespaces, &format!("{field}.pods.namespaceSelector"), found);
            let pods = selector(&both.pod_selector, &format!("{field}.pods.podSelector"), found);
            namespaces.zip(pods).map(|(namespaces, pods)| PodSet {
                namespaces: NamespaceSet::Selected(namespaces),
                pods,
            })
        }
    };
    set.map(Some).ok_or(Unusable)
}

fn cluster_rules(
    rules: &[cnp::Rule],
    egress: bool,
    field: &str,
    found: &mut Findings,
) -> Vec<ClusterRule> {
    let mut lowered = Vec::with_capacity(rules.len());
    for (i, rule) in rules.iter().enumerate() {
        let field = format!("{field}[{i}]");
        let name: Arc<str> = rule.name.as_deref().unwrap_or_default().into();
        let action = match rule.action.as_str() {
            "Accept" => Action::Accept,
            "Deny" => Action::Deny,
            "Pass" => Action::Pass,
            other => {
                found.add(
                    format!("{field}.action"),
                    format!("'{other}' is not Accept, Deny or Pass: it denies everything"),
                );
                lowered.push(ClusterRule::failed_closed(name, Action::Deny));
                continue;
            }
        };
        let peers = cluster_peers(rule, egress, action, &field, found);
        let ports = cluster_ports(rule, &field, found);
        let (Ok(peers), Ok(ports)) = (peers, ports) else {
            let closed = match action {
                Action::Accept => "the rule accepts nothing",
                Action::Deny | Action::Pass => "the rule denies everything",
            };
            found.add(field, closed);
            lowered.push(ClusterRule::failed_closed(name, action));
            continue;
        };
        lowered.push(ClusterRule { name, action, peers: Some(peers), ports });
    }
    lowered
}

/// The peers of a rule. An item with no field that is known here fails the whole rule closed, as
/// the API says; so does one that cannot be read, and a list that is missing or empty, which the
/// API does not allow: it would make a Deny rule match nothing.
fn cluster_peers(
    rule: &cnp::Rule,
    egress: bool,
    action: Action,
    field: &str,
    found: &mut Findings,
) -> Result<Vec<Peer>, Unusable> {
    let (items, list, other, strange) = match egress {
        true => (&rule.to, "to", "from", rule.from.is_some()),
        false => (&rule.from, "from", "to", rule.to.is_some()),
    };
    if strange {
        found.add(field, format!("'{other}' is unknown here: peers are named by '{list}'"));
    }
    let Some(items) = items.as_ref().filter(|items| !items.is_empty()) else {
        found.add(field, format!("names no peers: '{list}' is missing or empty"));
        return Err(Unusable);
    };
    let mut peers = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let field = format!("{field}.{list}[{i}]");
        // Fields that ingress peers do not have are unknown there.
        let (nodes, networks, domains) = if egress {
            (item.nodes.as_ref(), item.networks.as_deref(), item.domain_names.as_deref())
        } else {
            (None, None, None)
        };
        let by_pods = (item.namespaces.as_ref(), item.pods.as_ref());
        let empty = networks.is_some_and(<[_]>::is_empty) || domains.is_some_and(<[_]>::is_empty);
        if empty {
            found.add(field, "is an empty list");
            return Err(Unusable);
        }
        let others = [nodes.is_some(), networks.is_some(), domains.is_some()];
        let others = others.into_iter().filter(|there| *there).count();
        let set = pods(by_pods, &field, found)?;
        if usize::from(set.is_some()) + others != 1 {
            found.add(field, "needs exactly one field that is known here");
            return Err(Unusable);
        }
        peers.extend(set.map(Peer::Pods));
        if let Some(nodes) = nodes {
            let nodes = selector(nodes, &format!("{field}.nodes"), found).ok_or(Unusable)?;
            peers.push(Peer::Nodes(nodes));
        }
        for text in networks.unwrap_or_default() {
            let cidr = cidr(text, &format!("{field}.networks"), found).ok_or(Unusable)?;
            peers.push(Peer::Block(IpBlock { cidr, except: Vec::new() }));
        }
        for text in domains.unwrap_or_default() {
            let field = format!("{field}.domainNames");
            if action != Action::Accept {
                found.add(field, "names are for rules that accept alone");
                return Err(Unusable);
            }
            let Some(pattern) = DomainPattern::parse(text) else {
                found.add(field, format!("'{text}' is not a domain name"));
                return Err(Unusable);
            };
            peers.push(Peer::Domain(pattern));
        }
    }
    Ok(peers)
}

fn cluster_ports(
    rule: &cnp::Rule,
    field: &str,
    found: &mut Findings,
) -> Result<Option<Vec<PortMatch>>, Unusable> {
    let Some(items) = rule.protocols.as_ref() else { return Ok(None) };
    if items.is_empty() {
        // The API asks for one at least; to take it for all would open what was not asked for.
        found.add(format!("{field}.protocols"), "is an empty list");
        return Err(Unusable);
    }
    let mut ports = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let field = format!("{field}.protocols[{i}]");
        let of_protocol =
            [(Protocol::Tcp, &item.tcp), (Protocol::Udp, &item.udp), (Protocol::Sctp, &item.sctp)];
        let mut set = of_protocol.into_iter().filter_map(|(p, ports)| Some((p, ports.as_ref()?)));
        let matched = match (set.next(), set.next(), &item.destination_named_port) {
            (None, None, Some(name)) => {
                Some(PortMatch::Named { protocol: None, name: name.as_str().into() })
            }
            (Some((protocol, ports)), None, None) => match &ports.destination_port {
                // The API asks for one field at least. Without any, one was set that is not known
                // here, and it would have narrowed the rule.
                None => None,
                Some(cnp::DestinationPort { number: Some(n), range: None }) => {
                    range(protocol, *n, *n, &field, found)
                }
                Some(cnp::DestinationPort { number: None, range: Some(r) }) => {
                    range(protocol, r.start, r.end, &field, found)
                }
                Some(_) => None,
            },
            _ => None,
        };
        let Some(matched) = matched else {
            found.add(field, "needs exactly one field that is known here");
            return Err(Unusable);
        };
        ports.push(matched);
    }
    Ok(Some(ports))
}
