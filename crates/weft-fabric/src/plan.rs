//! The planner.

use crate::{
    METRIC, METRIC_UNREACHABLE, TUNNEL_LINK, VXLAN_PORT,
    diagnostic::{Diagnostic, DiagnosticKind},
    prefix::PrefixSet,
    tables::{FabricPlan, FabricTables, Mac, Neighbour, Route, RouteKind, Tunnel},
};
use ipnet::IpNet;
use std::net::IpAddr;
use weft_model::{IpFamily, Node, NodeName, Snapshot};

/// Outer Ethernet, IPv4, UDP and VXLAN headers (RFC 7348).
const VXLAN_OVERHEAD_V4: u32 = 50;
/// The same with an outer IPv6 header.
const VXLAN_OVERHEAD_V6: u32 = 70;
/// Smallest link MTU that IPv6 allows (RFC 8200, section 5).
const MTU_MIN_V6: u32 = 1280;

/// How packets of pods travel between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In a VXLAN tunnel.
    Vxlan,
    /// As they are, along routes.
    Native,
}

/// The node's uplink, as observed in its kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Underlay {
    /// Name of the link.
    pub link: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its addresses with the prefix lengths of their subnets.
    pub addresses: Vec<IpNet>,
    /// Default routers, at most one a family.
    pub routers: Vec<IpAddr>,
}

/// What the planner is told beside the Snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FabricConfig {
    /// How packets travel.
    pub mode: Mode,
    /// The uplink.
    pub underlay: Underlay,
    /// Service address ranges; they lead to the node itself (see `weft_netlink::netfilter`).
    pub service_cidrs: Vec<IpNet>,
}

/// The router address of a pod CIDR: its first address after the network's own. `None`
/// where the CIDR has no room for network, router, one pod and broadcast.
pub fn router_address(cidr: IpNet) -> Option<IpAddr> {
    if cidr.max_prefix_len() - cidr.prefix_len() < 2 {
        return None;
    }
    Some(match cidr.network() {
        IpAddr::V4(a) => IpAddr::V4((u32::from(a) + 1).into()),
        IpAddr::V6(a) => IpAddr::V6((u128::from(a) + 1).into()),
    })
}

/// Hardware address of a node's tunnel device: locally administered, from a hash of the
/// node's name, so that every node knows it without being told. With n nodes the chance that
/// any two agree is about n² / 2⁴¹.
pub fn tunnel_mac(node: &NodeName) -> Mac {
    // FNV-1a, then folded: the upper bits alone are weak for short names.
    let hash = node.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let folded = (hash ^ (hash >> 40)).to_be_bytes();
    [0x02, folded[3], folded[4], folded[5], folded[6], folded[7]]
}

/// What shall be in the kernel of `node`.
pub fn plan(snapshot: &Snapshot, node: &NodeName, config: &FabricConfig) -> FabricPlan {
    let mut out = FabricPlan::default();
    let Some(own) = snapshot.nodes.get(node) else {
        note(&mut out, node, DiagnosticKind::SelfMissing);
        return out;
    };
    // What a pod CIDR must not overlap with: the surroundings, and then one another.
    let mut taken = PrefixSet::default();
    config.service_cidrs.iter().for_each(|c| taken.cover(*c));
    config.underlay.addresses.iter().for_each(|a| taken.cover(a.trunc()));
    for ip in snapshot.nodes.values().flat_map(|n| &n.internal_ips) {
        taken.cover(IpNet::from(*ip));
    }
    let own_cidrs = accept_cidrs(own, &mut taken, &mut out);
    if own_cidrs.is_empty() {
        if own.pod_cidrs.is_empty() {
            note(&mut out, node, DiagnosticKind::SelfWithoutPodCidr);
        }
        return out;
    }
    let mut tables = own_tables(own, own_cidrs, config);
    if tables.pod_mtu < MTU_MIN_V6 && tables.pod_cidrs.iter().any(|c| c.addr().is_ipv6()) {
        note(&mut out, node, DiagnosticKind::MtuTooSmall(tables.pod_mtu));
    }
    for remote in snapshot.nodes.values().filter(|n| n.name != *node) {
        let cidrs = accept_cidrs(remote, &mut taken, &mut out);
        tables.cluster.extend(cidrs.iter().copied().chain(host_nets(remote)));
        let result = match config.mode {
            Mode::Vxlan => {
                add_tunnelled(&mut tables, own, remote, &cidrs, config).into_iter().collect()
            }
            Mode::Native => add_native(&mut tables, remote, &cidrs, config),
        };
        result.into_iter().for_each(|kind| note(&mut out, &remote.name, kind));
    }
    out.tables = Some(tables);
    out
}

