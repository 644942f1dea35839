//! One pod's link: a veth pair without a bridge.
//!
//! ```text
//! pod:  eth0  10.244.1.5/32  default via 169.254.1.1 onlink, permanent neighbour
//!   │
//! node: wv…   no address     10.244.1.5/32 dev wv…, permanent neighbour
//! ```
//!
//! Nobody asks for neighbours: both ends know the other's hardware address, so neither proxy
//! ARP nor neighbour discovery is needed, and the machine-wide neighbour limits do not count.
//! Blocking, and about the calling thread's network namespace (the node's).

use ipnet::IpNet;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};
use weft_fabric::POD_LINK_PREFIX;
use weft_model::IpFamily;
use weft_netlink as nl;
use weft_netlink::{Mac, Netlink, netns, sysctl};

/// Gateway of every pod, IPv4: link-local, so that it collides with nobody's network.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Gateway of every pod, IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The gateway of a family.
pub fn gateway(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => GATEWAY_V4.into(),
        IpFamily::V6 => GATEWAY_V6.into(),
    }
}

/// What shall be.
#[derive(Clone, Debug)]
pub struct PodLink<'a> {
    /// CNI container id.
    pub container_id: &'a str,
    /// Name of the link in the pod.
    pub ifname: &'a str,
    /// Path of the pod's network namespace.
    pub netns: &'a Path,
    /// The pod's addresses, at most one a family.
    pub ips: &'a [IpAddr],
    /// MTU in bytes.
    pub mtu: u32,
    /// Source of the node towards the pod, by family.
    pub sources: &'a BTreeMap<IpFamily, IpAddr>,
}

/// FNV-1a over container id and interface name.
fn hash(container_id: &str, ifname: &str, salt: u8) -> u64 {
    let bytes = container_id.bytes().chain([0]).chain(ifname.bytes()).chain([0, salt]);
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash ^ (hash >> 29)
}

/// Name of a pod link on the node's side: `wv` and 13 hexadecimal digits, 15 characters in
/// all, which is the most that the kernel takes. 52 bits: among 1,000 pods of a node two
/// agree with a chance of 1 in 10 thousand millions.
pub fn link_name(container_id: &str, ifname: &str) -> String {
    format!("{POD_LINK_PREFIX}{:013x}", hash(container_id, ifname, 0) & 0x000f_ffff_ffff_ffff)
}

/// Hardware address of one end (locally administered).
fn mac(container_id: &str, ifname: &str, end: u8) -> Mac {
    let [_, _, _, b, c, d, e, f] = hash(container_id, ifname, end).to_be_bytes();
    Mac([0x02, b, c, d, e, f])
}

/// Makes the link; packets pass it after [`bring_up`]. What is there already stays, so both can
/// be repeated; after an error the caller detaches.
pub fn make(netlink: &Netlink, pod: &PodLink<'_>) -> nl::Result<Mac> {
    let name = link_name(pod.container_id, pod.ifname);
    let node_mac = mac(pod.container_id, pod.ifname, 1);
    let pod_mac = mac(pod.container_id, pod.ifname, 2);
    let spec = nl::VethSpec {
        name: &name,
        peer_name: pod.ifname,
        peer_netns: Some(pod.netns),
        mtu: Some(pod.mtu),
        mac: Some(node_mac),
        peer_mac: Some(pod_mac),
    };
    match netlink.create_veth(&spec) {
        Err(e) if matches!(e, nl::Error::Mismatch { .. }) || e.errno() == Some(libc::EEXIST) => {
            // The name belongs to this container alone: an end without its counterpart is a
            // leftover of an earlier namespace of it.
            netlink.delete_link(&name)?;
            netlink.create_veth(&spec)?;
        }
        other => other?,
    }
    Ok(pod_mac)
}

/// Brings both ends of the link up, with addresses and routes. Idempotent. From here on packets
/// pass, so that what judges them is there before.
pub fn bring_up(netlink: &Netlink, pod: &PodLink<'_>) -> nl::Result<()> {
    let node_mac = mac(pod.container_id, pod.ifname, 1);
    let pod_mac = mac(pod.container_id, pod.ifname, 2);
    attach_node_side(netlink, pod, &link_name(pod.container_id, pod.ifname), pod_mac)?;
    netns::run_in(pod.netns, || attach_pod_side(pod, node_mac))?
}

fn has(pod: &PodLink<'_>, family: IpFamily) -> bool {
    pod.ips.iter().any(|ip| IpFamily::of(*ip) == family)
}

