//! The nf_tables table `weft` (inet). Five things, written together in one batch:
//!
//! - **Refusal** of what reached the stack with a Service address untranslated, so that
//!   clients of a Service without backends see a refusal at once and not a time-out. The
//!   socket hooks translate at connect time; a packet that still carries a Service address
//!   found no backend. A `local` route for the Service ranges (made by the caller) brings
//!   such packets, from pods and from the node itself, to the `input` hook, where they are
//!   refused whatever listens on the node. Rejecting in `output` instead would make `send`
//!   on a UDP socket of the node fail with EPERM: the verdict of that hook is the result of
//!   the call.
//! - **Masquerade** of pods that talk to somebody outside the cluster.
//! - **No tracking** of what stays inside the cluster, tunnel packets included: nothing there
//!   is translated, and the connection table is one for the whole machine. Except what goes
//!   through an entrance.
//! - **Entrances**: addresses and ports whose connections are translated to targets, with flat
//!   maps (see `nat.rs`). A new connection: `frontends` gives class and group, `classes` the
//!   chain, a random number below the class's count (for Services with Maglev tables a hash of the
//!   client's address) and the group the slot, the slot the target. Targets on this node see the client; towards others, the node's router address
//!   stands for it, so that replies come back; what has no target goes to an address of a
//!   Service range, where it is refused.
//! - **The own node's mark**: packets that the node itself sends bear [`OWN_NODE_MARK`] from the
//!   output hook on, up to the pod's link, where policies let them pass. Their source address
//!   would prove nothing: masqueraded clients bear it, too. A veth takes marks away, so that
//!   nobody else can bring it.

mod conntrack;
mod content;
mod element;
mod expr;
mod nat;
mod observe;
mod ruleset;
mod table;
mod transaction;

pub use nat::{Delta, Entrance, Fate, Nat, Target, Targets};
pub use table::{Applied, Repairs, Table};

use crate::{
    error::{Error, Result},
    netns,
    socket::{Connection, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, Refusal},
    wire::{self, Message, Received},
};
use ipnet::IpNet;
use std::{net::IpAddr, path::Path};
use transaction::Link;

/// Name of the table.
pub const TABLE: &str = "weft";
/// Bit of the mark of packets that this node sends itself; all other bits are others'.
pub const OWN_NODE_MARK: u32 = 0x0800_0000;
/// What the table shall do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Service ranges: packets to them are refused.
    pub services: Vec<IpNet>,
    /// Pod ranges of this node: masqueraded towards what is not in `cluster`.
    pub masquerade: Vec<IpNet>,
    /// Pod ranges and node addresses of the whole cluster.
    pub cluster: Vec<IpNet>,
    /// UDP port of the tunnel.
    pub tunnel_port: Option<u16>,
    /// The node's own addresses out of its pod ranges, at most one a version: they stand for
    /// clients of entrances whose target is on another node.
    pub routers: Vec<IpAddr>,
    /// Source ports of clients that a router address stands for. They must be none that the
    /// node's own sockets take: those talk to pods from the same address and are not tracked,
    /// so nothing else keeps the two apart, and replies to one would go to the other.
    pub client_ports: Option<Ports>,
}

/// Transport ports, first and last included.
pub type Ports = std::ops::RangeInclusive<u16>;

impl Rules {
    fn differs_in_cluster_only(&self, other: &Self) -> bool {
        // All fields are named, so that a new one is not forgotten.
        let Self { services, masquerade, cluster: _, tunnel_port, routers, client_ports } = self;
        (services, masquerade, tunnel_port, routers, client_ports)
            == (
                &other.services,
                &other.masquerade,
                &other.tunnel_port,
                &other.routers,
                &other.client_ports,
            )
    }
}

/// A base chain: name, type, hook, priority.
struct Chain<'a>(&'a str, &'static str, u32, i32);

