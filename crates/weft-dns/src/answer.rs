//! From a query to a reply.

use crate::{
    index::{Addresses, DnsIndex, ReverseName, ServiceNames, SrvPort, SrvTarget, undashed},
    reverse,
    wire::{
        FLAG_AA, FLAG_RA, Labels, Message, Name, Owner, Query, Rcode, Section, Transport, Writer,
        number, put_name, put_name_at,
    },
};
use std::net::IpAddr;
use weft_model::Protocol;

/// TTL of records, in seconds: how long a client may go on using an endpoint that is gone.
/// The value that CoreDNS made customary.
const TTL_S: u32 = 5;
/// TTL of "does not exist", in seconds: a client that asks just before a Service is created
/// must not be told "no" for long.
const NEGATIVE_TTL_S: u32 = 1;
/// Aliases that are followed within the zone for one query.
const ALIASES_MAX: usize = 8;
/// What `dns-version` says (specification 1.1.0, section 2.2).
const VERSION_TEXT: &[u8] = b"1.1.0";

/// What became of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send nothing.
    Ignore,
    /// Send the reply.
    Reply(Rcode),
    /// The name is not the cluster's. The reply refuses it; a server with an upstream forwards
    /// the query instead.
    Outside,
    /// The reply is an alias (ExternalName) for a name that is not the cluster's, without that
    /// name's records; a server with an upstream asks there and appends them.
    OutsideAlias,
}

/// Answers one query. The reply replaces the content of `reply`, which keeps its capacity from
/// query to query. Without an index (no snapshot yet) every question is answered SERVFAIL, so
/// that clients try another server instead of believing that a name does not exist.
pub fn answer(
    index: Option<&DnsIndex>,
    query: &[u8],
    transport: Transport,
    reply: &mut Vec<u8>,
) -> Verdict {
    reply.clear();
    let parsed = match Message::read(query) {
        Message::Ignore => return Verdict::Ignore,
        Message::Bad(head, rcode) => {
            Writer::new(reply, head, None, transport).finish(rcode);
            return Verdict::Reply(rcode);
        }
        Message::Query(q) => q,
    };
    let question = query.get(parsed.question.clone());
    let writer = Writer::new(reply, parsed.head, question, transport);
    let Some(index) = index else {
        writer.finish(Rcode::ServFail);
        return Verdict::Reply(Rcode::ServFail);
    };
    if !matches!(parsed.qclass, number::CLASS_IN | number::ANY)
        || matches!(parsed.qtype, number::AXFR | number::IXFR)
    {
        writer.finish(Rcode::Refused);
        return Verdict::Reply(Rcode::Refused);
    }
    let mut responder = Responder { index, query: &parsed, writer };
    let verdict = responder.respond();
    let rcode = match verdict {
        Verdict::Reply(rcode) => rcode,
        Verdict::Outside | Verdict::Ignore => Rcode::Refused,
        Verdict::OutsideAlias => Rcode::NoError,
    };
    responder.writer.finish(rcode);
    verdict
}

/// What a name is, whatever is asked about it.
#[derive(Debug)]
enum Node<'a> {
    /// Not of this cluster.
    Outside,
    /// Does not exist.
    Missing,
    /// Exists, without records.
    Empty,
    /// The zone itself.
    Apex,
    /// `dns-version`.
    Version,
    /// Has addresses.
    Addresses(&'a Addresses),
    /// A pod's address spelled in the name.
    Pod(IpAddr),
    /// A port of a Service: its targets, and the labels of namespace and Service.
    Port(&'a [SrvTarget], [&'a [u8]; 2]),
    /// An alias for a name on the wire.
    Alias(&'a [u8]),
    /// An alias for something that is no name.
    BrokenAlias,
    /// An address's names.
    Reverse(&'a [ReverseName]),
}

/// Looks a name up. `at` is where its zone begins in the name, for the SOA.
fn find<'a>(index: &'a DnsIndex, name: &'a Name) -> (Node<'a>, usize) {
    let zone = index.zone();
    if let Some(at) = name.suffix(zone.wire(), zone.labels()) {
        return (find_in_zone(index, name, name.count() - zone.labels()), at);
    }
    let Some((address, at)) = reverse::address(name) else { return (Node::Outside, 0) };
    match index.reverse(address) {
        [] if index.may_be_pod(address) => (Node::Missing, at),
        [] => (Node::Outside, 0),
        names => (Node::Reverse(names), at),
    }
}

