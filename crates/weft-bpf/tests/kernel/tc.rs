//! Packets that passed no socket hook, translated at the pod's link.

use crate::{
    growth::crowd,
    links::{Pod, ROUTERS, each_way, ip},
    traffic::{add, change, tcp_ask, udp_ask},
    world::World,
};
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};
use weft_bpf::LinkAttach;
use weft_bpf_abi::LAYOUT_VERSION;
use weft_model::Protocol::{self, Tcp, Udp};
use weft_services::ServiceTables;

pub const FRONTENDS: [&str; 2] = ["10.96.0.1", "fd00:10:96::1"];
const OTHERS: [&str; 2] = ["10.96.0.2", "fd00:10:96::2"];
const PORT: u16 = 80;
const TARGET: u16 = 8080;
const TIMEOUT: Duration = Duration::from_secs(5);

/// Frontends at the address of each family, with these pods behind them.
pub fn put(
    tables: &mut ServiceTables,
    protocol: Protocol,
    at: [&str; 2],
    (port, target): (u16, u16),
    pods: &[&Pod],
) {
    for family in [0, 1] {
        let backends: Vec<_> = pods.iter().map(|p| (p.ips[family], target)).collect();
        add(tables, (ip(at[family]), port), protocol, &backends);
    }
}

pub fn tables(pods: &[&Pod]) -> ServiceTables {
    let mut tables = ServiceTables::default();
    put(&mut tables, Tcp, FRONTENDS, (PORT, TARGET), pods);
    put(&mut tables, Udp, FRONTENDS, (PORT, TARGET), pods);
    tables
}

pub fn frontends() -> [SocketAddr; 2] {
    FRONTENDS.map(|a| SocketAddr::new(ip(a), PORT))
}

/// Says its pod's name and the client's address, then sends back what it gets.
fn serve_tcp(pod: &Pod) {
    for own in pod.ips {
        let listener = pod.run(|| TcpListener::bind((own, TARGET)).expect("bind"));
        let name = pod.link.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, name) = (stream.expect("accept"), name.clone());
                thread::spawn(move || {
                    let peer = stream.peer_addr().expect("peer").ip();
                    let _ = stream.write_all(format!("{name} {peer}\n").as_bytes());
                    let mut reader = stream.try_clone().expect("clone");
                    let _ = io::copy(&mut reader, &mut stream);
                });
            }
        });
    }
}

/// Answers each datagram with its pod's name and what it got.
fn serve_udp(pod: &Pod) {
    for own in pod.ips {
        let socket = pod.run(|| UdpSocket::bind((own, TARGET)).expect("bind"));
        let name = pod.link.clone();
        thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            loop {
                // An error of an earlier answer is no reason to end.
                let Ok((len, client)) = socket.recv_from(&mut buffer) else { continue };
                let mut answer = name.clone().into_bytes();
                answer.extend_from_slice(&buffer[..len]);
                let _ = socket.send_to(&answer, client);
            }
        });
    }
}

pub fn serve(pod: &Pod) {
    serve_tcp(pod);
    serve_udp(pod);
}

pub fn connect(pod: &Pod, to: SocketAddr) -> io::Result<TcpStream> {
    let stream = pod.run(|| TcpStream::connect_timeout(&to, TIMEOUT))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// Which pod answered, and the client that it saw.
pub fn greeting(stream: &mut TcpStream) -> (String, IpAddr) {
    let mut line = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte).expect("greeting");
        line.push(byte[0]);
    }
    let line = String::from_utf8(line).expect("text");
    let (name, client) = line.trim().split_once(' ').expect("two words");
    (name.to_owned(), client.parse().expect("address"))
}

pub fn echo(stream: &mut TcpStream, len: usize) {
    let sent: Vec<u8> = (0..len).map(|n| (n * 7 + n / 251) as u8).collect();
    let mut writer = stream.try_clone().expect("clone");
    let copy = sent.clone();
    let writing = thread::spawn(move || writer.write_all(&copy));
    let mut got = vec![0; len];
    stream.read_exact(&mut got).expect("echo");
    writing.join().expect("writer").expect("write");
    assert!(got == sent, "the bytes changed on the way");
}

pub fn udp_socket(pod: &Pod, own: IpAddr) -> UdpSocket {
    let socket = pod.run(|| UdpSocket::bind((own, 0)).expect("bind"));
    socket.set_read_timeout(Some(TIMEOUT)).expect("timeout");
    socket
}

