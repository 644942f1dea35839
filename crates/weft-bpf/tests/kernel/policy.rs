//! Policy at the pods' links: single packets through the programs.

use crate::{
    bench::{ACK, Bench, FIN, Load, RST, SYN, Talk, Way, packet},
    links::{Node, each_way, ip},
    world::World,
};
use weft_bpf::{
    EventOptions, PodSets, PodState, PolicyEntry, PolicyPod, PolicyRetire, PolicySet,
    PolicySetKind, PolicyStep, PolicyVerdict,
};
use weft_bpf_abi::{MARK_FROM_NODE, reason};
use weft_model::{
    Action::{self, Accept, Deny, Pass},
    Direction::{Egress, Ingress},
    Protocol::{self, Sctp, Tcp, Udp},
};

const FRIENDS: [&str; 2] = ["10.1.0.1", "fd01::1"];
const STRANGERS: [&str; 2] = ["10.9.0.1", "fd09::1"];
/// In a block, and in a block within it.
const WIDE: [&str; 2] = ["10.2.0.1", "fd02::1"];
const NARROW: [&str; 2] = ["10.2.7.1", "fd02:7::1"];

const FRIEND: u32 = 1;
const IN_WIDE: u32 = 2;
const IN_NARROW: u32 = 3;

/// Of rules in tests; the precedence is the same number.
const ALLOWS: u32 = 10;
const LAST: u32 = 99;

pub fn entry(
    identity: u32,
    at: Option<(Protocol, u16, u8)>,
    number: u32,
    action: Action,
) -> PolicyEntry {
    let (protocol, port, bits) = at.map_or((None, 0, 0), |(p, port, bits)| (Some(p), port, bits));
    let (precedence, reason) = (number, number);
    PolicyEntry { identity, protocol, port, bits, precedence, action, audit: false, reason }
}

pub fn set(number: u32, kind: PolicySetKind, entries: Vec<PolicyEntry>) -> PolicySet {
    let with_ports = entries.iter().filter(|e| e.protocol.is_some());
    let lengths = with_ports.fold(0, |l, e| l | 1 << e.bits);
    PolicySet { number, kind, lengths, entries }
}

/// NetworkPolicies that allow this, and nothing else.
pub fn network(number: u32, mut entries: Vec<PolicyEntry>) -> PolicySet {
    entries.push(entry(0, None, LAST, Deny));
    set(number, PolicySetKind::Network, entries)
}

pub fn ready(link: u32, ingress: PodSets, egress: PodSets) -> PolicyPod {
    PolicyPod { link, epoch: 1, state: PodState::Ready, ingress, egress }
}

pub fn rest(set: u32) -> PodSets {
    PodSets { admin: None, rest: Some(set) }
}

/// Who is who in these tests.
fn peers() -> PolicyStep {
    let one = |text: &str, identity| (text.parse().unwrap(), Some(identity));
    let moves = vec![
        one("10.1.0.1/32", FRIEND),
        one("fd01::1/128", FRIEND),
        one("10.2.0.0/16", IN_WIDE),
        one("fd02::/16", IN_WIDE),
        one("10.2.7.0/24", IN_NARROW),
        one("fd02:7::/32", IN_NARROW),
    ];
    PolicyStep { epoch: 1, moves, ..PolicyStep::default() }
}

/// The pod gets these sets (ingress, egress).
fn put(node: &Node, bench: &Bench, sets: Vec<PolicySet>, ingress: PodSets, egress: PodSets) {
    let pods = vec![ready(bench.link, ingress, egress)];
    node.policy().apply(&PolicyStep { sets, pods, ..peers() }).expect("apply");
}

/// Only friends, by TCP 80, both ways.
fn only_friends(node: &Node, bench: &Bench) {
    let to_80 = entry(FRIEND, Some((Tcp, 80, 16)), ALLOWS, Accept);
    put(node, bench, vec![network(1, vec![to_80])], rest(1), rest(1));
}

fn syn(from: u16, to: u16) -> Load {
    Load::Tcp(from, to, SYN)
}

fn on(node: &Node, play: impl Fn(&Bench, usize)) {
    for family in [0, 1] {
        play(&Bench::new(node), family);
    }
}

