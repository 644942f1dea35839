//! From one snapshot to the next: after any history the tables are those of the last snapshot.

use super::{
    model::{services, slices, with_node},
    *,
};
use crate::Planner;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    /// Services are written, named from this number on.
    Services(usize, Vec<Service>),
    NoService(usize),
    Slices(Vec<EndpointSlice>),
    NoSlice(prop::sample::Index),
    /// This node: in another zone, at another address, or not there (yet).
    Node(u8),
    Input(bool),
    /// Nothing is planned: the next step comes first.
    Burst,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4usize, services()).prop_map(|(n, s)| Step::Services(n, s)),
        3 => (0..4usize).prop_map(Step::NoService),
        6 => slices().prop_map(Step::Slices),
        3 => any::<prop::sample::Index>().prop_map(Step::NoSlice),
        1 => (0..4u8).prop_map(Step::Node),
        1 => any::<bool>().prop_map(Step::Input),
        3 => Just(Step::Burst),
    ]
}

fn id(n: usize) -> NamespacedName {
    NamespacedName::new("default", &format!("s{}", n % 4))
}

fn take(step: Step, snapshot: &mut Snapshot, input: &mut PlanInput) {
    match step {
        Step::Services(from, all) => {
            for (n, mut s) in all.into_iter().enumerate() {
                s.id = id(from + n);
                // Health ports are few, so that two ask for the same.
                s.external.health_port = (n % 2 == 0).then(|| port(32_000 + (from % 2) as i32));
                snapshot.services.insert(s.id.clone(), Arc::new(s));
            }
        }
        Step::NoService(n) => drop(snapshot.services.remove(&id(n))),
        Step::Slices(all) => {
            for s in all {
                // A slice has one Service at a time.
                for n in 0..4 {
                    snapshot.remove_slice(&id(n), &s.id.name);
                }
                snapshot.insert_slice(Arc::new(s));
            }
        }
        Step::NoSlice(at) => {
            let all: Vec<_> = snapshot.slices.values().flat_map(|s| s.values().cloned()).collect();
            if !all.is_empty() {
                let gone = &all[at.index(all.len())];
                snapshot.remove_slice(&gone.service, &gone.id.name);
            }
        }
        Step::Node(way) => {
            let mut own = (*with_node(Snapshot::default()).nodes[&node(1)]).clone();
            match way {
                1 => own.zone = None,
                // What Services list among their externalIPs, too.
                2 => own.internal_ips = vec![ip("198.51.100.1")],
                _ => {}
            }
            snapshot.nodes.remove(&node(1));
            if way != 3 {
                snapshot.nodes.insert(node(1), Arc::new(own));
            }
        }
        Step::Input(limited) => {
            let ranges: &[&str] = if limited { &["172.30.0.0/16"] } else { &[] };
            input.node_port_ranges = ranges.iter().map(|r| r.parse().expect("range")).collect();
        }
        Step::Burst => {}
    }
    snapshot.generation += 1;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_history_gives_the_tables_of_its_end(steps in prop::collection::vec(step(), 1..25)) {
        let mut snapshot = with_node(Snapshot::default());
        let mut input = PlanInput::default();
        let mut planner = Planner::new(node(1));
        let mut last = ServiceTables::default();
        for step in steps {
            let burst = matches!(step, Step::Burst);
            take(step, &mut snapshot, &mut input);
            if burst {
                continue;
            }
            let tables = planner.plan(&snapshot, &input).clone();
            prop_assert_eq!(&tables, &plan(&snapshot, &node(1), &input));
            // What is equal is shared, so that the receiver does not look at it.
            for (at, balancer) in &tables.frontends {
                let before = last.frontends.get(at).filter(|b| *b == balancer);
                prop_assert!(before.is_none_or(|b| Arc::ptr_eq(b, balancer)), "{}", at);
            }
            last = tables;
        }
    }
}

#[test]
fn one_changed_slice_leaves_all_other_services_alone() {
    let web = |n: u8| service(&format!("web{n}"), &[&format!("10.96.1.{n}")], &[HTTP]);
    let ready = |n: u8, on: &str| {
        let name = format!("web{n}-1");
        slice(&web(n), &name, &[HTTP_8080], vec![endpoint(on, "rs", 1)])
    };
    let slices = (0..200).map(|n| ready(n, "10.244.1.2")).collect();
    let mut snapshot = snapshot((0..200).map(web).collect(), slices);
    let mut planner = Planner::new(node(1));
    let before = planner.plan(&snapshot, &PlanInput::default()).clone();
    assert_eq!(before.frontends.len(), 200);
    snapshot.insert_slice(Arc::new(ready(77, "10.244.1.3")));
    let after = planner.plan(&snapshot, &PlanInput::default());
    let changed: Vec<_> = before.frontends.diff(&after.frontends).map(|d| *d.key).collect();
    assert_eq!(changed, [frontend("10.96.1.77", Protocol::Tcp, 80)]);
    assert!(before.outside.same(&after.outside), "the same group serves it");
    assert_eq!(before.groups.diff(&after.groups).count(), 1);
    // Whether a node is ready changes often, and no table with it.
    let mut own = (*with_node(Snapshot::default()).nodes[&node(1)]).clone();
    snapshot.nodes.insert(node(1), Arc::new(own.clone()));
    let before = planner.plan(&snapshot, &PlanInput::default()).clone();
    own.ready = false;
    snapshot.nodes.insert(node(1), Arc::new(own));
    let after = planner.plan(&snapshot, &PlanInput::default());
    assert!(before.frontends.same(&after.frontends));
}
