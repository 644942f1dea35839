//! The plan, driven by a small world in which every action succeeds when the test says so.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

/// A world in which containers do what the test tells them.
struct World {
    pod: Pod,
    obs: Observed,
    now: Timestamp,
    log: Vec<String>,
}

impl World {
    fn new(spec: Value) -> Self {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec}),
        )
        .unwrap();
        let obs = Observed { start_time: Some(now), ..Observed::default() };
        Self { pod, obs, now, log: Vec::new() }
    }

    /// Plans and carries out until nothing is left to do now; returns what was done.
    fn settle(&mut self) -> Vec<String> {
        self.log.clear();
        for _ in 0..100 {
            let plan = plan(&self.pod, &self.obs, self.now);
            let done = self.log.len();
            for a in plan.actions {
                self.carry_out(a);
            }
            if self.log.len() == done {
                return std::mem::take(&mut self.log);
            }
        }
        panic!("the plan never settles: {:?}\n{:#?}", self.log, self.obs);
    }

    fn carry_out(&mut self, a: Action) {
        let now = self.now;
        let spec = self.pod.spec.clone().unwrap();
        match a {
            Action::CreateSandbox => {
                self.log.push("sandbox".into());
                self.obs.sandbox = Sandbox::Ready { ips: vec!["10.0.0.1".parse().unwrap()] };
            }
            Action::Start(name, restart) => {
                self.log.push(format!("{}start {name}", if restart { "re" } else { "" }));
                let started =
                    containers(&spec).any(|(_, c)| c.name == name && c.startup_probe.is_none());
                let o = self.obs.containers.entry(name).or_default();
                if let State::Ended(e) = &o.state {
                    o.last = Some(e.clone());
                    if restart {
                        o.backoff.restarted(e.finished_at, now);
                        o.restarts += 1;
                    }
                }
                o.state = State::Running { since: now };
                (o.started, o.retry_at, o.condemned, o.stop_by) = (started, None, None, None);
            }
            Action::Stop { name, by, .. } => {
                let left = by.duration_since(now).as_secs();
                self.log.push(format!("stop {name} {left}"));
                self.obs.containers.get_mut(&name).unwrap().stop_by = Some(by);
            }
            Action::BackOff { name, .. } => {
                let o = self.obs.containers.get_mut(&name).unwrap();
                if o.retry_at.is_none() {
                    o.retry_at = Some(now);
                    self.log.push(format!("back-off {name}"));
                }
            }
            Action::Initialized => {
                self.log.push("initialized".into());
                self.obs.initialized = true;
            }
            Action::Fail(reason, m) => {
                self.log.push(format!("fail {reason}"));
                self.obs.failed = Some((reason, m));
            }
            Action::CloseSandbox => {
                self.log.push("close".into());
                self.obs.sandbox = Sandbox::Closed;
            }
            Action::Finish => {
                if self.log.last().is_none_or(|l| l != "finish") {
                    self.log.push("finish".into());
                }
            }
        }
    }

    fn exit(&mut self, name: &str, code: i32) {
        let o = self.obs.containers.get_mut(name).unwrap();
        let State::Running { since } = o.state else { panic!("{name} does not run") };
        o.state = State::Ended(Ended {
            code,
            signal: None,
            reason: "x".into(),
            message: None,
            started_at: since,
            finished_at: self.now,
            id: String::new(),
        });
        (o.started, o.stop_by) = (false, None);
    }

    fn pass(&mut self, seconds: i64) {
        self.now = add(self.now, seconds);
    }

    fn delete(&mut self, grace: i64) {
        let t = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(add(self.now, grace));
        self.pod.metadata.deletion_timestamp = Some(t);
        self.pod.metadata.deletion_grace_period_seconds = Some(grace);
    }

    fn wake(&self) -> Option<i64> {
        plan(&self.pod, &self.obs, self.now).wake.map(|t| t.duration_since(self.now).as_secs())
    }
}