/// Looks up the first `count` labels of a name within the zone.
fn find_in_zone<'a>(index: &'a DnsIndex, name: &'a Name, count: usize) -> Node<'a> {
    let Some(last) = count.checked_sub(1) else { return Node::Apex };
    match (name.label(last), count) {
        (b"svc" | b"pod" | b"dns", 1) => Node::Empty,
        (b"dns-version", 1) => Node::Version,
        (b"dns", 2) if name.label(0) == b"ns" => Node::Addresses(index.name_server()),
        (b"svc" | b"pod", 2) if index.has_namespace(name.label(0)) => Node::Empty,
        (b"pod", 3) if index.has_namespace(name.label(1)) => match undashed(name.label(0)) {
            Some(address) if index.may_be_pod(address) => Node::Pod(address),
            _ => Node::Missing,
        },
        (b"svc", 3..=5) => find_service(index, name, count),
        _ => Node::Missing,
    }
}

/// Looks up a Service or a name below it: `[_port|host] [_protocol] service namespace svc`.
fn find_service<'a>(index: &'a DnsIndex, name: &'a Name, count: usize) -> Node<'a> {
    let (namespace, service) = (name.label(count - 2), name.label(count - 3));
    let below = count - 3;
    match index.service(namespace, service) {
        None | Some(ServiceNames::Nothing) => Node::Missing,
        Some(ServiceNames::Alias(target)) => match (below, target) {
            (0, Some(target)) => Node::Alias(target),
            (0, None) => Node::BrokenAlias,
            _ => Node::Missing,
        },
        Some(ServiceNames::Hosts { addresses, hosts, ports }) => match below {
            0 => Node::Addresses(addresses),
            1 => match protocol_of(name.label(0)) {
                // The protocol is an empty name above its ports.
                Some(p) if ports.iter().any(|port| port.protocol == p) => Node::Empty,
                Some(_) => Node::Missing,
                None => std::str::from_utf8(name.label(0))
                    .ok()
                    .and_then(|host| hosts.get(host))
                    .map_or(Node::Missing, Node::Addresses),
            },
            _ => find_port(ports, name)
                .map_or(Node::Missing, |p| Node::Port(&p.targets, [service, namespace])),
        },
    }
}

fn find_port<'a>(ports: &'a [SrvPort], name: &Name) -> Option<&'a SrvPort> {
    let port = name.label(0).strip_prefix(b"_")?;
    let protocol = protocol_of(name.label(1))?;
    ports.iter().find(|p| p.protocol == protocol && p.name.as_bytes() == port)
}

fn protocol_of(label: &[u8]) -> Option<Protocol> {
    match label {
        b"_tcp" => Some(Protocol::Tcp),
        b"_udp" => Some(Protocol::Udp),
        b"_sctp" => Some(Protocol::Sctp),
        _ => None,
    }
}

struct Responder<'a> {
    index: &'a DnsIndex,
    query: &'a Query,
    writer: Writer<'a>,
}

