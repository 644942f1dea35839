//! What chance rarely makes: holes in holes, shadowed rules, lists and ranges at their bounds.

use crate::generate::Cluster;
use serde_json::{Value, json};
use weft_model::{NamespacedName, Port, Protocol};
use weft_policy::{
    Diagnostic, Evaluator, Flow, Identity, Limits, PolicyInput, Reason, Transport, compile,
    compile_within,
};

/// Two pods of namespace `a` on node `n1`, and these policies.
fn cluster(network: Vec<Value>, cluster: Vec<Value>) -> Cluster {
    let pod = |name: &str, ip: &str| {
        json!({
            "metadata": {"namespace": "a", "name": name, "labels": {"app": name}},
            "spec": {"nodeName": "n1", "containers": []},
            "status": {"podIPs": [{"ip": ip}], "phase": "Running"},
        })
    };
    let labels = json!({"kubernetes.io/metadata.name": "a"});
    Cluster {
        namespaces: vec![json!({"metadata": {"name": "a", "labels": labels}})],
        nodes: vec![json!({"metadata": {"name": "n1"}})],
        pods: vec![pod("web", "10.0.0.1"), pod("db", "10.0.0.2")],
        network_policies: network,
        cluster_policies: cluster,
        ..Cluster::default()
    }
}

fn network_policy(name: &str, spec: Value) -> Value {
    json!({"metadata": {"namespace": "a", "name": name}, "spec": spec})
}

fn tcp(source: &str, destination: &str, port: i32) -> Flow {
    Flow {
        source: source.parse().expect("an address"),
        destination: destination.parse().expect("an address"),
        transport: Transport::Port(Protocol::Tcp, Port::try_from(port).expect("a port")),
        from_node: None,
        through_service: false,
    }
}

fn node() -> weft_model::NodeName {
    "n1".parse().expect("a name")
}

#[test]
fn a_hole_in_a_hole_opens_nothing_but_another_block_may() {
    let block = |cidr: &str, except: &[&str]| json!({"ipBlock": {"cidr": cidr, "except": except}});
    let spec = json!({"podSelector": {}, "ingress": [{"from": [
        block("203.0.113.0/24", &["203.0.113.0/28", "203.0.113.4/30", "203.0.113.4/30"]),
        block("203.0.113.5/32", &[]),
        block("198.51.100.0/24", &["198.51.0.0/16"]),
    ]}]});
    let cluster = cluster(vec![network_policy("p", spec)], vec![]);
    let input = cluster.input();
    let tables = compile(&input, &node());
    let evaluator = Evaluator::new(&input);
    for (source, open) in [
        ("203.0.113.3", false),
        ("203.0.113.4", false),
        ("203.0.113.5", true),
        ("203.0.113.16", true),
        ("198.51.100.1", false),
    ] {
        let flow = tcp(source, "10.0.0.1", 80);
        assert_eq!(evaluator.evaluate(&flow).allowed(), open, "{source}");
        assert_eq!(tables.identity(flow.source) != Identity::ANY, open, "{source}");
        assert_eq!(crate::oracle::allowed(&cluster, &flow).1, open, "{source}");
    }
}

#[test]
fn what_a_stronger_rule_covers_is_not_in_the_tables() {
    let ports = |ports: Value| json!([{"tcp": {"destinationPort": ports}}]);
    let all = json!([{"namespaces": {}}]);
    let rules = json!([
        {"action": "Deny", "from": all, "protocols": ports(json!({"range": {"start": 1, "end": 1023}}))},
        {"action": "Accept", "from": all, "protocols": ports(json!({"number": 80}))},
        {"action": "Accept", "from": all, "protocols": ports(json!({"number": 8080}))},
    ]);
    let policy = json!({"metadata": {"name": "p"}, "spec": {
        "tier": "Admin", "priority": 0, "subject": {"namespaces": {}}, "ingress": rules,
    }});
    let input = cluster(vec![], vec![policy]).input();
    let tables = compile(&input, &node());
    let reasons: Vec<&Reason> = tables
        .sets
        .values()
        .flat_map(|s| s.entries.values())
        .filter_map(|e| tables.reasons.get(e.reason))
        .collect();
    let of_rule = |index| {
        let named = |r: &&&Reason| matches!(r, Reason::Rule(rule) if rule.index == index);
        reasons.iter().filter(named).count()
    };
    assert_eq!((of_rule(0), of_rule(1), of_rule(2)), (10, 0, 1));
    let verdict = Evaluator::new(&input).evaluate(&tcp("10.0.0.2", "10.0.0.1", 80));
    assert!(!verdict.allowed() && verdict.ingress.to_string().contains("p (Admin) ingress[0]"));
}

#[test]
fn long_lists_and_wide_ranges_stay_small() {
    let blocks: Vec<Value> = (0..5000)
        .map(|i| json!({"ipBlock": {"cidr": format!("100.{}.{}.0/24", i / 250, i % 250)}}))
        .collect();
    let spec = json!({"podSelector": {}, "ingress": [
        {"from": blocks, "ports": [{"port": 1, "endPort": 65535}, {"port": 2, "endPort": 65534}]},
    ]});
    let input = cluster(vec![network_policy("p", spec)], vec![]).input();
    let tables = compile(&input, &node());
    assert!(tables.diagnostics.is_empty());
    assert_eq!(tables.prefixes.len(), 5000);
    // One identity for all of them; the second range is within the first; one that denies.
    assert_eq!(tables.entries(), 16 + 1);
}

#[test]
fn what_exceeds_a_bound_is_closed_and_reported_and_others_are_not_harmed() {
    let block = |i: usize| json!([{"ipBlock": {"cidr": format!("100.0.{i}.0/24")}}]);
    let rules: Vec<Value> = (0..50)
        .map(|i| json!({"from": block(i), "ports": [{"port": 1, "endPort": 65534}]}))
        .collect();
    let big = json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": rules});
    let small = json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{}]});
    let policies = vec![network_policy("big", big), network_policy("small", small)];
    let input = cluster(policies, vec![]).input();
    let limits = Limits { set_entries_max: 1000, ..Limits::default() };
    let tables = compile_within(&input, &node(), limits);
    let [Diagnostic::TooLarge { pods: 1, limit: 1000, policies, .. }] = &tables.diagnostics[..]
    else {
        panic!("{:?}", tables.diagnostics)
    };
    assert_eq!(policies[0].to_string(), "NetworkPolicy a/big");
    let judged = |pod: &str| {
        let pod = NamespacedName::new("a", pod);
        let flow = tcp("100.0.7.1", "10.0.0.1", 80);
        tables
            .interpret(&weft_policy::Packet {
                pod: &pod,
                direction: weft_model::Direction::Ingress,
                peer: flow.source,
                transport: flow.transport,
                itself: false,
                through_service: false,
                from_this_node: false,
            })
            .expect("it is there")
    };
    assert_eq!((judged("web").allowed, judged("web").reason), (false, Reason::TooLarge));
    assert!(judged("db").allowed);
    let whole = compile(&input, &node());
    assert!(whole.diagnostics.is_empty() && whole.entries() > 1000);
}

#[test]
fn equal_inputs_give_equal_tables_and_replicas_share_their_sets() {
    let spec = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    let input = cluster(vec![network_policy("p", spec)], vec![]).input();
    let again = PolicyInput { generation: input.generation, ..input.clone() };
    let tables = compile(&input, &node());
    assert_eq!(tables, compile(&again, &node()));
    assert_eq!((tables.pods.len(), tables.sets.len()), (2, 2));
    let mut hooks = tables.pods.values();
    assert_eq!(hooks.next(), hooks.next());
}
