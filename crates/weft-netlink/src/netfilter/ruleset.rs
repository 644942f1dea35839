//! Maps, chains and rules for entrances, as messages.
//!
//! Registers (in words, `w` = 1 for IPv4 and 4 for IPv6): source address at 0, then the key of
//! `frontends` at w, and a target at 2w + 2, behind a word of nothing. IPv6 needs all 16 words,
//! so the value of `frontends` takes the place of what is not needed at that moment.
//!
//! **What `nft` shows.** The tool (1.0.6, which distributions have) remembers for each register
//! the expression that last wrote *to that number*, and aborts where a key begins with what a map
//! gave: it thinks that is of length 0. So values of maps begin with a word that nobody reads,
//! and the words behind it are written once before the look-up, by something of the length that
//! the tool expects: it shows that instead (`meta mark` for a number, the packet's destination
//! for a target). A comment says what is really there. It costs a few loads a connection.

use super::{
    content::{Class, Content, Edits},
    element::{Bytes, ClassChain, Map, Place, Value},
    expr::{self, Verdict},
    observe::{NFTA_SET_ELEM_EXPIRATION, NFTA_SET_ELEM_TIMEOUT, Remembered},
    *,
};

const NFT_MSG_DELCHAIN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_DESC: u16 = 9;
const NFTA_SET_DESC_SIZE: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFT_SET_MAP: u32 = 8;
const NFT_SET_TIMEOUT: u32 = 16;
const NFT_SET_EVAL: u32 = 32;
const NFT_DATA_VERDICT: u32 = 0xffff_ff00;
// Type numbers of the `nft` tool, so that it can print the maps.
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
const TYPE_MARK: u32 = 19;
/// Remembered clients in one message: each takes at most 112 bytes.
const REMEMBERED_MAX: usize = 500;
/// Clients × entrances with session affinity.
pub(super) const STICKY_MAX: u32 = 65_536;

/// A chain that is entered from others.
fn plain_chain(name: &str) -> Message {
    let mut m = message(NFT_MSG_NEWCHAIN, NFPROTO_INET, NLM_F_CREATE);
    m.attr_str(NFTA_CHAIN_TABLE, TABLE).attr_str(NFTA_CHAIN_NAME, name);
    m
}

fn rule_in(chain: &str, fill: impl FnOnce(&mut Message)) -> Message {
    rule(&Chain(chain, "", 0, 0), fill)
}

/// A rule for packets of one IP version.
fn rule_of(chain: &str, ip: Ip, fill: impl FnOnce(&mut Message)) -> Message {
    rule_in(chain, |list| {
        meta_is(list, NFT_META_NFPROTO, ip.nfproto);
        fill(list);
    })
}

/// Where the value of `frontends` is while a class or a target is looked for: nothing, class,
/// group, and then an index.
fn led_to(ip: Ip) -> u32 {
    // IPv4 has words to spare. In IPv6 the source address comes later.
    if ip == IPV4 { 8 } else { 0 }
}

/// Where a target is: nothing (or its group), address, port.
fn target_at(ip: Ip) -> u32 {
    2 * ip.words() + 2
}

pub(super) fn sticky_name(ip: Ip) -> &'static str {
    if ip == IPV4 { "sticky4" } else { "sticky6" }
}

/// Types of the parts of a key or value, as the `nft` tool joins them.
fn joined(types: &[u32]) -> u32 {
    types.iter().fold(0, |all, t| all << 6 | t)
}

/// `size`: how many elements fit; `None` for any number.
fn new_set(
    name: &str,
    (id, flags, size): (u32, u32, Option<u32>),
    key: (u32, u32),
    data: Option<(u32, u32)>,
) -> Message {
    let mut m = message(NFT_MSG_NEWSET, NFPROTO_INET, NLM_F_CREATE);
    m.attr_str(NFTA_SET_TABLE, TABLE)
        .attr_str(NFTA_SET_NAME, name)
        .attr_be32(NFTA_SET_FLAGS, flags | if data.is_some() { NFT_SET_MAP } else { 0 })
        .attr_be32(NFTA_SET_KEY_TYPE, key.0)
        .attr_be32(NFTA_SET_KEY_LEN, key.1);
    if let Some((kind, len)) = data {
        m.attr_be32(NFTA_SET_DATA_TYPE, kind).attr_be32(NFTA_SET_DATA_LEN, len);
    }
    if let Some(size) = size {
        m.nest(NFTA_SET_DESC, |d| {
            d.attr_be32(NFTA_SET_DESC_SIZE, size);
        });
    }
    m.attr_be32(NFTA_SET_ID, id);
    m
}

