//! Policy between real sockets, at links of both kinds; and what an upgrade keeps.

use crate::{
    links::{Node, Pod, each_way},
    policy::{entry, network, ready, rest, set},
    tc::{connect, echo, frontends, greeting, serve, tables},
    traffic::{add, addr, tcp_ask, tcp_server, udp_ask},
    world::World,
};
use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};
use weft_bpf::{PodSets, PolicySet, PolicySetKind, PolicyStep};
use weft_bpf_abi::MARK_FROM_NODE;
use weft_model::{
    Action::{Accept, Deny},
    Protocol::{Tcp, Udp},
};
use weft_services::ServiceTables;

const TARGET: u16 = 8080;
/// Long enough for what goes through this machine alone, short enough to wait for nothing.
const SILENCE: Duration = Duration::from_millis(300);

fn give(node: &Node, pod: &Pod, sets: Vec<PolicySet>, ingress: PodSets, egress: PodSets) {
    let pods = vec![ready(pod.index, ingress, egress)];
    node.policy().apply(&PolicyStep { epoch: 1, sets, pods, ..PolicyStep::default() }).unwrap();
}

/// Gives a pod's addresses an identity.
fn name(node: &Node, pod: &Pod, identity: u32) {
    let moves = pod.ips.map(|ip| (ip.into(), Some(identity)));
    node.policy().move_peers(1, &moves).unwrap();
}

fn is_silent(pod: &Pod, to: SocketAddr) -> bool {
    pod.run(|| TcpStream::connect_timeout(&to, SILENCE)).is_err()
}

pub fn pods_are_isolated(world: &World) {
    each_way(world, |node| {
        let (server, friend, other) = (node.pod(), node.pod(), node.pod());
        serve(&server);
        node.apply(&ServiceTables::default());
        name(node, &friend, 7);
        let to = |family: usize| SocketAddr::new(server.ips[family], TARGET);
        let mut before: Vec<_> = [0, 1]
            .map(|f| (connect(&friend, to(f)).unwrap(), connect(&other, to(f)).unwrap()))
            .into();
        for (one, two) in &mut before {
            greeting(one);
            greeting(two);
        }
        let web = entry(7, Some((Tcp, TARGET, 16)), 10, Accept);
        give(node, &server, vec![network(1, vec![web])], rest(1), PodSets::default());
        for (family, (one, two)) in before.iter_mut().enumerate() {
            echo(one, 4096);
            two.set_read_timeout(Some(SILENCE)).unwrap();
            let _ = two.write_all(b"still there?");
            assert!(two.read(&mut [0; 1]).is_err(), "it went on without leave");
            assert!(is_silent(&other, to(family)));
            echo(
                &mut connect(&friend, to(family))
                    .map(|mut s| {
                        greeting(&mut s);
                        s
                    })
                    .unwrap(),
                65_536,
            );
            // What the isolated pod begins itself is its own business; the answers come.
            let socket = crate::tc::udp_socket(&server, server.ips[family]);
            let refused = udp_ask(&socket, SocketAddr::new(other.ips[family], 9)).unwrap_err();
            assert_ne!(refused.kind(), std::io::ErrorKind::PermissionDenied);
        }
    });
}

/// A socket of the node, with a mark as its output path sets it.
fn from_node(to: SocketAddr, mark: u32) -> bool {
    use nix::sys::socket::*;
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    setsockopt(&fd, sockopt::Mark, &mark).expect("mark");
    // Not answered within this time is not answered.
    let timeout = libc::timeval { tv_sec: 0, tv_usec: 300_000 };
    setsockopt(&fd, sockopt::SendTimeout, &nix::sys::time::TimeVal::from(timeout))
        .expect("timeout");
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to)).is_ok()
}

pub fn the_node_reaches_its_pods(world: &World) {
    each_way(world, |node| {
        let server = node.pod();
        serve(&server);
        node.apply(&ServiceTables::default());
        give(node, &server, vec![network(1, vec![])], rest(1), rest(1));
        for ip in server.ips {
            let to = SocketAddr::new(ip, TARGET);
            assert!(from_node(to, MARK_FROM_NODE), "{to}");
            assert!(!from_node(to, 0), "{to} without the mark");
            // A pod sets it in vain.
            assert!(!server.run(|| from_node(
                (crate::links::ip(crate::links::ROUTERS[usize::from(to.is_ipv6())]), 1).into(),
                MARK_FROM_NODE
            )));
        }
        let node_ends = node.policy().flows().unwrap();
        assert!(node_ends.iter().any(|f| f.marks.from_node && f.answered), "{node_ends:?}");
    });
}

