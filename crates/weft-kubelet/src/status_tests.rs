use super::*;
use serde_json::{Value, json};

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "generation": 2},
        "spec": spec}))
    .unwrap()
}

fn at(s: i64) -> Timestamp {
    Timestamp::from_second(s).unwrap()
}

fn running() -> ContainerObs {
    ContainerObs {
        state: State::Running { since: at(10) },
        started: true,
        ready: true,
        id: "x".into(),
        ..ContainerObs::default()
    }
}

fn ended(code: i32) -> ContainerObs {
    ContainerObs {
        state: State::Ended(Ended {
            code,
            signal: None,
            reason: if code == 0 { "Completed" } else { "Error" }.into(),
            message: None,
            started_at: at(10),
            finished_at: at(11),
            id: "x".into(),
        }),
        id: "x".into(),
        ..ContainerObs::default()
    }
}

fn ready(ips: &[&str]) -> Sandbox {
    Sandbox::Ready { ips: ips.iter().map(|i| i.parse().unwrap()).collect() }
}

fn observed(list: &[(&str, ContainerObs)]) -> Observed {
    Observed {
        sandbox: ready(&["10.0.0.1", "fd00::1"]),
        initialized: true,
        start_time: Some(at(5)),
        containers: list.iter().map(|(n, o)| ((*n).to_owned(), o.clone())).collect(),
        ..Observed::default()
    }
}

fn show(pod: &Pod, obs: &Observed, previous: &PodStatus) -> PodStatus {
    status(pod, obs, &["172.30.1.10".parse().unwrap()], previous, at(100))
}

fn condition(s: &PodStatus, t: &str) -> (String, String) {
    let c = s.conditions.iter().flatten().find(|c| c.type_ == t);
    c.map(|c| (c.status.clone(), c.reason.clone().unwrap_or_default())).unwrap_or_default()
}

const TWO: &str = r#"{"containers": [{"name": "a", "image": "i"}, {"name": "b"}]}"#;

fn two(policy: &str) -> Pod {
    let mut spec: Value = serde_json::from_str(TWO).unwrap();
    spec["restartPolicy"] = json!(policy);
    pod(spec)
}

#[test]
fn phases() {
    let p = |policy: &str, a: ContainerObs, b: ContainerObs| {
        let s = show(&two(policy), &observed(&[("a", a), ("b", b)]), &PodStatus::default());
        s.phase.unwrap()
    };
    let new = ContainerObs::default;
    assert_eq!(p("Always", running(), running()), "Running");
    assert_eq!(p("Always", running(), new()), "Pending");
    assert_eq!(p("Always", ended(1), ended(0)), "Running", "they will be restarted");
    assert_eq!(p("OnFailure", ended(1), ended(0)), "Running");
    assert_eq!(p("OnFailure", ended(0), ended(0)), "Succeeded");
    assert_eq!(p("Never", ended(1), ended(0)), "Failed");
    assert_eq!(p("Never", running(), ended(1)), "Running");
    let mut obs = observed(&[("a", running())]);
    obs.failed = Some(("DeadlineExceeded".into(), "m".into()));
    let s = show(&two("Always"), &obs, &PodStatus::default());
    assert_eq!(
        (s.phase.as_deref(), s.reason.as_deref()),
        (Some("Failed"), Some("DeadlineExceeded"))
    );
}

#[test]
fn a_deleted_pod_that_has_ended_is_terminal() {
    let mut pod = two("Always");
    pod.metadata.deletion_timestamp = Some(seconds(at(50)));
    let phase = |a, b| show(&pod, &observed(&[("a", a), ("b", b)]), &PodStatus::default()).phase;
    assert_eq!(phase(ended(0), ended(0)).unwrap(), "Succeeded");
    assert_eq!(phase(ended(137), ended(0)).unwrap(), "Failed");
    assert_eq!(phase(running(), ended(0)).unwrap(), "Running");
}

