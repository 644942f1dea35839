//! Records of sockets, what can be done with them, and whose loopback it is.

use crate::{
    traffic::{
        TIMEOUT, addr, mapped, tables, tcp_ask, tcp_server, udp_ask, udp_client, udp_server,
    },
    world::{World, loopback_up},
};
use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Instant,
};
use weft_bpf::{Records, SocketRecord};
use weft_model::Protocol::{Tcp, Udp};
use weft_netlink::sock_diag::{Connected, SockDiag, Transport, cookie_of, netns_cookie};

const V4: &str = "10.96.0.1:80";
const V6: &str = "[fd00:10:96::1]:80";
const BACKEND_V4: &str = "127.0.1.1:8080";
const BACKEND_V6: &str = "[::1]:8081";

pub fn records_find_the_sockets_of_a_backend(world: &World) {
    for backend in [BACKEND_V4, BACKEND_V6] {
        tcp_holder(backend);
        udp_server(backend);
    }
    let mut lb = world.open();
    let rows = [
        (Tcp, V4, &[BACKEND_V4][..]),
        (Tcp, V6, &[BACKEND_V6][..]),
        (Udp, V4, &[BACKEND_V4][..]),
        (Udp, V6, &[BACKEND_V6][..]),
    ];
    lb.apply(&tables(&rows)).unwrap();
    let records = Records::open(&world.bpf_dir).unwrap();
    let diag = SockDiag::open().unwrap();
    assert!(records.list().unwrap().is_empty());
    for (to, frontend, backend) in
        [(addr(V4), V4, BACKEND_V4), (addr(V6), V6, BACKEND_V6), (mapped(V4), V4, BACKEND_V4)]
    {
        let (frontend, backend) = (addr(frontend), addr(backend));
        let netns_cookie = netns_cookie().unwrap();
        let record = |cookie, connected, protocol| SocketRecord {
            cookie,
            connected,
            netns_cookie,
            protocol,
            frontend,
            backend,
        };
        let tcp = TcpStream::connect_timeout(&to, TIMEOUT).unwrap();
        let (udp, free) = (udp_client(to), udp_client(to));
        udp.connect(to).unwrap();
        udp_ask(&free, to).unwrap();
        // A connected one may also say where to send: it is connected all the same.
        udp_ask(&udp, to).unwrap();
        let expected = BTreeSet::from([
            record(cookie_of(&tcp).unwrap(), true, Tcp),
            record(cookie_of(&udp).unwrap(), true, Udp),
            record(cookie_of(&free).unwrap(), false, Udp),
        ]);
        let mut known: BTreeSet<SocketRecord> = records.list().unwrap().into_iter().collect();
        assert_eq!(known, expected);
        let of = |protocol| -> BTreeSet<Connected> {
            let mine = expected.iter().filter(|r| r.protocol == protocol);
            mine.map(|r| Connected { cookie: r.cookie, remote: r.backend }).collect()
        };
        if diag.probe(Transport::Tcp).is_ok() {
            assert_eq!(diag.close(Transport::Tcp, &of(Tcp)).unwrap().closed.len(), 1);
            let error = (&tcp).read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
            // The unconnected one moves by itself with its next datagram.
            assert_eq!(diag.close(Transport::Udp, &of(Udp)).unwrap().closed.len(), 1);
            let error = udp.recv(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
            udp_ask(&free, to).unwrap();
            // Connected again, it is translated again.
            udp.connect(to).unwrap();
            assert_eq!(udp.peer_addr().unwrap(), to);
        }
        let gone = record(cookie_of(&free).unwrap(), false, Udp);
        records.remove(&[gone, gone]).unwrap();
        known.remove(&gone);
        drop((tcp, udp));
        // What was closed keeps no address by which its record would be found.
        let left: BTreeSet<SocketRecord> = records.list().unwrap().into_iter().collect();
        assert!(left.is_subset(&known), "{left:?}");
        records.remove(&left.into_iter().collect::<Vec<_>>()).unwrap();
        assert!(records.list().unwrap().is_empty());
    }
}

/// Accepts, and keeps what it accepted.
fn tcp_holder(at: &str) {
    let listener = TcpListener::bind(at).unwrap_or_else(|e| panic!("bind {at}: {e}"));
    thread::spawn(move || listener.incoming().collect::<Vec<_>>());
}

const NODE_V4: &str = "127.0.0.1:30080";
const NODE_V6: &str = "[::1]:30080";

pub fn loopback_frontends_are_the_nodes_own(world: &World) {
    for backend in [BACKEND_V4, BACKEND_V6] {
        tcp_server(backend);
        udp_server(backend);
    }
    let mut lb = world.open();
    let rows = [
        (Tcp, NODE_V4, &[BACKEND_V4][..]),
        (Tcp, NODE_V6, &[BACKEND_V6][..]),
        (Udp, NODE_V4, &[BACKEND_V4][..]),
        (Udp, NODE_V6, &[BACKEND_V6][..]),
    ];
    lb.apply(&tables(&rows)).unwrap();
    let ways =
        [(addr(NODE_V4), BACKEND_V4), (addr(NODE_V6), BACKEND_V6), (mapped(NODE_V4), BACKEND_V4)];
    for (to, backend) in ways {
        let (name, stream) = tcp_ask(to).unwrap();
        assert_eq!((name.as_str(), stream.peer_addr().unwrap()), (backend, to));
        let socket = udp_client(to);
        assert_eq!(udp_ask(&socket, to).unwrap(), (backend.to_owned(), to));
        socket.connect(to).unwrap();
        assert_eq!(socket.peer_addr().unwrap(), to);
        // What is bound to loopback could not be answered by another host: it is refused by
        // the stack, at once.
        let source = SocketAddr::new(to.ip(), 0);
        let begin = Instant::now();
        assert_eq!(tcp_from(source, to).unwrap_err(), nix::errno::Errno::ECONNREFUSED);
        let bound = UdpSocket::bind(source).unwrap();
        bound.set_read_timeout(Some(TIMEOUT)).unwrap();
        bound.connect(to).unwrap();
        bound.send(b"who?").unwrap();
        assert_eq!(bound.recv(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert!(begin.elapsed() < TIMEOUT, "not at once");
    }
    // A pod's loopback is the pod's own, although its processes are in the node's cgroup.
    let pod = thread::spawn(move || {
        // SAFETY: takes no pointers; the namespace ends with this thread.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
        loopback_up();
        for (to, _) in ways {
            assert_eq!(tcp_ask(to).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{to}");
            let socket = udp_client(to);
            socket.connect(to).unwrap();
            assert_eq!(socket.peer_addr().unwrap(), to);
            socket.send(b"who?").unwrap();
            assert_eq!(socket.recv(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
        let own = TcpListener::bind(NODE_V4).unwrap();
        let mut client = TcpStream::connect(NODE_V4).unwrap();
        own.accept().unwrap().0.write_all(b"own").unwrap();
        let mut said = [0; 3];
        client.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"own");
    });
    pod.join().expect("the pod's thread");
    // And where the node's namespace is not told, nobody's is.
    drop(lb);
    let options = weft_bpf::OpenOptions { node_netns: 0, ..world.options() };
    let _lb = weft_bpf::SocketLb::open(options).unwrap();
    assert_eq!(tcp_ask(addr(NODE_V4)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

/// Connects from an address.
fn tcp_from(source: SocketAddr, to: SocketAddr) -> nix::Result<()> {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket,
    };
    use std::os::fd::AsRawFd;
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(source))?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to))
}
