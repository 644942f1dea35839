//! Policies, pods and namespaces change under load, agents are killed: no allowed connection is
//! hurt, and no forbidden one passes once the change is in force.

use crate::{crash, entrance::*, harness::*, policy_world::*};
use serde_json::{Value, json};
use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};
use weft_lab::probe::{
    doors::Door,
    knock::{Carrier, Heard, Knock},
    load::{Flow, Kind, Report},
};

const NODES: [&str; 2] = ["node1", "node2"];
/// How often a policy is turned for the measure of the delay.
const TURNS: usize = 100;
/// Where nobody but the turned policy lets anybody in.
const TURNED: u16 = 7100;

fn policy(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "default", "name": name}, "spec": spec,
    })
}

fn from(selector: &Value, ports: &Value) -> Value {
    json!({
        "podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"],
        "ingress": [{"from": [selector], "ports": ports}],
    })
}

fn clients() -> Value {
    json!({"podSelector": {"matchLabels": {"role": "client"}}})
}

/// The ports of the server that clients use.
fn served() -> Value {
    json!([{"port": 8080}, {"port": 9000, "protocol": "UDP"}])
}

/// A server on node1, which is asked all the time by `near` and `far`; `banned1` and `banned2`
/// knock all the time and are never let in; `guest` sometimes may.
struct Scene {
    world: World,
    server: Vec<IpAddr>,
}

impl Scene {
    fn new(part: &str) -> Self {
        let lab = Lab::up(part, &["--nodes", "2"]);
        lab.apply(&server("server", "server", "node1"));
        let role = |role: &str| json!({"role": role, "turn": "0"});
        let objects = [
            idle_pod("default", "near", "node1", &role("client")),
            idle_pod("default", "far", "node2", &role("client")),
            idle_pod("default", "banned1", "node1", &role("banned")),
            idle_pod("default", "banned2", "node2", &role("banned")),
            idle_pod("default", "guest", "node2", &role("guest")),
            policy("server", &from(&clients(), &served())),
        ];
        lab.apply(&texts(&objects));
        let mut world = World::new(lab);
        world.add_markers(&NODES, false);
        world.lab.wait_ready(8);
        for pod in ["server", "near", "far", "banned1", "banned2", "guest"] {
            world.enter("default", pod);
        }
        world.enter_markers();
        let tcp = Door { carrier: Carrier::Tcp, port: TURNED };
        let doors = vec![tcp, Door { carrier: Carrier::Udp, port: TURNED }];
        world.probes.get_mut("default/server").expect("a process").open(doors).expect("open");
        world.change(&[]);
        let server = world.addresses["default/server"].clone();
        Self { world, server }
    }

    fn of(&mut self, pod: &str) -> &mut weft_lab::probe::Probe {
        self.world.probes.get_mut(&format!("default/{pod}")).expect("a process")
    }

    /// Lets clients ask and the banned knock.
    fn begin(&mut self) {
        let server = self.server.clone();
        let flow = |kind, to: &IpAddr, port| Flow {
            name: format!("{to} {kind:?}"),
            kind,
            to: SocketAddr::new(*to, port),
            pause_ms: 10,
            timeout_ms: 10_000,
        };
        for pod in ["near", "far"] {
            let flows = server.iter().flat_map(|to| {
                [
                    flow(Kind::Tcp, to, 8080),
                    flow(Kind::KeepAlive, to, 8080),
                    flow(Kind::UdpConnected, to, 9000),
                ]
            });
            let flows = flows.collect();
            self.of(pod).load(flows).expect("load");
        }
        for pod in ["banned1", "banned2"] {
            let knocks = server.iter().flat_map(|to| {
                let at = |carrier, port| Knock { to: *to, carrier, port };
                [
                    at(Carrier::Tcp, 8080),
                    at(Carrier::Udp, 9000),
                    at(Carrier::Tcp, TURNED),
                    at(Carrier::Echo, 0),
                ]
            });
            let knocks = knocks.collect();
            self.of(pod).sweep(knocks, 40).expect("sweep");
        }
        self.progress();
    }

    /// Waits until each flow was answered twice more and each sweep did two more rounds.
    fn progress(&mut self) {
        for pod in ["near", "far"] {
            let before = self.of(pod).answered().expect("answered");
            let more = poll(|| {
                let now = self.of(pod).answered().expect("answered");
                before.iter().zip(now).all(|(b, n)| n >= b + 2)
            });
            assert!(more, "a flow of {pod} stands still\n{}", self.world.lab.logs());
        }
        for pod in ["banned1", "banned2"] {
            let before = self.of(pod).swept().expect("rounds");
            let more = poll(|| {
                let now = self.of(pod).swept().expect("rounds");
                before.iter().zip(now).all(|(b, n)| n >= b + 2)
            });
            assert!(more, "the sweep of {pod} stands still");
        }
    }

