//! The stage against a kernel that the test plays: what it is asked for, in which order, and what
//! stays when it fails.

use super::{local::tests::link, *};
use std::sync::{Mutex, PoisonError};
use weft_bpf::{PodSets, PolicyObserved, PolicySet, PolicyStep};
use weft_model::{
    Labels, Map, Namespace, NetworkPolicy, NetworkRule, Node, Peer, Pod, PodPhase, Selector,
};

/// A pod of namespace `ns`.
pub(super) fn pod(name: &str, labels: &[(&str, &str)], node: &str, ip: &str) -> Pod {
    Pod {
        id: NamespacedName::new("ns", name),
        labels: labels.iter().copied().collect(),
        node: Some(node.parse().expect("name")),
        addresses: vec![ip.parse().expect("address")],
        host_network: false,
        phase: PodPhase::Running,
        ports: Vec::new(),
        incarnation: 7,
        sockets_alone: false,
    }
}

/// The kernel's tables. Reading them is what a program does.
#[derive(Default)]
struct Fake(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    generation: u32,
    prefixes: BTreeMap<(u32, ipnet::IpNet), u32>,
    sets: BTreeMap<u32, BTreeMap<String, u32>>,
    pods: BTreeMap<u32, PolicyPod>,
    /// Calls in order.
    calls: Vec<&'static str>,
    /// So many calls succeed, then one fails.
    fails_in: Option<usize>,
    /// Whether readers were waited for since something was replaced.
    quiet: bool,
}

impl Tables {
    fn call(&mut self, name: &'static str) -> weft_bpf::Result<()> {
        self.calls.push(name);
        match &mut self.fails_in {
            Some(0) => {
                self.fails_in = None;
                Err(BpfError::Object(format!("{name} failed")))
            }
            Some(n) => {
                *n -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Nothing that a pod refers to may be missing, at any time.
    fn whole(&self) {
        for pod in self.pods.values() {
            let both = [pod.ingress, pod.egress];
            for set in both.iter().flat_map(|s| [s.admin, s.rest]).flatten() {
                assert!(self.sets.contains_key(&set), "{pod:?} has no set {set}");
            }
        }
    }

    fn put(&mut self, set: &PolicySet) {
        let entries = self.sets.entry(set.number).or_default();
        for e in &set.entries {
            let key = format!("{} {:?} {}/{}", e.identity, e.protocol, e.port, e.bits);
            entries.insert(key, e.reason);
        }
    }
}

impl Fake {
    fn tables(&self) -> std::sync::MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.tables().calls)
    }
}

impl PolicyKernel for Fake {
    fn apply(&self, step: &PolicyStep) -> weft_bpf::Result<u32> {
        let mut t = self.tables();
        assert!(step.epoch > 0, "epoch 0 is nobody's");
        // As the kernel does it: each part may be the last one.
        t.call("extend")?;
        step.extend.iter().for_each(|s| t.put(s));
        t.call("moves")?;
        for (net, identity) in &step.moves {
            match identity {
                Some(identity) => drop(t.prefixes.insert((step.epoch, *net), *identity)),
                None => drop(t.prefixes.remove(&(step.epoch, *net))),
            }
        }
        t.call("sets")?;
        step.sets.iter().for_each(|s| t.put(s));
        t.call("pods")?;
        t.pods.extend(step.pods.iter().map(|p| (p.link, *p)));
        t.whole();
        t.call("bump")?;
        t.generation += 1;
        t.quiet = false;
        Ok(t.generation)
    }

    fn put_pods(&self, pods: &[PolicyPod]) -> weft_bpf::Result<()> {
        let mut t = self.tables();
        t.call("put_pods")?;
        t.pods.extend(pods.iter().map(|p| (p.link, *p)));
        t.whole();
        Ok(())
    }

    fn wait_for_readers(&self) {
        self.tables().quiet = true;
    }

