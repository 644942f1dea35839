//! SCTP through entrances: associations of packets that are made here by hand (RFC 9260), since
//! a kernel may have no SCTP sockets and still translates.

use super::{
    entrances::{FAR, NEAR, NODE, PORT, TARGET, World, forward, raw, rules, target},
    *,
};
use netfilter::{Entrance, Fate, Nat, Table, Targets};
use std::sync::mpsc;

const SCTP: u8 = 132;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
/// Verification tags of both sides.
const TAGS: [u32; 2] = [0x0102_0304, 0x0506_0708];

/// Castagnoli's polynomial, reflected (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

/// A packet with one chunk.
fn packet(from: u16, to: u16, tag: u32, chunk: u8) -> Vec<u8> {
    let mut p = [from.to_be_bytes(), to.to_be_bytes()].concat();
    p.extend(tag.to_be_bytes());
    p.extend([0; 4]);
    let body: Vec<u8> = match chunk {
        // Own tag, window, streams out and in, first number.
        INIT | INIT_ACK => {
            let own = TAGS[usize::from(chunk == INIT_ACK)];
            let window = 65_536u32;
            let mut body = [own, window].map(u32::to_be_bytes).concat();
            body.extend([0, 1, 0, 1, 0, 0, 0, 1]);
            if chunk == INIT_ACK {
                body.extend([0, 7, 0, 8, 1, 2, 3, 4]); // the cookie, a parameter
            }
            body
        }
        COOKIE_ECHO => vec![1, 2, 3, 4],
        _ => Vec::new(),
    };
    p.extend([chunk, 0]);
    p.extend((body.len() as u16 + 4).to_be_bytes());
    p.extend(body);
    let sum = crc32c(&p).to_le_bytes();
    p[8..12].copy_from_slice(&sum);
    p
}

/// What a packet says: ports, tag, chunk. Its checksum must be right.
fn parse(p: &[u8]) -> (u16, u16, u32, u8) {
    let mut zeroed = p.to_vec();
    zeroed[8..12].fill(0);
    assert_eq!(p[8..12], crc32c(&zeroed).to_le_bytes(), "checksum of {p:?}");
    let number = |at: usize| u16::from_be_bytes([p[at], p[at + 1]]);
    let tag = u32::from_be_bytes([p[4], p[5], p[6], p[7]]);
    (number(0), number(2), tag, p[12])
}

/// Answers associations in `ns` until the test ends; tells who asked.
fn serve(ns: &Namespace, v4: bool) -> mpsc::Receiver<IpAddr> {
    let socket = raw(ns, v4, SCTP);
    let (told, asked) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 256];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let (port, to, tag, chunk) = parse(payload(&buffer[..n], v4));
            let answer = match (to, chunk) {
                (TARGET, INIT) => packet(to, port, TAGS[0], INIT_ACK),
                (TARGET, COOKIE_ECHO) if tag == TAGS[1] => {
                    let _ = told.send(from.ip());
                    packet(to, port, TAGS[0], COOKIE_ACK)
                }
                _ => continue,
            };
            let _ = socket.send_to(&answer, from);
        }
    });
    asked
}

/// A raw socket of IPv4 gives the IP header, too.
fn payload(bytes: &[u8], v4: bool) -> &[u8] {
    if v4 { &bytes[4 * usize::from(bytes[0] & 15)..] } else { bytes }
}