impl Responder<'_> {
    fn respond(&mut self) -> Verdict {
        let query = self.query;
        let (node, zone_at) = find(self.index, &query.name);
        if let Node::Outside = node {
            return Verdict::Outside;
        }
        // "Recursion available" also while nothing is forwarded: the answer is as complete as
        // a recursive server's, and resolvers warn about servers that do not say so.
        self.writer.flag(FLAG_AA | FLAG_RA);
        // Offsets in the name are offsets in the question, which follows the header.
        let zone_at = query.question.start + zone_at;
        match node {
            Node::Alias(target) => self.alias(target, zone_at),
            node => self.records(&node, Owner::Question, zone_at),
        }
    }

    /// Follows an alias as far as it stays in the zone.
    fn alias(&mut self, first: &[u8], zone_at: usize) -> Verdict {
        let index = self.index;
        let mut owner = Owner::Question;
        let mut target = first.to_vec();
        for _ in 0..ALIASES_MAX {
            let put = |out: &mut Vec<u8>| out.extend_from_slice(&target);
            let Some(at) = self.writer.record(Section::Answer, owner, number::CNAME, TTL_S, put)
            else {
                return Verdict::Reply(Rcode::NoError);
            };
            owner = Owner::At(at);
            if matches!(self.query.qtype, number::CNAME | number::ANY) {
                return Verdict::Reply(Rcode::NoError);
            }
            let Some(name) = Name::read(&target) else {
                return Verdict::Reply(Rcode::ServFail);
            };
            match find(index, &name).0 {
                Node::Outside => return Verdict::OutsideAlias,
                Node::Alias(next) => target = next.to_vec(),
                // The code is that of the last name of the chain (RFC 6604 section 3); the SOA
                // is that of the cluster's zone, which the question is in.
                node => return self.records(&node, owner, zone_at),
            }
        }
        // A loop of ExternalNames: as many servers do, say that this cannot be answered.
        Verdict::Reply(Rcode::ServFail)
    }

    /// Writes the records of a node that is no alias, or says why there are none.
    fn records(&mut self, node: &Node<'_>, owner: Owner, zone_at: usize) -> Verdict {
        let qtype = self.query.qtype;
        if let Node::Missing = node {
            self.soa(Section::Authority, Owner::At(zone_at), NEGATIVE_TTL_S, zone_at);
            return Verdict::Reply(Rcode::NxDomain);
        }
        if let Node::BrokenAlias | Node::Outside = node {
            return Verdict::Reply(Rcode::ServFail);
        }
        let written = match (node, qtype) {
            // RFC 8482: an answer to ANY that satisfies and amplifies nothing.
            (_, number::ANY) => {
                let put = |out: &mut Vec<u8>| out.extend_from_slice(b"\x07RFC8482\0");
                self.writer.record(Section::Answer, owner, number::HINFO, TTL_S, put);
                true
            }
            (Node::Apex, number::SOA) => {
                self.soa(Section::Answer, owner, TTL_S, zone_at);
                true
            }
            (Node::Apex, number::NS) => {
                self.name_server(owner, zone_at);
                true
            }
            (Node::Version, number::TXT) => {
                let put = |out: &mut Vec<u8>| {
                    out.push(u8::try_from(VERSION_TEXT.len()).unwrap_or_default());
                    out.extend_from_slice(VERSION_TEXT);
                };
                self.writer.record(Section::Answer, owner, number::TXT, TTL_S, put);
                true
            }
            (Node::Addresses(all), _) => self.addresses(all, owner),
            (Node::Pod(IpAddr::V4(a)), number::A) => {
                self.address(Section::Answer, owner, IpAddr::V4(*a));
                true
            }
            (Node::Pod(IpAddr::V6(a)), number::AAAA) => {
                self.address(Section::Answer, owner, IpAddr::V6(*a));
                true
            }
            (Node::Port(targets, of), number::SRV) => {
                self.srv(targets, *of, owner);
                true
            }
            (Node::Reverse(names), number::PTR) => {
                self.ptr(names, owner);
                true
            }
            _ => false,
        };
        if !written {
            self.soa(Section::Authority, Owner::At(zone_at), NEGATIVE_TTL_S, zone_at);
        }
        Verdict::Reply(Rcode::NoError)
    }

    /// Writes the addresses of the asked family. They begin at another one with every query
    /// (its random number decides), so that clients that take the first spread.
    fn addresses(&mut self, all: &Addresses, owner: Owner) -> bool {
        match self.query.qtype {
            number::A => {
                for a in rotated(&all.v4, self.query.head.id) {
                    self.address(Section::Answer, owner, IpAddr::V4(*a));
                }
                !all.v4.is_empty()
            }
            number::AAAA => {
                for a in rotated(&all.v6, self.query.head.id) {
                    self.address(Section::Answer, owner, IpAddr::V6(*a));
                }
                !all.v6.is_empty()
            }
            _ => false,
        }
    }

    fn address(&mut self, section: Section, owner: Owner, address: IpAddr) {
        let rtype = if address.is_ipv4() { number::A } else { number::AAAA };
        self.writer.record(section, owner, rtype, TTL_S, |out| match address {
            IpAddr::V4(a) => out.extend_from_slice(&a.octets()),
            IpAddr::V6(a) => out.extend_from_slice(&a.octets()),
        });
    }

    /// Adds addresses of a name that stands at `at` to the additional section.
    fn additional(&mut self, all: &Addresses, at: usize) {
        for a in &all.v4 {
            self.address(Section::Additional, Owner::At(at), IpAddr::V4(*a));
        }
        for a in &all.v6 {
            self.address(Section::Additional, Owner::At(at), IpAddr::V6(*a));
        }
    }

    fn srv(&mut self, targets: &[SrvTarget], [service, namespace]: [&[u8]; 2], owner: Owner) {
        let index = self.index;
        let Some(ServiceNames::Hosts { addresses, hosts, .. }) = index.service(namespace, service)
        else {
            return;
        };
        let tail = index.zone().wire();
        // Equal shares, as CoreDNS gives them; 0 would mean "hardly ever" (RFC 2782).
        let weight = (100 / u16::try_from(targets.len()).unwrap_or(u16::MAX).max(1)).max(1);
        let mut written = Vec::with_capacity(targets.len());
        for target in rotated(targets, self.query.head.id) {
            let put = |out: &mut Vec<u8>| {
                out.extend_from_slice(&0u16.to_be_bytes());
                out.extend_from_slice(&weight.to_be_bytes());
                out.extend_from_slice(&target.port.to_be_bytes());
                // RFC 2782: the target is not compressed.
                match &target.host {
                    Some(host) => {
                        let labels = &[host.as_bytes(), service, namespace, b"svc"];
                        put_name(out, Labels { labels, tail });
                    }
                    None => put_name(out, Labels { labels: &[service, namespace, b"svc"], tail }),
                }
            };
            let data = self.writer.record(Section::Answer, owner, number::SRV, TTL_S, put);
            written.extend(data.map(|at| (target, at + 6)));
        }
        for (target, at) in written {
            let of_target = match &target.host {
                Some(host) => hosts.get(host),
                None => Some(addresses),
            };
            if let Some(all) = of_target {
                self.additional(all, at);
            }
        }
    }

    fn ptr(&mut self, names: &[ReverseName], owner: Owner) {
        let tail = self.index.zone().wire();
        for name in names {
            let service = name.service.name.as_bytes();
            let namespace = name.service.namespace.as_bytes();
            self.writer.record(Section::Answer, owner, number::PTR, TTL_S, |out| {
                match &name.host {
                    Some(host) => {
                        let labels = &[host.as_bytes(), service, namespace, b"svc"];
                        put_name(out, Labels { labels, tail });
                    }
                    None => put_name(out, Labels { labels: &[service, namespace, b"svc"], tail }),
                }
            });
        }
    }

    /// The zone's name server: `ns.dns.<zone>`.
    fn name_server(&mut self, owner: Owner, zone_at: usize) {
        let index = self.index;
        let put = |out: &mut Vec<u8>| put_name_at(out, &[b"ns", b"dns"], zone_at);
        let data = self.writer.record(Section::Answer, owner, number::NS, TTL_S, put);
        if let Some(at) = data {
            self.additional(index.name_server(), at);
        }
    }

    fn soa(&mut self, section: Section, owner: Owner, ttl_s: u32, zone_at: usize) {
        let index = self.index;
        // The low half of the generation: a serial number may wrap (RFC 1982).
        let serial = u32::try_from(index.generation() & 0xFFFF_FFFF).unwrap_or_default();
        let in_zone = self.query.name.suffix(index.zone().wire(), index.zone().labels()).is_some();
        self.writer.record(section, owner, number::SOA, ttl_s, |out| {
            for labels in [&[&b"ns"[..], b"dns"][..], &[b"hostmaster"]] {
                if in_zone {
                    put_name_at(out, labels, zone_at);
                } else {
                    put_name(out, Labels { labels, tail: index.zone().wire() });
                }
            }
            // Refresh, retry and expire are for secondaries, of which there are none.
            for n in [serial, 7_200, 1_800, 86_400, NEGATIVE_TTL_S] {
                out.extend_from_slice(&n.to_be_bytes());
            }
        });
    }
}

/// The items, beginning at the one that `seed` chooses.
fn rotated<T>(items: &[T], seed: u16) -> impl Iterator<Item = &T> {
    let start = usize::from(seed).checked_rem(items.len()).unwrap_or(0);
    let (left, right) = items.split_at(start);
    right.iter().chain(left)
}

#[cfg(test)]
mod tests;
