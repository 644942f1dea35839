//! The fabric's edge: what the kernel has, and the operations that change it.
//!
//! Blocking, and all about the calling thread's network namespace.

use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weft_fabric::{
    FabricTables, Neighbour, Observed, Op, Route, RouteKind, TUNNEL_LINK, Tunnel, Underlay, VNI,
};
use weft_model::Node;
use weft_netlink as nl;
use weft_netlink::Netlink;

/// `RTPROT_RA`: routes learnt from router advertisements (linux/rtnetlink.h).
const PROTOCOL_RA: u8 = 9;
const FORWARDING_V6: &str = "net/ipv6/conf/all/forwarding";

/// The uplink of `node`: the link that bears one of its `InternalIP`s, else the one of the
/// default route. `None` where there is neither.
pub fn observe_underlay(netlink: &Netlink, node: &Node) -> nl::Result<Option<Underlay>> {
    let (links, addresses) = (netlink.links()?, netlink.addresses()?);
    let routes = netlink.routes()?;
    let is_default = |r: &&nl::Route| r.dst.prefix_len() == 0 && r.gateway.is_some();
    let bearer = addresses
        .iter()
        .find(|a| node.internal_ips.contains(&a.net.addr()))
        .map(|a| a.index)
        .or_else(|| routes.iter().find(is_default).and_then(|r| r.oif));
    let Some(link) = links.into_iter().find(|l| Some(l.index) == bearer) else {
        return Ok(None);
    };
    let mut routers: Vec<IpAddr> = Vec::new();
    for route in routes.iter().filter(is_default).filter(|r| r.oif == Some(link.index)) {
        routers.extend(route.gateway);
    }
    routers.sort();
    let addresses = addresses
        .into_iter()
        .filter(|a| a.index == link.index && !a.link_local && !a.owned)
        .map(|a| a.net)
        .collect();
    Ok(Some(Underlay { link: link.name, mtu: link.mtu, addresses, routers }))
}

/// The ports that stand for clients outside, where a router address does: the larger part of
/// those that the node's own sockets do not take by themselves. `None` where that part is too
/// small to live on.
pub fn client_ports() -> Option<nl::netfilter::Ports> {
    let range = nl::sysctl::read("net/ipv4/ip_local_port_range")?;
    let mut ends = range.split_ascii_whitespace().map(|n| n.parse().ok());
    outside_of(ends.next()??, ends.next()??)
}

fn outside_of(first: u16, last: u16) -> Option<nl::netfilter::Ports> {
    /// Ports below are servers' (RFC 6335).
    const FIRST: u16 = 1024;
    /// As many clients can talk to one target and port at a time.
    const ENOUGH: u16 = 4096;
    let below = FIRST..=first.saturating_sub(1);
    let above = last.saturating_add(1).max(FIRST)..=u16::MAX;
    let size = |r: &nl::netfilter::Ports| r.end().saturating_sub(*r.start());
    let larger = if size(&below) >= size(&above) { below } else { above };
    (size(&larger) >= ENOUGH).then_some(larger)
}

