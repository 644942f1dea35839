//! Names of the reverse trees, read as addresses.

use crate::wire::Name;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The IPv4 tree on the wire.
pub(crate) const ARPA_V4: &[u8] = b"\x07in-addr\x04arpa\0";
/// The IPv6 tree on the wire.
pub(crate) const ARPA_V6: &[u8] = b"\x03ip6\x04arpa\0";

/// The address that a reverse name stands for, and where its tree begins in the name; `None`
/// for anything else, also for names that are too short or too long.
pub(crate) fn address(name: &Name) -> Option<(IpAddr, usize)> {
    if let Some(at) = name.suffix(ARPA_V4, 2) {
        if name.count() != 6 {
            return None;
        }
        let mut octets = [0; 4];
        for (i, octet) in octets.iter_mut().enumerate() {
            *octet = decimal(name.label(3 - i))?;
        }
        return Some((IpAddr::V4(Ipv4Addr::from(octets)), at));
    }
    let at = name.suffix(ARPA_V6, 2)?;
    if name.count() != 34 {
        return None;
    }
    let mut bits = 0u128;
    for i in (0..32).rev() {
        let &[digit] = name.label(i) else { return None };
        bits = bits << 4 | u128::from(char::from(digit).to_digit(16)?);
    }
    Some((IpAddr::V6(Ipv6Addr::from(bits)), at))
}

/// A number below 256 as RFC 1035 section 3.5 writes it: no leading zeros.
fn decimal(label: &[u8]) -> Option<u8> {
    if label.len() > 1 && label.first() == Some(&b'0') {
        return None;
    }
    if !label.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(label).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name_to_wire;

    fn parse(text: &str) -> Option<String> {
        let name = Name::read(&name_to_wire(text).expect("a name")).expect("a name");
        address(&name).map(|(ip, _)| ip.to_string())
    }

    #[test]
    fn reverse_names() {
        assert_eq!(parse("5.1.244.10.in-addr.arpa").as_deref(), Some("10.244.1.5"));
        assert_eq!(parse("5.1.244.10.IN-ADDR.arpa.").as_deref(), Some("10.244.1.5"));
        let v6 = "a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa";
        assert_eq!(parse(v6).as_deref(), Some("fd00:10:96::a"));
        for bad in [
            "1.244.10.in-addr.arpa",
            "5.1.244.256.in-addr.arpa",
            "05.1.244.10.in-addr.arpa",
            "+5.1.244.10.in-addr.arpa",
            "1.5.1.244.10.in-addr.arpa",
            "in-addr.arpa",
            "0.ip6.arpa",
            "5.1.244.10.in-addr.example",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
