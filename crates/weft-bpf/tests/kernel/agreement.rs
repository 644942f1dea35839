//! The programs agree with the tables' own look-up, flow by flow, on generated clusters.

use crate::{
    bench::{Bench, Load, SYN, Way, packet},
    links::{Node, each_way},
    semantics::{Cluster, Entropy},
    world::World,
};
use std::{collections::BTreeMap, net::IpAddr};
use weft_bpf::{
    EventOptions, PodSets, PodState, PolicyEntry, PolicyPod, PolicyRetire, PolicySet,
    PolicySetKind, PolicyStep, PolicyVerdict, Verdicts,
};
use weft_bpf_abi::{MARK_FROM_NODE, reason};
use weft_model::{Direction, NamespacedName, Protocol};
use weft_policy::{
    Evaluator, Hooks, Owner, Packet, PolicyTables, Reason, SetKind, Transport, compile,
};

const CLUSTERS: u32 = 24;
/// Bytes of randomness a cluster is made of.
const ENTROPY: usize = 600;

/// The whole tables, in the kernel's terms.
fn whole(tables: &PolicyTables, epoch: u32, base: u32) -> PolicyStep {
    let kind = |kind| match kind {
        SetKind::Admin => PolicySetKind::Admin,
        SetKind::Network => PolicySetKind::Network,
        SetKind::Baseline => PolicySetKind::Baseline,
    };
    let sets = tables.sets.iter().map(|(number, set)| PolicySet {
        number: base + number.0,
        kind: kind(set.kind),
        lengths: set.lengths,
        entries: set
            .entries
            .iter()
            .map(|(key, entry)| PolicyEntry {
                identity: key.identity.0,
                protocol: key.protocol,
                port: key.ports.port,
                bits: key.ports.bits,
                precedence: entry.precedence,
                action: entry.action,
                audit: entry.audit,
                reason: entry.reason,
            })
            .collect(),
    });
    let moves = tables.prefixes.iter().map(|(prefix, identity)| (*prefix, Some(identity.0)));
    let (moves, sets) = (moves.collect(), sets.collect());
    PolicyStep { epoch, moves, sets, ..PolicyStep::default() }
}

fn hooks(hooks: Hooks, base: u32) -> PodSets {
    let number = |set: Option<weft_policy::SetId>| set.map(|s| base + s.0);
    PodSets { admin: number(hooks.admin), rest: number(hooks.rest) }
}

/// One side of a flow.
struct Case<'a> {
    packet: Packet<'a>,
    own: IpAddr,
}

struct Play<'a> {
    node: &'a Node,
    bench: &'a Bench,
    verdicts: Verdicts,
    /// Makes each packet the first one of a flow.
    port: u16,
    cases: u64,
    seen: BTreeMap<PolicyVerdict, u64>,
}

impl Play<'_> {
    fn load(&mut self, transport: Transport) -> Load {
        self.port = self.port.checked_add(1).unwrap_or(1);
        let from = self.port;
        match transport {
            Transport::Port(Protocol::Tcp, to) => Load::Tcp(from, to.get(), SYN),
            Transport::Port(Protocol::Udp, to) => Load::Udp(from, to.get()),
            Transport::Port(Protocol::Sctp, to) => Load::Sctp(from, to.get(), 1),
            Transport::Other => Load::Ask(from),
        }
    }

    fn check(&mut self, tables: &PolicyTables, case: &Case<'_>) {
        let expected = tables.interpret(&case.packet).expect("a pod of this node");
        let load = self.load(case.packet.transport);
        let (own, peer) = (case.own, case.packet.peer);
        let passed = if case.packet.direction == Direction::Egress {
            self.bench.sends(&packet(own, peer, &load, &Way::Plain))
        } else {
            let mark = if case.packet.from_this_node { MARK_FROM_NODE } else { 0 };
            self.bench.gets(&packet(peer, own, &load, &Way::Plain), mark)
        };
        assert_eq!(passed, expected.allowed, "{:?} {load:?}: {expected}", case.packet);
        let batch = self.verdicts.read(16);
        let [event] = batch.events[..] else { panic!("{:?}: {batch:?}", case.packet) };
        let verdict = match (expected.allowed, expected.audit) {
            (true, false) => PolicyVerdict::Allowed,
            (true, true) => PolicyVerdict::Audited,
            (false, _) => PolicyVerdict::Denied,
        };
        let told = match event.reason {
            reason::UNSELECTED => Reason::Unselected,
            reason::ITSELF => Reason::Itself,
            reason::OWN_NODE => Reason::OwnNode,
            number => tables.reasons.get(number).expect("a number of the tables").clone(),
        };
        assert_eq!((event.verdict, &told), (verdict, &expected.reason), "{:?}", case.packet);
        let last = event.passed.and_then(|n| tables.reasons.get(n).cloned());
        let wanted = expected.passed.last().map(|rule| Reason::Rule(rule.clone()));
        assert_eq!(last, wanted, "{:?}: {expected}", case.packet);
        *self.seen.entry(verdict).or_default() += 1;
        self.cases += 1;
    }
}