fn attach_node_side(
    netlink: &Netlink,
    pod: &PodLink<'_>,
    name: &str,
    pod_mac: Mac,
) -> nl::Result<()> {
    sysctl::write(&format!("net/ipv4/conf/{name}/rp_filter"), "0")?;
    sysctl::write(&format!("net/ipv4/conf/{name}/forwarding"), "1")?;
    if has(pod, IpFamily::V6) {
        for (key, value) in
            [("disable_ipv6", "0"), ("accept_dad", "0"), ("accept_ra", "0"), ("forwarding", "1")]
        {
            sysctl::write(&format!("net/ipv6/conf/{name}/{key}"), value)?;
        }
    }
    let up = nl::LinkChange { up: Some(true), no_link_local: true, ..Default::default() };
    netlink.set_link(name, &up)?;
    let index = netlink.index_of(name)?;
    for ip in pod.ips {
        netlink.replace_neighbour(&nl::Neighbour { index, ip: *ip, mac: pod_mac })?;
        netlink.replace_route(&nl::Route {
            oif: Some(index),
            prefsrc: pod.sources.get(&IpFamily::of(*ip)).copied(),
            ..nl::Route::to(IpNet::from(*ip))
        })?;
    }
    Ok(())
}

/// Runs inside the pod's namespace.
fn attach_pod_side(pod: &PodLink<'_>, node_mac: Mac) -> nl::Result<()> {
    let (netlink, name) = (Netlink::open()?, pod.ifname);
    if has(pod, IpFamily::V6) {
        sysctl::write("net/ipv6/conf/lo/disable_ipv6", "0")?;
        for (key, value) in [("disable_ipv6", "0"), ("accept_dad", "0"), ("accept_ra", "0")] {
            sysctl::write(&format!("net/ipv6/conf/{name}/{key}"), value)?;
        }
    }
    netlink.set_up("lo")?;
    netlink.set_up(name)?;
    let index = netlink.index_of(name)?;
    for ip in pod.ips {
        let gateway = gateway(IpFamily::of(*ip));
        netlink.add_address(name, IpNet::from(*ip))?;
        netlink.replace_neighbour(&nl::Neighbour { index, ip: gateway, mac: node_mac })?;
        netlink.replace_route(&nl::Route {
            gateway: Some(gateway),
            oif: Some(index),
            onlink: true,
            ..nl::Route::to(nl::Route::default_of(gateway))
        })?;
    }
    Ok(())
}

/// Removes the link, and with it routes and neighbours on both sides; absent is fine.
pub fn detach(netlink: &Netlink, container_id: &str, ifname: &str) -> nl::Result<()> {
    netlink.delete_link(&link_name(container_id, ifname))
}

/// Compares what is with what shall be; the error is a sentence.
pub fn check(netlink: &Netlink, pod: &PodLink<'_>) -> Result<(), String> {
    let text = |e: nl::Error| e.to_string();
    let name = link_name(pod.container_id, pod.ifname);
    let near = netlink.link(&name).map_err(text)?.ok_or(format!("link {name} is gone"))?;
    if !near.up {
        return Err(format!("link {name} is down"));
    }
    let routes = netlink.routes().map_err(text)?;
    for ip in pod.ips {
        if !routes.iter().any(|r| r.dst == IpNet::from(*ip) && r.oif == Some(near.index)) {
            return Err(format!("the route to {ip} by {name} is gone"));
        }
    }
    netns::run_in(pod.netns, || check_pod_side(pod)).map_err(text)?
}

fn check_pod_side(pod: &PodLink<'_>) -> Result<(), String> {
    let text = |e: nl::Error| e.to_string();
    let (netlink, name) = (Netlink::open().map_err(text)?, pod.ifname);
    let link = netlink.link(name).map_err(text)?.ok_or(format!("link {name} is gone"))?;
    if !link.up {
        return Err(format!("link {name} is down"));
    }
    let (addresses, routes) = (netlink.addresses().map_err(text)?, netlink.routes().map_err(text)?);
    for ip in pod.ips {
        let gateway = gateway(IpFamily::of(*ip));
        let default = nl::Route::default_of(gateway);
        if !addresses.iter().any(|a| a.index == link.index && a.net == IpNet::from(*ip)) {
            return Err(format!("address {ip} on {name} is gone"));
        }
        if !routes.iter().any(|r| r.dst == default && r.gateway == Some(gateway)) {
            return Err(format!("the default route via {gateway} is gone"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_fit_the_kernel(id in "[a-z0-9]{1,64}", ifname in "[a-z0-9]{1,15}") {
            let name = link_name(&id, &ifname);
            prop_assert_eq!(name.len(), 15);
            prop_assert!(name.starts_with("wv") && name.bytes().all(|b| b.is_ascii_alphanumeric()));
            prop_assert_ne!(mac(&id, &ifname, 1), mac(&id, &ifname, 2));
        }
    }

    #[test]
    fn container_and_interface_are_told_apart() {
        let names = [("a", "bc"), ("ab", "c"), ("a", "b"), ("b", "a")];
        let names: std::collections::BTreeSet<String> =
            names.iter().map(|(a, b)| link_name(a, b)).collect();
        assert_eq!(names.len(), 4);
    }
}
