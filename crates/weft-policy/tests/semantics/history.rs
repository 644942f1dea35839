//! Histories: random changes of a cluster, planned one after the other and applied to a model of
//! the kernel's maps, element by element. After every element each pod judges each peer as before
//! the step or as after it, with the same reason; after every step the maps are the planner's
//! tables and answer as the evaluator does; and once it has settled there is no more of anything
//! than if the tables had been made at once.

use crate::{
    agree_with,
    generate::{Cluster, Entropy, NODES},
};
use ipnet::IpNet;
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};
use weft_model::{Direction, NamespacedName, NodeName, Port, Protocol};
use weft_policy::{
    Decision, Entry, Hooks, Identity, Key, Limits, Lookup, Packet, Planner, PolicyTables, Reason,
    Reasons, RuleSet, SetId, SetKind, Start, TableStep, Transition, Transport, Whole, interpret,
};

/// The kernel's maps.
#[derive(Default)]
struct Kernel {
    peers: HashMap<(u32, IpNet), Identity>,
    rules: HashMap<(SetId, Key), Entry>,
    sets: HashMap<SetId, (SetKind, u32)>,
    pods: BTreeMap<NamespacedName, (u32, [Hooks; 2])>,
    reasons: Reasons,
}

impl Lookup for Kernel {
    fn hooks(&self, pod: &NamespacedName) -> Option<[Hooks; 2]> {
        self.pods.get(pod).map(|p| p.1)
    }

    fn identity(&self, pod: &NamespacedName, address: IpAddr) -> Identity {
        let Some((epoch, _)) = self.pods.get(pod) else { return Identity::ANY };
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let nets = (0..=bits).rev().map(|l| IpNet::new(address, l).expect("a length").trunc());
        let mut found = nets.filter_map(|net| self.peers.get(&(*epoch, net)));
        found.next().copied().unwrap_or(Identity::ANY)
    }

    fn set(&self, set: SetId) -> Option<(SetKind, u32)> {
        Some(*self.sets.get(&set).expect("pods refer to sets that are there"))
    }

    fn entry(&self, set: SetId, key: &Key) -> Option<Entry> {
        self.rules.get(&(set, *key)).copied()
    }

    fn reason(&self, number: u32) -> Option<Reason> {
        Some(self.reasons.get(number).expect("entries refer to reasons that are known").clone())
    }
}

impl Kernel {
    fn write_set(&mut self, id: SetId, set: &RuleSet) {
        assert!(self.sets.insert(id, (set.kind, set.lengths)).is_none(), "{id:?} is in use");
        assert!(id.0 != 0);
        for (key, entry) in &set.entries {
            assert!(self.rules.insert((id, *key), *entry).is_none());
        }
    }

    fn drop_set(&mut self, id: SetId, keys: &[Key]) {
        let used = self.pods.values().flat_map(|p| p.1).flat_map(|h| [h.admin, h.rest]);
        assert!(!used.flatten().any(|s| s == id), "{id:?} goes and is still used");
        assert!(self.sets.remove(&id).is_some());
        for key in keys {
            assert!(self.rules.remove(&(id, *key)).is_some(), "{id:?} has no {key:?}");
        }
        assert!(!self.rules.keys().any(|(s, _)| *s == id), "{id:?} leaves something behind");
    }

    fn step(&mut self, step: &TableStep, check: &dyn Fn(&Self, &str)) {
        for (set, key, entry) in &step.extend {
            assert!(self.sets.contains_key(set));
            assert!(!self.peers.values().any(|i| *i == key.identity), "somebody bears it");
            assert!(self.rules.insert((*set, *key), *entry).is_none());
            check(self, "extend");
        }
        for change in &step.moves {
            let key = (step.epoch, change.net);
            match change.identity {
                Some(identity) => self.peers.insert(key, identity),
                None => Some(self.peers.remove(&key).expect("what goes was there")),
            };
            check(self, "move");
        }
        for (id, set) in &step.sets {
            self.write_set(*id, set);
            check(self, "set");
        }
        for (pod, hooks) in &step.pods {
            match hooks {
                Some(hooks) => self.pods.insert(pod.clone(), (step.epoch, *hooks)),
                None => self.pods.remove(pod),
            };
            check(self, "pod");
        }
        for (set, key) in &step.retire.entries {
            assert!(!self.peers.values().any(|i| *i == key.identity), "somebody bears it");
            assert!(self.rules.remove(&(*set, *key)).is_some());
            check(self, "retire an entry");
        }
        for (set, keys) in &step.retire.sets {
            self.drop_set(*set, keys);
            check(self, "retire a set");
        }
    }

