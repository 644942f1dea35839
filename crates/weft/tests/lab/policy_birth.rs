//! The first packet: pods whose first act is to send, and pods that are dialled in a loop from
//! before their birth, on both nodes and across them, until every address was somebody else's
//! before. No packet passes that policy forbids, and those that it allows pass.
//!
//! Two kinds of pods are born in turns, so that addresses change hands between them. `friend`
//! may come in to the guarded one, and sends what it likes; `fresh` may not come in, and may
//! itself send to two ports alone. Each has its own ports, so that who came through a door tells
//! which kind it was, whatever address it had.

use crate::{harness::*, policy_world::*};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};
use weft_lab::probe::{
    doors::Door,
    knock::{Carrier, Knock},
};

/// Pods in all, and how many at once.
const BORN: usize = 1_000;
const AT_ONCE: usize = 50;
/// The whole must end: what was not born by then fails the test.
const TIME_MAX: Duration = Duration::from_secs(420);

const NODES: [&str; 2] = ["node1", "node2"];
/// Of the open pod: where `fresh` must not send, and where it may.
const FORBIDDEN: u16 = 7000;
const PERMITTED: u16 = 7003;
/// Of the guarded pod: where `friend` comes in, and where `fresh` tries to.
const OF_FRIENDS: u16 = 7001;
const OF_FRESH: u16 = 7002;
/// Where newborn pods are dialled. Nobody listens there: a refusal is a packet that came through.
const OF_NEWBORN: u16 = 7005;

fn policy(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "born", "name": name}, "spec": spec,
    })
}

fn policies() -> Vec<Value> {
    let role = |role: &str| json!({"matchLabels": {"role": role}});
    let both = |port: u16| json!([{"port": port}, {"port": port, "protocol": "UDP"}]);
    vec![
        policy(
            "guarded",
            &json!({
                "podSelector": role("guarded"), "policyTypes": ["Ingress"],
                "ingress": [{
                    "from": [{"podSelector": role("friend")}],
                    "ports": [
                        {"port": OF_FRIENDS}, {"port": OF_FRIENDS, "protocol": "UDP"},
                        {"port": OF_FRESH}, {"port": OF_FRESH, "protocol": "UDP"},
                    ],
                }],
            }),
        ),
        policy(
            "fresh",
            &json!({
                "podSelector": role("fresh"), "policyTypes": ["Ingress", "Egress"],
                "egress": [
                    {"to": [{"podSelector": role("guarded")}], "ports": both(OF_FRESH)},
                    {"to": [{"podSelector": role("open")}], "ports": both(PERMITTED)},
                ],
            }),
        ),
        policy("friend", &json!({"podSelector": role("friend"), "policyTypes": ["Ingress"]})),
    ]
}

/// Sends a few datagrams and connections to where it must not (or may), from its first moment;
/// then goes on until it was answered where it may.
fn newborn(name: &str, role: &str, node: &str, [open, guarded]: [IpAddr; 2]) -> Value {
    let (tries, last) = match role {
        "fresh" => {
            (format!("{open}/{FORBIDDEN} {guarded}/{OF_FRESH}"), format!("{open}/{PERMITTED}"))
        }
        _ => (String::new(), format!("{guarded}/{OF_FRIENDS}")),
    };
    let script = format!(
        "for i in 1 2 3; do for t in {tries}; do echo x >/dev/udp/$t; \
         (timeout 1 bash -c \"echo x >/dev/tcp/$t\" &) 2>/dev/null; done; done; \
         echo x >/dev/udp/{last}; until timeout 1 bash -c \"echo x >/dev/tcp/{last}\" 2>/dev/null; \
         do :; done"
    );
    let mut pod = idle_pod("born", name, node, &json!({"role": role}));
    pod["spec"]["restartPolicy"] = json!("Never");
    pod["spec"]["containers"][0]["command"] = json!(["bash", "-c", script]);
    pod
}

/// How often somebody came through a door of a pod.
fn came(world: &mut World, pod: &str, port: u16) -> u64 {
    let probe = world.probes.get_mut(pod).expect("a process");
    let callers = probe.callers().expect("callers");
    callers.iter().filter(|c| c.door.port == port).map(|c| c.times).sum()
}

/// Every address that a pod of these nodes may get: the first of each range, more than are in
/// use at once and less than all, so that a round is short.
fn ranges(lab: &Lab) -> Vec<IpAddr> {
    let said = lab.k(&["get", "nodes", "-o", "jsonpath={.items[*].spec.podCIDR}"]);
    let nets = said.split_whitespace().map(|n| n.parse::<ipnet::Ipv4Net>().expect("a range"));
    nets.flat_map(|n| n.hosts().skip(1)).map(IpAddr::V4).collect()
}

