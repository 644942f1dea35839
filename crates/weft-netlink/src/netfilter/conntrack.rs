//! The kernel's connection table, as far as entrances need it: flows that were translated to
//! what is no target any more. TCP ends by itself when its peer is gone; a UDP flow that goes
//! on keeps its entry, and its black hole, for ever.
//!
//! The connection table is one for the whole machine, and listing it copies all of it. Since
//! Linux 5.8 the kernel lists the flows to one destination alone (`CTA_FILTER`). An older one
//! does not know the attribute and lists all, so what comes is looked at in any case. Addresses of
//! IPv6 are left to us: the kernel (at least up to 6.18) takes `ipv6_addr_cmp` for "is equal", and
//! would list all flows but those.

use super::{
    content::{Content, Goes},
    nat::Entrance,
    *,
};
use crate::socket::{NLM_F_DUMP, Refusal};
use std::collections::BTreeSet;

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
/// What a filter compares, of `nf_internals.h`: destination address, protocol, destination port.
const FILTER_ADDRESS: u32 = 1 << 1;
const FILTER_PROTOCOL: u32 = 1 << 3;
const FILTER_PORT: u32 = 1 << 5;
/// For more entrances than that the table is listed whole: for each filter the kernel goes through
/// all of it.
const FILTERS_MAX: usize = 16;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

impl Goes {
    /// Whether a flow that goes to `target` now still may.
    fn allows(&self, entrance: &Entrance, target: (IpAddr, u16), refuge: &[IpAddr]) -> bool {
        match self {
            Self::To(targets) => targets.contains(&target),
            Self::Refused => refuge.contains(&target.0),
            Self::Nowhere => false,
            Self::Untouched => target == (entrance.addr, entrance.port),
        }
    }
}

/// Deletes the entries of `suspects` that lead where `content` does not; gives back how many.
pub(super) fn forget(
    suspects: &BTreeSet<Entrance>,
    content: &Content,
    refuge: &[IpAddr],
) -> Result<usize> {
    let error = |operation: &'static str| {
        move |r: Refusal| Error::Kernel {
            operation,
            object: "connection table".to_owned(),
            detail: r.detail,
            source: r.source,
        }
    };
    let mut connection = open()?;
    let answers = match list(&mut connection, &requests(suspects)) {
        // A kernel that knows filters, and not this one; another connection, as answers may be
        // left in this.
        Err(r) if matches!(r.source.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            connection = open()?;
            list(&mut connection, &[everything()])
        }
        listed => listed,
    };
    let answers = answers.map_err(error("list"))?;
    let mut gone = 0;
    for answer in &answers {
        let mut original = None;
        let mut reply = None;
        for (kind, data) in wire::attrs_after(&answer.payload, 4) {
            match kind {
                CTA_TUPLE_ORIG => original = Some(data),
                CTA_TUPLE_REPLY => reply = Some(data),
                _ => {}
            }
        }
        let (Some(original), Some(reply)) = (original, reply) else { continue };
        let (Some(to), Some(from)) = (end(original, false), end(reply, true)) else { continue };
        let lost = suspects.contains(&to)
            && !content.goes(&to).allows(&to, (from.addr, from.port), refuge);
        if !lost {
            continue;
        }
        let family = if to.addr.is_ipv4() { NFPROTO_IPV4 } else { NFPROTO_IPV6 };
        let mut m = ct_message(IPCTNL_MSG_CT_DELETE, family, NLM_F_ACK);
        m.nest(CTA_TUPLE_ORIG, |t| {
            t.raw(original);
        });
        match connection.request(m) {
            Ok(_) => gone += 1,
            // It ended by itself meanwhile.
            Err(r) if r.source.raw_os_error() == Some(libc::ENOENT) => {}
            Err(r) => return Err(error("delete an entry of")(r)),
        }
    }
    Ok(gone)
}

fn list(
    connection: &mut Connection,
    requests: &[Message],
) -> std::result::Result<Vec<Received>, Refusal> {
    let mut all = Vec::new();
    for request in requests {
        all.extend(connection.dump(request)?);
    }
    Ok(all)
}