/// Makes an association with `to` and the port of entrances.
fn associate(ns: &Namespace, to: IpAddr) -> Result<(), ErrorKind> {
    static CLIENT: AtomicU32 = AtomicU32::new(40_000);
    let client = CLIENT.fetch_add(1, Ordering::Relaxed) as u16;
    let socket = raw(ns, to.is_ipv4(), SCTP);
    netns::run_in(&ns.path, || socket.connect((to, 0))).expect("entered").expect("connect");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("timeout");
    let exchange = |tag: u32, chunk: u8, wanted: u8| {
        let mut last = ErrorKind::TimedOut;
        let mut buffer = [0; 256];
        // Neighbours that are not found in time lose a packet; what is sent again is nothing new.
        for _ in 0..6 {
            let sent = socket.send(&packet(client, PORT, tag, chunk));
            match sent.and_then(|_| socket.recv(&mut buffer)) {
                Ok(n) => {
                    let said = parse(payload(&buffer[..n], to.is_ipv4()));
                    if said == (PORT, client, TAGS[0], wanted) {
                        return Ok(());
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => last = ErrorKind::TimedOut,
                Err(e) => return Err(e.kind()),
            }
        }
        Err(last)
    };
    exchange(0, INIT, INIT_ACK)?;
    exchange(TAGS[1], COOKIE_ECHO, COOKIE_ACK)
}

/// An address that leads to the node and is not its own, and one of a Service.
const BALANCER: [&str; 2] = ["198.51.100.7", "2001:db8:7::7"];
const CLUSTER: [&str; 2] = ["10.96.0.9", "fd00:10:96::9"];

fn nat(v: usize, to: &[&str], fate: Fate) -> Nat {
    let mut nat = Nat::default();
    for addr in [NODE[v], BALANCER[v], CLUSTER[v]] {
        let at = Entrance { addr: ip(addr), port: PORT, protocol: SCTP };
        nat.entrances.insert(at, fate.clone());
    }
    let all = to.iter().map(|t| target(t, TARGET)).collect();
    nat.groups.insert(1, Targets { protocol: SCTP, all, by_client: false });
    nat
}

#[test]
fn associations_go_through_entrances() {
    if !is_root("associations_go_through_entrances") {
        return;
    }
    let world = World::new();
    let mut table = Table::new();
    world.on_node(|| table.set_rules(&rules()).expect("table"));
    for v in [0, 1] {
        let (node, router) = (ip(NODE[v]), ip(["10.7.1.1", "fd07:1::1"][v]));
        let client = ip(["192.0.2.9", "fd02::9"][v]);
        // Where the target is, who asks at which address, and whom the target sees.
        let near = [
            (&world.client, NODE[v], client),
            (&world.client, BALANCER[v], client),
            (&world.far, NODE[v], ip(FAR[v])),
            (&world.near, NODE[v], router),
            (&world.node, CLUSTER[v], node),
        ];
        let far = [
            (&world.client, NODE[v], router),
            (&world.client, BALANCER[v], router),
            (&world.near, BALANCER[v], router),
            (&world.node, NODE[v], router),
            (&world.node, CLUSTER[v], router),
        ];
        for (ns, to, cases) in [(&world.near, NEAR[v], near), (&world.far, FAR[v], far)] {
            world.on_node(|| table.set_nat(nat(v, &[to], forward(1))).expect("change"));
            let asked = serve(ns, v == 0);
            for (client, at, seen) in cases {
                let what = format!("{} at {at} to {to}", client.name);
                assert_eq!(associate(client, ip(at)), Ok(()), "{what}");
                assert_eq!(asked.try_recv(), Ok(seen), "{what}");
                asked.try_iter().for_each(drop);
            }
        }
        // The error names the packet as the client sent it.
        world.on_node(|| table.set_nat(nat(v, &[], Fate::Refuse)).expect("change"));
        for (ns, at) in [(&world.client, NODE[v]), (&world.node, CLUSTER[v])] {
            let refused = associate(ns, ip(at));
            assert_eq!(refused, Err(ErrorKind::ConnectionRefused), "{} at {at}", ns.name);
        }
        world.on_node(|| table.set_nat(nat(v, &[], Fate::Drop)).expect("change"));
        assert_eq!(associate(&world.client, node), Err(ErrorKind::TimedOut));
    }
}

/// Where this fails because the kernel has SCTP, test with its sockets as well.
#[test]
fn the_kernel_has_no_sctp_sockets() {
    // SAFETY: no memory is passed; the result is looked at.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP) };
    let error = std::io::Error::last_os_error();
    if socket < 0 {
        assert_eq!(error.raw_os_error(), Some(libc::EPROTONOSUPPORT), "{error}");
    } else {
        // SAFETY: it is open, and nobody else has it.
        drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(socket) });
        println!("SCTP sockets exist: associations are still tested by hand-made packets");
    }
}
