//! Expressions of rules. Registers are numbered in words of four bytes, from 0 to 15.

use super::*;

pub(super) const NFTA_DATA_VERDICT: u16 = 2;
pub(super) const NFTA_VERDICT_CODE: u16 = 1;
pub(super) const NFTA_VERDICT_CHAIN: u16 = 2;
pub(super) const NF_DROP: i32 = 0;
const NF_ACCEPT: i32 = 1;
pub(super) const NFT_GOTO: i32 = -4;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFT_REG_VERDICT: u32 = 0;
const NFTA_LOOKUP_DREG: u16 = 3;
const NFTA_NG_DREG: u16 = 1;
const NFTA_NG_MODULUS: u16 = 2;
const NFTA_NG_TYPE: u16 = 3;
const NFT_NG_RANDOM: u32 = 1;
const NFTA_HASH_SREG: u16 = 1;
const NFTA_HASH_DREG: u16 = 2;
const NFTA_HASH_LEN: u16 = 3;
const NFTA_HASH_MODULUS: u16 = 4;
const NFTA_HASH_SEED: u16 = 5;
const NFTA_HASH_TYPE: u16 = 7;
const NFT_HASH_JENKINS: u32 = 0;
/// The same on all nodes, so that they all lead a client to the same target; the kernel would
/// take a random one.
const HASH_SEED: u32 = 0x7765_6674;
const NFTA_NAT_TYPE: u16 = 1;
const NFTA_NAT_FAMILY: u16 = 2;
const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
const NFTA_NAT_REG_PROTO_MAX: u16 = 6;
const NFTA_NAT_FLAGS: u16 = 7;
const NFT_CMP_LTE: u32 = 3;
const NFT_CMP_GTE: u32 = 5;
const NFT_NAT_SNAT: u32 = 0;
const NFT_NAT_DNAT: u32 = 1;
/// The source port is random: two CPUs that choose one at the same moment would otherwise
/// take the same, and one of the packets would be dropped.
const NF_NAT_RANGE_PROTO_RANDOM_FULLY: u32 = 16;
const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
const NFTA_CT_DIRECTION: u16 = 3;
const NFT_CT_PROTO_DST: u32 = 12;
const NFT_CT_DST_IP: u32 = 20;
const NFT_CT_DST_IP6: u32 = 22;
const IP_CT_DIR_ORIGINAL: u8 = 0;
const NFTA_DYNSET_SET_NAME: u16 = 1;
const NFTA_DYNSET_OP: u16 = 3;
const NFTA_DYNSET_SREG_KEY: u16 = 4;
const NFTA_DYNSET_SREG_DATA: u16 = 5;
const NFTA_DYNSET_TIMEOUT: u16 = 6;
const NFT_DYNSET_OP_UPDATE: u32 = 1;
const NFT_DYNSET_OP_DELETE: u32 = 2;

/// NFT_REG32_00 is 8.
fn register(word: u32) -> u32 {
    8 + word
}

/// What a rule ends with.
pub(super) enum Verdict<'a> {
    Accept,
    Drop,
    Goto(&'a str),
}

impl Verdict<'_> {
    /// As the data of an element or of an immediate.
    pub(super) fn put(&self, data: &mut Message) {
        data.nest(NFTA_DATA_VERDICT, |v| {
            let code = match self {
                Self::Accept => NF_ACCEPT,
                Self::Drop => NF_DROP,
                Self::Goto(_) => NFT_GOTO,
            };
            v.attr(NFTA_VERDICT_CODE, &code.to_be_bytes());
            if let Self::Goto(chain) = self {
                v.attr_str(NFTA_VERDICT_CHAIN, chain);
            }
        });
    }
}

pub(super) fn verdict(list: &mut Message, verdict: &Verdict<'_>) {
    expression(list, "immediate", |d| {
        d.attr_be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT)
            .nest(NFTA_IMMEDIATE_DATA, |v| verdict.put(v));
    });
}

fn bytes_to(list: &mut Message, word: u32, bytes: &[u8]) {
    expression(list, "immediate", |d| {
        d.attr_be32(NFTA_IMMEDIATE_DREG, register(word)).nest(NFTA_IMMEDIATE_DATA, |v| {
            v.attr(NFTA_DATA_VALUE, bytes);
        });
    });
}