/// What the kernel has, within what Weft owns; sysctls are read as far as `desired` names
/// them.
pub fn observe(netlink: &Netlink, desired: &FabricTables) -> nl::Result<Observed> {
    // Routes before links: a CNI ADD may run meanwhile. The other way round, the route of a
    // pod link made between the two dumps had a link without a name, was taken for an orphan
    // of the fabric, and removed.
    let routes = netlink.routes()?;
    let links = netlink.links()?;
    let names: BTreeMap<u32, &str> = links.iter().map(|l| (l.index, l.name.as_str())).collect();
    let name = |index: Option<u32>| Some((*names.get(&index?)?).to_owned());
    let mut observed = Observed::default();
    let tunnel = links.iter().find(|l| l.name == TUNNEL_LINK);
    if let Some(link) = tunnel {
        observed.tunnel_up = link.up;
        observed.tunnel = Some(match (&link.vxlan, link.mac) {
            (Some(v), Some(mac)) if v.external => {
                Ok(Tunnel { port: v.port, mtu: link.mtu, mac: mac.0 })
            }
            _ => Err(()),
        });
        let neighbours = netlink.neighbours()?.into_iter().filter(|n| n.index == link.index);
        observed.neighbours = neighbours.map(|n| Neighbour { ip: n.ip, mac: n.mac.0 }).collect();
    }
    let lo = links.iter().find(|l| l.name == "lo").map(|l| l.index);
    let addresses = netlink.addresses()?;
    let own_cidr = |net: &IpNet| desired.addresses.contains(net);
    let on_lo = addresses.into_iter().filter(|a| Some(a.index) == lo);
    // Kernels before 5.18 keep no mark on IPv6 addresses: those that we want count as ours.
    observed.addresses = on_lo.filter(|a| a.owned || own_cidr(&a.net)).map(|a| a.net).collect();
    for route in routes.into_iter().filter(|r| r.protocol == nl::PROTOCOL) {
        let link = name(route.oif);
        if route.oif.is_some() && link.is_none() {
            continue; // its link has gone since, and the route with it
        }
        let key = (route.dst, route.metric.unwrap_or(0));
        let remote = route.encap.as_ref().filter(|e| e.id == VNI).map(|e| e.remote);
        let route = Route {
            kind: match route.kind {
                nl::RouteKind::Unicast => RouteKind::Unicast,
                nl::RouteKind::Local => RouteKind::Local,
                nl::RouteKind::Unreachable => RouteKind::Unreachable,
            },
            link,
            gateway: route.gateway,
            onlink: route.onlink,
            source: route.prefsrc,
            remote,
            mtu: route.mtu,
        };
        observed.routes.insert(key, route);
    }
    for key in desired.sysctls.keys() {
        observed.sysctls.extend(nl::sysctl::read(key).map(|value| (key.clone(), value)));
    }
    Ok(observed)
}

/// Brings the kernel to `desired`: observe, compare, apply. Goes on after an error and
/// returns all of them; gives back how many operations succeeded.
pub fn apply(netlink: &Netlink, desired: &FabricTables) -> Result<usize, Vec<nl::Error>> {
    let observed = observe(netlink, desired).map_err(|e| vec![e])?;
    let ops = weft_fabric::diff(desired, &observed);
    let (mut done, mut errors) = (0, Vec::new());
    if let Err(e) = netlink.set_up("lo") {
        errors.push(e);
    }
    for op in &ops {
        match apply_op(netlink, op) {
            Ok(()) => done += 1,
            Err(e) => errors.push(e),
        }
    }
    if errors.is_empty() { Ok(done) } else { Err(errors) }
}

fn apply_op(netlink: &Netlink, op: &Op) -> nl::Result<()> {
    match op {
        Op::DeleteTunnel => netlink.delete_link(TUNNEL_LINK),
        Op::PutTunnel(tunnel) => put_tunnel(netlink, tunnel),
        Op::WriteSysctl(key, value) => {
            if key == FORWARDING_V6 {
                keep_advertisements(netlink)?;
            }
            nl::sysctl::write(key, value)
        }
        Op::AddAddress(net) => netlink.add_owned_address("lo", *net),
        Op::DeleteAddress(net) => netlink.delete_address("lo", *net),
        Op::PutNeighbour(n) => netlink.replace_neighbour(&nl::Neighbour {
            index: netlink.index_of(TUNNEL_LINK)?,
            ip: n.ip,
            mac: nl::Mac(n.mac),
        }),
        Op::DeleteNeighbour(n) => match netlink.link(TUNNEL_LINK)? {
            Some(link) => netlink.delete_neighbour(link.index, n.ip),
            None => Ok(()),
        },
        Op::PutRoute(dst, metric, route) => {
            let route = kernel_route(netlink, *dst, *metric, route)?;
            match netlink.replace_route(&route) {
                // An IPv6 `onlink` next hop is refused while another route (the one that is
                // to be replaced) leads to it over another link.
                Err(e) if e.errno() == Some(libc::EINVAL) && route.onlink => {
                    netlink
                        .delete_route(&nl::Route { metric: route.metric, ..nl::Route::to(*dst) })?;
                    netlink.replace_route(&route)
                }
                other => other,
            }
        }
        Op::DeleteRoute(dst, metric, route) => {
            // Only kind, destination and metric: the link may be gone already.
            let bare = Route {
                link: None,
                gateway: None,
                source: None,
                remote: None,
                mtu: None,
                onlink: false,
                ..route.clone()
            };
            netlink.delete_route(&kernel_route(netlink, *dst, *metric, &bare)?)
        }
    }
}