/// A target, and a word before it.
fn target_type(ip: Ip) -> (u32, u32) {
    (joined(&[TYPE_MARK, ip.set.2, TYPE_PORT]), ip.len + 8)
}

/// Client and entrance, and their target.
pub(super) fn sticky_types(ip: Ip) -> ((u32, u32), (u32, u32)) {
    let key = joined(&[ip.set.2, ip.set.2, TYPE_PROTOCOL, TYPE_PORT]);
    ((key, ip.len * 2 + 8), target_type(ip))
}

/// Messages that make a new table remember what another one remembered.
pub(super) fn remember(ip: Ip, all: &[Remembered]) -> Vec<Message> {
    let some = all.chunks(REMEMBERED_MAX).map(|some| {
        let mut m = message(NFT_MSG_NEWSETELEM, NFPROTO_INET, NLM_F_CREATE);
        m.attr_str(NFTA_SET_ELEM_LIST_TABLE, TABLE)
            .attr_str(NFTA_SET_ELEM_LIST_SET, sticky_name(ip))
            .nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                for one in some {
                    list.nest(NFTA_LIST_ELEM, |e| {
                        e.nest(NFTA_SET_ELEM_KEY, |k| {
                            k.attr(NFTA_DATA_VALUE, &one.key);
                        })
                        .nest(NFTA_SET_ELEM_DATA, |d| {
                            d.attr(NFTA_DATA_VALUE, &one.target);
                        })
                        .attr(NFTA_SET_ELEM_TIMEOUT, &one.timeout_ms.to_be_bytes())
                        .attr(NFTA_SET_ELEM_EXPIRATION, &one.left_ms.to_be_bytes());
                    });
                }
            });
        m
    });
    some.collect()
}

/// All maps and sets, empty.
pub(super) fn sets(sticky_max: u32) -> Vec<Message> {
    let mut messages = Vec::new();
    let mut id = 10;
    let mut next = || {
        id += 1;
        id
    };
    for map in Map::ALL {
        let (key, data) = match map {
            Map::Frontends(ip) => {
                let key = joined(&[ip.set.2, TYPE_PROTOCOL, TYPE_PORT]);
                ((key, ip.len + 8), Some((joined(&[TYPE_MARK, TYPE_MARK, TYPE_MARK]), 12)))
            }
            Map::Slots(ip) => ((joined(&[TYPE_MARK, TYPE_MARK]), 8), Some(target_type(ip))),
            Map::Classes => ((TYPE_MARK, 4), Some((NFT_DATA_VERDICT, 16))),
            Map::Tracked(ip) => ((joined(&[ip.set.2, TYPE_PROTOCOL, TYPE_PORT]), ip.len + 8), None),
            Map::Members(ip) => (target_type(ip), None),
            Map::Hairpin(ip) => ((joined(&[ip.set.2, ip.set.2]), ip.len * 2), None),
        };
        messages.push(new_set(map.name(), (next(), 0, None), key, data));
    }
    for ip in [IPV4, IPV6] {
        let (key, target) = sticky_types(ip);
        let what = (next(), NFT_SET_TIMEOUT | NFT_SET_EVAL, Some(sticky_max));
        messages.push(new_set(sticky_name(ip), what, key, Some(target)));
    }
    messages
}

/// The chain of a class. `refuge`: one address of each Service range, where the `input` hook
/// refuses everything.
fn class_chain(chain: ClassChain, class: &Class, refuge: &[IpAddr]) -> Vec<Message> {
    let name = &*chain.to_string();
    let mut messages = vec![plain_chain(name)];
    match class {
        Class::Drop => {}
        Class::Refuse => {
            for ip in [IPV4, IPV6] {
                let at = refuge.iter().find(|a| Ip::of_addr(**a) == ip);
                messages.push(rule_of(name, ip, |list| match at {
                    Some(addr) => expr::to_address(list, *addr),
                    None => expr::verdict(list, &Verdict::Drop),
                }));
            }
        }
        Class::Pick { count, timeout_s, by_client } => {
            let of = |ip| pick(name, ip, *count, *timeout_s, *by_client);
            messages.extend([IPV4, IPV6].into_iter().flat_map(of));
        }
        // It looks nothing up itself: see `content.rs`.
        Class::From { sources, pick } => {
            let pick = ClassChain::Numbered(*pick).to_string();
            for net in sources {
                let ip = Ip::of(net);
                messages.push(rule_of(name, ip, |list| {
                    address_in(list, ip.source, net);
                    expr::verdict(list, &Verdict::Goto(&pick));
                }));
            }
            messages.push(rule_in(name, |list| expr::verdict(list, &Verdict::Drop)));
        }
    }
    messages
}