const NF_INET_PRE_ROUTING: u32 = 0;
const NF_INET_LOCAL_IN: u32 = 1;
const NF_INET_LOCAL_OUT: u32 = 3;
const NF_INET_POST_ROUTING: u32 = 4;
// Priorities of netfilter_ipv4.h: raw before tracking, filter, source NAT.
const REJECT: Chain<'static> = Chain("reject-input", "filter", NF_INET_LOCAL_IN, 0);
const MASQUERADE: Chain<'static> = Chain("masquerade", "nat", NF_INET_POST_ROUTING, 100);
/// Late, behind security modules (50): somebody who sets a whole mark (mangle, -150) does not
/// take ours away. Not of type `route`, since nothing is routed by it.
const MARK: Chain<'static> = Chain("mark-output", "filter", NF_INET_LOCAL_OUT, 225);
/// Where destinations are translated.
const TRANSLATE: [Chain<'static>; 2] = [
    Chain("nat-prerouting", "nat", NF_INET_PRE_ROUTING, -100),
    Chain("nat-output", "nat", NF_INET_LOCAL_OUT, -100),
];
const UNTRACKED: [Chain<'static>; 2] = [
    Chain("notrack-prerouting", "filter", NF_INET_PRE_ROUTING, -300),
    Chain("notrack-output", "filter", NF_INET_LOCAL_OUT, -300),
];

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_DELSETELEM: u16 = 14;
const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_USERDATA: u16 = 7;
/// What the `nft` tool shows as a rule's comment (`NFTNL_UDATA_RULE_COMMENT`).
const COMMENT: u8 = 0;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFTA_META_SREG: u16 = 3;
const NFT_META_MARK: u32 = 3;
const NFT_META_NFPROTO: u32 = 15;
const NFT_META_L4PROTO: u32 = 16;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFT_CMP_EQ: u32 = 0;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
const NFTA_REJECT_TYPE: u16 = 1;
const NFTA_REJECT_ICMP_CODE: u16 = 2;
const NFT_REJECT_TCP_RST: u32 = 1;
const NFT_REJECT_ICMPX_UNREACH: u32 = 2;
const NFT_REJECT_ICMPX_PORT_UNREACH: u8 = 1;
const NFT_REG_1: u32 = 1;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_ID: u16 = 10;
const NFT_SET_INTERVAL: u32 = 4;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFT_SET_ELEM_INTERVAL_END: u32 = 1;
const NFTA_LOOKUP_SET: u16 = 1;
const NFTA_LOOKUP_SREG: u16 = 2;
const NFTA_LOOKUP_SET_ID: u16 = 4;
const NFTA_LOOKUP_FLAGS: u16 = 5;
const NFT_LOOKUP_F_INV: u32 = 1;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
/// Elements in one message: an attribute holds 64 KiB, and one of these at most 52 bytes.
const ELEMENTS_MAX: usize = 1000;

/// One IP version, as this table sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ip {
    /// NFPROTO_IPV4 or NFPROTO_IPV6.
    nfproto: u8,
    /// Where source and destination lie in the header (RFC 791, RFC 8200).
    source: u32,
    destination: u32,
    /// Length of an address in bytes.
    len: u32,
    /// The set of the cluster's addresses: name, number in the batch, and type number that
    /// the `nft` tool prints addresses by.
    set: (&'static str, u32, u32),
}

const IPV4: Ip =
    Ip { nfproto: NFPROTO_IPV4, source: 12, destination: 16, len: 4, set: ("cluster4", 1, 7) };
const IPV6: Ip =
    Ip { nfproto: NFPROTO_IPV6, source: 8, destination: 24, len: 16, set: ("cluster6", 2, 8) };

impl Ip {
    fn of(net: &IpNet) -> Self {
        if net.addr().is_ipv4() { IPV4 } else { IPV6 }
    }
}

fn nfgenmsg(family: u8, resource: u16) -> [u8; 4] {
    let [hi, lo] = resource.to_be_bytes();
    [family, 0, hi, lo]
}

fn message(kind: u16, family: u8, flags: u16) -> Message {
    let kind = (NFNL_SUBSYS_NFTABLES << 8) | kind;
    Message::new(kind, NLM_F_REQUEST | flags).header(&nfgenmsg(family, 0))
}

fn table(kind: u16, flags: u16) -> Message {
    let mut m = message(kind, NFPROTO_INET, flags);
    m.attr_str(NFTA_TABLE_NAME, TABLE);
    m
}

fn chain(Chain(name, kind, hook, priority): &Chain<'_>) -> Message {
    let mut m = message(NFT_MSG_NEWCHAIN, NFPROTO_INET, NLM_F_CREATE);
    m.attr_str(NFTA_CHAIN_TABLE, TABLE)
        .attr_str(NFTA_CHAIN_NAME, name)
        .nest(NFTA_CHAIN_HOOK, |h| {
            h.attr_be32(NFTA_HOOK_HOOKNUM, *hook).attr(NFTA_HOOK_PRIORITY, &priority.to_be_bytes());
        })
        .attr_str(NFTA_CHAIN_TYPE, kind);
    m
}