fn note(out: &mut FabricPlan, node: &NodeName, kind: DiagnosticKind) {
    out.diagnostics.push(Diagnostic { node: node.clone(), kind });
}

/// The pod CIDRs of a node that can be used.
fn accept_cidrs(node: &Node, taken: &mut PrefixSet, out: &mut FabricPlan) -> Vec<IpNet> {
    let mut accepted: Vec<IpNet> = Vec::new();
    for cidr in node.pod_cidrs.iter().map(IpNet::trunc) {
        let family = IpFamily::of(cidr.addr());
        let refusal = if accepted.iter().any(|c| IpFamily::of(c.addr()) == family) {
            Some(DiagnosticKind::CidrRepeated(cidr))
        } else if router_address(cidr).is_none() {
            Some(DiagnosticKind::CidrTooSmall(cidr))
        } else {
            taken.insert(cidr).err().map(|with| DiagnosticKind::CidrOverlaps { cidr, with })
        };
        match refusal {
            Some(kind) => note(out, &node.name, kind),
            None => accepted.push(cidr),
        }
    }
    accepted
}

/// The parts that do not depend on other nodes.
fn own_tables(own: &Node, cidrs: Vec<IpNet>, config: &FabricConfig) -> FabricTables {
    let mut tables = FabricTables::default();
    let mut sysctl = |key: &str, value: &str| {
        tables.sysctls.insert(key.to_owned(), value.to_owned());
    };
    sysctl("net/ipv4/ip_forward", "1");
    if cidrs.iter().any(|c| c.addr().is_ipv6()) {
        sysctl("net/ipv6/conf/lo/disable_ipv6", "0");
        sysctl("net/ipv6/conf/all/forwarding", "1");
    }
    tables.pod_mtu = config.underlay.mtu;
    if config.mode == Mode::Vxlan {
        let outer = own.internal_ips.iter().map(|ip| IpFamily::of(*ip)).min();
        tables.pod_mtu = tunnel_mtu(config, outer.unwrap_or(IpFamily::V4));
        tables.tunnel =
            Some(Tunnel { port: VXLAN_PORT, mtu: tables.pod_mtu, mac: tunnel_mac(&own.name) });
        // Between a pod and the address of another node, one direction takes the uplink and
        // the other the tunnel. On the uplink a loose filter (2) takes that; on the tunnel
        // device, which has no address, a loose one refuses it as well (fib_validate_source).
        // The larger of `all` and the link's value counts.
        sysctl("net/ipv4/conf/all/rp_filter", "0");
        sysctl(&format!("net/ipv4/conf/{TUNNEL_LINK}/rp_filter"), "0");
        sysctl(&format!("net/ipv4/conf/{}/rp_filter", config.underlay.link), "2");
        if cidrs.iter().any(|c| c.addr().is_ipv6()) {
            sysctl(&format!("net/ipv6/conf/{TUNNEL_LINK}/disable_ipv6"), "0");
        }
    }
    for cidr in &cidrs {
        let Some(router) = router_address(*cidr) else { continue };
        let family = IpFamily::of(router);
        tables.routers.push(router);
        tables.addresses.insert(IpNet::from(router));
        tables.pod_sources.insert(family, address_of(own, family).unwrap_or(router));
        // Without it, packets to an address that no pod has would go to the default router
        // and, with native routing, come back from there until their TTL ends.
        let refuse = Route { kind: RouteKind::Unreachable, ..BLANK };
        tables.routes.insert((*cidr, METRIC_UNREACHABLE), refuse);
    }
    for range in config.service_cidrs.iter().map(IpNet::trunc) {
        let family = IpFamily::of(range.addr());
        let source = tables.pod_sources.get(&family).copied().or(address_of(own, family));
        // The source matters: without one the kernel takes the destination, and the refusal
        // would be addressed to the Service itself.
        if source.is_some() {
            let route =
                Route { kind: RouteKind::Local, link: Some("lo".to_owned()), source, ..BLANK };
            tables.routes.insert((range, METRIC), route);
        }
    }
    tables.cluster = cidrs.iter().copied().chain(host_nets(own)).collect();
    tables.pod_cidrs = cidrs;
    tables
}

