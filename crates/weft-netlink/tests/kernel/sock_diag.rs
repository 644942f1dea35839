//! Sockets that are closed from outside, and those beside them that are not.

use super::*;
use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
    thread,
};
use weft_netlink::sock_diag::{Connected, SockDiag, Transport, cookie_of};

/// Nothing here leaves the namespace, so this is forever.
const LONG: Duration = Duration::from_secs(10);

/// A namespace with its loopback up, and a handle to its sockets.
fn world(role: &str) -> (Namespace, SockDiag) {
    let ns = Namespace::new(role);
    ns.netlink().set_up("lo").expect("lo up");
    let (diag, cookie) = SockDiag::open_in(&ns.path).expect("sock_diag");
    assert_ne!(cookie, 0);
    (ns, diag)
}

/// Whether the kernel closes sockets. Where it does not, it must also refuse to in earnest.
fn can_close(test: &str, ns: &Namespace, diag: &SockDiag, transport: Transport) -> bool {
    let Err(refusal) = diag.probe(transport) else { return true };
    assert_eq!(refusal.errno(), Some(libc::EOPNOTSUPP), "{refusal}");
    let (at, socket) = netns::run_in(&ns.path, || {
        let other = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        socket.connect(other.local_addr().expect("address")).expect("connect");
        (other.local_addr().expect("address"), socket)
    })
    .expect("entered");
    let done = diag.close(Transport::Udp, &set(&[(&socket, at)])).expect("listed");
    assert_eq!((done.closed.len(), done.left.len()), (0, 1), "{done:?}");
    println!("SKIP {test}: this kernel closes no sockets ({refusal})");
    false
}

fn set<S: std::os::fd::AsFd>(sockets: &[(&S, SocketAddr)]) -> BTreeSet<Connected> {
    let one = |(s, remote): &(&S, SocketAddr)| Connected {
        cookie: cookie_of(*s).expect("cookie"),
        remote: *remote,
    };
    sockets.iter().map(one).collect()
}

/// `to` as an AF_INET6 socket writes it.
fn mapped(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
        v6 => v6,
    }
}

/// A connection and its other end.
fn pair(ns: &Namespace, listener: &TcpListener, to: SocketAddr) -> (TcpStream, TcpStream) {
    let near = netns::run_in(&ns.path, || TcpStream::connect_timeout(&to, LONG));
    let near = near.expect("entered").expect("connect");
    let far = listener.accept().expect("accept").0;
    for end in [&near, &far] {
        end.set_read_timeout(Some(LONG)).expect("timeout");
    }
    (near, far)
}

fn works(near: &mut TcpStream, far: &mut TcpStream) {
    near.write_all(b"x").expect("write");
    let mut byte = [0];
    far.read_exact(&mut byte).expect("read");
    far.write_all(b"y").expect("write");
    near.read_exact(&mut byte).expect("read");
}

fn code<T: std::fmt::Debug>(result: io::Result<T>) -> Option<i32> {
    result.expect_err("must fail").raw_os_error()
}

