//! When sockets are closed, and what is told where the kernel closes none.

use super::*;

fn record(cookie: u64, protocol: Protocol) -> SocketRecord {
    SocketRecord {
        cookie,
        connected: true,
        netns_cookie: 1,
        protocol,
        frontend: "10.96.0.5:80".parse().expect("address"),
        backend: "10.244.2.1:8080".parse().expect("address"),
    }
}

#[test]
fn tcp_is_closed_once_it_was_stale_for_a_while_and_udp_at_once() {
    let (tcp, other) = (record(1, Protocol::Tcp), record(2, Protocol::Tcp));
    let udp = record(3, Protocol::Udp);
    let begin = Instant::now();
    let mut settling = Settling::default();
    let mut at = |ms: u64, stale: &[SocketRecord]| {
        settling.due(stale.to_vec(), begin + Duration::from_millis(ms))
    };
    assert_eq!(at(0, &[tcp, udp]), (vec![udp], Some(SETTLE)));
    // Deleted and made again: it is not stale any more, and the next time counts anew.
    assert_eq!(at(4000, &[]), (vec![], None));
    assert_eq!(at(4900, &[tcp]), (vec![], Some(SETTLE)));
    assert_eq!(at(6900, &[tcp, other]), (vec![], Some(SETTLE - Duration::from_secs(2))));
    assert_eq!(at(9900, &[tcp, other]), (vec![tcp], Some(Duration::from_secs(2))));
    // What could not be closed is due as long as it is there.
    assert_eq!(at(11_900, &[tcp, other]), (vec![tcp, other], None));
    assert_eq!(at(11_900, &[]), (vec![], None));
    assert!(settling.0.is_empty());
}

#[test]
fn a_kernel_that_learns_to_close_sockets_is_asked_again() {
    let dir = tempfile::tempdir().expect("folder");
    let state = Arc::new(State::new("n1".to_owned(), "vxlan"));
    let namespaces = PodNamespaces::open(&dir.path().join("netns"), |_| true).expect("open");
    let bpf_dir = dir.path().join("bpf");
    let mut stage = SocketStage::new(state.clone(), bpf_dir, Arc::new(namespaces));
    stage.probe = |_, transport| match transport {
        Transport::Tcp => Ok(()),
        Transport::Udp => Err(weft_netlink::Error::Kernel {
            operation: "close",
            object: "UDP sockets".to_owned(),
            detail: String::new(),
            source: std::io::Error::from_raw_os_error(libc::EOPNOTSUPP),
        }),
    };
    let applied = Applied { snapshot: Snapshot::default(), tables: ServiceTables::default() };
    let begin = Instant::now();
    let diagnostics = |stage: &mut SocketStage, s: u64| {
        stage.step(&applied, begin + Duration::from_secs(s), || true);
        state.all_stages()["sockets"].diagnostics.clone()
    };
    let told = diagnostics(&mut stage, 0);
    assert!(told.len() == 1 && told[0].contains("does not close Udp"), "{told:?}");
    stage.probe = |_, _| Ok(());
    // Not with each change of the tables.
    assert_eq!(diagnostics(&mut stage, 1).len(), 1);
    assert_eq!(diagnostics(&mut stage, 10), [""; 0]);
    // It is taken at its word from then on.
    stage.probe = |_, _| unreachable!("asked again");
    assert_eq!(diagnostics(&mut stage, 100), [""; 0]);
}