    fn retire(&self, gone: &PolicyRetire) -> weft_bpf::Result<()> {
        let mut t = self.tables();
        assert!(t.quiet, "a program may still look at it");
        t.call("retire")?;
        t.prefixes.retain(|(epoch, _), _| !gone.epochs.contains(epoch));
        gone.sets.iter().for_each(|s| drop(t.sets.remove(s)));
        for (set, e) in &gone.entries {
            let key = format!("{} {:?} {}/{}", e.identity, e.protocol, e.port, e.bits);
            t.sets.get_mut(set).and_then(|entries| entries.remove(&key));
        }
        t.whole();
        Ok(())
    }

    fn observe(&self) -> weft_bpf::Result<PolicyObserved> {
        let mut t = self.tables();
        t.call("observe")?;
        let epochs: BTreeSet<u32> = t.prefixes.keys().map(|(epoch, _)| *epoch).collect();
        let named = t.pods.values().map(|p| p.epoch);
        Ok(PolicyObserved {
            generation: t.generation,
            epoch_max: epochs.iter().copied().chain(named).max().unwrap_or(0),
            set_max: t.sets.keys().last().copied().unwrap_or(0),
            epochs: epochs.into_iter().collect(),
            sets: t.sets.keys().copied().collect(),
            pods: t.pods.values().copied().collect(),
        })
    }

    fn reason_max(&self) -> weft_bpf::Result<u32> {
        Ok(self.tables().sets.values().flat_map(|s| s.values()).max().copied().unwrap_or(0))
    }
}

struct World {
    kernel: Fake,
    stage: PolicyStage,
    locals: Arc<LocalPods>,
    state: Arc<State>,
    snapshot: Snapshot,
    _dir: tempfile::TempDir,
}

fn stage(state: &Arc<State>, locals: &Arc<LocalPods>) -> PolicyStage {
    PolicyStage::new(state.clone(), "n1".parse().expect("name"), true, locals.clone())
}

impl World {
    /// Two pods: `a` on this node with link 3, `b` elsewhere.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("folder");
        let locals = Arc::new(LocalPods::open_empty(dir.path()));
        let state = Arc::new(State::new("n1".to_owned(), "vxlan"));
        state.fabric.send_replace(Some(crate::state::AppliedFabric {
            generation: 1,
            pod_cidrs: Vec::new(),
            routers: vec!["10.0.1.1".parse().expect("address")],
            pod_mtu: 1450,
            pod_sources: BTreeMap::new(),
        }));
        let mut snapshot = Snapshot { generation: 1, ..Snapshot::default() };
        let namespace = Namespace { name: "ns".into(), labels: Labels::default(), audit: false };
        snapshot.namespaces.insert("ns".into(), Arc::new(namespace));
        let node = Node {
            name: "n1".parse().expect("name"),
            internal_ips: Vec::new(),
            pod_cidrs: Vec::new(),
            zone: None,
            ready: true,
            eligible: true,
        };
        snapshot.nodes = Map::from_iter([(node.name.clone(), Arc::new(node))]);
        let stage = stage(&state, &locals);
        let kernel = Fake::default();
        let mut world = Self { kernel, stage, locals, state, snapshot, _dir: dir };
        world.put(pod("a", &[("app", "a")], "n1", "10.0.1.2"));
        world.put(pod("b", &[("app", "b")], "n2", "10.0.2.2"));
        world.locals.insert(link("wv1", 3, "10.0.1.2", "a")).expect("kept");
        world
    }

    fn put(&mut self, pod: Pod) {
        self.snapshot.pods.insert(pod.id.clone(), Arc::new(pod));
    }