    fn whole(&mut self, whole: &Whole, check: &dyn Fn(&Self, &str)) {
        assert!(!self.peers.keys().any(|(epoch, _)| *epoch == whole.epoch));
        for (net, identity) in &whole.prefixes {
            self.peers.insert((whole.epoch, *net), *identity);
        }
        for (id, set) in &whole.sets {
            self.write_set(*id, set);
        }
        check(self, "a new epoch");
        for (pod, hooks) in &whole.pods {
            self.pods.insert(pod.clone(), (whole.epoch, *hooks));
            check(self, "pod");
        }
        self.pods.retain(|_, (epoch, _)| *epoch == whole.epoch);
        self.peers.retain(|(epoch, _), _| *epoch == whole.epoch);
        let keep: BTreeSet<SetId> = whole.sets.iter().map(|(id, _)| *id).collect();
        self.sets.retain(|id, _| keep.contains(id));
        self.rules.retain(|(id, _), _| keep.contains(id));
        check(self, "the old epoch is gone");
    }

    /// Whether it holds what the planner believes.
    fn is(&self, tables: &PolicyTables) {
        let peers: BTreeMap<IpNet, Identity> =
            self.peers.iter().map(|((_, net), id)| (*net, *id)).collect();
        assert_eq!(peers, tables.prefixes);
        let pods: BTreeMap<NamespacedName, [Hooks; 2]> =
            self.pods.iter().map(|(id, p)| (id.clone(), p.1)).collect();
        assert_eq!(pods, tables.pods);
        assert_eq!(self.sets.len(), tables.sets.len());
        assert_eq!(self.rules.len(), tables.entries());
        for (id, set) in &tables.sets {
            assert_eq!(self.sets[id], (set.kind, set.lengths));
            assert!(set.entries.iter().all(|(key, entry)| self.rules[&(*id, *key)] == *entry));
        }
    }
}

/// Everything that is asked of the maps.
fn questions(pods: &BTreeSet<NamespacedName>, peers: &BTreeSet<IpAddr>) -> Vec<Packet<'static>> {
    let transports = [(Protocol::Tcp, 80), (Protocol::Tcp, 8080), (Protocol::Udp, 53)];
    let transports = transports.map(|(p, n)| Transport::Port(p, Port::try_from(n).expect("one")));
    let transports: Vec<Transport> = transports.into_iter().chain([Transport::Other]).collect();
    let mut all = Vec::new();
    for pod in pods {
        let pod: &'static NamespacedName = Box::leak(Box::new(pod.clone()));
        for direction in Direction::ALL {
            for (peer, transport) in
                peers.iter().flat_map(|p| transports.iter().map(move |t| (*p, *t)))
            {
                let packet = Packet {
                    pod,
                    direction,
                    peer,
                    transport,
                    itself: false,
                    through_service: false,
                    from_this_node: false,
                };
                if transport != Transport::Other {
                    all.push(Packet { itself: true, through_service: true, ..packet.clone() });
                }
                all.push(packet);
            }
        }
    }
    all
}

struct History {
    node: NodeName,
    planner: Planner,
    kernel: Kernel,
    limits: Limits,
    /// Whether tables must be the evaluator's: not where bounds close sets.
    exact: bool,
    /// How many elements were checked.
    checked: std::cell::Cell<u64>,
    wholes: u64,
}

impl History {
    fn new(limits: Limits) -> Self {
        let node: NodeName = NODES[0].0.parse().expect("a name");
        Self {
            planner: Planner::new(node.clone(), limits, Start { epoch: 7, set: 3, reason: 16 }),
            node,
            kernel: Kernel::default(),
            limits,
            exact: limits == Limits::default(),
            checked: std::cell::Cell::new(0),
            wholes: 0,
        }
    }

    /// Plans the cluster as it is, applies that, and compares; `closely` after every element.
    fn advance(&mut self, cluster: &Cluster, before: &Cluster, closely: bool) {
        let input = cluster.input();
        let old = self.planner.tables();
        let transition = self.planner.plan(&input);
        let new = self.planner.tables();
        self.kernel.reasons = self.planner.reasons();
        // Of those that go nothing is promised until they are gone.
        let pods = new.pods.keys().cloned().collect();
        let peers = [before, cluster].into_iter().flat_map(Cluster::ends).collect();
        let questions = if closely { questions(&pods, &peers) } else { Vec::new() };
        let asked = |tables: &PolicyTables| -> Vec<Option<Decision>> {
            questions.iter().map(|q| tables.interpret(q)).collect()
        };
        let (told_old, told_new) = (asked(&old), asked(&new));
        let checked = &self.checked;
        let check = |kernel: &Kernel, stage: &str| {
            checked.set(checked.get() + 1);
            for (i, question) in questions.iter().enumerate() {
                let told = interpret(kernel, question);
                assert!(
                    told == told_old[i] || told == told_new[i],
                    "after {stage}: {question:?}\nold {:?}\nnow {told:?}\nnew {:?}\nbefore:\n\
                     {before}\nafter:\n{cluster}\n{transition:#?}",
                    told_old[i],
                    told_new[i],
                );
            }
        };
        match &transition {
            Transition::Whole(whole) => {
                self.wholes += 1;
                self.kernel.whole(whole, &check);
            }
            Transition::Step(step) => self.kernel.step(step, &check),
        }
        self.kernel.is(&new);
        if self.exact {
            assert_eq!(new.diagnostics.len(), old_shared(&new));
        }
    }

