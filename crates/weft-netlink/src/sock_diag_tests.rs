//! The filter, run as the kernel runs it, and the parser.

use super::*;
use proptest::prelude::*;

/// What the kernel's interpreter (`inet_diag_bc_run`) says about a socket of `family` that is
/// connected to `remote`.
fn chosen(mut code: &[u8], family: u8, remote: SocketAddr) -> bool {
    while !code.is_empty() {
        let (yes, no) = (usize::from(code[1]), usize::from(wire::u16_at(code, 2).expect("op")));
        let holds = match code[0] {
            INET_DIAG_BC_JMP => false,
            INET_DIAG_BC_D_COND => {
                let (of, bits) = (code[4], usize::from(code[5]));
                let port = wire::u32_at(code, 8).expect("port");
                let address = wire::ip(&code[12..12 + bits / 8]).expect("address");
                // One of `AF_INET6` matches an IPv4 condition by its mapped address.
                let family_fits = of == family || i32::from(of) == libc::AF_INET;
                family_fits && port == u32::from(remote.port()) && address == remote.ip()
            }
            other => panic!("instruction {other}"),
        };
        let step = if holds { yes } else { no };
        if step > code.len() {
            return false;
        }
        code = &code[step..];
    }
    true
}

/// The kernel's check (`inet_diag_bc_audit`): follows the yes-ways, on which all noes land.
fn audit(code: &[u8]) {
    let (mut at, mut places) = (0, BTreeSet::from([code.len()]));
    let mut noes = Vec::new();
    while at < code.len() {
        places.insert(at);
        let (yes, no) = (code[at + 1], wire::u16_at(code, at + 2).expect("op"));
        assert!(yes >= 4 && yes % 4 == 0 && no >= 4 && no % 4 == 0, "{yes} {no} at {at}");
        assert!(usize::from(no) <= code.len() - at + 4, "too far at {at}");
        noes.push(at + usize::from(no));
        at += usize::from(yes);
    }
    assert_eq!(at, code.len());
    assert!(noes.iter().all(|n| *n > code.len() || places.contains(n)), "{noes:?} {places:?}");
}

fn remote() -> impl Strategy<Value = SocketAddr> {
    // Few values, so that there are hits.
    let v4 = (0u8..4).prop_map(|n| IpAddr::from([10, 0, 0, n]));
    let v6 = (0u16..4).prop_map(|n| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n]));
    (prop_oneof![v4, v6], 1u16..4).prop_map(SocketAddr::from)
}

proptest! {
    #[test]
    fn the_filter_is_the_set(
        set in prop::collection::btree_set(remote(), 1..20),
        asked in remote(),
    ) {
        let set: Vec<SocketAddr> = set.into_iter().collect();
        let code = filter(&set);
        audit(&code);
        prop_assert_eq!(chosen(&code, wire::family(asked.ip()), asked), set.contains(&asked));
    }

    #[test]
    fn the_parser_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = parse(&bytes);
    }
}

#[test]
fn the_longest_filter_fits() {
    let far = SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, 1], 65_535));
    let code = filter(&vec![far; REMOTES_MAX]);
    audit(&code);
    assert!(code.len() <= 8192, "{} bytes", code.len());
}

#[test]
fn mapped_addresses_are_ipv4() {
    let mut payload = vec![0; 72];
    payload[0] = libc::AF_INET6 as u8;
    payload[6..8].copy_from_slice(&53u16.to_be_bytes());
    payload[24..40].copy_from_slice(&"::ffff:10.0.0.1".parse::<Ipv6Addr>().expect("v6").octets());
    payload[44..48].copy_from_slice(&7u32.to_ne_bytes());
    payload[48..52].copy_from_slice(&1u32.to_ne_bytes());
    let found = parse(&payload).expect("parsed");
    let remote = "10.0.0.1:53".parse().expect("address");
    assert_eq!(found.socket, Connected { cookie: (1 << 32) | 7, remote });
}
