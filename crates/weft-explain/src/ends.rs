//! The ends of a question as objects of the world.

use crate::{AskError, Pod, World, answer::End, error::nearest, fabric::At, parse::From};
use std::net::IpAddr;
use weft_model::{IpFamily, NamespacedName, Node, NodeName, Service};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Pod(Pod),
    Node(Node),
    /// An address in a node's pod range that no pod has.
    Stray(IpAddr, NodeName),
    Outside(Vec<IpAddr>),
}

impl Source {
    /// Its address of a family.
    pub fn address(&self, family: IpFamily) -> Option<IpAddr> {
        let of = |all: &[IpAddr]| all.iter().copied().find(|a| IpFamily::of(*a) == family);
        match self {
            Self::Pod(pod) => of(&pod.ips),
            Self::Node(node) => of(&node.internal_ips),
            Self::Stray(address, _) => of(&[*address]),
            Self::Outside(all) => of(all),
        }
    }

    /// The node it is on.
    pub fn node(&self) -> Option<&NodeName> {
        match self {
            Self::Pod(pod) => pod.node.as_ref(),
            Self::Node(node) => Some(&node.name),
            Self::Stray(_, node) => Some(node),
            Self::Outside(_) => None,
        }
    }

    /// Whether it uses its node's own network.
    pub fn on_host(&self) -> bool {
        match self {
            Self::Pod(pod) => pod.host_network,
            Self::Node(_) => true,
            Self::Stray(..) | Self::Outside(_) => false,
        }
    }

    /// Whether it is a pod whose sockets are left alone.
    pub fn opted_out(&self) -> bool {
        matches!(self, Self::Pod(pod) if pod.opted_out && !pod.host_network)
    }

    /// The namespace of its search path for names.
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Pod(pod) => Some(&pod.id.namespace),
            _ => None,
        }
    }

    pub fn end(&self) -> End {
        let text = |n: Option<&NodeName>| n.map(ToString::to_string);
        match self {
            Self::Pod(pod) => End {
                kind: "pod",
                name: pod.id.to_string(),
                node: text(pod.node.as_ref()),
                addresses: pod.ips.clone(),
                host_network: pod.host_network,
            },
            Self::Node(node) => node_end(node),
            Self::Stray(address, node) => End {
                kind: "address",
                name: address.to_string(),
                node: text(Some(node)),
                addresses: vec![*address],
                host_network: false,
            },
            Self::Outside(all) => End {
                kind: "outside",
                name: "outside".to_owned(),
                node: None,
                addresses: all.clone(),
                host_network: false,
            },
        }
    }
}

pub(crate) fn node_end(node: &Node) -> End {
    End {
        kind: "node",
        name: node.name.to_string(),
        node: Some(node.name.to_string()),
        addresses: node.internal_ips.clone(),
        host_network: true,
    }
}

impl World {
    pub(crate) fn source(&self, from: From) -> Result<Source, AskError> {
        Ok(match from {
            From::Pod(id) => Source::Pod(self.pod(&id)?.clone()),
            From::Node(name) => Source::Node(self.node(&name)?.clone()),
            From::Outside => Source::Outside(self.setup.outside.clone()),
            From::Address(address) => match self.locate(address) {
                At::Node(node) => Source::Node(node.clone()),
                At::Pod(node) => match self.pod_at(address) {
                    Some(pod) => Source::Pod(pod.clone()),
                    None => Source::Stray(address, node.name.clone()),
                },
                At::Outside => Source::Outside(vec![address]),
            },
        })
    }

    /// A pod that has an address.
    pub(crate) fn pod(&self, id: &NamespacedName) -> Result<&Pod, AskError> {
        let pod = self.pods.get(id).ok_or_else(|| {
            let name = id.to_string();
            let near = nearest(&name, self.pods.keys().map(ToString::to_string));
            AskError::Missing { kind: "pod", name, near }
        })?;
        if pod.ips.is_empty() {
            let phase = pod.phase.clone();
            return Err(AskError::NoAddress { name: id.to_string(), phase });
        }
        Ok(pod)
    }

    /// The pod with an address of its own.
    pub(crate) fn pod_at(&self, address: IpAddr) -> Option<&Pod> {
        // A pod that has ended keeps its address in its status.
        let ended = |p: &&Pod| matches!(&*p.phase, "Succeeded" | "Failed");
        self.pods.values().filter(|p| !p.host_network && p.ips.contains(&address)).min_by_key(ended)
    }

    pub(crate) fn node(&self, name: &str) -> Result<&Node, AskError> {
        let found = self.snapshot.nodes.iter().find(|(n, _)| n.as_str() == name);
        found.map(|(_, n)| n.as_ref()).ok_or_else(|| {
            let near = nearest(name, self.snapshot.nodes.keys().map(ToString::to_string));
            AskError::Missing { kind: "node", name: name.to_owned(), near }
        })
    }

    pub(crate) fn service(&self, id: &NamespacedName) -> Result<&Service, AskError> {
        let found = self.snapshot.services.get(id);
        found.map(AsRef::as_ref).ok_or_else(|| {
            let name = id.to_string();
            let near = nearest(&name, self.snapshot.services.keys().map(ToString::to_string));
            AskError::Missing { kind: "Service", name, near }
        })
    }
}
