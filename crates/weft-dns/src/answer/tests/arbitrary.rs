//! Properties over arbitrary bytes, queries and histories.

use super::*;

/// Names that come close to those of the cluster.
fn near_name() -> impl Strategy<Value = String> {
    let label = prop::sample::select(vec![
        "web",
        "store",
        "store-0",
        "anon",
        "10-244-1-6",
        "ext",
        "local",
        "down",
        "shop",
        "svc",
        "pod",
        "_tcp",
        "_peer",
        "_http",
        "cluster",
        "dns",
        "dns-version",
        "5",
        "1",
        "244",
        "10",
        "in-addr",
        "arpa",
        "x",
    ]);
    let tail = prop::sample::select(vec![
        "cluster.local.",
        "svc.cluster.local.",
        "shop.svc.cluster.local.",
        "in-addr.arpa.",
        "244.10.in-addr.arpa.",
        "",
    ]);
    (prop::collection::vec(label, 0..5), tail).prop_map(|(labels, tail)| {
        let name: String = labels.iter().map(|l| format!("{l}.")).collect();
        if name.is_empty() && tail.is_empty() { ".".to_owned() } else { name + tail }
    })
}

fn near_query() -> impl Strategy<Value = Hickory> {
    let rtype = prop::sample::select(vec![
        RecordType::A,
        RecordType::AAAA,
        RecordType::SRV,
        RecordType::PTR,
        RecordType::CNAME,
        RecordType::TXT,
        RecordType::SOA,
        RecordType::NS,
        RecordType::ANY,
        RecordType::MX,
    ]);
    (near_name(), rtype, any::<u16>(), prop::option::of(any::<u16>())).prop_map(
        |(name, rtype, id, payload)| {
            let mut q = query(&name, rtype);
            q.metadata.id = id;
            if let Some(p) = payload {
                let mut edns = Edns::new();
                edns.set_max_payload(p);
                q.set_edns(edns);
            }
            q
        },
    )
}

/// What holds for every reply to any bytes.
fn well_formed(bytes: &[u8], transport: Transport) -> Result<(), TestCaseError> {
    thread_local!(static INDEX: DnsIndex = index());
    let mut out = Vec::new();
    let verdict = INDEX.with(|i| answer(Some(i), bytes, transport, &mut out));
    if verdict == Verdict::Ignore {
        prop_assert!(out.is_empty());
        return Ok(());
    }
    prop_assert_eq!(&out[..2], &bytes[..2]);
    prop_assert!(out[2] & 0x80 != 0, "not marked as a reply");
    let limit = if transport == Transport::Udp { 1232 } else { 65_535 };
    prop_assert!(out.len() <= limit);
    let read = Hickory::from_vec(&out);
    prop_assert!(read.is_ok(), "{:?}: {:?}", read, out);
    let read = read.expect("checked");
    // NXDOMAIN and empty answers carry the SOA, so that resolvers know how long to remember.
    let negative = read.metadata.response_code == ResponseCode::NXDomain
        || (read.metadata.response_code == ResponseCode::NoError && read.answers.is_empty());
    let soas = read.authorities.iter().filter(|r| r.record_type() == RecordType::SOA).count();
    prop_assert!(!negative || soas == 1, "{:?}", read);
    Ok(())
}

proptest! {
    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        well_formed(&bytes, Transport::Udp)?;
    }

    #[test]
    fn damaged_queries(
        q in near_query(),
        cut in prop::option::of(0..80usize),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = q.to_vec().expect("encodes");
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut);
        }
        well_formed(&bytes, Transport::Udp)?;
        well_formed(&bytes, Transport::Tcp)?;
    }

    /// NXDOMAIN means that nothing is below either (RFC 8020).
    #[test]
    fn nothing_is_below_a_name_that_does_not_exist(name in near_name(), q in near_query()) {
        let index = index();
        let child = q.queries[0].name().clone();
        let Ok(parent) = HickoryName::from_ascii(&name) else { return Ok(()) };
        if !parent.zone_of(&child) {
            return Ok(());
        }
        let (_, above, _) = reply_to(&index, &query(&name, RecordType::A), Transport::Tcp);
        let (_, below, _) = reply_to(&index, &q, Transport::Tcp);
        if above.metadata.response_code == ResponseCode::NXDomain && above.answers.is_empty() {
            prop_assert_ne!(below.metadata.response_code, ResponseCode::NoError);
        }
    }

    /// Taking over from an earlier index changes nothing.
    #[test]
    fn an_index_does_not_depend_on_the_one_before(
        first in prop::collection::vec(any::<bool>(), 15),
        second in prop::collection::vec(any::<bool>(), 15),
        ready in any::<bool>(),
    ) {
        let part = |keep: &[bool]| {
            let mut s = cluster();
            let names: Vec<NamespacedName> = s.services.keys().cloned().collect();
            for (id, keep) in names.iter().zip(keep) {
                if !keep {
                    s.services.remove(id);
                }
            }
            s
        };
        let before = part(&first);
        let mut after = before.clone();
        after.services = part(&second).services;
        for slice in before.slices.values().flat_map(|of| of.values()).filter(|_| ready) {
            let mut changed = EndpointSlice::clone(slice);
            changed.endpoints.iter_mut().for_each(|e| e.ready = !e.ready);
            after.insert_slice(Arc::new(changed));
        }
        let zone = zone();
        let previous = DnsIndex::build(&before, &zone, None);
        let taken_over = DnsIndex::build(&after, &zone, Some(&previous));
        prop_assert!(taken_over == DnsIndex::build(&after, &zone, None));
        if DnsIndex::same_answers(&before, &after) {
            prop_assert!(previous == taken_over);
        }
    }
}
