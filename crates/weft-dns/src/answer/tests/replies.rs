//! Flags, EDNS, sizes and odd queries.

use super::*;

#[test]
fn case_is_ignored_and_preserved() {
    let q = query("wEb.ShOp.SVC.cLuster.LOCAL.", RecordType::A);
    let (_, r, _) = reply_to(&index(), &q, Transport::Udp);
    assert_eq!(r.queries[0].name().to_ascii(), "wEb.ShOp.SVC.cLuster.LOCAL.");
    assert_eq!(r.answers.len(), 1);
    assert_eq!(r.answers[0].name.to_ascii(), "wEb.ShOp.SVC.cLuster.LOCAL.");
}

#[test]
fn the_flags_of_a_reply() {
    let q = query("web.shop.svc.cluster.local.", RecordType::A);
    let (verdict, r, _) = reply_to(&index(), &q, Transport::Udp);
    assert_eq!(verdict, Verdict::Reply(Rcode::NoError));
    let m = r.metadata;
    assert!(m.authoritative && m.recursion_desired && m.recursion_available && !m.truncation);
    assert!(r.edns.is_none());
}

#[test]
fn edns() {
    let mut q = query("web.shop.svc.cluster.local.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(4096).set_dnssec_ok(true);
    q.set_edns(edns.clone());
    let (_, r, _) = reply_to(&index(), &q, Transport::Udp);
    let got = r.edns.expect("EDNS is answered with EDNS");
    assert_eq!((got.max_payload(), got.version(), got.flags().dnssec_ok), (1232, 0, true));
    edns.set_version(1);
    q.set_edns(edns);
    let (_, r, _) = reply_to(&index(), &q, Transport::Udp);
    // 16 is BADVERS and BADSIG.
    assert_eq!(u16::from(r.metadata.response_code), 16);
    assert_eq!(r.edns.expect("EDNS").version(), 0);
}

/// A headless Service of `n` endpoints.
fn large(n: u8) -> DnsIndex {
    large_named(n, "s")
}

fn large_named(n: u8, host: &str) -> DnsIndex {
    let name = |i| format!("{host}-{i}");
    let endpoints = (0..n).map(|i| endpoint(&format!("10.244.1.{i}"), &name(i), true));
    let s = snapshot(
        vec![service("shop/large", ServiceKind::Headless, &[], &[])],
        vec![slice("shop/large-1", "large", &[("peer", TCP, 7000)], endpoints.collect())],
    );
    DnsIndex::build(&s, &zone(), None)
}

#[test]
fn replies_fit_what_the_client_takes() {
    let index = large(200);
    let mut q = query("large.shop.svc.cluster.local.", RecordType::A);
    for (payload, limit) in [(None, 512), (Some(100), 512), (Some(700), 700), (Some(9000), 1232)] {
        if let Some(p) = payload {
            // hickory refuses to send less than 512 itself.
            let mut edns = Edns::new();
            edns.set_max_payload(p);
            q.set_edns(edns);
        }
        let (_, r, len) = reply_to(&index, &q, Transport::Udp);
        assert!(len <= limit && len + 16 > limit, "{payload:?}: {len} of {limit}");
        assert!(r.metadata.truncation);
        assert_eq!(r.edns.is_some(), payload.is_some());
    }
    let (_, r, _) = reply_to(&index, &q, Transport::Tcp);
    assert!(!r.metadata.truncation);
    assert_eq!(r.answers.len(), 200);
    // Additional records that do not fit are left out without a word.
    let mut q = query("_peer._tcp.large.shop.svc.cluster.local.", RecordType::SRV);
    let (_, r, _) = reply_to(&large(8), &q, Transport::Udp);
    assert!(!r.metadata.truncation && r.answers.len() == 8 && r.additionals.len() < 8);
    // Over TCP a reply grows past what a compression pointer reaches: additional records that
    // belong to names beyond are left out, the answer is whole.
    q.metadata.id = 3;
    let (_, r, len) = reply_to(&large_named(250, &"s".repeat(59)), &q, Transport::Tcp);
    assert!(!r.metadata.truncation && len > 0x4000, "{len}");
    assert_eq!(r.answers.len(), 250);
    assert!((100..250).contains(&r.additionals.len()), "{}", r.additionals.len());
}

#[test]
fn clients_that_take_the_first_address_spread() {
    let index = large(10);
    let mut q = query("large.shop.svc.cluster.local.", RecordType::A);
    let mut first = std::collections::BTreeSet::new();
    for id in 0..10 {
        q.metadata.id = id;
        let (_, r, _) = reply_to(&index, &q, Transport::Udp);
        assert_eq!(r.answers.len(), 10);
        first.insert(show(&r.answers[0]));
    }
    assert_eq!(first.len(), 10);
}

#[test]
fn before_the_first_snapshot() {
    for name in ["web.shop.svc.cluster.local.", "example.com."] {
        let q = query(name, RecordType::A).to_vec().expect("encodes");
        let mut out = Vec::new();
        let verdict = answer(None, &q, Transport::Udp, &mut out);
        assert_eq!(verdict, Verdict::Reply(Rcode::ServFail));
        let r = Hickory::from_vec(&out).expect("a reply");
        assert_eq!(r.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(r.queries.len(), 1);
    }
}

fn raw(query: &[u8]) -> (Verdict, Vec<u8>) {
    let mut out = Vec::new();
    (answer(Some(&index()), query, Transport::Udp, &mut out), out)
}

#[test]
fn queries_that_are_none() {
    let good = query("web.shop.svc.cluster.local.", RecordType::A);
    let bytes = good.to_vec().expect("encodes");
    assert_eq!(raw(&[]).0, Verdict::Ignore);
    assert_eq!(raw(&bytes[..11]).0, Verdict::Ignore);
    // A reply, and a reply to it would be replied to …
    let mut reply = bytes.clone();
    reply[2] |= 0x80;
    assert_eq!(raw(&reply), (Verdict::Ignore, vec![]));
    for len in 12..bytes.len() {
        assert_eq!(raw(&bytes[..len]).0, Verdict::Reply(Rcode::FormErr), "{len}");
    }
    // Two questions; none; a name with a pointer to itself; a label type that is not defined.
    for (at, value) in [(5, 2), (5, 0), (12, 0xC0), (12, 0x40)] {
        let mut bad = bytes.clone();
        bad[at] = value;
        let (verdict, out) = raw(&bad);
        assert_eq!(verdict, Verdict::Reply(Rcode::FormErr));
        assert_eq!(out.len(), 12);
    }
    // A promised record that is not there.
    let mut bad = bytes.clone();
    bad[11] = 1;
    assert_eq!(raw(&bad).0, Verdict::Reply(Rcode::FormErr));
    // Bytes after the message are not ours to judge.
    let mut tail = bytes.clone();
    tail.extend_from_slice(b"tail");
    assert_eq!(raw(&tail).0, Verdict::Reply(Rcode::NoError));
    for op in [OpCode::Notify, OpCode::Update, OpCode::Status] {
        let mut q = good.clone();
        q.metadata.op_code = op;
        let (verdict, out) = raw(&q.to_vec().expect("encodes"));
        assert_eq!(verdict, Verdict::Reply(Rcode::NotImp));
        assert_eq!(Hickory::from_vec(&out).expect("a reply").metadata.op_code, op);
    }
    for rtype in [RecordType::AXFR, RecordType::IXFR] {
        let q = query("cluster.local.", rtype).to_vec().expect("encodes");
        assert_eq!(raw(&q).0, Verdict::Reply(Rcode::Refused));
    }
    // Class CHAOS.
    let mut chaos = bytes.clone();
    let last = chaos.len() - 1;
    chaos[last] = 3;
    assert_eq!(raw(&chaos).0, Verdict::Reply(Rcode::Refused));
    // Two OPT records.
    let mut edns = good.clone();
    edns.set_edns(Edns::new());
    let mut edns = edns.to_vec().expect("encodes");
    let opt = edns[bytes.len()..].to_vec();
    edns.extend_from_slice(&opt);
    edns[11] = 2;
    assert_eq!(raw(&edns).0, Verdict::Reply(Rcode::FormErr));
}

#[test]
fn any_is_answered_with_little() {
    for name in ["web.shop.svc.cluster.local.", "cluster.local.", "shop.svc.cluster.local."] {
        let (_, r, len) = reply_to(&index(), &query(name, RecordType::ANY), Transport::Udp);
        assert_eq!(r.answers.len(), 1, "{name}");
        assert_eq!(r.answers[0].record_type(), RecordType::HINFO);
        assert!(len < 100);
    }
    check_missing("nowhere.cluster.local. ANY");
}