#[test]
fn tcp_sockets_are_closed_by_cookie_and_destination() {
    let name = "tcp_sockets_are_closed_by_cookie_and_destination";
    if !is_root(name) {
        return;
    }
    let (ns, diag) = world("tcp");
    if !can_close(name, &ns, &diag, Transport::Tcp) {
        return;
    }
    let (elsewhere, _) = world("else");
    for (bind, map) in [("127.0.0.1:0", false), ("[::1]:0", false), ("127.0.0.1:0", true)] {
        let listen = |ns: &Namespace, at: &str| {
            netns::run_in(&ns.path, || TcpListener::bind(at)).expect("entered").expect("bind")
        };
        let listener = listen(&ns, bind);
        let remote = listener.local_addr().expect("address");
        let to = if map { mapped(remote) } else { remote };
        let (mut victim, mut victim_peer) = pair(&ns, &listener, to);
        let (mut beside, mut beside_peer) = pair(&ns, &listener, to);
        let other = listen(&ns, bind);
        let other_remote = other.local_addr().expect("address");
        let (mut third, mut third_peer) = pair(&ns, &other, other_remote);
        let far = listen(&elsewhere, &remote.to_string());
        let (mut fourth, mut fourth_peer) = pair(&elsewhere, &far, to);
        // A wrong cookie, a wrong destination, and a socket of another namespace: nothing.
        let wrong = set(&[(&victim, other_remote), (&third, remote), (&fourth, remote)]);
        let done = diag.close(Transport::Tcp, &wrong).expect("listed");
        assert!(done.closed.is_empty() && done.left.is_empty(), "{done:?}");
        let done = diag.close(Transport::Udp, &set(&[(&victim, remote)])).expect("listed");
        assert!(done.closed.is_empty() && done.left.is_empty(), "{done:?}");

        let right = set(&[(&victim, remote)]);
        let done = diag.close(Transport::Tcp, &right).expect("listed");
        assert_eq!(done.closed, right.iter().copied().collect::<Vec<_>>());
        assert!(done.left.is_empty(), "{done:?}");
        let mut byte = [0];
        assert_eq!(code(victim.read(&mut byte)), Some(libc::ECONNABORTED), "{to}");
        assert_eq!(code(victim_peer.read(&mut byte)), Some(libc::ECONNRESET), "{to}");
        works(&mut beside, &mut beside_peer);
        works(&mut third, &mut third_peer);
        works(&mut fourth, &mut fourth_peer);
        // Again: it is gone, which is fine.
        let done = diag.close(Transport::Tcp, &right).expect("listed");
        assert!(done.closed.is_empty() && done.left.is_empty(), "{done:?}");
    }
}

#[test]
fn a_connect_that_waits_is_ended() {
    let name = "a_connect_that_waits_is_ended";
    if !is_root(name) {
        return;
    }
    let (ns, diag) = world("syn");
    if !can_close(name, &ns, &diag, Transport::Tcp) {
        return;
    }
    // Packets of the unspecified peer go nowhere: a link without anybody at its other end.
    let netlink = ns.netlink();
    let spec = VethSpec { name: "hole", peer_name: "none", ..VethSpec::default() };
    netlink.create_veth(&spec).expect("veth");
    netlink.add_address("hole", net("192.0.2.1/24")).expect("address");
    for link in ["hole", "none"] {
        netlink.set_up(link).expect("up");
    }
    let index = netlink.index_of("hole").expect("index");
    let nobody = Neighbour { index, ip: ip("192.0.2.2"), mac: Mac([2, 0, 0, 0, 0, 9]) };
    netlink.replace_neighbour(&nobody).expect("neighbour");
    let to: SocketAddr = "192.0.2.2:80".parse().expect("address");
    let socket = netns::run_in(&ns.path, raw_tcp_socket).expect("entered");
    let cookie = cookie_of(&socket).expect("cookie");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| connect_raw(&socket, to));
        let begin = Instant::now();
        let wanted = BTreeSet::from([Connected { cookie, remote: to }]);
        let mut closed = 0;
        while closed == 0 {
            assert!(begin.elapsed() < LONG, "the socket is not found");
            closed = diag.close(Transport::Tcp, &wanted).expect("listed").closed.len();
            thread::yield_now();
        }
        let result = waiting.join().expect("no panic");
        assert_eq!(code(result), Some(libc::ECONNABORTED));
    });
}

fn raw_tcp_socket() -> std::os::fd::OwnedFd {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("socket")
}

fn connect_raw(socket: &std::os::fd::OwnedFd, to: SocketAddr) -> io::Result<()> {
    use nix::sys::socket::{SockaddrIn, connect};
    use std::os::fd::AsRawFd;
    let SocketAddr::V4(to) = to else { panic!("{to} is not IPv4") };
    Ok(connect(socket.as_raw_fd(), &SockaddrIn::from(to))?)
}