#[test]
fn an_ordinary_pod_runs_and_ends() {
    let mut w = World::new(json!({"containers": [{"name": "a"}, {"name": "b"}],
        "terminationGracePeriodSeconds": 7}));
    assert_eq!(w.settle(), ["sandbox", "initialized", "start a", "start b"]);
    assert_eq!(w.settle(), Vec::<String>::new());
    w.delete(7);
    assert_eq!(w.settle(), ["stop a 7", "stop b 7"]);
    w.exit("a", 143);
    assert_eq!(w.settle(), Vec::<String>::new(), "nothing restarts, and b is waited for");
    w.exit("b", 0);
    assert_eq!(w.settle(), ["close", "finish"]);
}

#[test]
fn init_containers_one_by_one_and_sidecars_beside_them() {
    let mut w = World::new(json!({
        "initContainers": [{"name": "i1"},
            {"name": "side", "restartPolicy": "Always", "startupProbe": {}}, {"name": "i2"}],
        "containers": [{"name": "app"}]}));
    assert_eq!(w.settle(), ["sandbox", "start i1"]);
    w.exit("i1", 0);
    assert_eq!(w.settle(), ["start side"]);
    w.obs.containers.get_mut("side").unwrap().started = true;
    assert_eq!(w.settle(), ["start i2"]);
    w.exit("i2", 1);
    assert_eq!(w.settle(), ["restart i2"], "the first restart comes at once");
    w.exit("i2", 0);
    assert_eq!(w.settle(), ["initialized", "start app"]);
    w.exit("side", 0);
    assert_eq!(w.settle(), ["restart side"], "a sidecar is restarted whatever its exit code");
    w.delete(30);
    assert_eq!(w.settle(), ["stop app 30"], "sidecars go on until the containers have ended");
    w.exit("app", 0);
    assert_eq!(w.settle(), ["stop side 30"]);
    w.exit("side", 0);
    assert_eq!(w.settle(), ["close", "finish"]);
}