pub fn rules_decide(world: &World) {
    each_way(world, |node| {
        let at = |p, port, bits| Some((p, port, bits));
        on(node, |bench, family| {
            let sets = vec![
                network(
                    1,
                    vec![
                        entry(FRIEND, at(Tcp, 80, 16), 1, Accept),
                        entry(FRIEND, at(Udp, 0, 0), 2, Accept),
                        entry(IN_WIDE, at(Sctp, 8080 & !7, 13), 3, Accept),
                        entry(IN_NARROW, None, 4, Accept),
                        entry(0, at(Tcp, 443, 16), 5, Accept),
                        // Stronger than the last rule, weaker than that for everybody.
                        entry(FRIEND, at(Tcp, 443, 16), 50, Deny),
                        entry(FRIEND, at(Tcp, 4096, 4), 51, Deny),
                    ],
                ),
                set(
                    2,
                    PolicySetKind::Admin,
                    vec![
                        entry(FRIEND, at(Tcp, 1, 16), 1, Deny),
                        entry(FRIEND, at(Tcp, 2, 16), 2, Pass),
                        entry(0, at(Tcp, 3, 16), 3, Accept),
                    ],
                ),
                set(
                    3,
                    PolicySetKind::Baseline,
                    vec![
                        entry(FRIEND, at(Tcp, 2, 16), 61, Deny),
                        entry(0, at(Tcp, 5, 16), 62, Pass),
                        PolicyEntry { audit: true, ..entry(0, at(Tcp, 6, 16), 63, Deny) },
                    ],
                ),
            ];
            let both = PodSets { admin: Some(2), rest: Some(3) };
            put(node, bench, sets, both, rest(1));
            let mut port = 1000;
            let mut row = |peer: [&str; 2],
                           egress: bool,
                           load: &dyn Fn(u16) -> Load,
                           want: bool,
                           why: u32| {
                port += 1;
                let talk = bench.with(peer[family]);
                let load = load(port);
                let dropped = || {
                    let counts = node.policy().reasons().unwrap();
                    counts.iter().find(|(r, _)| *r == why).map_or(0, |(_, c)| c.dropped)
                };
                let before = dropped();
                let got = if egress { talk.out(&load) } else { talk.back(&load) };
                assert_eq!(got, want, "{} egress {egress}: {load:?}", talk.peer);
                let flows = node.policy().flows().unwrap();
                let mine = |f: &&weft_bpf::PolicyFlow| {
                    f.peer.ip() == talk.peer && (f.peer.port() == port || f.own.port() == port)
                };
                let flow = flows.iter().find(mine);
                if !want {
                    assert_eq!(flow, None, "who is denied leaves no trace: {load:?}");
                    assert!(dropped() > before, "{} egress {egress}: {load:?}", talk.peer);
                    return;
                }
                let flow = flow.unwrap_or_else(|| panic!("{load:?}"));
                assert_eq!(flow.reason, why, "{} egress {egress}: {load:?}", talk.peer);
                assert_eq!(flow.direction, if egress { Egress } else { Ingress });
            };
            let tcp = |to| move |from| syn(from, to);
            let udp = |to| move |from| Load::Udp(from, to);
            let sctp = |to| move |from| Load::Sctp(from, to, 1);
            // Identity, protocol, port and prefix.
            row(FRIENDS, true, &tcp(80), true, 1);
            row(FRIENDS, true, &tcp(81), false, LAST);
            row(FRIENDS, true, &udp(80), true, 2);
            row(FRIENDS, true, &sctp(80), false, LAST);
            row(STRANGERS, true, &tcp(80), false, LAST);
            row(WIDE, true, &sctp(8080), true, 3);
            row(WIDE, true, &sctp(8087), true, 3);
            row(WIDE, true, &sctp(8088), false, LAST);
            row(WIDE, true, &tcp(8080), false, LAST);
            row(NARROW, true, &tcp(8080), true, 4);
            row(NARROW, true, &Load::Ask, true, 4);
            row(WIDE, true, &Load::Ask, false, LAST);
            // Everybody's rule against the peer's own.
            row(STRANGERS, true, &tcp(443), true, 5);
            row(FRIENDS, true, &tcp(443), true, 5);
            row(FRIENDS, true, &tcp(5000), false, 51);
            // The Admin tier, Pass, and what is on trial.
            row(FRIENDS, false, &tcp(1), false, 1);
            row(FRIENDS, false, &tcp(2), false, 61);
            row(STRANGERS, false, &tcp(2), true, reason::UNSELECTED);
            row(STRANGERS, false, &tcp(3), true, 3);
            row(STRANGERS, false, &tcp(5), true, reason::UNSELECTED);
            row(STRANGERS, false, &tcp(6), true, 63);
            row(STRANGERS, false, &tcp(7), true, reason::UNSELECTED);
        });
        let stats = node.policy().stats().unwrap();
        assert_eq!((stats.audited, stats.faults), (2, 0), "{stats:?}");
        let counts: std::collections::BTreeMap<_, _> =
            node.policy().reasons().unwrap().into_iter().collect();
        assert_eq!(counts[&63].audited, 2);
        assert_eq!((counts[&51].denied, counts[&51].dropped), (2, 2));
    });
}

