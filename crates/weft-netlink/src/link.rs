//! Links: veth pairs across namespaces, bridges, VXLAN devices (linux/if_link.h).

use crate::{
    error::{Error, Result, tolerate},
    socket::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, Netlink},
    wire::{self, Message, Received},
};
use std::{fmt, fs::File, os::fd::AsRawFd, path::Path};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const IFINFOMSG_LEN: usize = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_COLLECT_METADATA: u16 = 25;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
/// Longest link name (IFNAMSIZ is 16, with the NUL).
const NAME_LEN_MAX: usize = 15;

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A veth pair; the first end is made in the handle's namespace.
#[derive(Clone, Debug, Default)]
pub struct VethSpec<'a> {
    /// Name of the end in the handle's namespace.
    pub name: &'a str,
    /// Name of the other end.
    pub peer_name: &'a str,
    /// Where the other end is made; `None` for the handle's own namespace.
    pub peer_netns: Option<&'a Path>,
    /// MTU in bytes of both ends.
    pub mtu: Option<u32>,
    /// Hardware address of this end.
    pub mac: Option<Mac>,
    /// Hardware address of the other end.
    pub peer_mac: Option<Mac>,
}

/// A VXLAN device in collect-metadata (`external`) mode: routes say where packets go.
#[derive(Clone, Debug)]
pub struct VxlanSpec<'a> {
    /// Name.
    pub name: &'a str,
    /// UDP destination port, host byte order.
    pub port: u16,
    /// MTU in bytes.
    pub mtu: u32,
    /// Hardware address.
    pub mac: Mac,
}

/// What is known about a VXLAN device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VxlanInfo {
    /// Whether it takes tunnel metadata from routes and programs.
    pub external: bool,
    /// UDP destination port, host byte order.
    pub port: u16,
    /// VNI of a classic device; 0 for an external one.
    pub id: u32,
    /// Whether it learns addresses from packets.
    pub learning: bool,
}

/// A link as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// `veth`, `bridge`, `vxlan`, …; `None` for lo and hardware.
    pub kind: Option<String>,
    /// Hardware address, where it is an Ethernet one.
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Index of the lower link, or of a veth's peer (in the peer's namespace).
    pub parent_index: Option<u32>,
    /// Index of the bridge it is a port of.
    pub controller_index: Option<u32>,
    /// VXLAN details.
    pub vxlan: Option<VxlanInfo>,
}

/// A change to a link; `None` leaves things as they are.
#[derive(Clone, Debug, Default)]
pub struct LinkChange {
    /// Administrative state.
    pub up: Option<bool>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Hardware address.
    pub mac: Option<Mac>,
    /// Index of the bridge to join; 0 to leave.
    pub controller_index: Option<u32>,
    /// Make no IPv6 link-local address of its own.
    pub no_link_local: bool,
}

/// `struct ifinfomsg`.
fn ifinfomsg(index: u32, flags: u32, change: u32) -> [u8; IFINFOMSG_LEN] {
    let mut h = [0; IFINFOMSG_LEN];
    h[4..8].copy_from_slice(&index.to_ne_bytes());
    h[8..12].copy_from_slice(&flags.to_ne_bytes());
    h[12..16].copy_from_slice(&change.to_ne_bytes());
    h
}

fn create(spec_name: &str) -> Result<Message> {
    check_name(spec_name)?;
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    let mut m = Message::new(RTM_NEWLINK, flags).header(&ifinfomsg(0, 0, 0));
    m.attr_str(IFLA_IFNAME, spec_name);
    Ok(m)
}

fn check_name(name: &str) -> Result<()> {
    let fine = !name.is_empty()
        && name.len() <= NAME_LEN_MAX
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
    if fine {
        return Ok(());
    }
    Err(Error::Name { name: name.to_owned(), rule: "a link name is 1 to 15 characters" })
}

