//! Ways between addresses, and the source that the other end sees: what `weft-fabric` plans and
//! the netfilter table does (`weft_netlink::netfilter`), in the words of an answer.

use crate::{World, answer::Route, ends::Source};
use std::net::IpAddr;
use weft_fabric::{METRIC, Mode, router_address};
use weft_model::{IpFamily, Node, NodeName};

/// Where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At<'a> {
    /// In the pod range of a node.
    Pod(&'a Node),
    /// A node's own.
    Node(&'a Node),
    /// Not of the cluster.
    Outside,
}

impl World {
    pub(crate) fn locate(&self, address: IpAddr) -> At<'_> {
        let mut nodes = self.snapshot.nodes.values().map(AsRef::as_ref);
        if let Some(node) = nodes.clone().find(|n| n.internal_ips.contains(&address)) {
            return At::Node(node);
        }
        let of_pods = |n: &&Node| n.pod_cidrs.iter().any(|c| c.contains(&address));
        nodes.find(of_pods).map_or(At::Outside, At::Pod)
    }

    /// The way from `node` to an address.
    pub(crate) fn route(&self, node: Option<&NodeName>, to: IpAddr) -> Route {
        let tables = node.and_then(|n| self.fabric(n));
        let known = |mtu: u32| self.setup.uplink_mtu.map(|_| mtu);
        let mtu = tables.as_ref().and_then(|t| known(t.pod_mtu));
        let plain = |kind, to: Option<&Node>, via| Route {
            kind,
            node: to.map(|n| n.name.to_string()),
            via,
            mtu,
        };
        let same = |other: &Node| node == Some(&other.name);
        match self.locate(to) {
            At::Pod(n) | At::Node(n) if same(n) => plain("local", Some(n), None),
            At::Node(n) => plain("underlay", Some(n), Some(to)),
            At::Pod(n) if node.is_none() => plain("routed", Some(n), None),
            At::Pod(n) if self.setup.mode == Mode::Vxlan => {
                let cidr = n.pod_cidrs.iter().find(|c| c.contains(&to)).map(|c| c.trunc());
                let routes = tables.as_ref().map(|t| &t.routes);
                let route = routes.zip(cidr).and_then(|(all, c)| all.get(&(c, METRIC)));
                let mut way = plain("tunnel", Some(n), route.and_then(|r| r.remote));
                way.mtu = route.and_then(|r| r.mtu).and_then(known).or(mtu);
                way
            }
            At::Pod(n) => plain("routed", Some(n), address_of(n, IpFamily::of(to))),
            At::Outside => plain("outside", None, None),
        }
    }

    /// The source that `to` sees of a packet that nothing translates on the way, or whose
    /// destination was translated at the socket.
    pub(crate) fn source_seen(&self, source: &Source, to: IpAddr) -> Option<IpAddr> {
        let family = IpFamily::of(to);
        let own = || source.address(family);
        let node = source.node().and_then(|n| self.snapshot.nodes.get(n)).map(AsRef::as_ref);
        let (Some(node), true) = (node, source.on_host()) else {
            // A pod keeps its address inside the cluster; outside, its node stands for it.
            return match (self.locate(to), node) {
                (At::Outside, Some(node)) => address_of(node, family),
                _ => own(),
            };
        };
        match self.locate(to) {
            // The kernel takes the address itself where it is its own.
            At::Node(n) if n.name == node.name => Some(to),
            At::Pod(n) if n.name == node.name => {
                address_of(node, family).or_else(|| router_of(node, family))
            }
            At::Pod(_) if self.setup.mode == Mode::Vxlan => router_of(node, family),
            _ => address_of(node, family),
        }
    }

    /// The source that a backend sees of a connection that the netfilter table of `node`
    /// translated: the client where the backend is a pod of this node or the node itself, else
    /// the node's router address, so that the reply comes back.
    pub(crate) fn source_through(
        &self,
        node: &Node,
        source: &Source,
        to: IpAddr,
    ) -> Option<IpAddr> {
        let family = IpFamily::of(to);
        let client = source.address(family);
        let here = matches!(self.locate(to), At::Pod(n) | At::Node(n) if n.name == node.name);
        // A pod that reached itself would throw away packets from its own address.
        if here && client != Some(to) {
            return client;
        }
        router_of(node, family).or_else(|| address_of(node, family))
    }
}

pub(crate) fn address_of(node: &Node, family: IpFamily) -> Option<IpAddr> {
    node.internal_ips.iter().copied().find(|a| IpFamily::of(*a) == family)
}

pub(crate) fn router_of(node: &Node, family: IpFamily) -> Option<IpAddr> {
    let cidr = node.pod_cidrs.iter().find(|c| IpFamily::of(c.addr()) == family)?;
    router_address(*cidr)
}