/// Chooses one of `count` slots: with the target that the client had before, else any, by chance
/// or by the client's address.
fn pick(chain: &str, ip: Ip, count: u32, timeout_s: u32, by_client: bool) -> Vec<Message> {
    let (w, target) = (ip.words(), target_at(ip));
    let (sticky, slots) = (sticky_name(ip), Map::Slots(ip).name());
    let mut rules = Vec::new();
    if timeout_s > 0 {
        let again = rule_of(chain, ip, |list| {
            expr::address_to(list, ip, 0, true);
            expr::end_to(list, ip, w, false);
            expr::show_target(list, ip, target + 1);
            expr::find(list, sticky, 0, Some(target));
            // The group comes to be before the target, in place of the word of nothing:
            // together they are the key of `members`.
            expr::show_mark(list, target);
            expr::find(list, Map::Frontends(ip).name(), w, Some(target - 2));
            expr::find(list, Map::Members(ip).name(), target, None);
            // Class and nothing are where protocol and port were.
            expr::port_to(list, ip, w, false);
            expr::remember(list, sticky, 0, target, timeout_s);
            expr::to_target(list, ip, target + 1);
        });
        let said = format!("dnat to the client's target of {sticky}, if it is one of the group");
        rules.push(commented(again, &said));
    }
    let mut any = |remembered: bool| {
        let led = led_to(ip);
        let one = rule_of(chain, ip, |list| {
            expr::end_to(list, ip, w, false);
            expr::show_mark(list, led + 2);
            expr::find(list, Map::Frontends(ip).name(), w, Some(led));
            if by_client {
                expr::address_to(list, ip, target, true);
                expr::hash_to(list, ip, led + 3, target, count);
            } else {
                expr::random_to(list, led + 3, count);
            }
            expr::show_target(list, ip, target + 1);
            expr::find(list, slots, led + 2, Some(target));
            if remembered {
                expr::address_to(list, ip, 0, true);
                expr::show_mark(list, target);
                // One that is there names a target that is none any more.
                expr::unremember(list, sticky, 0, target);
                expr::remember(list, sticky, 0, target, timeout_s);
            }
            expr::to_target(list, ip, target + 1);
        });
        let number = if by_client { "jhash saddr" } else { "numgen random" };
        let said = format!("dnat to {slots}[group . {number} mod {count}]");
        rules.push(commented(one, &said));
    };
    if timeout_s > 0 {
        any(true);
    }
    // Where there is no room to remember, the rule above ends before it translates: better
    // served by any target than not at all.
    any(false);
    rules
}

/// A rule with a hash, in a table that is gone at the end of the transaction: nobody ever sees it.
pub(super) fn hash_probe() -> Vec<Message> {
    const PROBE: &str = "weft-probe";
    let of_table = |kind, flags| {
        let mut m = message(kind, NFPROTO_INET, flags);
        m.attr_str(NFTA_TABLE_NAME, PROBE);
        m
    };
    let mut chain = message(NFT_MSG_NEWCHAIN, NFPROTO_INET, NLM_F_CREATE);
    chain.attr_str(NFTA_CHAIN_TABLE, PROBE).attr_str(NFTA_CHAIN_NAME, PROBE);
    let mut rule = message(NFT_MSG_NEWRULE, NFPROTO_INET, NLM_F_CREATE | NLM_F_APPEND);
    rule.attr_str(NFTA_RULE_TABLE, PROBE).attr_str(NFTA_RULE_CHAIN, PROBE).nest(
        NFTA_RULE_EXPRESSIONS,
        |list| {
            meta_is(list, NFT_META_NFPROTO, IPV4.nfproto);
            expr::address_to(list, IPV4, 0, true);
            expr::hash_to(list, IPV4, 4, 0, 2);
        },
    );
    let made = of_table(NFT_MSG_NEWTABLE, NLM_F_CREATE);
    vec![made, chain, rule, of_table(NFT_MSG_DELTABLE, 0)]
}

