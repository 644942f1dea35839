//! What becomes of writes that the API refuses, and in which steps pods are ended.

use serde_json::json;

use super::*;
use crate::core::{Outcome, Work};
use crate::podgc;

fn started(objects: &[(Kind, Value)]) -> Core {
    let mut core = Core::new(Config::default());
    WATCHED.iter().for_each(|kind| core.handle_change(Change::Absent(*kind)));
    let mut cluster = Cluster::default();
    for (kind, object) in objects {
        let event = kube::runtime::watcher::Event::Apply(cluster.complete(object.clone()));
        core.handle_change(Change::decode(*kind, event));
    }
    core
}

fn makes_pods(action: &&Action) -> bool {
    action.kind == Kind::Pod && matches!(action.verb, Verb::Create(_))
}

/// Answers a round: pods by `answer`, anything else with success.
fn answer(core: &mut Core, works: &[Work], now: Timestamp, mut pod: impl FnMut(&Value) -> Outcome) {
    for work in works {
        for action in &work.actions {
            let outcome = match &action.verb {
                Verb::Create(body) if action.kind != Kind::Event => pod(body),
                _ => Outcome::Done(Value::Null),
            };
            core.handle_answer(&work.key, action, outcome, now);
        }
    }
}

fn reasons(works: &[Work]) -> Vec<&str> {
    let actions = works.iter().flat_map(|work| &work.actions);
    let events = actions.filter(|one| one.kind == Kind::Event);
    events.filter_map(|one| body(one)["reason"].as_str()).collect()
}

#[test]
fn pods_that_are_refused_are_few() {
    let mut core = started(&[(Kind::ReplicaSet, workload("r", json!({"replicas": 500})))]);
    let mut now = at("2026-01-01T00:00:00Z");
    let (mut sizes, mut events, mut number) = (Vec::new(), Vec::new(), 100);
    for _ in 0..9 {
        let works = core.poll(now);
        events.push(reasons(&works).iter().filter(|one| **one == "FailedCreate").count());
        let count = works.iter().flat_map(|work| &work.actions).filter(makes_pods).count();
        if count > 0 {
            sizes.push(count);
        }
        // A quota of seven pods.
        let mut room = 7usize.saturating_sub(core.world.pods.len());
        answer(&mut core, &works, now, |body| {
            if room == 0 {
                return Outcome::Failed("exceeded quota".into());
            }
            room -= 1;
            number += 1;
            let mut made = body.clone();
            made["metadata"]["name"] = format!("r-{number}").into();
            made["metadata"]["uid"] = format!("u-{number}").into();
            made["metadata"]["resourceVersion"] = number.to_string().into();
            Outcome::Done(made)
        });
        now = core.next_timer().map_or(now, |at| now.max(at));
    }
    assert_eq!(sizes[..5], [1, 2, 4, 8, 1], "and from the beginning after a refusal");
    assert!(sizes[5..].iter().all(|size| *size == 1), "{sizes:?}");
    assert!(events.iter().all(|count| *count <= 1), "one for a round: {events:?}");
    assert!(events.iter().sum::<usize>() > 0);
    assert_eq!(core.world.pods.len(), 7);
}

#[test]
fn success_is_told_after_the_answer() {
    let set = (Kind::StatefulSet, workload("s", json!({"replicas": 1})));
    let cron = json!({"metadata": {"name": "c", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": {"spec":
            {"containers": [{"name": "c"}]}}}}}});
    for (owner, wanted) in [
        (set, "create Pod s-0 in StatefulSet s successful"),
        ((Kind::CronJob, cron), "Created job c-29453761"),
    ] {
        for refused in [true, false] {
            let mut core = started(std::slice::from_ref(&owner));
            let now = at("2026-01-01T00:01:30Z");
            let mut told = Vec::new();
            for _ in 0..4 {
                let works = core.poll(now);
                for action in works.iter().flat_map(|work| &work.actions) {
                    if action.kind == Kind::Event {
                        told.push(body(action)["message"].as_str().expect("text").to_owned());
                    }
                }
                answer(&mut core, &works, now, |body| {
                    if refused && body["kind"] != "ControllerRevision" {
                        return Outcome::Failed("no".into());
                    }
                    let mut made = body.clone();
                    made["metadata"]["uid"] = made["metadata"]["name"].clone();
                    made["metadata"]["resourceVersion"] = "100".into();
                    Outcome::Done(made)
                });
            }
            let count = told.iter().filter(|one| *one == wanted).count();
            assert_eq!(count, usize::from(!refused), "{told:?}");
        }
    }
}

#[test]
fn an_orphaned_pod_fails_and_is_deleted_once() {
    let mut cluster = Cluster::default();
    let mut pod = json!({"metadata": {"name": "p", "finalizers": ["example.com/keep"]},
        "spec": {"nodeName": "gone", "containers": []}, "status": {"phase": "Running"}});
    let now = at("2026-01-01T00:00:00Z");
    let step = |cluster: &mut Cluster, pod: &Value| {
        cluster.put(Kind::Pod, pod.clone());
        let since = Timestamp::UNIX_EPOCH;
        podgc::plan(&cluster.world, &Config::default(), since, "ns", "p", now).actions
    };
    let actions = step(&mut cluster, &pod);
    let [patch] = actions.as_slice() else { panic!("{actions:?}") };
    let status = &body(patch)["status"];
    assert_eq!((&status["phase"], &patch.kind), (&json!("Failed"), &Kind::Pod));
    assert_eq!(status["conditions"][0]["type"], "DisruptionTarget");
    assert_eq!(status["conditions"][0]["reason"], "DeletionByPodGC");
    pod["status"] = status.clone();
    let actions = step(&mut cluster, &pod);
    assert!(matches!(&actions[..], [Action { verb: Verb::Delete(how), .. }]
        if how.grace_seconds == Some(0)));
    // Its finalizer holds it: to delete it again would change nothing.
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    pod["metadata"]["deletionGracePeriodSeconds"] = 0.into();
    assert_eq!(step(&mut cluster, &pod), []);
    // Nor one that was never bound.
    pod["spec"]["nodeName"] = Value::Null;
    assert_eq!(step(&mut cluster, &pod), []);
}

#[test]
fn a_pod_that_is_evicted_says_so_first() {
    let mut cluster = Cluster::default();
    let node = json!({"metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"taints": [{"key": "k", "effect": "NoExecute"}]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    cluster.put(Kind::Node, node);
    let mut pod = json!({"metadata": {"name": "p"},
        "spec": {"nodeName": "n", "containers": []}, "status": {"phase": "Running"}});
    let now = at("2026-01-01T00:00:10Z");
    cluster.put(Kind::Pod, pod.clone());
    let plan = nodelife::plan(&cluster.world, &Config::default(), "n", now);
    let [patch] = plan.actions.as_slice() else { panic!("{:?}", plan.actions) };
    let condition = &body(patch)["status"]["conditions"][0];
    assert_eq!(condition["type"], "DisruptionTarget");
    assert_eq!(condition["reason"], "DeletionByTaintManager");
    pod["status"]["conditions"] = json!([condition]);
    cluster.put(Kind::Pod, pod);
    let plan = nodelife::plan(&cluster.world, &Config::default(), "n", now);
    assert!(matches!(of_kind(&plan, Kind::Pod)[..], [Action { verb: Verb::Delete(_), .. }]));
    assert_eq!(of_kind(&plan, Kind::Event).len(), 1);
}
