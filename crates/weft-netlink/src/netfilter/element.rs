//! The maps and sets of entrances, and their elements, as the kernel keeps them.
//!
//! - `frontends`: address, protocol, port → nothing, class and group;
//! - `classes`: class → the chain that says how a target is chosen. A modulus is a constant of
//!   a rule, so there is one class for each *number* of targets (and time-out) that occurs;
//! - `slots`: group and index → nothing, target. Groups are shared by entrances;
//! - `members`: group and target, where clients stay with their target: they leave one that is
//!   none any more;
//! - `tracked`, `hairpin`: targets on this node, see `ruleset.rs`.
//!
//! Values begin with a word of nothing for the sake of the `nft` tool, see `ruleset.rs`.

use super::{Entrance, IPV4, IPV6, Ip, Target};
use std::net::IpAddr;

/// Room for the longest key: two IPv6 addresses.
const BYTES_MAX: usize = 32;

/// Content of a few registers. Without an allocation: there are hundreds of thousands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Bytes {
    len: u8,
    at: [u8; BYTES_MAX],
}

impl Bytes {
    fn new() -> Self {
        Self { len: 0, at: [0; BYTES_MAX] }
    }

    /// `None` for more than ever is in a key or value.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut read = Self::new();
        read.at.get_mut(..bytes.len())?.copy_from_slice(bytes);
        read.len = u8::try_from(bytes.len()).ok()?;
        Some(read)
    }

    fn and(mut self, bytes: &[u8]) -> Self {
        let from = usize::from(self.len);
        let to = from + bytes.len();
        self.at[from..to].copy_from_slice(bytes);
        self.len = to as u8;
        self
    }

    fn and_number(self, number: u32) -> Self {
        self.and(&number.to_ne_bytes())
    }

    fn and_addr(self, addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(a) => self.and(&a.octets()),
            IpAddr::V6(a) => self.and(&a.octets()),
        }
    }

    /// In a whole register.
    fn and_port(self, port: u16) -> Self {
        let [hi, lo] = port.to_be_bytes();
        self.and(&[hi, lo, 0, 0])
    }

    pub(super) fn get(&self) -> &[u8] {
        &self.at[..usize::from(self.len)]
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("0x")?;
        self.get().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// The maps and sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Map {
    Frontends(Ip),
    Slots(Ip),
    Classes,
    Members(Ip),
    Tracked(Ip),
    Hairpin(Ip),
}

impl Map {
    pub(super) const ALL: [Self; 11] = [
        Self::Frontends(IPV4),
        Self::Slots(IPV4),
        Self::Members(IPV4),
        Self::Tracked(IPV4),
        Self::Hairpin(IPV4),
        Self::Frontends(IPV6),
        Self::Slots(IPV6),
        Self::Members(IPV6),
        Self::Tracked(IPV6),
        Self::Hairpin(IPV6),
        Self::Classes,
    ];

    pub(super) fn name(self) -> &'static str {
        let of = |ip: Ip, names: [&'static str; 2]| names[usize::from(ip == IPV6)];
        match self {
            Self::Frontends(ip) => of(ip, ["frontends4", "frontends6"]),
            Self::Slots(ip) => of(ip, ["slots4", "slots6"]),
            Self::Members(ip) => of(ip, ["members4", "members6"]),
            Self::Tracked(ip) => of(ip, ["tracked4", "tracked6"]),
            Self::Hairpin(ip) => of(ip, ["hairpin4", "hairpin6"]),
            Self::Classes => "classes",
        }
    }
}

/// The value of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Of a set: none.
    None,
    Bytes(Bytes),
    /// To the chain of a class.
    Goto(ClassChain),
    Drop,
}

/// The chain of a class: a class never changes what it means, so neither does its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ClassChain {
    Refuse,
    Numbered(u32),
}

impl std::fmt::Display for ClassChain {
    /// At most 16 characters, of letters, digits and `-`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refuse => f.write_str("refuse"),
            Self::Numbered(n) => write!(f, "class-{n}"),
        }
    }
}

/// Where an element is: in a map, under a key.
pub(super) type Place = (Map, Bytes);

/// Address, protocol and port, each in whole registers of four bytes.
fn end(at: Entrance) -> Bytes {
    Bytes::new().and_addr(at.addr).and(&[at.protocol, 0, 0, 0]).and_port(at.port)
}

pub(super) fn frontend(entrance: Entrance) -> Place {
    (Map::Frontends(Ip::of_addr(entrance.addr)), end(entrance))
}

pub(super) fn class_and_group(class: u32, group: u32) -> Value {
    Value::Bytes(Bytes::new().and_number(0).and_number(class).and_number(group))
}

pub(super) fn slot(group: u32, index: usize, target: Target) -> (Place, Value) {
    // More targets than fit in 32 bits do not fit in memory.
    let key = Bytes::new().and_number(group).and_number(index as u32);
    let value = Bytes::new().and_number(0).and_addr(target.addr).and_port(target.port);
    ((Map::Slots(Ip::of_addr(target.addr)), key), Value::Bytes(value))
}

pub(super) fn member(group: u32, target: Target) -> Place {
    let key = Bytes::new().and_number(group).and_addr(target.addr).and_port(target.port);
    (Map::Members(Ip::of_addr(target.addr)), key)
}

pub(super) fn tracked(local: Entrance) -> Place {
    (Map::Tracked(Ip::of_addr(local.addr)), end(local))
}

pub(super) fn hairpin(addr: IpAddr) -> Place {
    (Map::Hairpin(Ip::of_addr(addr)), Bytes::new().and_addr(addr).and_addr(addr))
}

pub(super) fn class(number: u32) -> Place {
    (Map::Classes, Bytes::new().and_number(number))
}

impl Ip {
    pub(super) fn of_addr(addr: IpAddr) -> Self {
        if addr.is_ipv4() { IPV4 } else { IPV6 }
    }
}