fn host_nets(node: &Node) -> impl Iterator<Item = IpNet> {
    node.internal_ips.iter().copied().map(IpNet::from)
}

const BLANK: Route = Route {
    kind: RouteKind::Unicast,
    link: None,
    gateway: None,
    onlink: false,
    source: None,
    remote: None,
    mtu: None,
};

fn tunnel_mtu(config: &FabricConfig, outer: IpFamily) -> u32 {
    config.underlay.mtu.saturating_sub(match outer {
        IpFamily::V4 => VXLAN_OVERHEAD_V4,
        IpFamily::V6 => VXLAN_OVERHEAD_V6,
    })
}

fn address_of(node: &Node, family: IpFamily) -> Option<IpAddr> {
    node.internal_ips.iter().copied().find(|ip| IpFamily::of(*ip) == family)
}

/// Routes through the tunnel: the outer family is IPv4 where both nodes have it.
fn add_tunnelled(
    tables: &mut FabricTables,
    own: &Node,
    remote: &Node,
    cidrs: &[IpNet],
    config: &FabricConfig,
) -> Option<DiagnosticKind> {
    let outer = [IpFamily::V4, IpFamily::V6]
        .into_iter()
        .find(|f| address_of(own, *f).is_some() && address_of(remote, *f).is_some());
    let Some(outer) = outer else {
        return (!cidrs.is_empty()).then_some(DiagnosticKind::NoCommonAddress);
    };
    let mac = tunnel_mac(&remote.name);
    let mtu = tunnel_mtu(config, outer);
    for cidr in cidrs {
        let family = IpFamily::of(cidr.addr());
        let Some(gateway) = router_address(*cidr) else { continue };
        // Without a pod CIDR of the family there is nobody here to speak it, nor a source
        // to which replies would come back through the tunnel.
        let source = tables.routers.iter().copied().find(|r| IpFamily::of(*r) == family);
        if source.is_none() {
            continue;
        }
        let route = Route {
            link: Some(TUNNEL_LINK.to_owned()),
            gateway: Some(gateway),
            onlink: true,
            source,
            remote: address_of(remote, outer),
            mtu: (mtu < tables.pod_mtu).then_some(mtu),
            ..BLANK
        };
        tables.routes.insert((*cidr, METRIC), route);
        tables.neighbours.insert(Neighbour { ip: gateway, mac });
    }
    // A device drops what bears its own hardware address as source.
    (mac == tunnel_mac(&own.name)).then_some(DiagnosticKind::MacCollision)
}

/// Routes along the underlay: to the node where it is in one of our subnets, else to the
/// default router.
fn add_native(
    tables: &mut FabricTables,
    remote: &Node,
    cidrs: &[IpNet],
    config: &FabricConfig,
) -> Vec<DiagnosticKind> {
    let mut refused = Vec::new();
    for cidr in cidrs {
        let family = IpFamily::of(cidr.addr());
        let Some(address) = address_of(remote, family) else {
            refused.push(DiagnosticKind::NoAddressOfFamily(family));
            continue;
        };
        let near = config.underlay.addresses.iter().any(|subnet| subnet.contains(&address));
        let router = config.underlay.routers.iter().copied().find(|r| IpFamily::of(*r) == family);
        let Some(gateway) = (if near { Some(address) } else { router }) else {
            refused.push(DiagnosticKind::NoRouter(address));
            continue;
        };
        let link = Some(config.underlay.link.clone());
        tables.routes.insert((*cidr, METRIC), Route { link, gateway: Some(gateway), ..BLANK });
    }
    refused
}

#[cfg(test)]
mod tests;