    /// Ends the load: nobody missed an answer, and nobody who is banned came through.
    fn end(&mut self, phase: &str) {
        self.progress();
        for pod in ["near", "far"] {
            let reports = self.of(pod).end_load().expect("reports");
            for r in &reports {
                println!(
                    "{phase:<24} {pod:<5} {:<34} answered {:>6}, repeated {:>3}, longest gap {:>4} \
                     ms, failures {:?}",
                    r.name, r.answered, r.repeated, r.longest_gap_ms, r.failures
                );
            }
            let bad: Vec<&Report> =
                reports.iter().filter(|r| !r.failures.is_empty() || r.repeated > 0).collect();
            assert!(bad.is_empty(), "{phase}: {pod}: {bad:#?}\n{}", self.world.lab.logs());
        }
        for pod in ["banned1", "banned2"] {
            for swept in self.of(pod).end_sweeps().expect("sweeps") {
                println!("{phase:<24} {pod:<7} {} rounds of knocking", swept.rounds);
                assert!(
                    swept.passed == 0 && swept.rounds > 0,
                    "{phase}: {pod}: {:?}\n{}",
                    swept.samples,
                    self.world.lab.logs()
                );
            }
        }
    }

    fn label(&self, what: &[&str]) {
        self.world.lab.k(&[&["label", "--overwrite"], what].concat());
    }
}

#[test]
fn what_is_allowed_goes_on_while_policies_change() {
    let name = "what_is_allowed_goes_on_while_policies_change";
    if !root_or_skip(name) || !kubectl_or_skip(name) {
        return;
    }
    let mut scene = Scene::new("churn");
    scene.begin();
    let everybody = json!({"namespaceSelector": {}});
    for turn in 0..8 {
        // Others come, change and go, and the rule that lets clients in moves between policies.
        let other = json!([{"port": 1000 + turn}]);
        let twin = policy("twin", &from(&clients(), &served()));
        let widened = json!({"podSelector": {"matchExpressions": [
            {"key": "role", "operator": "In", "values": ["client", format!("new{turn}")]},
        ]}});
        scene.world.change(&[twin]);
        scene.world.change(&[policy("server", &from(&everybody, &other))]);
        scene.world.change(&[policy("server", &from(&widened, &served()))]);
        scene.world.lab.k(&["delete", "networkpolicy", "twin"]);
        scene.world.change(&[]);
        // Labels that rules ask for, and labels that nobody asks for.
        let label = format!("turn={turn}");
        scene.label(&["pod", "near", "far", "server", "banned1", &label]);
        scene.label(&["namespace", "default", &label]);
        scene.world.change(&[policy("of-turn", &json!({
            "podSelector": {"matchLabels": {"turn": turn.to_string()}}, "policyTypes": ["Egress"],
            "egress": [{}],
        }))]);
    }
    scene.end("policies change");
    scene.world.lab.down();
}