#[test]
fn readiness_conditions_and_gates() {
    let spec = json!({"containers": [{"name": "a"}],
        "readinessGates": [{"conditionType": "example.com/lb"}]});
    let mut o = running();
    o.ready = false;
    let s = show(&pod(spec.clone()), &observed(&[("a", o)]), &PodStatus::default());
    assert_eq!(condition(&s, "Ready"), ("False".into(), "ContainersNotReady".into()));
    let s = show(&pod(spec.clone()), &observed(&[("a", running())]), &s);
    assert_eq!(condition(&s, "ContainersReady").0, "True");
    assert_eq!(condition(&s, "Ready"), ("False".into(), "ReadinessGatesNotReady".into()));
    let mut previous = s.clone();
    previous.conditions.as_mut().unwrap().push(PodCondition {
        type_: "example.com/lb".into(),
        status: "True".into(),
        ..Default::default()
    });
    let s = show(&pod(spec), &observed(&[("a", running())]), &previous);
    assert_eq!(condition(&s, "Ready").0, "True");
    assert_eq!(condition(&s, "example.com/lb").0, "True", "conditions of others stay");
    assert_eq!(condition(&s, "PodReadyToStartContainers").0, "True");
}

#[test]
fn transition_times_change_only_with_the_status() {
    let p = two("Always");
    let one = show(&p, &observed(&[("a", running()), ("b", running())]), &PodStatus::default());
    let obs = observed(&[("a", running()), ("b", running())]);
    let again = status(&p, &obs, &["172.30.1.10".parse().unwrap()], &one, at(999));
    assert_eq!(one, again, "the same observations give the same status at any time");
}

#[test]
fn addresses_and_containers() {
    let mut b = running();
    (b.stand_in, b.restarts) = (true, 2);
    b.last = ended(3).ended().cloned();
    let s = show(&two("Always"), &observed(&[("a", running()), ("b", b)]), &PodStatus::default());
    assert_eq!(s.pod_ip.as_deref(), Some("10.0.0.1"));
    assert_eq!(s.pod_ips.unwrap().len(), 2);
    assert_eq!(s.host_ip.as_deref(), Some("172.30.1.10"));
    assert_eq!(s.qos_class.as_deref(), Some("BestEffort"));
    let c = s.container_statuses.unwrap();
    assert_eq!((c[0].image.as_str(), c[0].image_id.as_str()), ("i", "weft://host"));
    assert_eq!((c[1].image_id.as_str(), c[1].restart_count), (STAND_IN_IMAGE, 2));
    let last = c[1].last_state.clone().unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));
    assert!(c[1].ready && c[1].started == Some(true));
}

#[test]
fn a_waiting_restart_is_crash_loop_back_off() {
    let mut o = ended(1);
    o.backoff.restarted(at(1), at(1));
    o.backoff.restarted(at(2), at(2));
    o.backoff.restarted(at(3), at(3));
    o.backoff.restarted(at(4), at(4));
    o.retry_at = Some(at(200));
    let s = show(&two("Always"), &observed(&[("a", o), ("b", running())]), &PodStatus::default());
    let c = &s.container_statuses.as_ref().unwrap()[0];
    let w = c.state.clone().unwrap().waiting.unwrap();
    assert_eq!(w.reason.as_deref(), Some("CrashLoopBackOff"));
    assert!(w.message.unwrap().starts_with("back-off 1m20s restarting"));
    assert_eq!(c.last_state.clone().unwrap().terminated.unwrap().exit_code, 1);
    assert_eq!(s.phase.as_deref(), Some("Running"));
}

#[test]
fn before_the_init_containers_are_done() {
    let p = pod(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
    let mut obs = observed(&[("i", running())]);
    obs.initialized = false;
    let s = show(&p, &obs, &PodStatus::default());
    assert_eq!(s.phase.as_deref(), Some("Pending"));
    assert_eq!(condition(&s, "Initialized"), ("False".into(), "ContainersNotInitialized".into()));
    let w = s.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
    assert_eq!(w.reason.as_deref(), Some("PodInitializing"));
    obs.containers.insert("i".into(), ended(0));
    obs.initialized = true;
    let s = show(&p, &obs, &PodStatus::default());
    assert_eq!(condition(&s, "Initialized").0, "True");
    assert!(s.init_container_statuses.unwrap()[0].ready, "a completed init container is ready");
}

#[test]
fn addresses_stay_after_the_sandbox_is_gone() {
    let p = two("Never");
    let obs = observed(&[("a", ended(0)), ("b", ended(0))]);
    let one = show(&p, &obs, &PodStatus::default());
    let s = show(&p, &Observed { sandbox: Sandbox::Closed, ..obs }, &one);
    assert_eq!(s.pod_ip.as_deref(), Some("10.0.0.1"));
    assert_eq!(condition(&s, "Ready"), ("False".into(), "PodCompleted".into()));
}