/// `10.0.0.0/8` and `::/0` are not the same, although IPv4 is v4-mapped in the maps.
pub fn families_are_apart(world: &World) {
    each_way(world, |node| {
        let bench = Bench::new(node);
        let sets = vec![network(1, vec![entry(7, None, ALLOWS, Accept)])];
        let moves = vec![("::/0".parse().unwrap(), Some(7))];
        let pods = vec![ready(bench.link, rest(1), rest(1))];
        let step = PolicyStep { epoch: 1, moves, sets, pods, ..PolicyStep::default() };
        node.policy().apply(&step).unwrap();
        assert!(bench.with(STRANGERS[1]).out(&syn(1, 80)));
        assert!(!bench.with(STRANGERS[0]).out(&syn(1, 80)));
        // Another epoch knows nobody.
        let pods = vec![PolicyPod { epoch: 2, ..ready(bench.link, rest(1), rest(1)) }];
        node.policy().apply(&PolicyStep { epoch: 2, pods, ..PolicyStep::default() }).unwrap();
        assert!(!bench.with(STRANGERS[1]).out(&syn(2, 80)));
    });
}

pub fn tcp_flows(world: &World) {
    each_way(world, |node| {
        on(node, |bench, family| {
            let (friend, stranger) = (bench.with(FRIENDS[family]), bench.with(STRANGERS[family]));
            // Nobody judges here, and flows are known all the same; but not from their middle.
            assert!(stranger.out(&syn(1, 22)) && stranger.out(&Load::Tcp(2, 22, ACK)));
            only_friends(node, bench);
            assert!(!stranger.out(&Load::Tcp(1, 22, ACK)), "it began before");
            assert!(!stranger.back(&Load::Tcp(22, 1, ACK)));
            assert!(friend.out(&syn(1, 80)) && friend.out(&syn(1, 80)));
            assert!(
                friend.back(&Load::Tcp(80, 1, SYN | ACK)) && friend.out(&Load::Tcp(1, 80, ACK))
            );
            assert!(friend.back(&Load::Tcp(80, 1, ACK)), "the answer needs no rule");
            assert!(!friend.back(&syn(80, 1)), "but what it begins itself does");
            assert!(friend.back(&Load::Tcp(80, 1, ACK)), "which ends nothing");
            for flags in [ACK, SYN | ACK, FIN | ACK, RST] {
                assert!(!friend.out(&Load::Tcp(2, 80, flags)), "{flags}: nobody began it");
                assert!(!friend.back(&Load::Tcp(3, 80, flags)));
            }
            assert!(friend.out(&Load::Tcp(1, 80, FIN | ACK)));
            assert!(
                friend.back(&Load::Tcp(80, 1, FIN | ACK)) && friend.out(&Load::Tcp(1, 80, ACK))
            );
            assert!(friend.out(&syn(1, 80)), "the same ports once more");
            // A denied beginning does not open the way for the rest.
            assert!(!friend.out(&syn(5, 81)) && !friend.out(&Load::Tcp(5, 81, ACK)));
            assert!(!friend.back(&Load::Tcp(81, 5, SYN | ACK)));
            // Both at once.
            assert!(friend.out(&syn(80, 80)) && friend.back(&syn(80, 80)));
        });
    });
}