fn rule(Chain(name, ..): &Chain<'_>, fill: impl FnOnce(&mut Message)) -> Message {
    let flags = NLM_F_CREATE | NLM_F_APPEND;
    let mut m = message(NFT_MSG_NEWRULE, NFPROTO_INET, flags);
    m.attr_str(NFTA_RULE_TABLE, TABLE)
        .attr_str(NFTA_RULE_CHAIN, name)
        .nest(NFTA_RULE_EXPRESSIONS, fill);
    m
}

/// Gives a rule a comment, which `nft` prints: what it does where its expressions do not say so.
fn commented(mut rule: Message, comment: &str) -> Message {
    let mut data = vec![COMMENT, comment.len() as u8 + 1];
    data.extend_from_slice(comment.as_bytes());
    data.push(0);
    rule.attr(NFTA_RULE_USERDATA, &data);
    rule
}

fn expression(list: &mut Message, name: &str, fill: impl FnOnce(&mut Message)) {
    list.nest(NFTA_LIST_ELEM, |e| {
        e.attr_str(NFTA_EXPR_NAME, name).nest(NFTA_EXPR_DATA, fill);
    });
}

fn meta_to_register(list: &mut Message, key: u32) {
    expression(list, "meta", |d| {
        d.attr_be32(NFTA_META_KEY, key).attr_be32(NFTA_META_DREG, NFT_REG_1);
    });
}

fn meta_is(list: &mut Message, key: u32, value: u8) {
    meta_to_register(list, key);
    register_is(list, &[value]);
}

fn register_is(list: &mut Message, value: &[u8]) {
    expression(list, "cmp", |d| {
        d.attr_be32(NFTA_CMP_SREG, NFT_REG_1).attr_be32(NFTA_CMP_OP, NFT_CMP_EQ).nest(
            NFTA_CMP_DATA,
            |v| {
                v.attr(NFTA_DATA_VALUE, value);
            },
        );
    });
}

fn load(list: &mut Message, base: u32, offset: u32, len: u32) {
    expression(list, "payload", |d| {
        d.attr_be32(NFTA_PAYLOAD_DREG, NFT_REG_1)
            .attr_be32(NFTA_PAYLOAD_BASE, base)
            .attr_be32(NFTA_PAYLOAD_OFFSET, offset)
            .attr_be32(NFTA_PAYLOAD_LEN, len);
    });
}

/// The address at `offset` of the IP header lies in `net`.
fn address_in(list: &mut Message, offset: u32, net: &IpNet) {
    let (network, mask) = (wire::ip_bytes(net.network()), wire::ip_bytes(net.netmask()));
    let len = Ip::of(net).len;
    load(list, NFT_PAYLOAD_NETWORK_HEADER, offset, len);
    mask_and_flip(list, &mask, &vec![0; mask.len()]);
    register_is(list, &network);
}

/// Of the register, only the bits of `mask` stay; then those of `flip` are turned over.
fn mask_and_flip(list: &mut Message, mask: &[u8], flip: &[u8]) {
    expression(list, "bitwise", |d| {
        d.attr_be32(NFTA_BITWISE_SREG, NFT_REG_1)
            .attr_be32(NFTA_BITWISE_DREG, NFT_REG_1)
            .attr_be32(NFTA_BITWISE_LEN, mask.len() as u32)
            .nest(NFTA_BITWISE_MASK, |v| {
                v.attr(NFTA_DATA_VALUE, mask);
            })
            .nest(NFTA_BITWISE_XOR, |v| {
                v.attr(NFTA_DATA_VALUE, flip);
            });
    });
}

/// `meta mark set meta mark or <OWN_NODE_MARK>`. A mark is a word in the machine's byte order.
fn mark_own() -> Message {
    rule(&MARK, |list| {
        meta_to_register(list, NFT_META_MARK);
        mask_and_flip(list, &(!OWN_NODE_MARK).to_ne_bytes(), &OWN_NODE_MARK.to_ne_bytes());
        expression(list, "meta", |d| {
            d.attr_be32(NFTA_META_KEY, NFT_META_MARK).attr_be32(NFTA_META_SREG, NFT_REG_1);
        });
    })
}

