//! Jobs played through: the test is their user and the kubelet.

use serde_json::{Value, json};

use crate::action::Delete;
use crate::config::Config;
use crate::kinds::Kind;
use crate::simulation::bench::Bench;

const NS: &str = "ns";
const TRACKING: &str = "batch.kubernetes.io/job-tracking";

struct Play {
    bench: Bench,
}

impl Play {
    fn new(spec: Value) -> Self {
        let long = std::time::Duration::from_secs(1 << 30);
        let config = Config { node_grace: long, orphan_pod_grace: long, ..Config::default() };
        let mut bench = Bench::new(7, config);
        bench.api.create(Kind::Namespace, "", json!({"metadata": {"name": NS}}));
        bench.api.create(
            Kind::Node,
            "",
            json!({"metadata": {"name": "n"},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
        );
        let mut job = json!({"metadata": {"name": "j"}, "spec": {
            "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "x"}},
            "backoffLimit": 6, "completionMode": "NonIndexed", "parallelism": 1,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}}});
        for (key, value) in spec.as_object().expect("fields") {
            job["spec"][key] = value.clone();
        }
        bench.api.create(Kind::Job, NS, job);
        bench.relist_all();
        let mut play = Self { bench };
        play.bench.run();
        play
    }

    fn job(&self) -> &Value {
        self.bench.api.get(Kind::Job, NS, "j").expect("the Job")
    }

    fn status(&self, field: &str) -> &Value {
        &self.job()["status"][field]
    }

    /// Status and reason of a condition.
    fn condition(&self, kind: &str) -> Option<(&str, &str)> {
        let all = self.status("conditions").as_array()?;
        let one = all.iter().find(|one| one["type"] == kind)?;
        Some((one["status"].as_str()?, one["reason"].as_str()?))
    }

    /// Pods at work, in the order of their names: index and name.
    fn working(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        self.bench
            .api
            .list(Kind::Pod)
            .filter(|pod| {
                let phase = pod["status"]["phase"].as_str().unwrap_or("Pending");
                pod["metadata"]["deletionTimestamp"].is_null()
                    && !["Failed", "Succeeded"].contains(&phase)
            })
            .map(|pod| {
                let index =
                    &pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"];
                (text(index), text(&pod["metadata"]["name"]))
            })
            .collect()
    }

    fn indexes(&self) -> Vec<String> {
        self.working().into_iter().map(|(index, _)| index).collect()
    }

    /// A pod ends with this code.
    fn end(&mut self, name: &str, code: i32) {
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        let time = super::super::simulation::bench::time_of(&self.bench);
        let body = json!({"status": {"phase": phase, "containerStatuses": [
            {"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": code, "finishedAt": time}}}]}});
        self.bench.api.merge(Kind::Pod, NS, name, &body);
        self.bench.run();
    }

    /// The first working pod (of an index) ends.
    fn end_of(&mut self, index: &str, code: i32) {
        let pods = self.working();
        let (_, name) = pods.iter().find(|(of, _)| of == index).expect("a pod").clone();
        self.end(&name, code);
    }

    /// Kubelets end what is deleted.
    fn reap(&mut self) {
        let deleting: Vec<String> = self
            .bench
            .api
            .list(Kind::Pod)
            .filter(|pod| !pod["metadata"]["deletionTimestamp"].is_null())
            .map(|pod| pod["metadata"]["name"].as_str().expect("a name").to_owned())
            .collect();
        for name in deleting {
            let now = Delete { grace_seconds: Some(0), ..Delete::default() };
            self.bench.api.delete(Kind::Pod, NS, &name, &now);
        }
        self.bench.run();
    }

    fn patch(&mut self, body: &Value) {
        self.bench.api.merge(Kind::Job, NS, "j", body);
        self.bench.run();
    }

    fn assert_nothing_is_tracked(&self) {
        for pod in self.bench.api.list(Kind::Pod) {
            let finalizers = pod["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
            assert!(!finalizers.contains(&json!(TRACKING)), "{pod}");
        }
    }
}

