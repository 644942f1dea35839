//! Objects that are legal and hostile, or in a state that happens seldom.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::action::{Action, Plan, Verb};
use crate::config::Config;
use crate::core::Core;
use crate::kinds::{Change, Kind, WATCHED, World};
use crate::{deployment, job, nodelife, statefulset};

mod endpoints;
mod kinds;
mod workloads;
mod writes;

/// An object of this name makes every planner panic.
pub(crate) const POISON: &str = "poison";

#[derive(Default)]
struct Cluster {
    world: World,
    version: u64,
}

impl Cluster {
    fn put(&mut self, kind: Kind, object: Value) {
        let mut object = self.complete(object);
        if !kind.namespaced() {
            object["metadata"]["namespace"] = Value::Null;
        }
        assert!(!self.world.absorb(kind, object).is_empty(), "an object that decodes");
    }

    fn complete(&mut self, mut object: Value) -> Value {
        self.version += 1;
        let meta = &mut object["metadata"];
        meta["namespace"] = "ns".into();
        meta["resourceVersion"] = self.version.to_string().into();
        if meta["uid"].is_null() {
            meta["uid"] = meta["name"].clone();
        }
        object
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn workload(name: &str, spec: Value) -> Value {
    let mut object = json!({"metadata": {"name": name}, "spec": {
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "c"}]}}}});
    for (key, value) in spec.as_object().expect("fields") {
        object["spec"][key] = value.clone();
    }
    object
}

fn of_kind(plan: &Plan, kind: Kind) -> Vec<&Action> {
    plan.actions.iter().filter(|one| one.kind == kind).collect()
}

fn body(action: &Action) -> &Value {
    match &action.verb {
        Verb::Create(body) | Verb::Merge(_, body) | Verb::Strategic(_, body) => body,
        other => panic!("no body: {other:?}"),
    }
}

fn owned(kind: Kind, by: &str) -> Value {
    json!([{"apiVersion": kind.api_version(), "kind": kind.name(), "name": by, "uid": by,
        "controller": true}])
}

#[test]
fn a_job_may_have_any_deadline() {
    let mut cluster = Cluster::default();
    let mut job = workload("j", json!({"activeDeadlineSeconds": i64::MAX}));
    job["status"] = json!({"startTime": "2026-01-01T00:00:00Z"});
    cluster.put(Kind::Job, job);
    let plan = job::plan(&cluster.world, "ns", "j", at("2026-01-01T00:01:00Z"));
    assert_eq!(of_kind(&plan, Kind::Pod).len(), 1);
}

#[test]
fn a_job_of_any_size_is_made_in_parts() {
    let mut cluster = Cluster::default();
    let spec = json!({"parallelism": i32::MAX, "completions": i32::MAX});
    cluster.put(Kind::Job, workload("j", spec));
    let plan = job::plan(&cluster.world, "ns", "j", Timestamp::UNIX_EPOCH);
    assert_eq!(of_kind(&plan, Kind::Pod).len(), 500);
}

#[test]
fn a_deployment_may_have_any_size() {
    for surge in [json!("25%"), json!("9223372036854775807%"), json!(i32::MAX)] {
        let mut cluster = Cluster::default();
        let strategy = json!({"rollingUpdate": {"maxSurge": surge, "maxUnavailable": "100%"}});
        let spec = json!({"replicas": i32::MAX, "strategy": strategy});
        cluster.put(Kind::Deployment, workload("d", spec));
        for (name, app) in [("old-1", "one"), ("old-2", "two"), ("new", "d")] {
            let mut set = workload(name, json!({"replicas": i32::MAX}));
            set["spec"]["template"]["metadata"]["labels"]["app"] = app.into();
            set["metadata"]["ownerReferences"] = owned(Kind::Deployment, "d");
            set["metadata"]["annotations"] = json!({
                "deployment.kubernetes.io/revision": i64::MAX.to_string(),
                "deployment.kubernetes.io/desired-replicas": "3",
                "deployment.kubernetes.io/max-replicas": i64::MAX.to_string(),
            });
            set["status"] = json!({"replicas": i32::MAX, "availableReplicas": i32::MAX});
            cluster.put(Kind::ReplicaSet, set.clone());
            deployment::plan(&cluster.world, "ns", "d", Timestamp::UNIX_EPOCH);
            set["metadata"]["annotations"]["deployment.kubernetes.io/desired-replicas"] =
                i32::MAX.to_string().into();
            cluster.put(Kind::ReplicaSet, set);
            let plan = deployment::plan(&cluster.world, "ns", "d", Timestamp::UNIX_EPOCH);
            assert!(!plan.actions.is_empty());
        }
    }
}

