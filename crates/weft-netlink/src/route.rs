//! Routes of the main table (linux/rtnetlink.h, linux/lwtunnel.h).

use crate::{
    PROTOCOL,
    error::{Result, tolerate},
    socket::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, Netlink},
    wire::{self, Message, Received},
};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTMSG_LEN: usize = 12;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_TABLE: u16 = 15;
const RTA_ENCAP_TYPE: u16 = 21;
const RTA_ENCAP: u16 = 22;
const RTAX_MTU: u16 = 2;
const RTNH_F_ONLINK: u32 = 4;
const RTM_F_CLONED: u32 = 0x200;
const RT_TABLE_MAIN: u8 = 254;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RT_SCOPE_HOST: u8 = 254;
/// In a deletion: any scope.
const RT_SCOPE_NOWHERE: u8 = 255;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const RTN_UNREACHABLE: u8 = 7;
const LWTUNNEL_ENCAP_IP: u16 = 2;
const LWTUNNEL_ENCAP_IP6: u16 = 4;
// The attribute numbers are the same for LWTUNNEL_IP_* and LWTUNNEL_IP6_*.
const LWTUNNEL_IP_ID: u16 = 1;
const LWTUNNEL_IP_DST: u16 = 2;
const LWTUNNEL_IP_FLAGS: u16 = 6;
const TUNNEL_CSUM: u16 = 0x01;

/// What becomes of packets that match a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// Sent on.
    Unicast,
    /// Delivered to the namespace itself; the link is lo.
    Local,
    /// Refused with "host unreachable".
    Unreachable,
}

/// Tunnel metadata that a route gives its packets, for a collect-metadata device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Encap {
    /// Tunnel key: the VNI.
    pub id: u32,
    /// Outer destination.
    pub remote: IpAddr,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Kind.
    pub kind: RouteKind,
    /// Next hop; of the family of `dst`.
    pub gateway: Option<IpAddr>,
    /// Index of the outgoing link.
    pub oif: Option<u32>,
    /// Preferred source address.
    pub prefsrc: Option<IpAddr>,
    /// Path MTU in bytes.
    pub mtu: Option<u32>,
    /// The next hop is taken to be on the link, whatever the addresses say.
    pub onlink: bool,
    /// Metric; `None` is the kernel's default (0 for IPv4, 1024 for IPv6).
    pub metric: Option<u32>,
    /// Tunnel metadata.
    pub encap: Option<Encap>,
    /// Who made it: [`PROTOCOL`] for Weft.
    pub protocol: u8,
}

impl Route {
    /// A route of Weft's to `dst`, to be completed.
    pub fn to(dst: IpNet) -> Self {
        Self {
            dst: dst.trunc(),
            kind: RouteKind::Unicast,
            gateway: None,
            oif: None,
            prefsrc: None,
            mtu: None,
            onlink: false,
            metric: None,
            encap: None,
            protocol: PROTOCOL,
        }
    }

    /// The default route of a family (`0.0.0.0/0` or `::/0`), as destination.
    pub fn default_of(gateway: IpAddr) -> IpNet {
        let any: IpAddr = match gateway {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        IpNet::new(any, 0).expect("invariant: 0 is a prefix length of both families")
    }

    fn message(&self, kind: u16, flags: u16) -> Message {
        let route_flags = if self.onlink { RTNH_F_ONLINK } else { 0 };
        let mut h = [0; RTMSG_LEN];
        h[0] = wire::family(self.dst.addr());
        h[1] = self.dst.prefix_len();
        h[4] = RT_TABLE_MAIN;
        h[5] = self.protocol;
        let (type_number, v4_scope) = match self.kind {
            RouteKind::Unicast if self.gateway.is_none() => (RTN_UNICAST, RT_SCOPE_LINK),
            RouteKind::Unicast => (RTN_UNICAST, RT_SCOPE_UNIVERSE),
            RouteKind::Local => (RTN_LOCAL, RT_SCOPE_HOST),
            RouteKind::Unreachable => (RTN_UNREACHABLE, RT_SCOPE_UNIVERSE),
        };
        // The scope of IPv6 routes is always universe.
        h[6] = match (self.dst.addr().is_ipv4(), kind) {
            (true, RTM_DELROUTE) => RT_SCOPE_NOWHERE,
            (true, _) => v4_scope,
            (false, _) => RT_SCOPE_UNIVERSE,
        };
        h[7] = type_number;
        h[8..12].copy_from_slice(&route_flags.to_ne_bytes());
        let mut m = Message::new(kind, flags).header(&h);
        if self.dst.prefix_len() > 0 {
            m.attr(RTA_DST, &wire::ip_bytes(self.dst.network()));
        }
        if let Some(gateway) = self.gateway {
            m.attr(RTA_GATEWAY, &wire::ip_bytes(gateway));
        }
        if let Some(oif) = self.oif {
            m.attr_u32(RTA_OIF, oif);
        }
        if let Some(src) = self.prefsrc {
            m.attr(RTA_PREFSRC, &wire::ip_bytes(src));
        }
        if let Some(metric) = self.metric {
            m.attr_u32(RTA_PRIORITY, metric);
        }
        if let Some(mtu) = self.mtu {
            m.nest(RTA_METRICS, |n| {
                n.attr_u32(RTAX_MTU, mtu);
            });
        }
        if let Some(encap) = &self.encap {
            let v4 = encap.remote.is_ipv4();
            let kind = if v4 { LWTUNNEL_ENCAP_IP } else { LWTUNNEL_ENCAP_IP6 };
            m.attr(RTA_ENCAP_TYPE, &kind.to_ne_bytes()).nest(RTA_ENCAP, |n| {
                n.attr(LWTUNNEL_IP_ID, &u64::from(encap.id).to_be_bytes())
                    .attr(LWTUNNEL_IP_DST, &wire::ip_bytes(encap.remote));
                if !v4 {
                    // A UDP checksum is compulsory over IPv6; without this flag the kernel
                    // sends none, and the receiver drops the packet (RFC 8200 section 8.1).
                    n.attr(LWTUNNEL_IP_FLAGS, &TUNNEL_CSUM.to_be_bytes());
                }
            });
        }
        m
    }
}

impl Netlink {
    /// Adds a route, in place of one to the same destination with the same metric.
    pub fn replace_route(&self, route: &Route) -> Result<()> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.request("replace route to", route.dst, route.message(RTM_NEWROUTE, flags)).map(drop)
    }