/// The hooks where destinations are translated.
pub(super) fn entrances() -> Vec<Message> {
    let mut messages = Vec::new();
    for base in &TRANSLATE {
        messages.push(chain(base));
        for ip in [IPV4, IPV6] {
            let frontends = Map::Frontends(ip).name();
            let translated = rule_of(base.0, ip, |list| {
                let led = led_to(ip);
                expr::end_to(list, ip, ip.words(), false);
                expr::show_mark(list, led + 1);
                expr::find(list, frontends, ip.words(), Some(led));
                expr::obey(list, "classes", led + 1);
            });
            let said = format!("the class that {frontends} gives vmap @classes");
            messages.push(commented(translated, &said));
        }
    }
    messages
}

/// The rules of `postrouting` for what was translated, and the chains that they enter: which
/// source a target sees.
pub(super) fn sources(rules: &Rules) -> Vec<Message> {
    let mut messages = Vec::new();
    for ip in [IPV4, IPV6] {
        let name = if ip == IPV4 { "source4" } else { "source6" };
        let router = rules.routers.iter().copied().find(|a| Ip::of_addr(*a) == ip);
        let to_own = |list: &mut Message| match router {
            Some(router) => expr::from_address(list, router, rules.client_ports.as_ref()),
            None => expression(list, "masq", |_| {}),
        };
        messages.push(plain_chain(name));
        // A pod that reached itself would throw away packets from its own address.
        messages.push(rule_of(name, ip, |list| {
            expr::address_to(list, ip, 0, true);
            expr::address_to(list, ip, ip.words(), false);
            expr::find(list, Map::Hairpin(ip).name(), 0, None);
            to_own(list);
        }));
        // Replies of this node's pods come through this stack anyway: they see the client.
        // What is refused does, too.
        let local = rules.masquerade.iter().chain(&rules.services);
        for net in local.filter(|n| Ip::of(n) == ip) {
            messages.push(rule_of(name, ip, |list| {
                address_in(list, ip.destination, net);
                expr::verdict(list, &Verdict::Accept);
            }));
        }
        messages.push(rule_of(name, ip, |list| {
            address_in_cluster(list, ip, ip.destination, true);
            to_own(list);
        }));
        messages.push(rule_of(name, ip, |list| expression(list, "masq", |_| {})));
        let frontends = Map::Frontends(ip).name();
        let translated = rule_of(MASQUERADE.0, ip, |list| {
            expr::original_to(list, ip, 0);
            expr::find(list, frontends, 0, Some(target_at(ip)));
            expr::verdict(list, &Verdict::Goto(name));
        });
        messages.push(commented(translated, &format!("came to one of {frontends}")));
    }
    messages
}

/// What is tracked although both ends are inside the cluster: packets to entrances, replies of
/// this node's targets, and replies to this node's own address where it stands for clients,
/// and errors about all these.
pub(super) fn inside(rules: &Rules) -> Vec<Message> {
    let mut messages = Vec::new();
    for ip in [IPV4, IPV6] {
        let name = inside_name(ip);
        messages.extend(icmp(ip));
        messages.push(plain_chain(name));
        let frontends = Map::Frontends(ip).name();
        let entering = rule_of(name, ip, |list| {
            expr::end_to(list, ip, 0, false);
            expr::find(list, frontends, 0, Some(target_at(ip)));
            expr::verdict(list, &Verdict::Accept);
        });
        messages.push(commented(entering, &format!("goes to one of {frontends}")));
        messages.push(rule_of(name, ip, |list| {
            expr::end_to(list, ip, 0, true);
            expr::find(list, Map::Tracked(ip).name(), 0, None);
            expr::verdict(list, &Verdict::Accept);
        }));
        messages.push(rule_of(name, ip, |list| {
            meta_is(list, NFT_META_L4PROTO, icmp_number(ip));
            expr::verdict(list, &Verdict::Goto(icmp_name(ip)));
        }));
        for router in rules.routers.iter().filter(|a| Ip::of_addr(**a) == ip) {
            messages.push(rule_of(name, ip, |list| {
                address_in(list, ip.destination, &(*router).into());
                if let Some(ports) = &rules.client_ports {
                    expr::port_in(list, ports);
                }
                expr::verdict(list, &Verdict::Accept);
            }));
        }
        messages.push(rule_in(name, |list| expression(list, "notrack", |_| {})));
    }
    messages
}