    /// `name` isolates the pods with label `app` and lets in who has label `from`.
    fn policy(&mut self, name: &str, app: &str, from: &[&str]) {
        let selector = |app: &str| -> Selector {
            let test = weft_model::LabelTest::In([Arc::from(app)].into());
            [("app", test)].into_iter().collect()
        };
        let peer = |app: &&str| {
            Peer::Pods(weft_model::PodSet {
                namespaces: weft_model::NamespaceSet::Name("ns".into()),
                pods: selector(app),
            })
        };
        let peers = from.iter().map(peer).collect();
        let policy = NetworkPolicy {
            id: NamespacedName::new("ns", name),
            pods: selector(app),
            ingress: Some(vec![NetworkRule { peers: Some(peers), ports: None }]),
            egress: None,
            audit: false,
        };
        self.snapshot.network_policies.insert(policy.id.clone(), Arc::new(policy));
    }

    fn step(&mut self) -> Outcome {
        self.snapshot.generation += 1;
        self.stage.step(&self.kernel, &self.snapshot)
    }

    /// Steps until there is nothing left to do.
    fn settle(&mut self) {
        for _ in 0..20 {
            if matches!(self.step(), Outcome::Applied) {
                return;
            }
        }
        panic!("never done: {:?}", self.state.all_stages());
    }

    fn of(&self, link: u32) -> PolicyPod {
        self.kernel.tables().pods[&link]
    }
}

#[test]
fn a_pod_without_policies_is_ready_and_one_with_them_has_sets() {
    let mut world = World::new();
    world.settle();
    let (none, ready) = (PodSets::default(), PodState::Ready);
    assert_eq!(
        world.of(3),
        PolicyPod { link: 3, epoch: 0, state: ready, ingress: none, egress: none }
    );
    world.policy("p", "a", &["b"]);
    world.settle();
    let judged = world.of(3);
    assert!(judged.state == ready && judged.epoch > 0 && judged.egress == none, "{judged:?}");
    let ingress = judged.ingress;
    assert!(ingress.admin.is_none() && ingress.rest.is_some(), "{judged:?}");
    assert_eq!(world.kernel.tables().prefixes.len(), 1, "the one peer that a rule means");
    let applied = world.state.policy.borrow().clone().expect("published");
    assert_eq!(applied.generation, world.kernel.tables().generation);
    assert!(
        applied.links[&3].ready && applied.links[&3].pod == Some(NamespacedName::new("ns", "a"))
    );
    // Nothing that policy depends on changed: the kernel is left alone.
    world.kernel.calls();
    world.settle();
    assert_eq!(world.kernel.calls(), [""; 0]);
    // A pod that no rule means comes: still nothing.
    world.put(pod("c", &[("app", "c")], "n2", "10.0.2.3"));
    world.settle();
    assert_eq!(world.kernel.calls(), [""; 0]);
    assert_eq!(world.state.all_stages()["policy"].generation, world.snapshot.generation);
}

#[test]
fn an_attached_pod_is_refused_until_it_is_judged() {
    let mut world = World::new();
    world.settle();
    let generation = world.kernel.tables().generation;
    // ADD has a link for a pod of a namespace that the watch has not brought yet.
    let mut new = link("wv2", 4, "10.0.1.3", "c");
    new.owner = Owner::Pod { id: NamespacedName::new("new", "c"), incarnation: 7 };
    let mut seed = pod("c", &[("app", "a")], "n1", "10.0.1.3");
    seed.id = NamespacedName::new("new", "c");
    new.seed = Some(Arc::new(seed));
    world.locals.insert(new).expect("kept");
    world.settle();
    assert_eq!(world.of(4).state, PodState::Unknown);
    assert!(!world.state.policy.borrow().as_ref().expect("published").links[&4].ready);
    let namespace = Namespace { name: "new".into(), labels: Labels::default(), audit: false };
    world.snapshot.namespaces.insert("new".into(), Arc::new(namespace));
    world.settle();
    assert_eq!(world.of(4).state, PodState::Ready);
    // One that was attached by hand is nobody that a policy could select.
    world
        .locals
        .insert(LocalLink { owner: Owner::Nobody, ..link("wv3", 5, "10.0.1.4", "-") })
        .expect("kept");
    world.policy("all", "a", &[]);
    world.settle();
    assert_eq!((world.of(5).state, world.of(5).epoch), (PodState::Ready, 0));
    assert!(world.kernel.tables().generation > generation);
}