pub fn datagrams(world: &World) {
    each_way(world, |node| {
        on(node, |bench, family| {
            let friend = bench.with(FRIENDS[family]);
            let dns = entry(FRIEND, Some((Udp, 53, 16)), ALLOWS, Accept);
            let ping = entry(FRIEND, None, ALLOWS + 1, Accept);
            put(node, bench, vec![network(1, vec![dns]), network(2, vec![ping])], rest(1), rest(1));
            assert!(friend.out(&Load::Udp(1, 53)) && friend.back(&Load::Udp(53, 1)));
            assert!(!friend.back(&Load::Udp(53, 2)), "nobody asked");
            assert!(friend.out(&Load::Udp(2, 53)), "and asking is possible all the same");
            assert!(friend.back(&Load::Udp(53, 2)));
            assert!(!friend.out(&Load::Udp(3, 54)) && !friend.out(&Load::Udp(3, 54)));
            assert!(!friend.out(&Load::Ask(6)), "no rule is about ICMP");
            put(node, bench, vec![], rest(1), rest(2));
            assert!(!friend.back(&Load::Answer(7)), "nobody asked");
            assert!(friend.out(&Load::Ask(7)) && friend.back(&Load::Answer(7)));
            assert!(!friend.back(&Load::Answer(8)) && !friend.back(&Load::Ask(7 + 2)));
            assert!(friend.out(&Load::Other(47)) && friend.back(&Load::Other(47)));
            assert!(!friend.back(&Load::Other(50)));
        });
    });
}

pub fn sctp_flows(world: &World) {
    const INIT: u8 = 1;
    const DATA: u8 = 0;
    each_way(world, |node| {
        on(node, |bench, family| {
            let friend = bench.with(FRIENDS[family]);
            let one = entry(FRIEND, Some((Sctp, 36412, 16)), ALLOWS, Accept);
            put(node, bench, vec![network(1, vec![one])], rest(1), rest(1));
            assert!(!friend.out(&Load::Sctp(1, 36412, DATA)), "nobody began it");
            assert!(friend.out(&Load::Sctp(1, 36412, INIT)));
            assert!(
                friend.back(&Load::Sctp(36412, 1, 2)) && friend.out(&Load::Sctp(1, 36412, DATA))
            );
            assert!(!friend.back(&Load::Sctp(36412, 1, INIT)));
            assert!(!friend.out(&Load::Sctp(1, 36413, INIT)));
        });
    });
}

/// A change of the rules judges every flow again by how it began, whoever sends next.
pub fn changes_cut_and_keep(world: &World) {
    each_way(world, |node| {
        on(node, |bench, family| {
            let (friend, stranger) = (bench.with(FRIENDS[family]), bench.with(STRANGERS[family]));
            put(node, bench, vec![], PodSets::default(), PodSets::default());
            let open = |talk: &Talk<'_>, port| {
                assert!(talk.out(&syn(port, 80)) && talk.back(&Load::Tcp(80, port, SYN | ACK)));
                assert!(talk.back(&syn(port, 80)) && talk.out(&Load::Tcp(80, port, SYN | ACK)));
                assert!(talk.out(&Load::Udp(port, 80)) && talk.back(&Load::Udp(80, port)));
            };
            for port in [1, 2, 3, 4] {
                open(&friend, port);
                open(&stranger, port);
            }
            let before = node.policy().stats().unwrap();
            only_friends(node, bench);
            // Kept, whoever sends next.
            assert!(friend.out(&Load::Tcp(1, 80, ACK)) && friend.back(&Load::Tcp(80, 2, ACK)));
            assert!(friend.back(&Load::Tcp(1, 80, ACK)) && friend.out(&Load::Tcp(80, 2, ACK)));
            // Cut, whoever sends next, and for both.
            assert!(
                !stranger.out(&Load::Tcp(1, 80, ACK)) && !stranger.back(&Load::Tcp(80, 1, ACK))
            );
            assert!(
                !stranger.back(&Load::Tcp(80, 2, ACK)) && !stranger.out(&Load::Tcp(2, 80, ACK))
            );
            assert!(
                !stranger.out(&Load::Tcp(80, 3, ACK)) && !stranger.back(&Load::Tcp(3, 80, ACK))
            );
            assert!(!friend.back(&Load::Udp(80, 1)) && !friend.out(&Load::Udp(1, 80)));
            let flows = node.policy().flows().unwrap();
            let cut = flows.iter().filter(|f| f.link == bench.link && f.marks.cut);
            assert!(cut.clone().all(|f| f.verdict == PolicyVerdict::Denied && f.reason == LAST));
            assert_eq!(cut.count(), 4);
            let stats = node.policy().stats().unwrap();
            assert_eq!((stats.cut - before.cut, stats.rejudged - before.rejudged), (4, 8));
            assert_eq!(stats.tombstones - before.tombstones, 4);
            // What the rules ended goes on where they allow it again.
            put(node, bench, vec![], PodSets::default(), PodSets::default());
            assert!(stranger.back(&Load::Tcp(80, 1, ACK)) && stranger.out(&Load::Tcp(1, 80, ACK)));
            assert!(friend.out(&Load::Udp(1, 80)) && friend.back(&Load::Udp(80, 1)));
        });
    });
}