/// Also: takes no time and no memory that grow with the size.
#[test]
fn a_stateful_set_may_have_any_size() {
    for policy in ["OrderedReady", "Parallel"] {
        let mut cluster = Cluster::default();
        let spec = json!({
            "replicas": i32::MAX, "ordinals": {"start": 3}, "podManagementPolicy": policy,
            "updateStrategy": {"rollingUpdate": {"partition": i32::MAX}},
        });
        cluster.put(Kind::StatefulSet, workload("s", spec));
        let plan = statefulset::plan(&cluster.world, "ns", "s", Timestamp::UNIX_EPOCH);
        let mut revision = body(of_kind(&plan, Kind::ControllerRevision)[0]).clone();
        revision["revision"] = i64::MAX.into();
        cluster.put(Kind::ControllerRevision, revision);
        let plan = statefulset::plan(&cluster.world, "ns", "s", Timestamp::UNIX_EPOCH);
        let made = of_kind(&plan, Kind::Pod);
        assert_eq!(made.len(), if policy == "Parallel" { 500 } else { 1 });
        assert_eq!(body(made[0])["metadata"]["name"], "s-3");
        // Another template: the revision after the last.
        let mut next = workload("s", json!({"replicas": 1}));
        next["spec"]["template"]["spec"]["containers"][0]["image"] = "next".into();
        cluster.put(Kind::StatefulSet, next);
        let plan = statefulset::plan(&cluster.world, "ns", "s", Timestamp::UNIX_EPOCH);
        assert_eq!(body(of_kind(&plan, Kind::ControllerRevision)[0])["revision"], i64::MAX);
    }
}

#[test]
fn a_planner_that_panics_stops_nobody_else() {
    let mut core = Core::new(Config::default());
    WATCHED.iter().for_each(|kind| core.handle_change(Change::Absent(*kind)));
    let mut cluster = Cluster::default();
    for name in [POISON, "sound"] {
        let set = cluster.complete(workload(name, json!({"replicas": 1})));
        let event = kube::runtime::watcher::Event::Apply(set);
        core.handle_change(Change::decode(Kind::ReplicaSet, event));
    }
    let mut now = Timestamp::UNIX_EPOCH;
    let mut pauses = Vec::new();
    let works = core.poll(now);
    assert_eq!(works.iter().map(|work| work.key.name.as_str()).collect::<Vec<_>>(), ["sound"]);
    for _ in 0..3 {
        let next = core.next_timer().expect("it is tried again");
        pauses.push(next.duration_since(now).as_millis());
        now = next;
        assert!(core.poll(now).is_empty());
    }
    assert_eq!(pauses, [100, 200, 400]);
}