#[test]
fn completes() {
    let mut play = Play::new(json!({"completions": 3, "parallelism": 2}));
    assert_eq!(play.working().len(), 2);
    for pod in play.bench.api.list(Kind::Pod) {
        assert_eq!(pod["metadata"]["finalizers"], json!([TRACKING]));
        assert_eq!(pod["metadata"]["labels"]["batch.kubernetes.io/job-name"], "j");
    }
    assert_eq!(*play.status("active"), 2);
    assert!(!play.status("startTime").is_null());
    play.end_of("", 0);
    assert_eq!((play.status("succeeded"), play.working().len()), (&json!(1), 2));
    play.end_of("", 0);
    assert_eq!(play.working().len(), 1, "no more than are missing");
    play.end_of("", 0);
    assert_eq!(*play.status("succeeded"), 3);
    assert_eq!(*play.status("uncountedTerminatedPods"), json!({}));
    let done = Some(("True", "CompletionsReached"));
    assert_eq!((play.condition("SuccessCriteriaMet"), play.condition("Complete")), (done, done));
    assert!(!play.status("completionTime").is_null());
    play.assert_nothing_is_tracked();
    assert_eq!(play.bench.api.list(Kind::Pod).count(), 3, "they stay for their logs");
}

#[test]
fn what_is_counted_may_go() {
    let mut play = Play::new(json!({"completions": 2, "parallelism": 2, "backoffLimit": 9}));
    play.end_of("", 0);
    let gone = play.bench.api.list(Kind::Pod).find(|pod| pod["status"]["phase"] == "Succeeded");
    let name = gone.expect("it")["metadata"]["name"].as_str().expect("a name").to_owned();
    let now = Delete { grace_seconds: Some(0), ..Delete::default() };
    play.bench.api.delete(Kind::Pod, NS, &name, &now);
    play.bench.run();
    assert_eq!((play.status("succeeded"), play.working().len()), (&json!(1), 1));
    // A pod that somebody deletes has failed, and another takes its place after a pause.
    let (_, name) = play.working()[0].clone();
    play.bench.api.delete(Kind::Pod, NS, &name, &Delete::default());
    play.bench.run();
    assert_eq!((play.status("failed"), play.status("terminating")), (&json!(1), &json!(1)));
    play.bench.wait(11);
    assert_eq!(play.working().len(), 1);
    play.reap();
    assert_eq!(play.bench.api.list(Kind::Pod).count(), 1);
    play.end_of("", 0);
    assert_eq!(play.condition("Complete"), Some(("True", "CompletionsReached")));
    assert_eq!((play.status("succeeded"), play.status("failed")), (&json!(2), &json!(1)));
}

#[test]
fn failures_pause_and_end() {
    let mut play = Play::new(json!({"completions": 1, "backoffLimit": 2}));
    for (failures, pause) in [(1, 10), (2, 20)] {
        play.end_of("", 1);
        assert_eq!((play.status("failed"), play.working().len()), (&json!(failures), 0));
        play.bench.wait(pause - 1);
        assert_eq!(play.working().len(), 0, "after failure {failures}");
        play.bench.wait(2);
        assert_eq!(play.working().len(), 1);
    }
    play.end_of("", 1);
    let failed = Some(("True", "BackoffLimitExceeded"));
    assert_eq!((play.condition("FailureTarget"), play.condition("Failed")), (failed, failed));
    assert_eq!(*play.status("failed"), 3);
    play.assert_nothing_is_tracked();
}

#[test]
fn the_deadline_ends_what_runs() {
    let mut play =
        Play::new(json!({"completions": 5, "parallelism": 2, "activeDeadlineSeconds": 30}));
    play.bench.wait(29);
    assert_eq!(play.working().len(), 2);
    play.bench.wait(2);
    assert_eq!(play.working().len(), 0);
    assert_eq!(play.condition("FailureTarget"), Some(("True", "DeadlineExceeded")));
    assert_eq!(play.condition("Failed"), None, "its pods have not ended yet");
    play.reap();
    assert_eq!(play.condition("Failed"), Some(("True", "DeadlineExceeded")));
    assert_eq!(*play.status("failed"), 2);
}