/// Whichever call fails: what stands is whole, and in the end it is what shall be.
#[test]
fn what_fails_is_written_anew_beside_what_is_there() {
    let mut calls = 0;
    loop {
        let mut world = World::new();
        world.policy("p", "a", &["b"]);
        world.settle();
        world.policy("q", "a", &["c"]);
        world.put(pod("c", &[("app", "c")], "n2", "10.0.2.3"));
        world.put(pod("b", &[("app", "c")], "n2", "10.0.2.2"));
        world.kernel.tables().fails_in = Some(calls);
        let outcome = world.step();
        let failed = world.kernel.tables().fails_in.is_none();
        if failed {
            assert!(matches!(outcome, Outcome::Failed));
            assert!(!world.state.all_stages()["policy"].errors.is_empty());
        }
        world.kernel.tables().fails_in = None;
        world.settle();
        assert!(world.state.all_stages()["policy"].errors.is_empty());
        let t = world.kernel.tables();
        let (epoch, sets) = (t.pods[&3].epoch, t.sets.len());
        assert!(t.prefixes.keys().all(|(e, _)| *e == epoch), "old epochs went");
        assert_eq!((t.prefixes.len(), sets), (2, 1), "old sets went");
        drop(t);
        if !failed {
            break;
        }
        calls += 1;
    }
    assert!(calls >= 5, "{calls} calls");
}

#[test]
fn a_restarted_agent_goes_on_from_what_is_there() {
    let mut world = World::new();
    world.policy("p", "a", &["b"]);
    world.settle();
    let before = world.of(3);
    let generation = world.kernel.tables().generation;
    world.stage = stage(&world.state, &world.locals);
    world.settle();
    let after = world.of(3);
    assert!(after.epoch > before.epoch && after.ingress.rest > before.ingress.rest);
    let t = world.kernel.tables();
    assert!(t.generation > generation);
    assert_eq!(t.sets.keys().copied().collect::<Vec<_>>(), [after.ingress.rest.expect("set")]);
    assert!(t.prefixes.keys().all(|(e, _)| *e == after.epoch));
}

#[test]
fn what_somebody_else_changes_is_written_anew() {
    let mut world = World::new();
    world.policy("p", "a", &["b"]);
    world.settle();
    let spoil: [fn(&mut Tables); 4] = [
        |t| t.generation = 0,
        |t| t.pods.extend([(3, PolicyPod::unknown(3))]),
        |t| t.sets.clear(),
        |t| t.prefixes.clear(),
    ];
    for spoil in spoil {
        spoil(&mut world.kernel.tables());
        if let Some(plan) = &mut world.stage.plan {
            plan.verified -= DRIFT_INTERVAL;
        }
        world.settle();
        let pod = world.of(3);
        let t = world.kernel.tables();
        assert_eq!(pod.state, PodState::Ready);
        assert!(t.sets.contains_key(&pod.ingress.rest.expect("a set")));
        assert_eq!(t.prefixes.len(), 1);
    }
}

#[test]
fn a_closed_policy_is_told_on_itself() {
    let id = NamespacedName::new("ns", "p");
    let diagnostic = Diagnostic::TooLarge {
        direction: weft_model::Direction::Ingress,
        pods: 2,
        limit: 10,
        policies: vec![
            PolicyId::Network(id.clone()),
            PolicyId::Cluster { tier: weft_model::Tier::Admin, name: "c".into() },
        ],
    };
    let told = complaints(&diagnostic);
    assert_eq!((told[0].kind, &told[0].object), (Kind::NetworkPolicy, &id));
    assert_eq!((told[1].kind, &*told[1].object.name), (Kind::ClusterNetworkPolicy, "c"));
    assert!(told[0].message.contains("10 entries"), "{}", told[0].message);
}
