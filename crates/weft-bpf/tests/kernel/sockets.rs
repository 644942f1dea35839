//! What applications see.

use crate::{
    traffic::{addr, change, mapped, tables, tcp_ask, tcp_server, udp_ask, udp_client, udp_server},
    world::{World, loopback_up},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};
use weft_bpf::Records;
use weft_model::{
    Balance,
    Protocol::{Tcp, Udp},
};

const V4: &str = "10.96.0.1:80";
const V6: &str = "[fd00:10:96::1]:80";
const BACKENDS_V4: [&str; 3] = ["127.0.1.1:8080", "127.0.1.2:8080", "127.0.1.3:8081"];
const BACKENDS_V6: [&str; 2] = ["[::1]:8081", "[::1]:8082"];

/// Address to ask, and its backends.
fn ways() -> [(SocketAddr, &'static [&'static str]); 3] {
    [(addr(V4), &BACKENDS_V4), (addr(V6), &BACKENDS_V6), (mapped(V4), &BACKENDS_V4)]
}

pub fn tcp_connects_to_backends(world: &World) {
    BACKENDS_V4.iter().chain(&BACKENDS_V6).for_each(|b| tcp_server(b));
    let mut lb = world.open();
    lb.apply(&tables(&[(Tcp, V4, &BACKENDS_V4), (Tcp, V6, &BACKENDS_V6)])).unwrap();
    for (frontend, backends) in ways() {
        let mut seen = BTreeSet::new();
        for _ in 0..64 {
            let (name, stream) = tcp_ask(frontend).unwrap();
            assert_eq!(stream.peer_addr().unwrap(), frontend, "getpeername");
            seen.insert(name);
        }
        let expected: BTreeSet<String> = backends.iter().map(|b| b.to_string()).collect();
        assert_eq!(seen, expected, "all backends of {frontend} are used, and no other");
    }
    let stats = lb.stats().unwrap();
    assert_eq!((stats.tcp_connects, stats.races, stats.record_failures), (192, 0, 0));
    assert_eq!((stats.frontends, stats.slots), (2, 5));
    // Another port, another protocol and another address are other addresses.
    for other in ["127.0.1.1:80", "127.0.1.9:8080"] {
        assert_eq!(tcp_ask(addr(other)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}

pub fn connected_udp(world: &World) {
    BACKENDS_V4.iter().chain(&BACKENDS_V6).for_each(|b| udp_server(b));
    let mut lb = world.open();
    lb.apply(&tables(&[(Udp, V4, &BACKENDS_V4), (Udp, V6, &BACKENDS_V6)])).unwrap();
    for (frontend, backends) in ways() {
        let mut seen = BTreeSet::new();
        for _ in 0..48 {
            let socket = udp_client(frontend);
            socket.connect(frontend).unwrap();
            assert_eq!(socket.peer_addr().unwrap(), frontend, "getpeername");
            let mut buffer = [0; 64];
            for _ in 0..3 {
                socket.send(b"who?").unwrap();
                let (length, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!(from, frontend, "recvmsg");
                seen.insert(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
        }
        assert_eq!(seen, backends.iter().map(|b| b.to_string()).collect(), "{frontend}");
    }
    assert_eq!(lb.stats().unwrap().udp_datagrams, 0, "sendmsg never ran: {:?}", lb.stats());
}

pub fn unconnected_udp_shows_the_frontend(world: &World) {
    BACKENDS_V4.iter().chain(&BACKENDS_V6).for_each(|b| udp_server(b));
    let mut lb = world.open();
    lb.apply(&tables(&[(Udp, V4, &BACKENDS_V4), (Udp, V6, &BACKENDS_V6)])).unwrap();
    for (frontend, backends) in ways() {
        let mut seen = BTreeSet::new();
        for _ in 0..48 {
            let socket = udp_client(frontend);
            let (name, from) = udp_ask(&socket, frontend).unwrap();
            assert_eq!(from, frontend);
            for _ in 0..3 {
                assert_eq!(udp_ask(&socket, frontend).unwrap(), (name.clone(), frontend), "stays");
            }
            seen.insert(name);
        }
        assert_eq!(seen, backends.iter().map(|b| b.to_string()).collect(), "{frontend}");
    }
    assert_eq!(lb.stats().unwrap().udp_moves, 0);
}

pub fn unconnected_udp_stays_and_moves(world: &World) {
    BACKENDS_V4.iter().for_each(|b| udp_server(b));
    let mut lb = world.open();
    lb.apply(&tables(&[(Udp, V4, &BACKENDS_V4)])).unwrap();
    let to = addr(V4);
    let socket = udp_client(to);
    let (mine, _) = udp_ask(&socket, to).unwrap();
    let others: Vec<&str> = BACKENDS_V4.iter().copied().filter(|b| *b != mine).collect();
    // Another one goes: nothing changes for this socket, whatever the generation.
    for keep in [&others[..1], &[], &others[..]] {
        let backends: Vec<&str> = keep.iter().copied().chain([mine.as_str()]).collect();
        lb.apply(&tables(&[(Udp, V4, &backends)])).unwrap();
        assert_eq!(udp_ask(&socket, to).unwrap(), (mine.clone(), to));
    }
    // Its own goes: it moves with the very next datagram.
    lb.apply(&tables(&[(Udp, V4, &others)])).unwrap();
    let (moved, from) = udp_ask(&socket, to).unwrap();
    assert!(others.contains(&moved.as_str()), "{moved}");
    assert_eq!(from, to);
    assert_eq!(lb.stats().unwrap().udp_moves, 1);
    // It comes back: no reason to move again.
    lb.apply(&tables(&[(Udp, V4, &BACKENDS_V4)])).unwrap();
    assert_eq!(udp_ask(&socket, to).unwrap(), (moved, to));
}

pub fn without_backends_the_stack_refuses(world: &World) {
    // Loopback addresses, so that the stack of this namespace is the one that refuses.
    const LONELY: &str = "127.96.0.1:80";
    const LONELY_V6: &str = "[::1]:79";
    tcp_server(BACKENDS_V4[0]);
    let mut lb = world.open();
    lb.apply(&tables(&[(Tcp, LONELY, &BACKENDS_V4[..1])])).unwrap();
    tcp_ask(addr(LONELY)).unwrap();
    let none: &[&str] = &[];
    let rows = [(Tcp, LONELY, none), (Udp, LONELY, none), (Tcp, LONELY_V6, none)];
    lb.apply(&tables(&rows)).unwrap();
    for to in [addr(LONELY), mapped(LONELY), addr(LONELY_V6)] {
        let start = Instant::now();
        let error = TcpStream::connect(to).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: {error}");
        assert!(start.elapsed() < Duration::from_secs(1), "{to}: not at once");
    }
    let socket = udp_client(addr(LONELY));
    socket.connect(addr(LONELY)).unwrap();
    socket.send(b"who?").unwrap();
    let error = socket.recv(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
}

pub fn direct_traffic_is_left_alone(world: &World) {
    let backend = BACKENDS_V4[0];
    udp_server(backend);
    tcp_server(backend);
    let mut lb = world.open();
    lb.apply(&tables(&[(Udp, V4, &[backend]), (Tcp, V4, &[backend])])).unwrap();
    // One socket speaks to a backend as Service, as itself, and as Service again.
    for (service, direct) in [(addr(V4), addr(backend)), (mapped(V4), mapped(backend))] {
        let socket = udp_client(service);
        for to in [service, direct, service, direct] {
            assert_eq!(udp_ask(&socket, to).unwrap(), (backend.to_owned(), to));
        }
        socket.connect(service).unwrap();
        assert_eq!(socket.peer_addr().unwrap(), service);
        socket.connect(direct).unwrap();
        assert_eq!(socket.peer_addr().unwrap(), direct);
        let (_, stream) = tcp_ask(direct).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), direct);
    }
}

pub fn session_affinity(world: &World) {
    BACKENDS_V4.iter().for_each(|b| tcp_server(b));
    let mut lb = world.open();
    let with_timeout = |timeout_s, backends: &[&str]| {
        let mut tables = tables(&[(Tcp, V4, backends)]);
        change(&mut tables, usize::MAX, |lb| lb.affinity_timeout_s = Some(timeout_s));
        tables
    };
    lb.apply(&with_timeout(60, &BACKENDS_V4)).unwrap();
    let ask = || tcp_ask(addr(V4)).unwrap().0;
    let mine = ask();
    assert!((0..24).all(|_| ask() == mine), "one client stays");
    let others: Vec<&str> = BACKENDS_V4.iter().copied().filter(|b| *b != mine).collect();
    lb.apply(&with_timeout(60, &others)).unwrap();
    let moved = ask();
    assert!(others.contains(&moved.as_str()));
    assert!((0..24).all(|_| ask() == moved), "and stays again");
    lb.apply(&with_timeout(1, &BACKENDS_V4)).unwrap();
    let forgot = (0..16).any(|_| {
        thread::sleep(Duration::from_millis(1050));
        ask() != moved
    });
    assert!(forgot, "after the time-out every backend is chosen again");
}

/// Clients, as many network namespaces as pods, and how often each connects.
const CLIENTS: usize = 90;
const CONNECTIONS: usize = 8;

/// The backends that each client was sent to.
fn spread(world: &World) -> BTreeMap<u64, Vec<SocketAddr>> {
    let client = || {
        // SAFETY: of this thread alone, which ends.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "new namespace");
        loopback_up();
        let connect = |_| {
            let socket = udp_client(addr(V4));
            socket.connect(addr(V4)).expect("connect");
            socket
        };
        // They live until their records were read.
        (0..CONNECTIONS).map(connect).collect::<Vec<_>>()
    };
    let clients = (0..CLIENTS).map(|_| thread::spawn(client).join().expect("client"));
    let sockets: Vec<_> = clients.collect();
    let mut seen: BTreeMap<u64, Vec<SocketAddr>> = BTreeMap::new();
    for record in Records::open(&world.bpf_dir).unwrap().list().unwrap() {
        seen.entry(record.netns_cookie).or_default().push(record.backend);
    }
    drop(sockets);
    seen
}

pub fn choice_is_even_by_chance_and_by_client(world: &World) {
    let mut lb = world.open();
    for balance in [Balance::Random, Balance::Maglev] {
        let mut tables = tables(&[(Udp, V4, &BACKENDS_V4)]);
        change(&mut tables, usize::MAX, |lb| lb.balance = balance);
        lb.apply(&tables).unwrap();
        let seen = spread(world);
        assert_eq!(seen.len(), CLIENTS);
        assert!(seen.values().all(|all| all.len() == CONNECTIONS));
        let mut shares: BTreeMap<SocketAddr, usize> = BTreeMap::new();
        seen.values().flatten().for_each(|b| *shares.entry(*b).or_default() += 1);
        println!("{balance:?}: {shares:?} of {}", CLIENTS * CONNECTIONS);
        let even = CLIENTS * CONNECTIONS / BACKENDS_V4.len();
        // Far beyond the deviation of a fair choice of 720 connections, or of 90 clients.
        assert_eq!(shares.len(), BACKENDS_V4.len());
        assert!(shares.values().all(|n| (even / 2..=even * 3 / 2).contains(n)), "{shares:?}");
        let stay = seen.values().all(|all| all.iter().all(|b| *b == all[0]));
        assert_eq!(stay, balance == Balance::Maglev, "one client, one backend");
    }
}