/// The address at `offset` of the IP header is (not) one of the cluster's.
fn address_in_cluster(list: &mut Message, ip: Ip, offset: u32, wanted: bool) {
    load(list, NFT_PAYLOAD_NETWORK_HEADER, offset, ip.len);
    expression(list, "lookup", |d| {
        d.attr_str(NFTA_LOOKUP_SET, ip.set.0)
            .attr_be32(NFTA_LOOKUP_SREG, NFT_REG_1)
            .attr_be32(NFTA_LOOKUP_SET_ID, ip.set.1)
            .attr_be32(NFTA_LOOKUP_FLAGS, if wanted { 0 } else { NFT_LOOKUP_F_INV });
    });
}

/// `[ip|ip6] daddr <net> [meta l4proto tcp] reject with [tcp reset | icmpx port-unreachable]`.
fn reject(net: &IpNet, tcp: bool) -> Message {
    let ip = Ip::of(net);
    rule(&REJECT, |list| {
        meta_is(list, NFT_META_NFPROTO, ip.nfproto);
        address_in(list, ip.destination, net);
        if tcp {
            meta_is(list, NFT_META_L4PROTO, libc::IPPROTO_TCP as u8);
        }
        expression(list, "reject", |d| {
            let kind = if tcp { NFT_REJECT_TCP_RST } else { NFT_REJECT_ICMPX_UNREACH };
            let code = if tcp { 0 } else { NFT_REJECT_ICMPX_PORT_UNREACH };
            d.attr_be32(NFTA_REJECT_TYPE, kind).attr(NFTA_REJECT_ICMP_CODE, &[code]);
        });
    })
}

/// `[ip|ip6] saddr <net> [ip|ip6] daddr != @cluster masquerade`.
fn masquerade(net: &IpNet) -> Message {
    let ip = Ip::of(net);
    rule(&MASQUERADE, |list| {
        meta_is(list, NFT_META_NFPROTO, ip.nfproto);
        address_in(list, ip.source, net);
        address_in_cluster(list, ip, ip.destination, false);
        expression(list, "masq", |_| {});
    })
}

/// `[ip|ip6] saddr @cluster [ip|ip6] daddr @cluster goto inside[4|6]`.
fn untracked(chain: &Chain<'_>, ip: Ip) -> Message {
    rule(chain, |list| {
        meta_is(list, NFT_META_NFPROTO, ip.nfproto);
        address_in_cluster(list, ip, ip.source, true);
        address_in_cluster(list, ip, ip.destination, true);
        expr::verdict(list, &expr::Verdict::Goto(ruleset::inside_name(ip)));
    })
}

/// `udp dport <port> notrack`.
fn untracked_tunnel(chain: &Chain<'_>, port: u16) -> Message {
    rule(chain, |list| {
        meta_is(list, NFT_META_L4PROTO, libc::IPPROTO_UDP as u8);
        load(list, NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2);
        register_is(list, &port.to_be_bytes());
        expression(list, "notrack", |_| {});
    })
}

/// The first address and, where there is one, the address after the last.
type Range = (u128, Option<u128>);

/// The ranges that `nets` of one version cover, sorted; neither overlapping nor adjacent.
fn ranges(ip: Ip, nets: &[IpNet]) -> Vec<Range> {
    let number = |a: IpAddr| match a {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    };
    let last = if ip == IPV4 { u128::from(u32::MAX) } else { u128::MAX };
    let of_version = nets.iter().filter(|n| Ip::of(n) == ip);
    let mut all: Vec<Range> = of_version
        .map(|n| (number(n.network()), number(n.broadcast())))
        .map(|(from, to)| (from, (to < last).then(|| to + 1)))
        .collect();
    all.sort_unstable();
    let mut merged: Vec<Range> = Vec::new();
    for (from, end) in all {
        match merged.last_mut() {
            Some((_, top)) if top.is_none_or(|t| from <= t) => {
                *top = top.zip(end).map(|(a, b)| a.max(b));
            }
            _ => merged.push((from, end)),
        }
    }
    merged
}

/// The set of the cluster's addresses of one version, with its elements.
fn cluster_set(ip: Ip, nets: &[IpNet]) -> Vec<Message> {
    let (name, id, key_type) = ip.set;
    let mut set = message(NFT_MSG_NEWSET, NFPROTO_INET, NLM_F_CREATE);
    set.attr_str(NFTA_SET_TABLE, TABLE)
        .attr_str(NFTA_SET_NAME, name)
        .attr_be32(NFTA_SET_FLAGS, NFT_SET_INTERVAL)
        .attr_be32(NFTA_SET_KEY_TYPE, key_type)
        .attr_be32(NFTA_SET_KEY_LEN, ip.len)
        .attr_be32(NFTA_SET_ID, id);
    let mut messages = vec![set];
    messages.extend(cluster_elements(NFT_MSG_NEWSETELEM, ip, ranges(ip, nets)));
    messages
}