/// Requests for the flows to these entrances, and perhaps others.
fn requests(suspects: &BTreeSet<Entrance>) -> Vec<Message> {
    if suspects.len() > FILTERS_MAX {
        return vec![everything()];
    }
    suspects.iter().map(to).collect()
}

fn everything() -> Message {
    ct_message(IPCTNL_MSG_CT_GET, NFPROTO_UNSPEC, NLM_F_DUMP)
}

/// A request for the flows to one entrance; of IPv6, to its port of any address.
fn to(entrance: &Entrance) -> Message {
    let (family, flags) = match entrance.addr {
        IpAddr::V4(_) => (NFPROTO_IPV4, FILTER_ADDRESS | FILTER_PROTOCOL | FILTER_PORT),
        IpAddr::V6(_) => (NFPROTO_IPV6, FILTER_PROTOCOL | FILTER_PORT),
    };
    let mut m = ct_message(IPCTNL_MSG_CT_GET, family, NLM_F_DUMP);
    m.nest(CTA_TUPLE_ORIG, |t| {
        if let IpAddr::V4(addr) = entrance.addr {
            t.nest(CTA_TUPLE_IP, |ip| {
                ip.attr(CTA_IP_V4_DST, &addr.octets());
            });
        }
        t.nest(CTA_TUPLE_PROTO, |p| {
            p.attr(CTA_PROTO_NUM, &[entrance.protocol])
                .attr(CTA_PROTO_DST_PORT, &entrance.port.to_be_bytes());
        });
    })
    .nest(CTA_FILTER, |f| {
        f.attr_u32(CTA_FILTER_ORIG_FLAGS, flags);
    });
    m
}

fn ct_message(kind: u16, family: u8, flags: u16) -> Message {
    let kind = (NFNL_SUBSYS_CTNETLINK << 8) | kind;
    Message::new(kind, NLM_F_REQUEST | flags).header(&nfgenmsg(family, 0))
}

/// The source or the destination of a tuple.
fn end(tuple: &[u8], source: bool) -> Option<Entrance> {
    let (mut addr, mut port, mut protocol) = (None, None, None);
    for (kind, data) in wire::attrs(tuple) {
        for (inner, value) in wire::attrs(data) {
            match (kind, inner) {
                (CTA_TUPLE_IP, CTA_IP_V4_SRC | CTA_IP_V6_SRC) if source => addr = wire::ip(value),
                (CTA_TUPLE_IP, CTA_IP_V4_DST | CTA_IP_V6_DST) if !source => addr = wire::ip(value),
                (CTA_TUPLE_PROTO, CTA_PROTO_NUM) => protocol = value.first().copied(),
                (CTA_TUPLE_PROTO, CTA_PROTO_SRC_PORT) if source => port = number(value),
                (CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT) if !source => port = number(value),
                _ => {}
            }
        }
    }
    Some(Entrance { addr: addr?, port: port?, protocol: protocol? })
}