#[test]
fn suspends_and_resumes() {
    let mut play = Play::new(json!({"completions": 2, "parallelism": 2, "suspend": true}));
    assert_eq!(play.working().len(), 0);
    assert_eq!(play.condition("Suspended"), Some(("True", "JobSuspended")));
    assert!(play.status("startTime").is_null());
    play.patch(&json!({"spec": {"suspend": false}}));
    assert_eq!(play.working().len(), 2);
    assert_eq!(play.condition("Suspended"), Some(("False", "JobResumed")));
    let started = play.status("startTime").clone();
    play.end_of("", 0);
    play.bench.wait(5);
    play.patch(&json!({"spec": {"suspend": true}}));
    play.reap();
    assert_eq!(play.working().len(), 0);
    assert_eq!(play.bench.api.list(Kind::Pod).count(), 1, "the one that succeeded");
    assert!(play.status("failed").is_null(), "what was given up has not failed");
    play.patch(&json!({"spec": {"suspend": false}}));
    assert_ne!(*play.status("startTime"), started);
    assert_eq!(play.working().len(), 1);
    play.end_of("", 0);
    assert_eq!(play.condition("Complete"), Some(("True", "CompletionsReached")));
    // Fewer at a time: one is given up, and does not count as failed.
    let mut play = Play::new(json!({"completions": 5, "parallelism": 3}));
    play.patch(&json!({"spec": {"parallelism": 1}}));
    play.reap();
    assert_eq!((play.working().len(), play.status("failed")), (1, &Value::Null));
}

#[test]
fn every_index_succeeds_once() {
    let mut play =
        Play::new(json!({"completions": 4, "parallelism": 3, "completionMode": "Indexed"}));
    assert_eq!(play.indexes(), ["0", "1", "2"]);
    for pod in play.bench.api.list(Kind::Pod) {
        let index = &pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"];
        let host = format!("j-{}", index.as_str().expect("an index"));
        assert_eq!(pod["spec"]["hostname"], host);
        let variable = &pod["spec"]["containers"][0]["env"][0];
        assert_eq!(variable["name"], "JOB_COMPLETION_INDEX");
        let path = "metadata.labels['batch.kubernetes.io/job-completion-index']";
        assert_eq!(variable["valueFrom"]["fieldRef"]["fieldPath"], path);
    }
    play.end_of("2", 0);
    assert_eq!(play.indexes(), ["0", "1", "3"]);
    play.end_of("1", 3);
    play.bench.wait(11);
    assert_eq!(play.indexes(), ["0", "1", "3"]);
    play.end_of("3", 0);
    assert_eq!(*play.status("completedIndexes"), "2,3");
    play.end_of("0", 0);
    play.end_of("1", 0);
    assert_eq!(*play.status("completedIndexes"), "0-3");
    assert_eq!((play.status("succeeded"), play.status("failed")), (&json!(4), &json!(1)));
    assert_eq!(play.condition("Complete"), Some(("True", "CompletionsReached")));
    play.assert_nothing_is_tracked();
}

#[test]
fn every_index_fails_for_itself() {
    let mut play = Play::new(json!({"completions": 3, "parallelism": 3, "backoffLimitPerIndex": 1,
        "completionMode": "Indexed", "backoffLimit": 2_147_483_647}));
    play.end_of("1", 1);
    play.bench.wait(11);
    let again = play.working().into_iter().find(|(index, _)| index == "1").expect("again").1;
    let pod = play.bench.api.get(Kind::Pod, NS, &again).expect("it");
    let failures = &pod["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"];
    assert_eq!(failures, "1");
    play.end_of("1", 1);
    assert_eq!(*play.status("failedIndexes"), "1");
    play.bench.wait(100);
    assert_eq!(play.indexes(), ["0", "2"], "it is not tried again, the others go on");
    play.end_of("0", 0);
    play.end_of("2", 0);
    assert_eq!(play.condition("Failed"), Some(("True", "FailedIndexes")));
    assert_eq!(*play.status("completedIndexes"), "0,2");
    assert_eq!(*play.status("failed"), 2);
    play.assert_nothing_is_tracked();

    let mut play = Play::new(json!({"completions": 3, "parallelism": 3, "backoffLimitPerIndex": 0,
        "maxFailedIndexes": 0, "completionMode": "Indexed", "backoffLimit": 2_147_483_647}));
    play.end_of("0", 1);
    play.reap();
    assert_eq!(play.condition("Failed"), Some(("True", "MaxFailedIndexesExceeded")));
}

