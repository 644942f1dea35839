//! The claims of a StatefulSet through its life.

use serde_json::{Value, json};

use crate::action::Delete;
use crate::config::Config;
use crate::kinds::Kind;
use crate::simulation::bench::{Bench, time_of};

const NS: &str = "ns";
const CLAIM: Kind = Kind::PersistentVolumeClaim;

struct Play {
    bench: Bench,
}

impl Play {
    fn new(replicas: u32, policy: Value) -> Self {
        let long = std::time::Duration::from_secs(1 << 30);
        let config = Config { node_grace: long, orphan_pod_grace: long, ..Config::default() };
        let mut bench = Bench::new(3, config);
        bench.api.create(Kind::Namespace, "", json!({"metadata": {"name": NS}}));
        let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        bench.api.create(Kind::Node, "", json!({"metadata": {"name": "n"}, "status": ready}));
        bench.core.begin();
        bench.relist_all();
        let mut play = Self { bench };
        play.set(replicas, policy);
        play
    }

    fn set(&mut self, replicas: u32, policy: Value) {
        let labels = json!({"app": "db"});
        let template = json!({"metadata": {"name": "data", "labels": {"tier": "disk"},
            "annotations": {"note": "kept"}},
            "spec": {"accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}}});
        let set = json!({"metadata": {"name": "db"}, "spec": {
            "replicas": replicas, "serviceName": "db", "selector": {"matchLabels": labels},
            "persistentVolumeClaimRetentionPolicy": policy,
            "template": {"metadata": {"labels": labels}, "spec": {
                "containers": [{"name": "c"}], "volumes": [{"name": "data", "emptyDir": {}}]}},
            "volumeClaimTemplates": [template]}});
        self.bench.api.create(Kind::StatefulSet, NS, set);
        self.run();
    }

    /// Everything comes to rest: kubelets ready what runs and end what is deleted.
    fn run(&mut self) {
        loop {
            self.bench.run();
            let time = time_of(&self.bench);
            let pods: Vec<Value> = self.bench.api.list(Kind::Pod).cloned().collect();
            let mut changed = false;
            for pod in pods {
                let name = pod["metadata"]["name"].as_str().expect("a name");
                if !pod["metadata"]["deletionTimestamp"].is_null() {
                    let now = Delete { grace_seconds: Some(0), ..Delete::default() };
                    self.bench.api.delete(Kind::Pod, NS, name, &now);
                    changed = true;
                } else if !pod["spec"]["nodeName"].is_null() && pod["status"]["phase"].is_null() {
                    let status = json!({"status": {"phase": "Running", "conditions": [
                        {"type": "Ready", "status": "True", "lastTransitionTime": time}]}});
                    self.bench.api.merge(Kind::Pod, NS, name, &status);
                    changed = true;
                }
            }
            if !changed {
                return;
            }
        }
    }

    fn scale(&mut self, replicas: u32) {
        let body = json!({"spec": {"replicas": replicas}});
        self.bench.api.merge(Kind::StatefulSet, NS, "db", &body);
        self.run();
    }

    fn names(&self, kind: Kind) -> Vec<String> {
        let name = |one: &Value| one["metadata"]["name"].as_str().expect("a name").to_owned();
        self.bench.api.list(kind).map(name).collect()
    }

    fn claim(&self, name: &str) -> Value {
        self.bench.api.get(CLAIM, NS, name).expect("a claim").clone()
    }

    fn delete(&mut self, kind: Kind, name: &str) {
        self.bench.api.delete(kind, NS, name, &Delete::default());
        self.run();
    }
}

fn owners(claim: &Value) -> Vec<&str> {
    let all = claim["metadata"]["ownerReferences"].as_array();
    all.into_iter().flatten().map(|one| one["kind"].as_str().expect("a kind")).collect()
}

#[test]
fn claims_come_first_and_stay() {
    let mut play = Play::new(2, Value::Null);
    assert_eq!(play.names(Kind::Pod), ["db-0", "db-1"]);
    assert_eq!(play.names(CLAIM), ["data-db-0", "data-db-1"]);
    let claim = play.claim("data-db-1");
    assert_eq!(claim["metadata"]["labels"], json!({"tier": "disk", "app": "db"}));
    assert_eq!(claim["metadata"]["annotations"], json!({"note": "kept"}));
    assert_eq!((owners(&claim).len(), &claim["status"]["phase"]), (0, &json!("Bound")));
    let pod = play.bench.api.get(Kind::Pod, NS, "db-1").expect("it");
    let volumes = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-1"}}]);
    assert_eq!(pod["spec"]["volumes"], volumes, "instead of the template's volume of that name");
    let number = |object: &Value| {
        let uid = object["metadata"]["uid"].as_str().expect("a uid");
        uid.trim_start_matches("uid-").parse::<u64>().expect("a number")
    };
    assert!(number(pod) > number(&claim), "made after it");
    let before = play.claim("data-db-0");
    // A pod that comes again, another size, another set of the name: always the same claim.
    play.delete(Kind::Pod, "db-0");
    play.scale(0);
    assert_eq!(play.names(CLAIM), ["data-db-0", "data-db-1"]);
    play.delete(Kind::StatefulSet, "db");
    play.set(1, Value::Null);
    assert_eq!(play.names(Kind::Pod), ["db-0"]);
    assert_eq!(play.claim("data-db-0")["metadata"]["uid"], before["metadata"]["uid"]);
}

#[test]
fn a_claim_that_is_deleted_comes_again_after_its_pod() {
    let mut play = Play::new(1, Value::Null);
    let uid = |play: &Play| play.claim("data-db-0")["metadata"]["uid"].clone();
    let before = uid(&play);
    play.delete(CLAIM, "data-db-0");
    assert_eq!(uid(&play), before, "its pod has it");
    play.delete(Kind::Pod, "db-0");
    assert_ne!(uid(&play), before);
    assert_eq!((play.names(Kind::Pod), play.names(CLAIM).len()), (vec!["db-0".to_owned()], 1));
}

#[test]
fn claims_go_with_the_pods_that_a_smaller_set_has_not() {
    let mut play = Play::new(3, json!({"whenScaled": "Delete", "whenDeleted": "Retain"}));
    assert!(owners(&play.claim("data-db-2")).is_empty(), "a pod that is wanted owns nothing");
    let before = play.claim("data-db-1")["metadata"]["uid"].clone();
    play.delete(Kind::Pod, "db-1");
    assert_eq!(play.claim("data-db-1")["metadata"]["uid"], before, "it comes again");
    play.scale(1);
    assert_eq!(play.names(CLAIM), ["data-db-0"]);
    assert_eq!(play.bench.api.list(Kind::PersistentVolume).count(), 1);
    play.scale(2);
    assert_ne!(play.claim("data-db-1")["metadata"]["uid"], before, "a new one");
    play.delete(Kind::StatefulSet, "db");
    assert_eq!(play.names(CLAIM), ["data-db-0", "data-db-1"]);
}

#[test]
fn claims_go_with_the_set() {
    let mut play = Play::new(2, json!({"whenScaled": "Retain", "whenDeleted": "Delete"}));
    assert_eq!(owners(&play.claim("data-db-1")), ["StatefulSet"]);
    play.scale(1);
    assert_eq!(play.names(CLAIM), ["data-db-0", "data-db-1"]);
    // The policy may change, and claims of others' owners keep those.
    let other = json!([{"apiVersion": "v1", "kind": "Namespace", "name": NS,
        "uid": play.bench.api.get(Kind::Namespace, "", NS).expect("it")["metadata"]["uid"]}]);
    let body = json!({"metadata": {"ownerReferences": other}});
    play.bench.api.merge(CLAIM, NS, "data-db-0", &body);
    play.run();
    assert_eq!(owners(&play.claim("data-db-0")), ["Namespace", "StatefulSet"]);
    let policy = json!({"whenScaled": "Retain", "whenDeleted": "Retain"});
    let body = json!({"spec": {"persistentVolumeClaimRetentionPolicy": policy}});
    play.bench.api.merge(Kind::StatefulSet, NS, "db", &body);
    play.run();
    assert_eq!(owners(&play.claim("data-db-0")), ["Namespace"]);
    play.delete(Kind::StatefulSet, "db");
    assert_eq!(play.names(CLAIM), ["data-db-0", "data-db-1"], "also that without a pod");
    assert_eq!(play.names(Kind::Pod), Vec::<String>::new());
}
