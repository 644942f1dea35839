//! Claims played through: the test is the user, and the kubelet.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::action::{Action, Delete, Plan, Verb};
use crate::config::Config;
use crate::kinds::{Kind, World};
use crate::simulation::bench::Bench;

const NS: &str = "ns";
const CLAIM: Kind = Kind::PersistentVolumeClaim;
const VOLUME: Kind = Kind::PersistentVolume;

struct Play {
    bench: Bench,
}

impl Play {
    /// A cluster at its start, with a node.
    fn new() -> Self {
        let long = std::time::Duration::from_secs(1 << 30);
        let config = Config { node_grace: long, orphan_pod_grace: long, ..Config::default() };
        let mut bench = Bench::new(11, config);
        bench.api.create(Kind::Namespace, "", json!({"metadata": {"name": NS}}));
        let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        bench.api.create(Kind::Node, "", json!({"metadata": {"name": "n"}, "status": ready}));
        bench.core.begin();
        bench.relist_all();
        let mut play = Self { bench };
        play.bench.run();
        play
    }

    fn create(&mut self, kind: Kind, name: &str, rest: Value) {
        let mut object = rest;
        object["metadata"]["name"] = name.into();
        let namespace = if kind.namespaced() { NS } else { "" };
        self.bench.api.create(kind, namespace, object);
        self.run();
    }

    fn run(&mut self) {
        self.bench.run();
        // A write that lost a race is made again after a moment.
        self.bench.wait(1);
    }