    /// Plans until there is nothing to tidy up.
    fn settle(&mut self, cluster: &Cluster) {
        for _ in 0..4 {
            if self.planner.settled() {
                return;
            }
            self.advance(cluster, cluster, true);
        }
        panic!("it does not settle:\n{cluster}");
    }

    /// Compares with the evaluator, and with what is made at once.
    fn compare(&self, cluster: &Cluster) {
        let input = cluster.input();
        if self.exact {
            let tables = BTreeMap::from([(self.node.clone(), self.planner.tables())]);
            agree_with(cluster, &input, &tables).expect("agreement");
        }
        let mut fresh = Planner::new(self.node.clone(), self.limits, Start::default());
        fresh.plan(&input);
        assert!(fresh.settled());
        assert_eq!(self.planner.diagnostics(), fresh.diagnostics(), "{cluster}");
        let (mut census, fresh) = (self.planner.census(), fresh.census());
        // Known and open: now and then a prefix stays that says what is around it anyway.
        assert!(census.prefixes >= fresh.prefixes, "{cluster}");
        assert!(census.prefixes <= census.peers + census.blocks, "{cluster}");
        census.prefixes = fresh.prefixes;
        assert_eq!(census, fresh, "{cluster}");
    }
}

/// Diagnostics about addresses that are shared: those that are no bound's.
fn old_shared(tables: &PolicyTables) -> usize {
    let shared =
        |d: &&weft_policy::Diagnostic| matches!(d, weft_policy::Diagnostic::SharedAddress { .. });
    tables.diagnostics.iter().filter(shared).count()
}

/// Lives through a history of these bytes.
fn live(bytes: &[u8], limits: Limits) -> History {
    let mut e = Entropy::new(bytes);
    let mut cluster = Cluster::generate(&mut e);
    let mut history = History::new(limits);
    history.advance(&cluster, &cluster, true);
    history.compare(&cluster);
    while !e.is_empty() {
        let before = cluster.clone();
        // Several at once: what happened while the planner was busy.
        for _ in 0..=e.below(3) {
            cluster.change(&mut e);
        }
        if e.rarely(1) {
            history.planner.restart();
        }
        history.advance(&cluster, &before, true);
        if e.rarely(8) {
            history.settle(&cluster);
            history.compare(&cluster);
        }
    }
    history.settle(&cluster);
    history.compare(&cluster);
    history
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 600..1400)
}

/// Such as are exceeded all the time.
const NARROW: Limits =
    Limits { set_entries_max: 12, entries_max: 30, prefixes_max: 6, peers_max: 14 };

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn every_verdict_is_the_old_or_the_new_one(bytes in bytes()) {
        live(&bytes, Limits::default());
    }

    #[test]
    fn also_where_bounds_close_sets(bytes in bytes()) {
        live(&bytes, NARROW);
    }
}

/// Bytes that look random.
fn noise(mut state: u64, len: usize) -> Vec<u8> {
    let next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[test]
fn a_thousand_steps_leave_nothing_behind() {
    let bytes = noise(1, 300_000);
    let mut e = Entropy::new(&bytes);
    let mut cluster = Cluster::generate(&mut e);
    let mut history = History::new(Limits::default());
    history.advance(&cluster, &cluster, false);
    for step in 1..=1000 {
        let before = cluster.clone();
        for _ in 0..=e.below(3) {
            cluster.change(&mut e);
        }
        history.advance(&cluster, &before, false);
        if step % 100 == 0 {
            history.settle(&cluster);
            history.compare(&cluster);
        }
    }
    assert!(!e.is_empty() && history.wholes == 1);
    let empty = Cluster::default();
    history.advance(&empty, &cluster, false);
    history.settle(&empty);
    history.compare(&empty);
    let kernel = &history.kernel;
    assert!(kernel.peers.is_empty() && kernel.rules.is_empty() && kernel.sets.is_empty());
}

#[test]
fn histories_make_every_stage_happen() {
    let mut stages = [0usize; 6];
    let mut wholes = 0;
    for seed in 0..6 {
        let bytes = noise(seed, 3000);
        let mut e = Entropy::new(&bytes);
        let mut cluster = Cluster::generate(&mut e);
        let node: NodeName = NODES[0].0.parse().expect("a name");
        let mut planner = Planner::new(node, NARROW, Start::default());
        while !e.is_empty() {
            cluster.change(&mut e);
            cluster.change(&mut e);
            match planner.plan(&cluster.input()) {
                Transition::Whole(_) => wholes += 1,
                Transition::Step(s) => {
                    let retire = [s.retire.entries.len(), s.retire.sets.len()];
                    let lengths = [s.extend.len(), s.moves.len(), s.sets.len(), s.pods.len()];
                    for (n, length) in stages.iter_mut().zip(lengths.into_iter().chain(retire)) {
                        *n += length;
                    }
                }
            }
        }
    }
    assert!(stages.iter().all(|n| *n >= 20) && wholes > 6, "{stages:?} {wholes}");
}