fn payload_to(list: &mut Message, word: u32, base: u32, offset: u32, len: u32) {
    expression(list, "payload", |d| {
        d.attr_be32(NFTA_PAYLOAD_DREG, register(word))
            .attr_be32(NFTA_PAYLOAD_BASE, base)
            .attr_be32(NFTA_PAYLOAD_OFFSET, offset)
            .attr_be32(NFTA_PAYLOAD_LEN, len);
    });
}

/// What the rule shows instead of what a look-up writes there: the packet's mark. See
/// `ruleset.rs`.
pub(super) fn show_mark(list: &mut Message, word: u32) {
    expression(list, "meta", |d| {
        d.attr_be32(NFTA_META_KEY, NFT_META_MARK).attr_be32(NFTA_META_DREG, register(word));
    });
}

/// The same for a target: the packet's destination.
pub(super) fn show_target(list: &mut Message, ip: Ip, word: u32) {
    address_to(list, ip, word, false);
    payload_to(list, word + ip.words(), NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2);
}

fn protocol_to(list: &mut Message, word: u32) {
    expression(list, "meta", |d| {
        d.attr_be32(NFTA_META_KEY, NFT_META_L4PROTO).attr_be32(NFTA_META_DREG, register(word));
    });
}

/// The source or destination address.
pub(super) fn address_to(list: &mut Message, ip: Ip, word: u32, source: bool) {
    let offset = if source { ip.source } else { ip.destination };
    payload_to(list, word, NFT_PAYLOAD_NETWORK_HEADER, offset, ip.len);
}

/// Address, protocol and port of one end of the packet: the key of `frontends` and `tracked`.
pub(super) fn end_to(list: &mut Message, ip: Ip, word: u32, source: bool) {
    address_to(list, ip, word, source);
    port_to(list, ip, word, source);
}

/// Protocol and port of one end, behind the room for its address.
pub(super) fn port_to(list: &mut Message, ip: Ip, word: u32, source: bool) {
    protocol_to(list, word + ip.words());
    let offset = if source { 0 } else { 2 };
    payload_to(list, word + ip.words() + 1, NFT_PAYLOAD_TRANSPORT_HEADER, offset, 2);
}

/// The same of the destination that the connection had before it was translated.
pub(super) fn original_to(list: &mut Message, ip: Ip, word: u32) {
    let mut ct = |key: u32, word: u32| {
        expression(list, "ct", |d| {
            d.attr_be32(NFTA_CT_DREG, register(word))
                .attr_be32(NFTA_CT_KEY, key)
                .attr(NFTA_CT_DIRECTION, &[IP_CT_DIR_ORIGINAL]);
        });
    };
    ct(if ip == IPV4 { NFT_CT_DST_IP } else { NFT_CT_DST_IP6 }, word);
    ct(NFT_CT_PROTO_DST, word + ip.words() + 1);
    protocol_to(list, word + ip.words());
}

/// Looks up the key at `key`; the value goes to `value` where the set is a map. The rule ends
/// where the key is not there.
pub(super) fn find(list: &mut Message, set: &str, key: u32, value: Option<u32>) {
    expression(list, "lookup", |d| {
        d.attr_str(NFTA_LOOKUP_SET, set).attr_be32(NFTA_LOOKUP_SREG, register(key));
        if let Some(word) = value {
            d.attr_be32(NFTA_LOOKUP_DREG, register(word));
        }
    });
}

/// Looks up the key and does what the map says.
pub(super) fn obey(list: &mut Message, map: &str, key: u32) {
    expression(list, "lookup", |d| {
        d.attr_str(NFTA_LOOKUP_SET, map)
            .attr_be32(NFTA_LOOKUP_SREG, register(key))
            .attr_be32(NFTA_LOOKUP_DREG, NFT_REG_VERDICT);
    });
}

/// A random number below `modulus`.
pub(super) fn random_to(list: &mut Message, word: u32, modulus: u32) {
    expression(list, "numgen", |d| {
        d.attr_be32(NFTA_NG_DREG, register(word))
            .attr_be32(NFTA_NG_MODULUS, modulus)
            .attr_be32(NFTA_NG_TYPE, NFT_NG_RANDOM);
    });
}

/// A number below `modulus` that depends on the address at `from` alone.
pub(super) fn hash_to(list: &mut Message, ip: Ip, word: u32, from: u32, modulus: u32) {
    expression(list, "hash", |d| {
        d.attr_be32(NFTA_HASH_SREG, register(from))
            .attr_be32(NFTA_HASH_DREG, register(word))
            .attr_be32(NFTA_HASH_LEN, ip.len)
            .attr_be32(NFTA_HASH_MODULUS, modulus)
            .attr_be32(NFTA_HASH_SEED, HASH_SEED)
            .attr_be32(NFTA_HASH_TYPE, NFT_HASH_JENKINS);
    });
}