    /// Removes a route (destination, metric and protocol must agree, and next hop and link
    /// where given); an absent one is fine.
    pub fn delete_route(&self, route: &Route) -> Result<()> {
        let m = route.message(RTM_DELROUTE, NLM_F_REQUEST | NLM_F_ACK);
        let result = self.request("delete route to", route.dst, m).map(drop);
        tolerate(result, &[libc::ESRCH, libc::ENODEV, libc::ENOENT])
    }

    /// All routes of the main table, both families; multipath routes and kinds other than
    /// those of [`RouteKind`] are left out.
    pub fn routes(&self) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut h = [0; RTMSG_LEN];
            h[0] = family as u8;
            let m = Message::new(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP).header(&h);
            routes.extend(self.dump("list routes", &m)?.iter().filter_map(parse));
        }
        Ok(routes)
    }
}

fn parse(m: &Received) -> Option<Route> {
    if m.kind != RTM_NEWROUTE {
        return None;
    }
    let p = &m.payload;
    let v4 = i32::from(*p.first()?) == libc::AF_INET;
    let (prefix_len, flags) = (*p.get(1)?, wire::u32_at(p, 8)?);
    let kind = match *p.get(7)? {
        RTN_UNICAST => RouteKind::Unicast,
        RTN_LOCAL => RouteKind::Local,
        RTN_UNREACHABLE => RouteKind::Unreachable,
        _ => return None,
    };
    if flags & RTM_F_CLONED != 0 {
        return None;
    }
    let mut table = u32::from(*p.get(4)?);
    let any: IpAddr = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let (mut dst, mut encap_kind, mut encap) = (any, 0, None);
    let mut route = Route::to(IpNet::new(any, 0).ok()?);
    route.kind = kind;
    route.protocol = *p.get(5)?;
    route.onlink = flags & RTNH_F_ONLINK != 0;
    for (kind, data) in wire::attrs_after(p, RTMSG_LEN) {
        match kind {
            RTA_DST => dst = wire::ip(data)?,
            RTA_OIF => route.oif = wire::u32_at(data, 0),
            RTA_GATEWAY => route.gateway = wire::ip(data),
            RTA_PRIORITY => route.metric = wire::u32_at(data, 0),
            RTA_PREFSRC => route.prefsrc = wire::ip(data),
            RTA_TABLE => table = wire::u32_at(data, 0)?,
            RTA_METRICS => {
                route.mtu = wire::attrs(data)
                    .find(|(k, _)| *k == RTAX_MTU)
                    .and_then(|(_, d)| wire::u32_at(d, 0));
            }
            RTA_ENCAP_TYPE => encap_kind = wire::u16_at(data, 0)?,
            RTA_ENCAP => encap = Some(data),
            _ => {}
        }
    }
    if table != u32::from(RT_TABLE_MAIN) {
        return None;
    }
    if let Some(data) = encap
        && (encap_kind == LWTUNNEL_ENCAP_IP || encap_kind == LWTUNNEL_ENCAP_IP6)
    {
        route.encap = parse_encap(data);
    }
    // An IPv6 "unreachable" route is dumped with oif lo, which nobody asked for.
    if route.kind == RouteKind::Unreachable {
        route.oif = None;
    }
    route.dst = IpNet::new(dst, prefix_len).ok()?;
    Some(route)
}

fn parse_encap(data: &[u8]) -> Option<Encap> {
    let (mut id, mut remote) = (0, None);
    for (kind, data) in wire::attrs(data) {
        match kind {
            LWTUNNEL_IP_ID => {
                id = u32::try_from(u64::from_be_bytes(data.try_into().ok()?)).ok()?;
            }
            LWTUNNEL_IP_DST => remote = wire::ip(data),
            _ => {}
        }
    }
    Some(Encap { id, remote: remote? })
}
