//! Addresses on links (linux/if_addr.h).

use crate::{
    PROTOCOL,
    error::{Result, tolerate},
    socket::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, Netlink},
    wire::{self, Message, Received},
};
use ipnet::IpNet;

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const IFADDRMSG_LEN: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;
const IFA_F_NODAD: u32 = 0x02;
const IFA_F_PERMANENT: u32 = 0x80;
const RT_SCOPE_LINK: u8 = 253;

/// An address on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Interface index.
    pub index: u32,
    /// The address with its prefix length.
    pub net: IpNet,
    /// Label (IPv4 only): the link's name unless set.
    pub label: Option<String>,
    /// Whether it carries Weft's protocol number (kernel 5.18 and newer) or, for IPv4,
    /// a label that ends in `:weft`.
    pub owned: bool,
    /// Whether it was configured for ever, and not learnt for a time (RA, DHCP).
    pub permanent: bool,
    /// Link-local scope.
    pub link_local: bool,
}

fn ifaddrmsg(net: IpNet, index: u32) -> [u8; IFADDRMSG_LEN] {
    let mut h = [0; IFADDRMSG_LEN];
    h[0] = wire::family(net.addr());
    h[1] = net.prefix_len();
    if let IpNet::V6(v6) = net
        && v6.addr().is_unicast_link_local()
    {
        h[3] = RT_SCOPE_LINK;
    }
    h[4..8].copy_from_slice(&index.to_ne_bytes());
    h
}

impl Netlink {
    /// Puts an address on the link `name`, without duplicate detection (it costs a second
    /// and Weft's addresses are unique by allocation). One that is there stays.
    pub fn add_address(&self, name: &str, net: IpNet) -> Result<()> {
        self.put_address(name, net, false)
    }

    /// Like [`Self::add_address`], and marks the address as Weft's: by protocol number, and
    /// for IPv4 by the label `<link>:weft`, which kernels before 5.18 keep too. Those keep
    /// no mark of an IPv6 address.
    pub fn add_owned_address(&self, name: &str, net: IpNet) -> Result<()> {
        self.put_address(name, net, true)
    }

    fn put_address(&self, name: &str, net: IpNet, owned: bool) -> Result<()> {
        let index = self.index_of(name)?;
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let mut m = Message::new(RTM_NEWADDR, flags).header(&ifaddrmsg(net, index));
        let bytes = wire::ip_bytes(net.addr());
        m.attr(IFA_LOCAL, &bytes).attr(IFA_ADDRESS, &bytes);
        m.attr_u32(IFA_FLAGS, IFA_F_NODAD | IFA_F_PERMANENT);
        if owned {
            m.attr(IFA_PROTO, &[PROTOCOL]);
            if net.addr().is_ipv4() {
                m.attr_str(IFA_LABEL, &format!("{name}:weft"));
            }
        }
        let object = format!("{net} on {name}");
        tolerate(self.request("add address", object, m).map(drop), &[libc::EEXIST])
    }

    /// Removes an address; an absent address or link is fine.
    pub fn delete_address(&self, name: &str, net: IpNet) -> Result<()> {
        let Some(link) = self.link(name)? else { return Ok(()) };
        let mut m = Message::new(RTM_DELADDR, NLM_F_REQUEST | NLM_F_ACK)
            .header(&ifaddrmsg(net, link.index));
        let bytes = wire::ip_bytes(net.addr());
        m.attr(IFA_LOCAL, &bytes).attr(IFA_ADDRESS, &bytes);
        let object = format!("{net} on {name}");
        let result = self.request("delete address", object, m).map(drop);
        tolerate(result, &[libc::EADDRNOTAVAIL, libc::ENODEV])
    }

    /// All addresses of the namespace, both families.
    pub fn addresses(&self) -> Result<Vec<Address>> {
        let m = Message::new(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP).header(&[0; IFADDRMSG_LEN]);
        Ok(self.dump("list addresses", &m)?.iter().filter_map(parse).collect())
    }
}

fn parse(m: &Received) -> Option<Address> {
    if m.kind != RTM_NEWADDR {
        return None;
    }
    let prefix_len = *m.payload.get(1)?;
    let scope = *m.payload.get(3)?;
    let index = wire::u32_at(&m.payload, 4)?;
    let (mut address, mut local, mut label, mut owned) = (None, None, None, false);
    let mut flags = u32::from(*m.payload.get(2)?);
    for (kind, data) in wire::attrs_after(&m.payload, IFADDRMSG_LEN) {
        match kind {
            IFA_ADDRESS => address = wire::ip(data),
            IFA_LOCAL => local = wire::ip(data),
            IFA_LABEL => label = Some(wire::string(data)),
            IFA_FLAGS => flags = wire::u32_at(data, 0)?,
            IFA_PROTO => owned |= data.first() == Some(&PROTOCOL),
            _ => {}
        }
    }
    owned |= label.as_deref().is_some_and(|l| l.ends_with(":weft"));
    Some(Address {
        index,
        net: IpNet::new(local.or(address)?, prefix_len).ok()?,
        label,
        owned,
        permanent: flags & IFA_F_PERMANENT != 0,
        link_local: scope == RT_SCOPE_LINK,
    })
}