/// From one set of the cluster's addresses to another: the ranges that differ.
fn change_cluster(ip: Ip, old: &[IpNet], new: &[IpNet]) -> Vec<Message> {
    let (old, new) = (ranges(ip, old), ranges(ip, new));
    let lacks = |all: &[Range], r: &Range| all.binary_search(r).is_err();
    let gone = old.iter().filter(|r| lacks(&new, r)).copied();
    let added = new.iter().filter(|r| lacks(&old, r)).copied();
    // What is gone goes first: the kernel refuses ranges that overlap.
    let mut messages = cluster_elements(NFT_MSG_DELSETELEM, ip, gone);
    messages.extend(cluster_elements(NFT_MSG_NEWSETELEM, ip, added));
    messages
}

/// Messages that store (or delete) ranges of the set of the cluster's addresses.
fn cluster_elements(kind: u16, ip: Ip, ranges: impl IntoIterator<Item = Range>) -> Vec<Message> {
    // An interval is two elements: where it begins, and where something else begins.
    let elements: Vec<(u128, bool)> = ranges
        .into_iter()
        .flat_map(|(from, end)| [Some((from, false)), end.map(|e| (e, true))])
        .flatten()
        .collect();
    let flags = if kind == NFT_MSG_NEWSETELEM { NLM_F_CREATE } else { 0 };
    let mut messages = Vec::new();
    for chunk in elements.chunks(ELEMENTS_MAX) {
        let mut m = message(kind, NFPROTO_INET, flags);
        m.attr_str(NFTA_SET_ELEM_LIST_TABLE, TABLE)
            .attr_str(NFTA_SET_ELEM_LIST_SET, ip.set.0)
            .nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                for (key, end) in chunk {
                    let bytes = key.to_be_bytes();
                    list.nest(NFTA_LIST_ELEM, |e| {
                        e.nest(NFTA_SET_ELEM_KEY, |k| {
                            k.attr(NFTA_DATA_VALUE, &bytes[16 - ip.len as usize..]);
                        });
                        if *end {
                            e.attr_be32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
                        }
                    });
                }
            });
        messages.push(m);
    }
    messages
}

/// Makes the table of the calling thread's namespace do what `rules` say, without entrances,
/// in place of what was in it before; one atomic transaction.
pub fn replace(rules: &Rules) -> Result<()> {
    let messages = table::whole(
        rules,
        &content::Content::default(),
        &table::Clients::default(),
        ruleset::STICKY_MAX,
    );
    Link::default().commit("replace nf_tables table", messages)
}

/// Removes the table from the calling thread's namespace; an absent one is fine.
pub fn delete() -> Result<()> {
    let messages = vec![table(NFT_MSG_NEWTABLE, NLM_F_CREATE), table(NFT_MSG_DELTABLE, 0)];
    Link::default().commit("delete nf_tables table", messages)
}

/// Whether the kernel of the calling thread's namespace leads clients by a hash of their address
/// ([`Targets::by_client`]); without it they are led by chance.
pub fn probe_hash() -> Result<()> {
    table::can_hash(&mut Link::default())
}

/// Whether the table exists in the calling thread's namespace.
pub fn exists() -> Result<bool> {
    Link::default().exists()
}

/// [`replace`] in the namespace mounted at `netns`.
pub fn replace_in(netns: &Path, rules: &Rules) -> Result<()> {
    netns::run_in(netns, || replace(rules))?
}

fn open() -> Result<Connection> {
    Connection::open(netlink_sys::protocols::NETLINK_NETFILTER)
        .map_err(|e| Error::io("open netlink socket", "netfilter", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_merged_and_may_end_with_the_space() {
        let nets: Vec<IpNet> = ["10.0.1.0/24", "10.0.0.0/24", "10.0.0.7/32", "10.0.3.0/24"]
            .iter()
            .chain(&["255.255.255.0/24", "fd00::/64"])
            .map(|s| s.parse().expect("prefix"))
            .collect();
        let got = ranges(IPV4, &nets);
        let expected = [
            (0x0a00_0000, Some(0x0a00_0200)),
            (0x0a00_0300, Some(0x0a00_0400)),
            (0xffff_ff00, None),
        ];
        assert_eq!(got, expected);
        assert_eq!(ranges(IPV6, &nets).len(), 1);
    }
}
