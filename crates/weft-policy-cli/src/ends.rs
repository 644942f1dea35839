//! The ends of connections, as people write them.

use crate::Cluster;
use std::{fmt, net::IpAddr};
use weft_model::{IpFamily, Labels, NamespacedName, NodeName, Pod, Port, Protocol};
use weft_policy::{Flow, Transport};

/// One end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// A pod.
    Pod(NamespacedName),
    /// An address, whosever it is.
    Address(IpAddr),
    /// Somebody outside the cluster.
    Outside,
    /// The cluster's DNS.
    Dns,
    /// The node that the pod at the other end is on.
    OwnNode,
    /// A node.
    Node(NodeName),
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(id) => id.fmt(f),
            Self::Address(address) => address.fmt(f),
            Self::Outside => f.write_str("outside"),
            Self::Dns => f.write_str("dns"),
            Self::OwnNode => f.write_str("node"),
            Self::Node(name) => write!(f, "node/{name}"),
        }
    }
}

/// A Service's port, as the pods behind it listen on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub pod: NamespacedName,
    pub protocol: Protocol,
    pub port: Port,
}

impl Cluster {
    /// The ends that a text means; `namespace` for names without one.
    pub fn parties(&self, text: &str, namespace: &str) -> Result<Vec<Party>, String> {
        match text {
            "outside" => return Ok(vec![Party::Outside]),
            "dns" => return Ok(vec![Party::Dns]),
            "node" => return Ok(vec![Party::OwnNode]),
            "*" => return Ok(self.input.pods.keys().cloned().map(Party::Pod).collect()),
            _ => {}
        }
        if let Ok(address) = text.parse() {
            return Ok(vec![Party::Address(address)]);
        }
        if let Some(name) = text.strip_prefix("node/") {
            let known = self.input.nodes.keys().find(|n| n.as_str() == name);
            let known = known.ok_or_else(|| format!("there is no node '{name}'"))?;
            return Ok(vec![Party::Node(known.clone())]);
        }
        let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
        let of_namespace =
            || self.input.pods.values().filter(move |p| *p.id.namespace == *namespace);
        let found: Vec<Party> = if name == "*" {
            of_namespace().map(|p| Party::Pod(p.id.clone())).collect()
        } else if name.contains('=') {
            let labels = labels(name)?;
            let alike = of_namespace().filter(|p| has_labels(p, &labels));
            alike.map(|p| Party::Pod(p.id.clone())).collect()
        } else {
            let id = NamespacedName::new(namespace, name);
            let groups = self.groups.iter().filter(|g| g.id == id);
            let mut pods: Vec<NamespacedName> = groups.flat_map(|g| g.pods.clone()).collect();
            if pods.is_empty() && self.input.pods.contains_key(&id) {
                pods.push(id);
            }
            pods.into_iter().map(Party::Pod).collect()
        };
        if found.is_empty() {
            return Err(format!("'{text}' is no pod or workload of these manifests"));
        }
        Ok(found)
    }

    /// The pods and ports behind a port of a Service.
    pub(crate) fn targets(
        &self,
        text: &str,
        namespace: &str,
        port: Option<&str>,
    ) -> Result<Vec<Target>, String> {
        let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
        let id = NamespacedName::new(namespace, name);
        let service = self.services.get(&id);
        let service = service.ok_or_else(|| format!("there is no Service '{id}'"))?;
        if service.selector.iter().next().is_none() {
            return Err(format!("Service '{id}' selects no pods"));
        }
        let (wanted, protocol) = match port {
            None => (None, None),
            Some(text) => {
                let (port, protocol) =
                    text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
                (Some(port), protocol)
            }
        };
        let of_port = |p: &&k8s_openapi::api::core::v1::ServicePort| {
            let named = |w: &str| p.name.as_deref() == Some(w) || p.port.to_string() == *w;
            let spoken = p.protocol.as_deref().unwrap_or("TCP");
            wanted.is_none_or(named) && protocol.is_none_or(|x| x.eq_ignore_ascii_case(spoken))
        };
        let mut targets = Vec::new();
        for port in service.ports.iter().filter(of_port) {
            use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
            let spoken = port.protocol.as_deref().unwrap_or("TCP");
            let protocol: Protocol = spoken.parse().map_err(|e| format!("Service '{id}': {e}"))?;
            for pod in self.input.pods.values() {
                if pod.id.namespace != id.namespace || !has_labels(pod, &service.selector) {
                    continue;
                }
                let number = match &port.target_port {
                    None => port.port,
                    Some(IntOrString::Int(n)) => *n,
                    Some(IntOrString::String(name)) => match Self::named_port(pod, name) {
                        Some(named) => i32::from(named.port.get()),
                        // As the EndpointSlice controller: a pod without the port is no endpoint.
                        None => continue,
                    },
                };
                let port = Port::try_from(number).map_err(|e| format!("Service '{id}': {e}"))?;
                targets.push(Target { pod: pod.id.clone(), protocol, port });
            }
        }
        if targets.is_empty() {
            return Err(format!("Service '{id}' leads to no pod at this port"));
        }
        Ok(targets)
    }

    /// The flow between two ends in one family; `None` where one of them has no address of it.
    pub fn flow(
        &self,
        from: &Party,
        to: &Party,
        family: IpFamily,
        transport: Transport,
    ) -> Option<Flow> {
        let (source, from_node) = self.address(from, to, family)?;
        let (destination, _) = self.address(to, from, family)?;
        Some(Flow { source, destination, transport, from_node, through_service: false })
    }

    /// The address of an end, and the node, where it is one's own process.
    fn address(
        &self,
        party: &Party,
        other: &Party,
        family: IpFamily,
    ) -> Option<(IpAddr, Option<NodeName>)> {
        let pick = |all: &[IpAddr]| all.iter().copied().find(|a| IpFamily::of(*a) == family);
        let of_node = |name: &NodeName| {
            let node = self.input.nodes.get(name)?;
            Some((pick(&node.addresses)?, Some(name.clone())))
        };
        match party {
            Party::Pod(id) => {
                let pod = self.input.pods.get(id)?;
                let address = pick(&pod.addresses)?;
                // A pod of the host network sends as its node does.
                Some((address, pod.node.clone().filter(|_| pod.host_network)))
            }
            Party::Address(address) => Some((pick(&[*address])?, None)),
            Party::Outside => Some((pick(&self.outside)?, None)),
            Party::Dns => {
                let all: Vec<IpAddr> = self.input.dns.iter().copied().collect();
                Some((pick(&all)?, None))
            }
            Party::OwnNode => match other {
                Party::Pod(id) => of_node(self.input.pods.get(id)?.node.as_ref()?),
                _ => None,
            },
            Party::Node(name) => of_node(name),
        }
    }
}

fn labels(text: &str) -> Result<Labels, String> {
    let pairs = text.split(',').map(|pair| {
        let pair = pair.split_once('=').ok_or_else(|| format!("'{pair}' is not key=value"))?;
        Ok((pair.0.trim(), pair.1.trim()))
    });
    pairs.collect::<Result<Vec<_>, String>>().map(Labels::from_iter)
}

fn has_labels(pod: &Pod, labels: &Labels) -> bool {
    labels.iter().all(|(k, v)| pod.labels.get(k) == Some(v))
}