/// Errors about packets of tracked connections have to be translated with them, and make no
/// entries. Echoes would, and nothing of them is translated.
fn icmp(ip: Ip) -> Vec<Message> {
    // RFC 792, RFC 4443: reply and request.
    let echoes = if ip == IPV4 { [0, 8] } else { [129, 128] };
    let mut messages = vec![plain_chain(icmp_name(ip))];
    messages.extend(echoes.map(|kind| {
        rule_in(icmp_name(ip), |list| {
            meta_is(list, NFT_META_L4PROTO, icmp_number(ip));
            load(list, NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1);
            register_is(list, &[kind]);
            expression(list, "notrack", |_| {});
        })
    }));
    messages
}

fn icmp_number(ip: Ip) -> u8 {
    (if ip == IPV4 { libc::IPPROTO_ICMP } else { libc::IPPROTO_ICMPV6 }) as u8
}

fn icmp_name(ip: Ip) -> &'static str {
    if ip == IPV4 { "icmp4" } else { "icmp6" }
}

pub(super) fn inside_name(ip: Ip) -> &'static str {
    if ip == IPV4 { "inside4" } else { "inside6" }
}

/// Messages that store (or delete) elements, which are ordered by map.
fn elements(kind: u16, all: impl Iterator<Item = (Place, Option<Value>)>) -> Vec<Message> {
    let flags = if kind == NFT_MSG_NEWSETELEM { NLM_F_CREATE } else { 0 };
    let mut all = all.peekable();
    let mut messages = Vec::new();
    while let Some(((map, _), _)) = all.peek().copied() {
        let mut m = message(kind, NFPROTO_INET, flags);
        m.attr_str(NFTA_SET_ELEM_LIST_TABLE, TABLE)
            .attr_str(NFTA_SET_ELEM_LIST_SET, map.name())
            .nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                for _ in 0..ELEMENTS_MAX {
                    let Some(((_, key), value)) = all.next_if(|((m, _), _)| *m == map) else {
                        break;
                    };
                    list.nest(NFTA_LIST_ELEM, |e| element(e, &key, value));
                }
            });
        messages.push(m);
    }
    messages
}

fn element(e: &mut Message, key: &Bytes, value: Option<Value>) {
    e.nest(NFTA_SET_ELEM_KEY, |k| {
        k.attr(NFTA_DATA_VALUE, key.get());
    });
    match value {
        None | Some(Value::None) => {}
        Some(Value::Bytes(bytes)) => {
            e.nest(NFTA_SET_ELEM_DATA, |d| {
                d.attr(NFTA_DATA_VALUE, bytes.get());
            });
        }
        Some(Value::Drop) => {
            e.nest(NFTA_SET_ELEM_DATA, |d| Verdict::Drop.put(d));
        }
        Some(Value::Goto(chain)) => {
            e.nest(NFTA_SET_ELEM_DATA, |d| Verdict::Goto(&chain.to_string()).put(d));
        }
    }
}

/// From one content to another: new chains, the elements that differ, and chains that nothing
/// enters any more. In one transaction, so that a packet sees the one or the other.
pub(super) fn change(edits: &Edits, refuge: &[IpAddr]) -> Vec<Message> {
    let mut messages = Vec::new();
    for (chain, class) in &edits.new_chains {
        messages.extend(class_chain(*chain, class, refuge));
    }
    messages.extend(elements(NFT_MSG_DELSETELEM, edits.stale().map(|place| (place, None))));
    let fresh = edits.fresh().map(|(place, value)| (place, Some(value)));
    messages.extend(elements(NFT_MSG_NEWSETELEM, fresh));
    for chain in &edits.old_chains {
        let mut m = message(NFT_MSG_DELCHAIN, NFPROTO_INET, 0);
        m.attr_str(NFTA_CHAIN_TABLE, TABLE).attr_str(NFTA_CHAIN_NAME, &chain.to_string());
        messages.push(m);
    }
    messages
}

/// All chains and elements, for a table that has none.
pub(super) fn everything(content: &Content, refuge: &[IpAddr]) -> Vec<Message> {
    let mut messages = Vec::new();
    for (chain, class) in content.chains() {
        messages.extend(class_chain(chain, class, refuge));
    }
    for map in Map::ALL {
        let all = content.elements_of(map).map(|(place, value)| (place, Some(value)));
        messages.extend(elements(NFT_MSG_NEWSETELEM, all));
    }
    messages
}