fn number(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UDP: u8 = libc::IPPROTO_UDP as u8;

    fn at(protocol: u8) -> Entrance {
        Entrance { addr: IpAddr::from([192, 0, 2, 1]), port: 53, protocol }
    }

    #[test]
    fn a_flow_may_go_on_where_new_ones_go() {
        let refuge = [IpAddr::from([10, 96, 0, 0])];
        let target = |a: &str| (a.parse::<IpAddr>().expect("address"), 53);
        let to = Goes::To(BTreeSet::from([target("10.0.0.1")]));
        let allows = |g: &Goes, t: &str| g.allows(&at(UDP), target(t), &refuge);
        assert!(allows(&to, "10.0.0.1") && !allows(&to, "10.0.0.2") && !allows(&to, "10.96.0.0"));
        assert!(allows(&Goes::Refused, "10.96.0.0") && !allows(&Goes::Refused, "10.0.0.1"));
        assert!(allows(&Goes::Untouched, "192.0.2.1") && !allows(&Goes::Untouched, "10.0.0.1"));
        assert!(!allows(&Goes::Nowhere, "10.0.0.1"));
    }

    const IPCTNL_MSG_CT_NEW: u16 = 0;
    const CTA_TIMEOUT: u16 = 7;

    /// Makes a flow from a client to an entrance that was led to a target.
    fn make(connection: &mut Connection, client: &str, entrance: &Entrance, target: &str) {
        let (client, target) = [client, target].map(|a| a.parse::<IpAddr>().expect("ip")).into();
        let (family, src, dst) = match entrance.addr {
            IpAddr::V4(_) => (NFPROTO_IPV4, CTA_IP_V4_SRC, CTA_IP_V4_DST),
            IpAddr::V6(_) => (NFPROTO_IPV6, CTA_IP_V6_SRC, CTA_IP_V6_DST),
        };
        let mut m = ct_message(IPCTNL_MSG_CT_NEW, family, NLM_F_ACK | crate::socket::NLM_F_CREATE);
        let mut tuple = |kind, from: IpAddr, to: IpAddr, ports: [u16; 2]| {
            m.nest(kind, |t| {
                t.nest(CTA_TUPLE_IP, |ip| {
                    ip.attr(src, &wire::ip_bytes(from)).attr(dst, &wire::ip_bytes(to));
                })
                .nest(CTA_TUPLE_PROTO, |p| {
                    p.attr(CTA_PROTO_NUM, &[entrance.protocol])
                        .attr(CTA_PROTO_SRC_PORT, &ports[0].to_be_bytes())
                        .attr(CTA_PROTO_DST_PORT, &ports[1].to_be_bytes());
                });
            });
        };
        tuple(CTA_TUPLE_ORIG, client, entrance.addr, [4000, entrance.port]);
        tuple(CTA_TUPLE_REPLY, target, client, [53, 4000]);
        m.attr_be32(CTA_TIMEOUT, 60);
        connection.request(m).expect("a flow is made");
    }

    /// The kernel copies what is asked for, and not the whole connection table.
    #[test]
    fn flows_of_one_entrance_are_listed_alone() {
        super::super::table::tests::alone("conntrack", || {
            let mut connection = open().expect("socket");
            let v6 = Entrance { addr: "fd02::1".parse().expect("ip"), ..at(UDP) };
            for n in 1..=20 {
                let client = format!("198.51.100.{n}");
                make(&mut connection, &client, &at(UDP), "10.0.0.1");
                make(&mut connection, &client, &Entrance { port: 54, ..at(UDP) }, "10.0.0.2");
                make(&mut connection, &format!("2001:db8::{n}"), &v6, "fd00::1");
                let other = Entrance { port: 54, ..v6 };
                make(&mut connection, &format!("2001:db8::{n}"), &other, "fd00::2");
            }
            let mut count =
                |requests: &[Message]| list(&mut connection, requests).expect("listed").len();
            assert_eq!(count(&[everything()]), 80);
            let all = count(&requests(&[at(UDP)].into()));
            if all == 80 {
                println!("SKIP flows_of_one_entrance_are_listed_alone: before Linux 5.8");
                return;
            }
            assert_eq!(all, 20);
            assert_eq!(count(&requests(&[at(UDP), v6].into())), 40);
            let many = (0..=FILTERS_MAX as u16).map(|port| Entrance { port, ..v6 }).collect();
            assert_eq!(requests(&many).len(), 1);
            // Nothing leads to either any more but one of the targets.
            let mut content = Content::default();
            let fate = crate::netfilter::Fate::Forward { group: 1, timeout_s: None, sources: None };
            let target = crate::netfilter::Target {
                addr: "10.0.0.1".parse().expect("ip"),
                port: 53,
                here: false,
            };
            let targets =
                crate::netfilter::Targets { protocol: UDP, all: vec![target], by_client: false };
            content.apply(crate::netfilter::Delta {
                entrances: [(at(UDP), Some(fate))].into(),
                groups: [(1, Some(targets))].into(),
            });
            assert_eq!(forget(&[at(UDP), v6].into(), &content, &[]).expect("forgotten"), 20);
            assert_eq!(count(&[everything()]), 60);
        });
    }

    proptest! {
        #[test]
        fn tuples_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = (end(&bytes, true), end(&bytes, false));
        }
    }
}