/// A flow that was cut does not come back as one that the other side begins.
pub fn tombstones_hold(world: &World) {
    each_way(world, |node| {
        on(node, |bench, family| {
            let friend = bench.with(FRIENDS[family]);
            let out = set(5, PolicySetKind::Baseline, vec![]);
            put(node, bench, vec![out, network(6, vec![])], rest(5), rest(5));
            assert!(friend.back(&Load::Udp(9, 9)) && friend.out(&Load::Udp(9, 9)));
            put(node, bench, vec![], rest(6), rest(5));
            assert!(
                !friend.out(&Load::Udp(9, 9)),
                "the pod's answer is of the flow that is denied"
            );
            assert!(!friend.out(&Load::Udp(9, 9)) && !friend.back(&Load::Udp(9, 9)));
            // A denied beginning is no such flow: the pod may begin.
            assert!(!friend.back(&Load::Udp(10, 10)) && friend.out(&Load::Udp(10, 10)));
            assert!(friend.back(&Load::Udp(10, 10)));
            // TCP begins anew with SYN.
            assert!(!friend.back(&syn(11, 11)) && friend.out(&syn(11, 11)));
            assert!(friend.back(&Load::Tcp(11, 11, SYN | ACK)));
        });
    });
}

pub fn errors_follow_their_flow(world: &World) {
    each_way(world, |node| {
        on(node, |bench, family| {
            let (friend, stranger) = (bench.with(FRIENDS[family]), bench.with(STRANGERS[family]));
            only_friends(node, bench);
            let about = |src, dst, load: &Load| Load::Error(packet(src, dst, load, &Way::Plain));
            let (own, peer) = (friend.own, friend.peer);
            let sent = about(own, peer, &syn(1, 80));
            assert!(!friend.back(&sent), "about nothing known");
            assert!(friend.out(&syn(1, 80)));
            assert!(friend.back(&sent) && stranger.back(&sent), "also from a router");
            assert!(!friend.back(&about(own, peer, &syn(2, 80))));
            let got = about(peer, own, &Load::Tcp(80, 1, ACK));
            assert!(friend.out(&got));
            assert!(!stranger.out(&got), "only to who has sent what it is about");
            assert!(!friend.out(&syn(3, 81)) && !friend.back(&about(own, peer, &syn(3, 81))));
            // One that quotes a message with options.
            let quoted = packet(own, peer, &syn(1, 80), &Way::Headers(1));
            assert_eq!(friend.back(&Load::Error(quoted)), family == 0, "headers are not walked");
        });
    });
}

