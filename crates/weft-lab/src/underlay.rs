//! Builds the underlay in the kernel: a namespace with a bridge per zone and a router
//! between them, a namespace per node, and the client's.
//!
//! Every step adopts what is already there, so that building again after a crash changes
//! nothing. Links are created inside the underlay's namespace with the peer in the node's:
//! the machine's own namespace never holds one.

use anyhow::{Context, Result};
use ipnet::IpNet;
use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    path::Path,
};
use weft_netlink::{Netlink, Route, VethSpec, netns, sysctl};

use crate::{
    paths::LabPaths,
    topology::{API_PORT, Host, Topology},
};

/// MTU of the underlay's links in bytes.
const MTU: u32 = 1500;

/// Builds all of it.
pub fn build(paths: &LabPaths, topology: &Topology) -> Result<()> {
    let name = paths.netns_name("underlay");
    let underlay = netns::create_named(&name).with_context(|| format!("make namespace {name}"))?;
    let v6 = topology.api.iter().any(IpAddr::is_ipv6);
    if v6 && !Path::new("/proc/sys/net/ipv6").exists() {
        anyhow::bail!("IPv6 is off in this kernel: use --ip-family ipv4");
    }
    trust_addresses(&underlay)?;
    forward(&underlay, v6)?;
    let router = Netlink::open_in(&underlay).context("open netlink in the underlay")?;
    router.set_up("lo").context("underlay: set lo up")?;
    for api in &topology.api {
        router.add_address("lo", IpNet::from(*api)).context("underlay: address of the API")?;
    }
    for zone in &topology.zones {
        router
            .create_bridge(&zone.bridge)
            .with_context(|| format!("make bridge {}", zone.bridge))?;
        for address in &zone.router {
            router.add_address(&zone.bridge, *address).context("underlay: router address")?;
        }
        router.set_up(&zone.bridge).with_context(|| format!("set bridge {} up", zone.bridge))?;
    }
    for host in topology.nodes.iter().chain([&topology.client]) {
        let bridge = &topology.zones[host.zone].bridge;
        plug_in(paths, &router, host, bridge)
            .with_context(|| format!("build namespace {}", paths.netns_name(&host.name)))?;
    }
    Ok(())
}

/// The underlay forwards between zones; what one kernel shares must not filter it.
fn forward(underlay: &Path, v6: bool) -> Result<()> {
    sysctl::write_in(
        underlay,
        &[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
        ],
    )
    .context("underlay: forwarding")?;
    if v6 {
        sysctl::write_in(underlay, &[("net/ipv6/conf/all/forwarding", "1")])
            .context("underlay: IPv6 forwarding")?;
    }
    // Present only where br_netfilter is loaded; a new namespace starts with 1.
    for key in ["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"] {
        netns::run_in(underlay, || match sysctl::read(key) {
            Some(_) => sysctl::write(key, "0"),
            None => Ok(()),
        })
        .and_then(|done| done)
        .with_context(|| format!("underlay: {key}"))?;
    }
    Ok(())
}

/// Links that are made in this namespace from now on use their IPv6 addresses at once. The
/// kernel's own link-local one would wait two seconds for somebody else who has it, and without
/// it a router asks for no neighbour: whatever was sent in that time was lost.
fn trust_addresses(namespace: &Path) -> Result<()> {
    for key in ["net/ipv6/conf/default/accept_dad", "net/ipv6/conf/default/dad_transmits"] {
        netns::run_in(namespace, || match sysctl::read(key) {
            Some(_) => sysctl::write(key, "0"),
            None => Ok(()),
        })
        .and_then(|done| done)
        .with_context(|| format!("{}: {key}", namespace.display()))?;
    }
    Ok(())
}

fn plug_in(paths: &LabPaths, router: &Netlink, host: &Host, bridge: &str) -> Result<()> {
    let name = paths.netns_name(&host.name);
    let path = netns::create_named(&name)?;
    trust_addresses(&path)?;
    // hostNetwork containers have no capability over the node's namespace: as in pods, ports
    // below 1024 and ping are open to all.
    sysctl::write_in(
        &path,
        &[
            ("net/ipv4/ip_unprivileged_port_start", "0"),
            ("net/ipv4/ping_group_range", "0 2147483647"),
        ],
    )?;
    router.create_veth(&VethSpec {
        name: &host.port,
        peer_name: "eth0",
        peer_netns: Some(&path),
        mtu: Some(MTU),
        ..VethSpec::default()
    })?;
    router.set_controller(&host.port, bridge)?;
    router.set_up(&host.port)?;
    let inside = Netlink::open_in(&path)?;
    inside.set_up("lo")?;
    for address in &host.addresses {
        inside.add_address("eth0", *address)?;
    }
    inside.set_up("eth0")?;
    let oif = Some(inside.index_of("eth0")?);
    for gateway in &host.gateways {
        let route = Route {
            gateway: Some(*gateway),
            oif,
            protocol: STATIC,
            ..Route::to(Route::default_of(*gateway))
        };
        inside.replace_route(&route)?;
    }
    Ok(())
}

/// RTPROT_STATIC: an administrator's route, not one of the agent's (77), which the agent
/// would remove as an orphan.
const STATIC: u8 = 4;

/// Binds the API's sockets inside the underlay; a socket keeps its namespace.
pub fn bind_api(paths: &LabPaths, topology: &Topology) -> Result<Vec<TcpListener>> {
    let api = topology.api.clone();
    netns::run_in(&paths.netns("underlay"), move || {
        api.iter()
            .map(|ip| {
                let at = SocketAddr::new(*ip, API_PORT);
                TcpListener::bind(at).with_context(|| format!("listen on {at} in the underlay"))
            })
            .collect()
    })
    .context("enter the underlay")?
}

/// Routes a node's pod range to it on the underlay's router, for native routing between
/// zones: what a cloud's route table or a BGP peer does elsewhere.
pub fn route_pods(paths: &LabPaths, pods: IpNet, node: IpAddr) -> Result<()> {
    let router =
        Netlink::open_in(&paths.netns("underlay")).context("open netlink in the underlay")?;
    let route = Route { gateway: Some(node), protocol: STATIC, ..Route::to(pods) };
    router.replace_route(&route).with_context(|| format!("route {pods} to {node}"))
}