#[test]
fn a_failed_init_container_of_restart_policy_never_ends_the_pod() {
    let mut w = World::new(json!({"restartPolicy": "Never",
        "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
    w.settle();
    w.exit("i", 2);
    assert_eq!(w.settle(), ["close"], "the app never starts, the object stays");
    assert!(terminal(w.pod.spec.as_ref().unwrap(), &w.obs));
    w.delete(30);
    assert_eq!(w.settle(), ["finish"]);
}

#[test]
fn back_off_grows_and_wakes_in_time() {
    let mut w = World::new(json!({"containers": [{"name": "a"}]}));
    w.settle();
    let mut waits = Vec::new();
    for _ in 0..4 {
        w.exit("a", 1);
        let done = w.settle();
        if done == ["restart a"] {
            waits.push(0);
            continue;
        }
        assert_eq!(done, ["back-off a"]);
        let wait = w.wake().unwrap();
        waits.push(wait);
        w.pass(wait - 1);
        assert_eq!(w.settle(), Vec::<String>::new());
        w.pass(1);
        assert_eq!(w.settle(), ["restart a"]);
    }
    assert_eq!(waits, [0, 10, 20, 40]);
    assert_eq!(w.obs.containers["a"].restarts, 4);
}

#[test]
fn restart_policies() {
    for (policy, code, want) in [
        ("Always", 0, "restart a"),
        ("Always", 1, "restart a"),
        ("OnFailure", 1, "restart a"),
        ("OnFailure", 0, "close"),
        ("Never", 1, "close"),
    ] {
        let mut w = World::new(json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
        w.settle();
        w.exit("a", code);
        assert_eq!(w.settle(), [want], "{policy} {code}");
    }
    let rules = json!({"restartPolicy": "Never", "containers": [{"name": "a",
        "restartPolicyRules": [{"action": "Restart",
            "exitCodes": {"operator": "In", "values": [42]}}]}]});
    let mut w = World::new(rules);
    w.settle();
    w.exit("a", 42);
    assert_eq!(w.settle(), ["restart a"]);
    w.exit("a", 1);
    assert_eq!(w.settle(), ["close"]);
}

#[test]
fn a_condemned_container_is_stopped_once_and_restarted() {
    let mut w = World::new(json!({"containers": [{"name": "a"}]}));
    w.settle();
    w.obs.containers.get_mut("a").unwrap().condemned = Some(("liveness".into(), Some(3)));
    assert_eq!(w.settle(), ["stop a 3"]);
    assert_eq!(w.settle(), Vec::<String>::new());
    w.exit("a", 137);
    assert_eq!(w.settle(), ["restart a"]);
}

#[test]
fn deadline_deletion_and_disappearance() {
    let mut w = World::new(json!({"activeDeadlineSeconds": 60, "containers": [{"name": "a"}]}));
    w.settle();
    assert_eq!(w.wake(), Some(60));
    w.pass(60);
    assert_eq!(w.settle(), ["fail DeadlineExceeded", "stop a 30"]);
    w.delete(5);
    assert_eq!(w.settle(), ["stop a 5"], "a shorter grace period shortens a stop under way");
    w.obs.gone = true;
    assert_eq!(w.settle(), ["stop a 1"]);
    w.exit("a", 137);
    assert_eq!(w.settle(), ["close", "finish"]);
}

#[test]
fn deletion_before_anything_runs() {
    let mut w = World::new(json!({"containers": [{"name": "a"}]}));
    w.delete(30);
    assert_eq!(w.settle(), ["finish"]);
    let mut w = World::new(json!({"containers": [{"name": "a"}]}));
    w.obs.sandbox = Sandbox::Absent { attempts: 2, retry_at: None, dirty: true };
    w.delete(30);
    assert_eq!(w.settle(), ["close", "finish"], "remains are taken down");
    let mut w = World::new(json!({"containers": [{"name": "a"}]}));
    w.obs.sandbox = Sandbox::Creating { attempts: 0 };
    w.delete(30);
    assert_eq!(w.settle(), Vec::<String>::new(), "a creation under way is waited for");
}

#[test]
fn failed_starts_wait_for_their_time() {
    let mut w = World::new(json!({"containers": [{"name": "a"}]}));
    w.obs.sandbox = Sandbox::Ready { ips: vec![] };
    w.obs.initialized = true;
    let o = w.obs.containers.entry("a".into()).or_default();
    o.state = State::Waiting { reason: "CreateContainerConfigError".into(), message: None };
    o.retry_at = Some(add(w.now, 2));
    assert_eq!(w.settle(), Vec::<String>::new());
    assert_eq!(w.wake(), Some(2));
    w.pass(2);
    assert_eq!(w.settle(), ["start a"]);
}

#[test]
fn a_replaced_stand_in_is_no_restart() {
    let mut w = World::new(json!({"containers": [{"name": "a"}]}));
    w.settle();
    let o = w.obs.containers.get_mut("a").unwrap();
    (o.replace, o.condemned) = (true, Some(("ports".into(), Some(0))));
    assert_eq!(w.settle(), ["stop a 0"]);
    w.exit("a", 137);
    assert_eq!(w.settle()[..1], ["start a"]);
    assert_eq!(w.obs.containers["a"].restarts, 0);
}

proptest! {
    /// Whatever happens, in whatever order, the plan settles, a deleted pod ends, and its
    /// containers end before its sandbox is taken down.
    #[test]
    fn every_history_ends(
        policy in prop::sample::select(vec!["Always", "OnFailure", "Never"]),
        events in prop::collection::vec((0usize..6, 0i32..3, 0i64..400), 0..30)
    ) {
        let mut w = World::new(json!({"restartPolicy": policy,
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "a"}, {"name": "b"}]}));
        let mut log = w.settle();
        for (what, code, seconds) in events {
            let name = ["i", "s", "a", "b"].get(what).copied();
            match name {
                Some(n) if w.obs.containers.get(n).is_some_and(ContainerObs::active) => w.exit(n, code),
                Some(_) => {}
                None => w.pass(seconds),
            }
            log.extend(w.settle());
        }
        w.delete(3);
        for _ in 0..6 {
            log.extend(w.settle());
            let active: Vec<_> = w.obs.containers.iter().filter(|(_, o)| o.active())
                .map(|(n, _)| n.clone()).collect();
            prop_assert!(active.is_empty() || !log.contains(&"close".to_owned()), "{log:?}");
            for n in active {
                if w.obs.containers[&n].stop_by.is_some() { w.exit(&n, 137); }
            }
        }
        prop_assert_eq!(log.last().map(String::as_str), Some("finish"), "{:?}", log);
    }
}
