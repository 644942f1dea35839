//! Evaluator, compiled tables and an independent reading of the specification agree, on
//! generated clusters, for every pair, protocol and port.

mod cases;
mod generate;
mod history;
mod oracle;

use generate::{Cluster, Entropy};
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};
use weft_model::{Direction, NodeName};
use weft_policy::{
    Decision, Evaluator, Flow, Owner, Packet, PolicyInput, PolicyTables, Reason, compile,
};

/// Bytes of randomness a cluster is made of.
const ENTROPY: usize = 600;

/// What became of flows, by kind of reason: a generator that never reaches a rule proves nothing.
static SEEN: Mutex<BTreeMap<&str, u64>> = Mutex::new(BTreeMap::new());

fn kind(decision: &Decision) -> &'static str {
    if decision.audit {
        return match &decision.reason {
            Reason::Isolated(_) => "audit: isolated",
            _ => "audit: denied by a rule",
        };
    }
    match (&decision.reason, decision.allowed) {
        (Reason::Rule(r), allowed) => match (&r.policy, allowed) {
            (weft_policy::PolicyId::Network(_), _) => "rule of a NetworkPolicy",
            (weft_policy::PolicyId::Cluster { tier, .. }, true) => match tier {
                weft_model::Tier::Admin => "Admin accepts",
                weft_model::Tier::Baseline => "Baseline accepts",
            },
            (weft_policy::PolicyId::Cluster { tier, .. }, false) => match tier {
                weft_model::Tier::Admin => "Admin denies",
                weft_model::Tier::Baseline => "Baseline denies",
            },
        },
        (Reason::Isolated(_), _) => "isolated",
        (Reason::Unselected, _) => "unselected",
        (Reason::Itself, _) => "itself",
        (Reason::OwnNode, _) => "own node",
        (Reason::NotAPod, _) => "not a pod",
        (Reason::TooLarge, _) => "too large",
    }
}

/// What the tables of the nodes at both ends say, where the ends are pods that are on a node.
fn interpreted(
    evaluator: &Evaluator<'_>,
    tables: &BTreeMap<NodeName, PolicyTables>,
    flow: &Flow,
) -> [Option<Decision>; 2] {
    let owner = |a| evaluator.world().owner(a);
    let (source, destination) = (owner(flow.source), owner(flow.destination));
    let itself = match (source, destination) {
        (Owner::Pod(a), Owner::Pod(b)) => a.id == b.id && flow.from_node.is_none(),
        _ => false,
    };
    let side = |end, peer, direction| {
        let Owner::Pod(pod) = end else { return None };
        if direction == Direction::Egress && flow.from_node.is_some() {
            return None;
        }
        let node = pod.node.as_ref()?;
        let tables = tables.get(node)?;
        let packet = Packet {
            pod: &pod.id,
            direction,
            peer,
            transport: flow.transport,
            itself,
            through_service: flow.through_service,
            from_this_node: flow.from_node.as_ref() == Some(node),
        };
        let decision = tables.interpret(&packet);
        Some(decision.expect("a pod of this node is in its tables"))
    };
    [
        side(source, flow.destination, Direction::Egress),
        side(destination, flow.source, Direction::Ingress),
    ]
}

/// Compares all three on every flow of a cluster; returns how many there were.
fn agree(cluster: &Cluster, input: &PolicyInput) -> Result<u64, TestCaseError> {
    let tables: BTreeMap<NodeName, PolicyTables> =
        input.nodes.keys().map(|n| (n.clone(), compile(input, n))).collect();
    agree_with(cluster, input, &tables)
}

/// Compares evaluator and specification with these tables, of some nodes.
fn agree_with(
    cluster: &Cluster,
    input: &PolicyInput,
    tables: &BTreeMap<NodeName, PolicyTables>,
) -> Result<u64, TestCaseError> {
    let evaluator = Evaluator::new(input);
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    let mut flows = 0;
    for flow in cluster.flows() {
        flows += 1;
        let verdict = evaluator.evaluate(&flow);
        let told = oracle::judged(cluster, &flow);
        let judged = [&verdict.egress, &verdict.ingress].map(|d| (d.allowed, d.audit));
        prop_assert_eq!(
            judged,
            told,
            "{:?}\nevaluated: {}\n           {}\n{}",
            flow,
            verdict.egress,
            verdict.ingress,
            cluster
        );
        let [egress, ingress] = interpreted(&evaluator, tables, &flow);
        for (side, table) in [(&verdict.egress, egress), (&verdict.ingress, ingress)] {
            *seen.entry(kind(side)).or_default() += 1;
            if let Some(table) = table {
                prop_assert_eq!(side, &table, "tables: {:?}\n{}", flow, cluster);
            }
        }
    }
    let mut all = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    for (kind, n) in seen {
        *all.entry(kind).or_default() += n;
    }
    Ok(flows)
}

fn entropy() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), ENTROPY)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 520, ..ProptestConfig::default() })]

    #[test]
    fn all_three_agree(bytes in entropy()) {
        let cluster = Cluster::generate(&mut Entropy::new(&bytes));
        agree(&cluster, &cluster.input())?;
    }

    #[test]
    fn all_three_agree_on_others(bytes in entropy()) {
        let cluster = Cluster::generate(&mut Entropy::new(&bytes));
        agree(&cluster, &cluster.input())?;
    }
}

#[test]
fn the_generator_reaches_every_kind_of_answer() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut flows = 0;
    for _ in 0..60 {
        let bytes: Vec<u8> = (0..ENTROPY)
            .map(|_| {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                (state >> 33) as u8
            })
            .collect();
        let cluster = Cluster::generate(&mut Entropy::new(&bytes));
        flows += agree(&cluster, &cluster.input()).expect("agreement");
    }
    assert!(flows > 20_000, "{flows} flows");
    let seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    for kind in [
        "rule of a NetworkPolicy",
        "Admin accepts",
        "Admin denies",
        "Baseline accepts",
        "Baseline denies",
        "isolated",
        "unselected",
        "itself",
        "own node",
        "not a pod",
        "audit: isolated",
        "audit: denied by a rule",
    ] {
        assert!(seen.get(kind).is_some_and(|n| *n >= 100), "{kind}: {seen:?}");
    }
}
