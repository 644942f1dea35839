//! Addresses and prefixes, as Go's `net/netip` reads them.

use crate::error::EvalError;
use ipnet::IpNet;
use std::net::IpAddr;

/// A prefix with the address it was written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CidrValue(pub(crate) IpNet);

/// Parses an address; no zone, and no IPv4 inside of IPv6.
pub(crate) fn parse_ip(text: &str) -> Result<IpAddr, EvalError> {
    if text.contains('%') && text.contains(':') {
        return Err(EvalError::text(format!("IP address {text:?} with zone value is not allowed")));
    }
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
            Err(EvalError::text(format!("IPv4-mapped IPv6 address {text:?} is not allowed")))
        }
        Ok(ip) => Ok(ip),
        Err(_) => Err(EvalError::text(format!(
            "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): {}",
            why_not(text)
        ))),
    }
}

/// The reason that Go gives for the commonest mistakes.
fn why_not(text: &str) -> String {
    if !text.contains(['.', ':']) {
        return "unable to parse IP".to_owned();
    }
    if text.contains(':') {
        return format!("unexpected character (at {text:?})");
    }
    let mut fields = 0;
    for field in text.split('.') {
        fields += 1;
        if field.is_empty() {
            return "IPv4 field must have at least one digit".to_owned();
        }
        if !field.bytes().all(|b| b.is_ascii_digit()) {
            return format!("unexpected character (at {field:?})");
        }
        if field.len() > 1 && field.starts_with('0') {
            return "IPv4 field has octet with leading zero".to_owned();
        }
        if field.parse::<u8>().is_err() {
            return "IPv4 field has value >255".to_owned();
        }
    }
    if fields < 4 { "IPv4 address too short" } else { "IPv4 address too long" }.to_owned()
}

/// Parses a prefix. Bits after the prefix may be set.
pub(crate) fn parse_cidr(text: &str) -> Result<CidrValue, EvalError> {
    let bad = |why: &str| {
        EvalError::text(format!(
            "network address parse error during conversion from string: network address parse error during conversion from string: netip.ParsePrefix({text:?}): {why}"
        ))
    };
    let (ip, bits) = text.rsplit_once('/').ok_or_else(|| bad("no '/'"))?;
    let ip: IpAddr = match ip.parse() {
        Ok(ip) => ip,
        Err(_) if ip.contains('%') => return Err(bad("IPv6 zones cannot be present in a prefix")),
        Err(_) => return Err(bad(&format!("ParseAddr({ip:?}): {}", why_not(ip)))),
    };
    let plain = !bits.is_empty()
        && bits.bytes().all(|b| b.is_ascii_digit())
        && (bits.len() == 1 || !bits.starts_with('0'));
    let length: u8 = match bits.parse() {
        Ok(length) if plain => length,
        _ if plain => return Err(bad("prefix length out of range")),
        _ => return Err(bad(&format!("bad bits after slash: {bits:?}"))),
    };
    let net = IpNet::new(ip, length).map_err(|_| bad("prefix length out of range"))?;
    if matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some()) {
        return Err(EvalError::text(format!(
            "network address parse error during conversion from string: IPv4-mapped IPv6 address {text:?} is not allowed"
        )));
    }
    Ok(CidrValue(net))
}

impl CidrValue {
    pub(crate) fn contains_ip(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip)
    }

    pub(crate) fn contains_cidr(&self, other: &CidrValue) -> bool {
        self.0.contains(&other.0)
    }

    pub(crate) fn masked(&self) -> CidrValue {
        CidrValue(self.0.trunc())
    }
}

/// Bytes of an address.
pub(crate) fn ip_size(ip: IpAddr) -> u64 {
    if ip.is_ipv4() { 4 } else { 16 }
}

/// Bytes of a prefix's length.
pub(crate) fn cidr_size(cidr: &CidrValue) -> u64 {
    u64::from(cidr.0.prefix_len()).div_ceil(8)
}

pub(crate) fn is_link_local_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

pub(crate) fn is_link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    }
}

pub(crate) fn is_global_unicast(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !ip.is_unspecified()
        && !broadcast
        && !ip.is_loopback()
        && !ip.is_multicast()
        && !is_link_local_unicast(ip)
}