impl Netlink {
    /// Makes a veth pair, each end directly in its namespace. A pair of these names whose
    /// ends belong together is adopted as it is (down or up, whatever its MTU).
    pub fn create_veth(&self, spec: &VethSpec<'_>) -> Result<()> {
        check_name(spec.peer_name)?;
        let peer_netns = match spec.peer_netns {
            Some(path) => {
                Some(File::open(path).map_err(|e| Error::io("open namespace", path.display(), e))?)
            }
            None => None,
        };
        let mut m = create(spec.name)?;
        if let Some(mtu) = spec.mtu {
            m.attr_u32(IFLA_MTU, mtu);
        }
        if let Some(mac) = spec.mac {
            m.attr(IFLA_ADDRESS, &mac.0);
        }
        m.nest(IFLA_LINKINFO, |info| {
            info.attr_str(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |peer| {
                    peer.raw(&ifinfomsg(0, 0, 0)).attr_str(IFLA_IFNAME, spec.peer_name);
                    if let Some(mtu) = spec.mtu {
                        peer.attr_u32(IFLA_MTU, mtu);
                    }
                    if let Some(mac) = spec.peer_mac {
                        peer.attr(IFLA_ADDRESS, &mac.0);
                    }
                    if let Some(file) = &peer_netns {
                        peer.attr_u32(IFLA_NET_NS_FD, file.as_raw_fd() as u32);
                    }
                });
            });
        });
        match self.request("create veth", spec.name, m) {
            Ok(_) => Ok(()),
            Err(e) if e.errno() == Some(libc::EEXIST) => self.adopt_veth(spec, e),
            Err(e) => Err(e),
        }
    }

    /// Succeeds where both ends exist and are each other's peers.
    fn adopt_veth(&self, spec: &VethSpec<'_>, refusal: Error) -> Result<()> {
        let near = self.link(spec.name)?;
        let far = match spec.peer_netns {
            Some(path) => Netlink::open_in(path)?.link(spec.peer_name)?,
            None => self.link(spec.peer_name)?,
        };
        let (Some(near), Some(far)) = (near, far) else { return Err(refusal) };
        let is_veth = |l: &Link| l.kind.as_deref() == Some("veth");
        let paired = near.parent_index == Some(far.index) && far.parent_index == Some(near.index);
        if is_veth(&near) && is_veth(&far) && paired {
            return Ok(());
        }
        Err(Error::Mismatch {
            object: format!("link {} or {}", spec.name, spec.peer_name),
            what: "they are not two ends of one veth pair".to_owned(),
        })
    }

    /// Makes a bridge; an existing one is adopted.
    pub fn create_bridge(&self, name: &str) -> Result<()> {
        let mut m = create(name)?;
        m.nest(IFLA_LINKINFO, |info| {
            info.attr_str(IFLA_INFO_KIND, "bridge");
        });
        match self.request("create bridge", name, m) {
            Err(e) if e.errno() == Some(libc::EEXIST) => match self.link(name)? {
                Some(l) if l.kind.as_deref() == Some("bridge") => Ok(()),
                _ => Err(Error::Mismatch {
                    object: format!("link {name}"),
                    what: "it is not a bridge".to_owned(),
                }),
            },
            other => other.map(drop),
        }
    }

    /// Makes a VXLAN device in collect-metadata mode; an external VXLAN device of that name
    /// and port is adopted, its MTU and hardware address are set.
    pub fn create_vxlan(&self, spec: &VxlanSpec<'_>) -> Result<()> {
        let mut m = create(spec.name)?;
        m.attr_u32(IFLA_MTU, spec.mtu).attr(IFLA_ADDRESS, &spec.mac.0).nest(
            IFLA_LINKINFO,
            |info| {
                info.attr_str(IFLA_INFO_KIND, "vxlan").nest(IFLA_INFO_DATA, |data| {
                    data.attr(IFLA_VXLAN_COLLECT_METADATA, &[1])
                        .attr(IFLA_VXLAN_LEARNING, &[0])
                        .attr(IFLA_VXLAN_PORT, &spec.port.to_be_bytes());
                });
            },
        );
        match self.request("create vxlan", spec.name, m) {
            Err(e) if e.errno() == Some(libc::EEXIST) => {
                let link = self.link(spec.name)?;
                let vxlan = link.as_ref().and_then(|l| l.vxlan.as_ref());
                if !vxlan.is_some_and(|v| v.external && v.port == spec.port) {
                    return Err(Error::Mismatch {
                        object: format!("link {}", spec.name),
                        what: format!("it is no external VXLAN device on port {}", spec.port),
                    });
                }
                let (mtu, mac) = (Some(spec.mtu), Some(spec.mac));
                self.set_link(spec.name, &LinkChange { mtu, mac, ..LinkChange::default() })
            }
            other => other.map(drop),
        }
    }

    /// Changes a link.
    pub fn set_link(&self, name: &str, change: &LinkChange) -> Result<()> {
        let index = self.index_of(name)?;
        let up = libc::IFF_UP as u32;
        let (flags, mask) = match change.up {
            Some(true) => (up, up),
            Some(false) => (0, up),
            None => (0, 0),
        };
        let mut m = Message::new(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK)
            .header(&ifinfomsg(index, flags, mask));
        if let Some(mtu) = change.mtu {
            m.attr_u32(IFLA_MTU, mtu);
        }
        if let Some(mac) = change.mac {
            m.attr(IFLA_ADDRESS, &mac.0);
        }
        if let Some(controller) = change.controller_index {
            m.attr_u32(IFLA_MASTER, controller);
        }
        if change.no_link_local {
            m.nest(IFLA_AF_SPEC, |spec| {
                spec.nest(libc::AF_INET6 as u16, |v6| {
                    v6.attr(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
                });
            });
        }
        self.request("change link", name, m).map(drop)
    }

    /// Sets a link up.
    pub fn set_up(&self, name: &str) -> Result<()> {
        self.set_link(name, &LinkChange { up: Some(true), ..LinkChange::default() })
    }

    /// Makes `name` a port of the bridge `bridge`.
    pub fn set_controller(&self, name: &str, bridge: &str) -> Result<()> {
        let controller_index = Some(self.index_of(bridge)?);
        self.set_link(name, &LinkChange { controller_index, ..LinkChange::default() })
    }

    /// Deletes a link (of a veth pair: both ends); an absent one is fine.
    pub fn delete_link(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let mut m =
            Message::new(RTM_DELLINK, NLM_F_REQUEST | NLM_F_ACK).header(&ifinfomsg(0, 0, 0));
        m.attr_str(IFLA_IFNAME, name);
        tolerate(self.request("delete link", name, m).map(drop), &[libc::ENODEV])
    }

    /// The link of that name, if there is one.
    pub fn link(&self, name: &str) -> Result<Option<Link>> {
        check_name(name)?;
        let mut m =
            Message::new(RTM_GETLINK, NLM_F_REQUEST | NLM_F_ACK).header(&ifinfomsg(0, 0, 0));
        m.attr_str(IFLA_IFNAME, name);
        match self.request("get link", name, m) {
            Ok(answers) => Ok(answers.iter().find_map(parse)),
            Err(e) if e.errno() == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Index of the link `name`; an error (ENODEV) where it is absent.
    pub fn index_of(&self, name: &str) -> Result<u32> {
        self.link(name)?.map(|l| l.index).ok_or_else(|| {
            Error::io("find link", name, std::io::Error::from_raw_os_error(libc::ENODEV))
        })
    }

    /// All links of the namespace.
    pub fn links(&self) -> Result<Vec<Link>> {
        let m = Message::new(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP).header(&ifinfomsg(0, 0, 0));
        Ok(self.dump("list links", &m)?.iter().filter_map(parse).collect())
    }
}

/// Parses an RTM_NEWLINK message.
fn parse(m: &Received) -> Option<Link> {
    if m.kind != RTM_NEWLINK {
        return None;
    }
    let flags = wire::u32_at(&m.payload, 8)?;
    let mut link = Link {
        index: wire::u32_at(&m.payload, 4)?,
        name: String::new(),
        kind: None,
        mac: None,
        mtu: 0,
        up: flags & libc::IFF_UP as u32 != 0,
        parent_index: None,
        controller_index: None,
        vxlan: None,
    };
    for (kind, data) in wire::attrs_after(&m.payload, IFINFOMSG_LEN) {
        match kind {
            IFLA_IFNAME => link.name = wire::string(data),
            IFLA_ADDRESS => link.mac = data.try_into().ok().map(Mac),
            IFLA_MTU => link.mtu = wire::u32_at(data, 0)?,
            IFLA_LINK => link.parent_index = wire::u32_at(data, 0),
            IFLA_MASTER => link.controller_index = wire::u32_at(data, 0),
            IFLA_LINKINFO => parse_info(data, &mut link),
            _ => {}
        }
    }
    Some(link)
}

fn parse_info(data: &[u8], link: &mut Link) {
    for (kind, value) in wire::attrs(data) {
        match kind {
            IFLA_INFO_KIND => link.kind = Some(wire::string(value)),
            IFLA_INFO_DATA if link.kind.as_deref() == Some("vxlan") => {
                let mut info = VxlanInfo::default();
                for (kind, value) in wire::attrs(value) {
                    match kind {
                        IFLA_VXLAN_ID => info.id = wire::u32_at(value, 0).unwrap_or(0),
                        IFLA_VXLAN_LEARNING => info.learning = value.first() == Some(&1),
                        IFLA_VXLAN_COLLECT_METADATA => info.external = value.first() == Some(&1),
                        IFLA_VXLAN_PORT => {
                            info.port = value.try_into().map_or(0, u16::from_be_bytes);
                        }
                        _ => {}
                    }
                }
                link.vxlan = Some(info);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_follow_the_kernel() {
        for bad in ["", ".", "..", "a/b", "a b", "a:b", "0123456789abcdef"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert!(check_name("wv0123456789abc").is_ok());
    }
}
