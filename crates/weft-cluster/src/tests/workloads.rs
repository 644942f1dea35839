//! Workloads played through: the test is their user and the kubelet.

use serde_json::{Value, json};

use crate::action::Delete;
use crate::config::Config;
use crate::kinds::Kind;
use crate::simulation::bench::{Bench, time_of};

const NS: &str = "ns";

struct Play {
    bench: Bench,
}

impl Play {
    fn new(nodes: usize) -> Self {
        let long = std::time::Duration::from_secs(1 << 30);
        let config = Config { node_grace: long, orphan_pod_grace: long, ..Config::default() };
        let mut bench = Bench::new(7, config);
        bench.api.create(Kind::Namespace, "", json!({"metadata": {"name": NS}}));
        for node in 0..nodes {
            let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
            let node = json!({"metadata": {"name": format!("n{node}")}, "status": ready});
            bench.api.create(Kind::Node, "", node);
        }
        bench.relist_all();
        Self { bench }
    }

    fn create(&mut self, kind: Kind, name: &str, spec: Value) {
        let selector = match kind {
            Kind::ReplicationController => json!({"app": name}),
            _ => json!({"matchLabels": {"app": name}}),
        };
        let mut object = json!({"metadata": {"name": name}, "spec": {"selector": selector,
            "template": {"metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "one"}]}}}});
        for (key, value) in spec.as_object().expect("fields") {
            object["spec"][key] = value.clone();
        }
        self.bench.api.create(kind, NS, object);
        self.bench.run();
    }

    fn update(&mut self, kind: Kind, name: &str, image: &str) {
        let body = json!({"spec": {"template": {"spec": {"containers": [
            {"name": "c", "image": image}]}}}});
        self.bench.api.merge(kind, NS, name, &body);
        self.bench.run();
    }

    fn pods(&self) -> Vec<Value> {
        self.bench.api.list(Kind::Pod).cloned().collect()
    }

    fn deleting(&self) -> Vec<String> {
        let gone = |pod: &&Value| !pod["metadata"]["deletionTimestamp"].is_null();
        self.pods().iter().filter(gone).map(name).collect()
    }

    /// Kubelets say that pods of this image are ready.
    fn ready(&mut self, image: &str) {
        let time = time_of(&self.bench);
        for pod in self.pods() {
            if pod["spec"]["containers"][0]["image"] == image && !pod["spec"]["nodeName"].is_null()
            {
                let status = json!({"status": {"phase": "Running", "conditions": [
                    {"type": "Ready", "status": "True", "lastTransitionTime": time}]}});
                self.bench.api.merge(Kind::Pod, NS, &name(&pod), &status);
            }
        }
        self.bench.run();
    }

    /// Kubelets end what is deleted.
    fn reap(&mut self) {
        for name in self.deleting() {
            let now = Delete { grace_seconds: Some(0), ..Delete::default() };
            self.bench.api.delete(Kind::Pod, NS, &name, &now);
        }
        self.bench.run();
    }

    fn status(&self, kind: Kind, name: &str) -> Value {
        self.bench.api.get(kind, NS, name).expect("it")["status"].clone()
    }
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().expect("a name").to_owned()
}

#[test]
fn a_stateful_set_may_lose_several_at_once() {
    let mut play = Play::new(1);
    let spec = json!({"replicas": 5, "podManagementPolicy": "Parallel", "serviceName": "s",
        "updateStrategy": {"type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": 2, "partition": 1}}});
    play.create(Kind::StatefulSet, "s", spec);
    play.ready("one");
    assert_eq!(play.pods().len(), 5);
    play.update(Kind::StatefulSet, "s", "two");
    assert_eq!(play.deleting(), ["s-3", "s-4"], "the highest first");
    play.reap();
    assert_eq!(play.deleting(), [""; 0], "two are away still");
    play.ready("two");
    assert_eq!(play.deleting(), ["s-1", "s-2"]);
    play.reap();
    play.ready("two");
    assert_eq!(play.deleting(), [""; 0], "the partition holds the last one back");
    assert_eq!(play.status(Kind::StatefulSet, "s")["updatedReplicas"], 4);
}

#[test]
fn daemons_are_bound_by_the_scheduler() {
    let mut play = Play::new(2);
    play.create(Kind::DaemonSet, "d", json!({}));
    let pods = play.pods();
    assert_eq!(pods.len(), 2);
    for pod in &pods {
        let term = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/\
            nodeSelectorTerms/0/matchFields/0";
        let field = pod.pointer(term).expect("a field");
        assert_eq!((&field["key"], &field["operator"]), (&json!("metadata.name"), &json!("In")));
        assert_eq!(field["values"], json!([pod["spec"]["nodeName"]]));
    }
}

#[test]
fn daemons_surge() {
    let mut play = Play::new(3);
    let strategy = json!({"type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    play.create(Kind::DaemonSet, "d", json!({"updateStrategy": strategy}));
    play.ready("one");
    play.update(Kind::DaemonSet, "d", "two");
    assert_eq!((play.pods().len(), play.deleting().len()), (4, 0), "one comes beside the old");
    for round in 1..=3 {
        play.ready("two");
        assert_eq!(play.deleting().len(), 1, "an old one goes once the new one serves");
        play.reap();
        let new = |pod: &&Value| pod["spec"]["containers"][0]["image"] == "two";
        let count = play.pods().iter().filter(new).count();
        assert_eq!(count, (round + 1).min(3));
    }
    play.ready("two");
    assert_eq!(play.pods().len(), 3);
    assert_eq!(play.status(Kind::DaemonSet, "d")["updatedNumberScheduled"], 3);
}

#[test]
fn budgets_count() {
    let mut play = Play::new(1);
    play.create(Kind::Deployment, "web", json!({"replicas": 4}));
    let budget = |spec: Value| {
        let mut budget = json!({"metadata": {"name": "b"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}}});
        spec.as_object().expect("fields").iter().for_each(|(key, value)| {
            budget["spec"][key] = value.clone();
        });
        budget
    };
    let numbers = |play: &Play| {
        let status = play.status(Kind::PodDisruptionBudget, "b");
        let number = |field: &str| status[field].as_i64().expect("a number");
        let reason = status["conditions"][0]["reason"].as_str().expect("a reason").to_owned();
        let all = ["expectedPods", "desiredHealthy", "currentHealthy", "disruptionsAllowed"];
        (all.map(number), reason)
    };
    play.bench.api.create(Kind::PodDisruptionBudget, NS, budget(json!({"maxUnavailable": "25%"})));
    play.bench.run();
    assert_eq!(numbers(&play), ([4, 3, 0, 0], "InsufficientPods".into()));
    play.ready("one");
    assert_eq!(numbers(&play), ([4, 3, 4, 1], "SufficientPods".into()));
    // An evicted pod counts as gone before it is; two minutes later it does not.
    let pod = name(&play.pods()[0]);
    let body = json!({"status": {"disruptedPods": {&pod: time_of(&play.bench)}}});
    play.bench.api.merge(Kind::PodDisruptionBudget, NS, "b", &body);
    play.bench.run();
    assert_eq!(numbers(&play).0, [4, 3, 3, 0]);
    play.bench.wait(121);
    assert_eq!(numbers(&play).0, [4, 3, 4, 1]);
    assert!(play.status(Kind::PodDisruptionBudget, "b")["disruptedPods"].get(&pod).is_none());
    // The Deployment's size counts, not the pods that there are.
    let body = json!({"spec": {"replicas": 8}});
    play.bench.api.merge(Kind::Deployment, NS, "web", &body);
    play.bench.run();
    assert_eq!(numbers(&play).0, [8, 6, 4, 0]);
    for (spec, wanted) in [
        (json!({"minAvailable": 3, "maxUnavailable": null}), [8, 3, 4, 1]),
        (json!({"minAvailable": "30%", "maxUnavailable": null}), [8, 3, 4, 1]),
        (json!({"minAvailable": null, "maxUnavailable": 0}), [8, 8, 4, 0]),
    ] {
        play.bench.api.merge(Kind::PodDisruptionBudget, NS, "b", &json!({"spec": spec}));
        play.bench.run();
        assert_eq!(numbers(&play).0, wanted);
    }
}

#[test]
fn replication_controllers_count() {
    let mut play = Play::new(1);
    play.create(Kind::ReplicationController, "rc", json!({"replicas": 3}));
    play.ready("one");
    assert_eq!(play.pods().len(), 3);
    let owner = play.pods()[0]["metadata"]["ownerReferences"][0].clone();
    assert_eq!(
        (&owner["kind"], &owner["apiVersion"]),
        (&json!("ReplicationController"), &json!("v1"))
    );
    let status = play.status(Kind::ReplicationController, "rc");
    assert_eq!((&status["replicas"], &status["availableReplicas"]), (&json!(3), &json!(3)));
    let body = json!({"spec": {"replicas": 1}});
    play.bench.api.merge(Kind::ReplicationController, NS, "rc", &body);
    play.bench.run();
    assert_eq!(play.deleting().len(), 2);
}

#[test]
fn ending_replicas_are_counted() {
    let mut play = Play::new(1);
    play.create(Kind::Deployment, "web", json!({"replicas": 3}));
    play.ready("one");
    play.bench.api.merge(Kind::Deployment, NS, "web", &json!({"spec": {"replicas": 1}}));
    play.bench.run();
    assert_eq!(play.status(Kind::Deployment, "web")["terminatingReplicas"], 2);
    play.reap();
    let status = play.status(Kind::Deployment, "web");
    assert_eq!((&status["terminatingReplicas"], &status["replicas"]), (&json!(0), &json!(1)));
}

#[test]
fn a_broken_stateful_set_is_repaired_by_another_template() {
    let mut play = Play::new(1);
    let spec = json!({"replicas": 3, "podManagementPolicy": "Parallel", "serviceName": "s"});
    play.create(Kind::StatefulSet, "s", spec);
    assert_eq!(play.pods().len(), 3);
    play.update(Kind::StatefulSet, "s", "two");
    assert_eq!(play.deleting(), ["s-0", "s-1", "s-2"], "none of them ever served");
    play.reap();
    assert!(play.pods().iter().all(|pod| pod["spec"]["containers"][0]["image"] == "two"));
    play.ready("two");
    // Those that serve go one by one.
    play.update(Kind::StatefulSet, "s", "three");
    assert_eq!(play.deleting(), ["s-2"]);
}