pub fn tcp_and_udp_of_a_pod_that_opted_out(world: &World) {
    each_way(world, |node| {
        let (client, near, far) = (node.opted_out(), node.pod(), node.pod());
        [&near, &far].into_iter().for_each(serve);
        node.apply(&tables(&[&near, &far]));
        for (family, to) in frontends().into_iter().enumerate() {
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..32 {
                let mut stream = connect(&client, to).unwrap();
                let (name, peer) = greeting(&mut stream);
                assert_eq!(peer, client.ips[family], "the backend sees the pod");
                assert_eq!(stream.peer_addr().unwrap(), to, "the socket keeps the Service");
                seen.insert(name);
            }
            assert_eq!(seen.len(), 2, "both backends: {seen:?}");
            let mut stream = connect(&client, to).unwrap();
            greeting(&mut stream);
            echo(&mut stream, 1 << 20);
            let socket = udp_socket(&client, client.ips[family]);
            let (first, from) = udp_ask(&socket, to).unwrap();
            assert_eq!(from, to);
            assert_eq!(udp_ask(&socket, to).unwrap(), (first, to), "a flow stays");
            socket.connect(to).unwrap();
            socket.send(b"x").unwrap();
            assert!(socket.recv(&mut [0; 64]).unwrap() > 1, "connected sockets also");
        }
        let stats = node.links().stats().unwrap();
        assert!(stats.flows >= 2 * 34 && stats.translated > stats.flows, "{stats:?}");
        assert!(stats.reversed > stats.flows && stats.errors + stats.spoofed == 0, "{stats:?}");
        // Others of the node pass by the hooks: no flow is theirs.
        let other = node.pod();
        greeting(&mut connect(&other, frontends()[0]).unwrap());
        assert_eq!(node.links().stats().unwrap().flows, stats.flows);
    });
}

pub fn flows_keep_their_backend(world: &World) {
    each_way(world, |node| {
        let (client, old, new) = (node.opted_out(), node.pod(), node.pod());
        [&old, &new].into_iter().for_each(serve);
        node.apply(&tables(&[&old]));
        for (family, to) in frontends().into_iter().enumerate() {
            node.apply(&tables(&[&old]));
            let mut stream = connect(&client, to).unwrap();
            assert_eq!(greeting(&mut stream).0, old.link);
            let socket = udp_socket(&client, client.ips[family]);
            assert!(udp_ask(&socket, to).unwrap().0.starts_with(&old.link));
            node.apply(&tables(&[&old, &new]));
            assert!(udp_ask(&socket, to).unwrap().0.starts_with(&old.link), "it is still there");
            node.apply(&tables(&[&new]));
            echo(&mut stream, 4096);
            assert!(udp_ask(&socket, to).unwrap().0.starts_with(&new.link), "UDP moves");
            assert_eq!(greeting(&mut connect(&client, to).unwrap()).0, new.link);
            // Also when the whole Service goes.
            node.apply(&ServiceTables::default());
            echo(&mut stream, 4096);
        }
    });
}

/// A socket that shares its port with others.
fn from_port(pod: &Pod, own: IpAddr, port: u16, to: SocketAddr) -> TcpStream {
    use nix::sys::socket::*;
    pod.run(|| {
        let family = if own.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("socket");
        setsockopt(&fd, sockopt::ReuseAddr, &true).expect("option");
        let bind_to = SockaddrStorage::from(SocketAddr::new(own, port));
        bind(fd.as_raw_fd(), &bind_to).expect("bind");
        nix::sys::socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(to)).expect("connect");
        TcpStream::from(fd)
    })
}

pub fn two_flows_to_one_backend_from_one_port(world: &World) {
    each_way(world, |node| {
        let (client, server) = (node.opted_out(), node.pod());
        serve_tcp(&server);
        let mut tables = tables(&[&server]);
        put(&mut tables, Tcp, OTHERS, (PORT, TARGET), &[&server]);
        node.apply(&tables);
        for family in [0, 1] {
            let own = client.ips[family];
            let at = |a: [&str; 2]| SocketAddr::new(ip(a[family]), PORT);
            let mut one = from_port(&client, own, 40_000, at(FRONTENDS));
            let mut two = from_port(&client, own, 40_000, at(OTHERS));
            for stream in [&mut one, &mut two] {
                stream.set_read_timeout(Some(TIMEOUT)).unwrap();
                greeting(stream);
                echo(stream, 4096);
            }
        }
    });
}

pub fn a_pod_reaches_itself(world: &World) {
    each_way(world, |node| {
        let pod = node.opted_out();
        serve_tcp(&pod);
        serve_udp(&pod);
        node.apply(&tables(&[&pod]));
        for (family, to) in frontends().into_iter().enumerate() {
            let mut stream = connect(&pod, to).unwrap();
            assert_eq!(greeting(&mut stream), (pod.link.clone(), ip(ROUTERS[family])));
            echo(&mut stream, 1 << 18);
            let socket = udp_socket(&pod, pod.ips[family]);
            assert_eq!(udp_ask(&socket, to).unwrap(), (format!("{}who?", pod.link), to));
        }
        assert_eq!(node.links().stats().unwrap().errors, 0);
    });
}