#[test]
fn no_forbidden_first_packet_passes() {
    let name = "no_forbidden_first_packet_passes";
    if !root_or_skip(name) || !kubectl_or_skip(name) {
        return;
    }
    let begin = Instant::now();
    let lab = Lab::up("birth", &["--nodes", "2"]);
    let mut objects = vec![namespace("born", &json!({})), namespace("dials", &json!({}))];
    objects.extend(policies());
    for (i, node) in NODES.iter().enumerate() {
        let role = ["open", "guarded"][i];
        objects.push(idle_pod("born", role, node, &json!({"role": role})));
        objects.push(idle_pod("dials", &format!("dial{i}"), node, &json!({})));
    }
    lab.apply(&texts(&objects));
    let mut world = World::new(lab);
    world.add_markers(&NODES, false);
    world.lab.wait_ready(6);
    for (namespace, pod) in
        [("born", "open"), ("born", "guarded"), ("dials", "dial0"), ("dials", "dial1")]
    {
        world.enter(namespace, pod);
    }
    world.enter_markers();
    let doors = [FORBIDDEN, PERMITTED, OF_FRIENDS, OF_FRESH]
        .into_iter()
        .flat_map(|port| [Carrier::Tcp, Carrier::Udp].map(|carrier| Door { carrier, port }));
    let doors: Vec<Door> = doors.collect();
    for pod in ["born/open", "born/guarded"] {
        world.probes.get_mut(pod).expect("a process").open(doors.clone()).expect("open");
    }
    world.change(&[]);
    // Everybody who was there before is nobody's business.
    let known: BTreeSet<IpAddr> = world.addresses.values().flatten().copied().collect();
    let targets = ranges(&world.lab).into_iter().filter(|a| !known.contains(a));
    let knocks: Vec<Knock> =
        targets.map(|to| Knock { to, carrier: Carrier::Tcp, port: OF_NEWBORN }).collect();
    for dialler in ["dials/dial0", "dials/dial1"] {
        world.probes.get_mut(dialler).expect("a process").sweep(knocks.clone(), 60).expect("sweep");
    }
    let at = [world.addresses["born/open"][0], world.addresses["born/guarded"][0]];
    let mut seen: BTreeSet<IpAddr> = BTreeSet::new();
    let (mut born, mut reused) = (0, 0);
    while born < BORN {
        assert!(
            begin.elapsed() < TIME_MAX,
            "{born} pods in {:?}\n{}",
            begin.elapsed(),
            world.lab.logs()
        );
        let role = if (born / AT_ONCE).is_multiple_of(2) { "friend" } else { "fresh" };
        let names: Vec<String> = (0..AT_ONCE).map(|i| format!("{role}{}", born + i)).collect();
        let pods = names.iter().zip(NODES.iter().cycle());
        let pods: Vec<Value> = pods.map(|(name, node)| newborn(name, role, node, at)).collect();
        world.lab.apply(&texts(&pods));
        let mut addresses = BTreeSet::new();
        let over = poll(|| {
            let status = world.lab.status();
            let all = status["pods"].as_array().cloned().unwrap_or_default();
            let of_batch: Vec<&Value> =
                all.iter().filter(|p| names.iter().any(|n| p["name"] == n.as_str())).collect();
            for pod in &of_batch {
                addresses.extend(pod["ips"][0].as_str().and_then(|a| a.parse::<IpAddr>().ok()));
            }
            of_batch.len() == AT_ONCE && of_batch.iter().all(|p| p["phase"] == "Succeeded")
        });
        assert!(
            over,
            "the pods {role}{born}… did not all reach where they may\n{}",
            world.lab.logs()
        );
        reused += addresses.iter().filter(|a| !seen.insert(**a)).count();
        born += AT_ONCE;
        // Those that are in the way of nobody any more: their addresses are given out again.
        world.lab.k(&[
            "delete",
            "pods",
            "-n",
            "born",
            "-l",
            &format!("role={role}"),
            "--wait=false",
        ]);
        let leaks =
            [came(&mut world, "born/open", FORBIDDEN), came(&mut world, "born/guarded", OF_FRESH)];
        assert_eq!(
            leaks,
            [0, 0],
            "forbidden packets after {born} pods: where fresh may not \
            send, where it may not come in\n{}",
            world.lab.logs()
        );
    }
    let mut rounds = 0;
    for dialler in ["dials/dial0", "dials/dial1"] {
        let probe = world.probes.get_mut(dialler).expect("a process");
        for swept in probe.end_sweeps().expect("sweeps") {
            rounds += swept.rounds;
            assert_eq!(swept.passed, 0, "{dialler}: {:?}\n{}", swept.samples, world.lab.logs());
        }
    }
    let permitted = came(&mut world, "born/open", PERMITTED);
    let friends = came(&mut world, "born/guarded", OF_FRIENDS);
    println!(
        "{born} pods born in {:.0} s, {reused} of them at an address that another had; they came \
         through {permitted} and {friends} times where they may; {rounds} rounds of dialling {} \
         addresses",
        begin.elapsed().as_secs_f64(),
        knocks.len()
    );
    // The proof is about something: all came through where they may, addresses changed hands.
    let each = (BORN / 2) as u64;
    assert!(permitted >= each && friends >= each, "{permitted} and {friends}");
    assert!(reused > 0 && rounds > 10, "{reused} addresses reused, {rounds} rounds");
    world.lab.down();
}
