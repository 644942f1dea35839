//! What the cluster's DNS says about a name, asked in its own language: the reply of
//! [`weft_dns::answer`] is read back, so that there is no second opinion on names.

use crate::answer::{Dns, Tried};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use weft_dns::{DnsIndex, Rcode, Transport, Verdict, answer};

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const IN: u16 = 1;
/// `options ndots:5`, as kubelet writes it: a name with fewer dots is tried with the search
/// path first.
const NDOTS: usize = 5;
/// Jumps that are followed within one name of a reply.
const POINTERS_MAX: usize = 16;

/// The names that a resolver in a pod of `namespace` tries, in order (resolv.conf as kubelet
/// writes it); only the name itself without a namespace.
fn candidates(name: &str, namespace: Option<&str>, domain: &str) -> Vec<String> {
    let Some(namespace) = namespace.filter(|_| !name.ends_with('.')) else {
        return vec![name.trim_end_matches('.').to_owned()];
    };
    let search = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    let mut all: Vec<String> = search.iter().map(|s| format!("{name}.{s}")).collect();
    let at = if name.matches('.').count() < NDOTS { all.len() } else { 0 };
    all.insert(at, name.to_owned());
    all
}

/// Resolves a name as a pod of `namespace` does, or anybody who has no search path.
pub(crate) fn resolve(index: &DnsIndex, name: &str, namespace: Option<&str>) -> Dns {
    let domain = index.zone().as_str();
    let mut dns = Dns {
        name: name.to_owned(),
        tried: Vec::new(),
        aliases: Vec::new(),
        addresses: Vec::new(),
        policy: None,
        note: None,
    };
    for full in candidates(name, namespace, domain) {
        let mut reply = ask(index, &full, A);
        let six = ask(index, &full, AAAA);
        reply.addresses.extend(six.addresses);
        let result = match reply.verdict {
            _ if !reply.addresses.is_empty() => "found",
            Verdict::OutsideAlias => "found",
            Verdict::Outside => "outside",
            Verdict::Reply(Rcode::NoError) => "empty",
            _ => "notFound",
        };
        dns.tried.push(Tried { name: full, result });
        if result == "found" {
            if reply.verdict == Verdict::OutsideAlias {
                dns.note = Some("the alias is not a name of this cluster".to_owned());
            }
            dns.aliases = reply.aliases;
            // Replies begin with another address each time.
            reply.addresses.sort_unstable();
            dns.addresses = reply.addresses;
            return dns;
        }
    }
    dns
}

struct Reply {
    verdict: Verdict,
    aliases: Vec<String>,
    addresses: Vec<IpAddr>,
}

fn ask(index: &DnsIndex, name: &str, kind: u16) -> Reply {
    let mut bytes = Vec::new();
    let verdict = match query(name, kind) {
        Some(query) => answer(Some(index), &query, Transport::Tcp, &mut bytes),
        None => Verdict::Reply(Rcode::FormErr),
    };
    let mut reply = Reply { verdict, aliases: Vec::new(), addresses: Vec::new() };
    if read(&bytes, &mut reply).is_none() {
        // Refusals carry no records; anything else of ours is well formed.
        reply.aliases.clear();
    }
    reply
}

/// One question (RFC 1035, section 4).
fn query(name: &str, kind: u16) -> Option<Vec<u8>> {
    let mut out = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        let len = u8::try_from(label.len()).ok().filter(|n| (1..64).contains(n))?;
        out.push(len);
        out.extend(label.bytes());
    }
    out.push(0);
    out.extend(kind.to_be_bytes());
    out.extend(IN.to_be_bytes());
    Some(out)
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// Takes aliases and addresses out of the answer section.
fn read(bytes: &[u8], reply: &mut Reply) -> Option<()> {
    let (questions, answers) = (number(bytes, 4)?, number(bytes, 6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = name_at(bytes, at)?.1 + 4;
    }
    for _ in 0..answers {
        let (_, after) = name_at(bytes, at)?;
        let kind = number(bytes, after)?;
        let len = usize::from(number(bytes, after + 8)?);
        let data = bytes.get(after + 10..after + 10 + len)?;
        match kind {
            A => reply.addresses.push(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).into()),
            AAAA => reply.addresses.push(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).into()),
            CNAME => reply.aliases.push(name_at(bytes, after + 10)?.0),
            _ => {}
        }
        at = after + 10 + len;
    }
    Some(())
}

/// The name at an offset, and where it ends there.
fn name_at(bytes: &[u8], start: usize) -> Option<(String, usize)> {
    let (mut at, mut end, mut labels) = (start, None, Vec::new());
    for _ in 0..POINTERS_MAX + 128 {
        let len = usize::from(*bytes.get(at)?);
        if len >= 0xc0 {
            end.get_or_insert(at + 2);
            at = usize::from(number(bytes, at)? & 0x3fff);
        } else if len == 0 {
            return Some((labels.join("."), end.unwrap_or(at + 1)));
        } else {
            let label = bytes.get(at + 1..at + 1 + len)?;
            labels.push(String::from_utf8_lossy(label).into_owned());
            at += 1 + len;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_path() {
        let names = candidates("web.shop", Some("default"), "cluster.local");
        assert_eq!(
            names,
            [
                "web.shop.default.svc.cluster.local",
                "web.shop.svc.cluster.local",
                "web.shop.cluster.local",
                "web.shop"
            ]
        );
        assert_eq!(candidates("web.shop.", Some("x"), "c"), ["web.shop"]);
        assert_eq!(candidates("a.b.c.d.e.f", Some("x"), "c")[0], "a.b.c.d.e.f");
        assert_eq!(candidates("web", None, "c"), ["web"]);
    }

    #[test]
    fn any_bytes_are_read_or_left() {
        let mut reply =
            Reply { verdict: Verdict::Ignore, aliases: Vec::new(), addresses: Vec::new() };
        assert_eq!(read(&[], &mut reply), None);
        // A name that points to itself.
        let mut looped = vec![0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        looped.extend([0xc0, 12]);
        assert_eq!(read(&looped, &mut reply), None);
        assert_eq!(query("a..b", A), None);
    }
}