    fn claim(&mut self, name: &str, spec: Value) {
        let mut all = json!({"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}});
        for (key, value) in spec.as_object().expect("fields") {
            all[key] = value.clone();
        }
        self.create(CLAIM, name, json!({"spec": all}));
    }

    /// Somebody's own volume.
    fn volume(&mut self, name: &str, spec: Value) {
        let mut all = json!({"accessModes": ["ReadWriteOnce", "ReadOnlyMany"],
            "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/data"},
            "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "manual"});
        for (key, value) in spec.as_object().expect("fields") {
            all[key] = value.clone();
        }
        self.create(VOLUME, name, json!({"spec": all}));
    }

    fn pod(&mut self, name: &str, claim: &str) {
        let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": claim}});
        let spec = json!({"containers": [{"name": "c"}], "volumes": [volume]});
        self.create(Kind::Pod, name, json!({"spec": spec}));
    }

    fn get(&self, kind: Kind, name: &str) -> Option<&Value> {
        let namespace = if kind.namespaced() { NS } else { "" };
        self.bench.api.get(kind, namespace, name)
    }

    fn phase(&self, kind: Kind, name: &str) -> &str {
        self.get(kind, name).expect("it")["status"]["phase"].as_str().unwrap_or("Pending")
    }

    fn delete(&mut self, kind: Kind, name: &str) {
        let namespace = if kind.namespaced() { NS } else { "" };
        let how = Delete {
            // A kubelet is done with a deleted pod at once.
            grace_seconds: (kind == Kind::Pod).then_some(0),
            ..Delete::default()
        };
        self.bench.api.delete(kind, namespace, name, &how);
        self.run();
    }

    /// What keeps a pod from its node.
    fn waits(&self, pod: &str) -> Option<&str> {
        let pod = self.get(Kind::Pod, pod).expect("a pod");
        pod["spec"]["nodeName"]
            .is_null()
            .then(|| pod["status"]["conditions"][0]["message"].as_str().expect("a reason"))
    }

    /// The Event that a claim's planner tells now.
    fn says(&self, claim: &str) -> (String, String) {
        let (plan, told) = super::bind(&self.bench.core.world, NS, claim, Timestamp::UNIX_EPOCH);
        let event = event(&plan).expect("an event");
        assert_eq!(told.as_deref(), event["message"].as_str());
        let text = |key: &str| event[key].as_str().expect("text").to_owned();
        (text("reason"), text("message"))
    }
}

fn event(plan: &Plan) -> Option<&Value> {
    plan.actions.iter().find_map(|one| match &one.verb {
        Verb::Create(body) if one.is_event() => Some(body),
        _ => None,
    })
}

#[test]
fn a_claim_gets_a_volume_and_takes_it_along() {
    let mut play = Play::new();
    assert_eq!(
        play.get(Kind::StorageClass, "standard").expect("it")["provisioner"],
        super::PROVISIONER
    );
    play.claim("data", json!({}));
    let claim = play.get(CLAIM, "data").expect("it").clone();
    let name = format!("pvc-{}", claim["metadata"]["uid"].as_str().expect("a uid"));
    assert_eq!(claim["spec"]["storageClassName"], "standard");
    assert_eq!(claim["spec"]["volumeName"], name.as_str());
    assert_eq!(claim["metadata"]["finalizers"], json!([super::CLAIM_PROTECTION]));
    let status = json!({"phase": "Bound", "accessModes": ["ReadWriteOnce"],
        "capacity": {"storage": "1Gi"}});
    assert_eq!(claim["status"], status);
    let volume = play.get(VOLUME, &name).expect("it").clone();
    assert_eq!(volume["status"]["phase"], "Bound");
    assert_eq!(volume["spec"]["claimRef"]["uid"], claim["metadata"]["uid"]);
    assert_eq!(volume["spec"]["hostPath"]["path"], format!("/var/lib/weft/volumes/{name}"));
    assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], "Delete");
    assert_eq!(volume["spec"]["capacity"], json!({"storage": "1Gi"}));

    // Neither goes while a pod has the claim, nor the volume before the claim.
    play.pod("db", "data");
    assert_eq!(play.waits("db"), None);
    play.delete(CLAIM, "data");
    play.delete(VOLUME, &name);
    assert!(!play.get(CLAIM, "data").expect("in use")["metadata"]["deletionTimestamp"].is_null());
    assert_eq!(play.phase(VOLUME, &name), "Bound");
    play.pod("late", "data");
    let being = "0/1 nodes are available: persistentvolumeclaim \"data\" is being deleted.";
    assert_eq!(play.waits("late"), Some(being));
    play.delete(Kind::Pod, "db");
    assert_eq!((play.get(CLAIM, "data"), play.get(VOLUME, &name)), (None, None));
    // And its name may come again.
    play.claim("data", json!({}));
    assert_eq!(play.phase(CLAIM, "data"), "Bound");
    assert_eq!(play.waits("late"), None);
}

#[test]
fn a_pod_waits_for_its_claim() {
    let mut play = Play::new();
    play.pod("db", "data");
    let none = "0/1 nodes are available: persistentvolumeclaim \"data\" not found.";
    assert_eq!(play.waits("db"), Some(none));
    play.claim("data", json!({"storageClassName": "fast"}));
    let unbound = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.";
    assert_eq!(play.waits("db"), Some(unbound));
    let class = json!({"provisioner": super::PROVISIONER, "reclaimPolicy": "Retain"});
    play.create(Kind::StorageClass, "fast", class);
    assert_eq!(play.waits("db"), None);
    let claim = play.get(CLAIM, "data").expect("it");
    let volume = claim["spec"]["volumeName"].as_str().expect("a name").to_owned();
    play.delete(Kind::Pod, "db");
    play.delete(CLAIM, "data");
    assert_eq!(play.phase(VOLUME, &volume), "Released", "its class retains");
}

#[test]
fn what_cannot_be_bound_says_why_and_what_helps() {
    let mut play = Play::new();
    play.create(Kind::StorageClass, "gp3", json!({"provisioner": "ebs.csi.aws.com"}));
    for (name, spec, reason, parts) in [
        (
            "foreign",
            json!({"storageClassName": "gp3"}),
            "ExternalProvisioning",
            ["ebs.csi.aws.com", "use class \"standard\""],
        ),
        (
            "absent",
            json!({"storageClassName": "fast"}),
            "ProvisioningFailed",
            ["storageclass.storage.k8s.io \"fast\" not found", super::PROVISIONER],
        ),
        (
            "none",
            json!({"storageClassName": ""}),
            "FailedBinding",
            ["no storage class is set", "leave storageClassName out"],
        ),
        ("named", json!({"volumeName": "v"}), "FailedBinding", ["volume \"v\"", "not there"]),
        (
            "block",
            json!({"volumeMode": "Block"}),
            "ProvisioningFailed",
            ["Filesystem", "volumeMode"],
        ),
        (
            "copy",
            json!({"dataSource": {"kind": "PersistentVolumeClaim", "name": "x"}}),
            "ProvisioningFailed",
            ["dataSource", "leave it out"],
        ),
        (
            "selects",
            json!({"selector": {"matchLabels": {"a": "b"}}}),
            "ProvisioningFailed",
            ["selector", "not supported"],
        ),
    ] {
        play.claim(name, spec);
        assert_eq!(play.phase(CLAIM, name), "Pending", "{name}");
        let (why, message) = play.says(name);
        assert_eq!(why, reason, "{name}: {message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{name}: {message}");
    }
    assert_eq!(play.bench.api.list(VOLUME).count(), 0);
    // Said once: whatever happens elsewhere, there is nothing to write.
    let before = play.bench.writes;
    play.create(Kind::StorageClass, "other", json!({"provisioner": "else"}));
    assert_eq!((play.bench.writes, play.bench.under_way.len()), (before, 0));
}

#[test]
fn the_smallest_volume_that_fits_is_taken_once() {
    let mut play = Play::new();
    play.volume("large", json!({"capacity": {"storage": "10Gi"}}));
    play.volume("small", json!({"capacity": {"storage": "512Mi"}}));
    play.volume("right", json!({"capacity": {"storage": "2Gi"}}));
    play.volume("other", json!({"storageClassName": "else", "capacity": {"storage": "1Gi"}}));
    play.volume("shared", json!({"claimRef": {"namespace": NS, "name": "kept"}}));
    assert_eq!(play.phase(VOLUME, "right"), "Available");
    let bound = |play: &Play, claim: &str| {
        play.get(CLAIM, claim).expect("it")["spec"]["volumeName"].as_str().map(str::to_owned)
    };
    for (claim, volume) in
        [("one", Some("right")), ("two", Some("large")), ("three", None), ("kept", Some("shared"))]
    {
        play.claim(claim, json!({"storageClassName": "manual"}));
        assert_eq!(bound(&play, claim).as_deref(), volume, "{claim}");
    }
    play.claim("writers", json!({"storageClassName": "else", "accessModes": ["ReadWriteMany"]}));
    assert_eq!(bound(&play, "writers"), None);
    play.claim("wish", json!({"storageClassName": "manual", "volumeName": "other"}));
    assert_eq!(play.says("wish").0, "VolumeMismatch");
    play.claim("late", json!({"storageClassName": "manual", "volumeName": "right"}));
    assert!(play.says("late").1.contains("already bound to a different claim"));
    assert_eq!(play.phase(CLAIM, "three"), "Pending");
    // What a claim leaves behind is nobody's until somebody has looked at it.
    play.delete(CLAIM, "two");
    assert_eq!(play.phase(VOLUME, "large"), "Released");
    assert_eq!(play.phase(CLAIM, "three"), "Pending");
    play.bench.api.merge(VOLUME, "", "large", &json!({"spec": {"claimRef": null}}));
    play.run();
    assert_eq!(bound(&play, "three").as_deref(), Some("large"));
    assert_eq!(play.phase(CLAIM, "three"), "Bound");
}

#[test]
fn two_claims_do_not_get_one_volume() {
    let mut play = Play::new();
    let claim = |class: &str| json!({"spec": {"storageClassName": class}});
    for name in ["a", "b"] {
        let mut object = claim("manual");
        object["metadata"]["name"] = name.into();
        play.bench.api.create(CLAIM, NS, object);
    }
    play.volume("only", json!({}));
    let phases = ["a", "b"].map(|name| play.phase(CLAIM, name).to_owned());
    assert_eq!(phases.iter().filter(|phase| *phase == "Bound").count(), 1, "{phases:?}");
}

#[test]
fn a_claim_without_its_volume_is_lost() {
    let mut play = Play::new();
    play.volume("own", json!({}));
    play.claim("data", json!({"storageClassName": "manual"}));
    // By force: the finalizer taken off by hand.
    play.delete(VOLUME, "own");
    play.bench.api.merge(VOLUME, "", "own", &json!({"metadata": {"finalizers": null}}));
    play.run();
    assert_eq!(play.phase(CLAIM, "data"), "Lost");
    play.pod("db", "data");
    assert!(play.waits("db").expect("it waits").contains("non-existent persistentvolume \"own\""));
}

/// A volume that the claims' watch has not told of yet is not deleted on suspicion.
#[test]
fn data_goes_only_when_the_api_says_that_the_claim_is_gone() {
    let mut world = World::default();
    let volume = json!({
        "metadata": {"name": "v", "uid": "v", "resourceVersion": "1",
            "finalizers": [super::VOLUME_PROTECTION],
            "annotations": {super::PROVISIONED_BY: super::PROVISIONER}},
        "spec": {"persistentVolumeReclaimPolicy": "Delete",
            "claimRef": {"namespace": NS, "name": "c", "uid": "u"}},
    });
    world.absorb(VOLUME, volume);
    let verb = |world: &World| {
        let (plan, _) = super::keep(world, "v", Timestamp::UNIX_EPOCH);
        let [Action { verb, .. }] = &plan.actions[..] else { panic!("{plan:?}") };
        verb.clone()
    };
    let Verb::IfGone { missing, then } = verb(&world) else { panic!("not asked for") };
    assert_eq!((missing[0].name.as_str(), missing[0].uid.as_str()), ("c", "u"));
    assert!(matches!(*then, Verb::Delete(_)));
    let claim = json!({"metadata": {"name": "c", "namespace": NS, "uid": "u",
        "resourceVersion": "2"}});
    world.absorb(CLAIM, claim);
    assert!(matches!(verb(&world), Verb::Merge(Some("status"), _)), "it is Bound");
    world.forget(CLAIM, NS, "c", Some("u"));
    assert!(matches!(verb(&world), Verb::Delete(_)), "it was seen to go");
}

#[test]
fn of_several_default_classes_the_newest_counts() {
    let mut world = World::default();
    for (name, time) in [("old", "2026-01-01T00:00:00Z"), ("new", "2026-01-02T00:00:00Z")] {
        let class = json!({"metadata": {"name": name, "resourceVersion": "1", "uid": name,
            "creationTimestamp": time, "annotations": {super::IS_DEFAULT: "true"}},
            "provisioner": "p"});
        world.absorb(Kind::StorageClass, class);
    }
    let found = super::default_class(&world).and_then(|class| class.metadata.name.clone());
    assert_eq!(found.as_deref(), Some("new"));
    assert!(super::standard(&world).actions.is_empty(), "somebody has classes already");
}