fn set_no_fragments(socket: &UdpSocket, v4: bool) {
    let (level, name) = if v4 {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
    };
    let value = libc::IP_PMTUDISC_DO;
    // SAFETY: a C int of the length that is given.
    let done = unsafe {
        let at = (&raw const value).cast();
        libc::setsockopt(socket.as_raw_fd(), level, name, at, size_of::<libc::c_int>() as u32)
    };
    assert_eq!(done, 0, "option");
}

fn path_mtu(socket: &UdpSocket, v4: bool) -> i32 {
    let (level, name) =
        if v4 { (libc::IPPROTO_IP, libc::IP_MTU) } else { (libc::IPPROTO_IPV6, libc::IPV6_MTU) };
    let (mut value, mut len) = (0, size_of::<libc::c_int>() as u32);
    // SAFETY: a C int of the length that is given.
    let done = unsafe {
        let to = (&raw mut value).cast();
        libc::getsockopt(socket.as_raw_fd(), level, name, to, &raw mut len)
    };
    assert_eq!(done, 0, "option");
    value
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + TIMEOUT;
    while !done() {
        assert!(Instant::now() < end, "never: {what}");
        thread::yield_now();
    }
}

pub fn errors_tell_of_the_service(world: &World) {
    each_way(world, |node| {
        let (client, server) = (node.opted_out(), node.pod_with(false, 1300));
        node.apply(&tables(&[&server]));
        for (family, to) in frontends().into_iter().enumerate() {
            // Nobody listens: the backend says so, and the client hears it of the Service.
            let socket = udp_socket(&client, client.ips[family]);
            socket.connect(to).unwrap();
            socket.send(b"x").unwrap();
            let refused = socket.recv(&mut [0; 8]).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to}: {refused}");
            let error = connect(&client, to).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: {error}");
            // A link on the way is smaller: the client learns it for the Service's address.
            set_no_fragments(&socket, to.is_ipv4());
            assert_eq!(path_mtu(&socket, to.is_ipv4()), 1500);
            // The socket also hears of the port; what counts is the size.
            let _ = socket.send(&[0; 1400]);
            wait("path MTU", || path_mtu(&socket, to.is_ipv4()) == 1300);
            // The other way round: the client is gone when the answer comes.
            let backend = udp_socket(&server, server.ips[family]);
            let mut tables = tables(&[&server]);
            let target = backend.local_addr().unwrap().port();
            put(&mut tables, Udp, OTHERS, (PORT, target), &[&server]);
            node.apply(&tables);
            let socket = udp_socket(&client, client.ips[family]);
            socket.send_to(b"x", (ip(OTHERS[family]), PORT)).unwrap();
            let (_, from) = backend.recv_from(&mut [0; 8]).unwrap();
            assert_eq!(from.ip(), client.ips[family]);
            drop(socket);
            backend.connect(from).unwrap();
            backend.send(b"late").unwrap();
            let refused = backend.recv(&mut [0; 8]).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to}: {refused}");
        }
        assert_eq!(node.links().stats().unwrap().errors, 0);
    });
}

pub fn fragments_follow_their_flow(world: &World) {
    each_way(world, |node| {
        let (client, server) = (node.opted_out(), node.pod());
        serve_udp(&server);
        node.apply(&tables(&[&server]));
        for (family, to) in frontends().into_iter().enumerate() {
            let socket = udp_socket(&client, client.ips[family]);
            let sent: Vec<u8> = (0..5000).map(|n| n as u8).collect();
            socket.send_to(&sent, to).unwrap();
            let mut got = vec![0; 65_536];
            let (len, from) = socket.recv_from(&mut got).unwrap();
            assert_eq!((len, from), (5000 + server.link.len(), to));
            assert_eq!(&got[server.link.len()..len], &sent);
        }
    });
}