pub fn with_the_tables(world: &World) {
    each_way(world, |node| {
        let bench = Bench::new(node);
        // Addresses of Services are others' here.
        node.links().configure(&[], &[]).unwrap();
        let all = EventOptions {
            allowed_every: 1,
            denied: true,
            rate_per_s: 1_000_000_000,
            burst: 1_000_000_000,
        };
        node.policy().configure_events(&all).unwrap();
        let verdicts = node.policy().verdicts().unwrap();
        let (port, cases, seen) = (0, 0, BTreeMap::new());
        let mut play = Play { node, bench: &bench, verdicts, port, cases, seen };
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for n in 1..=CLUSTERS {
            let bytes: Vec<u8> = (0..ENTROPY)
                .map(|_| {
                    random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                    (random >> 33) as u8
                })
                .collect();
            one_cluster(&mut play, &Cluster::generate(&mut Entropy::new(&bytes)), n);
        }
        println!("{} cases: {:?}", play.cases, play.seen);
        assert!(play.cases > 5000, "{}", play.cases);
        assert!(play.seen.len() == 3 && play.seen.values().all(|n| *n > 100), "{:?}", play.seen);
        assert_eq!(node.policy().stats().unwrap().faults, 0);
    });
}

fn one_cluster(play: &mut Play<'_>, cluster: &Cluster, n: u32) {
    let input = cluster.input();
    let evaluator = Evaluator::new(&input);
    let flows = cluster.flows();
    for (index, name) in input.nodes.keys().enumerate() {
        let tables = compile(&input, name);
        let epoch = n * 2 + index as u32;
        let base = epoch * 10_000;
        play.node.policy().apply(&whole(&tables, epoch, base)).expect("apply");
        let mut by_pod: BTreeMap<(&NamespacedName, IpAddr), Vec<Case<'_>>> = BTreeMap::new();
        for flow in &flows {
            let owner = |a| evaluator.world().owner(a);
            let (source, destination) = (owner(flow.source), owner(flow.destination));
            let itself = match (source, destination) {
                (Owner::Pod(a), Owner::Pod(b)) => a.id == b.id && flow.from_node.is_none(),
                _ => false,
            };
            // Through a Service to itself needs one: see the tests with real sockets. Two
            // addresses of one pod are of two families, or the kernel's own business.
            if itself && (flow.through_service || flow.source != flow.destination) {
                continue;
            }
            let ends = [
                (source, flow.source, flow.destination, Direction::Egress),
                (destination, flow.destination, flow.source, Direction::Ingress),
            ];
            for (end, own, peer, direction) in ends {
                let Owner::Pod(pod) = end else { continue };
                let from_node = flow.from_node.is_some() && direction == Direction::Egress;
                if pod.node.as_ref() != Some(name) || from_node {
                    continue;
                }
                let packet = Packet {
                    pod: &pod.id,
                    direction,
                    peer,
                    transport: flow.transport,
                    itself,
                    through_service: flow.through_service,
                    from_this_node: flow.from_node.as_ref() == Some(name),
                };
                by_pod.entry((&pod.id, own)).or_default().push(Case { packet, own });
            }
        }
        for ((pod, own), cases) in by_pod {
            play.bench.call(play.node, &[own]);
            let [ingress, egress] = tables.pods[pod].map(|h| hooks(h, base));
            let (link, state) = (play.bench.link, PodState::Ready);
            let value = PolicyPod { link, epoch, state, ingress, egress };
            play.node.policy().put_pods(&[value]).expect("pod");
            play.node.policy().bump().expect("generation");
            cases.iter().for_each(|case| play.check(&tables, case));
        }
        let gone = PolicyRetire {
            epochs: vec![epoch],
            sets: tables.sets.keys().map(|s| base + s.0).collect(),
            ..PolicyRetire::default()
        };
        play.node.policy().retire(&gone).expect("retire");
        let left = play.node.policy().observe().expect("observe");
        assert_eq!((left.epochs.len(), left.sets.len()), (0, 0));
    }
}
