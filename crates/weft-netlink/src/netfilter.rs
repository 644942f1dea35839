//! The nf_tables table `weft` (inet): refuses what reached the stack with a Service address
//! untranslated, so that clients of a Service without backends see a refusal at once and
//! not a time-out.
//!
//! The socket hooks translate at connect time; a packet that still carries a Service address
//! found no backend. A `local` route for the Service ranges (made by the caller) brings such
//! packets, from pods and from the node itself, to the `input` hook, where they are refused
//! whatever listens on the node. Rejecting in `output` instead would make `send` on a UDP
//! socket of the node fail with EPERM: the verdict of that hook is the result of the call.
//! One batch replaces the whole table atomically.

use crate::{
    error::{Error, Result},
    netns,
    socket::{Connection, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST},
    wire::{self, Message},
};
use ipnet::IpNet;
use std::path::Path;

/// Name of the table.
pub const TABLE: &str = "weft";
/// The chain.
const CHAIN: &str = "reject-input";
/// Its hook.
const NF_INET_LOCAL_IN: u32 = 1;

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
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
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
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

fn nfgenmsg(family: u8, resource: u16) -> [u8; 4] {
    let [hi, lo] = resource.to_be_bytes();
    [family, 0, hi, lo]
}

fn message(kind: u16, family: u8, flags: u16) -> Message {
    let kind = (NFNL_SUBSYS_NFTABLES << 8) | kind;
    Message::new(kind, NLM_F_REQUEST | flags).header(&nfgenmsg(family, 0))
}

fn batch(kind: u16) -> Message {
    Message::new(kind, NLM_F_REQUEST).header(&nfgenmsg(NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES))
}

fn table(kind: u16, flags: u16) -> Message {
    let mut m = message(kind, NFPROTO_INET, flags);
    m.attr_str(NFTA_TABLE_NAME, TABLE);
    m
}

fn chain(name: &str, hook: u32) -> Message {
    let mut m = message(NFT_MSG_NEWCHAIN, NFPROTO_INET, NLM_F_CREATE | NLM_F_ACK);
    m.attr_str(NFTA_CHAIN_TABLE, TABLE)
        .attr_str(NFTA_CHAIN_NAME, name)
        .nest(NFTA_CHAIN_HOOK, |h| {
            h.attr_be32(NFTA_HOOK_HOOKNUM, hook).attr_be32(NFTA_HOOK_PRIORITY, 0);
        })
        .attr_str(NFTA_CHAIN_TYPE, "filter");
    m
}

fn expression(list: &mut Message, name: &str, fill: impl FnOnce(&mut Message)) {
    list.nest(NFTA_LIST_ELEM, |e| {
        e.attr_str(NFTA_EXPR_NAME, name).nest(NFTA_EXPR_DATA, fill);
    });
}