pub fn what_has_no_backend_is_left_alone(world: &World) {
    each_way(world, |node| {
        let (client, server) = (node.opted_out(), node.pod());
        serve_tcp(&server);
        node.apply(&tables(&[&server]));
        let other = SocketAddr::new(ip(OTHERS[0]), PORT);
        let begin = Instant::now();
        // The node has no route there, and says so.
        let error = connect(&client, other).unwrap_err();
        assert_ne!(error.kind(), ErrorKind::TimedOut, "{error}");
        assert!(begin.elapsed() < Duration::from_secs(1), "not at once");
        let stats = node.links().stats().unwrap();
        assert_eq!((stats.no_backend, stats.flows), (1, 0), "{stats:?}");
        // A backend by its own address is not touched, even beside a flow of the Service.
        let direct = SocketAddr::new(server.ips[0], TARGET);
        greeting(&mut connect(&client, frontends()[0]).unwrap());
        let before = node.links().stats().unwrap();
        let mut stream = connect(&client, direct).unwrap();
        greeting(&mut stream);
        assert_eq!(stream.peer_addr().unwrap(), direct);
        assert_eq!(node.links().stats().unwrap().flows, before.flows);
    });
}

pub fn session_affinity_at_the_link(world: &World) {
    each_way(world, |node| {
        let (client, a, b) = (node.opted_out(), node.pod(), node.pod());
        [&a, &b].into_iter().for_each(serve_tcp);
        let with_timeout = |pods: &[&Pod]| {
            let mut tables = tables(pods);
            change(&mut tables, usize::MAX, |lb| lb.affinity_timeout_s = Some(60));
            tables
        };
        node.apply(&with_timeout(&[&a, &b]));
        for to in frontends() {
            let ask = || greeting(&mut connect(&client, to).unwrap()).0;
            let mine = ask();
            assert!((0..16).all(|_| ask() == mine), "one client stays");
        }
    });
}

pub fn foreign_sources_are_dropped(world: &World) {
    each_way(world, |node| {
        let (client, server) = (node.pod(), node.pod());
        serve_udp(&server);
        node.apply(&ServiceTables::default());
        for (family, foreign) in ["10.244.1.99", "fd00:1::99"].map(ip).into_iter().enumerate() {
            let to = SocketAddr::new(server.ips[family], TARGET);
            let own = udp_socket(&client, client.ips[family]);
            udp_ask(&own, to).unwrap();
            client.run(|| {
                let netlink = weft_netlink::Netlink::open().expect("netlink");
                netlink.add_address("eth0", foreign.into()).expect("address");
            });
            let before = node.links().stats().unwrap().spoofed;
            let socket = udp_socket(&client, foreign);
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            assert!(udp_ask(&socket, to).is_err(), "{foreign} got an answer");
            wait("a drop", || node.links().stats().unwrap().spoofed == before + 1);
            udp_ask(&own, to).unwrap();
        }
        // The node's own traffic to the pod has any source.
        for own in server.ips {
            tcp_ask(SocketAddr::new(own, 1)).expect_err("nobody listens");
        }
    });
}

pub fn a_restarted_agent_adopts_links(world: &World) {
    each_way(world, |node| {
        let (client, server) = (node.opted_out(), node.pod());
        serve_tcp(&server);
        node.apply(&tables(&[&server]));
        let mut stream = connect(&client, frontends()[0]).unwrap();
        greeting(&mut stream);
        node.restart();
        assert!(!node.repair(&client) && !node.repair(&server), "nothing is missing");
        node.links().sweep(&node.netlink).unwrap();
        echo(&mut stream, 4096);
        assert_eq!(node.links().count().unwrap(), (2, 1));
        // Somebody takes the programs away.
        match node.links().attach_kind() {
            LinkAttach::Tcx => {
                let dir = node.options.bpf_dir.join(format!("v{LAYOUT_VERSION}/pods"));
                for pin in std::fs::read_dir(dir).unwrap().flatten() {
                    std::fs::remove_file(pin.path()).unwrap();
                }
            }
            LinkAttach::Clsact => {
                for pod in [&client, &server] {
                    node.netlink.delete_clsact(pod.index).unwrap();
                }
            }
        }
        wait("the programs are gone", || connect(&client, frontends()[1]).is_err());
        assert!(node.repair(&client) && node.repair(&server));
        assert!(!node.repair(&client), "once is enough");
        echo(&mut stream, 4096);
        greeting(&mut connect(&client, frontends()[1]).unwrap());
    });
}

pub fn links_follow_larger_maps(world: &World) {
    each_way(world, |node| {
        let (client, server) = (node.opted_out(), node.pod());
        serve_tcp(&server);
        node.apply(&crowd(10));
        // More than there is room for; the server's frontends come with them.
        let mut all = crowd(2000);
        all.frontends.extend(tables(&[&server]).frontends.iter().map(|(f, lb)| (*f, lb.clone())));
        node.apply(&all);
        let mut stream = connect(&client, frontends()[0]).unwrap();
        greeting(&mut stream);
        echo(&mut stream, 4096);
        assert!(!node.repair(&client), "its programs are there already");
    });
}
