//! The kernel's connection table, as far as entrances need it: flows that were translated to
//! what is no target any more. TCP ends by itself when its peer is gone; a UDP flow that goes
//! on keeps its entry, and its black hole, for ever.

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
    let request = ct_message(IPCTNL_MSG_CT_GET, NFPROTO_UNSPEC, NLM_F_DUMP);
    let answers = connection.dump(&request).map_err(error("list"))?;
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

    proptest! {
        #[test]
        fn tuples_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = (end(&bytes, true), end(&bytes, false));
        }
    }
}
