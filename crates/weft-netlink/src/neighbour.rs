//! Permanent neighbours and bridge/VXLAN forwarding entries (linux/neighbour.h).

use crate::{
    error::{Result, tolerate},
    link::Mac,
    socket::{
        NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, Netlink,
    },
    wire::{self, Message, Received},
};
use std::net::IpAddr;

const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const NDMSG_LEN: usize = 12;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 0x02;

/// A permanent neighbour: an address on a link and its hardware address. Permanent entries
/// are never collected, so they do not count against the machine-wide limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Interface index.
    pub index: u32,
    /// Its IP address.
    pub ip: IpAddr,
    /// Its hardware address.
    pub mac: Mac,
}

/// A forwarding entry of a VXLAN device: frames to `mac` go to `remote`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// Interface index.
    pub index: u32,
    /// Inner destination; all zeros for flooding.
    pub mac: Mac,
    /// Outer destination.
    pub remote: IpAddr,
}

fn ndmsg(family: u8, index: u32, state: u16, flags: u8) -> [u8; NDMSG_LEN] {
    let mut h = [0; NDMSG_LEN];
    h[0] = family;
    h[4..8].copy_from_slice(&index.to_ne_bytes());
    h[8..10].copy_from_slice(&state.to_ne_bytes());
    h[10] = flags;
    h
}

impl Netlink {
    /// Sets a permanent neighbour, in place of whatever is known about that address.
    pub fn replace_neighbour(&self, n: &Neighbour) -> Result<()> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let header = ndmsg(wire::family(n.ip), n.index, NUD_PERMANENT, 0);
        let mut m = Message::new(RTM_NEWNEIGH, flags).header(&header);
        m.attr(NDA_DST, &wire::ip_bytes(n.ip)).attr(NDA_LLADDR, &n.mac.0);
        self.request("replace neighbour", n.ip, m).map(drop)
    }

    /// Removes a neighbour; an absent one is fine.
    pub fn delete_neighbour(&self, index: u32, ip: IpAddr) -> Result<()> {
        let mut m = Message::new(RTM_DELNEIGH, NLM_F_REQUEST | NLM_F_ACK).header(&ndmsg(
            wire::family(ip),
            index,
            0,
            0,
        ));
        m.attr(NDA_DST, &wire::ip_bytes(ip));
        let result = self.request("delete neighbour", ip, m).map(drop);
        tolerate(result, &[libc::ENOENT, libc::ESRCH, libc::ENODEV, libc::ENXIO])
    }

    /// All permanent neighbours with a hardware address, both families.
    pub fn neighbours(&self) -> Result<Vec<Neighbour>> {
        let mut out = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let m = Message::new(RTM_GETNEIGH, NLM_F_REQUEST | NLM_F_DUMP).header(&ndmsg(
                family as u8,
                0,
                0,
                0,
            ));
            let answers = self.dump("list neighbours", &m)?;
            out.extend(answers.iter().filter_map(|m| {
                let (index, mac, ip) = parse(m)?;
                Some(Neighbour { index, ip, mac })
            }));
        }
        Ok(out)
    }

    /// Adds a forwarding entry to a VXLAN device; one that is there stays.
    pub fn add_fdb(&self, e: &FdbEntry) -> Result<()> {
        // Several remotes of the zero address are a list, any other address has one.
        let mode = if e.mac.0 == [0; 6] { NLM_F_APPEND } else { NLM_F_REPLACE };
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | mode;
        let m = fdb_message(RTM_NEWNEIGH, flags, e);
        tolerate(self.request("add forwarding entry", e.mac, m).map(drop), &[libc::EEXIST])
    }

    /// Removes a forwarding entry; an absent one is fine.
    pub fn delete_fdb(&self, e: &FdbEntry) -> Result<()> {
        let m = fdb_message(RTM_DELNEIGH, NLM_F_REQUEST | NLM_F_ACK, e);
        let result = self.request("delete forwarding entry", e.mac, m).map(drop);
        tolerate(result, &[libc::ENOENT, libc::ESRCH, libc::ENODEV])
    }

    /// All forwarding entries with an outer destination on the link `index`.
    pub fn fdb(&self, index: u32) -> Result<Vec<FdbEntry>> {
        let m = Message::new(RTM_GETNEIGH, NLM_F_REQUEST | NLM_F_DUMP).header(&ndmsg(
            libc::AF_BRIDGE as u8,
            index,
            0,
            0,
        ));
        let answers = self.dump("list forwarding entries", &m)?;
        let entries = answers.iter().filter_map(|m| {
            let (index, mac, remote) = parse(m)?;
            Some(FdbEntry { index, mac, remote })
        });
        Ok(entries.filter(|e| e.index == index).collect())
    }
}

fn fdb_message(kind: u16, flags: u16, e: &FdbEntry) -> Message {
    let header = ndmsg(libc::AF_BRIDGE as u8, e.index, NUD_PERMANENT, NTF_SELF);
    let mut m = Message::new(kind, flags).header(&header);
    m.attr(NDA_LLADDR, &e.mac.0).attr(NDA_DST, &wire::ip_bytes(e.remote));
    m
}

fn parse(m: &Received) -> Option<(u32, Mac, IpAddr)> {
    if m.kind != RTM_NEWNEIGH || wire::u16_at(&m.payload, 8)? & NUD_PERMANENT == 0 {
        return None;
    }
    let (mut ip, mut mac) = (None, None);
    for (kind, data) in wire::attrs_after(&m.payload, NDMSG_LEN) {
        match kind {
            NDA_DST => ip = wire::ip(data),
            NDA_LLADDR => mac = data.try_into().ok().map(Mac),
            _ => {}
        }
    }
    Some((wire::u32_at(&m.payload, 4)?, mac?, ip?))
}