pub fn fragments_and_headers(world: &World) {
    each_way(world, |node| {
        on(node, |bench, family| {
            let friend = bench.with(FRIENDS[family]);
            let one = entry(FRIEND, Some((Udp, 80, 16)), ALLOWS, Accept);
            let tcp = entry(FRIEND, Some((Tcp, 80, 16)), ALLOWS, Accept);
            put(node, bench, vec![network(1, vec![one, tcp])], rest(1), rest(1));
            let (good, bad) = (Load::Udp(1, 80), Load::Udp(1, 81));
            let part = |id, offset, more| Way::Fragment(id, offset, more);
            assert!(!friend.out_by(&good, &part(1, 5, false)), "before the first one");
            assert!(friend.out_by(&good, &part(2, 0, true)));
            assert!(
                friend.out_by(&good, &part(2, 5, true)) && friend.out_by(&good, &part(2, 9, false))
            );
            assert!(
                !friend.out_by(&bad, &part(3, 0, true)) && !friend.out_by(&bad, &part(3, 5, false))
            );
            assert!(friend.back_by(&Load::Udp(80, 1), &part(2, 0, true)), "an answer");
            assert!(friend.back_by(&Load::Udp(80, 1), &part(2, 5, false)));
            assert!(!friend.back_by(&Load::Udp(80, 1), &part(4, 5, false)));
            // The first one is too short for its ports.
            assert!(!friend.out_by(&good, &Way::Short(2)));
            assert!(!friend.out_by(&syn(1, 80), &Way::Short(12)), "no flags");
            // Options and extension headers hide nothing.
            for count in [1, 2, 5] {
                let way = Way::Headers(count);
                assert!(friend.out_by(&syn(100 + u16::from(count), 80), &way), "{count}");
                assert!(!friend.out_by(&syn(100 + u16::from(count), 81), &way), "{count}");
            }
            let v6 = family == 1;
            assert!(!v6 || !friend.out_by(&syn(120, 80), &Way::Headers(7)), "too many");
            let stats = node.policy().stats().unwrap();
            assert!(stats.unreadable >= 2 && stats.no_flow >= 2, "{stats:?}");
            // Where no rule is, none of this is looked at.
            put(node, bench, vec![], PodSets::default(), PodSets::default());
            assert!(
                friend.out_by(&good, &part(9, 5, false)) && friend.out_by(&good, &Way::Short(2))
            );
        });
    });
}

pub fn nobody_has_judged(world: &World) {
    each_way(world, |node| {
        on(node, |bench, family| {
            let friend = bench.with(FRIENDS[family]);
            let router = bench.with(crate::links::ROUTERS[family]);
            node.policy().put_pods(&[PolicyPod::unknown(bench.link)]).unwrap();
            assert!(!friend.out(&syn(1, 80)) && !friend.back(&syn(1, 80)));
            assert!(!friend.out(&Load::Udp(1, 53)) && !friend.back(&Load::Tcp(1, 1, ACK)));
            assert!(!friend.out_by(&Load::Udp(1, 53), &Way::Fragment(1, 4, false)));
            assert!(!friend.out_by(&Load::Udp(1, 53), &Way::Short(1)));
            assert!(router.marked(&syn(7, 80), MARK_FROM_NODE), "a probe");
            assert!(router.out(&Load::Tcp(80, 7, SYN | ACK)), "and its answer");
            assert!(!router.back(&syn(8, 80)), "not by the address");
            if family == 1 {
                let near =
                    packet(bench.ips[1], ip("fe80::1"), &Load::Message(135, 255), &Way::Plain);
                assert!(bench.sends(&near), "neighbour discovery");
                let far =
                    packet(bench.ips[1], ip("fd01::1"), &Load::Message(135, 255), &Way::Plain);
                assert!(!bench.sends(&far), "which stays on the link");
                let solicited =
                    packet(ip("fe80::1"), bench.ips[1], &Load::Message(135, 255), &Way::Plain);
                assert!(bench.gets(&solicited, 0));
                let routed =
                    packet(ip("fd01::1"), bench.ips[1], &Load::Message(135, 64), &Way::Plain);
                assert!(!bench.gets(&routed, 0), "and was not routed");
            }
            let flows = node.policy().flows().unwrap();
            let mine: Vec<_> = flows.iter().filter(|f| f.link == bench.link).collect();
            assert!(mine.iter().all(|f| f.marks.from_node), "nothing stays of that time: {mine:?}");
            only_friends(node, bench);
            assert!(friend.out(&syn(1, 80)) && friend.back(&syn(1, 80)));
            assert!(router.out(&Load::Tcp(80, 7, ACK)), "the probe goes on");
        });
        assert!(node.policy().stats().unwrap().unknown >= 12);
    });
}

