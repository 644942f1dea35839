//! IP addresses and CIDRs as the real API reads them.
//!
//! Old fields are read as Go's parser of old read them: octets may have leading zeros, an
//! IPv4-mapped IPv6 address is an IPv4 address. Such values are accepted with a warning; new
//! fields (names of IPAddresses, ranges of ServiceCIDRs) want the canonical form.

use std::net::IpAddr;

use ipnet::IpNet;

/// No address is longer: `ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255` and zeros.
const TEXT_BYTES_MAX: usize = 128;

/// An address of an old field.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    read(text).map(|ip| ip.to_canonical())
}

/// An address and prefix length of an old field, host bits kept.
pub fn parse_cidr(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let address = read(address)?;
    if length.is_empty() || length.len() > 8 || !length.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    IpNet::new(address, u8::try_from(length.parse::<u32>().ok()?).ok()?).ok()
}

/// The address without mapping, leading zeros dropped.
fn read(text: &str) -> Option<IpAddr> {
    if text.len() > TEXT_BYTES_MAX {
        return None;
    }
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_hexdigit()) {
        plain.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
        let digits = rest[..end].trim_start_matches('0');
        plain.push_str(if digits.is_empty() { "0" } else { digits });
        rest = &rest[end..];
    }
    plain.push_str(rest);
    plain.parse().ok()
}

/// Whether the text is an IPv4-mapped IPv6 address.
fn is_mapped(ip: IpAddr) -> bool {
    ip.to_canonical() != ip
}

/// What is wrong with an address of an old field.
pub(crate) fn legacy_ip(text: &str) -> Vec<String> {
    match parse_ip(text) {
        Some(_) => Vec::new(),
        None => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

/// What is wrong with an address of a new field.
pub(crate) fn strict_ip(text: &str) -> Vec<String> {
    let Some(ip) = parse_ip(text) else { return legacy_ip(text) };
    match text.parse::<IpAddr>() {
        Err(_) => vec!["must not have leading 0s".to_owned()],
        Ok(read) if is_mapped(read) => {
            vec!["must not be an IPv4-mapped IPv6 address".to_owned()]
        }
        Ok(_) if ip.to_string() != text => {
            vec![format!("must be in canonical form ({:?})", ip.to_string())]
        }
        Ok(_) => Vec::new(),
    }
}

/// What is wrong with a CIDR of an old field.
pub(crate) fn legacy_cidr(text: &str) -> Vec<String> {
    match parse_cidr(text) {
        Some(_) => Vec::new(),
        None => vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()],
    }
}

/// What is wrong with a CIDR of a new field.
pub(crate) fn strict_cidr(text: &str) -> Vec<String> {
    let Some(net) = parse_cidr(text) else { return legacy_cidr(text) };
    if !is_standard_cidr(text) {
        return vec!["must not have leading 0s in IP or prefix length".to_owned()];
    }
    if is_mapped(net.addr()) {
        return vec!["must not have an IPv4-mapped IPv6 address".to_owned()];
    }
    if net.addr() != net.network() {
        return vec!["must not have bits set beyond the prefix length".to_owned()];
    }
    match net.to_string() {
        canonical if canonical != text => {
            vec![format!("must be in canonical form ({canonical:?})")]
        }
        _ => Vec::new(),
    }
}

/// Whether a stricter parser reads it, too: no leading zeros.
fn is_standard_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    address.parse::<IpAddr>().is_ok() && (length == "0" || !length.starts_with('0'))
}

/// A range as Go prints it: host bits dropped, a mapped one as IPv4.
fn masked(net: IpNet) -> String {
    let net = net.trunc();
    match (net.addr().to_canonical(), net.prefix_len().checked_sub(96)) {
        (IpAddr::V4(v4), Some(length)) if is_mapped(net.addr()) => format!("{v4}/{length}"),
        _ => net.to_string(),
    }
}

/// What the API says about an accepted address of an old field that is not written as it should.
pub(crate) fn ip_warning(field: &str, text: &str) -> Option<String> {
    let ip = parse_ip(text)?;
    match text.parse::<IpAddr>() {
        Ok(read) if !is_mapped(read) => (read.is_ipv6() && read.to_string() != text).then(|| {
            format!(
                "{field}: IPv6 address {text:?} should be in RFC 5952 canonical format ({:?})",
                read.to_string()
            )
        }),
        _ => Some(format!(
            "{field}: non-standard IP address {text:?} will be considered invalid in a future Kubernetes release: use {:?}",
            ip.to_string()
        )),
    }
}

/// The same for CIDRs.
pub(crate) fn cidr_warnings(field: &str, text: &str) -> Vec<String> {
    let Some(net) = parse_cidr(text) else { return Vec::new() };
    let mut warnings = Vec::new();
    if net.addr() != net.network() {
        let one = net.addr().to_canonical();
        warnings.push(format!(
            "{field}: CIDR value {text:?} is ambiguous in this context (should be {:?} or {:?}?)",
            masked(net),
            format!("{one}/{}", net.max_prefix_len()),
        ));
    }
    if !is_standard_cidr(text) || is_mapped(net.addr()) {
        warnings.push(format!(
            "{field}: non-standard CIDR value {text:?} will be considered invalid in a future Kubernetes release: use {:?}",
            masked(net)
        ));
    } else if warnings.is_empty() && net.addr().is_ipv6() && net.to_string() != text {
        warnings.push(format!(
            "{field}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format ({:?})",
            net.to_string()
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn old_forms_are_read() {
        let ip = |text: &str| parse_ip(text).map(|ip| ip.to_string());
        assert_eq!(ip("010.096.000.009").as_deref(), Some("10.96.0.9"));
        assert_eq!(ip("::ffff:10.0.0.1").as_deref(), Some("10.0.0.1"));
        assert_eq!(ip("FD00:0:0::00001").as_deref(), Some("fd00::1"));
        for bad in ["", "x", "1.2.3", "1.2.3.256", "fe80::1%eth0", " 1.2.3.4", "1.2.3.4/8"] {
            assert_eq!(ip(bad), None, "{bad}");
        }
        assert_eq!(parse_cidr("010.0.0.1/08").unwrap().to_string(), "10.0.0.1/8");
        for bad in
            ["", "/", "1.2.3.4", "1.2.3.4/", "1.2.3.4/33", "1.2.3.4/-1", "1.2.3.4/+8", "::/129"]
        {
            assert_eq!(parse_cidr(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_canonical_is_accepted_everywhere(bytes: [u8; 16], v4: bool, length in 0u8..=128) {
            let ip = if v4 {
                IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])
            } else {
                IpAddr::from(bytes).to_canonical()
            };
            let text = ip.to_string();
            prop_assert_eq!(parse_ip(&text), Some(ip));
            prop_assert!(strict_ip(&text).is_empty() && ip_warning("f", &text).is_none());
            let length = if ip.is_ipv4() { length % 33 } else { length };
            let net = IpNet::new(ip, length).unwrap().trunc().to_string();
            if !is_mapped(parse_cidr(&net).unwrap().addr()) {
                prop_assert!(strict_cidr(&net).is_empty() && cidr_warnings("f", &net).is_empty());
            }
        }

        #[test]
        fn nothing_panics(text in ".{0,40}", near in "[0-9a-f:./%]{0,40}") {
            for text in [text, near] {
                let _ = (legacy_ip(&text), strict_ip(&text), ip_warning("f", &text));
                let _ = (legacy_cidr(&text), strict_cidr(&text), cidr_warnings("f", &text));
            }
        }
    }
}