#[test]
fn what_is_closed_is_closed_when_it_is_in_force() {
    let name = "what_is_closed_is_closed_when_it_is_in_force";
    if !root_or_skip(name) || !kubectl_or_skip(name) {
        return;
    }
    let mut scene = Scene::new("turn");
    scene.begin();
    let guest = json!({"podSelector": {"matchLabels": {"role": "guest"}}});
    let ports = json!([{"port": TURNED}, {"port": TURNED, "protocol": "UDP"}, {"port": 8080}]);
    let opened = policy("guest", &from(&guest, &ports));
    let closed = policy(
        "guest",
        &from(&json!({"podSelector": {"matchLabels": {"role": "nobody"}}}), &ports),
    );
    let tried: Vec<(String, Knock)> = scene
        .server
        .iter()
        .flat_map(|to| {
            [Carrier::Tcp, Carrier::Udp].map(|carrier| {
                ("default/guest".to_owned(), Knock { to: *to, carrier, port: TURNED })
            })
        })
        .collect();
    // In force means: at once, without a second try.
    for turn in 0..10 {
        let open = turn % 2 == 0;
        scene.world.change(&[if open { opened.clone() } else { closed.clone() }]);
        let heard = scene.world.passes(&tried, &vec![open; tried.len()]);
        assert!(heard.iter().all(|h| h.passed() == open), "turn {turn}: {heard:?}");
    }
    // A connection that lives when its rule goes: its own packets stop.
    scene.world.change(std::slice::from_ref(&opened));
    let to = SocketAddr::new(scene.server[0], 8080);
    let kept = Flow {
        name: "kept".to_owned(),
        kind: Kind::KeepAlive,
        to,
        pause_ms: 5,
        timeout_ms: 10_000,
    };
    scene.of("guest").load(vec![kept]).expect("load");
    let goes = poll(|| scene.of("guest").answered().expect("answered")[0] > 10);
    assert!(goes, "{}", scene.world.lab.logs());
    scene.world.change(std::slice::from_ref(&closed));
    // What was on its way when the change came into force may be counted after it.
    let before = scene.of("guest").answered().expect("answered")[0];
    scene.progress();
    let after = scene.of("guest").answered().expect("answered")[0];
    assert!(after <= before + 1, "{} answers after the rule was gone", after - before);
    drop(scene.of("guest").end_load());

    // By labels: the guest becomes one who may come in, and not any more.
    scene.world.change(std::slice::from_ref(&opened));
    for turn in 0..6 {
        let open = turn % 2 == 1;
        scene.label(&["pod", "guest", if open { "role=guest" } else { "role=stranger" }]);
        let settled =
            poll(|| scene.world.knock(&tried, SILENCE_MS).iter().all(|h| h.passed() == open));
        assert!(settled, "relabelled, turn {turn}\n{}", scene.world.lab.logs());
    }

    let delays = turn_and_measure(&mut scene, &opened, &closed, &tried[0]);
    let at = |q: f64| delays[((delays.len() - 1) as f64 * q) as usize].as_secs_f64() * 1e3;
    println!(
        "from the answer of the API to enforcement, {} turns: p50 {:.1} ms, p99 {:.1} ms, at most \
         {:.1} ms (steps of a knock, {} pods)",
        delays.len(),
        at(0.5),
        at(0.99),
        at(1.0),
        scene.world.addresses.len()
    );
    assert!(at(0.5) < 1_000.0, "half of the changes take longer than a second");
    scene.end("in force");
    scene.world.lab.down();
}

/// Turns the policy again and again; the times from the API's answer to the first packet that
/// fares as it now should, sorted.
fn turn_and_measure(
    scene: &mut Scene,
    opened: &Value,
    closed: &Value,
    tried: &(String, Knock),
) -> Vec<Duration> {
    /// A knock that is let in is answered in a tenth of this.
    const STEP_MS: u64 = 5;
    let dir = tempfile::tempdir().expect("temporary directory");
    let files = [("open", opened), ("closed", closed)].map(|(name, policy)| {
        let path = dir.path().join(format!("{name}.yaml"));
        std::fs::write(&path, policy.to_string()).expect("write");
        path
    });
    let mut delays = Vec::with_capacity(TURNS);
    for turn in 0..TURNS {
        let open = turn % 2 == 1;
        scene.world.lab.apply_file(&files[usize::from(!open)]);
        let begin = Instant::now();
        // Silence of one step may be a busy machine; of two in a row it is a verdict.
        let mut as_wanted = 0;
        let turned = poll(|| {
            let heard = scene.world.knock(std::slice::from_ref(tried), STEP_MS);
            as_wanted =
                if heard.iter().all(|h: &Heard| h.passed() == open) { as_wanted + 1 } else { 0 };
            as_wanted >= if open { 1 } else { 2 }
        });
        assert!(turned, "turn {turn}\n{}", scene.world.lab.logs());
        delays.push(begin.elapsed());
    }
    delays.sort();
    delays
}

#[test]
fn killed_agents_change_no_verdict() {
    let name = "killed_agents_change_no_verdict";
    if !root_or_skip(name) || !kubectl_or_skip(name) {
        return;
    }
    let mut scene = Scene::new("killed");
    scene.begin();
    for turn in 0..3 {
        for node in NODES {
            crash::kill_agent(&scene.world.lab, node);
            // The next one serves when a later change is in force there.
            scene.world.change(&[]);
        }
        // A change while nobody is there to make it is made by who comes.
        for node in NODES {
            crash::signal(crash::pid_of(&scene.world.lab, node, "agent"), "-KILL");
        }
        scene.world.change(&[policy(
            &format!("late{turn}"),
            &json!({"podSelector": {"matchLabels": {"role": "late"}}}),
        )]);
    }
    scene.end("agents killed");
    scene.world.lab.down();
}