/// Deletes an element of a dynamic map, if it is there; the value does not matter.
pub(super) fn unremember(list: &mut Message, map: &str, key: u32, value: u32) {
    expression(list, "dynset", |d| {
        d.attr_str(NFTA_DYNSET_SET_NAME, map)
            .attr_be32(NFTA_DYNSET_OP, NFT_DYNSET_OP_DELETE)
            .attr_be32(NFTA_DYNSET_SREG_KEY, register(key))
            .attr_be32(NFTA_DYNSET_SREG_DATA, register(value));
    });
}

/// Stores an element of a dynamic map, or refreshes it, which leaves its value alone.
pub(super) fn remember(list: &mut Message, map: &str, key: u32, value: u32, timeout_s: u32) {
    expression(list, "dynset", |d| {
        d.attr_str(NFTA_DYNSET_SET_NAME, map)
            .attr_be32(NFTA_DYNSET_OP, NFT_DYNSET_OP_UPDATE)
            .attr_be32(NFTA_DYNSET_SREG_KEY, register(key))
            .attr_be32(NFTA_DYNSET_SREG_DATA, register(value))
            .attr(NFTA_DYNSET_TIMEOUT, &(u64::from(timeout_s) * 1000).to_be_bytes());
    });
}

/// The destination becomes the address at `word`, and the port behind it.
pub(super) fn to_target(list: &mut Message, ip: Ip, word: u32) {
    expression(list, "nat", |d| {
        d.attr_be32(NFTA_NAT_TYPE, NFT_NAT_DNAT)
            .attr_be32(NFTA_NAT_FAMILY, ip.nfproto.into())
            .attr_be32(NFTA_NAT_REG_ADDR_MIN, register(word))
            .attr_be32(NFTA_NAT_REG_PROTO_MIN, register(word + ip.words()));
    });
}

/// The destination becomes `addr`; the port stays.
pub(super) fn to_address(list: &mut Message, addr: IpAddr) {
    bytes_to(list, 0, &wire::ip_bytes(addr));
    expression(list, "nat", |d| {
        d.attr_be32(NFTA_NAT_TYPE, NFT_NAT_DNAT)
            .attr_be32(NFTA_NAT_FAMILY, Ip::of_addr(addr).nfproto.into())
            .attr_be32(NFTA_NAT_REG_ADDR_MIN, register(0));
    });
}

/// The source becomes `addr`, and a port that is free: one of `ports`, where given.
pub(super) fn from_address(list: &mut Message, addr: IpAddr, ports: Option<&Ports>) {
    bytes_to(list, 0, &wire::ip_bytes(addr));
    let (first, last) = (Ip::of_addr(addr).words(), Ip::of_addr(addr).words() + 1);
    if let Some(ports) = ports {
        bytes_to(list, first, &ports.start().to_be_bytes());
        bytes_to(list, last, &ports.end().to_be_bytes());
    }
    expression(list, "nat", |d| {
        d.attr_be32(NFTA_NAT_TYPE, NFT_NAT_SNAT)
            .attr_be32(NFTA_NAT_FAMILY, Ip::of_addr(addr).nfproto.into())
            .attr_be32(NFTA_NAT_REG_ADDR_MIN, register(0));
        if ports.is_some() {
            d.attr_be32(NFTA_NAT_REG_PROTO_MIN, register(first))
                .attr_be32(NFTA_NAT_REG_PROTO_MAX, register(last));
        }
        d.attr_be32(NFTA_NAT_FLAGS, NF_NAT_RANGE_PROTO_RANDOM_FULLY);
    });
}

/// The destination port is one of `ports`.
pub(super) fn port_in(list: &mut Message, ports: &Ports) {
    load(list, NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2);
    for (op, port) in [(NFT_CMP_GTE, ports.start()), (NFT_CMP_LTE, ports.end())] {
        expression(list, "cmp", |d| {
            d.attr_be32(NFTA_CMP_SREG, NFT_REG_1).attr_be32(NFTA_CMP_OP, op).nest(
                NFTA_CMP_DATA,
                |v| {
                    v.attr(NFTA_DATA_VALUE, &port.to_be_bytes());
                },
            );
        });
    }
}

impl Ip {
    /// Registers that an address takes.
    pub(super) fn words(self) -> u32 {
        self.len / 4
    }
}