fn meta_is(list: &mut Message, key: u32, value: u8) {
    expression(list, "meta", |d| {
        d.attr_be32(NFTA_META_KEY, key).attr_be32(NFTA_META_DREG, NFT_REG_1);
    });
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

/// `[ip|ip6] daddr <net> [meta l4proto tcp] reject with [tcp reset | icmpx port-unreachable]`.
fn reject(chain: &str, net: IpNet, tcp: bool) -> Message {
    let flags = NLM_F_CREATE | NLM_F_APPEND | NLM_F_ACK;
    let mut m = message(NFT_MSG_NEWRULE, NFPROTO_INET, flags);
    m.attr_str(NFTA_RULE_TABLE, TABLE).attr_str(NFTA_RULE_CHAIN, chain);
    // Where the destination lies in the IP header: RFC 791, RFC 8200.
    let (family, offset) =
        if net.addr().is_ipv4() { (NFPROTO_IPV4, 16) } else { (NFPROTO_IPV6, 24) };
    let (network, mask) = (wire::ip_bytes(net.network()), wire::ip_bytes(net.netmask()));
    let len = u32::try_from(mask.len()).expect("invariant: 4 or 16");
    m.nest(NFTA_RULE_EXPRESSIONS, |list| {
        meta_is(list, NFT_META_NFPROTO, family);
        expression(list, "payload", |d| {
            d.attr_be32(NFTA_PAYLOAD_DREG, NFT_REG_1)
                .attr_be32(NFTA_PAYLOAD_BASE, NFT_PAYLOAD_NETWORK_HEADER)
                .attr_be32(NFTA_PAYLOAD_OFFSET, offset)
                .attr_be32(NFTA_PAYLOAD_LEN, len);
        });
        expression(list, "bitwise", |d| {
            d.attr_be32(NFTA_BITWISE_SREG, NFT_REG_1)
                .attr_be32(NFTA_BITWISE_DREG, NFT_REG_1)
                .attr_be32(NFTA_BITWISE_LEN, len)
                .nest(NFTA_BITWISE_MASK, |v| {
                    v.attr(NFTA_DATA_VALUE, &mask);
                })
                .nest(NFTA_BITWISE_XOR, |v| {
                    v.attr(NFTA_DATA_VALUE, &vec![0; mask.len()]);
                });
        });
        register_is(list, &network);
        if tcp {
            meta_is(list, NFT_META_L4PROTO, libc::IPPROTO_TCP as u8);
        }
        expression(list, "reject", |d| {
            let kind = if tcp { NFT_REJECT_TCP_RST } else { NFT_REJECT_ICMPX_UNREACH };
            let code = if tcp { 0 } else { NFT_REJECT_ICMPX_PORT_UNREACH };
            d.attr_be32(NFTA_REJECT_TYPE, kind).attr(NFTA_REJECT_ICMP_CODE, &[code]);
        });
    });
    m
}

/// Makes the table of the calling thread's namespace refuse packets to `services`, in place
/// of what was in it before; one atomic transaction.
pub fn replace_rejects(services: &[IpNet]) -> Result<()> {
    // "Add, delete, add" is the idiom for "replace": the first makes the second succeed.
    let mut messages = vec![
        table(NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_ACK),
        table(NFT_MSG_DELTABLE, NLM_F_ACK),
        table(NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_ACK),
    ];
    messages.push(chain(CHAIN, NF_INET_LOCAL_IN));
    for net in services {
        messages.push(reject(CHAIN, *net, true));
        messages.push(reject(CHAIN, *net, false));
    }
    commit("replace nf_tables table", messages)
}

/// Removes the table from the calling thread's namespace; an absent one is fine.
pub fn delete() -> Result<()> {
    let messages =
        vec![table(NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_ACK), table(NFT_MSG_DELTABLE, NLM_F_ACK)];
    commit("delete nf_tables table", messages)
}

/// Whether the table exists in the calling thread's namespace.
pub fn exists() -> Result<bool> {
    let mut connection = open()?;
    match connection.request(table(NFT_MSG_GETTABLE, NLM_F_ACK)) {
        Ok(_) => Ok(true),
        Err(r) if r.source.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(r) => Err(Error::Kernel {
            operation: "get nf_tables table",
            object: TABLE.to_owned(),
            detail: r.detail,
            source: r.source,
        }),
    }
}

/// [`replace_rejects`] in the namespace mounted at `netns`.
pub fn replace_rejects_in(netns: &Path, services: &[IpNet]) -> Result<()> {
    netns::run_in(netns, || replace_rejects(services))?
}

fn open() -> Result<Connection> {
    Connection::open(netlink_sys::protocols::NETLINK_NETFILTER)
        .map_err(|e| Error::io("open netlink socket", "netfilter", e))
}

fn commit(operation: &'static str, mut messages: Vec<Message>) -> Result<()> {
    let acknowledgements = messages.len();
    messages.insert(0, batch(NFNL_MSG_BATCH_BEGIN));
    messages.push(batch(NFNL_MSG_BATCH_END));
    open()?.batch(messages, acknowledgements).map_err(|r| Error::Kernel {
        operation,
        object: TABLE.to_owned(),
        detail: r.detail,
        source: r.source,
    })
}