fn put_tunnel(netlink: &Netlink, tunnel: &Tunnel) -> nl::Result<()> {
    netlink.create_vxlan(&nl::VxlanSpec {
        name: TUNNEL_LINK,
        port: tunnel.port,
        mtu: tunnel.mtu,
        mac: nl::Mac(tunnel.mac),
    })?;
    // Next hops on it are permanent neighbours: nothing needs a link-local address.
    let up = nl::LinkChange { up: Some(true), no_link_local: true, ..Default::default() };
    netlink.set_link(TUNNEL_LINK, &up)
}

fn kernel_route(
    netlink: &Netlink,
    dst: IpNet,
    metric: u32,
    route: &Route,
) -> nl::Result<nl::Route> {
    let oif = route.link.as_deref().map(|name| netlink.index_of(name)).transpose()?;
    Ok(nl::Route {
        kind: match route.kind {
            RouteKind::Unicast => nl::RouteKind::Unicast,
            RouteKind::Local => nl::RouteKind::Local,
            RouteKind::Unreachable => nl::RouteKind::Unreachable,
        },
        gateway: route.gateway,
        oif,
        prefsrc: route.source,
        mtu: route.mtu,
        onlink: route.onlink,
        metric: Some(metric).filter(|m| *m != 0),
        encap: route.remote.map(|remote| nl::Encap { id: VNI, remote }),
        ..nl::Route::to(dst)
    })
}

/// Forwarding makes the kernel ignore router advertisements unless `accept_ra` is 2. Links
/// with routes from advertisements get that first, or the node would lose its uplink.
fn keep_advertisements(netlink: &Netlink) -> nl::Result<()> {
    let learnt: BTreeSet<u32> = netlink
        .routes()?
        .iter()
        .filter(|r| r.protocol == PROTOCOL_RA)
        .filter_map(|r| r.oif)
        .collect();
    for link in netlink.links()?.iter().filter(|l| learnt.contains(&l.index)) {
        let key = format!("net/ipv6/conf/{}/accept_ra", link.name);
        if nl::sysctl::read(&key).as_deref() == Some("1") {
            nl::sysctl::write(&key, "2")?;
        }
    }
    Ok(())
}

/// Removes what the fabric and the pods have in the calling thread's namespace: pod links,
/// tunnel, routes, addresses and the netfilter table. Goes on after errors and returns all.
pub fn remove(netlink: &Netlink) -> Vec<nl::Error> {
    let mut errors = Vec::new();
    let mut note = |result: nl::Result<()>| errors.extend(result.err());
    note(nl::netfilter::delete());
    match netlink.links() {
        Ok(links) => {
            let ours = |n: &str| n == TUNNEL_LINK || n.starts_with(weft_fabric::POD_LINK_PREFIX);
            for link in links.iter().filter(|l| ours(&l.name)) {
                note(netlink.delete_link(&link.name));
            }
        }
        Err(e) => note(Err(e)),
    }
    match netlink.routes() {
        Ok(routes) => {
            for route in routes.iter().filter(|r| r.protocol == nl::PROTOCOL) {
                note(netlink.delete_route(route));
            }
        }
        Err(e) => note(Err(e)),
    }
    match netlink.addresses() {
        Ok(addresses) => {
            for address in addresses.iter().filter(|a| a.owned) {
                note(netlink.delete_address("lo", address.net));
            }
        }
        Err(e) => note(Err(e)),
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::outside_of;

    #[test]
    fn clients_get_the_ports_that_the_node_does_not_use() {
        assert_eq!(outside_of(32_768, 60_999), Some(1024..=32_767));
        assert_eq!(outside_of(1024, 40_000), Some(40_001..=65_535));
        assert_eq!(outside_of(1024, 65_535), None);
        assert_eq!(outside_of(0, 65_535), None);
        assert_eq!(outside_of(3000, 64_000), None);
    }
}