#[test]
fn a_pod_of_a_lost_node_is_marked_also_later() {
    let mut cluster = Cluster::default();
    let node = json!({"metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    cluster.put(Kind::Node, node);
    for (name, ready) in [("kept", "True"), ("marked", "False")] {
        cluster.put(
            Kind::Pod,
            json!({"metadata": {"name": name}, "spec": {"nodeName": "n", "containers": []},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}}),
        );
    }
    let now = at("2026-01-01T01:00:00Z");
    let plan = nodelife::plan(&cluster.world, &Config::default(), "n", now);
    let patches = of_kind(&plan, Kind::Pod);
    assert_eq!(patches.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["kept"]);
    assert_eq!(body(patches[0])["status"]["conditions"][0]["status"], "False");
}

/// A StatefulSet with the revision it would make.
fn with_revision(cluster: &mut Cluster) -> Value {
    cluster.put(Kind::StatefulSet, workload("s", json!({"replicas": 1})));
    let plan = statefulset::plan(&cluster.world, "ns", "s", Timestamp::UNIX_EPOCH);
    body(of_kind(&plan, Kind::ControllerRevision)[0]).clone()
}

#[test]
fn an_orphaned_revision_is_adopted() {
    let mut cluster = Cluster::default();
    let mut orphan = with_revision(&mut cluster);
    orphan["metadata"]["ownerReferences"] = Value::Null;
    cluster.put(Kind::ControllerRevision, orphan.clone());
    let plan = statefulset::plan(&cluster.world, "ns", "s", Timestamp::UNIX_EPOCH);
    let [adopt] = plan.actions.as_slice() else { panic!("{:?}", plan.actions) };
    assert_eq!(adopt.kind, Kind::ControllerRevision);
    orphan["metadata"]["ownerReferences"] = body(adopt)["metadata"]["ownerReferences"].clone();
    assert_eq!(orphan["metadata"]["ownerReferences"][0]["uid"], "s");
    cluster.put(Kind::ControllerRevision, orphan);
    let plan = statefulset::plan(&cluster.world, "ns", "s", Timestamp::UNIX_EPOCH);
    assert!(of_kind(&plan, Kind::ControllerRevision).is_empty(), "{:?}", plan.actions);
    assert_eq!(of_kind(&plan, Kind::Pod).len(), 1);
}

#[test]
fn a_revision_name_that_is_taken_counts_as_collision() {
    let mut cluster = Cluster::default();
    let mut foreign = with_revision(&mut cluster);
    foreign["metadata"]["ownerReferences"] = owned(Kind::StatefulSet, "other");
    let taken = foreign["metadata"]["name"].clone();
    cluster.put(Kind::ControllerRevision, foreign);
    let plan = statefulset::plan(&cluster.world, "ns", "s", Timestamp::UNIX_EPOCH);
    let [raise] = plan.actions.as_slice() else { panic!("{:?}", plan.actions) };
    assert_eq!(
        (raise.kind, &body(raise)["status"]["collisionCount"]),
        (Kind::StatefulSet, &json!(1))
    );
    let mut set = workload("s", json!({"replicas": 1}));
    set["status"] = json!({"replicas": 0, "collisionCount": 1});
    cluster.put(Kind::StatefulSet, set);
    let plan = statefulset::plan(&cluster.world, "ns", "s", Timestamp::UNIX_EPOCH);
    let made = of_kind(&plan, Kind::ControllerRevision);
    assert_ne!(body(made[0])["metadata"]["name"], taken);
}

#[test]
fn the_grace_of_a_missing_node_begins_when_it_goes() {
    let mut core = Core::new(Config::default());
    WATCHED.iter().for_each(|kind| core.handle_change(Change::Absent(*kind)));
    let mut cluster = Cluster::default();
    let apply = |body| kube::runtime::watcher::Event::Apply(body);
    let node = json!({"metadata": {"name": "n", "uid": "n", "resourceVersion": "1"}});
    core.handle_change(Change::decode(Kind::Node, apply(node.clone())));
    let pod = cluster.complete(json!({
        "metadata": {"name": "p", "creationTimestamp": "1970-01-01T00:00:00Z"},
        "spec": {"nodeName": "n", "containers": []}}));
    core.handle_change(Change::decode(Kind::Pod, apply(pod)));
    let deletions = |core: &mut Core, now: &str| {
        let works = core.poll(at(now));
        works.iter().flat_map(|work| &work.actions).filter(|one| one.kind == Kind::Pod).count()
    };
    assert_eq!(deletions(&mut core, "2026-01-01T00:00:00Z"), 0);
    let gone = kube::runtime::watcher::Event::Delete(node);
    core.handle_change(Change::decode(Kind::Node, gone));
    assert_eq!(deletions(&mut core, "2026-01-01T00:01:00Z"), 0, "the node has just gone");
    assert_eq!(deletions(&mut core, "2026-01-01T00:01:39Z"), 0);
    assert_eq!(deletions(&mut core, "2026-01-01T00:01:40Z"), 1);
}
