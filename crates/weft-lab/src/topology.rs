//! The underlay of a lab as data: which namespaces, links, addresses and routes it has.
//! Pure; the same config always gives the same topology.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use weft_model::{IpFamily, LabName};

use crate::config::Config;

/// TCP port of the API on the underlay.
pub const API_PORT: u16 = 6443;

/// One zone: a bridge and its subnets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Label value of `topology.kubernetes.io/zone`: `zone1`, …
    pub name: String,
    /// Bridge in the underlay namespace.
    pub bridge: String,
    /// The router's addresses, with the subnet's prefix length.
    pub router: Vec<IpNet>,
}

/// A namespace with one uplink into the underlay: a node, or the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Last part of the namespace's name: `node1`, `client`.
    pub name: String,
    /// Index into [`Topology::zones`].
    pub zone: usize,
    /// Name of its port in the underlay namespace.
    pub port: String,
    /// Addresses of `eth0`, with the subnet's prefix length.
    pub addresses: Vec<IpNet>,
    /// Default gateways, one a family.
    pub gateways: Vec<IpAddr>,
}

/// A lab's underlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The lab.
    pub lab: LabName,
    /// Zones of nodes; the last one is the client's own.
    pub zones: Vec<Zone>,
    /// The nodes.
    pub nodes: Vec<Host>,
    /// A machine outside the cluster.
    pub client: Host,
    /// Addresses of the API on the underlay's loopback, one a family.
    pub api: Vec<IpAddr>,
}

const CLIENT_SUBNET: u8 = 250;
const API_SUBNET: u8 = 254;

/// Subnet `n` of the underlay.
fn subnet(family: IpFamily, n: u8) -> IpNet {
    match family {
        IpFamily::V4 => net(Ipv4Addr::new(172, 30, n, 0).into(), 24),
        IpFamily::V6 => net(Ipv6Addr::new(0xfd00, 0x30, decimal(n), 0, 0, 0, 0, 0).into(), 64),
    }
}

/// Writes a subnet number so that it reads the same in IPv6 as in IPv4: 250 as 0x250.
fn decimal(n: u8) -> u16 {
    let n = u16::from(n);
    ((n / 100) << 8) | ((n / 10 % 10) << 4) | (n % 10)
}

fn net(addr: IpAddr, len: u8) -> IpNet {
    IpNet::new(addr, len).expect("invariant: constant prefix length")
}

fn host_in(subnet: IpNet, n: u16) -> IpNet {
    let addr = match subnet {
        IpNet::V4(s) => IpAddr::V4((u32::from(s.network()) + u32::from(n)).into()),
        IpNet::V6(s) => {
            // Digits read alike: host 10 is ::10.
            let read_alike = u16::from_str_radix(&n.to_string(), 16).unwrap_or(n);
            IpAddr::V6((u128::from(s.network()) + u128::from(read_alike)).into())
        }
    };
    net(addr, subnet.prefix_len())
}

/// The ranges that the underlay uses whatever its size: pod and Service ranges keep clear.
pub fn reserved() -> impl Iterator<Item = IpNet> {
    [
        net(Ipv4Addr::new(172, 30, 0, 0).into(), 16),
        net("fd00:30::".parse().expect("invariant: constant"), 32),
    ]
    .into_iter()
}

/// Plans the underlay.
pub fn plan(config: &Config) -> Topology {
    let families = config.ip_family.list();
    let zone = |name: String, bridge: String, n: u8| Zone {
        name,
        bridge,
        router: families.iter().map(|f| host_in(subnet(*f, n), 1)).collect(),
    };
    let mut zones: Vec<Zone> =
        (1..=config.zones).map(|z| zone(format!("zone{z}"), format!("zone{z}"), z as u8)).collect();
    zones.push(zone("outside".into(), "outside".into(), CLIENT_SUBNET));
    let host = |name: String, zone: usize, subnet_n: u8, n: u16| Host {
        port: name.clone(),
        name,
        zone,
        addresses: families.iter().map(|f| host_in(subnet(*f, subnet_n), n)).collect(),
        gateways: families.iter().map(|f| host_in(subnet(*f, subnet_n), 1).addr()).collect(),
    };
    let nodes = config
        .node_names()
        .zip(0u16..)
        .map(|(name, i)| {
            let zone = i % config.zones;
            host(name, usize::from(zone), zone as u8 + 1, 11 + i)
        })
        .collect();
    Topology {
        lab: config.name.clone(),
        client: host("client".into(), zones.len() - 1, CLIENT_SUBNET, 10),
        zones,
        nodes,
        api: families.iter().map(|f| host_in(subnet(*f, API_SUBNET), 1).addr()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LabFile;
    use std::collections::BTreeSet;

    #[test]
    fn addresses_are_unique_and_inside_the_reserved_ranges() {
        let config = LabFile { nodes: Some(100), zones: Some(9), ..LabFile::default() };
        let t = plan(&config.validate().expect("valid"));
        let mut seen = BTreeSet::new();
        let all = t.nodes.iter().chain([&t.client]).flat_map(|h| h.addresses.iter());
        for a in all.chain(t.zones.iter().flat_map(|z| z.router.iter())) {
            assert!(seen.insert(a.addr()), "{a} twice");
            assert!(reserved().any(|r| r.contains(&a.addr())), "{a}");
        }
    }

    #[test]
    fn gateways_are_on_the_hosts_subnet() {
        let config = LabFile { zones: Some(2), ..LabFile::default() };
        let t = plan(&config.validate().expect("valid"));
        for h in t.nodes.iter().chain([&t.client]) {
            for (a, g) in h.addresses.iter().zip(&h.gateways) {
                assert!(a.contains(g), "{a} {g}");
            }
        }
        assert_eq!(t.nodes[0].addresses[1].to_string(), "fd00:30:1::11/64");
        assert_eq!(t.api[1].to_string(), "fd00:30:254::1");
    }
}