pub fn own_node(world: &World) {
    each_way(world, |node| {
        on(node, |bench, family| {
            let router = bench.with(crate::links::ROUTERS[family]);
            put(node, bench, vec![network(1, vec![])], rest(1), rest(1));
            let mark = MARK_FROM_NODE | 0x4000;
            assert!(!router.back(&syn(1, 80)) && router.marked(&syn(1, 80), mark), "the mark");
            assert!(
                router.out(&Load::Tcp(80, 1, SYN | ACK))
                    && router.marked(&Load::Tcp(1, 80, ACK), mark)
            );
            assert!(!router.back(&Load::Tcp(1, 80, ACK)), "others with that address");
            assert!(router.marked(&Load::Tcp(1, 80, ACK), mark), "change nothing");
            assert!(router.marked(&Load::Udp(1, 80), mark) && router.out(&Load::Udp(80, 1)));
            assert!(!router.out(&syn(9, 80)), "what the pod begins has rules");
            // A pod cannot send the mark: the kernel clears it, and nobody reads it there.
            assert!(!bench.sends(&packet(router.own, router.peer, &syn(10, 80), &Way::Plain)));
            node.policy().bump().unwrap();
            assert!(router.out(&Load::Tcp(80, 1, ACK)), "after a change also");
            let flows = node.policy().flows().unwrap();
            let own = flows.iter().filter(|f| f.marks.from_node && f.link == bench.link);
            assert!(own.clone().all(|f| f.reason == reason::OWN_NODE) && own.count() == 2);
        });
    });
}

pub fn a_restart_changes_no_verdict(world: &World) {
    each_way(world, |node| {
        let mut bench = Bench::new(node);
        only_friends(node, &bench);
        let (mut friend, mut stranger) = (bench.with(FRIENDS[0]), bench.with(STRANGERS[0]));
        assert!(friend.out(&syn(1, 80)) && !stranger.out(&syn(1, 80)));
        let before = node.policy().observe().unwrap();
        assert_eq!((before.epoch_max, before.set_max, before.generation), (1, 1, 1));
        assert_eq!((&before.epochs[..], &before.sets[..]), (&[1][..], &[1][..]));
        assert_eq!(before.pods, [ready(bench.link, rest(1), rest(1))]);
        let stats = node.policy().stats().unwrap();
        node.restart();
        bench.renew();
        (friend, stranger) = (bench.with(FRIENDS[0]), bench.with(STRANGERS[0]));
        assert_eq!(node.policy().observe().unwrap(), before);
        assert!(friend.out(&Load::Tcp(1, 80, ACK)) && !stranger.out(&Load::Tcp(1, 80, ACK)));
        assert_eq!(node.policy().stats().unwrap().rejudged, stats.rejudged, "nor judges again");
        // What nobody needs goes; a pod without a value passes everything.
        let gone = PolicyRetire {
            epochs: vec![1],
            sets: vec![1],
            pods: vec![bench.link],
            ..PolicyRetire::default()
        };
        node.policy().retire(&gone).unwrap();
        node.policy().bump().unwrap();
        let after = node.policy().observe().unwrap();
        assert_eq!((after.epoch_max, after.set_max, after.pods.len()), (0, 0, 0));
        assert!(stranger.out(&syn(2, 80)));
    });
}

/// Where flows push each other out, those that talk stay.
pub fn flows_under_pressure(world: &World) {
    each_way(world, |node| {
        let bench = Bench::new(node);
        let anybody = set(1, PolicySetKind::Baseline, vec![]);
        put(node, &bench, vec![anybody], rest(1), rest(1));
        let friend = bench.with(FRIENDS[0]);
        assert!(friend.out(&syn(1, 80)) && friend.back(&Load::Tcp(80, 1, SYN | ACK)));
        for port in 2..20_000 {
            assert!(friend.out(&syn(port, 80)));
            if port % 50 == 0 {
                assert!(friend.out(&Load::Tcp(1, 80, ACK)), "pushed out by {port}");
            }
        }
        assert!(node.policy().flows().unwrap().len() <= 1024);
        assert!(node.policy().stats().unwrap().flows >= 19_999);
    });
}

pub fn tables_grow(world: &World) {
    each_way(world, |node| {
        let mut options = node.options.clone();
        options.sizes = weft_bpf::MapSizes { rules: 8, peers: 8, sets: 2, ..options.sizes };
        options.bpf_dir = options.bpf_dir.with_file_name("small");
        node.replace(options);
        let mut bench = Bench::new(node);
        let port = |n: u16| entry(FRIEND, Some((Tcp, n, 16)), u32::from(n), Accept);
        let sets = (1..20).map(|n| network(n, (1..100).map(port).collect())).collect();
        let hosts = (0..3000u32).map(|n| {
            let ip = std::net::Ipv4Addr::from(0x0a01_0001 + n);
            (ipnet::IpNet::from(std::net::IpAddr::from(ip)), Some(FRIEND))
        });
        let step = PolicyStep {
            moves: hosts.collect(),
            sets,
            pods: vec![ready(bench.link, rest(19), rest(19))],
            ..peers()
        };
        node.policy().apply(&step).expect("apply");
        bench.renew();
        let far = bench.with("10.1.11.100");
        assert!(far.out(&syn(1, 98)), "{:?}", node.policy().flows());
        assert!(!far.out(&syn(1, 100)), "{:?}", node.policy().flows());
        bench.call(node, &bench.ips.clone());
        // Moved, and gone.
        let to = |identity| vec![("10.1.11.100/32".parse().unwrap(), identity)];
        for (identity, port) in [(Some(9), 2), (None, 3)] {
            node.policy().move_peers(1, &to(identity)).unwrap();
            node.policy().bump().unwrap();
            assert!(!far.out(&syn(port, 98)), "{identity:?}");
            assert!(!far.out(&Load::Tcp(1, 98, ACK)), "its flows also");
        }
    });
}

