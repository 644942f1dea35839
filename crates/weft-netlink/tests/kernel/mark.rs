//! The mark of the node's own packets: another table lets through what bears it.

use super::{entrances::*, *};
use std::process::Command;

const PORT: u16 = 9000;

/// Whether an answer came from there.
fn ask(ns: &Namespace, to: &str) -> bool {
    let to = SocketAddr::new(ip(to), PORT);
    let asked = || {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        socket.connect(to)?;
        socket.send(b"x")?;
        socket.recv(&mut [0; 8])
    };
    netns::run_in(&ns.path, asked).expect("entered").is_ok()
}

#[test]
fn what_the_node_sends_is_marked_and_what_it_forwards_is_not() {
    const NAME: &str = "what_the_node_sends_is_marked_and_what_it_forwards_is_not";
    if !is_root(NAME) {
        return;
    }
    if Command::new("nft").arg("--version").output().is_err() {
        println!("SKIP {NAME}: needs nft");
        return;
    }
    let world = World::new();
    let nft = |words: &str| {
        let run = || Command::new("nft").args(words.split(' ')).output().expect("nft");
        let out = world.on_node(run);
        assert!(out.status.success(), "{words}: {}", String::from_utf8_lossy(&out.stderr));
    };
    let listen = || NEAR.map(|address| UdpSocket::bind((address, PORT)).expect("bind"));
    for socket in netns::run_in(&world.near.path, listen).expect("entered") {
        std::thread::spawn(move || {
            while let Ok((_, from)) = socket.recv_from(&mut [0; 8]) {
                let _ = socket.send_to(b"x", from);
            }
        });
    }
    let mut table = netfilter::Table::new();
    let mut set_rules = || world.on_node(|| table.set_rules(&rules()).expect("table").whole);
    assert!(set_rules());
    let reach = || NEAR.map(|to| [&world.node, &world.client].map(|from| ask(from, to)));
    assert_eq!(reach(), [[true; 2]; 2], "nobody asks for marks yet");

    nft("add table inet probe");
    nft("add chain inet probe post { type filter hook postrouting priority 300 ; }");
    nft("add rule inet probe post oifname wv0 meta mark and 0x8000000 != 0x8000000 drop");
    assert_eq!(reach(), [[true, false]; 2]);

    // Other bits stay others', and one who sets all of them does not take ours.
    nft("add table inet others");
    nft("add chain inet others out { type route hook output priority mangle ; }");
    nft("add rule inet others out meta mark set 0x5");
    nft("flush chain inet probe post");
    nft("add rule inet probe post oifname wv0 meta mark != 0x8000005 drop");
    assert_eq!(reach(), [[true, false]; 2]);

    nft("flush chain inet weft mark-output");
    assert_eq!(reach(), [[false; 2]; 2]);
    assert!(set_rules(), "somebody took it away");
    assert_eq!(reach(), [[true, false]; 2]);
}