#[test]
fn rules_decide_about_failures() {
    let rules = json!({"rules": [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]});
    let spec = json!({"completions": 2, "parallelism": 2, "backoffLimit": 0,
        "podFailurePolicy": rules, "podReplacementPolicy": "Failed"});
    let mut play = Play::new(spec.clone());
    let (_, name) = play.working()[0].clone();
    let body = json!({"status": {"phase": "Failed", "conditions": [
        {"type": "DisruptionTarget", "status": "True"}]}});
    play.bench.api.merge(Kind::Pod, NS, &name, &body);
    play.bench.wait(11);
    assert_eq!((play.status("failed"), play.condition("FailureTarget")), (&Value::Null, None));
    assert_eq!(play.working().len(), 2, "another takes its place");
    let (_, name) = play.working()[0].clone();
    play.end(&name, 42);
    play.reap();
    assert_eq!(play.condition("Failed"), Some(("True", "PodFailurePolicy")));
    let all = play.status("conditions").as_array().expect("conditions");
    let message = format!(
        "Container c for pod ns/{name} failed with exit code 42 matching FailJob rule at index 0"
    );
    assert!(all.iter().all(|one| one["message"] == message), "{all:?}");

    // Only what has ended is replaced.
    let mut play = Play::new(spec);
    let (_, name) = play.working()[0].clone();
    play.bench.api.delete(Kind::Pod, NS, &name, &Delete::default());
    play.bench.wait(60);
    assert_eq!((play.working().len(), play.status("failed")), (1, &Value::Null));
}

#[test]
fn some_successes_may_be_enough() {
    let mut play = Play::new(json!({"completions": 4, "parallelism": 4,
        "completionMode": "Indexed",
        "successPolicy": {"rules": [{"succeededIndexes": "0,2-3", "succeededCount": 2}]}}));
    play.end_of("1", 0);
    play.end_of("0", 0);
    assert_eq!(play.condition("SuccessCriteriaMet"), None);
    play.end_of("3", 0);
    assert_eq!(play.condition("SuccessCriteriaMet"), Some(("True", "SuccessPolicy")));
    assert_eq!(play.working().len(), 0, "the rest is ended");
    assert_eq!(play.condition("Complete"), None);
    play.reap();
    assert_eq!(play.condition("Complete"), Some(("True", "SuccessPolicy")));
    assert!(play.status("failed").is_null());
    play.assert_nothing_is_tracked();
}

#[test]
fn its_time_after_the_end_is_limited() {
    let mut play = Play::new(json!({"completions": 1, "ttlSecondsAfterFinished": 60}));
    play.end_of("", 0);
    play.bench.wait(59);
    assert!(play.bench.api.get(Kind::Job, NS, "j").is_some());
    play.bench.wait(5);
    play.reap();
    play.bench.wait(1);
    assert!(play.bench.api.get(Kind::Job, NS, "j").is_none());
    assert_eq!(play.bench.api.list(Kind::Pod).count(), 0);
}

#[test]
fn pods_of_a_job_that_is_gone_are_let_go() {
    for (propagation, left) in [("Background", 0), ("Orphan", 2)] {
        let mut play = Play::new(json!({"completions": 2, "parallelism": 2}));
        let how = Delete { propagation: Some(propagation), ..Delete::default() };
        play.bench.api.delete(Kind::Job, NS, "j", &how);
        play.bench.run();
        play.bench.wait(1);
        play.reap();
        assert!(play.bench.api.get(Kind::Job, NS, "j").is_none());
        play.assert_nothing_is_tracked();
        assert_eq!(play.bench.api.list(Kind::Pod).count(), left, "{propagation}");
    }
}

#[test]
fn another_controller_may_have_it() {
    let play = Play::new(json!({"completions": 1, "managedBy": "example.com/other"}));
    assert_eq!((play.working().len(), &play.job()["status"]), (0, &Value::Null));
}

/// More than the lists take in at once.
#[test]
fn many_ends_at_once_are_counted() {
    let count = 620;
    let mut play = Play::new(json!({"completions": count, "parallelism": count}));
    assert_eq!(play.working().len(), count);
    let body = json!({"status": {"phase": "Succeeded"}});
    for (_, name) in play.working() {
        play.bench.api.merge(Kind::Pod, NS, &name, &body);
    }
    play.bench.run();
    assert_eq!(*play.status("succeeded"), count);
    assert_eq!(play.condition("Complete"), Some(("True", "CompletionsReached")));
    play.assert_nothing_is_tracked();
}