/// Translated at the link, and judged by the real backend; and a pod that reaches itself.
pub fn services_are_judged_by_their_backends(world: &World) {
    each_way(world, |node| {
        let (client, server) = (node.opted_out(), node.pod());
        [&client, &server].into_iter().for_each(serve);
        name(node, &server, 7);
        let web = entry(7, Some((Tcp, TARGET, 16)), 10, Accept);
        let admin = set(2, PolicySetKind::Admin, vec![entry(9, None, 1, Deny)]);
        give(
            node,
            &client,
            vec![network(1, vec![web]), network(3, vec![]), admin],
            rest(3),
            rest(1),
        );
        for to in frontends() {
            node.apply(&tables(&[&server]));
            let mut stream = connect(&client, to).unwrap();
            greeting(&mut stream);
            echo(&mut stream, 65_536);
            // To itself: NetworkPolicies have nothing to say, the Admin tier has.
            node.apply(&tables(&[&client]));
            let mut own = connect(&client, to).unwrap();
            assert_eq!(greeting(&mut own).0, client.link);
            echo(&mut own, 65_536);
            name(node, &client, 9);
            let both = |rest| PodSets { admin: Some(2), rest: Some(rest) };
            give(node, &client, vec![], both(3), both(1));
            assert!(is_silent(&client, to));
            give(node, &client, vec![], rest(3), rest(1));
            echo(&mut own, 4096);
            // Not allowed to the backend: not through the Service either.
            node.apply(&tables(&[&server]));
            give(node, &client, vec![], rest(3), rest(3));
            assert!(is_silent(&client, to));
            give(node, &client, vec![], rest(3), rest(1));
        }
        let stats = node.policy().stats().unwrap();
        assert_eq!((stats.faults, node.links().stats().unwrap().errors), (0, 0), "{stats:?}");
    });
}

/// Flows that were translated at the links by another version go on.
pub fn an_upgrade_keeps_translated_flows(world: &World) {
    each_way(world, |node| {
        let (client, server, other) = (node.opted_out(), node.pod(), node.pod());
        [&server, &other].into_iter().for_each(serve);
        node.apply(&tables(&[&server]));
        let mut streams: Vec<_> =
            frontends().map(|to| connect(&client, to).unwrap()).into_iter().collect();
        streams.iter_mut().for_each(|s| assert_eq!(greeting(s).0, server.link));
        node.upgrade();
        for pod in [&client, &server, &other] {
            node.repair(pod);
        }
        streams.iter_mut().for_each(|s| echo(s, 4096));
        node.apply(&tables(&[&other]));
        assert!(!node.options.bpf_dir.join("v2").exists());
        streams.iter_mut().for_each(|s| echo(s, 4096));
        assert_eq!(greeting(&mut connect(&client, frontends()[0]).unwrap()).0, other.link);
    });
}

/// A socket that was translated by another version goes on to hear the Service.
pub fn an_upgrade_keeps_sockets(world: &World) {
    const FRONTEND: &str = "10.96.0.1:53";
    let backend = UdpSocket::bind("127.0.1.1:5353").unwrap();
    let mut tables = ServiceTables::default();
    let target: (IpAddr, u16) = ("127.0.1.1".parse().unwrap(), 5353);
    add(&mut tables, (addr(FRONTEND).ip(), 53), Udp, &[target]);
    let mut lb = world.open();
    lb.apply(&tables).unwrap();
    let client = UdpSocket::bind("0.0.0.0:0").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    client.send_to(b"one", addr(FRONTEND)).unwrap();
    let (_, from) = backend.recv_from(&mut [0; 8]).unwrap();
    drop(lb);
    fs::rename(world.layout(), world.bpf_dir.join("v2")).unwrap();
    let mut lb = world.open();
    lb.apply(&tables).unwrap();
    assert!(!world.bpf_dir.join("v2").exists());
    backend.send_to(b"late", from).unwrap();
    assert_eq!(client.recv_from(&mut [0; 8]).unwrap().1, addr(FRONTEND));
}

/// Whatever is wrong with the programs at the links, sockets are translated.
pub fn refused_programs_leave_the_sockets(world: &World) {
    const BACKEND: &str = "127.0.1.1:8080";
    tcp_server(BACKEND);
    drop(world.open());
    let pin = world.layout().join("programs/from_pod");
    fs::remove_file(&pin).unwrap();
    fs::create_dir(&pin).unwrap();
    let mut lb = world.open();
    assert!(lb.pod_links().is_err() && lb.policy().is_err());
    let tables = crate::traffic::tables(&[(Tcp, "10.96.0.1:80", &[BACKEND])]);
    lb.apply(&tables).unwrap();
    assert_eq!(tcp_ask(addr("10.96.0.1:80")).unwrap().0, BACKEND);
    drop(lb);
    fs::remove_dir(&pin).unwrap();
    assert!(world.open().policy().is_ok());
}