pub fn events_tell(world: &World) {
    each_way(world, |node| {
        let bench = Bench::new(node);
        only_friends(node, &bench);
        let (friend, stranger) = (bench.with(FRIENDS[1]), bench.with(STRANGERS[0]));
        let mut verdicts = node.policy().verdicts().unwrap();
        assert!(friend.out(&syn(1, 80)));
        assert!(verdicts.read(10).events.is_empty(), "nobody wants them yet");
        let all = EventOptions { allowed_every: 1, denied: true, rate_per_s: 1, burst: 3 };
        node.policy().configure_events(&all).unwrap();
        assert!(friend.out(&syn(2, 80)) && friend.out(&Load::Tcp(2, 80, ACK)));
        assert!(!stranger.back(&syn(3, 80)) && !stranger.back(&syn(3, 80)));
        assert!(verdicts.wait(std::time::Duration::from_secs(5)).unwrap());
        let batch = verdicts.read(10);
        assert_eq!((batch.events.len(), batch.odd), (3, 0), "a flow is told once: {batch:?}");
        let [allowed, denied, _again] = batch.events[..] else { panic!() };
        assert_eq!((allowed.verdict, allowed.reason), (PolicyVerdict::Allowed, ALLOWS));
        assert_eq!((allowed.direction, allowed.protocol, allowed.link), (Egress, 6, bench.link));
        assert_eq!((allowed.own, allowed.peer), ((friend.own, 2).into(), (friend.peer, 80).into()));
        assert_eq!((denied.verdict, denied.reason), (PolicyVerdict::Denied, LAST));
        assert_eq!((denied.direction, denied.generation), (Ingress, 1));
        assert_eq!(
            (denied.own, denied.peer),
            ((stranger.own, 80).into(), (stranger.peer, 3).into())
        );
        // Too many a second.
        for port in 10..110 {
            stranger.back(&syn(port, 80));
        }
        let told = verdicts.read(1000).events.len();
        let stats = node.policy().stats().unwrap();
        // Each CPU has a bucket of its own.
        assert!((1..=12).contains(&told), "{told}");
        assert_eq!(stats.events + stats.events_limited, 103, "{stats:?}");
        // Nobody reads: what does not fit is lost, and counted.
        let flood = EventOptions { rate_per_s: u32::MAX, burst: u32::MAX, ..all };
        node.policy().configure_events(&flood).unwrap();
        for port in 200..5200 {
            stranger.back(&syn(port, 80));
        }
        let mut read = 0;
        while let more @ 1.. = verdicts.read(64).events.len() {
            read += more as u64;
        }
        let after = node.policy().stats().unwrap();
        assert!(after.events_lost > 0 && read > 1000, "{after:?} {read}");
        assert_eq!(after.events - stats.events, read, "{after:?}");
        // Until the clock has gone on, the old bucket holds.
        let limited = after.events_limited - stats.events_limited;
        assert_eq!(read + after.events_lost + limited, 5000);
        // One of some.
        node.policy()
            .configure_events(&EventOptions { allowed_every: 4, denied: false, ..flood })
            .unwrap();
        for port in 1000..2000 {
            assert!(friend.out(&syn(port, 80)) && !stranger.out(&syn(port, 80)));
        }
        let read: usize = std::iter::from_fn(|| Some(verdicts.read(100).events.len()))
            .take_while(|n| *n > 0)
            .sum();
        assert!((150..350).contains(&read), "{read} of 1000");
    });
}