#[test]
fn connected_udp_sockets_are_closed_and_others_are_not() {
    let name = "connected_udp_sockets_are_closed_and_others_are_not";
    if !is_root(name) {
        return;
    }
    let (ns, diag) = world("udp");
    if !can_close(name, &ns, &diag, Transport::Udp) {
        return;
    }
    for (bind, map) in [("127.0.0.1:0", false), ("[::1]:0", false), ("127.0.0.1:0", true)] {
        let any = if map || bind.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = |at: &str| {
            let made = netns::run_in(&ns.path, || UdpSocket::bind(at)).expect("entered");
            let made = made.expect("bind");
            made.set_read_timeout(Some(LONG)).expect("timeout");
            made
        };
        let server = socket(bind);
        let remote = server.local_addr().expect("address");
        let to = if map { mapped(remote) } else { remote };
        let (victim, beside, free) = (socket(any), socket(any), socket(any));
        victim.connect(to).expect("connect");
        beside.connect(to).expect("connect");
        free.send_to(b"x", to).expect("send");
        let mut buffer = [0; 8];
        let (_, client) = server.recv_from(&mut buffer).expect("receive");
        // The unconnected one is not found, although it sends to the same destination.
        let right = set(&[(&victim, remote)]);
        let wanted = right.iter().copied().chain(set(&[(&free, remote)])).collect();
        let done = diag.close(Transport::Udp, &wanted).expect("listed");
        assert_eq!(done.closed, right.iter().copied().collect::<Vec<_>>(), "{done:?}");
        assert!(done.left.is_empty(), "{done:?}");
        assert_eq!(code(victim.recv(&mut buffer)), Some(libc::ECONNABORTED));
        assert!(victim.send(b"x").is_err(), "it has no destination any more");
        server.send_to(b"y", client).expect("answer");
        assert_eq!(free.recv_from(&mut buffer).expect("receive").1, to);
        beside.send(b"x").expect("send");
        let (_, client) = server.recv_from(&mut buffer).expect("receive");
        server.send_to(b"y", client).expect("answer");
        beside.recv(&mut buffer).expect("receive");
        // The same socket can be connected again.
        victim.connect(to).expect("connect");
        victim.send(b"z").expect("send");
        server.recv_from(&mut buffer).expect("receive");
    }
}

#[test]
fn many_sockets_and_destinations_are_closed_at_once() {
    let name = "many_sockets_and_destinations_are_closed_at_once";
    if !is_root(name) {
        return;
    }
    let (ns, diag) = world("many");
    if !can_close(name, &ns, &diag, Transport::Udp) {
        return;
    }
    let remote = |n: u16| -> SocketAddr {
        let [high, low] = n.to_be_bytes();
        match n % 2 {
            0 => ([127, 1, high, low], 1000 + n).into(),
            _ => (std::net::Ipv6Addr::LOCALHOST, 1000 + n).into(),
        }
    };
    let sockets: Vec<(UdpSocket, SocketAddr)> = netns::run_in(&ns.path, || {
        let one = |n| {
            let any = if n % 2 == 0 { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).expect("bind");
            socket.connect(remote(n)).expect("connect");
            (socket, remote(n))
        };
        (0..600).map(one).collect()
    })
    .expect("entered");
    // Every other one of each family.
    let (gone, kept): (Vec<_>, Vec<_>) =
        sockets.iter().partition(|(_, r)| (r.port() - 1000) % 4 < 2);
    let pairs: Vec<_> = gone.iter().map(|(s, r)| (s, *r)).collect();
    let wanted = set(&pairs);
    let done = diag.close(Transport::Udp, &wanted).expect("listed");
    assert!(done.left.is_empty(), "{:?}", done.left);
    assert_eq!(done.closed.into_iter().collect::<BTreeSet<_>>(), wanted);
    assert!(gone.iter().all(|(s, _)| s.peer_addr().is_err()));
    assert!(kept.iter().all(|(s, r)| s.peer_addr().expect("connected") == *r));
}
